"""Encoder, decoder, heads and actor: given, and of the paper's sizes."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paper3_dreamerv2 import networks, rssm, utils
from tests.helpers import expect_close, numbers


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def layers_of(module: nn.Module, kind: type[nn.Module]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(weight, bias) of the layers of a kind, in their order."""
    return [(layer.weight, layer.bias) for layer in module.modules() if isinstance(layer, kind)]


# ---- encoder ----


@pytest.mark.parametrize(("channels", "depth", "parameters"), [(1, 48, 1_549_776), (3, 48, 1_551_312)])
def test_encoder_has_the_papers_size(channels, depth, parameters):
    assert size(networks.ConvEncoder(channels, depth)) == parameters
    assert networks.ConvEncoder(channels, depth).size == 1536


def test_encoder_agrees_with_the_convolutions_written_out():
    """64 -> 31 -> 14 -> 6 -> 2, without padding; ELU after every one of them, the last too."""
    encoder, image = networks.ConvEncoder(3, 4), 50 * (torch.rand(5, 3, 64, 64) - 0.5)
    x, last, sides = image, None, []
    for weight, bias in layers_of(encoder, nn.Conv2d):
        last = F.conv2d(x, weight, bias, stride=2)
        x = F.elu(last)
        sides.append(x.shape[-1])
    assert sides == [31, 14, 6, 2]
    mistakes = {
        numbers(last.flatten(1)): "there is no ELU after the last convolution",
        numbers(last.flatten(1).relu()): "the activation is ELU: ReLU was DreamerV1's",
    }
    expect_close(encoder(image), x.flatten(1), atol=1e-4, mistakes=mistakes, what="embed")
    assert (x < 0).any()


def test_every_image_is_embedded_by_itself():
    encoder, image = networks.ConvEncoder(1, 4), torch.rand(2, 3, 1, 64, 64)
    together = encoder(image)
    assert together.shape == (2, 3, 128)
    for i in range(2):
        for t in range(3):
            expect_close(encoder(image[i, t]), together[i, t], what=f"embed of image {i}, {t} alone")


# ---- decoder ----


@pytest.mark.parametrize(("feat", "channels", "parameters"), [(1624, 1, 10_497_553), (1224, 3, 9_886_611)])
def test_decoder_has_the_papers_size(feat, channels, parameters):
    assert size(networks.ConvDecoder(feat, channels, 48)) == parameters


def test_decoder_agrees_with_the_layers_written_out():
    """1 -> 5 -> 13 -> 30 -> 64. No activation after the dense layer, none at the end: the mean is not bounded."""
    decoder, feat = networks.ConvDecoder(7, 3, 2), 200 * torch.randn(5, 7)
    x = F.linear(feat, decoder.dense.weight, decoder.dense.bias).reshape(5, 64, 1, 1)
    sides = []
    for i, (weight, bias) in enumerate(layers_of(decoder.deconvs, nn.ConvTranspose2d)):
        x = F.conv_transpose2d(F.elu(x) if i else x, weight, bias, stride=2)
        sides.append(tuple(x.shape[1:]))
    assert sides == [(8, 5, 5), (4, 13, 13), (2, 30, 30), (3, 64, 64)]
    assert x.abs().max() > 1
    expect_close(decoder(feat), x, atol=1e-4, mistakes={numbers(F.elu(x)): "there is an ELU at the end"}, what="image")


@pytest.mark.parametrize("lead", [(4,), (2, 3), ()])
def test_decoder_takes_any_leading_axes(lead):
    decoder = networks.ConvDecoder(7, 1, 2)
    feat = torch.randn(*lead, 7)
    image = decoder(feat)
    assert image.shape == (*lead, 1, 64, 64)
    expect_close(image.reshape(-1, 1, 64, 64), decoder(feat.reshape(-1, 7)), what="the same states in one batch")


def test_first_layer_of_the_decoder_is_a_transposed_convolution():
    """Computed as a matrix product, of one pixel."""
    quick = networks.DeconvOfOnePixel(6, 4, 5, stride=2)
    plain = nn.ConvTranspose2d(6, 4, 5, stride=2)
    plain.load_state_dict(quick.state_dict())
    x = torch.randn(3, 6, 1, 1)
    expect_close(quick(x), plain(x), what="a transposed convolution of one pixel")


# ---- heads ----


@pytest.mark.parametrize(("feat", "parameters"), [(1624, 1_131_601), (1224, 971_601)])
def test_scalar_heads_have_the_papers_size(feat, parameters):
    head = networks.ScalarHead(feat, 4, 400)
    assert size(head) == parameters
    assert head(torch.randn(2, 3, feat)).shape == (2, 3)


@pytest.mark.parametrize(
    ("feat", "actions", "discrete", "parameters"),
    [(1624, 18, True, 1_138_418), (1624, 6, True, 1_133_606), (1224, 6, False, 976_012)],
)
def test_actor_has_the_papers_size(feat, actions, discrete, parameters):
    assert size(networks.Actor(feat, actions, discrete)) == parameters


def test_hidden_layers_use_elu_and_the_last_has_no_activation():
    head = networks.DenseHead(5, 3, layers=2, units=8)
    x = 10 * torch.randn(6, 5)
    (a, b, c), h = layers_of(head, nn.Linear), x
    for weight, bias in (a, b):
        h = F.elu(F.linear(h, weight, bias))
    expect_close(head(x), F.linear(h, *c), what="a head")
    linear = networks.DenseHead(5, 3, layers=0, units=8)
    assert size(linear) == 18


def test_actor_says_how_actions_are_distributed():
    feat = torch.randn(4, 5)
    actor = networks.Actor(5, 3, True, layers=1, units=8)
    assert isinstance(actor(feat), utils.OneHot)
    expect_close(actor(feat).logits, actor.layers(feat).log_softmax(-1), what="log probabilities")
    actor = networks.Actor(5, 3, False, layers=1, units=8)
    assert isinstance(actor(feat), utils.TruncatedNormal)
    expect_close(actor(feat).mean, actor.layers(feat)[:, :3].tanh(), what="mean: tanh of the output's first half")


# ---- likelihood ----


@pytest.mark.parametrize(("channels", "floor"), [(1, 3763.97), (3, 11291.92)])
def test_a_perfect_image_costs_its_constant(channels, floor):
    """Of 0.9189 for each pixel and channel: the loss of an image cannot fall below it."""
    image = torch.rand(2, 5, channels, 64, 64)
    mistakes = {0.91894: "the MEAN over the pixels is taken", 0.0: "the constant is missing"}
    expect_close(networks.normal_nll(image, image, 3), floor, mistakes=mistakes, what="a perfect image")
    worse = networks.normal_nll(image + 0.5, image, 3)
    expect_close(worse, floor + channels * 4096 / 8, what="an image that is 0.5 too bright")


@pytest.mark.parametrize("event_dims", [0, 1, 2])
def test_only_the_last_axes_are_summed(event_dims):
    mean, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    nll = -torch.distributions.Normal(mean.double(), 1.0).log_prob(target.double())
    expected = nll.sum(tuple(range(3 - event_dims, 3))) if event_dims else nll
    expect_close(networks.normal_nll(mean, target, event_dims), expected, what=f"event_dims={event_dims}")


# ---- pixels, initialisation ----


def test_pixels_are_scaled_once():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    expect_close(networks.preprocess(image).flatten(), [-0.5, -0.3, 0.5], what="preprocess")
    assert networks.preprocess(image).shape == (1, 3, 1, 1)
    assert torch.equal(networks.to_image(networks.preprocess(image)), image)
    assert networks.to_image(torch.tensor([[[-3.0]], [[3.0]]])).flatten().tolist() == [0, 255]


def test_initialisation_is_the_official_one():
    """Keras': Glorot-uniform, variance 2 / (fan in + fan out); biases 0; a norm's scale 1, its shift 0."""
    layer = networks.initialize(nn.Linear(300, 500))
    expect_close(layer.weight.var(), 2 / 800, rtol=0.05, what="variance of the weights")
    assert layer.weight.abs().max() <= math.sqrt(6 / 800)
    assert (layer.bias == 0).all()
    cell = networks.initialize(rssm.LayerNormGRUCell(30, 50))
    assert (cell.norm.weight == 1).all()
    assert (cell.norm.bias == 0).all()
    assert (cell.layer.bias == 0).all()
    expect_close(cell.layer.weight.var(), 2 / 230, rtol=0.1, what="variance of the cell's weights")
