"""The built-in environments: gymnasium's contract, batches against single environments, and rules checked by hand."""

from copy import deepcopy

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from common.tiny_envs import (
    SCORES,
    TinyCatchEnv,
    TinyCatchVectorEnv,
    TinyCraftEnv,
    TinyCraftVectorEnv,
    TinyRacerEnv,
    TinyRacerVectorEnv,
    TinyReacherEnv,
    TinyReacherVectorEnv,
    craft,
    episode_returns,
    racer,
    scripted_action,
)

IDS = list(SCORES)
VECTOR = {
    "TinyCatch-v0": TinyCatchVectorEnv,
    "TinyReacher-v0": TinyReacherVectorEnv,
    "TinyRacer-v0": TinyRacerVectorEnv,
    "TinyCraft-v0": TinyCraftVectorEnv,
}
SINGLE = {
    "TinyCatch-v0": TinyCatchEnv,
    "TinyReacher-v0": TinyReacherEnv,
    "TinyRacer-v0": TinyRacerEnv,
    "TinyCraft-v0": TinyCraftEnv,
}
every_env = pytest.mark.parametrize("env_id", IDS)


def random_actions(env_id, n, steps, seed=0):
    space = VECTOR[env_id](n).action_space
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


def assert_same(obs, other):
    assert obs.keys() == other.keys()
    for name in obs:
        np.testing.assert_array_equal(obs[name], other[name])


# ---- gymnasium's contract ----


@every_env
@pytest.mark.filterwarnings("error::UserWarning")
def test_gymnasium_accepts_it(env_id):
    check_env(gymnasium.make(env_id, render_mode="rgb_array").unwrapped)


@every_env
def test_registered_under_both_entry_points(env_id):
    env = gymnasium.make(env_id)
    assert env.observation_space["image"] == gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.spec.max_episode_steps is None  # the limit is the environment's own
    for wrapper in ("TimeLimit", "Autoreset"):
        assert wrapper not in str(env)
    envs = gymnasium.make_vec(env_id, num_envs=2, vectorization_mode="vector_entry_point")
    assert isinstance(envs, VECTOR[env_id])
    assert envs.num_envs == 2
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert envs.single_observation_space == env.observation_space
    assert envs.single_action_space == env.action_space
    assert envs.observation_space.contains(envs.reset(seed=0)[0])


@every_env
def test_batch_plays_what_single_environments_play(env_id):
    # gymnasium's own SyncVectorEnv over single environments is the reference, autoreset included.
    seeds = [3, 11, 3, 8]
    batch = VECTOR[env_id](4)
    singles = SyncVectorEnv([lambda: gymnasium.make(env_id)] * 4)
    obs = batch.reset(seed=seeds)[0]
    assert_same(obs, singles.reset(seed=seeds)[0])
    ends = np.zeros(4, int)
    for action in random_actions(env_id, 4, 450 if env_id == "TinyRacer-v0" else 120):
        obs, reward, terminated, truncated, _ = batch.step(action)
        expected = singles.step(action)
        assert_same(obs, expected[0])
        np.testing.assert_array_equal(reward, expected[1])
        np.testing.assert_array_equal(terminated, expected[2])
        np.testing.assert_array_equal(truncated, expected[3])
        assert not (terminated & truncated).any()
        ends += terminated | truncated
    assert ends.min() >= 2


@every_env
def test_next_step_autoreset(env_id):
    envs = VECTOR[env_id](2, max_episode_steps=3)
    envs.reset(seed=[1, 2])
    actions = random_actions(env_id, 2, 12)
    for t, action in enumerate(actions):
        fresh = deepcopy(envs)
        obs, reward, terminated, truncated, _ = envs.step(action)
        np.testing.assert_array_equal(truncated, t % 4 == 2)  # three steps, then one that only resets
        assert not terminated.any()
        if t % 4 == 3:
            assert reward.tolist() == [0, 0]
            assert_same(obs, fresh.reset()[0])


@every_env
def test_seeds(env_id):
    envs = VECTOR[env_id](3)
    first = envs.reset(seed=7)[0]["image"]
    assert_same({"image": first}, {"image": envs.reset(seed=[7, 8, 9])[0]["image"]})
    assert len(np.unique(first.reshape(3, -1), axis=0)) == 3  # every seed is another level
    second = envs.reset()[0]["image"]
    assert (second != first).any(axis=(1, 2, 3)).all()  # a stream runs on to new levels
    envs.reset(seed=7)
    mixed = envs.reset(seed=[9, None, 100])[0]["image"]
    np.testing.assert_array_equal(mixed[0], first[2])
    np.testing.assert_array_equal(mixed[1], second[1])
    with pytest.raises(ValueError, match="2 seeds for 3"):
        envs.reset(seed=[1, 2])


@every_env
def test_single_reset_without_seed_goes_on_to_a_new_level(env_id):
    env = gymnasium.make(env_id)
    levels = [env.reset(seed=4)[0]["image"], env.reset()[0]["image"], env.reset(seed=4)[0]["image"]]
    np.testing.assert_array_equal(levels[0], levels[2])
    assert (levels[0] != levels[1]).any()


@every_env
def test_a_copy_goes_on_alike(env_id):
    envs = VECTOR[env_id](2)
    envs.reset(seed=0)
    actions = random_actions(env_id, 2, 60)
    for action in actions[:5]:
        envs.step(action)
    other = deepcopy(envs)
    for action in actions[5:]:
        obs, reward, *_ = envs.step(action)
        expected, expected_reward, *_ = other.step(action)
        assert_same(obs, expected)
        np.testing.assert_array_equal(reward, expected_reward)


@every_env
def test_observations_are_not_overwritten(env_id):
    envs = VECTOR[env_id](2)
    obs = envs.reset(seed=0)[0]
    kept = deepcopy(obs)
    for action in random_actions(env_id, 2, 5):
        envs.step(action)
    assert_same(obs, kept)


@every_env
def test_two_environments_do_not_share_the_stream_of_their_action_space(env_id):
    one, other = gymnasium.make(env_id), gymnasium.make(env_id)
    one.action_space.seed(0)
    expected = [one.action_space.sample() for _ in range(6)]
    one.action_space.seed(0)
    got = []
    for _ in range(6):
        got.append(one.action_space.sample())
        other.action_space.sample()
    np.testing.assert_array_equal(got, expected)


@every_env
def test_render(env_id):
    env = gymnasium.make(env_id, render_mode="rgb_array")
    image = env.reset(seed=0)[0]["image"]
    frame = env.render()
    assert frame.shape == (256, 256, 3)
    assert frame.dtype == np.uint8
    np.testing.assert_array_equal(frame[1::4, 2::4], image)
    envs = VECTOR[env_id](2, render_mode="rgb_array")
    envs.reset(seed=0)
    np.testing.assert_array_equal(envs.render()[0], frame)
    with pytest.raises(ValueError, match="ansi"):
        VECTOR[env_id](2, render_mode="ansi")


@every_env
def test_misuse_is_refused(env_id):
    envs = VECTOR[env_id](2)
    (action,) = random_actions(env_id, 2, 1)
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step(action)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="shape"):
        envs.step(action[:1])
    wrong = np.full_like(action, -1) if action.ndim == 1 else np.full_like(action, np.nan)
    with pytest.raises(ValueError, match="an action is not"):
        envs.step(wrong)
    env = SINGLE[env_id](max_episode_steps=1)
    env.reset(seed=0)
    assert env.step(action[0])[3]
    with pytest.raises(gymnasium.error.ResetNeeded, match="ended"):
        env.step(action[0])


def test_continuous_actions_are_clipped():
    one, other = TinyReacherVectorEnv(1), TinyReacherVectorEnv(1)
    one.reset(seed=0), other.reset(seed=0)
    assert one.step(np.array([[7.0, -2.0]]))[1] == other.step(np.array([[1.0, -1.0]]))[1]


# ---- scores ----

# Standard deviations of an episode's return, (random, scripted), over 1000 episodes.
SPREAD = {
    "TinyCatch-v0": (0.91, 0),
    "TinyReacher-v0": (5.7, 0.84),
    "TinyRacer-v0": (4.1, 1.3),
    "TinyCraft-v0": (2.8, 2.2),
}


@every_env
def test_documented_scores(env_id):
    # Five standard errors of the two means together: a right table fails once in two million.
    n = 64
    seeds = range(10_000, 10_000 + n)
    policies = (lambda envs: envs.action_space.sample(), scripted_action)
    for policy, documented, spread in zip(policies, SCORES[env_id], SPREAD[env_id], strict=True):
        returns = episode_returns(env_id, policy, seeds)
        assert returns.shape == (n,)
        assert abs(returns.mean() - documented) <= 5 * spread * np.sqrt(1 / n + 1 / 1000) + 0.01


def test_scripted_policies_solve_their_tasks():
    assert (episode_returns("TinyCatch-v0", scripted_action, range(200)) == 1).all()
    assert (episode_returns("TinyReacher-v0", scripted_action, range(200)) > 20).all()
    assert (episode_returns("TinyRacer-v0", scripted_action, range(30)) >= 95).all()
    assert (episode_returns("TinyCraft-v0", scripted_action, range(30)) >= 10).all()  # each map is solvable


def test_scripted_action_of_wrapped_and_single_environments():
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("TinyCatch-v0"))
    env.reset(seed=5)
    envs = TinyCatchVectorEnv(3)
    envs.reset(seed=5)
    assert scripted_action(envs).shape == (3,)
    assert scripted_action(env) == scripted_action(envs)[0]


def test_normalised_score():
    score = SCORES["TinyReacher-v0"]
    assert score.normalise(score.random) == 0
    assert score.normalise(score.optimal) == 1
    assert score.normalise((score.random + score.optimal) / 2) == pytest.approx(0.5)


# ---- TinyCatch ----


def paddle_columns(image):
    """Columns with the paddle's colour in the paddle's middle row."""
    return np.flatnonzero((image[58] == (90, 214, 240)).all(-1))


def test_catch_moves_the_paddle_as_told():
    env = TinyCatchEnv()
    for action, move in ((0, -6), (1, 0), (2, 6)):
        env.reset(seed=0)
        env.batch.paddle[:] = 24
        obs = env.step(action)[0]
        assert paddle_columns(obs["image"]).tolist() == list(range(24 + move, 40 + move))
    env.batch.paddle[:] = 2
    obs = env.step(0)[0]
    assert paddle_columns(obs["image"]).tolist() == list(range(16))  # stopped by the wall
    env.batch.paddle[:] = 47
    obs = env.step(2)[0]
    assert paddle_columns(obs["image"]).tolist() == list(range(48, 64))


def test_catch_ball_falls_four_pixels_a_step():
    env = TinyCatchEnv()
    before = env.reset(seed=3)[0]["image"]
    after = env.step(1)[0]["image"]
    orange = [np.flatnonzero((image == (255, 168, 40)).all(-1).any(1)) for image in (before, after)]
    assert orange[1].min() - orange[0].min() == 4


@pytest.mark.parametrize(("offset", "reward"), [(0, 1), (8, 1), (-8, 1), (9, -1), (-9, -1)])
def test_catch_reward_only_at_the_end(offset, reward):
    env = TinyCatchEnv()
    env.reset(seed=0)
    env.batch.paddle[:] = 24  # its centre is column 32
    env.batch.ball[:, 0] = 32 + offset - 6
    for _ in range(10):
        assert env.step(1)[1:4] == (0.0, False, False)
    assert env.step(1)[1:4] == (reward, True, False)


def test_an_end_at_the_time_limit_is_an_end_not_a_truncation():
    env = TinyCatchEnv(max_episode_steps=11)
    env.reset(seed=0)
    flags = [env.step(1)[2:4] for _ in range(11)]
    assert flags == [(False, False)] * 10 + [(True, False)]


# ---- TinyReacher ----


def test_reacher_by_hand():
    env = TinyReacherEnv()
    env.reset(seed=0)
    env.batch.ball[:] = 0.2, 0.5
    env.batch.goal[:] = 0.5, 0.9
    obs, reward, *_ = env.step([1.0, 0.0])
    assert env.batch.ball.tolist() == [[0.32, 0.5]]
    assert reward == pytest.approx(1 - np.hypot(0.18, 0.4))
    row, col = (np.flatnonzero((obs["image"][..., 0] > 185).any(axis)) for axis in (1, 0))  # the red ball
    assert (row.min(), row.max(), col.min(), col.max()) == (26, 37, 17, 28)  # centres 8 + 48 * (0.5, 0.32)
    env.batch.ball[:] = 0.95, 0.01
    env.step([1.0, -1.0])
    assert env.batch.ball.tolist() == [[1.0, 0.0]]


def test_reacher_is_truncated_after_25_steps():
    env = TinyReacherEnv()
    env.reset(seed=0)
    flags = [env.step(env.scripted_action())[2:4] for _ in range(25)]
    assert flags == [(False, False)] * 24 + [(False, True)]


# ---- TinyRacer ----


def straight_racer():
    """A car on a straight road to the east, along row 200 from column 100 on, painted as the real ones are."""
    env = TinyRacerEnv()
    env.reset(seed=0)
    road = np.stack([100 + np.arange(racer.LAP) * 0.4, np.full(racer.LAP, 200.0)], -1)
    road[1:300, 0] = 100 + np.arange(1, 300)  # one pixel apart where we drive
    env.batch.road[0] = road
    env.batch.position[:] = road[0]
    env.batch.heading[:] = 0
    env.batch.map[0] = racer.GRASS
    env.batch.map[0, 190:210] = 2
    return env


def test_racer_speed_and_tiles_by_hand():
    env = straight_racer()
    assert env.step([0.0, -1.0])[1] == pytest.approx(-0.1)  # stands
    assert env.batch.position.tolist() == [[100.0, 200.0]]
    env.step([0.0, 1.0])
    assert env.batch.position[0, 0] == pytest.approx(100.6)  # a fifth of the way to full speed, 3
    env.step([0.0, 0.0])
    assert env.batch.speed[0] == pytest.approx(0.6 + 0.2 * (1.5 - 0.6))
    env.batch.position[0, 0], env.batch.place[0], env.batch.speed[0] = 104.2, 4, 0
    assert env.step([0.0, 1.0])[1] == pytest.approx(0.9)  # at 104.8 the nearest point, 105, is of the next tile
    assert env.step([0.0, 1.0])[1] == pytest.approx(-0.1)  # the same tile again
    env.batch.position[0, 0], env.batch.place[0] = 103, 3
    assert env.step([0.0, 0.0])[1] == pytest.approx(-0.1)  # a tile visited before
    env.batch.position[:], env.batch.place[0] = (113, 211), 13
    assert env.step([0.0, 0.0])[1] == pytest.approx(-0.1)  # a new tile, but beside the road


def test_racer_is_slow_on_grass_and_ends_far_off_the_road():
    env = straight_racer()
    env.batch.position[0, 1], env.batch.speed[0] = 211, 1.2
    env.step([0.0, 1.0])
    assert env.batch.speed[0] == pytest.approx(1.2)  # 40 % of full speed
    env.batch.position[0, 1] = 219.9
    assert env.step([0.0, -1.0])[1:4] == (pytest.approx(-0.1), False, False)
    env.batch.position[0, 1] = 220.1
    assert env.step([0.0, -1.0])[1:4] == (pytest.approx(-10.1), True, False)


def test_racer_steers_right_with_plus_one():
    env = straight_racer()
    env.batch.speed[:] = 3
    before = env.step([0.0, 1.0])[0]["image"]
    after = env.step([1.0, 1.0])[0]["image"]
    assert env.batch.heading[0] == pytest.approx(3 / 12)
    assert env.batch.position[0, 1] > 200  # south is to the right of east

    def road_column(image):
        return np.flatnonzero((image[20] == (128, 130, 138)).all(-1)).mean()

    assert road_column(before) == pytest.approx(31.5)
    assert road_column(after) < 26  # the road ahead swings to the left


def test_racer_image_is_the_map_seen_from_the_car():
    env = straight_racer()
    numbers = np.random.default_rng(0).integers(0, 6, (racer.MAP, racer.MAP))
    env.batch.map[0] = numbers
    for heading, ahead, right in ((0, (1, 0), (0, 1)), (np.pi / 2, (0, 1), (-1, 0)), (np.pi, (-1, 0), (0, -1))):
        env.batch.position[:] = 120.25, 200.25
        env.batch.heading[:] = heading
        image = env.batch._draw()[0]
        for row, col in ((0, 0), (0, 63), (20, 10), (63, 40), (35, 32)):
            forward, sideward = 49.5 - row, col - 31.5  # the car's centre lies between rows 49 and 50
            x, y = (120.25, 200.25) + forward * np.array(ahead) + sideward * np.array(right)
            assert image[row, col].tolist() == racer.COLOURS[numbers[int(y), int(x)]].tolist()


def test_racer_image_scrolls_down_while_driving():
    env = straight_racer()
    env.batch.map[0] = np.random.default_rng(0).integers(0, 6, (racer.MAP, racer.MAP))
    env.batch.position[:] = 120.25, 200.25
    before = env.batch._draw()[0]
    env.batch.position[0, 0] += 3
    after = env.batch._draw()[0]
    np.testing.assert_array_equal(after[3:40], before[:37])
    np.testing.assert_array_equal(after[43:57, 30:34], before[43:57, 30:34])  # the car stays


def test_racer_roads_can_be_driven():
    both = set()
    for seed in range(100):
        road = racer.make_road(np.random.default_rng(seed))
        step = np.diff(road, axis=0, append=road[:1])
        np.testing.assert_allclose(np.hypot(*step.T), 1, atol=0.02)  # closed, one pixel apart
        heading = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        bend = (heading[8:] - heading[:-8]) / 8
        assert np.abs(bend).max() < 1.05 / racer.MIN_RADIUS
        assert bend.max() > 1 / 60  # to the right,
        assert bend.min() < -1 / 60  # and to the left
        both.add(np.sign(heading[-1] - heading[0]))
        # No part of the road touches another one.
        gap = np.hypot(*(road[::4, None] - road[None, ::4]).transpose(2, 0, 1))
        apart = np.abs(np.subtract.outer(np.arange(180), np.arange(180)))
        assert gap[np.minimum(apart, 180 - apart) > 15].min() > 2 * racer.HALF_WIDTH + 4
        # Every view lies on the map: the farthest corner of a view from a car about to leave.
        reach = racer.LIMIT + racer.FULL_SPEED + np.hypot(50, 32)
        assert road.min() > reach
        assert road.max() < racer.MAP - reach
    assert both == {-1, 1}  # clockwise and not


def test_racer_paints_the_road_without_holes():
    road = racer.make_road(np.random.default_rng(0))
    painted = racer.make_map(road)
    row, col = np.indices(painted.shape) + 0.5
    distance = np.min([np.hypot(col - x, row - y) for x, y in road[::8]], axis=0)
    assert (painted[distance < racer.HALF_WIDTH - 1] >= 2).all()
    assert (painted[distance > racer.HALF_WIDTH + 2] < 2).all()
    assert np.isin(painted[distance < racer.HALF_WIDTH - 4], (2, 3)).all()


def test_racer_is_truncated_after_200_steps():
    env = TinyRacerEnv()
    env.reset(seed=0)
    flags = [env.step(env.scripted_action())[2:4] for _ in range(200)]
    assert flags == [(False, False)] * 199 + [(False, True)]


# ---- TinyCraft ----


def small_craft():
    """The player in the middle of grass, facing up; a tree right of it, gold below, water left, goal 3 up, 1 right."""
    env = TinyCraftEnv()
    env.reset(seed=0)
    batch = env.batch
    batch.cells[:] = craft.GRASS
    batch.player[:], batch.goal[:], batch.facing[:] = (9, 9), (6, 10), craft.UP
    batch.cells[0, 9, 10], batch.cells[0, 10, 9], batch.cells[0, 9, 8] = craft.TREE, craft.GOLD, craft.WATER
    batch.cells[0, 6, 10] = craft.GOAL
    return env


def cell(image, row, col):
    """The 12 x 12 pixels of the cell that is so many rows below and columns right of the player."""
    return image[26 + 12 * row : 38 + 12 * row, 26 + 12 * col : 38 + 12 * col]


def test_craft_gathers_what_the_player_faces():
    env = small_craft()
    obs, reward, *_ = env.step(craft.COLLECT)
    assert reward == 0  # it faces grass
    np.testing.assert_array_equal(cell(obs["image"], 0, 1), craft.TILES[craft.TREE])
    obs, reward, *_ = env.step(craft.RIGHT)  # blocked: turns only
    assert reward == 0
    assert env.batch.player.tolist() == [[9, 9]]
    np.testing.assert_array_equal(cell(obs["image"], 0, 0), craft.PLAYER_TILES[craft.RIGHT])
    obs, reward, *_ = env.step(craft.COLLECT)
    assert reward == 0.25
    np.testing.assert_array_equal(cell(obs["image"], 0, 1), craft.TILES[craft.GRASS])
    np.testing.assert_allclose(obs["vector"][3:], [1 / 6, 0])
    assert env.step(craft.COLLECT)[1] == 0  # the tree is gone
    env.step(craft.DOWN)
    obs, reward, *_ = env.step(craft.COLLECT)
    assert reward == 0.25
    np.testing.assert_allclose(obs["vector"][3:], [1 / 6, 1 / 3], rtol=1e-6)
    env.step(craft.LEFT)
    obs, reward, *_ = env.step(craft.COLLECT)  # nobody carries water away
    assert reward == 0
    np.testing.assert_array_equal(cell(obs["image"], 0, -1), craft.TILES[craft.WATER])


def test_craft_compass_and_goal():
    env = small_craft()
    obs = env.step(craft.NOTHING)[0]
    np.testing.assert_allclose(obs["vector"], [1 / np.sqrt(10), -3 / np.sqrt(10), np.sqrt(10 / 288), 0, 0], rtol=1e-6)
    for before, after in ((10, 5), (5, 2), (2, 1)):  # squared distances
        obs, reward, terminated, truncated, _ = env.step(craft.UP)
        assert reward == pytest.approx(before**0.5 - after**0.5)
        assert (terminated, truncated) == (False, False)
    np.testing.assert_array_equal(cell(obs["image"], 0, 1), craft.TILES[craft.GOAL])
    np.testing.assert_allclose(obs["vector"][:3], [1, 0, 1 / (12 * np.sqrt(2))], rtol=1e-6)
    obs, reward, terminated, truncated, _ = env.step(craft.RIGHT)
    assert (reward, terminated, truncated) == (pytest.approx(11), True, False)
    assert obs["vector"][:3].tolist() == [0, 0, 0]
    assert env.observation_space.contains(obs)


def test_craft_way_back_costs_what_the_way_there_gave():
    env = small_craft()
    rewards = [env.step(action)[1] for action in (craft.UP, craft.UP, craft.DOWN, craft.DOWN, craft.NOTHING)]
    assert rewards[0] > 0
    assert sum(rewards) == pytest.approx(0)
    assert rewards[-1] == 0


def test_craft_player_looks_where_it_faces():
    env = small_craft()
    for action, row, col in ((craft.UP, -1, 0), (craft.DOWN, 1, 0), (craft.LEFT, 0, -1), (craft.RIGHT, 0, 1)):
        env.batch.player[:] = 9, 9
        image = env.step(action)[0]["image"]
        eyes = np.argwhere((cell(image, 0, 0) == 255).all(-1)).mean(0) - 5.5
        np.testing.assert_allclose(np.sign(np.round(eyes)), (row, col))


def test_craft_image_scrolls_a_cell_a_step():
    env = small_craft()
    before = env.step(craft.NOTHING)[0]["image"]
    after = env.step(craft.UP)[0]["image"]
    np.testing.assert_array_equal(after[50:], before[38:52])  # what was below the player is a cell lower
    np.testing.assert_array_equal(cell(after, 1, 1), craft.TILES[craft.TREE])


def test_craft_distances():
    free = np.array([list(row) for row in ("#####", "#..##", "##.##", "#...#", "#####")]) == "."
    assert craft.distances(free, (1, 1))[1:4, 1:4].tolist() == [[0, 1, -1], [-1, 2, -1], [4, 3, 4]]


def test_craft_maps():
    for seed in range(100):
        cells, start, goal = craft.make_map(np.random.default_rng(seed))
        assert (cells == craft.TREE).sum() == 6
        assert (cells == craft.GOLD).sum() == 3
        assert (cells == craft.GOAL).sum() == 1
        assert cells[goal] == craft.GOAL
        assert cells[start] == craft.GRASS
        assert (cells[:3] == craft.WATER).all()
        assert (cells[:, -3:] == craft.WATER).all()
        # Flood the grass from the start, step by step, without the code under test.
        reached = np.zeros(cells.shape, bool)
        reached[start] = True
        way = 0
        while not reached[goal] and way < 50:
            spread = reached.copy()
            for axis in (0, 1):
                spread |= np.roll(reached, 1, axis) | np.roll(reached, -1, axis)
            reached = spread & np.isin(cells, (craft.GRASS, craft.GOAL))
            way += 1
        assert 8 <= way < 50


def test_craft_is_truncated_after_50_steps():
    env = TinyCraftEnv()
    env.reset(seed=0)
    flags = [env.step(craft.NOTHING)[2:4] for _ in range(50)]
    assert flags == [(False, False)] * 49 + [(False, True)]
