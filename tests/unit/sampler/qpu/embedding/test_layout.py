"""Layouts, ranges and the checks of an answer, on chips made up here: no client, no server."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qshower.sampler.errors import InvalidInputError, ProblemRangeError, SamplerAnswerError, SamplerUnavailableError
from qshower.sampler.lattice import compact_lattice, ideal_graph
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.embedding.embedding import EmbeddingCache
from qshower.sampler.qpu.embedding.layout import Layout, draw_unplaced, mean_field
from qshower.sampler.qpu.embedding.ranges import CouplingLimits, checked_factor, widest_beta
from qshower.sampler.qpu.ocean.problems import Problem, ising_energies, verified
from qshower.sampler.qpu.ocean.solver import SolverInfo, solver_info
from qshower.sampler.qpu.planning.draw_options import check_options
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import SamplerOptions, streams_of
from qshower.sampler.tiling import placements_by_number

TIMING = {
    "version": "1.0.0",
    "typical_programming_time": 10_000.0,
    "default_annealing_time": 20.0,
    "default_programming_thermalization": 1000.0,
}


def made_up_solver(topology: str, lost: tuple[int, ...] = (), **changes: object) -> SimpleNamespace:
    """What Ocean's solver object shows of itself."""
    family, size = topology.split(":")
    graph = ideal_graph(topology).copy()
    graph.remove_nodes_from(lost)
    properties: dict[str, object] = {
        "topology": {"type": family, "shape": [int(size), 4]},
        "qubits": sorted(graph),
        "couplers": [sorted(edge) for edge in graph.edges],
        "num_qubits": max(graph) + 1,
        "h_range": [-4.0, 4.0],
        "j_range": [-1.0, 1.0],
        "extended_j_range": [-2.0, 1.0],
        "num_reads_range": [1, 10_000],
        "annealing_time_range": [0.5, 2000.0],
        "problem_run_duration_range": [0.0, 1e6],
        "problem_timing_data": TIMING,
        "parameters": {"flux_biases": ""},
        ("per_group_coupling_range" if family == "zephyr" else "per_qubit_coupling_range"): [-13.0, 10.0],
    }
    return SimpleNamespace(name="made_up", graph_id=f"g{len(lost)}", properties=properties | changes)


def small_machine(seed: int = 0, spread: float = 0.4) -> BoltzmannMachine:
    rng = np.random.default_rng(seed)
    lattice = compact_lattice("zephyr", 4, chip_size=1)
    return lattice.with_parameters(rng.normal(0, spread, 16), rng.normal(0, spread, len(lattice.edges)))


def layout_of(machine: BoltzmannMachine, info: SolverInfo, *, place_condition: bool = False) -> Layout:
    ((placement,),) = placements_by_number(
        machine, info.graph, copies=1, place_condition=place_condition, max_missing_fraction=1.0
    )
    return Layout.of(machine, placement)


def some_states(machine: BoltzmannMachine, rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), size=(rows, machine.node_count))


def test_programmed_energy_is_the_machines_up_to_a_constant_when_nothing_is_missing() -> None:
    machine = small_machine()
    layout = layout_of(machine, solver_info(made_up_solver("zephyr:2")))
    states = some_states(machine, 40)
    states[:, machine.condition_nodes] = states[0, machine.condition_nodes]
    fields = layout.fields(states[:1, machine.condition_nodes])
    problem = Problem(layout.qubits, fields[0], layout.ends, layout.j, 40, 20.0)
    offset = machine.energies(states) - ising_energies(problem, states[:, layout.nodes])
    assert np.ptp(offset) < 1e-5
    felt = layout.local_fields(fields[0], states[:, layout.nodes])
    flipped = states[:, layout.nodes].copy()
    flipped[:, 3] *= -1
    change = ising_energies(problem, flipped) - ising_energies(problem, states[:, layout.nodes])
    assert np.allclose(change, -2 * states[:, layout.nodes][:, 3] * felt[:, 3], atol=1e-5)


def test_a_condition_node_without_a_qubit_is_folded_exactly_in_flux_bias_mode() -> None:
    machine = small_machine()
    whole = layout_of(machine, solver_info(made_up_solver("zephyr:1")), place_condition=True)
    taken = sorted(set(ideal_graph("zephyr:1")) - set(whole.qubits.tolist()))
    lost = (*taken, int(whole.qubits[np.flatnonzero(machine.partitions[whole.nodes] == 0)[0]]))
    layout = layout_of(machine, solver_info(made_up_solver("zephyr:1", lost)), place_condition=True)
    assert layout.placement.unplaced.size == 1
    if machine.partitions[layout.placement.unplaced[0]] == 0:
        assert not layout.needs_mean_field
        states = some_states(machine, 30)
        states[:, machine.condition_nodes] = states[0, machine.condition_nodes]
        fields = layout.fields(states[:1, machine.condition_nodes])
        problem = Problem(layout.qubits, fields[0], layout.ends, layout.j, 30, 20.0)
        offset = machine.energies(states) - ising_energies(problem, states[:, layout.nodes])
        assert np.ptp(offset) < 1e-5


def test_mean_field_solves_its_own_equations_and_holds_the_condition() -> None:
    machine = small_machine(3, 0.2)
    conditions = some_states(machine, 5)[:, machine.condition_nodes]
    means = mean_field(machine, conditions)
    assert np.array_equal(means[:, machine.condition_nodes], conditions)
    for row in means:
        field = machine.h.astype(float)
        for (a, b), j in zip(machine.edges, machine.j.astype(float), strict=True):
            field[a] += j * row[b]
            field[b] += j * row[a]
        assert np.allclose(row[machine.free_nodes], -np.tanh(field[machine.free_nodes]), atol=5e-3)


def test_an_unplaced_node_is_drawn_from_its_conditional_and_from_its_own_stream() -> None:
    machine = small_machine(2, 0.5)
    unplaced = int(machine.free_nodes[4])
    spins = np.tile(some_states(machine, 1), (20_000, 1))
    streams = streams_of(9, 20_000)
    drawn = spins.copy()
    draw_unplaced(machine, drawn, np.array([unplaced]), streams)
    up, down = spins[:1].copy(), spins[:1].copy()
    up[0, unplaced], down[0, unplaced] = 1, -1
    probability = 1 / (1 + np.exp(machine.energies(up)[0] - machine.energies(down)[0]))
    # Five standard deviations: a false alarm in two million.
    assert abs((drawn[:, unplaced] > 0).mean() - probability) < 5 * np.sqrt(0.25 / 20_000)
    alone = spins[7:8].copy()
    draw_unplaced(machine, alone, np.array([unplaced]), streams[7:8])
    assert np.array_equal(alone[0], drawn[7])


@pytest.mark.parametrize("topology", ["zephyr:2", "pegasus:3"])
def test_coupling_sums_are_those_of_the_chip(topology: str) -> None:
    lattice = compact_lattice(topology.split(":")[0], 8, chip_size=int(topology[-1]))
    rng = np.random.default_rng(4)
    machine = lattice.with_parameters(np.zeros(lattice.node_count), rng.normal(0, 1, len(lattice.edges)))
    info = solver_info(made_up_solver(topology))
    layout = layout_of(machine, info, place_condition=True)
    limits = CouplingLimits.of(info, layout.qubits[layout.ends])
    sums = limits.sums(layout.j)
    totals = np.zeros(lattice.node_count)
    for (a, b), value in zip(layout.ends, layout.j, strict=True):
        totals[a] += value
        totals[b] += value
    if topology.startswith("pegasus"):
        assert np.allclose(np.sort(sums), np.sort(totals[totals != 0]))
    else:  # each qubit's couplers are split into two groups, so every coupler counts in one group of each end
        assert np.bincount(limits.coupling, minlength=len(layout.j)).tolist() == [2] * len(layout.j)
        assert sums.sum() == pytest.approx(totals.sum())


def test_values_outside_the_ranges_are_rescaled_with_a_note_or_refused() -> None:
    machine = small_machine(0, 1.0)
    info = solver_info(made_up_solver("zephyr:2"))
    layout = layout_of(machine, info)
    limits = CouplingLimits.of(info, layout.qubits[layout.ends])
    h = layout.fields(np.ones((1, 4), dtype=np.int8))[0]
    least = widest_beta(limits, h, layout.j)
    within = (h / (1.001 * least), layout.j / (1.001 * least), 1.001 * least)
    beyond = (h / (0.8 * least), layout.j / (0.8 * least), 0.8 * least)
    assert checked_factor(limits, *within, QpuSettings(range_policy="refuse")) == (1.0, None)
    factor, note = checked_factor(limits, *beyond, QpuSettings(min_rescale=0.5))
    assert factor == pytest.approx(0.8)
    assert note is not None
    assert "1.250 times hotter" in note
    with pytest.raises(ProblemRangeError, match="outside"):
        checked_factor(limits, *beyond, QpuSettings(range_policy="refuse"))
    with pytest.raises(ProblemRangeError, match=r"less than the 0\.9"):
        checked_factor(limits, *beyond, QpuSettings(min_rescale=0.9))
    with pytest.raises(ProblemRangeError, match="not finite"):
        checked_factor(limits, np.full(h.size, np.nan), layout.j, 1.0, QpuSettings(min_rescale=0.5))


@pytest.mark.parametrize("beyond", ["h", "J", "sums of J"])
@pytest.mark.parametrize("seed", range(5))
def test_what_was_scaled_into_a_range_is_strictly_within_it(beyond: str, seed: int) -> None:
    """A solver adds up in an order of its own, and grants nothing for rounding."""
    rng = np.random.default_rng(seed)
    machine = small_machine(seed, 0.1)
    info = solver_info(made_up_solver("zephyr:2"))
    layout = layout_of(machine, info, place_condition=True)
    limits = CouplingLimits.of(info, layout.qubits[layout.ends])
    h, j = rng.normal(0, 0.5, layout.nodes.size), layout.j.copy()
    if beyond == "h":
        h[:3] = rng.uniform(4.1, 6.0, 3)
    elif beyond == "J":
        j[:3] = rng.uniform(-3.0, -2.1, 3)
    else:
        most = 0.7 * float(np.abs(limits.sums(j)).max())
        info = replace(info, sum_range=(-most, most))
        limits = replace(limits, info=info)
    factor, note = checked_factor(limits, h, j, 1.0, QpuSettings(min_rescale=0.5))
    assert note is not None
    assert beyond in note
    assert info.sum_range is not None
    for values, (low, high) in (
        (factor * h, info.h_range),
        (factor * j, info.j_range),
        (limits.sums(factor * j), info.sum_range),
    ):
        assert low * (1 - 1e-10) < values.min()
        assert values.max() < high * (1 - 1e-10)
    assert checked_factor(limits, factor * h, factor * j, 1.0, QpuSettings(range_policy="refuse")) == (
        1.0,
        None,
    )


def test_what_is_outside_by_rounding_is_brought_in_without_a_word() -> None:
    machine = small_machine(0, 0.1)
    info = solver_info(made_up_solver("zephyr:2"))
    layout = layout_of(machine, info)
    limits = CouplingLimits.of(info, layout.qubits[layout.ends])
    h, j = np.zeros(layout.nodes.size), layout.j.copy()
    j[0] = np.nextafter(1.0, 2.0)
    factor, note = checked_factor(limits, h, j, 1.0, QpuSettings(range_policy="refuse"))
    assert note is None
    assert 1.0 - 1e-8 < factor < 1.0
    assert factor * j[0] < 1.0
    j[0] = 1.0
    assert checked_factor(limits, h, j, 1.0, QpuSettings(range_policy="refuse")) == (1.0, None)


def good_answer(problem: Problem) -> dict[str, object]:
    rng = np.random.default_rng(0)
    states = np.zeros((problem.reads, 200), dtype=np.int8)
    spins = rng.choice(np.array([-1, 1], dtype=np.int8), size=(problem.reads, problem.qubits.size))
    states[:, problem.qubits] = spins
    energies = ising_energies(problem, spins)
    return {
        "solutions": states,
        "energies": energies,
        "active_variables": np.sort(problem.qubits),
        "timing": {"qpu_access_time": 12.0, "note": "x"},
    }


@pytest.fixture
def problem() -> Problem:
    rng = np.random.default_rng(0)
    qubits = np.array([9, 3, 70, 21, 5])
    return Problem(qubits, rng.normal(size=5), np.array([[0, 1], [2, 4]]), rng.normal(size=2), 50, 20.0)


def test_a_good_answer_is_taken_in_the_problems_own_order(problem: Problem) -> None:
    result = good_answer(problem)
    answer = verified(problem, result, ("id",))
    assert np.array_equal(answer.spins[:, 2], result["solutions"][:, 70])  # type: ignore[index]
    assert answer.timing_us == {"qpu_access_time": 12.0}
    assert answer.problem_id == "id"


def spoil(result: dict[str, object], how: str) -> None:
    states, energies = np.asarray(result["solutions"]), np.asarray(result["energies"])
    match how:
        case "half":
            result["solutions"], result["energies"] = states[:25], energies[:25]
        case "energies":
            result["energies"] = energies + 0.1
        case "one_energy":
            result["energies"] = np.where(np.arange(50) == 7, energies + 1.0, energies)
        case "variables":
            result["active_variables"] = np.array([3, 5, 9, 21])
        case "spins":
            states[4, 9] = 0
        case "histogram":
            result["num_occurrences"] = np.where(np.arange(50) == 0, 2, 1)
        case "nan":
            result["energies"] = np.full(50, np.nan)


@pytest.mark.parametrize("how", ["half", "energies", "one_energy", "variables", "spins", "histogram", "nan"])
def test_a_wrong_answer_is_refused(problem: Problem, how: str) -> None:
    result = good_answer(problem)
    spoil(result, how)
    with pytest.raises(SamplerAnswerError) as caught:
        verified(problem, result, ("id",))
    assert caught.value.problem_ids == ("id",)


@pytest.mark.parametrize("lacking", ["topology", "h_range", "couplers", "num_reads_range"])
def test_a_solver_without_an_essential_property_is_unavailable(lacking: str) -> None:
    solver = made_up_solver("zephyr:1")
    del solver.properties[lacking]
    with pytest.raises(SamplerUnavailableError, match=lacking):
        solver_info(solver)


def test_sites_are_kept_until_the_graph_changes() -> None:
    machine = small_machine()
    cache = EmbeddingCache(2, 0.5)
    before = solver_info(made_up_solver("zephyr:3"))
    sites = cache.of(machine, before, place_condition=False)
    assert len(sites.copies) == 2
    assert cache.of(machine, solver_info(made_up_solver("zephyr:3")), place_condition=False) is sites
    lost = int(sites.single.layout.qubits[0])
    after = cache.of(machine, solver_info(made_up_solver("zephyr:3", (lost,))), place_condition=False)
    assert after is not sites
    assert all(lost not in site.layout.qubits for site in (after.single, *after.copies))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("sweeps", 5),
        ("num_reads", 0),
        ("num_reads", 2.5),
        ("num_reads", True),
        ("gauges", -1),
        ("refine_sweeps", -1),
        ("annealing_time_us", float("nan")),
        ("annealing_time_us", "20"),
        ("condition_mode", "clamp"),
        ("max_qpu_access_time_us", -1.0),
        ("solver", " "),
    ],
)
def test_bad_options_are_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=option) as caught:
        check_options(SamplerOptions(**{option: value}))  # type: ignore[arg-type]
    assert caught.value.field == f"options.{option}"


def test_settings_are_checked_and_hide_the_token() -> None:
    assert "abc" not in repr(QpuSettings(token="abc"))
    for bad in ({"gauges": 0}, {"deadline_s": 0.0}, {"condition_mode": "x"}, {"range_policy": "clip"}):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            QpuSettings(**bad)
