"""The queue of submitted problems and the threads that run them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from qshower.sampler.emulator.annealer import StoppedError
from qshower.sampler.emulator.job import Job, JobHistory
from qshower.sampler.emulator.problem import Problem

Run = Callable[[Job, Problem, Callable[[], bool]], dict[str, Any]]
"""Makes a job's answer; raises StoppedError once the function it is given says so."""


class JobQueue:
    """Jobs in the order of their submission, and ``workers`` threads that run them.

    Attributes:
        changed: held by whoever looks at a job or changes one; notified of each change.
        history: the jobs that are remembered.
        closing: whether the emulator is going down.
    """

    def __init__(self, run: Run, workers: int, clock: Callable[[], float]) -> None:
        self.changed = threading.Condition()
        self.history = JobHistory()
        self.closing = False
        self._run, self._clock = run, clock
        self._waiting: deque[Job] = deque()
        self._workers = [
            threading.Thread(target=self._work, name=f"emulator-worker-{index}", daemon=True)
            for index in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def put(self, job: Job) -> None:
        """Let one more wait for a worker."""
        self._waiting.append(job)

    def remove(self, job: Job) -> None:
        """Let it wait no more."""
        if job in self._waiting:
            self._waiting.remove(job)

    def clear(self) -> None:
        """Let none wait."""
        self._waiting.clear()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Stop the workers; whether all have ended in time."""
        with self.changed:
            self.closing = True
            self._waiting.clear()
            self.changed.notify_all()
        ends_at = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.join(max(0.0, ends_at - time.monotonic()))
        return not any(worker.is_alive() for worker in self._workers)

    def _next_job(self) -> tuple[Job, Problem] | None:
        """The next problem to run, waiting for one; None when the solver closes."""
        with self.changed:
            while not self.closing:
                wait_s = None
                if self._waiting:
                    wait_s = self._waiting[0].ready_at_s - self._clock()
                    if wait_s <= 0.0:
                        job = self._waiting.popleft()
                        job.status = "IN_PROGRESS"
                        self.changed.notify_all()
                        if job.problem is not None:
                            return job, job.problem
                        continue
                self.changed.wait(wait_s)
        return None

    def _work(self) -> None:
        while (work := self._next_job()) is not None:
            job, problem = work
            try:
                answer = self._answer(job, problem)
            except StoppedError:
                continue
            except Exception as error:
                # Whatever breaks in a run must reach the client as FAILED, and must not end the worker.
                with self.changed:
                    if not job.ended:
                        job.finish("FAILED", f"Internal error: {error!r}")
                    self.changed.notify_all()
                continue
            with self.changed:
                if not job.ended:
                    job.finish("COMPLETED")
                    self.history.keep_answer(job, answer)
                self.changed.notify_all()

    def _answer(self, job: Job, problem: Problem) -> dict[str, Any]:
        """The job's answer, once it has taken as long as it is to take."""

        def stopped() -> bool:
            return self.closing or job.ended

        answer = self._run(job, problem, stopped)
        with self.changed:
            self.changed.wait_for(stopped, job.lasts_s)
        return answer
