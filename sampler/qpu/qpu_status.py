"""What is known of the QPU beside its draws: whether it can be used, what its calibrations are, what it has cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from qshower.sampler.errors import QShowerError, SamplerUnavailableError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.protocol import Availability
from qshower.sampler.provenance import Provenance
from qshower.sampler.qpu.access import QpuAccess
from qshower.sampler.qpu.calibration.calibrator import CalibrationStatus
from qshower.sampler.qpu.calibration.scale import CalibrationKey
from qshower.sampler.qpu.ocean.circuit_breaker import CircuitStatus, State
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.quota import QuotaStatus


@dataclass(frozen=True, slots=True)
class SolverStatus:
    """A solver, and how a machine lies on it.

    Attributes:
        solver: its name.
        graph_id: its working graph.
        missing_qubits: free nodes without a qubit at the best place.
        missing_couplers: couplings between placed free nodes that have no coupler there.
        copies: how many copies find room.
    """

    solver: str
    graph_id: str
    missing_qubits: int
    missing_couplers: int
    copies: int


@dataclass(frozen=True, slots=True)
class ShimStatus:
    """When the shim in use was measured, UTC, and its couplers' part, if that was measured too."""

    measured_at: str
    couplers_measured_at: str | None


@dataclass(frozen=True, slots=True)
class QpuStatus:
    """Whether a machine can be drawn on a QPU now. What could not be found out is None.

    Attributes:
        circuit: the circuit breaker.
        budget: what was used today.
        solver: the solver that fits the machine.
        calibration: the calibration in use for both.
        shim: the shim in use.
        reason: why it cannot be drawn, None if it can.
        retry_after_s: when to try again, if that is known.
    """

    circuit: CircuitStatus
    budget: QuotaStatus | None = None
    solver: SolverStatus | None = None
    calibration: CalibrationStatus | None = None
    shim: ShimStatus | None = None
    reason: str | None = None
    retry_after_s: float | None = None

    @property
    def available(self) -> bool:
        """Whether it can be drawn."""
        return self.reason is None

    def detail(self) -> dict[str, Any]:
        """The same as users see it under ``/samplers``."""
        shown: dict[str, Any] = {"circuit": asdict(self.circuit)}
        if self.budget is not None:
            shown["budget"] = asdict(self.budget)
        if self.solver is not None:
            calibration = None if self.calibration is None else asdict(self.calibration)
            if calibration is not None:
                del calibration["solver"]
            shown |= asdict(self.solver)
            shown |= {"calibration": calibration, "shim": None if self.shim is None else asdict(self.shim)}
        if not self.available:
            shown["retry_after_s"] = self.retry_after_s
        return shown


@dataclass(frozen=True, slots=True)
class QpuFigures:
    """Figures for a monitor.

    Attributes:
        circuit: state of the circuit breaker.
        billed_us: QPU access time that this process has used, calibrations and failed draws included.
        used_today_us: what was used this UTC day, all processes together.
        left_today_us: what is left of the day's budget, None if there is none.
        calibrations: of each machine, in the order asked for; None if the solver was not seen yet, or there is no
            calibration for it.
    """

    circuit: State
    billed_us: float
    used_today_us: float
    left_today_us: float | None
    calibrations: tuple[CalibrationStatus | None, ...]


class QpuMonitor:
    """Answers questions about a QPU. Safe to use from several threads."""

    def __init__(self, access: QpuAccess) -> None:
        self._access = access
        self._known: dict[str, tuple[int, float, QpuStatus]] = {}

    def status(self, machine: BoltzmannMachine) -> QpuStatus:
        """Whether a solver that fits ``machine`` is online; an answer is cached for ``availability_ttl_s``."""
        key, changes = machine.fingerprint(), self._access.changes
        known = self._known.get(key)
        ttl_s = self._access.settings.availability_ttl_s
        if known is None or known[0] != changes or monotonic() - known[1] > ttl_s:
            known = self._known[key] = (changes, monotonic(), self._find_out(machine))
        return known[2]

    def availability(self, machine: BoltzmannMachine) -> Availability:
        """The ``status`` as every sampler gives it."""
        found = self.status(machine)
        return Availability(found.available, found.reason, found.detail())

    def still_holds(self, machine: BoltzmannMachine, provenance: Provenance) -> bool:
        """Whether a draw from ``machine`` made earlier would be made in the same way now.

        That is, as far as is known without asking the solver: it has the same working graph, and the calibration of
        the draw is the one in use, neither stale nor drifting.
        """
        solver, graph_id, anneal_us = provenance.solver, provenance.graph_id, provenance.annealing_time_us
        if solver is None or graph_id is None or anneal_us is None:
            return False
        if not self._access.client.had_graph(solver, graph_id):
            return False
        known = self._access.calibrator.status(CalibrationKey(solver, graph_id, machine.fingerprint(), anneal_us))
        drawn_with = (provenance.beta, provenance.beta_calibrated_at)
        return known is not None and known.holds and (known.beta, known.calibrated_at) == drawn_with

    def figures(self, machines: Iterable[BoltzmannMachine]) -> QpuFigures:
        """Figures of now; asks no solver, and waits for nothing but two small files."""
        budget = self._access.quota.status()
        return QpuFigures(
            circuit=self._access.breaker.state,
            billed_us=self._access.quota.billed_us,
            used_today_us=budget.used_today_us,
            left_today_us=budget.left_today_us,
            calibrations=tuple(self._calibration_seen(machine) for machine in machines),
        )

    def _calibration_seen(self, machine: BoltzmannMachine) -> CalibrationStatus | None:
        info = self._access.client.last_seen(machine.topology_family)
        return None if info is None else self._access.calibrator.status(self._key(machine, info))

    def _key(self, machine: BoltzmannMachine, info: SolverInfo) -> CalibrationKey:
        anneal_us = self._access.settings.annealing_time_us or info.default_annealing_time_us
        return CalibrationKey(info.name, info.graph.graph_id, machine.fingerprint(), anneal_us)

    def _find_out(self, machine: BoltzmannMachine) -> QpuStatus:
        access, circuit = self._access, self._access.breaker.status()
        budget, solver = None, None
        try:
            budget = access.quota.status()
            info = access.client.find(None, machine.topology_family, access.settings.request_timeout_s)
            key, solver = self._key(machine, info), self._solver_status(machine, info)
            calibration = access.calibrator.status(key)
            shim = access.shims.get(info, key.annealing_time_us)
        except QShowerError as error:
            retry_after_s = error.retry_after_s if isinstance(error, SamplerUnavailableError) else None
            return QpuStatus(circuit, budget, solver, reason=str(error), retry_after_s=retry_after_s)
        in_use = None
        if shim is not None:
            in_use = ShimStatus(shim.measured_at, None if shim.couplers is None else shim.couplers.measured_at)
        reason, retry_after_s = None, None
        if circuit.state == "open":
            reason = f"waiting after failures in a row, last: {circuit.last_error}"
            retry_after_s = circuit.retry_after_s
        return QpuStatus(circuit, budget, solver, calibration, in_use, reason, retry_after_s)

    def _solver_status(self, machine: BoltzmannMachine, info: SolverInfo) -> SolverStatus:
        flux_bias = self._access.settings.condition_mode == "flux_bias"
        embeddings = self._access.planner.embeddings(machine, info, place_condition=flux_bias)
        return SolverStatus(
            solver=info.name,
            graph_id=info.graph.graph_id,
            missing_qubits=int(embeddings.single.unplaced.size),
            missing_couplers=embeddings.single.missing_couplers,
            copies=len(embeddings.copies),
        )
