"""Draws of a QPU in a latent cache: served when the solver and its sampler are gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.latent_cache import LatentCache
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from tests.conftest import MachineMaker, RequestMaker, SpinMaker


@pytest.fixture
def levels(random_spins: SpinMaker, rng: np.random.Generator) -> NDArray[np.int8]:
    return np.unique(random_spins(rng, (32, 4)), axis=0)[:3]


def test_reads_beyond_those_asked_for_can_be_cached(
    tmp_path: Path,
    rng: np.random.Generator,
    lattice_machine: MachineMaker,
    levels: NDArray[np.int8],
    latent_request: RequestMaker,
) -> None:
    machine = lattice_machine(rng, "zephyr", nodes_per_partition=4)
    with EmulatorServer(EmulatorConfig(topology="zephyr:12", defects=0.0, sweeps=32, seed=3)) as server:
        settings = QpuSettings(endpoint=server.endpoint, token="any", state_dir=tmp_path, calibration_reads=50)
        with QpuSampler(settings) as sampler:
            batch = sampler.sample(latent_request(machine, np.repeat(levels, 30, axis=0)))
            cache = LatentCache(machine, 20_000)
            assert cache.put(batch.spins[1:], batch.provenance) == 89
    # Solver and sampler are gone; the reads are not.
    claim = cache.claim(np.repeat(levels, 30, axis=0))
    assert claim.served.sum() == 89
    assert claim.provenance.problem_ids == batch.provenance.problem_ids
    assert claim.provenance.qpu_access_time_us == 0.0, "this request was not billed"
    assert np.array_equal(np.sort(machine.energies(claim.spins())), np.sort(batch.energies[1:]))
