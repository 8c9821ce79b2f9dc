"""The grader: which implementation the tests run against, and what it says of each exercise.

    pytest                                     grade your own copy
    pytest --impl solutions                    run the same tests against the solutions
    pytest --impl PATH                         grade a folder that holds paper folders (a submission)
    pytest -m 'exercise(id="1.4")'             one exercise
    pytest --gradescope results.json           write Gradescope's results, too
    pytest --slow                              also what is marked slow

Each exercise is in one of four states: done; failed; todo, its stub is open; blocked, it stands on another one that is.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import time
import traceback
from collections import defaultdict
from pathlib import Path

import pytest
from jaxtyping import install_import_hook
from rich.console import Console
from rich.table import Table

from common.exercises import MESSAGE, exercises, open_stubs, order

ROOT = Path(__file__).parent
RESULTS = ROOT / ".wm" / "results.json"
PAPERS = tuple(path.name for path in sorted((ROOT / "solutions").glob("paper*")))
STATES = {"done": "green", "failed": "red", "todo": "yellow", "blocked": "cyan"}


# ---- which implementation -----------------------------------------------------------------------------------


class Implementation(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Decides what `import paper1_world_models.vae` means in the tests.

    For the solutions it is the module of the same name under `solutions`. For a student's tree it is their file; where
    that cannot be imported, an empty template takes its place, so that only its own exercises fail.
    """

    def __init__(self, folder: Path, solutions: bool):
        self.folder, self.solutions = folder, solutions
        self.broken: dict[str, str] = {}  # module -> why it cannot be imported

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in PAPERS:
            return None
        if self.solutions:
            return importlib.machinery.ModuleSpec(name, self, is_package=name in PAPERS)
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        search = [str(self.folder)] if path is None else path
        spec = next((spec for finder in others if (spec := finder.find_spec(name, search, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = Guarded(spec.loader, self)
        return spec

    def create_module(self, spec):
        return importlib.import_module(f"solutions.{spec.name}")

    def exec_module(self, module):
        pass


class Guarded(importlib.abc.Loader):
    """A loader that gives a student's file that cannot be imported the empty template's text instead."""

    def __init__(self, loader, implementation: Implementation):
        self.loader, self.implementation = loader, implementation

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        try:
            self.loader.exec_module(module)
        except Exception as error:
            self.implementation.broken[module.__name__] = where(error, module.__file__)
            text, _ = templates_of(module.__name__)
            exec(compile(text, module.__file__, "exec"), module.__dict__)


def where(error: Exception, file: str) -> str:
    """One line: what is wrong with a file, and in which of its lines."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        line = frame.lineno if frame.filename == file else line
    return f"{type(error).__name__} in {Path(file).name}:{line}: {error}"


def templates_of(module: str):
    """The student's template of a module, and the exercises in it."""
    from solutions.make_templates import strip

    path = ROOT / "solutions" / Path(*module.split(".")).with_suffix(".py")
    return strip(path.read_text(), path.name)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("world models")
    group.addoption(
        "--impl", default="student", help="student (default), solutions, or a folder that holds paper folders"
    )
    group.addoption("--gradescope", metavar="FILE", help="write the exercises' scores as Gradescope's results.json")
    group.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config: pytest.Config) -> None:
    impl = config.getoption("--impl")
    folder = {"student": ROOT, "solutions": ROOT / "solutions"}.get(impl, Path(impl)).resolve()
    if not any((folder / paper).is_dir() for paper in PAPERS):
        raise pytest.UsageError(f"--impl {impl}: {folder} holds no paper folder such as {PAPERS[0]}")
    config.implementation = Implementation(folder, solutions=folder == ROOT / "solutions")
    if not config.implementation.solutions:
        sys.path.insert(0, str(folder))
    prefix = "solutions." if config.implementation.solutions else ""
    install_import_hook([prefix + paper for paper in PAPERS], "beartype.beartype")  # shapes are checked while grading
    sys.meta_path.insert(0, config.implementation)
    config.grades = Grades(config)
    config.pluginmanager.register(config.grades)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


# ---- what it says -------------------------------------------------------------------------------------------


class Grades:
    """Sorts every test's outcome into its exercise's state."""

    def __init__(self, config: pytest.Config):
        self.config = config
        self.titles = {exercise.id: exercise.title for exercise in exercises(ROOT)}
        self.outcomes: dict[str, list[tuple[str, str]]] = defaultdict(list)  # exercise -> (state, note) of each test

    def pytest_runtest_setup(self, item):
        """A paper's tests that grade no exercise need all of its exercises."""
        paper = item.path.parent.name
        if paper in PAPERS and not item.get_closest_marker("exercise"):
            broken = [exercise for exercise in self.broken_exercises() if exercise.startswith(paper[len("paper")] + ".")]
            stubs = [stub.id for stub in open_stubs(self.config.implementation.folder) if stub.paper == paper]
            if stubs or broken:
                raise NotImplementedError(f"exercise {(stubs + broken)[0]}: all of this paper's are needed here")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = (yield).get_result()
        marker = item.get_closest_marker("exercise")
        own = marker.kwargs["id"] if marker else None
        state, note = "done", ""
        if call.excinfo is not None:
            state, note = self.judge(own, call.excinfo.value)
        if state in ("todo", "blocked"):
            report.outcome = "skipped"
            report.longrepr = (str(item.path), item.location[1] or 0, f"{state}: {note}")
            report.exercise_state = state
        elif state == "failed" and own in self.broken_exercises():
            report.longrepr = self.broken_exercises()[own]
        if call.when == "call" or call.excinfo is not None:
            self.outcomes[own or ""].append((state, note or str(getattr(report, "longrepr", "") or "")))

    def judge(self, own: str | None, error: BaseException) -> tuple[str, str]:
        """The state that an exception in a test of exercise `own` stands for."""
        if isinstance(error, pytest.skip.Exception):
            return "skipped", str(error)
        stub = MESSAGE.match(str(error)) if isinstance(error, NotImplementedError) else None
        if not stub:
            return "failed", ""
        if stub[1] in self.broken_exercises():
            if stub[1] == own:
                return "failed", self.broken_exercises()[own]
            return "blocked", f"by {stub[1]}"
        return ("todo", str(error)) if stub[1] == own else ("blocked", f"by {stub[1]}")

    def broken_exercises(self) -> dict[str, str]:
        """Exercise -> why its file cannot be imported."""
        broken = self.config.implementation.broken
        return {exercise.id: why for module, why in broken.items() for exercise in templates_of(module)[1]}

    def pytest_report_teststatus(self, report):
        state = getattr(report, "exercise_state", None)
        return (state, state[0], state.upper()) if state else None

    def exercise(self, outcomes: list[tuple[str, str]]) -> tuple[str, str]:
        """An exercise's state from its tests': the worst there is, and what to say about it."""
        for worst in ("failed", "todo", "blocked"):
            notes = sorted({note for state, note in outcomes if state == worst})
            if notes:
                return worst, ", ".join(notes) if worst == "blocked" else notes[0]
        return "done", ""

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session, exitstatus):
        graded = {id: self.exercise(self.outcomes[id]) for id in sorted(self.outcomes.keys() - {""}, key=order)}
        states = [state for state, _ in graded.values()] + [state for state, _ in self.outcomes.get("", [])]
        if exitstatus == pytest.ExitCode.OK and any(state in ("todo", "blocked") for state in states):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.graded = graded
        if self.config.implementation.folder == ROOT and graded:
            earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            now = {
                id: {"state": state, "note": note[-500:], "time": time.time()} for id, (state, note) in graded.items()
            }
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(earlier | now, indent=1))
        if self.config.getoption("--gradescope"):
            self.write_gradescope(Path(self.config.getoption("--gradescope")))

    def write_gradescope(self, path: Path) -> None:
        """One point for each exercise that is done."""
        tests = [
            {
                "name": f"{id}: {self.titles.get(id, '')}",
                "number": id,
                "max_score": 1,
                "score": int(state == "done"),
                "status": "passed" if state == "done" else "failed",
                "output": f"{state} {note}"[-5000:].strip(),
            }
            for id, (state, note) in self.graded.items()
        ]
        path.write_text(json.dumps({"tests": tests}, indent=1))

    def pytest_terminal_summary(self, terminalreporter):
        if not getattr(self, "graded", None):
            return
        table = Table(title=f"exercises of {self.config.implementation.folder}", title_justify="left")
        for column in ("exercise", "what", "state", "tests", "note"):
            table.add_column(column)
        for id, (state, note) in self.graded.items():
            passed = sum(each == "done" for each, _ in self.outcomes[id])
            note = note.splitlines()[-1] if state == "failed" and note else note if state == "blocked" else ""
            tests = f"{passed}/{len(self.outcomes[id])}"
            table.add_row(id, self.titles.get(id, ""), f"[{STATES[state]}]{state}[/]", tests, note[:80])
        with_colour = Console(file=terminalreporter._tw._file, force_terminal=terminalreporter.hasmarkup)
        with_colour.print(table)
