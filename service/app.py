"""The application: models, samplers, engine and routes put together, from start to shutdown."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.middleware import Middleware

from qshower.sampler.registry import SamplerRegistry
from qshower.service.api_keys import ApiKeys, load_api_keys
from qshower.service.catalogue import Catalogue, load_catalogue
from qshower.service.http import docs_page, problem_json
from qshower.service.http.compression import CompressedAnswers
from qshower.service.http.job_routes import router as job_router
from qshower.service.http.middleware import (
    OPEN_PATHS,
    BodyLimit,
    HostCheck,
    KeyCheck,
    RequestCount,
    UnexpectedErrors,
)
from qshower.service.http.request_bodies import GzipBodies, HeadAsGet
from qshower.service.http.request_ids import RequestIds
from qshower.service.http.root_path import RootPath
from qshower.service.http.routes import router
from qshower.service.kserve.error_bodies import ErrorBodies
from qshower.service.kserve.http_pages import router as kserve
from qshower.service.metrics import Metrics
from qshower.service.running import Service, running_service
from qshower.service.sampler_table import build_registry
from qshower.service.schemas import GenerateRequest, Problem
from qshower.service.settings import Settings
from qshower.service.telemetry import telemetry
from qshower.service.version import program_version

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
    connections = settings.connections

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_service(settings, metrics, load_models, make_samplers, keys=keys) as service:
            app.state.service = service
            async with _grpc(settings, keys, metrics, service) as app.state.grpc_port:
                service.ready = True
                yield
                service.ready = False

    app = FastAPI(
        title="qshower",
        summary="Calorimeter showers on request",
        version=program_version(),
        lifespan=lifespan,
        telemetry=telemetry(),
        docs_url=None,
        redoc_url=None,
        # What they would send a client to is made of the Host that it sent.
        redirect_slashes=False,
        middleware=[
            *([Middleware(RootPath, root_path=connections.root_path)] if connections.root_path else []),
            Middleware(RequestIds),
            Middleware(HeadAsGet),
            Middleware(CompressedAnswers),
            Middleware(ErrorBodies),
            Middleware(UnexpectedErrors),
            Middleware(RequestCount, metrics=metrics),
            *([Middleware(HostCheck, allowed=hosts)] if (hosts := connections.hosts()) else []),
            Middleware(KeyCheck, keys=keys, open_metrics=settings.metrics.open),
            Middleware(BodyLimit, most_bytes=settings.limits.most_body_bytes),
            Middleware(GzipBodies, most_bytes=settings.limits.most_body_bytes),
        ],
    )
    problem_json.install(app, settings.times.retry_after_s)
    app.include_router(router)
    app.include_router(job_router)
    app.include_router(docs_page.router)
    app.include_router(kserve)
    _declare(app, keys_are_asked_for=bool(keys))
    return app


@asynccontextmanager
async def _grpc(settings: Settings, keys: ApiKeys, metrics: Metrics, service: Service) -> AsyncIterator[int | None]:
    """KServe v2 over gRPC, if it is wanted; its port."""
    if settings.grpc_port is None:
        yield None
        return
    from qshower.service.kserve.grpc_server import GrpcContext, grpc_serving  # loads gRPC, which few need

    async with grpc_serving(GrpcContext(settings, keys, metrics, lambda: service)) as port:
        yield port


def _declare(app: FastAPI, *, keys_are_asked_for: bool) -> None:
    """Put the schemas that the routes refer to, and how to send a key, into the OpenAPI document."""
    plain = app.openapi

    def declared() -> dict[str, Any]:
        document = plain()
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for kind in (Problem, GenerateRequest):
            schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[kind.__name__] = schema
        if keys_are_asked_for:
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            document["security"] = [{"bearer": []}, {"key": []}]
            for path in OPEN_PATHS & set(document["paths"]):
                for operation in document["paths"][path].values():
                    operation["security"] = []
        return document

    app.openapi = declared  # type: ignore[method-assign]
