"""Reads beyond the rows asked for go to whoever wants them, as states of the law that nobody else is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sampler.emulator.config import EmulatorConfig
from sampler.emulator.server import EmulatorServer
from sampler.lattice import compact_lattice
from sampler.machine import BoltzmannMachine
from sampler.qpu.sampler import QpuSampler
from sampler.qpu.settings import QpuSettings
from sampler.request import LatentRequest, Provenance, SamplerOptions
from sampler.reservoir import Reservoir

LEVELS = np.array([[1, 1, -1, 1], [-1, 1, -1, -1]], dtype=np.int8)


@pytest.fixture
def machine() -> BoltzmannMachine:
    rng = np.random.default_rng(3)
    lattice = compact_lattice("zephyr", 4, chip_size=2)
    return lattice.with_parameters(rng.normal(0, 0.4, 16), rng.normal(0, 0.4, len(lattice.edges)))


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorServer]:
    with EmulatorServer(EmulatorConfig(topology="zephyr:2", defects=0.02, beta=3.0, seed=4, sweeps=64)) as server:
        yield server


def request_of(machine: BoltzmannMachine, rows: list[int], **options: object) -> LatentRequest:
    conditions = np.repeat(LEVELS, rows, axis=0)
    streams = np.stack([np.full(len(conditions), 3), np.arange(len(conditions))], axis=1).astype(np.uint64)
    return LatentRequest(machine, conditions, streams, SamplerOptions(**options), 120.0)  # type: ignore[arg-type]


def settings_for(emulator: EmulatorServer, folder: Path) -> QpuSettings:
    return QpuSettings(endpoint=emulator.endpoint, token="any", state_dir=folder, calibration_reads=600, max_copies=2)


def test_surplus_reads_serve_later_requests(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path
) -> None:
    given: list[tuple[NDArray[np.int8], Provenance]] = []

    def keep(request: LatentRequest, spins: NDArray[np.int8], provenance: Provenance) -> int:
        assert request.machine is machine
        given.append((spins, provenance))
        return reservoir.deposit(spins, provenance)

    with QpuSampler(settings_for(emulator, tmp_path), on_surplus=keep) as sampler:
        reservoir = Reservoir(sampler, machine, LEVELS, per_level=200, max_bytes=400 * 66)
        batch = sampler.sample(request_of(machine, [20, 5], num_reads=150))
    ((spins, provenance),) = given
    assert batch.spins.shape == (25, 16)
    assert len(spins) == 2 * 150 - 25
    assert provenance.problem_ids == batch.provenance.problem_ids
    assert not any("surplus" in note for note in batch.provenance.notes)
    clamped = spins[:, machine.condition_nodes]
    assert [int((clamped == level).all(axis=1).sum()) for level in LEVELS] == [130, 145]
    taken = reservoir.take(np.repeat(LEVELS, [130, 145], axis=0))
    assert taken.served.all()
    assert taken.provenance.sampler == "qpu"
    assert taken.provenance.qpu_access_time_us == 0.0
    assert taken.provenance.qpu_timing_us == provenance.qpu_timing_us
    assert not reservoir.take(LEVELS).served.any()


def test_surplus_states_follow_the_law_of_their_condition(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, enumerate_law
) -> None:
    given: list[NDArray[np.int8]] = []
    with QpuSampler(settings_for(emulator, tmp_path), on_surplus=lambda _, spins, __: given.append(spins)) as sampler:
        sampler.sample(request_of(machine, [1, 1], num_reads=1000, refine_sweeps=16))
    spins = np.concatenate(given)
    assert len(spins) == 1998
    for level in LEVELS:
        law = enumerate_law(machine, level)
        mine = spins[(spins[:, machine.condition_nodes] == level).all(axis=1)]
        assert len(mine) == 999
        energies = machine.energies(mine)
        mean = law.mean(law.energies)
        error = np.sqrt((law.mean(law.energies**2) - mean**2) / len(mine))
        # Five standard errors: a false alarm in two million.
        assert abs(energies.mean() - mean) < 5 * error


def test_rows_asked_for_survive_a_keeper_that_fails(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no room")

    with QpuSampler(settings_for(emulator, tmp_path), on_surplus=fail) as sampler:
        batch = sampler.sample(request_of(machine, [4, 4], num_reads=50))
        assert "surplus reads were not kept: OSError: no room" in batch.provenance.notes
        # Without surplus there is nothing to hand over.
        assert sampler.sample(request_of(machine, [4, 4])).provenance.notes == ()
