"""What every sampler is: a context manager that answers a LatentRequest with a LatentBatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import LatentBatch, LatentRequest


@dataclass(frozen=True, slots=True)
class SamplerCapabilities:
    """What a sampler can do.

    Attributes:
        reproducible: the same stream gives the same spins, whatever the batch and the number of threads.
        options: names of the ``SamplerOptions`` fields it takes.
        cacheable: its latents may be drawn ahead while the processor is idle.
    """

    reproducible: bool
    options: frozenset[str]
    cacheable: bool = False


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
        """The name a request chooses it by: ``gibbs``, ``annealing``, ``tempering``, ``qpu``, ``replay``."""

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
