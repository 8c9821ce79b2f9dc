"""Checkpoints: written whole or not at all, and read without ever running code from the file."""

import io
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from common.errors import UserError
from common.safe_write import atomic_file

FORMAT = 1


def save_checkpoint(path: str | Path, payload: dict[str, Any]) -> None:
    """Write `payload` to `path` in one stroke.

    payload: {"paper": the paper's folder name, ...}: tensors, numbers, text, None, and dicts, lists and
        tuples of these (the state_dicts of modules and optimisers are that); "format" is added.
    Raises UserError where the file cannot be written (the previous one is kept), and TypeError for a payload
    that `load_checkpoint` would refuse: numpy values, paths, objects.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **payload}, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, weights_only=True, map_location="meta")
    except UnpicklingError as error:
        raise TypeError(f"this payload could not be loaded again: {_reason(error)}") from error
    with atomic_file(Path(path)) as file:
        file.write(buffer.getbuffer())


def load_checkpoint(
    path: str | Path, *, paper: str | None = None, device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, tensors on `device`.

    paper: the paper whose checkpoint is wanted (None: any).
    Raises UserError for a file that is missing, damaged, not plain data, or another paper's.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path} (looked in {path.absolute().parent})")
    if not _is_whole(path):
        raise UserError(f"{path} is damaged, incomplete or no checkpoint: take another, or train again")
    try:
        payload = torch.load(path, weights_only=True, map_location=device)
    except UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, numbers and text: refused, it could run code ({_reason(error)})"
        ) from error
    except Exception as error:  # a damaged table of contents, a device that is not there or is full
        raise UserError(f"{path} could not be loaded: {_reason(error)}") from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise UserError(f"{path} was not written by this repository, or by another version of it")
    if paper is not None and payload.get("paper") != paper:
        raise UserError(f"{path} is a checkpoint of {payload.get('paper')}, not of {paper}")
    return payload


def find_checkpoint(name: str | Path, runs: str | Path) -> Path:
    """The file `name` as given, else the one of that name in the newest run that has one (`runs/*/name`).

    Newest is by the file's own time. Prints the path where it is not the one given. Raises UserError if none.
    """
    if Path(name).is_file():
        return Path(name)
    found = [run / name for run in sorted(Path(runs).glob("*")) if (run / name).is_file()]
    if not found:
        raise UserError(f"no checkpoint {name} in {Path.cwd()} or {runs}/*/: train first, or give its path")
    newest = max(found, key=lambda path: (path.stat().st_mtime_ns, path))
    print(f"checkpoint: {newest}")
    return newest


def _is_whole(path: Path) -> bool:
    """A checkpoint is a zip file; torch itself does not look at the checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # whatever zipfile makes of random bytes
        return False


def _reason(error: Exception) -> str:
    """The one line of torch's long messages that says what was wrong."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    return next((line for line in lines if "nsupported" in line), lines[0]).split(" Please use")[0]
