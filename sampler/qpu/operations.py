"""What can be done on a QPU beside drawing: estimates, calibrations, shims.

Each function takes the ``access`` of a ``QpuSampler``. Those that submit problems end by their deadline, and charge the
day's quota and no account.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.access import QpuAccess
from qshower.sampler.qpu.calibration.calibrator import calibration_key
from qshower.sampler.qpu.calibration.scale import Calibration
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.planning.draw_options import calibration_request, check_options, draw_options
from qshower.sampler.qpu.planning.estimate import QpuEstimate
from qshower.sampler.qpu.planning.planner import estimate_of_calibration, estimate_of_draw
from qshower.sampler.qpu.shims.couplers import measure_couplers
from qshower.sampler.qpu.shims.flux_bias import Shim, measure_shim, shim_cost
from qshower.sampler.qpu.usage import Usage
from qshower.sampler.request import LatentRequest, SamplerOptions

SHIM_READS = 1000
"""Reads of each programming of a shim."""


def estimate(access: QpuAccess, request: LatentRequest) -> QpuEstimate:
    """What ``request`` would take: a dry run that submits nothing and bills nothing.

    Returns:
        QPU access time, problems, reads and copies; with those of a calibration, if one would be made on the way.
    """
    check_options(request.options)
    info = access.find(request, access.terms(request).limit.deadline)
    plan = access.planner.plan(request, info)
    kept = access.calibrator.kept(calibration_key(plan))
    return estimate_of_draw(plan, access.planner.calibration(request, info) if kept is None else None)


def calibrate(
    access: QpuAccess,
    machine: BoltzmannMachine,
    conditions: NDArray[np.int8],
    options: SamplerOptions | None = None,
    *,
    deadline_s: float | None = None,
    counted: bool = True,
) -> Calibration:
    """Measure beta_eff for ``machine`` on a solver by two methods, and keep it for draws to come.

    Args:
        access: the QPU.
        machine: the machine the calibration is for.
        conditions: (rows, condition nodes) int8, typical conditions, at least one; as many as there are copies of
            the machine on the chip are used.
        options: solver, annealing time and cap.
        deadline_s: seconds this may take.
        counted: whether the circuit breaker hears how it ended.

    Returns:
        beta_eff in 1/(programmed unit), with its error and what it was measured from.
    """
    request = calibration_request(machine, conditions, options, deadline_s)
    terms, usage = access.terms(request), Usage()

    def measured(info: SolverInfo) -> Calibration:
        plan = access.planner.calibration(request, info)
        access.quota.check(plan.access_time_us, terms.cap_us, terms.account)
        shim = access.shim_for(plan.measurement)
        with access.session(info, terms, usage) as session:
            found = access.calibrator.measure(session, plan, shim, unless_kept=False)
        access.changed()
        return found.calibration

    with access.guarded() if counted else nullcontext():
        return access.on_todays_graph(request, terms, usage, measured)


def estimate_calibration(
    access: QpuAccess,
    machine: BoltzmannMachine,
    conditions: NDArray[np.int8],
    options: SamplerOptions | None = None,
    *,
    deadline_s: float | None = None,
) -> QpuEstimate:
    """What ``calibrate`` would take: a dry run that submits nothing and bills nothing."""
    request = calibration_request(machine, conditions, options, deadline_s)
    info = access.find(request, access.terms(request).limit.deadline)
    return estimate_of_calibration(access.planner.calibration(request, info))


def shim(
    access: QpuAccess,
    machine: BoltzmannMachine,
    options: SamplerOptions | None = None,
    reads: int = SHIM_READS,
    *,
    deadline_s: float | None = None,
    couplers: bool = False,
) -> Shim:
    """Measure every qubit's own offset on the solver that ``machine`` would be drawn on, and make up for it.

    Four programmings of ``reads`` reads, and ten more for what the couplers are off by if ``couplers`` is set;
    draws at the same annealing time use it from then on, until the graph changes. Calibrate again afterwards.
    Nothing is submitted unless all of it is within cap and budget. If the couplers' part fails, that of the qubits
    is kept, beside what was known of the couplers before.

    Returns:
        The flux biases that draws will set, with the offsets before and after, and the couplers' offsets if asked for.
    """
    request = _shim_request(machine, options, deadline_s)
    terms, usage = access.terms(request), Usage()

    def measured(info: SolverInfo) -> Shim:
        anneal_us = draw_options(request.options, access.settings, info).annealing_time_us
        earlier = access.shims.get(info, anneal_us)
        cost = shim_cost(info, reads, anneal_us, couplers=couplers)
        access.quota.check(cost.access_time_us, terms.cap_us, terms.account)
        with access.session(info, terms, usage) as session:
            now = access.shims.now()
            found = measure_shim(session, anneal_us, reads, now)
            if couplers:
                access.shims.put(replace(found, couplers=None if earlier is None else earlier.couplers))
                off = measure_couplers(session, anneal_us, reads, found.nominal(info), now)
                found = replace(found, couplers=off)
        access.shims.put(found)
        access.changed()
        return found

    with access.guarded():
        return access.on_todays_graph(request, terms, usage, measured)


def estimate_shim(
    access: QpuAccess,
    machine: BoltzmannMachine,
    options: SamplerOptions | None = None,
    reads: int = SHIM_READS,
    *,
    deadline_s: float | None = None,
    couplers: bool = False,
) -> QpuEstimate:
    """What ``shim`` would take: a dry run that submits nothing and bills nothing.

    All of the graph is programmed as it is, so there are no conditions, copies or missing qubits.
    """
    request = _shim_request(machine, options, deadline_s)
    info = access.find(request, access.terms(request).limit.deadline)
    asked = draw_options(request.options, access.settings, info)
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
        missing_qubits=0,
    )


def calibrations(access: QpuAccess) -> tuple[Calibration, ...]:
    """Every calibration that is kept."""
    return access.calibrator.store.all()


def _shim_request(machine: BoltzmannMachine, options: SamplerOptions | None, deadline_s: float | None) -> LatentRequest:
    """The request that stands for a shim: any condition, as none is programmed."""
    any_condition = np.ones((1, machine.condition_nodes.size), dtype=np.int8)
    return calibration_request(machine, any_condition, options, deadline_s)
