"""Chunks of training data: exercise 2.5."""

import numpy as np
import pytest

from common.errors import UserError
from common.replay_buffer import EPISODE, ReplayBuffer
from paper2_dreamerv1 import buffer
from tests.helpers import expect_close


def index(*episodes: tuple[int, int, int], finished: bool = True) -> np.ndarray:
    """An index of episodes given as (stream, start, length)."""
    return np.array([(*episode, finished) for episode in episodes], EPISODE)


def draw(episodes: np.ndarray, length: int, batch: int = 4000, seed: int = 0) -> np.ndarray:
    return buffer.sample_starts(episodes, batch, length, np.random.default_rng(seed))


@pytest.mark.exercise(id="2.5")
def test_chunks_stay_within_one_episode():
    episodes = index((0, 0, 60), (1, 0, 25), (0, 60, 40), (1, 25, 75))
    starts = draw(episodes, 20)
    assert starts.shape == (4000, 2)
    assert np.issubdtype(starts.dtype, np.integer)
    inside = [
        ((starts[:, 0] == e["stream"]) & (starts[:, 1] >= e["start"]) & (starts[:, 1] + 20 <= e["start"] + e["length"]))
        for e in episodes
    ]
    assert np.any(inside, 0).all(), "a chunk crosses the end of its episode"


@pytest.mark.exercise(id="2.5")
def test_first_and_last_row_are_both_in_reach():
    """60 rows, chunks of 50: starts 0 to 10. The official code stops at 9, and never sees row 59."""
    found = sorted(set(draw(index((0, 100, 60)), 50)[:, 1].tolist()))
    assert found != list(range(100, 110)), "the last row is never sampled: the upper bound is exclusive"
    assert found == list(range(100, 111))
    assert set(draw(index((2, 7, 50)), 50)[:, 1].tolist()) == {7}, "an episode of just this length has one chunk"


@pytest.mark.exercise(id="2.5")
def test_each_episode_has_all_of_its_starts():
    """A long episode's chunks reach its last row, whatever others are in the batch."""
    found = {tuple(start) for start in draw(index((0, 0, 20), (1, 0, 23), (2, 5, 30)), 20).tolist()}
    shortest = {(0, 0), (1, 0), (2, 5)}
    assert found != shortest, "all chunks begin where those of the shortest episode can"
    assert found == {(0, 0)} | {(1, t) for t in range(4)} | {(2, t) for t in range(5, 16)}


@pytest.mark.exercise(id="2.5")
def test_an_episode_that_still_runs_counts():
    """What is asked of an episode is its length: one that runs, or was broken off, has rows to learn from."""
    running = np.concatenate([index((0, 0, 40)), index((1, 0, 40), finished=False)])
    share = (draw(running, 20)[:, 0] == 1).mean()
    expect_close(share, 0.5, rtol=0, atol=0.05, mistakes={0.0: "only finished episodes are drawn"}, what="its share")


@pytest.mark.exercise(id="2.5")
def test_starts_are_uniform_within_an_episode():
    starts = draw(index((0, 0, 29)), 20, batch=20_000)[:, 1]
    share = np.bincount(starts, minlength=10) / 20_000
    expect_close(share, 0.1, rtol=0, atol=0.0125, what="share of each start")  # six standard deviations


@pytest.mark.exercise(id="2.5")
def test_episodes_are_uniform_whatever_their_length():
    """The long one is not taken more often: that would be uniform over chunks."""
    starts = draw(index((0, 0, 20), (1, 0, 500), (2, 0, 21), (3, 0, 19)), 20, batch=9000)
    share = np.bincount(starts[:, 0], minlength=4) / 9000
    mistakes = {(1 / 484, 481 / 484, 2 / 484, 0.0): "chunks are drawn uniformly: first draw an episode, then its chunk"}
    expect_close(share, [1 / 3, 1 / 3, 1 / 3, 0], rtol=0, atol=0.03, mistakes=mistakes, what="share of each episode")


@pytest.mark.exercise(id="2.5")
def test_each_chunk_is_drawn_anew():
    """Several episodes in one batch, several starts of one episode, and one episode may occur twice."""
    starts = draw(index(*[(i, 0, 40) for i in range(3)]), 20, batch=64)
    assert len(set(starts[:, 0].tolist())) == 3
    assert len(set(map(tuple, starts.tolist()))) > 20
    # 64 independent draws from 3 x 21 chunks: without a repetition they would be a permutation
    assert len(set(map(tuple, starts.tolist()))) < 60
    rng, two = np.random.default_rng(0), index((0, 0, 40), (1, 0, 40))
    batches = [buffer.sample_starts(two, 2, 20, rng)[:, 0].tolist() for _ in range(400)]
    same = np.mean([first == second for first, second in batches])
    mistakes = {0.0: "no episode comes twice before all have come once: the draws are not independent"}
    expect_close(same, 0.5, rtol=0, atol=0.15, mistakes=mistakes, what="how often two chunks are of one episode")
    assert {first for first, _ in batches} == {0, 1}, "the first chunk is always of the same episode"


@pytest.mark.exercise(id="2.5")
def test_episode_and_start_are_independent():
    """With one start for the whole batch, or one random number for both draws, some pairs would never occur."""
    starts = draw(index((0, 0, 21), (1, 0, 21)), 20, batch=400)
    pairs = {tuple(pair) for pair in starts.tolist()}
    assert pairs == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.exercise(id="2.5")
def test_draws_come_from_the_generator_alone():
    episodes = index((0, 0, 60), (1, 0, 80))
    np.random.seed(1)  # noqa: NPY002  that this changes nothing is what is tested
    first = draw(episodes, 20, batch=50, seed=3)
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(first, draw(episodes, 20, batch=50, seed=3))
    assert not np.array_equal(first, draw(episodes, 20, batch=50, seed=4))
    rng = np.random.default_rng(5)
    again = [buffer.sample_starts(episodes, 50, 20, rng) for _ in range(2)]
    assert not np.array_equal(*again), "two calls with one generator give the same chunks"


def test_no_episode_that_is_long_enough_is_an_error_of_one_line():
    with pytest.raises(UserError, match="no episode has the 20 rows of a chunk, the longest in the replay has 19"):
        draw(index((0, 0, 19), (1, 0, 5)), 20)


def test_batch_from_a_replay_does_not_mix_episodes():
    """Two episodes, all black and all white; the rows of a chunk are consecutive, their previous actions as played."""
    replay = ReplayBuffer(1000)
    for t in range(60):
        replay.add(
            {
                "image": np.full((1, 4, 4, 3), 0 if t < 30 else 255, np.uint8),
                "prev_action": np.full((1, 1), t, np.float32),
                "reward": np.zeros(1, np.float32),
                "is_first": np.array([t in (0, 30)]),
                "is_terminal": np.array([False]),
                "is_last": np.array([t in (29, 59)]),
            }
        )
    rows = buffer.sample_batch(replay, 64, 20, np.random.default_rng(0))
    assert rows["image"].dtype == np.uint8
    assert (rows["image"].min((1, 2, 3, 4)) == rows["image"].max((1, 2, 3, 4))).all()
    assert (np.diff(rows["prev_action"][..., 0], axis=1) == 1).all()
    assert not rows["is_first"][:, 1:].any()
    assert not rows["is_last"][:, :-1].any()
