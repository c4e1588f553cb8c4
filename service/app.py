"""The application: models, samplers, engine and routes put together, from start to shutdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
from fastapi import FastAPI
from starlette.middleware import Middleware

from qshower.sampler.errors import QShowerError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.registry import SamplerRegistry
from qshower.service.background.idle_tracking import IdleTracking
from qshower.service.background.recalibration import Recalibration
from qshower.service.catalogue import Catalogue, load_catalogue
from qshower.service.engine.engine import Engine, Limits
from qshower.service.generation.availability import qpu_of
from qshower.service.generation.generator import Generator
from qshower.service.generation.key_quota import Accounts
from qshower.service.http import problem_json
from qshower.service.http.middleware import BodyLimit, KeyCheck, RequestCount
from qshower.service.http.routes import router
from qshower.service.latent_cache.latent_caches import LatentCaches
from qshower.service.metrics import Metrics
from qshower.service.samplers import build_registry, qpu_ledger_path
from qshower.service.schemas import Problem
from qshower.service.settings import ApiKeys, Settings, load_api_keys
from qshower.service.state import Service
from qshower.service.version import program_version
from qshower.service.warmup import warm_up

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.qpu.qpu_sampler import QpuSampler
    from qshower.sampler.qpu.qpu_status import QpuFigures

QPU_BATCH_ROWS = 10_000
"""A QPU is given as many rows at once as can be: what it costs is programmings, not rows."""
GPU_BATCH_ROWS = 4096
"""A warp on each multiprocessor of a large GPU. It draws these faster than any processor decodes them, so that more
would gain nothing, and hold up for seconds whoever comes while they are decoded."""
QPU_LANE_THREADS = 2
CACHED_LANE = "qpu-cached"
"""Requests that cached reads answer in whole."""

_log = structlog.get_logger("qshower.service")


def create_app(
    settings: Settings,
    *,
    load_models: Callable[[Settings], Catalogue] = load_catalogue,
    make_samplers: Callable[[Settings], SamplerRegistry] = build_registry,
) -> FastAPI:
    """The service as an ASGI application. Models are loaded and samplers warmed when it starts, not here.

    ``load_models`` and ``make_samplers`` let a program bring its own.
    """
    keys = load_api_keys(settings)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_service(settings, metrics, load_models, make_samplers, keys=keys) as service:
            app.state.service = service
            service.ready = True
            yield
            service.ready = False

    app = FastAPI(
        title="qshower",
        summary="Calorimeter showers on request",
        version=program_version(),
        lifespan=lifespan,
        redoc_url=None,
        middleware=[
            Middleware(RequestCount, metrics=metrics),
            Middleware(KeyCheck, keys=keys),
            Middleware(BodyLimit, most_bytes=settings.max_body_bytes),
        ],
    )
    problem_json.install(app, settings.retry_after_s)
    app.include_router(router)
    _declare_problem(app)
    return app


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

    What runs cold has no latent caches: it is gone before they would be of use.
    """
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        catalogue = await asyncio.to_thread(load_models, settings)
        registry = await asyncio.to_thread(make_samplers, settings)
        # Closing a QPU ends what is drawn on it, so threads that may be drawing are waited for after that.
        background = await stack.enter_async_context(AsyncExitStack())
        stack.push_async_callback(asyncio.to_thread, registry.close)
        idle = IdleTracking()
        engine = Engine(
            Limits(
                settings.max_batch_rows,
                settings.max_queue_rows,
                settings.max_queue_requests,
                settings.max_pending_bytes,
                settings.retry_after_s,
            ),
            metrics,
            idle,
            lane_threads=lambda name: QPU_LANE_THREADS if name == "qpu" else 1,
            lane_rows=lambda name: _lane_rows(registry, name),
        )
        caches = LatentCaches(
            catalogue,
            registry,
            idle=lambda: idle.cpu_idle,
            max_bytes=settings.latent_cache_bytes if warm else 0,
            per_condition=settings.latent_cache_per_condition,
            max_age_s=settings.qpu_cached_reads_max_age_s,
        )
        background.push_async_callback(asyncio.to_thread, caches.close)
        stack.push_async_callback(asyncio.to_thread, caches.stop)
        metrics.watch_latent_caches(caches.status)
        stack.push_async_callback(engine.close, settings.drain_timeout_s)
        metrics.watch(lambda: engine.queued_rows, lambda: engine.queued_requests, lambda: float(engine.draining))
        recalibration = None
        if "qpu" in registry.names():
            qpu, bundles = qpu_of(registry.get("qpu")), catalogue.bundles()
            if warm and settings.qpu_recalibrate_s:
                recalibration = Recalibration(qpu, catalogue, settings.qpu_recalibrate_s)
                background.push_async_callback(asyncio.to_thread, recalibration.close)
                stack.callback(recalibration.task.stop)
            metrics.watch_qpu(
                lambda: _qpu_figures(qpu, bundles),
                [bundle.name for bundle in bundles],
                None if recalibration is None else recalibration.status,
                None if caches.queue is None else caches.queue.status,
            )
        generator = Generator(
            catalogue,
            registry,
            engine,
            default_deadline_s=settings.default_deadline_s,
            max_response_bytes=settings.max_response_bytes,
            caches=caches,
            accounts=Accounts({} if keys is None else keys.budgets_us, qpu_ledger_path(settings)),
            recalibration=recalibration,
        )
        if warm:
            await asyncio.to_thread(warm_up, generator)
            caches.start()
        if recalibration is not None:
            recalibration.task.start()
        _log.info(
            "ready", models=catalogue.names(), samplers=registry.names(), start_s=round(time.monotonic() - begun, 2)
        )
        yield Service(settings, generator, engine, metrics, idle)


def _qpu_figures(qpu: QpuSampler, bundles: Sequence[Bundle]) -> QpuFigures:
    """Circuit, costs and calibrations; without the latter where they cannot be read."""
    try:
        return qpu.figures(bundle.machine for bundle in bundles)
    except QShowerError:
        return replace(qpu.figures(()), calibrations=(None,) * len(bundles))


def _lane_rows(registry: SamplerRegistry, name: str) -> int | None:
    """Most rows in a batch of a lane, None for ``max_batch_rows``."""
    if name in ("qpu", CACHED_LANE):
        return QPU_BATCH_ROWS
    sampler = registry.get(name) if name in registry.names() else None
    return GPU_BATCH_ROWS if isinstance(sampler, GibbsSampler) and sampler.device == "cuda" else None


def _declare_problem(app: FastAPI) -> None:
    """Put the schema of problems into the OpenAPI document, where the routes' errors refer to it."""
    plain = app.openapi

    def with_problem() -> dict[str, object]:
        document = plain()
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(schema.pop("$defs", {}))
        schemas["Problem"] = schema
        return document

    app.openapi = with_problem  # type: ignore[method-assign]
