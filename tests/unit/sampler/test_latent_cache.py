"""The latent cache: states are given out once, in bounded memory, and say how they came to be."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError, SamplerUnavailableError
from qshower.sampler.latent_cache import BIN_BYTES, BLOCK_BYTES, LatentCache
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.provenance import Provenance
from tests.conftest import MachineMaker, SpinMaker

FREE, WIDTH = 45, 3
PER_STATE = 6
DRAW = Provenance("qpu", problem_ids=("p",))


def room_for(states: int, machine: BoltzmannMachine) -> int:
    """Bytes that hold as many states of one draw, each in a bin and a block of its own."""
    one = LatentCache(machine, 10_000)
    one.put(np.ones((1, machine.node_count), np.int8), DRAW)
    return one.status()["bytes"] + (states - 1) * (PER_STATE + BIN_BYTES + 1 + BLOCK_BYTES)


@pytest.fixture
def machine(rng: np.random.Generator, random_machine: MachineMaker) -> BoltzmannMachine:
    return random_machine(rng, free=FREE, condition=WIDTH, coupling=0.1, density=0.2)


@pytest.fixture
def levels(rng: np.random.Generator, random_spins: SpinMaker) -> NDArray[np.int8]:
    return np.unique(random_spins(rng, (64, WIDTH)), axis=0)[:4]


@pytest.fixture
def cache(machine: BoltzmannMachine) -> LatentCache:
    return LatentCache(machine, 100_000)


def states_of(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], generator: np.random.Generator
) -> NDArray[np.int8]:
    spins = generator.choice(np.array([-1, 1], np.int8), (len(conditions), machine.node_count))
    spins[:, machine.condition_nodes] = conditions
    return spins


def distinct(spins: NDArray[np.int8]) -> int:
    return len(np.unique(spins, axis=0))


def test_what_is_there_is_served_once_and_the_rest_is_missing(
    machine: BoltzmannMachine, levels: NDArray[np.int8], cache: LatentCache, rng: np.random.Generator
) -> None:
    assert not cache.claim(levels).served.any()
    spins = states_of(machine, np.repeat(levels, 10, axis=0), rng)
    assert cache.put(spins, DRAW) == 40
    asked = levels[[0] * 7 + [1] * 12 + [3]]
    assert cache.has(asked).tolist() == [True] * 17 + [False] * 2 + [True]
    claim = cache.claim(asked)
    assert claim.served.tolist() == [True] * 17 + [False] * 2 + [True]
    assert not claim.complete
    assert np.array_equal(claim.spins()[:, machine.condition_nodes], asked[claim.served])
    assert np.array_equal(np.concatenate([claim.spins(0, 8), claim.spins(8, 20)]), claim.spins())
    # The oldest first.
    assert np.array_equal(claim.spins(0, 7), spins[:7])
    again = cache.claim(levels[[0] * 9])
    assert again.served.tolist() == [True] * 3 + [False] * 6
    assert distinct(np.concatenate([claim.spins(), again.spins()])) == 21
    assert cache.count(levels).tolist() == [0, 0, 10, 9]
    # The first four of eight sorted conditions: none of them is the opposite of another.
    assert not cache.claim(-levels).served.any()
    counts = cache.status()
    assert (counts["ready"], counts["consumed"], counts["missed"]) == (19, 21, 4 + 2 + 6 + 4)


def test_a_whole_claim_has_all_or_nothing(
    machine: BoltzmannMachine, levels: NDArray[np.int8], cache: LatentCache, rng: np.random.Generator
) -> None:
    cache.put(states_of(machine, levels, rng), DRAW)
    assert not cache.claim(levels[[0, 1, 1]], whole=True).served.any()
    assert cache.claim(levels[[0, 1, 2]], whole=True).complete


def test_what_is_given_back_is_served_again_first_and_only_then(
    machine: BoltzmannMachine, levels: NDArray[np.int8], cache: LatentCache, rng: np.random.Generator
) -> None:
    spins = states_of(machine, levels[[0] * 6], rng)
    cache.put(spins, DRAW)
    claim, other = cache.claim(levels[[0] * 3]), cache.claim(levels[[0]])
    claim.give_back()
    claim.give_back()
    with pytest.raises(SamplerUnavailableError, match="given back"):
        claim.spins()
    rest = cache.claim(levels[[0] * 7])
    assert rest.served.sum() == 5
    assert np.array_equal(np.concatenate([rest.spins(), other.spins()]), spins[[0, 1, 2, 4, 5, 3]])


def test_concurrent_claims_never_get_the_same_state(
    machine: BoltzmannMachine, levels: NDArray[np.int8], cache: LatentCache, rng: np.random.Generator
) -> None:
    cache.put(states_of(machine, levels[rng.integers(0, 4, 800)], rng), DRAW)

    def take(number: int) -> NDArray[np.int8]:
        mine, generator = [], np.random.default_rng(number)
        for _ in range(40):
            claim = cache.claim(levels[generator.integers(0, 4, 5)])
            if generator.random() < 0.3:
                claim.give_back()
            else:
                mine.append(claim.spins())
        return np.concatenate(mine)

    with ThreadPoolExecutor(8) as pool:
        served = np.concatenate(list(pool.map(take, range(8))))
    left = cache.claim(np.repeat(levels, 800, axis=0)).spins()
    # 45 free spins: of 800 random states two are equal with a chance of about 1e-8.
    assert distinct(np.concatenate([served, left])) == len(served) + len(left) == 800
    assert cache.status()["bytes"] == 0


def test_provenance_is_that_of_the_draws(
    machine: BoltzmannMachine, levels: NDArray[np.int8], cache: LatentCache, rng: np.random.Generator
) -> None:
    for number in (1, 2, 2):
        cache.put(states_of(machine, levels, rng), qpu_provenance(number))
    one = cache.claim(levels).provenance
    assert (one.sampler, one.beta, one.from_cache, one.qpu_access_time_us) == ("qpu", 5.0, True, 0.0)
    assert one.notes == qpu_provenance(1).notes
    assert (one.elapsed_s, one.qpu_timing_us) == ({}, qpu_provenance(1).qpu_timing_us)
    assert cache.claim(levels[:0]).provenance == Provenance("none", from_cache=True)
    # The timing of a draw that came in two parts counts once.
    both = cache.claim(levels[[0, 0, 1, 1]])
    assert both.provenance.qpu_timing_us == qpu_provenance(2).qpu_timing_us
    cache.put(states_of(machine, levels, rng), qpu_provenance(3))
    both.give_back()
    mixed = cache.claim(np.repeat(levels, 3, axis=0)).provenance
    assert (mixed.beta, mixed.solver) == (None, "S")
    second, third = qpu_provenance(2), qpu_provenance(3)
    assert second.problem_ids is not None
    assert third.problem_ids is not None
    assert mixed.problem_ids == second.problem_ids + third.problem_ids
    assert second.qpu_timing_us is not None
    assert third.qpu_timing_us is not None
    assert mixed.qpu_timing_us == {
        name: value + third.qpu_timing_us[name] for name, value in second.qpu_timing_us.items()
    }


def test_conditions_asked_for_outlive_others(
    machine: BoltzmannMachine, rng: np.random.Generator, levels: NDArray[np.int8]
) -> None:
    cache = LatentCache(machine, room_for(3, machine) + 2 * PER_STATE)
    cache.put(states_of(machine, levels[[0, 0, 1, 2]], rng), DRAW)
    assert cache.claim(levels[:1]).complete
    assert cache.put(states_of(machine, levels[3:], rng), DRAW) == 1
    # Of the older conditions the one asked for last has kept its state.
    assert cache.has(levels).tolist() == [True, False, True, True]
    # Unless told to, nothing makes room.
    assert cache.put(states_of(machine, levels[1:2], rng), DRAW, evict=False) == 0
    assert cache.has(levels).tolist() == [True, False, True, True]
    assert cache.room == 0


def test_more_than_there_is_room_for_is_cut_short(
    machine: BoltzmannMachine, rng: np.random.Generator, levels: NDArray[np.int8]
) -> None:
    cache = LatentCache(machine, 5000)
    count = cache.put(states_of(machine, levels[[0] * 2000], rng), DRAW)
    assert 300 < count < 2000
    assert cache.count(levels).tolist() == [count, 0, 0, 0]
    assert cache.status()["bytes"] <= 5000
    tiny = LatentCache(machine, 500)
    assert tiny.put(states_of(machine, levels, rng), DRAW) == 0
    assert tiny.status()["bytes"] == 0


def test_as_many_fit_as_there_is_room(
    machine: BoltzmannMachine, rng: np.random.Generator, levels: NDArray[np.int8]
) -> None:
    cache = LatentCache(machine, 20_000)
    cache.put(states_of(machine, levels, rng), DRAW)
    while cache.room:
        rows = min(cache.room, 7)
        assert cache.put(states_of(machine, levels[rng.integers(0, 4, rows)], rng), DRAW, evict=False) == rows
    assert cache.status()["ready"] > 1500


@pytest.fixture
def wide_machine(rng: np.random.Generator, random_machine: MachineMaker) -> BoltzmannMachine:
    return random_machine(rng, free=800, condition=200, density=0.01)


def held_bytes(make: Callable[[], LatentCache]) -> tuple[LatentCache, int]:
    """What ``make`` returns, and the memory that it left allocated."""
    tracemalloc.start()
    try:
        made = make()
        # Empties CPython's own lists of free tuples, which are no part of what is held.
        gc.collect()
        return made, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def qpu_provenance(number: int) -> Provenance:
    """Another draw each time, as long as that of a large one."""
    ids = tuple(f"{number:08x}-0000-4000-8000-{part:012x}" for part in range(16))
    timing = {f"qpu_{name}_time_per_sample": 1.5 * number for name in "abcdefgh"}
    notes = (f"the reads look {number} times hotter than any temperature", "flux-bias shim")
    return Provenance(
        "qpu",
        solver="S",
        graph_id="g",
        problem_ids=ids,
        beta=4.0 + number,
        qpu_timing_us=timing,
        notes=notes,
        elapsed_s={"draw": 0.1 * number, "refine": 0.2},
    )


def within_bound(cache: LatentCache, held: int, bound: int) -> int:
    status = cache.status()
    assert status["bytes"] <= status["max_bytes"] == bound
    assert held <= bound + 8192, (held, bound)
    return status["ready"]


def test_memory_of_large_draws(
    wide_machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker
) -> None:
    conditions = random_spins(rng, (200, 200))
    bound = 3_000_000
    spins = states_of(wide_machine, conditions[rng.integers(0, 200, 5000)], rng)

    def make() -> LatentCache:
        cache = LatentCache(wide_machine, bound)
        for number in range(5):
            cache.put(spins, qpu_provenance(number))
        return cache

    assert within_bound(*held_bytes(make), bound) > 15_000


def test_memory_of_draws_of_one_row(
    wide_machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker
) -> None:
    conditions, bound = random_spins(rng, (4, 200)), 300_000

    def make() -> LatentCache:
        cache = LatentCache(wide_machine, bound)
        for number in range(2000):
            elapsed_s = {"draw": 0.001 * number, "refine": 0.002}
            spins = states_of(wide_machine, conditions[[number % 4]], rng)
            assert cache.put(spins, Provenance("gibbs", sweeps=64, elapsed_s=elapsed_s)) == 1
        return cache

    assert within_bound(*held_bytes(make), bound) == 2000


@pytest.mark.parametrize("rows", [1, 100])
def test_memory_of_draws_of_many_conditions(
    rows: int, wide_machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker
) -> None:
    bound = 1_000_000
    conditions = random_spins(rng, (6000, 200))

    def make() -> LatentCache:
        cache = LatentCache(wide_machine, bound)
        for number in range(6000 // rows):
            mine = conditions[number * rows : (number + 1) * rows]
            cache.put(states_of(wide_machine, mine, rng), qpu_provenance(number))
        return cache

    cache, held = held_bytes(make)
    # What came last is there.
    assert cache.claim(conditions[-20:]).complete
    assert within_bound(cache, held, bound) > (40 if rows == 1 else 800)


def test_few_conditions_leave_more_room_for_states(
    wide_machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker
) -> None:
    bound = 1_000_000
    conditions = random_spins(rng, (8, 200))

    def make() -> LatentCache:
        cache = LatentCache(wide_machine, bound)
        for number in range(60):
            spins = states_of(wide_machine, conditions[rng.integers(0, 8, 100)], rng)
            cache.put(spins, Provenance("qpu", problem_ids=(str(number),)))
        return cache

    assert within_bound(*held_bytes(make), bound) > 3500


def test_what_is_unwanted_or_old_is_forgotten(
    machine: BoltzmannMachine, rng: np.random.Generator, levels: NDArray[np.int8], cache: LatentCache
) -> None:
    for number in range(2):
        assert cache.put(states_of(machine, levels[[0, 0, 1, 1, 2]], rng), qpu_provenance(number)) == 5
    assert cache.discard(lambda known: known.beta == 4.0) == 5
    assert cache.count(levels).tolist() == [2, 2, 1, 0]
    claim = cache.claim(levels[[0, 1]])
    assert claim.provenance.problem_ids == qpu_provenance(1).problem_ids
    assert cache.discard(lambda _: False, max_age_s=3600.0) == 0
    assert cache.discard(lambda _: False, max_age_s=-1.0) == 3
    assert (cache.status()["bytes"], cache.status()["discarded"]) == (0, 8)
    # What comes back is as old as it was.
    claim.give_back()
    assert cache.count(levels).tolist() == [1, 1, 0, 0]
    assert cache.discard(lambda _: False, max_age_s=0.0) == 2


def test_bad_rows_are_refused(levels: NDArray[np.int8], cache: LatentCache) -> None:
    refused: tuple[NDArray[Any], ...] = (levels[:, :2], levels.astype(np.int64))
    for conditions in refused:
        for ask in (cache.claim, cache.has, cache.count):
            with pytest.raises(InvalidInputError, match="conditions"):
                ask(conditions)
    for spins in (np.ones((2, 5), np.int8), np.zeros((2, FREE + WIDTH), np.int8)):
        with pytest.raises(InvalidInputError, match="spins"):
            cache.put(spins, DRAW)
