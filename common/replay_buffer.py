"""Replay of rows: every environment writes its own stream, and windows of consecutive rows are read back.

A row is addressed by (stream, t): all streams advance together, so one counter t serves them all. Rows live
in chunks of consecutive t; a full chunk never changes (its stored latents aside), so saving only adds files.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.safe_write import atomic_file

Rows = dict[str, np.ndarray]
ROW_KEYS = ("image", "vector", "prev_action", "reward", "is_first", "is_terminal", "is_last")
EPISODE = np.dtype([("stream", np.int64), ("start", np.int64), ("length", np.int64), ("finished", np.bool_)])
MANIFEST = "replay.json"


def chunk_length(streams: int) -> int:
    """Rows of one stream in a chunk: about 1024 in all (12 MB of images), but longer than most windows."""
    return max(1024 // streams, 128)


class ReplayBuffer:
    """The newest `capacity` rows of all streams together; older ones are dropped.

    capacity: rows. directory: the folder, of its own, where `save` writes and `restore` reads.
    Attributes: `streams` (how many; 0 before the first `add`), `oldest` and `end`: of every stream the rows
    oldest <= t < end are stored. t counts from the first row ever added and is never used again.
    """

    def __init__(self, capacity: int, *, directory: str | Path | None = None):
        if capacity < 1:
            raise UserError(f"a replay of {capacity} rows holds nothing")
        self.capacity = capacity
        self.directory = None if directory is None else Path(directory)
        self.streams = self.oldest = self.end = 0
        self._spec: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}  # key -> dtype and shape of one row
        self._chunk_length = 1
        self._chunks: dict[int, Rows] = {}  # t // chunk_length -> {key: (streams, chunk_length, ...)}
        self._files: dict[tuple[int, str], str] = {}  # (chunk, part) -> the file that holds it as it is now
        self._saves = 0
        self._episodes = (-1, np.empty(0, EPISODE))  # (`end` when it was made, the index)

    def __len__(self) -> int:
        """Rows stored, all streams together."""
        return self.streams * (self.end - self.oldest)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that hold the rows."""
        return sum(array.nbytes for chunk in self._chunks.values() for array in chunk.values())

    # -- writing ---------------------------------------------------------------------------------------------

    def add(self, rows: Rows) -> None:
        """Append one row to every stream. rows: {key: (streams, ...)}; the arrays are copied.

        Keys are a row's (`is_first` and `is_last` at least) and any others: stored latents, which `update`
        may overwrite; latents that are left out are zeros. The first call fixes keys, shapes, dtypes and streams;
        UserError for rows that differ.
        """
        rows = {key: np.asarray(value) for key, value in rows.items()}
        if not self.streams:
            self._begin(rows)
        if not set(self._parts()["rows"]) <= rows.keys() <= self._spec.keys():
            raise UserError(f"replay rows have {sorted(self._spec)}, but these have {sorted(rows)}")
        for key, value in rows.items():
            self._check(key, value, (self.streams,))

        index, tick = divmod(self.end, self._chunk_length)
        if index not in self._chunks:
            self._chunks[index] = self._new_chunk()
        for key, value in rows.items():
            self._chunks[index][key][:, tick] = value
        self._files.pop((index, "rows"), None)
        self._files.pop((index, "latents"), None)
        self.end += 1
        self._drop()

    def update(self, starts: np.ndarray, latents: Rows) -> None:
        """Overwrite stored latents: {key: (B, T, ...)} belongs to the rows t .. t+T-1 of `starts`.

        starts: (B, 2) of (stream, t). Where two windows share a row, the later one counts. A latent that is new here
        is zeros in all other rows. Rows that have been dropped meanwhile are passed over. Raises UserError for the keys
        of a row itself: what happened stays as it was.
        """
        starts = np.asarray(starts, np.int64).reshape(-1, 2)
        latents = {key: np.asarray(value) for key, value in latents.items()}
        for key, value in latents.items():
            if key in ROW_KEYS:
                raise UserError(f"only stored latents {self._parts()['latents']} can be updated, not {key}")
            if key not in self._spec:
                self._begin_latent(key, value)
            self._check(key, value, (len(starts), *value.shape[1:2]))
        (length,) = {value.shape[1] for value in latents.values()}
        self._check_starts(starts, length, oldest=0)
        for i, (stream, t) in enumerate(starts.tolist()):
            for index, inside, outside in self._pieces(max(t, self.oldest), t + length, origin=t):
                for key, value in latents.items():
                    self._chunks[index][key][stream, inside] = value[i, outside]
                self._files.pop((index, "latents"), None)

    # -- reading ---------------------------------------------------------------------------------------------

    def num_windows(self, length: int) -> int:
        """How many different windows of `length` rows are stored."""
        return self.streams * max(0, self.end - self.oldest - length + 1)

    def sample_starts(self, batch: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """(batch, 2) of (stream, t): uniform over all stored windows of `length` rows, with replacement.

        Windows may run across the end of an episode. Raises UserError if there is none yet.
        """
        if not (windows := self.num_windows(length)):
            raise UserError(
                f"the replay holds {self.end - self.oldest} rows of each of {self.streams} environments, "
                f"and a window needs {length}: collect more before training, or take shorter windows"
            )
        stream, t = np.divmod(rng.integers(windows, size=batch), windows // self.streams)
        return np.stack([stream, t + self.oldest], axis=1)

    def windows(self, starts: np.ndarray, length: int, keys: Iterable[str] | None = None) -> Rows:
        """{key: (B, length, ...)}, fresh arrays of consecutive rows. starts: (B, 2) of (stream, t).

        keys: only these (None: all). Raises IndexError for rows that are not, or no longer, stored.
        """
        starts = np.asarray(starts, np.int64).reshape(-1, 2)
        self._check_starts(starts, length, oldest=self.oldest)
        spec = {key: self._spec[key] for key in (keys or self._spec)}
        out = {key: np.empty((len(starts), length, *shape), dtype) for key, (dtype, shape) in spec.items()}
        for i, (stream, t) in enumerate(starts.tolist()):
            for index, inside, outside in self._pieces(t, t + length, origin=t):
                for key, array in out.items():
                    array[i, outside] = self._chunks[index][key][stream, inside]
        return out

    def sample_windows(self, batch: int, length: int, rng: np.random.Generator) -> Rows:
        """{key: (batch, length, ...)}: the windows of `sample_starts`."""
        return self.windows(self.sample_starts(batch, length, rng), length)

    def episodes(self) -> np.ndarray:
        """Index of the episodes whose first row is stored, oldest first (by start, then stream).

        A read-only structured array (E,): `stream`, `start` (t of its first row), `length` (rows so far) and
        `finished` (its last row has is_last; else it is running, or was broken off when the run was resumed).
        """
        if self.streams and self._episodes[0] != self.end:
            first, last, rows = self._flags("is_first"), self._flags("is_last"), self.end - self.oldest
            start = np.flatnonzero(first)  # counted through all streams, one behind the other
            stop = np.minimum(np.append(start[1:], first.size), (start // rows + 1) * rows)
            index = np.empty(len(start), EPISODE)
            index["stream"], index["start"] = start // rows, start % rows + self.oldest
            index["length"], index["finished"] = stop - start, last.ravel()[stop - 1]
            index = index[np.argsort(index["start"], kind="stable")]
            index.flags.writeable = False
            self._episodes = (self.end, index)
        return self._episodes[1]

    def episode(self, i: int) -> Rows:
        """{key: (L, ...)}: all rows of `episodes()[i]`."""
        stream, start, length, _ = self.episodes()[i].tolist()
        return {key: rows[0] for key, rows in self.windows([(stream, start)], length).items()}

    def iter_rows(self, keys: Iterable[str], batch: int, rng: np.random.Generator | None = None) -> Iterator[Rows]:
        """Every stored row once, {key: (batch, ...)} at a time (the last may be fewer); shuffled by `rng`.

        Without `rng`: stream by stream, in order. Raises UserError if there are none.
        """
        if not len(self):
            raise UserError("the replay holds 0 rows, and 1 is needed: collect some first")
        keys, rows, oldest = tuple(keys), self.end - self.oldest, self.oldest
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        for some in np.split(order, range(batch, len(order), batch)):
            starts = np.stack([some // rows, oldest + some % rows], axis=1)
            yield {key: value[:, 0] for key, value in self.windows(starts, 1, keys).items()}

    # -- saving ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Bring the folder up to date: new files for what changed, then the manifest, then old files go.

        The manifest names every file that counts and is replaced in one stroke: killed at any moment, the
        folder holds the last complete save. Raises UserError where it cannot be written.
        """
        manifest = self._manifest()
        if not self._saves and manifest.exists():
            raise UserError(f"{self.directory} holds another replay: restore it, or take another folder")
        self._saves += 1
        for index, chunk in self._chunks.items():
            filled = self.end - index * self._chunk_length
            for part, keys in self._parts().items():
                if keys and (index, part) not in self._files:
                    name = f"{part}-{index:08d}-{self._saves:06d}.npz"
                    with atomic_file(self.directory / name) as file:
                        np.savez(file, allow_pickle=False, **{key: chunk[key][:, :filled] for key in keys})
                    self._files[index, part] = name
        state = {
            "streams": self.streams,
            "oldest": self.oldest,
            "end": self.end,
            "chunk_length": self._chunk_length,
            "saves": self._saves,
            "spec": {key: (dtype.str, shape) for key, (dtype, shape) in self._spec.items()},
            "files": [(index, part, name) for (index, part), name in sorted(self._files.items())],
        }
        with atomic_file(manifest) as file:
            file.write(json.dumps(state).encode())
        for path in [*self.directory.glob("rows-*"), *self.directory.glob("latents-*")]:
            if path.name not in self._files.values():
                path.unlink()

    def restore(self) -> None:
        """Take the content of the folder's last complete save, byte for byte.

        Raises UserError if there is none, or a file of it is damaged.
        """
        path = self._manifest()
        if not path.exists():
            raise UserError(f"there is no saved replay in {self.directory}")
        try:
            state = json.loads(path.read_text())
            self.streams, self.oldest, self.end = state["streams"], state["oldest"], state["end"]
            self._chunk_length, self._saves = state["chunk_length"], state["saves"]
            self._spec = {k: (np.dtype(dtype), tuple(shape)) for k, (dtype, shape) in state["spec"].items()}
            self._chunks, self._files, self._episodes = {}, {}, (-1, np.empty(0, EPISODE))
            for index, part, name in state["files"]:
                path = self.directory / name
                if index not in self._chunks:
                    self._chunks[index] = self._new_chunk()
                with np.load(path, allow_pickle=False) as saved:
                    for key, value in saved.items():
                        self._chunks[index][key][:, : value.shape[1]] = value
                self._files[index, part] = name
        except Exception as error:  # whatever numpy, zipfile and json make of random bytes
            raise UserError(f"cannot restore the replay: {path} is damaged or missing ({error})") from error
        self._drop()  # the capacity may be smaller now

    # -- inside ----------------------------------------------------------------------------------------------

    def _begin(self, rows: Rows) -> None:
        """Fix keys, shapes, dtypes and the number of streams."""
        if not {"is_first", "is_last"} <= rows.keys():
            raise UserError(f"replay rows need is_first and is_last, but these have {sorted(rows)}")
        streams = rows["is_first"].size
        if self.capacity < streams:
            raise UserError(f"a replay of {self.capacity} rows is too small for {streams} environments")
        self.streams, self._chunk_length = streams, chunk_length(streams)
        self._spec = {key: (value.dtype, value.shape[1:]) for key, value in rows.items()}

    def _begin_latent(self, key: str, value: np.ndarray) -> None:
        """Make room for a latent beside every stored row."""
        self._spec[key] = value.dtype, value.shape[2:]
        for index, chunk in self._chunks.items():
            chunk[key] = np.zeros((self.streams, self._chunk_length, *value.shape[2:]), value.dtype)
            self._files.pop((index, "latents"), None)

    def _check(self, key: str, value: np.ndarray, lead: tuple[int, ...]) -> None:
        dtype, shape = self._spec[key]
        if value.dtype != dtype or value.shape != (*lead, *shape):
            wanted = f"{dtype} {(*lead, *shape)}"
            raise UserError(f"replay key {key} is {wanted}, but this is {value.dtype} {value.shape}")

    def _check_starts(self, starts: np.ndarray, length: int, oldest: int) -> None:
        stream, t = starts.T
        if ((stream < 0) | (stream >= self.streams) | (t < oldest) | (t + length > self.end)).any():
            held = f"{self.oldest} <= t < {self.end} of {self.streams} streams"
            raise IndexError(f"the replay holds {held}: not all windows of {length} rows lie inside")

    def _pieces(self, start: int, stop: int, origin: int) -> Iterator[tuple[int, slice, slice]]:
        """Cut rows start <= t < stop at the borders of chunks: (chunk, slice in it, slice from origin)."""
        while start < stop:
            index, tick = divmod(start, self._chunk_length)
            n = min(stop - start, self._chunk_length - tick)
            yield index, slice(tick, tick + n), slice(start - origin, start - origin + n)
            start += n

    def _drop(self) -> None:
        """Forget the rows beyond capacity, and the chunks that hold no others."""
        if self.streams:
            self.oldest = max(self.oldest, self.end - self.capacity // self.streams)
        while self._chunks and (index := next(iter(self._chunks))) < self.oldest // self._chunk_length:
            del self._chunks[index]
            for part in self._parts():
                self._files.pop((index, part), None)

    def _flags(self, key: str) -> np.ndarray:
        """(streams, rows): this key of all stored rows."""
        before = next(iter(self._chunks)) * self._chunk_length
        flags = np.concatenate([chunk[key] for chunk in self._chunks.values()], axis=1)
        return flags[:, self.oldest - before : self.end - before]

    def _parts(self) -> dict[str, list[str]]:
        """What happened never changes, latents do: they go to files of their own."""
        rows = [key for key in self._spec if key in ROW_KEYS]
        return {"rows": rows, "latents": [key for key in self._spec if key not in rows]}

    def _new_chunk(self) -> Rows:
        size = (self.streams, self._chunk_length)
        blank = lambda key: np.empty if key in ROW_KEYS else np.zeros
        return {key: blank(key)((*size, *shape), dtype) for key, (dtype, shape) in self._spec.items()}

    def _manifest(self) -> Path:
        if self.directory is None:
            raise ValueError("this ReplayBuffer was made without a directory")
        return self.directory / MANIFEST
