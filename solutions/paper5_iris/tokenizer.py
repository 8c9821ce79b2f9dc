"""The tokenizer: a picture as a few words of a learned language, and back (paper, section 2.1)."""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError


def preprocess(image: UInt8[Tensor, "*batch height width channels"]) -> Float[Tensor, "*batch channels height width"]:
    """Bytes to [0, 1], channels first: the one place where pixels are scaled."""
    return image.movedim(-1, -3).float() / 255


def to_image(mean: Float[Tensor, "*batch channels height width"]) -> UInt8[Tensor, "*batch height width channels"]:
    """The other way round, for eyes."""
    return (mean.clamp(0, 1) * 255).round().byte().movedim(-3, -1)


# ---- layers ----


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // 2, channels, eps=1e-6)  # 32 groups of the paper's 64 channels


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResBlock(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))): 74,112 parameters at 64 channels.

    Attributes: norm1, conv1, norm2, conv2; skip, for x: a 1x1 convolution where the channels change, else nn.Identity.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), conv3(inputs, outputs)
        self.norm2, self.conv2 = norm(outputs), conv3(outputs, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs height width"]:
        ### BEGIN SOLUTION 5.1: a residual block
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(x) + h
        ### END SOLUTION


class AttnBlock(nn.Module):
    """x + proj(attention over all places of the picture): one head; 16,768 parameters at 64 channels.

    Attributes: norm; q, k, v, proj, convolutions of 1x1.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """Of norm(x) take q, k and v: every place looks at every place, with weights softmax(q . k / sqrt(channels))
        over the places looked at, and gets the weighted mean of their v; proj of that is added to x."""
        ### BEGIN SOLUTION 5.2: every place looks at every place
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + self.proj(seen)
        ### END SOLUTION


class Downsample(nn.Module):
    """Half the height and width: zeros are added on the right and below only, then a 3x3 convolution in steps of 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels half_h half_w"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the height and width: every pixel repeated, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels two_h two_w"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def middle(channels: int) -> nn.Sequential:
    return nn.Sequential(ResBlock(channels, channels), AttnBlock(channels), ResBlock(channels, channels))


class Encoder(nn.Sequential):
    """(batch, 3, 64, 64) in [-1, 1] to (batch, embed, 4, 4) in the paper: `levels` levels of two residual blocks, with
    attention at `attention` (heights), halved between them. 1,418,240 parameters."""

    def __init__(self, size: int, channels: int, levels: int, attention: tuple[int, ...], embed: int):
        layers: list[nn.Module] = [conv3(3, channels)]
        for level in range(levels):
            for _ in range(2):
                layers.append(ResBlock(channels, channels))
                if size >> level in attention:
                    layers.append(AttnBlock(channels))
            if level < levels - 1:
                layers.append(Downsample(channels))
        super().__init__(*layers, middle(channels), norm(channels), nn.SiLU(), conv3(channels, embed))


class Decoder(nn.Sequential):
    """The other way round, with three residual blocks on each level, and no activation at the end. 1,821,827."""

    def __init__(self, size: int, channels: int, levels: int, attention: tuple[int, ...], embed: int):
        layers: list[nn.Module] = [conv3(embed, channels), middle(channels)]
        for level in reversed(range(levels)):
            for _ in range(3):
                layers.append(ResBlock(channels, channels))
                if size >> level in attention:
                    layers.append(AttnBlock(channels))
            if level > 0:
                layers.append(Upsample(channels))
        super().__init__(*layers, norm(channels), nn.SiLU(), conv3(channels, 3))


# ---- the code ----


class Quantized(NamedTuple):
    tokens: Int[Tensor, "batch places"]
    """Row by row."""
    code: Float[Tensor, "batch embed height width"]
    """The codebook's vectors of the tokens: gradient into the codebook."""
    straight: Float[Tensor, "batch embed height width"]
    """The same numbers, with the gradient passed on to z (straight-through)."""


def quantize(z: Float[Tensor, "batch embed height width"], codebook: Float[Tensor, "codes embed"]) -> Quantized:
    """Every place's vector, replaced by the nearest one of the codebook (smallest squared distance).

    From `straight` the gradient reaches z as if nothing had been replaced, and the codebook not at all.
    """
    ### BEGIN SOLUTION 5.3: the nearest word
    vectors = z.permute(0, 2, 3, 1)
    flat = vectors.flatten(0, 2)
    distance = flat.square().sum(1, keepdim=True) + codebook.square().sum(1) - 2 * flat @ codebook.T
    tokens = distance.argmin(1)
    code = codebook[tokens].view(vectors.shape).permute(0, 3, 1, 2)
    straight = z + (code - z).detach()
    return Quantized(tokens.view(len(z), -1), code, straight)
    ### END SOLUTION


AT_ONCE = 256  # images: long episodes are looked at in parts, which are small beside a training batch's memory


class Tokenizer(nn.Module):
    """Encoder, codebook, decoder: 4,027,523 parameters in the paper's sizes."""

    def __init__(
        self, size: int, codes: int, embed: int, channels: int, levels: int, attention: tuple[int, ...], z: int
    ):
        super().__init__()
        self.side = size >> (levels - 1)
        self.tokens = self.side**2
        self.encoder = Encoder(size, channels, levels, attention, z)
        self.decoder = Decoder(size, channels, levels, attention, z)
        self.before, self.after = nn.Conv2d(z, embed, 1), nn.Conv2d(embed, z, 1)
        self.codebook = nn.Embedding(codes, embed)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)

    def encode(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Quantized]:
        """(z, its quantisation) of images in [0, 1]."""
        z = self.before(self.encoder(2 * image - 1))
        return z, quantize(z, self.codebook.weight)

    def decode(self, code: Float[Tensor, "batch embed h w"]) -> Float[Tensor, "batch 3 height width"]:
        """Images in [0, 1], not cut off at its ends."""
        return (self.decoder(self.after(code)) + 1) / 2

    @torch.no_grad()
    def to_tokens(self, image: Float[Tensor, "*batch 3 height width"]) -> Int[Tensor, "*batch places"]:
        parts = image.reshape(-1, *image.shape[-3:]).split(AT_ONCE)
        return torch.cat([self.encode(part)[1].tokens for part in parts]).reshape(*image.shape[:-3], self.tokens)

    @torch.no_grad()
    def to_image(self, tokens: Int[Tensor, "*batch places"]) -> Float[Tensor, "*batch 3 height width"]:
        """What the policy and the eye see of tokens: images in [0, 1]."""
        code = self.codebook(tokens.flatten(0, -2)).unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        images = torch.cat([self.decode(part).clamp(0, 1) for part in code.split(AT_ONCE)])
        return images.unflatten(0, tokens.shape[:-1])


def tokenizer_losses(
    image: Float[Tensor, "batch 3 height width"],
    reconstruction: Float[Tensor, "batch 3 height width"],
    z: Float[Tensor, "batch embed h w"],
    code: Float[Tensor, "batch embed h w"],
    beta: float = 1.0,
    squared: bool = False,
) -> dict[str, Float[Tensor, ""]]:
    """The losses of the tokenizer but the perceptual one (paper, section 2.1); all are MEANS over every number.

    - "recon": the absolute error of the images, both taken to [-1, 1]; with `squared`, the squared error there
    - "codebook": the squared distance of the code from z, moving the code alone
    - "commitment": beta times the same distance, moving z alone
    """
    ### BEGIN SOLUTION 5.4: the losses of the tokenizer
    error = 2 * (image - reconstruction)
    return {
        "recon": (error.square() if squared else error.abs()).mean(),
        "codebook": (code - z.detach()).square().mean(),
        "commitment": beta * (z - code.detach()).square().mean(),
    }
    ### END SOLUTION


def codebook_usage(tokens: Int[Tensor, "*batch"], codes: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(share of the `codes` that occur among the tokens, perplexity of how often each does).

    Perplexity is exp(entropy), in nats: how many codes, equally used, would be as varied. 1 is a collapsed codebook.
    """
    ### BEGIN SOLUTION 5.5: how many words are in use
    share = tokens.flatten().bincount(minlength=codes) / tokens.numel()
    return (share > 0).float().mean(), torch.special.entr(share).sum().exp()
    ### END SOLUTION


class LPIPS(nn.Module):
    """Perceptual distance (Zhang et al. 2018): how far the features of a VGG16 are apart, each stage weighted.

    weights: a file of torch.save with VGG16's `features.*` and the stages' `lin{0..4}.model.1.weight`, as torchvision
    and lpips have them. Raises UserError where it is missing or has something else in it.
    """

    CHANNELS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)
    STAGES = (64, 128, 256, 512, 512)

    def __init__(self, weights: str | Path):
        super().__init__()
        layers, inputs = [], 3
        for each in self.CHANNELS:
            if each == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(inputs, each, 3, padding=1), nn.ReLU()]
                inputs = each
        self.features = nn.Sequential(*layers)
        self.lin = nn.ParameterList([torch.zeros(channels) for channels in self.STAGES])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.load(weights)
        self.requires_grad_(False)

    def load(self, weights: str | Path) -> None:
        hint = "give VGG16's and LPIPS' weights with --lpips-weights FILE, or go without them: --perceptual none"
        try:
            saved = torch.load(weights, map_location="cpu", weights_only=True)
            self.features.load_state_dict(
                {key.removeprefix("features."): saved[key] for key in saved if "features." in key}
            )
            for i, lin in enumerate(self.lin):
                lin.data.copy_(saved[f"lin{i}.model.1.weight"].flatten())
        except Exception as error:
            raise UserError(f"cannot read the perceptual network from {weights}; {hint}") from error

    def forward(self, a: Float[Tensor, "batch 3 height width"], b: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """Mean distance of two batches of images in [0, 1]."""
        x = (torch.cat([2 * a - 1, 2 * b - 1]) - self.shift) / self.scale
        distance, stage = 0.0, 0
        for i, layer in enumerate(self.features):
            x = layer(x)
            last = i == len(self.features) - 1 or isinstance(self.features[i + 1], nn.MaxPool2d)
            if isinstance(layer, nn.ReLU) and last:
                one, two = F.normalize(x, dim=1, eps=1e-10).chunk(2)
                distance = distance + torch.einsum("bchw,c->bhw", (one - two).square(), self.lin[stage]).mean((1, 2))
                stage += 1
        return distance.mean()
