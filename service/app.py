"""The application: models, samplers, engine and routes put together, from start to shutdown."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI
from starlette.middleware import Middleware

from qshower.sampler.registry import SamplerRegistry
from qshower.service.api_keys import load_api_keys
from qshower.service.catalogue import Catalogue, load_catalogue
from qshower.service.http import problem_json
from qshower.service.http.middleware import BodyLimit, KeyCheck, RequestCount, UnexpectedErrors
from qshower.service.http.request_bodies import GzipBodies, HeadAsGet
from qshower.service.http.routes import router
from qshower.service.metrics import Metrics
from qshower.service.running import running_service
from qshower.service.sampler_table import build_registry
from qshower.service.schemas import GenerateRequest, Problem
from qshower.service.settings import Settings
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
            Middleware(HeadAsGet),
            Middleware(UnexpectedErrors),
            Middleware(RequestCount, metrics=metrics),
            Middleware(KeyCheck, keys=keys),
            Middleware(BodyLimit, most_bytes=settings.limits.most_body_bytes),
            Middleware(GzipBodies, most_bytes=settings.limits.most_body_bytes),
        ],
    )
    problem_json.install(app, settings.times.retry_after_s)
    app.include_router(router)
    _declare_schemas(app)
    return app


def _declare_schemas(app: FastAPI) -> None:
    """Put the schemas of problems and of requests into the OpenAPI document, where the routes refer to them."""
    plain = app.openapi

    def with_schemas() -> dict[str, object]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for kind in (Problem, GenerateRequest):
            schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[kind.__name__] = schema
        return document

    app.openapi = with_schemas  # type: ignore[method-assign]
