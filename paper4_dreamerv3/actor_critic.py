"""Learning behaviour in imagination: REINFORCE with returns brought to one scale, and a critic that predicts their
two-hot code. Numbers of equations are those of the later version of the paper (Nature 2025, arXiv v2)."""

import copy
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from paper4_dreamerv3.symlog import TwoHot
from paper4_dreamerv3.world_model import RSSM, Head, State, log_probs


class OneHot:
    """Discrete actions, one-hot: softmax of the logits with 1% of chance mixed in, so that none dies out."""

    def __init__(self, logits: Float[Tensor, "*batch action"], unimix: float = 0.01):
        self.logits = log_probs(logits, unimix)

    @staticmethod
    def noise(shape: tuple[int, ...], device: torch.device) -> Float[Tensor, "*shape"]:
        """Standard Gumbel noise."""
        return -torch.empty(shape, device=device).exponential_().log()

    def sample(self, noise: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch action"]:
        classes = (self.logits + noise).argmax(-1)
        return F.one_hot(classes, self.logits.shape[-1]).to(self.logits.dtype)

    def log_prob(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch"]:
        return (self.logits * action).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        return -(self.logits.exp() * self.logits).sum(-1)


class BoundedNormal:
    """Continuous actions: a plain Gaussian, mean tanh(m), std = 0.9 sigmoid(s + 2) + 0.1, between 0.1 and 1.

    Nothing is squashed: a sample may lie beyond 1, its log_prob is its own; who acts cuts it off.
    raw: the actor's output, [m | s] along the last axis.
    """

    def __init__(self, raw: Float[Tensor, "*batch twice_action"]):
        mean, std = raw.float().chunk(2, -1)
        self.mean, self.std = mean.tanh(), 0.9 * torch.sigmoid(std + 2) + 0.1

    @staticmethod
    def noise(shape: tuple[int, ...], device: torch.device) -> Float[Tensor, "*shape"]:
        """Standard normal noise."""
        return torch.randn(shape, device=device)

    def sample(self, noise: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch action"]:
        return self.mean + self.std * noise

    def log_prob(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch"]:
        normal = -0.5 * ((action - self.mean) / self.std).square() - self.std.log() - 0.5 * math.log(2 * math.pi)
        return normal.sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        return (self.std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


class Actor(nn.Module):
    """From feat to a distribution of actions. The output layer begins 100 times smaller: all actions alike."""

    def __init__(self, feat: int, action_size: int, discrete: bool, layers: int, units: int, unimix: float):
        super().__init__()
        self.discrete, self.action_size, self.unimix = discrete, action_size, unimix
        self.layers = Head(feat, action_size if discrete else 2 * action_size, layers, units, scale=0.01)

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> OneHot | BoundedNormal:
        raw = self.layers(feat)
        return OneHot(raw, self.unimix) if self.discrete else BoundedNormal(raw)

    def entropy_bounds(self) -> tuple[float, float]:
        """The least and the most entropy, in nats, that the policy can have."""
        if not self.discrete:
            least, most = (self.action_size * 0.5 * math.log(2 * math.pi * math.e * std**2) for std in (0.1, 1.0))
            return least, most
        rare = self.unimix / self.action_size
        probs = [1 - (self.action_size - 1) * rare, *[rare] * (self.action_size - 1)]
        return -sum(p * math.log(p) for p in probs if p), math.log(self.action_size)

    def noise(self, *lead: int, device: torch.device) -> Float[Tensor, "*lead action"]:
        """What `sample` of its distributions takes."""
        return (OneHot if self.discrete else BoundedNormal).noise((*lead, self.action_size), device)


def imagine(
    rssm: RSSM,
    actor: Actor,
    start: State,
    latent_noise: Float[Tensor, "starts horizon variables"],
    action_noise: Float[Tensor, "starts steps action"],
) -> tuple[Float[Tensor, "starts steps feat"], Float[Tensor, "starts steps action"]]:
    """(feats, actions) of dreams from the start states (starts, ...): horizon + 1 entries of each.

    feats[:, 0] is the start's; actions[:, k] is the actor's sample on feats[:, k] with action_noise[:, k], and
    feats[:, k + 1] what the RSSM's `img_step` makes of it with latent_noise[:, k]. The last action leads nowhere.
    Nothing carries gradient into the start, and the actor sees feats without gradient.
    """
    # TODO 4.11: dreams with an action for every state
    raise NotImplementedError("exercise 4.11: dreams with an action for every state")


def lambda_returns(
    reward: Float[Tensor, "starts steps"],
    cont: Float[Tensor, "starts steps"],
    value: Float[Tensor, "starts steps"],
    lam: float = 0.95,
) -> Float[Tensor, "starts steps_1"]:
    """What the action in each entry of a dream but the last was worth (paper, equation 5):

        R_k = r_{k+1} + c_{k+1} * ((1 - lam) * v_{k+1} + lam * R_{k+1}),     R of the last entry := its value

    All that counts is what FOLLOWS: the reward, the discount and the value of the entry the action leads to. The first
    entry's are not used. cont has the discount in it.
    """
    # TODO 4.12: the return of every imagined action
    raise NotImplementedError("exercise 4.12: the return of every imagined action")


def replay_returns(
    reward: Float[Tensor, "batch time"],
    is_terminal: Bool[Tensor, "batch time"],
    is_last: Bool[Tensor, "batch time"],
    bootstrap: Float[Tensor, "batch time"],
    discount: float,
    lam: float = 0.95,
) -> Float[Tensor, "batch time_1"]:
    """What really followed each row of replay but the last, with imagination's word for what comes after it.

        R_t = r_{t+1} + discount * (not is_terminal_{t+1}) * ((1 - l) * b_{t+1} + l * R_{t+1}),   R of the last row := b

    bootstrap b: the return that was imagined from each row. l is lam, but 0 where row t+1 is_last: what the replay has
    behind it is another episode.
    """
    # TODO 4.13: the return of what was really done
    raise NotImplementedError("exercise 4.13: the return of what was really done")


class ReturnNorm(nn.Module):
    """How far returns spread: a moving average of their 5th and 95th percentile (paper, equation 7).

    Buffers `low` and `high` (0 at first, float32) keep the averages, for checkpoints.
    """

    def __init__(self, rate: float = 0.01, limit: float = 1.0):
        super().__init__()
        self.rate, self.limit = rate, limit
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
        """Take in a batch of returns; gives the scale to divide advantages by, these returns included.

        low and high move by `rate` towards the percentiles of all the returns (`torch.quantile`, float32); that they
        begin at 0 is not made up for. The scale is high - low, but at least `limit`: small returns are not blown up.
        """
        # TODO 4.14: bring returns to one scale
        raise NotImplementedError("exercise 4.14: bring returns to one scale")


def actor_loss(
    policy: OneHot | BoundedNormal,
    action: Float[Tensor, "starts horizon action"],
    advantage: Float[Tensor, "starts horizon"],
    weight: Float[Tensor, "starts horizon"],
    entropy_scale: float = 3e-4,
) -> Float[Tensor, "starts horizon"]:
    """REINFORCE (paper, equation 6): - weight * (log_prob(action) * advantage + entropy_scale * entropy), one by one.

    Gradient flows through log_prob and entropy alone: action, advantage and weight carry none.
    """
    # TODO 4.15: the loss of the actor
    raise NotImplementedError("exercise 4.15: the loss of the actor")


def critic_loss(
    predicted: TwoHot,
    returns: Float[Tensor, "*batch"],
    slow: TwoHot,
    weight: Float[Tensor, "*batch"],
    slow_scale: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """weight * (the loss of the returns + slow_scale * the loss of the slow critic's mean) under the prediction.

    The slow critic keeps the fast one from running ahead. Neither returns, nor `slow`, nor weight carry gradient.
    """
    # TODO 4.16: the loss of the critic
    raise NotImplementedError("exercise 4.16: the loss of the critic")


class SlowCritic:
    """A copy of the critic that follows it: slow = 0.98 slow + 0.02 fast after every update."""

    def __init__(self, critic: nn.Module, rate: float = 0.02):
        self.critic, self.rate = critic, rate
        self.network = copy.deepcopy(critic).requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(list(self.network.parameters()), list(self.critic.parameters()), self.rate)
