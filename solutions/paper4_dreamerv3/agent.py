"""DreamerV3: one world model, one policy, one optimiser, one configuration for every domain."""

import time
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from common.agent import DreamStep, Rows, State
from common.env_wrapper import action_size, is_discrete
from common.errors import UserError
from common.metrics import (
    categorical_use,
    class_counts,
    continue_accuracy,
    informative_units,
    kl_categorical,
    reward_accuracy,
    value_accuracy,
)
from common.replay_buffer import ReplayBuffer
from common.seeding import seeded
from solutions.paper4_dreamerv3 import world_model
from solutions.paper4_dreamerv3.actor_critic import (
    Actor,
    ReturnNorm,
    SlowCritic,
    actor_loss,
    critic_loss,
    imagine,
    lambda_returns,
    replay_returns,
)
from solutions.paper4_dreamerv3.config import Config
from solutions.paper4_dreamerv3.optimizer import LaProp
from solutions.paper4_dreamerv3.replay import ReplaySampler, updates_due
from solutions.paper4_dreamerv3.world_model import (
    ScalarHead,
    WorldModel,
    log_probs,
    preprocess,
    sample_latent,
    to_image,
    world_model_losses,
)

UPDATE = 1  # in a random key, so that updates draw other numbers than the runner
DIAGNOSE_EVERY = 100  # updates between the metrics that are not losses


def check_sizes(config: Config) -> None:
    """Raise UserError for sizes that do not go together."""
    halved, smallest = 2 ** len(config.mults), config.mults[-1] * config.depth
    for good, what in (
        (config.image_size % halved == 0, f"--image-size must be a multiple of {halved}, not {config.image_size}"),
        (config.deter % config.blocks == 0, f"--deter {config.deter} cannot be cut into --blocks {config.blocks}"),
        (
            smallest % config.blocks == 0,
            f"{smallest} channels (--depth) are not a multiple of {config.blocks} (--blocks)",
        ),
        (config.classes <= 256, f"--classes may be 256 at most, not {config.classes}: they are stored in a byte"),
    ):
        if not good:
            raise UserError(what)


class Noise(NamedTuple):
    """All chance of an update, drawn before it: what follows is a function of its inputs."""

    posterior: Float[Tensor, "batch time variables"]
    prior: Float[Tensor, "starts horizon variables"]
    action: Float[Tensor, "starts steps action"]


class DreamerV3Agent:
    """The agent of the paper. Its state is the RSSM's posterior, as a dict of tensors (batch, ...)."""

    def __init__(
        self,
        config: Config,
        observation_space: spaces.Dict,
        action_space: spaces.Space,
        device: str | torch.device = "cpu",
    ):
        check_sizes(config)
        self.config, self.device = config, torch.device(device)
        torch.manual_seed(config.seed)
        self.discrete, self.actions = is_discrete(action_space), action_size(action_space)
        self.model = WorldModel(config, observation_space, self.actions)
        feat, units = self.model.feat, config.units
        self.actor = Actor(feat, self.actions, self.discrete, 3, units, config.unimix)
        self.critic = ScalarHead(feat, 3, units, config.bins, config.bin_space)
        self.return_norm = ReturnNorm()
        self.networks = nn.ModuleDict(
            {"model": self.model, "actor": self.actor, "critic": self.critic, "return_norm": self.return_norm}
        ).to(self.device)
        self.model.to(memory_format=torch.channels_last)  # the order that frames come in, and the faster one
        self.slow = SlowCritic(self.critic, config.slow_rate)
        groups = [
            {"params": [*self.model.parameters(), *self.critic.parameters()]},
            {"params": [*self.actor.parameters()], "lr": config.actor_lr or config.lr},
        ]
        self.optimizer = LaProp(groups, config.lr, warmup=config.warmup, agc=config.agc)
        self.sampler = ReplaySampler(config.batch, config.length)
        self.last = min(config.imag_last or config.length, config.length)  # rows of a sequence that dreams start from
        self.updates = 0
        self.acted: Rows | None = None  # latents of the rows that were acted on last
        self.fixed_batch: tuple[Rows, np.ndarray] | None = None  # of --overfit-batch
        self.losses = torch.compile(self.compute_losses) if config.compile else self.compute_losses

    # ---- acting ----

    def initial_state(self, batch_size: int) -> State:
        return self.model.rssm.initial(batch_size)._asdict()

    @torch.no_grad()
    def act(self, obs: Rows, state: State, *, explore: bool) -> tuple[Float[np.ndarray, "batch action"], State]:
        """See, update the state, choose: always a sample of the policy, as in the paper, evaluation or not.

        Exploring, the latents are kept, to be stored beside the rows when `learn` has the replay in hand.
        """
        rows = {key: value[:, None] for key, value in obs.items()}
        post, _ = self.observe(rows, world_model.State(**state))
        state = {key: value[:, 0] for key, value in post._asdict().items()}
        action = self.dream_action(state)
        if explore:
            self.acted = self.to_stored(world_model.State(**state))
        return action.cpu().numpy(), state

    def to_tensors(self, rows: Rows) -> dict[str, Tensor]:
        """Rows as the networks take them: images scaled."""
        batch = {key: torch.as_tensor(value, device=self.device) for key, value in rows.items()}
        if "image" in batch:
            batch["image"] = preprocess(batch["image"])
        return batch

    def to_stored(self, state: world_model.State) -> Rows:
        """A state in few bytes, to lie beside a row: halves, and the classes' numbers."""
        stoch = state.stoch.detach().unflatten(-1, (self.config.stoch, self.config.classes)).argmax(-1)
        return {
            "deter": state.deter.detach().half().cpu().numpy(),
            "stoch": stoch.byte().cpu().numpy(),
        }

    def from_stored(self, rows: dict[str, Tensor]) -> world_model.State:
        stoch = nn.functional.one_hot(rows["stoch"].long(), self.config.classes).float().flatten(-2)
        return world_model.State(rows["deter"].float(), stoch)

    # ---- learning ----

    def learn(self, replay: ReplayBuffer, step: int) -> dict[str, float | Tensor]:
        """Store the latents of the rows acted on last, then make the updates that the replay ratio asks for.

        Returns the means of what they gave.
        """
        config, streams = self.config, replay.streams
        if self.acted is None:  # random actions until now
            self.acted = self.to_stored(self.model.rssm.initial(streams))
        newest = np.stack([np.arange(streams), np.full(streams, replay.end - 2)], 1)
        replay.update(newest, {key: value[:, None] for key, value in self.acted.items()})

        rows_played, batch_rows = replay.end * streams, config.batch * config.length
        first = self.sampler.first_row(streams) * streams
        due = updates_due(rows_played, first, config.replay_ratio, batch_rows) - self.updates
        totals, counts, start = defaultdict(float), defaultdict(int), time.perf_counter()
        for _ in range(due):
            rng = seeded(config.seed, UPDATE, self.updates)
            rows, starts = self.fixed_batch or self.sampler.sample(replay, rng)
            self.fixed_batch = (rows, starts) if config.overfit_batch else None
            metrics, post = self.update(rows)
            replay.update(starts + np.array([0, 1]), self.to_stored(post))
            for name, value in metrics.items():
                totals[name] += value
                counts[name] += 1
        metrics = {name: total / counts[name] for name, total in totals.items()}
        if metrics:
            metrics["efficiency/seconds_per_update"] = (time.perf_counter() - start) / due
            if rows_played > first:  # the first update is for the rows that were there before
                metrics["efficiency/replay_ratio"] = (self.updates - 1) * batch_rows / (rows_played - first)
        return metrics

    def draw_noise(self) -> Noise:
        """Fresh chance for an update."""
        config, rssm = self.config, self.model.rssm
        starts = config.batch * self.last
        return Noise(
            rssm.noise(config.batch, config.length),
            rssm.noise(starts, config.horizon),
            self.actor.noise(starts, config.horizon + 1, device=self.device),
        )

    def update(self, rows: Rows, noise: Noise | None = None) -> tuple[dict[str, Tensor], world_model.State]:
        """One update on windows of length + 1 rows, the first of which gives the state before; metrics, posteriors."""
        config, rows = self.config, self.to_tensors(rows)
        context = self.from_stored({key: rows.pop(key)[:, 0] for key in ("deter", "stoch")})
        batch = {key: value[:, 1:] for key, value in rows.items()}
        batch["reward"] = config.reward_scale * batch["reward"]
        loss, metrics, post = self.losses(batch, context, noise or self.draw_noise())
        self.optimizer.zero_grad()
        loss.backward()
        metrics["world_model/grad_norm"] = nn.utils.get_total_norm([p.grad for p in self.networks.parameters()])
        if self.updates < config.actor_delay:
            self.actor.zero_grad()  # its warm-up begins when it does
        self.optimizer.step()
        self.slow.update()
        if self.updates % DIAGNOSE_EVERY == 0:
            metrics |= self.diagnose(batch, post)
        self.updates += 1
        return metrics, post

    def compute_losses(
        self, batch: dict[str, Tensor], context: world_model.State, noise: Noise
    ) -> tuple[Tensor, dict[str, Tensor], world_model.State]:
        """(the loss, metrics, posteriors): all that is learned, in one number.

        No step of this depends on a value, only on shapes: it can be compiled, and captured as a CUDA graph.
        """
        config, model = self.config, self.model
        tokens = model.encoder(batch)
        post, logits = model.rssm.observe(context, tokens, batch["prev_action"], batch["is_first"], noise.posterior)
        losses = world_model_losses(model, batch, post, logits)

        # Dreams: REINFORCE needs no gradient through them, only new looks at the states they visit.
        last = self.last
        starts = world_model.State(*(x.detach()[:, -last:].flatten(0, 1) for x in post))
        with torch.no_grad():
            feat, action = imagine(model.rssm, self.actor, starts, noise.prior, noise.action)
            reward, cont = model.reward(feat).mean(), model.cont_logit(feat).sigmoid()
            if config.first_cont == "data":
                ends = batch["is_terminal"][:, -last:].flatten()
                cont = torch.cat([config.discount * (~ends).float()[:, None], cont[:, 1:]], 1)
            slow = self.slow.network(feat[:, :-1])
        value = self.critic(feat)
        returns = lambda_returns(reward, cont, value.mean().detach(), config.lam)
        weight = cont.cumprod(1)[:, :-1]
        scale = self.return_norm.update(returns)
        scale = scale if config.return_norm == "percentile" else torch.ones_like(scale)
        advantage = (returns - value.mean().detach()[:, :-1]) / scale
        policy = self.actor(feat[:, :-1])
        losses["policy"] = actor_loss(policy, action[:, :-1], advantage, weight, config.entropy_scale)
        predicted = type(value)(value.logits[:, :-1], self.critic.bins)
        losses["value"] = critic_loss(predicted, returns, slow, weight, config.slow_scale)

        # The same critic on what was really done; from here on its gradient shapes the representation, too.
        rows = {key: batch[key][:, -last:] for key in ("reward", "is_terminal", "is_last")}
        bootstrap = returns[:, 0].unflatten(0, (-1, last))
        replayed = replay_returns(**rows, bootstrap=bootstrap, discount=config.discount, lam=config.lam)
        post_feat = post.feat[:, -last:][:, :-1]
        with torch.no_grad():
            slow = self.slow.network(post_feat)
        inside = (~rows["is_last"][:, :-1]).float()
        losses["replay_value"] = critic_loss(self.critic(post_feat), replayed, slow, inside, config.slow_scale)

        scales = {
            "dyn": config.dyn_scale,
            "rep": config.rep_scale,
            "value": config.value_scale,
            "replay_value": config.replay_value_scale,
        }
        loss = sum(scales.get(name, 1.0) * each.mean() for name, each in losses.items())
        metrics = {LOG_NAMES[name]: each.detach().mean() for name, each in losses.items()}
        entropy, (least, most) = policy.entropy().detach().mean(), self.actor.entropy_bounds()
        metrics |= {
            "world_model/loss": loss.detach(),
            "policy/imagined_return": returns.mean() / config.reward_scale,
            "policy/return_scale": scale,
            "policy/advantage": advantage.abs().mean(),
            "policy/entropy": entropy,
            "policy/randomness": (entropy - least) / (most - least),
            "policy/weight": weight.mean(),
        }
        return loss, metrics, world_model.State(*(x.detach() for x in post))

    @torch.no_grad()
    def diagnose(self, batch: dict[str, Tensor], post: world_model.State) -> dict[str, float | Tensor]:
        """Metrics that say more than the losses, on a training batch."""
        model, feat = self.model, post.feat
        cont = self.cont_probability(feat)
        scale = self.config.reward_scale
        reward, value = batch["reward"] / scale, self.critic(feat).mean() / scale
        error, sign_accuracy = reward_accuracy(model.reward(feat).mean() / scale, reward)
        tokens, rssm = model.encoder(batch), model.rssm
        seen = rssm.post_out(rssm.post_in(torch.cat([post.deter, tokens], -1)))
        logits = log_probs(seen.unflatten(-1, (rssm.stoch, rssm.classes)), rssm.unimix)
        prior = log_probs(rssm.prior(post.deter), rssm.unimix)
        kl = kl_categorical(logits, prior)
        entropy = lambda log_probs: -(log_probs.exp() * log_probs).sum((-2, -1)).mean()
        _, perplexity = categorical_use(class_counts(logits.argmax(-1), rssm.classes))
        metrics = {
            "world_model/kl": kl.sum(-1).mean(),
            "world_model/posterior_entropy": entropy(logits),
            "world_model/prior_entropy": entropy(prior),
            "world_model/latent_use": informative_units(kl).float().mean(),
            "world_model/latent_perplexity": perplexity,
            "world_model/reward_error": error,
            "world_model/reward_sign_accuracy": sign_accuracy,
            "world_model/cont_accuracy": continue_accuracy(cont, batch["is_terminal"]),
        }
        if batch["is_terminal"].any():
            metrics["world_model/end_accuracy"] = (cont[batch["is_terminal"]] < 0.5).float().mean()
        means = model.decoder(post.deter, post.stoch)
        if "image" in means:
            metrics["world_model/recon_error"] = (means["image"] - batch["image"]).square().mean()
        played = {key: batch[key].cpu().numpy() for key in ("is_terminal", "is_last")}
        played["reward"] = reward.cpu().numpy()
        return metrics | value_accuracy(value.cpu().numpy(), played, self.config.discount)

    # ---- looking inside ----

    @torch.no_grad()
    def observe(self, rows: Rows, start: world_model.State | None = None) -> tuple[world_model.State, Tensor]:
        """(posteriors (batch, time, ...), their logits) of rows; a new episode among them begins afresh."""
        batch = self.to_tensors(rows)
        lead = batch["is_first"].shape
        start = start or self.model.rssm.initial(lead[0])
        tokens, noise = self.model.encoder(batch), self.model.rssm.noise(*lead)
        return self.model.rssm.observe(start, tokens, batch["prev_action"], batch["is_first"], noise)

    def latent_use(self, batch: Rows) -> Int[np.ndarray, "variables classes"]:
        """How often each class of each variable is the posterior's likeliest."""
        _, logits = self.observe(batch)
        return class_counts(logits.argmax(-1), self.config.classes).cpu().numpy()

    @torch.no_grad()
    def reconstruct(self, batch: Rows) -> UInt8[np.ndarray, "batch time height width channels"]:
        """Every frame as the posterior's state pictures it."""
        post, _ = self.observe(batch)
        return to_image(self.model.decoder(post.deter, post.stoch)["image"]).cpu().numpy()

    def begin_dream(self, context: Rows) -> State:
        """The posterior of the context's last row."""
        post, _ = self.observe(context)
        return {key: value[:, -1] for key, value in post._asdict().items()}

    @torch.no_grad()
    def dream_step(
        self, state: State, action: Float[Tensor, "batch action"], *, temperature: float = 1.0, decode: bool = True
    ) -> DreamStep:
        """One step of the prior, its log probabilities divided by the temperature."""
        rssm = self.model.rssm
        deter = rssm.core(state["deter"], state["stoch"], rssm.embed_action(action.to(self.device)))
        tempered = log_probs(rssm.prior(deter), rssm.unimix) / temperature
        stoch = sample_latent(tempered, rssm.noise(len(deter)), unimix=0.0).flatten(-2)
        prior = world_model.State(deter, stoch)
        image = to_image(self.model.decoder(deter, stoch)["image"]) if decode else None
        reward = self.model.reward(prior.feat).mean() / self.config.reward_scale
        return DreamStep(prior._asdict(), image, reward, self.cont_probability(prior.feat))

    def cont_probability(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        """Probability that the episode goes on: the continue head's, without the discount that it has learned with."""
        return (self.model.cont_logit(feat).sigmoid() / self.config.discount).clamp(max=1)

    @torch.no_grad()
    def dream_action(self, state: State) -> Float[Tensor, "batch action"]:
        feat = self.feat(state)
        action = self.actor(feat).sample(self.actor.noise(len(feat), device=self.device))
        return action.clamp(-1, 1)  # a Gaussian's may be beyond

    def feat(self, state: State) -> Float[Tensor, "batch feat"]:
        return world_model.State(**state).feat

    # ---- saving ----

    def weights(self) -> dict:
        """All that eval.py and visualize.py need."""
        return {name: network.state_dict() for name, network in self.networks.items()}

    def state_dict(self) -> dict:
        return {
            **self.weights(),
            "slow": self.slow.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "taken": self.sampler.taken,
        }

    def load_state_dict(self, state: dict) -> None:
        """Take what `state_dict` or `weights` gave."""
        for name, network in self.networks.items():
            network.load_state_dict(state[name])
        if "optimizer" in state:
            self.slow.network.load_state_dict(state["slow"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.updates, self.sampler.taken = state["updates"], state["taken"]


LOG_NAMES = {
    "image": "world_model/recon_loss",
    "vector": "world_model/vector_loss",
    "reward": "world_model/reward_loss",
    "cont": "world_model/cont_loss",
    "dyn": "world_model/dyn_loss",
    "rep": "world_model/rep_loss",
    "policy": "policy/actor_loss",
    "value": "policy/value_loss",
    "replay_value": "policy/replay_value_loss",
}
