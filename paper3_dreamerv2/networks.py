"""The networks around the RSSM: encoder, decoder, dense heads, actor. Since DreamerV1: ELU everywhere, wider."""

from itertools import pairwise

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from paper3_dreamerv2.utils import HALF_LOG_2PI, OneHot, TruncatedNormal


def preprocess(image: UInt8[Tensor, "*batch height width channels"]) -> Float[Tensor, "*batch channels height width"]:
    """Bytes to [-0.5, 0.5], channels first: the one place where pixels are scaled."""
    return image.movedim(-1, -3).float() / 255 - 0.5


def to_image(mean: Float[Tensor, "*batch channels height width"]) -> UInt8[Tensor, "*batch height width channels"]:
    """The other way round, for eyes."""
    return ((mean + 0.5).clamp(0, 1) * 255).round().byte().movedim(-3, -1)


def initialize(network: nn.Module) -> nn.Module:
    """Keras' defaults: Glorot-uniform weights, zero biases; a norm's scale stays 1."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return network


class ConvEncoder(nn.Module):
    """Four strided convolutions: an image of 64x64 becomes 32 * depth numbers (official nets.py).

    Kernel 4, stride 2, no padding, ELU after every one; depth, 2 depth, 4 depth and 8 depth channels; flattened.
    1,549,776 parameters for grey frames at depth 48.
    """

    def __init__(self, channels: int = 1, depth: int = 48):
        super().__init__()
        self.size = 32 * depth
        widths = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
        layers = [(nn.Conv2d(a, b, 4, stride=2), nn.ELU()) for a, b in pairwise(widths)]
        self.convs = nn.Sequential(*(layer for pair in layers for layer in pair))

    def forward(self, image: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch embed"]:
        flat = self.convs(image.reshape(-1, *image.shape[-3:]))
        return flat.reshape(*image.shape[:-3], self.size)


class DeconvOfOnePixel(nn.ConvTranspose2d):
    """A transposed convolution whose input is a single pixel is a matrix product, and three times faster as one."""

    def forward(self, x: Float[Tensor, "batch channels 1 1"]) -> Float[Tensor, "batch out height width"]:
        y = x.flatten(1) @ self.weight.flatten(1)
        return y.view(len(x), self.out_channels, *self.kernel_size) + self.bias[:, None, None]


class ConvDecoder(nn.Module):
    """From feat back to an image of 64x64: the mean of a Gaussian with variance 1 (official nets.py)."""

    def __init__(self, feat: int, channels: int = 1, depth: int = 48):
        super().__init__()
        self.dense = nn.Linear(feat, 32 * depth)
        self.deconvs = nn.Sequential(
            *(DeconvOfOnePixel(32 * depth, 4 * depth, 5, stride=2), nn.ELU()),
            *(nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2), nn.ELU()),
            *(nn.ConvTranspose2d(2 * depth, depth, 6, stride=2), nn.ELU()),
            nn.ConvTranspose2d(depth, channels, 6, stride=2),
        )

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch channels height width"]:
        mean = self.deconvs(self.dense(feat).reshape(-1, self.dense.out_features, 1, 1))
        return mean.reshape(*feat.shape[:-1], *mean.shape[1:])


class DenseHead(nn.Sequential):
    """`layers` hidden layers of `units` with ELU, and a linear output: (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, outputs: int, layers: int, units: int):
        hidden = [(nn.Linear(a, b), nn.ELU()) for a, b in pairwise([inputs, *[units] * layers])]
        super().__init__(*(layer for pair in hidden for layer in pair), nn.Linear(units if layers else inputs, outputs))


class ScalarHead(DenseHead):
    """A dense head with one output and no axis for it: (..., inputs) -> (...)."""

    def __init__(self, inputs: int, layers: int, units: int):
        super().__init__(inputs, 1, layers, units)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch"]:
        return super().forward(x).squeeze(-1)


def normal_nll(
    mean: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], event_dims: int
) -> Float[Tensor, "*batch"]:
    """Negative log likelihood of `target` under a Gaussian with this mean and variance 1, summed over the last axes."""
    nll = 0.5 * (target - mean).square() + HALF_LOG_2PI
    return nll.flatten(nll.ndim - event_dims).sum(-1) if event_dims else nll


class Actor(nn.Module):
    """From feat to a distribution of actions: four hidden layers of 400."""

    def __init__(self, feat: int, action_size: int, discrete: bool, layers: int = 4, units: int = 400):
        super().__init__()
        self.discrete = discrete
        self.layers = DenseHead(feat, action_size if discrete else 2 * action_size, layers, units)

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> OneHot | TruncatedNormal:
        raw = self.layers(feat)
        return OneHot(raw) if self.discrete else TruncatedNormal(raw)
