"""What is told of states drawn on a QPU."""

from __future__ import annotations

from collections.abc import Sequence

from qshower.sampler.provenance import Provenance
from qshower.sampler.qpu.calibration.scale import Calibration
from qshower.sampler.qpu.planning.planner import Plan
from qshower.sampler.qpu.usage import Usage


def provenance_of(plan: Plan, calibration: Calibration, usage: Usage, sweeps: int, notes: Sequence[str]) -> Provenance:
    """What is told of states drawn by ``plan``, with ``usage`` in all, and refined for ``sweeps``; each note once."""
    return Provenance(
        sampler="qpu",
        solver=plan.info.name,
        graph_id=plan.info.graph.graph_id,
        problem_ids=tuple(usage.problem_ids),
        num_reads=usage.reads,
        beta=calibration.beta,
        beta_calibrated_at=calibration.calibrated_at,
        annealing_time_us=plan.options.annealing_time_us,
        gauges=max(programming.gauges for programming in plan.programmings),
        missing_qubits=plan.missing_qubits,
        missing_couplers=plan.missing_couplers,
        refine_sweeps=sweeps,
        condition_mode=plan.options.condition_mode,
        qpu_access_time_us=usage.access_time_us,
        qpu_timing_us=dict(usage.timing_us),
        notes=tuple(dict.fromkeys((*notes, *usage.notes))),
    )
