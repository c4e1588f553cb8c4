"""The emulator's hidden physics as a client measures it, through Ocean's client.

All draws are seeded by the emulator's own seed; the bands are five or more standard deviations of the measured
quantity wide, so that over all of them a false alarm has a probability below 1e-4 for an unlucky choice of seeds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import dimod
import numpy as np
import pytest
from dwave.system import DWaveSampler
from dwave.system.temperatures import h_to_fluxbias, maximum_pseudolikelihood_temperature
from numpy.typing import NDArray

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer

READS = 10000


@contextlib.contextmanager
def _chip(clock: Any = None, **settings: Any) -> Iterator[tuple[EmulatorServer, DWaveSampler]]:
    config = EmulatorConfig(**{"topology": "zephyr:2", "defects": 0.0, "sweeps": 16, **settings})
    with (
        EmulatorServer(config, **({} if clock is None else {"clock": clock})) as emulator,
        DWaveSampler(endpoint=emulator.endpoint, token="any", cache_enabled=False, config_file=False) as sampler,
    ):
        yield emulator, sampler


def _magnetisations(sampler: DWaveSampler, h: float = 0.0, **options: Any) -> NDArray[np.float64]:
    """Mean of each qubit, in the order of their labels, all uncoupled (so that few sweeps do) and with the same h."""
    biases = dict.fromkeys(sampler.nodelist, h)
    # A matrix spares the client from building a list of every read.
    sampler.solver.return_matrix = True
    future = sampler.solver.sample_ising(biases, {}, num_reads=READS, answer_mode="raw", auto_scale=False, **options)
    means: NDArray[np.float64] = future.samples[:, sampler.nodelist].mean(axis=0)
    return means


def _fields(means: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """The h that uncoupled qubits of these means feel: m = −tanh(βh)."""
    return -np.arctanh(means) / beta


def test_planted_flux_offsets_show_and_can_be_shimmed() -> None:
    with _chip(beta=4.0, flux_offset_phi0=1e-5) as (emulator, sampler):
        before = _magnetisations(sampler)
        # σ(mean) = 0.01 for 10000 reads; planted: β·h = 4·0.024, so means spread by about 0.09.
        assert 0.05 < before.std() < 0.15
        constants = {"B": emulator.config.b_ghz, "MAFM": emulator.config.mafm_ph}
        biases = np.zeros(sampler.properties["num_qubits"])
        biases[sampler.nodelist] = -h_to_fluxbias(_fields(before, 4.0), **constants)
        after = _magnetisations(sampler, flux_biases=biases.tolist())
    # What is left is the shot noise of both measurements: 0.014 ± 0.0008 for 160 qubits.
    assert after.std() == pytest.approx(np.sqrt(2.0) / np.sqrt(READS), rel=5.0 / np.sqrt(2.0 * 160.0))


def test_readout_flips() -> None:
    with _chip(beta=10.0, readout_flip=0.004) as (_, sampler):
        means = _magnetisations(sampler, h=2.0)
    # 1.6 million spins, all −1 but for the flips: five sigma of the rate are 2.5e-4.
    assert (means.mean() + 1.0) / 2.0 == pytest.approx(0.004, abs=2.5e-4)


@pytest.mark.parametrize(("hours", "beta"), [(0.0, 2.0), (10.0, 2.2)])
def test_beta_drifts_with_time(hours: float, beta: float) -> None:
    now = [0.0]
    with _chip(lambda: now[0], beta=2.0, beta_drift_per_hour=0.01) as (_, sampler):
        now[0] = hours * 3600.0
        means = _magnetisations(sampler, h=0.3)
    # σ of the mean over 1.6 million spins is 7e-4, and d tanh(0.3β)/dβ about 0.2: β is known to 0.004.
    assert np.arctanh(-means.mean()) / 0.3 == pytest.approx(beta, abs=0.02)


def test_control_errors_average_out_over_programmings_but_for_the_chips_own() -> None:
    with _chip(beta=4.0, control_error_h=0.03, systematic_share=0.25) as (_, sampler):
        fields = np.array([_fields(_magnetisations(sampler), 4.0) for _ in range(12)])
    shot = 1.0 / (4.0 * np.sqrt(READS))
    # Each programming: variance 0.03². The mean of 12: the chip's quarter, and a twelfth of the other parts.
    assert fields.std() == pytest.approx(np.hypot(0.03, shot), rel=5.0 / np.sqrt(2.0 * 160.0))
    left = np.sqrt(0.25 * 0.03**2 + (0.75 * 0.03**2 + shot**2) / 12.0)
    assert fields.mean(axis=0).std() == pytest.approx(left, rel=5.0 / np.sqrt(2.0 * 160.0))


@pytest.mark.parametrize("beta", [3.2, 4.4, 7.0])
def test_oceans_own_estimator_finds_the_hidden_beta(beta: float, rng: np.random.Generator) -> None:
    """Couplings scaled so that βJ has a spread of 0.3; the estimate is good to about 0.3 %."""
    with _chip(beta=beta, sweeps=256) as (_, sampler):
        h = {qubit: float(rng.normal(0.0, 0.3 / beta)) for qubit in sampler.nodelist}
        j = {edge: float(rng.normal(0.0, 0.3 / beta)) for edge in sampler.edgelist}
        problem = dimod.BinaryQuadraticModel.from_ising(h, j)
        reads = sampler.sample(problem, num_reads=2000, answer_mode="raw", auto_scale=False)
        temperature, _ = maximum_pseudolikelihood_temperature(problem, reads)
    assert 1.0 / temperature == pytest.approx(beta, rel=0.015)
