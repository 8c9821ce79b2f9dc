"""The policies, and how they learn from what they imagined: exercises 5.11 to 5.13."""

import numpy as np
import pytest
import torch
from torch import nn

from paper5_iris import actor_critic
from paper5_iris.actor_critic import CnnLstm, TransformerActor
from tests.helpers import expect_close, golden, numbers

PLACES = 3


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def official(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(value) for key, value in golden(name).items()}


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


def flags(*values: int) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.bool)


def gray(tokens: torch.Tensor) -> torch.Tensor:
    """In the place of a tokenizer: a picture of 16x16 for every frame, all of one brightness that its tokens give."""
    brightness = tokens.float().mean(-1) / 10
    return brightness[..., None, None, None].expand(*tokens.shape[:-1], 3, 16, 16)


def small_lstm(actions: int = 3, hidden: int = 4) -> CnnLstm:
    return CnnLstm(actions, gray, size=16, channels=(4, 4), hidden=hidden)


def small_transformer(frames: int = 4, layers: int = 2) -> TransformerActor:
    """With weights that make every input matter."""
    policy = TransformerActor(3, codes=10, places=PLACES, frames=frames, width=8, layers=layers, heads=2)
    for parameter in policy.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
    return policy


# ---- 5.11 burn_in ----


class Digits(CnnLstm):
    """A policy whose memory is a number: the digits that it has seen, the newest last, and at first a 7. It has it in
    three shapes, one of them of whole numbers."""

    def __init__(self):
        nn.Module.__init__(self)
        self.looked: list[tuple[int, ...]] = []

    def initial(self, batch):
        seven = torch.full((batch,), 7.0)
        return {"digits": seven, "counted": seven.long(), "spread": seven[:, None, None].expand(batch, 2, 3)}

    def look(self, tokens):
        self.looked.append(tuple(tokens.shape))
        return tokens[..., :1].float()

    def remember(self, seen, state):
        spread = seen[:, :, None].expand(-1, 2, 3)
        return {
            "digits": 10 * state["digits"] + seen[:, 0],
            "counted": 10 * state["counted"] + seen[:, 0].long(),
            "spread": 10 * state["spread"] + spread,
        }


def frames_of(*digits: list[int]) -> torch.Tensor:
    """(batch, frames, places) whose first token is a digit; the others say nothing here."""
    return torch.tensor(digits)[..., None] * torch.tensor([1, 0, 2])


@pytest.mark.exercise(id="5.11")
def test_memory_is_of_real_frames_in_order():
    """Padding comes first, if any: of 9, 9, 5, where only the last frame is real, 75 is remembered."""
    tokens = frames_of([1, 2, 3], [9, 9, 5], [9, 9, 9], [9, 2, 4])
    real = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 0, 0], [0, 1, 1]], dtype=torch.bool)
    before = tokens.clone(), real.clone()
    state = actor_critic.burn_in(Digits(), tokens, real)
    expected = torch.tensor([7123.0, 75.0, 7.0, 724.0])
    mistakes = {
        (7123.0, 7995.0, 7999.0, 7924.0): "padding is remembered like a frame: it must leave the memory as it was",
        (7123.0, 7005.0, 7000.0, 7024.0): "padding is taken for a frame of zeros: it must leave the memory as it was",
        (7321.0, 75.0, 7.0, 742.0): "the frames are remembered from the last to the first",
        (712.0, 7.0, 7.0, 72.0): "the last frame belongs to it, too",
        (123.0, 5.0, 0.0, 24.0): "what there is at first is policy.initial, not zeros",
        (3.0, 5.0, 0.0, 4.0): "each frame starts from what was remembered after the one before",
        (73.0, 75.0, 7.0, 74.0): "each frame starts from what was remembered after the one before",
        (7123.0, 5.0, 0.0, 24.0): "padding forgets all: it must leave the memory as it was",
    }
    assert state.keys() == {"digits", "counted", "spread"}, "a state has the keys that policy.initial gives it"
    expect_close(state["digits"], expected, mistakes=mistakes, what="the memory of four sequences")
    expect_close(state["counted"], expected, mistakes=mistakes, what="the memory in whole numbers")
    assert not state["counted"].is_floating_point(), "an entry of whole numbers has become floating point"
    expect_close(state["spread"], expected[:, None, None].expand(4, 2, 3), what="the memory in the shape (batch, 2, 3)")
    assert torch.equal(tokens, before[0]), "the caller's tokens are changed"
    assert torch.equal(real, before[1]), "the caller's mask is changed"


@pytest.mark.exercise(id="5.11")
def test_every_sequence_has_its_own_mask():
    """Wherever padding lies; there are as many sequences as one shape of the memory has rows, and as frames."""
    rng = np.random.default_rng(3)
    for batch, frames in ((2, 3), (3, 3), (5, 4)):
        digits, real = rng.integers(0, 10, (batch, frames)), rng.random((batch, frames)) < 0.6
        state = actor_critic.burn_in(Digits(), frames_of(*digits.tolist()), torch.as_tensor(real))
        expected = [int("7" + "".join(map(str, row[kept]))) for row, kept in zip(digits, real, strict=True)]
        expect_close(state["digits"], expected, what=f"memories of {batch} sequences of {frames} frames")
        expected = np.broadcast_to(np.array(expected)[:, None, None], (batch, 2, 3))
        expect_close(state["spread"], expected, what=f"memories of shape (batch, 2, 3), {batch} sequences")


@pytest.mark.exercise(id="5.11")
def test_frames_are_looked_at_all_at_once():
    """The convolutions have no memory: they are not for the loop."""
    policy = Digits()
    actor_critic.burn_in(policy, frames_of([1, 2, 3, 4], [5, 6, 7, 8]), torch.ones(2, 4, dtype=torch.bool))
    assert len(policy.looked) == 1, f"policy.look was called {len(policy.looked)} times: once is enough for all frames"


@pytest.mark.exercise(id="5.11")
@pytest.mark.parametrize("make", [small_lstm, small_transformer])
def test_padding_costs_nothing(make):
    """With the real policies: a padded sequence is remembered as the same one alone, whatever is in the padding. There
    are as many sequences as the LSTM has units."""
    policy = make()
    tokens = torch.randint(10, (4, 5, PLACES))
    missing = torch.tensor([0, 2, 4, 5])
    real = torch.arange(5) >= missing[:, None]
    state = actor_critic.burn_in(policy, tokens, real)
    assert all(not value.requires_grad for value in state.values()), "gradient flows into what really happened"
    noise = torch.where(real[..., None], tokens, torch.randint(10, tokens.shape))
    again = actor_critic.burn_in(policy, noise, real)
    for key, value in state.items():
        expect_close(again[key], value, what=f"{key}, with other numbers in the padding")
        expect_close(value[3], policy.initial(1)[key][0], what=f"{key} of a sequence without a frame: the initial one")
    for i, skipped in enumerate(missing.tolist()):
        alone = policy.initial(1)
        with torch.no_grad():
            for t in range(skipped, 5):
                alone = policy.remember(policy.look(tokens[i : i + 1, t]), alone)
        for key, value in alone.items():
            expect_close(state[key][i : i + 1], value, what=f"{key} of a sequence with {skipped} frames of padding")


# ---- 5.12 lambda_returns ----

REWARD, VALUE, GAMMA, LAM = row(1, 0, 1), row(0.5, 0.6, 0.7), 0.995, 0.95
ORDER = "the returns are in the order in which they were computed: from the last"
LAST = "of the last step the return is its value: its reward and end are not used"
NEXT_VALUE = "the value that follows is the NEXT step's, v_{t+1}"
NEXT_REWARD = "the reward of step t is what FOLLOWED its action: no shift"
SWAPPED = "lam and 1 - lam are swapped"


@pytest.mark.exercise(id="5.12")
@pytest.mark.parametrize(
    ("end", "expected", "mistakes"),
    [
        (flags(0, 0, 0), (1.6882166, 0.6965, 0.7), {
            (1.6018009, 0.6965, 0.7): SWAPPED,
            (1.678539, 0.691525, 0.7): NEXT_VALUE,
            (1.6334666, 1.6965, 0.7): NEXT_REWARD,
            (2.5785869, 1.6384416, 1.6965): LAST,
            (0.7, 0.6965, 1.6882166): ORDER,
            (1.0627683, 0.034825, 0.0): "behind the last step there is its value, not 0",
            (1.695, 0.7, 0.7): "the discount is not used",
        }),
        (flags(0, 1, 0), (1.02985, 0.0, 0.7), {
            (1.6882166, 0.6965, 0.7): "where the action of step t ended the episode, nothing follows it",
            (1.0, 0.6965, 0.7): "the end of step t counts for step t, not for the one before",
            (1.56715, 0.0, 0.7): SWAPPED,
        }),
        (flags(1, 0, 0), (1.0, 0.6965, 0.7), {
            (0.0, 0.6965, 0.7): "an end cuts off what follows, not the step's own reward",
            (1.6882166, 0.6965, 0.7): "the end of step t counts for step t, not for the one before",
            (1.6882166, 0.0, 0.7): "the end of step t counts for step t, not for the one behind",
        }),
        (flags(0, 0, 1), (1.6882166, 0.6965, 0.7), {
            (1.02985, 0.0, 0.7): "the end of step t counts for step t, not for the one before",
            (1.02985, 0.0, 0.0): LAST,
            (1.0627683, 0.034825, 0.0): LAST,
        }),
    ],
)  # fmt: skip
def test_returns_by_hand(end, expected, mistakes):
    found = actor_critic.lambda_returns(REWARD, VALUE, end, GAMMA, LAM)
    expect_close(found, [expected], mistakes=mistakes, what="lambda_returns")


@pytest.mark.exercise(id="5.12")
def test_lambda_goes_from_one_step_to_all():
    reward, value, end = row(9, 1, 2, 3), row(10, 20, 30, 40), flags(0, 0, 0, 0)
    one_step = actor_critic.lambda_returns(reward, value, end, 0.9, 0.0)
    all_steps = actor_critic.lambda_returns(reward, value, end, 0.9, 1.0)
    expected = [[27.0, 28.0, 38.0, 40.0]]
    mistakes = {numbers(all_steps): SWAPPED}
    expect_close(one_step, expected, mistakes=mistakes, what="lam = 0, which is r + discount * v of the next step")
    expected = [[9 + 0.9 * (1 + 0.9 * 38), 1 + 0.9 * 38, 38.0, 40.0]]
    mistakes = {numbers(one_step): SWAPPED}
    expect_close(all_steps, expected, mistakes=mistakes, what="lam = 1, which is the sum of all rewards")


@pytest.mark.exercise(id="5.12")
def test_returns_agree_with_the_official_code():
    """Three sequences of six steps, with ends."""
    g = official("iris_lambda_returns")
    for key, discount, lam in (("returns", 0.995, 0.95), ("returns_g9_l5", 0.9, 0.5)):
        call = lambda end, discount=discount, lam=lam: actor_critic.lambda_returns(
            g["rewards"], g["values"], end, discount, lam
        )
        mistakes = {numbers(call(torch.zeros_like(g["ends"]))): "the ends are not used"}
        expect_close(call(g["ends"]), g[key], mistakes=mistakes, what=f"returns, discount {discount}, lam {lam}")


@pytest.mark.exercise(id="5.12")
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_returns_are_the_sum_written_out(steps):
    """Against the sum written out: n-step returns, weighted by powers of lam."""
    reward, value = torch.randn(4, steps, dtype=torch.float64), torch.randn(4, steps, dtype=torch.float64)
    end = torch.rand(4, steps) < 0.2
    before = [x.clone() for x in (reward, value, end)]
    weight = 0.9 * (~end).double()
    expected = torch.zeros(4, steps, dtype=torch.float64)
    for t in range(steps):
        left = steps - 1 - t  # rewards that count
        for n in range(1, left + 1):
            goes_on = [weight[:, t : t + i].prod(1) for i in range(n + 1)]
            n_step = sum(goes_on[i] * reward[:, t + i] for i in range(n)) + goes_on[n] * value[:, t + n]
            expected[:, t] += n_step * (0.7 ** (n - 1) if n == left else 0.3 * 0.7 ** (n - 1))
        if not left:
            expected[:, t] = value[:, t]
    found = actor_critic.lambda_returns(reward, value, end, 0.9, 0.7)
    expect_close(found, expected, rtol=1e-6, atol=1e-7, what=f"returns of {steps} steps")
    unchanged = [torch.equal(a, b) for a, b in zip((reward, value, end), before, strict=True)]
    assert all(unchanged), "the caller's tensors are changed"


# ---- 5.13 actor_critic_losses ----


def losses_by_hand(**options) -> dict[str, torch.Tensor]:
    """Four actions, equally likely, and the returns of the example above."""
    inputs = {
        "logits": torch.zeros(1, 3, 4),
        "value": VALUE,
        "action": torch.tensor([[2, 0, 3]]),
        "returns": row(1.6882166, 0.6965, 0.7),
        "entropy_scale": 0.001,
    }
    return actor_critic.actor_critic_losses(**inputs | options)


@pytest.mark.exercise(id="5.13")
def test_losses_by_hand():
    """Two steps count: ln 4 times their mean advantage 0.6423583; the mean of 1.1882166^2 and 0.0965^2; ln 4 / 1000."""
    losses = losses_by_hand()
    assert losses.keys() == {"actor", "critic", "entropy"}
    steps = "the mean is over batch and steps, not a sum"
    everything = "the last step does not count: its return is its value"
    mistakes = {
        -0.890498: "the sign: what was better than expected should become MORE likely",
        1.780996: steps,
        0.593665: everything,
        1.652816: "the baseline is missing: the value is subtracted from the return",
        0.0: "log pi is -ln 4 here, not the logit; and advantages are taken as they are, not from their mean",
    }
    expect_close(losses["actor"], 0.8904977, mistakes=mistakes, what="the actor's loss")
    mistakes = {1.421171: steps, 0.473724: everything, 0.355293: "there is no half", 0.642358: "the error is squared"}
    expect_close(losses["critic"], 0.7105855, mistakes=mistakes, what="the critic's loss")
    mistakes = {
        0.001386294: "the sign: more entropy is a LOWER loss",
        -1.386294: "entropy_scale is not used",
        -0.002772589: steps,
        -0.004158883: steps,
        -0.002: "the entropy is in nats: the natural logarithm",
    }
    expect_close(losses["entropy"], -0.001386294, mistakes=mistakes, atol=1e-9, what="the entropy's loss")
    expect_close(sum(losses.values()), 1.5996969, what="all three together")
    expect_close(losses_by_hand(entropy_scale=0.0)["entropy"], 0.0, what="the entropy's loss with a scale of 0")


@pytest.mark.exercise(id="5.13")
def test_each_loss_moves_what_it_is_for():
    """The actor's moves the logits, the critic's the values, and neither the returns."""
    names = ("logits", "value", "returns")
    leaves = [torch.randn(3, 4, 5), torch.randn(3, 4), torch.randn(3, 4)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    logits, value, returns = leaves
    losses = actor_critic.actor_critic_losses(logits, value, torch.randint(5, (3, 4)), returns, 0.5)
    moves = {"actor": "logits", "critic": "value", "entropy": "logits"}
    why = {
        ("actor", "value"): "the advantage is not detached: the actor's loss moves the value",
        ("actor", "returns"): "the returns are not detached: the actor's loss moves them",
        ("critic", "returns"): "the returns are not detached: the critic's loss moves its own target",
    }
    for loss, moved in moves.items():
        assert losses[loss].requires_grad, f"there is no gradient in the {loss}'s loss"
        gradients = torch.autograd.grad(
            losses[loss], leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for name, gradient in zip(names, gradients, strict=True):
            if name == moved:
                assert gradient[:, :-1].abs().sum() > 0, f"the {loss}'s loss does not move the {name}"
                assert not gradient[:, -1].any(), f"the {loss}'s loss moves the {name} of the last step"
            else:
                assert not gradient.any(), why.get((loss, name), f"the {loss}'s loss moves the {name}")


@pytest.mark.exercise(id="5.13")
def test_losses_agree_with_the_official_code():
    """Values and gradients, three sequences of five steps; the returns are those of 5.12, written out here."""
    g = official("iris_actor_critic")
    value, returns = g["values"], [g["values"][:, -1]]
    for t in reversed(range(4)):
        after = 0.05 * value[:, t + 1] + 0.95 * returns[0]
        returns.insert(0, g["rewards"][:, t] + 0.995 * (~g["ends"][:, t]).float() * after)
    logits, value = g["logits_actions"].requires_grad_(), value.clone().requires_grad_()
    losses = actor_critic.actor_critic_losses(logits, value, g["actions"], torch.stack(returns, 1), 0.001)
    for name, other in (("actor", "loss_actions"), ("critic", "loss_values"), ("entropy", "loss_entropy")):
        expect_close(losses[name], g[other], what=f"the {name}'s loss")
    total = sum(losses.values())
    expect_close(total, g["loss_total"], what="the sum of all losses")
    total.backward()
    expect_close(logits.grad, g["grad_logits"], what="the gradient in the logits")
    expect_close(value.grad, g["grad_values"], what="the gradient in the values")


@pytest.mark.exercise(id="5.13")
@pytest.mark.parametrize(("batch", "steps", "actions"), [(1, 2, 2), (3, 5, 4), (4, 3, 6)])
def test_losses_are_those_of_plain_numbers(batch, steps, actions):
    """Step by step, in plain numbers."""
    logits = 2 * torch.randn(batch, steps, actions, dtype=torch.float64)
    value, returns = torch.randn(batch, steps, dtype=torch.float64), torch.randn(batch, steps, dtype=torch.float64)
    action = torch.randint(actions, (batch, steps))
    before = [x.clone() for x in (logits, value, action, returns)]
    wanted = np.zeros((3, batch, steps - 1))
    for i in range(batch):
        for t in range(steps - 1):
            p = np.exp(logits[i, t].numpy())
            p /= p.sum()
            advantage = returns[i, t].item() - value[i, t].item()
            entropy = -(p * np.log(p)).sum()
            wanted[:, i, t] = -np.log(p[action[i, t]]) * advantage, advantage**2, -0.3 * entropy
    losses = actor_critic.actor_critic_losses(logits, value, action, returns, 0.3)
    for name, each in zip(("actor", "critic", "entropy"), wanted, strict=True):
        expect_close(losses[name], each.mean(), rtol=1e-6, atol=1e-7, what=f"the {name}'s loss")
    after = (logits, value, action, returns)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True)), "the caller's tensors are changed"


@pytest.mark.exercise(id="5.13")
def test_certain_policies_give_numbers():
    """The logarithm is that of a softmax taken at once: of a probability of 1e-130 it is -300, and not that of 0."""
    logits = torch.tensor([[[300.0, 0.0], [300.0, 0.0], [0.0, 0.0]]])
    losses = actor_critic.actor_critic_losses(logits, row(0, 0, 0), torch.tensor([[1, 0, 0]]), row(2, 2, 0), 1.0)
    expect_close(losses["actor"], 300.0, mistakes={np.inf: "log of a probability that is 0"}, what="the actor's loss")
    expect_close(losses["entropy"], 0.0, mistakes={np.nan: "0 times log 0"}, what="the entropy's loss")


# ---- the policies: given ----


def test_convolutions_look_at_pictures_from_minus_one_to_one():
    """[0, 1] comes in; mid-grey is 0 there. Behind each of them the largest of four, and nothing below 0."""
    policy, seen = small_lstm(), []
    policy.convs[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    found = policy.look(torch.tensor([[0] * PLACES, [5] * PLACES, [10] * PLACES]))
    expect_close(seen[0][:, 0, 0, 0], [-1.0, 0.0, 1.0], what="brightness 0, 0.5 and 1 in front of the convolutions")
    x = seen[0]
    assert x.shape == (3, 3, 16, 16)
    for conv in (layer for layer in policy.convs if isinstance(layer, nn.Conv2d)):
        x = nn.functional.max_pool2d(conv(x), 2).clamp(min=0)
    expect_close(found, x.flatten(1), what="what the policy makes of pictures")


def test_frames_of_a_sequence_are_looked_at_one_by_one():
    for policy in (small_lstm(), small_transformer()):
        tokens = torch.randint(10, (2, 5, PLACES))
        seen = policy.look(tokens)
        assert seen.shape[:2] == (2, 5)
        for t in range(5):
            expect_close(seen[:, t], policy.look(tokens[:, t]), what=f"frame {t}, alone")


def test_lstm_decides_from_its_memory_alone():
    """Actor and critic read the same h."""
    policy = small_lstm()
    state = {"h": torch.randn(2, 4), "c": torch.randn(2, 4)}
    logits, value = policy.decide(state)
    expect_close(logits, state["h"] @ policy.actor.weight.T + policy.actor.bias, what="logits")
    expect_close(value, state["h"] @ policy.critic.weight[0] + policy.critic.bias, what="values")
    seen = policy.look(torch.randint(10, (2, PLACES)))
    after = policy.remember(seen, state)
    h, c = policy.lstm(seen, (state["h"], state["c"]))
    expect_close(after["h"], h, what="h")
    expect_close(after["c"], c, what="c")
    assert not any(value.any() for value in policy.initial(3).values())


def remembered(policy: TransformerActor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    state = policy.initial(len(tokens))
    for t in range(tokens.shape[1]):
        state = policy.remember(policy.look(tokens[:, t]), state)
    return state


def test_transformer_reads_the_frames_there_have_been():
    """What lies in the places of frames never seen does not matter; each of those seen does, so does their order."""
    policy = small_transformer(frames=4)
    tokens = torch.randint(10, (2, 2, PLACES))
    state = remembered(policy, tokens)
    assert state["seen"].tolist() == [2, 2]
    assert torch.equal(state["tokens"][:, 2:], tokens)
    logits, value = policy.decide(state)
    assert logits.shape == (2, 3)
    assert value.shape == (2,)
    for t in range(4):
        changed = {key: x.clone() for key, x in state.items()}
        changed["tokens"][:, t] = (changed["tokens"][:, t] + 1) % 10
        moved = (policy.decide(changed)[0] - logits).abs().amax(1) > 1e-4
        assert (moved == (t >= 2)).all(), f"tokens in place {t} of 4, two of which have been seen"
    other, other_value = policy.decide(remembered(policy, tokens.flip(1)))
    assert (other - logits).abs().max() > 1e-3, "the order of frames does not matter"
    assert (other_value - value).abs().max() > 1e-3


def test_transformer_tells_places_apart():
    """Two tokens change places, before the last one, at which actions are read: one layer has only the positions to
    tell."""
    policy = small_transformer(layers=1)
    logits, _ = policy.decide(remembered(policy, torch.tensor([[[1, 2, 3]], [[2, 1, 3]]])))
    assert (logits[0] - logits[1]).abs().max() > 1e-3, "the places of tokens do not matter"


def test_transformer_forgets_what_is_too_old():
    policy = small_transformer(frames=3)
    tokens = torch.randint(10, (2, 6, PLACES))
    state = remembered(policy, tokens)
    assert state["seen"].tolist() == [3, 3]
    assert torch.equal(state["tokens"], tokens[:, 3:])
    assert torch.equal(policy.decide(state)[0], policy.decide(remembered(policy, tokens[:, 3:]))[0])


def test_transformer_treats_every_sequence_alone():
    """One has seen a frame, the other three."""
    policy = small_transformer(frames=3)
    tokens = torch.randint(10, (1, 3, PLACES))
    states = [remembered(policy, tokens[:, t:]) for t in (2, 0)]
    together = policy.decide({key: torch.cat([state[key] for state in states]) for key in states[0]})
    for i, state in enumerate(states):
        for found, alone in zip(together, policy.decide(state), strict=True):
            expect_close(found[i], alone[0], what=f"sequence {i}, beside another one")
