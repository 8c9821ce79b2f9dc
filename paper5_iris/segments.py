"""Pieces of episodes from the replay, as a Transformer reads them: padded where an episode has no more."""

import numpy as np

from common.agent import Rows
from common.errors import UserError
from common.replay_buffer import ReplayBuffer


def draw_segment(frames: int, length: int, left: bool, rng: np.random.Generator) -> tuple[int, int]:
    """(start, stop) of a piece of at most `length` frames of an episode of `frames` (official dataset.py).

    Padding to the right (not `left`): the START is uniform over all frames, and what the episode does not have any more
    is missing. Padding to the `left`: the STOP is uniform, 1 to `frames`, and what comes before the episode is missing.
    Draws one integer of rng, evenly from its range, and returns Python's own.
    """
    # TODO 5.15: where a segment begins and ends
    raise NotImplementedError("exercise 5.15: where a segment begins and ends")


def sample_segments(
    replay: ReplayBuffer, batch: int, length: int, rng: np.random.Generator, left: bool = False
) -> Rows:
    """A batch (batch, length, ...) of pieces of episodes: the episode uniform over EPISODES, long or short.

    Keys: `image`; `action` (one-hot), `reward` and `end`, which FOLLOWED the frame; `real`, False where there is
    padding, all zeros, behind the piece or, `left`, before it; `tokens`, where the replay has them. An episode's last
    row is no frame here: nobody acts on it.
    Raises UserError where no episode has two rows yet.
    """
    episodes = replay.episodes()
    episodes = episodes[episodes["length"] > 1]
    if not len(episodes):
        raise UserError("the replay holds no step of an episode yet: collect some before training")
    out: Rows = {}
    for i, (stream, first, rows, _) in enumerate(episodes[rng.integers(len(episodes), size=batch)].tolist()):
        start, stop = draw_segment(rows - 1, length, left, rng)
        piece = {key: value[0] for key, value in replay.windows([(stream, first + start)], stop - start + 1).items()}
        piece = {
            "image": piece["image"][:-1],
            "action": piece["prev_action"][1:],
            "reward": piece["reward"][1:],
            "end": piece["is_terminal"][1:],
            "real": np.ones(stop - start, bool),
            **({"tokens": piece["tokens"][:-1]} if "tokens" in piece else {}),
        }
        out = out or {key: np.zeros((batch, length, *x.shape[1:]), x.dtype) for key, x in piece.items()}
        where = slice(length - (stop - start), length) if left else slice(0, stop - start)
        for key, value in piece.items():
            out[key][i, where] = value
    return out
