"""Find the function around a line, and the same function in another file, by parsing: nothing is imported."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Definition:
    """A function, method or class as it stands in a file."""

    name: str  # "ConvDecoder.__init__"
    first: int  # its lines, from 1, with its decorators and the comments that it ends in
    last: int
    text: str
    docstring: str  # its own, or its class's where it has none


def definition_at(text: str, line: int) -> Definition | None:
    """The function or method around a line, however deep inside it; a class where it is in no method of it."""
    around = [found for found in definitions(text) if found.first <= line <= found.last]
    return max(around, key=lambda found: found.first, default=None)


def definitions_named(text: str, name: str) -> list[Definition]:
    return [found for found in definitions(text) if found.name == name]


@lru_cache(maxsize=32)  # several exercises share a file
def definitions(text: str) -> tuple[Definition, ...]:
    """All classes, methods and functions but those inside functions. Raises SyntaxError where `text` is no Python."""
    try:
        tree = ast.parse(text)
    except ValueError as error:  # a null byte, before Python 3.12
        raise SyntaxError(str(error)) from error
    return tuple(_walk(tree, "", "", text.split("\n")))


def _walk(parent: ast.AST, prefix: str, docstring: str, lines: list[str]) -> Iterator[Definition]:
    for node in ast.iter_child_nodes(parent):
        if not isinstance(node, Node):
            yield from _walk(node, prefix, docstring, lines)
            continue
        own = ast.get_docstring(node) or docstring
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        last = _with_comments(node, lines)
        yield Definition(prefix + node.name, first, last, "\n".join(lines[first - 1 : last]), own)
        if isinstance(node, ast.ClassDef):
            yield from _walk(node, f"{prefix}{node.name}.", own, lines)


def _with_comments(node: Node, lines: list[str]) -> int:
    """The last line of a definition, and of the comments behind it that are indented deeper than its `def`."""
    last = node.end_lineno
    for number in range(last + 1, len(lines) + 1):
        code = lines[number - 1].lstrip()
        if code.startswith("#") and len(lines[number - 1]) - len(code) > node.col_offset:
            last = number
        elif code:
            break
    return last
