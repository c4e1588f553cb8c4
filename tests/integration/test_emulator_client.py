"""Ocean's client, none of it replaced, against the emulator."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import dimod
import numpy as np
import pytest
from dwave.cloud.exceptions import (
    CanceledFutureError,
    SolverAuthenticationError,
    SolverFailureError,
    SolverNotFoundError,
    SolverOfflineError,
)
from dwave.system import DWaveSampler
from scipy import stats

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer

FALSE_ALARM = 1e-5


def _sampler(emulator: EmulatorServer, **settings: Any) -> DWaveSampler:
    wanted = {"token": "any", "cache_enabled": False, "config_file": False, **settings}
    return DWaveSampler(endpoint=emulator.endpoint, **wanted)


@pytest.fixture(scope="module")
def small() -> Iterator[EmulatorServer]:
    with EmulatorServer(EmulatorConfig(topology="zephyr:3", beta=3.7, seed=5)) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def client(small: EmulatorServer) -> Iterator[DWaveSampler]:
    with _sampler(small) as sampler:
        yield sampler


def _random_problem(sampler: DWaveSampler, rng: np.random.Generator, scale: float) -> dimod.BinaryQuadraticModel:
    h = {qubit: float(np.clip(rng.normal(0.0, scale), -4, 4)) for qubit in sampler.nodelist}
    j = {coupler: float(np.clip(rng.normal(0.0, scale), -1, 1)) for coupler in sampler.edgelist}
    return dimod.BinaryQuadraticModel.from_ising(h, j, offset=1.5)


@pytest.mark.parametrize(
    ("topology", "name", "nominal"),
    [("zephyr:12", "Advantage2_emulated_z12", 4800), ("pegasus:16", "Advantage_emulated_p16", 5760)],
)
def test_a_problem_over_the_whole_chip(topology: str, name: str, nominal: int, rng: np.random.Generator) -> None:
    with EmulatorServer(EmulatorConfig(topology=topology, sweeps=32)) as emulator, _sampler(emulator) as sampler:
        assert sampler.solver.name == name == emulator.solver_name
        assert sampler.solver.graph_id == emulator.graph_id
        assert sampler.properties["num_qubits"] == nominal
        assert sampler.solver.num_active_qubits == len(sampler.nodelist) < nominal
        family, size = topology.split(":")
        assert sampler.to_networkx_graph().graph["family"] == family
        assert sampler.properties["topology"]["shape"][0] == int(size)
        problem = _random_problem(sampler, rng, 0.1)
        answer = sampler.sample(problem, num_reads=20, answer_mode="raw", auto_scale=False, label="whole chip")
        assert len(answer) == 20
        assert set(answer.variables) == set(sampler.nodelist)
        np.testing.assert_allclose(problem.energies(answer), answer.record.energy, atol=1e-9)
        assert answer.info["problem_label"] == "whole chip"
        timing = answer.info["timing"]
        estimate = sampler.solver.estimate_qpu_access_time(len(sampler.nodelist), num_reads=20)
        assert timing["qpu_access_time"] == pytest.approx(estimate, rel=1e-9)
        assert timing["qpu_sampling_time"] + timing["qpu_programming_time"] == pytest.approx(timing["qpu_access_time"])


@pytest.mark.parametrize(
    "options",
    [
        {"annealing_time": 100.0},
        {"programming_thermalization": 2000.0, "readout_thermalization": 50.0},
        {"reduce_intersample_correlation": True, "annealing_time": 5.0},
        {"anneal_schedule": [[0.0, 0.0], [10.0, 0.4], [60.0, 1.0]]},
    ],
)
def test_timing_is_what_the_client_estimates(client: DWaveSampler, options: dict[str, Any]) -> None:
    nodes = client.nodelist[:50]
    answer = client.sample_ising(dict.fromkeys(nodes, 0.1), {}, num_reads=30, auto_scale=False, **options)
    estimate = client.solver.estimate_qpu_access_time(50, num_reads=30, **options)
    assert answer.info["timing"]["qpu_access_time"] == pytest.approx(estimate, rel=1e-9)


def _part_of_the_chip(
    sampler: DWaveSampler, rng: np.random.Generator, count: int
) -> tuple[dimod.BinaryQuadraticModel, list[int]]:
    """A connected part of the working graph with random biases, and its qubits in the order of the model."""
    graph = sampler.to_networkx_graph()
    nodes = [int(rng.choice(sampler.nodelist))]
    while len(nodes) < count:
        around = sorted({other for node in nodes for other in graph[node]} - set(nodes))
        nodes.append(int(rng.choice(around)))
    h = {node: float(rng.normal(0.0, 0.15)) for node in nodes}
    j = {edge: float(np.clip(rng.normal(0.0, 0.25), -1, 1)) for edge in graph.subgraph(nodes).edges}
    return dimod.BinaryQuadraticModel.from_ising(h, j), nodes


def _fit(problem: dimod.BinaryQuadraticModel, nodes: list[int], answer: dimod.SampleSet, beta: float) -> float:
    """P-value of a chi-squared test of the reads against exp(-beta E), all states enumerated."""
    states = np.arange(1 << len(nodes))
    spins = ((states[:, None] >> np.arange(len(nodes))) & 1) * 2 - 1
    weights = np.exp(-beta * problem.energies((spins, nodes)))
    expected = weights / weights.sum() * len(answer)
    columns = [list(answer.variables).index(node) for node in nodes]
    seen = np.bincount((answer.record.sample[:, columns] > 0) @ (1 << np.arange(len(nodes))), minlength=len(states))
    rare = expected < 10.0
    if rare.any():
        seen = np.append(seen[~rare], seen[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    statistic = ((seen - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, len(expected) - 1))


@pytest.mark.parametrize("part", range(3))
def test_reads_follow_boltzmann_at_the_hidden_beta(
    client: DWaveSampler, small: EmulatorServer, rng: np.random.Generator, part: int
) -> None:
    """False alarms: 3 parts at 1e-5 each. The same test at a beta 15 % away must fail, so it can see."""
    problem, nodes = _part_of_the_chip(client, rng, 7 + part)
    answer = client.sample(problem, num_reads=10000, answer_mode="raw", auto_scale=False, annealing_time=20.0)
    assert _fit(problem, nodes, answer, small.config.beta) > FALSE_ALARM
    assert _fit(problem, nodes, answer, small.config.beta * 1.15) < FALSE_ALARM


def test_disjoint_copies_on_one_chip_follow_the_law_together(
    client: DWaveSampler, small: EmulatorServer, rng: np.random.Generator
) -> None:
    """Two parts programmed at once: each follows its own law. False alarms: 2 at 1e-5."""
    one, first = _part_of_the_chip(client, rng, 6)
    far = [node for node in client.nodelist if node not in first]
    graph = client.to_networkx_graph().subgraph(far)
    edge = sorted(graph.edges)[-1]
    other = dimod.BinaryQuadraticModel.from_ising({edge[0]: 0.2, edge[1]: -0.1}, {edge: -0.4})
    both = one.copy()
    both.update(other)
    answer = client.sample(both, num_reads=10000, answer_mode="raw", auto_scale=False)
    assert set(answer.variables) == {*first, *edge}
    assert _fit(one, first, answer, small.config.beta) > FALSE_ALARM
    assert _fit(other, list(edge), answer, small.config.beta) > FALSE_ALARM


def test_longer_anneals_are_colder(client: DWaveSampler, small: EmulatorServer, rng: np.random.Generator) -> None:
    """False alarm: 1e-5. At the default time's beta the same reads are refused."""
    problem, nodes = _part_of_the_chip(client, rng, 8)
    answer = client.sample(problem, num_reads=5000, answer_mode="raw", auto_scale=False, annealing_time=150.0)
    beta = small.config.beta * (150.0 / 20.0) ** small.config.beta_time_exponent
    assert _fit(problem, nodes, answer, beta) > FALSE_ALARM
    assert _fit(problem, nodes, answer, small.config.beta) < FALSE_ALARM


def test_the_client_is_not_told_the_hidden_physics(rng: np.random.Generator) -> None:
    config = EmulatorConfig(topology="zephyr:2", beta=3.14159, control_error_h=0.0271828, sweeps=8137)
    with EmulatorServer(config) as emulator, _sampler(emulator) as sampler:
        answer = sampler.sample_ising({sampler.nodelist[0]: 0.1}, {}, num_reads=5, auto_scale=False)
        told = json.dumps([sampler.properties, answer.info, emulator.backend.state()])
    for secret in ("beta", "3.14159", "0.0271828", "8137", "sweeps", "control", 'drift"'):
        assert secret not in told


def test_qubo_and_histogram(client: DWaveSampler) -> None:
    edge = client.edgelist[0]
    answer = client.sample_qubo({(edge[0], edge[0]): -1.0, (edge[1], edge[1]): -1.0, edge: 2.0}, num_reads=500)
    assert answer.vartype is dimod.BINARY
    assert answer.record.num_occurrences.sum() == 500
    assert len(answer) <= 4
    assert (np.diff(answer.record.energy) >= 0).all()
    assert answer.first.energy == -1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_reads": 10001}, "num_reads"),
        ({"annealing_time": 5000.0}, "annealing_time"),
        ({"num_reads": 10000, "annealing_time": 500.0}, "run duration"),
        ({"auto_scale": False, "h": 4.5}, "h value 4.5 is out of range"),
    ],
)
def test_refusals_reach_the_caller(client: DWaveSampler, options: dict[str, Any], message: str) -> None:
    bias = options.pop("h", 0.5)
    with pytest.raises(SolverFailureError, match=message):
        client.sample_ising({client.nodelist[0]: bias}, {}, **options).resolve()


def test_an_unknown_parameter_stops_in_the_client(client: DWaveSampler) -> None:
    with pytest.raises(KeyError):
        client.sample_ising({client.nodelist[0]: 0.5}, {}, anneal_offsets=[0.0])


def test_only_the_right_token_is_let_in() -> None:
    with EmulatorServer(EmulatorConfig(topology="zephyr:2", token="secret")) as emulator:
        with _sampler(emulator, token="secret") as sampler:
            assert sampler.solver.online
        with pytest.raises(SolverAuthenticationError):
            _sampler(emulator, token="wrong")
        with pytest.raises(SolverNotFoundError):
            _sampler(emulator, token="secret", solver="Advantage_system4.1")


def test_many_problems_in_flight(client: DWaveSampler) -> None:
    node = client.nodelist[0]
    answers = {}

    def ask(index: int) -> None:
        bias = 2.0 if index % 2 else -2.0
        answer = client.sample_ising({node: bias}, {}, num_reads=10 + index, answer_mode="raw", auto_scale=False)
        answers[index] = (len(answer), answer.record.sample.mean(), bias)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    # At beta 3.7 and h = ±2 a spin is wrong with a probability of 4e-7: false alarms below 1e-3 over all reads
    # would need more than one wrong spin, which the sign of the mean forgives.
    assert {index: (10 + index, True) for index in range(40)} == {
        index: (count, mean * bias < 0) for index, (count, mean, bias) in answers.items()
    }


def test_the_same_seed_and_order_give_the_same_reads() -> None:
    reads = []
    for _ in range(2):
        config = EmulatorConfig(topology="zephyr:2", seed=9, beta=1.0)
        with EmulatorServer(config) as emulator, _sampler(emulator) as sampler:
            h, j = dict.fromkeys(sampler.nodelist, 0.1), dict[tuple[int, int], float]()
            reads.append(
                [
                    sampler.sample_ising(h, j, num_reads=8, answer_mode="raw", auto_scale=False).record.sample
                    for _ in range(2)
                ]
            )
    np.testing.assert_array_equal(reads[0], reads[1])
    assert (reads[0][0] != reads[0][1]).any()


def test_cancelling_a_queued_problem(small: EmulatorServer, client: DWaveSampler) -> None:
    small.arm("slow_queue:1")
    future = client.solver.sample_ising({client.nodelist[0]: 0.5}, {}, num_reads=5)
    assert not future.wait(0.5)
    future.cancel()
    assert future.wait(20.0)
    with pytest.raises(CanceledFutureError):
        future.result()
    assert small.backend.state()["jobs"]["CANCELLED"] >= 1


def test_maintenance_changes_the_working_graph() -> None:
    now = [0.0]
    config = EmulatorConfig(topology="zephyr:3", maintenance_s=100.0)
    with EmulatorServer(config, clock=lambda: now[0]) as emulator, _sampler(emulator) as sampler:
        before = emulator.graph_id
        emulator.arm("maintenance")
        problem = dict.fromkeys(sampler.nodelist, 0.1)
        with pytest.raises(SolverOfflineError):
            sampler.sample_ising(problem, {}).resolve()
        with pytest.raises(SolverNotFoundError):
            _sampler(emulator)
        now[0] = 101.0
        # The old graph's identity is not served any more, and its problems would be read wrongly.
        with pytest.raises(SolverFailureError, match="graph_id"):
            sampler.sample_ising(problem, {}).resolve()
        with _sampler(emulator) as later:
            assert later.solver.graph_id == emulator.graph_id != before
            assert set(later.nodelist) < set(sampler.nodelist)
            answer = later.sample_ising(dict.fromkeys(later.nodelist, 0.1), {}, num_reads=3)
            assert set(answer.variables) == set(later.nodelist)


def test_close_is_bounded_and_leaves_no_thread() -> None:
    emulator = EmulatorServer(EmulatorConfig(topology="zephyr:2", faults=("slow_queue",)))
    sampler = _sampler(emulator, request_timeout=2, polling_timeout=1, http_retry_total=0)
    future = sampler.solver.sample_ising({sampler.nodelist[0]: 0.5}, {}, num_reads=5)
    assert not future.wait(0.3)
    emulator.close()
    emulator.close()
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("emulator") and _belongs(thread, emulator)
    ]
    assert future.wait(30.0)
    sampler.close()


def _belongs(thread: threading.Thread, emulator: EmulatorServer) -> bool:
    target = getattr(thread, "_target", None)
    return getattr(target, "__self__", None) in (emulator.backend, emulator._http)
