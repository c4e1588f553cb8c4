"""What pydantic found wrong with a document, in the words of the person who wrote it: unknown, missing, not allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from qshower.sampler.errors import InvalidInputError

_ALLOWED = {
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "string_type": "a string",
    "string_unicode": "a string without lone surrogates",
    "list_type": "a list",
    "tuple_type": "a list",
    "missing": "a value; the field is required",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "path_type": "a path",
}
_OF_NUMBERS = {kind for kind in _ALLOWED if kind.startswith(("float_", "int_"))} | {
    "finite_number",
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault of a document.

    Attributes:
        path: the field, such as ``options.sweeps`` or ``data.files[0].path``; "" for the document as a whole.
        value: what stands there, None where nothing does.
        allowed: what may stand there.
        kind: pydantic's name of the fault.
    """

    path: str
    value: Any
    allowed: str
    kind: str


def field_errors(errors: Sequence[Mapping[str, Any]], model: type[BaseModel]) -> tuple[FieldError, ...]:
    """The faults in pydantic's order; ``errors`` are those of its ValidationError, ``model`` what was validated."""
    found = []
    for item in errors:
        kind, location = str(item["type"]), tuple(item["loc"])
        value = None if kind == "missing" else item.get("input")
        found.append(FieldError(_path(location), value, _allowed(item, model), kind))
    return tuple(found)


def sentence(faults: Sequence[FieldError]) -> str | None:
    """Which fields are unknown and which are missing, if the first fault is of these kinds; else None."""
    if faults[0].kind not in ("missing", "extra_forbidden"):
        return None
    missing = [f"`{fault.path}` is required" for fault in faults if fault.kind == "missing"]
    unknown = [fault for fault in faults if fault.kind == "extra_forbidden"]
    parts = [f"unknown field `{fault.path}`{'' if missing else _meant(fault)}" for fault in unknown]
    return "; ".join(parts + missing)


def invalid_input(prefix: str, faults: Sequence[FieldError]) -> InvalidInputError:
    """The error that says so; ``prefix`` names the document."""
    first, said = faults[0], sentence(faults)
    if said is None and not first.path:
        said = first.allowed
    message = None if said is None else f"{prefix}: {said}"
    return InvalidInputError(f"{prefix}: {first.path}", first.value, first.allowed, message=message)


def range_of(field: FieldInfo) -> str:
    """The numbers that a field may have, "" without limits."""
    return _range(_limits(field)).strip()


def _meant(fault: FieldError) -> str:
    parent, _, name = fault.path.rpartition(".")
    known = fault.allowed.split(", ")
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; did you mean `{f'{parent}.' if parent else ''}{close[0]}`?"
    return f"; known are {fault.allowed}"


def _path(location: Sequence[Any]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _field_at(model: type[BaseModel], location: Sequence[Any]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The innermost model on the way to ``location``, and the field there, None where there is no such field."""
    field = None
    for part in location:
        if not isinstance(part, str):
            continue
        if field is not None:
            model = _model_in(field.annotation) or model
        field = model.model_fields.get(part)
    return model, field


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _allowed(item: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, context = str(item["type"]), item.get("ctx", {})
    if kind == "extra_forbidden":
        return ", ".join(_field_at(model, item["loc"])[0].model_fields)
    if kind in _OF_NUMBERS:
        _, field = _field_at(model, item["loc"])
        return _ALLOWED.get(kind, "a number") + _range({**_limits(field), **context})
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "too_short":
        return f"at least {context['min_length']} entry"
    return _ALLOWED.get(kind, str(item["msg"]).removeprefix("Value error, "))


def _limits(field: FieldInfo | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for rule in () if field is None else field.metadata:
        found |= {name: getattr(rule, name) for name in ("gt", "ge", "lt", "le") if hasattr(rule, name)}
    return found


def _range(limits: Mapping[str, Any]) -> str:
    if "ge" in limits and "le" in limits:
        return f" from {_number(limits['ge'])} to {_number(limits['le'])}"
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [f"{sign} {_number(limits[name])}" for name, sign in signs.items() if name in limits]
    return f" {' and '.join(bounds)}" if bounds else ""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.10g}"
