"""Flags, checked as the bodies of requests are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from qshower.model.field_errors import field_errors
from qshower.sampler.errors import DefectError, InvalidInputError
from qshower.sampler.files import missing
from qshower.service.sampler_table import SAMPLERS
from qshower.service.schemas import AUTO, GenerateOptions, GenerateRequest, StrictModel

MOST_SHOWERS = 100_000_000
_FLAGS = {"count": "-n"}
"""Flags that are not called as what they set."""


class OtherFlags(StrictModel):
    """Ranges of the numbers that are no field of a request."""

    count: Annotated[int, Field(ge=1, le=MOST_SHOWERS)] | None = None
    evaluation_seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    prior_showers: Annotated[int, Field(ge=0, le=MOST_SHOWERS)] | None = None
    connect_wait_s: Annotated[float, Field(ge=0, le=86_400)] | None = None
    tolerance: Annotated[float, Field(ge=0.01, le=1.0)] | None = None
    cell_mm: Annotated[float, Field(gt=0, le=1e6)] | None = None


def check_flags(**flags: Any) -> None:
    """InvalidInputError, naming the flag, unless each is in its range; None is a flag that was not given."""
    given = {name: value for name, value in flags.items() if value is not None}
    request = {name: value for name, value in given.items() if name in GenerateRequest.model_fields}
    options = {name: value for name, value in given.items() if name in GenerateOptions.model_fields}
    others = {name: value for name, value in given.items() if name not in request | options}
    try:
        GenerateRequest(incident_energies_mev=[1.0], options=GenerateOptions(**options), **request)
        OtherFlags(**others)
    except ValidationError as error:
        model = next(kind for kind in (GenerateRequest, GenerateOptions, OtherFlags) if kind.__name__ == error.title)
        first = field_errors(error.errors(include_url=False), model)[0]
        flag = _FLAGS.get(first.path, "--" + first.path.removeprefix("evaluation_").replace("_", "-"))
        raise InvalidInputError(flag, first.value, first.allowed) from None


def check_files(*paths: Path) -> None:
    """DefectError unless each is a file that can be read, before anything is loaded that takes seconds."""
    for path in paths:
        if (fault := missing(path)) is not None:
            raise DefectError(str(path), fault, "an HDF5 file in the CaloChallenge's layout")


def sampler_options(**flags: Any) -> dict[str, Any]:
    """The options that were given."""
    check_flags(**flags)
    return {name: value for name, value in flags.items() if value is not None}


def check_choice(sampler: str, fallback: str | None, **flags: Any) -> tuple[str, ...]:
    """The samplers of ``fallback``; InvalidInputError if one of the flags is not allowed."""
    known = tuple(SAMPLERS)
    if sampler not in (AUTO, *known):
        raise InvalidInputError("--sampler", sampler, ", ".join((AUTO, *known)))
    others = tuple(name.strip() for name in fallback.split(",")) if fallback else ()
    for name in others:
        if name not in known:
            raise InvalidInputError("--fallback", name, ", ".join(known))
    check_flags(fallback=list(others), **flags)
    return others
