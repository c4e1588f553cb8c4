"""Plans, on the solvers that the emulator describes: no client, no server."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dwave.cloud.solver import StructuredSolver

from qshower.sampler.emulator.chip import Chip, build_chip
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.embedding.embedding import EmbeddingCache
from qshower.sampler.qpu.ocean.solver import SolverInfo, solver_info
from qshower.sampler.qpu.planning.costs import legal_reads, programming_cost_us, total_cost_us
from qshower.sampler.qpu.planning.packing import Programming
from qshower.sampler.qpu.planning.planner import COPIES_MUST_SAVE, Planner
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of


@pytest.fixture(scope="module")
def chip() -> Chip:
    return build_chip("zephyr:4", 0.02, 3)


@pytest.fixture(scope="module")
def info(chip: Chip) -> SolverInfo:
    return solver_info(StructuredSolver(client=None, data=chip.definition("ONLINE", 0.0)))


@pytest.fixture(scope="module")
def machine() -> BoltzmannMachine:
    rng = np.random.default_rng(0)
    lattice = compact_lattice("zephyr", 24, chip_size=4)
    return lattice.with_parameters(rng.normal(0, 0.3, lattice.node_count), rng.normal(0, 0.3, len(lattice.edges)))


def request_of(machine: BoltzmannMachine, sizes: list[int], **options: object) -> LatentRequest:
    """Rows of ``len(sizes)`` conditions, so many of each, in no order."""
    rng = np.random.default_rng(1)
    width = machine.condition_nodes.size
    codes = 2 * ((np.arange(len(sizes))[:, None] >> np.arange(width)) & 1) - 1
    rows = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    streams = streams_of(2, rows.size)
    return LatentRequest(machine, codes.astype(np.int8)[rows], streams, SamplerOptions(**options), 60.0)  # type: ignore[arg-type]


def test_equal_conditions_take_two_sizes_of_parts(machine: BoltzmannMachine, info: SolverInfo) -> None:
    plan = Planner(QpuSettings()).plan(request_of(machine, [1000] * 5), info)
    assert plan.copies == 4
    assert [(len(one.parts), one.reads) for one in plan.programmings] == [(4, 1000), (4, 250)]
    rows = np.concatenate([part.rows for programming in plan.programmings for part in programming.parts])
    assert np.array_equal(np.sort(rows), np.arange(5000))


def test_each_gauge_has_the_reads_of_a_problem_of_its_own(machine: BoltzmannMachine, info: SolverInfo) -> None:
    planner = Planner(QpuSettings())
    plan = planner.plan(request_of(machine, [4000], gauges=4, annealing_time_us=2000.0), info)
    assert plan.problems == 4
    assert plan.reads == 1000
    per_gauge = info.most_reads(sum(site.layout.qubits.size for site in plan.embeddings), 2000.0)
    assert 250 <= per_gauge < 1000
    plan = planner.plan(request_of(machine, [40_000], gauges=4), info)
    assert plan.problems == 4


def test_the_more_gauges_the_fewer_programmings(machine: BoltzmannMachine, info: SolverInfo) -> None:
    """Every gauge is programmed for itself, which the reads that a further programming would save must pay for."""
    planner = Planner(QpuSettings())
    plain = planner.plan(request_of(machine, [2000, 300, 300]), info)
    gauged = planner.plan(request_of(machine, [2000, 300, 300], gauges=16), info)
    assert len(gauged.programmings) < len(plain.programmings)
    regauged = [replace(one, gauges=min(16, one.reads)) for one in plain.programmings]
    regauged_us = total_cost_us(info, regauged, plain.embeddings, gauged.options.annealing_time_us)
    assert gauged.access_time_us < regauged_us


@pytest.mark.parametrize("anneal_us", [20.0, 100.0, 2000.0])
@pytest.mark.parametrize("qubits", [40, 300])
def test_what_is_legal_is_what_a_solver_takes(chip: Chip, info: SolverInfo, anneal_us: float, qubits: int) -> None:
    """The longest run is within the limit that the API has, and one read more is not."""
    legal = legal_reads(info, qubits, anneal_us)

    def run_us(reads: int) -> float:
        return chip.timing.run_us(qubits, reads, anneal_us, 1000.0, 0.0)

    assert run_us(legal) <= info.run_duration_us
    assert legal == info.num_reads_range[1] or run_us(legal + 1) > info.run_duration_us
    assert info.most_reads(qubits, anneal_us) <= legal


def test_reads_that_were_asked_for_are_made_or_refused(machine: BoltzmannMachine, info: SolverInfo) -> None:
    planner = Planner(QpuSettings())
    single = planner.embeddings(machine, info, place_condition=False).single
    options = {"annealing_time_us": 400.0}
    legal = legal_reads(info, single.layout.qubits.size, 400.0)
    assert info.most_reads(single.layout.qubits.size, 400.0) < legal < info.num_reads_range[1]
    for sizes in ([10], [10] * 4):
        plan = planner.plan(request_of(machine, sizes, num_reads=legal, **options), info)
        # Four copies together would run for too long: fewer are used, and no read is left out.
        assert {one.reads for one in plan.programmings} == {legal}
        with pytest.raises(InvalidInputError, match=f"1 to {legal} on ") as caught:
            planner.plan(request_of(machine, sizes, num_reads=legal + 1, **options), info)
        assert (caught.value.field, caught.value.value) == ("options.num_reads", legal + 1)
    assert plan.copies < 4
    assert planner.plan(request_of(machine, [10] * 4, num_reads=100, **options), info).copies == 4
    gauged = planner.plan(request_of(machine, [10], num_reads=3 * legal, gauges=3, **options), info)
    assert [one.reads for one in gauged.programmings] == [3 * legal]
    with pytest.raises(InvalidInputError, match="gauges 3"):
        planner.plan(request_of(machine, [10], num_reads=3 * legal + 1, gauges=3, **options), info)


def test_more_copies_are_used_where_they_save_a_tenth(machine: BoltzmannMachine, info: SolverInfo) -> None:
    planner = Planner(QpuSettings())
    used = set()
    for sizes in ([3], [5, 5], [200] * 3, [30] * 12, [100] * 5, [1000, 4]):
        request = request_of(machine, sizes)
        plan = planner.plan(request, info)
        used.add(plan.copies)
        by_number = [
            Planner(QpuSettings(max_copies=copies)).plan(request, info).access_time_us for copies in range(1, 5)
        ]
        assert (1 - COPIES_MUST_SAVE) * plan.access_time_us <= min(by_number) + 1e-6
        if plan.copies > 1:
            assert plan.access_time_us < by_number[0]
    assert used >= {1, 2, 3, 4}


def test_embeddings_are_kept_for_some_numbers_of_copies(info: SolverInfo) -> None:
    rng = np.random.default_rng(2)
    lattice = compact_lattice("zephyr", 4, chip_size=4)
    small = lattice.with_parameters(rng.normal(0, 0.3, lattice.node_count), rng.normal(0, 0.3, len(lattice.edges)))
    sites = EmbeddingCache(7, 0.1).of(small, info, place_condition=False)
    assert [len(some) for some in sites.choices] == [1, 2, 3, 4, 6, 7]
    assert sites.single is sites.choices[0][0]
    assert sites.copies is sites.choices[-1]


def test_missing_couplers_are_counted(machine: BoltzmannMachine, info: SolverInfo) -> None:
    """Those between free nodes: what a condition node lacks is folded exactly."""
    rng = np.random.default_rng(4)
    kept = info.graph.couplers[rng.random(len(info.graph.couplers)) > 0.03]
    lacking = replace(info, graph=replace(info.graph, couplers=kept, graph_id="fewer"), sum_range=None)
    lacking = replace(lacking, groups=lacking.groups[lacking.groups[:, 1] < len(kept)])
    request = request_of(machine, [10] * 4)
    folded = Planner(QpuSettings()).plan(request, lacking)
    missing = [site.layout.placement.missing_edges.size for site in folded.embeddings]
    assert folded.missing_couplers == max(missing[: folded.copies]) > 0
    for site in EmbeddingCache(1, 0.2).of(machine, lacking, place_condition=True).copies:
        ends = machine.edges[site.layout.placement.missing_edges]
        assert site.missing_couplers == (machine.partitions[ends] != 0).all(axis=1).sum() < len(ends)


@pytest.mark.parametrize(("reads", "gauges"), [(1000, 1000), (1007, 100), (5, 100), (640, 64), (9, 1)])
def test_a_price_is_that_of_all_gauges_and_asked_for_twice_at_most(
    info: SolverInfo, reads: int, gauges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    estimate = info.solver.estimate_qpu_access_time

    def counted(**values: object) -> float:
        asked.append(values["num_reads"])
        return float(estimate(**values))

    turns = min(gauges, reads)
    shares = [len(some) for some in np.array_split(np.arange(reads), turns)]
    each = sum(info.access_time_us(300, share, 20.0) for share in shares)
    monkeypatch.setattr(info.solver, "estimate_qpu_access_time", counted)
    assert programming_cost_us(info, 300, Programming((), reads, turns), 20.0) == pytest.approx(each)
    assert len(asked) <= 2
