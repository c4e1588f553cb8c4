"""Reads of a QPU beyond those asked for, kept for later requests: they are paid for already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from numpy.typing import NDArray

from sampler.errors import SamplerAnswerError, SamplerUnavailableError
from sampler.request import LatentBatch, LatentRequest, Provenance
from sampler.reservoir import Reservoir, Taken
from service.catalogue import Catalogue
from service.schemas import Estimate
from service.upkeep import BackgroundWork

if TYPE_CHECKING:
    from model.bundle import Bundle
    from sampler.qpu.sampler import QpuSampler

NOTE = "reservoir: reads kept from an earlier draw, billed to that"
REFILL_ROWS = 10_000
REFILL_DEADLINE_S = 600.0
"""Nobody waits for a refill, and the solver's queue may be long."""
REFILL_POLL_S = 5.0

_log = structlog.get_logger("qshower.service")


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
        levels: (levels, condition nodes) int8, the conditions that ``refill`` draws; None for none.
        per_level: how many reads of each it keeps ready.
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
    ) -> None:
        self._qpu, self._machine, self._max_age_s = qpu, bundle.machine, max_age_s
        none = np.empty((0, bundle.machine.condition_nodes.size), dtype=np.int8)
        self._reservoir = Reservoir(
            _DrawsToKeep(qpu),
            bundle.machine,
            none if levels is None else levels,
            per_level=per_level,
            max_bytes=max_bytes,
            rows_per_refill=REFILL_ROWS,
            deadline_s=REFILL_DEADLINE_S,
            note=NOTE,
            conditions=bundle.energy_code.level_count,
        )

    @property
    def lacks(self) -> bool:
        """Whether ``refill`` would draw something."""
        self._forget_what_does_not_hold()
        return self._reservoir.lacks

    def refill(self) -> int:
        """Draw what is lacking, in one go, and bill it to nobody but the day; how many reads were kept of it.

        Raises:
            SamplerError: what the QPU raised, or that its reads do not hold by now; nothing of them is kept.
        """
        return self._reservoir.refill()

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


class _DrawsToKeep:
    """Draws with a calibration that is there already, and only what a request without options would get."""

    def __init__(self, qpu: QpuSampler) -> None:
        self._qpu = qpu

    def sample(self, request: LatentRequest) -> LatentBatch:
        """As the QPU's. SamplerUnavailableError without a calibration, SamplerAnswerError if the solver has changed."""
        if self._qpu.estimate(request).calibration_us:
            raise SamplerUnavailableError("no calibration is kept for today's working graph")
        batch = self._qpu.sample(request)
        if not self._qpu.still_holds(request.machine, batch.provenance):
            ids = batch.provenance.problem_ids or ()
            raise SamplerAnswerError("the solver has drifted or changed; its reads are not kept", problem_ids=ids)
        return batch


class Refill(BackgroundWork):
    """Draws QPU reads to be kept, for the levels that are short of them.

    Only while nothing is being answered, the circuit is closed, and the model has a calibration that is neither stale
    nor drifting; at the expense of the day's budget, and of no API key.

    Args:
        qpu: what draws.
        catalogue: the models.
        kept: what is kept, by the models' names.
        idle: whether nothing is being answered.
        clock: seconds.
    """

    def __init__(
        self,
        qpu: QpuSampler,
        catalogue: Catalogue,
        kept: Mapping[str, KeptReads],
        idle: Callable[[], bool],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__("refill", REFILL_POLL_S, clock)
        self._qpu, self._catalogue, self._kept, self._idle = qpu, catalogue, kept, idle

    def _due(self) -> Bundle | None:
        if not self._idle() or self._qpu.figures(()).circuit != "closed":
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
        _log.info("refilled", model=bundle.name, sampler="qpu", kept=self._kept[bundle.name].refill())


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
