"""The pages of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from qshower.model.bundle import Bundle, describe
from qshower.service.bundle_folders import BrokenModel
from qshower.service.generation.availability import in_waiting_thread
from qshower.service.generation.request_of_body import request_of_body
from qshower.service.http.answer_stream import WINDOW_BYTES, response_to
from qshower.service.http.client_gone import unless_gone
from qshower.service.http.encoding import BYTES_PER_VOXEL
from qshower.service.http.negotiation import Format, Wanted, negotiate
from qshower.service.http.problem_json import declared, outcome_of
from qshower.service.http.request_json import OPENAPI_BODY, generate_request
from qshower.service.machine_paths import without_paths
from qshower.service.metrics import CONTENT_TYPE
from qshower.service.running import Service
from qshower.service.sampler_table import SAMPLERS
from qshower.service.schemas import (
    BrokenBundle,
    EstimateAnswer,
    GenerateAnswer,
    GenerateRequest,
    Health,
    ModelDetail,
    ModelList,
    ModelSummary,
    SamplerList,
)
from qshower.service.service_errors import ModelBrokenError, NotReadyError

router = APIRouter()
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _account(request: Request) -> str:
    """The name of the caller's API key, "" where none is asked for."""
    name: str = getattr(request.state, "api_key_name", "")
    return name


@router.post(
    "/generate",
    summary="Draw showers",
    response_model=GenerateAnswer | EstimateAnswer,
    openapi_extra=OPENAPI_BODY,
    responses={
        200: {
            "description": "Showers in request order, with their provenance; with dry_run the estimate, as JSON.",
            "content": {kind.value: _BINARY for kind in Format if kind is not Format.JSON},
        },
        **declared(400, 401, 404, 406, 413, 415, 422, 429, 500, 503, 504, 507),
    },
)
async def generate(request: Request, body: Annotated[GenerateRequest, Depends(generate_request)]) -> Response:
    """Draw one shower for each incident energy, in the format that the Accept header asks for."""
    service = _service(request)
    ended = service.metrics.outcomes.labels
    try:
        wanted = negotiate(request.headers.get("accept"))
        response = await unless_gone(
            request, _generated(service, body, wanted, _account(request), lambda how: ended(how).inc())
        )
    except asyncio.CancelledError:
        # By the server, once the time to drain is over; what it would answer by itself is 500.
        if not service.engine.draining:
            ended("error").inc()
            raise
        ended("not-ready").inc()
        raise NotReadyError("the service has shut down", retry_after_s=service.settings.times.retry_after_s) from None
    except Exception as error:
        ended(outcome_of(error)).inc()
        raise
    if response is None:
        ended("client_gone").inc()
    # A client that has gone reads nothing; the status is for the metrics alone.
    return response or Response(status_code=499)


async def _generated(
    service: Service, body: GenerateRequest, wanted: Wanted, account: str, ended: Callable[[str], object]
) -> Response:
    per_voxel = BYTES_PER_VOXEL[wanted.format]
    wish = request_of_body(body, service.settings.limits, per_voxel, account, window_bytes=WINDOW_BYTES)
    if body.dry_run:
        estimate = EstimateAnswer(estimate=await service.generator.estimate(wish))
        ended("ok")
        return Response(estimate.model_dump_json(), media_type=Format.JSON.value)
    async with AsyncExitStack() as holds:
        holds.enter_context(service.idle.answering())
        answer = await service.generator.begin(wish)
        holds.push_async_callback(answer.close)
        if answer.origin.fallback_from is not None:
            service.metrics.fallbacks.labels(answer.sampler).inc()
        encoded = service.metrics.encode_seconds.labels(wanted.format.name.lower()).observe
        response = await response_to(answer, wanted, later := AsyncExitStack(), ended, encoded)
        later.push_async_exit(holds.pop_all())
    return response


@router.get("/models", summary="The models", responses=declared(401))
async def models(request: Request) -> ModelList:
    """The models, the default first, each in its highest version; and those that cannot be used."""
    service = _service(request)
    catalogue = service.generator.selection.catalogue
    return ModelList(
        models=[_summary(service, bundle) for bundle in catalogue.bundles()],
        broken=[_broken(service, model) for model in catalogue.broken()],
    )


@router.get("/models/{name}", summary="One model", responses=declared(401, 404))
async def model(request: Request, name: str) -> ModelDetail | BrokenBundle:
    """Geometry, domain, hash, training data and quality of a model, NAME or NAME@VERSION; if it is broken, why."""
    service = _service(request)
    catalogue = service.generator.selection.catalogue
    try:
        bundle = catalogue.get(name)
        known = await asyncio.to_thread(describe, bundle)
    except ModelBrokenError:
        base, _, version = name.partition("@")
        broken = next(one for one in catalogue.broken() if one.name == base and version in ("", str(one.version)))
        return _broken(service, broken)
    return ModelDetail(
        **_summary(service, bundle).model_dump(),
        layout=bundle.geometry.as_dict(),
        threshold_mev=bundle.geometry.threshold_mev,
        default_sweeps=bundle.default_sweeps,
        sweeps_measurement=bundle.manifest.sweeps_measurement,
        **{
            field: known[field]
            for field in ("description", "energy_code", "nodes", "couplers", "parameters", "training", "quality")
        },
    )


def _summary(service: Service, bundle: Bundle) -> ModelSummary:
    return ModelSummary(
        name=bundle.name,
        version=bundle.manifest.version,
        versions=list(service.generator.selection.catalogue.versions(bundle.name)),
        loaded=service.residency.has(bundle),
        error=service.residency.failure(bundle),
        default=bundle.name == service.generator.selection.catalogue.default_name,
        sha256=bundle.sha256,
        geometry=bundle.geometry.name,
        particle=bundle.geometry.particle,
        voxels=bundle.geometry.voxel_count,
        topology=bundle.machine.topology,
        domain_mev=list(bundle.domain_mev),
    )


def _broken(service: Service, model: BrokenModel) -> BrokenBundle:
    default = model.name == service.generator.selection.catalogue.default_name
    return BrokenBundle(name=model.name, version=model.version, default=default, error=model.error)


@router.get("/samplers", summary="The samplers", responses=declared(401))
async def samplers(request: Request) -> SamplerList:
    """Which samplers can be used now, and why not."""
    service, account = _service(request), _account(request)
    states = await asyncio.gather(*(in_waiting_thread(service.samplers.of, name, account) for name in SAMPLERS))
    states = [state.model_copy(update={"reason": state.reason and without_paths(state.reason)}) for state in states]
    usable = {state.name for state in states if state.available}
    auto = next((name for name in service.generator.selection.auto() if name in usable), None)
    return SamplerList(auto=auto, samplers=states)


@router.get("/health/live", summary="Liveness", response_model_exclude_none=True)
async def live() -> Health:
    """200 as long as the process answers."""
    return Health(status="live")


@router.get("/health/ready", summary="Readiness", response_model_exclude_none=True, responses=declared(503))
async def ready(request: Request) -> Health:
    """200 when requests are taken, with what models are broken, if any are; 503 while starting and shutting down."""
    service = _service(request)
    if not service.ready or service.engine.draining:
        state = "shutting down" if service.engine.draining else "starting"
        raise NotReadyError(f"the service is {state}", retry_after_s=service.settings.times.retry_after_s)
    return Health(status="ready", broken_models=service.broken_models() or None)


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response, responses=declared(401))
async def metrics(request: Request) -> Response:
    """Counters and histograms in Prometheus' text format."""
    return Response(_service(request).metrics.page(), media_type=CONTENT_TYPE)
