"""What a batch of segments is made of: exercise 5.15."""

import numpy as np
import pytest

from common.errors import UserError
from common.replay_buffer import ReplayBuffer
from paper5_iris import segments
from paper5_iris.segments import sample_segments
from tests.helpers import expect_close, golden, numbers

# ---- 5.15 draw_segment ----


def drawn(frames: int, length: int, left: bool, draws: int = 6_000) -> dict[tuple[int, int], float]:
    """How often each (start, stop) comes."""
    rng = np.random.default_rng(0)
    found = [segments.draw_segment(frames, length, left, rng) for _ in range(draws)]
    pieces, counts = np.unique(found, axis=0, return_counts=True)
    return {tuple(piece): count / draws for piece, count in zip(pieces.tolist(), counts, strict=True)}


@pytest.mark.exercise(id="5.15")
@pytest.mark.parametrize(
    ("frames", "length", "left", "expected"),
    [
        (5, 3, False, [(0, 3), (1, 4), (2, 5), (3, 5), (4, 5)]),
        (5, 3, True, [(0, 1), (0, 2), (0, 3), (1, 4), (2, 5)]),
        (3, 7, False, [(0, 3), (1, 3), (2, 3)]),
        (3, 7, True, [(0, 1), (0, 2), (0, 3)]),
        (4, 4, False, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (4, 4, True, [(0, 1), (0, 2), (0, 3), (0, 4)]),
        (4, 1, False, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        (4, 1, True, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        (1, 3, False, [(0, 1)]),
        (1, 3, True, [(0, 1)]),
    ],
)
def test_every_frame_is_as_often_the_first_or_the_last(frames, length, left, expected):
    """All pieces there are, each as often as the others: in 6,000 draws 6 standard deviations are 0.039 at most."""
    shares = drawn(frames, length, left)
    known = {
        (0, 1): "a piece may be as short as its episode's beginning: the STOP is uniform, from 1 on",
        (0, frames): "a piece has at most `length` frames",
        (frames - 1, frames): "the START is uniform over all frames, the last one too",
        (frames - length, frames): "the STOP may be the episode's end, `frames`",
        (0, 0): "a piece has at least one frame",
        (frames, frames): "a piece has at least one frame",
    }
    missing, surplus = sorted(set(expected) - shares.keys()), sorted(shares.keys() - set(expected))
    hints = sorted({f"\n  -> {known[piece]}" for piece in (*missing, *surplus) if piece in known})
    assert not missing + surplus, (
        f"of an episode of {frames} frames, padding to the {'left' if left else 'right'}, length {length}: "
        f"never drawn {missing}, drawn though it should not be {surplus}{''.join(hints)}"
    )
    expect_close(
        [shares[piece] for piece in expected], 1 / len(expected), rtol=0, atol=0.039, what=f"shares of {expected}"
    )


class Counted(np.random.Generator):
    """A generator that counts how often it is asked for integers, and for how many."""

    drawn = 0

    def integers(self, *args, **kwargs):
        result = super().integers(*args, **kwargs)
        self.drawn += np.size(result)
        return result


@pytest.mark.exercise(id="5.15")
@pytest.mark.parametrize("left", [False, True])
def test_one_integer_is_drawn_of_the_generator(left):
    """All chance is in it: the same generator gives the same pieces."""
    rng, pieces = Counted(np.random.PCG64(1)), []
    for _ in range(20):
        pieces.append(segments.draw_segment(50, 8, left, rng))
    assert rng.drawn == 20, f"{rng.drawn} integers are drawn for 20 pieces"
    again = np.random.default_rng(1)
    assert pieces == [segments.draw_segment(50, 8, left, again) for _ in range(20)], "other chance than the generator's"
    lengths = {stop - start for start, stop in pieces}
    assert max(lengths) == 8, f"of an episode of 50 frames pieces of {sorted(lengths)} frames are drawn"


# ---- sample_segments: given ----


def fill(replay: ReplayBuffer, *streams: list[tuple[int, str]]) -> ReplayBuffer:
    """Episodes of (rows, how they end): "end", "cut" by a time limit, "open". Row t of stream s has the reward
    100 s + t, a picture that says s, t and which episode of the stream it is, and the action t mod 3 behind it."""
    rows = [
        (stream, episode, k, last == k and how)
        for stream, episodes in enumerate(streams)
        for episode, (length, how) in enumerate(episodes)
        for last in (length - 1,)
        for k in range(length)
    ]
    of_stream = [[each for each in rows if each[0] == stream] for stream in range(len(streams))]
    for t, each in enumerate(zip(*of_stream, strict=True)):
        _, episode, k, ending = (np.array(column) for column in zip(*each, strict=True))
        stream = np.arange(len(streams))
        image = np.stack([stream, np.full_like(stream, t), episode], -1).astype(np.uint8)
        action = np.eye(3, dtype=np.float32)[np.full(len(streams), (t - 1) % 3)]
        replay.add(
            {
                "image": np.broadcast_to(image[:, None, None] + 1, (len(streams), 2, 2, 3)),
                "prev_action": np.where((k == 0)[:, None], 0, action).astype(np.float32),
                "reward": np.where(k == 0, 0, 100 * stream + t).astype(np.float32),
                "is_first": k == 0,
                "is_terminal": ending == "end",
                "is_last": (ending == "end") | (ending == "cut"),
            }
        )
    return replay


def played(*streams: list[tuple[int, str]]) -> ReplayBuffer:
    return fill(ReplayBuffer(100_000), *streams)


def sampled(replay: ReplayBuffer, batch: int, length: int, left: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    return sample_segments(replay, batch, length, np.random.default_rng(seed), left=left)


def where_from(batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(stream, t, episode) of every frame, -1 where there is padding."""
    stream, t, episode = np.moveaxis(batch["image"][:, :, 0, 0].astype(int) - 1, -1, 0)
    return stream, t, episode


@pytest.mark.exercise(id="5.15")
@pytest.mark.parametrize("left", [False, True])
def test_padding_is_on_its_side(left):
    """Behind a piece for the world model, before it for the policy, whose last frame is always real."""
    batch = sampled(played([(4, "end"), (9, "cut"), (6, "end")]), 300, 5, left)
    real = batch["real"]
    assert real.dtype == bool
    assert real.any(1).all()
    assert (~real).any()
    inner = real[:, 1:] >= real[:, :-1] if left else real[:, 1:] <= real[:, :-1]
    assert inner.all(), "padding on the wrong side, or in the middle"
    assert real[:, -1 if left else 0].all()
    for key in ("image", "action", "reward", "end"):
        assert not batch[key][~real].any(), f"the padding of {key} is not zeros"


@pytest.mark.exercise(id="5.15")
@pytest.mark.parametrize("left", [False, True])
def test_what_followed_a_frame_lies_beside_it(left):
    """The action taken on it, and the reward and end that it led to, which the next row holds; a time limit is no end.
    No piece is of two episodes, and an episode's last row is no frame."""
    episodes = [[(4, "end"), (9, "cut"), (6, "end")], [(7, "cut"), (12, "end")]]
    batch = sampled(played(*episodes), 400, 4, left)
    stream, t, episode = where_from(batch)
    real = batch["real"]
    assert set(zip(stream[real].tolist(), episode[real].tolist(), strict=True)) == {
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
    }
    ends = {(0, 3): True, (0, 12): False, (0, 18): True, (1, 6): False, (1, 18): True}
    for i in range(400):
        kept = real[i]
        assert len(set(zip(stream[i, kept], episode[i, kept], strict=True))) == 1, "a piece is of two episodes"
        assert (np.diff(t[i, kept]) == 1).all(), "the frames are not one behind the other"
        for s, at, action, reward, end in zip(
            *(x[i, kept] for x in (stream, t, batch["action"], batch["reward"], batch["end"])), strict=True
        ):
            assert (s, at) not in ends, "an episode's last row is a frame: nobody acts on it"
            assert action.tolist() == np.eye(3)[at % 3].tolist(), "the action taken on the frame is the next row's"
            assert reward == 100 * s + at + 1, "the reward that followed the frame is the next row's"
            assert end == ends.get((s, at + 1), False)
    assert batch["end"].dtype == bool
    assert batch["end"].any()


def test_short_episodes_come_as_often_as_long_ones():
    """One of 1 frame, one of 99: each about half, in 1,500 draws within 6 standard deviations. Drawn by frames, it
    would be 1 in 100."""
    for left in (False, True):
        _, _, episode = where_from(sampled(played([(2, "end"), (100, "end")]), 1_500, 1, left))
        share = (episode == 0).mean()
        mistakes = {0.01: "drawn uniformly over frames", 2 / 102: "drawn uniformly over rows"}
        expect_close(share, 0.5, rtol=0, atol=0.078, mistakes=mistakes, what="share of the episode of one frame")


def test_start_and_stop_are_uniform_within_an_episode():
    """Nine frames: padding to the right, each is as often a piece's first; to the left, its last. In 3,000 draws 6
    standard deviations are 0.035."""
    replay = played([(10, "end")])
    for left in (False, True):
        batch = sampled(replay, 3_000, 4, left)
        _, t, _ = where_from(batch)
        shares = np.bincount(t[:, -1 if left else 0], minlength=9) / 3_000
        expect_close(shares, 1 / 9, rtol=0, atol=0.035, what="share of each frame")


def test_running_episodes_count():
    """As far as they have come; also one that was broken off when a run was resumed. A single row is no frame."""
    replay = played([(4, "end"), (3, "open"), (3, "open")], [(9, "open"), (1, "open")])
    batch = sampled(replay, 300, 3)
    stream, t, episode = where_from(batch)
    found = {each: set() for each in ((0, 0), (0, 1), (0, 2), (1, 0))}
    for s, e, at in zip(*(x[batch["real"]].tolist() for x in (stream, episode, t)), strict=True):
        found[s, e].add(at)
    assert found == {(0, 0): {0, 1, 2}, (0, 1): {4, 5}, (0, 2): {7, 8}, (1, 0): set(range(8))}


def test_a_batch_depends_on_the_generator_alone():
    replay = played([(4, "end"), (9, "cut"), (6, "end")])
    one, two, other = (sampled(replay, 20, 4, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(one[key], two[key]) for key in one)
    assert not np.array_equal(one["image"], other["image"])
    assert one.keys() == {"image", "action", "reward", "end", "real"}
    assert one["image"].dtype == np.uint8
    assert one["action"].dtype == one["reward"].dtype == np.float32


@pytest.mark.parametrize("rows", [0, 1])
def test_a_replay_without_a_step_is_an_error_of_one_line(rows):
    replay = fill(ReplayBuffer(10), [(1, "open")] * rows) if rows else ReplayBuffer(10)
    with pytest.raises(UserError, match="holds no step of an episode yet"):
        sampled(replay, 2, 3)


def test_segments_agree_with_the_official_code(monkeypatch):
    """An episode of six frames, cut at (0, 4), at (4, 8), where two are missing, and at (-3, 2), where three are."""
    g = golden("iris_episode_segment")
    replay = ReplayBuffer(100)
    frames = np.moveaxis(g["observations"], 1, -1)
    for t in range(7):
        before = max(t - 1, 0)
        replay.add(
            {
                "image": frames[[min(t, 5)]],
                "prev_action": np.eye(3, dtype=np.float32)[g["actions"][[before]]] * (t > 0),
                "reward": g["rewards"][[before]] * (t > 0),
                "is_first": np.array([t == 0]),
                "is_terminal": np.array([t == 6]),
                "is_last": np.array([t == 6]),
            }
        )
    for i, (start, stop) in enumerate(g["segments"].tolist()):
        cut = max(start, 0), min(stop, 6)
        monkeypatch.setattr(segments, "draw_segment", lambda *args, cut=cut: cut)
        found = {key: value[0] for key, value in sampled(replay, 1, stop - start, left=start < 0).items()}
        official = {key: g[f"seg{i}_{key}"] for key in ("observations", "actions", "rewards", "ends", "mask_padding")}
        real = official["mask_padding"]
        expect_close(found["real"], real, mistakes={numbers(~real): "True means real"}, what="real")
        expect_close(found["image"], np.moveaxis(official["observations"], 1, -1), what="images")
        expect_close(found["action"].argmax(-1) * real, official["actions"], what="actions")
        expect_close(found["reward"], official["rewards"], what="rewards")
        expect_close(found["end"], official["ends"], what="ends")
