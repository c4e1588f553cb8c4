"""What is known of the QPU beside its draws: whether it can be used, what its calibrations are, what it has cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from qshower.sampler.errors import QShowerError, SamplerUnavailableError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.protocol import Availability
from qshower.sampler.provenance import Provenance
from qshower.sampler.qpu.access import QpuAccess
from qshower.sampler.qpu.calibration.scale import CalibrationKey
from qshower.sampler.qpu.ocean.circuit_breaker import State
from qshower.sampler.qpu.ocean.solver import SolverInfo


@dataclass(frozen=True, slots=True)
class QpuFigures:
    """Figures for a monitor.

    Attributes:
        circuit: state of the circuit breaker.
        billed_us: QPU access time that this process has used, calibrations and failed draws included.
        used_today_us: what the ledger has for this UTC day, all processes together.
        left_today_us: what is left of the day's budget, None if there is none.
        calibrations: of each machine, in the order asked for: solver, beta, error, calibrated_at, age_s, stale and
            drift; None if the solver was not seen yet, or there is no calibration for it.
    """

    circuit: State
    billed_us: float
    used_today_us: float
    left_today_us: float | None
    calibrations: tuple[dict[str, Any] | None, ...]


class QpuState:
    """Answers questions about the QPU. Safe to use from several threads."""

    def __init__(self, access: QpuAccess) -> None:
        self._access = access
        self._answers: dict[str, tuple[int, float, Availability]] = {}

    def availability(self, machine: BoltzmannMachine) -> Availability:
        """Whether a solver that fits ``machine`` is online; an answer is kept for ``availability_ttl_s``."""
        key, changes = machine.fingerprint(), self._access.changes
        known = self._answers.get(key)
        ttl_s = self._access.settings.availability_ttl_s
        if known is None or known[0] != changes or monotonic() - known[1] > ttl_s:
            known = self._answers[key] = (changes, monotonic(), self._look(machine))
        return known[2]

    def still_holds(self, machine: BoltzmannMachine, provenance: Provenance) -> bool:
        """Whether a draw from ``machine`` made earlier would be made in the same way now, as far as is known."""
        solver, graph_id, anneal_us = provenance.solver, provenance.graph_id, provenance.annealing_time_us
        if (
            solver is None
            or graph_id is None
            or anneal_us is None
            or not self._access.client.had_graph(solver, graph_id)
        ):
            return False
        known = self._access.calibrator.detail(CalibrationKey(solver, graph_id, machine.fingerprint(), anneal_us))
        if known is None or known["stale"] or known["drift"] is not None:
            return False
        same: bool = (known["beta"], known["calibrated_at"]) == (provenance.beta, provenance.beta_calibrated_at)
        return same

    def figures(self, machines: Iterable[BoltzmannMachine]) -> QpuFigures:
        """Figures of now; asks no solver, and waits for nothing but two small files."""
        budget = self._access.quota.state()
        return QpuFigures(
            circuit=self._access.breaker.state,
            billed_us=self._access.quota.billed_us,
            used_today_us=budget["used_today_us"],
            left_today_us=budget["left_today_us"],
            calibrations=tuple(self._calibration_seen(machine) for machine in machines),
        )

    def _calibration_seen(self, machine: BoltzmannMachine) -> dict[str, Any] | None:
        info = self._access.client.last_seen(machine.topology_family)
        detail = None if info is None else self._access.calibrator.detail(self._key(machine, info))
        return None if info is None or detail is None else {"solver": info.name, **detail}

    def _key(self, machine: BoltzmannMachine, info: SolverInfo) -> CalibrationKey:
        anneal_us = self._access.settings.annealing_time_us or info.default_annealing_time_us
        return CalibrationKey(info.name, info.graph.graph_id, machine.fingerprint(), anneal_us)

    def _look(self, machine: BoltzmannMachine) -> Availability:
        settings = self._access.settings
        detail: dict[str, Any] = {"circuit": self._access.breaker.detail()}
        try:
            detail["budget"] = self._access.quota.state()
            info = self._access.client.find(None, machine.topology_family, settings.request_timeout_s)
            detail |= {"solver": info.name, "graph_id": info.graph.graph_id}
            embeddings = self._access.planner.embeddings(
                machine, info, place_condition=settings.condition_mode == "flux_bias"
            )
            detail |= {
                "holes": int(embeddings.single.unrealised.size),
                "missing_couplers": embeddings.single.missing_couplers,
                "copies": len(embeddings.copies),
            }
            key = self._key(machine, info)
            detail["calibration"] = self._access.calibrator.detail(key)
            shim = self._access.shims.get(info, key.annealing_time_us)
            detail["shim"] = shim and {
                "measured_at": shim.measured_at,
                "couplers_measured_at": shim.couplers and shim.couplers.measured_at,
            }
        except QShowerError as error:
            detail["retry_after_s"] = error.retry_after_s if isinstance(error, SamplerUnavailableError) else None
            return Availability(available=False, reason=str(error), detail=detail)
        if self._access.breaker.state == "open":
            detail["retry_after_s"] = self._access.breaker.retry_after_s
            reason = f"waiting after failures in a row, last: {detail['circuit']['last_error']}"
            return Availability(available=False, reason=reason, detail=detail)
        return Availability(available=True, detail=detail)
