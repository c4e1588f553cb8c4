"""Who pays for QPU access time: draws are billed to the API key they came with, within its budget of a day."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qshower.sampler.errors import BudgetExceededError, QShowerError
from qshower.sampler.qpu.quota import Quota, until_midnight_s, utc_now
from qshower.sampler.request import LatentBatch, LatentRequest
from qshower.service.engine.work import Draws

LOOK_S = 0.1
"""How often a draw that waits for its turn looks whether it is still wanted."""


class Accounts:
    """QPU budgets of API keys, by the keys' names.

    What a key has used is read from the QPU sampler's own file of usage, so that it outlives the process.

    Args:
        budgets_us: most QPU access time of one UTC day for each key that has a limit, in µs.
        usage_path: that file.
    """

    def __init__(self, budgets_us: Mapping[str, float], usage_path: Path) -> None:
        self._budgets_us = dict(budgets_us)
        self._usage = Quota(usage_path, None, None)
        self._locks = {name: threading.Lock() for name in budgets_us}

    def billed(self, sampler: Draws, name: str) -> Draws:
        """``sampler``, its draws billed to the key ``name`` and refused with BudgetExceededError beyond its budget."""
        return _Billed(sampler, self, name)

    def states(self) -> dict[str, dict[str, Any]]:
        """What each key with a limit has used today and has left, as ``state``."""
        return {name: self.state(name) for name in self._budgets_us}

    def state(self, name: str) -> dict[str, Any]:
        """What the key has used today and what is left, in µs; None where it has no limit, or the file is unreadable.

        What is wrong with the file the sampler says, which cannot be used without.
        """
        budget, used = self._budgets_us.get(name), None
        with suppress(QShowerError):
            used = self._usage.used_by(name)
        left = None if budget is None or used is None else max(0.0, budget - used)
        return {"name": name, "used_today_us": used, "daily_budget_us": budget, "left_today_us": left}

    def sample(self, sampler: Draws, name: str, request: LatentRequest) -> LatentBatch:
        """Draw ``request`` at the expense of the key ``name``."""
        budget = self._budgets_us.get(name)
        request = replace(request, account=name)
        if budget is None:
            return sampler.sample(request)
        # One draw of a key at a time: two together could each fit into what is left, and not both.
        lock, limit = self._locks[name], request.time_limit()
        while not lock.acquire(timeout=max(0.0, min(LOOK_S, limit.left_s))):
            limit.check(f"a draw that waits for others of the key {name!r}")
        try:
            if request.deadline_s is not None:
                request = replace(request, deadline_s=max(limit.left_s, 1e-3))
            return self._within(budget, sampler, name, request)
        finally:
            lock.release()

    def _within(self, budget: float, sampler: Draws, name: str, request: LatentRequest) -> LatentBatch:
        left = max(0.0, budget - self._usage.used_by(name))
        if left == 0.0:
            raise BudgetExceededError(
                f"nothing is left of {_of(name, budget)}", retry_after_s=until_midnight_s(utc_now())
            )
        asked = request.options.max_qpu_access_time_us
        own_cap = math.inf if asked is None else asked
        # The sampler checks its estimate, that of a calibration on the way included, before it submits anything.
        options = replace(request.options, max_qpu_access_time_us=min(own_cap, left))
        try:
            return sampler.sample(replace(request, options=options))
        except BudgetExceededError as error:
            if own_cap <= left or error.retry_after_s is not None:
                raise
            message = f"{left / 1000:.1f} ms are left of {_of(name, budget)}: {error}"
            raise BudgetExceededError(message, retry_after_s=until_midnight_s(utc_now())) from error


@dataclass(frozen=True, slots=True)
class _Billed:
    sampler: Draws
    accounts: Accounts
    name: str

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row of ``request``, billed."""
        return self.accounts.sample(self.sampler, self.name, request)


def _of(name: str, budget_us: float) -> str:
    return f"the {budget_us / 1000:.1f} ms of QPU access time that the key {name!r} has until midnight UTC"
