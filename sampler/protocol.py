"""What every sampler is: a context manager that answers a LatentRequest with a LatentBatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.claim import Claim
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import LatentBatch, LatentRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerCapabilities:
    """What a sampler can do, and how a service should treat it. A service compares with no sampler's name.

    Attributes:
        reproducible: the same stream gives the same spins, whatever the batch and the number of threads.
        options: names of the ``SamplerOptions`` fields it takes. One that takes ``solver`` draws on a solver elsewhere,
            whose topology decides which models fit.
        auto_rank: its place in the order of ``auto``, lowest first; None if ``auto`` never chooses it.
        billed: its draws cost time on a machine elsewhere: they count towards quotas, can be estimated, and leave this
            machine's processor idle.
        cacheable: its latents may be drawn ahead while the processor is idle.
        availability_blocks: ``availability`` may wait for a network or a disk.
        batch_rows: most rows to draw together, None for the service's own bound.
        threads: how many draws may run at the same time.
        warm_up_rows: rows to draw from each model at start-up, so that no request waits for compilers; 0 for none.
        sweeps_from_model: a request without ``sweeps`` is drawn with the number measured for the model.
        how_to_configure: advice to a user where it is not configured; "" if it always is.
    """

    reproducible: bool
    options: frozenset[str] = frozenset()
    auto_rank: int | None = None
    billed: bool = False
    cacheable: bool = False
    availability_blocks: bool = False
    batch_rows: int | None = None
    threads: int = 1
    warm_up_rows: int = 1
    sweeps_from_model: bool = False
    how_to_configure: str = ""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a sampler can be used now.

    ``reason`` says why not; ``detail`` holds what else a user wants to see: device, solver, graph, calibration age,
    circuit state, budget.
    """

    available: bool
    reason: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Sampler(Protocol):
    """Draws latents from P(s_free | s_0 = c) of a BoltzmannMachine. Safe to call from several threads."""

    @property
    def name(self) -> str:
        """The name a request chooses it by."""

    @property
    def capabilities(self) -> SamplerCapabilities:
        """What it can do."""

    def availability(self, machine: BoltzmannMachine) -> Availability:
        """Whether it can draw from ``machine`` now. Cheap: no draw, no bill."""

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row of ``request``, checked. Raises SamplerError; InvalidInputError for an option it lacks."""

    def close(self) -> None:
        """Let go of connections and threads. Idempotent."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


@runtime_checkable
class StoredSampler(Protocol):
    """A sampler that serves latents drawn earlier, each once, so that a request is answered in whole or not at all."""

    def drawn_from(self, machine: BoltzmannMachine) -> bool:
        """Whether its latents are of ``machine``."""

    def claim(self, conditions: NDArray[np.int8]) -> Claim:
        """For a request for ``conditions`` (rows, condition nodes), in the order in which requests come."""


@runtime_checkable
class BilledSampler(Protocol):
    """A sampler that can say beforehand what a request would take."""

    def estimate(self, request: LatentRequest) -> Any:
        """A dry run that submits nothing. SamplerUnavailableError if the request could not be drawn now."""
