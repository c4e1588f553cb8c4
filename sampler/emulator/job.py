"""Submitted problems: their status, how one is run, and which are remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from qshower.sampler.emulator import timing
from qshower.sampler.emulator.annealer import ReverseAnneal, draw
from qshower.sampler.emulator.answer import encode_answer
from qshower.sampler.emulator.chip import Chip
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.physics import Physics
from qshower.sampler.emulator.problem import Problem

JOBS_KEPT = 2000
BYTES_KEPT = 256 * 2**20
"""Jobs and bytes of them remembered; the oldest jobs are forgotten first, as the API forgets them in time."""


@dataclass(slots=True)
class Job:
    """One submitted problem. ``number`` counts submissions from 0 and seeds the draw."""

    identifier: str
    number: int
    kind: str
    label: str | None
    data: Any
    params: dict[str, Any]
    submitted_by: str
    solver: dict[str, Any]
    chip: Chip
    physics: Physics
    problem: Problem | None
    submitted_on: str
    ready_at_s: float
    status: str = "PENDING"
    solved_on: str | None = None
    error_message: str | None = None
    answer: dict[str, Any] | None = None
    stuck: bool = False
    lasts_s: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether its status is its last."""
        return self.status in ("COMPLETED", "FAILED", "CANCELLED")

    def finish(self, status: str, error_message: str | None = None) -> None:
        """End it."""
        self.status, self.error_message, self.solved_on = status, error_message, api_time()
        self.problem = None

    def run(
        self, problem: Problem, config: EmulatorConfig, uptime_s: float, stop: Callable[[], bool]
    ) -> dict[str, Any]:
        """The answer to its problem; StoppedError once ``stop`` says so."""
        rng = np.random.default_rng([config.seed, 5, self.number])
        programmed = self.physics.program(problem, rng, uptime_s, self.number)
        seed, parameters = int(rng.integers(2**63)), problem.parameters
        if problem.initial is None or parameters.schedule is None:
            spins = draw(programmed, parameters.num_reads, config.sweeps, seed, stop)
        else:
            per_us = config.sweeps / timing.DEFAULT_ANNEALING_TIME_US
            back = ReverseAnneal(parameters.schedule, problem.initial, parameters.reinitialize_state, per_us)
            spins = back.draw(programmed, parameters.num_reads, seed, stop)
        timing_us = self.chip.timing.fields(
            problem.active.shape[0],
            parameters.num_reads,
            parameters.annealing_time_us,
            parameters.programming_thermalization_us,
            parameters.readout_thermalization_us,
            decorrelate=parameters.reduce_intersample_correlation,
            reverse=parameters.reverse,
        )
        return encode_answer(problem, self.chip, self.physics.read_out(spins, rng), timing_us)

    def describe(self) -> dict[str, Any]:
        """The job's status as the API tells it."""
        status = {
            "id": self.identifier,
            "type": self.kind,
            "solver": self.solver,
            "label": self.label,
            "status": self.status,
            "submitted_on": self.submitted_on,
        }
        if self.solved_on is not None:
            status["solved_on"] = self.solved_on
        if self.error_message is not None:
            status["error_message"] = self.error_message
        return status

    def info(self) -> dict[str, Any]:
        """The job as it was submitted, its status and, once there is one, its answer."""
        status = self.describe()
        metadata = {name: status[name] for name in status if name not in ("id", "error_message")}
        messages = [] if self.error_message is None else [{"message": self.error_message}]
        metadata |= {"submitted_by": self.submitted_by, "messages": messages}
        info = {"id": self.identifier, "data": self.data, "params": self.params, "metadata": metadata}
        return info if self.answer is None else {**info, "answer": dict(self.answer)}


class JobHistory:
    """The jobs that are remembered, oldest first. The oldest that have ended are forgotten first."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def get(self, identifier: str) -> Job | None:
        """The job of that name."""
        return self._jobs.get(identifier)

    def add(self, job: Job) -> None:
        """Remember one more, the newest."""
        self._jobs[job.identifier] = job
        self._bytes += _size(job)
        self._forget_oldest()

    def keep_answer(self, job: Job, answer: dict[str, Any]) -> None:
        """Give the answer to one of the jobs."""
        before = _size(job)
        job.answer = answer
        self._bytes += _size(job) - before
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        while len(self._jobs) > JOBS_KEPT or self._bytes > BYTES_KEPT:
            newest = next(reversed(self._jobs))
            ended = (name for name, job in self._jobs.items() if job.ended and name != newest)
            oldest = next(ended, None)
            if oldest is None:
                return
            self._bytes -= _size(self._jobs.pop(oldest))


def _size(job: Job) -> int:
    """Bytes of a job, near enough: its biases, and its answer's solutions."""
    biases = job.data.values() if isinstance(job.data, dict) else ()
    submitted = sum(len(value) for value in biases if isinstance(value, str))
    return submitted if job.answer is None else submitted + len(job.answer["solutions"])


def api_time() -> str:
    """The time now as the API writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
