"""The generator of the students' copies."""

import ast
import signal
from pathlib import Path

import pytest

from common.exercises import ROOT, exercises
from solutions.make_templates import FenceError, stale, strip, templates
from tests.common.small_repo import SHAPES, fill, make_repo, python

BEGIN, END = "    ### BEGIN SOLUTION 1.1: twice\n", "    ### END SOLUTION\n"
FUNCTION = f"def double(x):\n{BEGIN}    return 2 * x\n{END}"


@pytest.fixture
def repo(tmp_path) -> Path:
    return make_repo(tmp_path / "repo")


def generate(repo: Path, *options: str):
    return python(repo, "-m", "solutions.make_templates", *options)


# ---- one file ----


def test_a_fence_becomes_a_todo_that_raises():
    text, found = strip(FUNCTION + "    y = 1\n", "f.py")
    todo = '    # TODO 1.1: twice\n    raise NotImplementedError("exercise 1.1: twice")\n'
    assert text == f"def double(x):\n{todo}    y = 1\n"
    assert [(e.id, e.title, e.file, e.line) for e in found] == [("1.1", "twice", "f.py", 2)]


def test_text_without_fences_comes_through_as_it_is():
    text = "x = 1\n\n\n# END SOLUTION\ny = 2  # the last\n"
    assert strip(text, "f.py") == (text, [])
    assert strip("", "f.py") == ("", [])


def test_imports_lose_their_first_part_and_nothing_else_does():
    text = (
        "from solutions.paper2_dreamerv1.rssm import RSSM\n"
        "import solutions.paper1_world_models.vae as vae\n"
        "def f():\n    from solutions.paper1_world_models import rnn\n"
        "from solutions.make_templates import strip\n"
        "path = 'solutions.paper1_world_models'\n"
    )
    assert strip(text, "f.py")[0] == (
        "from paper2_dreamerv1.rssm import RSSM\n"
        "import paper1_world_models.vae as vae\n"
        "def f():\n    from paper1_world_models import rnn\n"
        "from solutions.make_templates import strip\n"
        "path = 'solutions.paper1_world_models'\n"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"def f():\n{BEGIN}{BEGIN}    pass\n{END}{END}", r"^f\.py:3: a fence inside the fence that begins at line 2$"),
        (f"def f():\n{BEGIN}    pass\n", r"^f\.py:2: this fence is never closed$"),
        (f"def f():\n    pass\n{END}", r"^f\.py:3: a fence ends that never began$"),
        (f"{FUNCTION}{END}", r"^f\.py:5: a fence ends that never began$"),
        ("    ### BEGIN SOLUTION\n    pass\n" + END, r"^f\.py:1: a fence reads '### BEGIN SOLUTION 2\.4: what to do'"),
        ("### BEGIN SOLUTION 1: x\n### END SOLUTION\n", r"^f\.py:1: a fence reads .*, not '### BEGIN SOLUTION 1: x'$"),
        ("### BEGIN SOLUTION 1.2:\n### END SOLUTION\n", r"^f\.py:1: a fence reads"),
        ("### BEGIN SOLUTION twice\n### END SOLUTION\n", r"^f\.py:1: a fence reads"),
        (f"{FUNCTION}{FUNCTION}", r"^f\.py:6: exercise 1\.1 is already at f\.py:2$"),
    ],
)
def test_a_bad_fence_is_refused_with_file_and_line(source, message):
    with pytest.raises(FenceError, match=message):
        strip(source, "f.py")


def test_a_number_that_occurs_in_two_files_is_refused():
    seen = {}
    strip(FUNCTION, "a.py", seen)
    with pytest.raises(FenceError, match=r"^b\.py:2: exercise 1\.1 is already at a\.py:2$"):
        strip(FUNCTION, "b.py", seen)


def test_a_copy_that_is_no_python_is_refused(repo):
    path = repo / "solutions" / "paper1_small" / "shapes.py"
    path.write_text("if True:\n    x = 1\n  ### BEGIN SOLUTION 1.1: twice\n    y = 2\n  ### END SOLUTION\n")
    with pytest.raises(FenceError, match=r"^solutions/paper1_small/shapes\.py: without its solutions it is no Python"):
        templates(repo)


# ---- the real tree ----


def interface(text: str) -> dict[str, str]:
    """Every name that other files may use, with its signature, its fields, or that it is there."""
    found = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                found[prefix + node.name] = f"class({', '.join(map(ast.unparse, node.bases))})"
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
                result = ast.unparse(node.returns) if node.returns else ""
                found[prefix + node.name] = f"{decorators} ({ast.unparse(node.args)}) -> {result}"
                found[f"{prefix}{node.name} docstring"] = ast.get_docstring(node) or ""
            elif isinstance(node, ast.AnnAssign):
                found[prefix + ast.unparse(node.target)] = ast.unparse(node)
            elif isinstance(node, ast.Assign):
                found.update({prefix + ast.unparse(target): ast.unparse(node.value) for target in node.targets})

    visit(ast.parse(text).body, "")
    return found


def test_both_trees_have_the_same_names_signatures_and_docstrings():
    files, _ = templates(ROOT)
    assert files
    for path, text in files.items():
        solution = (ROOT / "solutions" / path.relative_to(ROOT)).read_text()
        assert interface(text) == interface(solution), path


def test_every_exercise_has_one_stub_and_no_solution_is_left():
    files, found = templates(ROOT)
    assert [e.id for e in exercises(ROOT)] == sorted((e.id for e in found), key=lambda id: [*map(int, id.split("."))])
    for path, text in files.items():
        assert "SOLUTION" not in text, path
        assert "solutions.paper" not in text, path
    for exercise in found:
        lines = files[ROOT / exercise.file].splitlines()
        assert lines[exercise.line - 1].strip() == f"# TODO {exercise.id}: {exercise.title}"


def test_every_exercise_has_guidelines():
    """A docstring in the function or its class, in the place where the student will read it."""
    from common.progress import solution_code

    for exercise in exercises(ROOT):
        code = solution_code(exercise)
        assert code is not None, f"{exercise.id} is in no function"
        assert len(code.docstring.split()) >= 15, f"{exercise.id}: {code.docstring!r}"


# ---- the command ----


def test_check_passes_on_a_fresh_copy_and_names_what_differs(repo):
    fresh = generate(repo, "--check")
    assert fresh.returncode == 0, fresh.stderr
    assert "3 exercises: up to date" in fresh.stdout
    student = repo / "paper1_small"
    fill(student / "shapes.py", "1.1", "return 2 * x")
    (student / "agent.py").unlink()
    (student / "leftover.py").write_text("")
    before = (student / "shapes.py").read_text()
    different = generate(repo, "--check")
    assert different.returncode == 1
    for name in ("shapes.py", "agent.py", "leftover.py"):
        assert f"paper1_small/{name}" in different.stderr
    assert "__init__.py" not in different.stderr
    assert (student / "shapes.py").read_text() == before
    assert not (student / "agent.py").exists()


def test_a_bad_fence_ends_the_command_with_one_line_and_writes_nothing(repo):
    path = repo / "solutions" / "paper1_small" / "agent.py"
    path.write_text(path.read_text().replace("1.10", "1.1"))
    before = (repo / "paper1_small" / "agent.py").read_text()
    result = generate(repo)
    assert result.returncode == 1
    assert result.stderr == (
        "error: solutions/paper1_small/shapes.py:9: exercise 1.1 is already at solutions/paper1_small/agent.py:8\n"
    )
    assert (repo / "paper1_small" / "agent.py").read_text() == before


def test_writing_saves_the_text_that_it_replaces(repo):
    student = repo / "paper1_small" / "shapes.py"
    fill(student, "1.1", "return 2 * x")
    mine = student.read_text()
    assert "written: paper1_small/shapes.py" in generate(repo).stdout
    assert stale(templates(repo)[0], repo) == []
    (copy,) = repo.glob(".wm/saved/paper1_small/*-shapes.py")
    assert copy.read_text() == mine
    assert "written: nothing" in generate(repo).stdout


KILLED = """
import os, signal
from pathlib import Path
from solutions import make_templates

real = os.replace

def replace(source, target):
    if Path(target).parts[-2:] == ("paper1_small", "shapes.py"):
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)

os.replace = replace
make_templates.main([])
"""


def test_a_kill_half_way_leaves_the_old_file_whole(repo):
    student = repo / "paper1_small" / "shapes.py"
    student.write_text(SHAPES + "# mine\n")
    killed = python(repo, "-c", KILLED)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert student.read_text() == SHAPES + "# mine\n"
    assert generate(repo).returncode == 0
    assert generate(repo, "--check").returncode == 0
