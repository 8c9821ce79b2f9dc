"""The learner's command, on a small repository of its own."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import wm
from common.exercises import ROOT
from tests.common.small_repo import CLEAN, SHAPES, fill, make_repo, python, write

RIGHT = {"1.1": "return 2 * x", "1.2": "return self.side * self.side", "1.10": "return double(double(x))"}


@pytest.fixture
def repo(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(make_repo(tmp_path / "repo"))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path / "repo"


@pytest.fixture
def run(repo, capsys):
    """Call `wm ...`: (exit code, what it printed)."""

    def call(*arguments: str) -> tuple[int, str]:
        try:
            code = wm.main(list(arguments), root=repo)
        except SystemExit as exit:
            code = exit.code
        return code, "".join(capsys.readouterr())

    return call


@pytest.fixture
def graded(repo, monkeypatch):
    """Stand in for pytest: notes what would be run, and says of every exercise what the test wants."""
    calls = []

    def fake(command, cwd):
        calls.append(command)
        now = time.time()
        record(repo, now, **{id.id: ("done", "") for id in wm.exercises(repo) if f'id="{id.id}"' in str(command)})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(wm.subprocess, "run", fake)
    return calls


def record(repo: Path, when: float, **states: tuple[str, str]) -> None:
    from common.progress import fingerprint, write_results

    codes = {each.id: fingerprint(repo, each) for each in wm.exercises(repo)}
    results = {
        id: {"state": state, "note": note, "time": when, "code": codes[id]} for id, (state, note) in states.items()
    }
    write_results(repo, results)


def shapes(repo: Path) -> Path:
    return repo / "paper1_small" / "shapes.py"


def fill_all(repo: Path) -> None:
    fill(shapes(repo), "1.1", RIGHT["1.1"])
    fill(shapes(repo), "1.2", RIGHT["1.2"])
    fill(repo / "paper1_small" / "agent.py", "1.10", RIGHT["1.10"])


def row(output: str, id: str) -> str:
    return next(line for line in output.splitlines() if f" {id} " in line)


def saved_copies(repo: Path) -> list[Path]:
    return sorted(repo.glob(".wm/saved/paper1_small/*-shapes.py"))


# ---- status and next ----


def test_status_of_a_fresh_copy(run):
    code, out = run("status")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines() if "todo" in line] == ["1.1", "1.2", "1.10"]
    assert "twice a [number]" in out
    assert "paper1_small" in out.splitlines()[-1]
    assert "0 of 3 done" in out.splitlines()[-1]
    assert run()[1] == out  # wm alone


def test_status_follows_the_file_and_the_last_results(run, repo):
    fill_all(repo)
    assert row(run("status")[1], "1.1").count("filled in, not graded") == 1
    record(repo, time.time(), **{"1.1": ("done", ""), "1.2": ("failed", "assert [9] == 8")})
    out = run("status")[1]
    assert "done" in row(out, "1.1")
    assert "assert [9] == 8" in row(out, "1.2")
    assert "filled in, not graded" in row(out, "1.10")
    assert "1 of 3 done" in out


def test_only_the_function_that_changed_is_changed_since(run, repo):
    fill_all(repo)
    record(repo, time.time() - 100, **{"1.1": ("done", ""), "1.2": ("done", "")})  # the file is newer than that
    assert "2 of 3 done" in run("status")[1]
    shapes(repo).write_text(shapes(repo).read_text().replace("return 2 * x", "return x * 2"))
    out = run("status")[1]
    assert "changed since" in row(out, "1.1")
    assert "done" in row(out, "1.2")
    assert "1 of 3 done" in out


def test_a_result_of_the_stub_says_nothing_of_the_code_and_the_reverse(run, repo):
    record(repo, time.time() + 100, **{"1.1": ("todo", "exercise 1.1: twice"), "1.2": ("done", "")})
    fill(shapes(repo), "1.1", RIGHT["1.1"])
    out = run("status")[1]
    assert "filled in, not graded" in row(out, "1.1")
    assert "todo" in row(out, "1.2")  # it is open, whatever it was


def test_blocked_ends_when_its_blockers_are_done(run, repo):
    fill_all(repo)
    record(repo, time.time() + 100, **{"1.1": ("failed", ""), "1.10": ("blocked", "by 1.1")})
    assert "by 1.1" in row(run("status")[1], "1.10")
    record(repo, time.time() + 100, **{"1.1": ("done", "")})
    assert "filled in, not graded" in row(run("status")[1], "1.10")


@pytest.mark.parametrize("text", ["", "{", "[" * 50, "null"])
def test_damaged_memory_is_no_memory(run, repo, text):
    write(repo / ".wm" / "results.json", text)
    write(repo / ".wm" / "hints.json", text)
    assert "0 of 3 done" in run("status")[1]
    assert "hint 1 of 3" in run("hint", "1.1")[1]


def test_a_missing_and_a_broken_file_do_not_stop_the_others(run, repo):
    (repo / "paper1_small" / "agent.py").unlink()
    shapes(repo).write_text("def double(x:\n")
    code, out = run("status")
    assert code == 0
    assert "agent.py is missing" in row(out, "1.10")
    assert "not graded" in row(out, "1.1")


def test_status_needs_no_torch_and_answers_at_once(repo):
    """0.3 s of processor time, which another program on the same machine cannot take away."""
    script = "import sys; from common.wm import main; main(['status']); assert 'torch' not in sys.modules"
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = python(ROOT, "-c", script)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert result.returncode == 0, result.stderr
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3


def test_next_shows_place_section_command_and_guidelines(run, repo, monkeypatch):
    out = run("next")[1]
    assert out.startswith("1.1 twice a [number] (todo)")
    assert "paper1_small/shapes.py:10 " in out  # where the stub raises
    assert "raise" in shapes(repo).read_text().splitlines()[9]
    assert "IMPLEMENTATION_GUIDE.md, section 1.1" in out
    assert "wm check 1.1" in out
    assert "    Input: a number [or a list]." in out
    monkeypatch.chdir(repo / "paper1_small")
    assert "\nshapes.py:10 " in run("next")[1]


def test_next_goes_on_and_ends(run, repo):
    fill(shapes(repo), "1.1", RIGHT["1.1"])
    assert run("next")[1].startswith("1.1 twice a [number] (filled in, not graded)")
    record(repo, time.time() + 100, **{"1.1": ("done", "")})
    out = run("next")[1]
    assert out.startswith("1.2 a square's area (todo)")
    assert "A square; `area` gives side * side." in out  # the method has no docstring of its own: its class's
    fill(shapes(repo), "1.2", RIGHT["1.2"])
    fill(repo / "paper1_small" / "agent.py", "1.10", RIGHT["1.10"])
    record(repo, time.time() + 100, **dict.fromkeys(RIGHT, ("done", "")))
    assert run("next") == (0, "every exercise is done\n")


# ---- check ----


def test_check_runs_pytest_on_one_exercise_or_a_paper(run, graded):
    code, out = run("check", "1.2")
    assert code == 0
    assert graded[-1] == [sys.executable, "-m", "pytest", "tests/paper1_small", "-m", 'exercise(id="1.2")']
    assert "1.2 is still a stub" in out
    for paper in ("paper1", "1", "paper1_small", "paper1_small/"):
        assert "0 of 3 done" in run("check", paper)[1]
        assert graded[-1] == [sys.executable, "-m", "pytest", "tests/paper1_small"]


def test_check_without_a_number_takes_what_was_changed_last(run, repo, graded):
    assert "wm check 1.1\n" in run("check")[1]  # nothing is filled in: the next stub
    fill_all(repo)
    os.utime(shapes(repo), (1, 1))
    assert "wm check 1.10\n" in run("check")[1]  # the file saved last
    os.utime(shapes(repo))
    assert "wm check 1.1\n" in run("check")[1]
    _, out = run("check")
    assert "wm check 1.2\n" in out
    assert out.endswith("1.2 is done. That was the last one: all is done.\n")
    assert run("check")[1].startswith("every exercise is done")


def test_check_prefers_new_code_to_an_old_failure(run, repo, graded):
    fill_all(repo)
    os.utime(repo / "paper1_small" / "agent.py", (1, 1))
    record(repo, time.time() + 100, **{"1.1": ("failed", "assert")})
    assert "wm check 1.2\n" in run("check")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "1.7"], "error: there is no exercise 1.7: wm status lists them"),
        (["check", "paper9"], "error: there is no exercise or paper paper9"),
        (["hint", "9.9"], "error: there is no exercise 9.9"),
        (["diff", "x"], "error: there is no exercise x"),
        (["reset", "1", "--yes"], "error: there is no exercise 1:"),
        (["hint", "1.1", "--step", "4"], "error: exercise 1.1 has hints 1 to 3, not 4"),
        (["hint", "1.2"], "error: IMPLEMENTATION_GUIDE.md has no section 1.2 yet"),
        (["hint", "1.10"], "error: IMPLEMENTATION_GUIDE.md, section 1.10, has no hints"),
    ],
)
def test_what_does_not_exist_is_one_line_and_code_2(run, arguments, message):
    code, out = run(*arguments)
    assert code == 2
    assert out.startswith(message)
    assert out.count("\n") == 1


def test_a_folder_without_exercises_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        wm.main(["status"], root=tmp_path)
    assert "no exercises in" in capsys.readouterr().err


@pytest.mark.slow
def test_check_with_the_real_grader(repo):
    """From a folder inside; wrong, right, and the exit code of pytest comes through."""
    check = ("-c", f"import sys; sys.path.insert(0, {str(repo)!r}); from common.wm import main; sys.exit(main())")
    folder = repo / "paper1_small"
    fill(shapes(repo), "1.1", "return 3 * x")
    wrong = python(folder, *check, "check")
    assert wrong.returncode == 1
    assert "1.1 is not right yet. `wm hint 1.1`" in wrong.stdout
    shapes(repo).write_text(shapes(repo).read_text().replace("3 * x", "2 * x"))
    assert "changed since" in python(folder, *check, "status").stdout
    right = python(folder, *check, "check", "1.1")
    assert right.returncode == 0
    assert right.stdout.endswith("1.1 is done. Next: 1.2 a square's area (wm next)\n")
    whole = python(folder, *check, "check", "paper1")
    assert whole.returncode == 1
    assert "1 of 3 done" in whole.stdout


# ---- hint ----


def test_hints_come_nearer_and_are_remembered(run, repo):
    first, second, third, again = (run("hint", "1.1")[1] for _ in range(4))
    assert first.startswith("1.1, hint 1 of 3: what\n\nAdd it [to itself].")
    assert "### 1.2 no heading" in first  # a comment in code ends no section
    assert "1.1, hint 2 of 3: how\n\nMultiply." in second
    assert "`2 * x`" in third
    assert "the last hint" in third
    assert again == third
    assert json.loads((repo / ".wm" / "hints.json").read_text()) == {"1.1": 3}
    assert run("hint", "1.1", "--step", "1")[1] == first
    assert run("hint", "1.1")[1] == third
    assert run("hint")[1] == third  # the next exercise to do is 1.1


def test_asking_for_a_step_counts_as_shown(run):
    assert "hint 2 of 3" in run("hint", "1.1", "--step", "2")[1]
    assert "hint 3 of 3" in run("hint", "1.1")[1]


def test_without_a_guide_there_are_no_hints(run, repo):
    (repo / "IMPLEMENTATION_GUIDE.md").unlink()
    code, out = run("hint", "1.1")
    assert code == 2
    assert out.startswith("error: there is no IMPLEMENTATION_GUIDE.md in ")


def test_every_exercise_has_three_hints_in_the_guide():
    for exercise in wm.exercises(ROOT):
        assert len(wm.read_hints(ROOT, exercise.id)) == 3, f"section {exercise.id}"


# ---- diff ----


def test_diff_asks_and_shows_the_function_alone(run, repo, monkeypatch):
    fill(shapes(repo), "1.1", "return x + x")
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert run("diff", "1.1") == (0, "")
    monkeypatch.setattr(
        "builtins.input", lambda question: "y" if question == "show the solution of 1.1? [y/N] " else ""
    )
    out = run("diff", "1.1")[1]
    assert "-    return x + x\n+    return 2 * x\n" in out
    assert "Input: a number [or a list]." in out
    assert "SOLUTION" not in out
    assert "untouched" not in out
    shapes(repo).write_text(shapes(repo).read_text().replace("x + x", "2 * x"))
    assert "word for word" in run("diff", "1.1", "--yes")[1]


@pytest.mark.parametrize("text", ["def double(x:\n", "def twice(x):\n    return 2 * x\n", "\0", None])
def test_diff_without_anything_to_compare(run, repo, text):
    shapes(repo).unlink() if text is None else shapes(repo).write_text(text)
    code, out = run("diff", "1.1", "--yes")
    assert code == 2
    assert "no double can be found there" in out


# ---- reset ----


def test_reset_puts_back_one_stub_and_keeps_the_rest(run, repo):
    fresh = shapes(repo).read_text()
    fill_all(repo)
    mine = "import math\n\n\n" + shapes(repo).read_text() + "\n\ndef helper():\n    return math.pi\n"
    shapes(repo).write_text(mine)
    code, out = run("reset", "1.2", "--yes")
    assert code == 0
    stub = "        # TODO 1.2: a square's area\n        raise NotImplementedError(\"exercise 1.2: a square's area\")"
    assert shapes(repo).read_text() == mine.replace("        " + RIGHT["1.2"], stub)
    (copy,) = saved_copies(repo)
    assert copy.read_text() == mine
    assert str(copy.relative_to(repo)) in out
    assert "1.2 is a stub again: paper1_small/shapes.py:" in out
    run("reset", "1.1", "--yes")
    assert len(saved_copies(repo)) == 2
    assert fresh in shapes(repo).read_text()


def test_reset_takes_rewritten_functions_whole(run, repo):
    """Decorators, inner functions, comments behind the last statement, another signature: all of it is replaced."""
    mine = """from functools import cache


@cache
def double(x, extra=[
    1,
]):
    def inner():
        return "a"
    return inner() * x
    # done?

  # not quite
# about untouched
def untouched():
    return "mine"
"""
    shapes(repo).write_text(mine)
    assert run("reset", "1.1", "--yes")[0] == 0
    text = shapes(repo).read_text()
    double = SHAPES[SHAPES.index("def double") : SHAPES.index("    ###")]
    assert text.startswith(f"from functools import cache\n\n\n{double}    # TODO 1.1: twice a [number]\n")
    assert text.endswith('")\n# about untouched\ndef untouched():\n    return "mine"\n')


def test_reset_asks_first(run, repo, monkeypatch):
    fill_all(repo)
    before = shapes(repo).read_bytes()
    questions = []
    for answer in ("", "n", EOFError()):
        monkeypatch.setattr(
            "builtins.input", lambda question, answer=answer: questions.append(question) or reply(answer)
        )
        code, out = run("reset", "1.1")
        assert code == 0
        assert "nothing is changed" in out
        assert shapes(repo).read_bytes() == before
    assert questions[0].startswith("put the stub of 1.1 back into paper1_small/shapes.py?")
    assert saved_copies(repo) == []


def reply(answer):
    if isinstance(answer, BaseException):
        raise answer
    return answer


def test_reset_says_what_else_it_resets(run, repo, monkeypatch):
    """Two exercises in one function go together."""
    path = repo / "solutions" / "paper1_small" / "shapes.py"
    both = "    ### BEGIN SOLUTION 1.3: more\n    pass\n    ### END SOLUTION\n    ### BEGIN SOLUTION 1.1:"
    path.write_text(path.read_text().replace("    ### BEGIN SOLUTION 1.1:", both))
    questions = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "n")
    run("reset", "1.1")
    assert "and those of 1.3, which are in the same function" in questions[0]


def test_reset_takes_the_text_that_was_saved_while_it_asked(run, repo, monkeypatch):
    def save_then_yes(question):
        shapes(repo).write_text(shapes(repo).read_text() + "\nlate = True\n")
        return "y"

    fill_all(repo)
    monkeypatch.setattr("builtins.input", save_then_yes)
    run("reset", "1.1")
    assert shapes(repo).read_text().endswith("\nlate = True\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def double(x:\n    pass\n", "'(' was never closed in line 1"),
        ("def twice(x):\n    return 2 * x\n", "double is defined 0 times in it"),
        ("def double(x):\n    return x\n\n\ndef double(x):\n    return 2 * x\n", "double is defined 2 times in it"),
        ("if True:\n    def double(x):\n        return x\n", "double"),
        (b"# caf\xe9\ndef double(x):\n    return x\n", "codec can't decode"),
        (None, "there is no such file"),
    ],
)
def test_reset_changes_nothing_where_it_cannot_tell_the_function(run, repo, text, why):
    shapes(repo).unlink() if text is None else shapes(repo).write_bytes(
        text if isinstance(text, bytes) else text.encode()
    )
    before = shapes(repo).read_bytes() if text else None
    code, out = run("reset", "1.1", "--yes")
    assert code == 2
    assert why in out
    assert "Nothing is changed" in out
    assert "    # TODO 1.1: twice a [number]" in out  # the stub, to paste
    assert (shapes(repo).read_bytes() if text else None) == before
    assert saved_copies(repo) == []


def test_reset_keeps_windows_line_ends(run, repo):
    fill_all(repo)
    shapes(repo).write_bytes(shapes(repo).read_bytes().replace(b"\n", b"\r\n"))
    before = shapes(repo).read_bytes()
    run("reset", "1.1", "--yes")
    text = shapes(repo).read_bytes()
    assert text.count(b"\r\n") == text.count(b"\n")
    assert b"# TODO 1.1" in text
    assert saved_copies(repo)[0].read_bytes() == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_reset_that_fails_half_way_leaves_the_file_as_it_was(run, repo, monkeypatch, error):
    fill_all(repo)
    before, replace = shapes(repo).read_bytes(), os.replace

    def fails(source, target):
        if Path(target) == shapes(repo):
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    code, _ = run("reset", "1.1", "--yes")
    assert code == (2 if isinstance(error, OSError) else 130)
    assert shapes(repo).read_bytes() == before
    assert saved_copies(repo)[0].read_bytes() == before
    assert not list(repo.glob("paper1_small/*.tmp"))


KILLED = """
import os, signal, sys
from pathlib import Path
from common.wm import main

real = {"replace": os.replace, "fsync": os.fsync}

def replace(source, target):
    mine = Path(target).parent.name == "paper1_small" and Path(target).name == "shapes.py"
    if mine and sys.argv[1] == "before it takes the name":
        os.kill(os.getpid(), signal.SIGKILL)
    real["replace"](source, target)
    if mine:
        os.kill(os.getpid(), signal.SIGKILL)

def fsync(number):
    name = os.path.basename(os.readlink(f"/proc/self/fd/{number}"))
    if sys.argv[1] == "while it is written" and name == "shapes.py.tmp":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1] == "while it is saved aside" and name != "shapes.py.tmp":
        os.kill(os.getpid(), signal.SIGKILL)
    real["fsync"](number)

os.replace, os.fsync = replace, fsync
main(["reset", "1.1", "--yes"])
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "moment", ["while it is saved aside", "while it is written", "before it takes the name", "just after"]
)
def test_a_killed_reset_loses_no_text(repo, moment):
    fill_all(repo)
    before = shapes(repo).read_bytes()
    killed = python(repo, "-c", KILLED, moment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if moment == "just after":
        assert b"# TODO 1.1" in shapes(repo).read_bytes()
    else:
        assert shapes(repo).read_bytes() == before
    if moment != "while it is saved aside":
        assert saved_copies(repo)[0].read_bytes() == before
    assert python(repo, "-m", "common.wm", "reset", "1.1", "--yes").returncode == 0  # and it can be done again


# ---- watch ----


def test_a_save_grades_what_is_filled_in_and_not_done(run, repo, graded):
    wm.regrade(repo, {shapes(repo)})
    assert graded == []  # stubs
    fill_all(repo)
    wm.regrade(repo, {shapes(repo)})
    assert graded[-1][-1] == 'exercise(id="1.1") or exercise(id="1.2")'  # not 1.10: its file was not saved
    wm.regrade(repo, {shapes(repo)})
    assert len(graded) == 1  # they are done
    shapes(repo).write_text(shapes(repo).read_text().replace("return 2 * x", "return x + x"))
    wm.regrade(repo, {shapes(repo)})
    assert graded[-1][-1] == 'exercise(id="1.1")'  # the one that changed
    wm.regrade(repo, {repo / "paper1_small" / "notes.py"})
    assert len(graded) == 2


class Watching:
    """`wm watch` in a process of its own."""

    def __init__(self, repo: Path):
        self.repo, self.log = repo, repo / "log"
        default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # pytest itself may run in the background
        command = [sys.executable, "-m", "common.wm", "watch"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=repo, stdout=log, stderr=subprocess.STDOUT, env=CLEAN, preexec_fn=default
            )
        self.wait(b"watching", 0)

    def save_until(self, path: Path, text: str, answer: str) -> None:
        """Save a file, and again as long as nothing is heard: the watch begins a moment after it says so."""
        heard = self.log.stat().st_size
        while self.log.stat().st_size == heard:
            path.write_text(text)
            time.sleep(1)
        self.wait(answer.encode(), heard)

    def wait(self, answer: bytes, heard: int) -> None:
        """Until `answer` is printed behind the first `heard` bytes."""
        end = time.time() + 120
        while answer not in self.log.read_bytes()[heard:]:
            assert self.process.poll() is None, self.log.read_text()
            assert time.time() < end, self.log.read_text()
            time.sleep(0.1)


@pytest.mark.slow
def test_watch_grades_every_save_until_ctrl_c_and_writes_nothing(repo):
    watching = Watching(repo)
    fill(shapes(repo), "1.1", RIGHT["1.1"])
    right = shapes(repo).read_text()
    wrong = right.replace("2 * x", "3 * x")
    try:
        watching.save_until(shapes(repo), wrong, "1.1 is not right yet")
        watching.save_until(shapes(repo), "def double(x:\n", "1.1 is not right yet")  # a syntax error does not end it
        watching.save_until(shapes(repo), right, "1.1 is done")
        assert shapes(repo).read_text() == right
        watching.process.send_signal(signal.SIGINT)
        assert watching.process.wait(30) == 0
    finally:
        watching.process.kill()
    assert watching.log.read_text().endswith("stopped watching\n")
    assert sorted(path.name for path in (repo / "paper1_small").glob("*.*")) == ["__init__.py", "agent.py", "shapes.py"]


@pytest.mark.slow
def test_a_killed_watch_leaves_files_and_results_whole(repo):
    watching = Watching(repo)
    fill(shapes(repo), "1.1", RIGHT["1.1"])
    text = shapes(repo).read_text()
    try:
        watching.save_until(shapes(repo), text, "grading 1.1")
    finally:
        watching.process.kill()
        watching.process.wait()
    assert shapes(repo).read_text() == text
    for path in (repo / ".wm").glob("*.json"):
        json.loads(path.read_text())
