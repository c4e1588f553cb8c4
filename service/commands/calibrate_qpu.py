"""``qshower calibrate --sampler qpu``: the effective inverse temperature of a solver for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qshower.sampler.errors import BudgetExceededError, SamplerUnavailableError
from qshower.sampler.qpu.capabilities import CAPABILITIES
from qshower.sampler.request import SamplerOptions
from qshower.service.background.recalibration import calibration_conditions
from qshower.service.catalogue import FAMILIES, Catalogue, load_catalogue
from qshower.service.commands.terminal import console, say, two_columns
from qshower.service.sampler_table import build_registry, qpu_of
from qshower.service.settings import Settings

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.qpu.calibration.scale import Calibration
    from qshower.sampler.qpu.planning.estimate import QpuEstimate
    from qshower.sampler.qpu.qpu_sampler import QpuSampler
    from qshower.sampler.qpu.shims.flux_bias import Shim

SHIM_DEADLINE_S = 1800.0
"""A shim's fourteen programmings wait in the solver's queue like any other, and nobody waits for an answer."""


def run(
    settings: Settings,
    model: str | None,
    solver: str | None,
    annealing_time_us: float | None,
    *,
    dry_run: bool = False,
    shim: bool = False,
) -> None:
    """Measure, keep and print; with ``dry_run`` only say what it would take. A running service takes it up by itself.

    With ``shim`` what the solver's qubits and couplers are off by is measured first: the temperature is another then.
    Both have to fit into what is left of the day's budget before anything is submitted.

    The model is the one that is named, or the default one for a topology that is online.
    """
    catalogue = load_catalogue(settings)
    options = SamplerOptions(solver=solver, annealing_time_us=annealing_time_us)
    with build_registry(settings) as registry:
        if (qpu := qpu_of(registry)) is None:
            raise SamplerUnavailableError(CAPABILITIES.how_to_configure)
        from qshower.sampler.qpu import operations  # loads Ocean, which takes seconds

        bundle = catalogue.get(model) if model is not None else _by_default(catalogue, qpu, solver)
        machine, conditions = bundle.machine, calibration_conditions(bundle)
        steps = {"shim": operations.estimate_shim(qpu.access, machine, options, couplers=True)} if shim else {}
        if dry_run or shim:
            steps["calibration"] = operations.estimate_calibration(qpu.access, machine, conditions, options)
        if dry_run:
            _print_estimate(bundle, steps)
            return
        if shim:
            _check_budget(qpu, steps)
            found = operations.shim(qpu.access, machine, options, deadline_s=SHIM_DEADLINE_S, couplers=True)
            _print_shim(found)
        _print_calibration(bundle, operations.calibrate(qpu.access, machine, conditions, options))


def _by_default(catalogue: Catalogue, qpu: QpuSampler, solver: str | None) -> Bundle:
    candidates = catalogue.defaults((solver,) if solver in FAMILIES else FAMILIES)
    if solver in FAMILIES or solver is None:
        for bundle in candidates:
            if qpu.availability(bundle.machine).available:
                return bundle
    # None is online, or the solver has a name of its own: what fails to draw from the default model says why.
    return (*candidates, catalogue.get(None))[0]


def _check_budget(qpu: QpuSampler, steps: dict[str, QpuEstimate]) -> None:
    """BudgetExceededError if what is left of the day does not last for all of ``steps``."""
    total_us, left_us = _total_us(steps), qpu.monitor.figures([]).left_today_us
    if left_us is not None and total_us > left_us:
        raise BudgetExceededError(
            f"{' and '.join(steps)} would take {_ms(total_us)} of QPU access time; {_ms(left_us)} are left until "
            "midnight UTC"
        )


def _print_estimate(bundle: Bundle, steps: dict[str, QpuEstimate]) -> None:
    table = two_columns()
    calibration = steps["calibration"]
    table.add_row("model", bundle.name)
    table.add_row("solver", calibration.solver)
    table.add_row("graph", calibration.graph_id)
    if "shim" in steps:
        table.add_row("shim: problems", str(steps["shim"].problems))
        table.add_row("shim: reads", str(steps["shim"].reads))
        table.add_row("shim: access time", _ms(steps["shim"].access_time_us))
    table.add_row("problems", str(calibration.problems))
    table.add_row("reads", str(calibration.reads))
    table.add_row("copies", str(calibration.copies))
    table.add_row("missing qubits", str(calibration.missing_qubits))
    table.add_row("access time", _ms(calibration.access_time_us))
    if "shim" in steps:
        table.add_row("access time of both", _ms(_total_us(steps)))
    console().print(table)
    say("a dry run: nothing was submitted, nothing billed")


def _print_shim(found: Shim) -> None:
    table = two_columns()
    table.add_row("solver", found.solver)
    table.add_row("qubits off by", f"{found.offset_before_kt:.3f} kT, {found.offset_after_kt:.3f} kT after the shim")
    if found.couplers is not None:
        off = found.couplers
        table.add_row("couplers off by", f"{off.before:.2%} of J = 1, {off.after:.2%} after the shim")
        table.add_row("reads", str(found.reads + off.reads))
    console().print(table)


def _print_calibration(bundle: Bundle, found: Calibration) -> None:
    table = two_columns()
    table.add_row("model", bundle.name)
    table.add_row("solver", found.solver)
    table.add_row("graph", found.graph_id)
    table.add_row("annealing time", f"{found.annealing_time_us:g} µs")
    table.add_row("beta", f"{found.beta:.4f} ± {found.beta_error:.4f}, the value in use")
    if found.beta_energies is not None and found.beta_energies_error is not None:
        table.add_row("  by energies", f"{found.beta_energies:.4f} ± {found.beta_energies_error:.4f}")
    table.add_row(
        "  by pseudolikelihood", f"{found.beta_pseudolikelihood:.4f} ± {found.beta_pseudolikelihood_error:.4f}"
    )
    table.add_row("methods agree", "yes" if found.methods_agree else "no")
    table.add_row("reads", f"{found.reads} in {found.gauges} gauges")
    table.add_row("amplification", f"{found.amplification:.2f}")
    table.add_row("at", found.calibrated_at)
    console().print(table)


def _total_us(steps: dict[str, QpuEstimate]) -> float:
    return sum(step.access_time_us for step in steps.values())


def _ms(value_us: float) -> str:
    return f"{value_us / 1000:.1f} ms"
