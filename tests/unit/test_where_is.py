"""docs/where-is.md answers where things are: every path and every name in its answers exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| … (?P<question>.+?) \| (?P<answer>.+) \|$", re.MULTILINE)
ROWS = [(m["question"], m["answer"]) for m in ROW.finditer((ROOT / "docs" / "where-is.md").read_text("utf-8"))]


def defined_in(tree: ast.Module) -> set[str]:
    """Names that a module defines at its top, and those of its classes with the class before them."""
    names = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_there_are_at_least_twenty_questions_and_none_twice() -> None:
    assert len(ROWS) >= 20
    assert len({question for question, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("question", "answer"), ROWS, ids=[question for question, _ in ROWS])
def test_the_answer_exists(question: str, answer: str) -> None:
    quoted = re.findall(r"`([^`]+)`", answer)
    assert quoted
    file = None
    for words in quoted:
        if "/" in words or ("." in words and (ROOT / words).exists()):
            assert (ROOT / words).exists(), f"{words}: no such file or folder"
            assert (ROOT / words).is_dir() == words.endswith("/"), f"{words}: a folder's name ends with /"
            file = ROOT / words
        else:
            assert file is not None, f"{words} stands before any file"
            text = file.read_text("utf-8")
            names = defined_in(ast.parse(text)) if file.suffix == ".py" else set(re.findall(r"\w+", text))
            assert words in names, f"{file.relative_to(ROOT)} defines no {words}"
