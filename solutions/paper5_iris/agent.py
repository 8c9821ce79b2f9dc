"""IRIS: a world told in tokens, and a policy that learns in it."""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from common.agent import DreamStep, Rows, State
from common.env_wrapper import action_size, is_discrete
from common.errors import UserError
from common.metrics import class_counts
from common.replay_buffer import ReplayBuffer
from common.seeding import seeded
from solutions.paper5_iris.actor_critic import CnnLstm, TransformerActor, actor_critic_losses, burn_in, lambda_returns
from solutions.paper5_iris.config import Config
from solutions.paper5_iris.sample import ImaginedWorld, imagine, sample
from solutions.paper5_iris.schedule import components_due, decay_groups
from solutions.paper5_iris.segments import sample_segments
from solutions.paper5_iris.tokenizer import LPIPS, Tokenizer, codebook_usage, preprocess, to_image, tokenizer_losses
from solutions.paper5_iris.transformer import KVCache, WorldModel, world_model_labels, world_model_losses

UPDATE = 1  # in a random key, so that updates draw other numbers than the runner
COLLAPSED, PATIENCE = 2.0, 100  # perplexity of a codebook that has collapsed, and updates in a row with less


def check(config: Config, observation_space: spaces.Dict, action_space: spaces.Space) -> None:
    """Raise UserError for what IRIS cannot do, and sizes that do not go together."""
    halved = 2 ** max(config.levels - 1, len(config.actor_channels) if config.actor == "cnn_lstm" else 0)
    width, heads = config.actor_width, config.actor_heads
    for good, what in (
        (is_discrete(action_space), f"IRIS chooses among actions, and those of {config.env} are continuous"),
        ("image" in observation_space.spaces, f"IRIS needs pictures, and {config.env} shows none: give --obs image"),
        (config.image_size % halved == 0, f"--image-size must be a multiple of {halved}, not {config.image_size}"),
        (config.width % config.heads == 0, f"--width {config.width} cannot be cut into --heads {config.heads}"),
        (config.channels % 2 == 0, f"--channels must be even (groups of two are normalised), not {config.channels}"),
        (0 <= config.dropout < 1, f"--dropout must be at least 0 and below 1, not {config.dropout}"),
        (min(config.temperature, config.eval_temperature) > 0, "--temperature and --eval-temperature must be positive"),
        (width % heads == 0, f"--actor-width {width} cannot be cut into --actor-heads {heads}"),
        (
            config.perceptual == "none" or config.lpips_weights,
            "the perceptual loss needs the weights of VGG16 and LPIPS: --lpips-weights FILE; or --perceptual none",
        ),
    ):
        if not good:
            raise UserError(what)


class IRISAgent:
    """The agent of the paper. Its state is what the policy remembers, as a dict of tensors (batch, ...); in a dream
    also the present frame's tokens, and what the world model has read."""

    def __init__(
        self,
        config: Config,
        observation_space: spaces.Dict,
        action_space: spaces.Space,
        device: str | torch.device = "cpu",
    ):
        self.config, self.device = config, torch.device(device)
        check(config, observation_space, action_space)
        torch.manual_seed(config.seed)
        self.actions = action_size(action_space)
        self.tokenizer = Tokenizer(
            config.image_size, config.codes, config.embed, config.channels, config.levels, config.attention, config.z
        )
        places = self.tokenizer.tokens
        self.model = WorldModel(
            config.codes,
            self.actions,
            places,
            config.frames,
            config.width,
            config.layers,
            config.heads,
            config.dropout,
        )
        if config.actor == "cnn_lstm":
            picture = self.tokenizer.to_image
            self.policy = CnnLstm(self.actions, picture, config.image_size, config.actor_channels, config.actor_hidden)
        else:
            sizes = config.actor_frames, config.actor_width, config.actor_layers, config.actor_heads
            self.policy = TransformerActor(self.actions, config.codes, places, *sizes)
        self.networks = nn.ModuleDict({"tokenizer": self.tokenizer, "model": self.model, "policy": self.policy})
        self.networks.to(self.device).eval()
        self.perceptual = LPIPS(config.lpips_weights).to(self.device) if config.perceptual == "lpips" else None
        self.optimizers = {
            "tokenizer": torch.optim.Adam(self.tokenizer.parameters(), config.tokenizer_lr),
            "world_model": torch.optim.AdamW(decay_groups(self.model, config.weight_decay), config.world_model_lr),
            "actor_critic": torch.optim.Adam(self.policy.parameters(), config.actor_critic_lr),
        }
        self.epoch, self.done = 0, 0  # epochs whose updates are all made, and those made of the next one
        self.updates = 0
        self.stored = 0  # rows of each stream whose tokens are stored beside them
        self.refreshed: State | None = None  # what the policy, newly trained, remembers of the running episodes
        self.monotonous = 0  # updates in a row in which the codebook was as good as one word
        self.fixed_batches: dict[str, Rows] = {}  # of --overfit-batch

    # ---- acting ----

    def initial_state(self, batch_size: int) -> State:
        return self.policy.initial(batch_size)

    @torch.no_grad()
    def act(self, obs: Rows, state: State, *, explore: bool) -> tuple[Float[np.ndarray, "batch action"], State]:
        """See a frame as its tokens, remember it, and draw an action."""
        config, n = self.config, len(obs["is_first"])
        if explore and self.refreshed is not None:
            state, self.refreshed = self.refreshed, None
        fresh = torch.as_tensor(obs["is_first"], device=self.device)
        initial = self.policy.initial(n)
        state = {key: torch.where(fresh.view(-1, *[1] * (x.ndim - 1)), initial[key], x) for key, x in state.items()}
        state = self.policy.remember(self.policy.look(self.tokens(obs["image"])), state)
        logits, _ = self.policy.decide(state)
        action = sample(logits, config.temperature if explore else config.eval_temperature)
        if explore:
            at_random = torch.rand(n, device=self.device) < config.epsilon
            action = torch.where(at_random, torch.randint_like(action, self.actions), action)
        return self.one_hot(action).cpu().numpy(), state

    def images(self, image: UInt8[np.ndarray, "..."]) -> Float[Tensor, "..."]:
        return preprocess(torch.as_tensor(image, device=self.device))

    def tokens(self, image: UInt8[np.ndarray, "*batch height width channels"]) -> Int[Tensor, "*batch places"]:
        return self.tokenizer.to_tokens(self.images(image))

    def one_hot(self, action: Int[Tensor, " batch"]) -> Float[Tensor, "batch action"]:
        return F.one_hot(action, self.actions).float()

    # ---- learning ----

    def learn(self, replay: ReplayBuffer, step: int) -> dict[str, float | Tensor]:
        """The next update that is due, of one component; nothing when there is none.

        An epoch is `epoch_steps` agent steps, and after them the updates of each component that has begun to learn, one
        component after the other; when `steps` are played, there are `last_epochs` more of updates alone.
        """
        config = self.config
        over = step // config.repeat // config.epoch_steps + (config.last_epochs if step >= config.steps else 0)
        start_after = {name: getattr(config, f"{name}_after") for name in self.optimizers}
        while self.epoch < over:
            plan = [
                name
                for name in components_due(self.epoch + 1, start_after)
                if name != "tokenizer" or config.tokenizer_until is None or self.epoch < config.tokenizer_until
                for _ in range(getattr(config, f"{name}_updates"))
            ]
            if self.done < len(plan):
                metrics = self.update(plan[self.done], replay)
                self.done += 1
                return metrics
            self.epoch, self.done = self.epoch + 1, 0
            self.refresh(replay)
        return {}

    def update(self, component: str, replay: ReplayBuffer) -> dict[str, float | Tensor]:
        """One update of one component, on a fresh batch."""
        config, start = self.config, time.perf_counter()
        if component != "tokenizer" and self.stands_still:
            self.store_tokens(replay)
        losses_of: Callable = getattr(self, f"{component}_losses")
        length = {"tokenizer": 1, "world_model": config.frames, "actor_critic": config.burn_in + 1}[component]
        rng = seeded(config.seed, UPDATE, self.updates)
        batch = self.fixed_batches.get(component) or sample_segments(
            replay, getattr(config, f"{component}_batch"), length, rng, left=component == "actor_critic"
        )
        if config.overfit_batch:
            self.fixed_batches[component] = batch
        losses, metrics = losses_of(batch)
        optimizer = self.optimizers[component]
        optimizer.zero_grad()
        sum(losses.values()).backward()
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        self.updates += 1
        metrics |= {LOG_NAMES[name]: loss.detach() for name, loss in losses.items()}
        metrics[f"{FOLDER[component]}/{component}_grad_norm"] = norm
        metrics[f"efficiency/seconds_per_{component}_update"] = time.perf_counter() - start
        return metrics

    @property
    def stands_still(self) -> bool:
        """Whether the tokenizer has learned all that it will."""
        return self.config.tokenizer_until is not None and self.epoch >= self.config.tokenizer_until

    def store_tokens(self, replay: ReplayBuffer) -> None:
        """When the tokenizer stands still: keep the tokens of every new row beside it, instead of finding them again
        for every batch, which is nearly half of the world model's update at preset tiny."""
        begin = max(self.stored, replay.oldest)
        while begin < replay.end:
            rows = min(replay.end - begin, 64)
            starts = np.stack([np.arange(replay.streams), np.full(replay.streams, begin)], 1)
            tokens = self.tokens(replay.windows(starts, rows, ("image",))["image"])
            replay.update(starts, {"tokens": tokens.int().cpu().numpy()})
            begin += rows
        self.stored = replay.end

    def segment_tokens(self, batch: Rows) -> Int[Tensor, "batch frames places"]:
        """Of a segment's frames: those that are stored beside them, where they are sure to be of this tokenizer."""
        if self.stands_still and "tokens" in batch:
            return torch.as_tensor(batch["tokens"], device=self.device).long()
        return self.tokens(batch["image"])

    def tokenizer_losses(self, batch: Rows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(losses, metrics) of the tokenizer on single frames."""
        config, image = self.config, self.images(batch["image"][:, 0])
        z, quantized = self.tokenizer.encode(image)
        reconstruction = self.tokenizer.decode(quantized.straight)
        losses = tokenizer_losses(image, reconstruction, z, quantized.code, config.beta, config.recon == "squared")
        if self.perceptual:
            losses["perceptual"] = self.perceptual(image, reconstruction)
        used, perplexity = codebook_usage(quantized.tokens, config.codes)
        self.watch(float(perplexity))
        return losses, {
            "world_model/codebook_use": used,
            "world_model/codebook_perplexity": perplexity,
            "world_model/recon_error": (reconstruction.detach() - image).square().mean(),
        }

    def watch(self, perplexity: float) -> None:
        """Say so, once, when the codebook has collapsed."""
        self.monotonous = self.monotonous + 1 if perplexity < COLLAPSED else 0
        if self.monotonous == PATIENCE:
            print(
                f"the codebook has collapsed: for {PATIENCE} updates nearly all tokens were the same (perplexity below "
                f'{COLLAPSED:g}); see "When the codebook collapses" in IMPLEMENTATION_GUIDE.md',
                file=sys.stderr,
            )

    def world_model_losses(self, batch: Rows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(losses, metrics) of the world model on segments, all of a segment's positions at once."""
        tokens = self.segment_tokens(batch)
        action, reward, end, real = (
            torch.as_tensor(batch[key], device=self.device) for key in ("action", "reward", "end", "real")
        )
        labels = world_model_labels(tokens, reward, end, real)
        self.model.train()
        predicted = self.model(torch.cat([tokens, action.argmax(-1, keepdim=True)], -1).flatten(1))
        self.model.eval()
        losses = world_model_losses(predicted, labels)
        right = predicted.token[:, :-1].argmax(-1) == labels.token
        counted = labels.token >= 0
        return losses, {"world_model/token_accuracy": (right & counted).sum() / counted.sum()}

    def actor_critic_losses(self, batch: Rows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(losses, metrics) of the policy, which dreams from the segments' last frames."""
        config = self.config
        tokens, real = self.segment_tokens(batch), torch.as_tensor(batch["real"], device=self.device)
        state = burn_in(self.policy, tokens[:, :-1], real[:, :-1])
        dreamed = imagine(self.model, self.policy, state, tokens[:, -1], config.horizon)
        returns = lambda_returns(dreamed.reward, dreamed.value.detach(), dreamed.end, config.discount, config.lam)
        losses = actor_critic_losses(dreamed.logits, dreamed.value, dreamed.action, returns, config.entropy_scale)
        return losses, {
            "policy/imagined_return": returns[:, 0].mean(),
            "policy/entropy": -losses["entropy"].detach() / config.entropy_scale if config.entropy_scale else 0.0,
            "policy/imagined_ends": dreamed.end[:, :-1].float().mean(),
        }

    def refresh(self, replay: ReplayBuffer) -> None:
        """Show the policy, newly trained, once more the last frames of the episodes that are being played."""
        rows = min(self.config.burn_in, replay.end - replay.oldest - 1)
        if rows < 1:
            return
        starts = np.stack([np.arange(replay.streams), np.full(replay.streams, replay.end - 1 - rows)], 1)
        past = replay.windows(starts, rows + 1, ("image", "is_first"))
        begun = np.maximum.accumulate(past["is_first"][:, ::-1], 1)[:, ::-1]  # an episode began here or later
        real = ~begun[:, 1:]  # the rows before the newest that are of its episode
        self.refreshed = burn_in(
            self.policy, self.tokens(past["image"][:, :-1]), torch.as_tensor(real, device=self.device)
        )

    # ---- looking inside ----

    @torch.no_grad()
    def reconstruct(self, batch: Rows) -> UInt8[np.ndarray, "batch time height width channels"]:
        """Every frame as its tokens picture it."""
        return to_image(self.tokenizer.to_image(self.tokens(batch["image"]))).cpu().numpy()

    def latent_use(self, batch: Rows) -> Int[np.ndarray, "variables classes"]:
        """How often each code occurs; all places share one codebook."""
        return class_counts(self.tokens(batch["image"]).reshape(-1, 1), self.config.codes).cpu().numpy()

    @torch.no_grad()
    def begin_dream(self, context: Rows) -> State:
        """The world model reads as many of the last rows as leave half of its memory free; the policy sees all."""
        tokens = self.tokens(context["image"])
        real = torch.ones(tokens.shape[:2], dtype=torch.bool, device=self.device)
        policy = burn_in(self.policy, tokens, real)
        frames = max(1, self.config.frames // 2)
        action = torch.as_tensor(context["prev_action"], device=self.device)[:, 1:].argmax(-1, keepdim=True)
        blocks = torch.cat([tokens[:, :-1], action], -1)[:, -(frames - 1) :] if frames > 1 else tokens[:, :0]
        world = ImaginedWorld(self.model)
        world.reset(torch.cat([blocks.flatten(1), tokens[:, -1]], 1))
        return self.dream_state(world, tokens[:, -1], policy)

    def dream_state(self, world: ImaginedWorld, tokens: Int[Tensor, "batch places"], policy: State) -> State:
        keys, values = (torch.stack([getattr(each, name) for each in world.caches], 1) for name in ("keys", "values"))
        read = torch.full((len(tokens),), world.caches[0].size, device=self.device)
        remembered = {f"policy_{key}": value for key, value in policy.items()}
        return {"tokens": tokens, "keys": keys, "values": values, "read": read} | remembered

    @torch.no_grad()
    def dream_step(
        self, state: State, action: Float[Tensor, "batch action"], *, temperature: float = 1.0, decode: bool = True
    ) -> DreamStep:
        """One step of the world model, everything drawn with the temperature. Copies what was read: a state can be
        dreamed on from more than once."""
        pairs = zip(state["keys"].unbind(1), state["values"].unbind(1), strict=True)
        caches = [KVCache(keys.clone(), values.clone(), int(state["read"][0])) for keys, values in pairs]
        world = ImaginedWorld(self.model, caches)
        imagined = world.step(state["tokens"], action.to(self.device).argmax(-1), temperature)
        remembered = {key.removeprefix("policy_"): value for key, value in state.items() if key.startswith("policy_")}
        policy = self.policy.remember(self.policy.look(imagined.tokens), remembered)
        image = to_image(self.tokenizer.to_image(imagined.tokens)) if decode else None
        following = self.dream_state(world, imagined.tokens, policy)
        return DreamStep(following, image, imagined.reward, 1 - imagined.end.float())

    @torch.no_grad()
    def dream_action(self, state: State) -> Float[Tensor, "batch action"]:
        remembered = {key.removeprefix("policy_"): value for key, value in state.items() if key.startswith("policy_")}
        logits, _ = self.policy.decide(remembered)
        return self.one_hot(sample(logits, self.config.eval_temperature))

    @torch.no_grad()
    def feat(self, state: State) -> Float[Tensor, "batch feat"]:
        """The vectors of the present frame's tokens."""
        return self.tokenizer.codebook(state["tokens"]).flatten(1)

    # ---- saving ----

    def weights(self) -> dict:
        """All that eval.py and visualize.py need."""
        return {name: network.state_dict() for name, network in self.networks.items()}

    def state_dict(self) -> dict:
        return {
            **self.weights(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "epoch": self.epoch,
            "done": self.done,
            "updates": self.updates,
            "stored": self.stored,
        }

    def load_state_dict(self, state: dict) -> None:
        """Take what `state_dict` or `weights` gave."""
        for name, network in self.networks.items():
            network.load_state_dict(state[name])
        if "optimizers" in state:
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            self.epoch, self.done, self.updates = state["epoch"], state["done"], state["updates"]
            self.stored = state.get("stored", 0)  # older runs have none


FOLDER = {"tokenizer": "world_model", "world_model": "world_model", "actor_critic": "policy"}
LOG_NAMES = {
    "recon": "world_model/recon_loss",
    "codebook": "world_model/codebook_loss",
    "commitment": "world_model/commitment_loss",
    "perceptual": "world_model/perceptual_loss",
    "token": "world_model/token_loss",
    "reward": "world_model/reward_loss",
    "end": "world_model/end_loss",
    "actor": "policy/actor_loss",
    "critic": "policy/value_loss",
    "entropy": "policy/entropy_loss",
}
