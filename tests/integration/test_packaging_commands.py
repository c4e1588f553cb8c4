"""What the pages tell people to type exists: commands with their flags, make targets, request bodies, files."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from qshower.model.training.config import read_config
from qshower.service.cli import app
from qshower.service.schemas import GenerateRequest
from qshower.service.settings import PREFIX, variables

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
CLIENT_SIDE = {"QSHOWER_API_KEY", "QSHOWER_TEST_SEED", "QSHOWER_PUBLISHED_PORT", "QSHOWER_CPUS", "QSHOWER_MEMORY"}
BEFORE_ARGUMENTS = re.compile(r"(?:\w+=\S+ +|\$ )*(?:\.venv/bin/)?")


def code_of(page: Path, language: str = "") -> Iterator[str]:
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    yield from (code for kind, code in blocks if kind == language)


def lines_of(pages: list[Path], program: str) -> list[str]:
    """Shell lines of the pages that run ``program``, without what stands before it."""
    found = []
    for page in pages:
        for code in code_of(page):
            for line in code.replace("\\\n", " ").splitlines():
                before = BEFORE_ARGUMENTS.match(line.strip())
                assert before is not None
                rest = line.strip()[before.end() :]
                if rest.split(" ")[0] == program:
                    found.append(rest)
    return found


def parse(arguments: list[str]) -> None:
    """Let the command line read ``arguments``, without running anything; raises UsageError as it would."""
    command: Any = get_command(app)
    context = command.make_context("qshower", list(arguments))
    while getattr(command, "commands", None):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def test_the_check_of_commands_sees_what_is_wrong() -> None:
    parse(["bank", "info", "x.hdf5"])
    for wrong in (["serve", "--prot", "1"], ["paint"], ["train"], ["bank", "paint"]):
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parse(wrong)


def test_commands_of_the_pages_exist_with_their_flags() -> None:
    lines = lines_of(PAGES, "qshower")
    for line in lines:
        parse(shlex.split(line, comments=True)[1:])
    shown = {line.split()[1] for line in lines_of([ROOT / "README.md"], "qshower")}
    assert shown >= {"generate", "emulator", "samplers", "train", "serve", "evaluate"}


def test_commands_of_the_containers_exist() -> None:
    parse(COMPOSE["services"]["emulator"]["command"][1:])
    (command,) = re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert json.loads(command)[0] == "qshower"
    parse(json.loads(command)[1:])


def test_request_bodies_of_the_readme_are_valid() -> None:
    lines = lines_of([ROOT / "README.md"], "curl")
    bodies = [words[words.index("-d") + 1] for words in map(shlex.split, lines) if "-d" in words]
    asked = [GenerateRequest.model_validate_json(body).sampler for body in bodies]
    assert set(asked) == {"gibbs", "annealing", "qpu"}


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") < 180


def test_the_configuration_of_the_readme_is_valid(tmp_path: Path) -> None:
    (example,) = code_of(ROOT / "README.md", "yaml")
    file = tmp_path / "mine.yaml"
    file.write_text(example, encoding="utf-8")
    assert read_config(file).name == "mine"


def test_make_targets_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert targets >= {"serve", "test", "lint", "bench", "image"}
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    assert {"serve", "test"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        target
        for target in targets
        if "://" not in target and not target.startswith("#") and not (page.parent / target.split("#")[0]).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_of_the_repository_exist(page: Path) -> None:
    folders = "sampler|model|service|evaluation|client|benchmarks|tests|docker|docs"
    named = re.findall(rf"`((?:{folders})/[\w./*-]*)`", page.read_text(encoding="utf-8"))
    to_be_written = {"sampler/heat_bath.py"}
    assert [path for path in named if path not in to_be_written and not any(ROOT.glob(path.rstrip("/")))] == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"({page.name})" not in index] == [
        "README.md"
    ]


def test_settings_named_outside_the_code_exist() -> None:
    files = [*PAGES, ROOT / "Dockerfile", *(file for file in (ROOT / "docker").rglob("*") if file.is_file())]
    named = {
        name
        for file in files
        for name in re.findall(rf"\b{PREFIX}[A-Z_]+[A-Z]\b", file.read_text(encoding="utf-8", errors="replace"))
    }
    assert "QSHOWER_ALLOW_OPEN" in named
    assert named - CLIENT_SIDE <= {variable.name for variable in variables()}
