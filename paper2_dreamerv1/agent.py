"""DreamerV1: a world model learned from replay, and a policy learned inside it."""

import time
from collections import defaultdict

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from common.agent import DreamStep, Rows, State
from common.env_wrapper import action_size, is_discrete
from common.metrics import continue_accuracy, informative_units, kl_gaussian, reward_accuracy, value_accuracy
from common.replay_buffer import ReplayBuffer
from common.seeding import seeded
from paper2_dreamerv1 import rssm
from paper2_dreamerv1.actor_critic import behaviour_losses, imagine
from paper2_dreamerv1.buffer import sample_batch
from paper2_dreamerv1.config import Config
from paper2_dreamerv1.networks import (
    Actor,
    ConvDecoder,
    ConvEncoder,
    DenseConvEncoder,
    DenseHead,
    ScalarHead,
    initialize,
    normal_nll,
    preprocess,
    to_image,
)
from paper2_dreamerv1.rssm import RSSM, kl_loss

UPDATE = 1  # in a random key, so that updates draw other numbers than the runner
DIAGNOSE_EVERY = 100  # updates between the metrics that are not losses


class WorldModel(nn.Module):
    """Encoder, RSSM, and the heads that say what a state looks like, what it earns and whether it is the end."""

    def __init__(self, config: Config, observation_space: spaces.Dict, actions: int):
        super().__init__()
        self.config = config
        feat, units = config.deter + config.stoch, config.units
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        embed = 0
        if "image" in observation_space.spaces:
            channels = observation_space["image"].shape[-1]
            self.encoders["image"] = (
                ConvEncoder(channels, config.depth)
                if config.latent_dim is None
                else DenseConvEncoder(channels, config.depth, config.latent_dim)
            )
            self.decoders["image"] = ConvDecoder(feat, channels, config.depth)
            embed += self.encoders["image"].size
        if "vector" in observation_space.spaces:
            size = observation_space["vector"].shape[0]
            self.encoders["vector"] = DenseHead(size, units, config.vector_layers, units)
            self.decoders["vector"] = DenseHead(feat, size, config.vector_layers, units)
            embed += units
        self.rssm = RSSM(actions, embed, config.deter, config.stoch, config.hidden)
        self.reward = ScalarHead(feat, config.reward_layers, units)
        self.cont = ScalarHead(feat, config.value_layers, units) if config.predicts_continue else None

    def embed(self, obs: dict[str, Tensor]) -> Float[Tensor, "*batch embed"]:
        """What the posterior sees of observations, already preprocessed: image and vector side by side."""
        return torch.cat([encoder(obs[key]) for key, encoder in self.encoders.items()], -1)

    def discount(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        """The discount of what follows a state. The continue head has learned it whole, gamma and all."""
        return torch.full_like(feat[..., 0], self.config.discount) if self.cont is None else self.cont(feat).sigmoid()


def world_model_loss(
    model: WorldModel, batch: dict[str, Tensor], noise: Float[Tensor, "batch time stoch"] | None = None
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]], rssm.State]:
    """(loss, its parts, posteriors) on a batch of chunks (paper, section 4; official dreamer.py).

    batch: rows as tensors (batch, time, ...): `image` and/or `vector`, preprocessed, whichever the model has decoders
    for; `prev_action`; `reward`; `is_terminal`. noise: for `observe`.
    - the posteriors of the embedded observations, and the priors beside them
    - all heads see the posteriors' feat: `model.decoders[key](feat)`, `model.reward(feat)`, `model.cont(feat)`
    Parts: for each decoder, under its key, the `normal_nll` of its observation (the SUM over the pixels of an image
    or the numbers of a vector); "reward", the normal_nll of the reward received on arriving in the state; "kl", as
    `kl_loss` with the config's free_nats, kl_balance (`balance`) and free_before_mean, times config.kl_scale; and,
    where model.cont is not None, "cont": the cross entropy of its logit with a soft label, config.discount where the
    episode goes on and 0 where it ended (is_terminal), times config.continue_scale. Each is a mean over batch and time;
    the loss is their sum. "raw_kl" is the KL in nats, which is not part of the sum.
    """
    config = model.config
    # TODO 2.15: the loss of the world model
    raise NotImplementedError("exercise 2.15: the loss of the world model")


class DreamerV1Agent:
    """The agent of the paper. Its state is the RSSM's posterior, as a dict of tensors (batch, ...)."""

    def __init__(
        self,
        config: Config,
        observation_space: spaces.Dict,
        action_space: spaces.Space,
        device: str | torch.device = "cpu",
    ):
        self.config, self.device = config, torch.device(device)
        torch.manual_seed(config.seed)
        self.discrete, self.actions = is_discrete(action_space), action_size(action_space)
        feat = config.deter + config.stoch
        self.model = initialize(WorldModel(config, observation_space, self.actions)).to(self.device)
        self.model.to(memory_format=torch.channels_last)  # the order that frames come in, and the faster one
        self.actor = initialize(Actor(feat, self.actions, self.discrete, config.actor_layers, config.units))
        self.critic = initialize(ScalarHead(feat, config.value_layers, config.units))
        self.actor.to(self.device), self.critic.to(self.device)
        adam = lambda network, lr: torch.optim.Adam(network.parameters(), lr, eps=config.adam_eps)
        self.optimizers = {
            "model": adam(self.model, config.model_lr),
            "actor": adam(self.actor, config.actor_lr),
            "critic": adam(self.critic, config.value_lr),
        }
        self.updates = 0
        self.fixed_batch: Rows | None = None  # of --overfit-batch

    # ---- acting ----

    def initial_state(self, batch_size: int) -> State:
        return self.model.rssm.initial(batch_size)._asdict()

    @torch.no_grad()
    def act(self, obs: Rows, state: State, *, explore: bool) -> tuple[Float[np.ndarray, "batch action"], State]:
        """See, update the state, choose. Exploring: a sample and noise, or now and then a random choice; else the mode,
        which for continuous actions is the likeliest of 100 samples."""
        keep = ~torch.as_tensor(obs["is_first"], device=self.device)[:, None]
        prev = rssm.State(**{key: value * keep for key, value in state.items()})
        batch = self.to_tensors(obs)
        post, _ = self.model.rssm.obs_step(prev, batch["prev_action"], self.model.embed(batch))
        policy = self.actor(post.feat)
        if explore:
            action = self.explore(policy.rsample() if self.config.exploration == "sample" else policy.mode())
        else:
            action = policy.mode()
        return action.cpu().numpy(), post._asdict()

    def explore(self, action: Float[Tensor, "batch action"]) -> Float[Tensor, "batch action"]:
        """The policy's actions with the noise that tries others; row by row, each environment by itself."""
        if not self.discrete:
            return (action + self.config.expl_noise * torch.randn_like(action)).clamp(-1, 1)
        progress = min(1.0, self.updates / self.config.epsilon_updates)
        epsilon = self.config.epsilon + progress * (self.config.epsilon_end - self.config.epsilon)
        choice = F.one_hot(torch.randint(self.actions, (len(action),), device=self.device), self.actions)
        return torch.where(torch.rand(len(action), 1, device=self.device) < epsilon, choice.to(action), action)

    def to_tensors(self, rows: Rows) -> dict[str, Tensor]:
        """Rows as the networks take them: images and vectors scaled, rewards transformed."""
        batch = {key: torch.as_tensor(value, device=self.device) for key, value in rows.items()}
        if "image" in batch:
            batch["image"] = preprocess(batch["image"])
        if "vector" in batch:
            batch["vector"] = batch["vector"] / self.config.vector_std
        if self.config.reward_transform == "tanh":
            batch["reward"] = batch["reward"].tanh()
        return batch

    # ---- learning ----

    def learn(self, replay: ReplayBuffer, step: int) -> dict[str, float | Tensor]:
        """The updates due at frame `step`: `pretrain` at once, then `train_steps` every `train_every` frames.

        Returns the means of what they gave.
        """
        config = self.config
        blocks = (step - config.prefill) // config.train_every
        due = config.pretrain + config.train_steps * blocks - self.updates
        totals, counts, start = defaultdict(float), defaultdict(int), time.perf_counter()
        for _ in range(due):
            rng = seeded(config.seed, UPDATE, self.updates)
            rows = self.fixed_batch or sample_batch(replay, config.batch, config.length, rng)
            self.fixed_batch = rows if config.overfit_batch else None
            for name, value in self.update(rows).items():
                totals[name] += value
                counts[name] += 1
        metrics = {name: total / counts[name] for name, total in totals.items()}
        if metrics:
            metrics["efficiency/seconds_per_update"] = (time.perf_counter() - start) / due
        return metrics

    def update(self, rows: Rows) -> dict[str, Tensor]:
        """One update of world model, actor and critic; all three losses are taken with the same weights (TF2)."""
        batch = self.to_tensors(rows)
        loss, parts, post = world_model_loss(self.model, batch)
        gradients = {"model": self.gradient(loss, "model")}
        metrics = {f"world_model/{LOG_NAMES[key]}": value.detach() for key, value in parts.items()}
        metrics["world_model/loss"] = loss.detach()

        if self.updates >= self.config.actor_delay:
            # A terminal row is a state that nothing follows: dreams do not start there.
            starts = post if self.model.cont is None else rssm.State(*(x[:, :-1] for x in post))
            feat, _ = imagine(
                self.model.rssm, self.actor, rssm.State(*(x.flatten(0, 1) for x in starts)), self.config.horizon
            )
            reward, discount = self.model.reward(feat), self.model.discount(feat)
            losses = behaviour_losses(feat, reward, discount, self.critic, self.config.lam)
            gradients["actor"] = self.gradient(losses.actor, "actor")
            gradients["critic"] = self.gradient(losses.value, "critic")
            metrics["policy/actor_loss"] = losses.actor.detach()
            metrics["policy/value_loss"] = losses.value.detach()
            metrics["policy/imagined_return"] = losses.returns.detach().mean()

        for name, gradient in gradients.items():
            metrics[NORM_NAMES[name]] = self.apply(name, gradient)
        if self.updates % DIAGNOSE_EVERY == 0:
            metrics |= self.diagnose(rows, batch)
        self.updates += 1
        return metrics

    def gradient(self, loss: Tensor, name: str) -> tuple[Tensor, ...]:
        """The loss's gradient in one network's weights alone: nothing is left behind in the others."""
        network = {"model": self.model, "actor": self.actor, "critic": self.critic}[name]
        return torch.autograd.grad(loss, list(network.parameters()))

    def apply(self, name: str, gradient: tuple[Tensor, ...]) -> Float[Tensor, ""]:
        """Clip a gradient to its largest norm and take the optimiser's step; returns the norm before."""
        optimizer = self.optimizers[name]
        parameters = optimizer.param_groups[0]["params"]
        for parameter, each in zip(parameters, gradient, strict=True):
            parameter.grad = each
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip)
        optimizer.step()
        return norm

    @torch.no_grad()
    def diagnose(self, rows: Rows, batch: dict[str, Tensor]) -> dict[str, float | Tensor]:
        """Metrics that say more than the losses, on a training batch."""
        model, config = self.model, self.config
        post, prior = model.rssm.observe(model.embed(batch), batch["prev_action"])
        feat = post.feat
        error, sign_accuracy = reward_accuracy(model.reward(feat), batch["reward"])
        kl = kl_gaussian(post.mean, post.std, prior.mean, prior.std)
        metrics = {
            "world_model/reward_error": error,
            "world_model/reward_sign_accuracy": sign_accuracy,
            "world_model/latent_use": informative_units(kl).float().mean(),
            "policy/entropy": self.actor(feat).entropy().mean(),
        }
        if "image" in model.decoders:
            metrics["world_model/recon_error"] = (model.decoders["image"](feat) - batch["image"]).square().mean()
        if model.cont is not None:
            metrics["world_model/cont_accuracy"] = continue_accuracy(self.cont_probability(feat), batch["is_terminal"])
        # Here a value includes the reward of its own state, which the metric's return does not.
        value = (self.critic(feat) - batch["reward"]) / config.discount
        played = {**rows, "reward": batch["reward"].cpu().numpy()}
        return metrics | value_accuracy(value.cpu().numpy(), played, config.discount)

    # ---- looking inside ----

    @torch.no_grad()
    def reconstruct(self, batch: Rows) -> UInt8[np.ndarray, "batch time height width channels"]:
        """Every frame as the posterior's state pictures it."""
        return to_image(self.model.decoders["image"](rssm.State(**self.observe(batch)).feat)).cpu().numpy()

    @torch.no_grad()
    def latent_use(self, batch: Rows) -> Float[np.ndarray, " dim"]:
        """KL of the posterior from the prior in each dimension, mean over the rows, in nats."""
        batch = self.to_tensors(batch)
        post, prior = self.model.rssm.observe(self.model.embed(batch), batch["prev_action"])
        return kl_gaussian(post.mean, post.std, prior.mean, prior.std).flatten(0, 1).mean(0).cpu().numpy()

    def observe(self, rows: Rows) -> State:
        """Posteriors (batch, time, ...) of rows; each begins with the first row, as if an episode did."""
        batch = self.to_tensors(rows)
        post, _ = self.model.rssm.observe(self.model.embed(batch), batch["prev_action"])
        return post._asdict()

    @torch.no_grad()
    def begin_dream(self, context: Rows) -> State:
        """The posterior of the context's last row."""
        return {key: value[:, -1] for key, value in self.observe(context).items()}

    @torch.no_grad()
    def dream_step(
        self, state: State, action: Float[Tensor, "batch action"], *, temperature: float = 1.0, decode: bool = True
    ) -> DreamStep:
        """One step of the prior; the noise of its sample is scaled by the temperature."""
        noise = temperature * torch.randn_like(state["stoch"])
        prior = self.model.rssm.img_step(rssm.State(**state), action.to(self.device), noise)
        image = to_image(self.model.decoders["image"](prior.feat)) if decode else None
        cont = torch.ones_like(prior.feat[:, 0]) if self.model.cont is None else self.cont_probability(prior.feat)
        return DreamStep(prior._asdict(), image, self.model.reward(prior.feat), cont)

    def cont_probability(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        """Probability that the episode goes on: the continue head's, without the discount that it has learned with."""
        return (self.model.discount(feat) / self.config.discount).clamp(max=1)

    @torch.no_grad()
    def dream_action(self, state: State) -> Float[Tensor, "batch action"]:
        return self.actor(self.feat(state)).rsample()

    def feat(self, state: State) -> Float[Tensor, "batch feat"]:
        return rssm.State(**state).feat

    # ---- saving ----

    def weights(self) -> dict:
        """All that eval.py and visualize.py need."""
        return {"model": self.model.state_dict(), "actor": self.actor.state_dict(), "critic": self.critic.state_dict()}

    def state_dict(self) -> dict:
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {**self.weights(), "optimizers": optimizers, "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Take what `state_dict` or `weights` gave."""
        self.model.load_state_dict(state["model"])
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.updates = state.get("updates", 0)
        for name, saved in state.get("optimizers", {}).items():
            self.optimizers[name].load_state_dict(saved)


LOG_NAMES = {
    "image": "recon_loss",
    "vector": "vector_loss",
    "reward": "reward_loss",
    "cont": "cont_loss",
    "kl": "kl_loss",
    "raw_kl": "kl",
}
NORM_NAMES = {"model": "world_model/grad_norm", "actor": "policy/grad_norm", "critic": "policy/value_grad_norm"}
