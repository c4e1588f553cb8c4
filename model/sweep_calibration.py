"""How many Gibbs sweeps the draws of a model need: measured band by band of incident energy, kept in its manifest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from qshower.model.bundle import Bundle
from qshower.model.manifest import Manifest, update_manifest
from qshower.sampler.diagnostics import (
    ROWS_FOR_TOLERANCE,
    AutocorrelationTime,
    Draw,
    SweepCalibration,
    calibrate_sweeps,
    chain_autocorrelation_times,
)
from qshower.sampler.gibbs.chains import refine

DEFAULT_TOLERANCE = 0.1
SWEEPS_TRIED = (8, 16, 32, 64, 128, 256, 512, 1024)
BANDS = 6
"""Bands of incident energy, equal in ln E, that are compared each by itself."""
AUTOCORRELATION_LEVELS = 8


@dataclass(frozen=True, slots=True)
class SweepMeasurement:
    """What ``measure_sweeps`` found.

    Attributes:
        calibration: differences of cold and warm starts, band by band; its ``sweeps`` are None where they never agree.
        edges_mev: borders of the bands, ascending, one more than bands.
        times: autocorrelation times in sweeps, by figure; empty where the calibration failed.
    """

    calibration: SweepCalibration
    edges_mev: tuple[float, ...]
    times: dict[str, AutocorrelationTime]

    def as_manifest(self) -> dict[str, Any]:
        """The manifest's ``sweeps_measurement``. ``converged`` is False where no number of sweeps is enough."""
        found = self.calibration
        figures = list(found.worst(SWEEPS_TRIED[-1]))
        differences = {
            str(sweeps): {name: [round(band[name].difference, 4) for band in bands] for name in figures}
            for sweeps, bands in found.table.items()
        }
        errors = [figure.error for bands in found.table.values() for band in bands for figure in band.values()]
        return {
            "method": "cold starts against warm ones, from parallel tempering, after as many sweeps; "
            "energy and magnetisation of each partition, in each band of incident energy",
            "converged": found.sweeps is not None,
            "tolerance_sigma": found.tolerance,
            "bands_mev": [round(edge, 3) for edge in self.edges_mev],
            "tempering_sweeps": SWEEPS_TRIED[-1],
            "chains": found.rows,
            "measured_at": _now(),
            "differences_sigma": differences,
            "difference_error_sigma": round(max(errors), 4),
            "autocorrelation_sweeps": {name: round(time.steps, 3) for name, time in self.times.items()},
            "autocorrelation_error_sweeps": {name: round(time.error, 3) for name, time in self.times.items()},
        }


def measure_sweeps(
    bundle: Bundle,
    draw: Draw,
    control: Draw,
    tolerance: float = DEFAULT_TOLERANCE,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SweepMeasurement:
    """The sweeps that draws from a bundle need, in all of its domain.

    Args:
        bundle: the model.
        draw: Gibbs's ``sample``.
        control: tempering's.
        tolerance: in standard deviations, see ``calibrate_sweeps``; the time goes with its inverse square.
        threads: worker threads of the warm starts' sweeps, None for one on each processor.
        progress: called with band and number of sweeps after each of the BANDS × SWEEPS_TRIED.

    Returns:
        What was found in each band: the number of sweeps (None if none is enough), agreements, autocorrelation times.
    """
    edges = np.geomspace(*bundle.domain_mev, BANDS + 1)
    # Powers may end a rounding error outside the domain.
    edges[[0, -1]] = bundle.domain_mev
    rows = math.ceil(ROWS_FOR_TOLERANCE / tolerance**2)
    bands = [bundle.conditions(np.clip(np.geomspace(low, high, rows), low, high)) for low, high in pairwise(edges)]
    advance = partial(refine, threads=threads)
    found = calibrate_sweeps(
        bundle.machine, bands, draw, control, advance, tolerance=tolerance, candidates=SWEEPS_TRIED, progress=progress
    )
    times = {}
    if found.sweeps is not None:
        energies = np.clip(np.geomspace(*bundle.domain_mev, AUTOCORRELATION_LEVELS), *bundle.domain_mev)
        some = np.unique(bundle.conditions(energies), axis=0)
        times = chain_autocorrelation_times(bundle.machine, some, draw, advance, sweeps=SWEEPS_TRIED[-1])
    return SweepMeasurement(found, tuple(edges.tolist()), times)


def measured_fields(measured: SweepMeasurement) -> dict[str, Any]:
    """The manifest's fields that a measurement changes; the sweeps stay as they are where none are enough."""
    sweeps = measured.calibration.sweeps
    changes: dict[str, Any] = {} if sweeps is None else {"sweeps": sweeps}
    return {**changes, "sweeps_measurement": measured.as_manifest()}


def failure_fields(reason: str) -> dict[str, Any]:
    """The manifest's fields where the sweeps could not be measured, and why."""
    return {"sweeps_measurement": {"converged": False, "reason": reason, "measured_at": _now()}}


def keep_sweeps(bundle: Bundle, measured: SweepMeasurement) -> Manifest:
    """Write what was measured into the bundle's manifest."""
    return update_manifest(bundle.path, **measured_fields(measured))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
