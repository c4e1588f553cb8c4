"""What a user asks of ``qshower generate`` and ``qshower bank draw``: the flags, the incident energies, the chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.model.showers_file import read_energies
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.protocol import Sampler
from qshower.service.commands.terminal import numbers

CHUNK_ROWS = 1000


def rows_per_chunk(sampler: Sampler) -> int:
    """How many rows to ask a sampler for at a time. One that bills bills for each chunk's conditions anew."""
    return sampler.capabilities.batch_rows or CHUNK_ROWS if sampler.capabilities.billed else CHUNK_ROWS


@dataclass(frozen=True, slots=True)
class Request:
    """The flags of ``qshower generate``."""

    output: Path
    energies_mev: str | None = None
    log_uniform_mev: str | None = None
    like: Path | None = None
    count: int | None = None
    sampler: str = "auto"
    fallback: tuple[str, ...] = ()
    solver: str | None = None
    model: str | None = None
    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    threshold_mev: float | None = None
    url: str | None = None
    api_key: str | None = None
    connect_wait_s: float = 0.0

    @property
    def sampler_options(self) -> dict[str, Any]:
        """By the names of SamplerOptions, the solver among them."""
        return {**self.options, **({} if self.solver is None else {"solver": self.solver})}


def incident_energies(request: Request) -> NDArray[np.float64]:
    """(rows,) incident energies in MeV, from the one of the three flags that is given."""
    given = [
        flag
        for flag, value in (
            ("--energies-mev", request.energies_mev),
            ("--log-uniform-mev", request.log_uniform_mev),
            ("--like", request.like),
        )
        if value is not None
    ]
    if len(given) != 1:
        allowed = "one of --energies-mev 1000,65536, --log-uniform-mev 1000:1000000 -n 100, --like FILE.hdf5"
        found = f"{' and '.join(given)} exclude each other" if given else "no incident energies"
        raise InvalidInputError("energies", given, allowed, message=f"{found}: give {allowed}")
    if request.energies_mev is not None:
        values = np.array(numbers("--energies-mev", request.energies_mev))
        if (values <= 0).any():
            raise InvalidInputError("--energies-mev", request.energies_mev, "numbers > 0")
        return np.repeat(values, request.count or 1)
    if request.log_uniform_mev is not None:
        return _log_uniform(request.log_uniform_mev, request.count, request.seed)
    assert request.like is not None  # noqa: S101 - one of the three is given
    energies = read_energies(request.like)
    if request.count is not None and request.count > energies.shape[0]:
        raise InvalidInputError("-n", request.count, f"at most the {energies.shape[0]} showers of {request.like}")
    return energies[: request.count]


def _log_uniform(text: str, count: int | None, seed: int | None) -> NDArray[np.float64]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = -1.0
    if not 0 < low <= high < np.inf:
        raise InvalidInputError("--log-uniform-mev", text, "LOW:HIGH with 0 < LOW <= HIGH, such as 1000:1000000")
    if count is None:
        message = "-n is required: the number of showers, with --log-uniform-mev"
        raise InvalidInputError("-n", None, "the number of showers", message=message)
    random = np.random.default_rng(None if seed is None else [seed, 0x456E65726779])
    return np.clip(np.exp(random.uniform(np.log(low), np.log(high), count)), low, high)
