"""A running service without HTTP: models, samplers, engine and background work, from start to shutdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from qshower.sampler.errors import QShowerError
from qshower.sampler.registry import SamplerRegistry
from qshower.service.api_keys import ApiKeys
from qshower.service.background.idle_tracking import IdleTracking
from qshower.service.background.recalibration import Recalibration
from qshower.service.catalogue import Catalogue, load_catalogue
from qshower.service.engine.admission import Limits
from qshower.service.engine.engine import Engine
from qshower.service.engine.work import BYTES_OF_VOXEL
from qshower.service.generation.generator import Generator
from qshower.service.generation.key_quota import Accounts
from qshower.service.generation.key_rate import KeyRates
from qshower.service.generation.request_of_body import request_of_body
from qshower.service.generation.sampler_status import SamplerStatus
from qshower.service.generation.selection import Selection
from qshower.service.generation.shower_request import ShowerRequest
from qshower.service.jobs.background_jobs import Jobs
from qshower.service.jobs.job_files import JobFiles
from qshower.service.latent_cache.latent_caches import LatentCaches
from qshower.service.metrics import Metrics
from qshower.service.model_uses import ModelUses
from qshower.service.reloading import Reloading
from qshower.service.residency import Residency
from qshower.service.sampler_table import build_registry, qpu_of, qpu_usage_path
from qshower.service.schemas import GenerateRequest
from qshower.service.service_errors import ModelBrokenError
from qshower.service.settings import Settings
from qshower.service.warmup import to_warm, warm_up

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.qpu.qpu_sampler import QpuSampler
    from qshower.sampler.qpu.qpu_status import QpuFigures

PIECE_S = 0.08
"""Projected seconds of a batch: a request that comes meanwhile waits for it."""

_log = structlog.get_logger("qshower.service")


@dataclass(slots=True, eq=False)
class Service:
    """The parts that the routes use. ``ready`` once the models are loaded and the samplers warm."""

    settings: Settings
    generator: Generator
    samplers: SamplerStatus
    engine: Engine
    metrics: Metrics
    idle: IdleTracking
    jobs: Jobs
    residency: Residency
    reloading: Reloading
    model_uses: ModelUses
    ready: bool = False

    def broken_models(self) -> dict[str, str]:
        """Models that cannot be used, and why; of one version among several as ``NAME@VERSION``."""
        catalogue = self.generator.selection.catalogue
        found = {}
        for model in catalogue.broken():
            others = [version for version in catalogue.versions(model.name) if version != model.version]
            found[f"{model.name}@{model.version}" if others else model.name] = model.error
        for bundle in catalogue.all_versions():
            if (error := self.residency.failure(bundle)) is not None:
                found[bundle.name] = error
        return found


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
        idle, uses = IdleTracking(), ModelUses()
        engine = Engine(
            Limits(
                settings.limits.batch_rows,
                settings.limits.queue_rows,
                settings.limits.queue_requests,
                settings.limits.pending_bytes,
                settings.times.retry_after_s,
                max_work_s=settings.limits.deadline_s,
                piece_s=PIECE_S,
            ),
            metrics,
            idle,
            uses,
            capabilities_of=lambda name: registry.get(name).capabilities,
        )
        caches = LatentCaches(
            catalogue,
            registry,
            idle=lambda: idle.cpu_idle,
            max_bytes=settings.latent_cache.bytes if warm else 0,
            per_condition=settings.latent_cache.per_condition,
            max_age_s=settings.on_qpu.cached_reads_max_age_s,
        )
        background.push_async_callback(asyncio.to_thread, caches.close)
        stack.push_async_callback(asyncio.to_thread, caches.stop)
        metrics.watch_latent_caches(caches.status)
        stack.push_async_callback(engine.close, settings.times.drain_timeout_s)
        metrics.watch(engine)
        recalibration = None
        if (qpu := qpu_of(registry)) is not None:
            if warm and settings.on_qpu.recalibrate_s:
                recalibration = Recalibration(qpu, catalogue, settings.on_qpu.recalibrate_s)
                background.push_async_callback(asyncio.to_thread, recalibration.close)
                stack.callback(recalibration.task.stop)
            metrics.watch_qpu(
                lambda: _qpu_figures(qpu, catalogue.bundles()),
                None if recalibration is None else recalibration.status,
                None if caches.queue is None else caches.queue.status,
            )
        selection = Selection(catalogue, registry)
        residency = Residency(settings.limits.model_bytes)
        metrics.watch_models(catalogue, residency)
        reloading = Reloading(catalogue, lambda: load_catalogue(settings, catalogue), residency, caches)
        stack.push_async_callback(reloading.close)
        keys = keys or ApiKeys()
        quotas, rates = Accounts(keys.budgets_us, qpu_usage_path(settings)), KeyRates(keys.rates)
        metrics.watch_keys(quotas.states, rates.left)
        generator = Generator(
            selection,
            engine,
            default_deadline_s=settings.times.default_deadline_s,
            max_response_bytes=settings.limits.response_bytes,
            cache=caches,
            quotas=quotas,
            residency=residency,
            rates=rates,
        )
        for model in catalogue.broken():
            _log.error("a model is broken", model=model.name, error=model.error)
        if warm:
            for bundle in to_warm(selection):
                try:
                    async with residency.using(bundle):
                        await asyncio.to_thread(warm_up, selection, bundle)
                except ModelBrokenError as error:
                    _log.error("a model is broken", model=bundle.name, error=error.error)
            caches.start()
        if recalibration is not None:
            recalibration.task.start()
        _log.info(
            "ready", models=catalogue.names(), samplers=registry.names(), start_s=round(time.monotonic() - begun, 2)
        )
        status = SamplerStatus(selection, cache=caches, quotas=quotas, recalibration=recalibration)
        jobs = _jobs(settings, generator)
        if warm:
            await jobs.start()
            stack.push_async_callback(jobs.stop)
        yield Service(settings, generator, status, engine, metrics, idle, jobs, residency, reloading, uses)


def _jobs(settings: Settings, generator: Generator) -> Jobs:
    """The jobs of the folder of ``settings``, not begun yet."""
    folder = settings.jobs.folder or settings.on_qpu.of_sampler().state_folder / "jobs"
    limits = settings.limits.model_copy(update={"showers": settings.jobs.showers})

    def request_of(body: dict[str, Any], account: str) -> ShowerRequest:
        # Energies were integers where they could be, and are floats in the body on disk all the same.
        return request_of_body(GenerateRequest.model_validate(body), limits, BYTES_OF_VOXEL, account)

    return Jobs(settings.jobs, JobFiles(folder), generator, request_of)


def _qpu_figures(qpu: QpuSampler, bundles: Sequence[Bundle]) -> tuple[QpuFigures, list[str]]:
    """Circuit, costs and calibrations, the latter in the order of the names; none where they cannot be read."""
    try:
        figures = qpu.monitor.figures(bundle.machine for bundle in bundles)
    except QShowerError:
        figures = replace(qpu.monitor.figures(()), calibrations=(None,) * len(bundles))
    return figures, [bundle.name for bundle in bundles]
