"""Encoder, decoder, likelihood and the tanh-Normal: exercises 2.1 to 2.4."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paper2_dreamerv1 import networks
from tests.helpers import expect_close, golden, numbers


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def maps_of(module: nn.Module, kind: type[nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    """What every layer of a kind puts out in module(x), in the order of their calls."""
    seen: list[torch.Tensor] = []
    layers = [layer for layer in module.modules() if isinstance(layer, kind)]
    handles = [layer.register_forward_hook(lambda layer, inputs, out: seen.append(out.detach())) for layer in layers]
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    return seen


def conv_weights(module: nn.Module, kind: type[nn.Module]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(weight, bias) of the layers of a kind, the widest input first or last as the network has it."""
    return [(layer.weight, layer.bias) for layer in module.modules() if isinstance(layer, kind)]


# ---- 2.1 ConvEncoder ----


@pytest.mark.exercise(id="2.1")
@pytest.mark.parametrize(("channels", "depth", "parameters"), [(3, 32, 690_144), (1, 32, 689_120), (3, 8, 43_512)])
def test_encoder_has_the_papers_size(channels, depth, parameters):
    mistakes = {parameters + 32 * depth * 256 + 256: "there is a dense layer at the end: the maps are only flattened"}
    found = size(networks.ConvEncoder(channels, depth).convs)
    expect_close(found, parameters, rtol=0, mistakes=mistakes, what="number of parameters")


@pytest.mark.exercise(id="2.1")
def test_encoder_halves_the_picture_four_times():
    """64 -> 31 -> 14 -> 6 -> 2: without padding."""
    seen = maps_of(networks.ConvEncoder(3, 4).convs, nn.Conv2d, torch.rand(2, 3, 64, 64))
    sides = [tuple(out.shape[1:]) for out in seen]
    assert sides != [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)], "the convolutions have padding 1: it is 0"
    assert sides == [(4, 31, 31), (8, 14, 14), (16, 6, 6), (32, 2, 2)]


@pytest.mark.exercise(id="2.1")
def test_encoder_agrees_with_the_convolutions_written_out():
    """ReLU after every one of them, the last too; nothing else. The picture is loud: nothing is cut off above."""
    encoder, image = networks.ConvEncoder(3, 4), 200 * (torch.rand(5, 3, 64, 64) - 0.5)
    x, last = image, None
    for weight, bias in conv_weights(encoder, nn.Conv2d):
        last = F.conv2d(x, weight, bias, stride=2)
        x = last.relu()
    mistakes = {numbers(last.flatten(1)): "there is no ReLU after the last convolution"}
    expect_close(encoder(image), x.flatten(1), atol=1e-4, mistakes=mistakes, what="embed")


@pytest.mark.exercise(id="2.1")
@pytest.mark.parametrize("training", [True, False])
def test_every_image_is_embedded_by_itself(training):
    """An embedding does not depend on the other images of the batch (batch norm), and repeats (dropout)."""
    encoder, image = networks.ConvEncoder(3, 4).train(training), torch.rand(2, 3, 3, 64, 64)
    together = encoder(image)
    assert together.shape == (2, 3, 128)
    for i in range(2):
        for t in range(3):
            expect_close(encoder(image[i, t]), together[i, t], what=f"embed of image {i}, {t} alone")
    assert (encoder(image) == together).all()


@pytest.mark.exercise(id="2.1")
def test_gradient_reaches_every_weight_of_the_encoder():
    encoder = networks.ConvEncoder(1, 4)
    encoder(torch.rand(8, 1, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


# ---- 2.2 ConvDecoder ----


@pytest.mark.exercise(id="2.2")
@pytest.mark.parametrize(
    ("feat", "channels", "depth", "parameters"),
    [(230, 3, 32, 3_795_555), (230, 1, 32, 3_793_249), (144, 3, 8, 256 * 145 + 204_832 + 12_816 + 4_616 + 867)],
)
def test_decoder_has_the_papers_size(feat, channels, depth, parameters):
    found = size(networks.ConvDecoder(feat, channels, depth))
    expect_close(found, parameters, rtol=0, what="number of parameters")


@pytest.mark.exercise(id="2.2")
def test_decoder_grows_the_picture_four_times():
    """1 -> 5 -> 13 -> 30 -> 64: kernels 5, 5, 6, 6."""
    seen = maps_of(networks.ConvDecoder(7, 3, 2), nn.ConvTranspose2d, torch.randn(2, 7))
    sides = [tuple(out.shape[1:]) for out in seen]
    assert sides == [(8, 5, 5), (4, 13, 13), (2, 30, 30), (3, 64, 64)]


@pytest.mark.exercise(id="2.2")
def test_decoder_agrees_with_the_layers_written_out():
    """No activation after the dense layer, none at the end, ReLU between. The mean is not bounded: here it is large."""
    decoder, feat = networks.ConvDecoder(7, 3, 2), 100 * torch.randn(5, 7)
    dense = F.linear(feat, decoder.dense.weight, decoder.dense.bias).reshape(5, 64, 1, 1)

    def convolve(x: torch.Tensor) -> torch.Tensor:
        layers = conv_weights(decoder.deconvs, nn.ConvTranspose2d)
        for i, (weight, bias) in enumerate(layers):
            x = F.conv_transpose2d(x.relu() if i else x, weight, bias, stride=2)
        return x

    mistakes = {
        numbers(convolve(dense.relu())): "there is an activation after the dense layer",
        numbers(convolve(dense).relu()): "there is a ReLU at the end: a mean may be negative",
        numbers(convolve(dense).sigmoid()): "there is a sigmoid at the end: the mean is not bounded",
        numbers(convolve(dense).tanh()): "there is a tanh at the end: the mean is not bounded",
        numbers(convolve(dense).clamp(-0.5, 0.5)): "the mean is cut off where pixels end: it is not bounded",
    }
    assert convolve(dense).abs().max() > 1
    expect_close(decoder(feat), convolve(dense), atol=1e-4, mistakes=mistakes, what="the image's mean")


@pytest.mark.exercise(id="2.2")
@pytest.mark.parametrize("lead", [(4,), (2, 3), ()])
def test_decoder_takes_any_leading_axes(lead):
    decoder = networks.ConvDecoder(7, 1, 2)
    feat = torch.randn(*lead, 7)
    image = decoder(feat)
    assert image.shape == (*lead, 1, 64, 64)
    expect_close(image.reshape(-1, 1, 64, 64), decoder(feat.reshape(-1, 7)), what="the same states in one batch")


@pytest.mark.exercise(id="2.2")
def test_gradient_reaches_every_weight_of_the_decoder():
    decoder = networks.ConvDecoder(7, 3, 2)
    decoder(torch.randn(8, 7)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


# ---- 2.3 normal_nll ----


@pytest.mark.exercise(id="2.3")
def test_a_perfect_image_costs_its_constant():
    """12,288 pixels and channels of 0.9189 each; an error of 0.5 everywhere adds 12,288 / 8."""
    image = torch.rand(2, 5, 3, 64, 64)
    mistakes = {
        0.91894: "the MEAN over the pixels is taken: the log density of an image is their sum",
        0.0: "the constant log(2 pi) / 2 of each element is missing",
        -11291.92: "the sign: it is the NEGATIVE log likelihood",
    }
    expect_close(networks.normal_nll(image, image, 3), 11291.92, mistakes=mistakes, what="a perfect image")
    mistakes = {
        1.04394: "the MEAN over the pixels is taken",
        1536.0: "the constant log(2 pi) / 2 of each element is missing",
        14363.92: "the squared error is not halved",
    }
    expect_close(networks.normal_nll(image + 0.5, image, 3), 12827.92, mistakes=mistakes, what="0.5 too bright")


@pytest.mark.exercise(id="2.3")
@pytest.mark.parametrize("event_dims", [0, 1, 2, 3])
def test_only_the_last_axes_are_summed(event_dims):
    mean, target = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    before = mean.clone(), target.clone()
    nll = -torch.distributions.Normal(mean.double(), 1.0).log_prob(target.double())
    expected = nll.sum(tuple(range(4 - event_dims, 4))) if event_dims else nll
    result = networks.normal_nll(mean, target, event_dims)
    assert result.shape == (2, 3, 4, 5)[: 4 - event_dims], "batch axes stay"
    expect_close(result, expected, what=f"event_dims={event_dims}")
    assert torch.equal(mean, before[0]), "the caller's mean is changed"
    assert torch.equal(target, before[1]), "the caller's target is changed"


@pytest.mark.exercise(id="2.3")
def test_gradient_of_the_nll_is_the_error():
    mean = torch.tensor([1.0, -2.0], requires_grad=True)
    nll = networks.normal_nll(mean, torch.tensor([0.5, 1.0]), 1)
    assert nll.requires_grad, "no gradient reaches the mean"
    nll.backward()
    expect_close(mean.grad, [0.5, -3.0], mistakes={numbers([1.0, -6.0]): "the squared error is not halved"})


# ---- 2.4 TanhNormal.log_prob ----


def test_tanh_normal_agrees_with_the_official_head():
    """Mean and std as ActionDecoder makes them of the network's output; std 5.0001 at 0, not softplus(5) = 5.0067."""
    g = golden("dv1_tanh_normal")
    policy = networks.TanhNormal(torch.tensor(g["raw"]))
    expect_close(policy.mean, g["loc"], what="mean")
    expect_close(policy.std, g["scale"], what="std")
    at = networks.TanhNormal(torch.tensor([[10.0, 1.0, 0.0, 0.0]]))
    expect_close(at.mean, [[4.8201, 0.98688]], atol=1e-4, what="mean at 10 and 1")
    expect_close(at.std, 5.0001, rtol=0, atol=1e-3, what="std at 0")


@pytest.mark.exercise(id="2.4")
def test_density_agrees_with_the_official_code():
    """Two of these actions are exactly +-1. The gradient is the official one, too: into mean and std."""
    g = golden("dv1_tanh_normal")
    raw, action = torch.tensor(g["raw"], requires_grad=True), torch.tensor(g["action"])
    log_prob = networks.TanhNormal(raw).log_prob(action)
    assert torch.equal(action, torch.tensor(g["action"])), "the caller's action is changed"
    assert torch.isfinite(log_prob).all(), "an action of exactly 1 or -1 has no finite atanh: clamp it first"
    mistakes = {numbers(g["log_prob"] / 3): "the mean over the actions is taken: it is their sum"}
    expect_close(log_prob, g["log_prob"], rtol=1e-4, atol=1e-4, mistakes=mistakes, what="log_prob")
    (gradient,) = torch.autograd.grad(log_prob.sum(), raw)
    for name, half in (("mean", slice(3)), ("std", slice(3, 6))):
        mistakes = {0.0: f"no gradient reaches the {name}"}
        expect_close(
            gradient[:, half], g["grad_raw"][:, half], rtol=1e-3, mistakes=mistakes, what=f"gradient in the raw {name}"
        )


@pytest.mark.exercise(id="2.4")
def test_density_by_hand():
    """u = 0.7 under N(0.3, 0.5): -0.54579 for u itself, and 0.45454 for the squeeze of tanh."""
    policy = networks.TanhNormal(torch.zeros(1, 2))
    policy.mean, policy.std = torch.tensor([[0.3]]), torch.tensor([[0.5]])
    mistakes = {
        -0.54579: "the change of variables is missing: this is the density of u",
        -1.00033: "the sign of the change of variables",
        -0.43817: "log_prob takes the action in [-1, 1], not u: it needs atanh",
    }
    expect_close(policy.log_prob(torch.tanh(torch.tensor([[0.7]]))), -0.09125, atol=1e-4, mistakes=mistakes)


@pytest.mark.exercise(id="2.4")
def test_density_sums_over_the_actions():
    policy = networks.TanhNormal(torch.randn(4, 6))
    action = torch.rand(5, 4, 3) * 1.8 - 0.9
    u = torch.atanh(action.double())
    each = (
        torch.distributions.Normal(policy.mean.double(), policy.std.double()).log_prob(u)
        - (1 - action.double() ** 2).log()
    )
    assert policy.log_prob(action).shape == (5, 4)
    mistakes = {numbers(each.mean(-1)): "the mean over the actions is taken: it is their sum"}
    expect_close(policy.log_prob(action), each.sum(-1), mistakes=mistakes, what="log_prob")


@pytest.mark.exercise(id="2.4")
def test_density_integrates_to_one():
    """Over (-1, 1), for a policy that keeps away from the edges."""
    policy = networks.TanhNormal(torch.zeros(1, 2))
    policy.mean, policy.std = torch.tensor([[0.2]]), torch.tensor([[0.4]])
    action = torch.linspace(-0.9995, 0.9995, 4000)[:, None, None]
    density = policy.log_prob(action).exp()[:, 0]
    expect_close(torch.trapezoid(density, action[:, 0, 0]), 1.0, rtol=1e-3, what="the integral of the density")


@pytest.mark.exercise(id="2.4")
def test_every_first_sample_has_a_finite_density_with_gradient():
    """At std 5 tanh rounds 7% of the samples to exactly +-1 in float32."""
    raw = torch.zeros(1, 4, requires_grad=True)
    policy = networks.TanhNormal(raw)
    action = policy.rsample((100_000,)).detach()
    assert (action.abs() == 1).any()
    log_prob = policy.log_prob(action)
    assert torch.isfinite(log_prob).all(), f"{(~torch.isfinite(log_prob)).sum()} samples have an infinite density"
    log_prob.mean().backward()
    assert torch.isfinite(raw.grad).all()


def test_first_policy_has_the_entropy_of_the_official_one():
    """-3.70 nats for each action at mean 0, std 5."""
    entropy = networks.TanhNormal(torch.zeros(2000, 6)).entropy()
    expect_close(entropy.mean() / 3, -3.70, rtol=0, atol=0.05, what="entropy of an action")


def test_mode_is_the_likeliest_sample_of_each_row():
    """Not element 0's winner for all, as the official code takes it."""
    raw = torch.tensor([[2.0, -3.0], [-2.0, -3.0], [0.5, -3.0]])
    policy = networks.TanhNormal(raw)
    policy.std = torch.full_like(policy.std, 0.1)
    mode = policy.mode()
    expect_close(mode, torch.tanh(policy.mean), rtol=0, atol=0.05, what="mode")


# ---- given: one-hot actions, initialisation ----


def test_one_hot_agrees_with_the_official_head():
    g = golden("dv1_onehot")
    policy = networks.OneHot(torch.tensor(g["logits"]))
    expect_close(policy.log_prob(torch.tensor(g["action"])), g["log_prob"], what="log_prob")
    expect_close(policy.mode(), g["mode"], what="mode")


def test_one_hot_samples_are_exact_and_carry_the_gradient_of_the_probabilities():
    logits = torch.randn(4, 3, requires_grad=True)
    policy = networks.OneHot(logits)
    sample = policy.rsample((2000,))
    expect_close(sample.detach(), F.one_hot(sample.argmax(-1), 3), atol=1e-6, what="samples")
    expect_close(
        sample.mean(0).detach(), logits.softmax(-1).detach(), rtol=0, atol=0.06, what="how often each is taken"
    )
    weight = torch.randn(4, 3)
    (grad,) = torch.autograd.grad((policy.rsample() * weight).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    expect_close(grad, expected, what="straight-through gradient")
    probs = logits.softmax(-1)
    expect_close(policy.entropy(), -(probs * probs.log()).sum(-1), what="entropy")


@pytest.mark.parametrize(("layers", "parameters"), [(2, 253_201), (3, 413_601)])
def test_scalar_heads_have_the_papers_size(layers, parameters):
    head = networks.ScalarHead(230, layers, 400)
    assert size(head) == parameters
    assert head(torch.randn(2, 3, 230)).shape == (2, 3)


@pytest.mark.parametrize(("actions", "parameters"), [(6, 578_412), (2, 575_204), (1, 574_402)])
def test_actor_has_the_papers_size(actions, parameters):
    assert size(networks.Actor(230, actions, False)) == parameters


def test_pixels_are_scaled_once():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    expect_close(networks.preprocess(image).flatten(), [-0.5, -0.3, 0.5], what="preprocess")
    assert torch.equal(networks.to_image(networks.preprocess(image)), image)


def test_initialisation_is_the_official_one():
    """Glorot-uniform: variance 2 / (fan in + fan out); biases 0; an orthogonal recurrent matrix."""
    layer = networks.initialize(nn.Linear(300, 500))
    expect_close(layer.weight.var(), 2 / 800, rtol=0.05, what="variance of the weights")
    assert layer.weight.abs().max() <= math.sqrt(6 / 800)
    assert (layer.bias == 0).all()
    cell = networks.initialize(nn.GRUCell(5, 4))
    expect_close(cell.weight_hh.T @ cell.weight_hh, np.eye(4), what="recurrent matrix, squared")


def test_encoder_with_padding_and_a_dense_layer():
    """4x4 pixels of 256 channels are left, and 1,048,832 parameters make 256 numbers of them."""
    encoder = networks.DenseConvEncoder(3, 32, 256)
    assert size(encoder) == 690_144 + 1_048_832
    seen = maps_of(encoder, nn.Conv2d, torch.rand(2, 3, 64, 64))
    assert [tuple(out.shape[2:]) for out in seen] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert encoder(torch.rand(2, 5, 3, 64, 64)).shape == (2, 5, 256)
