"""Which beta_eff to draw with: the kept one, or one measured now; and whether it still holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from time import monotonic
from typing import Any

import numpy as np

from qshower.sampler.errors import SamplerTimeoutError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.calibration.drift import DriftWatch, Look
from qshower.sampler.qpu.calibration.estimators import combined
from qshower.sampler.qpu.calibration.random_fields import correction, field_variance
from qshower.sampler.qpu.calibration.scale import (
    SPINS_MEASURED,
    SPINS_WATCHED,
    Calibration,
    CalibrationKey,
    CalibrationStore,
    amplifications,
    apparent_scale,
    matched_scale,
    pulls_of,
)
from qshower.sampler.qpu.drawing.drawer import Drawer, DrawOptions, PartReads, programming_of_reads, spread_reads
from qshower.sampler.qpu.embedding.embedding import Embedding
from qshower.sampler.qpu.ocean.runner import Usage
from qshower.sampler.qpu.planning.packing import Programming
from qshower.sampler.qpu.planning.planner import Plan
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.quota import timestamp

_DOUBT = 0.1
"""Share of a correction for random fields that it may be off by; see docs/qpu-how-it-works.md."""
DRIFT_PAUSE_S = 3600.0
"""A calibration made because of a drift is not made anew for another one before this: if the alarm is a false one that
keeps coming back, it must not cost a calibration with each request."""


def calibration_key(machine: BoltzmannMachine, plan: Plan) -> CalibrationKey:
    """What a calibration for ``plan`` belongs to."""
    return CalibrationKey(
        plan.info.name, plan.info.graph.graph_id, machine.fingerprint(), plan.options.annealing_time_us
    )


class Calibrator:
    """Measures and keeps calibrations. Safe to use from several threads."""

    def __init__(self, store: CalibrationStore, settings: QpuSettings) -> None:
        self.store = store
        self._settings = settings
        self._measuring = Lock()
        self._drift = DriftWatch(settings.drift_tolerance)
        self._rng = np.random.default_rng()

    def kept(self, key: CalibrationKey) -> Calibration | None:
        """The calibration to draw with, unless it has to be measured anew."""
        calibration = self.store.get(key)
        if not self._settings.recalibrate_on_drift or calibration is None or self._drift_of(calibration) is None:
            return calibration
        return calibration if self._pausing(calibration) else None

    def measure(
        self,
        key: CalibrationKey,
        programmings: tuple[Programming, Programming],
        sites: Sequence[Embedding],
        plan: Plan,
        drawer: Drawer,
        deadline: float,
        bill: Usage,
        *,
        gauges: int,
        unless_kept: bool,
    ) -> Calibration:
        """Measure beta_eff with two programmings, the second in several gauges; keep and return it.

        Args:
            key: what it is measured for.
            programmings: a short one to get near, and the one that counts, each part with the same number of reads.
            sites: the copies they use, the condition folded.
            plan: conditions and annealing time.
            drawer: what draws.
            deadline: instant of ``time.monotonic``.
            bill: what is used is added to it.
            gauges: gauges of the second programming.
            unless_kept: return the calibration another thread has made in the meantime, if there is one.
        """
        with self._turn(deadline):
            kept = self.kept(key)
            if unless_kept and kept is not None:
                return kept
            options = DrawOptions(key.annealing_time_us, condition_mode="fold", cap_us=plan.options.cap_us)
            earlier = self.store.get(key)
            beta = self._settings.initial_beta if earlier is None else earlier.beta
            beta = max(beta, drawer.least_beta(sites, plan.conditions))
            first = drawer.draw([programmings[0]], sites, plan.conditions, beta, options, deadline, self._rng, bill)
            beta *= apparent_scale(first).value
            # Hot enough to be programmed without rescaling; the estimates below are relative to it anyway.
            beta = max(beta, drawer.least_beta(sites, plan.conditions))
            strengths = [
                max(1.0, min(wanted, beta / drawer.least_beta([part.site], plan.conditions[[part.part.condition]])))
                for part, wanted in zip(first, amplifications(first, self._settings.calibration_spread_kt), strict=True)
            ]
            gauged = replace(options, gauges=gauges)
            reads = drawer.draw(
                [programmings[1]], sites, plan.conditions, beta, gauged, deadline, self._rng, bill, strengths
            )
            by_pull = apparent_scale(reads, SPINS_MEASURED, gauges)
            by_energy = matched_scale(reads, by_pull.value, int(self._rng.integers(2**62)), deadline, gauges)
            couplers = plan.info.graph.couplers
            factor = correction(reads, couplers, by_pull.value, strengths, gauges)
            best, pull, energy = (
                scale.estimate.times(factor, _DOUBT) for scale in (combined(by_pull, by_energy), by_pull, by_energy)
            )
            calibration = Calibration(
                solver=key.solver,
                graph_id=key.graph_id,
                machine=key.machine,
                annealing_time_us=key.annealing_time_us,
                beta=beta * best.value,
                beta_error=beta * best.error,
                beta_pseudolikelihood=beta * pull.value,
                beta_pseudolikelihood_error=beta * pull.error,
                reads=sum(part.spins.shape[0] for part in reads),
                calibrated_at=timestamp(self.store.now()),
                method="pseudolikelihood and energy matching, by inverse variance",
                beta_energies=beta * energy.value,
                beta_energies_error=beta * energy.error,
                gauges=gauges,
                amplification=max(strengths),
                correction=factor.value,
                field_variance=field_variance(reads, couplers, by_pull.value, strengths, gauges),
                after_drift=earlier is not None and self._drift_of(earlier) is not None,
            )
            self.store.put(calibration)
            return calibration

    def watch(self, parts: Sequence[PartReads], calibration: Calibration, bill: Usage, gauges: int = 1) -> None:
        """Note a stale calibration, methods that disagree, or reads that look hotter or colder than they did then.

        Each of ``parts`` was drawn in ``gauges`` programmings.
        """
        age_s = calibration.age_s(self.store.now())
        if age_s > self._settings.calibration_max_age_s:
            bill.note(f"stale calibration: beta_eff was measured {age_s / 86400:.1f} days ago")
        if not calibration.methods_agree:
            by_energies = calibration.beta_energies or calibration.beta
            bill.note(
                f"the two estimates of beta_eff disagree: {by_energies:.3f} by energies, "
                f"{calibration.beta_pseudolikelihood:.3f} by pseudolikelihood"
            )
        before = calibration.beta_pseudolikelihood / calibration.beta
        error = calibration.beta_pseudolikelihood_error / calibration.beta
        looks = [look for part in parts for look in _looks(part, before, gauges)]
        change = self._drift.see(
            str(calibration.key), calibration.calibrated_at, looks, before, error, calibration.field_variance
        )
        if change is not None:
            bill.note(f"drift: the solver looks {change:+.1%} in beta_eff against its calibration; calibrate again")
            if self._settings.recalibrate_on_drift and self._pausing(calibration):
                bill.note(
                    f"beta_eff was not measured again: a drift has had it measured {age_s / 60:.0f} minutes ago, and "
                    f"will not again within {DRIFT_PAUSE_S / 60:.0f} minutes"
                )

    def detail(self, key: CalibrationKey) -> dict[str, Any] | None:
        """What users want to know of the calibration of ``key``, None if there is none.

        ``drift_pause`` is whether it was made so short a time ago because of a drift that another is no reason yet to
        measure again.
        """
        calibration = self.store.get(key)
        if calibration is None:
            return None
        age_s = calibration.age_s(self.store.now())
        return {
            "beta": calibration.beta,
            "error": calibration.beta_error,
            "calibrated_at": calibration.calibrated_at,
            "age_s": age_s,
            "stale": age_s > self._settings.calibration_max_age_s,
            "drift": self._drift_of(calibration),
            "drift_pause": self._pausing(calibration),
        }

    def _drift_of(self, calibration: Calibration) -> float | None:
        """The drift seen since ``calibration``; one of an earlier calibration, perhaps another process's, is over."""
        return self._drift.of(str(calibration.key), calibration.calibrated_at)

    def _pausing(self, calibration: Calibration) -> bool:
        """Whether a drift is no reason to replace ``calibration`` yet."""
        return calibration.after_drift and calibration.age_s(self.store.now()) < DRIFT_PAUSE_S

    @contextmanager
    def _turn(self, deadline: float) -> Iterator[None]:
        """One measurement at a time; SamplerTimeoutError if the others' last until ``deadline``."""
        if not self._measuring.acquire(timeout=max(0.0, deadline - monotonic())):
            raise SamplerTimeoutError("other calibrations were under way until the deadline")
        try:
            yield
        finally:
            self._measuring.release()


def _looks(reads: PartReads, r: float, gauges: int) -> Iterator[Look]:
    """What each programming of a part says at the scale ``r``; of many reads, some of each."""
    count = reads.spins.shape[0]
    programming = programming_of_reads(count, gauges)
    picked = spread_reads(count, gauges, max(1, SPINS_WATCHED // reads.spins.shape[1]))
    pulls = pulls_of(reads, picked)
    for number in np.unique(programming[picked]):
        mine = pulls[programming[picked] == number]
        yield Look.at(mine, r, reads.part.copy if gauges == 1 else None)
