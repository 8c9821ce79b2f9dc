"""Writing files so that a kill at any moment loses nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from common.errors import UserError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; it takes that name when the block ends well, else it is removed.

    Whoever reads `path` sees the old file or the new one, whenever the process is killed.
    Raises UserError where it cannot be written (full disk, no permission): the old file is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the bytes must be on the disk before the name is
        os.replace(temporary, path)
    except OSError as error:
        kept = "; the previous one is kept" if path.exists() else ""
        raise UserError(f"could not write {path}: {error.strerror or error}{kept}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def save_aside(path: Path, root: Path) -> Path:
    """Copy a student's file to .wm/saved/<paper>/<timestamp>-<name> under `root`; returns where it now also is."""
    content, now = path.read_bytes(), datetime.now()
    copy = root / ".wm" / "saved" / path.parent.name / f"{now:%Y%m%d-%H%M%S-%f}-{path.name}"
    with atomic_file(copy) as file:
        file.write(content)
    return copy
