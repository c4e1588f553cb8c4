"""Reverse annealing on the emulator, through Ocean's own samplers."""

from __future__ import annotations

from collections.abc import Iterator

import dimod
import networkx as nx
import numpy as np
import pytest
from dwave.cloud.exceptions import SolverFailureError
from dwave.system import DWaveSampler, ReverseAdvanceComposite

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer

SHALLOW = [[0.0, 1.0], [1.0, 0.95], [2.0, 1.0]]
DEEP = [[0.0, 1.0], [5.0, 0.0], [60.0, 0.0], [100.0, 1.0]]


@pytest.fixture(scope="module")
def sampler() -> Iterator[DWaveSampler]:
    config = EmulatorConfig(topology="zephyr:2", defects=0.03, token="any", beta=3.0)
    with (
        EmulatorServer(config) as emulator,
        DWaveSampler(endpoint=emulator.endpoint, token="any", cache_enabled=False) as sampler,
    ):
        yield sampler


@pytest.fixture(scope="module")
def ferromagnet(sampler: DWaveSampler) -> dimod.BinaryQuadraticModel:
    """Strong bonds: up and down are far apart."""
    qubits = sampler.nodelist[:40]
    bonds = {edge: -1.0 for edge in sampler.edgelist if set(edge) <= set(qubits)}
    return dimod.BinaryQuadraticModel.from_ising(dict.fromkeys(qubits, 0.0), bonds)


def magnetisations(sampleset: dimod.SampleSet) -> np.ndarray:
    """Of each read."""
    return sampleset.record.sample.mean(axis=1)


@pytest.mark.parametrize("up", [1, -1])
@pytest.mark.parametrize("again", [True, False])
def test_a_shallow_anneal_stays_near_the_state_it_starts_from(
    up: int, again: bool, sampler: DWaveSampler, ferromagnet: dimod.BinaryQuadraticModel
) -> None:
    state = dict.fromkeys(ferromagnet.variables, up)
    found = sampler.sample(
        ferromagnet,
        anneal_schedule=SHALLOW,
        initial_state=state,
        reinitialize_state=again,
        num_reads=200,
        answer_mode="raw",
        auto_scale=False,
    )
    assert (magnetisations(found) * up > 0.8).all()


def test_a_deep_anneal_forgets_it(sampler: DWaveSampler, ferromagnet: dimod.BinaryQuadraticModel) -> None:
    state = dict.fromkeys(ferromagnet.variables, 1)
    found = sampler.sample(
        ferromagnet, anneal_schedule=DEEP, initial_state=state, num_reads=400, answer_mode="raw", auto_scale=False
    )
    # Of 400 fair coins 140 to 260 are heads but for one case in 10^9.
    assert 140 <= (magnetisations(found) < 0.0).sum() <= 260


def test_reads_that_start_from_the_read_before_are_a_chain(sampler: DWaveSampler) -> None:
    """Pairs of spins that seldom turn over in one short read: each read is then like the one before."""
    bonds = dict.fromkeys(sorted(nx.maximal_matching(nx.Graph(sampler.edgelist))), -0.9)
    pairs = dimod.BinaryQuadraticModel.from_ising({}, bonds)

    def likeness(*, again: bool) -> float:
        found = sampler.sample(
            pairs,
            anneal_schedule=[[0.0, 1.0], [0.5, 1.0]],
            initial_state=dict.fromkeys(pairs.variables, 1),
            reinitialize_state=again,
            num_reads=300,
            answer_mode="raw",
            auto_scale=False,
        )
        series = magnetisations(found)
        return float(np.corrcoef(series[:-1], series[1:])[0, 1])

    # Of 300 independent reads the correlation is within 5 standard errors, 0.29, of none.
    assert likeness(again=False) > 0.5 > 0.29 > likeness(again=True)


@pytest.mark.parametrize("again", [True, False])
def test_the_client_s_estimate_is_what_is_billed(
    again: bool, sampler: DWaveSampler, ferromagnet: dimod.BinaryQuadraticModel
) -> None:
    state = dict.fromkeys(ferromagnet.variables, 1)
    qubits = len(ferromagnet.variables)
    values = {"anneal_schedule": SHALLOW, "initial_state": state, "reinitialize_state": again, "num_reads": 70}
    timing = sampler.sample(ferromagnet, **values).info["timing"]
    assert timing["qpu_anneal_time_per_sample"] == 2.0
    estimate = sampler.solver.estimate_qpu_access_time(num_qubits=qubits, **values)
    assert timing["qpu_access_time"] == pytest.approx(estimate, rel=1e-12)
    forward = sampler.solver.estimate_qpu_access_time(num_qubits=qubits, num_reads=70, annealing_time=2.0)
    assert timing["qpu_access_time"] != pytest.approx(forward, rel=1e-6)


@pytest.mark.parametrize("again", [True, False])
def test_ocean_s_reverse_composite_works(
    again: bool, sampler: DWaveSampler, ferromagnet: dimod.BinaryQuadraticModel
) -> None:
    found = ReverseAdvanceComposite(sampler).sample(
        ferromagnet,
        anneal_schedules=[[[0.0, 1.0], [t, 0.5], [20.0, 1.0]] for t in (5.0, 10.0)],
        initial_state=dict.fromkeys(ferromagnet.variables, -1),
        num_reads=20,
        reinitialize_state=again,
        auto_scale=False,
    )
    assert sorted(set(found.record.schedule_index.tolist())) == [0, 1]
    assert found.record.initial_state.shape[1] == len(ferromagnet.variables)
    dimod.testing.assert_sampleset_energies(found, ferromagnet)


def test_a_state_without_a_reverse_schedule_is_refused(
    sampler: DWaveSampler, ferromagnet: dimod.BinaryQuadraticModel
) -> None:
    with pytest.raises(SolverFailureError, match="need an anneal_schedule that starts at 1"):
        sampler.sample(ferromagnet, initial_state=dict.fromkeys(ferromagnet.variables, 1)).resolve()
