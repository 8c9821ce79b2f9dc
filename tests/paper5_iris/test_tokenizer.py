"""The tokenizer: layers, the code, losses. Exercises 5.1 to 5.5."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.errors import UserError
from paper5_iris import tokenizer
from paper5_iris.tokenizer import AttnBlock, ResBlock, Tokenizer
from tests.helpers import expect_close, golden, numbers

PAPER = (64, 512, 512, 64, 5, (8, 16), 512)  # size, codes, embed, channels, levels, attention, z
SMALL = (16, 11, 6, 4, 3, (8,), 5)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def official(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(value) for key, value in golden(name).items()}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def randomize(module: nn.Module, std: float = 0.5) -> nn.Module:
    """Weights so large that each of them matters, those of norms and biases, too; in float64."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module.double()


def check_gradients(actual: torch.Tensor, expected: torch.Tensor, leaves: dict[str, torch.Tensor]) -> None:
    """Two numbers that should be the same have the same gradient in all leaves."""
    expect_close(actual, expected, what="the number whose gradient is taken")
    assert actual.requires_grad, "no gradient flows at all"
    found = torch.autograd.grad(actual, list(leaves.values()), allow_unused=True)
    wanted = torch.autograd.grad(expected, list(leaves.values()), allow_unused=True, materialize_grads=True)
    for name, one, other in zip(leaves, found, wanted, strict=True):
        assert one is not None, f"no gradient reaches {name}: nothing is to be detached here"
        mistakes = {0.0: "no gradient: nothing is to be detached here"} if other.any() else {}
        expect_close(one, other, rtol=1e-6, atol=1e-8, mistakes=mistakes, what=f"gradient in {name}")


def gradients(loss: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    """Those of a sum in some leaves: zeros in the ones that it does not depend on."""
    assert loss.requires_grad, "no gradient flows at all"
    return torch.autograd.grad(loss.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True)


# ---- 5.1 ResBlock ----


def res_written_out(block: ResBlock, x: torch.Tensor, wrong: str = "") -> torch.Tensor:
    """Layer by layer; `wrong` names a mistake to make."""
    silu = lambda h: h.relu() if wrong == "relu" else h * h.sigmoid()
    h = x if wrong == "no norm1" else block.norm1(x)
    h = block.norm1(silu(x)) if wrong == "silu first" else h if wrong == "no first silu" else silu(h)
    h = block.conv1(h)
    h = h if wrong == "no norm2" else block.norm2(h)
    h = block.conv2(h if wrong == "no second silu" else silu(h))
    if wrong == "no x":
        return h
    if wrong == "silu last":
        return silu(block.skip(x) + h)
    return block.skip(block.norm1(x) if wrong == "norm skipped" else x) + h


RES_MISTAKES = {
    "relu": "the activation is SiLU: x * sigmoid(x)",
    "no norm1": "norm1 is missing",
    "no norm2": "norm2 is missing",
    "silu first": "norm1 comes first, the SiLU of it behind",
    "no first silu": "the SiLU behind norm1 is missing",
    "no second silu": "the SiLU behind norm2 is missing",
    "no x": "x is not added: it is a RESIDUAL block",
    "silu last": "there is no activation behind the sum",
    "norm skipped": "x itself is added, not its norm",
}


def one_pixel_each(block: nn.Module, **weights: float) -> None:
    """Convolutions that multiply every pixel by a number, channel by channel; no biases."""
    for name, weight in weights.items():
        conv = getattr(block, name)
        with torch.no_grad():
            middle = conv.kernel_size[0] // 2
            conv.weight.zero_(), conv.bias.zero_()
            conv.weight[:, :, middle, middle] = weight * torch.eye(len(conv.weight))


@pytest.mark.exercise(id="5.1")
def test_residual_block_by_hand():
    """Of a picture of two pixels, 1 and -1 in both channels: silu gives .7311 and -.2689, the norm 1 and -1 again, silu
    the same, conv2 twice that; and x."""
    block = ResBlock(2, 2)
    one_pixel_each(block, conv1=1.0, conv2=2.0)
    x = torch.tensor([1.0, -1.0]).expand(1, 2, 1, 2).clone()
    mistakes = {
        numbers(res_written_out(block, x, wrong)): RES_MISTAKES[wrong] for wrong in ("relu", "no x", "no norm2")
    }
    expected = torch.tensor([2.462117, -1.537883]).expand(1, 2, 1, 2)
    expect_close(block(x), expected, mistakes=mistakes, what="what comes out of the block")


@pytest.mark.exercise(id="5.1")
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 6), (6, 4)])
def test_residual_block_agrees_with_the_equation(inputs, outputs):
    """Three pictures of 5 x 2, as many channels as before, and fewer."""
    block, x = randomize(ResBlock(inputs, outputs)), torch.randn(3, inputs, 5, 2).double()
    before = x.clone()
    with torch.no_grad():
        found = block(x)
        assert torch.equal(x, before), "the caller's x is changed: x + h, not x += h"
        wrongs = [wrong for wrong in RES_MISTAKES if inputs == outputs or wrong != "norm skipped"]
        mistakes = {numbers(res_written_out(block, x, wrong)): RES_MISTAKES[wrong] for wrong in wrongs}
        expected = res_written_out(block, x)
        expect_close(found, expected, rtol=1e-9, atol=1e-10, mistakes=mistakes, what="what comes out of the block")
        alone = torch.cat([block(each[None]) for each in x])
        expect_close(alone, expected, rtol=1e-9, atol=1e-10, what="pictures one by one")


@pytest.mark.exercise(id="5.1")
def test_residual_block_that_has_learned_nothing_passes_x_on():
    """With conv2 at 0 the block is x itself, or the 1x1 convolution of it where the channels change."""
    for outputs in (6, 4):
        block, x = randomize(ResBlock(6, outputs)), torch.randn(2, 6, 3, 4).double()
        nn.init.zeros_(block.conv2.weight), nn.init.zeros_(block.conv2.bias)
        expected = x if outputs == 6 else F.conv2d(x, block.skip.weight, block.skip.bias)
        expect_close(block(x), expected, rtol=1e-9, mistakes={0.0: "x is not added"}, what="x, with conv2 at 0")


@pytest.mark.exercise(id="5.1")
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 6), (4, 8)])
def test_gradient_flows_through_the_residual_block(inputs, outputs):
    """Into x, on both ways, and every weight."""
    block = randomize(ResBlock(inputs, outputs))
    x, weight = torch.randn(2, inputs, 4, 3).double(), torch.randn(2, outputs, 4, 3).double()
    leaves = {"x": x.requires_grad_(), **dict(block.named_parameters())}
    check_gradients((block(x) * weight).sum(), (res_written_out(block, x) * weight).sum(), leaves)


def test_residual_block_has_the_papers_parameters():
    """Given: two norms and two convolutions, and a third one only where the channels change."""
    assert count(ResBlock(64, 64)) == 74_112
    assert count(ResBlock(64, 32)) == 64 * 2 + 32 * 2 + 32 * (64 * 9 + 1) + 32 * (32 * 9 + 1) + 32 * 65
    assert isinstance(ResBlock(64, 64).skip, nn.Identity)


# ---- 5.2 AttnBlock ----


def attention_written_out(block: AttnBlock, x: torch.Tensor, wrong: str = "") -> torch.Tensor:
    """Places in one row, exponentials and sums; `wrong` names a mistake to make."""
    batch, channels, height, width = x.shape
    h = x if wrong == "no norm" else block.norm(x)
    through = lambda layer, h: torch.einsum("oc,bcn->bon", layer.weight[:, :, 0, 0], h) + layer.bias[:, None]
    q, k, v = (through(layer, h.reshape(batch, channels, -1)) for layer in (block.q, block.k, block.v))
    if wrong == "v of x":
        v = x.reshape(batch, channels, -1)
    if wrong == "roles":
        q, k = k, q
    scale = {"no scale": 1, "by channels": channels, "by places": (height * width) ** 0.5}.get(wrong, channels**0.5)
    if wrong == "channels":
        weights = (torch.einsum("bcn,bdn->bcd", q, k) / scale).exp()
        seen = torch.einsum("bcd,bdn->bcn", weights / weights.sum(-1, keepdim=True), v)
    else:
        weights = (torch.einsum("bci,bcj->bij", q, k) / scale).exp()
        weights = weights.tril() if wrong == "causal" else weights
        weights = weights / weights.sum(1 if wrong == "axis" else 2, keepdim=True)
        seen = torch.einsum("bij,bcj->bci", weights, v)
    if wrong == "scrambled":
        seen = seen.mT
    seen = seen.reshape(batch, channels, height, width)
    if wrong == "turned":
        seen = seen.reshape(batch, channels, width, height).mT
    out = seen if wrong == "no proj" else through(block.proj, seen.reshape(batch, channels, -1)).reshape(x.shape)
    if wrong == "no x":
        return out
    return (block.norm(x) if wrong == "norm added" else x) + out


ATTENTION_MISTAKES = {
    "no norm": "q, k and v are taken of norm(x)",
    "v of x": "v is left out: what is looked at is v of norm(x)",
    "roles": "q and k are swapped: the place that LOOKS has q",
    "no scale": "the scores are not divided by sqrt(channels)",
    "by channels": "the scores are divided by channels: it is their square root",
    "by places": "the scores are divided by sqrt(places): it is sqrt(channels)",
    "channels": "channels look at channels: it is places that look at places",
    "causal": "nothing is hidden here: every place looks at every place",
    "axis": "the softmax is over the places that look: it is over those looked at",
    "scrambled": "channels and places are mixed up on the way back to a picture: move the channels first",
    "turned": "height and width are mixed up",
    "no proj": "proj is missing",
    "no x": "x is not added",
    "norm added": "x itself is added, not its norm",
}


@pytest.mark.exercise(id="5.2")
def test_attention_by_hand():
    """Four channels, and two places, all 1 and all -1: q . k = 4, / sqrt(4) = 2, and softmax(2, -2) of 1 and -1 is
    tanh(2) = .9640."""
    block = AttnBlock(4)
    one_pixel_each(block, q=1.0, k=1.0, v=1.0, proj=1.0)
    x = torch.tensor([1.0, -1.0]).expand(1, 4, 1, 2).clone()
    sign, expected = x.flatten(), 1.9640276 * x
    mistakes = {
        numbers(sign * (1 + math.tanh(4))): ATTENTION_MISTAKES["no scale"],
        numbers(sign * (1 + math.tanh(1))): ATTENTION_MISTAKES["by channels"],
        numbers(sign * (1 + math.tanh(4 / 2**0.5))): ATTENTION_MISTAKES["by places"],
        numbers(sign * math.tanh(2)): ATTENTION_MISTAKES["no x"],
    }
    expect_close(block(x), expected, mistakes=mistakes, what="what comes out of the block")


@pytest.mark.exercise(id="5.2")
@pytest.mark.parametrize(("channels", "height", "width"), [(6, 2, 4), (2, 5, 3), (8, 1, 3), (4, 2, 2)])
def test_attention_agrees_with_the_equation(channels, height, width):
    block, x = randomize(AttnBlock(channels)), torch.randn(3, channels, height, width).double()
    before = x.clone()
    with torch.no_grad():
        found = block(x)
        assert torch.equal(x, before), "the caller's x is changed: x + h, not x += h"
        mistakes = {
            numbers(attention_written_out(block, x, wrong)): text
            for wrong, text in ATTENTION_MISTAKES.items()
            if (wrong, channels) != ("by places", height * width)
        }
        expected = attention_written_out(block, x)
        mistakes = {value: text for value, text in mistakes.items() if not np.allclose(value, numbers(expected))}
        expect_close(found, expected, rtol=1e-8, atol=1e-9, mistakes=mistakes, what="what comes out of the block")
        alone = torch.cat([block(each[None]) for each in x])
        expect_close(alone, expected, rtol=1e-8, atol=1e-9, what="pictures one by one")


@pytest.mark.exercise(id="5.2")
def test_every_place_looks_at_every_place():
    """Change one place: all others move. And attention knows of no order: shuffled places come out shuffled."""
    block, x = randomize(AttnBlock(6)), torch.randn(1, 6, 3, 4).double()
    block.norm = nn.Identity()  # or each place would meet all others there
    found = block(x).flatten(2)
    for place in range(12):
        other = x.clone().flatten(2)
        other[..., place] += 1.0
        moved = (block(other.view_as(x)).flatten(2) - found).abs().amax((0, 1))
        assert (moved > 1e-9).all(), f"place {place} is not seen by {(moved <= 1e-9).nonzero().flatten().tolist()}"
    order = torch.randperm(12)
    shuffled = block(x.flatten(2)[..., order].view_as(x)).flatten(2)
    expect_close(shuffled, found[..., order], rtol=1e-8, atol=1e-9, what="the places, shuffled")


@pytest.mark.exercise(id="5.2")
def test_gradient_flows_through_the_attention():
    """Into x, on both ways, and every weight. (A number added to all of k moves no softmax.)"""
    block = randomize(AttnBlock(6))
    x, weight = torch.randn(2, 6, 2, 3).double().requires_grad_(), torch.randn(2, 6, 2, 3).double()
    leaves = {"x": x, **{name: each for name, each in block.named_parameters() if name != "k.bias"}}
    check_gradients((block(x) * weight).sum(), (attention_written_out(block, x) * weight).sum(), leaves)


def test_attention_has_the_papers_parameters():
    """Given: a norm, and four convolutions of 1x1."""
    assert count(AttnBlock(64)) == 16_768


# ---- given: layers ----


def test_norm_is_that_of_32_groups():
    """Of 64 channels two at a time; with eps 1e-6, which is what 1.001 and 0.999 differ by, squared."""
    layer, x = tokenizer.norm(64), 3 * torch.randn(2, 64, 3, 5) + 1
    groups = x.double().reshape(2, 32, -1)
    groups = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    expect_close(layer(x), groups.reshape(x.shape), what="the norm")
    x = torch.tensor([1.001, 0.999]).expand(1, 64, 1, 2)
    expected = torch.tensor([0.70711, -0.70711]).expand(1, 64, 1, 2)
    mistakes = {numbers(expected * 0.30151 / 0.70711): "eps is 1e-5"}
    expect_close(layer(x), expected, rtol=1e-3, mistakes=mistakes, what="the norm of 1.001 and 0.999")


def test_downsample_adds_zeros_on_the_right_and_below():
    """Sums of 3x3 of the numbers 0 to 15: those of the lower right corner are 10 + 11 + 14 + 15."""
    layer = tokenizer.Downsample(1)
    with torch.no_grad():
        layer.conv.weight.fill_(1.0), layer.conv.bias.zero_()
    x = torch.arange(16.0).view(1, 1, 4, 4)
    mistakes = {(10, 24, 51, 90): "zeros are added on all four sides: on the right and below only"}
    expect_close(layer(x), [[[[45, 39], [66, 50]]]], mistakes=mistakes, what="half the picture")
    assert count(tokenizer.Downsample(64)) == 36_928
    assert tokenizer.Downsample(2)(torch.randn(3, 2, 8, 12)).shape == (3, 2, 4, 6)


def test_upsample_repeats_every_pixel():
    layer, x = tokenizer.Upsample(3), torch.randn(2, 3, 2, 5)
    doubled = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    expected = F.conv2d(doubled, layer.conv.weight, layer.conv.bias, padding=1)
    expect_close(layer(x), expected, what="twice the picture")
    assert count(tokenizer.Upsample(64)) == 36_928


def heights(network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, list[int]]]:
    """What a network makes of x, and the heights of the pictures that its blocks see, in order."""
    seen = {"ResBlock": [], "AttnBlock": []}
    for module in network.modules():
        kind = type(module).__name__
        if kind in seen:
            module.register_forward_pre_hook(lambda _, inputs, kind=kind: seen[kind].append(inputs[0].shape[-2]))
    with torch.no_grad():
        return network(x), seen


def test_encoder_is_the_papers():
    """Two residual blocks on each level, attention behind each at 16 and 8 and between the last two."""
    with torch.device("meta"):
        assert count(tokenizer.Encoder(64, 64, 5, (8, 16), 512)) == 1_418_240
    found, seen = heights(tokenizer.Encoder(64, 8, 5, (8, 16), 12), torch.randn(2, 3, 64, 64))
    mistakes = "four convolutions of 4x4 without padding give 2x2"
    assert found.shape == (2, 12, 4, 4), f"z is {tuple(found.shape)}: 64 is halved four times ({mistakes})"
    assert seen == {"ResBlock": [64, 64, 32, 32, 16, 16, 8, 8, 4, 4, 4, 4], "AttnBlock": [16, 16, 8, 8, 4]}


def test_decoder_is_the_papers():
    """Three residual blocks on each level; its last layer is a convolution, with no activation behind it."""
    with torch.device("meta"):
        assert count(tokenizer.Decoder(64, 64, 5, (8, 16), 512)) == 1_821_827
    decoder = tokenizer.Decoder(64, 8, 5, (8, 16), 12)
    found, seen = heights(decoder, torch.randn(2, 12, 4, 4))
    assert found.shape == (2, 3, 64, 64)
    levels = [height for height in (4, 8, 16, 32, 64) for _ in range(3)]
    assert seen == {"ResBlock": [4, 4, *levels], "AttnBlock": [4, 8, 8, 8, 16, 16, 16]}
    with torch.no_grad():
        decoder[-1].bias.fill_(7.0)
        assert decoder(torch.randn(1, 12, 4, 4)).mean() > 6, "there is an activation at the end"


# ---- 5.3 quantize ----


def as_picture(vectors: list[list[float]]) -> torch.Tensor:
    """Vectors beside each other: a picture (1, numbers, 1, vectors)."""
    return torch.tensor(vectors).T[None, :, None]


@pytest.mark.exercise(id="5.3")
def test_nearest_code_by_hand():
    """(.6, .1) is nearest to (1, 0), (.1, 1.2) to (0, 2); the long (3, .5) points more like the first one."""
    codebook = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.5]])
    z = as_picture([[0.6, 0.1], [0.1, 1.2]])
    found = tokenizer.quantize(z, codebook)
    mistakes = {
        (3, 2): "the greatest product is taken, not the smallest distance: |z|^2 - 2 z . e + |e|^2",
        (3, 3): "the code farthest away is taken",
        (0, 0): "the smallest product is taken, not the smallest distance",
    }
    expect_close(found.tokens, [[1, 2]], mistakes=mistakes, what="tokens")
    expect_close(found.code, as_picture([[1.0, 0.0], [0.0, 2.0]]), what="code")
    expect_close(found.straight, as_picture([[1.0, 0.0], [0.0, 2.0]]), what="the straight-through code")


@pytest.mark.exercise(id="5.3")
def test_quantize_changes_nothing():
    """Neither z nor the codebook, and pictures do not mix. In float64 it is float64."""
    z, codebook = torch.randn(3, 4, 2, 5, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    before = z.clone(), codebook.clone()
    found = tokenizer.quantize(z, codebook)
    assert torch.equal(z, before[0]), "the caller's z is changed"
    assert torch.equal(codebook, before[1]), "the codebook is changed: it learns by its gradient"
    assert found.code.dtype == found.straight.dtype == torch.float64
    for i in range(3):
        alone = tokenizer.quantize(z[i : i + 1], codebook)
        for name in ("tokens", "code", "straight"):
            expect_close(getattr(alone, name), getattr(found, name)[i : i + 1], what=f"{name} of picture {i} alone")


@pytest.mark.exercise(id="5.3")
def test_distance_is_the_squared_one():
    """From (0, 0, 0), (1, 1, 0) is nearer than (1.5, 0, 0) and (.9, .9, .9): not by the sum of the differences, and
    not by the greatest of them."""
    codebook = torch.tensor([[1.5, 0.0, 0.0], [0.9, 0.9, 0.9], [1.0, -1.0, 0.0]])
    mistakes = {0: "the absolute differences are added, not the squared ones", 1: "the greatest difference is taken"}
    found = tokenizer.quantize(torch.zeros(1, 3, 1, 1), codebook)
    expect_close(found.tokens, [[2]], mistakes=mistakes, what="the token")


@pytest.mark.exercise(id="5.3")
def test_tokens_are_in_rows():
    """Two pictures of 2 x 3 places, whose vectors are words 0, 1, 2, ...: in the order in which one reads."""
    codebook = torch.randn(13, 4)
    words = torch.arange(12).view(2, 2, 3)
    z = codebook[words].permute(0, 3, 1, 2)
    found = tokenizer.quantize(z, codebook)
    flat = z.reshape(-1, 4)  # the channels not moved to the end
    mistakes = {
        numbers(words.mT.reshape(2, 6)): "they are column by column: row by row is wanted",
        numbers(torch.cdist(flat, codebook).argmin(1)): "the channels have to be moved behind height and width first",
    }
    expect_close(found.tokens, words.view(2, 6), mistakes=mistakes, what="tokens")
    for name in ("code", "straight"):
        mistakes = {
            numbers(codebook[words]): "the channels have to be moved back",
            numbers(codebook[words].permute(0, 3, 2, 1)): "height and width are swapped",
        }
        expect_close(getattr(found, name), z, mistakes=mistakes, what=name)


@pytest.mark.exercise(id="5.3")
@pytest.mark.parametrize(("codes", "width"), [(64, 1.0), (32, 1 / 512), (7, 20.0), (1, 1.0)])
def test_nearest_codes_of_a_thousand_vectors(codes, width):
    """Against all distances, written out; with codes as long as the vectors, as short as in the beginning, and longer.
    Where two codes are as good as equally near either may be it."""
    z, codebook = torch.randn(10, 8, 4, 25), width * (2 * torch.rand(codes, 8) - 1)
    found = tokenizer.quantize(z, codebook)
    vectors = z.movedim(1, -1).reshape(-1, 8).double()
    distance = (vectors[:, None] - codebook.double()).square().sum(-1)
    nearest = distance.sort(1)
    clear = torch.ones(1000, dtype=torch.bool)
    if codes > 1:
        clear = nearest.values[:, 1] - nearest.values[:, 0] > 1e-4
    assert clear.sum() > 900, "the test's own vectors are no good"
    product, expected = vectors @ codebook.double().T, nearest.indices[:, 0]
    mistakes = {
        numbers(product.argmax(1)[clear]): "the greatest product is taken, not the smallest distance",
        numbers(distance.argmax(1)[clear]): "the code farthest away is taken",
        numbers((vectors[:, None] - codebook).abs().sum(-1).argmin(1)[clear]): "the SQUARED distance counts",
    }
    mistakes = {} if codes == 1 else mistakes
    expect_close(found.tokens.flatten()[clear], expected[clear], atol=0, mistakes=mistakes, what="tokens")
    expect_close(found.code, codebook[found.tokens].view(10, 4, 25, 8).permute(0, 3, 1, 2), what="the tokens' codes")
    expect_close(found.straight, found.code, atol=1e-5 * max(1, width), what="the numbers of straight")


@pytest.mark.exercise(id="5.3")
def test_of_codes_equally_near_one_is_taken():
    codebook = torch.tensor([[5.0, 5.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    found = tokenizer.quantize(as_picture([[0.0, 0.5], [1.0, 0.0]]), codebook)
    first, second = found.tokens.flatten().tolist()
    assert first in (1, 2, 3)
    assert second in (1, 3)
    expect_close(found.code, as_picture(codebook[[first, second]].tolist()), what="the code, which is the token's")


@pytest.mark.exercise(id="5.3")
def test_straight_through_by_hand():
    """z = (.6, .1) becomes (1, 0); the gradient (3, 5) goes on to z as it is, and not into the codebook."""
    z = as_picture([[0.6, 0.1]]).requires_grad_()
    codebook = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    straight = tokenizer.quantize(z, codebook).straight
    assert straight.requires_grad, "no gradient flows through the straight-through code: z + (code - z).detach()"
    expect_close(straight, as_picture([[1.0, 0.0]]), mistakes={(0.6, 0.1): "this is z itself"}, what="straight")
    in_z, in_codebook = gradients(straight * as_picture([[3.0, 5.0]]), z, codebook)
    mistakes = {
        0.0: "no gradient reaches z: z + (code - z).detach()",
        (6, 10): "the gradient reaches z twice",
        (-3, -5): "the sign of the gradient",
    }
    expect_close(in_z, as_picture([[3.0, 5.0]]), mistakes=mistakes, what="gradient in z")
    expect_close(in_codebook, np.zeros((2, 2)), what="gradient of straight in the codebook, which learns from `code`")


@pytest.mark.exercise(id="5.3")
def test_gradient_of_the_code_goes_into_the_codebook():
    """Into the rows that are used, as often as they are; none into z."""
    z, codebook = torch.randn(3, 4, 2, 5, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    found, weight = tokenizer.quantize(z, codebook), torch.randn(3, 4, 2, 5)
    assert found.code.requires_grad, "the code is detached: the codebook learns from it"
    in_z, in_codebook = gradients(found.code * weight, z, codebook)
    expect_close(in_z, np.zeros(z.shape), what="gradient of the code in z, which learns from `straight`")
    expected = np.zeros((6, 4))
    np.add.at(expected, found.tokens.flatten().numpy(), weight.permute(0, 2, 3, 1).reshape(-1, 4).numpy())
    expect_close(in_codebook, expected, mistakes={0.0: "no gradient"}, what="gradient of the code in the codebook")
    in_z, in_codebook = gradients(found.straight * weight, z, codebook)
    expect_close(in_z, weight, mistakes={0.0: "no gradient"}, what="gradient of straight in z")
    expect_close(in_codebook, np.zeros((6, 4)), what="gradient of straight in the codebook")


@pytest.mark.exercise(id="5.3")
def test_code_agrees_with_the_official_one():
    """Tokens, codes, and the straight-through gradients of the layer in front and of the codebook."""
    g = official("iris_vq")
    before = g["param.pre_quant_conv.weight"].requires_grad_()
    z = F.conv2d(2 * g["image"][:, 0] - 1, before, g["param.pre_quant_conv.bias"])
    expect_close(z, g["z"], what="z")
    codebook = g["param.embedding.weight"].requires_grad_()
    found = tokenizer.quantize(z, codebook)
    mistakes = {numbers(g["tokens"].view(3, 2, 2).mT): "they are column by column"}
    expect_close(found.tokens, g["tokens"], mistakes=mistakes, what="tokens")
    expect_close(found.code, g["z_q"], what="code")
    rec = F.conv2d(found.straight, g["param.post_quant_conv.weight"], g["param.post_quant_conv.bias"])
    expect_close(rec, g["rec"], what="the picture")
    in_before, in_codebook = gradients(rec * g["upstream"], before, codebook)
    expect_close(in_before, g["st_grad_prequant"], mistakes={0.0: "no gradient"}, what="gradient in front of the code")
    expect_close(in_codebook, g["st_grad_codebook"], what="gradient in the codebook")


# ---- 5.4 tokenizer_losses ----

Z, CODE = [[0.6, 0.1], [0.1, 1.2]], [[1.0, 0.0], [0.0, 2.0]]


def blank(*lead: int) -> torch.Tensor:
    return torch.zeros(*lead, 3, 2, 2)


@pytest.mark.exercise(id="5.4")
@pytest.mark.parametrize(("beta", "commitment"), [(None, 0.205), (1.0, 0.205), (0.25, 0.05125), (0.0, 0.0)])
def test_losses_of_the_code_by_hand(beta, commitment):
    """(.16 + .01 + .01 + .64) / 4 each, .41 together; with the usual beta of .25 it is .25625."""
    options = {} if beta is None else {"beta": beta}
    losses = tokenizer.tokenizer_losses(blank(1), blank(1), as_picture(Z), as_picture(CODE), **options)
    mistakes = {
        0.82: "it is the SUM of all: the mean over every number is wanted",
        0.41: "each place's numbers are added: the mean over every number is wanted",
        0.25: "it is the absolute distance: the squared one is wanted",
    }
    codebook = mistakes | {0.05125: "beta belongs to the commitment alone", 0.1025: "there is no 1/2"}
    expect_close(losses["codebook"], 0.205, mistakes=codebook, what="codebook")
    if commitment == 0.05125:
        mistakes = {0.205: "beta is not used", 0.8: "beta is to be multiplied with"}
    elif beta is None:
        mistakes |= {0.05125: "the default of beta is 1 here, not .25", 0.1025: "there is no 1/2"}
    expect_close(losses["commitment"], commitment, mistakes=mistakes, what="commitment")
    expect_close(losses["recon"], 0.0, what="recon of a perfect picture")
    assert set(losses) == {"recon", "codebook", "commitment"}


@pytest.mark.exercise(id="5.4")
@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_codebook_moves_the_code_and_commitment_moves_z(beta):
    """Both have the same value: only their gradients tell them apart, and beta is in z's alone."""
    z, code = as_picture(Z).requires_grad_(), as_picture(CODE).requires_grad_()
    losses = tokenizer.tokenizer_losses(blank(1), blank(1), z, code, beta)
    expected = as_picture([[-0.2, 0.05], [0.05, -0.4]])
    for name, moved, scale in (("codebook", "code", -1.0), ("commitment", "z", beta)):
        found = dict(zip(("z", "code"), gradients(losses[name], z, code), strict=True))
        still = {"z": "code", "code": "z"}[moved]
        text = f"it is to move {moved} alone: the other one is detached"
        mistakes = {numbers(-found[moved]): text} if found[moved].any() else {}
        expect_close(found[still], np.zeros((1, 2, 1, 2)), mistakes=mistakes, what=f"gradient of {name!r} in {still}")
        mistakes = {0.0: f"{moved} is detached: it is what this loss moves"} | {
            numbers(expected * scale * factor): "beta belongs to the commitment, which moves z" for factor in (0.25, 4)
        }
        expect_close(found[moved], expected * scale, mistakes=mistakes, what=f"gradient of {name!r} in {moved}")


@pytest.mark.exercise(id="5.4")
@pytest.mark.parametrize("squared", [None, False, True])
def test_error_of_the_picture_by_hand(squared):
    """Half of the pixels are off by .25 of [0, 1], which is .5 of [-1, 1]."""
    image, reconstruction = blank(2) + 0.5, blank(2) + 0.5
    reconstruction[1] += 0.25
    z, code = torch.zeros(2, 5, 1, 1), torch.ones(2, 5, 1, 1)
    options = {} if squared is None else {"squared": squared}
    losses = tokenizer.tokenizer_losses(image, reconstruction, z, code, **options)
    expected = 0.125 if squared else 0.25
    mistakes = {
        0.03125: "both are to be taken to [-1, 1], where the error is twice as great, and its square four times",
        0.0625: "both are to be taken to [-1, 1] BEFORE the error is squared",
        24 * expected: "it is a sum: the mean over every number is wanted",
        12 * expected: "each picture's numbers are added: the mean over every number is wanted",
    }
    if squared:
        mistakes[0.25] = "`squared` asks for the squared error, and for no root of it"
    else:
        mistakes[0.125] = "the error is the absolute one, of images that are both taken to [-1, 1]"
    expect_close(losses["recon"], expected, mistakes=mistakes, what=f"recon, squared={squared}")


@pytest.mark.exercise(id="5.4")
def test_reconstruction_is_not_cut_off():
    """A decoder's 1.5 is off by 1 of [-1, 1], and is told so by a gradient."""
    reconstruction = (blank(1) + 1.5).requires_grad_()
    losses = tokenizer.tokenizer_losses(blank(1) + 1, reconstruction, as_picture(Z), as_picture(CODE))
    mistakes = {0.0: "the reconstruction is cut off at 1: what is beyond would never learn", 0.5: "in [-1, 1]"}
    expect_close(losses["recon"], 1.0, mistakes=mistakes, what="recon")
    (found,) = gradients(losses["recon"], reconstruction)
    expect_close(found, 2 / 12, what="gradient in the reconstruction")


@pytest.mark.exercise(id="5.4")
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_losses_agree_with_the_equations(squared, beta):
    """Three pictures of 3x4x5, codes of 7 numbers at 2x3 places; no tensor is changed; each loss by itself."""
    image, reconstruction = torch.rand(3, 3, 4, 5).double(), torch.randn(3, 3, 4, 5).double()
    z, code = torch.randn(3, 7, 2, 3).double(), torch.randn(3, 7, 2, 3).double()
    inputs = (image, reconstruction, z, code)
    before = [each.clone() for each in inputs]
    losses = tokenizer.tokenizer_losses(*inputs, beta=beta, squared=squared)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True)), "the caller's tensors are changed"
    image, reconstruction, z, code = (each.numpy() for each in inputs)
    error, distance = (2 * image - 1) - (2 * reconstruction - 1), z - code
    expected = {
        "recon": (error**2 if squared else abs(error)).sum() / 180,
        "codebook": (distance**2).sum() / 126,
        "commitment": beta * (distance**2).sum() / 126,
    }
    assert set(losses) == set(expected)
    for name, loss in losses.items():
        assert loss.shape == (), f"{name} is one number"
        mistakes = {
            expected[name] * factor: "a MEAN over every number is wanted" for factor in (180, 126, 60, 42, 7, 6)
        }
        expect_close(loss, expected[name], rtol=1e-9, mistakes=mistakes, what=name)


@pytest.mark.exercise(id="5.4")
@pytest.mark.parametrize("squared", [False, True])
def test_each_loss_shapes_what_it_should(squared):
    """The error of the picture moves the reconstruction, away from neither z nor code: these learn from it by way of
    the decoder."""
    image, reconstruction = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4, requires_grad=True)
    z, code = (torch.randn(2, 5, 2, 2, requires_grad=True) for _ in range(2))
    losses = tokenizer.tokenizer_losses(image, reconstruction, z, code, 0.5, squared)
    leaves = (reconstruction, z, code)
    moved = {name: [bool(each.any()) for each in gradients(loss, *leaves)] for name, loss in losses.items()}
    assert moved == {
        "recon": [True, False, False],
        "codebook": [False, False, True],
        "commitment": [False, True, False],
    }, f"what the losses move of (reconstruction, z, code): {moved}"
    (found,) = gradients(losses["recon"], reconstruction)
    error = reconstruction - image
    expected = 8 * error / 96 if squared else 2 * error.sign() / 96
    expect_close(found, expected, what="gradient of recon in the reconstruction")


@pytest.mark.exercise(id="5.4")
def test_losses_and_their_gradients_agree_with_the_official_code():
    """Its stand-in for the perceptual loss is the squared error; it adds all of them up."""
    g = official("iris_vq")
    image = g["image"][:, 0]
    weights = {key.removeprefix("param."): value.requires_grad_() for key, value in g.items() if "param." in key}
    z = F.conv2d(2 * image - 1, weights["pre_quant_conv.weight"], weights["pre_quant_conv.bias"])
    code = weights["embedding.weight"][g["tokens"]].unflatten(1, (2, 2)).permute(0, 3, 1, 2)
    straight = z + (code - z).detach()
    rec = F.conv2d(straight, weights["post_quant_conv.weight"], weights["post_quant_conv.bias"])
    losses = tokenizer.tokenizer_losses(image, (rec + 1) / 2, z, code)
    mistakes = {g["reconstruction_loss"].item() / 2: "both are to be taken to [-1, 1]"}
    expect_close(losses["recon"], g["reconstruction_loss"], mistakes=mistakes, what="recon")
    expect_close(losses["codebook"], g["codebook_term"], what="codebook")
    expect_close(losses["commitment"], g["commit_term"], what="commitment")
    expect_close(losses["codebook"] + losses["commitment"], g["commitment_loss"], what="both")
    squared = tokenizer.tokenizer_losses(image, (rec + 1) / 2, z, code, squared=True)["recon"]
    expect_close(squared, g["perceptual_loss"], what="the squared error")
    total = sum(losses.values()) + squared
    expect_close(total, g["loss_total"], what="the sum")
    for name, found in zip(weights, gradients(total, *weights.values()), strict=True):
        expect_close(found, g[f"grad.{name}"], what=f"gradient in the official {name}")


# ---- 5.5 codebook_usage ----


@pytest.mark.exercise(id="5.5")
@pytest.mark.parametrize(
    ("tokens", "codes", "share", "perplexity"),
    [
        (list(range(0, 512, 32)) * 3, 512, 0.03125, 16.0),
        ([7] * 20, 512, 1 / 512, 1.0),
        ([0, 1, 2, 3], 4, 1.0, 4.0),
        ([3, 3, 1, 0], 4, 0.75, 2**1.5),
        ([4], 5, 0.2, 1.0),
        ([2, 2, 2, 0], 8, 0.25, 4 / 3**0.75),
    ],
)
def test_usage_by_hand(tokens, codes, share, perplexity):
    """16 codes of 512, equally often: 1/32 of them, and a perplexity of 16. One of them alone: 1, and no 0 ln 0."""
    found = tokenizer.codebook_usage(torch.tensor(tokens), codes)
    used = len(set(tokens))
    nats = math.log(perplexity)
    mistakes = {
        math.nan: "0 * ln 0 is 0 here: codes that do not occur add nothing",
        used: "this is how MANY occur, or the perplexity, which comes second: their share of all codes is wanted",
        used / len(tokens): "it is divided by the number of tokens: by that of the codes",
    }
    expect_close(found[0], share, mistakes={k: v for k, v in mistakes.items() if k != share}, what="share in use")
    mistakes = {
        math.nan: "0 * ln 0 is 0 here: codes that do not occur add nothing",
        nats: "it is the entropy: exp of it is wanted",
        2**nats: "the entropy is in nats: exp of it, not 2 to it",
        math.exp(nats / math.log(2)): "the entropy is in bits: in nats it is to be",
        1 / perplexity: "the sign of the entropy",
    }
    mistakes = {k: v for k, v in mistakes.items() if k != perplexity}
    expect_close(found[1], perplexity, mistakes=mistakes, what="perplexity")


@pytest.mark.exercise(id="5.5")
@pytest.mark.parametrize("shape", [(200,), (7, 16), (2, 3, 16), (5, 1)])
def test_usage_agrees_with_the_equation(shape):
    """Tokens of any shape, all of them counted together; some codes often, some not at all, the last one never."""
    tokens = torch.randint(0, 20, shape) * torch.randint(0, 3, shape)
    before = tokens.clone()
    used, perplexity = tokenizer.codebook_usage(tokens, 50)
    assert torch.equal(tokens, before), "the caller's tokens are changed"
    assert used.shape == perplexity.shape == (), "both are one number"
    counts = np.unique(tokens.numpy(), return_counts=True)[1]
    share = counts / counts.sum()
    mistakes = {len(counts) / (int(tokens.max()) + 1): "codes beyond the greatest token count, too: `codes` of them"}
    expect_close(used, len(counts) / 50, mistakes=mistakes, what="share in use")
    expected = np.exp(-(share * np.log(share)).sum())
    mistakes = {math.nan: "0 * ln 0 is 0 here: codes that do not occur add nothing"}
    expect_close(perplexity, expected, mistakes=mistakes, what="perplexity")


@pytest.mark.exercise(id="5.5")
def test_usage_of_many_tokens():
    """2,048 frames, of all 512 codes: 1 and nearly 512, never more."""
    tokens = torch.arange(512).repeat(64).view(-1, 16)
    used, perplexity = tokenizer.codebook_usage(tokens, 512)
    expect_close(used, 1.0, what="share in use")
    expect_close(perplexity, 512.0, mistakes={512 / 2**0.5: "float32 is enough for shares"}, what="perplexity")
    rare = torch.cat([tokens.flatten() * 0, torch.tensor([511])])
    used, perplexity = tokenizer.codebook_usage(rare, 512)
    expect_close(used, 2 / 512, mistakes={1 / 512: "a code that occurs once is in use"}, what="share in use")
    p = 1 / len(rare)
    expected = math.exp(-p * math.log(p) - (1 - p) * math.log1p(-p))
    expect_close(perplexity, expected, rtol=1e-5, what="perplexity of a codebook that has as good as collapsed")


# ---- given: Tokenizer ----


@pytest.fixture(scope="module")
def paper() -> Tokenizer:
    torch.manual_seed(1)
    return Tokenizer(*PAPER)


def test_tokenizer_is_the_papers(paper):
    """64 x 64 pixels become 16 tokens of 512, through a z of 512 x 4 x 4."""
    assert count(paper) == 4_027_523
    assert count(paper.before) == count(paper.after) == 262_656
    assert paper.codebook.weight.shape == (512, 512)
    assert (paper.side, paper.tokens) == (4, 16)
    bound = paper.codebook.weight.abs().max()
    assert 0.999 / 512 < bound <= 1 / 512, f"codes begin between -1/512 and 1/512, not {bound}"
    expect_close(paper.codebook.weight.std() * 512, 3**-0.5, rtol=0.01, what="512 times their std")
    assert not list(paper.buffers()), "the codebook learns by its gradient: there is no moving average"
    with torch.no_grad():
        z, quantized = paper.encode(torch.rand(2, 3, 64, 64))
    assert z.shape == (2, 512, 4, 4)
    assert quantized.tokens.shape == (2, 16)
    assert quantized.tokens.min() >= 0
    assert quantized.tokens.max() < 512
    images = paper.to_image(quantized.tokens)
    assert images.shape == (2, 3, 64, 64)
    assert not images.requires_grad


def make_tokenizer() -> Tokenizer:
    """A small one with codes of all directions, so that tokens differ, and pictures that go beyond [0, 1]."""
    model = Tokenizer(*SMALL)
    nn.init.normal_(model.codebook.weight, std=0.3)
    nn.init.normal_(model.before.weight)
    nn.init.normal_(model.decoder[-1].weight, std=0.5)
    return model


def test_images_are_taken_to_minus_one_and_one():
    model, image = make_tokenizer(), torch.rand(2, 3, 16, 16)
    z, quantized = model.encode(image)
    expected = model.before(model.encoder(2 * image - 1))
    expect_close(z, expected, mistakes={numbers(model.before(model.encoder(image))): "2x - 1 is missing"}, what="z")
    assert torch.equal(quantized.tokens, tokenizer.quantize(z, model.codebook.weight).tokens)
    decoded = model.decode(quantized.straight)
    expect_close(decoded, (model.decoder(model.after(quantized.straight)) + 1) / 2, what="the picture")
    assert decoded.min() < 0
    assert decoded.max() > 1


def test_long_episodes_are_looked_at_in_parts(monkeypatch):
    """Seven frames, three at a time: the same tokens and the same images as all at once."""
    model, image = randomize(Tokenizer(*SMALL)), torch.rand(7, 1, 3, 16, 16, dtype=torch.float64)
    whole = model.to_tokens(image)
    drawn = model.to_image(whole)
    monkeypatch.setattr(tokenizer, "AT_ONCE", 3)
    assert torch.equal(model.to_tokens(image), whole)
    expect_close(model.to_image(whole), drawn, what="images")


def test_tokens_become_images_again():
    """Row by row, cut off at 0 and 1; of any number of dimensions; without gradient."""
    model, image = make_tokenizer(), torch.rand(2, 3, 3, 16, 16)
    tokens = model.to_tokens(image)
    assert tokens.shape == (2, 3, 16)
    assert len(tokens.unique()) > 2
    with torch.no_grad():
        quantized = model.encode(image.flatten(0, 1))[1]
        expected = model.decode(quantized.code).clamp(0, 1)
    assert torch.equal(tokens.flatten(0, 1), quantized.tokens)
    found = model.to_image(tokens)
    assert found.shape == image.shape
    assert not found.requires_grad
    expect_close(found.flatten(0, 1), expected, atol=1e-4, what="the pictures of the tokens")
    assert (found == 0).any()
    assert (found == 1).any()


def test_codebook_learns_by_its_gradient():
    """From all losses: codes that occur have a gradient, others none; the picture's error goes straight into the
    encoder and leaves the codebook alone; a forward pass changes no code."""
    model, image = make_tokenizer(), torch.rand(4, 3, 16, 16)
    before = model.codebook.weight.detach().clone()
    z, quantized = model.encode(image)
    losses = tokenizer.tokenizer_losses(image, model.decode(quantized.straight), z, quantized.code)
    assert torch.equal(model.codebook.weight, before)
    (found,) = gradients(sum(losses.values()), model.codebook.weight)
    assert found.any(1).nonzero().flatten().tolist() == quantized.tokens.unique().tolist()
    first = model.encoder[0].weight
    moved = {
        name: [bool(each.any()) for each in gradients(losses[name], model.codebook.weight, first)] for name in losses
    }
    assert moved == {"recon": [False, True], "codebook": [True, False], "commitment": [False, True]}


def test_bytes_become_numbers_and_bytes_again():
    image = torch.arange(24, dtype=torch.uint8).mul(11).view(2, 1, 4, 3)
    found = tokenizer.preprocess(image)
    assert found.shape == (2, 3, 1, 4)
    expect_close(found[1, 2, 0, 3], 253 / 255, what="the last number")
    assert torch.equal(tokenizer.to_image(found), image)
    mean = torch.tensor([-0.1, 0.5, 1.2]).view(3, 1, 1)
    assert tokenizer.to_image(mean).tolist() == [[[0, 128, 255]]]


# ---- given: LPIPS ----

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # the convolutions of VGG16's features


class Narrow(tokenizer.LPIPS):
    """VGG16 with channels enough for a test."""

    CHANNELS = tuple(each if each == "pool" else each // 16 for each in tokenizer.LPIPS.CHANNELS)
    STAGES = tuple(each // 16 for each in tokenizer.LPIPS.STAGES)


def made_up_weights() -> dict[str, torch.Tensor]:
    """As torchvision and lpips have them; what is no feature is left alone."""
    saved, inputs = {"classifier.0.weight": torch.randn(2, 2)}, 3
    for stage, indices in enumerate(STAGES):
        outputs = (4, 8, 16, 32, 32)[stage]
        for index in indices:
            saved[f"features.{index}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / inputs / 9) ** 0.5
            saved[f"features.{index}.bias"] = 0.1 * torch.randn(outputs)
            inputs = outputs
        saved[f"lin{stage}.model.1.weight"] = torch.rand(1, outputs, 1, 1)
    return saved


def distance_written_out(saved: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor, wrong: str = ""):
    """In float64: features of unit length, their squared differences weighed, the mean over places, summed over stages,
    the mean over pictures."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).double().view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).double().view(3, 1, 1)
    total, features = 0.0, []
    for image in (a.double(), b.double()):
        x, stages = (image if wrong == "range" else 2 * image - 1), []
        x = x if wrong == "unscaled" else (x - shift) / scale
        for stage, indices in enumerate(STAGES):
            x = F.max_pool2d(x, 2) if stage else x
            for index in indices:
                weight, bias = (saved[f"features.{index}.{kind}"].double() for kind in ("weight", "bias"))
                x = F.conv2d(x, weight, bias, padding=1).relu()
            stages.append(x if wrong == "length" else x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        features.append(stages)
    for stage, (one, two) in enumerate(zip(*features, strict=True)):
        weight = saved[f"lin{stage}.model.1.weight"].double()
        each = (one - two).square() if wrong == "unweighted" else weight * (one - two).square()
        total = total + each.sum(1).mean((-2, -1))
    return total.mean()


def test_perceptual_distance_agrees_with_the_equation(tmp_path):
    """Three pictures of 32 x 48."""
    saved = made_up_weights()
    torch.save(saved, tmp_path / "weights.pt")
    network = Narrow(tmp_path / "weights.pt")
    a, b = torch.rand(3, 3, 32, 48), torch.rand(3, 3, 32, 48, requires_grad=True)
    mistakes = {
        distance_written_out(saved, a, b, wrong).item(): text
        for wrong, text in {
            "range": "the pictures are to be taken to [-1, 1]",
            "unscaled": "the pictures' colours are not scaled",
            "length": "features are to have unit length",
            "unweighted": "the channels have weights of their own",
        }.items()
    }
    found, expected = network(a, b), distance_written_out(saved, a, b)
    expect_close(found, expected, mistakes=mistakes, what="distance")
    expect_close(network(b, a), expected, what="distance, the other way round")
    expect_close(gradients(found, b)[0], gradients(expected, b)[0], rtol=1e-3, atol=1e-6, what="gradient in a picture")
    expect_close(network(a, a), 0.0, atol=1e-7, what="distance of a picture from itself")


def test_perceptual_network_is_a_frozen_vgg16(tmp_path):
    """14,714,688 weights of its convolutions, 1,472 of the stages; the index of a layer is that of torchvision's."""
    total, inputs = 0, 3
    for each in tokenizer.LPIPS.CHANNELS:
        if each != "pool":
            total, inputs = total + each * (9 * inputs + 1), each
    assert total == 14_714_688
    assert sum(tokenizer.LPIPS.STAGES) == 1_472
    torch.save(made_up_weights(), tmp_path / "weights.pt")
    network = Narrow(tmp_path / "weights.pt")
    expected = {f"features.{index}.{kind}" for stage in STAGES for index in stage for kind in ("weight", "bias")}
    assert {name for name in network.state_dict() if name.startswith("features")} == expected
    assert not any(parameter.requires_grad for parameter in network.parameters())
    a, b = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    assert network.train()(a, b) == network(a, b), "nothing is dropped in training"


def test_perceptual_distance_of_blank_pictures_has_a_gradient(tmp_path):
    """Where all features are 0 there is no 0 / 0."""
    saved = {key: value if "lin" in key else torch.zeros_like(value) for key, value in made_up_weights().items()}
    torch.save(saved, tmp_path / "weights.pt")
    black = torch.zeros(1, 3, 16, 16, requires_grad=True)
    distance = Narrow(tmp_path / "weights.pt")(torch.zeros(1, 3, 16, 16), black)
    expect_close(distance, 0.0, what="distance of black from black")
    assert gradients(distance, black)[0].isfinite().all()


@pytest.mark.parametrize("what", ["missing", "folder", "empty", "text", "list", "features", "lin", "shape"])
def test_wrong_perceptual_weights_are_a_user_error(tmp_path, what):
    """Which names the file, and says what to do."""
    path, saved = tmp_path / "weights.pt", made_up_weights()
    if what == "folder":
        path.mkdir()
    elif what in ("empty", "text"):
        path.write_text("" if what == "empty" else "<html>404 not found</html>")
    elif what != "missing":
        if what == "features":
            del saved["features.12.bias"]
        elif what == "lin":
            del saved["lin3.model.1.weight"]
        elif what == "shape":
            saved["features.0.weight"] = torch.randn(4, 1, 3, 3)
        torch.save([1, 2] if what == "list" else saved, path)
    with pytest.raises(UserError, match=r"weights\.pt.*--lpips-weights") as caught:
        Narrow(path)
    assert "--perceptual none" in str(caught.value)
