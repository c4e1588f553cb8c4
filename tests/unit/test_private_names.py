"""No private name of another package is used: it may be gone, or mean something else, in the next version."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "client", "evaluation", "model", "sampler", "service")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) if "_pb2" not in path.name]
"""Without what protoc writes, which is for the version it belongs to."""


DOCUMENTED = {"os._exit"}
"""Public whatever they look like: in the manual of Python."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def defined(tree: ast.Module) -> set[str]:
    """Names that a module itself gives to functions, classes, variables and attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return found


def foreign_private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every use of a private name that the module does not define."""
    own = defined(tree)
    for node in ast.walk(tree):
        names: list[str] = []
        if not isinstance(node, ast.expr | ast.stmt):
            continue
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("qshower"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            given = node.args[1] if len(node.args) > 1 else None
            names = [given.value] if isinstance(given, ast.Constant) and isinstance(given.value, str) else []
        if any(private(name) and name not in own for name in names) and ast.unparse(node) not in DOCUMENTED:
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize(
    "code",
    ["made._cache", "import os._x", "from numba._core import f", "from numba import _f", "getattr(made, '_cache')"],
)
def test_the_check_sees(code: str) -> None:
    assert list(foreign_private_names(ast.parse(code)))


def test_what_is_one_s_own_is_none() -> None:
    code = "class A:\n    def __init__(self):\n        self._x = 1\n    def of(self, other):\n        return other._x"
    assert not list(foreign_private_names(ast.parse(code)))


def test_nobody_uses_them() -> None:
    assert len(FILES) > 200
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in FILES
        for line, text in foreign_private_names(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []
