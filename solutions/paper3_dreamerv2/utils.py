"""What the paper's parts share: a discrete sample, distributions of actions, reward transforms, the optimiser's step,
and the chunks that a batch is made of."""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from common.errors import UserError
from common.replay_buffer import ReplayBuffer, Rows

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
RewardTransform = Literal["none", "tanh", "symlog"]


def one_hot_sample(
    logits: Float[Tensor, "*batch classes"], gumbel: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch classes"]:
    """A sample of each categorical, exactly one-hot, with the gradient of the probabilities (straight-through).

    The class is the one with the largest logit + gumbel, gumbel being standard Gumbel noise: that is a sample of
    softmax(logits) (the Gumbel-max trick). An argmax has no gradient, so the sample borrows that of the probabilities:
    value one-hot, gradient d probs / d logits (paper, algorithm 1). In float32 the order of the sum matters: the
    probabilities have to cancel exactly before the one-hot vector is added (the paper's line, read from the left, adds
    it first).
    """
    ### BEGIN SOLUTION 3.1: a discrete sample that gradient flows through
    sample = F.one_hot((logits + gumbel).argmax(-1), logits.shape[-1])
    probs = logits.softmax(-1)
    return sample + (probs - probs.detach())
    ### END SOLUTION


def gumbel_noise(shape: tuple[int, ...], device: torch.device) -> Float[Tensor, "*shape"]:
    """Standard Gumbel noise."""
    return -torch.empty(shape, device=device).exponential_().log()


class OneHot:
    """Discrete actions: one-hot, with straight-through gradient."""

    def __init__(self, logits: Float[Tensor, "*batch action"]):
        self.logits = logits.log_softmax(-1)

    def rsample(self) -> Float[Tensor, "*batch action"]:
        return one_hot_sample(self.logits, gumbel_noise(self.logits.shape, self.logits.device))

    def log_prob(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch"]:
        return (self.logits * action).sum(-1)

    def mode(self) -> Float[Tensor, "*batch action"]:
        return F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits)

    def entropy(self) -> Float[Tensor, "*batch"]:
        return -(self.logits * self.logits.exp()).sum(-1)


class TruncatedNormal:
    """Continuous actions: a Gaussian cut off at -1 and 1 (official common/dists.py; nets.py, dist `trunc_normal`).

    raw: the actor's output, [mean | std] along the last axis: mean = tanh(raw), std = 2 sigmoid(raw / 2) + 0.1.
    A sample's gradient is exact; TensorFlow's takes the bounds for no bounds, and its gradient in the mean is larger.
    """

    def __init__(self, raw: Float[Tensor, "*batch twice_action"]):
        mean, std = raw.chunk(2, -1)
        self.mean, self.std = torch.tanh(mean), 2 * torch.sigmoid(std / 2) + 0.1
        self.normal = Normal(torch.zeros_like(self.mean), torch.ones_like(self.mean), validate_args=False)
        self.low, self.high = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
        self.mass = (self.normal.cdf(self.high) - self.normal.cdf(self.low)).clamp(min=1e-8)

    def rsample(self) -> Float[Tensor, "*batch action"]:
        """By inverting the distribution function: exact samples, with their exact gradient in mean and std."""
        uniform = torch.rand_like(self.mean)
        u = self.normal.icdf((self.normal.cdf(self.low) + uniform * self.mass).clamp(1e-6, 1 - 1e-6))
        action = self.mean + self.std * u
        return action + (action.clamp(-1 + 1e-6, 1 - 1e-6) - action).detach()  # the clamp keeps the gradient

    def log_prob(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch"]:
        log_density = self.normal.log_prob((action - self.mean) / self.std) - self.std.log() - self.mass.log()
        return log_density.sum(-1)

    def mode(self) -> Float[Tensor, "*batch action"]:
        return self.mean

    def entropy(self) -> Float[Tensor, "*batch"]:
        density = lambda x: self.normal.log_prob(x).exp()
        edges = (self.low * density(self.low) - self.high * density(self.high)) / self.mass
        return (HALF_LOG_2PI + 0.5 + self.std.log() + self.mass.log() + edges / 2).sum(-1)


def symexp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What undoes symlog."""
    return x.sign() * x.abs().expm1()


def transform_reward(reward: Float[Tensor, "*shape"], kind: RewardTransform) -> Float[Tensor, "*shape"]:
    """What the reward head is trained on: one number of every reward.

    - "none": the reward as it is (DeepMind Control)
    - "tanh": squashed into [-1, 1] (Atari, where a game's rewards may be 1 or 1000)
    - "symlog": sign(x) ln(1 + |x|), a preview of paper 4: like ln for large rewards of either sign, and like the reward
      itself for small ones, of which no digit may be lost
    """
    ### BEGIN SOLUTION 3.2: rewards of any size
    if kind == "tanh":
        return reward.tanh()
    return reward.sign() * reward.abs().log1p() if kind == "symlog" else reward
    ### END SOLUTION


def untransform_reward(predicted: Float[Tensor, "*shape"], kind: RewardTransform) -> Float[Tensor, "*shape"]:
    """What imagination earns: symlog is undone, tanh is not (the paper's agent maximises squashed rewards)."""
    return symexp(predicted) if kind == "symlog" else predicted


def discount_target(is_terminal: Bool[Tensor, "*batch"], discount: float) -> Float[Tensor, "*batch"]:
    """The soft label of the discount head: `discount` where the episode goes on, 0 behind a true end."""
    return discount * (~is_terminal).float()


def linear_schedule(start: float, end: float | None, duration: int, step: int) -> float:
    """From start to end within `duration` steps, then end; start for ever where there is no end."""
    return start if end is None else start + (end - start) * min(1.0, step / duration)


def optimizer_step(
    optimizer: torch.optim.Optimizer, gradients: list[Tensor] | tuple[Tensor, ...], clip: float, weight_decay: float
) -> Float[Tensor, ""]:
    """One step on the optimiser's parameters (all groups, in their order); returns the gradients' norm before clipping.

    In the order of the official common/tfutils.py:
    1. clip: where the norm of all gradients TOGETHER is above `clip`, all are scaled down to it
    2. decay: every parameter is multiplied by 1 - weight_decay. Biases, too; and whatever the learning rate is (torch's
       AdamW would multiply the decay by it, Adam's weight_decay is another thing again)
    3. the optimiser's own step, with each parameter's `grad` set (the gradients given may be changed)
    """
    ### BEGIN SOLUTION 3.3: clip, decay, step
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    if weight_decay:
        with torch.no_grad():
            torch._foreach_mul_(parameters, 1 - weight_decay)
    optimizer.step()
    return norm
    ### END SOLUTION


def sample_batch(
    replay: ReplayBuffer, batch: int, length: int, prioritize_ends: bool, rng: np.random.Generator
) -> Rows:
    """{key: (batch, length, ...)}: chunks of rows, each within one episode, `is_first` set on every first row.

    Official common/replay.py: an episode, uniformly among the finished ones that are long enough, then where to begin
    in it. With prioritize_ends, `length` further places beyond the last possible one count as that one: ends are rare,
    and what the discount head learns from. Running episodes are taken only where none is finished; where no
    episode has `length` rows, chunks are as long as the longest.
    """
    episodes = replay.episodes()
    if not len(episodes):
        raise UserError("the replay holds no episode: set --prefill or --replay-capacity higher")
    if episodes["finished"].any():
        episodes = episodes[episodes["finished"]]
    length = min(length, int(episodes["length"].max()))
    chosen = rng.choice(episodes[episodes["length"] >= length], batch)
    last = chosen["length"] - length
    offset = np.minimum(rng.integers(last + 1 + (length if prioritize_ends else 0)), last)
    rows = replay.windows(np.stack([chosen["stream"], chosen["start"] + offset], 1), length)
    rows["is_first"][:, 0] = True
    return rows
