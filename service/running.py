"""A running service without HTTP: models, samplers, engine and background work, from start to shutdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from qshower.sampler.errors import QShowerError
from qshower.sampler.registry import SamplerRegistry
from qshower.service.catalogue import Catalogue, load_catalogue
from qshower.service.engine.engine import Engine, Limits
from qshower.service.generation.availability import qpu_of
from qshower.service.generation.generator import Generator
from qshower.service.generation.key_quota import Accounts
from qshower.service.generation.sampler_status import SamplerStatus
from qshower.service.generation.selection import Selection
from qshower.service.metrics import Metrics
from qshower.service.reservoirs import Reservoirs
from qshower.service.samplers import build_registry, qpu_ledger_path
from qshower.service.settings import ApiKeys, Settings
from qshower.service.upkeep import Upkeep
from qshower.service.warmup import warm_up

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.qpu.qpu_sampler import QpuSampler
    from qshower.sampler.qpu.qpu_status import QpuFigures

_log = structlog.get_logger("qshower.service")


@dataclass(slots=True, eq=False)
class Service:
    """The parts that the routes use. ``ready`` once the models are loaded and the samplers warm."""

    settings: Settings
    generator: Generator
    samplers: SamplerStatus
    engine: Engine
    metrics: Metrics
    ready: bool = False


@asynccontextmanager
async def running_service(
    settings: Settings,
    metrics: Metrics,
    load_models: Callable[[Settings], Catalogue] = load_catalogue,
    make_samplers: Callable[[Settings], SamplerRegistry] = build_registry,
    *,
    warm: bool = True,
    keys: ApiKeys | None = None,
) -> AsyncIterator[Service]:
    """Everything but HTTP: models loaded, samplers ``warm`` if wanted; drained and closed at the end.

    What runs cold keeps no reservoirs: it is gone before they would be of use.
    """
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        catalogue = await asyncio.to_thread(load_models, settings)
        registry = await asyncio.to_thread(make_samplers, settings)
        # Closing a QPU ends what is drawn on it, so threads that may be drawing are waited for after that.
        background = await stack.enter_async_context(AsyncExitStack())
        stack.push_async_callback(asyncio.to_thread, registry.close)
        engine = Engine(
            Limits(
                settings.max_batch_rows,
                settings.max_queue_rows,
                settings.max_queue_requests,
                settings.max_pending_bytes,
                settings.retry_after_s,
            ),
            metrics,
            capabilities_of=lambda name: registry.get(name).capabilities,
        )
        activity = metrics.activity
        reservoirs = Reservoirs(
            catalogue,
            registry,
            idle=lambda: activity.cpu_idle,
            max_bytes=settings.reservoir_bytes if warm else 0,
            per_level=settings.reservoir_per_level,
            samplers=settings.stocked_samplers,
            kept_bytes=settings.qpu_kept_bytes if warm else 0,
            kept_max_age_s=settings.qpu_kept_max_age_s,
        )
        background.push_async_callback(asyncio.to_thread, reservoirs.close)
        stack.push_async_callback(asyncio.to_thread, reservoirs.stop)
        metrics.watch_reservoirs(reservoirs.status)
        stack.push_async_callback(engine.close, settings.drain_timeout_s)
        metrics.watch(lambda: engine.queued_rows, lambda: engine.queued_requests, lambda: float(engine.draining))
        upkeep = None
        if (qpu := qpu_of(registry)) is not None:
            bundles = catalogue.bundles()
            if warm and settings.qpu_recalibrate_s:
                upkeep = Upkeep(qpu, catalogue, settings.qpu_recalibrate_s)
                background.push_async_callback(asyncio.to_thread, upkeep.close)
                stack.callback(upkeep.stop)
            metrics.watch_qpu(
                partial(_qpu_figures, qpu, bundles),
                [bundle.name for bundle in bundles],
                upkeep=None if upkeep is None else upkeep.status,
                surplus=None if reservoirs.surplus is None else reservoirs.surplus.status,
            )
        selection = Selection(catalogue, registry)
        quotas = Accounts({} if keys is None else keys.budgets_us, qpu_ledger_path(settings))
        generator = Generator(
            selection,
            engine,
            default_deadline_s=settings.default_deadline_s,
            max_response_bytes=settings.max_response_bytes,
            cache=reservoirs,
            quotas=quotas,
        )
        if warm:
            await asyncio.to_thread(warm_up, selection)
            reservoirs.start()
        if upkeep is not None:
            upkeep.start()
        _log.info(
            "ready", models=catalogue.names(), samplers=registry.names(), start_s=round(time.monotonic() - begun, 2)
        )
        status = SamplerStatus(selection, cache=reservoirs, quotas=quotas, recalibration=upkeep)
        yield Service(settings, generator, status, engine, metrics)


def _qpu_figures(qpu: QpuSampler, bundles: Sequence[Bundle]) -> QpuFigures:
    """Circuit, costs and calibrations; without the latter where they cannot be read."""
    try:
        return qpu.figures(bundle.machine for bundle in bundles)
    except QShowerError:
        return replace(qpu.figures(()), calibrations=(None,) * len(bundles))
