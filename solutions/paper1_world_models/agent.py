"""V, M and C together: acting in the world, and dreaming without it."""

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from common.agent import DreamStep, Rows, State
from common.env_wrapper import action_size, is_discrete
from common.metrics import kl_gaussian
from common.replay_buffer import ReplayBuffer
from solutions.paper1_world_models.config import Config
from solutions.paper1_world_models.controller import Controller
from solutions.paper1_world_models.rnn import MDNRNN, mdn_sample, rnn_train_step, sequence_batch
from solutions.paper1_world_models.vae import VAE, preprocess, reparameterize, to_image, vae_train_step

STAY, RIGHT, LEFT = 0, 1, 2  # VizDoom TakeCover's actions, in the order of its gymnasium action space


class ActionCodec:
    """Between a replay row's action and the native one, which the controller puts out and M takes in.

    A row holds a one-hot vector or numbers in [-1, 1]. Native are: for CarRacing steer in [-1, 1], gas and brake in
    [0, 1]; for VizDoom TakeCover one number, -1 left, 0 stay, 1 right; elsewhere the row's own.
    """

    def __init__(self, env_id: str, action_space: spaces.Space):
        self.discrete, self.row_size = is_discrete(action_space), action_size(action_space)
        if env_id.startswith("CarRacing"):
            self.kind, self.outputs, self.native_size = "car", 3, 3
        elif env_id.startswith("VizdoomTakeCover"):
            self.kind, self.outputs, self.native_size = "left_right", 1, 1
        else:
            self.kind = "discrete" if self.discrete else "box"
            self.outputs = self.native_size = self.row_size

    def to_native(self, action: Float[Tensor, "*batch row"]) -> Float[Tensor, "*batch native"]:
        if self.kind == "car":
            return torch.cat([action[..., :1], (action[..., 1:] + 1) / 2], -1)
        if self.kind == "left_right":
            return action[..., RIGHT : RIGHT + 1] - action[..., LEFT : LEFT + 1]
        return action

    def to_row(self, action: Float[Tensor, "*batch native"]) -> Float[Tensor, "*batch row"]:
        if self.kind == "car":
            return torch.cat([action[..., :1], action[..., 1:] * 2 - 1], -1)
        if self.kind == "left_right":
            button = torch.where(action > 0, RIGHT, torch.where(action < 0, LEFT, STAY)).squeeze(-1)
            return nn.functional.one_hot(button, self.row_size).to(action)
        return action


class WorldModelsAgent:
    """The agent of the paper: z from V, h from M, an action from C.

    A state is a dict of tensors (batch, ...): h and c, what M knows of the steps BEFORE the present one, and, in a
    dream, z, the present latent, and is_first, whether it is an episode's first.
    """

    def __init__(
        self,
        config: Config,
        observation_space: spaces.Dict,
        action_space: spaces.Space,
        device: str | torch.device = "cpu",
    ):
        self.config, self.device = config, torch.device(device)
        self.codec = ActionCodec(config.env, action_space)
        self.vae = VAE(
            config.latent_size, config.image_size, config.vae_depth, observation_space["image"].shape[-1]
        ).to(self.device)
        self.vae.to(memory_format=torch.channels_last)
        self.rnn = MDNRNN(
            config.latent_size,
            self.codec.native_size,
            config.hidden_size,
            config.mixtures,
            config.predict_reward,
            config.predict_done,
            config.restart_input,
        ).to(self.device)
        self.controller = Controller(
            config.latent_size,
            config.hidden_size,
            self.codec.outputs,
            inputs=config.controller_input,
            kind=self.codec.kind,
            bias=config.controller_bias,
            hidden=config.controller_hidden,
        )
        self.vae_optimizer = torch.optim.Adam(self.vae.parameters(), config.vae_lr)
        self.rnn_optimizer = torch.optim.Adam(self.rnn.parameters(), config.rnn_lr)

    def initial_state(self, batch_size: int) -> State:
        """Zeros for h and c."""
        h, c = self.rnn.initial_state(batch_size)
        return {"h": h, "c": c}

    @torch.no_grad()
    def act(self, obs: Rows, state: State, *, explore: bool = False) -> tuple[Float[np.ndarray, "batch action"], State]:
        """One step of the agent (paper, section 2.4): see, decide, remember.

        - where `is_first`, h and c restart from zero
        - z is SAMPLED from V's posterior of the frame
        - the controller acts on z and on h (and c) as they are BEFORE this step
        - only then M takes in z and the native action, and gives the next h and c
        Returns the action as a replay row holds it, and the new state. Exploring or not, the agent is the same: what
        varies is z.
        """
        ### BEGIN SOLUTION 1.13: see, decide, remember
        is_first = torch.as_tensor(obs["is_first"], device=self.device)
        keep = ~is_first[:, None]
        h, c = state["h"] * keep, state["c"] * keep
        image = torch.as_tensor(obs["image"], device=self.device)
        z = reparameterize(*self.vae.encoder(preprocess(image)))
        native = self.controller.act(self.controller.features(z, h, c))
        h, c = self.rnn(z[:, None], native[:, None], (h, c), is_first[:, None]).state
        return self.codec.to_row(native).cpu().numpy(), {"h": h, "c": c}
        ### END SOLUTION

    @torch.no_grad()
    def encode(self, rows: Rows) -> dict[str, Tensor]:
        """Rows (batch, time, ...) with V's `mu` and `logvar` in place of images, and native previous actions."""
        image = torch.as_tensor(rows["image"], device=self.device)
        mu, logvar = self.vae.encoder(preprocess(image.flatten(0, 1)))
        encoded = {key: torch.as_tensor(rows[key], device=self.device) for key in rows if key != "image"}
        encoded["prev_action"] = self.codec.to_native(encoded["prev_action"])
        return {**encoded, "mu": mu.unflatten(0, image.shape[:2]), "logvar": logvar.unflatten(0, image.shape[:2])}

    def learn_vision(self, image: UInt8[Tensor, "batch height width channels"]) -> dict[str, Tensor]:
        """One update of V on frames; returns its losses under their names in the log."""
        losses = vae_train_step(self.vae, image, self.vae_optimizer)
        return {"world_model/recon_loss": losses["recon"], "world_model/kl": losses["kl"]}

    def learn_memory(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """One update of M on windows as `sequence_batch` takes them; returns its losses, named likewise."""
        losses = rnn_train_step(self.rnn, sequence_batch(rows), self.rnn_optimizer)
        names = {"loss": "rnn_loss", "nll": "nll_loss", "reward": "reward_loss", "done": "cont_loss"}
        return {f"world_model/{names[name]}": value for name, value in losses.items()}

    def learn(self, replay: ReplayBuffer, step: int) -> dict[str, float]:
        """One update of V and one of M on random windows of a replay that may still grow.

        The paper trains V to its end first, and M on its latents then: that is stages.py.
        """
        config, rng = self.config, np.random.default_rng((self.config.seed, step))
        frames = replay.sample_windows(config.vae_batch, 1, rng)["image"][:, 0]
        losses = self.learn_vision(torch.as_tensor(frames, device=self.device))
        length = min(config.sequence_length + 1, replay.end - replay.oldest)
        windows = self.encode(replay.sample_windows(config.rnn_batch, length, rng))
        windows["mask"] = windows["is_first"][:, 1:].cumsum(1) == 0  # what follows the end of an episode does not count
        windows["mask"] = nn.functional.pad(windows["mask"], (1, 0), value=True)
        return {name: float(value) for name, value in (losses | self.learn_memory(windows)).items()}

    @torch.no_grad()
    def reconstruct(self, batch: Rows) -> UInt8[np.ndarray, "batch time height width channels"]:
        """Every frame through V and back, from the posterior's mean."""
        mu = self.encode(batch)["mu"]
        return to_image(self.vae.decoder(mu.flatten(0, 1))).unflatten(0, mu.shape[:2]).cpu().numpy()

    @torch.no_grad()
    def latent_use(self, batch: Rows) -> Float[np.ndarray, " dim"]:
        """KL of each dimension of z from N(0, 1), mean over the frames, in nats."""
        rows = self.encode(batch)
        zeros = torch.zeros_like(rows["mu"])
        kl = kl_gaussian(rows["mu"], (rows["logvar"] / 2).exp(), zeros, zeros + 1)
        return kl.flatten(0, 1).mean(0).cpu().numpy()

    @torch.no_grad()
    def begin_dream(self, context: Rows) -> State:
        """Encode the context and let M take in all of it but the last row, which is where the dream starts."""
        rows = self.encode(context)
        z = reparameterize(rows["mu"], rows["logvar"])
        h, c = self.rnn.initial_state(len(z))
        if z.shape[1] > 1:
            h, c = self.rnn(z[:, :-1], rows["prev_action"][:, 1:], (h, c), rows["is_first"][:, :-1]).state
        is_first = rows["is_first"][:, -1]
        return {"z": z[:, -1], "h": h * ~is_first[:, None], "c": c * ~is_first[:, None], "is_first": is_first}

    def feat(self, state: State) -> Float[Tensor, "batch feat"]:
        """What the controller sees of a dream's state."""
        return self.controller.features(state["z"], state["h"], state["c"])

    def dream_action(self, state: State) -> Float[Tensor, "batch action"]:
        """The controller's action in a dream, as a replay row holds it."""
        return self.codec.to_row(self.controller.act(self.feat(state)))

    @torch.no_grad()
    def dream_step(
        self, state: State, action: Float[Tensor, "batch action"], *, temperature: float = 1.0, decode: bool = True
    ) -> DreamStep:
        """One step inside M (paper, section 4.1): M takes in z and the action, the next z is drawn from its mixture.

        - state: z, h and c, and `is_first`, True where the dream begins on an episode's first row: M is told so, and
          no later step is a first one
        - action comes as a replay row holds it; M wants it native
        - image is the decoded NEXT z as uint8 frames, or None where `decode` is off
        - reward is the reward head's, or 1 for every step without one, as in VizDoom TakeCover
        - cont = 1 - sigmoid(done logit), or 1 without a done head
        - the temperature acts on the mixture alone
        """
        ### BEGIN SOLUTION 1.14: one step of a dream
        native = self.codec.to_native(action.to(self.device))
        is_first = state["is_first"]
        out = self.rnn(state["z"][:, None], native[:, None], (state["h"], state["c"]), is_first[:, None])
        z = mdn_sample(out.logpi[:, 0], out.mu[:, 0], out.logsig[:, 0], temperature)
        reward = torch.ones(len(z), device=self.device) if out.reward is None else out.reward[:, 0]
        cont = torch.ones(len(z), device=self.device) if out.done_logit is None else (-out.done_logit[:, 0]).sigmoid()
        image = to_image(self.vae.decoder(z)) if decode else None
        h, c = out.state
        return DreamStep({"z": z, "h": h, "c": c, "is_first": torch.zeros_like(is_first)}, image, reward, cont)
        ### END SOLUTION

    def weights(self) -> dict:
        """What playing needs."""
        return {"vae": self.vae.state_dict(), "rnn": self.rnn.state_dict(), "controller": self.controller.flat}

    def state_dict(self) -> dict:
        """What training goes on from."""
        return {
            **self.weights(),
            "vae_optimizer": self.vae_optimizer.state_dict(),
            "rnn_optimizer": self.rnn_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Take what `state_dict` or `weights` gave; the latter leaves the optimisers as they are."""
        self.vae.load_state_dict(state["vae"])
        self.rnn.load_state_dict(state["rnn"])
        self.controller.set_params(state["controller"].cpu().numpy())
        if "vae_optimizer" in state:
            self.vae_optimizer.load_state_dict(state["vae_optimizer"])
            self.rnn_optimizer.load_state_dict(state["rnn_optimizer"])
