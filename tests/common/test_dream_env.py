"""DreamEnv on a model whose dreams can be worked out by hand."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from common.agent import DreamStep, dream
from common.dream_env import DreamEnv, DreamVecEnv

ROWS = {  # three real contexts of two rows; the frame of context i is filled with 10 * i
    "image": np.stack([np.full((2, 4, 4, 3), 10 * i, np.uint8) for i in range(3)]),
    "prev_action": np.zeros((3, 2, 2), np.float32),
    "reward": np.zeros((3, 2), np.float32),
    "is_first": np.array([[True, False]] * 3),
}


class CountingAgent:
    """A world of one number x: it starts at the frame's brightness and grows by the action's second entry and noise.

    The reward is x, and the end is certain where x reaches `end`.
    """

    def __init__(self, end: float = np.inf, noise: float = 0.0):
        self.end, self.noise = end, noise

    def begin_dream(self, context):
        return {"x": torch.as_tensor(context["image"][:, -1, 0, 0, :1], dtype=torch.float32)}

    def dream_step(self, state, action, *, temperature=1.0, decode=True):
        x = state["x"] + action[:, 1:] + self.noise * temperature * torch.randn_like(state["x"])
        image = x[:, None, None, :].clamp(0, 255).byte().expand(-1, 4, 4, 3) if decode else None
        return DreamStep({"x": x}, image, x[:, 0], (x[:, 0] < self.end).float())

    def dream_action(self, state):
        return torch.tensor([[0.0, 1.0]]).expand(len(state["x"]), -1)

    def feat(self, state):
        return state["x"]


DISCRETE = gymnasium.spaces.Discrete(2)


@pytest.mark.parametrize("obs", ["image", "feat"])
@pytest.mark.parametrize("space", [DISCRETE, gymnasium.spaces.Box(-1, 1, (2,), np.float32)])
def test_gymnasium_accepts_it(obs, space):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(flat|minimum|maximum|image|normalise).*")
        check_env(DreamEnv(CountingAgent(), ROWS, space, obs=obs, horizon=20), skip_render_check=True)


def test_a_step_is_the_models_own():
    env = DreamEnv(CountingAgent(), ROWS, DISCRETE, seed=0)
    image, _ = env.reset()
    start = int(image[0, 0, 0])
    assert start in (0, 10, 20)
    image, reward, terminated, truncated, _ = env.step(1)
    assert (reward, terminated, truncated) == (start + 1, False, False)
    assert (image == start + 1).all()
    assert env.step(0)[1] == start + 1  # the one-hot action's second entry is 0 now
    assert (env.render() == start + 1).all()


def test_grey_dreams_are_shown_in_three_channels():
    """As windows want them; the observation stays as it is."""
    grey = {**ROWS, "image": ROWS["image"][..., :1]}
    env = DreamEnv(CountingAgent(), grey, DISCRETE, seed=0)
    assert env.reset()[0].shape == (4, 4, 1)
    assert env.render().shape == (4, 4, 3)


def test_dreams_begin_at_every_real_start():
    envs = DreamVecEnv(CountingAgent(), ROWS, DISCRETE, 60, obs="feat", seed=1)
    obs, _ = envs.reset()
    assert set(obs[:, 0].tolist()) == {0.0, 10.0, 20.0}


def test_the_models_end_is_terminated_and_the_horizon_is_truncated():
    env = DreamEnv(CountingAgent(end=22), ROWS, DISCRETE, obs="feat", horizon=3)
    for seed in range(20):
        start = env.reset(seed=seed)[0][0]
        ends = [env.step(1)[2:4] for _ in range(2 if start == 20 else 3)]
        expected = [(False, False), (True, False)] if start == 20 else [(False, False), (False, False), (False, True)]
        assert ends == expected


def test_a_batch_restarts_only_what_has_ended():
    envs = DreamVecEnv(CountingAgent(end=21), ROWS, DISCRETE, 30, obs="feat", seed=3)
    first, _ = envs.reset()
    _, reward, terminated, _, _ = envs.step(np.ones(30, int))
    assert (terminated == (first[:, 0] == 20)).all()
    assert terminated.any()
    assert not terminated.all()
    obs, next_reward, next_terminated, _, _ = envs.step(np.ones(30, int))
    assert (next_reward[terminated] == 0).all()
    assert not next_terminated[terminated].any()
    assert np.isin(obs[terminated, 0], (0, 10, 20)).all()
    assert (obs[~terminated, 0] == first[~terminated, 0] + 2).all()
    assert (next_reward[~terminated] == reward[~terminated] + 1).all()


def test_a_seed_decides_everything_and_torch_is_left_alone():
    def play(seed):
        env = DreamEnv(CountingAgent(noise=1.0), ROWS, DISCRETE, obs="feat")
        return [env.reset(seed=seed)[0].item(), *(env.step(1)[1] for _ in range(5))]

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = play(0)
    torch.rand(7)
    assert play(0) == first
    assert play(1) != first
    torch.manual_seed(5)
    play(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_temperature_reaches_the_model():
    spread = []
    for temperature in (0.1, 2.0):
        envs = DreamVecEnv(CountingAgent(noise=1.0), ROWS, DISCRETE, 500, obs="feat", temperature=temperature, seed=0)
        start, _ = envs.reset()
        spread.append((envs.step(np.zeros(500, int))[0] - start).std())
    assert spread[1] / spread[0] == pytest.approx(20, rel=1e-3)


def test_dream_rolls_the_model_with_given_actions_and_with_the_agents_own():
    context = {key: value[1:] for key, value in ROWS.items()}  # starts 10 and 20
    actions = np.zeros((2, 3, 2), np.float32)
    actions[0, :, 1], actions[1, :, 1] = [1, 2, 3], [4, 5, 6]
    predicted = dream(CountingAgent(), context, 3, actions)
    assert predicted.rewards.tolist() == [[11, 13, 16], [24, 29, 35]]
    assert predicted.images[:, :, 0, 0, 0].tolist() == [[11, 13, 16], [24, 29, 35]]
    assert (predicted.actions == actions).all()
    imagined = dream(CountingAgent(end=22), context, 3)
    assert imagined.rewards.tolist() == [[11, 12, 13], [21, 22, 23]]
    assert imagined.conts.tolist() == [[1, 1, 1], [1, 0, 0]]
