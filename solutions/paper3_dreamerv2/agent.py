"""DreamerV2: a discrete world model learned from replay, and a policy learned inside it."""

import time
from collections import defaultdict

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from common.agent import DreamStep, Rows, State
from common.env_wrapper import action_size, is_discrete
from common.metrics import continue_accuracy, reward_accuracy, value_accuracy
from common.replay_buffer import ReplayBuffer
from common.seeding import seeded
from solutions.paper3_dreamerv2 import rssm
from solutions.paper3_dreamerv2.actor_critic import (
    SlowCritic,
    actor_loss,
    critic_loss,
    dream_discounts,
    imagine,
    lambda_returns,
)
from solutions.paper3_dreamerv2.config import Config
from solutions.paper3_dreamerv2.networks import (
    Actor,
    ConvDecoder,
    ConvEncoder,
    DenseHead,
    ScalarHead,
    initialize,
    normal_nll,
    preprocess,
    to_image,
)
from solutions.paper3_dreamerv2.rssm import RSSM, DiscreteLatent, GaussianLatent, kl_loss
from solutions.paper3_dreamerv2.utils import (
    discount_target,
    linear_schedule,
    optimizer_step,
    sample_batch,
    transform_reward,
    untransform_reward,
)

UPDATE = 1  # in a random key, so that updates draw other numbers than the runner
DIAGNOSE_EVERY = 100  # updates between the metrics that are not losses


class WorldModel(nn.Module):
    """Encoder, RSSM, and the heads that say what a state looks like, what it earns and whether it is the end."""

    def __init__(self, config: Config, observation_space: spaces.Dict, actions: int):
        super().__init__()
        self.config = config
        discrete = config.latent == "discrete"
        latent = DiscreteLatent(config.stoch, config.classes) if discrete else GaussianLatent(config.stoch)
        feat, units = config.deter + latent.stoch, config.units
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        embed = 0
        if "image" in observation_space.spaces:
            channels = observation_space["image"].shape[-1]
            self.encoders["image"] = ConvEncoder(channels, config.depth)
            self.decoders["image"] = ConvDecoder(feat, channels, config.depth)
            embed += self.encoders["image"].size
        if "vector" in observation_space.spaces:
            size = observation_space["vector"].shape[0]
            self.encoders["vector"] = DenseHead(size, units, config.vector_layers, units)
            self.decoders["vector"] = DenseHead(feat, size, config.vector_layers, units)
            embed += units
        self.rssm = RSSM(actions, embed, latent, config.deter, config.hidden)
        self.reward = ScalarHead(feat, config.layers, units)
        self.cont = ScalarHead(feat, config.layers, units) if config.predicts_continue else None
        self.feat = feat

    def embed(self, obs: dict[str, Tensor]) -> Float[Tensor, "*batch embed"]:
        """What the posterior sees of observations, already preprocessed: image and vector side by side."""
        return torch.cat([encoder(obs[key]) for key, encoder in self.encoders.items()], -1)

    def discount(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        """The discount of what follows a state. The continue head has learned it whole, gamma and all."""
        return torch.full_like(feat[..., 0], self.config.discount) if self.cont is None else self.cont(feat).sigmoid()


def world_model_loss(
    model: WorldModel, batch: dict[str, Tensor], noise: Float[Tensor, "batch time stoch"] | None = None
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]], rssm.State]:
    """(loss, its parts, posteriors) on a batch of chunks (paper, equation 2; official agent.py).

    batch: rows as tensors (batch, time, ...): `image` and/or `vector`, preprocessed, whichever the model has decoders
    for; `prev_action`; `reward`, transformed; `is_first`; `is_terminal`. noise: for `observe`.
    - the posteriors of the embedded observations, and the priors beside them
    - all heads see the posteriors' feat: `model.decoders[key](feat)`, `model.reward(feat)`, `model.cont(feat)`
    Parts: for each decoder, under its key, the `normal_nll` of its observation (the SUM over the pixels of an image
    or the numbers of a vector); "reward", the normal_nll of the reward received on arriving in the state; "kl", as
    `kl_loss` of model.rssm.latent with the config's kl_balance, free_nats and free_before_mean, times config.kl_scale;
    and, where model.cont is not None, "cont": the cross entropy of its logit with `discount_target`, times
    config.continue_scale. Each is a mean over batch and time; the loss is their sum. One more entry is not part of the
    sum: "raw_kl", the KL in nats.
    """
    config = model.config
    ### BEGIN SOLUTION 3.16: the loss of the world model
    post, prior = model.rssm.observe(model.embed(batch), batch["prev_action"], batch["is_first"], noise)
    feat = post.feat
    parts = {}
    for key, decoder in model.decoders.items():
        parts[key] = normal_nll(decoder(feat), batch[key], event_dims=batch[key].ndim - 2).mean()
    parts["reward"] = normal_nll(model.reward(feat), batch["reward"], event_dims=0).mean()
    if model.cont is not None:
        target = discount_target(batch["is_terminal"], config.discount)
        parts["cont"] = config.continue_scale * F.binary_cross_entropy_with_logits(model.cont(feat), target)
    kl, raw_kl = kl_loss(
        model.rssm.latent,
        post,
        prior,
        balance=config.kl_balance,
        free_nats=config.free_nats,
        free_before_mean=config.free_before_mean,
    )
    parts["kl"] = config.kl_scale * kl
    return sum(parts.values()), {**parts, "raw_kl": raw_kl}, post
    ### END SOLUTION


class DreamerV2Agent:
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
        self.model = initialize(WorldModel(config, observation_space, self.actions)).to(self.device)
        self.model.to(memory_format=torch.channels_last)  # the order that frames come in, and the faster one
        self.actor = initialize(Actor(self.model.feat, self.actions, self.discrete, config.layers, config.units))
        self.critic = initialize(ScalarHead(self.model.feat, config.layers, config.units))
        self.actor.to(self.device), self.critic.to(self.device)
        self.slow = SlowCritic(self.critic, config.slow_every)
        self.gradient = config.actor_gradient or ("reinforce" if self.discrete else "dynamics")
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
        """See, update the state, choose: a sample of the policy while exploring, else its mode."""
        batch = self.to_tensors(obs)
        prev, is_first = rssm.State(**state), batch["is_first"]
        post, _ = self.model.rssm.obs_step(prev, batch["prev_action"], self.model.embed(batch), is_first)
        policy = self.actor(post.feat)
        action = policy.rsample() if explore else policy.mode()
        return action.cpu().numpy(), post._asdict()

    def to_tensors(self, rows: Rows) -> dict[str, Tensor]:
        """Rows as the networks take them: images and vectors scaled, rewards transformed."""
        batch = {key: torch.as_tensor(value, device=self.device) for key, value in rows.items()}
        if "image" in batch:
            batch["image"] = preprocess(batch["image"])
        if "vector" in batch:
            batch["vector"] = batch["vector"] / self.config.vector_std
        batch["reward"] = transform_reward(batch["reward"], self.config.reward_target)
        return batch

    # ---- learning ----

    def learn(self, replay: ReplayBuffer, step: int) -> dict[str, float | Tensor]:
        """The updates due at frame `step`: `pretrain` at once, then one every `train_every` agent steps.

        Returns the means of what they gave.
        """
        config = self.config
        agent_steps = (step - config.prefill) // config.repeat
        due = config.pretrain + agent_steps // config.train_every - self.updates
        totals, counts, start = defaultdict(float), defaultdict(int), time.perf_counter()
        for _ in range(due):
            rng = seeded(config.seed, UPDATE, self.updates)
            rows = self.fixed_batch or sample_batch(replay, config.batch, config.length, config.prioritize_ends, rng)
            self.fixed_batch = rows if config.overfit_batch else None
            for name, value in self.update(rows).items():
                totals[name] += value
                counts[name] += 1
        metrics = {name: total / counts[name] for name, total in totals.items()}
        if metrics:
            metrics["efficiency/seconds_per_update"] = (time.perf_counter() - start) / due
        return metrics

    def update(self, rows: Rows) -> dict[str, Tensor]:
        """One update: the world model's step, then dreams in the model as it is now, and the actor's and critic's."""
        batch = self.to_tensors(rows)
        loss, parts, post = world_model_loss(self.model, batch)
        metrics = {f"world_model/{LOG_NAMES[key]}": value.detach() for key, value in parts.items()}
        metrics["world_model/loss"] = loss.detach()
        metrics["world_model/grad_norm"] = self.step("model", self.model, loss)
        if self.updates >= self.config.actor_delay:
            starts = rssm.State(*(x.detach().flatten(0, 1) for x in post))
            metrics |= self.update_behaviour(starts, batch["is_terminal"].flatten())
        if self.updates % DIAGNOSE_EVERY == 0:
            metrics |= self.diagnose(rows, batch)
        self.updates += 1
        return metrics

    def update_behaviour(self, starts: rssm.State, is_terminal: Bool[Tensor, " starts"]) -> dict[str, Tensor]:
        """Actor and critic learn from one dream of every start."""
        config = self.config
        with torch.set_grad_enabled(self.gradient != "reinforce"):  # which has no use for a dream's graph
            feat, action = imagine(self.model.rssm, self.actor, starts, config.horizon)
            reward = untransform_reward(self.model.reward(feat), config.reward_target)
            discount, weight = dream_discounts(self.model.discount(feat), is_terminal, config.discount)
            value = self.slow.network(feat)
            returns = lambda_returns(reward, value, discount, config.lam)
        schedule = lambda start, end: linear_schedule(start, end, config.schedule_steps, self.agent_steps)
        loss, entropy = actor_loss(
            self.actor,
            feat,
            action,
            returns,
            value,
            weight,
            gradient=self.gradient,
            entropy_scale=schedule(config.entropy_scale, config.entropy_scale_end),
            mix=schedule(config.actor_mix, config.actor_mix_end),
            advantage=config.advantage,
        )
        value_loss = critic_loss(self.critic, feat, returns, weight)
        metrics = {
            "policy/actor_loss": loss.detach(),
            "policy/value_loss": value_loss.detach(),
            "policy/imagined_return": returns.detach().mean(),
            "policy/entropy": entropy.detach(),
            "policy/grad_norm": self.step("actor", self.actor, loss),
            "policy/value_grad_norm": self.step("critic", self.critic, value_loss),
        }
        self.slow.update()
        return metrics

    @property
    def agent_steps(self) -> int:
        """Decisions made since training began, told by the number of updates."""
        return max(0, self.updates - self.config.pretrain) * self.config.train_every

    def step(self, name: str, network: nn.Module, loss: Tensor) -> Float[Tensor, ""]:
        """An optimiser's step down a loss, in one network's weights alone: nothing is left behind in the others."""
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        return optimizer_step(self.optimizers[name], gradients, self.config.clip, self.config.weight_decay)

    @torch.no_grad()
    def diagnose(self, rows: Rows, batch: dict[str, Tensor]) -> dict[str, float | Tensor]:
        """Metrics that say more than the losses, on a training batch."""
        model, config = self.model, self.config
        post, prior = model.rssm.observe(model.embed(batch), batch["prev_action"], batch["is_first"])
        feat = post.feat
        error, sign_accuracy = reward_accuracy(model.reward(feat), batch["reward"])
        metrics = {
            "world_model/reward_error": error,
            "world_model/reward_sign_accuracy": sign_accuracy,
        }
        used = model.rssm.latent.use_metrics(post.raw, prior.raw)
        metrics |= {f"world_model/{key}": value for key, value in used.items()}
        if "image" in model.decoders:
            metrics["world_model/recon_error"] = (model.decoders["image"](feat) - batch["image"]).square().mean()
        if model.cont is not None:
            metrics["world_model/cont_accuracy"] = continue_accuracy(self.cont_probability(feat), batch["is_terminal"])
        # Here a value includes the reward of its own state, which the metric's return does not.
        reward = untransform_reward(batch["reward"], config.reward_target)
        value = (self.critic(feat) - reward) / config.discount
        played = {**rows, "reward": reward.cpu().numpy()}
        return metrics | value_accuracy(value.cpu().numpy(), played, config.discount)

    # ---- looking inside ----

    @torch.no_grad()
    def reconstruct(self, batch: Rows) -> UInt8[np.ndarray, "batch time height width channels"]:
        """Every frame as the posterior's state pictures it."""
        return to_image(self.model.decoders["image"](rssm.State(**self.observe(batch)).feat)).cpu().numpy()

    @torch.no_grad()
    def latent_use(self, batch: Rows) -> Float[np.ndarray, " dim"] | Int[np.ndarray, "variables classes"]:
        """Of discrete latents how often each class is the likeliest, of a Gaussian the KL of each dimension in nats."""
        batch = self.to_tensors(batch)
        post, prior = self.model.rssm.observe(self.model.embed(batch), batch["prev_action"], batch["is_first"])
        return self.model.rssm.latent.use(post.raw, prior.raw).cpu().numpy()

    def observe(self, rows: Rows) -> State:
        """Posteriors (batch, time, ...) of rows; a new episode among them begins afresh."""
        batch = self.to_tensors(rows)
        post, _ = self.model.rssm.observe(self.model.embed(batch), batch["prev_action"], batch["is_first"])
        return post._asdict()

    @torch.no_grad()
    def begin_dream(self, context: Rows) -> State:
        """The posterior of the context's last row."""
        return {key: value[:, -1] for key, value in self.observe(context).items()}

    @torch.no_grad()
    def dream_step(
        self, state: State, action: Float[Tensor, "batch action"], *, temperature: float = 1.0, decode: bool = True
    ) -> DreamStep:
        """One step of the prior; its logits are divided by the temperature (a Gaussian's noise is scaled by it)."""
        noise = temperature * self.model.rssm.latent.noise(state["deter"].shape[:1], self.device)
        prior = self.model.rssm.img_step(rssm.State(**state), action.to(self.device), noise)
        image = to_image(self.model.decoders["image"](prior.feat)) if decode else None
        cont = torch.ones_like(prior.feat[:, 0]) if self.model.cont is None else self.cont_probability(prior.feat)
        reward = untransform_reward(self.model.reward(prior.feat), self.config.reward_target)
        return DreamStep(prior._asdict(), image, reward, cont)

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
        slow = {"network": self.slow.network.state_dict(), "updates": self.slow.updates}
        return {**self.weights(), "slow": slow, "optimizers": optimizers, "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Take what `state_dict` or `weights` gave."""
        self.model.load_state_dict(state["model"])
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.updates = state.get("updates", 0)
        slow = state.get("slow", {"network": state["critic"], "updates": 0})
        self.slow.network.load_state_dict(slow["network"])
        self.slow.updates = slow["updates"]
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
