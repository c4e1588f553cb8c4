"""Gauges: what they keep, what cancels over a set, how reads are shared out over them. No client, no server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.emulator.chip import build_chip
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.drawing.draw import draw
from qshower.sampler.qpu.drawing.part_reads import PlanReads
from qshower.sampler.qpu.embedding.embedding import Embedding
from qshower.sampler.qpu.embedding.gauges import GAUGES_OF_A_SET, Gauges, draw_gauges
from qshower.sampler.qpu.embedding.layout import Layout
from qshower.sampler.qpu.embedding.ranges import checked_factor
from qshower.sampler.qpu.ocean.problems import Answer, Problem, ising_energies
from qshower.sampler.qpu.ocean.solver import SolverInfo, solver_info
from qshower.sampler.qpu.planning.draw_options import DrawOptions
from qshower.sampler.qpu.planning.gauge_shares import gauge_of_reads, spread_reads
from qshower.sampler.qpu.planning.packing import Part, Programming
from qshower.sampler.qpu.planning.planner import Plan
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.session import QpuSession
from qshower.sampler.qpu.shims.flux_bias import Shim
from qshower.sampler.qpu.unused_reads import unused
from qshower.sampler.qpu.usage import Terms, Usage
from qshower.sampler.tiling import placements_by_number
from qshower.sampler.time_limit import TimeLimit

TOPOLOGIES = ("zephyr:4", "pegasus:5")


def info_of(topology: str) -> SolverInfo:
    chip = build_chip(topology, 0.0, 0)
    properties = chip.definition("online", 0.0)["properties"]
    return solver_info(SimpleNamespace(name="emulated", graph_id=chip.graph_id, properties=properties))


def lattice_on(topology: str, per_class: int) -> BoltzmannMachine:
    family, size = topology.split(":")
    return compact_lattice(family, per_class, chip_size=int(size))


def sites_of(
    machine: BoltzmannMachine, info: SolverInfo, copies: int = 1, *, place_condition: bool = False
) -> list[Embedding]:
    placements = placements_by_number(machine, info.graph, copies=copies, place_condition=place_condition)[-1]
    assert len(placements) == copies
    return [Embedding.of(info, Layout.of(machine, placement)) for placement in placements]


def side_by_side(sites: Sequence[Embedding]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ends and couplings of all sites, counted over all of them."""
    starts = np.cumsum([0, *(site.layout.qubits.size for site in sites)])
    ends = np.concatenate([site.layout.ends + start for site, start in zip(sites, starts[:-1], strict=True)])
    return ends, np.concatenate([site.layout.j for site in sites])


def sums_over_sets(values: NDArray[np.int8]) -> NDArray[np.int64]:
    """(sets, …) sums of ``values`` (gauges, …) over the gauges of each whole set."""
    sets: NDArray[np.int64] = values.astype(np.int64).reshape(-1, GAUGES_OF_A_SET, values.shape[1]).sum(axis=1)
    return sets


def products(gauges: Gauges, ends: NDArray[np.int64]) -> NDArray[np.int8]:
    """(gauges, pairs) by what the coupling of each pair is multiplied."""
    return gauges.signs[:, ends[:, 0]] * gauges.signs[:, ends[:, 1]]


def assert_within_ranges(info: SolverInfo, site: Embedding, j: NDArray[np.float64], turns: NDArray[np.int8]) -> None:
    assert info.sum_range is not None
    for turn in turns:
        sums = site.limits.sums(j * turn)
        assert info.j_range[0] <= (j * turn).min()
        assert (j * turn).max() <= info.j_range[1]
        assert info.sum_range[0] <= sums.min()
        assert sums.max() <= info.sum_range[1]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_gauge_keeps_energies_and_every_range(topology: str) -> None:
    rng = np.random.default_rng(0)
    lattice, info = lattice_on(topology, 8), info_of(topology)
    machine = lattice.with_parameters(rng.normal(0, 1, lattice.node_count), rng.uniform(-2, 1, len(lattice.edges)))
    (site,) = sites_of(machine, info)
    layout, j = site.layout, 0.7 * site.layout.j
    gauges = draw_gauges([site], layout.ends, j, 30, np.random.default_rng(0))
    assert gauges.signs.shape == (30, layout.nodes.size)
    turns = products(gauges, layout.ends)
    assert_within_ranges(info, site, j, turns)
    assert (gauges.signs < 0).sum() > 30
    h = layout.fields(np.ones((1, machine.condition_nodes.size), dtype=np.int8))[0]
    states = rng.choice(np.array([-1, 1], dtype=np.int8), size=(5, layout.nodes.size))
    plain = ising_energies(Problem(layout.qubits, h, layout.ends, j, 5, 20.0), states)
    for gauge, turn in zip(gauges.signs, turns, strict=True):
        other = Problem(layout.qubits, h * gauge, layout.ends, j * turn, 5, 20.0)
        assert np.allclose(plain, ising_energies(other, states * gauge))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_set_of_gauges_cancels_errors_of_the_chip(topology: str) -> None:
    """The mean of g_i and of g_i g_j over every set is nought, for whatever error δh_i and δJ_ij they stand before."""
    rng = np.random.default_rng(0)
    lattice, info = lattice_on(topology, 8), info_of(topology)
    machine = lattice.with_parameters(lattice.h, rng.uniform(-0.3, 0.3, len(lattice.edges)))
    (site,) = sites_of(machine, info)
    gauges = draw_gauges([site], site.layout.ends, site.layout.j, 3 * GAUGES_OF_A_SET, rng)
    assert not np.array_equal(gauges.signs[0], gauges.signs[GAUGES_OF_A_SET])
    assert not sums_over_sets(gauges.signs).any()
    assert not sums_over_sets(products(gauges, site.layout.ends)).any()
    assert (gauges.left, gauges.note) == (0.0, None)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_spins_of_strong_couplings_are_turned_together_and_nearly_all_else_cancels(topology: str) -> None:
    rng = np.random.default_rng(1)
    lattice, info = lattice_on(topology, 24), info_of(topology)
    j = rng.uniform(-0.3, 0.3, len(lattice.edges))
    j[rng.random(j.size) < 0.05] = -1.5
    (site,) = sites_of(lattice.with_parameters(lattice.h, j), info)
    ends, j = site.layout.ends, site.layout.j
    gauges = draw_gauges([site], ends, j, 40, rng)
    turns = products(gauges, ends)
    assert_within_ranges(info, site, j, turns)
    strong = j < -1
    assert strong.sum() > 10
    assert (turns[:, strong] == 1).all()
    # All errors of h cancel: what a strong coupling joins is turned, only not apart.
    assert not sums_over_sets(gauges.signs).any()
    kept = sums_over_sets(turns).any(axis=0)
    assert kept.mean() == pytest.approx(gauges.left)
    assert strong.mean() <= gauges.left < 0.25
    # Those of other couplings that do not cancel within a set do so over sets, but inside tied spins.
    always = (turns == turns[0]).all(axis=0)
    assert always.mean() < 2.5 * strong.mean()
    assert gauges.note is not None
    assert f"{gauges.left:.0%} of the couplings" in gauges.note


@pytest.mark.parametrize("seed", range(8))
def test_a_sum_that_had_to_be_scaled_down_to_its_limit_leaves_gauges(seed: int) -> None:
    """One qubit whose couplers all draw the same way: its sums are at the limit after rescaling."""
    rng = np.random.default_rng(seed)
    lattice, info = lattice_on("zephyr:4", 24), info_of("zephyr:4")
    hub = int(np.argmax(np.bincount(lattice.edges.ravel()) * (lattice.partitions != 0)))
    mine = (lattice.edges == hub).any(axis=1)
    j = rng.normal(0.0, 0.2, len(lattice.edges))
    j[mine] = rng.uniform(-1.9, -1.35, int(mine.sum()))
    (site,) = sites_of(lattice.with_parameters(lattice.h, j), info, place_condition=True)
    layout = site.layout
    factor, note = checked_factor(site.limits, np.zeros(layout.nodes.size), layout.j, 1.0, QpuSettings(min_rescale=0.5))
    assert note is not None
    assert "sums of J outside" in note
    j = factor * layout.j
    assert info.sum_range is not None
    assert info.sum_range[0] < site.limits.sums(j).min() < info.sum_range[0] * (1 - 1e-8)
    gauges = draw_gauges([site], layout.ends, j, 8, rng)
    assert_within_ranges(info, site, j, products(gauges, layout.ends))
    assert not sums_over_sets(gauges.signs[:, layout.colours != 0]).any()
    # All but the hub and its neighbours are as free as ever.
    assert mine.mean() < gauges.left < 0.15


def test_a_sum_that_turning_would_bring_out_of_its_range_is_left_as_it_is() -> None:
    """Couplings that add up to little, and to too much once some of them are turned: none of them is strong."""
    lattice, info = lattice_on("pegasus:5", 16), info_of("pegasus:5")
    rng = np.random.default_rng(3)
    values, so_far = np.zeros(len(lattice.edges)), np.zeros(lattice.node_count)
    for number, edge in enumerate(lattice.edges):
        values[number] = -0.9 if so_far[edge].sum() > 0 else 0.9
        so_far[edge] += values[number]
    (site,) = sites_of(lattice.with_parameters(lattice.h, values), info)
    j, ends = site.layout.j, site.layout.ends
    largest = float(np.abs(site.limits.sums(j)).max())
    assert largest < float(site.limits.sums(np.abs(j)).max())
    tight = replace(info, sum_range=(-largest, largest))
    tightened = replace(site, limits=replace(site.limits, info=tight))
    gauges = draw_gauges([tightened], ends, j, 16, rng)
    turns = products(gauges, ends)
    assert_within_ranges(tight, site, j, turns)
    assert not sums_over_sets(gauges.signs).any()
    loose = products(draw_gauges([site], ends, j, 16, np.random.default_rng(3)), ends)
    assert max(np.abs(site.limits.sums(j * turn)).max() for turn in loose) > largest


def test_idle_couplers_between_copies_cancel_but_for_some() -> None:
    lattice, info = lattice_on("zephyr:6", 60), info_of("zephyr:6")
    sites = sites_of(lattice, info, copies=4)
    ends, j = side_by_side(sites)
    gauges = draw_gauges(sites, ends, j, GAUGES_OF_A_SET, np.random.default_rng(0))
    assert not sums_over_sets(gauges.signs).any()
    assert not sums_over_sets(products(gauges, ends)).any()
    spin = np.full(info.num_qubits, -1)
    spin[np.concatenate([site.layout.qubits for site in sites])] = np.arange(gauges.signs.shape[1])
    copy = np.repeat(np.arange(4), [site.layout.qubits.size for site in sites])
    links = spin[info.graph.couplers]
    links = links[(links >= 0).all(axis=1)]
    links = links[copy[links[:, 0]] != copy[links[:, 1]]]
    assert len(links) > 100
    colours = np.concatenate([site.layout.colours for site in sites])
    of_one_class = (colours[links[:, 0]] == colours[links[:, 1]]).mean()
    left = sums_over_sets(products(gauges, links)).any(axis=0).mean()
    assert left < 0.5 * of_one_class
    assert left < 0.2


class Downhill:
    """A runner of whose answers every read has each spin against its field but one in ``period``: the problem's number.

    So a spin's sign times that of its field tells, once the gauge is undone, which problem it was read from.
    """

    def __init__(self, info: SolverInfo, period: int) -> None:
        self.info, self.period = info, period
        self.problems: list[Problem] = []

    def run(self, problems: list[Problem], terms: Terms, usage: Usage, answers: dict[int, Answer]) -> None:
        self.problems = problems
        for number, problem in enumerate(problems):
            spins = -np.sign(problem.h) * np.where(np.arange(problem.h.size) % self.period == number, -1, 1)
            answers[number] = Answer(np.tile(spins.astype(np.int8), (problem.reads, 1)), str(number), {})


def drawn(
    runner: Downhill,
    sites: list[Embedding],
    rows: list[int],
    conditions: NDArray[np.int8],
    shim: Shim | None = None,
    **options: object,
) -> PlanReads:
    """A draw of so many rows on each site, as many reads as the first."""
    parts = tuple(Part(0, copy, np.arange(some)) for copy, some in enumerate(rows))
    machine, asked = sites[0].layout.machine, DrawOptions(20.0, **options)  # type: ignore[arg-type]
    plan = Plan(
        machine,
        runner.info,
        tuple(sites),
        (Programming(parts, rows[0], min(asked.gauges, rows[0])),),
        conditions,
        asked,
        0.0,
    )
    session = QpuSession(runner, runner.info, QpuSettings(), Terms(TimeLimit(0.0)), np.random.default_rng(0), Usage())  # type: ignore[arg-type]
    return draw(session, plan, 1.0, shim)


def test_every_part_and_what_it_leaves_is_shared_out_over_all_gauges() -> None:
    info, rng = info_of("zephyr:4"), np.random.default_rng(4)
    lattice = lattice_on("zephyr:4", 8)
    machine = lattice.with_parameters(rng.normal(0, 0.3, lattice.node_count), rng.normal(0, 0.1, len(lattice.edges)))
    sites, runner = sites_of(machine, info, copies=2), Downhill(info, machine.free_nodes.size)
    conditions = np.ones((1, 8), dtype=np.int8)
    reads = drawn(runner, sites, [23, 9], conditions, gauges=5).whole()
    assert [problem.reads for problem in runner.problems] == [5, 5, 5, 4, 4]
    assert len({problem.h.tobytes() for problem in runner.problems}) == 5
    for part in reads:
        uphill = part.spins == np.sign(part.fields)
        assert (uphill.sum(axis=1) == 1).all()
        assert uphill.argmax(axis=1).tolist() == [read % 5 for read in range(23)]
    assert gauge_of_reads(23, 5).tolist() == [read % 5 for read in range(23)]
    nothing, left = unused(reads)
    assert nothing.spins.size == 0
    assert np.array_equal(left.spins, reads[1].spins[9:])
    # Fewer reads than gauges: as many gauges as reads.
    assert [len(part.spins) for part in drawn(runner, sites, [3, 1], conditions, gauges=5).whole()] == [3, 3]
    assert [problem.reads for problem in runner.problems] == [1, 1, 1]


@pytest.mark.parametrize(("strong", "told"), [(0.0, False), (0.1, True)])
def test_a_draw_says_where_gauges_leave_errors(strong: float, told: bool) -> None:
    info, rng = info_of("zephyr:4"), np.random.default_rng(5)
    lattice = lattice_on("zephyr:4", 24)
    j = rng.normal(0, 0.1, len(lattice.edges))
    j[rng.random(j.size) < strong] = -1.2
    machine = lattice.with_parameters(np.full(lattice.node_count, 0.1), j)
    conditions = np.ones((1, machine.condition_nodes.size), dtype=np.int8)
    for gauges in (1, 4):
        notes = drawn(Downhill(info, 32), sites_of(machine, info), [8], conditions, gauges=gauges).notes
        assert any("do not cancel" in note for note in notes) == (told and gauges > 1)


@pytest.mark.parametrize("gauges", [1, 4])
def test_flux_biases_are_turned_with_the_spins_and_the_shim_is_not(gauges: int) -> None:
    lattice, info = lattice_on("zephyr:4", 8), info_of("zephyr:4")
    sites, runner = sites_of(lattice, info, copies=2, place_condition=True), Downhill(info, 32)
    rng = np.random.default_rng(2)
    conditions = rng.choice(np.array([-1, 1], dtype=np.int8), size=(1, 8))
    own = rng.normal(0, 1e-5, info.graph.qubits.size)
    shim = Shim("emulated", "g", 20.0, info.graph.qubits.tolist(), own.tolist(), 0.0, 0.0, 1, "2020-01-01T00:00:00Z")
    ordinary = lattice.with_parameters(rng.normal(0, 0.3, lattice.node_count), rng.normal(0, 0.1, len(lattice.edges)))
    sites = [Embedding.of(info, Layout.of(ordinary, site.layout.placement)) for site in sites]
    reads = drawn(runner, sites, [8, 8], conditions, shim, gauges=gauges, condition_mode="flux_bias").parts
    flipped = 0
    for problem in runner.problems:
        assert problem.flux_biases is not None
        left = problem.flux_biases.copy()
        left[info.graph.qubits] -= own
        start = 0
        for part in reads:
            layout = part.embedding.layout
            gauge = np.sign(problem.h[start : start + layout.nodes.size] * part.fields)
            start += layout.nodes.size
            held = layout.colours == 0
            column = np.searchsorted(ordinary.condition_nodes, layout.nodes[held])
            wanted = QpuSettings().flux_bias_phi0 * conditions[0][column] * gauge[held]
            assert np.allclose(left[layout.qubits[held]], wanted, rtol=1e-9, atol=0)
            assert np.allclose(left[layout.qubits[~held]], 0.0, atol=1e-18)
            flipped += int((gauge[held] < 0).sum())
    assert (flipped > 0) == (gauges > 1)


@pytest.mark.parametrize(("reads", "gauges"), [(1, 1), (1, 4), (3, 8), (8, 8), (101, 4), (960, 20), (1000, 1)])
def test_reads_are_shared_out_evenly_whatever_their_number(reads: int, gauges: int) -> None:
    programming = gauge_of_reads(reads, gauges)
    used = min(reads, gauges)
    assert programming.shape == (reads,)
    for most in (1, 7, 40, 500, 2000):
        picked = spread_reads(reads, gauges, most)
        assert 0 < picked.size <= min(reads, most)
        assert picked.size > min(reads, most) - used
        assert (np.diff(picked) > 0).all()
        assert picked[-1] < reads
        counts = np.bincount(programming[picked], minlength=used)
        assert np.ptp(counts) <= 1
        if most >= 2 * used:
            # Over all of them: the last round of reads is among those picked.
            assert picked[-1] >= reads - 2 * used
