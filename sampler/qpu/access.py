"""What everything that is done on a QPU shares: the client, the plans, the state on disk, the circuit breaker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

import numpy as np

from qshower.sampler.errors import (
    BudgetExceededError,
    ConditionNotHeldError,
    InvalidInputError,
    PlacementError,
    ProblemRangeError,
    QShowerError,
    SamplerCancelledError,
    SamplerError,
    SamplerTimeoutError,
    SamplerUnavailableError,
    SolverConfigurationError,
    SolverNotFoundHereError,
)
from qshower.sampler.qpu.calibration.calibrator import Calibrator
from qshower.sampler.qpu.calibration.scale import CalibrationStore
from qshower.sampler.qpu.ocean.circuit_breaker import CircuitBreaker
from qshower.sampler.qpu.ocean.ocean_client import OceanClient
from qshower.sampler.qpu.ocean.runner import Runner
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.planning.draw_options import cap_us_of
from qshower.sampler.qpu.planning.planner import Plan, Planner
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.quota import Quota
from qshower.sampler.qpu.session import QpuSession
from qshower.sampler.qpu.shims.flux_bias import Shim, ShimStore
from qshower.sampler.qpu.unused_reads import Receiver
from qshower.sampler.qpu.usage import Terms, Usage
from qshower.sampler.request import LatentRequest
from qshower.sampler.time_limit import TimeLimit

Result = TypeVar("Result")
_IMPATIENT_S = 10.0
"""A time-out sooner than this was the caller's wish, and says nothing about the QPU."""


class QpuAccess:
    """A QPU as settings describe it. Safe to use from several threads; opens nothing when built.

    Attributes:
        settings: what it was built with.
        client: finds solvers and lends connections to them.
        planner: plans requests.
        calibrator: measures, keeps and watches calibrations.
        shims: shims kept on disk.
        quota: QPU access time used and left.
        breaker: refuses calls after too many failures in a row.
        receiver: gets the reads beyond the rows asked for, in the thread of the draw, as ``unused_reads`` describes;
            None for nobody.
        changes: how often it became known that what was seen of the QPU may have changed.
    """

    def __init__(self, settings: QpuSettings, receiver: Receiver | None = None) -> None:
        folder = settings.state_folder
        self.settings, self.receiver = settings, receiver
        self.client = OceanClient(settings)
        self.planner = Planner(settings)
        self.calibrator = Calibrator(CalibrationStore(folder / "calibrations.json"), settings)
        self.shims = ShimStore(folder / "shims.json")
        self.quota = Quota(folder / "qpu_budget.json", settings.daily_budget_us, settings.key_budget_us)
        self.breaker = CircuitBreaker(settings.breaker_failures, settings.breaker_cooldown_s)
        self.changes = 0
        self._rng = np.random.default_rng()

    def __repr__(self) -> str:
        """Without the token."""
        return f"QpuAccess({self.client!r})"

    def terms(self, request: LatentRequest) -> Terms:
        """Deadline, cap and account of a call; an error of TimeLimit.check if it is too late."""
        limit_s = self.settings.deadline_s if request.deadline_s is None else request.deadline_s
        limit = TimeLimit(monotonic() + limit_s, request.given_up)
        limit.check("qpu")
        return Terms(limit, cap_us_of(request.options, self.settings), request.account)

    def find(self, request: LatentRequest, deadline: float) -> SolverInfo:
        """The solver that ``request`` is drawn on today."""
        timeout_s = min(deadline - monotonic(), 2 * self.settings.request_timeout_s)
        return self.client.find(request.options.solver, request.machine.topology_family, timeout_s)

    def shim_for(self, plan: Plan) -> Shim | None:
        """The shim that ``plan`` is drawn with, if one was measured."""
        return self.shims.get(plan.info, plan.options.annealing_time_us)

    @contextmanager
    def session(self, solver: SolverInfo, terms: Terms, usage: Usage) -> Iterator[QpuSession]:
        """A session on ``solver``, whose connection is kept open while it is in use."""
        with self.client.borrow(solver) as connection:
            runner = Runner(self.client, connection, solver, self.quota, self.settings)
            yield QpuSession(runner, solver, self.settings, terms, self._rng.spawn(1)[0], usage)

    def on_todays_graph(
        self, request: LatentRequest, terms: Terms, usage: Usage, work: Callable[[SolverInfo], Result]
    ) -> Result:
        """What ``work`` gives for the solver of ``request``; tried once more if nothing was accepted and it changed."""
        info = self.find(request, terms.limit.deadline)
        try:
            return work(info)
        except SamplerError as error:
            # An answer to a submit that got lost names no problem, and there may be one all the same.
            billed = error.problem_ids or usage.may_be_billed
            if billed or type(error) not in (SamplerError, SamplerUnavailableError, SolverNotFoundHereError):
                raise
            self.client.forget()
            today = self.find(request, terms.limit.deadline)
            if today is info:
                raise
            return work(today)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Ask the circuit breaker first, and tell it how the call ended."""
        call = self.breaker.enter()
        began = monotonic()
        try:
            yield
        except (
            InvalidInputError,
            BudgetExceededError,
            ConditionNotHeldError,
            ProblemRangeError,
            SamplerCancelledError,
        ):
            self.breaker.abandoned(call)
            raise
        except QShowerError as error:
            impatient = min(_IMPATIENT_S, 0.9 * self.settings.deadline_s)
            in_haste = isinstance(error, SamplerTimeoutError) and monotonic() - began < impatient
            ours = self.client.closed or isinstance(
                error, (PlacementError, SolverConfigurationError, SolverNotFoundHereError)
            )
            if in_haste or ours:
                self.breaker.abandoned(call)
            else:
                self.breaker.failed(call, error)
            self.client.forget()
            self.changed()
            raise
        except BaseException:
            self.breaker.abandoned(call)
            raise
        if self.breaker.succeeded():
            self.changed()

    def changed(self) -> None:
        """What was seen of the QPU may have changed."""
        self.changes += 1

    def close(self) -> None:
        """Close the connection, within ``close_timeout_s``. Idempotent."""
        self.client.close()
