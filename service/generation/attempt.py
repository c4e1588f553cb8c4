"""One request on its way through the samplers that are tried for it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import BankExhaustedError, SamplerUnavailableError
from qshower.sampler.request import streams_of
from qshower.service.generation.answer_provenance import Origin
from qshower.service.generation.shower_request import ShowerRequest
from qshower.service.service_errors import DeadlineError
from qshower.service.version import program_version

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle

INLINE_ROWS = 4096
"""Energies of up to so many rows become conditions where they are; a thread would cost more."""


@dataclass(slots=True, eq=False)
class Attempt:
    """What was tried for a request, until when, and what is known of it for each model.

    Attributes:
        request: what is asked for.
        begun: ``time.monotonic`` instant.
        limit_s: seconds it may take, None for no limit.
        timer: ends it after these.
        failures: why samplers did not answer, in the order in which they were tried.
    """

    request: ShowerRequest
    begun: float
    limit_s: float | None
    timer: asyncio.Timeout
    failures: dict[str, SamplerUnavailableError | BankExhaustedError] = field(default_factory=dict)
    _conditions: dict[Bundle, NDArray[np.int8]] = field(default_factory=dict)

    @property
    def deadline_at(self) -> float | None:
        """The deadline that the request set, None if it set none."""
        return None if self.request.deadline_s is None else self.begun + self.request.deadline_s

    @property
    def patience_s(self) -> float | None:
        """What is left of the time that a request without a deadline may wait, None for ever."""
        return None if self.limit_s is None else max(0.0, self.begun + self.limit_s - time.monotonic())

    @contextmanager
    def in_engine(self) -> Iterator[None]:
        """While the engine has the request, and looks at its deadline."""
        self.timer.reschedule(None)
        try:
            yield
        finally:
            left_s = self.patience_s
            self.timer.reschedule(None if left_s is None else asyncio.get_running_loop().time() + left_s)

    async def conditions(self, bundle: Bundle) -> NDArray[np.int8]:
        """(rows, condition nodes) of the request's energies, made once for each model."""
        known = self._conditions.get(bundle)
        if known is None:
            energies = self.request.energies_mev
            inline = self.request.rows <= INLINE_ROWS
            known = bundle.conditions(energies) if inline else await asyncio.to_thread(bundle.conditions, energies)
            self._conditions[bundle] = known
        return known

    def streams(self) -> NDArray[np.uint64]:
        """(rows, 2) random streams of its showers; without a seed, of one that nobody knows."""
        request = self.request
        seed = secrets.randbits(64) if request.seed is None else request.seed
        return streams_of(seed, request.rows, request.first_row)

    def origin(self, bundle: Bundle, threshold_mev: float, notes: tuple[str, ...]) -> Origin:
        """What the provenance of its showers says beside what the sampler says."""
        reasons = "; ".join(f"{name}: {error}" for name, error in self.failures.items())
        return Origin(
            bundle.name,
            bundle.manifest.version,
            bundle.sha256,
            program_version(),
            self.request.seed,
            threshold_mev,
            next(iter(self.failures), None),
            reasons or None,
            notes,
        )


@asynccontextmanager
async def attempting(request: ShowerRequest, default_deadline_s: float | None) -> AsyncIterator[Attempt]:
    """A request's way through, with DeadlineError once its time is over."""
    begun = time.monotonic()
    limit = default_deadline_s if request.deadline_s is None else request.deadline_s
    try:
        async with asyncio.timeout(limit) as timer:
            yield Attempt(request, begun, limit, timer)
    except TimeoutError:
        if not timer.expired():
            raise
        raise DeadlineError(f"not done within {limit:g} s") from None


def all_failed(failures: dict[str, SamplerUnavailableError | BankExhaustedError]) -> Exception:
    """The error of a request that no sampler answered, of the ``failures`` of those that were tried."""
    if not failures:
        return SamplerUnavailableError("no sampler is configured")
    if len(failures) == 1:
        return next(iter(failures.values()))
    waits = [getattr(error, "retry_after_s", None) for error in failures.values()]
    known = [wait for wait in waits if wait is not None]
    message = "; ".join(f"{name}: {error}" for name, error in failures.items())
    if not known and any(isinstance(error, BankExhaustedError) for error in failures.values()):
        # Nothing more comes of the bank, and of none of the others is it known when.
        return BankExhaustedError(message)
    return SamplerUnavailableError(message, retry_after_s=min(known) if known else None)
