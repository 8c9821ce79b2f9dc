"""Learning behaviour in imagination: exercises 2.11 to 2.14."""

import numpy as np
import pytest
import torch
from torch import nn

from paper2_dreamerv1 import actor_critic, rssm
from paper2_dreamerv1.networks import Actor, ScalarHead
from tests.helpers import expect_close, golden, numbers

ACTION, DETER, STOCH, FEAT = 2, 5, 3, 8


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


class ToyWorld(rssm.RSSM):
    """An RSSM whose next state is known: no noise, and stoch is a part of deter."""

    def __init__(self):
        nn.Module.__init__(self)
        self.push = nn.Parameter(torch.randn(ACTION, DETER) * 0.5)
        self.calls: list[tuple[rssm.State, torch.Tensor]] = []

    def img_step(self, prev, prev_action, noise=None):
        self.calls.append((prev, prev_action))
        deter = torch.tanh(0.9 * prev.deter + prev_action @ self.push + 0.3 * prev.stoch.sum(-1, keepdim=True))
        mean = deter[..., :STOCH]
        return rssm.State(deter, mean, mean, torch.ones_like(mean))


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

    def rsample(self, shape=()):
        return self.action

    def sample(self, shape=()):
        raise AssertionError("sample() carries no gradient: rsample()")

    def mode(self, samples=100):
        raise AssertionError("in a dream the actor samples: rsample(), not mode()")


def make_start(n: int = 4) -> rssm.State:
    return rssm.State(torch.randn(n, DETER), torch.randn(n, STOCH), torch.randn(n, STOCH), torch.rand(n, STOCH))


# ---- 2.11 imagine ----


@pytest.mark.exercise(id="2.11")
def test_imagination_is_a_loop_of_actor_and_prior():
    """act on s, step to s', keep s': the start is not among the feats, and feats[:, k] follows actions[:, k]."""
    world, actor, start = ToyWorld(), Still(), make_start()
    feats, actions = actor_critic.imagine(world, actor, rssm.State(*(x.clone() for x in start)), 6)
    assert feats.shape == (4, 6, FEAT), "one feat for each of the steps, starts first"
    assert actions.shape == (4, 6, ACTION)
    state, expected, with_start = start, [], [start.feat]
    for k in range(6):
        action = torch.tanh(actor.layer(state.feat))
        expect_close(actions[:, k], action, what=f"action {k}: the actor's, in the state before")
        state = ToyWorld.img_step(world, state, action)
        expected.append(state.feat)
        with_start.append(state.feat)
    mistakes = {
        numbers(torch.stack(with_start[:6], 1)): "the start is among the feats: they begin with the state after it"
    }
    expect_close(feats, torch.stack(expected, 1), mistakes=mistakes, what="feats")


@pytest.mark.exercise(id="2.11")
def test_actions_are_samples_that_carry_gradient():
    """A mode never tries anything, and a sample without gradient teaches the actor nothing: what the model is given
    must carry it."""
    world, actor, start = ToyWorld(), Actor(FEAT, ACTION, discrete=False, layers=1, units=8), make_start(200)
    one, two = (actor_critic.imagine(world, actor, start, 2)[1] for _ in range(2))
    assert not torch.allclose(one, two), "two imaginations of the same starts take the same actions: sample the policy"
    given = [action for _, action in world.calls]
    message = "the model is given actions without gradient: rsample(), and no detach"
    assert all(action.requires_grad for action in given), message
    difference = one[:, 0] - one[:1, 0]
    assert difference[1:].abs().mean() > 0.1, "all starts share one sample"


@pytest.mark.exercise(id="2.11")
def test_gradient_stops_at_the_start_and_at_what_the_actor_sees():
    world, actor = ToyWorld(), Still()
    start = rssm.State(*(x.requires_grad_() for x in make_start()))
    feats, _ = actor_critic.imagine(world, actor, start, 5)
    assert all(not seen.requires_grad for seen in actor.seen), "the actor's input is not detached"
    assert feats.requires_grad, "no gradient flows from the feats back to the actor"
    for leaf in start:
        (gradient,) = torch.autograd.grad(feats.sum(), leaf, retain_graph=True, allow_unused=True)
        assert gradient is None or not gradient.any(), "gradient flows into the start: it belongs to the world model"


@pytest.mark.exercise(id="2.11")
def test_gradient_flows_through_the_whole_dream():
    """The last state depends on the first action: through all states between them."""
    world, actor, start = ToyWorld(), Still(), make_start()
    feats, _ = actor_critic.imagine(world, actor, start, 5)
    first = world.calls[0][1]  # the action that was given to the first step
    assert first.requires_grad, "the action that the model is given is detached"
    assert feats.requires_grad, "no gradient flows through the model"
    (gradient,) = torch.autograd.grad(feats[:, -1].sum(), first, allow_unused=True)
    assert gradient is not None, "no gradient from the last state to the first action: the states are detached"
    assert gradient.abs().sum() > 0, "no gradient from the last state to the first action: the states are detached"


@pytest.mark.exercise(id="2.11")
def test_actor_gradient_is_a_finite_difference_with_the_inputs_held():
    """In float64: nudge the actor's weights while it acts on the recorded feats. (If it acts on what it sees,
    a nudge also changes what it sees later; that is the gradient of an actor without the detach.)"""
    world, actor = ToyWorld().double(), Still().double()
    start = rssm.State(*(x.double() for x in make_start()))
    weight = torch.randn(FEAT, dtype=torch.float64)
    objective = lambda: (actor_critic.imagine(world, actor, start, 5)[0] @ weight).mean()
    (gradient,) = torch.autograd.grad(objective(), actor.layer.weight)
    recorded = [seen.detach().clone() for seen in actor.seen]

    def finite_difference(replay) -> np.ndarray:
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

    held, plain = finite_difference(recorded), finite_difference(None)
    assert not np.allclose(held, plain, rtol=1e-3)
    mistakes = {numbers(plain): "gradient flows through the actor's input: detach what it sees", 0.0: "no gradient"}
    expect_close(gradient, held, rtol=1e-5, atol=1e-8, mistakes=mistakes, what="the actor's gradient")


@pytest.mark.exercise(id="2.11")
def test_imagination_runs_in_the_rssm():
    """With the real RSSM and a one-hot actor: all starts at once, one call of img_step for each step."""
    model = rssm.RSSM(3, 4, DETER, STOCH, 6)
    actor = Actor(FEAT, 3, discrete=True, layers=1, units=8)
    feats, actions = actor_critic.imagine(model, actor, make_start(20), 4)
    assert feats.shape == (20, 4, FEAT)
    expect_close(actions.sum(-1), 1.0, what="one-hot actions")
    expect_close(actions.max(-1).values, 1.0, what="one-hot actions")
    (gradient,) = torch.autograd.grad(feats.sum(), actor.layers[0].weight)
    assert gradient.abs().sum() > 0, "no gradient reaches a discrete actor"


@pytest.mark.exercise(id="2.11")
def test_dream_is_drawn_from_the_prior():
    """What is imagined is a sample, not the mean, with noise of its own for every start and every step."""
    model = rssm.RSSM(ACTION, 4, DETER, STOCH, 6)
    with torch.no_grad():
        model.img3.weight.zero_(), model.img3.bias.zero_()  # every prior is N(0, 0.7931)
    actor = Actor(FEAT, ACTION, discrete=False, layers=1, units=8)
    feats, _ = actor_critic.imagine(model, actor, make_start(300), 20)
    assert feats.shape == (300, 20, FEAT)
    noise = feats[..., DETER:].detach() / 0.7931
    mistakes = {0.0: "feats hold the prior's mean: it is its sample"}
    expect_close(noise.std(), 1.0, rtol=0, atol=0.05, mistakes=mistakes, what="std of the noise")
    assert noise.mean(0).std() < 0.3, "all starts share their noise"
    assert noise.mean(1).std() < 0.5, "all steps share their noise"


# ---- 2.12 lambda_returns ----


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


REWARD, VALUE, BOOTSTRAP = tensor(1, 2, 3), tensor(10, 20, 30), torch.tensor([40.0])


@pytest.mark.exercise(id="2.12")
@pytest.mark.parametrize(
    ("lam", "discount", "expected", "mistakes"),
    [
        (0.5, (0.9, 0.9, 0.9), (24.8725, 33.05, 39.0), {
            (16.525, 24.5, 30.0): "the values are not shifted: the value of the NEXT state follows a reward",
            (17.43625, 26.525, 34.5): "the values are not shifted: the value of the NEXT state follows a reward",
            (21.2275, 24.95, 21.0): "the last step has but one of its two parts: v_K and R_K are both the bootstrap",
            (43.5925, 54.65, 57.0): "the next value counts (1 - lam)",
            (70.12, 66.8, 57.0): "the next return counts lam",
            (39.0, 33.05, 24.8725): "the returns are in the order in which they were computed: from the last",
        }),
        (0.0, (0.9, 0.9, 0.9), (19.0, 29.0, 39.0), {
            (10.0, 20.0, 30.0): "lam = 0 is r + c * v(next), not v",
            (34.39, 37.1, 39.0): "lam and 1 - lam are swapped",
        }),
        (1.0, (0.9, 0.9, 0.9), (34.39, 37.1, 39.0), {}),
        (0.5, (0.9, 0.0, 0.9), (10.9, 2.0, 39.0), {
            (1.0, 33.05, 39.0): "a discount of 0 cuts what FOLLOWS its state, not what leads to it"
        }),
    ],
)  # fmt: skip
def test_returns_by_hand(lam, discount, expected, mistakes):
    returns = actor_critic.lambda_returns(REWARD, VALUE, tensor(*discount), BOOTSTRAP, lam)
    expect_close(returns, [expected], mistakes=mistakes, what="lambda_returns")


@pytest.mark.exercise(id="2.12")
def test_a_world_of_ones_is_worth_one_hundred():
    """r = 1 and v = 100 at a discount of 0.99 agree with each other, whatever lam."""
    ones = torch.ones(3, 14)
    for lam in (0.0, 0.5, 0.95, 1.0):
        returns = actor_critic.lambda_returns(ones, 100 * ones, 0.99 * ones, torch.full((3,), 100.0), lam)
        expect_close(returns, 100.0, what=f"lam={lam}")
    returns = actor_critic.lambda_returns(ones, 0 * ones, 0.99 * ones, torch.zeros(3), 0.95)
    expect_close(returns[:, 0], 9.68629, what="fourteen rewards of 1, values of 0")
    expect_close(returns[:, -1], 1.0, what="the last of them")


@pytest.mark.exercise(id="2.12")
@pytest.mark.parametrize(
    ("name", "lam"), [("ret_lam0", 0.0), ("ret_lam95", 0.95), ("ret_lam100", 1.0), ("ret_const", 0.95)]
)
def test_returns_agree_with_the_official_code(name, lam):
    """Its arrays are time-first, and its last value is the bootstrap."""
    g = golden("dv1_lambda_return")
    reward, value, discount = (torch.tensor(g[key].T) for key in ("reward", "value", "pcont"))
    if name == "ret_const":
        discount = torch.full_like(discount, 0.99)
    returns = actor_critic.lambda_returns(reward[:, :-1], value[:, :-1], discount[:, :-1], value[:, -1], lam)
    expect_close(returns, g[name].T, what="lambda_returns")


@pytest.mark.exercise(id="2.12")
def test_gradient_reaches_rewards_values_and_discounts():
    """By the chain of discounts: d R_0 / d r_k = (lam c)^k, and d R_0 / d c_k is (lam c)^k times what follows k."""
    leaves = [x.clone().requires_grad_() for x in (REWARD, VALUE, BOOTSTRAP, tensor(0.9, 0.9, 0.9))]
    before = [x.detach().clone() for x in leaves]
    reward, value, bootstrap, discount = leaves
    first = actor_critic.lambda_returns(reward, value, discount, bootstrap, 0.5)[0, 0]
    assert first.requires_grad, "the returns carry no gradient"
    grads = torch.autograd.grad(first, leaves, allow_unused=True)
    names = ("reward", "value", "bootstrap", "discount")
    wanted = (
        [[1.0, 0.45, 0.2025]],
        [[0.0, 0.45, 0.2025]],
        [0.18225],  # 0.2025 * 0.9 * (0.5 + 0.5)
        [[26.525, 0.45 * 34.5, 0.2025 * 40]],  # R_1 = 33.05, R_2 = 39: 26.525 is 0.5 * 20 + 0.5 * 33.05
    )
    for name, leaf, old, gradient, expected in zip(names, leaves, before, grads, wanted, strict=True):
        assert gradient is not None, f"no gradient reaches the {name}"
        expect_close(gradient, expected, what=f"d R_0 / d {name}")
        assert torch.equal(leaf, old), f"the caller's {name} is changed"


# ---- 2.13 discount_weights ----


@pytest.mark.exercise(id="2.13")
def test_weights_by_hand():
    mistakes = {
        numbers([[0.9, 0.45, 0.405]]): "the weights are not shifted: the first state counts in full",
        numbers([[1.0, 0.9, 0.5]]): "it is the PRODUCT of the discounts before",
    }
    discount = tensor(0.9, 0.5, 0.9)
    weights = actor_critic.discount_weights(discount)
    expect_close(weights, [[1.0, 0.9, 0.45]], mistakes=mistakes, what="weights")
    assert torch.equal(discount, tensor(0.9, 0.5, 0.9)), "the caller's discounts are changed"


@pytest.mark.exercise(id="2.13")
def test_weights_fall_to_zero_behind_an_end():
    weights = actor_critic.discount_weights(torch.tensor([[0.99, 0.0, 0.99, 0.99], [1.0, 1.0, 1.0, 1.0]]))
    expect_close(weights, [[1, 0.99, 0, 0], [1, 1, 1, 1]], what="weights")


@pytest.mark.exercise(id="2.13")
def test_papers_horizon():
    """Fourteen weights at 0.99: the last is 0.8775, their mean 0.93753."""
    weights = actor_critic.discount_weights(torch.full((2, 14), 0.99))
    assert weights.shape == (2, 14)
    expect_close(weights[:, -1], 0.8775, what="the last weight")
    expect_close(weights.mean(), 0.93753, what="their mean")


@pytest.mark.exercise(id="2.13")
def test_weights_agree_with_the_official_code_and_carry_no_gradient():
    g = golden("dv1_losses")
    discount = torch.tensor(g["pcont_imag_logit"].T[:, :-1]).requires_grad_()
    weights = actor_critic.discount_weights(discount.sigmoid())
    expect_close(weights, g["pcont_discount_weights"].T, what="weights")
    assert not weights.requires_grad, "the weights carry gradient: an actor could learn to end episodes with it"


# ---- 2.14 behaviour_losses ----


class Table(nn.Module):
    """A critic that reads the value off the first entry of feat."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, feat):
        return self.scale * feat[..., 0]


def losses_of(reward, value, discount, lam: float) -> tuple:
    """(losses, leaves): behaviour_losses on feats whose first entry is the value."""
    feat = torch.randn(*value.shape, 3)
    feat[..., 0] = value
    leaves = [x.detach().clone().requires_grad_() for x in (feat, reward, discount)]
    critic = Table()
    return actor_critic.behaviour_losses(*leaves, critic, lam), [*leaves, critic.scale]


@pytest.mark.exercise(id="2.14")
def test_actor_loss_by_hand():
    """w = [1, 0.9, 0.81], R = [24.8725, 33.05, 39]: -28.7358."""
    losses, _ = losses_of(tensor(1, 2, 3, 4), tensor(10, 20, 30, 40), torch.full((1, 4), 0.9), 0.5)
    expect_close(losses.returns, [[24.8725, 33.05, 39.0]], what="returns: of all states but the last")
    mistakes = {
        -32.3075: "the returns are not weighted",
        28.7358: "the sign: the actor is to RAISE the returns, and optimisers go down",
        -86.2075: "the sum over the steps is taken: it is their mean",
        -25.8623: "the weights are not shifted",
    }
    expect_close(losses.actor, -28.7358, mistakes=mistakes, what="actor loss")


@pytest.mark.exercise(id="2.14")
def test_value_loss_by_hand():
    losses, _ = losses_of(tensor(1, 2, 3, 4), tensor(10, 20, 30, 40), torch.full((1, 4), 0.9), 0.5)
    error = np.array([14.8725, 13.05, 9.0])
    weights = np.array([1, 0.9, 0.81])
    nll = 0.5 * error**2 + 0.5 * np.log(2 * np.pi)
    mistakes = {
        nll.mean(): "the loss is not weighted",
        (weights * 0.5 * error**2).mean(): "normal_nll has a constant, too",
        (weights * nll).sum(): "the sum over the steps is taken: it is their mean",
        -(weights * nll).mean(): "the sign",
    }
    expect_close(losses.value, (weights * nll).mean(), mistakes=mistakes, what="value loss")


@pytest.mark.exercise(id="2.14")
@pytest.mark.parametrize("kind", ["nopcont", "pcont"])
def test_losses_and_gradients_agree_with_the_official_code(kind):
    """Its actor loss's gradient in rewards AND values: through the values it goes on into the states."""
    g = {key.removeprefix(f"{kind}_"): value for key, value in golden("dv1_losses").items()}
    array = lambda name: torch.tensor(g[name].T)
    value = array("imag_value")
    discount = array("imag_logit").sigmoid() if kind == "pcont" else torch.full_like(value, 0.99)
    losses, (feat, reward, _, scale) = losses_of(array("imag_reward"), value, discount, 0.95)
    expect_close(losses.returns, array("returns"), what="returns")
    expect_close(losses.actor, g["actor_loss"], what="actor loss")
    expect_close(losses.value, g["value_loss"], what="value loss")
    assert losses.actor.requires_grad, "the actor loss carries no gradient"
    assert losses.value.requires_grad, "the value loss carries no gradient"
    leaves = {"values": feat, "rewards": reward}
    by_feat, by_reward = torch.autograd.grad(losses.actor, list(leaves.values()), retain_graph=True, allow_unused=True)
    for name, gradient in zip(leaves, (by_feat, by_reward), strict=True):
        assert gradient is not None, f"no gradient of the actor loss reaches the {name}"
    expect_close(by_reward, array("actor_grad_reward"), atol=1e-6, what="gradient of the actor loss in the rewards")
    mistakes = {0.0: "the values carry no gradient: the actor does not learn what lies behind the horizon"}
    expect_close(
        by_feat[..., 0], array("actor_grad_value"), atol=1e-6, mistakes=mistakes, what="gradient in the values"
    )
    (by_scale,) = torch.autograd.grad(losses.value, scale)
    expected = (array("value_grad") * value).sum()
    expect_close(by_scale, expected, rtol=1e-3, what="gradient of the value loss in the critic's weight")


@pytest.mark.exercise(id="2.14")
def test_actor_learns_through_the_discounts():
    """By way of the returns: an end that is likely is to be avoided. By way of the weights there is no gradient."""
    losses, (_, _, discount, _) = losses_of(tensor(1, 2, 3, 4), tensor(10, 20, 30, 40), torch.full((1, 4), 0.9), 0.5)
    (gradient,) = torch.autograd.grad(losses.actor, discount, allow_unused=True)
    assert gradient is not None, "no gradient of the actor loss reaches the discounts"
    follows = np.array([26.525, 34.5, 40.0])  # what c_k discounts: (v_{k+1} + R_{k+1}) / 2
    through_returns = -follows * np.array([1, 0.45 + 0.9, 0.2025 + 0.9 * 0.45 + 0.81]) / 3
    expect_close(gradient, [[*through_returns, 0.0]], what="gradient of the actor loss in the discounts")


@pytest.mark.exercise(id="2.14")
def test_value_loss_moves_the_critic_alone():
    """Its targets are fixed, and so are the states that it is trained on."""
    losses, (feat, reward, discount, scale) = losses_of(torch.randn(3, 5), torch.randn(3, 5), torch.rand(3, 5), 0.95)
    assert losses.value.requires_grad, "the value loss carries no gradient: the critic learns nothing"
    gradients = torch.autograd.grad(losses.value, [feat, reward, discount], retain_graph=True, allow_unused=True)
    for name, gradient in zip(("states", "rewards", "discounts"), gradients, strict=True):
        assert gradient is None or not gradient.any(), f"gradient of the value loss flows into the {name}: detach"
    (by_scale,) = torch.autograd.grad(losses.value, scale)
    assert by_scale.abs() > 0


@pytest.mark.exercise(id="2.14")
def test_imagined_end_takes_the_weight_of_what_follows():
    losses, (_, reward, *_) = losses_of(
        torch.ones(1, 5), torch.zeros(1, 5), torch.tensor([[0.9, 0.0, 0.9, 0.9, 0.9]]), 0.95
    )
    (gradient,) = torch.autograd.grad(losses.actor, reward)
    expect_close(gradient[0, 2:], 0.0, what="what is earned behind an imagined end counts nothing")
    assert gradient[0, 0] < 0
    assert gradient[0, 1] < 0


@pytest.mark.exercise(id="2.14")
def test_losses_with_a_real_critic():
    critic = ScalarHead(FEAT, 2, 16)
    feat = torch.randn(6, 4, FEAT, requires_grad=True)
    losses = actor_critic.behaviour_losses(feat, torch.randn(6, 4), torch.rand(6, 4), critic, 0.95)
    assert losses.returns.shape == (6, 3)
    assert losses.actor.shape == losses.value.shape == ()
    gradients = torch.autograd.grad(losses.value, list(critic.parameters()), retain_graph=True)
    assert all(g.abs().sum() > 0 for g in gradients)
    assert torch.autograd.grad(losses.actor, feat)[0].abs().sum() > 0
