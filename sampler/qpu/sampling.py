"""Answering a request on a QPU: planned, calibrated if need be, drawn, completed and refined."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic

from qshower.sampler.errors import ConditionNotHeldError, SamplerError
from qshower.sampler.provenance import Provenance
from qshower.sampler.qpu.access import QpuAccess
from qshower.sampler.qpu.calibration.calibrator import calibration_key
from qshower.sampler.qpu.calibration.scale import Calibration
from qshower.sampler.qpu.drawing.assemble import assemble, held_condition
from qshower.sampler.qpu.drawing.draw import draw
from qshower.sampler.qpu.drawing.part_reads import PartReads
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.planning.planner import CalibrationPlan, Plan
from qshower.sampler.qpu.qpu_provenance import provenance_of
from qshower.sampler.qpu.unused_reads import hand_over, unused
from qshower.sampler.qpu.usage import Terms, Usage
from qshower.sampler.request import LatentBatch, LatentRequest

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _CalibratedReads:
    """The reads of a whole plan, what they were drawn with, and the notes on both draw and calibration."""

    plan: Plan
    calibration: Calibration
    parts: tuple[PartReads, ...]
    notes: tuple[str, ...]


def sample(access: QpuAccess, request: LatentRequest, terms: Terms) -> LatentBatch:
    """One latent per row of ``request``, at least one, each from a read of its own, checked."""
    began, usage = monotonic(), Usage()
    reads = access.on_todays_graph(request, terms, usage, lambda info: _reads_on(access, info, request, terms, usage))
    drawn, plan, parts, calibration = monotonic(), reads.plan, reads.parts, reads.calibration
    notes = [*reads.notes, *access.calibrator.watch(parts, calibration)]
    held = held_condition(request, parts)
    limit = access.settings.max_condition_errors
    if held.share_wrong > limit:
        raise ConditionNotHeldError(
            f"flux biases left {held.share_wrong:.1%} of the condition's spins wrong on {plan.info.name}, more than "
            f"the {limit:.1%} that QSHOWER_QPU_MAX_CONDITION_ERRORS allows: fold the condition (condition_mode fold), "
            "or raise QSHOWER_QPU_FLUX_BIAS_PHI0",
            problem_ids=tuple(usage.problem_ids),
        )
    if held.spins:
        notes.append(
            f"flux biases left {held.share_wrong:.2%} of the condition's spins wrong; they were set right before "
            "refinement"
        )
    sweeps = _sweeps(access, request)
    made = provenance_of(plan, calibration, usage, sweeps, notes)
    try:
        spins = assemble(request, parts, sweeps, terms.limit)
    except SamplerError:
        _leave(access, request, parts, made)
        raise
    made = replace(made, elapsed_s={"draw": drawn - began, "refine": monotonic() - drawn})
    if access.receiver is not None:
        note = hand_over(access.receiver, request, unused(parts), made)
        made = made if note is None else replace(made, notes=(*made.notes, note))
    return LatentBatch(spins, request.machine.energies(spins), made).checked(request)


def _reads_on(
    access: QpuAccess, info: SolverInfo, request: LatentRequest, terms: Terms, usage: Usage
) -> _CalibratedReads:
    plan = access.planner.plan(request, info)
    source: Calibration | CalibrationPlan | None = access.calibrator.kept(calibration_key(plan))
    if source is None:
        source = access.planner.calibration(request, info)
        access.quota.check(plan.access_time_us + source.access_time_us, terms.cap_us, terms.account)
    shim = access.shim_for(plan)
    notes: tuple[str, ...] = ()
    with access.session(info, terms, usage) as session:
        if isinstance(source, Calibration):
            calibration = source
        else:
            found = access.calibrator.measure(session, source, shim, unless_kept=True)
            access.changed()
            calibration = found.calibration
            notes = (*found.notes, "beta_eff was measured with this draw: no calibration was kept")
        drawn = draw(session, plan, calibration.beta, shim)
    notes = (*notes, *drawn.notes)
    if drawn.failure is not None:
        made = provenance_of(plan, calibration, usage, _sweeps(access, request), notes)
        _leave(access, request, drawn.parts, made)
        raise drawn.failure
    return _CalibratedReads(plan, calibration, drawn.parts, notes)


def _sweeps(access: QpuAccess, request: LatentRequest) -> int:
    asked = request.options.refine_sweeps
    return access.settings.refine_sweeps if asked is None else asked


def _leave(access: QpuAccess, request: LatentRequest, parts: Sequence[PartReads], made: Provenance) -> None:
    """Give all reads of ``parts`` to the receiver: their draw has failed, but they are good, and paid for."""
    if access.receiver is not None:
        made = replace(made, notes=(*made.notes, "read by a draw that failed afterwards"))
        note = hand_over(access.receiver, request, parts, made)
        if note is not None:
            _LOG.warning("%s", note)
