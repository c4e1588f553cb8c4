"""Measuring beta_eff: a short draw to get near, and one in several gauges, looked at by two methods."""

from __future__ import annotations

from dataclasses import dataclass

from qshower.sampler.qpu.calibration.estimators import combined
from qshower.sampler.qpu.calibration.scale import (
    SPINS_MEASURED,
    UNKNOWN_FIELD_VARIANCE,
    Calibration,
    amplifications,
    apparent_scale,
    matched_scale,
)
from qshower.sampler.qpu.calibration.score_variance import score_variance
from qshower.sampler.qpu.drawing.draw import draw
from qshower.sampler.qpu.drawing.problem_builder import least_beta
from qshower.sampler.qpu.planning.planner import CalibrationPlan
from qshower.sampler.qpu.quota import timestamp, utc_now
from qshower.sampler.qpu.session import QpuSession
from qshower.sampler.qpu.shims.flux_bias import Shim


@dataclass(frozen=True, slots=True)
class Measurement:
    """A calibration just made, and what a user should know of the draws behind it."""

    calibration: Calibration
    notes: tuple[str, ...]


def calibrate(session: QpuSession, plan: CalibrationPlan, beta: float, shim: Shim | None = None) -> Measurement:
    """Measure beta_eff with the two draws of ``plan``.

    Args:
        session: on what, and at whose expense.
        plan: what to program.
        beta: what beta_eff is taken to be in the first draw, in 1/(programmed unit).
        shim: what makes up for the chip's own offsets.

    Returns:
        The calibration, not kept yet, and notes of what a user should know of its draws.
    """
    measurement = plan.measurement
    embeddings, conditions = measurement.embeddings, measurement.conditions
    least = least_beta(embeddings, conditions)
    beta = max(beta, least)
    rough = draw(session, plan.first, beta, shim)
    first = rough.whole()
    beta *= apparent_scale(first).value
    # Hot enough to be programmed without rescaling; the estimates below are relative to it anyway.
    beta = max(beta, least)
    strengths = [
        max(1.0, min(wanted, beta / least_beta([part.embedding], conditions[[part.part.condition]])))
        for part, wanted in zip(first, amplifications(first, session.settings.calibration_spread_kt), strict=True)
    ]
    drawn = draw(session, measurement, beta, shim, strengths=strengths)
    reads = drawn.whole()
    by_pull = apparent_scale(reads, SPINS_MEASURED)
    by_energy = matched_scale(reads, by_pull.value, int(session.rng.integers(2**62)), session.terms.limit)
    best = combined(by_pull, by_energy)
    moved = score_variance(reads, by_pull.value)
    calibration = Calibration(
        solver=session.solver.name,
        graph_id=session.solver.graph.graph_id,
        machine=measurement.machine.fingerprint(),
        annealing_time_us=measurement.options.annealing_time_us,
        beta=beta * best.value,
        beta_error=beta * best.error,
        beta_pseudolikelihood=beta * by_pull.value,
        beta_pseudolikelihood_error=beta * by_pull.error,
        reads=sum(part.spins.shape[0] for part in reads),
        calibrated_at=timestamp(utc_now()),
        method="pseudolikelihood and energy matching, by inverse variance",
        beta_energies=beta * by_energy.value,
        beta_energies_error=beta * by_energy.error,
        gauges=reads[0].gauges,
        amplification=max(strengths),
        field_variance=UNKNOWN_FIELD_VARIANCE if moved is None else moved,
    )
    return Measurement(calibration, (*rough.notes, *drawn.notes))
