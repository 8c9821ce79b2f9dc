"""V, M and C together, awake and dreaming: exercises 1.13 and 1.14.

V's encoder and decoder are replaced by two that can be read off: pixels are latents. What M takes in is recorded
where it enters the LSTM.
"""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from common.agent import dream
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.config import Config
from paper1_world_models.controller import squash
from tests.helpers import expect_close, golden, numbers
from tests.paper1_world_models.official import load_official_weights

LATENT, HIDDEN = 4, 5
SURE = -60.0  # a log variance at which z is the mean
WORLDS = {
    "car": ("CarRacing-v3", spaces.Box(-1, 1, (3,))),
    "box": ("TinyRacer-v0", spaces.Box(-1, 1, (2,))),
    "discrete": ("TinyCatch-v0", spaces.Discrete(3)),
    "left_right": ("VizdoomTakeCover-v1", spaces.Discrete(3)),
    "one number": ("TinyReacher-v0", spaces.Box(-1, 1, (1,))),
}


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


class Eyes(nn.Module):
    """An encoder whose mean is the red values of the top left pixels, from [0, 1] to [-2, 2]."""

    def __init__(self, latent_size: int, logvar: float):
        super().__init__()
        self.latent_size, self.logvar = latent_size, logvar

    def forward(self, image):
        mu = 4 * image[:, 0, 0, : self.latent_size] - 2
        return mu, torch.full_like(mu, self.logvar)


class Screen(nn.Module):
    """A decoder that paints the first three latents as a colour."""

    def forward(self, z):
        return z[:, :3, None, None].sigmoid().expand(-1, -1, 64, 64)


def make_agent(kind: str = "car", logvar: float = SURE, **options) -> WorldModelsAgent:
    env, action_space = WORLDS[kind]
    sizes = {"latent_size": LATENT, "hidden_size": HIDDEN, "mixtures": 3, "vae_depth": 2, "image_size": 64}
    observation_space = spaces.Dict(image=spaces.Box(0, 255, (64, 64, 3), np.uint8))
    agent = WorldModelsAgent(Config(env=env, **{**sizes, **options}), observation_space, action_space)
    agent.vae.encoder, agent.vae.decoder = Eyes(agent.config.latent_size, logvar), Screen()
    for parameter in agent.rnn.parameters():
        nn.init.normal_(parameter, std=0.5)
    rng = np.random.default_rng(0)
    agent.controller.set_params(rng.standard_normal(agent.controller.num_params))
    return agent


def make_frames(*shape: int) -> tuple[np.ndarray, torch.Tensor]:
    """Random frames, and the latents that Eyes sees in them."""
    red = np.random.default_rng(1).integers(0, 256, (*shape, LATENT), np.uint8)
    image = np.random.default_rng(2).integers(0, 256, (*shape, 64, 64, 3), np.uint8)
    image[..., 0, :LATENT, 0] = red
    return image, torch.tensor(4 * (red / 255) - 2, dtype=torch.float32)


def make_obs(batch: int, is_first: bool = False) -> tuple[dict[str, np.ndarray], torch.Tensor]:
    image, z = make_frames(batch)
    return {"image": image, "is_first": np.full(batch, is_first)}, z


def make_state(batch: int) -> dict[str, torch.Tensor]:
    return {"h": torch.rand(batch, HIDDEN) * 2 - 1, "c": torch.randn(batch, HIDDEN)}


def lstm_step(agent: WorldModelsAgent, x, h, c) -> tuple[torch.Tensor, torch.Tensor]:
    """The LSTM's equations, with M's weights."""
    w = agent.rnn.lstm
    with torch.no_grad():
        gates = x @ w.weight_ih_l0.T + w.bias_ih_l0 + h @ w.weight_hh_l0.T + w.bias_hh_l0
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


def watch_lstm(agent: WorldModelsAgent) -> list[torch.Tensor]:
    """A list that grows by one (batch, time, features) at every call of M's LSTM: what M takes in."""
    seen = []
    agent.rnn.lstm.register_forward_pre_hook(lambda lstm, inputs: seen.append(inputs[0].detach().clone()))
    return seen


# ---- 1.13 WorldModelsAgent.act ----


@pytest.mark.exercise(id="1.13")
def test_controller_acts_on_the_memory_of_the_past():
    """At step t C sees z_t and h_t, which knows only what was before t: M takes z_t in after C has acted."""
    agent, state = make_agent("car"), make_state(3)
    obs, z = make_obs(3)
    action, _ = agent.act(obs, state)
    c = agent.controller
    native = c.act(c.features(z, state["h"], state["c"]))
    to_row = lambda native: torch.cat([native[:, :1], 2 * native[:, 1:] - 1], 1)
    later = lstm_step(agent, torch.cat([z, native], 1), state["h"], state["c"])
    mistakes = {
        numbers(to_row(c.act(c.features(z, *later)))): "C sees h AFTER this step: act first, then step M",
        numbers(to_row(c.act(c.features(z, 0 * state["h"], state["c"])))): "C sees zeros for h: use the state",
        numbers(to_row(c.act(c.features(z, state["c"], state["h"])))): "h and c are swapped",
        numbers(native): "this is the native action: a row holds gas and brake in [-1, 1] (codec.to_row)",
    }
    expect_close(action, to_row(native), mistakes=mistakes, what="the action, as a row holds it")


@pytest.mark.exercise(id="1.13")
def test_m_takes_in_z_and_the_native_action():
    """M is told what the car does: gas and brake in [0, 1], as C puts them out, and not as a row holds them."""
    agent, state = make_agent("car"), make_state(3)
    obs, z = make_obs(3)
    action, new = agent.act(obs, state)
    native = np.concatenate([action[:, :1], (action[:, 1:] + 1) / 2], 1)
    step = lambda z, action, h, c: lstm_step(agent, torch.cat([z, torch.as_tensor(action)], 1), h, c)
    h, c = step(z, native, state["h"], state["c"])
    mistakes = {
        numbers(step(z, action, state["h"], state["c"])[0]): "M got the row's action: it wants the native one",
        numbers(step(z, 0 * native, state["h"], state["c"])[0]): "M did not get the action",
        numbers(step(z, native, 0 * h, 0 * c)[0]): "M started from zeros: hand it the state",
        numbers(state["h"]): "the state did not move",
        numbers(c): "h and c are swapped in the new state",
    }
    expect_close(new["h"], h, mistakes=mistakes, what="the new h")
    expect_close(new["c"], c, what="the new c")


@pytest.mark.exercise(id="1.13")
@pytest.mark.parametrize("inputs", ["zh", "zch"])
def test_is_first_forgets_that_row_alone(inputs):
    """At an episode's first frame h and c are zeros, for C and for M; the other environments of the batch play on."""
    agent, state = make_agent("car", controller_input=inputs), make_state(3)
    obs, _ = make_obs(3)
    obs["is_first"][1] = True
    zeros = {name: tensor * torch.tensor([[1.0], [0.0], [1.0]]) for name, tensor in state.items()}
    action, new = agent.act(obs, state)
    obs["is_first"][1] = False
    expected_action, expected = agent.act(obs, zeros)
    forgotten, _ = agent.act(obs, state)
    mistakes = {numbers(forgotten): "is_first is ignored"}
    expect_close(action, expected_action, mistakes=mistakes, what="actions where row 1 has is_first")
    expect_close(new["h"], expected["h"], what="the new h")
    expect_close(new["c"], expected["c"], what="the new c")


@pytest.mark.exercise(id="1.13")
def test_z_is_sampled_once_and_shared():
    """z is drawn, not the mean; and C acts on the very z that M takes in, or M would learn from what nobody saw."""
    n = 500
    agent = make_agent("car", logvar=0.0)
    seen = watch_lstm(agent)
    state = {name: tensor.expand(n, -1) for name, tensor in make_state(1).items()}
    image, mean = make_frames(1)
    obs = {"image": np.repeat(image, n, 0), "is_first": np.zeros(n, bool)}
    for explore in (False, True):
        seen.clear()
        agent.act(obs, state, explore=explore)
        z, native = seen[-1][:, 0, :LATENT], seen[-1][:, 0, LATENT : LATENT + 3]
        noise = (z - mean).double()
        mistakes = {0.0: "z is the mean: sample it (reparameterize)"}
        what = f"deviation of z with explore={explore}"
        expect_close(noise.std(), 1.0, rtol=0, atol=6 / math.sqrt(2 * 4 * n), mistakes=mistakes, what=what)
        expect_close(noise.mean(), 0.0, rtol=0, atol=6 / math.sqrt(4 * n), what="mean of the noise")
        expected = agent.controller.act(agent.controller.features(z, state["h"], state["c"]))
        expect_close(native, expected, what="the action that M is told, against C's for the z that M takes in")
        assert native[:, 1:].min() >= 0, "gas and brake are in [0, 1] for M"


@pytest.mark.exercise(id="1.13")
@pytest.mark.parametrize("kind", ["box", "discrete", "left_right"])
def test_other_kinds_of_actions(kind):
    """A row holds numbers in [-1, 1] or a one-hot vector; M gets the native action, one number for VizDoom."""
    agent, state = make_agent(kind), make_state(40)
    obs, z = make_obs(40)
    seen = watch_lstm(agent)
    action, _ = agent.act(obs, state)
    native = agent.controller.act(agent.controller.features(z, state["h"], state["c"]))
    if kind == "left_right":  # stay, right, left
        expected = np.eye(3)[[{0.0: 0, 1.0: 1, -1.0: 2}[value] for value in native[:, 0].tolist()]]
        assert len(np.unique(native)) == 3
    else:
        expected = native
    expect_close(action, expected, what="the action, as a row holds it")
    expect_close(seen[-1][:, 0], torch.cat([z, native], 1), what="what M takes in: z and the native action")


@pytest.mark.exercise(id="1.13")
def test_doom_model_is_told_of_the_restart():
    """With restart_input M's last input says whether this frame is an episode's first."""
    agent, state = make_agent("left_right", restart_input=True, controller_input="zch"), make_state(3)
    obs, _ = make_obs(3)
    obs["is_first"][1] = True
    seen = watch_lstm(agent)
    agent.act(obs, state)
    assert seen[-1][:, 0, -1].tolist() == [0, 1, 0]


@pytest.mark.exercise(id="1.13")
def test_controller_may_see_c_and_be_a_population():
    """[z, c, h] as in VizDoom; and with a population set, row i of the batch is controller i's."""
    agent, state = make_agent("box", controller_input="zch"), make_state(6)
    obs, z = make_obs(6)
    population = np.random.default_rng(3).standard_normal((6, agent.controller.num_params))
    agent.controller.set_params(population)
    action, _ = agent.act(obs, state)
    x = torch.cat([z, state["c"], state["h"]], 1).numpy()
    scores = [row @ flat[2:].reshape(-1, 2) + flat[:2] for row, flat in zip(x, population, strict=True)]
    expect_close(action, np.tanh(scores), what="actions of a population")


@pytest.mark.exercise(id="1.13")
def test_playing_four_steps():
    """From initial_state on, with a new episode in between: the state that comes back is for the next call."""
    agent = make_agent("car")
    image, z = make_frames(2, 4)
    is_first = np.array([[True, False, False, False], [True, False, True, False]])
    state = agent.initial_state(2)
    h = c = torch.zeros(2, HIDDEN)
    for t in range(4):
        action, state = agent.act({"image": image[:, t], "is_first": is_first[:, t]}, state)
        keep = torch.tensor(~is_first[:, t, None])
        h, c = h * keep, c * keep
        native = squash(agent.controller.features(z[:, t], h, c) @ weight_of(agent) + bias_of(agent), "car")
        expect_close(agent.codec.to_native(torch.tensor(action)), native, what=f"native action of step {t}")
        h, c = lstm_step(agent, torch.cat([z[:, t], native], 1), h, c)
        expect_close(state["h"], h, what=f"h after step {t}")
        expect_close(state["c"], c, what=f"c after step {t}")


def weight_of(agent: WorldModelsAgent) -> torch.Tensor:
    return torch.tensor(agent.controller.get_params()[3:]).reshape(-1, 3)


def bias_of(agent: WorldModelsAgent) -> torch.Tensor:
    return torch.tensor(agent.controller.get_params()[:3])


@pytest.mark.exercise(id="1.13")
def test_act_returns_a_row_action_and_a_state():
    """A float32 array for the replay, and tensors (batch, hidden) without gradient."""
    agent = make_agent("car")
    obs, _ = make_obs(3, is_first=True)
    action, state = agent.act(obs, agent.initial_state(3))
    assert isinstance(action, np.ndarray)
    assert action.shape == (3, 3)
    assert action.dtype == np.float32
    assert np.abs(action).max() <= 1
    assert {"h", "c"} <= state.keys()
    for name in ("h", "c"):
        assert state[name].shape == (3, HIDDEN)
        assert not state[name].requires_grad


# ---- 1.14 begin_dream and dream_step ----


def make_context(agent: WorldModelsAgent, batch: int, length: int) -> tuple[dict[str, np.ndarray], torch.Tensor]:
    """Rows of a replay, from the middle of an episode."""
    image, z = make_frames(batch, length)
    prev_action = np.random.default_rng(4).uniform(-1, 1, (batch, length, agent.codec.row_size))
    no = np.zeros((batch, length), bool)
    rows = {"image": image, "prev_action": prev_action.astype(np.float32), "reward": no.astype(np.float32)}
    return {**rows, "is_first": no, "is_terminal": no.copy(), "is_last": no.copy()}, z


def make_dream(agent: WorldModelsAgent, batch: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A state in mid-dream with random z, h and c, and random actions as rows hold them."""
    context, _ = make_context(agent, 1, 2)
    state = agent.begin_dream({key: value.repeat(batch, 0) for key, value in context.items()})
    state = {**state, "z": torch.randn(batch, LATENT), **make_state(batch)}
    return state, 2 * torch.rand(batch, agent.codec.row_size) - 1


def native_car(action: torch.Tensor) -> torch.Tensor:
    return torch.cat([action[..., :1], (action[..., 1:] + 1) / 2], -1)


def mixture_after(agent: WorldModelsAgent, state: dict[str, torch.Tensor], native: torch.Tensor):
    with torch.no_grad():
        return agent.rnn(state["z"][:, None], native[:, None], (state["h"], state["c"]))


def heaviest_mean(out) -> torch.Tensor:
    return out.mu[:, 0].gather(-1, out.logpi[:, 0].argmax(-1, keepdim=True))[..., 0]


@pytest.mark.exercise(id="1.14")
def test_begin_dream_takes_in_the_context():
    """M takes in (z_t, a_t) of every row but the last; a_t stands in row t + 1. The dream starts at the last z."""
    agent = make_agent("car")
    context, z = make_context(agent, 2, 4)
    state = agent.begin_dream(context)
    native = native_car(torch.tensor(context["prev_action"]))
    h = c = torch.zeros(2, HIDDEN)
    for t in range(3):
        h, c = lstm_step(agent, torch.cat([z[:, t], native[:, t + 1]], 1), h, c)
    expect_close(state["z"], z[:, -1], what="z")
    expect_close(state["h"], h, what="h")
    expect_close(state["c"], c, what="c")


@pytest.mark.exercise(id="1.14")
def test_dream_begins_with_what_the_agent_knows():
    """Replay what was played: M knows at the last row exactly what it knew when the agent stood there."""
    agent = make_agent("car")
    context, _ = make_context(agent, 2, 5)
    context["is_first"][:, 0] = context["is_first"][1, 2] = True
    state = agent.initial_state(2)
    for t in range(4):
        obs = {key: value[:, t] for key, value in context.items()}
        context["prev_action"][:, t + 1], state = agent.act(obs, state)
    begun = agent.begin_dream(context)
    expect_close(begun["h"], state["h"], what="h")
    expect_close(begun["c"], state["c"], what="c")
    expect_close(agent.feat(begun), torch.cat([begun["z"], begun["h"]], 1), what="what the controller sees")
    awake, _ = agent.act({key: value[:, 4] for key, value in context.items()}, state)
    expect_close(agent.dream_action(begun), awake, what="the action in the dream, against the one awake")


@pytest.mark.exercise(id="1.14")
def test_dream_from_a_first_row_knows_nothing():
    """A context of one row, or one that ends at an episode's first row: h and c are zeros."""
    agent = make_agent("car")
    context, z = make_context(agent, 2, 3)
    context["is_first"][1, 2] = True
    state = agent.begin_dream(context)
    assert state["h"][0].abs().sum() > 0
    expect_close(torch.cat([state["h"][1], state["c"][1]]), 0.0, what="h and c at an episode's first row")
    state = agent.begin_dream({key: value[:, :1] for key, value in context.items()})
    expect_close(torch.cat([state["h"], state["c"]]), 0.0, what="h and c after a context of one row")
    expect_close(state["z"], z[:, 0], what="z after a context of one row")


@pytest.mark.exercise(id="1.14")
def test_dream_starts_from_a_sample():
    """V is not sure of a frame: dreams from one frame start at different z, all drawn from its posterior."""
    n = 500
    agent = make_agent("car", logvar=0.0)
    context, z = make_context(agent, 1, 2)
    state = agent.begin_dream({key: value.repeat(n, 0) for key, value in context.items()})
    noise = (state["z"] - z[:, -1]).double()
    mistakes = {0.0: "z is the mean: sample it (reparameterize)"}
    what = "deviation of z over many dreams"
    expect_close(noise.std(), 1.0, rtol=0, atol=6 / math.sqrt(2 * LATENT * n), mistakes=mistakes, what=what)


@pytest.mark.exercise(id="1.14")
def test_dream_step_moves_the_memory():
    """M takes in z and the NATIVE action, as it did in training; h and c go on from the state's."""
    agent = make_agent("car")
    state, action = make_dream(agent, 3)
    new = agent.dream_step(state, action).state
    step = lambda action, h, c: lstm_step(agent, torch.cat([state["z"], action], 1), h, c)
    h, c = step(native_car(action), state["h"], state["c"])
    mistakes = {
        numbers(step(action, state["h"], state["c"])[0]): "M got the row's action: it wants the native one",
        numbers(step(native_car(action), 0 * h, 0 * c)[0]): "M started from zeros: hand it the state",
        numbers(step(native_car(action), state["c"], state["h"])[0]): "h and c are swapped",
        numbers(step(0 * action, state["h"], state["c"])[0]): "M did not get the action",
        numbers(state["h"]): "the state did not move",
    }
    expect_close(new["h"], h, mistakes=mistakes, what="the new h")
    expect_close(new["c"], c, what="the new c")


@pytest.mark.exercise(id="1.14")
def test_dream_step_draws_the_next_z_and_shows_it():
    """Near temperature 0 the next z is the heaviest component's mean; the picture is of this z, in bytes."""
    agent = make_agent("car")
    state, action = make_dream(agent, 3)
    step = agent.dream_step(state, action, temperature=1e-8)
    out = mixture_after(agent, state, native_car(action))
    mistakes = {
        numbers(state["z"]): "z did not move",
        numbers((out.logpi.exp() * out.mu).sum(-1)[:, 0]): "this is the mixture's mean: draw from it (mdn_sample)",
    }
    expect_close(step.state["z"], heaviest_mean(out), atol=1e-2, mistakes=mistakes, what="the next z")
    picture = lambda z: (255 * z[:, None, None, :3].sigmoid()).round().expand(-1, 64, 64, -1)
    assert step.image.dtype == torch.uint8
    mistakes = {numbers(picture(state["z"])): "the picture is of the OLD z: decode the next one"}
    expect_close(step.image, picture(step.state["z"]), rtol=0, atol=0.5, mistakes=mistakes, what="the picture")
    step = agent.dream_step(state, action)
    what = "the picture at temperature 1, against that of the z in the state: draw it once"
    expect_close(step.image, picture(step.state["z"]), rtol=0, atol=1.5, what=what)


@pytest.mark.exercise(id="1.14")
def test_reward_and_cont_come_from_the_heads():
    """cont is the probability that the episode goes ON: 1 - sigmoid(done logit)."""
    agent = make_agent("car")
    state, action = make_dream(agent, 5)
    step = agent.dream_step(state, action)
    out = mixture_after(agent, state, native_car(action))
    logit = out.done_logit[:, 0]
    mistakes = {
        numbers(logit.sigmoid()): "this is the probability of the END",
        numbers(-logit): "cont is a probability: take the sigmoid",
        numbers(logit): "cont is the probability of going on, not the done logit",
        numbers((logit <= 0).float()): "cont is a probability: do not round it",
        1.0: "the done head is ignored",
    }
    expect_close(step.cont, 1 - logit.sigmoid(), mistakes=mistakes, what="cont")
    expect_close(step.reward, out.reward[:, 0], mistakes={1.0: "the reward head is ignored"}, what="reward")


@pytest.mark.exercise(id="1.14")
@pytest.mark.parametrize(("reward", "done"), [(False, False), (True, False), (False, True)])
def test_without_a_head_every_step_is_worth_one_and_goes_on(reward, done):
    """VizDoom TakeCover pays 1 for each step alive; a model without a done head dreams for ever."""
    agent = make_agent("car", predict_reward=reward, predict_done=done)
    state, action = make_dream(agent, 5)
    step = agent.dream_step(state, action)
    assert step.reward.shape == step.cont.shape == (5,)
    assert (step.reward == 1).all() != reward
    assert (step.cont == 1).all() != done


@pytest.mark.exercise(id="1.14")
@pytest.mark.parametrize(
    ("options", "deviation"), [({}, 0.5), ({"temperature": 0.25}, 0.25), ({"temperature": 4.0}, 1.0)]
)
def test_temperature_acts_on_z_alone(options, deviation):
    """A mixture whose components are all N(1.5, 0.5^2): z has deviation 0.5 sqrt(temperature). End and reward stay."""
    n = 2000
    agent = make_agent("box")
    with torch.no_grad():
        agent.rnn.out.weight.zero_()
        agent.rnn.out.bias[:2] = torch.tensor([-1.0, 3.0])  # done logit, reward
        one_dimension = torch.tensor([0.0] * 3 + [1.5] * 3 + [math.log(0.5)] * 3)
        agent.rnn.out.bias[2:] = one_dimension.repeat(LATENT)
    state, action = make_dream(agent, n)
    step = agent.dream_step(state, action, decode=False, **options)
    z = step.state["z"].double()
    tolerance = 6 * deviation / math.sqrt(LATENT * n)
    mistakes = {
        0.0: "this is the mean: draw from the mixture (mdn_sample)",
        0.5: "the temperature is not handed on",
        0.5 * options.get("temperature", 1): "the deviation grows with the ROOT of the temperature",
    }
    mistakes.pop(deviation, None)
    expect_close(z.std(), deviation, rtol=0, atol=tolerance, mistakes=mistakes, what="deviation of z")
    expect_close(z.mean(), 1.5, rtol=0, atol=tolerance, what="mean of z")
    expect_close(step.cont, 1 / (1 + math.exp(-1)), what="cont")
    expect_close(step.reward, 3.0, what="reward")


@pytest.mark.exercise(id="1.14")
def test_decode_off_leaves_out_the_picture_only():
    """A controller that trains in dreams needs no picture; everything else is as it was."""
    agent = make_agent("car")
    state, action = make_dream(agent, 3)
    torch.manual_seed(1)
    seen = agent.dream_step(state, action)
    torch.manual_seed(1)
    blind = agent.dream_step(state, action, decode=False)
    assert blind.image is None
    assert seen.image.shape == (3, 64, 64, 3)
    for name in ("z", "h", "c"):
        expect_close(blind.state[name], seen.state[name], what=name)
    expect_close(torch.stack([blind.reward, blind.cont]), torch.stack([seen.reward, seen.cont]), what="reward and cont")


@pytest.mark.exercise(id="1.14")
def test_each_dream_of_a_batch_is_told_whether_it_begins():
    """With restart_input M's last input is the dream's own is_first, not that of its neighbours."""
    agent = make_agent("left_right", restart_input=True, controller_input="zch")
    state = {**make_state(3), "z": torch.randn(3, LATENT), "is_first": torch.tensor([False, True, False])}
    seen = watch_lstm(agent)
    step = agent.dream_step(state, torch.eye(3))
    assert seen[-1][:, 0, -1].tolist() == [0, 1, 0]
    assert not step.state["is_first"].any(), "no later step is a first one"


@pytest.mark.exercise(id="1.14")
def test_dream_step_agrees_with_the_official_doom_environment():
    """The official dream of VizDoom: h, c, the reward of 1 and the end. Its first step is told that it is the first."""
    g = golden("wm_doom_dream_step")
    sizes = {"latent_size": 3, "hidden_size": 4, "mixtures": 2, "restart_input": True, "predict_reward": False}
    agent = make_agent("one number", **sizes, controller_input="zch")
    load_official_weights(agent.rnn, g)
    context, _ = make_context(agent, 1, 1)
    state = agent.begin_dream({**context, "is_first": np.ones((1, 1), bool)})
    state["z"] = torch.tensor(g["z0"], dtype=torch.float32)[None]
    for t in range(6):
        step = agent.dream_step(state, torch.tensor(g["actions"][t], dtype=torch.float32)[None, None])
        z, c, h = torch.tensor(g["state"][t], dtype=torch.float32)[None].split([3, 4, 4], 1)
        state = {**step.state, "z": z, "h": h, "c": c}
        expect_close(step.state["c"][0], g["state"][t][3:7], what=f"c after step {t}")
        expect_close(step.state["h"][0], g["state"][t][7:], what=f"h after step {t}")
        expect_close(step.reward, g["reward"][t : t + 1], what=f"reward of step {t}")
        assert (step.cont.item() < 0.5) == g["done"][t], f"done after step {t}"


@pytest.mark.exercise(id="1.14")
def test_dream_goes_on_from_its_own_latents():
    """Ten steps at temperature near 0 with given actions: each z is the next input, reality is not seen again."""
    agent = make_agent("car")
    context, _ = make_context(agent, 2, 3)
    actions = np.random.default_rng(5).uniform(-1, 1, (2, 10, 3)).astype(np.float32)
    with torch.no_grad():
        agent.rnn.out.bias[2:].view(LATENT, 9)[:, 6:] = -7  # hardly any noise
        agent.rnn.out.weight[2:].view(LATENT, 9, HIDDEN)[:, 6:] = 0
    dreamt = dream(agent, context, 10, actions, temperature=1e-6)
    state = agent.begin_dream(context)
    for k in range(10):
        native = native_car(torch.tensor(actions[:, k]))
        out = mixture_after(agent, state, native)
        state = {**state, "z": heaviest_mean(out), "h": out.state[0], "c": out.state[1]}
        expect_close(dreamt.rewards[:, k], out.reward[:, 0], atol=1e-3, what=f"reward of step {k}")
        expect_close(dreamt.conts[:, k], (-out.done_logit[:, 0]).sigmoid(), atol=1e-3, what=f"cont of step {k}")
    assert dreamt.images.shape == (2, 10, 64, 64, 3)


@pytest.mark.exercise(id="1.14")
def test_dreams_spread_with_the_temperature_and_repeat_with_the_seed():
    """One start, many dreams: alike near temperature 0, apart at 1.5; the same seed dreams the same dream."""
    agent = make_agent("car")
    context, _ = make_context(agent, 1, 2)
    context = {key: value.repeat(50, 0) for key, value in context.items()}

    def spread(temperature: float) -> float:
        torch.manual_seed(2)
        return float(dream(agent, context, 3, temperature=temperature).rewards[:, -1].std())

    assert spread(0.01) < 0.5 * spread(1.5)
    assert spread(1.5) == spread(1.5)
