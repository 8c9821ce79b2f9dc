"""What a training batch is made of, and how often one is due. All of it is given."""

import numpy as np
import pytest

from common.errors import UserError
from common.replay_buffer import ReplayBuffer
from paper4_dreamerv3.replay import ReplaySampler, updates_due
from tests.helpers import expect_close


def make_replay(rows: int, streams: int = 2, capacity: int = 100_000) -> ReplayBuffer:
    """The reward of row t in stream s is 1000 s + t; episodes have 9 rows."""
    replay = ReplayBuffer(capacity)
    for t in range(rows):
        replay.add(
            {
                "reward": (1000 * np.arange(streams) + t).astype(np.float32),
                "is_first": np.full(streams, t % 9 == 0),
                "is_last": np.full(streams, t % 9 == 8),
            }
        )
    return replay


def grow(replay: ReplayBuffer, rows: int) -> None:
    for t in range(replay.end, replay.end + rows):
        reward = (1000 * np.arange(replay.streams) + t).astype(np.float32)
        flag = np.zeros(replay.streams, bool)
        replay.add({"reward": reward, "is_first": flag, "is_last": flag})


def drawn(sampler: ReplaySampler, replay: ReplayBuffer, seed: int = 0) -> list[tuple[int, int]]:
    _, starts = sampler.sample(replay, np.random.default_rng(seed))
    return [tuple(start) for start in starts.tolist()]


def test_a_batch_holds_one_row_more_than_is_trained_on():
    """Consecutive rows of one stream, from where the batch says that each window begins."""
    rows, starts = ReplaySampler(5, 6).sample(make_replay(40), np.random.default_rng(0))
    assert {key: value.shape for key, value in rows.items()} == dict.fromkeys(("reward", "is_first", "is_last"), (5, 7))
    assert starts.shape == (5, 2)
    assert (rows["reward"] == 1000 * starts[:, :1] + starts[:, 1:] + np.arange(7)).all()


def test_new_windows_come_first_each_once_without_overlap():
    """Rows 0 to 6 of each stream, rows 7 to 13, ...: the online queue. Only then windows anywhere."""
    replay, sampler = make_replay(42, streams=3), ReplaySampler(4, 6)
    found = [start for _ in range(4) for start in drawn(sampler, replay)]
    assert found == [(stream, t) for t in range(0, 36, 7) for stream in range(3)][:16]
    found += drawn(sampler, replay)
    assert found[:18] == [(stream, t) for t in range(0, 36, 7) for stream in range(3)]
    assert sampler.taken == 18
    later = [start for seed in range(50) for start in drawn(sampler, replay, seed)]
    assert sampler.taken == 18, "a window of the queue is handed out once"
    assert len({t for _, t in later}) > 30, "behind the queue windows begin anywhere"


def test_queue_goes_on_when_rows_arrive():
    """A window is new when all of its rows are there: not after 13 rows, after 14."""
    replay, sampler = make_replay(7), ReplaySampler(2, 6)
    assert drawn(sampler, replay) == [(0, 0), (1, 0)]
    grow(replay, 6)
    drawn(sampler, replay)
    assert sampler.taken == 2
    grow(replay, 1)
    assert drawn(sampler, replay) == [(0, 7), (1, 7)]
    assert sampler.taken == 4


def test_a_batch_is_filled_up_by_chance():
    """Three windows are new, five are wanted; the others depend on the generator."""
    batches = []
    for seed in (0, 0, 1):
        replay, sampler = make_replay(20, streams=3), ReplaySampler(5, 12)
        batches.append(drawn(sampler, replay, seed))
        assert batches[-1][:3] == [(0, 0), (1, 0), (2, 0)]
    assert batches[0] == batches[1] != batches[2]


def test_chance_is_uniform_over_all_windows():
    """Two streams, twelve starts each. Six standard deviations of a share of 1/24 in 9,600 draws."""
    replay, sampler = make_replay(18), ReplaySampler(9_600, 6)
    sampler.taken = 10**6
    starts = np.array(drawn(sampler, replay))
    shares = np.bincount(starts[:, 0] * 12 + starts[:, 1], minlength=24) / 9_600
    expect_close(shares, 1 / 24, rtol=0, atol=0.0123, what="share of each window")


def test_windows_run_across_the_end_of_an_episode():
    rows, _ = ReplaySampler(200, 6).sample(make_replay(40), np.random.default_rng(0))
    assert rows["is_last"][:, :-1].any()
    assert rows["is_first"][:, 1:].any()


def test_an_episode_that_was_broken_off_ends_where_it_does():
    """A run that is resumed begins new episodes: the row before is an episode's last, though nobody knew it then. What
    the replay holds stays as it was."""
    replay = make_replay(12)
    for t in (12, 13, 14, 15):
        flags = {"is_first": np.full(2, t == 12), "is_last": np.zeros(2, bool)}
        replay.add({"reward": np.full(2, t, np.float32), **flags})
    sampler = ReplaySampler(2, 13)
    rows, starts = sampler.sample(replay, np.random.default_rng(0))
    assert starts[:, 1].tolist() == [0, 0]
    assert np.flatnonzero(rows["is_last"][0]).tolist() == [8, 11]
    assert np.flatnonzero(rows["is_first"][0]).tolist() == [0, 9, 12]
    kept = replay.windows(starts, 14)
    assert np.flatnonzero(kept["is_last"][0]).tolist() == [8]


def test_rows_that_were_dropped_are_passed_over():
    """Of 60 rows the last 20 of each stream are left: the queue goes on with the windows that are whole."""
    replay, sampler = make_replay(60, capacity=40), ReplaySampler(4, 6)
    oldest = replay.oldest
    assert oldest > 7
    starts = drawn(sampler, replay)
    queue = [(stream, t) for t in range(0, 53, 7) if t >= oldest for stream in range(2)]
    assert starts == queue[:4]


def test_queue_goes_on_from_a_checkpoint():
    replay, sampler = make_replay(70), ReplaySampler(4, 6)
    drawn(sampler, replay)
    resumed = ReplaySampler(4, 6)
    resumed.taken = sampler.taken
    assert drawn(resumed, replay) == drawn(sampler, replay) == [(0, 14), (1, 14), (0, 21), (1, 21)]


@pytest.mark.parametrize(("streams", "batch", "length"), [(1, 16, 64), (16, 16, 64), (4, 16, 64), (3, 5, 6), (7, 2, 3)])
def test_training_begins_with_a_batch_of_windows(streams, batch, length):
    """16 streams: 1024 windows of 65 rows are there after 128 rows of each."""
    first = ReplaySampler(batch, length).first_row(streams)
    windows = lambda rows: streams * max(0, rows - length)
    assert windows(first) >= batch * length > windows(first - 1)
    if (streams, batch) == (16, 16):
        assert first == 128


def test_no_window_is_an_error_of_one_line():
    with pytest.raises(UserError, match="a window needs 7"):
        ReplaySampler(2, 6).sample(make_replay(6), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("ratio", "updates"), [(32.0, 313), (128.0, 1250), (256.0, 2500), (512.0, 5000), (1024.0, 10_000)]
)
def test_updates_of_ten_thousand_rows(ratio, updates):
    """One at once, then ratio / 1024 for each row; nothing before there is a batch."""
    assert updates_due(1087, 1088, ratio, 1024) == 0
    assert updates_due(1088, 1088, ratio, 1024) == 1
    assert updates_due(1088 + 9_999, 1088, ratio, 1024) == updates


def test_no_fraction_of_an_update_is_lost():
    """A ratio of 0.7 with 10 rows in a batch: an update every 14.3 rows, however the rows arrive."""
    counts = [updates_due(rows, 50, 0.7, 10) for rows in range(50, 1051)]
    assert counts[0] == 1
    assert counts[-1] == 71
    assert set(np.diff(counts)) == {0, 1}
    assert set(np.diff(np.flatnonzero(np.diff(counts)))) == {14, 15}
