"""The optimiser: exercise 4.17."""

import copy

import numpy as np
import pytest
import torch
import torch._dynamo  # an optimiser imports it, which takes seconds: not within a test
from torch import nn

from paper4_dreamerv3.optimizer import LaProp
from tests.helpers import expect_close, golden, numbers

NAMES = ("a", "b", "c")  # of the official example: a matrix, a vector of zeros, a small matrix


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def official() -> tuple[dict[str, torch.Tensor], list[nn.Parameter]]:
    g = {key: torch.tensor(value) for key, value in golden("dv3_laprop_agc").items()}
    return g, [nn.Parameter(g[f"param0_{name}"].clone()) for name in NAMES]


def directions(optimizer: LaProp, gradients: list[torch.Tensor], state: dict | None = None) -> list[torch.Tensor]:
    """What exercise 4.17 gives for the optimiser's only group; `state` keeps rms and momentum between the calls."""
    (group,), state = optimizer.param_groups, {} if state is None else state
    group["steps"] += 1
    parameters = [each.data for each in group["params"]]
    for name in ("rms", "momentum"):
        state.setdefault(name, [torch.zeros_like(each) for each in parameters])
    return optimizer.directions(parameters, gradients, state["rms"], state["momentum"], group)


def unclipped(parameters: list[torch.Tensor], **options) -> LaProp:
    return LaProp([nn.Parameter(each) for each in parameters], agc=1e9, **options)


# ---- 4.17 directions ----


@pytest.mark.exercise(id="4.17")
def test_gradients_1_and_a_tenth_by_hand():
    """Step 1 is 1, whatever the gradient. Then 0.1 and 0.1: 0.5478 and 0.4090, where Adam has 0.7408 and 0.6331."""
    optimizer, state = unclipped([torch.ones(3)]), {}
    found = [directions(optimizer, [torch.full((3,), each)], state)[0][0].item() for each in (1.0, 0.1, 0.1)]
    mistakes = {
        (1.0, 0.7408, 0.6331): "this is Adam: the momentum is to be that of the DIVIDED gradient",
        (1.0, 0.1406, 0.1721): "there is no momentum: this is RMSProp",
        (0.1, 0.1041, 0.1108): "momentum / (1 - b1^n): it begins at 0, and that is made up for",
        (3.1623, 0.5478, 0.4090): "rms / (1 - b2^n): it begins at 0, and that is made up for",
        (-1.0, -0.5478, -0.4090): "the sign: `step` subtracts the direction",
    }
    expect_close(found, [1.0, 0.54775, 0.40903], rtol=1e-3, mistakes=mistakes, what="directions")


@pytest.mark.exercise(id="4.17")
@pytest.mark.parametrize("size", [1e-12, 1e-4, 1.0, 1e6])
def test_first_step_has_the_size_of_the_learning_rate(size):
    """Also for gradients of 1e-12: an eps of 1e-8, Adam's, would make 1e-4 of it."""
    gradient = size * torch.tensor([1.0, -0.5, 3.0])
    (found,) = directions(unclipped([torch.ones(3)]), [gradient])
    mistakes = {
        numbers(gradient / (gradient.abs() + 1e-8)): 'eps is group["eps"], 1e-20',
        numbers(gradient / (gradient.abs() + 1e-10)): 'eps is group["eps"], 1e-20, and stands outside of the root',
    }
    expect_close(found, gradient.sign(), mistakes=mistakes, what=f"the first direction, gradients of {size}")


@pytest.mark.exercise(id="4.17")
def test_no_gradient_gives_no_direction():
    """0 / (0 + eps): not nan."""
    (found,) = directions(unclipped([torch.ones(3)]), [torch.tensor([0.0, 1.0, 0.0])])
    expect_close(found, [0.0, 1.0, 0.0], what="the direction of a gradient that is 0")


def clipped(parameter: torch.Tensor, gradient: torch.Tensor, **options) -> torch.Tensor:
    """The gradient as it goes into the second step, told by `rms`: with b2 = 0 that is its square."""
    optimizer, state = LaProp([nn.Parameter(parameter)], betas=(0.0, 0.0), **options), {}
    directions(optimizer, [gradient], state)
    return state["rms"][0].sqrt() * gradient.sign()


@pytest.mark.exercise(id="4.17")
@pytest.mark.parametrize(
    ("norm", "expected"), [(1.0, 0.3), (2.0, 0.6), (0.0, 3e-4), (5e-4, 3e-4), (0.01, 3e-3), (10.0, 1.0)]
)
def test_gradient_is_clipped_by_the_norm_of_its_parameter(norm, expected):
    """A gradient of norm 1: at most 0.3 times the parameter's, which counts at least 1e-3; a small one stays."""
    direction = torch.randn(3, 5)
    gradient = direction / direction.norm()
    parameter = torch.randn(3, 5)
    found = clipped(norm * parameter / parameter.norm(), gradient)
    mistakes = {
        1.0: "the gradient is not clipped",
        0.3 * norm: "the parameter's norm counts at least min_norm",
        0.3: "the limit is agc times the norm of the PARAMETER",
        norm: "agc is not used",
    }
    mistakes = {wrong: text for wrong, text in mistakes.items() if abs(wrong - expected) > 1e-6}
    expect_close(found.norm(), expected, mistakes=mistakes, what=f"norm of the gradient, parameter's norm {norm}")
    expect_close(found / found.norm(), gradient, what="its direction, which clipping leaves")


@pytest.mark.exercise(id="4.17")
def test_options_of_the_clipping_count():
    parameter, gradient = torch.full((4,), 0.5), torch.full((4,), 2.0)  # norms 1 and 4
    for agc, min_norm, expected in ((0.5, 1e-3, 0.5), (0.1, 5.0, 0.5), (10.0, 1e-3, 4.0)):
        found = clipped(parameter, gradient, agc=agc, min_norm=min_norm).norm()
        mistakes = {0.3: 'group["agc"] and group["min_norm"] are not used'}
        expect_close(found, expected, mistakes=mistakes, what=f"norm of the gradient, agc {agc}, min_norm {min_norm}")


@pytest.mark.exercise(id="4.17")
def test_each_parameter_is_clipped_by_itself_and_as_a_whole():
    """Not by the norm of all gradients together, nor row by row."""
    parameters = [torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([0.1])]
    gradients = [torch.tensor([[6.0, 0.0], [0.0, 8.0]]), torch.tensor([0.01])]
    optimizer, state = LaProp([nn.Parameter(each) for each in parameters], betas=(0.0, 0.0)), {}
    directions(optimizer, gradients, state)
    expect_close(state["rms"][0].sqrt(), [[0.9, 0.0], [0.0, 1.2]], what="the gradient of the matrix")
    expect_close(state["rms"][1].sqrt(), [0.01], what="the small gradient, which another's norm does not touch")
    uneven = clipped(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[10.0, 0.0], [0.0, 0.1]]))
    by_rows = (0.9, 0.0, 0.0, 0.1)
    mistakes = {by_rows: "each row is clipped by itself: it is the norm of the whole tensor"}
    factor = 1.5 / np.hypot(10, 0.1)
    expect_close(uneven, [[10 * factor, 0.0], [0.0, 0.1 * factor]], mistakes=mistakes, what="an uneven gradient")


@pytest.mark.exercise(id="4.17")
def test_clipping_agrees_with_the_official_code():
    """Five gradients of three parameters, one of them zeros; each time the official parameters."""
    g, parameters = official()
    for k in range(5):
        for name, parameter in zip(NAMES, parameters, strict=True):
            expected = g[f"agc_only_updates_{name}"][k]
            expect_close(
                clipped(parameter.data, g[f"grads_{name}"][k]), expected, what=f"clipped gradient {k} of {name}"
            )
            parameter.data += expected  # as the official example does


@pytest.mark.exercise(id="4.17")
def test_division_agrees_with_the_official_code():
    """Without clipping and momentum: gradient / (sqrt(rms) + eps), rms debiased."""
    g, parameters = official()
    optimizer, state = unclipped([each.data for each in parameters], betas=(0.0, 0.999)), {}
    for k in range(5):
        found = directions(optimizer, [g[f"grads_{name}"][k] for name in NAMES], state)
        for name, one in zip(NAMES, found, strict=True):
            expect_close(one, g[f"rms_only_updates_{name}"][k], what=f"divided gradient {k} of {name}")


@pytest.mark.exercise(id="4.17")
@pytest.mark.parametrize(("case", "warmup"), [("full", 0), ("full_warmup3", 3)])
def test_five_steps_agree_with_the_official_code(case, warmup):
    """The whole optimiser: with a warm-up of three updates the first does nothing."""
    g, parameters = official()
    optimizer = LaProp(parameters, lr=0.04, warmup=warmup)
    for k in range(5):
        for name, parameter in zip(NAMES, parameters, strict=True):
            parameter.grad = g[f"grads_{name}"][k].clone()
        optimizer.step()
        for name, parameter in zip(NAMES, parameters, strict=True):
            before = g[f"{case}_params_{name}"][k] - g[f"{case}_updates_{name}"][k]
            mistakes = {numbers(before - g[f"{case}_updates_{name}"][k]): "the sign of the step"}
            expected = g[f"{case}_params_{name}"][k]
            expect_close(parameter, expected, mistakes=mistakes, what=f"parameter {name} after {k + 1} steps")


@pytest.mark.exercise(id="4.17")
def test_directions_are_exact_in_float64():
    """Seven steps of two parameters, against the equations in plain numbers; with other betas, too."""
    for betas in ((0.9, 0.999), (0.5, 0.8)):
        values = [torch.randn(3, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)]
        optimizer, state = LaProp([nn.Parameter(each) for each in values], betas=betas), {}
        rms, momentum = [np.zeros(v.shape) for v in values], [np.zeros(v.shape) for v in values]
        for n in range(1, 8):
            gradients = [torch.randn_like(each) * 10.0 ** (n % 3 - 1) for each in values]
            given = [each.clone() for each in gradients]
            found = directions(optimizer, gradients, state)
            assert all(torch.equal(a, b) for a, b in zip(gradients, given, strict=True)), "the gradients are changed"
            for i, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
                g = gradient.numpy()
                g = g / max(1.0, np.linalg.norm(g) / (0.3 * max(1e-3, np.linalg.norm(value))))
                rms[i] = betas[1] * rms[i] + (1 - betas[1]) * g**2
                g = g / (np.sqrt(rms[i] / (1 - betas[1] ** n)) + 1e-20)
                momentum[i] = betas[0] * momentum[i] + (1 - betas[0]) * g
                expected = momentum[i] / (1 - betas[0] ** n)
                expect_close(found[i], expected, rtol=1e-9, atol=1e-12, what=f"direction {n} of parameter {i}, {betas}")
                expect_close(state["rms"][i], rms[i], rtol=1e-9, atol=1e-12, what=f"rms after step {n}, in place")
                expect_close(state["momentum"][i], momentum[i], rtol=1e-9, atol=1e-12, what="momentum, in place")


@pytest.mark.exercise(id="4.17")
def test_parameters_and_state_stay_what_they_are():
    """The parameters are `step`'s to change, and the direction is a tensor of its own: momentum is not to be it."""
    parameter, gradient = torch.randn(4), torch.randn(4)
    optimizer, state = LaProp([nn.Parameter(parameter.clone())]), {}
    (found,) = directions(optimizer, [gradient], state)
    expect_close(optimizer.param_groups[0]["params"][0], parameter, rtol=0, atol=0, what="the parameter")
    kept = state["momentum"][0].clone(), state["rms"][0].clone()
    found.zero_()
    expect_close(state["momentum"][0], kept[0], rtol=0, atol=0, what="momentum, when the direction is changed")
    expect_close(state["rms"][0], kept[1], rtol=0, atol=0, what="rms, when the direction is changed")


# ---- given: step ----


def test_learning_rate_rises_from_zero():
    """The first update does nothing, the one after 500 has 2e-5, and from 1000 on all have 4e-5."""
    parameter = nn.Parameter(torch.zeros(()))
    optimizer = LaProp([parameter], agc=1e9)
    sizes = []
    for _ in range(1003):
        before = parameter.item()
        parameter.grad = torch.ones(())
        optimizer.step()
        sizes.append(before - parameter.item())
    expect_close([sizes[k] for k in (0, 1, 500, 1000, 1002)], [0.0, 4e-8, 2e-5, 4e-5, 4e-5], atol=2e-8, what="steps")
    at_once = LaProp([nn.Parameter(torch.zeros(()))], lr=0.5, warmup=0, agc=1e9)
    at_once.param_groups[0]["params"][0].grad = torch.ones(())
    at_once.step()
    expect_close(at_once.param_groups[0]["params"][0], -0.5, what="the first step without warm-up")


def test_what_has_no_gradient_stays():
    moved, still = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = LaProp([moved, still], lr=0.1, warmup=0)
    moved.grad = torch.ones(3)
    optimizer.step()
    assert (still == 1).all()
    assert (moved < 1).all()


def test_a_saved_optimiser_goes_on_as_if_nothing_had_been():
    """Its count of steps, on which the warm-up depends, is saved with rms and momentum."""
    gradients = torch.randn(8, 3)

    def run(optimizer: LaProp, parameter: nn.Parameter, some: torch.Tensor) -> None:
        for gradient in some:
            parameter.grad = gradient.clone()
            optimizer.step()

    one, two = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    whole, first = LaProp([one], lr=0.1, warmup=5), LaProp([two], lr=0.1, warmup=5)
    run(whole, one, gradients)
    run(first, two, gradients[:3])
    saved = copy.deepcopy(first.state_dict())
    second = LaProp([two], lr=0.1, warmup=5)
    second.load_state_dict(saved)
    run(second, two, gradients[3:])
    assert torch.equal(one, two)
    assert second.param_groups[0]["steps"] == 8
