"""Environments of every family, and the rows made of their steps."""

import sys
import types
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv

from common.env_wrapper import (
    RowStream,
    TinyBatch,
    action_size,
    family,
    is_discrete,
    make_env,
    make_vec_env,
    resize,
    resolve_id,
)
from common.errors import UserError

# ---- a toy whose every number can be told by hand ----


class Counter(gymnasium.Env):
    """Observes (episode, step); rewards 10 * step + action on arrival; ends at `length`, truly or by truncation."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, length=3, truncate=False, continuous=False, render_mode=None):
        self.length, self.truncate, self.render_mode = length, truncate, render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(0, 4, (1,), np.float32) if continuous else spaces.Discrete(4)
        self.episode = -1
        self.state = np.zeros(2)  # one buffer, written in place: the worst case for rows that are kept

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.state[:] = self.episode, 0
        return self.state, {}

    def step(self, action):
        self.state[1] += 1
        over = self.state[1] >= self.length
        reward = 10 * self.state[1] + float(np.sum(action))
        return self.state, reward, bool(over and not self.truncate), bool(over and self.truncate), {}


class TwoButtons(Counter):
    """Actions of a kind that nothing here supports."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.action_space = spaces.MultiBinary(2)


gymnasium.register("Counter-v0", entry_point=Counter)
gymnasium.register("TwoButtons-v0", entry_point=TwoButtons)


def onehot(action, n):
    return np.eye(n, dtype=np.float32)[action]


def random_actions(space, rng, n):
    if is_discrete(space):
        return onehot(rng.integers(space.n, size=n), space.n)
    return rng.uniform(-1, 1, (n, *space.shape)).astype(np.float32)


def play(env_id, steps, *, num_envs=1, **options):
    """Rows of a random policy, each key (steps + 1, N, ...), and the stream."""
    stream = RowStream(make_vec_env(env_id, num_envs, **options))
    rng = np.random.default_rng(0)
    rows = [stream.reset()]
    for _ in range(steps):
        rows.append(stream.step(random_actions(stream.envs.single_action_space, rng, num_envs)))
    stream.envs.close()
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}, stream


# ---- rows ----


def test_rows_of_two_episodes_that_end_at_different_times():
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: make_env("Counter-v0", length=2), lambda: make_env("Counter-v0", length=3, truncate=True)]
    )
    stream = RowStream(envs)
    rows = [stream.reset()]
    rows += [stream.step(onehot([1, 2], 4)) for _ in range(4)]

    def column(key):
        return np.stack([row[key] for row in rows], 1).tolist()

    # env 0: step 0, 1, 2 (true end), then the next episode; env 1: step 0, 1, 2, 3 (cut off), then the next
    assert column("vector") == [[[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]], [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]]
    assert column("is_first") == [[True, False, False, True, False], [True, False, False, False, True]]
    assert column("is_terminal") == [[False, False, True, False, False], [False] * 5]
    assert column("is_last") == [[False, False, True, False, False], [False, False, False, True, False]]
    assert column("reward") == [[0, 11, 21, 0, 11], [0, 12, 22, 32, 0]]
    one, two, none = [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]
    assert column("prev_action") == [[none, one, one, none, one], [none, two, two, two, none]]
    assert (stream.frames, stream.agent_steps) == (6, 6)  # of 8, two only began an episode
    assert {key: value.dtype for key, value in rows[1].items()} == {
        "vector": np.float32, "prev_action": np.float32, "reward": np.float32,
        "is_first": bool, "is_terminal": bool, "is_last": bool,
    }  # fmt: skip


def test_a_repeat_counts_only_the_frames_that_it_played():
    """An episode of 5 frames under a repeat of 2: 2 + 2 + 1 frames, rewards summed over just those."""
    rows, stream = play("Counter-v0", 4, action_repeat=2, length=5, seed=0)
    actions = rows["prev_action"].argmax(-1)[:, 0]
    expected = [10 + 20 + 2 * actions[1], 30 + 40 + 2 * actions[2], 50 + actions[3]]
    assert rows["reward"][1:4, 0].tolist() == expected
    assert rows["is_last"][:, 0].tolist() == [False, False, False, True, False]
    assert (stream.frames, stream.agent_steps) == (5, 3)
    assert stream.step_frames.tolist() == [0]  # the last step only began an episode


def test_info_says_how_many_frames_a_step_played():
    env = make_env("Counter-v0", action_repeat=4, length=10, truncate=True)
    env.reset()
    steps = [env.step(0) for _ in range(3)]
    assert [info["frames"] for *_, info in steps] == [4, 4, 2]
    assert [(terminated, truncated) for _, _, terminated, truncated, _ in steps][2] == (False, True)


def test_time_limit_is_counted_in_frames_and_truncates():
    env = make_env("Counter-v0", action_repeat=4, length=100, time_limit=6)
    env.reset()
    assert env.step(0)[2:4] == (False, False)
    _, _, terminated, truncated, info = env.step(0)
    assert (terminated, truncated, info["frames"]) == (False, True, 2)


def test_continuous_actions_are_rescaled_and_stored_as_given():
    stream = RowStream(make_vec_env("Counter-v0", 1, continuous=True))
    assert stream.envs.single_action_space == spaces.Box(-1, 1, (1,), np.float32)
    stream.reset()
    row = stream.step(np.array([[0.5]], np.float32))
    assert row["prev_action"].tolist() == [[0.5]]
    assert row["reward"].tolist() == [10 + 3]  # 0.5 in [-1, 1] is 3 in [0, 4]


@pytest.mark.parametrize("env_id", ["Counter-v0", "TinyCraft-v0", "TinyReacher-v0", "atari_pong"])
def test_rows_never_share_memory_with_later_ones(env_id):
    stream = RowStream(make_vec_env(env_id, 2, seed=0))
    rng = np.random.default_rng(0)
    kept, copies = [], []
    for step in range(8):
        action = random_actions(stream.envs.single_action_space, rng, 2)
        row = stream.step(action) if step else stream.reset()
        kept.append(row)
        copies.append({key: value.copy() for key, value in row.items()})
    for row, copy in zip(kept, copies, strict=True):
        for key in row:
            np.testing.assert_array_equal(row[key], copy[key])
    for before, after in pairwise(kept):
        for a in before.values():
            assert not any(np.shares_memory(a, b) for b in after.values())


def test_a_state_vector_is_a_float32_copy():
    env = make_env("Counter-v0")
    first, _ = env.reset()
    env.step(0)
    assert first["vector"].tolist() == [0, 0]
    assert first["vector"].dtype == np.float32
    assert env.observation_space["vector"].dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("Counter-v0", {"action_repeat": 2}),
        ("TinyCraft-v0", {}),
        ("atari_breakout", {"life_loss": True}),
        ("dmc_reacher_easy", {"obs": "both"}),
        ("VizdoomTakeCover-v1", {}),
    ],
)
def test_processes_give_the_rows_of_taking_turns(env_id, options):
    if env_id == "Counter-v0":  # a process of its own imports this module first, by the name before the colon
        env_id = "tests.common.test_env_wrapper:Counter-v0"
    turns, a = play(env_id, 40, num_envs=2, seed=3, **options)
    parallel, b = play(env_id, 40, num_envs=2, seed=3, parallel=True, **options)
    assert isinstance(b.envs, AsyncVectorEnv)
    assert (a.frames, a.agent_steps) == (b.frames, b.agent_steps)
    for key in turns:
        np.testing.assert_array_equal(turns[key], parallel[key])


# ---- ids ----


def test_a_retired_id_runs_as_its_successor_and_says_so(capsys):
    assert resolve_id("CarRacing-v2") == "CarRacing-v3"
    assert capsys.readouterr().out.splitlines() == ["CarRacing-v2 is no longer part of gymnasium: running CarRacing-v3"]
    assert resolve_id("CarRacing-v3") == "CarRacing-v3"
    assert capsys.readouterr().out == ""


def test_minecraft_without_minerl_is_tinycraft_and_says_so(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "minerl", None)
    assert resolve_id("minecraft_navigate") == "TinyCraft-v0"
    (line,) = capsys.readouterr().out.splitlines()
    assert "TinyCraft-v0" in line
    assert "minerl" in line


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("CarRacing-v9", "CarRacing-v3"),
        ("cartpole-v1", "CartPole-v1"),
        ("TinyCach-v0", "TinyCatch-v0"),
        ("atari_pongg", "atari_pong"),
        ("ALE/Breakout-v4", "ALE/Breakout-v5"),
        ("Pong-v4", "ALE/Pong-v5"),
        ("dmc_walker_wlak", "dmc_walker_walk"),
        ("crafter", "crafter_reward"),
        ("VizdoomTakecover-v1", "VizdoomTakeCover-v1"),
    ],
)
def test_an_unknown_id_names_the_nearest(typo, nearest):
    with pytest.raises(UserError, match=nearest) as error:
        make_env(typo)
    assert typo in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("env_id", "module", "package"),
    [
        ("atari_pong", "ale_py", "ale-py"),
        ("ALE/Pong-v5", "ale_py", "ale-py"),
        ("dmc_walker_walk", "dm_control.suite", "dm_control"),
        ("crafter_reward", "crafter", "crafter"),
        ("VizdoomTakeCover-v1", "vizdoom.gymnasium_wrapper", "vizdoom"),
    ],
)
def test_a_missing_package_names_its_pip_line(env_id, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        make_env(env_id)


def test_every_id_of_every_family_is_told_by_its_form():
    assert [family(each) for each in ("ALE/Pong-v5", "atari_pong", "dmc_walker_walk", "crafter_reward")] == [
        "atari", "atari", "dmc", "crafter",
    ]  # fmt: skip
    for env_id in ("atari_space_invaders", "dmc_ball_in_cup_catch", "dmc_point_mass_easy", "dmc_humanoid_CMU_run"):
        assert resolve_id(env_id) == env_id


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("CartPole-v1", {"obs": "pixels"}, "image, vector or both"),
        ("CartPole-v1", {"image_size": 0}, "image_size"),
        ("CartPole-v1", {"action_repeat": 0}, "action_repeat"),
        ("CarRacing-v3", {"obs": "vector"}, "CarRacing-v3 does not observe 'vector'"),
        ("TinyCatch-v0", {"obs": "both"}, "TinyCatch-v0 does not observe 'vector'"),
        ("TwoButtons-v0", {}, "only Discrete and bounded Box"),
    ],
)
def test_what_cannot_be_is_a_user_error(env_id, options, message):
    with pytest.raises(UserError, match=message):
        make_env(env_id, **options)


def test_a_batch_of_built_in_environments_refuses_the_same_observations():
    with pytest.raises(UserError, match="does not observe 'vector'"):
        make_vec_env("TinyCatch-v0", 2, obs="vector")


# ---- what all environments have in common ----


@pytest.mark.parametrize("env_id", ["CartPole-v1", "BipedalWalker-v3", "TinyRacer-v0", "atari_pong", "Counter-v0"])
def test_a_seed_determines_the_trajectory(env_id):
    same, _ = play(env_id, 30, seed=5)
    again, _ = play(env_id, 30, seed=5)
    for key in same:
        np.testing.assert_array_equal(same[key], again[key])


def test_seed_is_for_the_first_reset_only_and_for_the_action_space():
    env, same = make_env("CartPole-v1", seed=5), make_env("CartPole-v1", seed=5)
    first, second = (env.reset()[0]["vector"] for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, gymnasium.make("CartPole-v1").reset(seed=5)[0])
    np.testing.assert_array_equal(first, same.reset()[0]["vector"])
    np.testing.assert_array_equal(second, same.reset()[0]["vector"])
    assert [env.action_space.sample() for _ in range(20)] == [same.action_space.sample() for _ in range(20)]
    np.testing.assert_array_equal(env.reset(seed=5)[0]["vector"], first)  # one given to reset comes first


@pytest.mark.parametrize("env_id", ["CartPole-v1", "TinyCatch-v0"])
def test_environment_i_has_seed_plus_i(env_id):
    rows = RowStream(make_vec_env(env_id, 3, seed=7)).reset()
    unseeded = RowStream(make_vec_env(env_id, 3, seed=7)).reset([None, 8, None])  # None is the first seed, too
    assert all(np.array_equal(unseeded[key], rows[key]) for key in rows)
    for i in range(3):
        alone, _ = make_env(env_id, seed=7 + i).reset()
        for key in alone:
            np.testing.assert_array_equal(rows[key][i], alone[key])
            assert i == 0 or not np.array_equal(rows[key][i], rows[key][0])


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("CartPole-v1", {"obs": "both"}),
        ("BipedalWalker-v3", {}),
        ("FrozenLake-v1", {}),
        ("Pendulum-v1", {"obs": "image", "image_size": 32}),
        ("TinyCraft-v0", {}),
        ("TinyReacher-v0", {"image_size": 32}),
        ("atari_breakout", {"grayscale": True}),
        ("CarRacing-v3", {}),
        ("dmc_cartpole_balance", {"obs": "vector"}),
        pytest.param("crafter_reward", {}, marks=pytest.mark.slow),
        ("VizdoomMyWayHome-v1", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*unwrapped version", "ignore:.*-?infinity")
def test_gymnasiums_own_checker_is_content(env_id, options):
    env = make_env(env_id, seed=0, **options)
    check_env(env, skip_render_check=True)
    assert set(env.observation_space) <= {"image", "vector"}
    env.reset(seed=0)
    assert env.render().dtype == np.uint8
    env.close()


def test_obs_chooses_what_is_observed():
    shapes = {
        obs: {key: box.shape for key, box in make_env("CartPole-v1", obs=obs).observation_space.items()}
        for obs in (None, "vector", "image", "both")
    }
    assert shapes[None] == shapes["vector"] == {"vector": (4,)}
    assert shapes["image"] == {"image": (64, 64, 3)}
    assert shapes["both"] == {"image": (64, 64, 3), "vector": (4,)}
    assert set(make_env("TinyCraft-v0").observation_space) == {"image", "vector"}
    assert set(make_env("TinyCraft-v0", obs="image").observation_space) == {"image"}


def test_action_size():
    assert action_size(spaces.Discrete(5)) == 5
    assert action_size(spaces.Box(-1, 1, (3,))) == 3


def test_resize_averages_and_keeps_sides():
    image = np.zeros((84, 96, 3), np.uint8)
    image[:42, :48, 0] = 255  # upper left red
    small = resize(image, 64)
    assert small.shape == (64, 64, 3)
    assert small[5, 5].tolist() == [255, 0, 0]
    assert not small[5, -5].any()
    assert not small[-5, 5].any()
    assert (resize(np.full((210, 160, 1), 51, np.uint8), 64) == 51).all()
    stripes = np.zeros((128, 128, 1), np.uint8)
    stripes[::2] = 200
    assert (abs(resize(stripes, 64)[1:-1].astype(int) - 100) <= 1).all()  # nearest neighbour gives 0 or 200


# ---- built-in environments ----


def test_built_in_environments_run_as_their_own_batch_with_the_same_rows():
    batch = RowStream(make_vec_env("TinyCraft-v0", 3, seed=1, obs="both", image_size=64, action_repeat=1))
    makers = [lambda i=i: make_env("TinyCraft-v0", seed=1 + i) for i in range(3)]
    turns = RowStream(gymnasium.vector.SyncVectorEnv(makers))
    assert isinstance(batch.envs, TinyBatch)
    assert batch.envs.single_observation_space == turns.envs.single_observation_space
    assert batch.envs.observation_space == turns.envs.observation_space
    rng, episodes = np.random.default_rng(0), 0
    for step in range(130):
        action = random_actions(batch.envs.single_action_space, rng, 3)
        a, b = (stream.step(action) if step else stream.reset() for stream in (batch, turns))
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
            assert a[key].dtype == b[key].dtype
        episodes += a["is_last"].sum()
    assert episodes >= 6
    assert (batch.frames, batch.agent_steps) == (turns.frames, turns.agent_steps)


def test_built_in_environments_with_other_options_take_turns():
    rows, stream = play("TinyReacher-v0", 3, num_envs=2, image_size=32, action_repeat=2)
    assert rows["image"].shape == (4, 2, 32, 32, 3)
    assert (stream.frames, stream.agent_steps) == (12, 6)


def test_a_built_in_batch_takes_a_time_limit():
    rows, _ = play("TinyReacher-v0", 5, num_envs=2, time_limit=4)
    assert rows["is_last"][:, 0].tolist() == [False, False, False, False, True, False]
    assert not rows["is_terminal"].any()


# ---- CarRacing ----


@pytest.fixture
def painted_car_racing(monkeypatch):
    """CarRacing with a picture of our own: returns what to set for it, and how often it was drawn."""
    drawn = types.SimpleNamespace(frame=np.zeros((96, 96, 3), np.uint8), modes=[])

    def draw(self, mode):
        drawn.modes.append(mode)
        return drawn.frame

    monkeypatch.setattr(CarRacing, "_render", draw)
    return drawn


def test_car_racing_shows_84_rows_the_right_way_round(painted_car_racing):
    painted_car_racing.frame[:42, :48] = (255, 0, 0)  # upper left
    painted_car_racing.frame[84:] = 255  # the indicator bar
    for size in (64, 96):
        env = make_env("CarRacing-v3", seed=0, image_size=size)
        image = env.reset()[0]["image"]
        assert image.shape == (size, size, 3)
        assert image[2, 2].tolist() == [255, 0, 0]
        assert not image[2, -3].any()
        assert not image[-1].any()  # of the bar not a trace


def test_car_racing_draws_once_a_step(painted_car_racing):
    env = make_env("CarRacing-v3", seed=0, action_repeat=4)
    env.reset()
    assert painted_car_racing.modes == ["state_pixels"]
    env.step(np.zeros(3, np.float32))
    assert painted_car_racing.modes == ["state_pixels"] * 2
    env.render()
    assert painted_car_racing.modes[-1] == "rgb_array"


def test_car_racing_is_gymnasiums_but_for_the_skipped_drawing():
    """Same rewards, same physics, same picture as the environment that draws every frame."""
    ours, theirs = make_env("CarRacing-v3", seed=3, action_repeat=4), gymnasium.make("CarRacing-v3")
    ours.reset()
    theirs.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(8):
        action = rng.uniform(-1, 1, 3).astype(np.float32)
        native = np.array([action[0], (action[1] + 1) / 2, (action[2] + 1) / 2], np.float32)
        obs, reward, *_, info = ours.step(action)
        steps = [theirs.step(native) for _ in range(4)]
        assert info["frames"] == 4
        assert reward == pytest.approx(sum(step[1] for step in steps))
        assert tuple(ours.unwrapped.car.hull.position) == pytest.approx(tuple(theirs.unwrapped.car.hull.position))
        np.testing.assert_array_equal(obs["image"], resize(steps[-1][0][:84], 64))


# ---- Atari ----


def native_atari(game="ALE/SpaceInvaders-v5"):
    return gymnasium.make(game, frameskip=1, repeat_action_probability=0.0)


def test_atari_ten_steps_are_forty_frames():
    env = make_env("ALE/Pong-v5", seed=0)
    _, info = env.reset()
    ale = env.unwrapped.ale
    start = ale.getEpisodeFrameNumber()
    assert start == info["reset_frames"]
    frames = sum(env.step(0)[4]["frames"] for _ in range(10))
    assert frames == 40
    assert ale.getEpisodeFrameNumber() - start == 40


def test_atari_options_reach_the_emulator():
    env = make_env("atari_breakout")
    assert env.unwrapped.spec.kwargs["frameskip"] == 1
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0.25
    assert env.unwrapped.ale.getInt("max_num_frames_per_episode") == 108_000
    assert env.action_space == spaces.Discrete(4)
    env = make_env("atari_breakout", sticky=0.0, full_actions=True, grayscale=True, image_size=84)
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0
    assert env.action_space == spaces.Discrete(18)
    assert env.observation_space["image"].shape == (84, 84, 1)
    assert make_env("ALE/Breakout-v5").unwrapped._game == make_env("atari_breakout").unwrapped._game


def test_atari_pictures_are_the_maximum_of_the_last_two_frames():
    env = make_env("atari_space_invaders", seed=1, sticky=0.0, noop_max=0)
    native = native_atari()
    obs, _ = env.reset()
    screen, _ = native.reset(seed=1)
    np.testing.assert_array_equal(obs["image"], resize(screen, 64))
    rng, flicker = np.random.default_rng(0), 0
    for _ in range(60):
        action = int(rng.integers(env.action_space.n))
        obs, reward, *_ = env.step(action)
        frames = [native.step(action) for _ in range(4)]
        assert reward == sum(frame[1] for frame in frames)
        np.testing.assert_array_equal(obs["image"], resize(np.maximum(frames[2][0], frames[3][0]), 64))
        flicker += not np.array_equal(obs["image"], resize(frames[3][0], 64))
    assert flicker > 10  # the last frame alone would not do


def test_atari_no_ops_are_drawn_from_the_seed():
    env, same, other = (make_env("atari_pong", seed=seed, noop_max=5) for seed in (0, 0, 1))
    counts = [env.reset()[1]["reset_frames"] for _ in range(50)]
    assert set(counts) == {1, 2, 3, 4, 5}
    assert [same.reset()[1]["reset_frames"] for _ in range(50)] == counts
    assert [other.reset()[1]["reset_frames"] for _ in range(50)] != counts
    assert make_env("atari_pong", noop_max=0).reset()[1]["reset_frames"] == 0
    assert make_env("atari_pong", noop_max=1).reset()[1]["reset_frames"] == 1


def test_atari_time_limit_truncates_inside_a_repeat():
    rows, stream = play("atari_pong", 4, seed=0, time_limit=10, noop_max=0)
    assert rows["is_last"][:, 0].tolist() == [False, False, False, True, False]
    assert not rows["is_terminal"].any()
    assert (stream.frames, stream.agent_steps) == (10, 3)


def lose_a_life(env):
    """Launch the ball and never move: returns the step that lost a life, and the frames played."""
    lives, frames = env.unwrapped.ale.lives(), 0
    while True:
        step = env.step(1)  # fire
        frames += step[4]["frames"]
        if step[4]["lives"] < lives:
            return step, frames


def test_atari_life_loss_ends_the_episode_but_not_the_game():
    env = make_env("atari_breakout", seed=0, sticky=0.0, life_loss=True)
    env.reset()
    ale = env.unwrapped.ale
    start = ale.getEpisodeFrameNumber()
    (_, _, terminated, truncated, info), frames = lose_a_life(env)
    assert (terminated, truncated, info["lives"]) == (True, False, 4)
    assert ale.getEpisodeFrameNumber() == start + frames
    _, info = env.reset()  # one no-op step, and the game goes on
    assert info == {"lives": 4, "reset_frames": 4}
    assert ale.getEpisodeFrameNumber() == start + frames + 4
    while ale.lives() > 1:
        lose_a_life(env)
        env.reset()
    while not ale.game_over():
        _, _, terminated, _, _ = env.step(1)
    assert terminated
    assert env.reset()[1]["lives"] == 5  # a new game
    lose_a_life(env)
    assert env.reset(seed=0)[1]["lives"] == 5  # a seed always begins a new game


def test_atari_without_life_loss_plays_the_whole_game():
    env = make_env("atari_breakout", seed=0, sticky=0.0)
    env.reset()
    (_, _, terminated, truncated, info), _ = lose_a_life(env)
    assert (terminated, truncated, info["lives"]) == (False, False, 4)


# ---- dm_control ----


def test_dmc_repeats_twice_and_its_time_limit_truncates():
    rows, stream = play("dmc_cartpole_balance", 501, seed=0, obs="vector")
    assert rows["is_last"][:, 0].nonzero()[0].tolist() == [500]
    assert rows["is_first"][:, 0].nonzero()[0].tolist() == [0, 501]
    assert not rows["is_terminal"].any()
    assert (stream.frames, stream.agent_steps) == (1000, 500)
    assert rows["vector"].shape == (502, 1, 5)
    assert rows["reward"][1:501].max() > 1  # up to 1 a frame, summed


def test_dmc_discount_zero_is_terminal():
    env = make_env("dmc_cartpole_balance", obs="vector")
    env.reset(seed=0)
    assert env.step(np.zeros(1, np.float32))[2:4] == (False, False)
    env.unwrapped.simulator.task.get_termination = lambda physics: 0.0
    _, _, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    assert (terminated, truncated, info["frames"]) == (True, False, 1)


def test_dmc_vector_is_the_suites_observation_in_order():
    from dm_control import suite

    env = make_env("dmc_walker_walk", obs="vector", seed=4)
    native = suite.load("walker", "walk", task_kwargs={"random": 4})
    obs, _ = env.reset()
    seen = native.reset().observation
    expected = [*seen["orientations"], seen["height"], *seen["velocity"]]
    np.testing.assert_allclose(obs["vector"], np.array(expected, np.float32), rtol=1e-6)
    action = np.linspace(-1, 1, 6, dtype=np.float32)
    _, reward, *_ = env.step(action)
    assert reward == pytest.approx(sum(native.step(action).reward for _ in range(2)), rel=1e-5)


def test_dmc_actions_are_rescaled_to_the_tasks_own_range():
    env = make_env("dmc_quadruped_walk", obs="vector")
    assert env.action_space == spaces.Box(-1, 1, (12,), np.float32)
    env.reset()
    simulator, given = env.unwrapped.simulator, []
    step = simulator.step
    simulator.step = lambda action: given.append(action) or step(action)
    env.step(np.ones(12, np.float32))
    np.testing.assert_allclose(given[0], [1, 1.1, 0.8] * 4, rtol=1e-6)


@pytest.mark.slow
def test_dmc_pixels_are_drawn_at_their_size():
    env = make_env("dmc_quadruped_walk", obs="both", image_size=48, seed=0)
    obs, _ = env.reset()
    assert obs["image"].shape == (48, 48, 3)
    assert obs["vector"].shape == (78,)
    physics = env.unwrapped.simulator.physics
    np.testing.assert_array_equal(obs["image"], physics.render(48, 48, camera_id=2))
    assert not np.array_equal(obs["image"], physics.render(48, 48, camera_id=0))
    assert set(make_env("dmc_walker_walk").observation_space) == {"image"}
    assert env.render().shape == (240, 320, 3)


# ---- Crafter ----


def test_crafter_ends_by_death_or_by_time():
    env = make_env("crafter_reward", seed=0)
    obs, _ = env.reset()
    assert obs["image"].shape == (64, 64, 3)
    assert env.action_space == spaces.Discrete(17)
    *_, terminated, truncated, info = env.step(0)
    assert (terminated, truncated, info["frames"]) == (False, False, 1)
    assert info["achievements"]["collect_wood"] == 0
    game = env.unwrapped.game
    game._length = 2
    assert env.step(0)[2:4] == (False, True)
    env.reset()
    assert env.step(0)[2:4] == (False, False)
    game._player.health = 0
    assert env.step(0)[2:4] == (True, False)


@pytest.mark.slow
def test_crafter_without_reward_and_its_seeds():
    env, same = make_env("crafter_noreward", seed=1), make_env("crafter_noreward", seed=1)
    first, _ = env.reset()
    np.testing.assert_array_equal(first["image"], same.reset()[0]["image"])
    env.unwrapped.game._player.health = 1  # a loss that the other task would punish
    assert env.step(0)[1] == 0
    second, _ = env.reset()
    assert not np.array_equal(first["image"], second["image"])  # another world


# ---- ViZDoom ----


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_take_cover_pays_for_staying_alive_and_leaves_no_files(empty_folder):
    env = make_env("VizdoomTakeCover-v1", seed=0, image_size=32)
    assert env.action_space == spaces.Discrete(3)
    obs, _ = env.reset()
    steps = []
    while not (steps and (steps[-1][2] or steps[-1][3])):
        steps.append(env.step(0))
    assert [step[1] for step in steps] == [1.0] * len(steps)
    assert steps[-1][2:4] == (True, False)
    last, before = steps[-1][0]["image"], steps[-2][0]["image"]
    assert last.any()  # ViZDoom itself shows black now
    np.testing.assert_array_equal(last, before)
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(again["image"], obs["image"])
    env.close()
    assert not list(empty_folder.iterdir())


def test_doom_crops_from_below():
    env = make_env("VizdoomTakeCover-v1", seed=0)
    whole = make_env("VizdoomTakeCover-v1", seed=0, crop_rows=1.0)
    obs, full = env.reset()[0], whole.reset()[0]
    screen = env.unwrapped.state.screen_buffer
    assert screen.shape == (240, 320, 3)
    np.testing.assert_array_equal(obs["image"], resize(screen[:200], 64))  # 400 of 480
    np.testing.assert_array_equal(full["image"], resize(screen, 64))
    env.close()
    whole.close()


def test_doom_time_out_is_no_true_end():
    rows, stream = play("VizdoomMyWayHome-v1", 5, seed=0, action_repeat=4, episode_timeout=14)
    assert rows["is_last"][:, 0].tolist() == [False, False, False, False, True, False]
    assert not rows["is_terminal"].any()
    assert (stream.frames, stream.agent_steps) == (14, 4)
    assert rows["image"][4].any()


# ---- MineRL ----


class FakeMineRL:
    """The spaces that MineRL documents for its Navigate tasks, without Minecraft."""

    def __init__(self):
        self.observation_space = types.SimpleNamespace(spaces={"pov": types.SimpleNamespace(shape=(64, 64, 3))})
        self.commands, self.seeds, self.end = [], [], None

    def seed(self, seed):
        self.seeds.append(seed)

    def observe(self):
        pov = np.full((64, 64, 3), len(self.commands), np.uint8)
        return {"pov": pov, "compass": {"angle": np.array(-90.0)}, "inventory": {"dirt": np.array(32)}}

    def reset(self):
        return self.observe()

    def step(self, command):
        self.commands.append(command)
        return self.observe(), 0.5, self.end is not None, self.end or {}

    def close(self):
        pass


@pytest.fixture
def fake_minerl(monkeypatch):
    game = FakeMineRL()
    gym = types.ModuleType("gym")
    gym.make = lambda task: game if task == "MineRLNavigateDense-v0" else None
    monkeypatch.setitem(sys.modules, "gym", gym)
    monkeypatch.setitem(sys.modules, "minerl", types.ModuleType("minerl"))
    return game


def test_minerl_where_it_is_installed(fake_minerl, capsys):
    assert resolve_id("minecraft_navigate") == "minecraft_navigate"
    env = make_env("minecraft_navigate", seed=9)
    assert capsys.readouterr().out == ""
    obs, _ = env.reset()
    assert fake_minerl.seeds == [9]
    np.testing.assert_allclose(obs["vector"], [-1, 0, 0.5], atol=1e-6)  # sine, cosine, half a stack
    for action in range(env.action_space.n):
        obs, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated, info) == (0.5, False, False, {"frames": 1})
    assert obs["image"].shape == (64, 64, 3)
    assert (obs["image"] == env.action_space.n).all()
    keys = {"attack", "back", "camera", "forward", "jump", "left", "right", "sneak", "sprint", "place"}
    assert all(set(command) == keys for command in fake_minerl.commands)
    assert all(command["camera"].shape == (2,) for command in fake_minerl.commands)
    noop, forward, jump, *_, place = fake_minerl.commands
    assert (noop["forward"], noop["place"], noop["camera"].any()) == (0, "none", False)
    assert (forward["forward"], forward["jump"], jump["forward"], jump["jump"]) == (1, 0, 1, 1)
    assert place["place"] == "dirt"
    turns = [tuple(command["camera"]) for command in fake_minerl.commands if command["camera"].any()]
    assert turns == [(0, -15), (0, 15), (-15, 0), (15, 0)]


def test_minerl_ends(fake_minerl):
    env = make_env("minecraft_navigate", action_repeat=4)
    env.reset()
    fake_minerl.end = {"quit": True}
    _, reward, terminated, truncated, info = env.step(1)
    assert (reward, terminated, truncated, info["frames"]) == (0.5, True, False, 1)
    env.reset()
    fake_minerl.end = {"TimeLimit.truncated": True}
    assert env.step(1)[2:4] == (False, True)
    env.reset()
    env.unwrapped.steps, fake_minerl.end = 5999, {"quit": True}
    assert env.step(1)[2:4] == (False, True)
