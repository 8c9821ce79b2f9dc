"""The RSSM: exercises 2.6 to 2.10."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paper2_dreamerv1 import rssm
from tests.helpers import expect_close, golden, numbers

ACTION, EMBED, DETER, STOCH, HIDDEN = 2, 6, 5, 3, 4


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def make_rssm() -> rssm.RSSM:
    """A small RSSM whose weights are large enough that every input matters."""
    model = rssm.RSSM(ACTION, EMBED, DETER, STOCH, HIDDEN)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


def make_state(*lead: int) -> rssm.State:
    return rssm.State(
        torch.rand(*lead, DETER) * 2 - 1, torch.randn(*lead, STOCH), torch.randn(*lead, STOCH), torch.rand(*lead, STOCH)
    )


def check_gradients(actual: torch.Tensor, expected: torch.Tensor, leaves: dict[str, torch.Tensor]) -> None:
    """Two numbers that should be the same have the same gradient in all leaves."""
    expect_close(actual, expected, what="the number whose gradient is taken")
    found = torch.autograd.grad(actual, list(leaves.values()), allow_unused=True)
    wanted = torch.autograd.grad(expected, list(leaves.values()))
    for name, one, other in zip(leaves, found, wanted, strict=True):
        assert one is not None, f"no gradient reaches {name}: nothing is to be detached here"
        mistakes = {0.0: "no gradient: nothing is to be detached here"}
        expect_close(one, other, rtol=1e-3, atol=1e-4, mistakes=mistakes, what=f"gradient in {name}")


def official_rssm() -> tuple[rssm.RSSM, dict[str, np.ndarray]]:
    """The official model's weights: Keras has (in, out) kernels, and the GRU's gates in the order z, r, h."""
    g = golden("dv1_rssm_gru")
    model = rssm.RSSM(ACTION, EMBED, DETER, STOCH, HIDDEN)
    tensor = lambda array: torch.tensor(array, dtype=torch.float32)
    with torch.no_grad():
        for name in ("img1", "img2", "img3", "obs1", "obs2"):
            kernel = tensor(g[f"param.{name}.kernel"])
            getattr(model, name).weight.copy_(kernel.T)
            getattr(model, name).bias.copy_(tensor(g[f"param.{name}.bias"]))
        order = lambda x: torch.cat([x[DETER : 2 * DETER], x[:DETER], x[2 * DETER :]])  # r, z, h
        model.cell.weight_ih.copy_(order(tensor(g["gru_kernel"]).T))
        model.cell.weight_hh.copy_(order(tensor(g["gru_recurrent"]).T))
        model.cell.bias_ih.copy_(order(tensor(g["gru_bias"][0])))
        model.cell.bias_hh.copy_(order(tensor(g["gru_bias"][1])))
    return model, {key: tensor(value) for key, value in g.items() if key != "reset_after"}


# ---- 2.6 gaussian ----


@pytest.mark.exercise(id="2.6")
def test_gaussian_by_hand():
    """softplus(0) + 0.1 = 0.7931; the sample is mean + std * noise."""
    raw = torch.tensor([[1.0, -2.0, 0.0, 3.0]])
    noise = torch.tensor([[0.5, -1.0]])
    stoch, mean, std = rssm.gaussian(raw, noise)
    mistakes = {
        numbers([[1.1, 20.18554]]): "std is exp(raw) + 0.1: it is softplus(raw) + 0.1",
        numbers([[0.69315, 3.04859]]): "min_std is not added",
        numbers([[0.74440, 3.14406]]): "min_std is added inside of softplus",
        numbers([[1.31326 + 0.1, 0.12693 + 0.1]]): "the halves are swapped: the mean comes first",
    }
    expect_close(std, [[0.79315, 3.14859]], mistakes=mistakes, what="std")
    expect_close(mean, [[1.0, -2.0]], mistakes={numbers([[0.0, 3.0]]): "the halves are swapped"}, what="mean")
    expect_close(
        stoch, [[1.39657, -5.14859]], mistakes={numbers([[1.0, -2.0]]): "the noise is not added"}, what="stoch"
    )


@pytest.mark.exercise(id="2.6")
@pytest.mark.parametrize("min_std", [0.1, 0.02])
def test_std_has_a_floor(min_std):
    _, _, std = rssm.gaussian(torch.full((2, 4), -100.0), torch.zeros(2, 2), min_std)
    expect_close(std, min_std, atol=1e-6, what="the smallest std")
    _, _, std = rssm.gaussian(torch.full((2, 4), 60.0), torch.zeros(2, 2), min_std)
    expect_close(std, 60 + min_std, what="a large std")


@pytest.mark.exercise(id="2.6")
def test_sample_carries_gradient_into_mean_and_std():
    """d stoch / d mean = 1, d stoch / d std = noise: a sample without them teaches the posterior nothing."""
    raw, noise = torch.randn(4, 6), torch.randn(4, 3)
    raw.requires_grad_()
    stoch, _, _ = rssm.gaussian(raw, noise)
    assert stoch.requires_grad, "no gradient flows through the sample"
    stoch.sum().backward()
    expect_close(raw.grad[:, :3], 1.0, what="d stoch / d mean")
    expect_close(raw.grad[:, 3:], noise * raw[:, 3:].sigmoid(), what="d stoch / d raw std")


@pytest.mark.exercise(id="2.6")
def test_gaussian_takes_any_leading_axes():
    raw, noise = torch.randn(2, 3, 4, 10), torch.randn(2, 3, 4, 5)
    together = rssm.gaussian(raw, noise)
    alone = rssm.gaussian(raw[1, 2], noise[1, 2])
    for name, a, b in zip(("stoch", "mean", "std"), together, alone, strict=True):
        assert a.shape == (2, 3, 4, 5)
        expect_close(a[1, 2], b, what=name)


# ---- 2.7 img_step ----


@pytest.mark.exercise(id="2.7")
def test_prior_agrees_with_the_official_code():
    model, g = official_rssm()
    prev = rssm.State(g["prev_deter"], g["prev_stoch"], g["prev_stoch"], g["prev_stoch"])
    prior = model.img_step(prev, g["action"])
    expect_close(prior.deter, g["prior_deter"], what="deter")
    expect_close(prior.mean, g["prior_mean"], what="mean")
    expect_close(prior.std, g["prior_std"], what="std")


@pytest.mark.exercise(id="2.7")
def test_prior_agrees_with_the_equations():
    model, prev, action, noise = make_rssm(), make_state(4), torch.randn(4, ACTION), torch.randn(4, STOCH)
    prior = model.img_step(prev, action, noise)

    def deter(x: torch.Tensor, activation=F.elu) -> torch.Tensor:
        x = activation(model.img1(x))
        w = model.cell
        gates_x, gates_h = F.linear(x, w.weight_ih, w.bias_ih), F.linear(prev.deter, w.weight_hh, w.bias_hh)
        (rx, zx, nx), (rh, zh, nh) = gates_x.chunk(3, -1), gates_h.chunk(3, -1)
        r, z = (rx + rh).sigmoid(), (zx + zh).sigmoid()
        return (1 - z) * (nx + r * nh).tanh() + z * prev.deter

    expected = deter(torch.cat([prev.stoch, action], -1))
    mistakes = {
        numbers(deter(torch.cat([prev.stoch, 0 * action], -1))): "the action is left out",
        numbers(deter(torch.cat([prev.mean, action], -1))): "the GRU is fed the mean: it is the sample, stoch",
        numbers(deter(torch.cat([prev.stoch, action], -1), lambda x: x)): "there is no ELU after img1",
        numbers(deter(torch.cat([prev.stoch, action], -1), F.relu)): "the activation is ELU, not ReLU",
    }
    expect_close(prior.deter, expected, mistakes=mistakes, what="deter")
    raw = model.img3(F.elu(model.img2(expected)))
    without = model.img3(model.img2(expected))[..., :STOCH]
    expect_close(prior.mean, raw[..., :STOCH], mistakes={numbers(without): "there is no ELU after img2"}, what="mean")
    expect_close(prior.std, F.softplus(raw[..., STOCH:]) + 0.1, what="std")
    expect_close(prior.stoch, prior.mean + prior.std * noise, what="stoch, with this noise")


@pytest.mark.exercise(id="2.7")
def test_prior_knows_the_past_through_deter_alone():
    """stoch and action reach the prior's Gaussian only by way of the GRU: with the same deter it is the same."""
    model, action = make_rssm(), torch.randn(4, ACTION)
    with torch.no_grad():
        model.cell.weight_ih.zero_()  # what the GRU takes in changes nothing any more
    prev = make_state(4)
    other = prev._replace(stoch=prev.stoch + 1, mean=prev.mean + 1)
    one, two = model.img_step(prev, action), model.img_step(other, action + 1)
    expect_close(one.mean, two.mean, what="the prior's mean for the same deter")
    expect_close(one.std, two.std, what="the prior's std for the same deter")


@pytest.mark.exercise(id="2.7")
def test_gradient_flows_through_a_step():
    """From the prior's sample and from deter into all that went in: that is how a policy learns from a dream."""
    model, prev, noise = make_rssm(), make_state(4), torch.randn(4, STOCH)
    deter, stoch, action = prev.deter, prev.stoch, torch.randn(4, ACTION)
    leaves = {"the previous deter": deter, "the previous stoch": stoch, "the action": action}
    for leaf in leaves.values():
        leaf.requires_grad_()
    prior = model.img_step(prev, action, noise)
    new = model.cell(F.elu(model.img1(torch.cat([stoch, action], -1))), deter)
    mean, raw = model.img3(F.elu(model.img2(new))).chunk(2, -1)
    sample = mean + (F.softplus(raw) + 0.1) * noise
    names = ("img1.weight", "cell.weight_ih", "cell.weight_hh", "img2.weight", "img3.weight")
    leaves |= {name: parameter for name, parameter in model.named_parameters() if name in names}
    weight = torch.randn(4, DETER), torch.randn(4, STOCH)
    objective = lambda deter, stoch: (weight[0] * deter).sum() + (weight[1] * stoch).sum()
    check_gradients(objective(prior.deter, prior.stoch), objective(new, sample), leaves)


@pytest.mark.exercise(id="2.7")
def test_every_row_has_its_own_noise():
    """The official code draws one noise vector for the whole batch, almost certainly by mistake."""
    model, prev = make_rssm(), make_state(1)
    prev = rssm.State(*(x.expand(300, -1) for x in prev))
    prior = model.img_step(prev, torch.zeros(300, ACTION))
    noise = (prior.stoch - prior.mean) / prior.std
    expect_close(noise.mean(0), 0.0, rtol=0, atol=0.36, what="mean of the noise over the batch")
    expect_close(noise.std(0), 1.0, rtol=0, atol=0.3, mistakes={0.0: "the whole batch shares one noise vector"})
    correlation = torch.corrcoef(noise.T) - torch.eye(STOCH)
    assert correlation.abs().max() < 0.4, "the dimensions share their noise"
    again = model.img_step(prev, torch.zeros(300, ACTION))
    assert not torch.equal(again.stoch, prior.stoch), "each call draws its own noise"


def test_rssm_has_the_papers_size():
    size = lambda actions: sum(p.numel() for p in rssm.RSSM(actions, 1024).parameters())
    assert [size(actions) for actions in (6, 2, 1)] == [557_920, 557_120, 556_920]


# ---- 2.8 obs_step ----


@pytest.mark.exercise(id="2.8")
def test_posterior_agrees_with_the_official_code():
    model, g = official_rssm()
    prev = rssm.State(g["prev_deter"], g["prev_stoch"], g["prev_stoch"], g["prev_stoch"])
    post, prior = model.obs_step(prev, g["action"], g["embed"])
    mistakes = {numbers(g["prior_mean"]): "prior and posterior are swapped: the posterior comes first"}
    expect_close(post.deter, g["post_deter"], what="deter")
    expect_close(post.mean, g["post_mean"], mistakes=mistakes, what="the posterior's mean")
    expect_close(post.std, g["post_std"], what="the posterior's std")
    expect_close(prior.mean, g["prior_mean"], what="the prior's mean")
    expect_close(prior.std, g["prior_std"], what="the prior's std")


@pytest.mark.exercise(id="2.8")
def test_observation_changes_the_posterior_alone():
    model, prev, action, noise = make_rssm(), make_state(4), torch.randn(4, ACTION), torch.randn(4, STOCH)
    embed = torch.randn(4, EMBED)
    post, prior = model.obs_step(prev, action, embed, noise)
    post2, prior2 = model.obs_step(prev, action, embed + 1, noise)
    assert torch.equal(post.deter, prior.deter), "prior and posterior share one deter: the GRU runs once"
    for name in ("deter", "mean", "std", "stoch"):
        expect_close(getattr(prior, name), getattr(prior2, name), what=f"the prior's {name}, another observation")
    expect_close(post.deter, post2.deter, what="deter, another observation")
    assert (post.mean - post2.mean).abs().max() > 1e-3, "the posterior does not see the observation"
    post3, prior3 = model.obs_step(prev, action + 1, embed, noise)
    assert (prior.mean - prior3.mean).abs().max() > 1e-3, "the action does not reach the prior"
    assert (post.mean - post3.mean).abs().max() > 1e-3, "the posterior does not see deter: embed alone is not enough"


@pytest.mark.exercise(id="2.8")
def test_one_step_agrees_with_its_parts():
    """The prior is img_step's, and the same noise makes both samples."""
    model, prev, action, noise = make_rssm(), make_state(4), torch.randn(4, ACTION), torch.randn(4, STOCH)
    embed = torch.randn(4, EMBED)
    post, prior = model.obs_step(prev, action, embed, noise)
    for name, a, b in zip(rssm.State._fields, prior, model.img_step(prev, action, noise), strict=True):
        expect_close(a, b, what=f"the prior's {name}")
    raw = model.obs2(F.elu(model.obs1(torch.cat([prior.deter, embed], -1))))
    linear = model.obs2(model.obs1(torch.cat([prior.deter, embed], -1)))[..., :STOCH]
    expect_close(post.mean, raw[..., :STOCH], mistakes={numbers(linear): "there is no ELU after obs1"}, what="mean")
    mistakes = {numbers(prior.stoch): "this is the prior's sample"}
    expect_close(post.stoch, post.mean + post.std * noise, mistakes=mistakes, what="the posterior's sample")


@pytest.mark.exercise(id="2.8")
def test_posterior_does_not_see_the_priors_sample():
    """With the noise changed, mean and std of both stay."""
    model, prev, action, embed = make_rssm(), make_state(4), torch.randn(4, ACTION), torch.randn(4, EMBED)
    post, _ = model.obs_step(prev, action, embed, torch.zeros(4, STOCH))
    other, _ = model.obs_step(prev, action, embed, torch.full((4, STOCH), 5.0))
    expect_close(other.mean, post.mean, what="the posterior's mean under another noise")


@pytest.mark.exercise(id="2.8")
def test_gradient_flows_into_what_is_seen_and_what_is_remembered():
    """From both samples: into embed, and through it the encoder learns; by way of deter into the state before."""
    model, prev, noise = make_rssm(), make_state(4), torch.randn(4, STOCH)
    action, embed = torch.randn(4, ACTION), torch.randn(4, EMBED)
    leaves = {"embed": embed, "the previous deter": prev.deter, "the previous stoch": prev.stoch, "the action": action}
    for leaf in leaves.values():
        leaf.requires_grad_()
    post, prior = model.obs_step(prev, action, embed, noise)
    alone = model.img_step(prev, action, noise)
    mean, raw = model.obs2(F.elu(model.obs1(torch.cat([alone.deter, embed], -1)))).chunk(2, -1)
    sample = mean + (F.softplus(raw) + 0.1) * noise
    names = ("img1.weight", "cell.weight_hh", "img3.weight", "obs1.weight", "obs2.weight")
    leaves |= {name: parameter for name, parameter in model.named_parameters() if name in names}
    weight = torch.randn(2, 4, STOCH)
    objective = lambda post, prior: (weight[0] * post).sum() + (weight[1] * prior).sum()
    check_gradients(objective(post.stoch, prior.stoch), objective(sample, alone.stoch), leaves)


# ---- 2.9 observe ----


def sequence(batch: int = 3, time: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(batch, time, EMBED), torch.randn(batch, time, ACTION), torch.randn(batch, time, STOCH)


@pytest.mark.exercise(id="2.9")
def test_observe_is_a_loop_of_obs_step():
    """From zeros, with the posterior carried on; the prior's sample goes nowhere."""
    model, (embed, action, noise) = make_rssm(), sequence()
    action[1, 3] = 0  # an action like others: no new episode begins here
    posts, priors, wrong = [], [], []
    state = carried = model.initial(3)
    for t in range(7):
        post, prior = model.obs_step(state, action[:, t], embed[:, t], noise[:, t])
        state = post
        posts.append(post)
        priors.append(prior)
        _, carried = model.obs_step(carried, action[:, t], embed[:, t], noise[:, t])
        wrong.append(carried.deter)
    found = model.observe(embed, action, noise)
    mistakes = {
        numbers(torch.stack(wrong, 1)): "the PRIOR's sample is carried from step to step: it is the posterior's"
    }
    for kind, states, steps in zip(("posterior", "prior"), found, (posts, priors), strict=True):
        for name in ("deter", "mean", "std", "stoch"):
            expected = torch.stack([getattr(step, name) for step in steps], 1)
            value = getattr(states, name)
            assert value.shape == expected.shape, f"{kind}.{name} is {tuple(value.shape)}: one state for each row"
            expect_close(value, expected, mistakes=mistakes if name == "deter" else {}, what=f"the {kind}'s {name}")


@pytest.mark.exercise(id="2.9")
@pytest.mark.parametrize("changed", ["embed", "action"])
def test_no_state_knows_the_future(changed):
    """What is seen or done at row 4 changes nothing before row 4, and the posterior of row 4."""
    model, (embed, action, noise) = make_rssm(), sequence()
    post, prior = model.observe(embed, action, noise)
    other = {"embed": embed.clone(), "action": action.clone()}
    other[changed][:, 4] += 1
    post2, prior2 = model.observe(other["embed"], other["action"], noise)
    for name in ("deter", "mean", "stoch"):
        for kind, a, b in (("posterior", post, post2), ("prior", prior, prior2)):
            expect_close(
                getattr(b, name)[:, :4], getattr(a, name)[:, :4], what=f"the {kind}'s {name} before the change"
            )
    assert (post.mean[:, 4] - post2.mean[:, 4]).abs().max() > 1e-3, "the posterior of the row itself does not notice"
    prior_moves = (prior.mean[:, 4] - prior2.mean[:, 4]).abs().max() > 1e-3
    assert prior_moves == (changed == "action"), "the prior of row 4 knows the action that led there, not what is seen"
    assert (prior.mean[:, 5] - prior2.mean[:, 5]).abs().max() > 1e-4, "the next prior does not notice"


@pytest.mark.exercise(id="2.9")
def test_sequences_do_not_mix_and_calls_do_not_either():
    model, (embed, action, noise) = make_rssm(), sequence()
    post, _ = model.observe(embed, action, noise)
    again, _ = model.observe(embed, action, noise)
    expect_close(again.stoch, post.stoch, what="a second call: it begins from zeros, too")
    alone, _ = model.observe(embed[1:2], action[1:2], noise[1:2])
    expect_close(alone.stoch, post.stoch[1:2], what="the second sequence alone")


@pytest.mark.exercise(id="2.9")
def test_gradient_flows_back_through_time():
    """From every state to all that was seen and done before it: through the samples, and through the GRU."""
    model, (embed, action, noise) = make_rssm(), sequence()
    embed.requires_grad_(), action.requires_grad_()
    found = model.observe(embed, action, noise)
    state, steps = model.initial(3), []
    for t in range(7):
        state, prior = model.obs_step(state, action[:, t], embed[:, t], noise[:, t])
        steps.append((state, prior))
    looped = (rssm.State(*(torch.stack(x, 1) for x in zip(*s, strict=True))) for s in zip(*steps, strict=True))
    weights = [torch.randn_like(x) for x in (found[0].deter, *found[0][1:], *found[1][1:])]

    def objective(post: rssm.State, prior: rssm.State) -> torch.Tensor:
        parts = (post.deter, *post[1:], *prior[1:])
        return sum((weight * x).mean() for weight, x in zip(weights, parts, strict=True))

    leaves = {"the observations": embed, "the actions": action, **dict(model.named_parameters())}
    check_gradients(objective(*found), objective(*looped), leaves)


@pytest.mark.exercise(id="2.9")
def test_noise_is_drawn_for_every_row_and_step():
    model = make_rssm()
    with torch.no_grad():
        for layer in (model.img1, model.img2, model.img3, model.obs1, model.obs2):
            layer.weight.zero_(), layer.bias.zero_()
    post, _ = model.observe(torch.zeros(60, 50, EMBED), torch.zeros(60, 50, ACTION))
    noise = (post.stoch - post.mean) / post.std
    expect_close(noise.mean((0, 1)), 0.0, rtol=0, atol=0.12, what="mean of the noise")
    expect_close(noise.std((0, 1)), 1.0, rtol=0, atol=0.08, what="std of the noise")
    assert noise.mean(0).std() < 0.3, "all sequences share their noise"
    assert noise.mean(1).std() < 0.3, "all steps share their noise"


def test_imagine_is_a_loop_of_img_step():
    model, start, action = make_rssm(), make_state(3), torch.randn(3, 4, ACTION)
    torch.manual_seed(1)
    states = model.imagine(start, action)
    assert states.stoch.shape == (3, 4, STOCH)
    torch.manual_seed(1)
    state = start
    for k in range(4):
        state = model.img_step(state, action[:, k])
        expect_close(states.stoch[:, k], state.stoch, what=f"stoch of step {k}")


# ---- 2.10 kl_loss ----


def gaussians(mean, std, requires_grad: bool = False) -> rssm.State:
    mean, std = (torch.as_tensor(x, dtype=torch.float32).clone().requires_grad_(requires_grad) for x in (mean, std))
    return rssm.State(torch.zeros(*mean.shape[:-1], 1), mean.detach(), mean, std)


def constant(mean: float, std: float, shape=(2, 4, 30)) -> rssm.State:
    return gaussians(torch.full(shape, mean), torch.full(shape, std))


@pytest.mark.exercise(id="2.10")
def test_kl_by_hand():
    """q = N(0.5, 0.3), p = N(0, 1), 30 dimensions: 0.87397 nats each."""
    loss, kl = rssm.kl_loss(constant(0.5, 0.3), constant(0.0, 1.0))
    mistakes = {
        157.214: "the two are swapped: it is KL(posterior || prior)",
        0.87397: "the mean over the dimensions is taken: it is their SUM",
        26.219 * 8: "the sum over batch and time is taken: it is their mean",
        26.219 * 4: "the sum over time is taken: it is the mean over batch and time",
        -26.219: "the sign",
    }
    expect_close(kl, 26.219, rtol=1e-4, mistakes=mistakes, what="KL")
    expect_close(loss, 26.219, rtol=1e-4, mistakes=mistakes, what="loss")


@pytest.mark.exercise(id="2.10")
def test_kl_agrees_with_torch_on_random_gaussians():
    post, prior = (gaussians(torch.randn(3, 5, 4), torch.rand(3, 5, 4) + 0.2) for _ in range(2))
    normal = lambda s: torch.distributions.Normal(s.mean.double(), s.std.double())
    expected = torch.distributions.kl_divergence(normal(post), normal(prior)).sum(-1).mean()
    loss, kl = rssm.kl_loss(post, prior, free_nats=0.0)
    expect_close(kl, expected, what="KL")
    expect_close(loss, expected, what="loss without free nats")


def per_state(nats: list[list[float]]) -> tuple[rssm.State, rssm.State]:
    """Posteriors (batch, time, 1) whose KL from N(0, 1) is as given: mean sqrt(2 nats), std 1."""
    mean = torch.tensor(nats).mul(2).sqrt()[..., None]
    return gaussians(mean, torch.ones_like(mean)), gaussians(torch.zeros_like(mean), torch.ones_like(mean))


@pytest.mark.exercise(id="2.10")
def test_free_nats_apply_after_the_mean_or_before():
    """KL 0.5, 0.5, 2 and 1, 10, 10: the mean is 4, above 3; with the max first it is (3 + 3 + 3 + 3 + 10 + 10) / 6."""
    states = per_state([[0.5, 0.5, 2.0], [1.0, 10.0, 10.0]])
    wrong = {
        5.0: "the free nats are applied to each sequence's mean",
        4.75: "the free nats are applied to each step's mean over the batch",
    }
    loss, kl = rssm.kl_loss(*states)
    mistakes = wrong | {
        5.3333: "the free nats are applied to each state: by default they are to the mean",
        1.0: "max(0, KL - 3)",
    }
    expect_close(loss, 4.0, mistakes=mistakes, what="loss")
    expect_close(kl, 4.0, what="KL")
    loss, kl = rssm.kl_loss(*states, free_before_mean=True)
    mistakes = wrong | {4.0: "free_before_mean is not used"}
    expect_close(loss, 5.3333, mistakes=mistakes, what="loss, free_before_mean")
    expect_close(kl, 4.0, mistakes={5.3333: "the KL that is reported is the raw one"}, what="KL")
    loss, _ = rssm.kl_loss(*states, free_before_mean=True, balance=0.8)
    mistakes = wrong | {4.0: "with balance, free_before_mean is not used"}
    expect_close(loss, 5.3333, mistakes=mistakes, what="loss, free_before_mean and balance")


@pytest.mark.exercise(id="2.10")
@pytest.mark.parametrize("options", [{}, {"balance": 0.8}, {"free_before_mean": True}])
def test_below_the_floor_nothing_moves(options):
    """The loss is 3 and its gradient exactly 0; a `max(0, KL - 3)` would have loss 0."""
    post = gaussians(torch.full((2, 3, 4), 0.2), torch.ones(2, 3, 4), True)
    prior = gaussians(torch.zeros(2, 3, 4), torch.ones(2, 3, 4), True)
    loss, kl = rssm.kl_loss(post, prior, **options)
    expect_close(loss, 3.0, mistakes={0.0: "below the floor the loss is free_nats, not 0", 0.08: "no free nats"})
    expect_close(kl, 0.08, mistakes={3.0: "the KL that is returned is the raw one"}, what="KL")
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, [post.mean, post.std, prior.mean, prior.std], allow_unused=True)
        assert all(g is None or (g == 0).all() for g in gradients), "below the floor there is no gradient at all"


@pytest.mark.exercise(id="2.10")
@pytest.mark.parametrize("free_nats", [3.0, 0.5])
def test_gradients_agree_with_the_official_code(free_nats):
    """The model loss's gradient in both Gaussians, to which only the KL contributes: to both sides in full."""
    g = golden("dv1_losses")
    post = gaussians(g["post_mean"], g["post_std"], True)
    prior = gaussians(g["prior_mean"], g["prior_std"], True)
    loss, kl = rssm.kl_loss(post, prior, free_nats=free_nats)
    expect_close(kl, g["kl_mean"], what="KL")
    leaves = {"post_mean": post.mean, "post_std": post.std, "prior_mean": prior.mean, "prior_std": prior.std}
    gradients = [None] * 4  # below the floor the loss may be a mere number
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for name, gradient in zip(leaves, gradients, strict=True):
        expected = g[f"nopcont_free{free_nats}_grad_{name}"]
        assert gradient is not None or not expected.any(), f"no gradient reaches the {name}"
        if gradient is not None:
            expect_close(gradient, expected, atol=1e-6, what=f"gradient of the {name}")


@pytest.mark.exercise(id="2.10")
@pytest.mark.parametrize("balance", [0.8, 0.5, 0.0, 1.0])
def test_balance_divides_the_gradient(balance):
    """The loss's value stays; of plain KL's gradient the prior gets `balance`, the posterior the rest. At 0 the prior
    gets nothing: None is plain KL, 0 is not."""
    make = lambda: (
        gaussians(torch.tensor([[[1.0, -0.5]]]), torch.tensor([[[0.4, 0.7]]]), True),
        gaussians(torch.tensor([[[0.0, 0.3]]]), torch.tensor([[[1.0, 0.8]]]), True),
    )
    post, prior = make()
    plain, _ = rssm.kl_loss(post, prior, free_nats=0.0)
    full = torch.autograd.grad(plain, [post.mean, post.std, prior.mean, prior.std])
    post, prior = make()
    loss, kl = rssm.kl_loss(post, prior, free_nats=0.0, balance=balance)
    expect_close(loss, plain, mistakes={2 * plain.item(): "the two shares are to add up to 1"}, what="loss")
    expect_close(kl, plain, what="KL")
    leaves = [post.mean, post.std, prior.mean, prior.std]
    parts = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    for name, part, whole, share in zip(
        ("post.mean", "post.std", "prior.mean", "prior.std"),
        parts,
        full,
        (1 - balance, 1 - balance, balance, balance),
        strict=True,
    ):
        mistakes = {
            numbers((1 - share) * whole): "the shares are swapped: `balance` is the prior's",
            numbers(whole): "the gradient is not divided",
        }
        expect_close(part, share * whole, mistakes={} if balance == 0.5 else mistakes, what=f"gradient of {name}")


def test_std_of_zero_never_occurs_in_observe():
    post, prior = make_rssm().observe(*sequence())
    assert min(post.std.min(), prior.std.min()) >= 0.1
