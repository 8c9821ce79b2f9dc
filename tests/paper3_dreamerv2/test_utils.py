"""Samples, reward transforms and the optimiser's step: exercises 3.1 to 3.3; distributions of actions and batches."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.errors import UserError
from common.replay_buffer import ReplayBuffer
from paper3_dreamerv2 import utils
from tests.helpers import expect_close, golden, numbers


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


# ---- 3.1 one_hot_sample ----


def noise_for(index: torch.Tensor, classes: int) -> torch.Tensor:
    """Noise so large at these classes that they are the ones which are drawn."""
    return 100.0 * F.one_hot(index.long(), classes)


@pytest.mark.exercise(id="3.1")
def test_class_is_that_of_the_largest_sum_of_logit_and_noise():
    logits = torch.tensor([[1.0, 2.0, 0.5], [1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [-3.0, -3.5, -4.0]])
    gumbel = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, 5.0, 0.5], [0.2, 0.3, 1.5]])
    before = logits.clone(), gumbel.clone()
    sample = utils.one_hot_sample(logits, gumbel)
    one_hot = lambda scores: numbers(F.one_hot(scores.argmax(-1), 3))
    mistakes = {
        one_hot(logits): "the noise is not used: this is the mode, always the same class",
        one_hot(gumbel): "the logits are not used",
        one_hot(logits - gumbel): "the noise is added to the logits, not subtracted",
        one_hot(logits.softmax(-1) + gumbel): "the noise is added to the logits, not to the probabilities",
        numbers((logits + gumbel).softmax(-1)): "the sample is one-hot, not a softmax (that is Gumbel-softmax)",
    }
    expect_close(sample, [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], mistakes=mistakes, what="the sample")
    assert torch.equal(logits, before[0]), "the caller's logits are changed"
    assert torch.equal(gumbel, before[1]), "the caller's noise is changed"


@pytest.mark.exercise(id="3.1")
def test_samples_are_exactly_one_hot():
    """(sample + probs) - sg(probs) is off by 6e-8 in about a fifth of the rows."""
    logits = 2 * torch.randn(2000, 32)
    sample = utils.one_hot_sample(logits, utils.gumbel_noise((2000, 32), torch.device("cpu"))).detach()
    assert sample.dtype == torch.float32
    off = ((sample != 0) & (sample != 1)).any(-1).float().mean().item()
    assert off == 0, f"{off:.0%} of the samples are not exactly 0 and 1: subtract the probabilities first, then add"
    assert (sample.sum(-1) == 1).all(), "a sample has one 1"
    tie = utils.one_hot_sample(torch.tensor([1.0, 1.0, 0.0]), torch.zeros(3))
    assert tie.sum() == 1, "where two classes are as large, one of them is drawn"


@pytest.mark.exercise(id="3.1")
def test_gradient_is_that_of_the_probabilities():
    """The official code's: 3 states, 4 variables, 5 classes."""
    g = {key: torch.tensor(value) for key, value in golden("dv2_straight_through").items()}
    logits, gumbel = g["logits"].requires_grad_(), noise_for(g["index"], 5)
    sample = utils.one_hot_sample(logits, gumbel)
    over_variables = F.one_hot((g["logits"] + gumbel).argmax(-2), 4).movedim(-1, -2)
    mistakes = {numbers(over_variables): "the classes are the LAST axis"}
    expect_close(sample, g["sample"], mistakes=mistakes, what="sample")
    assert sample.requires_grad, "no gradient flows through the sample: nothing could be learned from a dream"

    def gradient_of(probs: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((probs * g["upstream"]).sum(), logits)[0]

    (gradient,) = torch.autograd.grad((sample * g["upstream"]).sum(), logits)
    mistakes = {
        numbers(g["upstream"]): "it is the gradient of the logits: it is to be that of the probabilities",
        numbers(gradient_of(logits.log_softmax(-1))): "it is the gradient of the log probabilities",
        numbers(gradient_of((logits + gumbel).softmax(-1))): "the probabilities are those of the logits, without noise",
        numbers(gradient_of(logits.softmax(-2))): "the softmax is over the variables: the classes are the last axis",
        numbers(2 * g["grad_logits"]): "the probabilities are added twice",
        numbers(-g["grad_logits"]): "the sign of the gradient",
        0.0: "no gradient: sg(probs) has to be subtracted from probs, not probs from itself",
    }
    expect_close(gradient, g["grad_logits"], atol=1e-6, mistakes=mistakes, what="gradient in the logits")


@pytest.mark.exercise(id="3.1")
def test_gradient_is_exact_in_float64():
    """d probs_i / d logits_j = p_i (1[i = j] - p_j), at every class and whichever class is drawn."""
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, dtype=torch.float64)
    p = logits.detach().softmax(-1)
    expected = p * (weight - (p * weight).sum(-1, keepdim=True))
    for drawn in range(4):
        sample = utils.one_hot_sample(logits, noise_for(torch.full((6,), drawn), 4).double())
        assert sample.requires_grad, "no gradient flows through the sample"
        (gradient,) = torch.autograd.grad((sample * weight).sum(), logits)
        expect_close(gradient, expected, rtol=1e-9, atol=1e-12, what=f"gradient where class {drawn} is drawn")


@pytest.mark.exercise(id="3.1")
def test_large_logits_stay_finite():
    """e^1000 is too large for float32: softmax, not exp and its sum."""
    logits = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    sample = utils.one_hot_sample(logits, torch.zeros(1, 3))
    expect_close(sample, [[1, 0, 0]], what="the sample")
    assert sample.requires_grad, "no gradient flows through the sample"
    (gradient,) = torch.autograd.grad((sample * torch.tensor([1.0, 2.0, 3.0])).sum(), logits)
    expect_close(gradient, 0.0, what="gradient where one class is certain")


@pytest.mark.exercise(id="3.1")
@pytest.mark.parametrize("lead", [(), (3,), (2, 3, 4)])
def test_sample_takes_any_leading_axes(lead):
    logits, gumbel = torch.randn(*lead, 5), torch.randn(*lead, 5)
    sample = utils.one_hot_sample(logits, gumbel)
    assert sample.shape == (*lead, 5)
    alone = [utils.one_hot_sample(*pair) for pair in zip(logits.reshape(-1, 5), gumbel.reshape(-1, 5), strict=True)]
    expect_close(sample.reshape(-1, 5), torch.stack(alone), what="the same variables one by one")


@pytest.mark.exercise(id="3.1")
def test_classes_are_drawn_as_often_as_their_probabilities_say():
    """Chi-square of 20,000 draws with 4 degrees of freedom: above 40 one time in twenty million."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -3.0])
    noise = utils.gumbel_noise((20_000, 5), torch.device("cpu"))
    counts = utils.one_hot_sample(logits.expand(20_000, 5), noise).sum(0)
    expected = 20_000 * logits.softmax(-1)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 40, f"drawn {counts.tolist()} times, expected about {expected.round().tolist()}"


# ---- 3.2 transform_reward ----


@pytest.mark.exercise(id="3.2")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", [1.0, 5.0, -2.0, 0.0, 1000.0]),
        ("tanh", [0.76159, 0.99991, -0.96403, 0.0, 1.0]),
        ("symlog", [0.69315, 1.79176, -1.09861, 0.0, 6.90875]),
    ],
)
def test_transforms_by_hand(kind, expected):
    reward = torch.tensor([1.0, 5.0, -2.0, 0.0, 1000.0])
    before = reward.clone()
    of = {"none": reward, "tanh": reward.tanh(), "symlog": reward.sign() * reward.abs().log1p()}
    mistakes = {numbers(value): f"this is {name}, not {kind}" for name, value in of.items() if name != kind}
    mistakes |= {
        numbers((reward.abs() + 1).log()): "the sign of the reward is lost",
        numbers((reward + 1).log()): "the logarithm of a negative number: sign(x) ln(1 + |x|)",
        numbers(reward.sign()): "these are the signs alone (that is DQN's clipping)",
        numbers(reward.clamp(-1, 1)): "the reward is clipped, not squashed",
        numbers(reward.sigmoid()): "a sigmoid: it is tanh",
        numbers(reward.sign() * (reward.abs() + 1).log10()): "the logarithm is the natural one",
    }
    found = utils.transform_reward(reward, kind)
    expect_close(found, expected, mistakes={} if kind == "none" else mistakes, what=kind)
    assert torch.equal(reward, before), "the caller's rewards are changed"


@pytest.mark.exercise(id="3.2")
def test_small_rewards_keep_their_digits():
    """ln(1 + 1e-9) is 0 in float32, and 1e-4 keeps three digits: log1p keeps them all."""
    small = torch.tensor([1e-9, -1e-9, 1e-4, -3e-6])
    mistakes = {numbers((1 + small.abs()).log() * small.sign()): "1 + |x| rounds small rewards away: log1p"}
    expect_close(
        utils.transform_reward(small, "symlog"),
        small.double().sign() * small.double().abs().log1p(),
        rtol=1e-6,
        atol=0,
        mistakes=mistakes,
        what="symlog of small rewards",
    )
    expect_close(utils.transform_reward(small, "tanh"), small, rtol=1e-6, atol=0, what="tanh of small rewards")


@pytest.mark.exercise(id="3.2")
def test_symexp_undoes_symlog():
    x = torch.tensor([-1e4, -10.0, -1.0, -1e-6, 0.0, 1e-6, 1.0, 10.0, 1e4], dtype=torch.float64)
    expect_close(utils.symexp(utils.transform_reward(x, "symlog")), x, rtol=1e-12, atol=1e-15, what="symexp(symlog(x))")
    ten = utils.transform_reward(torch.tensor(10.0), "symlog")
    expect_close(ten, 2.39790, mistakes={10.0: "symlog is missing"}, what="symlog(10)")


@pytest.mark.exercise(id="3.2")
@pytest.mark.parametrize("kind", ["none", "tanh", "symlog"])
def test_every_reward_is_transformed_by_itself(kind):
    reward = torch.randn(3, 4) * 10
    found = utils.transform_reward(reward, kind)
    assert found.shape == (3, 4)
    assert found.dtype == torch.float32
    alone = torch.stack([utils.transform_reward(each, kind) for each in reward.flatten()]).reshape(3, 4)
    expect_close(found, alone, what=f"{kind} of a batch")
    assert (found.flatten()[reward.flatten().argsort()].diff() >= 0).all(), "a larger reward stays the larger one"


def test_imagined_rewards_undo_symlog_alone():
    """A head that has learned symlog(10) = 2.398 promises 10; one that has learned tanh(10) promises 1."""
    for kind, expected in (("none", 10.0), ("tanh", 1.0), ("symlog", 10.0)):
        learned = utils.transform_reward(torch.tensor([10.0]), kind)
        expect_close(utils.untransform_reward(learned, kind), [expected], what=f"an imagined reward of 10, {kind}")


# ---- 3.3 optimizer_step ----


def parameters_of(*values: list[float], dtype=torch.float32) -> list[torch.Tensor]:
    return [torch.nn.Parameter(torch.tensor(value, dtype=dtype)) for value in values]


def tensors(*values: list[float], dtype=torch.float32) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=dtype) for value in values]


@pytest.mark.exercise(id="3.3")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [list, tuple])
def test_norm_of_all_gradients_together_is_clipped(groups, kind):
    """300 and 400 have the norm 500: at 100 they become 60 and 80."""
    parameters = parameters_of([0.0], [0.0, 0.0])
    in_groups = parameters if groups == 1 else [{"params": [each]} for each in parameters]
    norm = utils.optimizer_step(torch.optim.SGD(in_groups, 1.0), kind(tensors([300.0], [0.0, -400.0])), 100.0, 0.0)
    found = torch.cat([each.detach() for each in parameters])
    mistakes = {
        (-100.0, 0.0, 100.0): "each tensor is clipped by itself: it is the norm of all together",
        (-300.0, 0.0, 400.0): "nothing is clipped",
        (-0.6, 0.0, 0.8): "the norm becomes 1, not `clip`",
        (60.0, 0.0, -80.0): "the step goes uphill",
        (-60.0, 0.0, 0.0): "only the optimiser's first group is stepped",
    }
    expect_close(found, [-60.0, 0.0, 80.0], mistakes=mistakes, what="the weights after a step of SGD")
    mistakes = {100.0: "the norm is returned as it was BEFORE clipping", 250_000.0: "this is the norm's square"}
    mistakes[400.0] = "this is the largest of the norms, not that of all together"
    expect_close(norm, 500.0, mistakes=mistakes, what="the norm")
    assert norm.shape == ()


@pytest.mark.exercise(id="3.3")
def test_small_gradients_are_left_alone():
    parameters = parameters_of([1.0, 2.0])
    norm = utils.optimizer_step(torch.optim.SGD(parameters, 1.0), tensors([3.0, 4.0]), 100.0, 0.0)
    mistakes = {(-59.0, -78.0): "gradients are scaled UP to `clip`, too: only down", (1.0, 2.0): "no step is made"}
    expect_close(parameters[0], [-2.0, -2.0], mistakes=mistakes, what="the weights")
    expect_close(norm, 5.0, what="the norm")


@pytest.mark.exercise(id="3.3")
def test_gradients_of_a_step_before_are_gone():
    """And those of whoever called backward meanwhile."""
    parameters = parameters_of([1.0, 2.0])
    parameters[0].grad = torch.tensor([7.0, 7.0])
    optimizer = torch.optim.SGD(parameters, 1.0)
    for _ in range(2):
        utils.optimizer_step(optimizer, tensors([3.0, 4.0]), 100.0, 0.0)
    mistakes = {numbers([-12.0, -13.0]): "gradients are added to those that were there"}
    expect_close(parameters[0], [-5.0, -6.0], mistakes=mistakes, what="the weights after two steps")


@pytest.mark.exercise(id="3.3")
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("lr", [2e-4, 0.5])
def test_decay_does_not_know_the_learning_rate(make, lr):
    """Without gradient every weight shrinks by the factor 1 - 1e-6: matrices, biases and scales alike."""
    values = ([[0.5, -1.5], [2.0, 3.0]], [0.25, -0.125], 7.0)
    parameters = parameters_of(*values, dtype=torch.float64)
    optimizer = make([{"params": parameters[:1]}, {"params": parameters[1:]}], lr)
    utils.optimizer_step(optimizer, [torch.zeros_like(each) for each in parameters], 100.0, 1e-6)
    for parameter, value in zip(parameters, values, strict=True):
        value = np.array(value)
        mistakes = {
            numbers(value): f"the tensor of {value.ndim} axes does not decay: all do, biases too",
            numbers(value * (1 - 1e-6 * lr)): "the decay is multiplied by the learning rate (torch's AdamW does that)",
        }
        if make is torch.optim.Adam:
            mistakes[numbers(value - lr * np.sign(value))] = "the decay is a gradient (Adam's weight_decay does that)"
        shrunk = value - parameter.detach().numpy()
        mistakes = {numbers(value - np.array(wrong).reshape(value.shape)): text for wrong, text in mistakes.items()}
        expect_close(shrunk, 1e-6 * value, rtol=1e-6, atol=1e-15, mistakes=mistakes, what="what the weights lose")


@pytest.mark.exercise(id="3.3")
def test_decay_comes_before_the_step():
    """2 * 0.9 - 0.1 * 0.5 = 1.75."""
    parameters = parameters_of([2.0])
    utils.optimizer_step(torch.optim.SGD(parameters, 0.1), tensors([0.5]), 100.0, 0.1)
    mistakes = {
        1.755: "the weights decay after the step: first decay, then step",
        1.93: "the decay is multiplied by the learning rate, or is a part of the gradient",
        1.95: "no decay",
        2.15: "the weights grow: times 1 - weight_decay",
        0.15: "the weights are multiplied by weight_decay: by 1 - weight_decay",
    }
    expect_close(parameters[0], [1.75], mistakes=mistakes, what="the weight")


@pytest.mark.exercise(id="3.3")
def test_decay_is_not_clipped_and_not_in_the_norm():
    parameters = parameters_of([1000.0])
    norm = utils.optimizer_step(torch.optim.SGD(parameters, 1.0), tensors([30.0]), 10.0, 0.5)
    expect_close(norm, 30.0, what="the norm")
    expect_close(parameters[0], [490.0], what="the weight: half of 1000, less 10")


@pytest.mark.exercise(id="3.3")
@pytest.mark.parametrize(
    ("case", "eps", "clip", "decay"),
    [("default", 1e-5, 100.0, 1e-6), ("clipped", 1e-5, 1.0, 0.01), ("bigeps", 0.1, 1e9, 0.0)],
)
def test_four_steps_agree_with_the_official_code(case, eps, clip, decay):
    """Its Adam is Keras', whose epsilon is torch's times sqrt(1 - 0.999^t): with that one the steps are the same."""
    g = golden("dv2_adam")
    parameter = torch.nn.Parameter(torch.tensor(g[f"{case}_w0"]))
    optimizer = torch.optim.Adam([parameter], 0.01)
    for t in range(4):
        optimizer.param_groups[0]["eps"] = eps / math.sqrt(1 - 0.999 ** (t + 1))
        norm = utils.optimizer_step(optimizer, [torch.tensor(g[f"{case}_grads"][t])], clip, decay)
        expect_close(norm, g[f"{case}_norm"][t], atol=1e-4, what=f"the norm of step {t}")
        expect_close(parameter, g[f"{case}_w"][t], atol=1e-4, what=f"the weights after step {t}")


@pytest.mark.exercise(id="3.3")
def test_optimiser_sees_the_clipped_gradients():
    """Adam's first step is lr in each direction, whatever the gradient's size; its memory holds the clipped one."""
    parameters = parameters_of([1.0, 1.0])
    optimizer = torch.optim.Adam(parameters, 0.01, eps=1e-8)
    utils.optimizer_step(optimizer, tensors([300.0, -400.0]), 100.0, 0.1)
    expect_close(parameters[0], [0.89, 0.91], what="the weights")
    remembered = optimizer.state[parameters[0]]["exp_avg"]
    expect_close(remembered, [6.0, -8.0], mistakes={(30.0, -40.0): "clipped after the step"}, what="Adam's mean")


# ---- given: distributions of actions ----


def test_one_hot_agrees_with_the_official_code():
    g = golden("dv2_straight_through")
    policy = utils.OneHot(torch.tensor(g["logits"]))
    expect_close(policy.log_prob(torch.tensor(g["sample"])), g["log_prob"], what="log_prob")
    expect_close(policy.entropy(), g["entropy"], what="entropy")
    expect_close(policy.mode(), g["mode"], what="mode")
    assert policy.mode().dtype == torch.float32


def test_uniform_entropy():
    """32 ln 32 = 110.90 nats of a whole latent."""
    expect_close(utils.OneHot(torch.zeros(32, 32)).entropy().sum(), 110.90355, what="entropy at zero logits")


def test_discrete_actions_are_exact_and_fresh():
    policy = utils.OneHot(torch.zeros(500, 3, requires_grad=True))
    action, again = policy.rsample(), policy.rsample()
    assert set(action.unique().tolist()) == {0.0, 1.0}
    assert (action.sum(-1) == 1).all()
    assert not torch.equal(action, again)
    expect_close(action.mean(0), 1 / 3, rtol=0, atol=0.15, what="how often each is taken")
    assert action.requires_grad


def truncated() -> tuple[utils.TruncatedNormal, torch.Tensor, dict[str, np.ndarray]]:
    """The official example in float64, and the layers' output that it is made of."""
    g = golden("dv2_trunc_normal")
    raw = torch.tensor(np.concatenate([g["out"], g["std_raw"]], -1), dtype=torch.float64, requires_grad=True)
    return utils.TruncatedNormal(raw), raw, g


def test_truncated_normal_agrees_with_the_official_code():
    policy, raw, g = truncated()
    expect_close(policy.mean, g["loc"], what="mean before it is cut off")
    expect_close(policy.std, g["scale"], what="std")
    expect_close(policy.mode(), g["mode"], what="mode")
    action = torch.tensor(g["action"], dtype=torch.float64)
    for name, value, gradient in (
        ("log_prob", policy.log_prob(action), "grad_logp"),
        ("entropy", policy.entropy(), "grad_ent"),
    ):
        expect_close(value, g[name], what=name)
        (found,) = torch.autograd.grad(value.sum(), raw, retain_graph=True)
        expected = np.concatenate([g[f"{gradient}_out"], g[f"{gradient}_std"]], -1)
        expect_close(found, expected, rtol=1e-3, what=f"gradient of the {name}")


def test_truncated_normal_by_hand():
    """At mean 0, std 1.1: 0.6860 nats an action, nearly those of a uniform one (ln 2); the real std is 0.546."""
    policy = utils.TruncatedNormal(torch.zeros(20_000, 4))
    expect_close(policy.std, 1.1, what="std at 0")
    expect_close(policy.entropy(), 2 * 0.6860, what="entropy of two actions")
    expect_close(policy.rsample().std(), 0.546, rtol=0, atol=0.02, what="std of the samples")
    wide = utils.TruncatedNormal(torch.tensor([[0.0, 100.0], [0.0, -100.0]]))
    expect_close(wide.std.flatten(), [2.1, 0.1], what="the largest and the smallest std")


def test_density_of_the_truncated_normal_integrates_to_one():
    policy = utils.TruncatedNormal(torch.tensor([[1.0, -1.0]]))
    action = torch.linspace(-1, 1, 4001)[:, None, None]
    expect_close(torch.trapezoid(policy.log_prob(action).exp()[:, 0], action[:, 0, 0]), 1.0, what="the integral")


def implicit_gradient(policy: utils.TruncatedNormal, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """d sample / d mean and d sample / d std at a fixed quantile: -(dF / d parameter) / density."""
    mean, std = (x.detach().clone().requires_grad_() for x in (policy.mean, policy.std))
    cdf = lambda x: 0.5 * (1 + torch.erf((x - mean) / (std * math.sqrt(2))))
    quantile = (cdf(sample) - cdf(torch.tensor(-1.0))) / (cdf(torch.tensor(1.0)) - cdf(torch.tensor(-1.0)))
    mass = cdf(torch.tensor(1.0)) - cdf(torch.tensor(-1.0))
    density = torch.exp(-0.5 * ((sample - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi) * mass)
    by_mean, by_std = torch.autograd.grad(quantile.sum(), [mean, std])
    return -by_mean / density.detach(), -by_std / density.detach()


def test_samples_of_the_truncated_normal_have_their_exact_gradient():
    """The official sampler forgets that the bounds stay where they are: its gradient in the mean is 1."""
    policy, _, g = truncated()
    by_mean, by_std = implicit_gradient(policy, torch.tensor(g["sample"], dtype=torch.float64))
    expect_close(by_mean, g["exact_dsample_dloc"], rtol=1e-3, atol=1e-3, what="the formula of this test, mean")
    expect_close(by_std, g["exact_dsample_dscale"], rtol=1e-3, atol=1e-3, what="the formula of this test, std")
    sample = policy.rsample()
    found = torch.autograd.grad(sample.sum(), [policy.mean, policy.std])
    expected = implicit_gradient(policy, sample.detach())
    for name, one, other in zip(("mean", "std"), found, expected, strict=True):
        expect_close(one, other, rtol=1e-3, atol=1e-5, what=f"d sample / d {name}")


def test_samples_of_the_truncated_normal_are_within_the_bounds():
    """Also where nearly all of the Gaussian lies outside; the clamp does not stop the gradient."""
    raw = torch.tensor([[9.0, 0.0], [-9.0, -9.0], [0.0, 9.0]]).repeat(3000, 1).requires_grad_()
    policy = utils.TruncatedNormal(raw)
    sample = policy.rsample()
    assert (sample.abs() < 1).all()
    assert torch.isfinite(policy.log_prob(sample.detach())).all()
    (gradient,) = torch.autograd.grad(sample.sum(), raw)
    assert torch.isfinite(gradient).all()
    assert len(sample.detach().unique()) > 8000


# ---- given: labels, schedules ----


def test_soft_label_of_the_discount_head():
    is_terminal = torch.tensor([[False, True], [True, False]])
    expect_close(utils.discount_target(is_terminal, 0.99), [[0.99, 0.0], [0.0, 0.99]], what="discount_target")


def test_schedule_agrees_with_the_official_code():
    g = golden("dv2_schedule")
    found = [utils.linear_schedule(1.0, 0.1, 20, int(step)) for step in g["step"]]
    expect_close(found, g["linear"], what="linear(1, 0.1, 20)")
    assert [utils.linear_schedule(0.1, None, 20, int(step)) for step in g["step"]] == g["const"].tolist()


# ---- given: batches ----


def make_replay(*streams: list[int], running: tuple[int, ...] = (), capacity: int = 100_000) -> ReplayBuffer:
    """Streams of episodes of these lengths; prev_action of every row is (stream, t). In a stream of `running` the last
    episode has not ended. All streams have the same number of rows."""
    replay = ReplayBuffer(capacity)
    starts = [np.cumsum([0, *lengths]) for lengths in streams]
    for t in range(sum(streams[0])):
        is_last = [t + 1 in s[1:] and not (i in running and t + 1 == s[-1]) for i, s in enumerate(starts)]
        replay.add(
            {
                "prev_action": np.array([(i, t) for i in range(len(streams))], np.float32),
                "is_first": np.array([t in s[:-1] for s in starts]),
                "is_last": np.array(is_last),
            }
        )
    return replay


def draw(replay: ReplayBuffer, length: int, *, batch: int = 4000, ends: bool = False, seed: int = 0) -> dict:
    return utils.sample_batch(replay, batch, length, ends, np.random.default_rng(seed))


def test_chunks_are_rows_of_one_episode():
    """Consecutive ones; every place within an episode occurs, the first and the last too."""
    rows = draw(make_replay([9, 7, 4], [6, 6, 8]), 4)
    assert rows["prev_action"].shape == (4000, 4, 2)
    stream, t = rows["prev_action"][..., 0].astype(int), rows["prev_action"][..., 1].astype(int)
    assert (stream == stream[:, :1]).all()
    assert (np.diff(t, axis=1) == 1).all()
    inside = {(0, 0): 9, (0, 9): 7, (0, 16): 4, (1, 0): 6, (1, 6): 6, (1, 12): 8}
    wanted = {(s, start + k) for (s, start), length in inside.items() for k in range(length - 4 + 1)}
    assert set(zip(stream[:, 0].tolist(), t[:, 0].tolist(), strict=True)) == wanted


def test_every_chunk_begins_an_episode():
    """The recurrent state that came before it is not known. What the replay holds stays as it was."""
    replay = make_replay([30])
    for _ in range(2):
        rows = draw(replay, 5, batch=50)
        assert rows["is_first"][:, 0].all()
        assert not rows["is_first"][:, 1:].any()
    assert replay.windows(np.array([[0, 3]]), 5)["is_first"].sum() == 0


def test_episodes_are_drawn_evenly_whatever_their_length():
    rows = draw(make_replay([4, 4, 72], [5, 5, 70]), 4, batch=9000)
    first = rows["prev_action"][:, 0]
    long = (first[:, 1] >= 8 + 2 * first[:, 0]).mean()
    mistakes = {136 / 142: "chunks are drawn evenly: first an episode, then a chunk of it"}
    expect_close(long, 2 / 6, rtol=0, atol=0.03, mistakes=mistakes, what="share of the two long episodes")


@pytest.mark.parametrize(("ends", "last"), [(False, 1 / 8), (True, 6 / 13)])
def test_ends_are_taken_more_often_where_asked_for(ends, last):
    """12 rows, chunks of 5: starts 0 to 7, of which the last one counts for five more."""
    t = draw(make_replay([12]), 5, batch=12_000, ends=ends)["prev_action"][:, 0, 1].astype(int)
    share = np.bincount(t, minlength=8) / 12_000
    assert len(share) == 8
    expect_close(share[7], last, rtol=0, atol=0.025, what="share of the last chunk")
    expect_close(share[:7], (1 - last) / 7, rtol=0, atol=0.02, what="shares of the others")


def test_episodes_that_run_are_taken_only_where_none_is_finished():
    """The official replay holds finished ones alone; with it a run of one long episode could not begin to learn."""
    both = make_replay([10, 10], [20], running=(0, 1))
    first = draw(both, 5)["prev_action"][:, 0]
    assert (first[:, 0] == 0).all()
    assert first[:, 1].max() == 5
    none = make_replay([20], [20], running=(0, 1))
    assert set(draw(none, 5)["prev_action"][:, 0, 0].astype(int)) == {0, 1}


def test_episodes_shorter_than_a_chunk():
    """Left out while there are longer ones; with short ones alone chunks are as long as the longest."""
    rows = draw(make_replay([3, 9, 8]), 8)
    assert rows["is_first"].shape == (4000, 8)
    assert set(rows["prev_action"][:, 0, 1].astype(int)) == {3, 4, 12}
    rows = draw(make_replay([3, 6, 6, 5]), 50)
    assert rows["is_first"].shape == (4000, 6)
    assert set(rows["prev_action"][:, 0, 1].astype(int)) == {3, 9}


def test_chunks_come_from_the_generator_alone():
    replay = make_replay([40], [40])
    one, two, other = (draw(replay, 5, batch=50, seed=seed)["prev_action"] for seed in (3, 3, 4))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_replay_without_an_episode_is_an_error_of_one_line():
    """All rows of the only episode's beginning have been dropped."""
    with pytest.raises(UserError, match="the replay holds no episode: set --prefill or --replay-capacity higher"):
        draw(make_replay([40], capacity=20), 5)
