"""docs/troubleshooting.md quotes messages that the code has."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
FOLDERS = ("client", "evaluation", "model", "sampler", "service")
VARIABLE = "\0"
"""Stands where a message has a name or number of its own."""


@cache
def messages() -> tuple[str, ...]:
    """All texts of the code but docstrings."""
    found = []
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(map(text_of, node.values)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                    found.extend([] if id(node) in statements else [node.value])
    return tuple(found)


def text_of(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else VARIABLE


def quoted() -> Iterator[str]:
    """The messages of the tables' first columns."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if (row := re.match(r"\| `(.+?)` \| .+ \|$", line)) is not None:
            yield row[1]


def test_the_page_has_rows_of_every_kind() -> None:
    assert len(list(quoted())) > 40


@pytest.mark.parametrize("message", list(quoted()))
def test_a_message_of_the_page_is_one_of_the_code(message: str) -> None:
    pieces = [piece.strip() for piece in message.split("…") if re.search(r"\w{2}", piece)]
    assert pieces
    assert max(map(len, pieces)) >= 5
    for piece in pieces:
        assert any(piece in text.replace(VARIABLE, "…") for text in messages()), piece


@pytest.mark.parametrize("message", ["no such message", "is required by nobody"])
def test_what_the_code_does_not_say_is_found_out(message: str) -> None:
    assert not any(message in text for text in messages())


def test_every_row_says_what_to_do() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == len(list(quoted()))
    assert all(len(row.rstrip(" |").rpartition(" | ")[2]) > 10 for row in rows)
