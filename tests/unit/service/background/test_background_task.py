"""Background work: one piece after another, failures shown and tried again later, an end when told to."""

import threading
from dataclasses import dataclass
from typing import Never

import pytest

from qshower.sampler.errors import SamplerUnavailableError
from qshower.service.background.background_task import BackgroundTask


@dataclass
class Piece:
    name: str


class Work:
    """Pieces that wait to be done; fails when told to; says when it has come to one."""

    def __init__(self) -> None:
        self.waiting: list[Piece] = []
        self.done: list[str] = []
        self.failure: Exception | None = None
        self.came, self.gate = threading.Semaphore(0), threading.Event()
        self.gate.set()

    def due(self) -> Piece | None:
        return self.waiting[0] if self.waiting else None

    def do(self, piece: Piece) -> None:
        self.came.release()
        assert self.gate.wait(60)
        if self.failure is not None:
            raise self.failure
        self.done.append(self.waiting.pop(0).name)


class Clock:
    """Seconds that pass when told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def task(work: Work, clock: Clock) -> BackgroundTask[Piece]:
    return BackgroundTask("testing", work.due, work.do, poll_s=0.001, pauses_s=(10.0, 30.0), clock=clock)


def test_one_piece_after_another(work: Work, task: BackgroundTask[Piece]) -> None:
    assert task.check() is None
    work.waiting = [Piece("a"), Piece("b")]
    assert [task.check(), task.check(), task.check()] == ["a", "b", None]
    status = task.status()
    assert (status["done"], status["failed"], status["last_error"], status["running"]) == (2, 0, None, None)
    assert status["last_done_at"]


def test_failures_wait_longer_each_time_and_as_long_as_they_say(
    work: Work, task: BackgroundTask[Piece], clock: Clock
) -> None:
    work.waiting, work.failure = [Piece("a")], ValueError("no")
    for failures, pause_s in ((1, 10.0), (2, 20.0), (3, 30.0), (4, 30.0)):
        assert task.check() is None
        status = task.status()
        assert (status["failed"], status["last_error"]) == (failures, "ValueError: no")
        assert status["next_attempt_in_s"] == pytest.approx(pause_s)
        clock.now += 0.9 * pause_s
        assert task.check() is None
        assert task.status()["failed"] == failures
        clock.now += 0.2 * pause_s
    work.failure = SamplerUnavailableError("away", retry_after_s=500.0)
    assert task.check() is None
    assert task.status()["next_attempt_in_s"] == pytest.approx(500.0)
    clock.now += 501.0
    work.failure = None
    assert task.check() == "a"
    assert (task.status()["last_error"], task.status()["next_attempt_in_s"]) == (None, None)
    work.waiting, work.failure = [Piece("a")], ValueError("no")
    assert task.check() is None
    assert task.status()["next_attempt_in_s"] == pytest.approx(10.0), "a success is a new beginning"


def test_its_thread_works_whenever_some_is_due_and_ends_after_the_piece_in_hand(
    work: Work, task: BackgroundTask[Piece]
) -> None:
    before = threading.active_count()
    task.start()
    work.waiting.append(Piece("a"))
    assert work.came.acquire(timeout=60)
    work.gate.clear()
    work.waiting.append(Piece("b"))
    assert work.came.acquire(timeout=60)
    assert task.status()["running"] == "b"
    task.close(0.01)
    assert threading.active_count() == before + 1
    work.waiting.append(Piece("c"))
    work.gate.set()
    task.close()
    assert threading.active_count() == before
    assert work.done == ["a", "b"]
    task.close()


def test_its_thread_survives_a_failure_to_find_out_what_is_due(
    task: BackgroundTask[Piece], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Semaphore(0)

    def broken() -> Never:
        asked.release()
        raise OSError("unreadable")

    monkeypatch.setattr(task, "_due", broken)
    task.start()
    for _ in range(3):
        assert asked.acquire(timeout=60)
    assert task.status()["last_error"] == "OSError: unreadable"
    task.close()


def test_closing_before_starting(task: BackgroundTask[Piece]) -> None:
    task.close()
    assert task.status()["done"] == 0
