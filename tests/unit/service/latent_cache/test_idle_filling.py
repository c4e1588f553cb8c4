"""Filling latent caches: with what they lack most, from streams never used before, and while idle alone."""

import threading
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.latent_cache import LatentCache
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.protocol import Sampler
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions
from qshower.service.latent_cache.idle_filling import FIRST_ROWS, FilledCache, IdleFilling, emptiest
from tests.conftest import MachineMaker, SpinMaker

CacheMaker = Callable[..., FilledCache]

FREE, WIDTH, PER_CONDITION = 45, 3, 10


@pytest.fixture
def machine(rng: np.random.Generator, random_machine: MachineMaker) -> BoltzmannMachine:
    return random_machine(rng, free=FREE, condition=WIDTH, coupling=0.1, density=0.2)


@pytest.fixture
def conditions(rng: np.random.Generator, random_spins: SpinMaker) -> NDArray[np.int8]:
    return np.unique(random_spins(rng, (64, WIDTH)), axis=0)[:4]


class Counting:
    """Answers each row with a state no other row ever has: the free spins spell its stream's index. May fail."""

    name = "counting"

    def __init__(self, machine: BoltzmannMachine) -> None:
        self.machine, self.called = machine, threading.Semaphore(0)
        self.failure: Exception | None = None
        self.asked: list[LatentRequest] = []

    def sample(self, request: LatentRequest) -> LatentBatch:
        self.asked.append(request)
        self.called.release()
        if self.failure is not None:
            raise self.failure
        spins = np.empty((request.rows, self.machine.node_count), np.int8)
        bits = (request.streams[:, 1:2] >> np.arange(FREE, dtype=np.uint64)) & np.uint64(1)
        spins[:, self.machine.free_nodes] = bits.astype(np.int8) * 2 - 1
        spins[:, self.machine.condition_nodes] = request.conditions
        return LatentBatch(spins, self.machine.energies(spins), Provenance("counting", sweeps=9))


@pytest.fixture
def sampler(machine: BoltzmannMachine) -> Counting:
    return Counting(machine)


@pytest.fixture
def cache_of(machine: BoltzmannMachine, conditions: NDArray[np.int8], sampler: Counting) -> CacheMaker:
    def make(by: Sampler | None = None, *, max_bytes: int = 100_000, **options: bool) -> FilledCache:
        cache = LatentCache(machine, max_bytes)
        chosen = SamplerOptions(sweeps=9)
        return FilledCache(
            "model", by or cast(Sampler, sampler), machine, conditions, PER_CONDITION, cache, chosen, **options
        )

    return make


def fill(filled: FilledCache) -> None:
    while filled.lacks:
        filled.fill()


def test_it_draws_what_lacks_most_with_streams_never_used_before(
    cache_of: CacheMaker, sampler: Counting, conditions: NDArray[np.int8]
) -> None:
    filled = cache_of()
    fill(filled)
    assert filled.cache.count(conditions).tolist() == [PER_CONDITION] * 4
    assert sum(request.rows for request in sampler.asked) == 4 * PER_CONDITION
    assert sampler.asked[0].rows == FIRST_ROWS
    assert np.array_equal(np.unique(sampler.asked[0].conditions, axis=0, return_counts=True)[1], [FIRST_ROWS // 4] * 4)
    assert all(request.options.sweeps == 9 and request.deadline_s for request in sampler.asked)
    claim = filled.cache.claim(conditions[[2] * 6 + [0]])
    asked = len(sampler.asked)
    fill(filled)
    drawn = np.concatenate([request.conditions for request in sampler.asked[asked:]])
    assert [int((drawn == one).all(axis=1).sum()) for one in conditions] == [1, 0, 6, 0]
    spins = np.concatenate([claim.spins(), filled.cache.claim(np.repeat(conditions, PER_CONDITION, axis=0)).spins()])
    assert len(np.unique(spins, axis=0)) == len(spins) == 47
    streams = np.concatenate([request.streams for request in sampler.asked])
    assert len(np.unique(streams, axis=0)) == 47
    other = cache_of()
    fill(other)
    assert sampler.asked[-1].streams[0, 0] != streams[0, 0], "two caches were filled with one seed"


def test_the_emptiest_bins_come_first() -> None:
    assert emptiest(np.array([1, 0, 3, 2]), 3).tolist() == [2, 2, 3]
    assert emptiest(np.array([1, 0, 3, 2]), 99).tolist() == [2, 2, 3, 0, 2, 3]
    assert emptiest(np.array([0, -4]), 5).tolist() == []


def test_states_that_come_otherwise_count(
    cache_of: CacheMaker, sampler: Counting, conditions: NDArray[np.int8]
) -> None:
    filled = cache_of()
    fill(filled)
    claim = filled.cache.claim(conditions[[0] * 5])
    claim.give_back()
    assert not filled.lacks


def test_nothing_is_drawn_that_there_is_no_room_for(cache_of: CacheMaker, sampler: Counting) -> None:
    filled = cache_of(max_bytes=5000)
    fill(filled)
    ready = filled.status()["ready"]
    assert 0 < ready < 4 * PER_CONDITION == filled.status()["wanted"]
    assert sum(request.rows for request in sampler.asked) == ready
    assert filled.status()["bytes"] <= 5000


def test_a_failed_draw_leaves_the_cache_as_it_was(cache_of: CacheMaker, sampler: Counting) -> None:
    filled = cache_of()
    sampler.failure = SamplerUnavailableError("away")
    with pytest.raises(SamplerUnavailableError):
        filled.fill()
    assert filled.status()["bytes"] == 0
    sampler.failure = None
    fill(filled)
    assert filled.status()["ready"] == 4 * PER_CONDITION


def test_it_fills_while_idle_alone_and_what_is_wanted_alone(
    cache_of: CacheMaker, machine: BoltzmannMachine, sampler: Counting
) -> None:
    unasked = Counting(machine)
    idle = [False]
    filled, unwanted = cache_of(), cache_of(unasked, wanted=False)
    filling = IdleFilling(lambda: idle[0])
    filling.caches = [unwanted, filled]
    assert filling.task.check() is None
    assert sampler.asked == []
    idle[0] = True
    filling.task.start()
    drawn = 0
    while drawn < 4 * PER_CONDITION:
        assert sampler.called.acquire(timeout=60)
        drawn = sum(request.rows for request in sampler.asked)
    filling.task.close()
    assert filled.status()["ready"] == 4 * PER_CONDITION
    assert unasked.asked == []
    unwanted.wanted = True
    assert filling.task.check() == "model"
    assert unasked.asked


@pytest.mark.parametrize("kind", [GibbsSampler, AnnealingSampler])
def test_real_samplers_fill_it(
    kind: type[AnnealingSampler] | type[GibbsSampler], cache_of: CacheMaker, conditions: NDArray[np.int8]
) -> None:
    with kind() as sampler:
        filled = cache_of(sampler)
        fill(filled)
    claim = filled.cache.claim(np.repeat(conditions, PER_CONDITION, axis=0))
    assert claim.complete
    # 45 nearly free spins: equal rows come with a chance of about 1e-10.
    assert len(np.unique(claim.spins(), axis=0)) == 4 * PER_CONDITION
    assert (claim.provenance.sampler, claim.provenance.from_cache) == (sampler.name, True)
