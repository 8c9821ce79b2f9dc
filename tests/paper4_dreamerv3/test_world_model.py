"""The world model: layers, RSSM, losses. Exercises 4.5 to 4.10."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from paper4_dreamerv3 import world_model
from paper4_dreamerv3.config import Config
from paper4_dreamerv3.symlog import symexp, symlog
from paper4_dreamerv3.world_model import RSSM, BlockLinear, State
from tests.helpers import expect_close, golden, numbers

ACTION, TOKENS, DETER, HIDDEN, VARIABLES, CLASSES, BLOCKS = 2, 6, 15, 7, 3, 4, 3
STOCH = VARIABLES * CLASSES
SMALL = {"deter": 16, "hidden": 5, "stoch": 3, "classes": 4, "depth": 2, "units": 7, "bins": 21, "blocks": 4}
IMAGE = spaces.Dict(image=spaces.Box(0, 255, (16, 16, 3), np.uint8))
VECTOR = spaces.Dict(vector=spaces.Box(-np.inf, np.inf, (5,), np.float32))
BOTH = spaces.Dict(**IMAGE.spaces, **VECTOR.spaces)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def official(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(value) for key, value in golden(name).items()}


def take(layer: nn.Module, g: dict[str, torch.Tensor], name: str) -> None:
    """Give a layer the official weights: kernels are (in, out), of convolutions (height, width, in, out)."""
    kernel = g[f"param.{name}.kernel"]
    order = {2: (1, 0), 3: (0, 1, 2), 4: (3, 2, 0, 1)}[kernel.ndim]
    with torch.no_grad():
        layer.weight.copy_(kernel.permute(order))
        layer.bias.copy_(g[f"param.{name}.bias"])


def take_dense(layer: nn.Sequential, g: dict[str, torch.Tensor], name: str, norm: str) -> None:
    """A linear layer and its norm."""
    take(layer[0], g, name)
    with torch.no_grad():
        layer[1].scale.copy_(g[f"param.{norm}.scale"])


def take_rssm(rssm: RSSM, g: dict[str, torch.Tensor], prefix: str = "") -> None:
    dense = {"deter_in": "dynin0", "stoch_in": "dynin1", "action_in": "dynin2", "post_in": "obs0"}
    for ours, theirs in dense.items():
        take_dense(getattr(rssm, ours), g, prefix + theirs, f"{prefix}{theirs}norm")
    for i in range(2):
        take_dense(rssm.prior_net[0][i], g, f"{prefix}prior{i}", f"{prefix}prior{i}norm")
    plain = {"core_hidden": "dynhid0", "core_gates": "dyngru", "post_out": "obslogit"}
    for ours, theirs in plain.items():
        take(getattr(rssm, ours), g, prefix + theirs)
    take(rssm.prior_net[1], g, f"{prefix}priorlogit")
    with torch.no_grad():
        rssm.core_norm.scale.copy_(g[f"param.{prefix}dynhid0norm.scale"])


def official_rssm(kind: str) -> tuple[RSSM, dict[str, torch.Tensor]]:
    """The official model's weights, and its example; whole actions become one-hot ones."""
    g = official(f"dv3_rssm_{kind}")
    rssm = RSSM(4, 5, 12, 6, 3, 4, 3, 0.01)
    take_rssm(rssm, g)
    for key in ("action", "imag_action"):
        if not g[key].is_floating_point():
            g[key] = F.one_hot(g[key].long(), 4).float()
    return rssm, g


def uniform_for(logits: torch.Tensor, index: torch.Tensor, unimix: float = 0.01) -> torch.Tensor:
    """The uniform numbers with which just these classes are drawn: each in the middle of its class's share."""
    probs = (1 - unimix) * logits.detach().double().softmax(-1) + unimix / logits.shape[-1]
    upper = probs.cumsum(-1)
    middle = (upper - probs / 2).gather(-1, index.long().unsqueeze(-1))
    return middle.squeeze(-1).float()


def make_rssm(unimix: float = 0.01, std: float = 0.7) -> RSSM:
    """A small RSSM whose weights are large enough that every input matters."""
    rssm = RSSM(ACTION, TOKENS, DETER, HIDDEN, VARIABLES, CLASSES, BLOCKS, unimix)
    for parameter in rssm.parameters():
        nn.init.normal_(parameter, std=std)
    return rssm


def make_state(*lead: int) -> State:
    classes = torch.randint(CLASSES, (*lead, VARIABLES))
    return State(torch.rand(*lead, DETER) * 2 - 1, F.one_hot(classes, CLASSES).flatten(-2).float())


def check_gradients(actual: torch.Tensor, expected: torch.Tensor, leaves: dict[str, torch.Tensor]) -> None:
    """Two numbers that should be the same have the same gradient in all leaves."""
    expect_close(actual, expected, what="the number whose gradient is taken")
    assert actual.requires_grad, "no gradient flows at all"
    found = torch.autograd.grad(actual, list(leaves.values()), allow_unused=True)
    wanted = torch.autograd.grad(expected, list(leaves.values()))
    for name, one, other in zip(leaves, found, wanted, strict=True):
        assert one is not None, f"no gradient reaches {name}: nothing is to be detached here"
        mistakes = {0.0: "no gradient: nothing is to be detached here"}
        expect_close(one, other, rtol=1e-3, atol=1e-4, mistakes=mistakes, what=f"gradient in {name}")


# ---- 4.5 BlockLinear ----


def blocks_written_out(layer: BlockLinear, x: torch.Tensor, shared: torch.Tensor | None = None, wrong: str = ""):
    """Part k of the input, and behind it what all blocks see, through weight k; `wrong` names a mistake to make."""
    parts = list(x.chunk(layer.blocks, -1))
    if wrong == "interleaved":
        parts = list(x.unflatten(-1, (-1, layer.blocks)).unbind(-1))
    if shared is not None and wrong != "not shared":
        parts = [torch.cat([shared, part] if wrong == "shared first" else [part, shared], -1) for part in parts]
    weights = [weight[: parts[0].shape[-1]].to(x) for weight in layer.weight]
    outputs = [part @ weight for part, weight in zip(parts, weights, strict=True)]
    if wrong == "outputs interleaved":
        return torch.stack(outputs, -1).flatten(-2) + layer.bias.to(x)
    return torch.cat(outputs, -1) + (0 if wrong == "no bias" else layer.bias.to(x))


BLOCK_MISTAKES = {
    "interleaved": "a block takes every other input: it is to take those beside each other",
    "outputs interleaved": "the blocks' outputs are interleaved: one block's lie beside each other",
    "not shared": "what all blocks see is left out",
    "shared first": "a block's own part comes first in its weights, what all see behind it",
    "no bias": "the bias is not added",
}


def make_blocks(inputs: int, outputs: int, blocks: int, shared: int = 0) -> BlockLinear:
    layer = BlockLinear(inputs, outputs, blocks, shared)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    return layer


@pytest.mark.exercise(id="4.5")
def test_blocks_by_hand():
    """Two blocks: [1, 2] makes the first two outputs, [3, 4] the others."""
    layer = BlockLinear(4, 4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 10.0], [2.0, 20.0]], [[3.0, 30.0], [4.0, -40.0]]]))
        layer.bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    mistakes = {
        numbers(blocks_written_out(layer, x, wrong=wrong)): BLOCK_MISTAKES[wrong]
        for wrong in ("interleaved", "outputs interleaved", "no bias")
    }
    mistakes[21.1, 42.2, 129.3, -147.6] = "the weights of a block are (inputs, outputs): they are transposed"
    expect_close(layer(x), [[5.1, 50.2, 25.3, -69.6]], mistakes=mistakes, what="the layer's output")


@pytest.mark.exercise(id="4.5")
def test_what_all_blocks_see_by_hand():
    """The same two blocks, and 5 for both of them: times 100 and 200 in the first, 300 and 400 in the second."""
    layer = BlockLinear(4, 4, 2, shared=1)
    rows = [[[1.0, 10.0], [2.0, 20.0], [100.0, 200.0]], [[3.0, 30.0], [4.0, -40.0], [300.0, 400.0]]]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
        layer.bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    x, shared = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[5.0]])
    mistakes = {
        numbers(blocks_written_out(layer, x, shared, wrong=wrong)): text for wrong, text in BLOCK_MISTAKES.items()
    }
    expect_close(layer(x, shared), [[505.1, 1050.2, 1525.3, 1930.4]], mistakes=mistakes, what="the layer's output")


@pytest.mark.exercise(id="4.5")
def test_blocks_agree_with_the_official_code():
    """And with one dense layer whose weights are 0 between blocks; the gradients, too."""
    g = official("dv3_block_linear")
    layer = BlockLinear(12, 8, int(g["groups"]))
    with torch.no_grad():
        layer.weight.copy_(g["kernel"]), layer.bias.copy_(g["bias"])
    x = g["x"].requires_grad_()
    found = layer(x)
    mistakes = {
        numbers(blocks_written_out(layer, x, wrong=wrong)): BLOCK_MISTAKES[wrong]
        for wrong in ("interleaved", "outputs interleaved", "no bias")
    }
    expect_close(found, g["y"], mistakes=mistakes, what="the layer's output")
    expect_close(found, g["x"] @ g["dense"] + g["bias"], what="the layer's output, as a dense layer's")
    leaves = [x, layer.weight, layer.bias]
    gradients = torch.autograd.grad((found * g["upstream"]).sum(), leaves, allow_unused=True, materialize_grads=True)
    expected = (g["grad_x"], g["grad_kernel"], g["upstream"].sum(0))
    for name, one, other in zip(("x", "weight", "bias"), gradients, expected, strict=True):
        expect_close(one, other, mistakes={0.0: "no gradient: nothing is detached here"}, what=f"gradient in {name}")


@pytest.mark.exercise(id="4.5")
def test_shared_inputs_agree_with_the_official_code():
    """The recurrence's first layer: three blocks of 4 inputs each, and 18 that all of them see, official weights."""
    g = official("dv3_rssm_cont")
    layer = BlockLinear(12, 12, 3, shared=18)
    take(layer, g, "dynhid0")
    deter, x = g["deter0"], torch.randn(3, 18)
    each = torch.cat([torch.cat([part, x], -1) for part in deter.chunk(3, -1)], -1)
    expected = torch.einsum("bgi,gio->bgo", each.unflatten(-1, (3, -1)), g["param.dynhid0.kernel"]).flatten(1)
    mistakes = {
        numbers(blocks_written_out(layer, deter, x, wrong=wrong)): text for wrong, text in BLOCK_MISTAKES.items()
    }
    expect_close(layer(deter, x), expected + g["param.dynhid0.bias"], mistakes=mistakes, what="the layer's output")


@pytest.mark.exercise(id="4.5")
@pytest.mark.parametrize("shared", [0, 1, 7])
@pytest.mark.parametrize(("inputs", "outputs", "blocks"), [(6, 15, 3), (8, 4, 4), (5, 7, 1)])
def test_blocks_are_exact_in_float64(inputs, outputs, blocks, shared):
    """With what all blocks see and without; every row by itself, into all of x, shared, weight and bias."""
    layer = make_blocks(inputs, outputs, blocks, shared).double()
    x = torch.randn(5, inputs, dtype=torch.float64)
    arguments = (x, torch.randn(5, shared, dtype=torch.float64)) if shared else (x,)
    before = [each.clone() for each in arguments]
    found, expected = layer(*arguments), blocks_written_out(layer, *arguments)
    assert found.shape == (5, outputs)
    expect_close(found, expected, rtol=1e-10, atol=1e-12, what="the layer's output")
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True)), "the caller's input is changed"
    alone = torch.cat([layer(*(each[i : i + 1] for each in arguments)) for i in range(5)])
    expect_close(alone, expected, rtol=1e-10, atol=1e-12, what="rows one by one")
    leaves = dict(zip(("x", "shared"), (each.requires_grad_() for each in arguments), strict=False))
    leaves |= {"weight": layer.weight, "bias": layer.bias}
    weight = torch.randn(5, outputs, dtype=torch.float64)
    check_gradients((layer(*arguments) * weight).sum(), (blocks_written_out(layer, *arguments) * weight).sum(), leaves)


@pytest.mark.exercise(id="4.5")
def test_a_block_sees_its_own_part_alone():
    """The derivatives of the outputs in the inputs: 3x4 where a block meets itself, 0 elsewhere; what all blocks see
    moves every output."""
    layer, x, shared = make_blocks(9, 12, 3, shared=2), torch.randn(1, 9), torch.randn(1, 2)
    own, common = torch.autograd.functional.jacobian(layer, (x, shared))
    expect_close(own[0, :, 0], torch.block_diag(*layer.weight[:, :3].mT), atol=1e-6, what="d output / d input")
    expect_close(common[0, :, 0], layer.weight[:, 3:].mT.flatten(0, 1), atol=1e-6, what="d output / d shared")


def test_block_linear_has_the_papers_weights():
    """Given: blocks * (in / blocks) * (out / blocks) + out; the std is that of the FULL fan-in, 1 / sqrt(inputs)."""
    layer = BlockLinear(512, 1024, 8)
    assert sum(p.numel() for p in layer.parameters()) == 512 * 1024 // 8 + 1024
    mistakes = {512**-0.5 * 8**0.5: "the fan-in of one block is taken: it is that of all inputs"}
    expect_close(layer.weight.std(), 512**-0.5, rtol=0.02, mistakes=mistakes, what="std of the weights")
    assert (layer.bias == 0).all()
    layer = BlockLinear(64, 512, 8, shared=120)
    expect_close(layer.weight.std(), (8 * 128) ** -0.5, rtol=0.02, what="std of the weights, with what all blocks see")


# ---- 4.6 sample_latent ----


@pytest.mark.exercise(id="4.6")
@pytest.mark.parametrize(
    ("uniform", "drawn"), [(0.0, 0), (0.19, 0), (0.21, 1), (0.49, 1), (0.51, 2), (0.95, 2), (0.999, 2)]
)
def test_class_is_read_off_the_cumulative_sums(uniform, drawn):
    """Probabilities .2, .3, .5: sums .2, .5, 1."""
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log() + 1.3
    found = world_model.sample_latent(logits, torch.tensor([uniform]), unimix=0.0)
    mistakes = {numbers([0, 0, 1]): "class 2 is the likeliest: with uniform below .5 it is not drawn"} | {
        numbers(np.eye(3)[k]): "the first class whose sum is ABOVE uniform is drawn" for k in range(2)
    }
    expect_close(found, [np.eye(3)[drawn]], mistakes=mistakes, what=f"the sample at {uniform}")


@pytest.mark.exercise(id="4.6")
@pytest.mark.parametrize(
    ("unimix", "uniform", "drawn"),
    [
        (0.01, 0.996, 2),
        (0.01, 0.9915, 0),
        (0.4, 0.65, 0),
        (0.4, 0.75, 1),
        (0.4, 0.85, 2),
        (0.4, 0.95, 3),
        (0.0, 0.9, 0),
    ],
)
def test_one_per_cent_of_chance_is_in_the_sample(unimix, uniform, drawn):
    """A class that is as good as sure has 0.9925 of 1: at .996 the third of four is drawn."""
    logits = torch.tensor([[40.0, 0.0, 0.0, 0.0]])
    found = world_model.sample_latent(logits, torch.tensor([uniform]), unimix)
    mistakes = {}
    if drawn:
        mistakes = {
            numbers(np.eye(4)[0]): "unimix is not in the probabilities that are drawn from",
            numbers(np.eye(4)[1]): "unimix is (1 - unimix) softmax + unimix / classes",
        }
    expect_close(found, [np.eye(4)[drawn]], mistakes=mistakes, what=f"the sample at {uniform}, unimix {unimix}")


@pytest.mark.exercise(id="4.6")
def test_a_class_of_probability_0_is_not_drawn():
    """Without unimix, its sum of 0 is not ABOVE a uniform number of 0."""
    found = world_model.sample_latent(torch.tensor([[-1000.0, 0.0, 0.0]]), torch.zeros(1), unimix=0.0)
    expect_close(found, [[0.0, 1.0, 0.0]], what="the sample at 0")


@pytest.mark.exercise(id="4.6")
def test_large_logits_do_not_overflow():
    """exp(1000) is infinite in float32; the softmax is not."""
    logits = torch.tensor([[1000.0, 0.0, 0.0, 0.0], [-1000.0, 0.0, 0.0, 0.0]], requires_grad=True)
    found = world_model.sample_latent(logits, torch.tensor([0.5, 0.1]))
    expect_close(found, np.eye(4)[:2], what="the samples of large logits")
    (gradient,) = torch.autograd.grad((found * torch.arange(4.0)).sum(), logits)
    assert gradient.isfinite().all(), "the gradient of large logits is not finite"


@pytest.mark.exercise(id="4.6")
def test_latents_are_exactly_one_hot():
    """(one_hot + probs) - sg(probs) is off by 6e-8 in many rows."""
    logits, uniform = 2 * torch.randn(500, 4, 32), torch.rand(500, 4)
    found = world_model.sample_latent(logits, uniform).detach()
    assert found.shape == (500, 4, 32)
    assert found.dtype == torch.float32
    off = ((found != 0) & (found != 1)).any(-1).float().mean().item()
    assert off == 0, f"{off:.0%} of the samples are not exactly 0 and 1: subtract the probabilities first, then add"
    assert (found.sum(-1) == 1).all(), "a sample has one 1"


@pytest.mark.exercise(id="4.6")
def test_largest_uniform_number_draws_a_class():
    """The sums of 64 classes may round to less than 1 - 6e-8: then it is the last."""
    logits = torch.randn(3000, 64)
    found = world_model.sample_latent(logits, torch.full((3000,), 1 - 2**-24)).detach()
    assert (found.sum(-1) == 1).all(), "no class is drawn, or one that does not exist"
    assert (found.argmax(-1) >= 60).all(), "a class far from the last is drawn"


@pytest.mark.exercise(id="4.6")
@pytest.mark.parametrize(("case", "unimix"), [("unimix", 0.01), ("plain", 0.0)])
def test_gradient_is_that_of_the_mixed_probabilities(case, unimix):
    """The official code's: 3 states, 4 variables, 5 classes."""
    g = official("dv3_straight_through")
    logits, uniform = g["logits"].requires_grad_(), uniform_for(g["logits"], g[f"index_{case}"], unimix)
    sample = world_model.sample_latent(logits, uniform, unimix)
    assert sample.requires_grad, "no gradient flows through the sample"
    expect_close(sample, F.one_hot(g[f"index_{case}"].long(), 5), atol=1e-6, what="sample")
    (gradient,) = torch.autograd.grad((sample * g["upstream"]).sum(), logits)

    def gradient_of(probs: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((probs * g["upstream"]).sum(), logits)[0]

    other = {"unimix": "plain", "plain": "unimix"}[case]
    mistakes = {
        numbers(g[f"grad_logits_{other}"]): "the gradient is that of the probabilities WITH unimix, of this call",
        numbers(g["upstream"]): "it is the gradient of the logits: it is to be that of the probabilities",
        numbers(gradient_of(world_model.log_probs(logits, unimix))): "it is the gradient of the log probabilities",
        numbers(gradient_of(logits.softmax(-2))): "the softmax is over the variables: the classes are the last axis",
        numbers(-g[f"grad_logits_{case}"]): "the sign of the gradient",
        0.0: "no gradient: sg(probs) has to be subtracted from probs, not probs from itself",
    }
    expected = g[f"grad_logits_{case}"]
    expect_close(gradient, expected, rtol=1e-3, atol=1e-6, mistakes=mistakes, what="gradient in the logits")


@pytest.mark.exercise(id="4.6")
@pytest.mark.parametrize("drawn", [0, 1, 2])
def test_gradient_by_hand(drawn):
    """Logits 2, 0, -1, values 1, 2, 3: 0.99 times the softmax's, whichever class is drawn."""
    logits = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    sample = world_model.sample_latent(logits, uniform_for(logits, torch.tensor([drawn])))
    assert sample.requires_grad, "no gradient flows through the sample"
    (gradient,) = torch.autograd.grad((sample * torch.tensor([1.0, 2.0, 3.0])).sum(), logits)
    p = np.exp([2.0, 0.0, -1.0]) / np.exp([2.0, 0.0, -1.0]).sum()
    plain = p * (np.array([1, 2, 3]) - (p * [1, 2, 3]).sum())
    expect_close(gradient[0, 0], -0.16558, mistakes={-0.16725: "the gradient is that of the softmax without unimix"})
    expect_close(gradient[0], 0.99 * plain, mistakes={numbers(plain): "the gradient of the softmax without unimix"})


@pytest.mark.exercise(id="4.6")
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_every_variable_is_drawn_by_its_own_number(lead):
    logits, uniform = torch.randn(*lead, 4, 5), torch.rand(*lead, 4)
    before = logits.clone(), uniform.clone()
    found = world_model.sample_latent(logits, uniform)
    assert found.shape == (*lead, 4, 5)
    pairs = zip(logits.reshape(-1, 1, 5), uniform.reshape(-1, 1), strict=True)
    alone = torch.cat([world_model.sample_latent(*pair) for pair in pairs])
    expect_close(found.reshape(-1, 5), alone, what="the same variables one by one")
    assert torch.equal(logits, before[0]), "the caller's logits are changed"
    assert torch.equal(uniform, before[1]), "the caller's numbers are changed"


@pytest.mark.exercise(id="4.6")
def test_classes_are_drawn_as_often_as_their_probabilities_say():
    """Chi-square of 20,000 draws with 4 degrees of freedom: above 40 one time in twenty million. The last class has
    nothing but its fifth of one per cent."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -30.0])
    found = world_model.sample_latent(logits.expand(20_000, 1, 5), torch.rand(20_000, 1))
    counts = found.detach().sum((0, 1))
    expected = 20_000 * (0.99 * logits.double().softmax(-1) + 0.002)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 40, f"drawn {counts.tolist()} times, expected about {expected.round().tolist()}"


def test_log_probs_agree_with_the_official_code():
    """Given: 0.99 softmax + 0.01 / classes."""
    g = official("dv3_kl_losses")
    found = world_model.log_probs(g["post"])
    expect_close(found, g["unimix_logits_post"], what="log probabilities with unimix")
    expect_close(found.exp(), g["unimix_probs_post"], what="probabilities with unimix")
    expect_close(-(found.exp() * found).sum((-2, -1)), g["entropy_post"], what="entropy")
    expect_close(world_model.log_probs(torch.tensor([900.0, 0.0])).exp(), [0.995, 0.005], what="of a sure class")


# ---- 4.7 RSSM.core ----


def core_written_out(rssm: RSSM, deter, stoch, action, wrong: str = "") -> torch.Tensor:
    """The recurrence, block by block; `wrong` names a mistake to make."""
    own = [rssm.deter_in(deter), rssm.stoch_in(stoch), action]
    x = torch.cat([own[1], own[0], own[2]] if wrong == "order" else own, -1)
    hidden = blocks_written_out(rssm.core_hidden, deter, x, wrong)
    if wrong != "no norm":
        hidden = rssm.core_norm(hidden)
    hidden = hidden if wrong == "no silu" else F.elu(hidden) if wrong == "elu" else F.silu(hidden)
    gates = blocks_written_out(rssm.core_gates, hidden)
    if wrong == "ungrouped":
        reset, candidate, update = gates.chunk(3, -1)
    else:
        parts = [part.chunk(3, -1) for part in gates.chunk(rssm.blocks, -1)]
        reset, candidate, update = (torch.cat(gate, -1) for gate in zip(*parts, strict=True))
    if wrong == "update first":
        reset, update = update, reset
    reset = torch.ones_like(reset) if wrong == "no reset" else reset.sigmoid()
    candidate = reset * candidate.tanh() if wrong == "reset outside" else (reset * candidate).tanh()
    update = update.sigmoid() if wrong == "plain update" else (update - 1).sigmoid()
    if wrong == "inverted":
        update = 1 - update
    return update * candidate + (1 - update) * deter


CORE_MISTAKES = {
    "order": "x is [deter_in(deter), stoch_in(stoch), action], in this order",
    "not shared": "x is left out: core_hidden takes deter and x",
    "no norm": "core_norm is missing",
    "no silu": "SiLU is missing behind core_norm",
    "elu": "the activation is SiLU",
    "ungrouped": "core_gates gives each BLOCK its three gates: cut into blocks first, then into gates",
    "update first": "the order is reset, candidate, update",
    "no reset": "reset is not used",
    "reset outside": "reset stands inside of the tanh",
    "plain update": "the -1 is missing: update = sigmoid(update - 1)",
    "inverted": "update weighs the candidate, 1 - update the old deter",
}


@pytest.mark.exercise(id="4.7")
@pytest.mark.parametrize("kind", ["cont", "disc"])
def test_core_agrees_with_the_official_code(kind):
    """One step; then four steps of a dream, with the samples that were drawn."""
    rssm, g = official_rssm(kind)
    stoch, action = g["stoch0"].flatten(-2), rssm.embed_action(g["core_action"])
    mistakes = {
        numbers(core_written_out(rssm, g["deter0"], stoch, action, wrong)): text
        for wrong, text in CORE_MISTAKES.items()
    }
    expect_close(rssm.core(g["deter0"], stoch, action), g["core_deter"], mistakes=mistakes, what="deter")
    deter = g["deter0"]
    for k in range(4):
        deter = rssm.core(deter, stoch, rssm.embed_action(g["imag_action"][:, k]))
        expect_close(deter, g["imag_deter"][:, k], what=f"deter after {k + 1} steps of a dream")
        stoch = g["imag_stoch"][:, k].flatten(-2)


@pytest.mark.exercise(id="4.7")
def test_core_agrees_with_the_equations():
    """Three blocks of five, twelve numbers of stoch, seven hidden units: no two of these are alike."""
    rssm, (deter, stoch), action = make_rssm(), make_state(4), torch.randn(4, HIDDEN)
    before = deter.clone()
    mistakes = {
        numbers(core_written_out(rssm, deter, stoch, action, wrong)): text for wrong, text in CORE_MISTAKES.items()
    }
    found = rssm.core(deter, stoch, action)
    expect_close(found, core_written_out(rssm, deter, stoch, action), mistakes=mistakes, what="deter")
    assert torch.equal(deter, before), "the caller's deter is changed"


@pytest.mark.exercise(id="4.7")
def test_core_without_weights_forgets_slowly():
    """update = sigmoid(-1) = 0.2689 and candidate 0: of deter there is 0.7311 left."""
    rssm = make_rssm()
    for parameter in rssm.parameters():
        nn.init.zeros_(parameter)
    found = rssm.core(torch.ones(2, DETER), torch.zeros(2, STOCH), torch.zeros(2, HIDDEN))
    mistakes = {0.5: "the -1 is missing: update = sigmoid(update - 1)", 0.26894: "update weighs the new, not the old"}
    expect_close(found, 0.7310586, mistakes=mistakes, what="the new deter")


@pytest.mark.exercise(id="4.7")
@pytest.mark.parametrize("name", ["deter", "stoch", "action"])
def test_every_block_sees_all_that_goes_in(name):
    """x is behind each block's part: every number of the new deter moves with each of the three inputs."""
    rssm = make_rssm()
    inputs = {**make_state(4)._asdict(), "action": torch.randn(4, HIDDEN)}
    one = rssm.core(**inputs)
    moved = (rssm.core(**(inputs | {name: inputs[name] + 1.0})) - one).abs()
    assert (moved.max(0).values > 1e-4).all(), f"some of deter does not depend on {name}"


@pytest.mark.exercise(id="4.7")
def test_rows_of_a_batch_do_not_mix():
    rssm, (deter, stoch), action = make_rssm(), make_state(4), torch.randn(4, HIDDEN)
    alone = torch.cat([rssm.core(deter[i : i + 1], stoch[i : i + 1], action[i : i + 1]) for i in range(4)])
    expect_close(rssm.core(deter, stoch, action), alone, what="rows one by one")


@pytest.mark.exercise(id="4.7")
def test_gradient_flows_through_the_core():
    """Into all three inputs and every weight: none of them is detached."""
    rssm, (deter, stoch), action = make_rssm(), make_state(4), torch.randn(4, HIDDEN)
    leaves = {"deter": deter, "stoch": stoch, "action": action}
    for leaf in leaves.values():
        leaf.requires_grad_()
    names = ("deter_in", "stoch_in", "core_hidden", "core_norm", "core_gates")
    leaves |= {name: weight for name, weight in rssm.named_parameters() if name.startswith(names)}
    weight = torch.randn(4, DETER)
    expected = core_written_out(rssm, deter, stoch, action)
    check_gradients((rssm.core(deter, stoch, action) * weight).sum(), (expected * weight).sum(), leaves)


def test_core_has_the_papers_size():
    """Size 12m with six actions: of 5.98 million parameters, 4.34 are the recurrence."""
    with torch.device("meta"):  # shapes without numbers
        rssm = RSSM(6, 1024, 2048, 256, 32, 16, 8, 0.01)
    size = lambda *names: sum(p.numel() for name in names for p in getattr(rssm, name).parameters())
    assert size("deter_in", "stoch_in", "action_in", "core_hidden", "core_norm", "core_gates") == 4_338_688
    assert size("prior_net") == 722_432
    assert size("post_in", "post_out") == 918_528


def test_actions_beyond_one_count_as_one():
    """Given: a = 5 is what a = 1 is, as the environment has it; sizes below 1 stay. No gradient in the divisor."""
    rssm = make_rssm()
    action = torch.tensor([[5.0, -0.4], [-3.0, 0.2]])
    expected = torch.tensor([[1.0, -0.4], [-1.0, 0.2]])
    expect_close(rssm.embed_action(action), rssm.embed_action(expected), what="an action beyond 1")
    assert not torch.allclose(rssm.embed_action(expected), rssm.embed_action(expected / 2))


@pytest.mark.parametrize("kind", ["cont", "disc"])
def test_prior_agrees_with_the_official_code(kind):
    """Given, on top of the core: logits of rows and of a dream, and a step of it with the same samples."""
    rssm, g = official_rssm(kind)
    expect_close(rssm.prior(g["deter"]), g["prior_logit"], what="logits of the prior")
    expect_close(rssm.prior(g["imag_deter"]), g["imag_logit"], what="logits of the dream")
    state = State(g["deter0"], g["stoch0"].flatten(-2))
    for k in range(4):
        noise = uniform_for(g["imag_logit"][:, k], g["imag_stoch"][:, k].argmax(-1))
        state = rssm.img_step(state, g["imag_action"][:, k], noise)
        expect_close(state.deter, g["imag_deter"][:, k], what=f"deter after {k + 1} steps")
        expect_close(state.stoch, g["imag_stoch"][:, k].flatten(-2), what=f"stoch after {k + 1} steps")


# ---- 4.8 RSSM.observe ----


def observe_written_out(
    rssm: RSSM, start: State, tokens, prev_action, is_first, noise, wrong: str = ""
) -> tuple[State, torch.Tensor]:
    """Row by row; `wrong` names a mistake to make."""
    state, states, logits = start, [], []
    for t in range(tokens.shape[1]):
        first = is_first[:, t, None]
        if wrong == "all":
            first = first.all() & first
        begin = torch.zeros_like(first) if wrong == "never" else first
        keep = (~begin).float()
        deter = state.deter * (1 if wrong == "deter" else keep)
        stoch = state.stoch * (1 if wrong == "stoch" else keep)
        action = prev_action[:, t] * (1 if wrong == "action" else keep)
        deter = rssm.core(deter, stoch, rssm.embed_action(action))
        if wrong == "zero deter":
            deter = deter * keep
        seen = [tokens[:, t], deter] if wrong == "tokens first" else [deter, tokens[:, t]]
        logit = rssm.post_out(rssm.post_in(torch.cat(seen, -1))).unflatten(-1, (rssm.stoch, rssm.classes))
        drawn = rssm.prior(deter) if wrong == "prior" else logit
        stoch = world_model.sample_latent(drawn, noise[:, t], rssm.unimix).flatten(-2)
        if wrong == "mode":
            stoch = F.one_hot(logit.argmax(-1), rssm.classes).float().flatten(-2)
        state = State(deter, stoch.detach() if wrong == "detached" else stoch)
        states.append(State(deter, stoch))
        logits.append(logit)
    return State(*(torch.stack(each, 1) for each in zip(*states, strict=True))), torch.stack(logits, 1)


OBSERVE_MISTAKES = {
    "never": "is_first is not used",
    "all": "a row begins anew where ITS episode does, whatever the other rows do",
    "deter": "deter is kept where an episode begins",
    "stoch": "stoch is kept where an episode begins",
    "action": "the action before an episode's first row still has an effect: it is of the episode before",
    "zero deter": "the first row's deter is core(0, 0, 0), not 0",
    "tokens first": "post_in takes [deter, tokens]",
    "prior": "the prior's sample is carried on: it is the posterior's",
    "mode": "the likeliest class is taken: it is a sample, by the noise",
}


def sequence(batch: int = 3, time: int = 7) -> dict[str, torch.Tensor]:
    """Sequence 1 begins an episode in the middle, sequence 0 with its first row, all of them with row 5."""
    is_first = torch.zeros(batch, time, dtype=torch.bool)
    is_first[0, 0] = True
    is_first[1, time // 2] = True
    is_first[:, 5:6] = True
    return {
        "tokens": torch.randn(batch, time, TOKENS),
        "prev_action": torch.randn(batch, time, ACTION),
        "is_first": is_first,
        "noise": torch.rand(batch, time, VARIABLES),
    }


def expect_states(found, expected, mistakes: dict | None = None, what: str = "") -> None:
    for name, one, other in zip(("deter", "stoch"), found[0], expected[0], strict=True):
        expect_close(one, other, mistakes=mistakes if name == "deter" else None, what=f"{name}{what}")
    expect_close(found[1], expected[1], what=f"the posterior's logits{what}")


@pytest.mark.exercise(id="4.8")
@pytest.mark.parametrize("kind", ["cont", "disc"])
def test_observe_agrees_with_the_official_code(kind):
    """Three sequences of five rows with two new episodes, and the samples that were drawn; actions of up to 3.6."""
    rssm, g = official_rssm(kind)
    start = State(g["deter0"], g["stoch0"].flatten(-2))
    inputs = (start, g["tokens"], g["action"], g["reset"], uniform_for(g["post_logit"], g["stoch"].argmax(-1)))
    post, logits = rssm.observe(*inputs)
    expect_close(post.deter, g["deter"], what="deter")
    expect_close(logits, g["post_logit"], what="the posterior's logits")
    expect_close(post.stoch, g["stoch"].flatten(-2), what="stoch")


@pytest.mark.exercise(id="4.8")
def test_observe_is_a_loop():
    """Core, posterior, sample, row by row. The wrong ways each give something else."""
    rssm, start, rows = make_rssm(), make_state(3), sequence()
    expected = observe_written_out(rssm, start, **rows)
    mistakes = {
        numbers(observe_written_out(rssm, start, **rows, wrong=wrong)[0].deter): text
        for wrong, text in OBSERVE_MISTAKES.items()
    }
    assert len(mistakes) == len(OBSERVE_MISTAKES)
    found = rssm.observe(start, **rows)
    assert found[0].deter.shape == (3, 7, DETER)
    assert found[0].stoch.shape == (3, 7, STOCH)
    assert found[1].shape == (3, 7, VARIABLES, CLASSES)
    expect_states(found, expected, mistakes)
    assert (found[0].stoch.detach().unflatten(-1, (VARIABLES, CLASSES)).sum(-1) == 1).all(), "stoch is not one-hot"


@pytest.mark.exercise(id="4.8")
def test_a_new_episode_knows_nothing_of_the_one_before():
    """Each sequence from its first row on is what a run of its own from zeros gives. Nothing before it matters, nor
    does the action that led to it."""
    rssm, rows = make_rssm(), sequence()
    found = rssm.observe(make_state(3), **rows)
    alone = {key: value[1:2, 3:] for key, value in rows.items()}
    fresh = rssm.observe(rssm.initial(1), **{**alone, "prev_action": alone["prev_action"] + 3})
    other = rssm.observe(rssm.initial(1), **{**alone, "prev_action": torch.cat([rows["prev_action"][1:2, 3:]], 1)})
    expect_close(found[0].deter[1:2, 3], fresh[0].deter[:, 0], what="deter of the first row, another action before it")
    expect_states((State(*(x[1:2, 3:] for x in found[0])), found[1][1:2, 3:]), other, what=" of the second episode")
    changed = {key: value.clone() for key, value in rows.items()}
    for key in ("tokens", "prev_action", "noise"):
        changed[key][1, :3] = torch.rand_like(changed[key][1, :3])
    again = rssm.observe(make_state(3), **changed)
    expect_close(again[0].deter[1, 3:], found[0].deter[1, 3:], what="deter after another first episode")
    assert (again[0].deter[1, :3] - found[0].deter[1, :3]).abs().max() > 1e-3


@pytest.mark.exercise(id="4.8")
def test_two_halves_are_the_whole():
    """The last state of the first half is where the second goes on."""
    rssm, start, rows = make_rssm(), make_state(3), sequence()
    whole = rssm.observe(start, **rows)
    first = rssm.observe(start, **{key: value[:, :3] for key, value in rows.items()})
    middle = State(*(x[:, -1] for x in first[0]))
    second = rssm.observe(middle, **{key: value[:, 3:] for key, value in rows.items()})
    expect_states(first, (State(*(x[:, :3] for x in whole[0])), whole[1][:, :3]), what=" of the first half")
    expect_states(second, (State(*(x[:, 3:] for x in whole[0])), whole[1][:, 3:]), what=" of the second half")


@pytest.mark.exercise(id="4.8")
@pytest.mark.parametrize(
    ("key", "deter_from", "logits_from"), [("tokens", 4, 3), ("prev_action", 3, 3), ("noise", 4, 4), ("is_first", 3, 3)]
)
def test_nothing_moves_before_its_time(key, deter_from, logits_from):
    """Row 3 changed: its tokens are seen by its posterior and remembered in row 4; its action LED to it."""
    rssm, start, rows = make_rssm(), make_state(3), sequence()
    rows["is_first"][:] = False
    if key == "noise":  # a number that draws another class
        logits = rssm.observe(start, **rows)[1]
        rows[key][:, 3] = uniform_for(logits[:, 3], torch.full((3, VARIABLES), 0))
    changed = {name: value.clone() for name, value in rows.items()}
    if key == "noise":
        changed[key][:, 3] = uniform_for(logits[:, 3], torch.full((3, VARIABLES), 3))
    else:
        changed[key][:, 3] = ~rows[key][:, 3] if key == "is_first" else rows[key][:, 3] + 1
    (one, logits), (two, others) = rssm.observe(start, **rows), rssm.observe(start, **changed)
    for name, a, b, begin in (("deter", one.deter, two.deter, deter_from), ("logits", logits, others, logits_from)):
        moved = (a - b).abs().flatten(2).amax((0, 2)) > 1e-4
        assert not moved[:begin].any(), f"{key} of row 3 changes {name} of row {int(moved.nonzero()[0])}"
        assert moved[begin], f"{key} of row 3 does not change {name} of row {begin}"


@pytest.mark.exercise(id="4.8")
def test_sample_is_drawn_with_the_models_share_of_chance():
    """unimix of this RSSM, for samples; the logits that are returned are without it."""
    rssm, start, rows = make_rssm(unimix=0.8, std=2.0), make_state(3), sequence()
    post, logits = rssm.observe(start, **rows)
    drawn = lambda unimix: world_model.sample_latent(logits, rows["noise"], unimix).flatten(-2).detach()
    mistakes = {numbers(drawn(0.01)): "unimix is that of the RSSM, self.unimix"}
    assert not torch.equal(drawn(0.01), drawn(0.8))
    expect_close(post.stoch, drawn(0.8), mistakes=mistakes, what="stoch, drawn from the logits with this noise")
    deter = post.deter
    plain = rssm.post_out(rssm.post_in(torch.cat([deter, rows["tokens"]], -1))).unflatten(-1, (VARIABLES, CLASSES))
    mistakes = {numbers(world_model.log_probs(plain, 0.8)): "the logits are to be returned as they are, without unimix"}
    expect_close(logits, plain, mistakes=mistakes, what="the posterior's logits")


@pytest.mark.exercise(id="4.8")
def test_gradient_flows_through_time():
    """From every state back into all tokens, actions, the start, and each weight, by way of deter AND of stoch."""
    rssm, start, rows = make_rssm(), make_state(3), sequence(time=5)
    leaves = {"tokens": rows["tokens"], "the actions": rows["prev_action"]}
    leaves |= {"the start's deter": start.deter, "the start's stoch": start.stoch}
    for leaf in leaves.values():
        leaf.requires_grad_()
    leaves |= {name: weight for name, weight in rssm.named_parameters() if not name.startswith("prior")}
    weights = torch.randn(3, 5, DETER), torch.randn(3, 5, STOCH), torch.randn(3, 5, VARIABLES, CLASSES)
    objective = lambda result: sum((w * x).sum() for w, x in zip(weights, (*result[0], result[1]), strict=True))
    expected = observe_written_out(rssm, start, **rows)
    check_gradients(objective(rssm.observe(start, **rows)), objective(expected), leaves)


@pytest.mark.exercise(id="4.8")
def test_observe_leaves_its_inputs_alone():
    rssm, start, rows = make_rssm(), make_state(3), sequence()
    before = [x.clone() for x in (*start, *rows.values())]
    first = rssm.observe(start, **rows)
    assert all(torch.equal(a, b) for a, b in zip((*start, *rows.values()), before, strict=True))
    expect_states(rssm.observe(start, **rows), first, what=", asked again: all chance is in the noise")


# ---- 4.9 kl_losses ----


def logits_of(*rows: list[float]) -> torch.Tensor:
    """(1, 1, variables, classes)."""
    return torch.tensor(rows)[None, None]


@pytest.mark.exercise(id="4.9")
@pytest.mark.parametrize(
    ("post", "expected", "plain", "swapped"),
    [
        (([2.0, 0.0], [0.0, 0.0]), 0.32027, 0.32781, 0.42022),
        (([6.0, 0.0], [6.0, 0.0]), 1.29847, 1.35167, 3.16055),
    ],
)
def test_kl_by_hand(post, expected, plain, swapped):
    """Two variables of two classes, before a prior that knows nothing."""
    mistakes = {
        plain: "unimix is not in the probabilities",
        swapped: "the two are swapped: it is KL(post || prior)",
        expected / 2: "the MEAN over the variables is taken: it is their sum",
        expected / 4: "the mean over variables and classes is taken: it is their sum",
        1.0: "free_nats of the call is not used",
        expected / math.log(2): "these are bits: the logarithm is the natural one",
    }
    mistakes.pop(expected, None)
    dyn, rep = world_model.kl_losses(logits_of(*post), torch.zeros(1, 1, 2, 2), free_nats=0.0)
    expect_close(dyn, [[expected]], mistakes=mistakes, what="dynamics loss")
    expect_close(rep, [[expected]], mistakes=mistakes, what="representation loss: the same number")


@pytest.mark.exercise(id="4.9")
@pytest.mark.parametrize("free", [1.0, 0.0])
def test_kl_losses_agree_with_the_official_code(free):
    """Values and both gradients of both losses. Below one nat there is none."""
    g = official("dv3_kl_losses")
    post, prior = g["post"].requires_grad_(), g["prior"].requires_grad_()
    case = f"free{free:.0f}"
    losses = dict(zip(("dyn", "rep"), world_model.kl_losses(post, prior, free_nats=free), strict=True))
    kl = (post.log_softmax(-1).exp() * (post.log_softmax(-1) - prior.log_softmax(-1))).sum(-1)
    values = {
        numbers(kl.sum(-1).clamp(min=free)): "unimix is not in the probabilities",
        numbers(g["dyn_free0"]): "free_nats is not used",
        numbers(g["dyn_free0"].mean().clamp(min=free)): "the maximum is taken state by state, not of the mean",
    }
    values.pop(numbers(g[f"dyn_{case}"]), None)
    for name, loss in losses.items():
        expect_close(loss, g[f"{name}_{case}"], mistakes=values, what=name)
        assert loss.requires_grad, f"{name} has no gradient: both sides are detached"
        found = torch.autograd.grad(
            loss.mean(), [post, prior], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for side, gradient in zip(("post", "prior"), found, strict=True):
            expected = g[f"grad_{name}_{side}_{case}"]
            mistakes = {0.0: f"{name} has no gradient: both sides are detached, or the wrong one"}
            if not expected.any():
                mistakes = {
                    numbers(g[f"grad_{other}_{side}_{case}"]): f"{name} is to move the other side alone"
                    for other in ("dyn", "rep")
                    if other != name
                }
            expect_close(gradient, expected, atol=1e-6, mistakes=mistakes, what=f"gradient of {name} in the {side}")
    if free:
        expect_close(losses["dyn"].mean() + 0.1 * losses["rep"].mean(), g["total_newest"], what="1.0 dyn + 0.1 rep")


@pytest.mark.exercise(id="4.9")
def test_a_nat_is_free_state_by_state():
    """KL 0.2, 0.8, 1.5, 3: (1 + 1 + 1.5 + 3) / 4 = 1.625. The maximum of the mean would be 1.375."""
    target = torch.tensor([0.2, 0.8, 1.5, 3.0], dtype=torch.float64)
    low, high = torch.zeros(4, dtype=torch.float64), torch.full((4,), 30.0, dtype=torch.float64)
    for _ in range(100):  # the logit of one class in 32 that costs so much
        middle = (low + high) / 2
        logits = torch.zeros(4, 32, dtype=torch.float64)
        logits[:, 0] = middle
        probs = 0.99 * logits.softmax(-1) + 0.01 / 32
        kl = (probs * (probs * 32).log()).sum(-1)
        low, high = torch.where(kl < target, middle, low), torch.where(kl < target, high, middle)
    post = torch.zeros(1, 4, 1, 32)
    post[0, :, 0, 0] = low.float()
    dyn, rep = world_model.kl_losses(post, torch.zeros(1, 4, 1, 32))
    mistakes = {
        (1.375,) * 4: "the maximum of the batch's mean is taken: state by state, and then the mean",
        (0.2, 0.8, 1.5, 3.0): "below free_nats the loss is free_nats",
        (0.0, 0.0, 0.5, 2.0): "free_nats is not subtracted: max(free_nats, KL)",
        (0.2, 0.8, 1.0, 1.0): "the LARGER of free_nats and KL is taken",
    }
    expect_close(dyn, [[1.0, 1.0, 1.5, 3.0]], rtol=1e-3, mistakes=mistakes, what="dynamics loss")
    expect_close(rep, [[1.0, 1.0, 1.5, 3.0]], rtol=1e-3, mistakes=mistakes, what="representation loss")


@pytest.mark.exercise(id="4.9")
def test_variables_are_summed_before_the_maximum():
    """32 variables of 0.1 nat: 3.2, not 32 (one nat for each of them) and not 1 (their mean)."""
    post = torch.zeros(2, 3, 32, 2)
    post[..., 0] = 0.954478  # 0.1 nat with unimix
    one = world_model.kl_losses(post[:, :, :1], torch.zeros(2, 3, 1, 2), free_nats=0.0)[0]
    expect_close(one, 0.1, rtol=1e-3, what="KL of one variable")
    dyn, _ = world_model.kl_losses(post, torch.zeros(2, 3, 32, 2))
    mistakes = {32.0: "each VARIABLE has a free nat: the state has one", 1.0: "the mean over the variables is taken"}
    expect_close(dyn, 3.2, rtol=1e-3, mistakes=mistakes, what="dynamics loss")


@pytest.mark.exercise(id="4.9")
@pytest.mark.parametrize(("free", "unimix"), [(1.0, 0.01), (0.0, 0.3), (4.0, 0.0), (2.5, 0.1)])
def test_kl_losses_against_float64(free, unimix):
    """Batches, times, variables, classes: none of the same length. Both options of the call count."""
    post, prior = 2 * torch.randn(2, 5, 3, 4), 2 * torch.randn(2, 5, 3, 4)
    before = post.clone(), prior.clone()
    mixed = lambda logits: (1 - unimix) * logits.double().softmax(-1) + unimix / 4
    kl = (mixed(post) * (mixed(post) / mixed(prior)).log()).sum((-2, -1))
    dyn, rep = world_model.kl_losses(post, prior, free_nats=free, unimix=unimix)
    assert dyn.shape == rep.shape == (2, 5), "one number for every state"
    expect_close(dyn, kl.clamp(min=free), what="dynamics loss")
    expect_close(rep, kl.clamp(min=free), what="representation loss")
    assert torch.equal(post, before[0]), "the caller's logits are changed"
    assert torch.equal(prior, before[1]), "the caller's logits are changed"


@pytest.mark.exercise(id="4.9")
def test_dyn_moves_the_prior_alone_and_rep_the_posterior_alone():
    post, prior = (4 * torch.randn(2, 3, 5, 4)).requires_grad_(), (4 * torch.randn(2, 3, 5, 4)).requires_grad_()
    by_dyn, by_rep = (
        torch.autograd.grad(loss.sum(), [post, prior], retain_graph=True, allow_unused=True, materialize_grads=True)
        for loss in world_model.kl_losses(post, prior)
    )
    assert not by_dyn[0].any(), "the dynamics loss moves the posterior: detach it there"
    assert by_dyn[1].any(), "the dynamics loss does not move the prior"
    assert not by_rep[1].any(), "the representation loss moves the prior: detach it there"
    assert by_rep[0].any(), "the representation loss does not move the posterior"


@pytest.mark.exercise(id="4.9")
def test_sure_logits_stay_finite():
    """Certain of the wrong class, without unimix 800 nats: with it at most 5.9 for each variable of four classes."""
    post = torch.tensor([400.0, -400.0, 0, 0]).expand(1, 2, 3, 4).clone().requires_grad_()
    prior = torch.tensor([-400.0, 400.0, 0, 0]).expand(1, 2, 3, 4).clone().requires_grad_()
    dyn, rep = world_model.kl_losses(post, prior)
    expect_close(dyn, 3 * 5.9204, rtol=1e-3, mistakes={2400.0: "unimix is not in the probabilities"}, what="dyn")
    gradients = torch.autograd.grad((dyn + rep).sum(), [post, prior])
    assert all(gradient.isfinite().all() for gradient in gradients)


# ---- 4.10 world_model_losses ----


class FixedDecoder(nn.Module):
    """Gives the same means, whatever it sees, and keeps what it saw."""

    def __init__(self, **means: torch.Tensor):
        super().__init__()
        self.means = means
        self.seen: list[State] = []

    def forward(self, deter, stoch):
        self.seen.append(State(deter, stoch))
        return self.means


class FixedLogit(nn.Module):
    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits, self.seen = logits, []

    def forward(self, feat):
        self.seen.append(feat)
        return self.logits[..., None]


def make_model(observations=BOTH, **options) -> world_model.WorldModel:
    model = world_model.WorldModel(Config(**{**SMALL, **options}), observations, ACTION)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def make_batch(batch: int = 2, time: int = 4) -> dict[str, torch.Tensor]:
    """The first sequence truly ends at its third row; the second is cut off by time at its second."""
    flags = {name: torch.zeros(batch, time, dtype=torch.bool) for name in ("is_first", "is_last", "is_terminal")}
    flags["is_terminal"][0, 2] = flags["is_last"][0, 2] = True
    flags["is_last"][1:, 1] = True
    return {
        "image": torch.rand(batch, time, 3, 16, 16),
        "vector": 3 * torch.randn(batch, time, 5),
        "prev_action": torch.randn(batch, time, ACTION),
        "reward": 2 * torch.randn(batch, time),
        **flags,
    }


def make_post(batch: int = 2, time: int = 4, deter: int = 16) -> tuple[State, torch.Tensor]:
    """Posteriors and their logits, as leaves."""
    classes = torch.randint(CLASSES, (batch, time, VARIABLES))
    stoch = F.one_hot(classes, CLASSES).flatten(-2).float()
    state = State(torch.randn(batch, time, deter).requires_grad_(), stoch.requires_grad_())
    return state, (2 * torch.randn(batch, time, VARIABLES, CLASSES)).requires_grad_()


def official_model() -> tuple[world_model.WorldModel, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Networks of the official example, of one layer each; its two vectors are one here, `alpha` before `vec`."""
    g = official("dv3_world_model_loss")
    config = Config(deter=8, hidden=3, stoch=2, classes=4, blocks=4, units=8, bins=21)
    model = world_model.WorldModel(config, VECTOR, 2)
    model.encoder = world_model.Encoder(VECTOR, (2,), 8, layers=1)
    model.decoder = world_model.Decoder(VECTOR, 8, 8, (2,), 8, 3, 4, layers=1)
    for key in ("kernel", "bias"):
        heads = [g[f"param.dec.vec.{name}.pred.{key}"] for name in ("alpha", "vec")]
        g[f"param.dec.vec.{key}"] = torch.cat(heads, -1)
    kernel = g["param.dec.mlp.linear0.kernel"]  # of [stoch, deter]; here it is [deter, stoch]
    g["param.dec.mlp.linear0.kernel"] = torch.cat([kernel[8:], kernel[:8]])
    take_rssm(model.rssm, g, "dyn.")
    take_dense(model.encoder.vector[0], g, "enc.mlp0", "enc.mlp0norm")
    take_dense(model.decoder.vector[0][0], g, "dec.mlp.linear0", "dec.mlp.norm0")
    take(model.decoder.vector[1], g, "dec.vec")
    take_dense(model.reward.layers[0][0], g, "rew.mlp.linear0", "rew.mlp.norm0")
    take(model.reward.layers[1], g, "rew.head.logits")
    model.reward.bins = g["bins"]
    take_dense(model.cont[0][0], g, "con.mlp.linear0", "con.mlp.norm0")
    take(model.cont[1], g, "con.head.logit")
    batch = {
        "vector": torch.cat([g["obs_alpha"], g["obs_vec"]], -1),
        "prev_action": g["prev_action"],
        **{name: g[f"obs_{name}"] for name in ("reward", "is_first", "is_last", "is_terminal")},
    }
    return model, g, batch


@pytest.mark.exercise(id="4.10")
def test_losses_and_every_gradient_agree_with_the_official_code():
    """Encoder, RSSM, decoder and heads of the official example, from its observations to each weight's gradient."""
    model, g, batch = official_model()
    tokens = model.encoder(batch)
    expect_close(tokens, g["tokens"], what="tokens")
    start = State(g["carry_deter"], g["carry_stoch"].flatten(-2))
    noise = uniform_for(g["logit"], g["stoch"].argmax(-1))
    post, logits = model.rssm.observe(start, tokens, batch["prev_action"], batch["is_first"], noise)
    expect_close(post.deter, g["deter"], what="deter")
    losses = world_model.world_model_losses(model, batch, post, logits)
    assert losses.keys() == {"vector", "reward", "cont", "dyn", "rep"}
    expected = {name: g[f"loss_{other}"] for name, other in (("reward", "rew"), ("cont", "con"))}
    expected |= {name: g[f"loss_{name}"] for name in ("dyn", "rep")}
    expected["vector"] = g["loss_alpha"] + g["loss_vec"]
    raw = (symexp(model.decoder(*post)["vector"]) - batch["vector"]).square().sum(-1)
    hard = F.binary_cross_entropy_with_logits(
        model.cont_logit(post.feat), (~batch["is_terminal"]).float(), reduction="none"
    )
    mistakes = {
        "vector": {
            numbers(expected["vector"] / 5): "the mean over the vector's numbers is taken: it is their sum",
            numbers(expected["vector"] / 2): "the squared error is halved",
            numbers(raw): "the decoder speaks of symlog: its target is symlog(vector)",
            numbers(
                (model.decoder(*post)["vector"] - batch["vector"]).square().sum(-1)
            ): "the target is symlog(vector)",
        },
        "cont": {numbers(hard): "the label is soft: config.discount where the episode goes on, not 1"},
    }
    for name, value in expected.items():
        expect_close(losses[name], value, mistakes=mistakes.get(name), what=f"loss {name!r}")

    scales = {"rep": 0.1}
    total = sum(scales.get(name, 1.0) * loss.mean() for name, loss in losses.items())
    expect_close(total, g["loss"], what="the weighted sum")
    total.backward()
    grad = lambda name: g[f"grad.{name}"]
    layers = {
        "enc.mlp0": model.encoder.vector[0][0],
        "dec.mlp.linear0": model.decoder.vector[0][0][0],
        "rew.head.logits": model.reward.layers[1],
        "con.head.logit": model.cont[1],
        "dyn.dynin0": model.rssm.deter_in[0],
        "dyn.dynin1": model.rssm.stoch_in[0],
        "dyn.dynin2": model.rssm.action_in[0],
        "dyn.dynhid0": model.rssm.core_hidden,
        "dyn.dyngru": model.rssm.core_gates,
        "dyn.prior0": model.rssm.prior_net[0][0][0],
        "dyn.priorlogit": model.rssm.prior_net[1],
        "dyn.obs0": model.rssm.post_in[0],
        "dyn.obslogit": model.rssm.post_out,
    }
    for name, layer in layers.items():
        kernel = grad(f"{name}.kernel")
        kernel = torch.cat([kernel[8:], kernel[:8]]) if name == "dec.mlp.linear0" else kernel
        wanted = kernel.T if kernel.ndim == 2 else kernel
        none = {0.0: f"no gradient reaches {name}"}
        expect_close(layer.weight.grad, wanted, rtol=1e-3, atol=1e-5, mistakes=none, what=f"gradient of {name}")
        expect_close(layer.bias.grad, grad(f"{name}.bias"), rtol=1e-3, atol=1e-5, what=f"gradient of {name}'s bias")


@pytest.mark.exercise(id="4.10")
def test_an_image_that_is_a_tenth_off_costs_122():
    """64 x 64 x 3 times 0.01: summed over pixels and channels, not halved; one number for every row."""
    model, batch = make_model(IMAGE), make_batch()
    batch["image"] = torch.rand(2, 4, 3, 64, 64)
    model.decoder = FixedDecoder(image=batch["image"] + 0.1)
    losses = world_model.world_model_losses(model, batch, *make_post())
    assert losses.keys() == {"image", "reward", "cont", "dyn", "rep"}
    mistakes = {
        0.01: "the MEAN over the pixels is taken: it is their sum",
        61.44: "the squared error is halved",
        1228.8: "the error is not squared",
        40.96: "the mean over the channels is taken",
    }
    assert losses["image"].shape == (2, 4)
    expect_close(losses["image"], 122.88, rtol=1e-3, mistakes=mistakes, what="loss of the image")


@pytest.mark.exercise(id="4.10")
def test_a_vector_is_compared_in_symlog_space():
    """symlog(e - 1) = 1: with a mean of 0 each number costs 1, of five numbers there are 5."""
    model, batch = make_model(VECTOR), make_batch()
    batch["vector"] = torch.full((2, 4, 5), math.e - 1)
    model.decoder = FixedDecoder(vector=torch.zeros(2, 4, 5))
    losses = world_model.world_model_losses(model, batch, *make_post())
    mistakes = {
        5 * (math.e - 1) ** 2: "the target is symlog(vector), not the vector",
        1.0: "the mean over the numbers is taken: it is their sum",
        2.5: "the squared error is halved",
    }
    expect_close(losses["vector"], 5.0, mistakes=mistakes, what="loss of the vector")
    batch["image"] = torch.full((2, 4, 3, 16, 16), 0.5)
    model.decoder = FixedDecoder(vector=symlog(batch["vector"]), image=torch.zeros(2, 4, 3, 16, 16))
    losses = world_model.world_model_losses(model, batch, *make_post())
    expect_close(losses["vector"], 0.0, what="loss of a perfect vector")
    mistakes = {768 * math.log(1.5) ** 2: "images are not put through symlog"}
    expect_close(losses["image"], 192.0, mistakes=mistakes, what="loss of the image")


@pytest.mark.exercise(id="4.10")
@pytest.mark.parametrize("observations", [IMAGE, VECTOR, BOTH])
def test_every_row_has_its_own_loss_of_every_part(observations):
    """A loss for whatever is observed; a changed row changes its own loss alone; the batch stays as it is."""
    model, batch, (post, logits) = make_model(observations), make_batch(), make_post()
    batch = {key: value for key, value in batch.items() if key in observations.spaces or key not in BOTH.spaces}
    before = {key: value.clone() for key, value in batch.items()}
    losses = world_model.world_model_losses(model, batch, post, logits)
    assert losses.keys() == {*observations.spaces, "reward", "cont", "dyn", "rep"}
    for name, loss in losses.items():
        assert loss.shape == (2, 4), f"{name} has shape {tuple(loss.shape)}, not one number for every row"
    changed = {key: value.clone() for key, value in batch.items()}
    for key in observations.spaces:
        changed[key][1, 2] += 0.5
    changed["reward"][1, 2] += 3
    changed["is_terminal"][1, 2] = True
    others = world_model.world_model_losses(model, changed, post, logits)
    for name in losses.keys() - {"dyn", "rep"}:
        moved = (losses[name] != others[name]).nonzero().tolist()
        assert moved == [[1, 2]], f"row [1, 2] of the batch changes {name} in {moved}"
    assert all(torch.equal(value, before[key]) for key, value in batch.items()), "the caller's batch is changed"


@pytest.mark.exercise(id="4.10")
def test_reward_is_the_heads_two_hot_loss():
    """At first the head says nothing: ln 255 for any reward. Later: its own loss, of the reward as it is."""
    model, batch, (post, logits) = make_model(bins=255), make_batch(), make_post()
    nn.init.zeros_(model.reward.layers[1].weight)
    losses = world_model.world_model_losses(model, batch, post, logits)
    expect_close(losses["reward"], 5.541264, what="loss of the first reward")
    nn.init.normal_(model.reward.layers[1].weight)
    losses = world_model.world_model_losses(model, batch, post, logits)
    prediction = model.reward(post.feat)
    shifted = torch.cat([batch["reward"][:, 1:], batch["reward"][:, :1]], 1)
    mistakes = {
        numbers(prediction.loss(symlog(batch["reward"]))): "the bins are of any size already: no symlog of the reward",
        numbers(prediction.loss(batch["reward"].tanh())): "rewards are not squashed",
        numbers(prediction.loss(shifted)): "a row's reward is the one received on ARRIVAL in it: nothing is shifted",
    }
    expect_close(losses["reward"], prediction.loss(batch["reward"]), mistakes=mistakes, what="loss of the reward")


@pytest.mark.exercise(id="4.10")
@pytest.mark.parametrize(("discount", "best", "least"), [(1 - 1 / 333, 5.80513, 0.02044), (0.9, 2.19722, 0.32508)])
def test_soft_label_of_the_continue_head(discount, best, least):
    """Where the episode goes on the label is the discount, at a true end 0; a time limit is no end."""
    model, batch = make_model(IMAGE, discount=discount), make_batch()
    model.cont = FixedLogit(torch.full((2, 4), best))
    losses = world_model.world_model_losses(model, batch, *make_post())
    expected = torch.full((2, 4), least)
    expected[0, 2] = math.log1p(math.exp(best))
    cut = expected.clone()
    cut[1, 1] = expected[0, 2]
    softplus = math.log1p(math.exp(best))
    mistakes = {
        numbers(cut): "is_last is used: a time limit is no end, is_terminal is",
        numbers(torch.where(expected == least, softplus - best, softplus)): "the label is 1: it is config.discount",
        numbers(torch.where(expected == least, softplus, least)): "it is 0 where the row IS terminal",
        numbers(torch.full((2, 4), least)): "is_terminal is not used",
    }
    expect_close(losses["cont"], expected, rtol=1e-3, mistakes=mistakes, what="loss of going on")
    model.cont = FixedLogit(torch.zeros(2, 4))
    losses = world_model.world_model_losses(model, batch, *make_post())
    expect_close(losses["cont"], math.log(2), what="at logit 0, whatever the label")
    logits = torch.zeros(2, 4, requires_grad=True)
    model.cont = FixedLogit(logits)
    losses = world_model.world_model_losses(model, batch, *make_post())
    (gradient,) = torch.autograd.grad(losses["cont"].sum(), logits)
    expect_close(gradient, 0.5 - discount * (~batch["is_terminal"]).float(), what="its gradient in the logits")


@pytest.mark.exercise(id="4.10")
@pytest.mark.parametrize("logit", [200.0, -200.0])
def test_a_sure_continue_head_has_a_finite_loss(logit):
    """In float32 the sigmoid of 200 is 1, of -200 it is 0; the cross entropy is 200 times the label that it missed."""
    model, batch = make_model(IMAGE, discount=0.9), make_batch()
    logits = torch.full((2, 4), logit, requires_grad=True)
    model.cont = FixedLogit(logits)
    losses = world_model.world_model_losses(model, batch, *make_post())
    label = 0.9 * (~batch["is_terminal"]).float()
    missed = 1 - label if logit > 0 else label
    expect_close(losses["cont"], 200 * missed, what="loss of going on")
    (gradient,) = torch.autograd.grad(losses["cont"].sum(), logits)
    expect_close(gradient, missed if logit > 0 else -missed, what="its gradient in the logits")


def test_continue_loss_agrees_with_the_official_code():
    """Given logits and soft labels: the formula that exercise 4.10 is graded with is the official one."""
    g = official("dv3_continue_and_symlog_mse")
    logits = g["con_logit"].requires_grad_()
    loss = F.binary_cross_entropy_with_logits(logits, g["con_target"], reduction="none")
    expect_close(loss, g["con_loss"], what="loss of going on")
    expect_close(torch.autograd.grad(loss.sum(), logits)[0], g["con_grad"], what="its gradient")
    model, batch = make_model(VECTOR), make_batch(1, 6)
    some = g["con_target"] == 0
    model.config.discount = float(g["con_target"].max())
    batch["is_terminal"][0] = some
    model.cont = FixedLogit(g["con_logit"][None])
    batch["vector"] = g["mse_target"].repeat(1, 2)[None, :, :5]
    model.decoder = FixedDecoder(vector=g["mse_pred"].repeat(1, 2)[None, :, :5])
    losses = world_model.world_model_losses(model, batch, *make_post(1, 6))
    both = some | (g["con_target"] == g["con_target"].max())
    expect_close(losses["cont"][0][both], g["con_loss"][both], what="loss of going on, as the world model has it")
    each = (g["mse_pred"] - symlog(g["mse_target"])).square()
    expect_close(each.sum(-1), g["mse_loss"], what="squared error in symlog space")
    expect_close(losses["vector"][0], g["mse_loss"] + each[:, :2].sum(-1), what="loss of the vector")
    expect_close(g["con_logit"].sigmoid(), g["con_prob"], what="the probability that imagination uses")


@pytest.mark.exercise(id="4.10")
@pytest.mark.parametrize(("free", "unimix"), [(1.0, 0.01), (0.0, 0.3)])
def test_kl_is_held_against_the_prior_of_the_posteriors_deter(free, unimix):
    """With the config's free nats and unimix."""
    model, (post, logits) = make_model(IMAGE, free_nats=free, unimix=unimix), make_post()
    prior = model.rssm.prior(post.deter)
    losses = world_model.world_model_losses(model, make_batch(), post, logits)
    expected = world_model.kl_losses(logits, prior, free, unimix)
    mistakes = {
        numbers(world_model.kl_losses(prior, logits, free, unimix)[0]): "posterior and prior are swapped",
        numbers(world_model.kl_losses(logits, prior, 1.0 - free, unimix)[0]): "config.free_nats is not used",
        numbers(world_model.kl_losses(logits, prior, free, 0.31 - unimix)[0]): "config.unimix is not used",
    }
    expect_close(losses["dyn"], expected[0], mistakes=mistakes, what="dyn")
    expect_close(losses["rep"], expected[1], mistakes=mistakes, what="rep")


def gradients_of(loss: torch.Tensor, post: State, logits: torch.Tensor) -> dict[str, bool]:
    """Which of the posteriors' tensors a loss moves."""
    leaves = {**post._asdict(), "logits": logits}
    found = torch.autograd.grad(
        loss.sum(), list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return {name: bool(gradient.any()) for name, gradient in zip(leaves, found, strict=True)}


@pytest.mark.exercise(id="4.10")
def test_each_loss_shapes_what_it_should():
    """Decoder and heads teach deter and stoch. `dyn` asks of deter to be predictable from, and leaves the posterior's
    logits alone; `rep` moves these."""
    model, (post, logits) = make_model(BOTH, free_nats=0.0), make_post()
    losses = world_model.world_model_losses(model, make_batch(), post, logits)
    for name in ("image", "vector", "reward", "cont"):
        found = gradients_of(losses[name], post, logits)
        assert found == {"deter": True, "stoch": True, "logits": False}, f"{name} moves {found}"
    assert gradients_of(losses["dyn"], post, logits) == {"deter": True, "stoch": False, "logits": False}
    assert gradients_of(losses["rep"], post, logits) == {"deter": False, "stoch": False, "logits": True}
    (gradient,) = torch.autograd.grad(losses["dyn"].sum(), model.rssm.prior_net[1].bias, allow_unused=True)
    assert gradient is not None, "dyn does not teach the prior"


@pytest.mark.exercise(id="4.10")
@pytest.mark.parametrize(
    ("options", "quiet"),
    [
        ({"recon_grad": False}, {"image", "vector"}),
        ({"reward_grad": False}, {"reward"}),
        ({"recon_grad": False, "reward_grad": False}, {"image", "vector", "reward"}),
    ],
)
def test_ablations_turn_off_the_gradient_and_not_the_loss(options, quiet):
    """The heads still learn, and the values stay: only the representation is no longer shaped by them. The continue
    head always shapes it."""
    model, (post, logits), batch = make_model(BOTH, **options), make_post(), make_batch()
    losses = world_model.world_model_losses(model, batch, post, logits)
    for option in options:
        setattr(model.config, option, True)
    usual = world_model.world_model_losses(model, batch, post, logits)
    for name in losses:
        expect_close(losses[name], usual[name], what=f"loss {name!r}, with and without its gradient")
    for name in ("image", "vector", "reward", "cont"):
        found = gradients_of(losses[name], post, logits)
        assert found["deter"] == found["stoch"] == (name not in quiet), f"{name} moves {found} under {options}"
        part = {"reward": model.reward, "cont": model.cont}.get(name, model.decoder)
        weights = list(part.parameters())
        own = torch.autograd.grad(losses[name].sum(), weights, allow_unused=True, materialize_grads=True)
        assert any(gradient.any() for gradient in own), f"the network behind {name} no longer learns"


@pytest.mark.exercise(id="4.10")
def test_decoder_and_heads_see_the_posterior_itself():
    model, (post, logits) = make_model(IMAGE), make_post()
    batch = make_batch()
    model.decoder, model.cont = FixedDecoder(image=batch["image"]), FixedLogit(torch.zeros(2, 4))
    seen, head = [], model.reward.forward
    model.reward.forward = lambda feat: seen.append(feat) or head(feat)
    world_model.world_model_losses(model, batch, post, logits)
    assert model.decoder.seen, "the decoder is not used"
    for state in model.decoder.seen:
        expect_close(state.deter, post.deter, what="deter, as the decoder sees it")
        expect_close(state.stoch, post.stoch, what="stoch, as the decoder sees it")
    for name, feats in (("reward", seen), ("continue", model.cont.seen)):
        assert feats, f"the {name} head is not used"
        for feat in feats:
            mistakes = {numbers(torch.cat([post.stoch, post.deter], -1)): "it sees [stoch, deter]: use post.feat"}
            expect_close(feat, post.feat, mistakes=mistakes, what=f"what the {name} head sees")


@pytest.mark.exercise(id="4.10")
def test_other_reward_heads_bring_their_own_loss():
    """The ablation with half a squared error, and the two-hot code of 2023."""
    (post, logits), batch = make_post(), make_batch()
    for options in ({"reward_head": "mse"}, {"bin_space": "symlog"}):
        model = make_model(IMAGE, **options)
        losses = world_model.world_model_losses(model, batch, post, logits)
        expect_close(losses["reward"], model.reward(post.feat).loss(batch["reward"]), what=f"reward under {options}")
    model = make_model(IMAGE, reward_head="mse")
    expected = 0.5 * (model.reward(post.feat).mean() - batch["reward"]) ** 2
    losses = world_model.world_model_losses(model, batch, post, logits)
    expect_close(losses["reward"], expected, what="half the squared error")


# ---- given: layers ----


def test_rms_norm_agrees_with_the_official_code():
    g = official("dv3_rms_layer_norm")
    norm = world_model.RMSNorm(10)
    with torch.no_grad():
        norm.scale.copy_(g["scale"])
    x = g["x"].requires_grad_()
    found = norm(x)
    mistakes = {numbers(g["layer"] - g["shift"]): "this is LayerNorm: no mean is taken off"}
    expect_close(found, g["rms"], mistakes=mistakes, what="the norm")
    gradients = torch.autograd.grad((found * g["upstream"]).sum(), [x, norm.scale])
    expect_close(gradients[0], g["rms_grad_x"], what="gradient in x")
    expect_close(gradients[1], g["rms_grad_scale"], what="gradient in the scale")
    assert len(list(norm.parameters())) == 1, "there is no shift"


def test_rms_norm_by_hand():
    """A constant does not become 0, and 0.01 becomes 0.7071: eps is 1e-4 inside the root."""
    norm = world_model.RMSNorm(6)
    expect_close(norm(torch.full((2, 6), 3.0)), 0.99999, rtol=1e-4, what="the norm of threes")
    expect_close(norm(torch.full((2, 6), 0.01)), 0.70711, mistakes={0.995: "eps is 1e-6"}, what="the norm of 0.01")
    image = torch.randn(2, 6, 4, 5)
    pixels = norm(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    expect_close(world_model.ChannelNorm(6)(image), pixels, what="the norm over channels")


def test_weights_begin_as_the_official_ones():
    """A normal distribution cut off at twice its width, made up for: std 1 / sqrt(fan in), bound 2.27 times that."""
    g = golden("dv3_init_stats")
    for (fan_in, _), bound, std in zip(g["fans"], g["bound"], g["std"], strict=True):
        weight = torch.empty(100_000)
        world_model.initialize(weight, int(fan_in))
        expect_close(weight.std(), std, rtol=0.02, what=f"std at a fan-in of {fan_in}")
        assert 0.98 * bound < weight.abs().max() <= 1.0001 * bound
    layers = {
        "linear": (world_model.Linear(300, 400), 300),
        "scaled": (world_model.Linear(300, 400, 0.01), 300e4),
        "convolution": (world_model.Conv(16, 40), 400),
    }
    for name, (layer, fan_in) in layers.items():
        expect_close(layer.weight.std(), fan_in**-0.5, rtol=0.03, what=f"std of the {name}")
        assert (layer.bias == 0).all()


@pytest.mark.parametrize("space", ["symexp", "symlog"])
def test_scalar_heads_begin_by_saying_nothing(space):
    """All logits 0: the mean is exactly 0, the loss ln 255."""
    head = world_model.ScalarHead(12, 3, 16, 255, space)
    prediction = head(torch.randn(2, 3, 12))
    assert (prediction.logits == 0).all()
    assert (prediction.mean() == 0).all()
    expect_close(prediction.loss(torch.randn(2, 3)), 5.541264, what="the first loss")


# ---- given: encoder and decoder ----


def official_autoencoder() -> tuple[world_model.Encoder, world_model.Decoder, dict[str, torch.Tensor]]:
    g = official("dv3_encoder_decoder")
    encoder = world_model.Encoder(BOTH, (2, 4), 6, layers=1)
    decoder = world_model.Decoder(BOTH, 8, 6, (2, 4), 6, 6, 2, layers=1)
    take_dense(encoder.vector[0], g, "enc.mlp0", "enc.mlp0norm")
    take_dense(encoder.image[0:2], g, "enc.cnn0", "enc.cnn0norm")
    take_dense(encoder.image[3:5], g, "enc.cnn1", "enc.cnn1norm")
    kernel = g["param.dec.mlp.linear0.kernel"]  # of [stoch, deter]; here it is [deter, stoch]
    g["param.dec.mlp.linear0.kernel"] = torch.cat([kernel[6:], kernel[:6]])
    take_dense(decoder.vector[0][0], g, "dec.mlp.linear0", "dec.mlp.norm0")
    take(decoder.vector[1], g, "dec.vec.vec.pred")
    take(decoder.from_deter, g, "dec.sp0")
    take_dense(decoder.from_stoch[0], g, "dec.sp1", "dec.sp1norm")
    take(decoder.from_stoch[1], g, "dec.sp2")
    take_dense(decoder.image[0:2], g, "dec.conv0", "dec.conv0norm")
    take(decoder.image[3], g, "dec.imgout")
    with torch.no_grad():
        decoder.start[0].scale.copy_(g["param.dec.spnorm.scale"])
    return encoder, decoder, g


def test_encoder_agrees_with_the_official_code():
    """Vector first, then the picture's height, width and channels; pixels are in [0, 1] here, 0.5 is taken off."""
    encoder, _, g = official_autoencoder()
    tokens = encoder({"image": world_model.preprocess(g["image"]), "vector": g["vec"]})
    expect_close(tokens, g["tokens"], what="tokens")


def test_decoder_agrees_with_the_official_code():
    """Picture after the sigmoid, vector in symlog space; the losses of both, too."""
    _, decoder, g = official_autoencoder()
    means = decoder(g["deter"], g["stoch"].flatten(-2))
    image = world_model.preprocess(g["image"])
    expect_close(means["image"].movedim(-3, -1), g["rec_image"], what="image")
    expect_close(means["vector"], g["rec_vec"], what="vector")
    expect_close((means["image"] - image).square().sum((-3, -2, -1)), g["loss_image"], what="loss of the image")
    expect_close((means["vector"] - symlog(g["vec"])).square().sum(-1), g["loss_vec"], what="loss of the vector")
    expect_close(world_model.decoded(means)["vector"], symexp(g["rec_vec"]), what="the vector, out of symlog space")


def test_pictures_can_be_decoded_without_a_sigmoid():
    """As in 2023: the last layer's output plus 0.5, where the paper squashes it. The weights are the same."""
    decoders = []
    for squash in (True, False):
        torch.manual_seed(0)
        decoders.append(make_model(IMAGE, squash_image=squash).decoder)
    state = torch.randn(2, 3, 16), torch.randn(2, 3, STOCH)
    squashed, plain = (decoder(*state)["image"] for decoder in decoders)
    expect_close(plain, squashed.double().logit() + 0.5, rtol=1e-3, atol=1e-3, what="the mean without the sigmoid")


def test_up_is_a_convolution_of_the_picture_doubled():
    """The folded kernels give the same sums, at the borders, too; and the same gradient."""
    up, x = world_model.Up(3, 5), torch.randn(2, 3, 4, 6)
    nn.init.normal_(up.bias)
    doubled = F.interpolate(x, scale_factor=2, mode="nearest")
    expected = F.conv2d(doubled, up.weight, up.bias, padding=2)
    expect_close(up(x), expected, what="the picture")
    weight = torch.randn_like(expected)
    check_gradients((up(x) * weight).sum(), (expected * weight).sum(), dict(up.named_parameters()))


def test_down_halves_the_picture():
    """By the maximum of 2x2, or in steps of two with the odd pixel of the padding at the end."""
    x = torch.randn(2, 3, 8, 12)
    down = world_model.Down(3, 5, strided=False)
    same = F.conv2d(x, down.weight, down.bias, padding=2)
    expect_close(down(x), same.unflatten(-1, (6, 2)).unflatten(-3, (4, 2)).amax((-3, -1)), what="pooled")
    strided = world_model.Down(3, 5, strided=True)
    same = F.conv2d(F.pad(x, (1, 2, 1, 2)), strided.weight, strided.bias)[..., ::2, ::2]
    expect_close(strided(x), same, what="in steps of two")


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(("side", "channels"), [(64, 3), (96, 1)])
def test_pictures_become_tokens_and_pictures_again(side, channels, strided):
    """64 -> 4x4, 96 -> 6x6, of 4 times depth channels; the mean lies in (0, 1)."""
    space = spaces.Dict(image=spaces.Box(0, 255, (side, side, channels), np.uint8))
    model = world_model.WorldModel(Config(**SMALL, strided=strided), space, 2)
    assert model.encoder.tokens == (side // 16) ** 2 * 8
    tokens = model.encoder({"image": torch.rand(2, 1, channels, side, side)})
    assert tokens.shape == (2, 1, model.encoder.tokens)
    mean = model.decoder(torch.randn(2, 1, 16), torch.randn(2, 1, 12))["image"]
    assert mean.shape == (2, 1, channels, side, side)
    assert ((mean > 0) & (mean < 1)).all()


def test_bytes_become_numbers_and_bytes_again():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    expect_close(world_model.preprocess(image).flatten(), [0.0, 0.2, 1.0], what="preprocess")
    assert torch.equal(world_model.to_image(world_model.preprocess(image)), image)


def test_vectors_are_seen_in_symlog_space():
    """A joint's angle and a distance of a million: the first layer sees 13.8 of it."""
    encoder, seen = world_model.Encoder(VECTOR, (2,), 4), []
    encoder.vector.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder({"vector": torch.tensor([[0.5, -3.0, 1e6, 0.0, 1.0]])})
    expect_close(seen[0], [[0.405465, -1.386294, 13.815512, 0.0, 0.693147]], what="what the first layer sees")
