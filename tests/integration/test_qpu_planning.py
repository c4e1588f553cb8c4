"""What is planned is what the emulated solver then takes, and what an answer says of its couplers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qshower.sampler.emulator import chip
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.errors import ConditionNotHeldError, InvalidInputError
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.unused_reads import UnusedReads
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

ANNEAL_US = 2000.0


def machine_of(per_partition: int, chip_size: int) -> BoltzmannMachine:
    rng = np.random.default_rng(5)
    lattice = compact_lattice("zephyr", per_partition, chip_size=chip_size)
    return lattice.with_parameters(rng.normal(0, 0.3, lattice.node_count), rng.normal(0, 0.3, len(lattice.edges)))


def request_of(machine: BoltzmannMachine, rows: int, **options: object) -> LatentRequest:
    streams = streams_of(2, rows)
    conditions = np.ones((rows, machine.condition_nodes.size), dtype=np.int8)
    return LatentRequest(machine, conditions, streams, SamplerOptions(**options), 120.0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorServer]:
    # A tenth of the qubits is missing, and a few of the couplers between the others.
    with EmulatorServer(EmulatorConfig(topology="zephyr:3", defects=0.1, seed=2, sweeps=16)) as server:
        yield server


@pytest.fixture
def sampler(emulator: EmulatorServer, tmp_path: Path) -> Iterator[QpuSampler]:
    settings = QpuSettings(
        endpoint=emulator.endpoint, token="any", state_dir=tmp_path, calibration_reads=100, max_missing_fraction=0.3
    )
    with QpuSampler(settings) as made:
        yield made


@pytest.mark.parametrize("gauges", [1, 2])
def test_the_most_reads_that_may_be_asked_for_are_taken(sampler: QpuSampler, gauges: int) -> None:
    machine = machine_of(6, 3)
    options = {"annealing_time_us": ANNEAL_US, "gauges": gauges, "refine_sweeps": 0}
    with pytest.raises(InvalidInputError, match="num_reads") as caught:
        sampler.estimate(request_of(machine, 3, num_reads=9999, **options))
    most = int(caught.value.allowed.split()[2])
    assert 400 * gauges < most < 500 * gauges
    draw = request_of(machine, 3, num_reads=most, **options)
    assert sampler.estimate(draw).reads == most
    problems = len(sampler.sample(draw).provenance.problem_ids or ())
    again = sampler.sample(draw).provenance
    assert again.num_reads == most
    assert len(again.problem_ids or ()) == gauges < problems


def test_missing_couplers_are_told(sampler: QpuSampler, emulator: EmulatorServer) -> None:
    machine = machine_of(20, 3)
    provenance = sampler.sample(request_of(machine, 2)).provenance
    detail = sampler.availability(machine).detail
    assert detail["missing_couplers"] == provenance.missing_couplers
    assert detail["missing_qubits"] == provenance.missing_qubits
    assert provenance.missing_couplers is not None
    assert provenance.missing_couplers > 0


@pytest.mark.parametrize("gauges", [1, 4])
def test_three_showers_are_drawn_where_a_solver_takes_ten_reads_at_least(
    gauges: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each problem has the fewest reads that the solver takes; what is left over is handed to the cache."""
    monkeypatch.setattr(chip, "NUM_READS_RANGE", (10, 1000))
    machine = machine_of(6, 3)
    unused: list[UnusedReads] = []
    with EmulatorServer(EmulatorConfig(topology="zephyr:3", seed=2, sweeps=16)) as server:
        settings = QpuSettings(
            endpoint=server.endpoint, token="any", state_dir=tmp_path, calibration_reads=100, max_copies=1
        )
        with QpuSampler(settings, unused.append) as sampler:
            draw = request_of(machine, 3, gauges=gauges)
            estimate = sampler.estimate(draw)
            sampler.sample(draw)
            again = sampler.sample(draw)
    used = min(gauges, 3)
    assert again.spins.shape[0] == 3
    assert again.provenance.num_reads == 10 * used == estimate.reads
    assert again.provenance.gauges == len(again.provenance.problem_ids or ()) == estimate.problems == used
    assert unused[-1].rows == 10 * used - 3
    assert unused[-1].states().shape == (10 * used - 3, machine.node_count)


def test_an_anneal_with_which_no_problem_is_short_enough_is_refused_with_both_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read of 2 ms where a problem may last 1.5 ms: nothing is submitted."""
    monkeypatch.setattr(chip, "RUN_DURATION_RANGE_US", (0.0, 1500.0))
    machine = machine_of(6, 3)
    draw = request_of(machine, 3, annealing_time_us=ANNEAL_US)
    with EmulatorServer(EmulatorConfig(topology="zephyr:3", seed=2, sweeps=16)) as server:
        with QpuSampler(QpuSettings(endpoint=server.endpoint, token="any", state_dir=tmp_path)) as sampler:
            for ask in (sampler.sample, sampler.estimate):
                with pytest.raises(InvalidInputError) as refused:
                    ask(draw)
                assert (refused.value.field, refused.value.value) == ("options.annealing_time_us", ANNEAL_US)
                assert re.search(r"one read take at most 1500 µs on .*, not 3\d{3} µs", refused.value.allowed)
            with pytest.raises(InvalidInputError, match="1500 µs"):
                operations.calibrate(sampler.access, machine, draw.conditions, draw.options)
        assert server.backend.state()["submitted"] == 0


def test_a_condition_that_flux_biases_do_not_hold_is_an_error(emulator: EmulatorServer, tmp_path: Path) -> None:
    """Without a flux bias half of its spins are wrong. It says nothing of the QPU, so that the circuit stays closed."""
    machine = machine_of(6, 3)
    draw = request_of(machine, 40, condition_mode="flux_bias")
    weak = QpuSettings(
        endpoint=emulator.endpoint, token="any", state_dir=tmp_path, calibration_reads=100, flux_bias_phi0=0.0
    )
    unused: list[UnusedReads] = []
    with QpuSampler(weak, unused.append) as sampler:
        with pytest.raises(ConditionNotHeldError, match=r"[3-6]\d\.\d% of the condition's spins .* than the 10\.0%"):
            sampler.sample(draw)
        assert sampler.monitor.status(machine).circuit.failures == 0
        assert not unused
    with QpuSampler(replace(weak, max_condition_errors=1.0)) as sampler:
        notes = sampler.sample(draw).provenance.notes
        assert any("of the condition's spins wrong; they were set right" in note for note in notes)
