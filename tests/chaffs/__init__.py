"""Answers that prove the tests. A chaff is a plausible wrong answer for one exercise, which its tests must reject; a
wheat (tests/wheats) a correct one written differently, which they must accept.

Each is data: a replacement in the fenced region of the solution. `python -m tests.chaffs.run` grades them.
"""

import ast
import importlib
import re
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common.exercises import ROOT, exercises, order

WHOLE = ""  # as `old`: the whole fenced body; `new` is then written from the left margin


@dataclass(frozen=True)
class Chaff:
    """A replacement within the fence of one exercise. A wheat is one too."""

    exercise: str  # "1.3"
    what: str  # the mistake in words; of a wheat, the other way to write it
    file: str  # in the paper's folder
    old: str  # occurs exactly once in the fence
    new: str


def papers() -> list[str]:
    """The papers that have chaffs."""
    return sorted(path.stem for path in Path(__file__).parent.glob("paper*.py"))


def chaffs(paper: str) -> list[Chaff]:
    return importlib.import_module(f"tests.chaffs.{paper}").CHAFFS


def wheats(paper: str) -> list[Chaff]:
    return importlib.import_module(f"tests.wheats.{paper}").WHEATS


def submission(paper: str, chaff: Chaff) -> dict[str, str]:
    """{file name: text} of a student's folder of this paper: the solutions with this one replacement."""
    files = solutions(paper)
    return {**files, chaff.file: replace(files[chaff.file], chaff)}


def without_later(paper: str, exercise: str) -> dict[str, str]:
    """{file name: text} of a student's folder in which all is solved up to this exercise, and nothing behind it."""
    files = dict(solutions(paper))
    for later in exercises():
        if later.paper == paper and order(later.id) > order(exercise):
            stub = f'raise NotImplementedError("exercise {later.id}: {later.title}")'
            chaff = Chaff(later.id, "still open", later.file.name, WHOLE, stub)
            files[chaff.file] = replace(files[chaff.file], chaff)
    return files


@cache
def solutions(paper: str) -> dict[str, str]:
    """{file name: text} of a paper's solutions, fences and all, as a student's copy imports itself."""
    imports = re.compile(r"^(\s*(?:from|import) )solutions\.(?=paper\d)", re.MULTILINE)
    folder = ROOT / "solutions" / paper
    return {path.name: imports.sub(r"\1", path.read_text()) for path in folder.glob("*.py")}


def replace(source: str, chaff: Chaff) -> str:
    """A solution's text with the replacement in it; ValueError where it does not fit."""
    begin = rf"^( *)### BEGIN SOLUTION {re.escape(chaff.exercise)}: .*\n"
    fence = re.search(begin + r"((?:.*\n)*?) *### END SOLUTION$", source, re.MULTILINE)
    if not fence:
        raise ValueError(f"{chaff.file} has no exercise {chaff.exercise}")
    body = fence[2]
    if chaff.old == WHOLE:
        body = textwrap.indent(textwrap.dedent(chaff.new).strip("\n"), fence[1]) + "\n"
    elif body.count(chaff.old) != 1:
        raise ValueError(f"{body.count(chaff.old)} times, not once, in exercise {chaff.exercise}: {chaff.old}")
    else:
        body = body.replace(chaff.old, chaff.new)
    if body == fence[2]:
        raise ValueError(f"the replacement in exercise {chaff.exercise} changes nothing: {chaff.what}")
    changed = source[: fence.start(2)] + body + source[fence.end(2) :]
    try:
        ast.parse(changed)
    except SyntaxError as error:
        raise ValueError(f"exercise {chaff.exercise}, {chaff.what}: it is no Python: {error}") from error
    return changed
