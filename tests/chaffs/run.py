"""Prove the tests: every chaff must be rejected by its own exercise's tests, every wheat accepted.

And every exercise's tests must accept the solutions up to it while all later exercises are still stubs.

    python -m tests.chaffs.run                                         # all papers
    python -m tests.chaffs.run paper1_world_models --exercise 1.4
    python -m tests.chaffs.run --verbose                               # say which test rejected which chaff

Torch is imported once; each case is graded in a fork, as a submission of its own, without the training runs.
"""

import argparse
import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from common.exercises import ROOT, exercises, order
from tests.chaffs import Chaff, chaffs, papers, submission, wheats, without_later

TIMEOUT = 120.0  # seconds for one case
PRELOAD = ("torch", "torch._dynamo", "beartype", "jaxtyping", "cma", "tests.helpers")


@dataclass(frozen=True)
class Case:
    paper: str
    exercise: str
    kind: Literal["chaff", "wheat", "in order"]
    chaff: Chaff | None = None  # none: the solutions, with the later exercises open

    def __str__(self) -> str:
        return f"{self.kind} {self.exercise}: {self.chaff.what if self.chaff else 'while the later ones are open'}"

    def files(self) -> dict[str, str]:
        return submission(self.paper, self.chaff) if self.chaff else without_later(self.paper, self.exercise)


def cases_of(paper: str) -> list[Case]:
    """All that must hold of a paper's tests."""
    ids = [exercise.id for exercise in exercises() if exercise.paper == paper]
    return [
        *(Case(paper, chaff.exercise, "chaff", chaff) for chaff in chaffs(paper)),
        *(Case(paper, wheat.exercise, "wheat", wheat) for wheat in wheats(paper)),
        *(Case(paper, id, "in order") for id in ids),
    ]


class Recorder:
    """A pytest plugin that keeps how many tests passed, and the first that failed."""

    def __init__(self):
        self.passed, self.failed, self.error, self.broken = 0, "", "", False

    def pytest_runtest_logreport(self, report):
        self.passed += report.when == "call" and report.passed

    def pytest_exception_interact(self, node, call, report):
        if getattr(report, "when", "") == "call" and report.failed and not self.failed:
            self.failed, self.error = node.name, f"{type(call.excinfo.value).__name__}: {call.excinfo.value}"
            self.broken = isinstance(call.excinfo.value, NameError)


def preload(paper: str) -> None:
    """Import all that the tests will need, the submissions and the tests themselves excepted."""
    for name in PRELOAD:
        importlib.import_module(name)
    for file in {chaff.file for chaff in chaffs(paper)}:
        importlib.import_module(f"solutions.{paper}.{file.removesuffix('.py')}")
    sys.modules["torch"].set_num_threads(1)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # installed plugins that no test needs: half a second a case
    gc.freeze()  # pytest collects garbage when it ends; what was imported here is none


def grade(case: Case, folder: Path) -> None:
    """In a forked child: grade one case as --impl folder, leave result.json there, and exit."""
    try:
        with open(folder / "log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        (folder / case.paper).mkdir()
        for name, text in case.files().items():
            (folder / case.paper / name).write_text(text)
        marker = f'exercise(id="{case.exercise}")'
        tests = [str(path) for path in (ROOT / "tests" / case.paper).glob("test_*.py") if marker in path.read_text()]
        recorder = Recorder()
        options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", f"--impl={folder}"]
        code = pytest.main([*options, "-m", f"{marker} and not training", *tests], plugins=[recorder])
        (folder / "result.json").write_text(json.dumps({"code": int(code), **vars(recorder)}))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def run(cases: list[Case], workers: int) -> Iterator[tuple[Case, dict]]:
    """Every case with its result, as they come, `workers` at a time."""
    waiting, running = list(reversed(cases)), {}
    with tempfile.TemporaryDirectory() as top:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    folder = Path(top, str(len(waiting)))
                    folder.mkdir()
                    pid = os.fork()
                    if pid == 0:
                        grade(case=waiting[-1], folder=folder)
                    running[pid] = waiting.pop(), folder, time.monotonic() + TIMEOUT
                for pid, (case, folder, deadline) in list(running.items()):
                    late = time.monotonic() > deadline
                    if late:
                        os.kill(pid, signal.SIGKILL)
                    if os.waitpid(pid, 0 if late else os.WNOHANG)[0]:
                        del running[pid]
                        yield case, result(folder, late)
                time.sleep(0.01)
        finally:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def result(folder: Path, late: bool) -> dict:
    """What a child left, or why it left nothing."""
    file = folder / "result.json"
    if file.exists():
        return json.loads(file.read_text())
    log = (folder / "log").read_text() if (folder / "log").exists() else ""
    why = f"not finished after {TIMEOUT:.0f} s" if late else f"the grader crashed: {log[-2000:]}"
    return {"code": -1, "passed": 0, "failed": "", "error": why, "broken": False}


def verdict(case: Case, found: dict) -> str:
    """Why a result is not what it should be; "" where it is."""
    if case.kind != "chaff":
        if found["code"] == 0 and found["passed"]:
            return ""
        return f"rejected by {found['failed'] or 'no test'}, exit code {found['code']}: {found['error'][:1000]}"
    if found["code"] == 1 and found["failed"]:
        return f"the replacement is at fault: {found['error']}" if found["broken"] else ""
    return f"no test failed ({found['passed']} passed, exit code {found['code']}) {found['error'][:1000]}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", nargs="*", metavar="PAPER", help=", ".join(papers()))
    parser.add_argument("--exercise", metavar="ID", help="one exercise alone, such as 1.4")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--verbose", action="store_true", help="say which test rejected which chaff")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.papers) - set(papers()))
    if unknown:
        parser.error(f"no chaffs for {', '.join(unknown)}; there are some for {', '.join(papers())}")
    os.chdir(ROOT)
    start, console = time.monotonic(), Console()
    cases = [
        case for paper in args.papers or papers() for case in cases_of(paper) if args.exercise in (None, case.exercise)
    ]
    if not cases:
        parser.error(f"no chaffs for exercise {args.exercise}")
    for case in cases:
        case.files()  # a replacement that does not fit is an error at once
    for paper in {case.paper for case in cases}:
        preload(paper)

    graded = {}
    for case, found in track(run(cases, args.workers), "grading", len(cases), auto_refresh=False, console=console):
        graded[case] = verdict(case, found)
        if args.verbose:
            console.print(escape(f"{case} -> {found['failed']}: {' '.join(found['error'].split())[:200]}"))
    console.print(table_of(graded))
    wrong = [f"{case}\n    {why}" for case, why in graded.items() if why]
    for line in wrong:
        console.print(f"[red]{escape(line)}[/]", soft_wrap=True, highlight=False)
    console.print(f"{len(cases)} cases, {len(wrong)} wrong, {time.monotonic() - start:.0f} s")
    sys.exit(bool(wrong))


def table_of(graded: dict[Case, str]) -> Table:
    """Chaffs rejected, wheats accepted, and whether no later exercise is needed, per exercise."""
    table = Table("exercise", "chaffs rejected", "wheats accepted", "done in its turn")
    for exercise in sorted({case.exercise for case in graded}, key=order):
        row = []
        for kind in ("chaff", "wheat", "in order"):
            whys = [why for case, why in graded.items() if (case.exercise, case.kind) == (exercise, kind)]
            row.append(f"{whys.count('')} / {len(whys)}")
        table.add_row(exercise, *row)
    return table


if __name__ == "__main__":
    main()
