"""Every error as problem+json (RFC 9457), with its status and, where waiting helps, Retry-After."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from qshower.model.field_errors import field_errors, sentence
from qshower.sampler.errors import (
    BankExhaustedError,
    BudgetExceededError,
    ConditionNotHeldError,
    InvalidInputError,
    PlacementError,
    ProblemRangeError,
    QShowerError,
    SamplerAnswerError,
    SamplerError,
    SamplerTimeoutError,
    SamplerUnavailableError,
)
from qshower.service.http.echo import cut, echo, shown
from qshower.service.http.root_path import route_path
from qshower.service.machine_paths import without_paths
from qshower.service.schemas import GenerateRequest, Problem
from qshower.service.service_errors import (
    DeadlineError,
    JobNotDoneError,
    MalformedError,
    MisdirectedError,
    ModelBrokenError,
    NotAcceptableError,
    NotReadyError,
    QueueFullError,
    RateError,
    StorageError,
    TooLargeError,
    UnauthorisedError,
    UnknownJobError,
    UnknownModelError,
    UnsupportedEncodingError,
)

_log = structlog.get_logger("qshower.service")

MEDIA_TYPE = "application/problem+json"
MOST_ERRORS = 16

# Most specific first: the first class an error is an instance of decides.
_KINDS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (MalformedError, 400, "malformed", "Malformed request"),
    (UnauthorisedError, 401, "unauthorised", "An API key is needed"),
    (UnknownModelError, 404, "unknown-model", "No such model"),
    (UnknownJobError, 404, "unknown-job", "No such job"),
    (JobNotDoneError, 409, "job-not-done", "The job has no result"),
    (NotAcceptableError, 406, "not-acceptable", "None of the accepted formats can be made"),
    (TooLargeError, 413, "too-large", "Too large"),
    (UnsupportedEncodingError, 415, "unsupported-encoding", "The body's encoding is not supported"),
    (MisdirectedError, 421, "misdirected", "Another host is meant"),
    (InvalidInputError, 422, "invalid-value", "A value is not allowed"),
    (ProblemRangeError, 422, "problem-range", "The model does not fit the solver's ranges"),
    (ConditionNotHeldError, 422, "condition-not-held", "Flux biases do not hold the condition"),
    (QueueFullError, 429, "queue-full", "Too much is waiting"),
    (RateError, 429, "rate", "The key has drawn too much for now"),
    (BudgetExceededError, 429, "budget", "The QPU budget is used up"),
    (ModelBrokenError, 503, "model-broken", "The model cannot be used"),
    (NotReadyError, 503, "not-ready", "The service is not ready"),
    (SamplerUnavailableError, 503, "sampler-unavailable", "The sampler is unavailable"),
    (BankExhaustedError, 503, "bank-exhausted", "The bank has run out"),
    (SamplerAnswerError, 503, "sampler-answer", "The sampler's answer was not valid"),
    (SamplerTimeoutError, 504, "deadline", "Not done before the deadline"),
    (StorageError, 507, "storage", "No room to write the answer"),
    (DeadlineError, 504, "deadline", "Not done before the deadline"),
    (SamplerError, 503, "sampler-failed", "The sampler failed"),
)

_HTTP_KINDS = {
    400: ("malformed", "Malformed request"),
    404: ("not-found", "No such page"),
    413: ("too-large", "Too large"),
}


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """``problem`` as an HTTP response."""
    body = problem.model_dump(exclude_unset=True)
    return Response(orjson.dumps(body, default=str), problem.status, headers, media_type=MEDIA_TYPE)


def problem_of(error: Exception, retry_after_s: float) -> tuple[Problem, dict[str, str]]:
    """The problem and headers of ``error``; ``retry_after_s`` where a 429 or 503 does not know better."""
    known = next((row for row in _KINDS if isinstance(error, row[0])), None)
    if known is None:
        # What happened is for the log; it may hold what the caller should not see.
        detail = "something unexpected happened; the server's log has it"
        return Problem(type="urn:qshower:internal", title="Internal error", status=500, detail=detail), {}
    _, status, name, title = known
    problem = Problem(type=f"urn:qshower:{name}", title=title, status=status, detail=str(error))
    if isinstance(error, SamplerError) and (told := without_paths(problem.detail)) != problem.detail:
        # Where files lie on this machine is for its operator.
        _log.warning("sampler failed", error=problem.detail)
        problem.detail = told
    if isinstance(error, InvalidInputError):
        problem.field, problem.value, problem.allowed = error.field, echo(error.value), error.allowed
        problem.detail = error.sentence(shown(error.value))
    if isinstance(error, PlacementError) and (error.qubits or error.couplers):
        problem.missing_qubits, problem.missing_couplers = list(error.qubits), list(error.couplers)
    headers = {401: {"WWW-Authenticate": "Bearer"}, 406: {"Vary": "Accept"}, 415: {"Accept-Encoding": "gzip"}}.get(
        status, {}
    ).copy()
    # What a bank has run out of does not come again: no Retry-After, so that clients do not wait for it.
    if status in (429, 503) and not isinstance(error, BankExhaustedError):
        wait = getattr(error, "retry_after_s", None)
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s if wait is None else wait)))
    return problem, headers


def outcome_of(error: Exception) -> str:
    """The kind of an error as a metric's label."""
    return next((name for kind, _, name, _ in _KINDS if isinstance(error, kind)), "error")


def install(app: FastAPI, retry_after_s: float) -> None:
    """Answer every known error of ``app`` as problem+json; ``UnexpectedErrors`` does so with the others."""

    async def own(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the signature is Starlette's
        return problem_response(*problem_of(error, retry_after_s))

    async def validation(request: Request, error: Exception) -> Response:  # noqa: ARG001
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
        return problem_response(_problem_of_validation(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
        name, title = _HTTP_KINDS.get(error.status_code, ("http", str(error.detail)))
        problem = Problem(type=f"urn:qshower:{name}", title=title, status=error.status_code, detail=str(error.detail))
        headers = dict(error.headers or {})
        if error.status_code == 405 and (methods := _methods_at(request)):
            headers["Allow"] = ", ".join(methods)
        return problem_response(problem, headers)

    app.add_exception_handler(QShowerError, own)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


def _methods_at(request: Request) -> list[str]:
    """What a path of the OpenAPI document takes, which may be routes of its own for each method; [] for another."""
    path = route_path(request.scope)
    for template, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path):
            return sorted(method.upper() for method in operations)
    return []


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of error ``statuses``, for ``responses=`` of a route."""
    titles = {status: title for _, status, _, title in reversed(_KINDS)}
    entries: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        entries[status] = {
            "description": titles.get(status, "Internal error"),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        if status in (429, 503):
            header = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
            entries[status]["headers"] = {"Retry-After": header}
    return entries


def _problem_of_validation(error: RequestValidationError) -> Problem:
    errors = error.errors()[:MOST_ERRORS]
    faults = field_errors([{**item, "loc": _location(item["loc"])} for item in errors], GenerateRequest)
    fields = [{"field": fault.path, "value": echo(fault.value), "allowed": fault.allowed} for fault in faults]
    head = faults[0]
    usual = f"{head.path}: {shown(head.value)} is not allowed; allowed: {head.allowed}"
    return Problem.model_validate(
        {
            "type": "urn:qshower:invalid-value",
            "title": "A value is not allowed",
            "status": 422,
            "detail": sentence(faults) or usual,
            **fields[0],
            "errors": fields,
        }
    )


def _location(parts: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where in the body, with names of fields that are not too long to be shown."""
    return tuple(cut(part) if isinstance(part, str) else part for part in parts[1:] or parts)
