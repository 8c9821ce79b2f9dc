"""The grader: which implementation the tests run against, and what it says of each exercise.

    pytest                                     grade your own copy
    pytest --impl solutions                    run the same tests against the solutions
    pytest --impl=PATH                         grade a folder that holds paper folders (a submission); with an =, or
                                               pytest takes a path outside of this folder for where the tests are
    pytest -m 'exercise(id="1.4")'             one exercise
    pytest --gradescope=results.json           write Gradescope's results, too
    pytest --slow                              also what is marked slow

Each exercise is in one of four states: done; failed; todo, its stub is open; blocked, it stands on another one that is.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import re
import sys
import time
import traceback
from collections import defaultdict
from pathlib import Path

import pytest
from jaxtyping import install_import_hook
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.exercises import MESSAGE, exercises, open_stubs, order
from common.progress import fingerprint, write_results

ROOT = Path(__file__).parent
PAPERS = tuple(path.name for path in sorted((ROOT / "solutions").glob("paper*")))
ONLY_EXERCISES = re.compile(r"""(exercise\(id=["']\d+\.\d+["']\)( or )?)+""")  # what -m selects
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
        specs = (spec for finder in others if (spec := finder.find_spec(name, search, target)))
        spec = next((spec for spec in specs if self.holds(spec)), None)
        if spec is None and template_path(name).exists():
            self.broken[name] = f"{name.replace('.', '/')}{'' if name in PAPERS else '.py'} is missing"
            return importlib.machinery.ModuleSpec(name, Empty(), is_package=name in PAPERS)
        if spec is not None and spec.loader is not None:
            spec.loader = Guarded(spec.loader, self)
        return spec

    def holds(self, spec) -> bool:
        """Whether a module is in the folder: an installed copy must not stand in for what a submission lacks."""
        places = [spec.origin, *(spec.submodule_search_locations or ())]
        return any(Path(place).is_relative_to(self.folder) for place in places if place)

    def create_module(self, spec):
        return importlib.import_module(f"solutions.{spec.name}")

    def exec_module(self, module):
        pass


class Empty(importlib.abc.Loader):
    """A loader of the empty template."""

    def exec_module(self, module):
        text, _ = templates_of(module.__name__)
        exec(compile(text, module.__name__, "exec"), module.__dict__)


class Guarded(importlib.abc.Loader):
    """A loader that gives a student's file that cannot be imported the empty template's text instead."""

    def __init__(self, loader, implementation: Implementation):
        self.loader, self.implementation = loader, implementation

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        try:
            self.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            self.implementation.broken[module.__name__] = where(error, module.__file__)
            Empty().exec_module(module)


def where(error: BaseException, file: str) -> str:
    """One line: what is wrong with a file, and in which of its lines."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        line = frame.lineno if frame.filename == file else line
    return f"{type(error).__name__} in {Path(file).name}:{line}: {error}"


def templates_of(module: str):
    """The student's template of a module, and the exercises in it."""
    from solutions.make_templates import strip

    path = template_path(module)
    return strip(path.read_text(), path.name)


def template_path(module: str) -> Path:
    """The solution that a module's template is made from."""
    path = ROOT.joinpath("solutions", *module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


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
    if getattr(config.option, "numprocesses", None) and not config.implementation.solutions:
        raise pytest.UsageError("grading is done in one process, which sees every test: leave out -n")
    if not config.implementation.solutions:
        sys.path.insert(0, str(folder))
    prefix = "solutions." if config.implementation.solutions else ""
    install_import_hook([prefix + paper for paper in PAPERS], "beartype.beartype")  # shapes are checked while grading
    sys.meta_path.insert(0, config.implementation)
    config.grades = Grades(config)
    config.pluginmanager.register(config.grades)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where exercises alone are selected, leave out files without a test of theirs: their imports take seconds."""
    if not ONLY_EXERCISES.fullmatch(config.option.markexpr) or not collection_path.match("test_*.py"):
        return None
    text = collection_path.read_text(encoding="utf-8", errors="replace")
    wanted = re.findall(r"\d+\.\d+", config.option.markexpr)
    return None if any(f'exercise(id="{id}")' in text for id in wanted) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


# ---- what it says -------------------------------------------------------------------------------------------


def own_exercise(item: pytest.Item) -> str:
    """The exercise that a test grades; "" for none."""
    marker = item.get_closest_marker("exercise")
    return marker.kwargs["id"] if marker else ""


def gist(note: str) -> str:
    """One line of a failure: the usual mistake where one was recognised, else the error's first line."""
    errors = re.findall(r"^E +(.*)", note, re.MULTILINE) or note.splitlines() or [""]
    return next((line for line in errors if line.startswith("->")), errors[0])[:200]


class Grades:
    """Sorts every test's outcome into its exercise's state."""

    def __init__(self, config: pytest.Config):
        self.config = config
        self.titles = {exercise.id: exercise.title for exercise in exercises(ROOT)}
        self.outcomes: dict[str, list[tuple[str, str]]] = defaultdict(list)  # exercise -> (state, note) of each test
        self.ran: set[str] = set()  # node ids
        self.partial: set[str] = set()  # exercises of which not every test was selected
        self.start = time.time()
        self.code = {exercise.id: fingerprint(ROOT, exercise) for exercise in exercises(ROOT)}  # before it is imported

    def pytest_deselected(self, items):
        self.partial |= {own_exercise(item) for item in items if not item.get_closest_marker("slow")}

    def pytest_runtest_setup(self, item):
        """A paper's tests that grade no exercise need all of its exercises."""
        paper = item.path.parent.name
        if paper in PAPERS and not item.get_closest_marker("exercise"):
            broken = [
                exercise for exercise in self.broken_exercises() if exercise.startswith(paper[len("paper")] + ".")
            ]
            stubs = [stub.id for stub in open_stubs(self.config.implementation.folder) if stub.paper == paper]
            if stubs or broken:
                raise NotImplementedError(f"exercise {(stubs + broken)[0]}: all of this paper's are needed here")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = (yield).get_result()
        own = own_exercise(item)
        self.ran.add(item.nodeid)
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
            self.outcomes[own].append((state, note or str(getattr(report, "longrepr", "") or "")))

    def judge(self, own: str, error: BaseException) -> tuple[str, str]:
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
        unfinished = self.config.implementation.broken or any(state in ("todo", "blocked") for state in states)
        if exitstatus == pytest.ExitCode.OK and unfinished:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.graded = graded
        if self.config.implementation.folder == ROOT and graded:
            write_results(ROOT, self.results(session))
        if self.config.getoption("--gradescope"):
            self.write_gradescope(Path(self.config.getoption("--gradescope")))

    def results(self, session) -> dict[str, dict]:
        """What to remember. An exercise is done if all of its tests have passed, not a selection of them."""
        selected = any("::" in argument for argument in self.config.args)
        partial = self.partial | {own_exercise(item) for item in session.items if item.nodeid not in self.ran}
        return {
            id: {"state": state, "note": gist(note), "time": self.start, "code": self.code.get(id, "")}
            for id, (state, note) in self.graded.items()
            if state != "done" or not (selected or id in partial)
        }

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
            note = "" if state == "todo" else gist(note)
            tests = f"{passed}/{len(self.outcomes[id])}"
            table.add_row(id, escape(self.titles.get(id, "")), f"[{STATES[state]}]{state}[/]", tests, escape(note))
        with_colour = Console(file=terminalreporter._tw._file, force_terminal=terminalreporter.hasmarkup)
        with_colour.print(table)
        for why in self.config.implementation.broken.values():
            with_colour.print(f"[red]{escape(why)}[/]", soft_wrap=True, highlight=False)
