"""Submitting problems and waiting for answers that can be trusted, within a deadline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import (
    SamplerAnswerError,
    SamplerError,
    SamplerTimeoutError,
    SamplerUnavailableError,
    SolverAuthenticationFailedError,
)
from qshower.sampler.qpu.ocean.connection import SLICE_S, Connection, closed_error
from qshower.sampler.qpu.ocean.ocean_client import OceanClient
from qshower.sampler.qpu.ocean.ocean_errors import (
    cause_of,
    may_pass,
    refuses,
    told_to_wait_s,
    too_many,
    typed_error,
)
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.time_limit import TimeLimit

_DONE = "COMPLETED"


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """An Ising problem in programmed units.

    Attributes:
        qubits: (n,) int64.
        h: (n,) float64.
        ends: (m, 2) int64, positions in ``qubits`` of the ends of each coupling.
        j: (m,) float64.
        reads: number of reads.
        annealing_time_us: anneal time.
        flux_biases: (nominal qubits,) float64 in Φ0, or None.
    """

    qubits: NDArray[np.int64]
    h: NDArray[np.float64]
    ends: NDArray[np.int64]
    j: NDArray[np.float64]
    reads: int
    annealing_time_us: float
    flux_biases: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A verified answer.

    Attributes:
        spins: (reads, n) int8, in the order of the problem's ``qubits``.
        problem_id: the solver's id of the problem.
        timing_us: the solver's own timing fields; empty if it sent none.
    """

    spins: NDArray[np.int8]
    problem_id: str
    timing_us: dict[str, float]


@dataclass(slots=True, eq=False)
class Submission:
    """A problem under way.

    Attributes:
        problem: the problem.
        future: Ocean's future of it.
        earlier: futures of it that were given up for another one.
        refused: whether the API said that it does not take it, so that it is certainly not billed.
        untimely: whether it was refused only because there were too many others.
        told_to_wait_s: the API's last ``Retry-After`` about it.
        cancelled: whether it was cancelled from here.
        pauses_s: how long to wait before the answer is asked for again, each time.
    """

    problem: Problem
    future: Any
    earlier: list[Any] = field(default_factory=list)
    refused: bool = False
    untimely: bool = False
    told_to_wait_s: float | None = None
    cancelled: bool = False
    pauses_s: Iterator[float] = field(default_factory=lambda: growing_pauses_s())

    @property
    def ids(self) -> tuple[str, ...]:
        """The problem's id, once it is known."""
        return (str(self.future.id),) if self.future.id else ()

    @property
    def status(self) -> str | None:
        """The problem's status as it was last told."""
        futures = (self.future, *reversed(self.earlier))
        return next((str(future.remote_status) for future in futures if future.remote_status), None)

    @property
    def completed(self) -> bool:
        """Whether its answer is here."""
        return bool(self.future.done() and self.future.remote_status == _DONE)

    @property
    def ended(self) -> bool:
        """Whether Ocean works on it no more."""
        return all(future.done() for future in (self.future, *self.earlier))

    @property
    def lost(self) -> bool:
        """Whether it was accepted, and word of it got lost on the way."""
        if not self.ids or not self.future.done() or self.status in ("FAILED", "CANCELLED"):
            return False
        error = self._error()
        return error is not None and may_pass(error)

    def answer(self) -> Answer | None:
        """The verified answer, if there is one, asked for once nobody waits for it."""
        if not self.ids or not self.future.done():
            return None
        try:
            return verified(self.problem, self.future.result(), self.ids)
        except Exception:  # whatever there is, it is no answer
            return None

    def was_refused(self) -> bool:
        """Whether the API has said that it does not take it, asked once nobody waits for its answer."""
        if self.ids or not self.future.done():
            return self.refused
        error = self._error()
        return error is not None and refuses(error)

    def _error(self) -> Exception | None:
        """What the future, which is done, ended with, None for an answer."""
        try:
            self.future.exception()
        except Exception as error:  # that is how Ocean hands it out
            return error
        return None


def growing_pauses_s() -> Iterator[float]:
    """Seconds to wait before each further attempt: 0.25, 0.5, 1, 2, 4, and 5 from then on."""
    pause_s = 0.25
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, 5.0)


def submit(info: SolverInfo, problem: Problem, secret: str | None, label: str = "qshower") -> Submission:
    """Hand ``problem`` to Ocean's client, which sends it in the background."""
    linear = dict(zip(problem.qubits.tolist(), problem.h.tolist(), strict=True))
    pairs = problem.qubits[problem.ends]
    quadratic = dict(zip(map(tuple, pairs.tolist()), problem.j.tolist(), strict=True))
    parameters: dict[str, Any] = {
        "num_reads": problem.reads,
        "answer_mode": "raw",
        "auto_scale": False,
        "annealing_time": problem.annealing_time_us,
    }
    if problem.flux_biases is not None:
        parameters["flux_biases"] = problem.flux_biases.tolist()
    try:
        return Submission(problem, info.solver.sample_ising(linear, quadratic, label=label, **parameters))
    except Exception as error:
        typed = typed_error(error, "submit", (), secret)
        raise typed from cause_of(typed, error, secret)


class Collector:
    """Waits for the answers of one draw's problems, as long as ``limit`` allows.

    The last tenth of the time, or the ``cancel_grace_s`` of the settings if that is less, is for cancelling.
    """

    def __init__(self, client: OceanClient, connection: Connection, settings: QpuSettings, limit: TimeLimit) -> None:
        self._client, self._connection, self._settings = client, connection, settings
        self._limit, self._deadline = limit, limit.deadline
        self._enough = limit.deadline - min(settings.cancel_grace_s, 0.1 * max(0.0, limit.left_s))

    def collect(self, submission: Submission, under_way: Iterable[Submission] = ()) -> Answer:
        """The verified answer; if it does not come in time, ``under_way`` is cancelled along with it.

        A problem that is known to have been accepted is never submitted again. If word of it gets lost on the way, it
        is asked for by its id until the deadline, which costs nothing: with growing pauses, and not before the API
        wants to be asked again.

        Raises:
            SamplerTimeoutError: no answer by the deadline; the problem was cancelled.
            SamplerCancelledError: nobody waits for it any more; it was cancelled, too.
            SamplerUnavailableError: among others, that the client was closed; the problem was cancelled.
            SamplerAnswerError: the answer is not a valid draw.
            SamplerError: whatever else went wrong, with its cause.
        """
        while True:
            self._wait(submission, under_way)
            if not submission.ended:
                # A request that has an answer by now is still out: who knows what it waits for.
                self._client.retire(self._connection)
            try:
                return verified(submission.problem, submission.future.result(), submission.ids)
            except Exception as error:
                if self._client.closed:
                    raise closed_error(submission.ids) from None
                phase = "answer" if submission.ids else "submit"
                typed = typed_error(error, phase, submission.ids, self._client.secret)  # type: ignore[arg-type]
                submission.refused = not submission.ids and refuses(error)
                submission.untimely = submission.refused and too_many(error)
                submission.told_to_wait_s = told_to_wait_s(error)
                if submission.cancelled or not submission.lost:
                    self._cancel_if_waiting(submission, typed)
                    raise typed from cause_of(typed, error, self._client.secret)
            self._ask_later(submission, under_way, typed)

    def abandon(self, submissions: Iterable[Submission]) -> None:
        """Cancel problems nobody waits for; retire the connection if that does not bring all of them to an end."""
        given_up = list(submissions)
        self._cancel(given_up)
        if not all(one.ended for one in given_up):
            self._client.retire(self._connection)

    def _cancel(self, submissions: Iterable[Submission]) -> None:
        """Cancel what is still under way, all of it at once, and wait a little for it to end.

        Of what was accepted the answer is asked for in the same breath: if there is one, it is taken.
        """
        going = [one for one in submissions if not one.cancelled and (one.lost or not one.future.done())]
        for one in going:
            one.cancelled = True
            if one.ids:
                self._ask(one)
            one.future.cancel()
        grace_s = self._settings.cancel_grace_s
        if self._client.closed:
            # ``close`` waits for this, and has to shut the client in the time that is left.
            grace_s = min(grace_s, self._settings.close_timeout_s / 2.0)
        until = min(monotonic() + grace_s, self._deadline)
        for one in going:
            one.future.wait(max(0.0, until - monotonic()))
            for future in one.earlier if not one.completed else ():
                future.wait(max(0.0, until - monotonic()))

    def _wait(self, submission: Submission, under_way: Iterable[Submission]) -> None:
        completed_at: float | None = None
        while not submission.future.wait(max(0.0, min(SLICE_S, self._enough - monotonic()))):
            if self._client.closed:
                self._cancel([submission, *under_way])
                raise closed_error(submission.ids)
            if self._limit.given_up():
                self._cancel([submission, *under_way])
                self._limit.check("qpu")
            now = monotonic()
            if now >= self._enough:
                self._cancel([submission, *under_way])
                if submission.completed:
                    return
                raise _too_late(submission, f"last seen {submission.status or 'not accepted yet'}")
            if submission.future.remote_status == _DONE:
                completed_at = completed_at if completed_at is not None else now
                if now - completed_at > self._settings.answer_wait_s:
                    self._client.retire(self._connection)
                    raise SamplerAnswerError(
                        f"problem {_named(submission)} is completed, and its answer does not come",
                        problem_ids=submission.ids,
                    )

    def _ask_later(self, submission: Submission, under_way: Iterable[Submission], why: SamplerError) -> None:
        """Ask for the answer again after a pause, at the latest when there is just time to cancel the problem."""
        left_s = self._enough - monotonic()
        pause_s = max(next(submission.pauses_s), submission.told_to_wait_s or 0.0)
        try:
            self._client.pause(max(0.0, min(pause_s, left_s)))
        except SamplerUnavailableError:
            self._cancel([submission, *under_way])
            raise closed_error(submission.ids) from None
        if pause_s < left_s:
            self._ask(submission)
            return
        self._cancel([submission, *under_way])
        if not submission.completed:
            raise _too_late(submission, str(why))

    def _ask(self, submission: Submission) -> None:
        """Ask for an accepted problem with another future."""
        again = self._retrieved(submission)
        if not submission.future.done():
            submission.earlier.append(submission.future)
        submission.future = again

    def _retrieved(self, submission: Submission) -> Any:
        """The future of an accepted problem, asked for by its id."""
        again = self._connection.client.retrieve_answer(submission.ids[0])
        # Told which solver it is, Ocean does not look for it, in a thread of its own.
        again.solver, again.return_matrix = submission.future.solver, True
        return again

    def _cancel_if_waiting(self, submission: Submission, error: SamplerError) -> None:
        """Best effort: a problem whose future has failed may still wait in the solver's queue, and be billed."""
        waiting = submission.status in (None, "PENDING", "IN_PROGRESS")
        if submission.ids and waiting and not isinstance(error, SolverAuthenticationFailedError):
            try:
                self._retrieved(submission).cancel()
            except Exception as another:  # the failure being reported is the one that matters
                typed_error(another, "answer", submission.ids, self._client.secret)


def _too_late(submission: Submission, why: str) -> SamplerTimeoutError:
    return SamplerTimeoutError(
        f"no answer from the solver by the deadline (problem {_named(submission)}, {why}); it was cancelled",
        problem_ids=submission.ids,
    )


def verified(problem: Problem, result: Any, problem_ids: tuple[str, ...]) -> Answer:
    """The answer in ``result``, once reads, variables, spins and energies are known to be right.

    Raises:
        SamplerAnswerError: they are not.
    """

    def wrong(what: str) -> SamplerAnswerError:
        return SamplerAnswerError(f"the solver's answer is wrong: {what}", problem_ids=problem_ids)

    energies = np.asarray(result["energies"], dtype=np.float64)
    variables = np.asarray(result["active_variables"], dtype=np.int64)
    states = np.asarray(result["solutions"], dtype=np.int8)
    counts = np.asarray(result.get("num_occurrences", np.ones(len(states))), dtype=np.int64)
    if energies.shape != (problem.reads,) or states.shape[0] != problem.reads or (counts != 1).any():
        raise wrong(f"{energies.shape[0]} energies and {states.shape[0]} states for {problem.reads} reads")
    expected = np.sort(problem.qubits)
    if not np.array_equal(np.sort(variables), expected):
        lacking, extra = np.setdiff1d(expected, variables).size, np.setdiff1d(variables, expected).size
        raise wrong(f"{lacking} qubits are missing and {extra} were not asked for")
    spins = np.ascontiguousarray(states[:, problem.qubits])
    if not (np.abs(spins) == 1).all():
        raise wrong("some spins are neither -1 nor +1")
    recomputed = ising_energies(problem, spins)
    if not np.allclose(energies, recomputed, rtol=1e-6, atol=1e-4 * max(1.0, float(np.abs(recomputed).max(initial=0)))):
        bad = int((~np.isclose(energies, recomputed, rtol=1e-6, atol=1e-3)).sum())
        raise wrong(f"{bad} of {problem.reads} energies do not belong to their states")
    timing = result.get("timing") or {}
    return Answer(
        spins=spins,
        problem_id=problem_ids[0] if problem_ids else "",
        timing_us={str(name): float(value) for name, value in timing.items() if isinstance(value, (int, float))},
    )


def ising_energies(problem: Problem, spins: NDArray[np.int8]) -> NDArray[np.float64]:
    """(reads,) energies in programmed units."""
    values = np.empty(spins.shape[0])
    for start in range(0, spins.shape[0], 256):
        block = spins[start : start + 256]
        products = block[:, problem.ends[:, 0]] * block[:, problem.ends[:, 1]]
        values[start : start + 256] = block @ problem.h + products @ problem.j
    return values


def _named(submission: Submission) -> str:
    return submission.ids[0] if submission.ids else "without an id yet"
