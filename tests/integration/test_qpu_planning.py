"""What is planned is what the emulated solver then takes, and what an answer says of its couplers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
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
        endpoint=emulator.endpoint, token="any", state_dir=tmp_path, calibration_reads=100, max_hole_fraction=0.3
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
    assert detail["holes"] == provenance.holes
    assert provenance.missing_couplers is not None
    assert provenance.missing_couplers > 0
