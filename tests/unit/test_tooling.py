"""What runs the checks elsewhere, a workflow and hooks, runs the same ones as make; release papers agree."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_workflow_tries_the_oldest_and_the_newest_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    tried = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    allowed = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"])
    assert allowed is not None
    assert tried == [f"3.{allowed[1]}", f"3.{int(allowed[2]) - 1}"]


def test_the_workflow_calls_make() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    asked = [command.rpartition(" ")[2] for command in commands if command.startswith("make ")]
    assert len(asked) == len(commands)
    assert {"test", "coverage"} == set(asked) <= targets


def test_hooks_run_what_make_lint_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    recipe = MAKEFILE.split("\nlint:")[1].split("\n\n")[0]
    checked = {" ".join(command.split()[:2]).removesuffix(" .") for command in re.findall(r"\$\(BIN\)/(.*)", recipe)}
    entries = {hook["entry"] for repository in hooks["repos"] for hook in repository["hooks"]}
    run = {entry.removeprefix(".venv/bin/").removesuffix(" --force-exclude") for entry in entries}
    assert run == {"ruff check", "ruff format", "mypy"}
    assert run <= checked


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert " ".join(citation["abstract"].split()).rstrip(".") == PROJECT["description"]


def test_each_release_of_the_changelog_has_each_head_once() -> None:
    releases = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert releases[0].startswith(PROJECT["version"])
    for release in releases:
        heads = Counter(re.findall(r"^### (.*)", release, re.MULTILINE))
        assert set(heads) <= {"Added", "Changed", "Removed", "Fixed"}
        assert set(heads.values()) <= {1}, release.splitlines()[0]


def test_tests_sleep_only_where_they_poll() -> None:
    """Events order threads; what can only be polled is, by tests/polling.py. ``asyncio.sleep(0)`` waits for nothing."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path == ROOT / "tests" / "polling.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "asyncio.sleep", "sleep"}:
                if not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
            elif isinstance(node, ast.ImportFrom) and node.module in {"time", "asyncio"}:
                found += [f"{path.name}: {name.name}" for name in node.names if name.name == "sleep"]
    assert found == []
