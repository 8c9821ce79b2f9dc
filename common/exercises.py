"""Find the exercises of a tree of papers by reading its text: nothing is imported, so this is instant."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUB = re.compile(r'^\s*raise NotImplementedError\("exercise (\d+\.\d+): (.*)"\)')
FENCE = re.compile(r"### BEGIN SOLUTION (\d+\.\d+): (.*)")
MESSAGE = re.compile(r"exercise (\d+\.\d+): ")  # of a stub's NotImplementedError


@dataclass(frozen=True)
class Exercise:
    """An exercise, or an open stub of one."""

    id: str  # "1.4": paper, number
    title: str
    file: Path  # where its code is
    line: int

    @property
    def paper(self) -> str:
        return self.file.parent.name

    @property
    def guide(self) -> str:
        """Where the guide explains it."""
        return f"IMPLEMENTATION_GUIDE.md, section {self.id}"


def exercises(root: Path = ROOT) -> list[Exercise]:
    """All exercises, in order, with the place of their solution."""
    return _find(FENCE, root / "solutions")


def open_stubs(root: Path = ROOT) -> list[Exercise]:
    """The stubs in a tree that holds paper folders that are not filled in yet, in order, with their places."""
    return _find(STUB, root)


def _find(pattern: re.Pattern, root: Path) -> list[Exercise]:
    found = [
        Exercise(match[1], match[2], path, number)
        for path in root.glob("paper*/*.py")
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if (match := pattern.search(line))
    ]
    return sorted(found, key=lambda e: order(e.id))


def order(exercise_id: str) -> tuple[int, int]:
    """1.10 comes after 1.9."""
    paper, number = exercise_id.split(".")
    return int(paper), int(number)
