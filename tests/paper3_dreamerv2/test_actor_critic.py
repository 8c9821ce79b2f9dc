"""Learning behaviour in imagination: exercises 3.10 to 3.15."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from paper3_dreamerv2 import actor_critic, rssm
from paper3_dreamerv2.networks import Actor, ScalarHead
from tests.helpers import expect_close, golden, numbers

ACTION, DETER, STOCH, FEAT = 2, 5, 3, 8


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


class ToyWorld(rssm.RSSM):
    """An RSSM whose next state is known: no noise, and stoch is a part of deter."""

    def __init__(self):
        nn.Module.__init__(self)
        self.latent, self.deter = rssm.GaussianLatent(STOCH), DETER
        self.push = nn.Parameter(torch.randn(ACTION, DETER) * 0.5)
        self.calls: list[tuple[rssm.State, torch.Tensor]] = []

    def img_step(self, prev, prev_action, noise=None):
        self.calls.append((prev, prev_action))
        deter = torch.tanh(0.9 * prev.deter + prev_action @ self.push + 0.3 * prev.stoch.sum(-1, keepdim=True))
        stoch = deter[..., :STOCH]
        return rssm.State(deter, stoch, torch.cat([stoch, stoch], -1))


class Still(Actor):
    """An actor without chance: its action is a function of what it sees, which it keeps."""

    def __init__(self):
        nn.Module.__init__(self)
        self.layer = nn.Linear(FEAT, ACTION)
        self.seen: list[torch.Tensor] = []
        self.replay: list[torch.Tensor] | None = None  # features to act on instead of what it is shown

    def forward(self, feat):
        self.seen.append(feat)
        self.action = torch.tanh(self.layer(feat if self.replay is None else self.replay[len(self.seen) - 1]))
        return self

    def rsample(self):
        return self.action

    def log_prob(self, action):
        return -(action - self.action).square().sum(-1)

    def entropy(self):
        return self.action.square().sum(-1)

    def mode(self):
        return torch.zeros_like(self.action)  # whoever acts by it is told apart


def make_start(n: int = 4) -> rssm.State:
    return rssm.State(torch.randn(n, DETER), torch.randn(n, STOCH), torch.randn(n, 2 * STOCH))


# ---- 3.10 imagine ----


@pytest.mark.exercise(id="3.10")
def test_imagination_is_a_loop_of_actor_and_prior():
    """Entry 0 is the start with a zero action; entry k the state after k steps and the action that led to it."""
    world, actor, start = ToyWorld(), Still(), make_start()
    feats, actions = actor_critic.imagine(world, actor, rssm.State(*(x.clone() for x in start)), 6)
    message = "one entry for the start and one for each of the 6 steps, starts first"
    assert feats.shape == (4, 7, FEAT), message
    assert actions.shape == (4, 7, ACTION), message
    state, states, taken = start, [start.feat], []
    for _ in range(6):
        taken.append(torch.tanh(actor.layer(state.feat)))
        state = ToyWorld.img_step(world, state, taken[-1])
        states.append(state.feat)
    after = ToyWorld.img_step(world, state, torch.tanh(actor.layer(state.feat))).feat
    mistakes = {numbers(torch.stack([*states[1:], after], 1)): "entry 0 is the start itself, not the state after it"}
    expect_close(feats, torch.stack(states, 1), mistakes=mistakes, what="feats")
    expected = torch.stack([torch.zeros(4, ACTION), *taken], 1)
    last = torch.tanh(actor.layer(state.feat))
    mistakes = {
        numbers(torch.stack([*taken, last], 1)): "entry k has the action that LED to it, entry 0 zeros",
        numbers(torch.stack([*taken, torch.zeros(4, ACTION)], 1)): "the zeros belong to entry 0: nothing led to it",
    }
    expect_close(actions, expected, mistakes=mistakes, what="actions")


@pytest.mark.exercise(id="3.10")
def test_actions_are_samples_that_carry_gradient():
    """A mode never tries anything, and a sample without gradient teaches `dynamics` nothing: what the model is given
    must carry it."""
    world, actor, start = ToyWorld(), Actor(FEAT, ACTION, discrete=False, layers=1, units=8), make_start(200)
    one, two = (actor_critic.imagine(world, actor, start, 2)[1] for _ in range(2))
    assert not torch.allclose(one[:, 1:], two[:, 1:]), "two dreams of the same starts take the same actions: sample"
    assert all(action.requires_grad for _, action in world.calls), (
        "the model is given actions without gradient: rsample(), and no detach"
    )
    for k, (_, action) in enumerate(world.calls[2:]):
        expect_close(two[:, k + 1], action, what=f"the action of entry {k + 1}: the one that the model was given")
    difference = one[:, 1] - one[:1, 1]
    assert difference[1:].abs().mean() > 0.1, "all starts share one sample"


@pytest.mark.exercise(id="3.10")
def test_gradient_stops_at_the_start_and_at_what_the_actor_sees():
    world, actor = ToyWorld(), Still()
    start = rssm.State(*(x.requires_grad_() for x in make_start()))
    feats, _ = actor_critic.imagine(world, actor, start, 5)
    assert actor.seen, "the actor is not asked"
    assert all(not seen.requires_grad for seen in actor.seen), "the actor's input is not detached"
    assert feats.requires_grad, "no gradient flows from the feats back to the actor"
    for leaf in start:
        (gradient,) = torch.autograd.grad(feats.sum(), leaf, retain_graph=True, allow_unused=True)
        assert gradient is None or not gradient.any(), "gradient flows into the start: it belongs to the world model"


@pytest.mark.exercise(id="3.10")
def test_gradient_flows_through_the_whole_dream():
    """The last state depends on the first action: through all states between them."""
    world, actor, start = ToyWorld(), Still(), make_start()
    feats, _ = actor_critic.imagine(world, actor, start, 5)
    first = world.calls[0][1]  # the action that was given to the first step
    assert first.requires_grad, "the action that the model is given is detached"
    assert feats.requires_grad, "no gradient flows through the model"
    (gradient,) = torch.autograd.grad(feats[:, -1].sum(), first, allow_unused=True)
    message = "no gradient from the last state to the first action: the states are detached"
    assert gradient is not None, message
    assert gradient.abs().sum() > 0, message


def finite_difference(actor: Still, objective, replay: list[torch.Tensor] | None) -> np.ndarray:
    """The slope of `objective()` in every weight of the actor, while it acts on `replay` or on what it sees."""
    result = np.zeros((ACTION, FEAT))
    for i in range(ACTION):
        for j in range(FEAT):
            values = []
            for sign in (1, -1):
                actor.seen, actor.replay = [], replay
                with torch.no_grad():
                    actor.layer.weight[i, j] += sign * 1e-5
                    values.append(objective().item())
                    actor.layer.weight[i, j] -= sign * 1e-5
            result[i, j] = (values[0] - values[1]) / 2e-5
    return result


@pytest.mark.exercise(id="3.10")
def test_actor_gradient_is_a_finite_difference_with_the_inputs_held():
    """In float64: nudge the actor's weights while it acts on the recorded feats. (If it acts on what it sees,
    a nudge also changes what it sees later; that is the gradient of an actor without the detach.)"""
    world, actor = ToyWorld().double(), Still().double()
    start = rssm.State(*(x.double() for x in make_start()))
    weight = torch.randn(FEAT, dtype=torch.float64)
    objective = lambda: (actor_critic.imagine(world, actor, start, 5)[0] @ weight).mean()
    (gradient,) = torch.autograd.grad(objective(), actor.layer.weight)
    recorded = [seen.detach().clone() for seen in actor.seen]
    held, plain = finite_difference(actor, objective, recorded), finite_difference(actor, objective, None)
    assert not np.allclose(held, plain, rtol=1e-3)
    mistakes = {numbers(plain): "gradient flows through the actor's input: detach what it sees", 0.0: "no gradient"}
    expect_close(gradient, held, rtol=1e-5, atol=1e-8, mistakes=mistakes, what="the actor's gradient")


@pytest.mark.exercise(id="3.10")
def test_imagination_runs_in_the_rssm():
    """With the real RSSM and discrete actions: one-hot, exactly, so that the largest entry is the choice."""
    model = rssm.RSSM(3, 4, rssm.DiscreteLatent(2, 4), DETER, 6)
    actor = Actor(DETER + 8, 3, discrete=True, layers=1, units=8)
    start = rssm.State(torch.randn(20, DETER), torch.randn(20, 8), torch.randn(20, 8))
    feats, actions = actor_critic.imagine(model, actor, start, 4)
    assert feats.shape == (20, 5, DETER + 8)
    assert (actions[:, 0] == 0).all(), "no action led to the start: zeros"
    assert ((actions == 0) | (actions == 1)).all(), "the actions are not exactly 0 and 1"
    assert (actions[:, 1:].sum(-1) == 1).all(), "the actions are not one-hot"
    assert ((feats[:, 1:, DETER:] == 0) | (feats[:, 1:, DETER:] == 1)).all(), "the states' samples are not one-hot"
    (gradient,) = torch.autograd.grad(feats.sum(), actor.layers[0].weight)
    assert gradient.abs().sum() > 0, "no gradient reaches a discrete actor"
    with torch.no_grad():
        feats, _ = actor_critic.imagine(model, actor, start, 2)
    assert feats.shape == (20, 3, DETER + 8), "REINFORCE dreams without a graph"


@pytest.mark.exercise(id="3.10")
def test_dream_is_drawn_from_the_prior():
    """What is imagined is a sample, not the mode, with noise of its own for every start and every step."""
    model = rssm.RSSM(ACTION, 4, rssm.DiscreteLatent(3, 4), DETER, 6)
    with torch.no_grad():
        model.img_dist.weight.zero_(), model.img_dist.bias.copy_(torch.tensor([2.0, 0.0, 0.0, -2.0]).repeat(3))
    probs = torch.tensor([2.0, 0.0, 0.0, -2.0]).softmax(-1).repeat(3)  # of every variable, always
    actor = Actor(DETER + 12, ACTION, discrete=False, layers=1, units=8)
    start = rssm.State(torch.randn(300, DETER), torch.randn(300, 12), torch.randn(300, 12))
    feats, _ = actor_critic.imagine(model, actor, start, 20)
    assert feats.shape == (300, 21, DETER + 12)
    drawn = feats[:, 1:, DETER:].detach()
    mistakes = {numbers([1.0, 0.0, 0.0, 0.0] * 3): "feats hold the prior's mode: it is its sample"}
    expect_close(
        drawn.mean((0, 1)), probs, rtol=0, atol=0.04, mistakes=mistakes, what="how often each class is dreamed"
    )
    assert (drawn - probs).mean(0).std() < 0.1, "all starts share their noise"
    assert (drawn - probs).mean(1).std() < 0.2, "all steps share their noise"


# ---- 3.11 dream_discounts ----


def no_ends(n: int) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.bool)


@pytest.mark.exercise(id="3.11")
def test_discounts_and_weights_by_hand():
    """The start's discount is the known one, 0.9 or 0; a weight is the product of the discounts before."""
    predicted = torch.tensor([[0.3, 0.8, 0.5, 0.7], [0.3, 0.8, 0.5, 0.7]])
    is_terminal = torch.tensor([False, True])
    before = predicted.clone()
    discounts, weights = actor_critic.dream_discounts(predicted, is_terminal, 0.9)
    assert torch.equal(predicted, before), "the caller's predictions are changed"
    mistakes = {
        numbers(predicted): "of the start one knows more than the head: its discount is `discount`, or 0",
        numbers([[1.0, 0.8, 0.5, 0.7], [0.0, 0.8, 0.5, 0.7]]): "the start's discount is `discount` where it is no end",
        numbers([[0.0, 0.8, 0.5, 0.7], [0.9, 0.8, 0.5, 0.7]]): "it is 0 where the start IS terminal",
        numbers([[0.9, 0.8, 0.5, 0.7], [0.9, 0.8, 0.5, 0.7]]): "is_terminal is not used",
        numbers([[0.27, 0.8, 0.5, 0.7], [0.0, 0.8, 0.5, 0.7]]): "the known discount REPLACES the head's",
        numbers([[0.9, 0.72, 0.45, 0.63], [0.0, 0.72, 0.45, 0.63]]): "the head has learned gamma: not once more",
        numbers([[0.9, 0.3, 0.8, 0.5], [0.0, 0.3, 0.8, 0.5]]): "the start's discount takes entry 0's place: no shift",
    }
    expect_close(discounts, [[0.9, 0.8, 0.5, 0.7], [0.0, 0.8, 0.5, 0.7]], mistakes=mistakes, what="discounts")
    mistakes = {
        numbers([[0.9, 0.72, 0.36, 0.252], [0, 0, 0, 0]]): "the weights are not shifted: the start counts 1",
        numbers([[1.0, 0.9, 0.8, 0.5], [1.0, 0.0, 0.8, 0.5]]): "it is the PRODUCT of all discounts before",
        numbers([[1.0, 0.3, 0.24, 0.12], [1.0, 0.3, 0.24, 0.12]]): "the weights take the head's discount of the start",
        numbers([[1.0, 0.8, 0.4, 0.28], [1.0, 0.8, 0.4, 0.28]]): "the weights leave out the start's discount",
    }
    expect_close(weights, [[1, 0.9, 0.72, 0.36], [1, 0, 0, 0]], mistakes=mistakes, what="weights")


@pytest.mark.exercise(id="3.11")
@pytest.mark.parametrize("head", [True, False])
def test_discounts_agree_with_the_official_code(head):
    """Its arrays are time-first. Without a head every prediction is the constant."""
    g = golden("dv2_discount_weights")
    suffix = "" if head else "_nohead"
    predicted = torch.tensor(g["discount_logit"].T).sigmoid() if head else torch.full((6, 5), 0.99)
    ends = torch.tensor(g["is_terminal"].flatten() > 0) if head else no_ends(6)
    discounts, weights = actor_critic.dream_discounts(predicted, ends, 0.99)
    expect_close(discounts, g[f"discount{suffix}"].T, what="discounts")
    expect_close(weights, g[f"weight{suffix}"].T, what="weights")


@pytest.mark.exercise(id="3.11")
def test_gamma_is_counted_once():
    """A head that has learned 0.995 gives weights of 0.995^k, not 0.990^k; the last of 16 is 0.92757."""
    discounts, weights = actor_critic.dream_discounts(torch.full((2, 16), 0.995), no_ends(2), 0.995)
    mistakes = {0.995**29: "gamma is counted twice", 0.995**30: "gamma is counted twice", 0.995**16: "not shifted"}
    expect_close(weights[:, -1], 0.92757, mistakes=mistakes, what="the last weight")
    expect_close(weights[:, 0], 1.0, what="the first weight")
    expect_close(discounts, 0.995, mistakes={0.990025: "gamma is counted twice"}, what="discounts")


@pytest.mark.exercise(id="3.11")
def test_weights_carry_no_gradient_and_discounts_do():
    """An actor could learn to end episodes with the weights; through the discounts it learns what an end costs."""
    predicted = torch.rand(3, 5, requires_grad=True)
    discounts, weights = actor_critic.dream_discounts(predicted, torch.tensor([False, True, False]), 0.99)
    assert not weights.requires_grad, "the weights carry gradient"
    assert discounts.requires_grad, "the discounts are the head's, with its gradient"
    (gradient,) = torch.autograd.grad(discounts.sum(), predicted)
    expect_close(gradient, [[0, 1, 1, 1, 1]] * 3, what="gradient of the discounts in the predictions")


@pytest.mark.exercise(id="3.11")
def test_what_follows_an_imagined_end_counts_nothing():
    predicted = torch.tensor([[0.9, 0.9, 0.0, 0.9, 0.9], [0.9, 0.0, 0.9, 0.9, 0.9]])
    _, weights = actor_critic.dream_discounts(predicted, no_ends(2), 0.9)
    expect_close(weights, [[1, 0.9, 0.81, 0, 0], [1, 0.9, 0, 0, 0]], what="weights")


# ---- 3.12 lambda_returns ----


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


UNUSED = 1e6  # the last entry's reward and discount
REWARD, VALUE, DISCOUNT = tensor(1, 2, 3, UNUSED), tensor(10, 20, 30, 40), tensor(0.9, 0.9, 0.9, UNUSED)


@pytest.mark.exercise(id="3.12")
@pytest.mark.parametrize(
    ("lam", "discount", "expected", "mistakes"),
    [
        (0.5, (0.9, 0.9, 0.9), (24.8725, 33.05, 39.0), {
            (16.525, 24.5, 30.0): "the values are not shifted: the value of the NEXT state follows a reward",
            (17.43625, 26.525, 34.5): "the values are not shifted: the value of the NEXT state follows a reward",
            (21.2275, 24.95, 21.0): "behind the last entry there is its value, in full: R of it is its value, too",
            (43.5925, 54.65, 57.0): "the next value counts (1 - lam)",
            (70.12, 66.8, 57.0): "the next return counts lam",
            (39.0, 33.05, 24.8725): "the returns are in the order in which they were computed: from the last",
        }),
        (0.0, (0.9, 0.9, 0.9), (19.0, 29.0, 39.0), {
            (10.0, 20.0, 30.0): "lam = 0 is r + d * v(next), not v",
            (34.39, 37.1, 39.0): "lam and 1 - lam are swapped",
        }),
        (1.0, (0.9, 0.9, 0.9), (34.39, 37.1, 39.0), {}),
        (0.5, (0.9, 0.0, 0.9), (10.9, 2.0, 39.0), {
            (1.0, 33.05, 39.0): "a discount of 0 cuts what FOLLOWS its entry, not what leads to it",
        }),
    ],
)  # fmt: skip
def test_returns_by_hand(lam, discount, expected, mistakes):
    returns = actor_critic.lambda_returns(REWARD, VALUE, tensor(*discount, UNUSED), lam)
    expect_close(returns, [expected], mistakes=mistakes, what="lambda_returns")


@pytest.mark.exercise(id="3.12")
def test_a_world_of_ones_is_worth_one_hundred():
    """r = 1 and v = 100 at a discount of 0.99 agree with each other, whatever lam."""
    ones = torch.ones(3, 15)
    for lam in (0.0, 0.5, 0.95, 1.0):
        returns = actor_critic.lambda_returns(ones, 100 * ones, 0.99 * ones, lam)
        assert returns.shape == (3, 14)
        expect_close(returns, 100.0, what=f"lam={lam}")
    returns = actor_critic.lambda_returns(ones, 0 * ones, 0.99 * ones, 0.95)
    expect_close(returns[:, 0], 9.68629, what="fourteen rewards of 1, values of 0")
    expect_close(returns[:, -1], 1.0, what="the last of them")


@pytest.mark.exercise(id="3.12")
@pytest.mark.parametrize(
    ("name", "lam"), [("target", 0.95), ("ret_lam0", 0.0), ("ret_lam95", 0.95), ("ret_lam100", 1.0)]
)
def test_returns_agree_with_the_official_code(name, lam):
    """Its arrays are time-first."""
    g = golden("dv2_lambda_return")
    reward, value, discount = (torch.tensor(g[key].T) for key in ("reward", "value", "discount"))
    expect_close(actor_critic.lambda_returns(reward, value, discount, lam), g[name].T, what="lambda_returns")


@pytest.mark.exercise(id="3.12")
def test_returns_are_exact_in_float64():
    """Of dreams of unlike lengths, against the sum written out: n-step returns, weighted by powers of lam."""
    for steps in (1, 2, 9):
        reward, value, discount = (torch.rand(3, steps + 1, dtype=torch.float64) for _ in range(3))
        expected = torch.zeros(3, steps, dtype=torch.float64)
        for k in range(steps):
            for n in range(1, steps - k + 1):
                before = [discount[:, k : k + i].prod(1) for i in range(n + 1)]
                n_step = sum(before[i] * reward[:, k + i] for i in range(n)) + before[n] * value[:, k + n]
                expected[:, k] += n_step * (0.7 ** (n - 1) if n == steps - k else 0.3 * 0.7 ** (n - 1))
        before = [x.clone() for x in (reward, value, discount)]
        found = actor_critic.lambda_returns(reward, value, discount, 0.7)
        expect_close(found, expected, rtol=1e-10, atol=1e-12, what=f"returns of {steps} steps")
        unchanged = [torch.equal(a, b) for a, b in zip((reward, value, discount), before, strict=True)]
        assert all(unchanged), "the caller's arrays are changed"


@pytest.mark.exercise(id="3.12")
def test_gradient_reaches_rewards_values_and_discounts():
    """By the chain of discounts: d R_0 / d r_k = (lam d)^k, and d R_0 / d d_k is (lam d)^k times what follows k."""
    leaves = [x.clone().requires_grad_() for x in (REWARD, VALUE, DISCOUNT)]
    first = actor_critic.lambda_returns(*leaves, 0.5)[0, 0]
    assert first.requires_grad, "the returns carry no gradient"
    grads = torch.autograd.grad(first, leaves, allow_unused=True)
    wanted = (
        [[1.0, 0.45, 0.2025, 0.0]],
        [[0.0, 0.45, 0.2025, 0.18225]],  # the last: 0.2025 * 0.9 * (0.5 + 0.5)
        [[26.525, 0.45 * 34.5, 0.2025 * 40, 0.0]],  # R_1 = 33.05, R_2 = 39: 26.525 is 0.5 * 20 + 0.5 * 33.05
    )
    for name, gradient, expected in zip(("reward", "value", "discount"), grads, wanted, strict=True):
        assert gradient is not None, f"no gradient reaches the {name}"
        expect_close(gradient, expected, what=f"d R_0 / d {name}")


# ---- 3.13 actor_loss ----


class Judged(Actor):
    """A policy of two actions that says what it was asked: its log_prob and entropy are made of feat and action."""

    def __init__(self):
        nn.Module.__init__(self)

    def forward(self, feat):
        self.feat = feat
        return self

    def log_prob(self, action):
        """-1 and -2 at the entries 0 and 1 of the example, where they are asked about the actions 1 and 2."""
        return -(self.feat[..., 0] - 100 * (action[..., 0] - self.feat[..., 0]).square())

    def entropy(self):
        return 0.4 + 0.1 * self.feat[..., 0]


def example() -> dict[str, torch.Tensor]:
    """H = 3: returns [3, 2, 1], baseline [2.5, 1.5, .5, .2], weights [1, .9, ...]; feat k is k + 1, action k is k."""
    return {
        "feat": tensor(1, 2, 3, 4)[..., None],
        "action": tensor(0, 1, 2, 3)[..., None],
        "returns": tensor(3, 2, 1),
        "baseline": tensor(2.5, 1.5, 0.5, 0.2),
        "weight": tensor(1.0, 0.9, 0.81, 0.729),
    }


@pytest.mark.exercise(id="3.13")
def test_reinforce_by_hand():
    """log pi = [-1, -2], advantage = [2 - 2.5, 1 - 1.5], entropy = [.5, .6] at a scale of .1: -0.752."""
    loss, _ = actor_critic.actor_loss(Judged(), **example(), gradient="reinforce", entropy_scale=0.1)
    mistakes = {
        0.648: "returns[k + 1] - baseline[k], the outcome of action[k + 1] beside the state's: not returns[k]",
        0.752: "the sign: the actor is to RAISE its objective, and optimisers go down",
        -1.504: "the sum over the entries is taken: it is the mean",
        -0.805: "the entries are not weighted",
        -0.7: "the entropy is not added",
        -0.648: "the entropy is subtracted: more of it is better",
        -0.6768: "the weights are those of the next entry: weight[k]",
        -0.755: "the entropy is not weighted",
        1.848: "there is no baseline: returns[k + 1] - baseline[k]",
    }
    expect_close(loss, -0.752, mistakes=mistakes, what="actor loss")
    assert loss.shape == ()


@pytest.mark.exercise(id="3.13")
def test_advantage_may_be_paired_as_in_the_papers_equation():
    loss, _ = actor_critic.actor_loss(Judged(), **example(), gradient="reinforce", entropy_scale=0.1, advantage="same")
    expect_close(loss, 0.648, mistakes={-0.752: "advantage='same' is not used"}, what="actor loss, advantage='same'")


@pytest.mark.exercise(id="3.13")
@pytest.mark.parametrize("advantage", ["next", "same"])
def test_dynamics_by_hand(advantage):
    """The returns [2, 1] themselves: -((2 + .05) + .9 (1 + .06)) / 2 = -1.502. No baseline, and no choice of
    advantage."""
    loss, _ = actor_critic.actor_loss(
        Judged(), **example(), gradient="dynamics", entropy_scale=0.1, advantage=advantage
    )
    mistakes = {
        -1.45: "the entropy is not added",
        -2.452: "the first return is no action's merit: returns[k + 1]",
        0.423: "there is no baseline here: that is REINFORCE's",
    }
    expect_close(loss, -1.502, mistakes=mistakes, what="actor loss, dynamics")


@pytest.mark.exercise(id="3.13")
@pytest.mark.parametrize(("mix", "advantage"), [(0.1, "next"), (0.25, "next"), (0.25, "same"), (0.0, "next")])
def test_both_is_the_mix_of_the_two(mix, advantage):
    """The entropy counts once."""
    options = {"gradient": "both", "entropy_scale": 0.1, "advantage": advantage}
    loss, _ = actor_critic.actor_loss(Judged(), **example(), mix=mix, **options)
    entropy = -(0.05 + 0.9 * 0.06) / 2
    reinforce = (-0.752 if advantage == "next" else 0.648) - entropy
    dynamics = -1.502 - entropy
    expected = mix * dynamics + (1 - mix) * reinforce + entropy
    mistakes = {
        (1 - mix) * dynamics + mix * reinforce + entropy: "the shares are swapped: `mix` is that of the dynamics",
        dynamics + reinforce + entropy: "the two are added in full",
        mix * dynamics + reinforce + entropy: "REINFORCE counts 1 - mix",
        mix * dynamics + (1 - mix) * reinforce: "the entropy is not added",
        mix * dynamics + (1 - mix) * (-0.752 - entropy) + entropy: "advantage='same' is not used",
    }
    mistakes = {wrong: text for wrong, text in mistakes.items() if abs(wrong - expected) > 1e-3}
    expect_close(loss, expected, mistakes=mistakes, what=f"actor loss, both, mix={mix}")
    if mix == 0.1:
        default, _ = actor_critic.actor_loss(Judged(), **example(), **options)
        expect_close(default, expected, what="actor loss, both, at the default of mix")


@pytest.mark.exercise(id="3.13")
@pytest.mark.parametrize("gradient", ["reinforce", "dynamics", "both"])
def test_uniform_policy_is_paid_for_its_entropy(gradient):
    """Nothing to earn, six actions, weights of 1, .5, .25: -eta ln 6 * .75 (the mean of the first two)."""
    actor = Actor(FEAT, 6, discrete=True, layers=0)
    for parameter in actor.parameters():
        nn.init.zeros_(parameter)
    action = nn.functional.one_hot(torch.randint(6, (2, 4)), 6).float()
    weight = torch.tensor([[1.0, 0.5, 0.25, 0.125]] * 2)
    zeros = lambda n: torch.zeros(2, n)
    loss, entropy = actor_critic.actor_loss(
        actor, torch.randn(2, 4, FEAT), action, zeros(3), zeros(4), weight, gradient=gradient, entropy_scale=0.01
    )
    value = -0.01 * math.log(6) * 0.75
    mistakes = {
        0.0: "there is no entropy",
        -value: "the sign of the entropy",
        value / 0.75: "the entropy is not weighted",
        value / 0.75 * 1.75 / 3: "one entry too many: the last action's outcome is the bootstrap alone",
        value * 2: "the sum over the starts is taken",
    }
    expect_close(loss, value, mistakes=mistakes, what="actor loss")
    expect_close(entropy, math.log(6), mistakes={math.log(6) * 0.75: "it is the mean entropy, without weights"})


def table(weights: np.ndarray, module: type, **options) -> nn.Module:
    """A linear network that gives `weights[n, t]` where it sees the t-th state of dream n; see `places`."""
    network = module(weights[..., 0].size, layers=0, **options)
    linear = next(layer for layer in network.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weights.reshape(-1, weights.shape[-1])).T), linear.bias.zero_()
    return network


def places(starts: int, steps: int) -> torch.Tensor:
    """Feats (starts, steps, starts * steps) that are all different: each has a 1 at a place of its own."""
    return torch.eye(starts * steps).reshape(starts, steps, starts * steps)


def official_dream() -> dict[str, torch.Tensor]:
    """The official example's arrays, starts first."""
    g = golden("dv2_actor_critic")
    return {name: torch.tensor(g[name].T.copy()) for name in ("reward", "value", "discount", "weight", "target")}


@pytest.mark.exercise(id="3.13")
@pytest.mark.parametrize("gradient", ["dynamics", "reinforce", "both"])
@pytest.mark.parametrize("kind", ["onehot", "trunc_normal"])
def test_loss_and_gradients_agree_with_the_official_code(kind, gradient):
    """In the policy's outputs, and in the rewards by way of the returns. (In `both` the official truncated normal
    lets gradient into the actions through log_prob, too, by an oversight: here there is none.)"""
    g, dream = golden("dv2_actor_critic"), official_dream()
    policy = np.swapaxes(g[f"{kind}_policy"], 0, 1)
    actor = table(policy, Actor, action_size=4, discrete=kind == "onehot")
    reward = dream["reward"].requires_grad_()
    returns = actor_critic.lambda_returns(reward, dream["value"], dream["discount"], 0.95)
    expect_close(returns, dream["target"], what="the returns of the example (exercise 3.12)")
    action = torch.tensor(np.swapaxes(g[f"{kind}_action"], 0, 1)).requires_grad_()
    arrays = (places(3, 6), action, returns, dream["value"], dream["weight"])
    loss, _ = actor_critic.actor_loss(actor, *arrays, gradient=gradient, entropy_scale=2e-3, mix=0.1)
    case = f"{kind}_{gradient}"
    expect_close(loss, g[f"{case}_loss"], what="actor loss")
    assert loss.requires_grad, "the loss carries no gradient"
    leaves = [actor.layers[0].weight, reward, action]
    found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    expected = np.swapaxes(g[f"{case}_grad_policy"], 0, 1).reshape(18, -1).T
    mistakes = {0.0: "no gradient reaches the policy"}
    expect_close(found[0], expected, rtol=1e-3, atol=1e-6, mistakes=mistakes, what="gradient in the policy's output")
    expected = g[f"{case}_grad_reward"].T
    mistakes = {0.0: "no gradient goes through the returns"} if expected.any() else {}
    expect_close(found[1], expected, atol=1e-6, mistakes=mistakes, what="gradient in the rewards")
    assert not found[2].any(), "gradient flows into the actions through log pi: detach them there"


@pytest.mark.exercise(id="3.13")
@pytest.mark.parametrize("gradient", ["dynamics", "reinforce", "both"])
@pytest.mark.parametrize("discrete", [True, False])
def test_gradient_goes_where_it_should(gradient, discrete):
    """Never into states, actions, baseline; into the returns where the dynamics are to teach, each by its weight."""
    actor = Actor(FEAT, 3, discrete, layers=1, units=8)
    feat, returns, baseline = torch.randn(4, 6, FEAT), torch.randn(4, 5), torch.randn(4, 6)
    leaves = {"states": feat, "actions": actor(feat).rsample().detach(), "baseline": baseline, "returns": returns}
    for leaf in leaves.values():
        leaf.requires_grad_()
    weight = torch.rand(4, 6)
    loss, _ = actor_critic.actor_loss(
        actor, feat, leaves["actions"], returns, baseline, weight, gradient=gradient, entropy_scale=0.1, mix=0.3
    )
    grads = torch.autograd.grad(
        loss, list(leaves.values()), allow_unused=True, materialize_grads=True, retain_graph=True
    )
    for name, found in list(zip(leaves, grads, strict=True))[:3]:
        assert not found.any(), f"gradient flows into the {name}: detach"
    share = {"dynamics": 1.0, "both": 0.3, "reinforce": 0.0}[gradient]
    expected = torch.cat([torch.zeros(4, 1), -share * weight[:, :-2] / 16], 1)
    mistakes = {0.0: "no gradient goes through the returns"} if share else {}
    expect_close(grads[3], expected, mistakes=mistakes, what="gradient in the returns")
    by_weight = torch.autograd.grad(loss, list(actor.parameters()))
    assert all(g.abs().sum() > 0 for g in by_weight), "no gradient reaches the actor"


@pytest.mark.exercise(id="3.13")
def test_reinforce_moves_the_policy_by_advantage_times_score():
    """In float64, and of a policy that is no example: each start and entry has its own action and advantage."""
    actor = Actor(FEAT, 3, discrete=True, layers=1, units=8).double()
    feat, returns, baseline = (torch.randn(*shape, dtype=torch.float64) for shape in ((4, 6, FEAT), (4, 5), (4, 6)))
    weight = torch.rand(4, 6, dtype=torch.float64)
    chosen = torch.randint(3, (4, 6))
    action = nn.functional.one_hot(chosen, 3).double()
    loss, _ = actor_critic.actor_loss(
        actor, feat, action, returns, baseline, weight, gradient="reinforce", entropy_scale=0.0
    )
    expected = 0.0
    for n in range(4):
        for k in range(4):
            log_pi = actor.layers(feat[n, k]).log_softmax(-1)[chosen[n, k + 1]]
            expected = expected - weight[n, k] * log_pi * (returns[n, k + 1] - baseline[n, k]) / 16
    expect_close(loss, expected, rtol=1e-9, what="actor loss")
    for found, wanted in zip(
        *(torch.autograd.grad(each, list(actor.parameters())) for each in (loss, expected)), strict=True
    ):
        expect_close(found, wanted, rtol=1e-8, atol=1e-12, what="the actor's gradient")


@pytest.mark.exercise(id="3.13")
def test_dynamics_gradient_is_a_finite_difference_with_the_inputs_held():
    """The whole way: actions, dream, returns, loss. The actor acts on what was recorded, as its input is detached."""
    world, actor = ToyWorld().double(), Still().double()
    start = rssm.State(*(x.double() for x in make_start(3)))
    to_reward, to_value = torch.randn(2, FEAT, dtype=torch.float64)
    weight = torch.rand(3, 6, dtype=torch.float64)

    def objective() -> torch.Tensor:
        feat, action = actor_critic.imagine(world, actor, start, 5)
        reward, value = feat @ to_reward, feat @ to_value
        returns = actor_critic.lambda_returns(reward, value, torch.full_like(value, 0.9), 0.8)
        options = {"gradient": "dynamics", "entropy_scale": 0.3}
        return actor_critic.actor_loss(actor, feat, action, returns, value, weight, **options)[0]

    (gradient,) = torch.autograd.grad(objective(), actor.layer.weight)
    recorded = [seen.detach().clone() for seen in actor.seen]
    held, plain = finite_difference(actor, objective, recorded), finite_difference(actor, objective, None)
    assert not np.allclose(held, plain, rtol=1e-3)
    mistakes = {numbers(plain): "the policy sees feat with gradient: detach it"}
    expect_close(gradient, held, rtol=1e-5, atol=1e-8, mistakes=mistakes, what="the actor's gradient")


# ---- 3.14 critic_loss ----


@pytest.mark.exercise(id="3.14")
def test_critic_loss_by_hand():
    """v = [2.5, 1.5, .5], returns [3, 2, 1], weights [1, .9, .81]: 0.11292, and 0.83010 of constants."""
    critic = table(np.array([[[2.5], [1.5], [0.5], [0.2]]]), ScalarHead, units=1)
    loss = actor_critic.critic_loss(critic, places(1, 4), tensor(3, 2, 1), tensor(1.0, 0.9, 0.81, 0.729))
    mistakes = {
        1.04394: "the entries are not weighted",
        0.11292: "normal_nll has a constant, too",
        2.82907: "the sum over the entries is taken: it is their mean",
        -0.94302: "the sign",
        1.05595: "the squared error is not halved",
        0.84872: "the weights are those of the next entry: weight[k]",
    }
    expect_close(loss, 0.94302, mistakes=mistakes, what="critic loss")
    assert loss.shape == ()


@pytest.mark.exercise(id="3.14")
def test_critic_loss_and_gradient_agree_with_the_official_code():
    g, dream = golden("dv2_actor_critic"), official_dream()
    critic = table(g["critic_out"].T[..., None].copy(), ScalarHead, units=1)
    loss = actor_critic.critic_loss(critic, places(3, 6), dream["target"], dream["weight"])
    expect_close(loss, g["critic_loss"], what="critic loss")
    assert loss.requires_grad, "the loss carries no gradient: the critic learns nothing"
    (gradient,) = torch.autograd.grad(loss, critic[0].weight)
    expect_close(gradient.reshape(3, 6), g["critic_grad"].T, atol=1e-6, what="gradient in the critic's output")


@pytest.mark.exercise(id="3.14")
def test_critic_loss_moves_the_critic_alone():
    """Its targets are fixed, and so are the states that it is trained on; the last state has no target."""
    critic = ScalarHead(FEAT, 2, 16)
    feat, returns = torch.randn(6, 4, FEAT, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    weight = torch.rand(6, 4)
    loss = actor_critic.critic_loss(critic, feat, returns, weight)
    assert loss.requires_grad, "the loss carries no gradient: the critic learns nothing"
    grads = torch.autograd.grad(loss, [feat, returns], retain_graph=True, allow_unused=True)
    for name, gradient in zip(("states", "returns"), grads, strict=True):
        assert gradient is None or not gradient.any(), f"gradient of the critic's loss flows into the {name}: detach"
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, list(critic.parameters())))
    error = (critic(feat)[:, :-1] - returns).detach().double()
    nll = 0.5 * error.square() + 0.5 * math.log(2 * math.pi)
    expect_close(loss, (weight[:, :-1] * nll).mean(), what="critic loss")


# ---- 3.15 SlowCritic.update ----


def tiny_critic() -> ScalarHead:
    return ScalarHead(3, 1, 2)


def equal(slow: actor_critic.SlowCritic) -> bool:
    pairs = zip(slow.network.parameters(), slow.critic.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def nudge(critic: nn.Module) -> None:
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter += 1


@pytest.mark.exercise(id="3.15")
@pytest.mark.parametrize(("every", "copies"), [(100, [1, 101, 201]), (3, [1, 4, 7]), (1, [1, 2, 3])])
def test_copies_are_made_now_and_then(every, copies):
    """After updates 1, 101, 201, in full; between them nothing moves."""
    slow = actor_critic.SlowCritic(tiny_critic(), every)
    found, last = [], None
    for update in range(1, copies[-1] + 1):
        nudge(slow.critic)
        slow.update()
        assert slow.updates == update, "`updates` counts the calls"
        if equal(slow):
            found.append(update)
        elif last is not None:
            weights = list(slow.network.parameters())
            assert all(torch.equal(a, b) for a, b in zip(weights, last, strict=True)), (
                f"update {update} moves the copy a little: it is a full copy, or none"
            )
        last = [parameter.clone() for parameter in slow.network.parameters()]
    assert found == copies, f"copied after the updates {found}, expected {copies}"


@pytest.mark.exercise(id="3.15")
def test_every_hundred_updates_is_the_default():
    slow = actor_critic.SlowCritic(tiny_critic())
    slow.updates = 99
    nudge(slow.critic)
    slow.update()
    assert not equal(slow), "the 100th call copies: it is the 1st, the 101st, the 201st"
    slow.update()
    assert equal(slow), "a run that goes on at update 101 copies there"


@pytest.mark.exercise(id="3.15")
def test_copies_agree_with_the_official_code():
    """Every three updates."""
    g = golden("dv2_slow_target")
    critic = ScalarHead(4, 0, 1)
    slow = actor_critic.SlowCritic(critic, int(g["hard_every"]))
    for source, target in zip(g["hard_source"], g["hard_target"], strict=True):
        with torch.no_grad():
            critic[0].weight.copy_(torch.tensor(source.reshape(1, 4)))
        slow.update()
        expect_close(slow.network[0].weight.reshape(2, 2), target, what="the copy's weights")


@pytest.mark.exercise(id="3.15")
def test_copy_is_a_network_of_its_own():
    """Not the critic under another name, with all weights, biases too, and never with gradient."""
    slow = actor_critic.SlowCritic(tiny_critic(), 1)
    for _ in range(2):
        nudge(slow.critic)
        slow.update()
        assert equal(slow), "a weight or bias is not copied"
        assert not any(parameter.requires_grad for parameter in slow.network.parameters()), "the copy has gradient"
        assert all(parameter.requires_grad for parameter in slow.critic.parameters()), "the critic lost its gradient"
        theirs = {parameter.data_ptr() for parameter in slow.critic.parameters()}
        ours = {parameter.data_ptr() for parameter in slow.network.parameters()}
        assert not theirs & ours, "the copy shares its memory with the critic: it moves along"
    nudge(slow.critic)
    assert not equal(slow), "the copy moves along with the critic"


def test_slow_critic_begins_as_a_copy():
    slow = actor_critic.SlowCritic(tiny_critic())
    assert equal(slow)
    assert slow.updates == 0
    assert not any(parameter.requires_grad for parameter in slow.network.parameters())
