"""From the reads of a plan to whole states of the machine that follow its law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.gibbs.chains import refine
from qshower.sampler.provenance import Provenance
from qshower.sampler.qpu.calibration.scale import Calibration
from qshower.sampler.qpu.drawing.drawer import PartReads
from qshower.sampler.qpu.embedding.layout import draw_holes
from qshower.sampler.qpu.ocean.runner import Usage
from qshower.sampler.qpu.planning.planner import Plan
from qshower.sampler.request import LatentRequest


def assemble(
    request: LatentRequest, parts: Sequence[PartReads], refine_sweeps: int, deadline: float, bill: Usage
) -> NDArray[np.int8]:
    """(rows, nodes) states: each row its own read, the condition set, holes drawn, then ``refine_sweeps`` sweeps."""
    machine = request.machine
    spins = np.zeros((request.rows, machine.node_count), dtype=np.int8)
    violations = placed_spins = 0
    for reads in parts:
        rows, layout = reads.part.rows, reads.site.layout
        spins[np.ix_(rows, layout.nodes)] = reads.spins[: rows.size]
        held = np.flatnonzero(machine.partitions[layout.nodes] == 0)
        if held.size:
            column = np.searchsorted(machine.condition_nodes, layout.nodes[held])
            wanted = request.conditions[rows[0]][column]
            violations += int((reads.spins[:, held] != wanted).sum())
            placed_spins += int(reads.spins[:, held].size)
        spins[np.ix_(rows, machine.condition_nodes)] = request.conditions[rows]
    for reads in parts:
        rows, holes = reads.part.rows, reads.site.unrealised
        if holes.size:
            block = spins[rows]
            draw_holes(machine, block, holes, request.streams[rows])
            spins[rows] = block
    if placed_spins:
        bill.note(
            f"flux biases left {violations / placed_spins:.2%} of the condition's spins wrong; they were set right "
            "before refinement"
        )
    return refine(machine, spins, refine_sweeps, request.streams, deadline=deadline)


def provenance_of(
    name: str, plan: Plan, calibration: Calibration, bill: Usage, sweeps: int, elapsed_s: dict[str, float]
) -> Provenance:
    """What is told of states drawn by ``plan``, at the expense of ``bill``, and refined for ``sweeps``."""
    return Provenance(
        sampler=name,
        solver=plan.info.name,
        graph_id=plan.info.graph.graph_id,
        problem_ids=tuple(bill.problem_ids),
        num_reads=bill.reads,
        beta=calibration.beta,
        beta_calibrated_at=calibration.calibrated_at,
        annealing_time_us=plan.options.annealing_time_us,
        gauges=min(plan.options.gauges, max(programming.reads for programming in plan.programmings)),
        holes=plan.holes,
        missing_couplers=plan.missing_couplers,
        refine_sweeps=sweeps,
        condition_mode=plan.options.condition_mode,
        qpu_access_time_us=bill.access_time_us,
        qpu_timing_us=bill.timing_us,
        notes=tuple(bill.notes),
        elapsed_s=elapsed_s,
    )
