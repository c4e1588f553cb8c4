"""Unused reads of QPU draws are taken at once and cached later, as far as there is room."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.unused_reads import UnusedReads
from qshower.sampler.request import LatentRequest, SamplerOptions
from qshower.service.latent_cache.cached_reads import CachedReads
from qshower.service.latent_cache.unused_reads_queue import SLICE_ROWS, UnusedReadsQueue
from tests.conftest import MachineMaker, RequestMaker

QueueMaker = Callable[..., UnusedReadsQueue]


@dataclass(frozen=True)
class Left:
    """Reads of which nothing but its size matters here."""

    request: LatentRequest
    rows: int

    def slices(self, most_rows: int) -> "Iterator[Left]":
        for start in range(0, self.rows, most_rows):
            yield replace(self, rows=min(most_rows, self.rows - start))


LeftMaker = Callable[..., UnusedReads]


class Store:
    """Caches slices when it is allowed to."""

    name = "model"

    def __init__(self, machine: BoltzmannMachine) -> None:
        self.machine = machine
        self.gate, self.entered = threading.Event(), threading.Event()
        self.cached: list[tuple[int, str]] = []
        self.failure: Exception | None = None

    def put(self, reads: Left) -> int:
        self.entered.set()
        assert self.gate.wait(60)
        if self.failure is not None:
            raise self.failure
        self.cached.append((reads.rows, threading.current_thread().name))
        return reads.rows


@pytest.fixture
def machine(rng: np.random.Generator, random_machine: MachineMaker) -> BoltzmannMachine:
    return random_machine(rng)


@pytest.fixture
def left_by(machine: BoltzmannMachine, latent_request: RequestMaker) -> LeftMaker:
    """What a draw with these options leaves."""

    def make(rows: int, **options: Any) -> UnusedReads:
        conditions = np.ones((2, machine.condition_nodes.size), np.int8)
        left = Left(latent_request(machine, conditions, options=SamplerOptions(**options)), rows)
        return cast(UnusedReads, left)

    return make


@pytest.fixture
def store(machine: BoltzmannMachine) -> Store:
    return Store(machine)


@pytest.fixture
def queue_of(store: Store) -> Iterator[QueueMaker]:
    opened: list[UnusedReadsQueue] = []

    def make(**values: int) -> UnusedReadsQueue:
        opened.append(UnusedReadsQueue(pauses_s=(0.0, 0.0), **values))
        opened[-1].caches = [cast(CachedReads, store)]
        opened[-1].task.start()
        return opened[-1]

    yield make
    store.gate.set()
    for queue in opened:
        queue.close()


def settled(queue: UnusedReadsQueue) -> dict[str, Any]:
    """Its counts once nothing waits; the test's own time limit is the bound."""
    pause = threading.Event()
    while queue.status()["waiting"]:
        pause.wait(0.01)
    return queue.status()


def test_who_draws_does_not_wait(queue_of: QueueMaker, store: Store, left_by: LeftMaker) -> None:
    queue = queue_of()
    queue.receive(left_by(2 * SLICE_ROWS + 7))
    # The store is shut, and the draw has its answer.
    assert queue.status() == {"waiting": 2 * SLICE_ROWS + 7, "cached": 0, "dropped": 0, "last_error": None}
    store.gate.set()
    assert settled(queue) == {"waiting": 0, "cached": 2 * SLICE_ROWS + 7, "dropped": 0, "last_error": None}
    assert store.cached == [(SLICE_ROWS, "unused-reads"), (SLICE_ROWS, "unused-reads"), (7, "unused-reads")]


def test_what_finds_no_room_is_dropped_and_counted(queue_of: QueueMaker, store: Store, left_by: LeftMaker) -> None:
    queue = queue_of(most_waiting=SLICE_ROWS + 20)
    queue.receive(left_by(2 * SLICE_ROWS + 5))
    assert (queue.status()["waiting"], queue.status()["dropped"]) == (SLICE_ROWS + 5, SLICE_ROWS)
    queue.receive(left_by(15))
    queue.receive(left_by(1))
    store.gate.set()
    status = settled(queue)
    assert (status["cached"], status["dropped"]) == (SLICE_ROWS + 20, SLICE_ROWS + 1)


def test_what_a_store_does_not_take_counts_as_dropped(queue_of: QueueMaker, store: Store, left_by: LeftMaker) -> None:
    queue = queue_of()
    store.failure = OSError("no room")
    store.gate.set()
    queue.receive(left_by(3))
    counts = settled(queue)
    while queue.task.status()["running"]:
        threading.Event().wait(0.01)
    assert counts | queue.status() == {"waiting": 0, "cached": 0, "dropped": 3, "last_error": "OSError: no room"}
    # It goes on.
    store.failure = None
    queue.receive(left_by(4))
    assert (settled(queue)["cached"], queue.status()["dropped"]) == (4, 3)


def test_closing_waits_for_the_slice_in_hand_alone(queue_of: QueueMaker, store: Store, left_by: LeftMaker) -> None:
    queue = queue_of()
    queue.receive(left_by(3 * SLICE_ROWS))
    assert store.entered.wait(60)
    closing = threading.Thread(target=queue.close)
    closing.start()
    while queue.status()["dropped"] != 2 * SLICE_ROWS:
        threading.Event().wait(0.01)
    assert closing.is_alive()
    store.gate.set()
    closing.join()
    assert queue.status() == {"waiting": 0, "cached": SLICE_ROWS, "dropped": 2 * SLICE_ROWS, "last_error": None}
    # A draw that ends later loses nothing but what it left.
    queue.receive(left_by(5))
    assert (queue.status()["waiting"], queue.status()["dropped"]) == (0, 2 * SLICE_ROWS + 5)
    queue.close()


@pytest.mark.parametrize("options", [{"refine_sweeps": 3}, {"gauges": 1}, {"solver": "zephyr"}])
def test_what_options_drew_is_not_even_refined(
    queue_of: QueueMaker, store: Store, left_by: LeftMaker, options: dict[str, int]
) -> None:
    queue = queue_of()
    store.gate.set()
    queue.receive(left_by(3, **options))
    assert queue.status() == {"waiting": 0, "cached": 0, "dropped": 0, "last_error": None}
    # Neither a cap nor a number of reads makes reads of another kind.
    queue.receive(left_by(4, num_reads=50, max_qpu_access_time_us=1e6))
    assert settled(queue)["cached"] == 4
    assert not store.cached[1:]


def test_machines_of_no_model_are_left_alone(
    queue_of: QueueMaker, store: Store, left_by: LeftMaker, rng: np.random.Generator, random_machine: MachineMaker
) -> None:
    queue = queue_of()
    other = left_by(3)
    other = replace(other, request=replace(other.request, machine=random_machine(rng)))
    queue.receive(other)
    assert queue.status()["waiting"] == 0
    assert not store.entered.is_set()
