"""The order of a lane, what it promises, and who is taken in."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qshower.model.bundle import Bundle, load_bundle
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.request import SamplerOptions, streams_of
from qshower.service.engine.admission import Admission, Limits, Load
from qshower.service.engine.batches import Slice
from qshower.service.engine.cost_model import CostModel
from qshower.service.engine.fair_queue import STALLED_S, FairQueue
from qshower.service.engine.queued_request import QueuedRequest
from qshower.service.engine.work import DrawKey, Work
from qshower.service.service_errors import QueueFullError

LANE = "gibbs"
ROW_S = 0.01
LIMITS = Limits(64, 10_000, 100, 1 << 40, 30.0, max_work_s=100.0, piece_s=0.64)
NOTHING = Load(0, 0, 0)


@pytest.fixture(scope="module")
def bundle(untrained_bundles: Path) -> Bundle:
    return load_bundle(untrained_bundles / "test-zephyr")


@pytest.fixture
def work_of(bundle: Bundle) -> Callable[..., Work]:
    def make(rows: int, **choices: Any) -> Work:
        energies = np.full(rows, 5e4)
        key = DrawKey(bundle.name, "gibbs", SamplerOptions(sweeps=choices.pop("sweeps", 8)), 0.0)
        return Work(key, bundle, GibbsSampler(), energies, bundle.conditions(energies), streams_of(1, rows), **choices)

    return make


@pytest.fixture
def costs(work_of: Callable[..., Work]) -> CostModel:
    """That have learnt that a row takes 10 ms."""
    model, work = CostModel(), work_of(64)
    for _ in range(100):
        model.drawn(work, 64, 1e-9)
        model.decoded(work, 64, 64 * ROW_S)
    return model


def in_loop(work: Callable[[], Any]) -> Any:
    async def run() -> Any:
        return work()

    return asyncio.run(run())


def queued(work: Work, deadline_s: float | None = None) -> QueuedRequest:
    now = time.monotonic()
    return QueuedRequest(
        work, asyncio.get_running_loop().create_future(), now, None if deadline_s is None else now + deadline_s
    )


def test_costs_are_learnt_and_spread_over_the_rows(costs: CostModel, work_of: Callable[..., Work]) -> None:
    work = work_of(1)
    assert costs.known(work.key)
    assert costs.seconds(work, LANE, 64) == pytest.approx(64 * ROW_S, rel=0.1)
    assert costs.rows_within(work, LANE, 64 * ROW_S) == pytest.approx(64, abs=8)
    before = costs.seconds(work, LANE, 64)
    for _ in range(50):
        costs.paced(LANE, 1.0, 0.5)
    assert costs.seconds(work, LANE, 64) == pytest.approx(before / 2, rel=0.1)


def test_a_draw_that_was_stopped_teaches_that_it_takes_longer(work_of: Callable[..., Work]) -> None:
    model, work = CostModel(), work_of(64, sweeps=100_000)
    before = model.seconds(work, LANE, 64)
    model.stopped(work, 64, before / 100)
    assert model.seconds(work, LANE, 64) == before
    model.stopped(work, 64, 100 * before)
    assert model.seconds(work, LANE, 64) > 50 * before


def test_a_small_request_passes_large_ones_and_equal_ones_end_one_by_one(
    costs: CostModel, work_of: Callable[..., Work]
) -> None:
    def run() -> list[int]:
        queue, served = FairQueue(LANE, costs, 64, None), list[list[Slice]]()
        large = [queued(work_of(300)), queued(work_of(300))]
        for request in large:
            queue.add(request)
        served.extend(queue.take() for _ in range(3))
        small = queued(work_of(1))
        queue.add(small)
        while slices := queue.take():
            served.append(slices)
        names = {id(one): name for name, one in enumerate([*large, small])}
        assert served[3][0].request is small
        return [names[id(part.request)] for slices in served for part in slices]

    order = in_loop(run)
    last = {name: max(place for place, one in enumerate(order) if one == name) for name in (0, 1)}
    assert last[0] < order.index(1) + 2


def test_a_request_that_nobody_takes_from_is_passed_and_gets_no_credit(
    costs: CostModel, work_of: Callable[..., Work], bundle: Bundle
) -> None:
    def run() -> None:
        queue = FairQueue(LANE, costs, 64, None)
        slow, other = queued(work_of(300, window_bytes=96 * bundle.geometry.voxel_count * 4)), queued(work_of(400))
        queue.add(slow)
        taken = [queue.take() for _ in range(3)]
        assert [(slices[0].start, slices[0].stop) for slices in taken] == [(0, 32), (32, 64), (64, 96)]
        assert queue.take() == []
        slow.blocked_at = time.monotonic() - 2 * STALLED_S
        queue.add(other)
        outlook = {id(one.request): one.done_in_s for one in queue.outlook(0.0, np.inf)}
        assert id(slow) not in outlook
        while queue.take():
            pass
        slow.released = 96
        before = slow.finish_tag
        queue.unblock(slow)
        assert slow.blocked_at is None
        assert slow.finish_tag >= before
        assert queue.take()[0].start == 96

    in_loop(run)


def test_who_would_come_too_late_is_told_when_to_come(costs: CostModel, work_of: Callable[..., Work]) -> None:
    def run() -> None:
        queue = FairQueue(LANE, costs, 64, None)
        admission = Admission(LIMITS, queue, 0.0, measured=True)
        taken = 0
        for _ in range(150):
            work = work_of(100, deadline_at=time.monotonic() + 8.0, deadline_s=8.0)
            try:
                admission.deadline_of(work, NOTHING)
            except QueueFullError as error:
                refused = error
                break
            queue.add(queued(work, 8.0))
            taken += 1
        # A second of work each, and 80 % of 8 s.
        assert 5 <= taken <= 7
        assert 0.5 < refused.retry_after_s <= 2.0
        patient = work_of(100, deadline_at=time.monotonic() + 30.0)
        assert admission.deadline_of(patient, NOTHING) == patient.deadline_at

    in_loop(run)


def test_nobody_is_made_late_by_who_comes_later(costs: CostModel, work_of: Callable[..., Work]) -> None:
    def run() -> None:
        queue = FairQueue(LANE, costs, 64, None)
        admission = Admission(LIMITS, queue, 0.0, measured=True)
        queue.add(queued(work_of(300), deadline_s=3.5))
        admission.deadline_of(work_of(1), NOTHING)
        with pytest.raises(QueueFullError, match="would be late") as caught:
            admission.deadline_of(work_of(100), NOTHING)
        assert 2.0 < caught.value.retry_after_s < 4.5

    in_loop(run)


def test_more_work_than_one_request_may_be_is_a_wrong_value(costs: CostModel, work_of: Callable[..., Work]) -> None:
    def run() -> None:
        queue = FairQueue(LANE, costs, 64, None)
        for measured, rows in ((True, 11_000), (False, 50_000)):
            admission = Admission(LIMITS, queue, 0.0, measured=measured)
            with pytest.raises(InvalidInputError, match="100 s of work") as caught:
                admission.deadline_of(work_of(rows), NOTHING)
            assert caught.value.field == "incident_energies_mev"
        admission = Admission(LIMITS, queue, 0.0, measured=True)
        with pytest.raises(InvalidInputError) as caught:
            admission.deadline_of(work_of(2000, deadline_at=time.monotonic() + 1.0), NOTHING)
        assert caught.value.field == "deadline_s"
        assert admission.deadline_of(work_of(2000), NOTHING) is None
        limit = admission.deadline_of(work_of(2000, patience_s=10.0), NOTHING)
        assert limit == pytest.approx(time.monotonic() + 10 + 2 * 20, rel=0.2)

    in_loop(run)
