"""The tree: a file is found by its name, and what the pages and docstrings point to is there."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TO_BE_WRITTEN = {"docs/write-a-sampler.md: sampler/heat_bath.py"}
"""Files that a page shows how to write."""
PACKAGES = ("client", "evaluation", "model", "sampler", "service")


def tracked(*patterns: str) -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"git lists no files here: {done.stderr.strip()}")
    return [Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_module_has_the_name_of_another() -> None:
    names = Counter(path.name for path in tracked(*(f"{folder}/**.py" for folder in PACKAGES)))
    assert sum(names.values()) > 200
    assert {name for name, count in names.items() if count > 1} == {"__init__.py"}


def test_what_pages_and_docstrings_point_to_is_there() -> None:
    """Paths in quotation marks, or in brackets, that begin with a folder of the project."""
    folders = "|".join((*PACKAGES, "tests", "docs", "docker", "benchmarks"))
    pointer = re.compile(rf"[`(\"]((?:{folders})/[\w./-]+\.(?:py|md|yaml|json|toml|hpp))[`)\"]")
    pages = [path for path in tracked("*.md", "*.py") if path.parts[0] != "tests"]
    pointed = [(page, found) for page in pages for found in pointer.findall((ROOT / page).read_text(encoding="utf-8"))]
    assert len(pointed) > 20
    missing = {
        f"{page}: {found}"
        for page, found in pointed
        if not (ROOT / found).exists() and not (ROOT / page.parent / found).exists()
    }
    assert missing == TO_BE_WRITTEN
