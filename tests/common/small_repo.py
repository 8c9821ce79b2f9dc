"""A repository of one small paper without torch, with the real grader and the real tools, for tests of these."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from common.exercises import ROOT
from solutions.make_templates import templates

SHAPES = '''"""Shapes."""


def double(x):
    """Twice x.

    Input: a number [or a list].
    """
    ### BEGIN SOLUTION 1.1: twice a [number]
    return 2 * x
    ### END SOLUTION


class Square:
    """A square; `area` gives side * side."""

    def __init__(self, side):
        self.side = side

    def area(self):
        ### BEGIN SOLUTION 1.2: a square's area
        return self.side**2
        ### END SOLUTION


def untouched():
    return "given"
'''

AGENT = '''"""Agent."""

from solutions.paper1_small.shapes import double


def quadruple(x):
    """Four times x."""
    ### BEGIN SOLUTION 1.10: twice twice
    return double(double(x))
    ### END SOLUTION
'''

TESTS = """import pytest

from paper1_small import agent, shapes


@pytest.mark.exercise(id="1.1")
def test_double():
    assert shapes.double(3) == 6, "-> [three] times two"


@pytest.mark.exercise(id="1.1")
def test_double_of_nothing():
    assert shapes.double(0) == 0


@pytest.mark.exercise(id="1.2")
def test_area():
    assert shapes.Square(3).area() == 9


@pytest.mark.exercise(id="1.10")
def test_quadruple():
    assert agent.quadruple(2) == 8


@pytest.mark.slow
@pytest.mark.exercise(id="1.10")
def test_quadruple_slowly():
    assert agent.quadruple(0) == 0


def test_all_together():
    assert shapes.Square(agent.quadruple(1)).area() == 16
"""

GUIDE = """# Guide

### 1.1 Twice a number

Why.

<details>
<summary>Hint 1: what</summary>

Add it [to itself].

```python
### 1.2 no heading
```

</details>

<details>
<summary>Hint 2: how</summary>

Multiply.

</details>

<details>
<summary>Hint 3: nearly there</summary>

`2 * x`

</details>

### 1.10 Twice twice

No hints here.

## Paper 2

<details>
<summary>Hint 1: of no section</summary>
</details>
"""

CLEAN = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
CLEAN.pop("PYTEST_ADDOPTS", None)


def make_repo(folder: Path) -> Path:
    """Write the repository into `folder`, its student's copy fresh."""
    here = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "common", folder / "common", ignore=here)
    for name in ("conftest.py", "pyproject.toml", "solutions/__init__.py", "solutions/make_templates.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    files = {
        "solutions/paper1_small/__init__.py": "",
        "solutions/paper1_small/shapes.py": SHAPES,
        "solutions/paper1_small/agent.py": AGENT,
        "tests/__init__.py": "",
        "tests/paper1_small/__init__.py": "",
        "tests/paper1_small/test_all.py": TESTS,
        "IMPLEMENTATION_GUIDE.md": GUIDE,
    }
    for name, text in files.items():
        write(folder / name, text)
    for path, text in templates(folder)[0].items():
        write(path, text)
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def fill(path: Path, id: str, code: str) -> None:
    """Put `code` in the place of one stub, as a student does."""
    lines = path.read_text().split("\n")
    todo = next(i for i, line in enumerate(lines) if f"# TODO {id}:" in line)
    indent = lines[todo][: len(lines[todo]) - len(lines[todo].lstrip())]
    lines[todo : todo + 2] = [indent + line if line else "" for line in code.split("\n")]
    path.write_text("\n".join(lines))


def python(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run Python in `folder`, where its `common` and its papers come first."""
    options = {"capture_output": True, "text": True, "timeout": 300, "env": CLEAN} | options
    return subprocess.run([sys.executable, *arguments], cwd=folder, **options)
