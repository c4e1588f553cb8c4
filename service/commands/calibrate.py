"""``qshower calibrate``: what a sampler needs to draw well from a model."""

from __future__ import annotations

from rich.table import Table

from qshower.model.bundle import Bundle
from qshower.model.manifest import MANIFEST
from qshower.model.sweep_calibration import (
    BANDS,
    DEFAULT_TOLERANCE,
    SWEEPS_TRIED,
    SweepMeasurement,
    keep_sweeps,
    measure_sweeps,
)
from qshower.sampler.diagnostics import Agreement
from qshower.sampler.errors import InvalidInputError, NotEquilibratedError
from qshower.sampler.tempering import TemperingSampler
from qshower.service.catalogue import load_catalogue
from qshower.service.commands.terminal import console, progress, say
from qshower.service.logs import configure_logs
from qshower.service.sampler_table import SAMPLERS, build_registry
from qshower.service.settings import Settings, load_settings


def run(
    sampler: str,
    model: str | None,
    solver: str | None,
    *,
    annealing_time_us: float | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    save: bool = True,
    dry_run: bool = False,
    shim: bool = False,
) -> None:
    """Measure and print; with ``save`` the sweeps of Gibbs, or that none are enough, go into the bundle's manifest."""
    settings = load_settings(log_level="warning")
    configure_logs(settings)
    capabilities = {name: row.capabilities for name, row in SAMPLERS.items()}
    by_sweeps = [name for name, known in capabilities.items() if known.sweeps_from_model]
    billed = [name for name, known in capabilities.items() if known.billed]
    if sampler in by_sweeps:
        only = f"only with --sampler {' or '.join(billed)}"
        if shim:
            raise InvalidInputError("--shim", shim, only, message=f"--shim works {only}")
        if dry_run:
            message = f"--dry-run works {only}: {sampler} bills nothing"
            raise InvalidInputError("--dry-run", dry_run, only, message=message)
        _sweeps(settings, sampler, model, tolerance, save=save)
    elif sampler in billed:
        from qshower.service.commands.calibrate_qpu import run as run_qpu

        run_qpu(settings, model, solver, annealing_time_us, dry_run=dry_run, shim=shim)
    else:
        raise InvalidInputError("--sampler", sampler, " or ".join([*by_sweeps, *billed]))


def _sweeps(settings: Settings, sampler: str, model: str | None, tolerance: float, *, save: bool) -> None:
    """The sweeps after which cold starts agree with warm ones, and how long chains remember what they were."""
    bundle = load_catalogue(settings).get(model)
    with build_registry(settings) as registry, progress("steps") as bar:
        task = bar.add_task("drawing", total=BANDS * len(SWEEPS_TRIED))

        def tried(band: int, sweeps: int) -> None:
            bar.update(task, advance=1, description=f"band {band + 1} of {BANDS}, {sweeps} sweeps")

        with TemperingSampler(settings.threads) as control:
            measured = measure_sweeps(bundle, registry.get(sampler).sample, control.sample, tolerance, progress=tried)
    console().print(_agreements(measured))
    if save:
        keep_sweeps(bundle, measured)
    if measured.calibration.sweeps is None:
        raise NotEquilibratedError(_failure(bundle, measured, save=save))
    shown = ", ".join(f"{name} {time.steps:.2f} ± {time.error:.2f}" for name, time in measured.times.items())
    say(f"autocorrelation times in sweeps: {shown}")
    say(f"{bundle.name} needs {measured.calibration.sweeps} sweeps; its manifest had {bundle.default_sweeps}")
    if save:
        say(f"wrote {bundle.path / MANIFEST}")


def _agreements(measured: SweepMeasurement) -> Table:
    """For each number of sweeps and figure the largest difference of the bands."""
    found = measured.calibration
    table = Table("sweeps", *(f"{name} (σ)" for name in found.worst(SWEEPS_TRIED[-1])), "enough")
    for sweeps in found.table:
        enough = "yes" if found.sweeps is not None and sweeps >= found.sweeps else "no"
        table.add_row(str(sweeps), *(_cell(figure) for _, figure in found.worst(sweeps).values()), enough)
    return table


def _cell(figure: Agreement) -> str:
    return f"{figure.difference:+.3f} ± {figure.error:.3f}"


def _failure(bundle: Bundle, measured: SweepMeasurement, *, save: bool) -> str:
    """What differs most, and what to do."""
    longest = SWEEPS_TRIED[-1]
    worst = measured.calibration.worst(longest)
    name = max(worst, key=lambda figure: abs(worst[figure][1].difference))
    band, figure = worst[name]
    low, high = measured.edges_mev[band : band + 2]
    kept = f"wrote so into {bundle.path / MANIFEST}" if save else "nothing was written"
    return (
        f"ramps of {bundle.name} do not converge within {longest} sweeps: between {low:.5g} and {high:.5g} MeV {name} "
        f"of cold starts and of warm ones, from parallel tempering, differs by {_cell(figure)} standard deviations, "
        f"tolerance {measured.calibration.tolerance:g}; {kept}. Draw from this model with --sampler tempering"
    )
