"""Which beta_eff to draw with: the kept one, or one measured now; and whether it still holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np

from qshower.sampler.qpu.calibration.drift import DriftWatch, Observation, Reference
from qshower.sampler.qpu.calibration.measurement import Measurement, calibrate
from qshower.sampler.qpu.calibration.scale import (
    SPINS_WATCHED,
    Calibration,
    CalibrationKey,
    CalibrationStore,
    pulls_of,
)
from qshower.sampler.qpu.drawing.part_reads import PartReads
from qshower.sampler.qpu.ocean.connection import SLICE_S
from qshower.sampler.qpu.planning.gauge_shares import gauge_of_reads, spread_reads
from qshower.sampler.qpu.planning.planner import CalibrationPlan, Plan
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.quota import timestamp
from qshower.sampler.qpu.session import QpuSession
from qshower.sampler.qpu.shims.flux_bias import Shim
from qshower.sampler.time_limit import TimeLimit

DRIFT_PAUSE_S = 3600.0
"""A calibration made because of a drift is not made anew for another one before this: if the alarm is a false one that
keeps coming back, it must not cost a calibration with each request."""


def calibration_key(plan: Plan) -> CalibrationKey:
    """What a calibration for ``plan`` belongs to."""
    return CalibrationKey(
        plan.info.name, plan.info.graph.graph_id, plan.machine.fingerprint(), plan.options.annealing_time_us
    )


@dataclass(frozen=True, slots=True)
class CalibrationStatus:
    """How a calibration stands.

    Attributes:
        solver: whose it is.
        beta: beta_eff in use.
        error: its standard error.
        calibrated_at: UTC, ISO 8601.
        age_s: seconds since.
        stale: whether it is older than calibrations should be.
        drift: relative change of beta_eff seen since, None if none is believed.
        drift_pause: whether it was made so short a time ago because of a drift that another is no reason yet to measure
            again.
    """

    solver: str
    beta: float
    error: float
    calibrated_at: str
    age_s: float
    stale: bool
    drift: float | None
    drift_pause: bool

    @property
    def holds(self) -> bool:
        """Whether draws made with it would be made in the same way now."""
        return not self.stale and self.drift is None

    def due(self, every_s: float) -> bool:
        """Whether it is to be measured again, if that is done every ``every_s`` and on a drift."""
        return self.age_s > every_s or (self.drift is not None and not self.drift_pause)


class Calibrator:
    """Measures and keeps calibrations. Safe to use from several threads."""

    def __init__(self, store: CalibrationStore, settings: QpuSettings) -> None:
        self.store = store
        self._settings = settings
        self._measuring = Lock()
        self._drift = DriftWatch(settings.drift_tolerance)

    def kept(self, key: CalibrationKey) -> Calibration | None:
        """The calibration to draw with, unless it has to be measured anew."""
        calibration = self.store.get(key)
        if not self._settings.recalibrate_on_drift or calibration is None or self._drift_of(calibration) is None:
            return calibration
        return calibration if self._pausing(calibration) else None

    def measure(
        self, session: QpuSession, plan: CalibrationPlan, shim: Shim | None, *, unless_kept: bool
    ) -> Measurement:
        """Measure beta_eff as planned; keep and return it.

        Args:
            session: on what, and at whose expense.
            plan: what to program.
            shim: what makes up for the chip's own offsets, as in the draws to come.
            unless_kept: return the calibration another thread has made in the meantime, if there is one.

        Returns:
            The calibration, which is kept too, and notes of what a user should know of its draws.
        """
        key = calibration_key(plan.measurement)
        with self._turn(session.terms.limit):
            kept = self.kept(key)
            if unless_kept and kept is not None:
                return Measurement(kept, ())
            earlier = self.store.get(key)
            beta = self._settings.initial_beta if earlier is None else earlier.beta
            found = calibrate(session, plan, beta, shim)
            calibration = replace(
                found.calibration,
                calibrated_at=timestamp(self.store.now()),
                after_drift=earlier is not None and self._drift_of(earlier) is not None,
            )
            self.store.put(calibration)
            return replace(found, calibration=calibration)

    def watch(self, parts: Sequence[PartReads], calibration: Calibration) -> tuple[str, ...]:
        """Compare the reads of a draw with those of its calibration.

        Returns:
            Notes of a stale calibration, of methods that disagree, of reads that look hotter or colder than they did at
            the calibration.
        """
        notes = []
        age_s = calibration.age_s(self.store.now())
        if age_s > self._settings.calibration_max_age_s:
            notes.append(f"stale calibration: beta_eff was measured {age_s / 86400:.1f} days ago")
        if not calibration.methods_agree:
            by_energies = calibration.beta_energies or calibration.beta
            notes.append(
                f"the two estimates of beta_eff disagree: {by_energies:.3f} by energies, "
                f"{calibration.beta_pseudolikelihood:.3f} by pseudolikelihood"
            )
        before = calibration.beta_pseudolikelihood / calibration.beta
        error = calibration.beta_pseudolikelihood_error / calibration.beta
        observations = [one for part in parts for one in _observations(part, before)]
        reference = Reference(
            str(calibration.key), calibration.calibrated_at, before, error, calibration.field_variance
        )
        change = self._drift.see(reference, observations)
        if change is not None:
            notes.append(f"drift: the solver looks {change:+.1%} in beta_eff against its calibration; calibrate again")
            if self._settings.recalibrate_on_drift and self._pausing(calibration):
                notes.append(
                    f"beta_eff was not measured again: a drift has had it measured {age_s / 60:.0f} minutes ago, and "
                    f"will not again within {DRIFT_PAUSE_S / 60:.0f} minutes"
                )
        return tuple(notes)

    def status(self, key: CalibrationKey) -> CalibrationStatus | None:
        """How the calibration of ``key`` stands, None if there is none."""
        calibration = self.store.get(key)
        if calibration is None:
            return None
        age_s = calibration.age_s(self.store.now())
        return CalibrationStatus(
            solver=calibration.solver,
            beta=calibration.beta,
            error=calibration.beta_error,
            calibrated_at=calibration.calibrated_at,
            age_s=age_s,
            stale=age_s > self._settings.calibration_max_age_s,
            drift=self._drift_of(calibration),
            drift_pause=self._pausing(calibration),
        )

    def _drift_of(self, calibration: Calibration) -> float | None:
        """The drift seen since ``calibration``; one of an earlier calibration, perhaps another process's, is over."""
        return self._drift.of(str(calibration.key), calibration.calibrated_at)

    def _pausing(self, calibration: Calibration) -> bool:
        """Whether a drift is no reason to replace ``calibration`` yet."""
        return calibration.after_drift and calibration.age_s(self.store.now()) < DRIFT_PAUSE_S

    @contextmanager
    def _turn(self, limit: TimeLimit) -> Iterator[None]:
        """One measurement at a time; SamplerTimeoutError if the others' last until ``limit``."""
        while not self._measuring.acquire(timeout=max(0.0, min(SLICE_S, limit.left_s))):
            limit.check("a calibration that waits for others")
        try:
            yield
        finally:
            self._measuring.release()


def _observations(reads: PartReads, r: float) -> Iterator[Observation]:
    """What each programming of a part says at the scale ``r``; of many reads, some of each."""
    count = reads.spins.shape[0]
    programming = gauge_of_reads(count, reads.gauges)
    picked = spread_reads(count, reads.gauges, max(1, SPINS_WATCHED // reads.spins.shape[1]))
    pulls = pulls_of(reads, picked)
    for number in np.unique(programming[picked]):
        mine = pulls[programming[picked] == number]
        yield Observation.at(mine, r, reads.part.copy if reads.gauges == 1 else None)
