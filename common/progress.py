"""How far the student is: the stubs that are open, and what the last grading said of the others."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from common.definitions import Definition, definition_at, definitions_named
from common.exercises import Exercise, exercises, open_stubs
from common.safe_write import atomic_file

CHANGED, UNGRADED = "changed since", "not graded"  # besides the grader's done, failed, blocked and todo


@dataclass(frozen=True)
class Progress:
    """Where the student stands with one exercise."""

    exercise: Exercise  # the place is the solution's
    file: Path  # the student's
    state: str
    note: str = ""

    @property
    def id(self) -> str:
        return self.exercise.id

    @property
    def filled_in(self) -> bool:
        return self.state != "todo"


def read(text_file: Path) -> str:
    """A source file's text as Python sees it: UTF-8, with or without a mark of it, lines ending in \\n."""
    return text_file.read_text(encoding="utf-8-sig")


def student_file(root: Path, exercise: Exercise) -> Path:
    return root / exercise.paper / exercise.file.name


def solution_code(exercise: Exercise) -> Definition | None:
    """The solution's function or class that an exercise is in."""
    return definition_at(read(exercise.file), exercise.line)


def student_code(root: Path, exercise: Exercise) -> Definition | None:
    """The student's function of the same name: the last one counts. None where the file has none, or does not parse."""
    solution = solution_code(exercise)
    try:
        return definitions_named(read(student_file(root, exercise)), solution.name)[-1]
    except (AttributeError, IndexError, OSError, SyntaxError, UnicodeDecodeError):
        return None


def fingerprint(root: Path, exercise: Exercise) -> str:
    """Tells whether the student's function for an exercise is still the one that was graded."""
    code = student_code(root, exercise)
    return hashlib.sha256(code.text.encode()).hexdigest()[:16] if code else ""


def read_results(root: Path) -> dict[str, dict]:
    """What the grader last said of each exercise: state, note, time (when it started) and code (a fingerprint)."""
    return read_json(root / ".wm" / "results.json")


def read_json(path: Path) -> dict:
    """What a file of ours remembers: nothing where there is none yet, or where it is damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_results(root: Path, results: dict[str, dict]) -> None:
    """Put new results in the place of the old ones of the same exercises."""
    with atomic_file(root / ".wm" / "results.json") as file:
        file.write(json.dumps(read_results(root) | results, indent=1).encode())


def progress(root: Path) -> list[Progress]:
    """All exercises in order, with their states."""
    open_ids, results = {stub.id for stub in open_stubs(root)}, read_results(root)
    states = {}
    for exercise in exercises(root):
        path = student_file(root, exercise)
        result = results.get(exercise.id, {})
        if not path.is_file():
            states[exercise.id] = Progress(exercise, path, "failed", f"{path.name} is missing")
        elif exercise.id in open_ids:
            states[exercise.id] = Progress(exercise, path, "todo")
        elif result.get("state", "todo") == "todo":  # of when it was a stub
            states[exercise.id] = Progress(exercise, path, UNGRADED)
        elif path.stat().st_mtime > result["time"] and fingerprint(root, exercise) != result.get("code"):
            states[exercise.id] = Progress(exercise, path, CHANGED)
        else:
            states[exercise.id] = Progress(exercise, path, result["state"], result["note"])
    return [_unblocked(each, states) for each in states.values()]


def _unblocked(each: Progress, states: dict[str, Progress]) -> Progress:
    """An exercise whose blockers have been done since is to be graded again."""
    blockers = re.findall(r"\d+\.\d+", each.note)
    if each.state == "blocked" and all(states[id].state == "done" for id in blockers if id in states):
        return Progress(each.exercise, each.file, UNGRADED)
    return each
