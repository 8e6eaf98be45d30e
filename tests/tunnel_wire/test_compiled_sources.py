"""The compiled modules hold nothing that mypyc silently makes something else of than Python does.

What mypy itself can tell (narrowing that a call has made untrue) is its `warn_unreachable`.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.compiled_modules import compiled_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]
_HANDLERS = "def f():\n    try:\n        g()\n    except {}:\n        h()\n    except {}:\n        h()"


def _evaluated_twice(tree: ast.AST) -> Iterator[str]:
    """Bounds of slices that do something: mypyc compiles them once to look at, and once more to use."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Slice):
            for part in ast.walk(node):
                harmless = isinstance(part, ast.Call) and ast.unparse(part.func) == "len"
                if isinstance(part, ast.Call | ast.NamedExpr | ast.Await) and not harmless:
                    yield f"line {part.lineno}: {ast.unparse(part)} within a slice"


def _names_of_two_types(tree: ast.AST) -> Iterator[str]:
    """One name for exceptions of two types: in a compiled function a name has one type, that of the first."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            types = defaultdict(set)
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and node.name and node.type is not None:
                    types[node.name].add(ast.unparse(node.type))
            for name, of in types.items():
                if len(of) > 1:
                    yield f"line {function.lineno}: {name} is {' and '.join(sorted(of))}"


def _mistakes(source: str) -> list[str]:
    tree = ast.parse(source)
    return [*_evaluated_twice(tree), *_names_of_two_types(tree)]


@pytest.mark.parametrize("name", compiled_modules())
def test_no_mistakes(name: str) -> None:
    assert _mistakes((_ROOT / "tunnel_wire" / f"{name}.py").read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "view = view[sock.send(view) :]",
        "view = view[: (size := 4)]",
        "async def f():\n    return view[await size :]",
        _HANDLERS.format("A as exc", "B as exc"),
    ],
)
def test_mistakes_are_found(source: str) -> None:
    assert len(_mistakes(source)) == 1


def test_other_code_is_not_taken_for_a_mistake() -> None:
    assert _mistakes("view = view[len(left) :]\nsent = sock.send(view)\nview = view[sent:]") == []
    assert _mistakes(_HANDLERS.format("A as one", "B as other")) == []
    assert _mistakes(_HANDLERS.format("A as exc", "A as exc")) == []
