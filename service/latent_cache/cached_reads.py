"""Unused reads of a QPU in a latent cache: they are paid for, and answer later requests at no cost."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.claim import Claim
from qshower.sampler.errors import QShowerError
from qshower.sampler.latent_cache import LatentCache
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import LatentRequest
from qshower.service.schemas import Estimate

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.qpu.qpu_sampler import QpuSampler
    from qshower.sampler.qpu.unused_reads import UnusedReads


class CachedReads:
    """The latent cache of a QPU and one model. Thread-safe.

    Only reads that a request without options would get today are cached and served: drawn as such a request is, on the
    solver's present working graph, with the calibration now in use, which is neither stale nor drifting, and not older
    than ``max_age_s``. While the QPU's state on disk cannot be read, nobody knows whether they are: none are served,
    and none are forgotten.

    Args:
        qpu: whose reads they are.
        bundle: their model.
        max_bytes: bound on memory.
        max_age_s: reads older than this are forgotten.
    """

    def __init__(self, qpu: QpuSampler, bundle: Bundle, *, max_bytes: int, max_age_s: float) -> None:
        self._qpu, self._max_age_s = qpu, max_age_s
        self.name, self.machine = bundle.name, bundle.machine
        self._cache = LatentCache(bundle.machine, max_bytes)

    def put(self, reads: UnusedReads) -> int:
        """Complete, refine and cache ``reads``; how many were cached."""
        # A draw that saw a drift is no better than what it made us forget.
        if not self._forget_invalid() or not self._holds(reads.provenance):
            return 0
        return self._cache.put(reads.states(), reads.provenance)

    def bound(self, max_bytes: int) -> None:
        """Another bound on memory from now on; what is too much is forgotten."""
        self._cache.bound(max_bytes)

    def has(self, conditions: NDArray[np.int8]) -> NDArray[np.bool_]:
        """(rows,) for which of ``conditions`` (rows, condition nodes) there is a read."""
        return self._cache.has(conditions) & self._forget_invalid()

    def claim(self, conditions: NDArray[np.int8], *, whole: bool = False) -> Claim | None:
        """As that of a LatentCache; None while nobody knows whether its reads hold."""
        return self._cache.claim(conditions, whole=whole) if self._forget_invalid() else None

    def status(self) -> dict[str, Any]:
        """Counts of the cache; ``discarded`` are reads that do not hold any more."""
        self._forget_invalid()
        return {**self._cache.status(), "max_age_s": self._max_age_s}

    def _forget_invalid(self) -> bool:
        """Forget what does not hold; whether it is known that all the others do."""
        known: dict[tuple[str | None, ...], bool | None] = {}

        def unwanted(provenance: Provenance) -> bool:
            key = (provenance.solver, provenance.graph_id, provenance.beta_calibrated_at, str(provenance.beta))
            if key not in known:
                known[key] = self._holds(provenance)
            return known[key] is False

        self._cache.discard(unwanted, self._max_age_s)
        return None not in known.values()

    def _holds(self, provenance: Provenance) -> bool | None:
        """Whether reads drawn so would be drawn in the same way now; None if that is not known."""
        try:
            return self._qpu.monitor.still_holds(self.machine, provenance)
        except QShowerError:
            # The QPU's state on disk cannot be read; its availability says what is wrong with it.
            return None


def estimated(qpu: QpuSampler, model: str, request: LatentRequest, reads: CachedReads | None) -> Estimate:
    """What ``request`` would take beyond the cached ``reads``. Asks the solver API, submits nothing."""
    drawn = np.ones(request.rows, dtype=np.bool_) if reads is None else ~reads.has(request.conditions)
    cached = int(request.rows - drawn.sum())
    # With nothing to draw one row stands for all, to know the solver.
    rows = drawn if drawn.any() else np.arange(request.rows) == 0
    some = replace(request, conditions=request.conditions[rows], streams=request.streams[rows])
    estimate = qpu.estimate(some)
    if not drawn.any():
        estimate = replace(estimate, access_time_us=0.0, calibration_us=0.0, problems=0, reads=0, conditions=0)
    return Estimate(model=model, cached=cached, **asdict(estimate))
