"""The RSSM with discrete latents: 32 categorical variables of 32 classes instead of one Gaussian (paper, section 2.1).

deter_t = GRU([stoch_{t-1}, a_{t-1}], deter_{t-1})      what is remembered, without noise
prior      p(stoch_t | deter_t)                         what may be the case now: imagination uses it
posterior  q(stoch_t | deter_t, o_t)                    what is the case, having seen o_t: acting uses it
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from common.metrics import categorical_use, class_counts, informative_units, kl_categorical, kl_gaussian
from paper3_dreamerv2.utils import gumbel_noise, one_hot_sample


class State(NamedTuple):
    """A batch of states. `stoch` was drawn from the distribution that `raw`, a layer's output, describes."""

    deter: Float[Tensor, "*batch deter"]
    stoch: Float[Tensor, "*batch stoch"]
    raw: Float[Tensor, "*batch raw"]

    @property
    def feat(self) -> Float[Tensor, "*batch feat"]:
        """What heads, actor and critic see: [deter, stoch]."""
        return torch.cat([self.deter, self.stoch], -1)


@runtime_checkable
class Latent(Protocol):
    """What the RSSM has to know of its stochastic part: the two classes below have it."""

    stoch: int  # numbers in a sample
    raw: int  # numbers that describe a distribution

    def noise(self, lead: tuple[int, ...], device: torch.device) -> Float[Tensor, "*batch stoch"]:
        """What a sample is made of, besides `raw`; `lead` are its axes before the last."""

    def sample(self, raw: Float[Tensor, "*batch raw"], noise: Float[Tensor, "*batch stoch"]) -> Tensor:
        """A sample (*batch, stoch) that gradient flows through, into raw."""

    def kl(self, post: Float[Tensor, "*batch raw"], prior: Float[Tensor, "*batch raw"]) -> Float[Tensor, "*batch"]:
        """KL(post || prior) of whole states, in nats."""

    def use(self, post: Float[Tensor, "*batch raw"], prior: Float[Tensor, "*batch raw"]) -> Tensor:
        """How much of the latent is in use on a batch: how often each class of each variable is the likeliest, or the
        mean KL of each dimension in nats."""

    def use_metrics(self, post: Float[Tensor, "*batch raw"], prior: Float[Tensor, "*batch raw"]) -> dict[str, Tensor]:
        """The same in a number or two, under the names of common/metrics.py."""


class DiscreteLatent:
    """`variables` categoricals of `classes` each; a sample is their one-hot vectors, one behind the other.

    raw has the logits in the same order: `logits(raw)` is (..., variables, classes).
    """

    def __init__(self, variables: int = 32, classes: int = 32):
        self.variables, self.classes = variables, classes
        self.stoch = self.raw = variables * classes

    def logits(self, raw: Float[Tensor, "*batch raw"]) -> Float[Tensor, "*batch variables classes"]:
        return raw.unflatten(-1, (self.variables, self.classes))

    def noise(self, lead: tuple[int, ...], device: torch.device) -> Float[Tensor, "*batch stoch"]:
        return gumbel_noise((*lead, self.stoch), device)

    def sample(
        self, raw: Float[Tensor, "*batch raw"], noise: Float[Tensor, "*batch stoch"]
    ) -> Float[Tensor, "*batch stoch"]:
        return one_hot_sample(self.logits(raw), self.logits(noise)).flatten(-2)

    def kl(self, post: Float[Tensor, "*batch raw"], prior: Float[Tensor, "*batch raw"]) -> Float[Tensor, "*batch"]:
        """KL(post || prior) of states, in nats.

        Each variable has a KL, the sum over its classes of p ln(p / q); the variables are independent, and the state's
        KL is the SUM of theirs. Logits may be so large that a probability is 0 in float32, and the KL is still finite:
        take the logarithm of a softmax as `log_softmax`.
        """
        # TODO 3.4: the divergence of categoricals
        raise NotImplementedError("exercise 3.4: the divergence of categoricals")

    def use(
        self, post: Float[Tensor, "*batch raw"], prior: Float[Tensor, "*batch raw"]
    ) -> Int[Tensor, "variables classes"]:
        return class_counts(self.logits(post).argmax(-1), self.classes)

    def use_metrics(self, post: Float[Tensor, "*batch raw"], prior: Float[Tensor, "*batch raw"]) -> dict[str, Tensor]:
        _, perplexity = categorical_use(self.use(post, prior))
        informative = informative_units(kl_categorical(self.logits(post), self.logits(prior)))
        return {"latent_use": informative.float().mean(), "latent_perplexity": perplexity}


class GaussianLatent:
    """DreamerV1's latent behind the same interface: std = 2 sigmoid(raw / 2) + 0.1 (official nets.py)."""

    def __init__(self, size: int = 32):
        self.stoch, self.raw = size, 2 * size

    def mean_std(self, raw: Float[Tensor, "*batch raw"]) -> tuple[Tensor, Tensor]:
        mean, std = raw.chunk(2, -1)
        return mean, 2 * torch.sigmoid(std / 2) + 0.1

    def noise(self, lead: tuple[int, ...], device: torch.device) -> Float[Tensor, "*batch stoch"]:
        return torch.randn(*lead, self.stoch, device=device)

    def sample(
        self, raw: Float[Tensor, "*batch raw"], noise: Float[Tensor, "*batch stoch"]
    ) -> Float[Tensor, "*batch stoch"]:
        mean, std = self.mean_std(raw)
        return mean + std * noise

    def kl(self, post: Float[Tensor, "*batch raw"], prior: Float[Tensor, "*batch raw"]) -> Float[Tensor, "*batch"]:
        (post_mean, post_std), (prior_mean, prior_std) = self.mean_std(post), self.mean_std(prior)
        ratio, distance = post_std / prior_std, (post_mean - prior_mean) / prior_std
        return (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)

    def use(self, post: Float[Tensor, "*batch raw"], prior: Float[Tensor, "*batch raw"]) -> Float[Tensor, " stoch"]:
        return kl_gaussian(*self.mean_std(post), *self.mean_std(prior)).flatten(0, -2).mean(0)

    def use_metrics(self, post: Float[Tensor, "*batch raw"], prior: Float[Tensor, "*batch raw"]) -> dict[str, Tensor]:
        kl = kl_gaussian(*self.mean_std(post), *self.mean_std(prior))
        return {"latent_use": informative_units(kl).float().mean()}


class LayerNormGRUCell(nn.Module):
    """The GRU of the official code (nets.py, GRUCell): one dense layer for all gates, normalised together.

    z = LayerNorm(W [x, h] + b) over all 3 * deter numbers (eps 1e-3), cut into reset, candidate, update:
        reset = sigmoid(reset);  candidate = tanh(reset * candidate);  update = sigmoid(update + update_bias)
        h' = update * candidate + (1 - update) * h
    It is not torch's GRUCell: there update weighs the OLD state, and reset touches the share of h alone. The bias of -1
    lets a fresh network remember. Attributes: `layer`, nn.Linear; `norm`, nn.LayerNorm; `update_bias`.
    """

    def __init__(self, inputs: int, deter: int, update_bias: float = -1.0):
        super().__init__()
        self.update_bias = update_bias
        self.layer = nn.Linear(inputs + deter, 3 * deter)
        self.norm = nn.LayerNorm(3 * deter, eps=1e-3)

    def forward(
        self, x: Float[Tensor, "batch inputs"], h: Float[Tensor, "batch deter"]
    ) -> Float[Tensor, "batch deter"]:
        # TODO 3.5: the GRU with layer norm
        raise NotImplementedError("exercise 3.5: the GRU with layer norm")


class RSSM(nn.Module):
    """The RSSM of paper 2 with the cell above and a latent of either kind; hidden layers use ELU.

    Layers: img_in [stoch, action] -> hidden; cell; img_out deter -> hidden; img_dist hidden -> prior's raw; obs_out
    [deter, embed] -> hidden; obs_dist hidden -> posterior's raw. 5,664,848 parameters at the paper's Atari sizes.
    """

    def __init__(self, action_size: int, embed: int, latent: Latent, deter: int = 600, hidden: int = 600):
        super().__init__()
        self.latent, self.deter = latent, deter
        self.img_in = nn.Linear(latent.stoch + action_size, hidden)
        self.cell = LayerNormGRUCell(hidden, deter)
        self.img_out = nn.Linear(deter, hidden)
        self.img_dist = nn.Linear(hidden, latent.raw)
        self.obs_out = nn.Linear(deter + embed, hidden)
        self.obs_dist = nn.Linear(hidden, latent.raw)

    def initial(self, batch_size: int) -> State:
        """Zeros: the state before a sequence's first row."""
        zeros = lambda size: self.img_in.weight.new_zeros(batch_size, size)
        return State(zeros(self.deter), zeros(self.latent.stoch), zeros(self.latent.raw))

    def img_step(
        self,
        prev: State,
        prev_action: Float[Tensor, "batch action"],
        noise: Float[Tensor, "batch stoch"] | None = None,
    ) -> State:
        """One step without looking: the prior (batch, ...) after prev_action was taken in prev.

        noise: as `latent.noise` draws it; fresh where it is not given.
        """
        noise = self.latent.noise(prev.deter.shape[:1], prev.deter.device) if noise is None else noise
        # TODO 3.6: the prior
        raise NotImplementedError("exercise 3.6: the prior")

    def obs_step(
        self,
        prev: State,
        prev_action: Float[Tensor, "batch action"],
        embed: Float[Tensor, "batch embed"],
        is_first: Bool[Tensor, " batch"],
        noise: Float[Tensor, "batch stoch"] | None = None,
    ) -> tuple[State, State]:
        """One step with the observation in view: (posterior, prior).

        Where is_first, an episode begins: nothing of prev may be left, and nothing of prev_action. Both states have the
        same deter, that of img_step; the same noise gives both samples: the prior's is not used any further.
        """
        noise = self.latent.noise(prev.deter.shape[:1], prev.deter.device) if noise is None else noise
        # TODO 3.7: the posterior
        raise NotImplementedError("exercise 3.7: the posterior")

    def observe(
        self,
        embed: Float[Tensor, "batch time embed"],
        prev_action: Float[Tensor, "batch time action"],
        is_first: Bool[Tensor, "batch time"],
        noise: Float[Tensor, "batch time stoch"] | None = None,
    ) -> tuple[State, State]:
        """(posteriors, priors) of whole sequences, each (batch, time, ...), from the initial state on.

        Row t has embed_t, the action that led to it, and whether an episode begins with it, which may be so anywhere.
        It must give what a loop over `obs_step` gives, the posterior carried on; that loop is a right answer. Faster is
        to leave in the loop only what depends on the step before, as in exercise 2.9.
        """
        noise = self.latent.noise(embed.shape[:2], embed.device) if noise is None else noise
        # TODO 3.8: over a whole sequence
        raise NotImplementedError("exercise 3.8: over a whole sequence")


def kl_loss(
    latent: Latent,
    post: State,
    prior: State,
    *,
    balance: float | None = 0.8,
    free_nats: float = 0.0,
    free_before_mean: bool = False,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(loss, KL): KL balancing (paper, algorithm 2). KL is the mean of `latent.kl` over batch and time.

    The loss is balance * L(sg(post), prior) + (1 - balance) * L(post, sg(prior)): sg stops the gradient, so that the
    first half moves the prior and the second the posterior. Its value is that of the plain KL, of whose gradient the
    prior gets the share `balance` and the posterior the rest. L(post, prior) = max(free_nats, mean KL); with
    free_before_mean the max is taken for each state. balance None (not 0): one L, with gradient to both sides in full
    (DreamerV1). KL itself is for the log: never clipped, and whether it carries gradient does not matter.
    """

    # TODO 3.9: KL balancing
    raise NotImplementedError("exercise 3.9: KL balancing")
