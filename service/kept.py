"""Reads of a QPU beyond those asked for, kept for later requests: they are paid for already."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sampler.request import LatentBatch, LatentRequest, Provenance
from sampler.reservoir import Reservoir, Taken
from service.schemas import Estimate

if TYPE_CHECKING:
    from model.bundle import Bundle
    from sampler.qpu.sampler import QpuSampler

NOTE = "reservoir: reads kept from an earlier draw, billed to that"


class NoLongerKeptError(Exception):
    """What was there for a request a moment ago has been served to another one. Never leaves the service."""


class KeptReads:
    """Surplus reads of one bundle: a Stock of the engine that is filled by the draws of others. Thread-safe.

    Only reads that a request without options would get today are kept and served: drawn without options, on the
    solver's present working graph, with the calibration now in use, which is neither stale nor drifting, and not older
    than ``max_age_s``.

    Args:
        qpu: whose reads they are.
        bundle: their model.
        max_bytes: bound on memory; of the conditions, those asked for longest ago go first.
        max_age_s: reads older than this are forgotten.
    """

    def __init__(self, qpu: QpuSampler, bundle: Bundle, *, max_bytes: int, max_age_s: float) -> None:
        self._qpu, self._machine, self._max_age_s = qpu, bundle.machine, max_age_s
        nothing_drawn = np.empty((0, bundle.machine.condition_nodes.size), dtype=np.int8)
        self._reservoir = Reservoir(qpu, bundle.machine, nothing_drawn, per_level=1, max_bytes=max_bytes, note=NOTE)

    def keep(self, request: LatentRequest, states: NDArray[np.int8], provenance: Provenance) -> int:
        """Take in the surplus ``states`` (rows, nodes) of a draw; how many were kept."""
        from sampler.qpu.surplus import drawn_by_default  # brings Ocean along, which is here by now

        if not drawn_by_default(request.options):
            return 0
        self._forget_what_does_not_hold()
        # A draw that saw a drift is no better than what it made us forget.
        return self._reservoir.deposit(states, provenance) if self._holds(provenance) else 0

    def covers(self, conditions: NDArray[np.int8]) -> bool:
        """Whether there is a read for each of ``conditions`` (rows, condition nodes)."""
        return bool(self.has(conditions).all())

    def has(self, conditions: NDArray[np.int8]) -> NDArray[np.bool_]:
        """(rows,) for which of ``conditions`` (rows, condition nodes) there is a read."""
        self._forget_what_does_not_hold()
        return self._reservoir.has(conditions)

    def take(self, conditions: NDArray[np.int8]) -> Taken:
        """Reads for ``conditions``, as far as they go; none of them is served again."""
        self._forget_what_does_not_hold()
        return self._reservoir.take(conditions)

    def give_back(self, taken: Taken) -> None:
        """Keep again what was taken and shown to nobody."""
        self._reservoir.give_back(taken)

    def status(self) -> dict[str, Any]:
        """Counts for a health page: those of the reservoir; ``discarded`` are reads that do not hold any more."""
        self._forget_what_does_not_hold()
        counts = self._reservoir.status()
        shown = ("ready", "wanted", "bytes", "max_bytes", "served", "missed", "discarded")
        return {name: counts[name] for name in shown} | {"max_age_s": self._max_age_s}

    def whole(self) -> WholeRequests:
        """The same for requests that are to be served from it altogether or not at all."""
        return WholeRequests(self._reservoir)

    def _forget_what_does_not_hold(self) -> None:
        known: dict[tuple[str | None, ...], bool] = {}

        def unwanted(provenance: Provenance) -> bool:
            key = (provenance.solver, provenance.graph_id, provenance.beta_calibrated_at, str(provenance.beta))
            if key not in known:
                known[key] = self._holds(provenance)
            return not known[key]

        self._reservoir.discard(unwanted, self._max_age_s)

    def _holds(self, provenance: Provenance) -> bool:
        return self._qpu.still_holds(self._machine, provenance)


class WholeRequests:
    """Stock and sampler in one: serves a request from what is kept, and does not draw."""

    def __init__(self, reservoir: Reservoir) -> None:
        self._reservoir = reservoir

    def take(self, conditions: NDArray[np.int8]) -> Taken:
        """Reads for all of ``conditions``, or none."""
        return self._reservoir.take(conditions, whole=True)

    def give_back(self, taken: Taken) -> None:
        """Keep again what was taken and shown to nobody."""
        self._reservoir.give_back(taken)

    def sample(self, request: LatentRequest) -> LatentBatch:  # noqa: ARG002 - the engine's Draws
        """NoLongerKeptError: there is nothing to draw with."""
        raise NoLongerKeptError


def estimated(qpu: QpuSampler, model: str, request: LatentRequest, kept: KeptReads | None) -> Estimate:
    """What ``request`` would take beyond what is ``kept`` for it. Asks the solver API, submits nothing."""
    drawn = np.ones(request.rows, dtype=np.bool_) if kept is None else ~kept.has(request.conditions)
    found = int(request.rows - drawn.sum())
    # With nothing to draw one row stands for all, to know the solver.
    rows = drawn if drawn.any() else np.arange(request.rows) == 0
    some = replace(request, conditions=request.conditions[rows], streams=request.streams[rows])
    estimate = qpu.estimate(some)
    if not drawn.any():
        estimate = replace(estimate, access_time_us=0.0, calibration_us=0.0, problems=0, reads=0, conditions=0)
    return Estimate(model=model, kept=found, **asdict(estimate))
