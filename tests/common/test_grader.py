"""The grader: what conftest.py says of submissions, on a small paper without torch and (slow) on the real ones."""

import json
import re
from pathlib import Path

import pytest

from common.exercises import ROOT
from solutions.make_templates import templates
from tests.common.small_repo import fill, make_repo, python

RIGHT = {"1.1": "return 2 * x", "1.2": "return self.side**2", "1.10": "return double(double(x))"}
FILES = {"1.1": "shapes.py", "1.2": "shapes.py", "1.10": "agent.py"}


@pytest.fixture
def repo(tmp_path) -> Path:
    return make_repo(tmp_path / "repo")


def answer(repo: Path, **answers: str) -> None:
    for id, code in answers.items():
        fill(repo / "paper1_small" / FILES[id], id, code)


def pytest_run(folder: Path, *options: str):
    return python(folder, "-m", "pytest", "-p", "no:cacheprovider", *options)


def table(output: str) -> dict[str, str]:
    """{exercise: state} from the closing table."""
    return dict(re.findall(r"^│ (\d+\.\d+) +│.*│ (\w+) +│ +\d+/\d+", output, re.MULTILINE))


def results(repo: Path) -> dict[str, dict]:
    return json.loads((repo / ".wm" / "results.json").read_text())


# ---- the small paper ----


def test_four_states_side_by_side(repo):
    """1.1 is wrong, 1.2 a stub, 1.10 right in itself: it stands on 1.1, not on a stub, so its number is wrong, too."""
    answer(repo, **{"1.1": "return 3 * x", "1.10": RIGHT["1.10"]})
    run = pytest_run(repo, "--gradescope", "scores.json")
    assert run.returncode == 1
    assert table(run.stdout) == {"1.1": "failed", "1.2": "todo", "1.10": "failed"}
    assert re.search(r"│ failed +│ 1/2 +│ AssertionError: -> \[three\] times two", run.stdout)
    scores = json.loads((repo / "scores.json").read_text())["tests"]
    assert [(test["number"], test["status"], test["score"], test["max_score"]) for test in scores] == [
        ("1.1", "failed", 0, 1),
        ("1.2", "failed", 0, 1),
        ("1.10", "failed", 0, 1),
    ]
    assert scores[0]["name"] == "1.1: twice a [number]"
    assert scores[0]["output"].startswith("failed")
    assert "[three] times two" in scores[0]["output"]
    assert scores[1]["output"].startswith("todo")
    kept = results(repo)
    assert {id: kept[id]["state"] for id in kept} == table(run.stdout)
    assert "[three] times two" in kept["1.1"]["note"]


def test_grading_is_done_in_one_process(repo):
    """Several would each know a part, and stubs would pass as skipped tests. Of the solutions there is no verdict."""
    run = pytest_run(repo, "-n", "2")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "leave out -n" in run.stderr
    assert pytest_run(repo, "--impl", "solutions", "-n", "2").returncode == 0


def test_blocked_names_the_stub_and_a_selection_is_no_verdict(repo):
    answer(repo, **{"1.10": RIGHT["1.10"], "1.2": RIGHT["1.2"]})
    run = pytest_run(repo)
    assert run.returncode == 1
    assert table(run.stdout) == {"1.1": "todo", "1.2": "done", "1.10": "blocked"}
    assert "by 1.1" in run.stdout
    assert "failed" not in run.stdout
    (repo / ".wm" / "results.json").unlink()
    part = pytest_run(repo, "-k", "test_area or nothing")
    assert table(part.stdout) == {"1.1": "todo", "1.2": "done"}
    assert set(results(repo)) == {"1.1", "1.2"}  # todo holds for all of 1.1; all of 1.2's tests were among them


@pytest.mark.slow
def test_done_is_remembered_only_of_a_whole_exercise(repo):
    answer(repo, **RIGHT)
    part = pytest_run(repo, "-k", "test_double_of_nothing or test_area")
    assert part.returncode == 0
    assert table(part.stdout) == {"1.1": "done", "1.2": "done"}
    assert set(results(repo)) == {"1.2"}
    one = pytest_run(repo, "tests/paper1_small/test_all.py::test_double")
    assert one.returncode == 0
    assert set(results(repo)) == {"1.2"}
    whole = pytest_run(repo, "--gradescope", "scores.json")
    assert whole.returncode == 0  # though 1.10 has a slow test, which was not run
    assert set(results(repo)) == {"1.1", "1.2", "1.10"}
    scores = json.loads((repo / "scores.json").read_text())["tests"]
    assert [(test["status"], test["score"]) for test in scores] == [("passed", 1)] * 3
    slow = pytest_run(repo, "--slow")
    assert "6 passed" in slow.stdout


@pytest.mark.slow
def test_an_unselected_exercise_keeps_its_result_and_a_damaged_memory_is_replaced(repo):
    answer(repo, **RIGHT)
    (repo / ".wm").mkdir()
    (repo / ".wm" / "results.json").write_text('{"1.2": ')
    assert pytest_run(repo, "-m", 'exercise(id="1.1")').returncode == 0
    assert set(results(repo)) == {"1.1"}
    run = pytest_run(repo, "-m", 'exercise(id="1.10")')
    assert table(run.stdout) == {"1.10": "done"}
    assert set(results(repo)) == {"1.1", "1.10"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def double(x:\n    pass\n", "SyntaxError in shapes.py:1: '(' was never closed"),
        ("import nothing_like_it\n", "ModuleNotFoundError in shapes.py:1: No module named 'nothing_like_it'"),
        ("\n\nraise SystemExit('done')\n", "SystemExit in shapes.py:3: done"),
        (None, "paper1_small/shapes.py is missing"),
    ],
)
def test_a_file_that_cannot_be_imported_fails_its_own_exercises_only(repo, text, why):
    answer(repo, **{"1.10": RIGHT["1.10"]})
    path = repo / "paper1_small" / "shapes.py"
    path.unlink() if text is None else path.write_text(text)
    run = pytest_run(repo)
    assert run.returncode == 1
    assert table(run.stdout) == {"1.1": "failed", "1.2": "failed", "1.10": "blocked"}
    assert run.stdout.rstrip().count(why) >= 1
    assert "error" not in run.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_broken_file_without_exercises_is_not_passed_over(repo):
    """Its template stands in for it, so every exercise passes; the whole is not done all the same."""
    answer(repo, **RIGHT)
    (repo / "paper1_small" / "__init__.py").write_text("1 / 0\n")
    run = pytest_run(repo)
    assert run.returncode == 1
    assert set(table(run.stdout).values()) == {"done"}
    assert "ZeroDivisionError in __init__.py:1" in run.stdout


@pytest.mark.slow
def test_a_stub_that_is_commented_out_is_filled_in(repo):
    answer(repo, **RIGHT)
    path = repo / "paper1_small" / "shapes.py"
    path.write_text(path.read_text() + '\n# raise NotImplementedError("exercise 1.1: twice a [number]")\n')
    assert pytest_run(repo).returncode == 0  # a paper's other tests look for open stubs


@pytest.mark.slow
def test_what_a_submission_lacks_is_not_taken_from_elsewhere(repo, tmp_path):
    """The students' folder beside the grader is complete; the submission holds one file."""
    answer(repo, **RIGHT)
    submission = tmp_path / "submission" / "paper1_small"
    submission.mkdir(parents=True)
    (submission / "agent.py").write_text((repo / "paper1_small" / "agent.py").read_text())
    run = pytest_run(repo, f"--impl={submission.parent}")
    assert table(run.stdout) == {"1.1": "failed", "1.2": "failed", "1.10": "blocked"}
    assert "paper1_small/shapes.py is missing" in run.stdout
    assert not (repo / ".wm").exists()  # the results of a submission are not the student's own


@pytest.mark.slow
def test_solutions_and_wrong_paths(repo):
    assert set(table(pytest_run(repo, "--impl", "solutions").stdout).values()) == {"done"}
    assert not (repo / ".wm").exists()
    wrong = pytest_run(repo, "--impl", "common")
    assert wrong.returncode == 4
    assert "--impl common:" in wrong.stderr
    assert "holds no paper folder such as paper1_small" in wrong.stderr
    assert "Traceback" not in wrong.stderr


# ---- the real papers ----


def submission(folder: Path, *, solved: bool) -> Path:
    """The students' folders, written anew: all stubs, or all solutions."""
    for path, text in templates(ROOT)[0].items():
        if solved:
            text = (ROOT / "solutions" / path.relative_to(ROOT)).read_text()
            text = re.sub(r"^(\s*(?:from|import) )solutions\.(?=paper\d)", r"\1", text, flags=re.MULTILINE)
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return folder


def test_one_exercise_of_a_real_submission(tmp_path):
    folder = submission(tmp_path / "submission", solved=True)
    vae = folder / "paper1_world_models" / "vae.py"
    vae.write_text(vae.read_text().replace("torch.exp(logvar / 2)", "torch.exp(logvar)"))
    paper = ("tests/paper1_world_models", f"--impl={folder}")
    run = pytest_run(ROOT, *paper, "-m", 'exercise(id="1.3") or exercise(id="1.1")')
    assert run.returncode == 1
    assert table(run.stdout) == {"1.1": "done", "1.3": "failed"}
    assert "exp(logvar) is the variance" in run.stdout


@pytest.mark.slow
def test_fresh_stubs_are_todo_or_blocked(tmp_path):
    folder = submission(tmp_path / "submission", solved=False)
    run = pytest_run(ROOT, "tests/paper1_world_models", f"--impl={folder}")
    assert run.returncode == 1
    states = table(run.stdout)
    assert len(states) == 14
    assert set(states.values()) <= {"todo", "blocked"}
    assert not re.search(r"\d+ (failed|error)", run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_solutions_in_a_students_folder_are_done(tmp_path):
    folder = submission(tmp_path / "submission", solved=True)
    run = pytest_run(ROOT, "tests/paper1_world_models", f"--impl={folder}")
    assert run.returncode == 0, run.stdout[-3000:]
    assert list(table(run.stdout).values()) == ["done"] * 14


@pytest.mark.slow
def test_a_syntax_error_in_vae_fails_its_five_exercises(tmp_path):
    folder = submission(tmp_path / "submission", solved=True)
    vae = folder / "paper1_world_models" / "vae.py"
    vae.write_text(vae.read_text() + "def f(:\n")
    run = pytest_run(ROOT, "tests/paper1_world_models", f"--impl={folder}")
    assert run.returncode == 1
    states = table(run.stdout)
    assert {id for id, state in states.items() if state == "failed"} == {"1.1", "1.2", "1.3", "1.4", "1.5"}
    assert {states[id] for id in ("1.6", "1.7", "1.8", "1.10", "1.11", "1.12")} == {"done"}
    assert {states[id] for id in ("1.9", "1.13", "1.14")} <= {"done", "blocked"}
    assert re.search(r"SyntaxError in vae.py:\d+: ", run.stdout)
    assert not re.search(r"\d+ error", run.stdout.splitlines()[-1])
