"""Reads of a QPU beyond those asked for, kept for later requests: they are paid for already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from numpy.typing import NDArray

from qshower.sampler.errors import BudgetExceededError, QShowerError, SamplerAnswerError, SamplerUnavailableError
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import LatentBatch, LatentRequest
from qshower.sampler.reservoir import Reservoir, Taken
from qshower.sampler.stock import state_bytes
from qshower.service.accounts import until_midnight_s
from qshower.service.catalogue import Catalogue
from qshower.service.schemas import Estimate
from qshower.service.upkeep import BackgroundWork

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.qpu.sampler import QpuSampler
    from qshower.sampler.qpu.surplus import Surplus

NOTE = "reservoir: reads kept from an earlier draw, billed to that"
REFILL_ROWS = 10_000
REFILL_DEADLINE_S = 600.0
"""Nobody waits for a refill, and the solver's queue may be long."""
REFILL_POLL_S = 5.0
REFILL_BELOW = 0.5
"""Share of the reads of a level below which there is a refill. Programmings are what a QPU bills for, so few and large
refills are cheaper than one for each read that was served."""

_log = structlog.get_logger("qshower.service")


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
        levels: (levels, condition nodes) int8, the conditions that ``refill`` draws; None for none.
        per_level: how many reads of each it keeps ready.
        spare_reads: reads of a condition above which draws need buy no more.
        budget_share: share of the day's budget that may be used, by whomever, for a refill to use more.
    """

    def __init__(
        self,
        qpu: QpuSampler,
        bundle: Bundle,
        *,
        max_bytes: int,
        max_age_s: float,
        levels: NDArray[np.int8] | None = None,
        per_level: int = 1,
        spare_reads: int = 0,
        budget_share: float = 1.0,
    ) -> None:
        self._qpu, self._machine, self._max_age_s = qpu, bundle.machine, max_age_s
        none = np.empty((0, bundle.machine.condition_nodes.size), dtype=np.int8)
        self._reservoir = Reservoir(
            _DrawsToKeep(qpu, budget_share),
            bundle.machine,
            none if levels is None else levels,
            per_level=per_level,
            max_bytes=max_bytes,
            rows_per_refill=REFILL_ROWS,
            deadline_s=REFILL_DEADLINE_S,
            note=NOTE,
            conditions=bundle.energy_code.level_count,
            low=REFILL_BELOW,
        )
        room = max_bytes // state_bytes(bundle.machine) // (bundle.energy_code.level_count or 1)
        self._most_wanted = min(spare_reads, room)
        self._refilling = False

    @property
    def lacks(self) -> bool:
        """Whether ``refill`` is due: a level has less than ``REFILL_BELOW`` of its reads."""
        return self._known_to_hold() and self._reservoir.lacks

    def refill(self) -> int:
        """Draw what is lacking, in one go, and bill it to nobody but the day; how many reads were kept of it.

        Raises:
            SamplerError: what the QPU raised, or that its reads do not hold by now; nothing of them is kept.
        """
        self._refilling = True
        try:
            return self._reservoir.refill()
        finally:
            self._refilling = False

    def wanted(self, conditions: NDArray[np.int8]) -> int:
        """How many reads of ``conditions`` (rows, condition nodes) are short of ``spare_reads``, of that with least.

        None during a refill, which buys what it is to buy itself.
        """
        if not self._most_wanted or self._refilling or not self._known_to_hold():
            return 0
        there = self._reservoir.count(np.unique(conditions, axis=0))
        return max(0, self._most_wanted - int(there.min()))

    def keep(self, surplus: Surplus) -> int:
        """Complete, refine and take in the ``surplus`` of a draw; how many reads were kept."""
        from qshower.sampler.qpu.surplus import drawn_by_default  # brings Ocean along, which is here by now

        if not drawn_by_default(surplus.request.options):
            return 0
        self._known_to_hold()
        # A draw that saw a drift is no better than what it made us forget.
        if self._holds(surplus.provenance) is False:
            return 0
        return self._reservoir.deposit(surplus.states(), surplus.provenance)

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


class _DrawsToKeep:
    """Draws within a share of the day's budget, with a calibration that is there already, and what holds alone."""

    def __init__(self, qpu: QpuSampler, budget_share: float) -> None:
        self._qpu, self._budget_share = qpu, budget_share

    def sample(self, request: LatentRequest) -> LatentBatch:
        """As the QPU's.

        Raises:
            SamplerUnavailableError: there is no calibration.
            BudgetExceededError: it would leave less of the day's budget than is to be left to requests.
            SamplerAnswerError: the solver has changed.
        """
        estimate = self._qpu.estimate(request)
        if estimate.calibration_us:
            raise SamplerUnavailableError("no calibration is kept for today's working graph")
        left_us = refill_budget_us(self._qpu, self._budget_share)
        if left_us is not None and estimate.access_time_us > left_us:
            raise BudgetExceededError(
                f"the refill would take {estimate.access_time_us / 1000:.1f} ms of QPU access time; of the "
                f"{self._budget_share:.0%} of the day's budget that may be used with refills "
                f"{max(0.0, left_us) / 1000:.1f} ms are left until midnight UTC",
                retry_after_s=until_midnight_s(),
            )
        batch = self._qpu.sample(request)
        if not self._qpu.still_holds(request.machine, batch.provenance):
            ids = batch.provenance.problem_ids or ()
            raise SamplerAnswerError("the solver has drifted or changed; its reads are not kept", problem_ids=ids)
        return batch


def refill_budget_us(qpu: QpuSampler, share: float) -> float | None:
    """What refills may still use of the day's budget, of which ``share`` may be used with them; None: no limit."""
    figures = qpu.figures(())
    if figures.left_today_us is None:
        return None
    return share * (figures.used_today_us + figures.left_today_us) - figures.used_today_us


class Refill(BackgroundWork):
    """Draws QPU reads to be kept, for the levels that are short of them.

    Only while nothing is being answered, the circuit is closed, the model has a calibration that is neither stale nor
    drifting, and a share of the day's budget is left; billed to the day, and to no API key.

    Args:
        qpu: what draws.
        catalogue: the models.
        kept: what is kept, by the models' names.
        idle: whether nothing is being answered.
        budget_share: as of KeptReads.
        clock: seconds.
    """

    def __init__(
        self,
        qpu: QpuSampler,
        catalogue: Catalogue,
        kept: Mapping[str, KeptReads],
        idle: Callable[[], bool],
        *,
        budget_share: float = 1.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__("refill", REFILL_POLL_S, clock)
        self._qpu, self._catalogue, self._kept, self._idle = qpu, catalogue, kept, idle
        self._budget_share = budget_share
        self._reads = 0

    def status(self) -> Mapping[str, Any]:
        """As of any work, and how many reads it has brought."""
        return {**super().status(), "reads": self._reads}

    def _due(self) -> Bundle | None:
        if not self._idle() or self._qpu.figures(()).circuit != "closed":
            return None
        left_us = refill_budget_us(self._qpu, self._budget_share)
        if left_us is not None and left_us <= 0.0:
            return None
        for bundle in self._catalogue.defaults() + self._catalogue.bundles():
            if not self._kept[bundle.name].lacks:
                continue
            state = self._qpu.availability(bundle.machine)
            known = state.detail.get("calibration") if state.available else None
            if known is not None and not known["stale"] and known["drift"] is None:
                return bundle
        return None

    def _do(self, bundle: Bundle) -> None:
        reads = self._kept[bundle.name].refill()
        self._reads += reads
        _log.info("refilled", model=bundle.name, sampler="qpu", kept=reads)


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
