"""From a request whose fields are checked one by one to what the generator is asked: checks that need settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from qshower.sampler.errors import InvalidInputError
from qshower.service.generation.shower_request import ShowerRequest
from qshower.service.schemas import GenerateRequest
from qshower.service.settings import Limits


def request_of_body(
    body: GenerateRequest, limits: Limits, bytes_per_voxel: float, account: str, *, window_bytes: int | None = None
) -> ShowerRequest:
    """What ``body`` asks for, in a format of ``bytes_per_voxel``, on behalf of the API key ``account``.

    ``window_bytes``: most bytes of showers that may wait to be sent, None where they are sent whole.

    Raises:
        InvalidInputError: more showers than are allowed, or a longer deadline.
    """
    given = len(body.incident_energies_mev)
    rows = given * body.showers_per_energy
    field = "incident_energies_mev" if body.showers_per_energy == 1 else "showers_per_energy"
    if rows > limits.showers:
        if field == "showers_per_energy" and given <= limits.showers:
            allowed = f"1 to {limits.showers // given} for {given} energies: {limits.showers} showers in all"
            raise InvalidInputError(field, body.showers_per_energy, allowed)
        raise InvalidInputError(field, rows, f"1 to {limits.showers} showers for each request")
    if body.deadline_s is not None and body.deadline_s > limits.deadline_s:
        raise InvalidInputError("deadline_s", body.deadline_s, f"> 0 to {limits.deadline_s:g} s")
    options: dict[str, Any] = body.options.model_dump(exclude_none=True)
    if body.solver is not None:
        options["solver"] = body.solver
    return ShowerRequest(
        energies_mev=np.repeat(np.asarray(body.incident_energies_mev, dtype=np.float64), body.showers_per_energy),
        sampler=body.sampler,
        fallback=tuple(body.fallback),
        model=body.model,
        seed=body.seed,
        options=options,
        threshold_mev=body.threshold_mev,
        deadline_s=body.deadline_s,
        bytes_per_voxel=bytes_per_voxel,
        showers_per_energy=body.showers_per_energy,
        account=account,
        window_bytes=window_bytes,
    )
