"""The tables of docs/settings.md, from the settings themselves: ``python -m qshower.service.settings_page FILE``."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from qshower.model.field_errors import range_of
from qshower.service.settings import variables

BEGIN, END = "<!-- tables: python -m qshower.service.settings_page docs/settings.md -->", "<!-- end of tables -->"


def tables() -> str:
    """One table for each group of settings, as Markdown."""
    parts = []
    for group, members in groupby(variables(), key=lambda variable: variable.group):
        parts += [f"## {(group.__doc__ or '').strip().rstrip('.')}", ""]
        parts += ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
        parts += [
            f"| `{one.name}` | {_default(one.info.default)} | {_allowed(one.info)} | {one.info.description} |"
            for one in members
        ]
        parts.append("")
    return "\n".join(parts)


def page(text: str) -> str:
    """``text``, with the tables of today between its marks."""
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{tables()}\n{END}", text, flags=re.DOTALL)


def _default(value: Any) -> str:
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    if plain in (None, "") and plain is not False:
        return "unset"
    return f"`{str(plain).lower() if isinstance(plain, bool) else plain}`"


def _allowed(info: FieldInfo) -> str:
    kinds = (info.annotation, *get_args(info.annotation))
    if bool in kinds:
        return "`true`, `false`"
    for kind in kinds:
        if get_origin(kind) is Literal:
            return ", ".join(f"`{value}`" for value in get_args(kind))
    return range_of(info)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(page(file.read_text(encoding="utf-8")), encoding="utf-8")
