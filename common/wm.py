"""`wm`, the learner's command: where you stand, what is next, is it right, a hint, the solution, starting over."""

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from common.definitions import Definition, definition_at, definitions_named
from common.errors import UserError, one_line_errors
from common.exercises import ROOT, Exercise, exercises, open_stubs
from common.progress import (
    CHANGED,
    UNGRADED,
    Progress,
    progress,
    read,
    read_json,
    solution_code,
    student_code,
    student_file,
)
from common.safe_write import atomic_file, save_aside

# rich, watchfiles and the generator are imported where they are used: `wm status` is to answer at once.

COLOURS = {
    "done": "green",
    "failed": "red",
    "todo": "yellow",
    "blocked": "cyan",
    CHANGED: "magenta",
    UNGRADED: "magenta",
}
LABELS = {UNGRADED: "filled in, not graded"}
GUIDE = "IMPLEMENTATION_GUIDE.md"


# ---- where you stand ----------------------------------------------------------------------------------------


def status(root: Path) -> int:
    """Print every exercise's state, and how many of each paper are done."""
    from rich.table import Table

    states = known(progress(root), root)
    table = Table()
    for column in ("exercise", "what", "state", "note"):
        table.add_column(column)
    for each in states:
        table.add_row(each.id, plain(each.exercise.title), coloured(each.state), plain(each.note))
    say(table)
    for paper in sorted({each.exercise.paper for each in states}):
        say(bar(paper, [each for each in states if each.exercise.paper == paper]))
    return 0


def bar(paper: str, states: list[Progress]) -> str:
    done, total = sum(each.state == "done" for each in states), len(states)
    filled = 30 * done // total
    return f"{paper}  [green]{'━' * filled}[/][dim]{'━' * (30 - filled)}[/]  {done} of {total} done"


def next_exercise(root: Path) -> int:
    """Print where the first exercise that is not done is, what it asks, and how it is graded."""
    each = first_undone(known(progress(root), root))
    if each is None:
        say("[green]every exercise is done[/]")
        return 0
    say(f"[bold]{each.id} {plain(each.exercise.title)}[/] ({coloured(each.state)}) {plain(each.note)}".rstrip())
    code = solution_code(each.exercise)
    say(f"{place(root, each)}  {code.name if code else ''}".rstrip())
    say(f"guide: {each.exercise.guide}")
    say(f"grade: wm check {each.id}     hint: wm hint {each.id}")
    if code and code.docstring:
        say("\n" + plain(textwrap.indent(code.docstring, "    ")))
    return 0


def first_undone(states: list[Progress]) -> Progress | None:
    return next((each for each in states if each.state != "done"), None)


def place(root: Path, each: Progress) -> str:
    """file:line of the stub or of the student's function, as a terminal makes it clickable."""
    lines = [stub.line for stub in open_stubs(root) if stub.id == each.id]
    if not lines:
        code = student_code(root, each.exercise)
        lines = [code.first if code else 1]
    return f"{os.path.relpath(each.file)}:{lines[0]}"


# ---- is it right --------------------------------------------------------------------------------------------


def check(root: Path, what: str | None) -> int:
    """Grade an exercise, a paper, or (None) what the student probably means; returns pytest's exit code."""
    states = known(progress(root), root)
    if what is None and first_undone(states) is None:
        say("[green]every exercise is done[/]: `wm check 1.1` grades one again")
        return 0
    if what is None:
        what = probably_meant(states).id
        print(f"wm check {what}", flush=True)
    if "." not in what:
        return check_paper(root, find_paper(states, what))
    id = find(root, what).id
    code = grade(root, [id])
    states = progress(root)
    say(verdict(root, next(each for each in states if each.id == id), states))
    return code


def check_paper(root: Path, paper: str) -> int:
    code = run_pytest(root, paper)
    states = progress(root)
    say(bar(paper, [each for each in states if each.exercise.paper == paper]))
    say(what_next(states))
    return code


def probably_meant(states: list[Progress]) -> Progress:
    """What was changed last and not graded; else what failed; else the next stub."""
    for wanted in ((CHANGED, UNGRADED), ("failed", "blocked")):
        found = [each for each in states if each.state in wanted and each.file.exists()]
        if found:
            return max(found, key=lambda each: each.file.stat().st_mtime)  # the first one in the file saved last
    return first_undone(states)


def grade(root: Path, ids: list[str]) -> int:
    paper = find(root, ids[0]).paper
    return run_pytest(root, paper, "-m", " or ".join(f'exercise(id="{id}")' for id in ids))


def run_pytest(root: Path, paper: str, *options: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", f"tests/{paper}", *options], cwd=root).returncode


def verdict(root: Path, each: Progress, states: list[Progress]) -> str:
    """The friendly last line about an exercise that was just graded."""
    if each.state == "done":
        return f"[green]{each.id} is done.[/] {what_next(states)}"
    if each.state == "todo":
        return f"{each.id} is still a stub: {place(root, each)} (wm next shows what it asks)"
    if each.state == "blocked":
        return f"{each.id} is blocked {each.note}: do that one first"
    if each.state == "failed":
        return f"[red]{each.id} is not right yet.[/] `wm hint {each.id}` gives a hint, each time a nearer one"
    return f"{each.id}: {LABELS.get(each.state, each.state)}"  # saved again meanwhile, or not graded to the end


def what_next(states: list[Progress]) -> str:
    each = first_undone(states)
    return f"Next: {each.id} {plain(each.exercise.title)} (wm next)" if each else "That was the last one: all is done."


def watch(root: Path) -> int:
    """Grade what is saved, as it is saved, until Ctrl-C."""
    from watchfiles import PythonFilter
    from watchfiles import watch as saves

    folders = sorted({each.file.parent for each in known(progress(root), root) if each.file.parent.is_dir()})
    print(
        f"watching {', '.join(folder.name for folder in folders)}: save a file to have it graded, Ctrl-C ends",
        flush=True,
    )
    try:
        for changes in saves(*folders, watch_filter=PythonFilter()):
            regrade(root, {Path(path).resolve() for _, path in changes})
    except KeyboardInterrupt:
        pass
    print("stopped watching")
    return 0


def regrade(root: Path, saved: set[Path]) -> None:
    """Grade the exercises of the saved files that are filled in and not done, or no longer what was graded."""
    states = [each for each in progress(root) if each.file.resolve() in saved]
    due = [each for each in states if each.state not in ("done", "todo")]
    if states and not due:
        stubs = [each.id for each in states if each.state == "todo"]
        print(f"saved: nothing new to grade{'; still stubs: ' + ', '.join(stubs) if stubs else ''}", flush=True)
    for paper in sorted({each.exercise.paper for each in due}):
        ids = [each.id for each in due if each.exercise.paper == paper]
        print(f"grading {', '.join(ids)}", flush=True)
        grade(root, ids)
        after = progress(root)
        for each in after:
            if each.id in ids:
                say(verdict(root, each, after))


# ---- help ---------------------------------------------------------------------------------------------------


def hint(root: Path, id: str | None, step: int | None) -> int:
    """Print an exercise's next hint (or the one asked for), and remember it."""
    states = known(progress(root), root)
    id = find(root, id).id if id else getattr(first_undone(states), "id", states[-1].id)
    hints = read_hints(root, id)
    memory = root / ".wm" / "hints.json"
    shown = read_json(memory)
    step = step or min(shown.get(id, 0) + 1, len(hints))
    if not 1 <= step <= len(hints):
        raise UserError(f"exercise {id} has hints 1 to {len(hints)}, not {step}")
    print(f"{id}, hint {step} of {len(hints)}: {hints[step - 1]}\n")
    print(f"the next hint: wm hint {id}" if step < len(hints) else f"that was the last hint; then: wm diff {id}")
    with atomic_file(memory) as file:
        file.write(json.dumps(shown | {id: max(step, shown.get(id, 0))}, indent=1).encode())
    return 0


def read_hints(root: Path, id: str) -> list[str]:
    """The texts of the guide's <details> blocks whose summary begins with Hint, in an exercise's section."""
    guide = root / GUIDE
    if not guide.is_file():
        raise UserError(f"there is no {GUIDE} in {root}: no hints without it")
    section = read_section(guide.read_text(encoding="utf-8"), id)
    if section is None:
        raise UserError(f"{GUIDE} has no section {id} yet")
    blocks = re.findall(r"<details>\s*<summary>\s*Hint \d+:?\s*(.*?)</summary>(.*?)</details>", section, re.DOTALL)
    if not blocks:
        raise UserError(f"{GUIDE}, section {id}, has no hints")
    return [f"{title.strip()}\n\n{text.strip()}" for title, text in blocks]


def read_section(guide: str, id: str) -> str | None:
    """From the heading `### 1.4 ...` to the next heading of its rank or above."""
    section, in_code = None, False
    for line in guide.splitlines():
        in_code ^= line.lstrip().startswith("```")  # a comment in code is no heading
        if not in_code and re.match(r"#{1,3} ", line):
            if section is not None:
                break
            if re.match(rf"### {re.escape(id)}\b(?!\.\d)", line):
                section = []
        if section is not None:
            section.append(line)
    return None if section is None else "\n".join(section)


def diff(root: Path, id: str, yes: bool) -> int:
    """Print what would turn the student's function into the solution's."""
    from rich.text import Text

    exercise = find(root, id)
    mine, theirs = student_code(root, exercise), solution_code(exercise)
    path = os.path.relpath(student_file(root, exercise))
    if mine is None:
        name = theirs.name if theirs else "its place"
        raise UserError(f"{path}: no {name} can be found there: renamed, deleted, or the file has a syntax error")
    if not yes and not confirm(f"show the solution of {id}?"):
        return 0
    solution = [line for line in theirs.text.splitlines() if not re.match(r"\s*### (BEGIN|END) SOLUTION", line)]
    names = f"{path} (yours)", f"{os.path.relpath(exercise.file)} (solution)"
    lines = list(difflib.unified_diff(mine.text.splitlines(), solution, *names, lineterm="", n=len(solution)))
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines or [f"{id}: yours is the solution, word for word"]:
        say(Text(line, style=colours.get(line[0], "")))
    return 0


def reset(root: Path, id: str, yes: bool) -> int:
    """Put an exercise's function back as it was given, after saving the student's file aside."""
    exercise = find(root, id)
    path = student_file(root, exercise)
    others = with_stub(root, exercise)[1]
    question = f"put the stub of {id} back into {os.path.relpath(path)}"
    if others:
        question += f", and those of {', '.join(others)}, which are in the same function"
    if not yes and not confirm(f"{question}? (your file is saved aside first)"):
        print("nothing is changed")
        return 0
    text, _ = with_stub(root, exercise)  # again: the file may have been saved while the question stood
    windows = b"\r\n" in path.read_bytes()
    print(f"your text is saved: {os.path.relpath(save_aside(path, root))}", flush=True)
    with atomic_file(path) as file:
        file.write((text.replace("\n", "\r\n") if windows else text).encode())
    line = next(stub.line for stub in open_stubs(root) if stub.id == id)
    print(f"{id} is a stub again: {os.path.relpath(path)}:{line}")
    return 0


def with_stub(root: Path, exercise: Exercise) -> tuple[str, list[str]]:
    """The student's file with the template's function in place of theirs, and the other exercises in that function.

    Raises UserError, after printing the stub for the student to paste, where their function cannot be told for sure.
    """
    path, (stub, others) = student_file(root, exercise), template_code(exercise)
    try:
        return replace_definition(read(path), stub), others
    except FileNotFoundError:
        why = "there is no such file"
    except SyntaxError as error:
        why = f"{error.msg} in line {error.lineno}"
    except (OSError, UnicodeDecodeError, LookupError) as error:
        why = str(error)
    print(stub.text)
    raise UserError(
        f"{os.path.relpath(path)}: {why}. Nothing is changed: mend that and repeat, or paste the stub above by hand"
    )


def template_code(exercise: Exercise) -> tuple[Definition, list[str]]:
    """The function that an exercise is in, as the student was given it, and the other exercises in it."""
    from solutions.make_templates import strip

    template, found = strip(read(exercise.file), exercise.file.name)
    lines = {each.id: each.line for each in found}
    stub = definition_at(template, lines[exercise.id])
    if stub is None:
        raise UserError(f"exercise {exercise.id} is in no function: put its stub back by hand")
    return stub, [id for id, line in lines.items() if id != exercise.id and stub.first <= line <= stub.last]


def replace_definition(text: str, new: Definition) -> str:
    """`text` with another version of one of its functions.

    Raises LookupError or SyntaxError where it has no such function, several, or one that the new one does not fit.
    """
    old = definitions_named(text, new.name)
    if len(old) != 1:
        raise LookupError(f"{new.name} is defined {len(old)} times in it")
    lines = text.split("\n")
    replaced = "\n".join([*lines[: old[0].first - 1], new.text, *lines[old[0].last :]])
    if new.text not in [each.text for each in definitions_named(replaced, new.name)]:
        raise LookupError(f"{new.name} stands at another place in it")
    return replaced


# ---- what all commands use ----------------------------------------------------------------------------------


def known(states: list[Progress], root: Path) -> list[Progress]:
    if not states:
        raise UserError(f"there are no exercises in {root / 'solutions'}: is this a whole copy of the repository?")
    return states


def find(root: Path, id: str) -> Exercise:
    """An exercise by its number."""
    found = {exercise.id: exercise for exercise in exercises(root)}
    if id not in found:
        raise UserError(f"there is no exercise {id}: wm status lists them")
    return found[id]


def find_paper(states: list[Progress], what: str) -> str:
    """A paper's folder by its name, `paper1` or `1`."""
    papers = sorted({each.exercise.paper for each in states})
    for paper in papers:
        short = paper.split("_")[0]
        if what.rstrip("/") in (paper, short, short.removeprefix("paper")):
            return paper
    raise UserError(f"there is no exercise or paper {what}: exercises are written 1.4, papers {', '.join(papers)}")


def confirm(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # nobody there to answer
        print()
        return False


def say(text) -> None:
    """Print with colours where the terminal has them; rich leaves paths and numbers alone, and breaks no line."""
    from rich.console import Console

    Console(highlight=False, emoji=False).print(text, soft_wrap=isinstance(text, str))


def plain(text: str) -> str:
    """Text whose square brackets are no markup."""
    from rich.markup import escape

    return escape(text)


def coloured(state: str) -> str:
    return f"[{COLOURS.get(state, 'default')}]{LABELS.get(state, state)}[/]"


@one_line_errors
def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="wm", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("status", help="every exercise's state (this is also what wm alone does)")
    commands.add_parser("next", help="the next exercise: where it is, what it asks, how it is graded")
    command = commands.add_parser("check", help="grade an exercise or a paper")
    command.add_argument("what", nargs="?", help="1.4, paper1; without it: what you changed last, or the next one")
    command = commands.add_parser("hint", help="a hint; each time a nearer one")
    command.add_argument("id", nargs="?", help="1.4; without it: the next one to do")
    command.add_argument("--step", type=int, help="show this hint, 1 to 3")
    commands.add_parser("watch", help="grade what you save, as you save it")
    for name, text in (("diff", "your version against the solution"), ("reset", "put one stub back, your text aside")):
        command = commands.add_parser(name, help=text)
        command.add_argument("id", help="1.4")
        command.add_argument("--yes", action="store_true", help="do not ask")
    args = parser.parse_args(argv)
    run = {
        "status": lambda: status(root),
        "next": lambda: next_exercise(root),
        "check": lambda: check(root, args.what),
        "hint": lambda: hint(root, args.id, args.step),
        "watch": lambda: watch(root),
        "diff": lambda: diff(root, args.id, args.yes),
        "reset": lambda: reset(root, args.id, args.yes),
    }
    try:
        return run[args.command or "status"]()
    except KeyboardInterrupt:
        print()
        return 130


if __name__ == "__main__":
    sys.exit(main())
