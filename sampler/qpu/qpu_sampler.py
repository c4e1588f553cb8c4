"""The ``qpu`` sampler: draws on a quantum annealer through Ocean, and makes of them draws from the machine's law."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import (
    BudgetExceededError,
    InvalidInputError,
    PlacementError,
    ProblemRangeError,
    QShowerError,
    SamplerError,
    SamplerTimeoutError,
    SamplerUnavailableError,
    SolverConfigurationError,
    SolverNotFoundHereError,
)
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.protocol import Availability
from qshower.sampler.provenance import Provenance
from qshower.sampler.qpu.calibration.calibrator import Calibrator, calibration_key
from qshower.sampler.qpu.calibration.scale import Calibration, CalibrationStore
from qshower.sampler.qpu.capabilities import CAPABILITIES
from qshower.sampler.qpu.drawing.drawer import Drawer, PartReads
from qshower.sampler.qpu.drawing.postprocess import assemble, provenance_of
from qshower.sampler.qpu.ocean.circuit_breaker import CircuitBreaker
from qshower.sampler.qpu.ocean.connection import Connection
from qshower.sampler.qpu.ocean.ocean_client import OceanClient
from qshower.sampler.qpu.ocean.runner import Runner, Usage
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.planning.draw_options import calibration_request, check_options, draw_options
from qshower.sampler.qpu.planning.planner import Plan, Planner, QpuEstimate
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.qpu_status import QpuFigures, QpuState
from qshower.sampler.qpu.quota import Quota, current_key
from qshower.sampler.qpu.shims.couplers import measure_couplers
from qshower.sampler.qpu.shims.flux_bias import Shim, ShimStore, measure_shim, shim_cost
from qshower.sampler.qpu.unused_reads import Receiver, hand_over, unused
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions

Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)
_IMPATIENT_S = 10.0
"""A time-out sooner than this was the caller's wish, and says nothing about the QPU."""


class QpuSampler:
    """Draws from P(s_free | s_0 = c) ∝ exp(−E(s)) on a QPU. Safe to call from several threads.

    The machine is placed on today's working graph, (h, J)/beta_eff is programmed with the condition folded into h,
    several conditions side by side; nodes without a qubit are drawn from their conditional; and Gibbs sweeps over the
    whole machine bring what noise and holes have bent back to the law. Not reproducible: a QPU takes no seed.

    Building one opens no connection and starts no thread. Every draw is checked, paid for, and ends by its deadline.
    """

    name = "qpu"
    capabilities = CAPABILITIES

    def __init__(self, settings: QpuSettings | None = None, receiver: Receiver | None = None) -> None:
        """``receiver`` is as for ``hand_unused_reads_to``."""
        self._receiver = receiver
        self._settings = settings if settings is not None else QpuSettings()
        folder = self._settings.state_folder
        self._link = OceanClient(self._settings)
        self._planner = Planner(self._settings)
        self._thermometer = Calibrator(CalibrationStore(folder / "calibrations.json"), self._settings)
        self._ledger = Quota(folder / "qpu_budget.json", self._settings.daily_budget_us, self._settings.key_budget_us)
        self._shims = ShimStore(folder / "shims.json")
        self._breaker = CircuitBreaker(self._settings.breaker_failures, self._settings.breaker_cooldown_s)
        self._state = QpuState(
            self._link, self._planner, self._thermometer, self._shims, self._ledger, self._breaker, self._settings
        )
        self._rng = np.random.default_rng()

    def __repr__(self) -> str:
        """Without the token."""
        return f"QpuSampler({self._link!r})"

    def hand_unused_reads_to(self, receiver: Receiver | None) -> None:
        """Give the reads beyond the rows asked for to ``receiver`` from now on.

        It gets them in the thread of ``sample`` after each draw that has some, up to ``MOST_ROWS``, before they are
        completed and refined: ``UnusedReads.states`` does that, once nobody waits. If it raises, the draw stands, and
        its provenance has a note. Of a draw that fails it gets all reads that came: they are good, and paid for.
        """
        self._receiver = receiver

    def still_holds(self, machine: BoltzmannMachine, provenance: Provenance) -> bool:
        """Whether a draw from ``machine`` made earlier would be made in the same way now.

        That is, as far as is known without asking the solver: it has the same working graph, and the calibration of
        the draw is the one in use, neither stale nor drifting.
        """
        return self._state.still_holds(machine, provenance)

    def figures(self, machines: Iterable[BoltzmannMachine]) -> QpuFigures:
        """What a monitor wants to know: circuit, costs, and the calibration of each of ``machines``. Asks no solver."""
        return self._state.figures(machines)

    def availability(self, machine: BoltzmannMachine) -> Availability:
        """Whether a solver that fits ``machine`` is online; an answer is kept for ``availability_ttl_s``.

        ``detail`` holds solver, graph_id, holes and missing_couplers of the best place, copies, calibration, shim,
        circuit, budget, and ``retry_after_s`` if it is not available.
        """
        return self._state.availability(machine)

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row, each from a read of its own, checked.

        Raises:
            InvalidInputError: an option it lacks, or a value the solver does not take.
            SamplerUnavailableError: API, solver or placement; CircuitOpenError after too many failures in a row.
            BudgetExceededError: before anything is submitted.
            SamplerTimeoutError: no answer by the deadline; what was under way is cancelled.
            SamplerAnswerError: an answer is not a valid draw.
            ProblemRangeError: (h, J)/beta_eff leaves the solver's ranges by more than may be rescaled.
        """
        check_options(request.options)
        deadline = self._deadline(request.deadline_s)
        if request.rows == 0:
            nothing = np.empty((0, request.machine.node_count), dtype=np.int8)
            return LatentBatch(nothing, np.empty(0), Provenance(sampler=self.name, num_reads=0)).checked(request)
        with self._guarded():
            return self._sample(request, deadline)

    def estimate(self, request: LatentRequest) -> QpuEstimate:
        """What ``request`` would take: a dry run that submits nothing and bills nothing."""
        check_options(request.options)
        info = self._find(request, self._deadline(request.deadline_s))
        plan = self._planner.plan(request, info)
        calibration_us = 0.0
        if self._thermometer.kept(calibration_key(request.machine, plan)) is None:
            calibration_us = self._calibration_us(request, plan)
        return self._planner.estimate(plan, calibration_us)

    def calibrate(
        self,
        machine: BoltzmannMachine,
        conditions: NDArray[np.int8],
        options: SamplerOptions | None = None,
        deadline_s: float | None = None,
        *,
        counted: bool = True,
    ) -> Calibration:
        """Measure beta_eff for ``machine`` on a solver by two methods, and keep it for draws to come.

        Args:
            machine: the machine the calibration is for.
            conditions: (rows, condition nodes) int8, typical conditions, at least one; as many as there are copies of
                the machine on the chip are used.
            options: solver, annealing time and cap.
            deadline_s: seconds this may take.
            counted: whether the circuit breaker hears how it ended.
        """
        request = calibration_request(machine, conditions, options, deadline_s)
        deadline = self._deadline(deadline_s)
        bill = Usage()

        def measured(info: SolverInfo) -> Calibration:
            plan = self._planner.plan(request, info)
            self._ledger.check(self._calibration_us(request, plan), plan.options.cap_us, current_key())
            with self._link.borrow(info) as connection:
                return self._measure(request, plan, connection, deadline, bill, unless_kept=False)

        with self._guarded() if counted else nullcontext():
            return self._on_todays_graph(request, deadline, bill, measured)

    def estimate_calibration(
        self,
        machine: BoltzmannMachine,
        conditions: NDArray[np.int8],
        options: SamplerOptions | None = None,
        deadline_s: float | None = None,
    ) -> QpuEstimate:
        """What ``calibrate`` would take: a dry run that submits nothing and bills nothing."""
        request = calibration_request(machine, conditions, options, deadline_s)
        plan = self._planner.plan(request, self._find(request, self._deadline(deadline_s)))
        sites = self._planner.sites(request, plan.info, place_condition=False).copies
        return self._planner.estimate_of_calibration(plan, sites)

    def shim(
        self,
        machine: BoltzmannMachine,
        options: SamplerOptions | None = None,
        reads: int = 1000,
        deadline_s: float | None = None,
        *,
        couplers: bool = False,
    ) -> Shim:
        """Measure every qubit's own offset on the solver that ``machine`` would be drawn on, and make up for it.

        Four programmings of ``reads`` reads, and ten more for what the couplers are off by if ``couplers`` is set;
        draws at the same annealing time use it from then on, until the graph changes. Calibrate again afterwards.
        Nothing is submitted unless all of it is within cap and budget. If the couplers' part fails, that of the qubits
        is kept, beside what was known of the couplers before.
        """
        request = _shim_request(machine, options, deadline_s)
        deadline = self._deadline(deadline_s)
        bill = Usage()

        def measured(info: SolverInfo) -> Shim:
            asked = draw_options(request.options, self._settings, info)
            anneal_us = asked.annealing_time_us
            earlier = self._shims.get(info, anneal_us)
            cost = shim_cost(info, reads, anneal_us, couplers=couplers)
            self._ledger.check(cost.access_time_us, asked.cap_us, current_key())
            with self._link.borrow(info) as connection:
                runner = Runner(self._link, connection, info, self._ledger, self._settings)
                now = self._shims.now()
                shim = measure_shim(runner, anneal_us, reads, asked.cap_us, deadline, bill, now)
                if couplers:
                    known = None if earlier is None else earlier.couplers
                    self._shims.put(replace(shim, couplers=known))
                    left_us = None if asked.cap_us is None else asked.cap_us - bill.access_time_us
                    rng = self._rng.spawn(1)[0]
                    biases = shim.nominal(info)
                    off = measure_couplers(runner, anneal_us, reads, biases, left_us, deadline, bill, rng, now)
                    shim = replace(shim, couplers=off)
            self._shims.put(shim)
            self._state.forget()
            return shim

        with self._guarded():
            return self._on_todays_graph(request, deadline, bill, measured)

    def estimate_shim(
        self,
        machine: BoltzmannMachine,
        options: SamplerOptions | None = None,
        reads: int = 1000,
        deadline_s: float | None = None,
        *,
        couplers: bool = False,
    ) -> QpuEstimate:
        """What ``shim`` would take: a dry run that submits nothing and bills nothing.

        All of the graph is programmed as it is, so there are no conditions, copies or holes.
        """
        request = _shim_request(machine, options, deadline_s)
        info = self._find(request, self._deadline(deadline_s))
        asked = draw_options(request.options, self._settings, info)
        cost = shim_cost(info, reads, asked.annealing_time_us, couplers=couplers)
        return QpuEstimate(
            solver=info.name,
            graph_id=info.graph.graph_id,
            access_time_us=cost.access_time_us,
            calibration_us=0.0,
            problems=cost.problems,
            reads=cost.reads,
            conditions=0,
            copies=0,
            holes=0,
        )

    def calibrations(self) -> tuple[Calibration, ...]:
        """Every calibration that is kept."""
        return self._thermometer.store.all()

    def close(self) -> None:
        """Close the connection, within ``close_timeout_s``. Idempotent."""
        self._link.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _deadline(self, limit_s: float | None) -> float:
        limit_s = self._settings.deadline_s if limit_s is None else limit_s
        if limit_s <= 0:
            raise SamplerTimeoutError("the deadline had passed before the draw began")
        return monotonic() + limit_s

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Ask the circuit breaker first, and tell it how the call ended."""
        call = self._breaker.enter()
        began = monotonic()
        try:
            yield
        except (InvalidInputError, BudgetExceededError, ProblemRangeError):
            self._breaker.abandoned(call)
            raise
        except QShowerError as error:
            impatient = min(_IMPATIENT_S, 0.9 * self._settings.deadline_s)
            in_haste = isinstance(error, SamplerTimeoutError) and monotonic() - began < impatient
            ours = self._link.closed or isinstance(
                error, (PlacementError, SolverConfigurationError, SolverNotFoundHereError)
            )
            if in_haste or ours:
                self._breaker.abandoned(call)
            else:
                self._breaker.failed(call, error)
            self._link.forget()
            self._state.forget()
            raise
        except BaseException:
            self._breaker.abandoned(call)
            raise
        if self._breaker.succeeded():
            self._state.forget()

    def _sample(self, request: LatentRequest, deadline: float) -> LatentBatch:
        began = monotonic()
        bill = Usage()
        plan, calibration, parts = self._on_todays_graph(
            request, deadline, bill, lambda info: self._draw_on(info, request, deadline, bill)
        )
        drawn = monotonic()
        self._thermometer.watch(parts, calibration, bill, plan.options.gauges)
        sweeps = self._sweeps(request)
        try:
            spins = assemble(request, parts, sweeps, deadline, bill)
        except SamplerError:
            self._leave(request, plan, calibration, parts, bill)
            raise
        elapsed_s = {"draw": drawn - began, "refine": monotonic() - drawn}
        if self._receiver is not None:
            made = provenance_of(self.name, plan, calibration, bill, sweeps, elapsed_s)
            bill.note(hand_over(self._receiver, request, unused(parts), made))
        provenance = provenance_of(self.name, plan, calibration, bill, sweeps, elapsed_s)
        return LatentBatch(spins, request.machine.energies(spins), provenance).checked(request)

    def _on_todays_graph(
        self, request: LatentRequest, deadline: float, bill: Usage, work: Callable[[SolverInfo], Result]
    ) -> Result:
        """What ``work`` gives for the solver of ``request``; tried once more if nothing was accepted and it changed."""
        info = self._find(request, deadline)
        try:
            return work(info)
        except SamplerError as error:
            # An answer to a submit that got lost names no problem, and there may be one all the same.
            billed = error.problem_ids or bill.problem_ids or bill.doubtful_us
            if billed or type(error) not in (SamplerError, SamplerUnavailableError, SolverNotFoundHereError):
                raise
            self._link.forget()
            today = self._find(request, deadline)
            if today is info:
                raise
            return work(today)

    def _draw_on(
        self, info: SolverInfo, request: LatentRequest, deadline: float, bill: Usage
    ) -> tuple[Plan, Calibration, list[PartReads]]:
        plan = self._planner.plan(request, info)
        with self._link.borrow(info) as connection:
            calibration = self._thermometer.kept(calibration_key(request.machine, plan))
            if calibration is None:
                total_us = plan.access_time_us + self._calibration_us(request, plan)
                self._ledger.check(total_us, plan.options.cap_us, current_key())
                calibration = self._measure(request, plan, connection, deadline, bill, unless_kept=True)
                bill.note("beta_eff was measured with this draw: no calibration was kept")
            cap_us = plan.options.cap_us
            left_us = None if cap_us is None else cap_us - bill.access_time_us
            answered: list[PartReads] = []
            try:
                parts = self._drawer(plan, connection, bill).draw(
                    plan.programmings,
                    plan.sites,
                    plan.conditions,
                    calibration.beta,
                    replace(plan.options, cap_us=left_us),
                    deadline,
                    self._rng.spawn(1)[0],
                    bill,
                    answered=answered,
                )
            except SamplerError:
                self._leave(request, plan, calibration, answered, bill)
                raise
        return plan, calibration, parts

    def _sweeps(self, request: LatentRequest) -> int:
        asked = request.options.refine_sweeps
        return self._settings.refine_sweeps if asked is None else asked

    def _leave(
        self, request: LatentRequest, plan: Plan, calibration: Calibration, parts: Sequence[PartReads], bill: Usage
    ) -> None:
        """Give all reads of ``parts`` to the receiver: their draw has failed, but they are good, and paid for."""
        if self._receiver is not None:
            made = provenance_of(self.name, plan, calibration, bill, self._sweeps(request), {})
            made = replace(made, notes=(*made.notes, "read by a draw that failed afterwards"))
            note = hand_over(self._receiver, request, parts, made)
            if note is not None:
                _LOG.warning("%s", note)

    def _calibration_us(self, request: LatentRequest, plan: Plan) -> float:
        """QPU access time of a calibration on the way."""
        sites = self._planner.sites(request, plan.info, place_condition=False).copies
        return self._planner.calibration_cost_us(plan, sites)

    def _measure(
        self,
        request: LatentRequest,
        plan: Plan,
        connection: Connection,
        deadline: float,
        bill: Usage,
        *,
        unless_kept: bool,
    ) -> Calibration:
        sites = self._planner.sites(request, plan.info, place_condition=False).copies
        programmings = self._planner.calibration(plan, sites)
        calibration = self._thermometer.measure(
            calibration_key(request.machine, plan),
            programmings,
            sites,
            plan,
            self._drawer(plan, connection, bill),
            deadline,
            bill,
            gauges=self._planner.calibration_gauges(plan, sites),
            unless_kept=unless_kept,
        )
        self._state.forget()
        return calibration

    def _drawer(self, plan: Plan, connection: Connection, bill: Usage) -> Drawer:
        shim = self._shims.get(plan.info, plan.options.annealing_time_us)
        if shim is not None:
            bill.note(f"flux-bias shim of {shim.measured_at}")
            if shim.couplers is not None:
                bill.note(f"coupler shim of {shim.couplers.measured_at}")
        runner = Runner(self._link, connection, plan.info, self._ledger, self._settings)
        return Drawer(runner, self._settings, shim)

    def _find(self, request: LatentRequest, deadline: float) -> SolverInfo:
        timeout_s = min(deadline - monotonic(), 2 * self._settings.request_timeout_s)
        return self._link.find(request.options.solver, request.machine.topology_family, timeout_s)


def _shim_request(machine: BoltzmannMachine, options: SamplerOptions | None, deadline_s: float | None) -> LatentRequest:
    """The request that stands for a shim: any condition, as none is programmed."""
    any_condition = np.ones((1, machine.condition_nodes.size), dtype=np.int8)
    return calibration_request(machine, any_condition, options, deadline_s)
