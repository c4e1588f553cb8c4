"""Whether samplers can be used now."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.protocol import Availability, BilledSampler, Sampler
from qshower.sampler.request import LatentRequest, SamplerOptions

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle

P = ParamSpec("P")
T = TypeVar("T")
_WAITING = ThreadPoolExecutor(16, thread_name_prefix="waiting")
"""For what may have to wait for the solver API: threads of its own, so that whoever encodes answers does not wait."""


async def in_waiting_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``function`` of the arguments, in one of the threads for what may have to wait for the solver API."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_WAITING, lambda: context.run(function, *args, **kwargs))


def require(name: str, availability: Availability) -> None:
    """SamplerUnavailableError, with when to try again, unless the sampler ``name`` is available."""
    if not availability.available:
        raise SamplerUnavailableError(
            availability.reason or f"{name} is unavailable", retry_after_s=availability.detail.get("retry_after_s")
        )


def solver_availability(sampler: Sampler, bundle: Bundle, solver: str | None) -> Availability:
    """Whether ``sampler`` can draw from ``bundle`` on ``solver``, if one is named. May wait for the solver API."""
    if solver is None or not isinstance(sampler, BilledSampler):
        return sampler.availability(bundle.machine)
    low, high = bundle.domain_mev
    condition = bundle.conditions(np.array([np.sqrt(low * high)]))
    streams = np.zeros((1, 2), dtype=np.uint64)
    dry = LatentRequest(bundle.machine, condition, streams, SamplerOptions(solver=solver))
    try:
        sampler.estimate(dry)
    except SamplerUnavailableError as error:
        return Availability(available=False, reason=str(error), detail={"retry_after_s": error.retry_after_s})
    return Availability(available=True, detail={"solver": solver})


def first_available(sampler: Sampler, candidates: Sequence[Bundle], solver: str | None) -> tuple[Bundle, Availability]:
    """The first of ``candidates``, at least one, that can be drawn from, else the first, and what is the matter."""
    states = []
    for bundle in candidates:
        states.append(solver_availability(sampler, bundle, solver))
        if states[-1].available:
            return bundle, states[-1]
    return candidates[0], states[0]


async def availability_of(sampler: Sampler, bundle: Bundle) -> Availability:
    """Whether a sampler can draw from ``bundle``, asked in a thread where it may have to wait."""
    if not sampler.capabilities.availability_blocks:
        return sampler.availability(bundle.machine)
    return await in_waiting_thread(sampler.availability, bundle.machine)
