"""The replay: every row it returns is checked against where it came from, (stream, t)."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from common import replay_buffer
from common.errors import UserError
from common.replay_buffer import ReplayBuffer

LENGTHS = (7, 5, 11)  # episodes of stream 0, 1, 2


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 8, so that short tests meet many borders."""
    monkeypatch.setattr(replay_buffer, "chunk_length", lambda streams: 8)


def make_rows(t: int, streams: int = 3) -> dict[str, np.ndarray]:
    """The rows of time t: every value says which stream and t it belongs to."""
    stream = np.arange(streams)
    length = np.resize(LENGTHS, streams)
    pixels = np.stack([stream, np.full(streams, t % 256), np.full(streams, t // 256)], axis=1)
    return {
        "image": np.broadcast_to(pixels[:, None, None], (streams, 4, 2, 3)).astype(np.uint8),
        "prev_action": np.stack([stream, stream + t], axis=1).astype(np.float32),
        "reward": (1000 * stream + t).astype(np.float32),
        "is_first": t % length == 0,
        "is_terminal": np.zeros(streams, bool),
        "is_last": t % length == length - 1,
        "latent": (100 * stream + t + 0.5).astype(np.float16),
    }


def fill(ticks: int, streams: int = 3, capacity: int = 10_000, directory=None, start: int = 0) -> ReplayBuffer:
    replay = ReplayBuffer(capacity, directory=directory)
    extend(replay, ticks, start, streams)
    return replay


def extend(replay: ReplayBuffer, ticks: int, start: int | None = None, streams: int = 3) -> None:
    start = replay.end if start is None else start
    for t in range(start, start + ticks):
        replay.add(make_rows(t, streams))


def expected(stream: int, t: int, length: int, streams: int = 3) -> dict[str, np.ndarray]:
    rows = [make_rows(step, streams) for step in range(t, t + length)]
    return {key: np.stack([row[key][stream] for row in rows]) for key in rows[0]}


def assert_same(actual: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(actual) == list(wanted)
    for key in wanted:
        assert actual[key].dtype == wanted[key].dtype, key
        np.testing.assert_array_equal(actual[key], wanted[key], err_msg=key)


def everything(replay: ReplayBuffer) -> dict[str, np.ndarray]:
    starts = [(stream, replay.oldest) for stream in range(replay.streams)]
    return replay.windows(starts, replay.end - replay.oldest)


# -- windows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 8, 9, 17, 30])
def test_every_window_holds_its_own_rows(length):
    """30 rows in chunks of 8: all windows inside a chunk, over one border, over several."""
    replay = fill(30)
    starts = [(stream, t) for stream in range(3) for t in range(30 - length + 1)]
    windows = replay.windows(starts, length)
    for i, (stream, t) in enumerate(starts):
        assert_same({key: value[i] for key, value in windows.items()}, expected(stream, t, length))


def test_windows_are_fresh_contiguous_arrays_with_the_dtypes_of_add():
    replay = fill(20)
    windows = replay.windows([(0, 3), (2, 6)], 10)
    assert windows["image"].shape == (2, 10, 4, 2, 3)
    assert windows["reward"].shape == (2, 10)
    for key, value in windows.items():
        assert value.dtype == make_rows(0)[key].dtype
        assert value.flags.c_contiguous
        torch.from_numpy(value).zero_()  # writing to what was sampled...
    assert_same({k: v[1] for k, v in replay.windows([(0, 3), (2, 6)], 10).items()}, expected(2, 6, 10))  # ...stays out


def test_add_copies():
    rows = make_rows(0)
    rows["image"] = np.ascontiguousarray(rows["image"])
    replay = ReplayBuffer(100)
    replay.add(rows)
    for value in rows.values():
        value[...] = 1
    assert_same({key: value[2] for key, value in everything(replay).items()}, expected(2, 0, 1))


def test_add_takes_torch_tensors():
    replay = ReplayBuffer(100)
    replay.add({key: torch.from_numpy(value.copy()) for key, value in make_rows(0).items()})
    assert_same(everything(replay), everything(fill(1)))


def test_only_the_wanted_keys():
    assert list(fill(5).windows([(1, 2)], 3, keys=("reward", "latent"))) == ["reward", "latent"]


def test_a_single_stream_with_the_real_chunk_length(monkeypatch):
    monkeypatch.undo()
    assert [replay_buffer.chunk_length(streams) for streams in (1, 2, 8, 64)] == [1024, 512, 128, 128]
    replay = fill(1100, streams=1)
    assert_same(
        {key: value[0] for key, value in replay.windows([(0, 1000)], 64).items()},
        expected(0, 1000, 64, streams=1),
    )


# -- dropping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [30, 31, 32, 48])
def test_beyond_capacity_the_oldest_rows_go_one_by_one(capacity):
    """3 streams, so a capacity of 30, 31 or 32 rows is 10 rows of each stream."""
    replay = ReplayBuffer(capacity)
    kept = capacity // 3
    for t in range(100):
        replay.add(make_rows(t))
        assert (replay.oldest, replay.end) == (max(0, t + 1 - kept), t + 1)
        assert len(replay) == 3 * min(t + 1, kept) <= capacity
    for stream in range(3):
        rows = replay.windows([(stream, replay.oldest)], kept)
        assert_same({k: v[0] for k, v in rows.items()}, expected(stream, 100 - kept, kept))


def test_memory_stays_within_capacity_and_two_chunks():
    row_bytes = sum(value[0].nbytes for value in make_rows(0).values())
    replay = ReplayBuffer(48)
    for t in range(200):
        replay.add(make_rows(t))
        assert replay.nbytes <= row_bytes * (48 + 2 * 3 * 8)
    assert replay.nbytes >= row_bytes * 48


@pytest.mark.parametrize("start", [(0, 89), (0, 96), (0, -1), (-1, 92), (3, 92)])
def test_rows_that_are_not_stored_are_never_returned(start):
    """Rows 90..99 are: 89 was dropped but still lies in a chunk, 96 + 5 rows reach into the future."""
    replay = fill(100, capacity=30)
    replay.windows([(0, 90), (2, 95)], 5)
    with pytest.raises(IndexError, match="90 <= t < 100 of 3 streams"):
        replay.windows([(0, 92), start], 5)


def test_too_small_for_its_streams():
    with pytest.raises(UserError, match="2 rows is too small for 3"):
        fill(1, capacity=2)
    with pytest.raises(UserError, match="0 rows"):
        ReplayBuffer(0)


# -- sampling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [10_000, 60])
def test_starts_are_uniform_over_streams_and_both_ends(capacity):
    """20 stored rows of each of 3 streams, windows of 7: starts 0..13 from the oldest, 42 in all."""
    replay = fill(20 if capacity > 60 else 75, capacity=capacity)
    oldest = replay.end - 20
    assert replay.num_windows(7) == 42
    starts = replay.sample_starts(42_000, 7, np.random.default_rng(0))
    seen, counts = np.unique(starts, axis=0, return_counts=True)
    np.testing.assert_array_equal(seen, [(s, t) for s in range(3) for t in range(oldest, oldest + 14)])
    chi_square = np.sum((counts - 1000) ** 2 / 1000)
    assert chi_square < 100  # 41 degrees of freedom: a right answer exceeds it once in a million


def test_sampled_windows_are_the_rows_of_their_starts():
    replay = fill(50, capacity=90)
    starts = replay.sample_starts(100, 12, np.random.default_rng(3))
    windows = replay.sample_windows(100, 12, np.random.default_rng(3))
    for i, (stream, t) in enumerate(starts):
        assert_same({key: value[i] for key, value in windows.items()}, expected(stream, t, 12))


def test_sampling_is_reproducible_and_goes_on():
    replay, rng = fill(100), np.random.default_rng(1)
    first, second = replay.sample_starts(8, 5, rng), replay.sample_starts(8, 5, rng)
    np.testing.assert_array_equal(first, replay.sample_starts(8, 5, np.random.default_rng(1)))
    assert (first != second).any()


def test_too_little_replay_says_how_much_there_is_and_is_needed():
    with pytest.raises(UserError, match=r"holds 0 rows .* needs 5"):
        ReplayBuffer(100).sample_windows(2, 5, np.random.default_rng(0))
    replay = fill(4)
    assert replay.num_windows(5) == 0
    with pytest.raises(UserError, match=r"holds 4 rows of each of 3 environments, and a window needs 5"):
        replay.sample_windows(2, 5, np.random.default_rng(0))
    extend(replay, 1)
    assert replay.sample_windows(2, 5, np.random.default_rng(0))["reward"].shape == (2, 5)
    with pytest.raises(UserError, match="0 rows"):
        next(ReplayBuffer(100).iter_rows(["image"], 10))


# -- what add refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((3, 4, 2, 3), np.float32)}, r"image is uint8 .* float32"),
        ({"reward": np.zeros(3)}, r"reward is float32 .* float64"),
        ({"image": np.zeros((3, 8, 8, 3), np.uint8)}, r"image is uint8 \(3, 4, 2, 3\), .* \(3, 8, 8, 3\)"),
        ({"reward": np.zeros(2, np.float32)}, r"reward is float32 \(3,\), .* \(2,\)"),
        ({"surprise": np.zeros(3)}, r"'surprise'"),
        ({"reward": None}, "replay rows have"),
    ],
)
def test_rows_unlike_the_first_are_refused(change, message):
    replay = fill(5)
    rows = {key: value for key, value in {**make_rows(5), **change}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        replay.add(rows)
    assert replay.end == 5
    replay.add(make_rows(5))
    assert_same({k: v[0] for k, v in replay.windows([(1, 0)], 6).items()}, expected(1, 0, 6))


def test_first_rows_that_disagree_are_refused():
    with pytest.raises(UserError, match="is_first and is_last"):
        ReplayBuffer(100).add({"image": np.zeros((3, 4, 4, 3), np.uint8)})
    with pytest.raises(UserError, match="reward"):
        ReplayBuffer(100).add({**make_rows(0), "reward": np.zeros(2, np.float32)})


# -- episodes ------------------------------------------------------------------------------------------------


def flags(replay: ReplayBuffer, *streams: str) -> None:
    """One letter a row: f first, l last, b both, anything else neither."""
    for letters in zip(*streams, strict=True):
        is_first = np.array([letter in "fb" for letter in letters])
        replay.add({"is_first": is_first, "is_last": np.array([letter in "lb" for letter in letters])})


def test_index_of_episodes():
    replay = ReplayBuffer(100)
    assert len(replay.episodes()) == 0
    flags(replay, "f--lf-l-", "bf-f----")
    # In stream 1 one episode is a single row, and the next is broken off by a restart.
    assert replay.episodes().tolist() == [
        (0, 0, 4, True),
        (1, 0, 1, True),
        (1, 1, 2, False),
        (1, 3, 5, False),
        (0, 4, 4, False),
    ]
    flags(replay, "f", "l")
    assert replay.episodes().tolist()[3:] == [(1, 3, 6, True), (0, 4, 4, False), (0, 8, 1, False)]
    with pytest.raises(ValueError, match="read-only"):
        replay.episodes()["length"] = 1


def test_an_episode_leaves_the_index_with_its_first_row():
    replay = ReplayBuffer(20)  # 10 rows of each stream, chunks of 8
    flags(replay, "f--lf----l", "f--------l")
    assert replay.episodes().tolist() == [(0, 0, 4, True), (1, 0, 10, True), (0, 4, 6, True)]
    flags(replay, "f", "f")
    assert replay.episodes().tolist() == [(0, 4, 6, True), (0, 10, 1, False), (1, 10, 1, False)]
    flags(replay, "---------", "---------")
    assert replay.episodes().tolist() == [(0, 10, 10, False), (1, 10, 10, False)]
    flags(replay, "-", "-")  # longer than the replay: windows of it can still be had
    assert replay.episodes().tolist() == []
    assert replay.num_windows(10) == 2


@pytest.mark.parametrize("capacity", [10_000, 120])
def test_episodes_agree_with_the_rows(capacity):
    replay = fill(150, capacity=capacity)
    seen = set()
    for i, (stream, start, length, finished) in enumerate(replay.episodes().tolist()):
        rows = replay.episode(i)
        assert_same(rows, expected(stream, start, length))
        assert rows["is_first"].tolist() == [True] + [False] * (length - 1)
        assert rows["is_last"].tolist() == [False] * (length - 1) + [finished]
        seen.add((stream, start))
    assert seen == {(s, t) for s in range(3) for t in range(replay.oldest, 150) if t % LENGTHS[s] == 0}


# -- all rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [10_000, 60])
def test_iter_rows_gives_every_row_once(capacity):
    replay = fill(33, capacity=capacity)
    kept = range(replay.oldest, 33)
    wanted = [1000.0 * stream + t for stream in range(3) for t in kept]
    batches = list(replay.iter_rows(["reward", "image"], 7))
    assert [len(batch["reward"]) for batch in batches[:-1]] == [7] * (len(wanted) // 7)
    assert batches[0]["image"].shape == (7, 4, 2, 3)
    np.testing.assert_array_equal(np.concatenate([batch["reward"] for batch in batches]), wanted)

    def shuffled(seed):
        batches = list(replay.iter_rows(["reward", "image"], 7, np.random.default_rng(seed)))
        return np.concatenate([b["reward"] for b in batches]), np.concatenate([b["image"] for b in batches])

    reward, image = shuffled(0)
    assert (reward != wanted).any()
    np.testing.assert_array_equal(np.sort(reward), wanted)
    np.testing.assert_array_equal(reward, 1000.0 * image[:, 0, 0, 0] + image[:, 0, 0, 1])
    np.testing.assert_array_equal(reward, shuffled(0)[0])
    assert (reward != shuffled(1)[0]).any()


@pytest.mark.parametrize("batch", [3, 9, 10, 27, 100])
def test_iter_rows_has_no_empty_batch(batch):
    sizes = [len(rows["reward"]) for rows in fill(9).iter_rows(["reward"], batch)]
    assert sum(sizes) == 27
    assert min(sizes) > 0


# -- stored latents ------------------------------------------------------------------------------------------


def test_update_overwrites_these_rows_and_no_others():
    replay = fill(30)
    new = np.arange(24, dtype=np.float16).reshape(2, 12) - 100
    replay.update([(0, 5), (2, 13)], {"latent": new})  # over the borders at 8, 16 and 24
    wanted = {key: value.copy() for key, value in everything(fill(30)).items()}
    wanted["latent"][0, 5:17] = new[0]
    wanted["latent"][2, 13:25] = new[1]
    assert_same(everything(replay), wanted)


def test_update_where_windows_overlap_keeps_the_later():
    replay = fill(10)
    replay.update([(1, 0), (1, 2)], {"latent": np.array([[1, 1, 1], [2, 2, 2]], np.float16)})
    assert replay.windows([(1, 0)], 6)["latent"][0].tolist() == [1, 1, 2, 2, 2, 105.5]


def test_update_passes_over_rows_that_were_dropped():
    replay = fill(60, capacity=30)
    before = everything(replay)
    new = np.arange(-8, 0, dtype=np.float16).reshape(2, 4)
    replay.update([(0, 48), (1, 10)], {"latent": new})  # 48, 49 are gone, 50, 51 are not; 10..13 are long gone
    before["latent"][0, :2] = new[0, 2:]
    assert_same(everything(replay), before)


def test_a_latent_may_come_later_and_rows_without_it(tmp_path):
    """What was never written is zero: in rows from before, in rows that come without it, and after a restore."""
    replay = fill(30, directory=tmp_path)
    replay.update([(1, 28)], {"late": np.full((1, 2, 3), 7, np.uint8)})
    rows = {key: value[:, 0] for key, value in replay.windows([(s, 29) for s in range(replay.streams)], 1).items()}
    del rows["late"]
    replay.add(rows)
    for each in (replay, None):
        if each is None:
            replay.save()
            each = restored(tmp_path)
        late = each.windows([(1, 26), (0, 26)], 5)["late"]
        assert late.dtype == np.uint8
        assert late[0].tolist() == [[0] * 3, [0] * 3, [7] * 3, [7] * 3, [0] * 3]
        assert not late[1].any()


def test_update_refuses_what_happened_and_what_is_not_there():
    replay = fill(10)
    with pytest.raises(UserError, match=r"only stored latents \['latent'\] can be updated, not reward"):
        replay.update([(0, 0)], {"reward": np.zeros((1, 2), np.float32)})
    with pytest.raises(UserError, match=r"latent is float16 .* float32"):
        replay.update([(0, 0)], {"latent": np.zeros((1, 2), np.float32)})
    with pytest.raises(UserError, match="latent is"):
        replay.update([(0, 0), (1, 0)], {"latent": np.zeros((1, 2), np.float16)})
    with pytest.raises(IndexError):
        replay.update([(0, 9)], {"latent": np.zeros((1, 2), np.float16)})
    assert_same(everything(replay), everything(fill(10)))


# -- saving --------------------------------------------------------------------------------------------------


def restored(directory, capacity: int = 10_000) -> ReplayBuffer:
    replay = ReplayBuffer(capacity, directory=directory)
    replay.restore()
    return replay


def files(directory) -> dict[str, int]:
    """Name -> inode: a file that was written again has a new one, as it was renamed into place."""
    return {path.name: path.stat().st_ino for path in directory.iterdir() if path.suffix == ".npz"}


@pytest.mark.parametrize(("ticks", "capacity"), [(0, 60), (3, 60), (16, 60), (37, 10_000), (85, 60)])
def test_a_restored_replay_is_the_same_and_stays_the_same(tmp_path, ticks, capacity):
    original = fill(ticks, capacity=capacity, directory=tmp_path)
    original.save()
    twin = restored(tmp_path, capacity)
    for more in (0, 1, 40):
        extend(original, more)
        extend(twin, more)
        assert (twin.oldest, twin.end, len(twin)) == (original.oldest, original.end, len(original))
        assert twin.nbytes == original.nbytes
        assert twin.episodes().tolist() == original.episodes().tolist()
        if len(original):
            assert_same(everything(twin), everything(original))
            rngs = np.random.default_rng(5), np.random.default_rng(5)
            assert_same(twin.sample_windows(9, 1, rngs[0]), original.sample_windows(9, 1, rngs[1]))


def test_special_values_survive_byte_for_byte(tmp_path):
    replay = ReplayBuffer(10, directory=tmp_path)
    rows = {**make_rows(0), "reward": np.array([np.nan, -0.0, np.inf], np.float32)}
    replay.add(rows)
    replay.save()
    assert everything(restored(tmp_path))["reward"].tobytes() == rows["reward"].tobytes()


def test_full_chunks_are_written_once(tmp_path):
    replay = fill(20, directory=tmp_path)  # chunks 0 and 1 are full, chunk 2 is not
    replay.save()
    first = files(tmp_path)
    assert len(first) == 6
    extend(replay, 8)
    replay.save()
    second = files(tmp_path)
    kept = {name for name in first if name in second}
    assert {name[:-11] for name in kept} == {
        "rows-00000000",
        "latents-00000000",
        "rows-00000001",
        "latents-00000001",
    }
    assert all(first[name] == second[name] for name in kept)
    assert len(second) == 8
    replay.save()  # nothing new
    assert files(tmp_path) == second

    twin = restored(tmp_path)
    extend(twin, 1)
    twin.save()  # a restored replay does not write the full chunks again either
    assert sum(files(tmp_path).get(name) == inode for name, inode in second.items()) == 6
    assert restored(tmp_path).end == 29


def test_updated_latents_are_saved_without_their_rows(tmp_path):
    replay = fill(30, directory=tmp_path)
    replay.save()
    before = files(tmp_path)
    replay.update([(1, 6)], {"latent": np.full((1, 4), -2, np.float16)})  # rows 6..9: chunks 0 and 1
    replay.save()
    after = files(tmp_path)
    changed = sorted(name[:-11] for name in before if before[name] != after.get(name))
    assert changed == ["latents-00000000", "latents-00000001"]
    assert_same(everything(restored(tmp_path)), everything(replay))
    assert restored(tmp_path).windows([(1, 5)], 6)["latent"][0].tolist() == [105.5, -2, -2, -2, -2, 110.5]


def test_files_of_dropped_chunks_go(tmp_path):
    replay = fill(20, capacity=60, directory=tmp_path)
    replay.save()
    extend(replay, 100)  # rows 100..119 remain, in chunks 12, 13, 14
    replay.save()
    assert sorted({name.split("-")[1] for name in files(tmp_path)}) == ["00000012", "00000013", "00000014"]
    assert_same(everything(restored(tmp_path, capacity=60)), everything(replay))


def test_rows_without_latents_need_no_second_file(tmp_path):
    replay = ReplayBuffer(100, directory=tmp_path)
    flags(replay, "f--l")
    replay.save()
    assert len(files(tmp_path)) == 1
    assert restored(tmp_path).episodes().tolist() == [(0, 0, 4, True)]


def test_restore_replaces_what_was_there(tmp_path):
    saved = fill(20, directory=tmp_path)
    saved.save()
    replay = ReplayBuffer(100, directory=tmp_path)
    flags(replay, "f--l" + 16 * "-")
    assert len(replay.episodes()) == 1
    replay.restore()
    assert replay.episodes().tolist() == saved.episodes().tolist()
    assert_same(everything(replay), everything(saved))


def test_restore_into_a_smaller_replay_keeps_the_newest(tmp_path):
    fill(50, directory=tmp_path).save()
    replay = restored(tmp_path, capacity=30)
    assert (replay.oldest, replay.end) == (40, 50)
    assert_same(everything(replay), everything(fill(50, capacity=30)))


class Stop(BaseException):
    """A kill, as far as the folder can tell."""


@pytest.mark.parametrize("call", ["fsync", "replace", "unlink"])
def test_a_save_that_is_cut_off_leaves_the_last_complete_one(tmp_path, monkeypatch, call):
    """Cut off at its first write, at its second, ... until one gets through."""
    for survived in range(100):
        folder = tmp_path / str(survived)
        replay = fill(20, capacity=90, directory=folder)
        replay.save()
        before = everything(replay)
        extend(replay, 25)
        replay.update([(1, 35)], {"latent": np.full((1, 3), -3, np.float16)})
        after = everything(replay)

        calls, module = [], replay_buffer.Path if call == "unlink" else os
        real = getattr(module, call)

        def cut_off(*args, calls=calls, real=real, survived=survived, **kwargs):
            name = os.fspath(args[0]) if call != "fsync" else ""
            if not name.endswith(".tmp") or call == "replace":  # tidying up after an error is not a write
                calls.append(args)
            if len(calls) > survived:
                raise Stop
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(module, call, cut_off)
            try:
                replay.save()
                complete = True
            except Stop:
                complete = False
        assert_same(everything(restored(folder, 90)), after if complete or call == "unlink" else before)

        twin = restored(folder, 90)  # either the killed run goes on from the save...
        extend(twin, 3)
        twin.save()
        assert_same(everything(restored(folder, 90)), everything(twin))
        left = {path.name for path in folder.iterdir()} - {"replay.json"}
        assert left == {name for _, _, name in json.loads((folder / "replay.json").read_text())["files"]}
        if complete:
            assert survived >= 4
            assert call != "replace" or calls[-1][1] == folder / "replay.json"  # the manifest comes last
            return
    raise AssertionError("the save never got through")


def test_after_a_failed_save_the_same_replay_can_save_again(tmp_path, monkeypatch):
    replay = fill(20, directory=tmp_path)
    replay.save()
    extend(replay, 20)
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            replay.save()
    assert restored(tmp_path).end == 20
    extend(replay, 7)
    replay.save()
    assert_same(everything(restored(tmp_path)), everything(replay))


KILLED = """
import sys
from tests.common.test_replay_buffer import fill, extend, replay_buffer
replay_buffer.chunk_length = lambda streams: 8
replay = fill(5, capacity=300, directory=sys.argv[1])
while True:
    replay.save()
    print(replay.end, flush=True)
    extend(replay, 13)
"""


@pytest.mark.slow
def test_kill_9_while_saving(tmp_path):
    rng = np.random.default_rng(0)
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        process = subprocess.Popen([sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.3))  # about all of that time is spent saving
        process.send_signal(signal.SIGKILL)
        said = [5, *map(int, process.communicate()[0].split())]
        replay = restored(folder, 300)
        assert replay.end in (said[-1], said[-1] + 13)  # what was said to be saved is there
        for stream in range(3):
            rows = replay.windows([(stream, replay.oldest)], replay.end - replay.oldest)
            wanted = expected(stream, replay.oldest, replay.end - replay.oldest)
            assert_same({key: value[0] for key, value in rows.items()}, wanted)


def test_restore_without_a_save(tmp_path):
    with pytest.raises(UserError, match="no saved replay"):
        restored(tmp_path)
    with pytest.raises(ValueError, match="without a directory"):
        fill(3).save()


def test_another_replay_is_not_overwritten(tmp_path):
    fill(20, directory=tmp_path).save()
    with pytest.raises(UserError, match="holds another replay"):
        fill(3, directory=tmp_path).save()
    assert restored(tmp_path).end == 20


def test_damaged_files_are_named(tmp_path):
    replay = fill(20, directory=tmp_path)
    replay.save()
    path = sorted(tmp_path.glob("rows-*"))[1]
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(expected(0, 8, 8)["image"].tobytes()) + 5] ^= 1
    for content in (whole[:-30], b"", bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=path.name):
            restored(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=path.name):
        restored(tmp_path)
    (tmp_path / "replay.json").write_text("{")
    with pytest.raises(UserError, match=r"replay\.json is damaged"):
        restored(tmp_path)


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_among_the_files_are_not_run(tmp_path):
    replay = fill(3, directory=tmp_path)
    replay.save()
    trap = tmp_path / "trap"
    (path,) = tmp_path.glob("rows-*")
    np.savez(path, reward=np.array([[RunsCode(trap)]], object))
    with pytest.raises(UserError, match="rows-"):
        restored(tmp_path)
    assert not trap.exists()


# -- the papers' sampling rules, as samplers over the replay -------------------------------------------------


def sample_v1(replay, batch, length, rng):
    """Uniform over finished episodes that are long enough, then over the starts inside one."""
    episodes = replay.episodes()
    episodes = episodes[episodes["finished"] & (episodes["length"] >= length)]
    chosen = rng.choice(episodes, batch)
    start = chosen["start"] + rng.integers(chosen["length"] - length + 1)
    return replay.windows(np.stack([chosen["stream"], start], axis=1), length)


def sample_v2(replay, batch, length, rng, prioritize_ends=False):
    """V1's rule, the last start more often if wanted; every window starts from the zero state."""
    episodes = replay.episodes()
    episodes = episodes[episodes["finished"] & (episodes["length"] >= length)]
    chosen = rng.choice(episodes, batch)
    last = chosen["length"] - length
    start = chosen["start"] + np.minimum(rng.integers(last + 1 + length * prioritize_ends), last)
    rows = replay.windows(np.stack([chosen["stream"], start], axis=1), length)
    rows["is_first"][:, 0] = True
    return rows


class SampleV3:
    """New rows first, in windows that do not overlap; then uniform."""

    def __init__(self, replay, length):
        self.replay, self.length, self.queue, self.next = replay, length, [], 0

    def __call__(self, batch, rng):
        while self.next + self.length <= self.replay.end:
            self.queue += [(stream, self.next) for stream in range(self.replay.streams)]
            self.next += self.length
        self.queue = [(stream, t) for stream, t in self.queue if t >= self.replay.oldest]
        online, self.queue = self.queue[:batch], self.queue[batch:]
        uniform = self.replay.sample_starts(batch - len(online), self.length, rng)
        starts = np.concatenate([np.array(online, int).reshape(-1, 2), uniform])
        return starts, self.replay.windows(starts, self.length)


def sample_iris(replay, batch, length, rng, from_start=True):
    """Uniform over episodes; from a uniform start padded right, or up to a uniform end padded left."""
    episodes = rng.choice(replay.episodes(), batch)
    inside = rng.integers(episodes["length"])  # the first row of the segment, or its last
    out = {}
    for i, (stream, start, rows, _) in enumerate(episodes.tolist()):
        first = inside[i] if from_start else max(0, inside[i] + 1 - length)
        n = min(length, rows - first) if from_start else inside[i] + 1 - first
        where = slice(0, n) if from_start else slice(length - n, length)
        segment = replay.windows([(stream, start + first)], n)
        for key, value in {**segment, "mask": np.ones((1, n), bool)}.items():
            out.setdefault(key, np.zeros((batch, length, *value.shape[2:]), value.dtype))[i, where] = value[0]
    return out


def crosses_an_episode(rows):
    return rows["is_first"][:, 1:].any(axis=1)


def test_v1_stays_inside_an_episode_and_reaches_both_ends():
    """Windows of 6: episodes of 7 (starts 0 and 1) and 11 (starts 0 to 5); those of 5 are too short."""
    rows = sample_v1(fill(75, capacity=180), 3000, 6, np.random.default_rng(0))
    assert not crosses_an_episode(rows).any()
    stream, t = np.divmod(rows["reward"][:, 0].astype(int), 1000)
    assert set(stream) == {0, 2}
    assert set(t[stream == 0] % 7) == {0, 1}
    assert set(t[stream == 2] % 11) == set(range(6))
    assert rows["is_last"][:, -1].any()  # the last row of an episode can be had
    np.testing.assert_array_equal(rows["prev_action"][:, 0, 1], stream + t)  # the true one, also mid-episode


def test_v2_forces_is_first_and_can_favour_ends():
    replay = fill(99)
    rows = sample_v2(replay, 5000, 6, np.random.default_rng(0), prioritize_ends=True)
    assert rows["is_first"][:, 0].all()
    assert not crosses_an_episode(rows).any()
    stream, t = np.divmod(rows["reward"][:, 0].astype(int), 1000)
    last = (t % 11 == 5)[stream == 2]
    assert abs(last.mean() - 7 / 12) < 0.06  # min(uniform{0..11}, 5)
    assert replay.windows([(0, 1)], 2)["is_first"].tolist() == [[False, False]]  # the replay itself is untouched


def test_v3_trains_every_row_once_before_it_repeats_and_writes_latents_back():
    replay, rng = fill(13), np.random.default_rng(0)
    sample = SampleV3(replay, length=5)
    starts, rows = sample(4, rng)
    assert starts.tolist() == [[0, 0], [1, 0], [2, 0], [0, 5]]
    context = replay.windows(starts, 1, keys=["latent"])["latent"][:, 0]
    np.testing.assert_array_equal(context, [0.5, 100.5, 200.5, 5.5])
    replay.update(np.add(starts, (0, 1)), {"latent": np.full((4, 4), -1, np.float16)})  # not the context row
    assert replay.windows([(0, 0)], 10)["latent"].tolist() == [[0.5, -1, -1, -1, -1, 5.5, -1, -1, -1, -1]]
    extend(replay, 2)
    starts, rows = sample(20, rng)
    assert starts[:5].tolist() == [[1, 5], [2, 5], [0, 10], [1, 10], [2, 10]]
    assert sample.queue == []
    assert crosses_an_episode(rows).any()  # windows may run across an episode's end


def test_iris_takes_episodes_uniformly_and_pads():
    replay = ReplayBuffer(1000)
    flags(replay, "b" + "f" + "-" * 98)  # a finished episode of 1 row, a running one of 99
    right = sample_iris(replay, 2000, 20, np.random.default_rng(0))
    left = sample_iris(replay, 2000, 20, np.random.default_rng(0), from_start=False)
    for rows in (right, left):
        assert abs(rows["is_last"].any(axis=1).mean() - 0.5) < 0.06  # uniform over rows would give 1 %
        assert not rows["is_first"][~rows["mask"]].any()
    assert right["mask"][:, 0].all()
    assert left["mask"][:, -1].all()
    lengths = right["mask"].sum(axis=1)
    assert set(lengths) == set(range(1, 21))
    np.testing.assert_array_equal(right["mask"], np.arange(20) < lengths[:, None])


@pytest.mark.slow
def test_sampling_is_fast(monkeypatch):
    monkeypatch.undo()
    replay, image = ReplayBuffer(20_000), np.zeros((1, 64, 64, 3), np.uint8)
    for t in range(20_000):
        replay.add({**make_rows(t, 1), "image": image})
    rng, seconds = np.random.default_rng(0), []
    for _ in range(30):
        start = time.perf_counter()
        replay.sample_windows(16, 64, rng)
        seconds.append(time.perf_counter() - start)
    assert np.median(seconds) < 0.010  # 2 ms where this was written
