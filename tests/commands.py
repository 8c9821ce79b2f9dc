"""Commands as a user types them: `python train.py ...` in a paper's folder, stopped and killed at any moment."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType


class Command:
    """`python ...`, typed in a folder; it is killed, and its workers too, when the block is left."""

    def __init__(self, output: Path, line: str, folder: Path, root: Path):
        self.file = output
        paths = [str(root), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, *shlex.split(line)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
            stdout=output.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, as a shell gives it
        )

    @property
    def output(self) -> str:
        return self.file.read_text(errors="replace")

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, seconds: float = 600) -> int:
        return self.process.wait(seconds)

    def until(self, reached: Callable[[], bool], seconds: float = 300) -> None:
        """Wait for a moment of the run; fails where the run ends before it."""
        end = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None, f"ended too early:\n{self.output[-2000:]}"
            assert time.monotonic() < end, f"not reached in {seconds} s:\n{self.output[-2000:]}"
            time.sleep(0.01)


class Commands:
    """Types commands in the folder of the paper that is graded; `train` is its module."""

    def __init__(self, train: ModuleType):
        self.folder = Path(train.__file__).parent
        self.package = train.__name__.rpartition(".")[0]
        self.root = self.folder.parents[self.package.count(".")]

    def start(self, output: Path, line: str, folder: Path | None = None) -> Command:
        """A command that runs on, in this folder or another."""
        return Command(output, line, folder or self.folder, self.root)

    def run(self, output: Path, line: str, folder: Path | None = None) -> str:
        """Run a command to its end, which must be a good one; returns what it printed."""
        with self.start(output, line, folder) as command:
            code = command.wait()
            assert code == 0, command.output[-3000:]
            return command.output
