"""What a training batch is: chunks of rows, each from within one episode."""

import numpy as np
from jaxtyping import Int

from common.errors import UserError
from common.replay_buffer import ReplayBuffer, Rows


def sample_starts(
    episodes: np.ndarray, batch: int, length: int, rng: np.random.Generator
) -> Int[np.ndarray, "batch two"]:
    """Where to cut `batch` chunks of `length` rows, as (stream, t) of their first rows.

    episodes: the replay's index, a structured array with fields `stream`, `start` (t of the first row) and `length`
    (rows so far: an episode may still be running). Official tools.py, load_episodes:
    - first an episode, uniformly among those of at least `length` rows, whatever their length; for each chunk anew
    - then the start, uniformly among all that keep the chunk inside the episode: its first and its LAST row are both in
      reach (the official code never samples the last, and with it most terminal rows)
    Draw from `rng` alone. Raises UserError where no episode is long enough.
    """
    long_enough = episodes[episodes["length"] >= length]
    if not len(long_enough):
        longest = max(episodes["length"], default=0)
        raise UserError(
            f"no episode has the {length} rows of a chunk, the longest in the replay has {longest}: "
            "set --prefill or --replay-capacity higher"
        )
    ### BEGIN SOLUTION 2.5: chunks within one episode
    chosen = long_enough[rng.integers(len(long_enough), size=batch)]
    offset = rng.integers(chosen["length"] - length + 1)
    return np.stack([chosen["stream"], chosen["start"] + offset], 1)
    ### END SOLUTION


def sample_batch(replay: ReplayBuffer, batch: int, length: int, rng: np.random.Generator) -> Rows:
    """{key: (batch, length, ...)}: chunks as `sample_starts` cuts them. A chunk that begins within an episode keeps its
    first row's previous action; its state starts at zero. Where no episode has `length` rows, chunks are as long as the
    longest, which leaves out all that are shorter."""
    episodes = replay.episodes()
    length = min(length, int(max(episodes["length"], default=0))) or length
    return replay.windows(sample_starts(episodes, batch, length, rng), length)
