"""docs/training.md has every key of a training configuration, with its default, and its example is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from qshower.model.training.coded_config import CodedConfig
from qshower.model.training.config import TrainingConfig, read_config

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "training.md"
CODED_PAGE = ROOT / "docs" / "training-coded.md"
ROW = re.compile(r"^\| `(?P<key>[a-z_.]+)` \| (?P<default>.+?) \| (?P<meaning>.+) \|$", re.MULTILINE)


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        is_list = section is not None and section is not field.annotation
        if section is None or is_list:
            yield prefix + name, "required" if field.is_required() else field.default
        if section is not None:
            yield from keys_of(section, f"{prefix}{name}.")


def default_in(cell: str) -> Any:
    if cell in ("required", "unset"):
        return {"required": "required", "unset": None}[cell]
    return yaml.safe_load(cell.strip("`"))


@pytest.mark.parametrize(("page", "model"), [(PAGE, TrainingConfig), (CODED_PAGE, CodedConfig)])
def test_every_key_is_explained_with_its_default(page: Path, model: type[BaseModel]) -> None:
    rows = [(match["key"], default_in(match["default"])) for match in ROW.finditer(page.read_text(encoding="utf-8"))]
    assert len(dict(rows)) == len(rows), "a key is explained twice"
    assert dict(rows) == {
        key: list(default) if isinstance(default, tuple) else default for key, default in keys_of(model)
    }


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "pions.yaml"
    file.write_text(example, encoding="utf-8")
    config = read_config(file)
    assert config.data.geometry == "1-pions"
    assert config.output == tmp_path / "runs" / "pions"


@pytest.mark.parametrize("file", sorted((ROOT / "model" / "training").glob("*.yaml")), ids=lambda file: file.name)
def test_the_configurations_of_the_repository_are_valid(file: Path) -> None:
    assert read_config(file).name
