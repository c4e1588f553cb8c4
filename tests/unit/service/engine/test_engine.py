"""The queue in front of the samplers: batches, fairness, bounds, failures, cancellation, shutdown."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.model.bundle import Bundle, load_bundle
from qshower.sampler.errors import SamplerAnswerError, SamplerCancelledError, SamplerUnavailableError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler, warm_up
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.protocol import Availability, SamplerCapabilities
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions, streams_of
from qshower.service.engine.admission import Limits
from qshower.service.engine.engine import Engine
from qshower.service.engine.queued_request import QueuedRequest
from qshower.service.engine.work import DrawKey, Drawn, Work
from qshower.service.metrics import Metrics
from qshower.service.service_errors import NotReadyError, QueueFullError
from tests.polling import holds_in_loop, until_in_loop

Answer = TypeVar("Answer")

OPTIONS = SamplerOptions(sweeps=8)
LIMITS = Limits(64, 10_000, 100, 1 << 40, 30.0)


class GatedSampler:
    """Gibbs sampling behind a gate; remembers the rows and deadline of each batch, and fails when it is told to."""

    def __init__(self) -> None:
        self._gibbs = GibbsSampler(threads=1)
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.deadlines: list[float | None] = []
        self.failure: Exception | None = None
        self.stopped: list[SamplerCancelledError] = []

    name = "gibbs"

    @property
    def capabilities(self) -> SamplerCapabilities:
        return self._gibbs.capabilities

    def availability(self, machine: BoltzmannMachine) -> Availability:
        return self._gibbs.availability(machine)

    def sample(self, request: LatentRequest) -> LatentBatch:
        self.batches.append(request.rows)
        self.deadlines.append(request.deadline_s)
        assert self.gate.wait(30)
        if self.failure is not None:
            raise self.failure
        try:
            return self._gibbs.sample(request)
        except SamplerCancelledError as error:
            self.stopped.append(error)
            raise


@pytest.fixture(scope="module")
def bundle(untrained_bundles: Path) -> Bundle:
    found = load_bundle(untrained_bundles / "test-zephyr")
    warm_up()  # so that no test waits for compilers
    found.decode(np.ones((1, found.machine.node_count), np.int8), np.full(1, 5e4), np.zeros((1, 2), np.uint64), 0.0)
    return found


class Bench:
    """An engine and its sampler, with a short way to submit."""

    def __init__(self, bundle: Bundle, limits: Limits) -> None:
        self.bundle, self.sampler, self.metrics = bundle, GatedSampler(), Metrics()
        self.engine = Engine(limits, self.metrics)

    def submit(
        self,
        rows: int,
        seed: int = 1,
        *,
        threshold: float = 0.0,
        options: SamplerOptions = OPTIONS,
        deadline_at: float | None = None,
    ) -> QueuedRequest:
        streams = streams_of(seed, rows)
        key = DrawKey(self.bundle.name, "gibbs", options, threshold)
        return self.submit_of(key, self.bundle, streams, deadline_at)

    def submit_of(
        self, key: DrawKey, bundle: Bundle, streams: NDArray[np.uint64], deadline_at: float | None = None
    ) -> QueuedRequest:
        energies = np.full(len(streams), 5e4)
        conditions = self.bundle.conditions(energies)
        return self.engine.submit(Work(key, bundle, self.sampler, energies, conditions, streams, deadline_at))

    async def blocked(self) -> QueuedRequest:
        """A request that holds the lane until the gate opens."""
        self.sampler.gate.clear()
        request = self.submit(1, seed=99)
        await until_in_loop(lambda: self.sampler.batches)
        return request


class OnBench(Protocol):
    """Runs a coroutine function with a bench whose engine has these limits, in an event loop of its own."""

    def __call__(self, work: Callable[[Bench], Awaitable[Answer]], **limits: int) -> Answer: ...


@pytest.fixture
def on_bench(bundle: Bundle) -> OnBench:
    """Runs a coroutine function with a bench, in an event loop of its own."""

    def run(work: Callable[[Bench], Awaitable[Answer]], **limits: int) -> Answer:
        async def whole() -> Answer:
            values = {name: limits.get(name, getattr(LIMITS, name)) for name in LIMITS.__slots__}
            bench = Bench(bundle, Limits(**values))
            try:
                return await asyncio.wait_for(work(bench), 60)
            finally:
                bench.sampler.gate.set()
                await bench.engine.close(10)

        return asyncio.run(whole())

    return run


def test_what_gathers_while_the_lane_is_busy_goes_together(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> tuple[list[int], list[Drawn]]:
        first = await bench.blocked()
        others = [bench.submit(rows, seed) for seed, rows in enumerate((3, 5, 7))]
        bench.sampler.gate.set()
        return bench.sampler.batches, [await request.whole() for request in (first, *others)]

    batches, drawn = on_bench(work)
    assert batches == [1, 15]
    assert [answer.showers_mev.shape[0] for answer in drawn] == [1, 3, 5, 7]
    assert [part.share for answer in drawn[1:] for part in answer.parts] == [3 / 15, 5 / 15, 7 / 15]


def test_company_changes_no_shower(on_bench: OnBench) -> None:
    async def together(bench: Bench) -> list[NDArray[np.float32]]:
        await bench.blocked()
        requests = [bench.submit(20, seed) for seed in range(5)]
        bench.sampler.gate.set()
        return [(await request.whole()).showers_mev for request in requests]

    async def alone(bench: Bench) -> list[NDArray[np.float32]]:
        return [(await bench.submit(20, seed).whole()).showers_mev for seed in range(5)]

    for company, own in zip(on_bench(together, max_batch_rows=32), on_bench(alone), strict=True):
        assert np.array_equal(company, own)


def test_requests_that_differ_are_drawn_apart(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> tuple[list[int], list[int | None]]:
        await bench.blocked()
        requests = [
            bench.submit(2),
            bench.submit(2, threshold=1.0),
            bench.submit(2, options=SamplerOptions(sweeps=9)),
            bench.submit(2),
        ]
        bench.sampler.gate.set()
        answers = [await request.whole() for request in requests]
        return bench.sampler.batches, [answer.parts[0].provenance.sweeps for answer in answers]

    batches, sweeps = on_bench(work)
    assert batches == [1, 4, 2, 2]
    assert sweeps == [8, 8, 9, 8]


def test_one_shower_does_not_wait_behind_many(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> tuple[list[int], Drawn]:
        await bench.blocked()
        large, small = bench.submit(200), bench.submit(1)
        bench.sampler.gate.set()
        await small.whole()
        return bench.sampler.batches, await large.whole()

    batches, answer = on_bench(work)
    assert batches == [1, 64, 64, 64, 9]
    # The lone shower had a place in the first batch after it came.
    assert (answer.parts[0].start, answer.parts[0].stop) == (0, 63)
    assert answer.parts[-1].stop == 200


def test_the_sampler_does_not_run_far_ahead_of_the_decoder(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> tuple[int, int]:
        gate = threading.Event()

        class Slow:
            def __getattr__(self, name: str) -> object:
                return getattr(bench.bundle, name)

            def decode(self, *arguments: Any) -> NDArray[np.float32]:
                assert gate.wait(30)
                return bench.bundle.decode(*arguments)

        slow, streams = Slow(), np.zeros((640, 2), dtype=np.uint64)
        key = DrawKey("slow", "gibbs", OPTIONS, 0.0)
        request = bench.submit_of(key, cast(Bundle, slow), streams)
        await until_in_loop(lambda: len(bench.sampler.batches) == 2)
        await holds_in_loop(lambda: len(bench.sampler.batches) == 2)
        ahead = len(bench.sampler.batches)
        gate.set()
        await request.whole()
        return ahead, len(bench.sampler.batches)

    assert on_bench(work) == (2, 10)


def test_the_bounds_of_the_queue(on_bench: OnBench) -> None:
    async def rows(bench: Bench) -> tuple[float, int, int]:
        await bench.blocked()
        bench.submit(50)
        with pytest.raises(QueueFullError, match="51 showers are waiting; 60 more") as caught:
            bench.submit(60)
        return caught.value.retry_after_s, bench.engine.queued_rows, bench.engine.queued_requests

    retry_after_s, rows_waiting, requests_waiting = on_bench(rows, max_queue_rows=100)
    assert 1.0 <= retry_after_s <= 600.0
    assert (rows_waiting, requests_waiting) == (51, 2)

    async def requests(bench: Bench) -> None:
        await bench.blocked()
        bench.submit(1)
        with pytest.raises(QueueFullError, match="2 requests are waiting"):
            bench.submit(1)

    on_bench(requests, max_queue_requests=2)

    async def memory(bench: Bench) -> None:
        await bench.blocked()
        with pytest.raises(QueueFullError, match="bytes"):
            bench.submit(20)

    on_bench(memory, max_pending_bytes=20 * 6480 * 4)


def test_a_lone_request_may_be_larger_than_the_queue(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> tuple[int, ...]:
        return (await bench.submit(80).whole()).showers_mev.shape

    assert on_bench(work, max_queue_rows=10) == (80, 6480)


def test_retry_after_grows_with_what_waits(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> list[float]:
        await bench.blocked()
        crowd = bench.submit(90_000)
        waits = []
        for rows in (20_000, 80_000):
            with pytest.raises(QueueFullError) as caught:
                bench.submit(rows)
            waits.append(caught.value.retry_after_s)
        bench.engine.close_request(crowd)
        return waits

    short, long = on_bench(work, max_queue_rows=100_000)
    assert 1.0 < short < long <= 600.0


def test_a_cancelled_request_is_never_drawn(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> tuple[list[int], int]:
        await bench.blocked()
        given_up, kept = bench.submit(500), bench.submit(2, seed=3)
        bench.engine.close_request(given_up)
        bench.sampler.gate.set()
        await kept.whole()
        await asyncio.sleep(0)
        return bench.sampler.batches, bench.engine.queued_rows

    batches, waiting = on_bench(work)
    assert batches == [1, 2]
    assert waiting == 0


def test_a_request_given_up_in_its_middle_stops_there(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> list[int]:
        bench.sampler.gate.clear()
        large = bench.submit(1000)
        await until_in_loop(lambda: bench.sampler.batches)
        bench.engine.close_request(large)
        bench.sampler.gate.set()
        await bench.submit(1, seed=2).whole()
        return bench.sampler.batches

    assert on_bench(work) == [64, 1]


def test_a_draw_under_way_stops_when_nobody_waits_for_any_of_it(on_bench: OnBench) -> None:
    endless = SamplerOptions(sweeps=1_000_000)

    async def work(bench: Bench) -> tuple[int, int]:
        bench.sampler.gate.clear()
        held = bench.submit(1, options=endless)
        await until_in_loop(lambda: bench.sampler.batches)
        two = [bench.submit(30, seed, options=endless) for seed in range(2)]
        bench.engine.close_request(held)
        bench.sampler.gate.set()
        await until_in_loop(lambda: len(bench.sampler.batches) == 2)
        bench.sampler.stopped.clear()
        bench.engine.close_request(two[0])
        await holds_in_loop(lambda: not bench.sampler.stopped)
        bench.engine.close_request(two[1])
        await until_in_loop(lambda: bench.sampler.stopped)
        await bench.submit(1).whole()
        return len(bench.sampler.stopped), bench.engine.queued_rows

    assert on_bench(work) == (1, 0)


def test_the_end_of_the_time_to_drain_stops_a_draw(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> None:
        endless = bench.submit(30, options=SamplerOptions(sweeps=1_000_000))
        await until_in_loop(lambda: bench.sampler.batches)
        await bench.engine.close(0.05)
        assert isinstance(endless.ended.exception(), NotReadyError)
        await until_in_loop(lambda: bench.sampler.stopped)

    on_bench(work)


def test_a_failure_ends_the_requests_of_its_batch_alone(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> tuple[list[Drawn | BaseException], int, Drawn, int]:
        await bench.blocked()
        bench.sampler.failure = SamplerUnavailableError("gone", retry_after_s=7)
        two = [bench.submit(100, seed) for seed in range(2)]
        bench.sampler.gate.set()
        failed = await asyncio.gather(*(request.whole() for request in two), return_exceptions=True)
        calls = len(bench.sampler.batches)
        bench.sampler.failure = None
        answer = await bench.submit(3).whole()
        return failed, calls, answer, bench.engine.queued_rows

    failed, calls, answer, waiting = on_bench(work)
    assert [type(error) for error in failed] == [SamplerUnavailableError] * 2
    # The first of each request's batches fails; the rest of it is not tried.
    assert calls == 3
    assert answer.showers_mev.shape == (3, 6480)
    assert waiting == 0


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (SamplerAnswerError("no such latent"), SamplerAnswerError, "no such latent"),
        (np.zeros((2, 6480), dtype=np.float32), RuntimeError, "2 showers for 1 latents"),
    ],
)
def test_an_error_of_the_decoder_is_told(
    on_bench: OnBench, answer: SamplerAnswerError | NDArray[np.float32], kind: type[Exception], said: str
) -> None:
    async def work(bench: Bench) -> None:
        class Broken:
            def __getattr__(self, name: str) -> object:
                return getattr(bench.bundle, name)

            def decode(self, *_: object) -> NDArray[np.float32]:
                if isinstance(answer, Exception):
                    raise answer
                return answer

        key = DrawKey("broken", "gibbs", OPTIONS, 0.0)
        streams = np.zeros((1, 2), dtype=np.uint64)
        await bench.submit_of(key, cast(Bundle, Broken()), streams).whole()

    with pytest.raises(kind, match=said):
        on_bench(work)


def test_deadlines_reach_the_sampler(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> list[float | None]:
        now = time.monotonic()
        await bench.submit(1, deadline_at=now + 5).whole()
        await bench.blocked()
        with_longest = [bench.submit(1, seed, deadline_at=now + 10 * seed) for seed in (1, 5)]
        bench.sampler.gate.set()
        await asyncio.gather(*(request.whole() for request in with_longest))
        return bench.sampler.deadlines

    alone, none, longest = on_bench(work)
    assert alone is not None
    assert longest is not None
    assert 0 < alone <= 5
    assert none is None
    assert 10 < longest <= 50


def test_draining_finishes_what_there_is(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> tuple[float, Drawn, Drawn]:
        held = await bench.blocked()
        waiting = bench.submit(5)
        bench.engine.drain()
        with pytest.raises(NotReadyError) as caught:
            bench.submit(1)
        closing = asyncio.create_task(bench.engine.close(20))
        await asyncio.sleep(0)  # so that it has begun
        bench.sampler.gate.set()
        await closing
        return caught.value.retry_after_s, await held.whole(), await waiting.whole()

    retry_after_s, held, waiting = on_bench(work)
    assert retry_after_s == 30.0
    assert held.showers_mev.shape[0] == 1
    assert waiting.showers_mev.shape[0] == 5


def test_closing_does_not_wait_for_ever(on_bench: OnBench) -> None:
    async def work(bench: Bench) -> None:
        held = await bench.blocked()
        await bench.engine.close(0.05)
        with pytest.raises(NotReadyError, match="shut down"):
            held.ended.result()

    on_bench(work)
