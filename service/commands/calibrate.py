"""``qshower calibrate``: what a sampler needs to draw well from a model."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.table import Table

from model.bundle import MANIFEST, Bundle, update_manifest
from sampler.diagnostics import (
    Agreement,
    AutocorrelationTime,
    SweepCalibration,
    calibrate_sweeps,
    chain_autocorrelation_times,
)
from sampler.errors import InvalidInputError, NotEquilibratedError
from sampler.gibbs.sampler import refine
from service.catalogue import load_catalogue
from service.commands.terminal import console, progress, say
from service.logs import configure_logs
from service.samplers import build_registry
from service.settings import Settings, load_settings

SWEEPS_TRIED = (8, 16, 32, 64, 128, 256, 512, 1024)
CHAINS_FOR_TOLERANCE = 72.0
"""Chains that a tolerance t needs: this over t², see sampler.diagnostics."""
AUTOCORRELATION_LEVELS = 8


def run(
    sampler: str,
    model: str | None,
    solver: str | None,
    *,
    annealing_time_us: float | None = None,
    tolerance: float = 0.1,
    save: bool = True,
    dry_run: bool = False,
    shim: bool = False,
) -> None:
    """Measure and print; with ``save`` the sweeps of Gibbs go into the bundle's manifest."""
    settings = load_settings(log_level="warning")
    configure_logs(settings)
    if sampler == "gibbs" and shim:
        raise InvalidInputError("--shim", shim, "only with --sampler qpu")
    if sampler == "gibbs" and dry_run:
        raise InvalidInputError("--dry-run", dry_run, "only with --sampler qpu: gibbs bills nothing")
    if sampler == "gibbs":
        _gibbs(settings, model, tolerance, save=save)
    elif sampler == "qpu":
        from service.commands.calibrate_qpu import run as run_qpu

        run_qpu(settings, model, solver, annealing_time_us, dry_run=dry_run, shim=shim)
    else:
        raise InvalidInputError("--sampler", sampler, "gibbs or qpu")


def _gibbs(settings: Settings, model: str | None, tolerance: float, *, save: bool) -> None:
    """The sweeps after which cold starts agree with long runs, and how long chains remember what they were."""
    if not 0.01 <= tolerance <= 1.0:
        raise InvalidInputError("--tolerance", tolerance, "0.01 to 1 standard deviations")
    bundle = load_catalogue(settings).get(model)
    energies = np.geomspace(*bundle.domain_mev, int(np.ceil(CHAINS_FOR_TOLERANCE / tolerance**2)))
    with build_registry(settings) as registry:
        draw = registry.get("gibbs").sample
        with progress("steps") as bar:
            task = bar.add_task("drawing", total=len(SWEEPS_TRIED))

            def tried(sweeps: int, _: dict[str, Agreement]) -> None:
                bar.update(task, advance=1, description=f"{sweeps} sweeps")

            found = calibrate_sweeps(
                bundle.machine,
                bundle.conditions(energies),
                draw,
                registry.get("tempering").sample,
                tolerance,
                candidates=SWEEPS_TRIED,
                progress=tried,
            )
        console().print(_agreements(found))
        if found.sweeps is None:
            raise NotEquilibratedError(_failure(bundle, found))
        some = np.unique(bundle.conditions(np.geomspace(*bundle.domain_mev, AUTOCORRELATION_LEVELS)), axis=0)
        times = chain_autocorrelation_times(bundle.machine, some, draw, refine, sweeps=SWEEPS_TRIED[-1])
    shown = ", ".join(f"{name} {time.steps:.2f} ± {time.error:.2f}" for name, time in times.items())
    say(f"autocorrelation times in sweeps: {shown}")
    say(f"{bundle.name} needs {found.sweeps} sweeps; its manifest has {bundle.default_sweeps}")
    if save:
        _save(bundle, found, times)


def _agreements(found: SweepCalibration) -> Table:
    table = Table("sweeps", *(f"{name} (σ)" for name in found.control), "enough")
    for sweeps, figures in found.table.items():
        enough = "yes" if found.sweeps is not None and sweeps >= found.sweeps else "no"
        table.add_row(str(sweeps), *map(_cell, figures.values()), enough)
    table.add_row("tempering", *map(_cell, found.control.values()), "")
    return table


def _cell(figure: Agreement) -> str:
    return f"{figure.difference:+.3f} ± {figure.error:.3f}"


def _failure(bundle: Bundle, found: SweepCalibration) -> str:
    """What differs most from the long run, and what to do."""
    longest = SWEEPS_TRIED[-1]
    runs = {f"{longest} sweeps": found.table[longest], "parallel tempering": found.control}
    differences = {(run, name): figure for run, figures in runs.items() for name, figure in figures.items()}
    run, name = max(differences, key=lambda key: abs(differences[key].difference))
    return (
        f"ramps of {bundle.name} do not converge within {longest} sweeps: {name} after {run} and after "
        f"{found.reference_sweeps} sweeps differs by {_cell(differences[run, name])} standard deviations, tolerance "
        f"{found.tolerance:g}; nothing was written. Draw from this model with --sampler tempering"
    )


def _save(bundle: Bundle, found: SweepCalibration, times: dict[str, AutocorrelationTime]) -> None:
    measurement: dict[str, Any] = {
        "method": "cold starts against a long run, the long run against parallel tempering; "
        "energy and magnetisation of each partition",
        "tolerance_sigma": found.tolerance,
        "reference_sweeps": found.reference_sweeps,
        "chains": found.rows,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "differences_sigma": {str(sweeps): _rounded(figures) for sweeps, figures in found.table.items()},
        "tempering_differences_sigma": _rounded(found.control),
        "difference_error_sigma": round(max(figure.error for figure in found.control.values()), 4),
        "autocorrelation_sweeps": {name: round(time.steps, 3) for name, time in times.items()},
        "autocorrelation_error_sweeps": {name: round(time.error, 3) for name, time in times.items()},
    }
    update_manifest(bundle.path, sweeps=found.sweeps, sweeps_measurement=measurement)
    say(f"wrote {bundle.path / MANIFEST}")


def _rounded(figures: dict[str, Agreement]) -> dict[str, float]:
    return {name: round(figure.difference, 4) for name, figure in figures.items()}
