"""Learning behaviour in imagination: exercises 4.11 to 4.16."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from paper4_dreamerv3 import actor_critic
from paper4_dreamerv3.actor_critic import Actor, BoundedNormal, OneHot
from paper4_dreamerv3.symlog import SymlogTwoHot, TwoHot
from paper4_dreamerv3.world_model import RSSM, ScalarHead, State
from tests.helpers import expect_close, golden, numbers

ACTION, DETER, STOCH = 2, 5, 3
GAMMA = 1 - 1 / 333


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def official(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(value) for key, value in golden(name).items()}


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


# ---- 4.11 imagine ----


class ToyWorld(RSSM):
    """An RSSM whose next state is known: any function of state, action and noise."""

    def __init__(self):
        nn.Module.__init__(self)
        self.push = nn.Parameter(torch.randn(ACTION, DETER) * 0.5)
        self.calls: list[tuple[State, torch.Tensor, torch.Tensor]] = []

    def img_step(self, prev, prev_action, noise):
        self.calls.append((prev, prev_action, noise))
        deter = torch.tanh(0.9 * prev.deter + prev_action @ self.push + 0.3 * prev.stoch.sum(-1, keepdim=True))
        return State(deter, deter[..., :STOCH] + noise)


class ToyActor(Actor):
    """An actor whose action is a function of what it sees, which it keeps, and of the noise."""

    def __init__(self):
        nn.Module.__init__(self)
        self.layer = nn.Linear(DETER + STOCH, ACTION)
        self.seen: list[torch.Tensor] = []

    def forward(self, feat):
        self.seen.append(feat)
        self.mean = torch.tanh(self.layer(feat))
        return self

    def sample(self, noise):
        return self.mean + 0.5 * noise

    def mode(self):
        raise AssertionError("in a dream the actor samples, with the noise that it is given")


def dream_written_out(world, actor, start: State, latent_noise, action_noise) -> tuple[torch.Tensor, torch.Tensor]:
    state, feats, actions = start, [start.feat], []
    for k in range(latent_noise.shape[1]):
        actions.append(torch.tanh(actor.layer(state.feat)) + 0.5 * action_noise[:, k])
        state = ToyWorld.img_step(world, state, actions[-1], latent_noise[:, k])
        feats.append(state.feat)
    actions.append(torch.tanh(actor.layer(state.feat)) + 0.5 * action_noise[:, latent_noise.shape[1]])
    return torch.stack(feats, 1), torch.stack(actions, 1)


def toy(starts: int = 4, horizon: int = 6):
    noises = torch.randn(starts, horizon, STOCH), torch.randn(starts, horizon + 1, ACTION)
    return ToyWorld(), ToyActor(), State(torch.randn(starts, DETER), torch.randn(starts, STOCH)), *noises


@pytest.mark.exercise(id="4.11")
def test_imagination_is_a_loop_of_actor_and_prior():
    """Entry k is the state after k steps and the action that is TAKEN in it; seven of each for a horizon of 6."""
    world, actor, start, latent_noise, action_noise = toy()
    before = [x.clone() for x in (*start, latent_noise, action_noise)]
    feats, actions = actor_critic.imagine(world, actor, start, latent_noise, action_noise)
    assert feats.shape == (4, 7, DETER + STOCH), "one entry for the start and one for each of the 6 steps"
    assert actions.shape == (4, 7, ACTION), "an action for every state, the last one too"
    wanted, taken = dream_written_out(world, actor, start, latent_noise, action_noise)
    mistakes = {
        numbers(torch.cat([wanted[:, 1:], wanted[:, -1:]], 1)): "entry 0 is the start itself, not the state after it",
        numbers(torch.cat([feats[..., DETER:], feats[..., :DETER]], -1)): "feat is [deter, stoch]: state.feat",
    }
    mistakes.pop(numbers(wanted), None)
    expect_close(feats, wanted, mistakes=mistakes, what="feats")
    mistakes = {
        numbers(torch.cat([0 * taken[:, :1], taken[:, :-1]], 1)): "entry k has the action that is taken IN it",
        numbers(taken - 0.5 * action_noise): "the noise is not used: that is no sample",
        numbers(torch.cat([taken[:, :-1], 0 * taken[:, -1:]], 1)): "the last state has an action, too",
    }
    expect_close(actions, taken, mistakes=mistakes, what="actions")
    after = (*start, latent_noise, action_noise)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True)), "the caller's inputs are changed"


@pytest.mark.exercise(id="4.11")
@pytest.mark.parametrize("horizon", [1, 2, 15])
def test_a_dream_has_one_step_less_than_entries(horizon):
    """The last action leads nowhere: img_step is asked `horizon` times, with what belongs together."""
    world, actor, start, latent_noise, action_noise = toy(3, horizon)
    feats, actions = actor_critic.imagine(world, actor, start, latent_noise, action_noise)
    assert len(world.calls) == horizon, f"{len(world.calls)} steps for a horizon of {horizon}"
    for k, (prev, action, noise) in enumerate(world.calls):
        expect_close(prev.feat, feats[:, k], what=f"the state in which step {k} begins")
        expect_close(action, actions[:, k], what=f"the action of step {k}")
        expect_close(noise, latent_noise[:, k], what=f"the noise of step {k}")


@pytest.mark.exercise(id="4.11")
def test_gradient_stops_at_the_start_and_at_what_the_actor_sees():
    world, actor, start, latent_noise, action_noise = toy()
    start = State(*(x.requires_grad_() for x in start))
    feats, actions = actor_critic.imagine(world, actor, start, latent_noise, action_noise)
    assert actor.seen, "the actor is not asked"
    assert all(not seen.requires_grad for seen in actor.seen), "the actor's input is not detached"
    for name, leaf in start._asdict().items():
        (gradient,) = torch.autograd.grad(
            feats.sum() + actions.sum(), leaf, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert not gradient.any(), f"gradient flows into the start's {name}: that belongs to the world model"


@pytest.mark.exercise(id="4.11")
def test_imagination_runs_in_the_rssm_with_the_prior():
    """With the real RSSM and a discrete actor: the same noise gives the same dream, and each step is img_step's."""
    rssm = RSSM(3, 4, 6, 5, 2, 4, 3, 0.01)
    actor = Actor(6 + 8, 3, discrete=True, layers=1, units=8, unimix=0.01)
    start = State(torch.randn(20, 6), torch.randn(20, 8))
    noise = rssm.noise(20, 4), actor.noise(20, 5, device=torch.device("cpu"))
    with torch.no_grad():
        feats, actions = actor_critic.imagine(rssm, actor, start, *noise)
        again = actor_critic.imagine(rssm, actor, start, *noise)
    assert torch.equal(feats, again[0])
    assert torch.equal(actions, again[1])
    assert ((actions == 0) | (actions == 1)).all(), "the actions are not exactly 0 and 1"
    assert (actions.sum(-1) == 1).all(), "the actions are not one-hot"
    state = start
    for k in range(4):
        state = rssm.img_step(state, actions[:, k], noise[0][:, k])
        expect_close(feats[:, k + 1], state.feat, what=f"feat after {k + 1} steps")
    policy = actor(feats)
    expect_close(actions, policy.sample(noise[1]), what="the actor's samples on these feats")


# ---- 4.12 lambda_returns ----

REWARD, CONT, VALUE = tensor(9, 1, 2, 3), tensor(1, 0.9, 0.8, 0.5), tensor(10, 20, 30, 40)


@pytest.mark.exercise(id="4.12")
@pytest.mark.parametrize(
    ("lam", "expected", "mistakes"),
    [
        (0.95, (19.5814, 20.68, 23.0), {
            (18.627, 20.09, 22.75): "the value that follows is the NEXT entry's, v_{k+1}",
            (39.849, 31.42, 34.0): "reward and discount are those of the NEXT entry: what the action led to",
            (23.0, 20.68, 19.5814): "the returns are in the order in which they were computed: from the last",
            (7.2352, 6.24, 4.0): "behind the last entry there is its value, in full",
            (19.439, 20.5784, 22.9399): "the discount is in cont already: not once more",
        }),
        (0.0, (19.0, 26.0, 23.0), {
            (10.0, 20.0, 30.0): "lam = 0 is r + c * v of the next entry",
            (19.36, 20.4, 23.0): "lam and 1 - lam are swapped",
        }),
        (1.0, (19.36, 20.4, 23.0), {(19.0, 26.0, 23.0): "lam and 1 - lam are swapped"}),
    ],
)  # fmt: skip
def test_returns_by_hand(lam, expected, mistakes):
    returns = actor_critic.lambda_returns(REWARD, CONT, VALUE, lam)
    expect_close(returns, [expected], mistakes=mistakes, what="lambda_returns")


@pytest.mark.exercise(id="4.12")
def test_first_entry_is_not_used():
    """Reward and discount of the start belong to what led to it; its value is what the returns are held against."""
    before = [x.clone() for x in (REWARD, CONT, VALUE)]
    returns = actor_critic.lambda_returns(REWARD, CONT, VALUE)
    for i, name in enumerate(("reward", "cont", "value")):
        changed = [x.clone() for x in (REWARD, CONT, VALUE)]
        changed[i][:, 0] = 1e6
        found = actor_critic.lambda_returns(*changed)
        expect_close(found, returns, what=f"the returns with another {name} in the first entry")
    unchanged = [torch.equal(a, b) for a, b in zip((REWARD, CONT, VALUE), before, strict=True)]
    assert all(unchanged), "the caller's arrays are changed"


@pytest.mark.exercise(id="4.12")
def test_fifteen_rewards_of_one():
    """At a discount of 0.997 in cont, and once only: (1 - 0.997^15) / (1 - 0.997) = 14.689."""
    ones = torch.ones(3, 16)
    returns = actor_critic.lambda_returns(ones, GAMMA * ones, 0 * ones, 1.0)
    assert returns.shape == (3, 15), "15 returns for 16 entries: one for every action but the last"
    mistakes = {15.0: "cont is not used", 14.3864: "the discount is in cont already: not once more"}
    expect_close(returns[:, 0], 14.6888, mistakes=mistakes, what="the first return")
    expect_close(returns[:, -1], 1.0, what="the last return")
    for lam in (0.0, 0.5, 0.95, 1.0):
        found = actor_critic.lambda_returns(ones, GAMMA * ones, 333 * ones, lam)
        expect_close(found, 333.0, what=f"rewards of 1 and values of 333, which agree, lam={lam}")


@pytest.mark.exercise(id="4.12")
def test_an_imagined_end_cuts_off_what_follows():
    """cont 0 in entry 2: what the action before it earned is its reward, whatever is dreamed afterwards."""
    returns = actor_critic.lambda_returns(REWARD, tensor(1, 0.9, 0.0, 0.5), VALUE, 0.95)
    mistakes = {(7.61925, 5.915, 3.0): "a discount of 0 cuts what FOLLOWS its entry"}
    expected = [1 + 0.9 * (0.05 * 20 + 0.95 * 2), 2.0, 23.0]
    expect_close(returns, [expected], mistakes=mistakes, what="lambda_returns")


@pytest.mark.exercise(id="4.12")
def test_returns_agree_with_the_official_code():
    g = official("dv3_lambda_return")
    found = actor_critic.lambda_returns(g["rew"], g["con"], g["val"], float(g["lam"]))
    shifted = actor_critic.lambda_returns(g["rew"], g["con"], g["boot"], float(g["lam"]))
    expect_close(found, g["ret_imag"], mistakes={numbers(shifted): "other values"}, what="lambda_returns")
    for kind in ("cont", "disc"):
        g = official(f"dv3_imag_loss_{kind}")
        found = actor_critic.lambda_returns(g["rew"], g["con"], g["value_pred"])
        expect_close(found, g["ret"], what=f"returns of the {kind} example, whose lambda is .95 by default")


@pytest.mark.exercise(id="4.12")
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_returns_are_exact_in_float64(steps):
    """Against the sum written out: n-step returns, weighted by powers of lam."""
    reward, cont, value = (torch.rand(3, steps + 1, dtype=torch.float64) for _ in range(3))
    expected = torch.zeros(3, steps, dtype=torch.float64)
    for k in range(steps):
        for n in range(1, steps - k + 1):
            before = [cont[:, k + 1 : k + 1 + i].prod(1) for i in range(n + 1)]
            n_step = sum(before[i] * reward[:, k + 1 + i] for i in range(n)) + before[n] * value[:, k + n]
            expected[:, k] += n_step * (0.7 ** (n - 1) if n == steps - k else 0.3 * 0.7 ** (n - 1))
    found = actor_critic.lambda_returns(reward, cont, value, 0.7)
    expect_close(found, expected, rtol=1e-10, atol=1e-12, what=f"returns of {steps} steps")


# ---- 4.13 replay_returns ----


def flags(*values: int) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.bool)


NO, THIRD = flags(0, 0, 0, 0), flags(0, 0, 1, 0)


@pytest.mark.exercise(id="4.13")
@pytest.mark.parametrize(
    ("terminal", "last", "expected", "mistakes"),
    [
        (NO, THIRD, (32.2204, 31.9099, 42.8799), {
            (43.7748, 44.1091, 42.8799): "where row t+1 is_last the replay goes on in ANOTHER episode: lam is 0 there",
            (3.8913, 2.0, 42.8799): "a time limit is no end: only is_terminal cuts off what follows",
            (32.4, 32.0, 43.0): "the discount is missing",
        }),
        (THIRD, THIRD, (3.8913, 2.0, 42.8799), {
            (32.2204, 31.9099, 42.8799): "is_terminal is not used: nothing follows a true end",
            (32.2204, 31.9099, 3.0): "is_terminal of the NEXT row counts",
        }),
        (NO, NO, (43.7748, 44.1091, 42.8799), {(32.2204, 31.9099, 42.8799): "no row is_last here"}),
    ],
)  # fmt: skip
def test_replayed_returns_by_hand(terminal, last, expected, mistakes):
    found = actor_critic.replay_returns(REWARD, terminal, last, VALUE, GAMMA)
    expect_close(found, [expected], mistakes=mistakes, what="replay_returns")


@pytest.mark.exercise(id="4.13")
def test_replayed_returns_agree_with_the_official_code():
    """Three sequences of seven rows, with true ends and time limits among them."""
    g = official("dv3_lambda_return")
    call = lambda terminal, last, bootstrap: actor_critic.replay_returns(
        g["rew"], terminal, last, bootstrap, float(g["disc"]), float(g["lam"])
    )
    mistakes = {
        numbers(call(g["term"], torch.zeros_like(g["last"]), g["boot"])): "is_last is not used",
        numbers(call(torch.zeros_like(g["term"]), g["last"], g["boot"])): "is_terminal is not used",
        numbers(call(g["last"], g["last"], g["boot"])): "a time limit is no end",
    }
    expect_close(call(g["term"], g["last"], g["boot"]), g["ret_replay"], mistakes=mistakes, what="replay_returns")
    g = official("dv3_repl_loss")
    found = actor_critic.replay_returns(g["rew"], g["term"], g["last"], g["boot"], GAMMA)
    expect_close(found, g["ret"], what="the returns of the official critic loss, lambda .95 by default")


@pytest.mark.exercise(id="4.13")
@pytest.mark.parametrize("time", [2, 3, 8])
def test_replayed_returns_are_exact_in_float64(time):
    """Row by row from the end, in plain numbers."""
    reward, bootstrap = (torch.randn(4, time, dtype=torch.float64) for _ in range(2))
    last = torch.rand(4, time) < 0.4
    terminal = last & (torch.rand(4, time) < 0.5)
    before = [x.clone() for x in (reward, terminal, last, bootstrap)]
    expected = np.zeros((4, time - 1))
    for row in range(4):
        ret = bootstrap[row, -1].item()
        for t in reversed(range(time - 1)):
            lam = 0.0 if last[row, t + 1] else 0.8
            goes_on = 0.0 if terminal[row, t + 1] else 0.9
            ret = reward[row, t + 1].item() + goes_on * ((1 - lam) * bootstrap[row, t + 1].item() + lam * ret)
            expected[row, t] = ret
    found = actor_critic.replay_returns(reward, terminal, last, bootstrap, 0.9, 0.8)
    expect_close(found, expected, rtol=1e-6, what="replay_returns")
    after = (reward, terminal, last, bootstrap)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True)), "the caller's arrays are changed"


@pytest.mark.exercise(id="4.13")
def test_nothing_leaks_from_the_next_episode():
    """Rows 3 to 6 are another episode: whatever happens there, rows 0 and 1 are worth the same."""
    reward, bootstrap = torch.randn(2, 7), torch.randn(2, 7)
    last = torch.tensor([[0, 0, 1, 0, 0, 0, 0]] * 2, dtype=torch.bool)
    terminal = last & torch.tensor([[True], [False]])
    returns = actor_critic.replay_returns(reward, terminal, last, bootstrap, 0.99)
    reward[:, 3:] += 100
    bootstrap[:, 3:] -= 100
    found = actor_critic.replay_returns(reward, terminal, last, bootstrap, 0.99)
    expect_close(found[:, :2], returns[:, :2], what="returns of the first episode, with another one behind it")
    assert not torch.allclose(found[:, 2:], returns[:, 2:])
    expect_close(returns[0, 1], reward[0, 2], what="the return of the step into a true end")
    expect_close(returns[1, 1], reward[1, 2] + 0.99 * bootstrap[1, 2], what="the return of the step into a time limit")
    reward[:, 0] += 50
    bootstrap[:, 0] += 50
    again = actor_critic.replay_returns(reward, terminal, last, bootstrap, 0.99)
    expect_close(again, found, what="the returns with another first reward and bootstrap, which are not used")


# ---- 4.14 ReturnNorm ----


@pytest.mark.exercise(id="4.14")
def test_first_batches_are_not_made_up_for():
    """Percentiles 10 and 100: high - low is 0.9 after one update, and the scale at least 1; then 1.791, 2.673, ..."""
    norm = actor_critic.ReturnNorm()
    returns = torch.linspace(5, 105, 2001)  # its 5th percentile is 10, its 95th 100
    expected = 90 * (1 - 0.99 ** np.arange(1, 4))
    found = [norm.update(returns).item() for _ in range(3)]
    mistakes = {
        numbers(expected): "the scale is at least `limit`: small returns are not blown up",
        (90.0, 90.0, 90.0): "the averages begin at 0, and that is not made up for (no debiasing)",
        (1.0, 1.99, 2.9701): "the range of all returns is taken: it is that of their percentiles 5 and 95",
        (1.0, 1.0, 1.791): "the scale counts this batch, too: first update, then give the scale",
        (1.0, 1.0, 1.0): "the averages do not move",
    }
    expect_close(found, [1.0, 1.791, 2.67309], mistakes=mistakes, what="the first three scales")
    expect_close([norm.low, norm.high], [10 * (1 - 0.99**3), 100 * (1 - 0.99**3)], what="low and high")
    for _ in range(297):
        scale = norm.update(returns)
    expect_close(scale, 85.5863, what="the scale after 300 of these batches: 90 (1 - 0.99^300)")


@pytest.mark.exercise(id="4.14")
def test_scale_agrees_with_the_official_code():
    """Six batches of 4 x 15 returns, ten times larger each, then small again."""
    g = official("dv3_return_normalizer")
    norm = actor_critic.ReturnNorm()
    found, lows = [], []
    for batch in g["x"]:
        found.append(norm.update(batch))
        lows.append(norm.low.clone())
    mistakes = {numbers(g["perc_debias_scale"]): "the averages are debiased: they are not"}
    expect_close(torch.stack(found), g["perc_scale"], mistakes=mistakes, what="scales")
    expect_close(torch.stack(lows), g["perc_offset"], what="low after every batch")
    expect_close(norm.low, g["perc_state_lo"], what="low at the end")
    expect_close(norm.high, g["perc_state_hi"], what="high at the end")


@pytest.mark.exercise(id="4.14")
@pytest.mark.parametrize(("rate", "limit"), [(0.01, 1.0), (0.5, 0.2), (1.0, 7.0), (0.01, 0.2), (0.5, 7.0)])
def test_percentiles_are_interpolated_over_all_returns(rate, limit):
    """Of 0, 1, ..., 10 the 5th percentile is 0.5, the 95th 9.5; whatever the shape. Both options count."""
    returns = torch.arange(11.0)[torch.randperm(11)]
    norm = actor_critic.ReturnNorm(rate, limit)
    scale = norm.update(returns)
    assert scale.shape == ()
    mistakes = {10 * rate: "the largest and the smallest are taken", 9.0: "`rate` is not used"}
    mistakes[1.0] = "`limit` is not used"
    expect_close(scale, max(limit, 9 * rate), mistakes=mistakes, what="the scale")
    expect_close(norm.low, 0.5 * rate, mistakes={0.0: "percentiles are interpolated linearly"}, what="low")
    expect_close(norm.high, 9.5 * rate, what="high")
    returns, one, other = torch.randn(3, 5), actor_critic.ReturnNorm(1.0, 0.0), actor_critic.ReturnNorm(1.0, 0.0)
    by_rows = returns.quantile(0.95, dim=-1).mean() - returns.quantile(0.05, dim=-1).mean()
    expected = np.diff(np.percentile(returns.numpy(), [5, 95]))[0]
    mistakes = {by_rows.item(): "percentiles of all returns together, not row by row"}
    expect_close(one.update(returns), expected, mistakes=mistakes, what="the scale of a batch")
    expect_close(other.update(returns.flatten()), expected, what="the scale of the same returns in a row")


@pytest.mark.exercise(id="4.14")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_percentiles_are_taken_in_float32_whatever_comes_in(dtype):
    """`torch.quantile` takes no bfloat16, and the averages are float32."""
    norm = actor_critic.ReturnNorm(1.0)
    scale = norm.update(torch.arange(11.0).to(dtype))
    assert scale.dtype == norm.low.dtype == norm.high.dtype == torch.float32
    expect_close([scale, norm.low, norm.high], [9.0, 0.5, 9.5], what="scale, low and high")


@pytest.mark.exercise(id="4.14")
def test_small_returns_are_not_blown_up():
    """Constant advantages of 0.01 stay 0.01: it is no standardisation."""
    norm = actor_critic.ReturnNorm()
    for _ in range(50):
        scale = norm.update(0.01 * torch.randn(100))
    expect_close(scale, 1.0, what="the scale of small returns")
    assert norm.high - norm.low > 0


@pytest.mark.exercise(id="4.14")
def test_scale_carries_no_gradient_and_is_kept_in_checkpoints():
    norm = actor_critic.ReturnNorm()
    returns = (100 * torch.randn(3, 15)).requires_grad_()
    before = returns.detach().clone()
    scale = norm.update(returns)
    assert not scale.requires_grad, "the scale carries gradient"
    assert not norm.low.requires_grad
    assert torch.equal(returns, before), "the caller's returns are changed"
    kept = {key: value.clone() for key, value in norm.state_dict().items()}
    assert kept.keys() == {"low", "high"}
    assert kept["high"].dtype == torch.float32
    other = actor_critic.ReturnNorm()
    other.load_state_dict(kept)
    expect_close(other.update(before), norm.update(before), what="the next scale, from a checkpoint")


# ---- 4.15 actor_loss ----


def policy_of(kind: str, raw: torch.Tensor) -> OneHot | BoundedNormal:
    return OneHot(raw, 0.0) if kind == "disc" else BoundedNormal(raw)


def official_advantage(g: dict[str, torch.Tensor]) -> torch.Tensor:
    scale = (g["retnorm_hi"] - g["retnorm_lo"]).clamp(min=1)
    return (g["ret"] - g["value_pred"][:, :-1]) / scale


def official_actions(g: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
    return nn.functional.one_hot(g["action"].long(), 4).float() if kind == "disc" else g["action"]


@pytest.mark.exercise(id="4.15")
@pytest.mark.parametrize("kind", ["disc", "cont"])
def test_actor_loss_agrees_with_the_official_code(kind):
    """Three dreams of five actions; loss and gradient."""
    g = official(f"dv3_imag_loss_{kind}")
    logits = g["policy_logits"].requires_grad_()
    policy, advantage = policy_of(kind, logits[:, :-1]), official_advantage(g)
    action, weight = official_actions(g, kind)[:, :-1], g["weight"][:, :-1]
    found = actor_critic.actor_loss(policy, action, advantage, weight)
    log_prob, entropy = policy.log_prob(action), policy.entropy()
    mistakes = {
        numbers(-g["policy_loss"]): "the sign: what is minimised is MINUS the merit",
        numbers(-log_prob * advantage * weight - 3e-4 * entropy): "entropy is weighted, too",
        numbers(-(log_prob * advantage + 3e-4 * entropy)): "the weight is not used",
        numbers(-weight * log_prob * advantage): "the entropy is left out",
        numbers(-weight * (log_prob * advantage - 3e-4 * entropy)): "the entropy's sign: more of it is better",
        numbers(-weight * (log_prob * advantage + 3e-3 * entropy)): "entropy_scale is 3e-4",
        numbers(-weight * (log_prob * g["ret"] + 3e-4 * entropy)): "the advantage is what is given",
    }
    assert found.shape == (3, 5), "one number for every action, not their mean"
    expect_close(found, g["policy_loss"], rtol=1e-5, atol=1e-6, mistakes=mistakes, what="actor loss")
    (gradient,) = torch.autograd.grad(found.mean(), logits)
    mistakes = {0.0: "no gradient reaches the policy"}
    expected = g["grad_policy_logits"]
    expect_close(gradient, expected, atol=1e-6, mistakes=mistakes, what="gradient in the actor's output")


@pytest.mark.exercise(id="4.15")
def test_actor_loss_by_hand():
    """Two actions of probability .5: log_prob -0.6931, entropy 0.6931."""
    policy = OneHot(torch.zeros(1, 2, 2))
    action = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    found = actor_critic.actor_loss(policy, action, tensor(2.0, -1.0), tensor(1.0, 0.5), entropy_scale=0.1)
    mistakes = {
        (1.3863, 0.3466): "the sign of the entropy or of the merit",
        (1.38629, -0.34657): "entropy_scale is not used",
    }
    expected = (2 * 0.693147 - 0.0693147, 0.5 * (-0.693147 - 0.0693147))
    expect_close(found, [expected], mistakes=mistakes, what="actor loss")


@pytest.mark.exercise(id="4.15")
@pytest.mark.parametrize("kind", ["disc", "cont"])
def test_dreams_behind_an_end_teach_nothing(kind):
    """Weight 0 leaves nothing of the loss, entropy included, and no gradient."""
    raw = torch.randn(2, 3, 4, requires_grad=True)
    policy = policy_of(kind, raw)
    action = policy.sample(policy.noise(policy_shape(kind), torch.device("cpu")))
    found = actor_critic.actor_loss(policy, action, torch.randn(2, 3), torch.zeros(2, 3), entropy_scale=1.0)
    mistakes = {numbers(-policy.entropy()): "the entropy is not weighted"}
    expect_close(found, 0.0, mistakes=mistakes, what="loss with weights of 0")
    (gradient,) = torch.autograd.grad(found.sum(), raw)
    expect_close(gradient, 0.0, what="gradient with weights of 0")


def policy_shape(kind: str) -> tuple[int, int, int]:
    return (2, 3, 4 if kind == "disc" else 2)


@pytest.mark.exercise(id="4.15")
@pytest.mark.parametrize("kind", ["disc", "cont"])
def test_gradient_reaches_the_policy_alone(kind):
    """Not the action, though a Gaussian's sample would carry it; not the advantage, by which the critic would learn to
    flatter; not the weight, by which the model would learn to end."""
    raw = torch.randn(2, 3, 4, requires_grad=True)
    policy = policy_of(kind, raw)
    action = torch.rand(policy_shape(kind))
    advantage, weight = torch.randn(2, 3), torch.rand(2, 3)
    leaves = {"action": action, "advantage": advantage, "weight": weight}
    for leaf in leaves.values():
        leaf.requires_grad_()
    loss = actor_critic.actor_loss(policy, action, advantage, weight, 0.1)
    found = torch.autograd.grad(
        loss.sum(), [raw, *leaves.values()], retain_graph=True, allow_unused=True, materialize_grads=True
    )
    for name, gradient in zip(leaves, found[1:], strict=True):
        assert not gradient.any(), f"gradient flows into the {name}: detach it"
    expected = -weight.detach() * (policy.log_prob(action.detach()) * advantage.detach() + 0.1 * policy.entropy())
    expect_close(found[0], torch.autograd.grad(expected.sum(), raw)[0], what="gradient in the policy")


# ---- 4.16 critic_loss ----


@pytest.mark.exercise(id="4.16")
@pytest.mark.parametrize("kind", ["disc", "cont"])
def test_critic_loss_agrees_with_the_official_code(kind):
    """On three dreams; the slow critic's share is the loss of its MEAN. The gradient, too."""
    g = official(f"dv3_imag_loss_{kind}")
    logits = g["value_logits"].requires_grad_()
    predicted, slow = TwoHot(logits[:, :-1], g["bins"]), TwoHot(g["slow_logits"][:, :-1], g["bins"])
    weight = g["weight"][:, :-1]
    found = actor_critic.critic_loss(predicted, g["ret"], slow, weight)
    of_returns, of_slow = predicted.loss(g["ret"]), predicted.loss(slow.mean())
    cross = -(slow.logits.softmax(-1) * predicted.logits.log_softmax(-1)).sum(-1)
    mistakes = {
        numbers(weight * of_returns): "the slow critic's share is missing",
        numbers(of_returns + of_slow): "the weight is not used",
        numbers(weight * of_returns + of_slow): "the weight is for both shares",
        numbers(weight * (of_returns + cross)): "of the slow critic its MEAN is the target, not its distribution",
        numbers(weight * (slow.loss(g["ret"]) + of_slow)): "it is the fast critic that learns",
        numbers(weight * (of_returns + of_slow) / 2): "the sum of both, not their mean",
    }
    assert found.shape == (3, 5), "one number for every state, not their mean"
    expect_close(found, g["value_loss"], rtol=1e-4, atol=1e-4, mistakes=mistakes, what="critic loss")
    assert found.requires_grad, "no gradient reaches the critic"
    (gradient,) = torch.autograd.grad(found.mean(), logits)
    expected = g["grad_value_logits"]
    expect_close(gradient, expected, atol=1e-6, mistakes={0.0: "no gradient reaches the critic"}, what="gradient")


@pytest.mark.exercise(id="4.16")
def test_critic_loss_on_replay_agrees_with_the_official_code():
    """The weights are 1 within an episode, 0 in its last row, which leads to the next one."""
    g = official("dv3_repl_loss")
    logits = g["value_logits"].requires_grad_()
    weight = (~g["last"][:, :-1]).float()
    predicted, slow = TwoHot(logits[:, :-1], g["bins"]), TwoHot(g["slow_logits"][:, :-1], g["bins"])
    found = actor_critic.critic_loss(predicted, g["ret"], slow, weight)
    expect_close(found, g["loss"], atol=1e-4, what="critic loss on replay")
    (gradient,) = torch.autograd.grad(found.mean(), logits)
    expect_close(gradient, g["grad_value_logits"], atol=1e-6, what="its gradient")


BINS = torch.tensor([-100.0, -10.0, -1.0, 0.0, 1.0, 10.0, 100.0])


def distribution(*probs: float) -> TwoHot:
    return TwoHot(tensor(*probs).clamp(min=1e-12).log(), BINS)


@pytest.mark.exercise(id="4.16")
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_critic_loss_by_hand(scale):
    """No logits: ln 7 for the returns, and ln 7 for the slow critic as often as `slow_scale` says."""
    zero = TwoHot(torch.zeros(1, 7), BINS)
    found = actor_critic.critic_loss(zero, tensor(3.0)[0], zero, tensor(0.5)[0], scale)
    mistakes = {math.log(7): "slow_scale is not used", (1 + scale) * math.log(7): "the weight is not used"}
    expected = 0.5 * (1 + scale) * math.log(7)
    mistakes = {wrong: text for wrong, text in mistakes.items() if abs(wrong - expected) > 1e-3}
    expect_close(found, [expected], mistakes=mistakes, what="critic loss")
    predicted, sure = distribution(0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.1), distribution(0, 0, 0, 0, 1, 0, 0)
    found = actor_critic.critic_loss(predicted, tensor(10.0)[0], sure, tensor(0.5)[0], scale)
    swapped = 0.5 * (scale * math.log(2.5) + math.log(10))
    mistakes = {swapped: "slow_scale is for the slow critic's share"}
    expected = 0.5 * (math.log(2.5) + scale * math.log(10))  # 10 has .4 of the weight, the slow critic's 1 a tenth
    expect_close(found, [expected], mistakes=mistakes, what="critic loss of returns of 10, the slow critic sure of 1")


@pytest.mark.exercise(id="4.16")
def test_only_the_slow_critics_mean_counts():
    """A sure 1, and half 10 with half -8 (0.2 of -10, ... of -1): two distributions of one mean, one loss."""
    predicted = TwoHot(torch.randn(1, 7), BINS)
    sure, torn = distribution(0, 0, 0, 0, 1, 0, 0), distribution(0, 0.45, 0, 0, 0, 0.55, 0)
    expect_close(sure.mean(), torn.mean(), rtol=1e-3, what="the two means")
    losses = [actor_critic.critic_loss(predicted, tensor(5.0)[0], slow, torch.ones(1)) for slow in (sure, torn)]
    expect_close(losses[1], losses[0], rtol=1e-3, what="the loss with a slow critic of the same mean")


@pytest.mark.exercise(id="4.16")
def test_the_code_of_2023_brings_its_own_loss():
    """Its bins lie in symlog space, which `loss` and `mean` of the prediction know of."""
    predicted, slow = SymlogTwoHot(torch.randn(3, 7), BINS), SymlogTwoHot(torch.randn(3, 7), BINS)
    returns, weight = torch.tensor([0.5, -30.0, 70.0]), torch.tensor([1.0, 0.5, 0.2])
    found = actor_critic.critic_loss(predicted, returns, slow, weight)
    raw = TwoHot(predicted.logits, predicted.bins)
    mistakes = {numbers(weight * (raw.loss(returns) + raw.loss(slow.mean()))): "use the `loss` of the prediction"}
    expected = weight * (predicted.loss(returns) + predicted.loss(slow.mean()))
    expect_close(found, expected, mistakes=mistakes, what="critic loss")


@pytest.mark.exercise(id="4.16")
def test_gradient_reaches_the_fast_critic_alone():
    logits, slow_logits = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    returns, weight = torch.randn(2, 3), torch.rand(2, 3)
    leaves = {"the slow critic": slow_logits, "the returns": returns, "the weight": weight}
    for leaf in (logits, *leaves.values()):
        leaf.requires_grad_()
    predicted, slow = TwoHot(logits, BINS), TwoHot(slow_logits, BINS)
    loss = actor_critic.critic_loss(predicted, returns, slow, weight)
    found = torch.autograd.grad(
        loss.sum(), [logits, *leaves.values()], retain_graph=True, allow_unused=True, materialize_grads=True
    )
    for name, gradient in zip(leaves, found[1:], strict=True):
        assert not gradient.any(), f"gradient flows into {name}"
    expected = weight.detach() * (predicted.loss(returns.detach()) + predicted.loss(slow.mean().detach()))
    expect_close(loss, expected, what="critic loss")
    expect_close(found[0], torch.autograd.grad(expected.sum(), logits)[0], what="gradient in the critic")


# ---- given: distributions, actor, slow critic ----


def test_discrete_policy_agrees_with_the_official_head_with_unimix():
    """The paper has 1% of chance in discrete actions, too; the newest code has an option for it that does nothing."""
    g = official("dv3_discrete_actor")
    policy, action = OneHot(g["logits"]), nn.functional.one_hot(g["index"].long(), 5).float()
    mistakes = {numbers(g["categorical_logp"]): "unimix is missing"}
    expect_close(policy.log_prob(action), g["onehot_logp"], mistakes=mistakes, what="log_prob")
    expect_close(policy.entropy(), g["onehot_entropy"], what="entropy")
    plain = OneHot(g["logits"], 0.0)
    expect_close(plain.log_prob(action), g["categorical_logp"], what="log_prob without unimix")
    expect_close(plain.entropy(), g["categorical_entropy"], what="entropy without unimix")
    expect_close(OneHot(torch.zeros(1, 5)).entropy(), g["maxent"], what="the largest entropy")


def test_no_action_dies_out():
    """Of 18 actions the least likely keeps 0.01 / 18: ln of it is -7.50."""
    logits = torch.zeros(1, 18)
    logits[0, 0] = 1000.0
    expect_close(OneHot(logits).logits[0, 1:], -7.4956, what="the least log probability")


def test_discrete_samples_follow_the_probabilities():
    """Chi-square of 20,000 draws with 4 degrees of freedom: above 40 one time in twenty million."""
    policy = OneHot(torch.tensor([0.0, 1.0, -1.0, 2.0, -30.0]))
    drawn = policy.sample(OneHot.noise((20_000, 5), torch.device("cpu")))
    assert ((drawn == 0) | (drawn == 1)).all()
    assert (drawn.sum(-1) == 1).all()
    expected = 20_000 * policy.logits.exp()
    chi2 = ((drawn.sum(0) - expected) ** 2 / expected).sum()
    assert chi2 < 40, f"drawn {drawn.sum(0).tolist()} times, expected about {expected.round().tolist()}"


def test_continuous_policy_agrees_with_the_official_head():
    """Actions beyond 1 among them: nothing is squashed and nothing cut off. The gradients, too."""
    g = official("dv3_bounded_normal_actor")
    raw = torch.cat([g["raw_mean"], g["raw_std"]], -1).requires_grad_()
    policy = BoundedNormal(raw)
    assert g["action"].abs().max() > 1
    expect_close(policy.mean, g["mean"], what="mean")
    expect_close(policy.std, g["std"], what="std")
    log_prob, entropy = policy.log_prob(g["action"]), policy.entropy()
    expect_close(log_prob, g["logp"], what="log_prob")
    expect_close(entropy, g["entropy"], what="entropy")
    gradients = (torch.autograd.grad(each.sum(), raw, retain_graph=True)[0] for each in (log_prob, entropy))
    for name, gradient in zip(("logp", "entropy"), gradients, strict=True):
        expect_close(gradient, g[f"grad_{name}"], what=f"gradient of {name}")
    least, most = BoundedNormal(torch.full((1, 6), -60.0)), BoundedNormal(torch.full((1, 6), 60.0))
    expect_close(least.entropy(), g["minent"][0].sum(), what="the least entropy")
    expect_close(most.entropy(), g["maxent"][0].sum(), what="the largest entropy")


def test_continuous_policy_by_hand():
    """Mean .8, std .9, action 1.7: -1.31358; of the action cut off at 1 it would be -0.83827."""
    policy = BoundedNormal(torch.zeros(1, 2))
    policy.mean, policy.std = tensor(0.8), tensor(0.9)
    expect_close(policy.log_prob(tensor(1.7)), -1.31358, mistakes={-0.83827: "the action is cut off"}, what="log_prob")
    expect_close(policy.sample(tensor(1.0)), 1.7, mistakes={1.0: "the sample is cut off"}, what="a sample")


@pytest.mark.parametrize(("discrete", "entropy"), [(True, math.log(5)), (False, 5 * 1.30547)])
def test_first_policy_is_close_to_no_preference(discrete, entropy):
    """The output layer begins 100 times smaller: std 0.8927 and mean 0, or all actions alike."""
    actor = Actor(40, 5, discrete, 3, 64, 0.01)
    policy = actor(torch.randn(200, 40))
    expect_close(policy.entropy(), entropy, rtol=0.02, what="entropy of the first policy")
    if not discrete:
        expect_close(policy.mean, 0.0, rtol=0, atol=0.1, what="the first mean")
        expect_close(policy.std, 0.8927, rtol=0.02, what="the first std")
    noise = actor.noise(3, 7, device=torch.device("cpu"))
    assert noise.shape == (3, 7, 5)


def test_slow_critic_agrees_with_the_official_code():
    """0.98 of its own and 0.02 of the fast one's after each update; a rate of 1 is a copy."""
    g = official("dv3_slow_critic")
    for kind in ("ema", "hard"):
        critic = nn.Linear(3, 2, bias=False)
        critic.weight.data.copy_(g[f"{kind}_init"])
        slow = actor_critic.SlowCritic(critic, float(g[f"{kind}_rate"]))
        for k, source in enumerate(g[f"{kind}_source"]):
            critic.weight.data.copy_(source)
            if k % int(g[f"{kind}_every"]) == 0:
                slow.update()
            expect_close(slow.network.weight, g[f"{kind}_slow"][k], what=f"slow weights after {k + 1} updates, {kind}")


def test_slow_critic_by_hand():
    """From 0 towards 1: 0.6358 after 50 updates. It has no gradient, and the fast critic stays as it is."""
    critic = ScalarHead(3, 1, 4, bins=5)
    slow = actor_critic.SlowCritic(critic)
    for parameter in slow.network.parameters():
        nn.init.zeros_(parameter)
    for parameter in critic.parameters():
        nn.init.ones_(parameter)
    for _ in range(50):
        slow.update()
    for parameter in slow.network.parameters():
        expect_close(parameter, 0.63583, mistakes={1.0: "it is copied"}, what="a slow weight after 50 updates")
        assert not parameter.requires_grad
    assert all((parameter == 1).all() for parameter in critic.parameters())
