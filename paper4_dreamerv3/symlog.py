"""Numbers of any size: symlog squashes them, and the two-hot code lets a softmax predict them."""

import torch
from jaxtyping import Float
from torch import Tensor


def symlog(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sign(x) ln(1 + |x|) (paper, equation 9): like x near 0, like a logarithm far from it, on both sides.

    Small numbers keep their digits: symlog(1e-8) is 1e-8, also in float32 (`log1p`).
    """
    # TODO 4.1: squash numbers of any size
    raise NotImplementedError("exercise 4.1: squash numbers of any size")


def symexp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What undoes symlog (`expm1`)."""
    return x.sign() * x.abs().expm1()


def make_bins(count: int = 255, low: float = -20.0) -> Float[Tensor, " bins"]:
    """The numbers that a two-hot code is spread over, in float32: `symexp` of evenly spaced ones, rising.

    From symexp(low) = -4.85e8 up to 0, and the mirror image of these: bins[k] is exactly -bins[-1 - k]. An odd count
    has one 0, exact, in the middle (symexp(linspace(-20, 20)) has 7e-8 there); an even count has two beside each other,
    count / 2 numbers on either side. count is 3 or more.
    """
    # TODO 4.2: bins for numbers of any size
    raise NotImplementedError("exercise 4.2: bins for numbers of any size")


def twohot(x: Float[Tensor, "*shape"], bins: Float[Tensor, " bins"]) -> Float[Tensor, "*shape bins"]:
    """A number as weights on the two bins around it, so that the weighted mean of the bins is the number again.

    The nearer bin gets the greater weight; the two weights sum to 1. On a bin all weight is on it (with bins that are
    the same, on any of these), beyond an end all is on the end. x is float32, like the bins. No gradient is needed.
    """
    # TODO 4.3: a number as two weights
    raise NotImplementedError("exercise 4.3: a number as two weights")


class TwoHot:
    """A prediction of numbers: softmax(logits) (..., bins) are weights on `bins`. All in float32, whatever comes in."""

    def __init__(self, logits: Float[Tensor, "*batch bins"], bins: Float[Tensor, " bins"]):
        self.logits, self.bins = logits.float(), bins

    def mean(self) -> Float[Tensor, "*batch"]:
        """The weighted mean of the bins.

        The terms reach a million, and have to cancel: equal weights give exactly 0. So add bin k and its mirror image
        first (of an odd number, the middle one stands alone), and then the pairs: rounding is the same on both sides.
        """
        # TODO 4.4: the mean of a two-hot prediction
        raise NotImplementedError("exercise 4.4: the mean of a two-hot prediction")

    def loss(self, target: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Cross entropy with the target's two-hot code, in nats: 5.541 for 255 equal weights."""
        return -(twohot(target.float(), self.bins) * self.logits.log_softmax(-1)).sum(-1)


class SymlogTwoHot(TwoHot):
    """As in 2023: the code is spread over symlog(x), and its mean is taken there, which draws it towards 0."""

    def __init__(self, logits: Float[Tensor, "*batch bins"], bins: Float[Tensor, " bins"]):
        super().__init__(logits, symlog(bins))

    def mean(self) -> Float[Tensor, "*batch"]:
        return symexp(super().mean())

    def loss(self, target: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return super().loss(symlog(target))
