"""The networks around the RSSM: encoder, decoder, dense heads, and the actor's two kinds of actions."""

import math
from itertools import pairwise

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def preprocess(image: UInt8[Tensor, "*batch height width channels"]) -> Float[Tensor, "*batch channels height width"]:
    """Bytes to [-0.5, 0.5], channels first: the one place where pixels are scaled."""
    return image.movedim(-1, -3).float() / 255 - 0.5


def to_image(mean: Float[Tensor, "*batch channels height width"]) -> UInt8[Tensor, "*batch height width channels"]:
    """The other way round, for eyes."""
    return ((mean + 0.5).clamp(0, 1) * 255).round().byte().movedim(-3, -1)


def initialize(network: nn.Module) -> nn.Module:
    """What TensorFlow gave the official code: Glorot-uniform weights, zero biases, an orthogonal recurrent matrix."""
    for name, parameter in network.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
        elif "weight_hh" in name:
            nn.init.orthogonal_(parameter)
        else:
            nn.init.xavier_uniform_(parameter)
    return network


class ConvEncoder(nn.Module):
    """Four strided convolutions: an image of 64x64 becomes 32 * depth numbers (official models.py).

    Kernel 4, stride 2, no padding, ReLU after every one; depth, 2 depth, 4 depth and 8 depth channels; 64 -> 31 -> 14
    -> 6 -> 2 pixels. What is left is flattened: no dense layer, no normalisation. 690,144 parameters at depth 32.

    Attributes: `convs`, an nn.Module that maps (N, channels, 64, 64) to (N, 8 * depth, 2, 2).
    """

    def __init__(self, channels: int = 3, depth: int = 32):
        super().__init__()
        self.size = 32 * depth
        ### BEGIN SOLUTION 2.1: four strided convolutions
        widths = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
        layers = [(nn.Conv2d(a, b, 4, stride=2), nn.ReLU()) for a, b in pairwise(widths)]
        self.convs = nn.Sequential(*(layer for pair in layers for layer in pair))
        ### END SOLUTION

    def forward(
        self, image: Float[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch embed"]:  # height = width = 64
        flat = self.convs(image.reshape(-1, *image.shape[-3:]))
        return flat.reshape(*image.shape[:-3], self.size)


class DenseConvEncoder(ConvEncoder):
    """A variant that is often drawn: padding 1, which leaves 4x4 pixels, and a dense layer to `latent_dim` numbers."""

    def __init__(self, channels: int = 3, depth: int = 32, latent_dim: int = 256):
        super().__init__(channels, depth)
        self.size = latent_dim
        for layer in self.convs.modules():
            if isinstance(layer, nn.Conv2d):
                layer.padding = (1, 1)
        self.dense = nn.Linear(8 * depth * 4 * 4, latent_dim)

    def forward(self, image: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch embed"]:
        flat = self.convs(image.reshape(-1, *image.shape[-3:])).flatten(1)
        return self.dense(flat).reshape(*image.shape[:-3], self.size)


class DeconvOfOnePixel(nn.ConvTranspose2d):
    """A transposed convolution whose input is a single pixel is a matrix product, and three times faster as one."""

    def forward(self, x: Float[Tensor, "batch channels 1 1"]) -> Float[Tensor, "batch out height width"]:
        y = x.flatten(1) @ self.weight.flatten(1)
        return y.view(len(x), self.out_channels, *self.kernel_size) + self.bias[:, None, None]


class ConvDecoder(nn.Module):
    """From feat back to an image of 64x64: the mean of a Gaussian with variance 1 (official models.py).

    A dense layer to 32 * depth numbers, without activation, seen as (32 * depth, 1, 1); then four transposed
    convolutions of stride 2 without padding, kernels 5, 5, 6, 6, with 4 depth, 2 depth, depth and `channels` channels:
    1 -> 5 -> 13 -> 30 -> 64 pixels. ReLU between them, none at the end. 3,795,555 parameters at feat 230, depth 32.

    For the first of them there is DeconvOfOnePixel: the same layer, faster.

    Attributes: `dense`, nn.Linear; `deconvs`, an nn.Module that maps (N, 32 * depth, 1, 1) to (N, channels, 64, 64).
    """

    def __init__(self, feat: int, channels: int = 3, depth: int = 32):
        super().__init__()
        ### BEGIN SOLUTION 2.2: four transposed convolutions
        self.dense = nn.Linear(feat, 32 * depth)
        self.deconvs = nn.Sequential(
            *(DeconvOfOnePixel(32 * depth, 4 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * depth, depth, 6, stride=2), nn.ReLU()),
            nn.ConvTranspose2d(depth, channels, 6, stride=2),
        )
        ### END SOLUTION

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch channels height width"]:
        mean = self.deconvs(self.dense(feat).reshape(-1, self.dense.out_features, 1, 1))
        return mean.reshape(*feat.shape[:-1], *mean.shape[1:])


class DenseHead(nn.Sequential):
    """`layers` hidden layers of `units` with ELU, and a linear output: (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, outputs: int, layers: int, units: int):
        widths = [inputs, *[units] * layers]
        hidden = [(nn.Linear(a, b), nn.ELU()) for a, b in pairwise(widths)]
        super().__init__(*(layer for pair in hidden for layer in pair), nn.Linear(widths[-1], outputs))


class ScalarHead(DenseHead):
    """A dense head with one output and no axis for it: (..., inputs) -> (...)."""

    def __init__(self, inputs: int, layers: int, units: int):
        super().__init__(inputs, 1, layers, units)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch"]:
        return super().forward(x).squeeze(-1)


def normal_nll(
    mean: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], event_dims: int
) -> Float[Tensor, "*batch"]:
    """Negative log likelihood of `target` under a Gaussian with this mean and variance 1.

    The log density of a pixel is a number, the log density of an image is the SUM over its pixels: the last
    `event_dims` axes are summed (3 for images, 0 for rewards), the others stay. Each element adds the constant
    log(2 pi) / 2 = 0.9189: 11,291.92 for a perfect image of 64x64x3.
    """
    ### BEGIN SOLUTION 2.3: the likelihood of an image, a reward, a value
    nll = 0.5 * (target - mean).square() + HALF_LOG_2PI
    return nll.flatten(nll.ndim - event_dims).sum(-1) if event_dims else nll
    ### END SOLUTION


def log_slope(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log of d tanh(u) / du, in a form that keeps its digits where tanh(u) is so near 1 that 1 - tanh(u)^2 is 0."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


class TanhNormal:
    """Continuous actions: a Gaussian in the space of u, and action = tanh(u) in [-1, 1].

    raw: the actor's output, [mean | std] along the last axis. mean = 5 tanh(raw / 5), so that tanh never saturates for
    good; std = softplus(raw + ln(e^5 - 1)) + 1e-4, which is 5 at raw = 0: the first actions lie all over [-1, 1].
    Attributes: mean, std (..., A), both of u.
    """

    INIT_STD, MIN_STD, MEAN_SCALE = 5.0, 1e-4, 5.0  # official models.py, ActionDecoder

    def __init__(self, raw: Float[Tensor, "*batch twice_action"]):
        mean, std = raw.chunk(2, -1)
        self.mean = self.MEAN_SCALE * torch.tanh(mean / self.MEAN_SCALE)
        self.std = F.softplus(std + math.log(math.expm1(self.INIT_STD))) + self.MIN_STD

    def rsample(self, shape: tuple[int, ...] = ()) -> Float[Tensor, "*more action"]:
        """Actions that gradient flows through, into mean and std."""
        return torch.tanh(self.mean + self.std * torch.randn(*shape, *self.mean.shape, device=self.mean.device))

    def log_prob(self, action: Float[Tensor, "*more action"]) -> Float[Tensor, "*summed"]:
        """Log density of actions in [-1, 1], summed over the last axis.

        The change of variables: log p(action) = log N(u; mean, std) - log |d tanh(u) / du|, with u = atanh(action).
        - of an action that is 1 in float32 atanh is infinite (7% of the first samples!): `clamp` it to +-0.99999994,
          the largest float32 below 1, as the official code does
        - `log_slope` gives log |d tanh(u) / du|
        """
        ### BEGIN SOLUTION 2.4: the density of a squashed Gaussian
        u = torch.atanh(action.clamp(-0.99999994, 0.99999994))
        normal = -0.5 * ((u - self.mean) / self.std).square() - self.std.log() - HALF_LOG_2PI
        return (normal - log_slope(u)).sum(-1)
        ### END SOLUTION

    def mode(self, samples: int = 100) -> Float[Tensor, "*batch action"]:
        """There is no formula: of 100 samples, for each element of the batch, the most likely."""
        action = self.rsample((samples,))
        best = self.log_prob(action).argmax(0, keepdim=True)
        return action.gather(0, best[..., None].expand(1, *action.shape[1:]))[0]

    def entropy(self, samples: int = 100) -> Float[Tensor, "*batch"]:
        """That of the Gaussian, and what tanh takes away: the mean over samples. -3.7 nats an action at std 5."""
        u = self.mean + self.std * torch.randn(samples, *self.mean.shape, device=self.mean.device)
        return (self.std.log() + HALF_LOG_2PI + 0.5 + log_slope(u).mean(0)).sum(-1)


class OneHot:
    """Discrete actions: one-hot samples, with the gradient of the probabilities (straight-through)."""

    def __init__(self, logits: Float[Tensor, "*batch action"]):
        self.logits = logits.log_softmax(-1)

    def rsample(self, shape: tuple[int, ...] = ()) -> Float[Tensor, "*more action"]:
        gumbel = -torch.empty(*shape, *self.logits.shape, device=self.logits.device).exponential_().log()
        sample = F.one_hot((self.logits + gumbel).argmax(-1), self.logits.shape[-1])
        probs = self.logits.exp()
        return sample + (probs - probs.detach())  # these two cancel exactly: the sample stays one-hot

    def log_prob(self, action: Float[Tensor, "*more action"]) -> Float[Tensor, "*summed"]:
        return (self.logits * action).sum(-1)

    def mode(self) -> Float[Tensor, "*batch action"]:
        return F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits)

    def entropy(self) -> Float[Tensor, "*batch"]:
        return -(self.logits * self.logits.exp()).sum(-1)


class Actor(nn.Module):
    """From feat to a distribution of actions: four hidden layers of 400 in the paper's code."""

    def __init__(self, feat: int, action_size: int, discrete: bool, layers: int = 4, units: int = 400):
        super().__init__()
        self.discrete = discrete
        self.layers = DenseHead(feat, action_size if discrete else 2 * action_size, layers, units)

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> TanhNormal | OneHot:
        raw = self.layers(feat)
        return OneHot(raw) if self.discrete else TanhNormal(raw)
