"""KServe v2 over HTTP: health, metadata, repository index, configuration, statistics and inference.

The pages are not in the OpenAPI document: the protocol has a definition of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from qshower.service.http.client_gone import unless_gone
from qshower.service.http.encoding import BYTES_PER_VOXEL
from qshower.service.http.negotiation import Format
from qshower.service.kserve.descriptions import (
    model_config,
    model_is_ready,
    model_metadata,
    model_statistics,
    repository_index,
    server_is_ready,
    server_metadata,
)
from qshower.service.kserve.inference import infer
from qshower.service.kserve.json_call import HEADER_LENGTH, encoded, parsed
from qshower.service.running import Service
from qshower.service.service_errors import MalformedError

INLINE_BYTES = 1 << 18
"""Bodies and answers up to this size are read and written where they are; a thread would cost more."""
VERSIONED = "/models/{name}/versions/{version}"

router = APIRouter(prefix="/v2", include_in_schema=False)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _json(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


@router.get("")
async def server() -> Response:
    """The server's metadata."""
    return _json(server_metadata())


@router.get("/health/live")
async def live() -> Response:
    """200 as long as the process answers."""
    return _json({"live": True})


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """200 when requests are taken, else 503."""
    is_ready = server_is_ready(getattr(request.app.state, "service", None))
    return _json({"ready": is_ready}, 200 if is_ready else 503)


@router.post("/repository/index")
async def index(request: Request) -> Response:
    """The models and whether they can be used; with ``{"ready": true}`` those that can."""
    body = await request.body()
    try:
        wish = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"the body is not JSON: {error}") from None
    only_ready = isinstance(wish, dict) and wish.get("ready") is True
    return _json(repository_index(_service(request), only_ready=only_ready))


@router.get("/models/{name}/ready")
@router.get(VERSIONED + "/ready")
async def model_ready(request: Request, name: str, version: str = "") -> Response:
    """200 if the model can be used, else 503."""
    is_ready = model_is_ready(_service(request), name, version)
    return _json({"name": name, "ready": is_ready}, 200 if is_ready else 503)


def _stats(service: Service, name: str, version: str) -> dict[str, Any]:
    return {"model_stats": model_statistics(service, name, version)}


@router.get("/models/stats")
async def all_statistics(request: Request) -> Response:
    """Statistics of all models."""
    return _json(_stats(_service(request), "", ""))


def _described(path: str, describe: Callable[[Service, str, str], Any]) -> None:
    async def page(request: Request, name: str, version: str = "") -> Response:
        return _json(describe(_service(request), name, version))

    for prefix in ("/models/{name}", VERSIONED):
        router.add_api_route(prefix + path, page)


_described("", model_metadata)
_described("/config", model_config)
_described("/stats", _stats)


@router.post("/models/{name}/infer")
@router.post(VERSIONED + "/infer")
async def model_infer(request: Request, name: str, version: str = "") -> Response:
    """Draw one shower for each incident energy."""
    service, body = _service(request), await request.body()
    head_length = request.headers.get(HEADER_LENGTH)
    inline = len(body) <= INLINE_BYTES
    arguments = (body, head_length, name, version)
    call, binary = parsed(*arguments) if inline else await asyncio.to_thread(parsed, *arguments)

    async def answered() -> Response:
        account: str = getattr(request.state, "api_key_name", "")
        per_voxel = BYTES_PER_VOXEL[Format.NPZ if binary else Format.JSON]
        answer = await infer(service, call, account, bytes_per_voxel=per_voxel)
        small, begun = answer.showers_mev.nbytes <= INLINE_BYTES, time.perf_counter()
        content, headers = (
            encoded(answer, call.id, binary=binary)
            if small
            else await asyncio.to_thread(encoded, answer, call.id, binary=binary)
        )
        service.metrics.encode_seconds.labels("kserve").observe(time.perf_counter() - begun)
        return Response(content, 200, headers)

    response = await unless_gone(request, answered())
    # A client that has gone reads nothing; the status is for the metrics alone.
    return response or Response(status_code=499)
