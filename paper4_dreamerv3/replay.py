"""What a training batch is: windows that go on from stored latents, each new row once before any by chance."""

import numpy as np

from common.replay_buffer import ReplayBuffer, Rows


class ReplaySampler:
    """Windows of `length` rows and one before them, whose stored latents are the state that training goes on from.

    Official replay.py: of every stream, the windows that follow each other without overlap are handed out first, each
    once (the online queue); a batch is filled up with windows anywhere, which may run across the end of an episode.
    Attribute: `taken`, how many of the queue were handed out; it belongs into checkpoints.
    """

    def __init__(self, batch: int, length: int):
        self.batch, self.length = batch, length
        self.taken = 0

    def first_row(self, streams: int) -> int:
        """The t from which on there are as many windows as a batch has rows: training begins there."""
        return -(-self.batch * self.length // streams) + self.length

    def sample(self, replay: ReplayBuffer, rng: np.random.Generator) -> tuple[Rows, np.ndarray]:
        """({key: (batch, length + 1, ...)}, where each window begins: (batch, 2) of (stream, t)).

        Where an episode was broken off (a run that was resumed), its last row is marked is_last.
        """
        starts = []
        while len(starts) < self.batch:
            round_, stream = divmod(self.taken, replay.streams)
            start = round_ * (self.length + 1)
            if start + self.length + 1 > replay.end:
                break
            if start >= replay.oldest:
                starts.append((stream, start))
            self.taken += 1
        missing = self.batch - len(starts)
        others = replay.sample_starts(missing, self.length + 1, rng) if missing else np.empty((0, 2), np.int64)
        starts = np.concatenate([np.array(starts, np.int64).reshape(-1, 2), others])
        rows = replay.windows(starts, self.length + 1)
        rows["is_last"][:, :-1] |= rows["is_first"][:, 1:]
        return rows, starts


def updates_due(rows: int, first: int, replay_ratio: float, batch_rows: int) -> int:
    """Updates that should have been made when `rows` rows were collected: one at once when training begins, at `first`
    rows, then so many that every row collected since is trained on `replay_ratio` times."""
    return 0 if rows < first else 1 + int((rows - first) * replay_ratio / batch_rows)
