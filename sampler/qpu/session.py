"""One call's access to one solver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qshower.sampler.errors import SamplerError
from qshower.sampler.qpu.ocean.problems import Answer, Problem
from qshower.sampler.qpu.ocean.runner import Runner
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.usage import Terms, Usage


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What became of some problems: the answers by the problems' numbers, and why the others have none."""

    by_number: Mapping[int, Answer]
    failure: SamplerError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class QpuSession:
    """One call's access to one solver, through one connection, until its deadline and at its own expense.

    ``QpuAccess.session`` opens one, when all is planned. ``draw``, ``calibrate`` and the shims are measured in it.

    Attributes:
        runner: the client, the connection borrowed from it, and the quota that is charged.
        solver: what the problems are run on.
        settings: the sampler's settings.
        terms: deadline, cap and account.
        rng: randomness of gauges, probes and chains.
        usage: what the call has used so far.
    """

    runner: Runner
    solver: SolverInfo
    settings: QpuSettings
    terms: Terms
    rng: np.random.Generator
    usage: Usage

    def run(self, problems: Sequence[Problem]) -> list[Answer]:
        """The verified answers of ``problems``, in their order.

        Raises:
            BudgetExceededError: they are above what is left of cap or quota; nothing was submitted.
            SamplerError: a problem failed; the others were cancelled.
        """
        given = self.answers(problems)
        if given.failure is not None:
            raise given.failure
        return [given.by_number[number] for number in range(len(problems))]

    def answers(self, problems: Sequence[Problem]) -> Answers:
        """As ``run``, but a failure is returned, beside the answers that there are: they are good, and paid for."""
        answers: dict[int, Answer] = {}
        try:
            self.runner.run(problems, self.terms, self.usage, answers)
        except SamplerError as error:
            return Answers(answers, error)
        return Answers(answers)
