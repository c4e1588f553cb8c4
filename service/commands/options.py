"""Flags of samplers, checked as the bodies of requests are."""

from __future__ import annotations

import math
from typing import Any

from pydantic import ValidationError

from qshower.sampler.errors import InvalidInputError
from qshower.service.samplers import SAMPLERS
from qshower.service.schemas import AUTO, LARGEST_SEED, GenerateOptions


def sampler_options(**flags: Any) -> dict[str, Any]:
    """The options that were given; InvalidInputError names the flag."""
    try:
        return GenerateOptions(**flags).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        raise InvalidInputError(flag, first["input"], first["msg"]) from None


def check_choice(sampler: str, fallback: str | None, seed: int | None, threshold_mev: float | None) -> tuple[str, ...]:
    """The samplers of ``fallback``; InvalidInputError if one of the four flags is not allowed."""
    known = tuple(SAMPLERS)
    if sampler not in (AUTO, *known):
        raise InvalidInputError("--sampler", sampler, ", ".join((AUTO, *known)))
    others = tuple(name.strip() for name in fallback.split(",")) if fallback else ()
    for name in others:
        if name not in known:
            raise InvalidInputError("--fallback", name, ", ".join(known))
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise InvalidInputError("--seed", seed, f"0 to {LARGEST_SEED}")
    if threshold_mev is not None and not (math.isfinite(threshold_mev) and threshold_mev >= 0):
        raise InvalidInputError("--threshold-mev", threshold_mev, "a finite number >= 0")
    return others
