"""The reservoir: states are served once, in bounded memory, by a thread that ends when told to."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.errors import InvalidInputError, SamplerTimeoutError, SamplerUnavailableError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler, refine
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import LatentBatch, SamplerOptions
from qshower.sampler.reservoir import Reservoir, WarmChains
from qshower.sampler.stock import BOOKKEEPING_BYTES, CONDITION_BYTES, LEVEL_BYTES, LEVELS_SOURCES_BYTES

FREE, WIDTH = 45, 3
PER_STATE = 6 + BOOKKEEPING_BYTES


def room_for_others(states):
    """Bytes that hold as many states, each of a condition of its own that is no level."""
    return states * (PER_STATE + CONDITION_BYTES + 1) * 4 // 3 + 4


@pytest.fixture
def machine(rng, random_machine):
    return random_machine(rng, free=FREE, condition=WIDTH, coupling=0.1, density=0.2)


@pytest.fixture
def levels(rng, random_spins):
    return np.unique(random_spins(rng, (64, WIDTH)), axis=0)[:4]


class Counting:
    """Answers each row with a state no other row ever has: the free spins spell its stream's index. May fail."""

    name = "counting"

    def __init__(self, machine):
        self.machine, self.failure, self.calls, self.rows = machine, None, 0, 0
        self.asked = []

    def sample(self, request):
        self.calls += 1
        self.asked.append(request)
        if self.failure is not None:
            raise self.failure
        spins = np.empty((request.rows, self.machine.node_count), np.int8)
        bits = (request.streams[:, 1:2] >> np.arange(FREE, dtype=np.uint64)) & np.uint64(1)
        spins[:, self.machine.free_nodes] = 1
        spins[:, self.machine.free_nodes[:FREE]] = bits.astype(np.int8) * 2 - 1
        spins[:, self.machine.condition_nodes] = request.conditions
        self.rows += request.rows
        provenance = Provenance("counting", sweeps=self.calls, solver="S", qpu_access_time_us=5.0)
        return LatentBatch(spins, self.machine.energies(spins), provenance)

    def close(self):
        pass


def reservoir_of(machine, levels, sampler=None, **changes):
    settings = {"per_level": 10, "max_bytes": 60 * PER_STATE, "rows_per_refill": 16} | changes
    return Reservoir(sampler or Counting(machine), machine, levels, **settings)


def fill(reservoir):
    while reservoir.refill():
        pass


def distinct(spins):
    return len(np.unique(spins, axis=0))


def test_what_is_there_is_served_once_and_the_rest_is_missing(machine, levels):
    reservoir = reservoir_of(machine, levels)
    assert not reservoir.take(levels).served.any()
    fill(reservoir)
    asked = levels[[0] * 7 + [1] * 12 + [3]]
    taken = reservoir.take(asked)
    assert taken.served.tolist() == [True] * 7 + [True] * 10 + [False] * 2 + [True]
    assert taken.missing.tolist() == [17, 18]
    assert np.array_equal(taken.spins[:, machine.condition_nodes], asked[taken.served])
    again = reservoir.take(levels[[0] * 9])
    assert again.served.tolist() == [True] * 3 + [False] * 6
    assert distinct(np.concatenate([taken.spins, again.spins])) == 21
    # The first four of eight sorted conditions: none of them is the opposite of another.
    assert not reservoir.take(-levels).served.any()
    fill(reservoir)
    refilled = reservoir.take(np.repeat(levels, 10, axis=0))
    assert refilled.served.all()
    assert distinct(np.concatenate([taken.spins, again.spins, refilled.spins])) == 61


def test_refilling_asks_the_sampler_for_what_lacks_most_with_streams_never_used_before(machine, levels):
    sampler = Counting(machine)
    reservoir = reservoir_of(machine, levels, sampler, options=SamplerOptions(sweeps=9), deadline_s=3.0)
    fill(reservoir)
    assert [request.rows for request in sampler.asked] == [16, 16, 8]
    assert all(request.options.sweeps == 9 and request.deadline_s == 3.0 for request in sampler.asked)
    for request in sampler.asked[:2]:
        assert np.array_equal(np.unique(request.conditions, axis=0, return_counts=True)[1], [4] * 4)
    reservoir.take(levels[[2] * 6 + [0]])
    reservoir.refill()
    assert [int((sampler.asked[3].conditions == levels[n]).all(axis=1).sum()) for n in range(4)] == [1, 0, 6, 0]
    streams = np.concatenate([request.streams for request in sampler.asked])
    assert len(np.unique(streams, axis=0)) == 47
    other = Counting(machine)
    fill(reservoir_of(machine, levels, other))
    assert other.asked[0].streams[0, 0] != streams[0, 0], "two reservoirs drew with one seed"


def test_provenance_is_the_samplers_own_with_a_note(machine, levels):
    reservoir = reservoir_of(machine, levels)
    fill(reservoir)
    provenance = reservoir.take(levels[:2]).provenance
    assert (provenance.sampler, provenance.sweeps, provenance.solver) == ("counting", 1, "S")
    assert provenance.notes == ("reservoir: drawn before the request",)
    assert provenance.qpu_access_time_us is None
    assert reservoir.take(np.repeat(levels, 10, axis=0)).provenance.sweeps is None, "draws differ in their sweeps"


def test_deposits_of_levels_and_of_other_conditions(machine, rng, random_spins, levels):
    bound = 10 * PER_STATE + room_for_others(4)
    reservoir = reservoir_of(machine, levels[:1], max_bytes=bound)
    others = levels[1:]

    def states(condition, count):
        spins = random_spins(rng, (count, FREE + WIDTH))
        spins[:, machine.condition_nodes] = condition
        return spins

    mine = Provenance("qpu", problem_ids=("p",))
    assert reservoir.deposit(states(levels[0], 12), mine) == 12
    # What is beyond a level's own places makes room for others.
    assert reservoir.deposit(states(others[0], 3), mine) == 3
    assert reservoir.has(levels[[0] * 12]).tolist() == [True] * 11 + [False]
    assert reservoir.take(levels[[0] * 12]).served.sum() == 11
    assert reservoir.deposit(states(levels[0], 10), mine) == 10
    assert reservoir.deposit(states(others[1], 3), mine) == 3
    # Room for 4 in all: the oldest condition gave two of its states up.
    assert reservoir.take(others[[0] * 3 + [1] * 3]).served.tolist() == [True, False, False, True, True, True]
    assert reservoir.deposit(states(others[2], 9), mine) == 4
    taken = reservoir.take(levels[[0] * 11])
    assert taken.served.sum() == 10
    assert taken.provenance.problem_ids == ("p",)
    # More conditions in one deposit than there is room for: the last ones stay.
    mixed = np.concatenate([states(others[n % 3], 1) for n in range(12)])
    assert reservoir.deposit(mixed, mine) >= 4
    assert reservoir.status()["bytes"] <= bound + LEVELS_SOURCES_BYTES


def test_asked_for_conditions_outlive_others(machine, rng, random_spins, levels):
    reservoir = reservoir_of(machine, levels[:0], max_bytes=room_for_others(4))
    spins = random_spins(rng, (6, FREE + WIDTH))
    spins[:, machine.condition_nodes] = levels[[0, 0, 1, 1, 2, 2]]
    assert reservoir.deposit(spins[:4], Provenance("qpu")) == 4
    assert reservoir.take(levels[:1]).served.all()
    reservoir.deposit(spins[4:], Provenance("qpu"))
    # Of the two older conditions the one asked for last has kept its state.
    assert reservoir.take(levels[[0, 1, 1, 2, 2]]).served.tolist() == [True, True, False, True, True]


@pytest.fixture
def wide_machine(rng, random_machine):
    return random_machine(rng, free=800, condition=200, density=0.01)


def held_bytes(make):
    """What ``make`` returns, and the memory that it left allocated."""
    tracemalloc.start()
    try:
        made = make()
        # Empties CPython's own lists of free tuples, which are no part of what is held.
        gc.collect()
        return made, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def states_of(machine, conditions, count, generator):
    spins = generator.choice(np.array([-1, 1], np.int8), (count, machine.node_count))
    spins[:, machine.condition_nodes] = conditions
    return spins


def qpu_provenance(number):
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


def within_bound(reservoir, held, bound, levels=0):
    status = reservoir.status()
    assert status["bytes"] <= status["max_bytes"] <= bound + LEVELS_SOURCES_BYTES
    assert held <= bound + LEVELS_SOURCES_BYTES + LEVEL_BYTES * levels + 4096, (held, bound)
    return status["ready"]


def test_memory_of_large_deposits(wide_machine, rng, random_spins):
    levels = random_spins(rng, (200, 200))
    bound = 20_000 * (125 + BOOKKEEPING_BYTES)
    spins = states_of(wide_machine, levels[rng.integers(0, 200, 5000)], 5000, rng)

    def make():
        reservoir = Reservoir(Counting(wide_machine), wide_machine, levels, per_level=60, max_bytes=bound)
        for number in range(5):
            reservoir.deposit(spins, qpu_provenance(number))
        return reservoir

    assert within_bound(*held_bytes(make), bound, 200) > 12_000


def test_memory_of_refills_of_one_row(wide_machine, rng, random_spins):
    levels = random_spins(rng, (4, 200))
    bound = 4 * 500 * (125 + BOOKKEEPING_BYTES)

    class Timed(Counting):
        def sample(self, request):
            batch = super().sample(request)
            elapsed_s = {"draw": 0.001 * self.calls, "refine": 0.002}
            return LatentBatch(batch.spins, batch.energies, Provenance("counting", sweeps=64, elapsed_s=elapsed_s))

    def make():
        # A sampler that remembers nothing of what it was asked.
        sampler = Timed(wide_machine)
        sampler.asked = deque(maxlen=0)
        reservoir = Reservoir(sampler, wide_machine, levels, per_level=500, max_bytes=bound, rows_per_refill=1)
        fill(reservoir)
        return reservoir

    assert within_bound(*held_bytes(make), bound, 4) == 2000


@pytest.mark.parametrize("rows", [1, 100])
def test_memory_of_deposits_of_many_conditions(rows, wide_machine, rng, random_spins):
    bound = 1_000_000
    conditions = random_spins(rng, (6000, 200))

    def make():
        reservoir = Reservoir(Counting(wide_machine), wide_machine, conditions[:0], per_level=1, max_bytes=bound)
        for number in range(6000 // rows):
            mine = conditions[number * rows : (number + 1) * rows]
            reservoir.deposit(states_of(wide_machine, mine, rows, rng), qpu_provenance(number))
        return reservoir

    reservoir, held = held_bytes(make)
    # What came last is there.
    assert reservoir.take(conditions[-20:]).served.all()
    assert within_bound(reservoir, held, bound) > (40 if rows == 1 else 1000)


def test_few_conditions_leave_more_room_for_states(wide_machine, rng, random_spins):
    bound = 1_000_000
    conditions = random_spins(rng, (12, 200))

    def make():
        reservoir = Reservoir(
            Counting(wide_machine), wide_machine, conditions[:0], per_level=1, max_bytes=bound, conditions=8
        )
        for number in range(60):
            mine = conditions[rng.integers(0, 8, 100)]
            reservoir.deposit(states_of(wide_machine, mine, 100, rng), Provenance("qpu", problem_ids=(str(number),)))
        return reservoir

    reservoir, held = held_bytes(make)
    assert within_bound(reservoir, held, bound) > 3500
    # Of more conditions than were announced, those asked for longest ago go.
    assert reservoir.deposit(states_of(wide_machine, conditions[8:], 4, rng), Provenance("qpu")) == 4
    assert reservoir.has(conditions).sum() == 8


def test_draws_that_levels_have_no_room_for_are_not_asked_for_again(machine, levels):
    class Wordy(Counting):
        def sample(self, request):
            batch = super().sample(request)
            return LatentBatch(batch.spins, batch.energies, qpu_provenance(self.calls))

    sampler = Wordy(machine)
    reservoir = reservoir_of(machine, levels, sampler, max_bytes=40 * PER_STATE, rows_per_refill=4)
    for _ in range(20):
        reservoir.refill() if reservoir.lacks else None
    assert 0 < reservoir.status()["ready"] < 40
    # Nor once for nothing.
    assert reservoir.status()["refilled"] == sampler.rows
    assert sampler.calls < 10
    # Serving a whole draw makes room again.
    assert not reservoir.lacks
    reservoir.take(np.repeat(levels, 10, axis=0))
    assert reservoir.lacks


def test_timing_of_a_draw_counts_once(machine, rng, levels):
    reservoir = reservoir_of(machine, levels)
    for _ in range(2):
        reservoir.deposit(states_of(machine, levels, 4, rng), qpu_provenance(2))
    taken = reservoir.take(levels[[0, 0, 1, 1]])
    assert taken.served.all()
    assert taken.provenance.qpu_timing_us == qpu_provenance(2).qpu_timing_us
    reservoir.give_back(taken)
    assert reservoir.take(levels[[0, 0, 1, 1]]).provenance.qpu_timing_us == qpu_provenance(2).qpu_timing_us


def test_what_is_unwanted_or_old_is_forgotten(machine, rng, levels):
    reservoir = reservoir_of(machine, levels[:1], per_level=3, max_bytes=3 * PER_STATE + room_for_others(10))
    for number in range(2):
        reservoir.deposit(states_of(machine, levels[[0, 0, 1, 1, 2]], 5, rng), qpu_provenance(number))
    assert reservoir.discard(lambda known: known.beta == 4.0) == 5
    assert reservoir.has(levels[[0, 0, 0, 1, 1, 1, 2, 2]]).tolist() == [
        True,
        True,
        False,
        True,
        True,
        False,
        True,
        False,
    ]
    taken = reservoir.take(levels[[0, 1]])
    assert taken.provenance.problem_ids == qpu_provenance(1).problem_ids
    assert reservoir.discard(lambda _: False, max_age_s=3600.0) == 0
    assert reservoir.discard(lambda _: False, max_age_s=-1.0) == 3
    assert reservoir.status()["bytes"] == 0
    assert reservoir.status()["discarded"] == 8
    # What comes back is as old as it was.
    assert reservoir.give_back(taken) == 2
    assert reservoir.discard(lambda _: False, max_age_s=0.0) == 2


def test_concurrent_takers_never_get_the_same_state(machine, levels):
    sampler = Counting(machine)
    served = []

    def taker(number):
        mine = []
        generator = np.random.default_rng(number)
        while len(mine) < 40:
            taken = reservoir.take(levels[generator.integers(0, 4, 5)])
            mine.extend(taken.spins)
        return mine

    with reservoir_of(machine, levels, sampler) as reservoir, ThreadPoolExecutor(8) as pool:
        for mine in pool.map(taker, range(8)):
            served.extend(mine)
    assert len(served) >= 320
    assert distinct(np.array(served)) == len(served)
    assert sampler.rows >= len(served)


def advancing(seen):
    """A refinement that turns each state into one never seen: it counts upwards in the free spins."""

    def refined(machine, spins, sweeps, streams):
        seen.append((sweeps, streams.copy()))
        fresh = (np.uint64(1) << np.uint64(40)) + streams[:, 1:2]
        moved = spins.copy()
        bits = (fresh >> np.arange(FREE, dtype=np.uint64)) & np.uint64(1)
        moved[:, machine.free_nodes] = bits.astype(np.int8) * 2 - 1
        return moved

    return refined


def test_warm_chains_advance_between_servings_and_are_renewed(machine, levels):
    sampler, seen = Counting(machine), []
    warm = WarmChains(advancing(seen), sweeps=50, tau_sweeps=4.5, renew_after=3)
    reservoir = reservoir_of(machine, levels, sampler, warm=warm, rows_per_refill=100)
    served = []
    for _ in range(6):
        fill(reservoir)
        taken = reservoir.take(np.repeat(levels, 10, axis=0))
        assert taken.served.all()
        assert not reservoir.take(levels).served.any(), "a chain was served again before it had advanced"
        served.append(taken.spins)
    assert distinct(np.concatenate(served)) == 240
    # Each chain is drawn, advanced twice, and given up: 40 rows in draws 1 and 4, 40 advanced in between.
    assert sampler.rows == 80
    assert [len(streams) for _, streams in seen] == [40] * 4
    assert {sweeps for sweeps, _ in seen} == {50}
    assert "advanced by 50 sweeps" in taken.provenance.notes[-1]
    streams = np.concatenate([streams for _, streams in seen] + [request.streams for request in sampler.asked])
    assert len(np.unique(streams, axis=0)) == 240


def test_failed_advance_or_draw_leaves_the_stock_as_it_was(machine, levels):
    sampler = Counting(machine)
    failing = [True]

    def refined(machine, spins, sweeps, streams):
        if failing[0]:
            raise SamplerTimeoutError("late")
        return advancing([])(machine, spins, sweeps, streams)

    reservoir = reservoir_of(
        machine, levels, sampler, warm=WarmChains(refined, sweeps=10, tau_sweeps=1.0), rows_per_refill=100
    )
    sampler.failure = SamplerTimeoutError("late")
    with pytest.raises(SamplerTimeoutError):
        reservoir.refill()
    assert reservoir.status()["bytes"] == 0
    sampler.failure = None
    fill(reservoir)
    reservoir.take(levels)
    with pytest.raises(SamplerTimeoutError):
        fill(reservoir)
    assert reservoir.status()["ready"] == 36
    failing[0] = False
    fill(reservoir)
    assert reservoir.status()["ready"] == 40


def test_chains_that_lose_their_condition_are_not_served(machine, levels):
    def careless(machine, spins, sweeps, streams):
        return -spins

    reservoir = reservoir_of(machine, levels, warm=WarmChains(careless, sweeps=10, tau_sweeps=1.0))
    fill(reservoir)
    reservoir.take(levels)
    with pytest.raises(Exception, match="do not hold their condition"):
        reservoir.refill()


def wait_until(condition):
    """Wait for what another thread does; the test's own time limit is the bound."""
    event = threading.Event()
    while not condition():
        event.wait(0.005)


def test_the_thread_fills_waits_while_busy_and_ends(machine, levels):
    before = threading.active_count()
    busy = threading.Event()
    sampler = Counting(machine)
    reservoir = reservoir_of(machine, levels, sampler, idle=lambda: not busy.is_set())
    assert sampler.calls == 0
    with reservoir:
        wait_until(lambda: reservoir.status()["ready"] == 40)
        reservoir.start()
        assert threading.active_count() == before + 1
        busy.set()
        reservoir.take(levels)
        wait_until(lambda: reservoir.status()["ready"] == 36)
        calls = sampler.calls
        busy.clear()
        wait_until(lambda: reservoir.status()["ready"] == 40)
        assert sampler.calls == calls + 1
        assert reservoir.status()["running"]
    reservoir.close()
    assert not reservoir.status()["running"]
    assert threading.active_count() == before
    assert reservoir.take(levels).served.all(), "what is in stock can be taken after closing"
    with pytest.raises(SamplerUnavailableError, match="closed"):
        reservoir.start()


def test_the_thread_survives_failures_and_says_what_they_were(machine, levels, monkeypatch):
    monkeypatch.setattr("qshower.sampler.reservoir._FIRST_PAUSE_S", 0.01)
    sampler = Counting(machine)
    sampler.failure = SamplerUnavailableError("solver offline", retry_after_s=0.0)
    with reservoir_of(machine, levels, sampler) as reservoir:
        wait_until(lambda: sampler.calls >= 3)
        assert reservoir.status()["last_error"] == "SamplerUnavailableError: solver offline"
        sampler.failure = None
        wait_until(lambda: reservoir.status()["ready"] == 40)
        wait_until(lambda: reservoir.status()["last_error"] is None)


def test_closing_before_starting_and_twice(machine, levels):
    reservoir = reservoir_of(machine, levels)
    reservoir.close()
    reservoir.close()
    assert not reservoir.status()["running"]


@pytest.mark.parametrize("kind", ["gibbs warm", "gibbs", "annealing"])
def test_real_samplers_fill_it(kind, machine, levels):
    warm = WarmChains(refine, sweeps=20, tau_sweeps=2.0) if kind == "gibbs warm" else None
    sampler = AnnealingSampler() if kind == "annealing" else GibbsSampler()
    with sampler, reservoir_of(machine, levels, sampler, options=SamplerOptions(sweeps=8), warm=warm) as reservoir:
        for _ in range(2):
            wait_until(lambda: reservoir.status()["ready"] == 40)
            taken = reservoir.take(np.repeat(levels, 10, axis=0))
            assert taken.served.all()
            # 45 nearly free spins: equal rows come with a chance of about 1e-10.
            assert distinct(taken.spins) == 40
            assert taken.provenance.sampler == sampler.name


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("per_level", {"per_level": 0}),
        ("rows_per_refill", {"rows_per_refill": 0}),
        ("max_bytes", {"max_bytes": 40 * PER_STATE - 1}),
        ("levels", {"levels": np.ones((2, WIDTH + 1), np.int8)}),
        ("levels", {"levels": np.zeros((2, WIDTH), np.int8)}),
    ],
)
def test_bad_arguments_are_refused(field, changes, machine, levels):
    settings = dict(changes)
    chosen = settings.pop("levels", levels)
    with pytest.raises(InvalidInputError) as caught:
        reservoir_of(machine, chosen, **settings)
    assert caught.value.field == field


def test_bad_rows_are_refused(machine, levels):
    reservoir = reservoir_of(machine, levels)
    for conditions in (levels[:, :2], levels.astype(np.int64)):
        with pytest.raises(InvalidInputError, match="conditions"):
            reservoir.take(conditions)
    for spins in (np.ones((2, 5), np.int8), np.zeros((2, FREE + WIDTH), np.int8)):
        with pytest.raises(InvalidInputError, match="spins"):
            reservoir.deposit(spins, Provenance("qpu"))


@pytest.mark.parametrize(
    ("field", "changes"),
    [("sweeps", {"sweeps": 49}), ("tau_sweeps", {"tau_sweeps": 0.5}), ("renew_after", {"renew_after": 0})],
)
def test_warm_chains_advance_by_ten_autocorrelation_times_at_least(field, changes):
    with pytest.raises(InvalidInputError) as caught:
        WarmChains(refine, **({"sweeps": 50, "tau_sweeps": 5.0} | changes))
    assert caught.value.field == field


def test_refills_can_wait_until_a_level_is_low(machine, levels):
    """Below half of 8 all levels are filled that have less than three quarters; the others are left alone."""
    sampler = Counting(machine)
    reservoir = Reservoir(sampler, machine, levels, per_level=8, max_bytes=4000, low=0.5, rows_per_refill=100)
    assert reservoir.lacks
    assert reservoir.refill() == 32
    assert not reservoir.lacks
    for row, served in enumerate((4, 3, 2, 1)):
        reservoir.take(levels[[row] * served])
        assert not reservoir.lacks
    assert reservoir.count(levels).tolist() == [4, 5, 6, 7]
    reservoir.take(levels[:1])
    assert reservoir.lacks
    assert reservoir.refill() == 5 + 3
    assert reservoir.count(levels).tolist() == [8, 8, 6, 7]
    assert not reservoir.lacks


def test_what_was_deposited_beside_the_levels_own_places_counts_before_more_is_drawn(machine, levels):
    sampler = Counting(machine)
    room = 4 * 8 * PER_STATE + room_for_others(40)
    reservoir = Reservoir(sampler, machine, levels, per_level=8, max_bytes=room, low=0.5, rows_per_refill=100)
    reservoir.refill()
    states = reservoir.take(levels[[0] * 8]).spins
    reservoir.refill()
    assert reservoir.deposit(states, Provenance("elsewhere")) == 8
    assert reservoir.count(levels[[0, 1, 0]]).tolist() == [16, 8, 16]
    reservoir.take(levels[[0] * 12])
    assert not reservoir.lacks
    reservoir.take(levels[:1])
    assert reservoir.lacks


@pytest.mark.parametrize("low", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_below_which_to_refill_is_one(machine, levels, low):
    with pytest.raises(InvalidInputError, match="low"):
        Reservoir(Counting(machine), machine, levels, per_level=8, max_bytes=4000, low=low)


def test_parts_of_what_was_taken_add_up_to_it(machine, levels, latent_request):
    reservoir = Reservoir(Counting(machine), machine, levels[:0], per_level=1, max_bytes=room_for_others(40))
    spins = Counting(machine).sample(latent_request(machine, levels[[0, 0, 1, 1, 1]])).spins
    timing = {"qpu_programming_time": 10.0}
    for number, rows in enumerate((slice(0, 2), slice(2, 4), slice(4, 5))):
        drawn = Provenance("qpu", problem_ids=(f"problem {number}",), qpu_access_time_us=9.0, qpu_timing_us=timing)
        assert reservoir.deposit(spins[rows], drawn) == rows.stop - rows.start
    taken = reservoir.take(levels[[0, 1, 1, 0, 1]], whole=True)
    assert taken.served.all()
    pieces = [taken.part(0, 2), taken.part(2, 5)]
    assert np.array_equal(np.concatenate([piece for piece, _ in pieces]), taken.spins)
    told = [provenance for _, provenance in pieces]
    assert [one.problem_ids for one in told] == [("problem 0", "problem 1"), ("problem 0", "problem 1", "problem 2")]
    assert [one.qpu_timing_us for one in told] == [{"qpu_programming_time": 20.0}, {"qpu_programming_time": 10.0}]
    assert taken.provenance.qpu_timing_us == {"qpu_programming_time": 30.0}
    assert {one.qpu_access_time_us for one in told} == {0.0}
    assert {one.notes for one in told} == {taken.provenance.notes}
