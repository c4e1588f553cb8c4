"""Running a list of problems: paid for, submitted, collected, entered in what the call has used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from qshower.sampler.errors import SamplerError, SamplerUnavailableError
from qshower.sampler.qpu.ocean.connection import Connection
from qshower.sampler.qpu.ocean.ocean_client import OceanClient
from qshower.sampler.qpu.ocean.problems import Answer, Collector, Problem, Submission, growing_pauses_s, submit
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.quota import Quota
from qshower.sampler.qpu.usage import Terms, Usage
from qshower.sampler.time_limit import TimeLimit

_LOG = logging.getLogger(__name__)


class Runner:
    """Runs problems on one solver through one borrowed connection."""

    def __init__(
        self, client: OceanClient, connection: Connection, info: SolverInfo, quota: Quota, settings: QpuSettings
    ) -> None:
        self.info = info
        self._client, self._connection = client, connection
        self._quota, self._settings = quota, settings

    def run(
        self,
        problems: Sequence[Problem],
        terms: Terms,
        usage: Usage,
        answers: dict[int, Answer],
    ) -> None:
        """Enter the verified answers of ``problems`` in ``answers``, by the problems' numbers.

        They are entered one by one, and in ``usage`` too: if a problem fails, what there is of the others is found
        there, and was paid for.

        Raises:
            BudgetExceededError: what is left of the cap, or of the quota, is not enough; nothing was submitted.
            SamplerError: a problem failed; the others were cancelled.
        """
        info = self.info
        estimates_us = [info.access_time_us(one.qubits.size, one.reads, one.annealing_time_us) for one in problems]
        before_us = usage.access_time_us
        left_us = None if terms.cap_us is None else terms.cap_us - before_us
        reservation = self._quota.reserve(sum(estimates_us), left_us, terms.account)
        spent = _Spending(estimates_us)

        def enter(number: int, answer: Answer) -> None:
            spent.answered(number, answer.timing_us.get("qpu_access_time"))
            usage.enter(answer.problem_id, problems[number].reads, answer.timing_us, spent.estimate_us(number))
            answers[number] = answer

        try:
            self._run(problems, terms.limit, spent, enter)
        except BaseException:
            usage.doubtful_us += max(0.0, spent.billed_us() - (usage.access_time_us - before_us))
            raise
        finally:
            try:
                self._quota.settle(reservation, spent.billed_us())
            except SamplerUnavailableError as error:
                # The reservation stays, which errs on the safe side; the draw is good.
                _LOG.warning("the access time of a QPU draw could not be entered: %s", error)

    def _run(
        self, problems: Sequence[Problem], limit: TimeLimit, spent: _Spending, enter: Callable[[int, Answer], None]
    ) -> None:
        collector = Collector(self._client, self._connection, self._settings, limit)
        under_way: dict[int, Submission] = {}
        sent = 0
        try:
            for number in range(len(problems)):
                while sent < len(problems) and len(under_way) < self._settings.max_in_flight:
                    self._client.refuse_if_closed()
                    limit.check("qpu")
                    under_way[sent] = submit(self.info, problems[sent], self._client.secret)
                    spent.sent(sent)
                    sent += 1
                enter(number, self._collected(collector, under_way, number, limit))
                del under_way[number]
        finally:
            collector.abandon(under_way.values())
            for number, submission in under_way.items():
                answer = submission.answer()
                if answer is not None:
                    enter(number, answer)
                elif submission.was_refused():
                    spent.refused(number)

    def _collected(
        self, collector: Collector, under_way: dict[int, Submission], number: int, limit: TimeLimit
    ) -> Answer:
        """The answer to problem ``number``.

        It is sent again, until ``limit``, if there were too many others for it: that is certain not to be billed.
        """
        pauses_s = growing_pauses_s()
        while True:
            submission = under_way[number]
            try:
                return collector.collect(submission, under_way.values())
            except SamplerError:
                pause_s = max(next(pauses_s), submission.told_to_wait_s or 0.0)
                if not submission.untimely or limit.left_s <= pause_s:
                    raise
            self._client.pause(pause_s)
            limit.check("qpu")
            under_way[number] = submit(self.info, submission.problem, self._client.secret)


class _Spending:
    """What each problem of a draw has cost, as far as is known."""

    def __init__(self, estimates_us: list[float]) -> None:
        self._estimates_us = estimates_us
        self._billed_us = [0.0] * len(estimates_us)

    def estimate_us(self, number: int) -> float:
        """What it was expected to cost."""
        return self._estimates_us[number]

    def sent(self, number: int) -> None:
        """It may be billed from now on."""
        self._billed_us[number] = self._estimates_us[number]

    def refused(self, number: int) -> None:
        """It was never accepted."""
        self._billed_us[number] = 0.0

    def answered(self, number: int, access_time_us: float | None) -> None:
        """It was billed, as its own timing says, or as estimated if it does not say."""
        if access_time_us is not None:
            self._billed_us[number] = access_time_us

    def billed_us(self) -> float:
        """Sum over the problems."""
        return sum(self._billed_us)
