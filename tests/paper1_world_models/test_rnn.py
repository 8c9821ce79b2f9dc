"""M, the memory model: exercises 1.6 to 1.10. Read a test beside the docstring of the function that it tests."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from paper1_world_models import rnn
from tests.helpers import expect_close, golden, numbers
from tests.paper1_world_models.official import load_official_weights


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def make_model(latent=3, action=2, hidden=6, mixtures=4, reward=True, done=True, restart=False) -> rnn.MDNRNN:
    return rnn.MDNRNN(latent, action, hidden, mixtures, reward, done, restart)


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# ---- 1.6 MDNRNN ----


@pytest.mark.exercise(id="1.6")
def test_mdnrnn_has_the_papers_size():
    """The paper's 422,368 (CarRacing) and 1,678,785 (VizDoom), and the second bias vector that torch's LSTM adds."""
    counts = golden("wm_param_counts")
    car = rnn.MDNRNN(predict_reward=False, predict_done=False)
    doom = rnn.MDNRNN(64, 1, 512, predict_reward=False, restart_input=True)
    assert size(car) == counts["car_rnn"] + 4 * 256 == 423_392
    assert size(doom) == counts["doom_rnn"] + 4 * 512 == 1_680_833


@pytest.mark.exercise(id="1.6")
@pytest.mark.parametrize(("reward", "done"), [(False, False), (True, False), (False, True), (True, True)])
def test_order_of_the_outputs(reward, done):
    """With weights 0 and biases 0, 1, 2, ... every output says which column of the linear layer it was read from."""
    model = make_model(latent=3, mixtures=2, reward=reward, done=done)
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.bias.copy_(torch.arange(len(model.out.bias)))
    out = model(torch.randn(1, 2, 3), torch.randn(1, 2, 2))
    first = done + reward  # column of the first log weight
    columns = first + torch.arange(18.0).reshape(3, 6)  # for each latent dimension: 2 weights, 2 means, 2 deviations
    by_kind = first + torch.arange(18.0).reshape(3, 3, 2)
    twice = lambda x: x.expand(1, 2, 3, 2)
    mistakes = {
        numbers(twice(columns[:, 4:])): "means and deviations are swapped: the order is weights, means, deviations",
        numbers(twice(columns[:, :2])): "means and weights are swapped: the order is weights, means, deviations",
        numbers(twice(by_kind[1])): "all means of all dimensions lie together: each dimension has its 3 * K in a row",
        numbers(twice(columns[:, 1::3])): "the layout is (3, K) for each dimension, not (K, 3)",
        numbers(twice(columns[:, 2:4] - first)): "the mixture starts behind the heads",
    }
    expect_close(out.mu, twice(columns[:, 2:4]), mistakes=mistakes, what="mu")
    expect_close(out.logsig, twice(columns[:, 4:]), what="logsig")
    expect_close(out.logpi, twice(columns[:, :2].log_softmax(-1)), what="logpi")
    if done:
        expect_close(out.done_logit, 0.0, mistakes={1.0: "the done logit comes before the reward"}, what="done_logit")
    if reward:
        expect_close(out.reward, float(done), what="reward")
    assert (out.reward is not None, out.done_logit is not None) == (reward, done), "a head that is off gives None"


@pytest.mark.exercise(id="1.6")
def test_shapes_and_normalised_weights():
    """(batch, time, latent, mixtures), and exp(logpi) sums to 1 over the mixtures: over nothing else."""
    out = make_model()(torch.randn(2, 5, 3), torch.randn(2, 5, 2))
    for name in ("logpi", "mu", "logsig"):
        assert getattr(out, name).shape == (2, 5, 3, 4), name
    assert out.reward.shape == out.done_logit.shape == (2, 5)
    assert [tensor.shape for tensor in out.state] == [(2, 6), (2, 6)], "the state has no layer axis"
    expect_close(out.logpi.exp().sum(-1), 1.0, what="sum of a mixture's weights")


@pytest.mark.exercise(id="1.6")
def test_mdnrnn_agrees_with_the_official_code():
    """The official CarRacing model's weights and inputs: the same mixtures and the same final state."""
    g = golden("wm_mdnrnn_official")
    model = make_model(latent=3, action=3, hidden=6, mixtures=3, reward=False, done=False)
    load_official_weights(model, g)
    x = torch.tensor(g["input_x"])
    out = model(x[..., :3], x[..., 3:])
    expect_close(out.logpi, g["out_logmix"].reshape(2, 4, 3, 3), what="logpi")
    expect_close(out.mu, g["out_mean"].reshape(2, 4, 3, 3), what="mu")
    mistakes = {numbers(np.exp(g["out_logstd"])): "logsig is to be the LOG of the deviation"}
    expect_close(out.logsig, g["out_logstd"].reshape(2, 4, 3, 3), mistakes=mistakes, what="logsig")
    mistakes = {numbers(g["final_c"]): "h and c are swapped in the state: it is (h, c)"}
    expect_close(out.state[0], g["final_h"], mistakes=mistakes, what="h after the last step")
    expect_close(out.state[1], g["final_c"], what="c after the last step")


def official_doom_model() -> tuple[rnn.MDNRNN, dict]:
    g = golden("wm_doom_rnn")
    model = make_model(latent=3, action=1, hidden=4, mixtures=2, reward=False, done=True, restart=True)
    load_official_weights(model, g)
    return model, g


@pytest.mark.exercise(id="1.6")
def test_restarts_agree_with_the_official_doom_code():
    """VizDoom's model sees is_first as an input, and its state is zeroed where it is set: also in mid-sequence."""
    model, g = official_doom_model()
    restart = torch.tensor(g["restart"][:, :-1]).bool()
    assert restart[:, 1:].any()
    out = model(torch.tensor(g["z"][:, :-1]), torch.tensor(g["action"][:, :-1, None]), is_first=restart)
    expect_close(out.done_logit, g["restart_logits"].reshape(2, 4), what="done_logit")
    expect_close(out.logpi, g["out_logmix"].reshape(2, 4, 3, 2), what="logpi")
    expect_close(out.mu, g["out_mean"].reshape(2, 4, 3, 2), what="mu")
    expect_close(out.logsig, g["out_logstd"].reshape(2, 4, 3, 2), what="logsig")
    expect_close(out.state[0], g["final_h"], what="h after the last step")
    expect_close(out.state[1], g["final_c"], what="c after the last step")


@pytest.mark.exercise(id="1.6")
@pytest.mark.parametrize("restart", [False, True])
def test_sequence_at_once_equals_step_by_step(restart):
    """Five steps in one call, or one by one with the state carried: playing must be what was trained."""
    model = make_model(restart=restart)
    z, action = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    whole, state, steps = model(z, action), None, []
    for t in range(5):
        steps.append(model(z[:, t : t + 1], action[:, t : t + 1], state))
        state = steps[-1].state
    for name in ("logpi", "mu", "logsig", "reward", "done_logit"):
        expect_close(torch.cat([getattr(step, name) for step in steps], 1), getattr(whole, name), what=name)
    expect_close(torch.cat(state), torch.cat(whole.state), what="the final (h, c)")


@pytest.mark.exercise(id="1.6")
def test_state_that_is_passed_in_counts():
    """No state means zeros; another state gives other outputs. A model that forgets it at each call cannot remember."""
    model = make_model()
    z, action = torch.randn(2, 1, 3), torch.randn(2, 1, 2)
    h, c = torch.randn(2, 6), torch.randn(2, 6)
    default, zeros = model(z, action).mu, torch.zeros(2, 6)
    expect_close(model(z, action, (zeros, zeros)).mu, default, what="mu from the zero state")
    assert not torch.allclose(model(z, action, (h, zeros)).mu, default), "h of the state is ignored"
    assert not torch.allclose(model(z, action, (zeros, c)).mu, default), "c of the state is ignored"


@pytest.mark.exercise(id="1.6")
@pytest.mark.parametrize("changed", ["z", "action"])
def test_outputs_know_the_past_and_not_the_future(changed):
    """Change z or the action of step 2: steps 0 and 1 stay as they are, steps 2, 3 and 4 move. Other rows never do."""
    model = make_model()
    inputs = {"z": torch.randn(3, 5, 3), "action": torch.randn(3, 5, 2)}
    before = model(**inputs)
    inputs[changed] = inputs[changed].clone()
    inputs[changed][1, 2] += 1
    after = model(**inputs)
    for name in ("logpi", "mu", "logsig", "reward", "done_logit"):
        moved = (getattr(before, name) - getattr(after, name)).abs().reshape(3, 5, -1).amax(2) > 1e-6
        assert not moved[1, :2].any(), f"{name} of a step saw a later {changed}"
        assert moved[1, 2:].all(), f"{name} does not react to {changed}"
        assert not moved[[0, 2]].any(), f"rows of the batch see each other in {name}: is time taken for batch?"


@pytest.mark.exercise(id="1.6")
@pytest.mark.parametrize("restart", [False, True])
def test_is_first_starts_a_new_sequence(restart):
    """Where is_first, step t begins from zeros: what came before, in this call or in its state, is forgotten."""
    model = make_model(restart=restart)
    z, action = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    state = torch.randn(2, 6), torch.randn(2, 6)
    is_first = torch.zeros(2, 5, dtype=torch.bool)
    plain = model(z, action, state, is_first)
    is_first[0, 2] = True
    out = model(z, action, state, is_first)
    fresh = model(z[:1, 2:], action[:1, 2:], None, is_first[:1, 2:])
    late = model(z[:1, 3:], action[:1, 3:], None, is_first[:1, 3:])
    mistakes = {
        numbers(torch.cat([out.mu[0, 2:3], late.mu[0]])): "the state is zeroed AFTER the first step: do it before",
        numbers(plain.mu[0, 2:]): "is_first does nothing",
    }
    expect_close(out.mu[0, 2:], fresh.mu[0], mistakes=mistakes, what="mu from the first row on")
    expect_close(out.mu[0, :2], plain.mu[0, :2], what="mu before the first row")
    expect_close(out.mu[1], plain.mu[1], what="mu of another row of the batch, which has no is_first")
    expect_close(out.state[1][0], fresh.state[1][0], what="c after the last step")
    is_first[0, 0] = True
    expect_close(
        model(z, action, state, is_first).mu[0, :2],
        model(z, action, None, is_first).mu[0, :2],
        what="mu where is_first at step 0, whatever the state",
    )


@pytest.mark.exercise(id="1.6")
def test_restart_flag_is_an_input_only_where_asked_for():
    """VizDoom's M is told that a step is the first: it knows more than that its state is zero."""
    z, action = torch.randn(2, 1, 3), torch.randn(2, 1, 2)
    yes, no = torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 1, dtype=torch.bool)
    for restart in (False, True):
        model = make_model(restart=restart)
        same = torch.allclose(model(z, action, None, yes).mu, model(z, action, None, no).mu)
        assert same != restart


@pytest.mark.exercise(id="1.6")
def test_gradient_flows_through_time_up_to_a_restart():
    """Backpropagation through time reaches every earlier z and action, and stops where the state was zeroed."""
    model = make_model()
    z, action = torch.randn(2, 4, 3, requires_grad=True), torch.randn(2, 4, 2, requires_grad=True)
    model(z, action).mu[:, -1].sum().backward()
    assert z.grad is not None, "no gradient reaches z: is it detached?"
    assert (z.grad.abs().sum(-1) > 0).all(), "gradient does not reach the first steps: is the state detached?"
    assert (action.grad.abs().sum(-1) > 0).all()
    z.grad = None
    is_first = torch.tensor([[False, False, True, False]] * 2)
    model(z, action, is_first=is_first).mu[:, -1].sum().backward()
    reached = z.grad.abs().sum(-1) > 0
    assert reached.tolist() == [[False, False, True, True]] * 2


@pytest.mark.exercise(id="1.6")
def test_log_deviation_has_a_floor():
    """A latent that never changes would drive the deviation to 0 and the density to infinity: stop at LOGSIG_MIN."""
    model = make_model(reward=False, done=False)
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.bias.fill_(-20)
    out = model(torch.randn(1, 2, 3), torch.randn(1, 2, 2))
    expect_close(out.logsig, rnn.LOGSIG_MIN, mistakes={-20.0: "there is no floor: clamp at LOGSIG_MIN"}, what="logsig")
    expect_close(out.mu, -20.0, what="mu, which has no floor")


# ---- 1.7 mdn_nll ----


def mixture(*components: tuple[float, float, float]) -> list[torch.Tensor]:
    """(weight, mean, deviation) of every component: logpi, mu, logsig, each of shape (1, 1, 1, K)."""
    weight, mean, deviation = torch.tensor(components).T.reshape(3, 1, 1, 1, -1)
    return [weight.log(), mean, deviation.log()]


@pytest.mark.exercise(id="1.7")
def test_two_components_by_hand():
    """-log(.25 N(1; -1, 1) + .75 N(1; 2, .5)) = 2.3593: the log of the mixture."""
    mistakes = {
        6.818706: "the logs of the components are summed: it is the log of their sum",
        2.399078: "the logs are averaged with the weights: it is the log of the weighted sum",
        1.776892: "logsig is the log DEVIATION: this takes it for the log variance",
        2.359323 - 0.918939: "log sqrt(2 pi) is missing",
        -2.359323: "this is the log likelihood: the loss is its negative",
        2.918939: "the deviation is missing in front of the exponential: - logsig",
        1.820326: "the mixture's weights are ignored",
    }
    parameters = mixture((0.25, -1.0, 1.0), (0.75, 2.0, 0.5))
    expect_close(rnn.mdn_nll(*parameters, torch.ones(1, 1, 1)), 2.359323, mistakes=mistakes, what="nll")


@pytest.mark.exercise(id="1.7")
def test_nll_of_a_sharp_hit_is_negative():
    """A density may exceed 1: deviation exp(-3), hit in the middle, costs 0.9189 - 3 nats. No mistake."""
    parameters = mixture((1.0, 2.0, math.exp(-3)))
    mistakes = {0.0: "a negative loss is right here: do not clamp it", 2.081061: "do not take the absolute value"}
    expect_close(rnn.mdn_nll(*parameters, torch.full((1, 1, 1), 2.0)), -2.081061, mistakes=mistakes, what="nll")


@pytest.mark.exercise(id="1.7")
def test_nll_far_from_every_mean_is_finite():
    """100 deviations away the density is 0 in float32: only log space gives 5000.92, and a gradient."""
    logpi, mu, logsig = mixture((0.5, 100.0, 1.0), (0.5, 100.0, 1.0))
    mu.requires_grad_()
    nll = rnn.mdn_nll(logpi, mu, logsig, torch.zeros(1, 1, 1))
    mistakes = {
        math.inf: "exp, then log: stay in log space with logsumexp",
        18.420681: "a small number is added before the log: stay in log space with logsumexp",
        13.815511: "a small number is added before the log: stay in log space with logsumexp",
    }
    expect_close(nll, 5000.918939, mistakes=mistakes, what="nll")
    nll.backward()
    expect_close(mu.grad, 50.0, rtol=1e-3, what="d nll / d mu of two equal components, which share 100")


@pytest.mark.exercise(id="1.7")
def test_standard_normal_costs_0_92_per_dimension():
    """Averaged over dimensions, so that the number does not grow with the latent: 0.9189, not 32 times that."""
    zeros = torch.zeros(2, 3, 32, 5)
    nll = rnn.mdn_nll(zeros.log_softmax(-1), zeros, zeros, torch.zeros(2, 3, 32))
    mistakes = {
        29.406034: "the dimensions are summed: average them",
        0.0: "log sqrt(2 pi) is missing",
        0.918939 * 6 * 32: "everything is summed: average it",
        0.918939 - math.log(5): "the log weights are not added (or taken as 0)",
        1.837877: "it is log sqrt(2 pi), half of log(2 pi)",
    }
    expect_close(nll, 0.918939, mistakes=mistakes, what="nll")


@pytest.mark.exercise(id="1.7")
@pytest.mark.parametrize(("target", "expected"), [((0.0, 0.0), 3.2235), ((0.0, 4.0), 3.2235), ((4.0, 2.0), 4.5307)])
def test_every_dimension_has_a_mixture_of_its_own(target, expected):
    """Means 0 and 4 in two dimensions: (0, 4) is as likely as (0, 0). One shared component for both would forbid it."""
    logpi = torch.full((1, 1, 2, 2), math.log(0.5))
    mu = torch.tensor([0.0, 4.0]).expand(1, 1, 2, 2)
    mistakes = {expected: "the dimensions are summed: average them"}
    for shared in (2.5310, 9.8379):
        mistakes[shared] = mistakes[shared / 2] = "the dimensions share one component: each has its own mixture"
    nll = rnn.mdn_nll(logpi, mu, torch.zeros(1, 1, 2, 2), torch.tensor([[target]]))
    expect_close(nll, expected / 2, mistakes=mistakes, what=f"nll of {target}")


@pytest.mark.exercise(id="1.7")
def test_nll_agrees_with_the_official_code():
    """The official loss on the official model's outputs, and its gradient in each of them."""
    g = golden("wm_mdnrnn_official")
    each = lambda name: torch.tensor(g[name]).reshape(2, 4, 3, 3)
    logweight, mu, logsig = (each(f"out_{name}").requires_grad_() for name in ("logmix", "mean", "logstd"))
    nll = rnn.mdn_nll(logweight.log_softmax(-1), mu, logsig, torch.tensor(g["output_x"]))
    cost = float(g["cost"])
    mistakes = {3 * cost: "the dimensions are summed: average them", 24 * cost: "everything is summed: average it"}
    expect_close(nll, cost, mistakes=mistakes, what="nll")
    nll.backward()
    expect_close(mu.grad, each("grad_mean"), what="d nll / d mu")
    expect_close(logsig.grad, each("grad_logstd"), what="d nll / d logsig")
    official = each("grad_logmix")  # in the normalised log weights; here it goes on through the softmax
    expected = official - each("out_logmix").exp() * official.sum(-1, keepdim=True)
    expect_close(logweight.grad, expected, what="d nll / d log weights")


@pytest.mark.exercise(id="1.7")
def test_port_with_one_mixture_for_all_dimensions_is_told_apart():
    """A well-known PyTorch port multiplies the dimensions' densities inside ONE mixture: another model."""
    g = golden("wm_gmm_loss_ctallec")
    mu, sigma = (torch.tensor(g[key]).transpose(-1, -2) for key in ("mus", "sigmas"))  # (3, 4, latent, K)
    logpi = torch.tensor(g["logpi"])[:, :, None].expand_as(mu)
    nll = rnn.mdn_nll(logpi, mu, sigma.log(), torch.tensor(g["batch"]))
    mistakes = {
        float(g["loss"]): "the dimensions share one component: each has its own mixture",
        float(g["loss"]) / 2: "the dimensions share one component: each has its own mixture",
        float(g["factorised_sum"]): "the dimensions are summed: average them",
    }
    expect_close(nll, g["factorised_mean"], mistakes=mistakes, what="nll")


def random_mixture(*shape: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    parameters = [torch.randn(*shape).log_softmax(-1), 2 * torch.randn(*shape), 0.5 * torch.randn(*shape)]
    return parameters, torch.randn(*shape[:-1])


def nll_per_number(parameters: list[torch.Tensor], target: torch.Tensor) -> np.ndarray:
    """The definition, in float64 and without log space."""
    logpi, mu, logsig = (tensor.double().numpy() for tensor in parameters)
    y, sigma = target.double().numpy()[..., None], np.exp(logsig)
    density = np.exp(-(((y - mu) / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi))
    return -np.log((np.exp(logpi) * density).sum(-1))


@pytest.mark.exercise(id="1.7")
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 5, 3, 4), (4, 1, 2, 3), (3, 2, 1, 1)])
def test_nll_against_float64(shape):
    """The definition once more, in numpy; also with one row, one step, one dimension, one component (no squeeze!)."""
    parameters, target = random_mixture(*shape)
    nll = rnn.mdn_nll(*parameters, target)
    assert nll.shape == (), "the loss is one number"
    expect_close(nll, nll_per_number(parameters, target).mean(), what="nll")


@pytest.mark.exercise(id="1.7")
def test_masked_steps_do_not_count():
    """The mean is over the steps that the mask keeps: padding changes neither the value nor any gradient."""
    parameters, target = random_mixture(3, 5, 2, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    each = nll_per_number(parameters, target)
    rows = [row[kept].mean() for row, kept in zip(each, mask.numpy(), strict=True)]
    each = each[mask.numpy()]
    target[~mask] = 1000.0
    for tensor in parameters:
        tensor.requires_grad_()
    nll = rnn.mdn_nll(*parameters, target, mask)
    mistakes = {
        each.sum() / (3 * 5 * 2): "the sum is divided by all steps: divide by those that the mask keeps",
        2 * each.mean(): "the dimensions are summed: average them",
        np.mean(rows): "rows are averaged first: every kept STEP weighs the same",
    }
    expect_close(nll, each.mean(), mistakes=mistakes, what="nll with a mask")
    nll.backward()
    for tensor in parameters:
        expect_close(tensor.grad[~mask], 0.0, what="gradient at the masked steps")
    everything = rnn.mdn_nll(*parameters, target, torch.ones(3, 5, dtype=torch.bool))
    expect_close(everything, rnn.mdn_nll(*parameters, target), what="nll with a mask that keeps all, against none")


# ---- 1.8 mdn_sample ----


def log_weights(*weights: float) -> torch.Tensor:
    return torch.tensor(weights).log()


@pytest.mark.exercise(id="1.8")
def test_uniform_noise_picks_the_component():
    """The first component whose cumulative probability reaches `uniform`, as the official get_pi_idx does it."""
    g = golden("wm_pi_index")
    tie = np.isclose(g["x"][:, None], g["pdf"].cumsum(1)).any(1)  # there, float32 may fall to either side
    logpi = torch.tensor(np.log(g["pdf"][~tie] + 1e-30), dtype=torch.float32)[:, None]
    means = torch.tensor([0.0, 1.0, 2.0]).expand_as(logpi)
    uniform = torch.tensor(g["x"][~tie], dtype=torch.float32)[:, None]
    z = rnn.mdn_sample(logpi, means, torch.zeros_like(means), 1.0, uniform, torch.zeros_like(uniform))
    most = g["pdf"][~tie].argmax(1)
    mistakes = {numbers(most): "the heaviest component is taken: it is to be drawn"}
    expect_close(z[:, 0], g["idx"][~tie], mistakes=mistakes, what="index of the component")


@pytest.mark.exercise(id="1.8")
def test_temperature_sharpens_the_weights():
    """(.7, .2, .1) at temperature 1/2 becomes (.907, .074, .019): cool dreams take the likeliest turn."""
    uniform = torch.tensor([0.69, 0.72, 0.85, 0.895, 0.915, 0.975, 0.985])[:, None]
    logpi = log_weights(0.7, 0.2, 0.1).expand(7, 1, 3)
    means = torch.tensor([0.0, 1.0, 2.0]).expand(7, 1, 3)
    z = rnn.mdn_sample(logpi, means, torch.zeros(7, 1, 3), 0.5, uniform, torch.zeros(7, 1))
    mistakes = {
        (0, 1, 1, 1, 2, 2, 2): "the temperature does not reach the weights: softmax(logpi / temperature)",
        (1, 1, 2, 2, 2, 2, 2): "log weights are divided by the temperature, not multiplied",
        (0, 0, 1, 1, 1, 2, 2): "the log weights are divided by sqrt(temperature): that is for the noise",
    }
    expect_close(z[:, 0], [0, 0, 0, 0, 1, 1, 2], mistakes=mistakes, what="index of the component")


@pytest.mark.exercise(id="1.8")
@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 7.0), (0.25, 6.0), (2.25, 8.0)])
def test_noise_grows_with_the_root_of_the_temperature(temperature, expected):
    """Mean 5, deviation 2, noise 1: 5 + 2 sqrt(temperature)."""
    one = torch.ones(1, 1, 1)
    z = rnn.mdn_sample(0 * one, 5 * one, math.log(2) * one, temperature, torch.tensor([[0.3]]), torch.ones(1, 1))
    mistakes = {
        5 + 2 * temperature: "the deviation is multiplied by sqrt(temperature), not by the temperature",
        5 + math.log(2) * math.sqrt(temperature): "logsig is a log: take its exponential",
        5 + math.sqrt(2 * temperature): "logsig is the log DEVIATION, not the log variance",
        5.0: "the noise is missing: this is the mean",
        7.0: "the temperature does not reach the noise",
    }
    mistakes = {value: text for value, text in mistakes.items() if not math.isclose(value, expected)}
    expect_close(z, expected, mistakes=mistakes, what="z")


@pytest.mark.exercise(id="1.8")
@pytest.mark.parametrize("name", ["tau100", "tau30", "tau125"])
def test_dream_agrees_with_the_official_sample_sequence(name):
    """Six steps of the official dream with its own random draws: every z that is drawn is the next input."""
    g = golden("wm_mdn_sampling")
    model = make_model(latent=3, action=3, hidden=6, mixtures=3, reward=False, done=False)
    load_official_weights(model, g)
    tensor = lambda key: torch.tensor(g[key], dtype=torch.float32)[None]
    actions, uniform, normal = tensor("actions"), tensor(f"{name}_uniform"), tensor(f"{name}_normal")
    z, state, dreamt = tensor("init_z"), None, []
    for t in range(6):
        out = model(z[:, None], actions[:, t : t + 1], state)
        state = out.state
        temperature = int(name.removeprefix("tau")) / 100
        z = rnn.mdn_sample(
            out.logpi[:, 0], out.mu[:, 0], out.logsig[:, 0], temperature, uniform=uniform[:, t], normal=normal[:, t]
        )
        dreamt.append(z)
    expect_close(torch.cat(dreamt), g[f"{name}_strokes"], what=f"dreamt latents at temperature {temperature}")


@pytest.mark.exercise(id="1.8")
def test_dream_agrees_with_the_official_doom_environment():
    """VizDoom's dream at temperature 1.25, from the first step to the end of the episode: z, c, h and done."""
    g = golden("wm_doom_dream_step")
    model = make_model(latent=3, action=1, hidden=4, mixtures=2, reward=False, done=True, restart=True)
    load_official_weights(model, g)
    tensor = lambda key: torch.tensor(g[key], dtype=torch.float32)
    z, state = tensor("z0")[None], None
    for t in range(6):
        out = model(z[:, None], tensor("actions")[t].reshape(1, 1, 1), state, torch.tensor([[t == 0]]))
        parameters = [x[:, 0] for x in (out.logpi, out.mu, out.logsig)]
        z = rnn.mdn_sample(*parameters, 1.25, tensor("uniform")[t : t + 1], tensor("normal")[t : t + 1])
        state = h, c = out.state
        expect_close(torch.cat([z, c, h], 1)[0], g["state"][t], what=f"[z, c, h] after step {t}")
        assert (out.done_logit > 0).item() == g["done"][t]


@pytest.mark.exercise(id="1.8")
@pytest.mark.parametrize("given", ["uniform", "normal"])
def test_noise_that_is_given_is_used_and_the_other_drawn(given):
    """Two equal components at -50 and 50: the uniform noise alone decides the sign, the normal one the rest."""
    logpi = log_weights(0.5, 0.5).expand(20, 2, 2)
    mu = torch.tensor([-50.0, 50.0]).expand(20, 2, 2)
    noise = {"uniform": torch.rand(20, 2), "normal": torch.randn(20, 2)}
    z = rnn.mdn_sample(logpi, mu, torch.zeros_like(mu), 1.0, **{given: noise[given]})
    sign = torch.where(noise["uniform"] <= 0.5, -1.0, 1.0)
    if given == "uniform":
        expect_close(z.sign(), sign, what="which component the given uniform noise picks")
        assert (z - 50 * sign).std() > 0.5, "the normal noise is missing"
    else:
        expect_close(z - 50 * z.sign(), noise["normal"], what="the given normal noise")
        assert 0 < (z > 0).sum() < 40, "the component is not drawn"


@pytest.mark.exercise(id="1.8")
def test_low_temperature_gives_the_heaviest_mean():
    """Towards temperature 0 nothing is left to chance, also where the noise is drawn inside."""
    logpi = log_weights(0.3, 0.6, 0.1).expand(2, 4, 3, 3)
    mu = torch.randn(2, 4, 3, 3)
    z = rnn.mdn_sample(logpi, mu, torch.full_like(mu, -6.0), temperature=0.001)
    expect_close(z, mu[..., 1], atol=1e-3, what="z")


@pytest.mark.exercise(id="1.8")
def test_dimensions_rows_and_calls_draw_independently():
    """Half of the time two dimensions pick different components; one draw for all of them would never do so."""
    n = 4000
    logpi = torch.full((n, 2, 2), math.log(0.5))
    mu = torch.tensor([-1.0, 1.0]).expand(n, 2, 2)
    z = rnn.mdn_sample(logpi, mu, torch.full((n, 2, 2), -7.0))
    first, second = ((z > 0).double() for z in (z, rnn.mdn_sample(logpi, mu, torch.full((n, 2, 2), -7.0))))
    pairs = {
        "the dimensions": (first[:, 0], first[:, 1]),
        "the rows of the batch": (first[1:, 0], first[:-1, 0]),
        "two calls": (first[:, 0], second[:, 0]),
    }
    for name, (a, b) in pairs.items():
        share = (a != b).double().mean()
        mistakes = {0.0: f"{name} share one draw"}
        expect_close(
            share, 0.5, rtol=0, atol=6 * 0.5 / math.sqrt(n), mistakes=mistakes, what=f"how often {name} differ"
        )


@pytest.mark.exercise(id="1.8")
def test_draws_have_the_mixtures_mean_and_variance():
    """100,000 draws of .2 N(-2, .5^2) + .8 N(1, 2^2): mean .4, variance 4.69, and no dimension knows another."""
    n = 100_000
    parameters = torch.tensor([[0.2, 0.8], [-2.0, 1.0], [0.5, 2.0]])
    weights, means, deviations = parameters[:, None, None].expand(3, n // 2, 2, 2)
    z = rnn.mdn_sample(weights.log(), means, deviations.log())
    assert z.shape == (n // 2, 2)
    z = z.double()
    expect_close(z.mean(), 0.4, rtol=0, atol=6 * math.sqrt(4.69 / n), what="mean of the draws")
    mistakes = {1.44: "the noise is missing: these are means", 1.0: "only the noise is left"}
    expect_close(z.var(), 4.69, rtol=0, atol=6 * 4.69 * math.sqrt(3 / n), mistakes=mistakes, what="variance of them")
    correlation = torch.corrcoef(z.T)[0, 1]
    expect_close(correlation, 0.0, rtol=0, atol=6 / math.sqrt(n // 2), what="correlation of two dimensions")


# ---- 1.9 sequence_batch ----


def make_rows(batch: int = 2, length: int = 5, latent: int = 3, logvar: float = -40.0) -> dict[str, torch.Tensor]:
    """A window of a world where z_{t+1} = z_t + a_t; prev_action of row t is the a that led there, zeros at first."""
    prev_action = torch.randn(batch, length, latent)
    prev_action[:, 0] = 0
    return {
        "mu": torch.randn(batch, 1, latent) + prev_action.cumsum(1),
        "logvar": torch.full((batch, length, latent), logvar),
        "prev_action": prev_action,
        "reward": 10.0 * torch.arange(batch)[:, None] + torch.arange(length),
        "is_first": (torch.arange(length) == 0).expand(batch, length),
        "is_terminal": (torch.arange(length) == length - 1).expand(batch, length),
        "mask": torch.ones(batch, length, dtype=torch.bool),
    }


@pytest.mark.exercise(id="1.9")
def test_transitions_line_up():
    """z_t and a_t in, z_{t+1} out. A row holds the action that led TO it, so a_t is read from row t + 1."""
    rows = make_rows()
    batch = rnn.sequence_batch(rows)
    mu, prev_action = rows["mu"], rows["prev_action"]
    assert batch.z.shape == batch.next_z.shape == batch.action.shape == (2, 4, 3), "T rows make T - 1 transitions"
    mistakes = {numbers(mu[:, 1:]): "z is shifted by one: it starts at row 0"}
    expect_close(batch.z, mu[:, :-1], mistakes=mistakes, what="z")
    mistakes = {
        numbers(prev_action[:, :-1]): "a_t is prev_action[t + 1]; this is the action before it",
        numbers(torch.roll(prev_action, -2, 1)[:, :-1]): "the actions are shifted once too often",
    }
    expect_close(batch.action, prev_action[:, 1:], mistakes=mistakes, what="action")
    mistakes = {numbers(mu[:, :-1]): "the target is the NEXT latent: this is z_t itself"}
    expect_close(batch.next_z, mu[:, 1:], mistakes=mistakes, what="next_z")
    expect_close(batch.next_z, batch.z + batch.action, what="next_z in a world where z_{t+1} = z_t + a_t")


@pytest.mark.exercise(id="1.9")
def test_reward_and_end_belong_to_the_arrival():
    """The reward for a_t, and whether a_t ended the episode, stand in row t + 1; is_first is about z_t."""
    rows = make_rows()
    batch = rnn.sequence_batch(rows)
    mistakes = {numbers(rows["reward"][:, :-1]): "this is the reward received on arriving at z_t, before a_t"}
    expect_close(batch.reward, rows["reward"][:, 1:], mistakes=mistakes, what="reward")
    assert batch.done.tolist() == [[False, False, False, True]] * 2, "the last transition, and no other, is the end"
    assert batch.is_first.tolist() == [[True, False, False, False]] * 2, "the first transition starts at the first row"


@pytest.mark.exercise(id="1.9")
def test_only_a_true_end_is_an_end():
    """A window that stops because it is full, or a time limit struck, has no is_terminal and no done."""
    rows = make_rows()
    rows["is_terminal"] = torch.zeros(2, 5, dtype=torch.bool)
    rows["is_terminal"][1, 2] = True
    assert rnn.sequence_batch(rows).done.tolist() == [[False] * 4, [False, True, False, False]]


@pytest.mark.exercise(id="1.9")
def test_transition_counts_where_both_rows_do():
    """Row 1's episode ends at row 2: its transitions 0 -> 1 and 1 -> 2 count, 2 -> 3 would lead out of it."""
    rows = make_rows()
    rows["mask"] = torch.tensor([[True] * 5, [True, True, True, False, False]])
    mask = rnn.sequence_batch(rows).mask.tolist()
    assert mask[1] != [True, True, True, False], "the transition out of the last row must not count"
    assert mask == [[True] * 4, [True, True, False, False]]
    rows["mask"] = rows["mask"].flip(1)  # rows missing at the front
    assert rnn.sequence_batch(rows).mask.tolist() == [[True] * 4, [False, False, True, True]]


@pytest.mark.exercise(id="1.9")
def test_latents_are_sampled_with_the_given_noise():
    """z = mu + exp(logvar / 2) eps, one draw for each row: the target of a step is the input of the next."""
    rows = make_rows(logvar=math.log(4))
    eps = torch.randn(2, 5, 3)
    batch = rnn.sequence_batch(rows, eps)
    z = rows["mu"] + 2 * eps
    mistakes = {
        numbers(rows["mu"][:, :-1]): "this is the mean: sample, so that M learns how unsure V is",
        numbers((rows["mu"] + 4 * eps)[:, :-1]): "exp(logvar) is the variance, not the deviation",
    }
    expect_close(batch.z, z[:, :-1], mistakes=mistakes, what="z")
    expect_close(
        batch.next_z, z[:, 1:], mistakes={numbers(rows["mu"][:, 1:]): "the target is sampled too"}, what="next_z"
    )


@pytest.mark.exercise(id="1.9")
def test_noise_is_fresh_at_every_call_and_shared_by_input_and_target():
    """M never sees the same z twice, or it learns V's codes by heart; yet within a batch a frame has ONE z."""
    rows = make_rows(logvar=0.0)
    first, second = rnn.sequence_batch(rows), rnn.sequence_batch(rows)
    assert not torch.allclose(first.z, second.z), "two calls give the same z: draw anew each time"
    expect_close(first.z[:, 1:], first.next_z[:, :-1], what="z_t as an input, against z_t as the target before")
    noise = torch.cat([first.z, first.next_z[:, -1:]], 1) - rows["mu"]
    assert not torch.allclose(noise[0], noise[1]), "the rows of the batch share their noise"
    assert not torch.allclose(noise[:, 0], noise[:, 1]), "all steps share their noise"
    sure = make_rows(logvar=-40.0)
    expect_close(rnn.sequence_batch(sure).z, rnn.sequence_batch(sure).z, atol=1e-6, what="two draws without variance")


# ---- 1.10 rnn_loss and rnn_train_step ----


def random_batch(model: rnn.MDNRNN, batch: int = 3, time: int = 5, masked: bool = True) -> rnn.SequenceBatch:
    """Nothing in it is learnable; the first transition starts an episode, some ends and some padding are in it."""
    latent = model.latent_size
    mask = torch.ones(batch, time, dtype=torch.bool)
    if masked:
        mask[1, 2:] = False
    return rnn.SequenceBatch(
        z=torch.randn(batch, time, latent),
        action=torch.randn(batch, time, model.lstm.input_size - latent - model.restart_input),
        next_z=torch.randn(batch, time, latent),
        reward=torch.randn(batch, time),
        done=torch.rand(batch, time) < 0.4,
        is_first=(torch.arange(time) == 0).expand(batch, time),
        mask=mask,
    )


@pytest.mark.exercise(id="1.10")
def test_loss_agrees_with_the_official_doom_code():
    """Mixture and end of episode together: ends are weighted by 10, plain mean over all steps, sum of the two."""
    model, g = official_doom_model()
    steps = torch.ones(2, 4)
    batch = rnn.SequenceBatch(
        z=torch.tensor(g["z"][:, :-1]),
        action=torch.tensor(g["action"][:, :-1, None]),
        next_z=torch.tensor(g["z"][:, 1:]),
        reward=0 * steps,
        done=torch.tensor(g["restart"][:, 1:]).bool(),
        is_first=torch.tensor(g["restart"][:, :-1]).bool(),
        mask=steps.bool(),
    )
    losses = rnn.rnn_loss(model, batch)
    logits, done = torch.tensor(g["restart_logits"]), batch.done.flatten().float()
    weight = 1 + 9 * done
    each = F.binary_cross_entropy_with_logits(logits, done, reduction="none")
    mistakes = {
        float(each.mean()): "the ends are not weighted by DONE_WEIGHT",
        float((weight * each).sum() / weight.sum()): "divide by the number of steps, not by the sum of the weights",
        float(10 * each.mean()): "only the steps that are an end have the weight, not all",
    }
    expect_close(losses["nll"], g["z_cost"], what="nll")
    expect_close(losses["done"], g["r_cost"], mistakes=mistakes, what="done")
    expect_close(losses["loss"], g["cost"], what="loss = nll + done")


@pytest.mark.exercise(id="1.10")
@pytest.mark.parametrize(("reward", "done"), [(False, False), (True, False), (False, True), (True, True)])
def test_loss_has_a_part_for_every_head(reward, done):
    """nll, squared reward error and weighted end loss, each a mean over the kept steps; the loss is their sum."""
    model = make_model(reward=reward, done=done)
    batch = random_batch(model)
    losses = rnn.rnn_loss(model, batch)
    with torch.no_grad():
        out = model(batch.z, batch.action)
    mask = batch.mask.numpy()
    parts = {"nll": nll_per_number([out.logpi, out.mu, out.logsig], batch.next_z)[mask].mean()}
    if reward:
        error = (out.reward - batch.reward).double().numpy() ** 2
        parts["reward"] = error[mask].mean()
        mistakes = {error.mean(): "the mask is ignored", (error * mask).mean(): "divide by the kept steps, not by all"}
        expect_close(losses["reward"], parts["reward"], mistakes=mistakes, what="reward")
    if done:
        p = 1 / (1 + np.exp(-out.done_logit.double().numpy()))
        each = np.where(batch.done, -10 * np.log(p), -np.log(1 - p))
        parts["done"] = each[mask].mean()
        mistakes = {
            each.mean(): "the mask is ignored",
            np.where(batch.done, -np.log(p), -np.log(1 - p))[mask].mean(): "the ends are not weighted by DONE_WEIGHT",
            np.where(batch.done, -10 * np.log(1 - p), -np.log(p))[mask].mean(): "the logit's sign is wrong",
        }
        expect_close(losses["done"], parts["done"], mistakes=mistakes, what="done")
    expect_close(losses["nll"], parts["nll"], what="nll")
    mistakes = {parts["nll"]: "the heads' losses are missing", np.mean(list(parts.values())): "add the parts"}
    expect_close(losses["loss"], sum(parts.values()), mistakes=mistakes if reward or done else None, what="loss")
    assert set(losses) == {"loss", *parts}


@pytest.mark.exercise(id="1.10")
def test_padding_has_no_say_in_the_loss():
    """Change everything behind the mask: the loss stays."""
    model = make_model()
    batch = random_batch(model)
    behind = ~batch.mask
    other = batch._replace(
        next_z=torch.where(behind[..., None], batch.next_z + 5, batch.next_z),
        reward=torch.where(behind, batch.reward + 5, batch.reward),
        done=batch.done ^ behind,
    )
    expect_close(rnn.rnn_loss(model, other)["loss"], rnn.rnn_loss(model, batch)["loss"], what="loss")


def clipped_step(model: rnn.MDNRNN, batch: rnn.SequenceBatch, clip_value: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The raw gradient of the loss, and how far one SGD step with learning rate 1 moves the weights, both flat."""
    flat = lambda tensors: torch.cat([tensor.detach().flatten() for tensor in tensors])
    parameters, untouched = list(model.parameters()), copy.deepcopy(model)  # no hook comes along
    gradient = flat(torch.autograd.grad(rnn.rnn_loss(untouched, batch)["loss"], list(untouched.parameters())))
    before = flat(parameters)
    rnn.rnn_train_step(model, batch, torch.optim.SGD(parameters, 1.0), clip_value)
    return gradient, before - flat(parameters)


@pytest.mark.exercise(id="1.10")
@pytest.mark.parametrize("clip_value", [1.0, 0.25])
def test_gradient_is_clipped_entry_by_entry(clip_value):
    """(3, -0.5) becomes (1, -0.5): by value. Clipping by norm would shrink both, and the direction would stay."""
    model = make_model()
    batch = random_batch(model)
    batch = batch._replace(next_z=20 * batch.next_z)  # errors of 20 deviations: some gradients are large
    gradient, step = clipped_step(model, batch, clip_value)
    clipped = gradient.clamp(-clip_value, clip_value)
    assert 0 < (clipped != gradient).sum() < len(gradient)
    mistakes = {
        numbers(gradient): "the gradient is not clipped",
        numbers(gradient * clip_value / gradient.norm()): "the gradient is clipped by its norm: clip every entry",
        numbers(gradient.clamp(-1, 1)): "clip_value is not used",
        numbers(-clipped): "the step goes uphill",
        0.0: "no step is taken",
    }
    if clip_value == 1:
        del mistakes[numbers(gradient.clamp(-1, 1))]
    expect_close(step, clipped, atol=1e-4, mistakes=mistakes, what="one SGD step, learning rate 1")


@pytest.mark.exercise(id="1.10")
def test_each_step_clips_at_its_own_value():
    """A step leaves nothing behind that would clip the next one, such as a hook."""
    model = make_model()
    batch = random_batch(model)
    clipped_step(model, batch, 1e-4)
    gradient, step = clipped_step(model, batch, 1000.0)
    mistakes = {numbers(gradient.clamp(-1e-4, 1e-4)): "the clip_value of an earlier step is still at work"}
    expect_close(step, gradient, atol=1e-4, mistakes=mistakes, what="the second SGD step, learning rate 1")


@pytest.mark.exercise(id="1.10")
def test_old_gradients_do_not_leak_into_the_step():
    """Without zero_grad every step would repeat all steps before it."""
    model = make_model()
    batch = random_batch(model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    gradient, step = clipped_step(model, batch, 1000.0)
    mistakes = {numbers(gradient + 0.5): "the gradient of an earlier step is still there: zero it first"}
    expect_close(step, gradient, atol=1e-4, mistakes=mistakes, what="one SGD step, learning rate 1")


@pytest.mark.exercise(id="1.10")
def test_adam_step_agrees_with_the_official_code():
    """One update of the official model (Adam, learning rate 0.01): every weight moves the way it moved there."""
    g = golden("wm_mdnrnn_official")
    model, after = (make_model(3, 3, 6, 3, reward=False, done=False) for _ in range(2))
    load_official_weights(model, g)
    load_official_weights(after, g, prefix="after_step.")
    batch = random_batch(model, 2, 4, masked=False)
    x = torch.tensor(g["input_x"])
    batch = batch._replace(z=x[..., :3], action=x[..., 3:], next_z=torch.tensor(g["output_x"]))
    losses = rnn.rnn_train_step(model, batch, torch.optim.Adam(model.parameters(), 0.01))
    expect_close(losses["loss"], g["cost"], what="loss before the step")
    for name in ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "out.weight", "out.bias"):
        # Tolerance: TensorFlow and torch put Adam's epsilon in different places
        expect_close(model.get_parameter(name), after.get_parameter(name), atol=1e-3, what=f"{name} after the step")


@pytest.mark.exercise(id="1.10")
def test_step_returns_the_parts_without_their_graph():
    """The numbers are for the log: from before the step, and detached, or every step's graph would stay in memory."""
    model = make_model()
    batch = random_batch(model)
    expected = rnn.rnn_loss(model, batch)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    losses = rnn.rnn_train_step(model, batch, optimizer)
    assert set(losses) == {"loss", "nll", "reward", "done"}
    for name, value in losses.items():
        assert not value.requires_grad, f"{name} still carries its graph"
        expect_close(value, expected[name], what=name)
    rnn.rnn_train_step(model, batch, optimizer)  # a second step must not reach back into the first


@pytest.mark.training
@pytest.mark.exercise(id="1.10")
def test_m_learns_what_an_action_does():
    """z_{t+1} = z_t + a_t: after 300 steps M beats both baselines; without using the action it could not."""
    model = make_model(latent=2, action=2, hidden=32, mixtures=5, reward=False, done=False)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def fresh_batch() -> rnn.SequenceBatch:
        batch = random_batch(model, 32, 10, masked=False)
        action = 0.2 * torch.rand(32, 10, 2) - 0.1
        z = torch.cat([torch.zeros(32, 1, 2), action.cumsum(1)], 1) + 0.5 * torch.randn(32, 1, 2)
        return batch._replace(z=z[:, :-1], action=action, next_z=z[:, 1:])

    for _ in range(300):
        rnn.rnn_train_step(model, fresh_batch(), optimizer)
    batch = fresh_batch()
    with torch.no_grad():
        nll = float(rnn.rnn_loss(model, batch)["nll"])
    cost_of_gaussian = lambda error: 0.5 * math.log(2 * math.pi * math.e * float(error.square().mean()))
    mean = cost_of_gaussian(batch.next_z - batch.next_z.mean())  # about 0.7
    copy = cost_of_gaussian(batch.next_z - batch.z)  # about -1.4
    assert nll < mean - 1, f"nll {nll:.2f}: no better than a Gaussian around the mean of all latents ({mean:.2f})"
    assert nll < copy - 0.2, f"nll {nll:.2f}: no better than a Gaussian around the last latent ({copy:.2f})"
