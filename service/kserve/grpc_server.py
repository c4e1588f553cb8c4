"""KServe v2 over gRPC: a second port in the service's own event loop, and the same way through it."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import Message

from qshower.sampler.files import why
from qshower.service.api_keys import ApiKeys
from qshower.service.http.problem_json import problem_of
from qshower.service.http.request_ids import HEADER, request_id
from qshower.service.kserve import health_pb2, inference_pb2
from qshower.service.kserve.descriptions import server_is_ready
from qshower.service.kserve.grpc_calls import DESCRIPTIONS, Description, model_infer
from qshower.service.metrics import Metrics
from qshower.service.running import Service
from qshower.service.service_errors import NotReadyError, SettingsError, UnauthorisedError
from qshower.service.settings import Settings

SERVICE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
VARIABLE = "QSHOWER_GRPC_PORT"
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's codes of the statuses that HTTP answers; INTERNAL for the rest."""

Caller: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Answer: TypeAlias = "Callable[[Any, Caller], Awaitable[Message]]"

_log = structlog.get_logger("qshower.service")


@dataclass(frozen=True, slots=True)
class GrpcContext:
    """What the calls share: settings, who may call, what is counted, and the service once it is there."""

    settings: Settings
    keys: ApiKeys
    metrics: Metrics
    service: Callable[[], Service | None]


@asynccontextmanager
async def grpc_serving(context: GrpcContext) -> AsyncIterator[int]:
    """Answer on the port of the settings; which one that is. At the end what is in work is finished.

    SettingsError if the port cannot be had.
    """
    settings = context.settings
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.limits.most_body_bytes),
            ("grpc.max_send_message_length", -1),
            # Two services on one port would each get some of the calls.
            ("grpc.so_reuseport", 0),
        ]
    )
    server.add_generic_rpc_handlers(_handlers(context))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
    except RuntimeError:
        raise _port_in_use(settings.grpc_port or 0) from None
    await server.start()
    _log.info("listening", grpc=f"{host}:{port}")
    try:
        yield port
    finally:
        await server.stop(settings.times.drain_timeout_s)


def check_grpc_port(settings: Settings) -> None:
    """SettingsError if the gRPC port of ``settings`` cannot be had: said at once, not after seconds of loading."""
    port = settings.grpc_port
    if not port:
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise _port_in_use(port, why(error)) from None


def _port_in_use(port: int, fault: str = "it cannot be listened on") -> SettingsError:
    message = f"{VARIABLE}={port}: {fault}; choose another with --grpc-port"
    return SettingsError(VARIABLE, port, "a free port", message=message)


def _handlers(context: GrpcContext) -> Sequence[grpc.GenericRpcHandler]:
    calls: dict[str, tuple[type[Message], Answer]] = {
        name: (kind, _describing(context, describe)) for name, (kind, describe) in DESCRIPTIONS.items()
    }
    calls["ModelInfer"] = inference_pb2.ModelInferRequest, partial(_inferring, context)
    methods = {name: _method(_answering(context, name, answer), kind) for name, (kind, answer) in calls.items()}
    # Probes need no key, over HTTP neither.
    methods["ServerLive"] = _method(_live, inference_pb2.ServerLiveRequest)
    methods["ServerReady"] = _method(partial(_ready, context), inference_pb2.ServerReadyRequest)
    check = _method(partial(_check, context), health_pb2.HealthCheckRequest)
    return (
        grpc.method_handlers_generic_handler(SERVICE, methods),
        grpc.method_handlers_generic_handler(HEALTH, {"Check": check}),
    )


def _method(behaviour: Answer, kind: type[Message]) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        behaviour, request_deserializer=kind.FromString, response_serializer=lambda message: message.SerializeToString()
    )


async def _live(_request: Message, _call: Caller) -> Message:
    return inference_pb2.ServerLiveResponse(live=True)


async def _ready(context: GrpcContext, _request: Message, _call: Caller) -> Message:
    return inference_pb2.ServerReadyResponse(ready=server_is_ready(context.service()))


async def _check(context: GrpcContext, request: health_pb2.HealthCheckRequest, call: Caller) -> Message:
    if request.service not in ("", SERVICE):
        await call.abort(grpc.StatusCode.NOT_FOUND, f"there are {SERVICE} and the server as a whole, named ''")
    kinds = health_pb2.HealthCheckResponse.ServingStatus
    is_ready = server_is_ready(context.service())
    return health_pb2.HealthCheckResponse(status=kinds.SERVING if is_ready else kinds.NOT_SERVING)


def _describing(context: GrpcContext, describe: Description) -> Answer:
    async def answer(request: Message, call: Caller) -> Message:
        _account(context.keys, call)
        return describe(_started(context), request)

    return answer


async def _inferring(context: GrpcContext, request: inference_pb2.ModelInferRequest, call: Caller) -> Message:
    account = _account(context.keys, call)
    return await model_infer(_started(context), request, account, call.time_remaining())


def _started(context: GrpcContext) -> Service:
    service = context.service()
    if service is None:
        raise NotReadyError("the service is starting", retry_after_s=context.settings.times.retry_after_s)
    return service


def _answering(context: GrpcContext, name: str, answer: Answer) -> Answer:
    """``answer`` with its errors as gRPC has them, and counted. A client that goes away cancels it."""
    route = f"grpc {name}"

    async def behaviour(request: Any, call: Caller) -> Message:
        begun, status = time.perf_counter(), "CANCELLED"
        structlog.contextvars.bind_contextvars(request_id=request_id(_metadata(call).get(HEADER)))
        try:
            message = await answer(request, call)
            status = "OK"
        except Exception as error:  # whatever it is, the caller gets a status, and no more of it than over HTTP
            problem, headers = problem_of(error, context.settings.times.retry_after_s)
            code = CODES.get(problem.status, grpc.StatusCode.INTERNAL)
            status = code.name
            if code is grpc.StatusCode.INTERNAL:
                _log.exception("a call failed", call=name)
            wait = tuple((key.lower(), value) for key, value in headers.items() if key == "Retry-After")
            await call.abort(code, f"{problem.title}: {problem.detail}", wait)
        finally:
            _log.debug("answered", call=name, status=status, seconds=round(time.perf_counter() - begun, 6))
            context.metrics.requests.labels(route, status).inc()
            context.metrics.request_seconds.labels(route).observe(time.perf_counter() - begun)
        return message

    return behaviour


def _account(keys: ApiKeys, call: Caller) -> str:
    """The name of the caller's API key, "" where none is asked for; UnauthorisedError."""
    if not keys:
        return ""
    sent = _metadata(call)
    scheme, _, credentials = sent.get("authorization", "").partition(" ")
    key = credentials.strip() if scheme.lower() == "bearer" else sent.get("x-api-key", "")
    name = keys.name_of(key) if key else None
    if name is None:
        raise UnauthorisedError("send a known key as metadata: authorization, Bearer KEY, or x-api-key")
    return name


def _metadata(call: Caller) -> dict[str, str]:
    return {key: value for key, value in call.invocation_metadata() or () if isinstance(value, str)}
