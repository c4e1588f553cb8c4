"""Shims against planted offsets, what they cost and what of them a failure leaves; gauges against control errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.qpu_shim import static_offsets
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.errors import BudgetExceededError, InvalidInputError, SamplerUnavailableError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.shims.couplers import CouplerOffsets, measure_couplers
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

ROWS = 3000


@pytest.fixture(scope="module")
def machine() -> BoltzmannMachine:
    rng = np.random.default_rng(5)
    lattice = compact_lattice("zephyr", 16, chip_size=3)
    return lattice.with_parameters(rng.normal(0, 0.1, lattice.node_count), rng.normal(0, 0.1, len(lattice.edges)))


@pytest.fixture
def sampler(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QpuSampler]:
    config = EmulatorConfig(topology="zephyr:3", defects=0.0, beta=4.0, seed=3, sweeps=64, **request.param)
    with EmulatorServer(config) as server:
        settings = QpuSettings(endpoint=server.endpoint, token="any", state_dir=tmp_path)
        with QpuSampler(settings) as built:
            yield built


def request_of(machine: BoltzmannMachine, **options: object) -> LatentRequest:
    conditions = np.ones((ROWS, machine.condition_nodes.size), dtype=np.int8)
    streams = streams_of(0, ROWS)
    return LatentRequest(machine, conditions, streams, SamplerOptions(**options), 120.0)  # type: ignore[arg-type]


def magnetisation_error(machine: BoltzmannMachine, sampler: QpuSampler, **options: object) -> float:
    """Root mean square error of an unrefined draw's magnetisations, sampling noise taken off."""
    drawn = sampler.sample(request_of(machine, refine_sweeps=0, **options)).spins[:, machine.free_nodes]
    exact = GibbsSampler().sample(request_of(machine, sweeps=128)).spins[:, machine.free_nodes]
    noise = (drawn.var(axis=0) + exact.var(axis=0)) / ROWS
    return float(np.sqrt(max(0.0, float(((drawn.mean(axis=0) - exact.mean(axis=0)) ** 2 - noise).mean()))))


def correlation_error(machine: BoltzmannMachine, sampler: QpuSampler) -> float:
    """Root mean square error of an unrefined draw's correlations between coupled free spins, noise taken off."""
    drawn = sampler.sample(request_of(machine, refine_sweeps=0)).spins
    exact = GibbsSampler().sample(request_of(machine, sweeps=128)).spins
    pairs = machine.edges[(machine.partitions[machine.edges] != 0).all(axis=1)]
    products = [states[:, pairs[:, 0]].astype(np.float64) * states[:, pairs[:, 1]] for states in (drawn, exact)]
    noise = sum(some.var(axis=0) for some in products) / ROWS
    difference = products[0].mean(axis=0) - products[1].mean(axis=0)
    return float(np.sqrt(max(0.0, float((difference**2 - noise).mean()))))


@pytest.mark.parametrize("sampler", [{"flux_offset_phi0": 6e-5}], indirect=True)
def test_a_shim_removes_planted_flux_offsets(sampler: QpuSampler, machine: BoltzmannMachine) -> None:
    before = magnetisation_error(machine, sampler)
    shim = operations.shim(sampler.access, machine, reads=4000)
    assert shim.offset_before_kt > 0.3
    assert shim.offset_after_kt < 0.15 * shim.offset_before_kt
    operations.calibrate(sampler.access, machine, request_of(machine).conditions[:1])
    after = magnetisation_error(machine, sampler)
    assert before > 0.15
    assert after < 0.3 * before
    for options in ({"gauges": 2}, {"condition_mode": "flux_bias"}):
        provenance = sampler.sample(request_of(machine, **options)).provenance
        assert any("shim" in note for note in provenance.notes)


@pytest.mark.parametrize("sampler", [{"control_error_j": 0.04, "systematic_share": 1.0}], indirect=True)
def test_a_coupler_shim_removes_planted_offsets(sampler: QpuSampler, machine: BoltzmannMachine) -> None:
    before = correlation_error(machine, sampler)
    shim = operations.shim(sampler.access, machine, reads=3000, couplers=True)
    assert shim.couplers is not None
    assert shim.couplers.beta == pytest.approx(4.0, rel=0.03)
    assert shim.couplers.before == pytest.approx(0.04, rel=0.1)
    assert shim.couplers.after < 0.15 * shim.couplers.before
    operations.calibrate(sampler.access, machine, request_of(machine).conditions[:1])
    after = correlation_error(machine, sampler)
    # Offsets of 0.04 at a beta of 4 are 0.16 kT, and so are the errors of correlations.
    assert before > 0.1
    assert after < 0.3 * before
    provenance = sampler.sample(request_of(machine, gauges=2)).provenance
    assert any("coupler shim" in note for note in provenance.notes)


@pytest.mark.parametrize("level", ["none", "low", "typical", "high"])
def test_a_shim_takes_away_more_than_it_adds(machine: BoltzmannMachine, tmp_path: Path, level: str) -> None:
    config = EmulatorConfig(topology="zephyr:4", defects=0.0, beta=4.4, seed=3, sweeps=64).with_noise(level)
    with EmulatorServer(config) as server, sampler_on(server, tmp_path) as built:
        shim = operations.shim(built.access, machine, couplers=True)
        off = shim.couplers
        assert off is not None
        qubits, couplers = static_offsets(config, server.backend.chip, None)
        qubits_left, couplers_left = static_offsets(config, server.backend.chip, shim)
    if level == "none":
        assert (qubits, couplers) == (0.0, 0.0)
        assert qubits_left < 0.01
        assert couplers_left < 1e-3
        return
    assert shim.offset_before_kt == pytest.approx(qubits, rel=0.25)
    assert qubits_left < {"low": 0.8, "typical": 0.55, "high": 0.45}[level] * qubits
    assert shim.offset_after_kt == pytest.approx(qubits_left, rel=0.3)
    assert off.before == pytest.approx(couplers, rel=0.1)
    assert couplers_left < 0.5 * couplers
    assert off.after == pytest.approx(couplers_left, rel=0.2)


@pytest.mark.parametrize("sampler", [{"control_error_h": 0.05, "systematic_share": 1.0}], indirect=True)
def test_gauges_average_systematic_errors_away(sampler: QpuSampler, machine: BoltzmannMachine) -> None:
    operations.calibrate(sampler.access, machine, request_of(machine).conditions[:1], SamplerOptions(gauges=1))
    one, many = (magnetisation_error(machine, sampler, gauges=gauges) for gauges in (1, 24))
    assert one > 0.08
    assert many < 0.5 * one


@pytest.fixture
def emulator() -> Iterator[EmulatorServer]:
    with EmulatorServer(EmulatorConfig(topology="zephyr:3", defects=0.0, seed=3, sweeps=16)) as server:
        yield server


def sampler_on(server: EmulatorServer, folder: Path, **changes: object) -> QpuSampler:
    return QpuSampler(QpuSettings(endpoint=server.endpoint, token="any", state_dir=folder, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("couplers", [False, True], ids=["qubits", "qubits and couplers"])
def test_the_estimate_of_a_shim_submits_nothing_and_is_the_bill(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, couplers: bool
) -> None:
    with sampler_on(emulator, tmp_path) as built:
        estimate = operations.estimate_shim(
            built.access, machine, SamplerOptions(annealing_time_us=50.0), 60, couplers=couplers
        )
        assert emulator.backend.state()["submitted"] == 0
        assert built.monitor.figures([]).used_today_us == 0.0
        shim = operations.shim(built.access, machine, SamplerOptions(annealing_time_us=50.0), 60, couplers=couplers)
        assert emulator.backend.state()["submitted"] == estimate.problems
        assert built.monitor.figures([]).used_today_us == pytest.approx(estimate.access_time_us, rel=0.02)
    assert (estimate.solver, estimate.graph_id) == (shim.solver, shim.graph_id)
    assert estimate.reads == shim.reads + (0 if shim.couplers is None else shim.couplers.reads)
    assert (shim.couplers is not None) == couplers


@pytest.mark.parametrize("limit", ["cap", "day"])
def test_a_shim_is_refused_as_a_whole(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, limit: str
) -> None:
    with sampler_on(emulator, tmp_path) as built:
        total_us = operations.estimate_shim(built.access, machine, reads=60, couplers=True).access_time_us

    def shim_within(most_us: float) -> None:
        changes = {"daily_budget_us": most_us} if limit == "day" else {}
        options = SamplerOptions(max_qpu_access_time_us=most_us) if limit == "cap" else SamplerOptions()
        with sampler_on(emulator, tmp_path, **changes) as built:
            operations.shim(built.access, machine, options, 60, couplers=True)

    with pytest.raises(BudgetExceededError, match=f"would take {total_us / 1000:.1f} ms"):
        shim_within(0.999 * total_us)
    assert emulator.backend.state()["submitted"] == 0
    shim_within(1.001 * total_us)
    assert emulator.backend.state()["submitted"] == 14


def test_what_was_measured_outlives_a_failure_at_the_couplers(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> CouplerOffsets:
        emulator.arm("problem_failed")
        return measure_couplers(*arguments)  # type: ignore[arg-type]

    def shims_of_a_draw(built: QpuSampler) -> list[str]:
        notes = built.sample(request_of(machine, refine_sweeps=0)).provenance.notes
        return [note for note in notes if "shim" in note]

    with sampler_on(emulator, tmp_path, calibration_reads=40) as built:
        with monkeypatch.context() as patched:
            patched.setattr("qshower.sampler.qpu.operations.measure_couplers", failing)
            with pytest.raises(SamplerUnavailableError, match="Internal error"):
                operations.shim(built.access, machine, reads=60, couplers=True)
            emulator.faults.clear()
        (first,) = shims_of_a_draw(built)
        assert first.startswith("flux-bias shim of")
        assert built.availability(machine).detail["shim"]["couplers_measured_at"] is None
        at = operations.shim(built.access, machine, reads=60, couplers=True).measured_at
        assert built.availability(machine).detail["shim"] == {"measured_at": at, "couplers_measured_at": at}
        assert shims_of_a_draw(built) == [f"flux-bias shim of {at}", f"coupler shim of {at}"]
        with monkeypatch.context() as patched:
            patched.setattr("qshower.sampler.qpu.operations.measure_couplers", failing)
            with pytest.raises(SamplerUnavailableError, match="Internal error"):
                operations.shim(built.access, machine, reads=60, couplers=True)
            emulator.faults.clear()
        # The qubits' offsets are new, and those of the couplers are still there.
        qubits, couplers = shims_of_a_draw(built)
        assert qubits not in (first, f"flux-bias shim of {at}")
        assert couplers == f"coupler shim of {at}"


@pytest.mark.parametrize(
    ("reads", "annealing_time_us", "most"),
    # A run may last a second, which leaves fewer reads of long anneals.
    [(1, 20.0, 10_000), (10_001, 20.0, 10_000), (-5, 20.0, 10_000), (50.5, 20.0, 10_000), (True, 20.0, 10_000),
     (600, 2000.0, 475)],
)  # fmt: skip
def test_reads_that_no_problem_can_have_are_refused(
    emulator: EmulatorServer,
    machine: BoltzmannMachine,
    tmp_path: Path,
    reads: int,
    annealing_time_us: float,
    most: int,
) -> None:
    options = SamplerOptions(annealing_time_us=annealing_time_us)
    with sampler_on(emulator, tmp_path) as built:
        for ask in (operations.shim, operations.estimate_shim):
            with pytest.raises(InvalidInputError) as refused:
                ask(built.access, machine, options, reads)
            error = refused.value
            assert (error.field, error.value) == ("reads", reads)
            allowed = re.search(r"an integer from 2 to (\d+), on " + emulator.solver_name, error.allowed)
            assert allowed is not None
            largest = int(allowed[1])
            assert largest == pytest.approx(most, rel=0.05)
        assert emulator.backend.state()["submitted"] == 0
        operations.shim(built.access, machine, options, min(largest, 500))
        assert emulator.backend.state()["submitted"] == 4
