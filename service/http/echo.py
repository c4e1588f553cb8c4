"""What was sent, as an answer may show it: short, and always to be written as JSON in UTF-8."""

from __future__ import annotations

import math
import reprlib
from typing import Any

import orjson

LONGEST_ECHO = 200

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict = 4, 8, 8, 8
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = LONGEST_ECHO, 80, 80


def echo(value: Any) -> Any:
    """``value`` itself if it is short and JSON can hold it, else a text of it. Costs nothing that grows with it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else cut(_SHORT.repr(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, list | dict) and _is_short(value):
        return value
    return cut(_SHORT.repr(value))


def shown(value: Any) -> str:
    """``value`` within a sentence."""
    text = repr(echo(value))
    return {"True": "true", "False": "false", "None": "null"}.get(text, text)


def cut(text: str) -> str:
    """``text`` of at most 200 characters, lone surrogates, which UTF-8 does not have, as escapes."""
    kept = text if len(text) <= LONGEST_ECHO else text[:LONGEST_ECHO] + "…"
    return kept.encode("utf-8", "backslashreplace").decode()


def _is_short(value: Any) -> bool:
    """Whether ``value`` takes at most 200 bytes as JSON; looks at no more of it than it takes to know."""
    room, parts = LONGEST_ECHO, [value]
    while parts:
        part = parts.pop()
        room -= len(part) if isinstance(part, str | list | dict) else 1
        if room < 0:
            return False
        if isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            parts += [*part, *part.values()]
    try:
        return len(orjson.dumps(value)) <= LONGEST_ECHO
    except orjson.JSONEncodeError:
        return False
