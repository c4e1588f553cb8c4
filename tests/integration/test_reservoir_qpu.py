"""A reservoir over the QPU sampler: drawn ahead through Ocean's client, served also when the solver is gone."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.reservoir import Reservoir


def wait_until(condition):
    """Wait for what another thread does; the test's own time limit is the bound."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.02)


@pytest.fixture
def levels(random_spins, rng):
    return np.unique(random_spins(rng, (32, 4)), axis=0)[:3]


def test_qpu_draws_are_kept_ready_and_outlive_the_solver(tmp_path, rng, lattice_machine, levels):
    machine = lattice_machine(rng, "zephyr", nodes_per_partition=4)
    server = EmulatorServer(EmulatorConfig(topology="zephyr:12", defects=0.03, sweeps=32, seed=3))
    settings_of = {"token": "any", "state_dir": tmp_path, "calibration_reads": 50, "request_timeout_s": 2.0}
    settings = QpuSettings(endpoint=server.endpoint, **settings_of)
    sampler = QpuSampler(settings)
    reservoir = Reservoir(sampler, machine, levels, per_level=20, max_bytes=20_000)
    with server, sampler, reservoir:
        wait_until(lambda: reservoir.status()["ready"] == 60)
        first = reservoir.take(levels)
        assert first.served.all()
        assert first.provenance.sampler == "qpu"
        assert first.provenance.problem_ids
        assert first.provenance.solver
        assert first.provenance.qpu_access_time_us == 0.0, "this request was not billed"
        assert first.provenance.notes[-1].startswith("reservoir")
        wait_until(lambda: reservoir.status()["ready"] == 60)
        server.close()
        taken = reservoir.take(np.repeat(levels, 20, axis=0))
        assert taken.served.all()
        wait_until(lambda: reservoir.status()["last_error"] is not None)
        assert not reservoir.take(levels).served.any()
        assert reservoir.status()["running"]


def test_reads_beyond_those_asked_for_can_be_deposited(tmp_path, rng, lattice_machine, levels, latent_request):
    machine = lattice_machine(rng, "zephyr", nodes_per_partition=4)
    with EmulatorServer(EmulatorConfig(topology="zephyr:12", defects=0.0, sweeps=32, seed=3)) as server:
        settings = QpuSettings(endpoint=server.endpoint, token="any", state_dir=tmp_path, calibration_reads=50)
        with QpuSampler(settings) as sampler:
            batch = sampler.sample(latent_request(machine, np.repeat(levels, 30, axis=0)))
            reservoir = Reservoir(sampler, machine, levels[:0], per_level=1, max_bytes=20_000, conditions=3)
            assert reservoir.deposit(batch.spins[1:], batch.provenance) == 89
    # Solver and sampler are gone; the reads are not.
    taken = reservoir.take(np.repeat(levels, 30, axis=0))
    assert taken.served.sum() == 89
    assert taken.provenance.problem_ids == batch.provenance.problem_ids
    assert np.array_equal(np.sort(machine.energies(taken.spins)), np.sort(batch.energies[1:]))
