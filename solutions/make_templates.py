"""Write the students' copies from the solutions.

    python -m solutions.make_templates            # write paper1_world_models/ ... beside solutions/
    python -m solutions.make_templates --check    # fail where they differ from what would be written

In a solution an exercise is fenced:

    ### BEGIN SOLUTION 2.4: one prior step of the RSSM
    ...
    ### END SOLUTION

The student's copy has a TODO and a NotImplementedError in its place; all else is copied, and imports lose `solutions.`.
"""

import argparse
import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from common.safe_write import atomic_file, save_aside

ROOT = Path(__file__).resolve().parent.parent
BEGIN = re.compile(r"^(\s*)### BEGIN SOLUTION\b(.*)$")
END = re.compile(r"^\s*### END SOLUTION\s*$")
TITLE = re.compile(r"^ (\d+\.\d+): (\S.*)$")


class FenceError(Exception):
    """A fence that the generator refuses; the message begins with file and line."""


@dataclass(frozen=True)
class Exercise:
    """One fenced piece of a solution."""

    id: str
    title: str
    file: str  # relative to the repository's root, of the student's copy
    line: int  # of the TODO in the student's copy, from 1


def strip(source: str, file: str, seen: dict[str, str] | None = None) -> tuple[str, list[Exercise]]:
    """A student's copy of one solution file, and the exercises in it.

    `seen` collects where each exercise's number occurred, over all files. Raises FenceError for a fence that is nested,
    not closed, not opened, without number and title, or whose number occurred before.
    """
    seen = {} if seen is None else seen
    out: list[str] = []
    exercises: list[Exercise] = []
    opened = None  # line of the fence we are in
    for number, line in enumerate(source.splitlines(), 1):
        begin = BEGIN.match(line)
        if begin:
            where = f"{file}:{number}"
            if opened:
                raise FenceError(f"{where}: a fence inside the fence that begins at line {opened}")
            title = TITLE.match(begin[2])
            if not title:
                raise FenceError(f"{where}: a fence reads '### BEGIN SOLUTION 2.4: what to do', not '{line.strip()}'")
            if title[1] in seen:
                raise FenceError(f"{where}: exercise {title[1]} is already at {seen[title[1]]}")
            seen[title[1]] = where
            opened, indent = number, begin[1]
            out += [
                f"{indent}# TODO {title[1]}: {title[2]}",
                f'{indent}raise NotImplementedError("exercise {title[1]}: {title[2]}")',
            ]
            exercises.append(Exercise(title[1], title[2], file, len(out) - 1))
        elif END.match(line):
            if not opened:
                raise FenceError(f"{file}:{number}: a fence ends that never began")
            opened = None
        elif not opened:
            out.append(re.sub(r"^(\s*(?:from|import) )solutions\.(?=paper\d)", r"\1", line))
    if opened:
        raise FenceError(f"{file}:{opened}: this fence is never closed")
    return "\n".join(out) + "\n" if out else "", exercises


def templates(root: Path = ROOT) -> tuple[dict[Path, str], list[Exercise]]:
    """{path of a student's file: its text} and all exercises. Raises FenceError where a copy would not parse either."""
    files: dict[Path, str] = {}
    exercises: list[Exercise] = []
    seen: dict[str, str] = {}
    for path in sorted((root / "solutions").glob("paper*/*.py")):
        target = root / path.relative_to(root / "solutions")
        text, found = strip(path.read_text(), str(path.relative_to(root)), seen)
        try:
            ast.parse(text)
        except SyntaxError as error:
            raise FenceError(f"{path.relative_to(root)}: without its solutions it is no Python: {error}") from error
        files[target] = text
        exercises += [Exercise(e.id, e.title, str(target.relative_to(root)), e.line) for e in found]
    return files, exercises


def stale(files: dict[Path, str], root: Path = ROOT) -> list[str]:
    """What differs between the committed copies and what would be written."""
    wrong = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    folders = {path.parent for path in files}
    extra = [path for folder in folders for path in folder.glob("*.py") if path not in files]
    return [str(path.relative_to(root)) for path in wrong + extra]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a copy is not up to date")
    check = parser.parse_args(argv).check
    try:
        files, exercises = templates()
    except FenceError as error:
        sys.exit(f"error: {error}")
    different = stale(files)
    if check:
        if different:
            sys.exit("not what solutions/ gives (run python -m solutions.make_templates): " + ", ".join(different))
        print(f"{len(files)} files, {len(exercises)} exercises: up to date")
        return
    for path, text in files.items():
        if not path.exists() or path.read_text() != text:
            if path.exists():  # it may hold a student's work
                save_aside(path, ROOT)
            with atomic_file(path) as file:
                file.write(text.encode())
    print(f"{len(files)} files, {len(exercises)} exercises; written: {', '.join(different) or 'nothing'}")


if __name__ == "__main__":
    main()
