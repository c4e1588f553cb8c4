"""Reads of a QPU beyond those asked for, kept for later requests: they are paid for already."""

from __future__ import annotations

import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import QShowerError
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import LatentBatch, LatentRequest
from qshower.sampler.reservoir import Reservoir, Taken
from qshower.service.schemas import Estimate

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.qpu.qpu_sampler import QpuSampler
    from qshower.sampler.qpu.unused_reads import UnusedReads

NOTE = "reservoir: reads kept from an earlier draw, billed to that"


class NoLongerKeptError(Exception):
    """What was there for a request a moment ago has been served to another one. Never leaves the service."""


class KeptReads:
    """Surplus reads of one bundle: a Stock of the engine that is filled by the draws of others. Thread-safe.

    Only reads that a request without options would get today are kept and served: drawn as such a request is, on the
    solver's present working graph, with the calibration now in use, which is neither stale nor drifting, and not older
    than ``max_age_s``. While it cannot be told whether they are, as the QPU's state on disk cannot be read, none are
    served, and they are kept.

    Args:
        qpu: whose reads they are.
        bundle: their model.
        max_bytes: bound on memory; of the conditions, those asked for longest ago go first.
        max_age_s: reads older than this are forgotten.
    """

    def __init__(self, qpu: QpuSampler, bundle: Bundle, *, max_bytes: int, max_age_s: float) -> None:
        self._qpu, self._machine, self._max_age_s = qpu, bundle.machine, max_age_s
        none = np.empty((0, bundle.machine.condition_nodes.size), dtype=np.int8)
        self._reservoir = Reservoir(
            qpu,
            bundle.machine,
            none,
            per_level=1,
            max_bytes=max_bytes,
            note=NOTE,
            conditions=bundle.energy_code.level_count,
        )

    def keep(self, reads: UnusedReads) -> int:
        """Complete, refine and take in the unused ``reads`` of a draw; how many reads were kept."""
        if not reads.request.options.leave_latents_alone():
            return 0
        self._known_to_hold()
        # A draw that saw a drift is no better than what it made us forget.
        if self._holds(reads.provenance) is False:
            return 0
        return self._reservoir.deposit(reads.states(), reads.provenance)

    def covers(self, conditions: NDArray[np.int8]) -> bool:
        """Whether there is a read for each of ``conditions`` (rows, condition nodes)."""
        return bool(self.has(conditions).all())

    def has(self, conditions: NDArray[np.int8]) -> NDArray[np.bool_]:
        """(rows,) for which of ``conditions`` (rows, condition nodes) there is a read."""
        known = self._known_to_hold()
        return self._reservoir.has(conditions) & known

    def take(self, conditions: NDArray[np.int8], *, whole: bool = False) -> Taken:
        """Reads for ``conditions``, as far as they go, or for all of them or none; none of them is served again."""
        if self._known_to_hold():
            return self._reservoir.take(conditions, whole=whole)
        none = self._reservoir.take(conditions[:0])
        return replace(none, served=np.zeros(conditions.shape[0], dtype=np.bool_))

    def give_back(self, taken: Taken) -> None:
        """Keep again what was taken and shown to nobody."""
        self._reservoir.give_back(taken)

    def claim(self, conditions: NDArray[np.int8]) -> KeptClaim:
        """For a request for ``conditions`` that is to be served from it altogether or not at all."""
        return KeptClaim(self, conditions)

    def status(self) -> dict[str, Any]:
        """Counts for a health page: those of the reservoir; ``discarded`` are reads that do not hold any more."""
        self._known_to_hold()
        counts = self._reservoir.status()
        shown = ("ready", "wanted", "bytes", "max_bytes", "served", "missed", "discarded")
        return {name: counts[name] for name in shown} | {"max_age_s": self._max_age_s}

    def _known_to_hold(self) -> bool:
        """Forget what does not hold; whether it is known that all the others do."""
        known: dict[tuple[str | None, ...], bool | None] = {}

        def unwanted(provenance: Provenance) -> bool:
            key = (provenance.solver, provenance.graph_id, provenance.beta_calibrated_at, str(provenance.beta))
            if key not in known:
                known[key] = self._holds(provenance)
            return known[key] is False

        self._reservoir.discard(unwanted, self._max_age_s)
        return None not in known.values()

    def _holds(self, provenance: Provenance) -> bool | None:
        """Whether reads drawn so would be drawn in the same way now; None if that cannot be told."""
        try:
            return self._qpu.still_holds(self._machine, provenance)
        except QShowerError:
            # The QPU's state on disk cannot be read; its availability says what is wrong with it.
            return None


class KeptClaim:
    """Kept reads for the rows of one request, taken at its first draw: all of them, or none.

    A sampler of the engine that does not draw. The request may be served in several parts, one after the other.
    """

    def __init__(self, kept: KeptReads, conditions: NDArray[np.int8]) -> None:
        self._kept, self._conditions = kept, conditions
        self._lock = threading.Lock()
        self._taken: Taken | None = None
        self._served = 0
        self._given_back = False

    def sample(self, request: LatentRequest) -> LatentBatch:
        """The reads of the next ``request.rows`` rows; NoLongerKeptError if there were not enough, or no longer."""
        with self._lock:
            if self._given_back:
                raise NoLongerKeptError
            if self._taken is None:
                taken = self._kept.take(self._conditions, whole=True)
                if taken.missing.size:
                    raise NoLongerKeptError
                self._taken = taken
            first, self._served = self._served, self._served + request.rows
            spins, provenance = self._taken.part(first, self._served)
        return LatentBatch(spins, request.machine.energies(spins), provenance).checked(request)

    def give_back(self) -> None:
        """Let others have the reads, which were shown to nobody; what is not taken yet never is. Idempotent."""
        with self._lock:
            if self._taken is not None and not self._given_back:
                self._kept.give_back(self._taken)
            self._given_back = True


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
