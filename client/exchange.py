"""One request and its answer, as steps that a synchronous and an asynchronous link carry out alike.

A generator yields a step and is sent what came of it; a failed transport is thrown into it. What is decided (where to
send, when to try again, what an answer means) is in these generators, what is done is in the link::

    Open   send a request          ->  Head          httpx2.TransportError
    Read   the next bytes          ->  bytes, b"" at the end
    Pause  wait                    ->  None
    Item   hand a result on        ->  None
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import httpx2

from qshower.client.client_errors import (
    BadAnswerError,
    ConnectionFailedError,
    IncompleteAnswerError,
    RefusedError,
    refusal,
)
from qshower.client.http_setup import proxy_variable
from qshower.client.route import Route

FIRST_PAUSE_S = 0.2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Head:
    """Status, reason and headers (names in lower case) of an answer."""

    status: int
    reason: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request; what was open before is closed."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Read:
    """The next bytes of the body."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Item:
    """A result for the caller."""

    value: Any


Steps: TypeAlias = Generator[Open | Read | Pause | Item, Head | bytes | None, T]


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent.

    Attributes:
        method, path: such as ``POST`` and ``/generate``.
        accept: the media type wanted.
        body: of JSON, None for none.
        repeatable: whether it may be sent to the next service after it was sent to one and its answer was lost. Not if
            that could bill a draw twice.
        timeout_s: longest silence of the service; None is the route's.
    """

    method: str
    path: str
    accept: str
    body: Mapping[str, Any] | None = None
    repeatable: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """One service that did not answer: ``cause`` is ``service`` or ``connection``; a wait of None does not help."""

    error: ConnectionFailedError | RefusedError
    cause: str
    wait_s: float | None


def exchange(request: Request, route: Route, take: Callable[[Head], Steps[T]]) -> Steps[T]:
    """Send until it is answered, refused for good, or the waiting is over; ``take`` reads the answer.

    Services that are busy, unavailable or not there are passed over for the next one at once. After the last one, the
    shortest of the waits they asked for is waited for.

    Raises:
        ShowerServiceError: of the first service, with a note for each of the others.
    """
    waited = {"service": 0.0, "connection": 0.0}
    longest = {"service": route.longest_wait_s, "connection": route.connect_wait_s}
    pause, attempts = FIRST_PAUSE_S, 0
    while True:
        failures: list[_Failure] = []
        attempts += 1
        for url, following in zip(route.urls, (*route.urls[1:], None), strict=True):
            try:
                return (yield from _attempt(request, route, url, take))
            except RefusedError as refused:
                if refused.status not in (429, 503):
                    raise
                failures.append(_Failure(refused, "service", refused.retry_after_s))
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as failed:
                failures.append(_Failure(_nobody(url, failed, route, attempts), "connection", pause))
            except ConnectionFailedError as lost:
                if not request.repeatable or following is None:
                    raise
                failures.append(_Failure(lost, "connection", None))
            if following is not None:
                route.again(failures[-1].error, f"trying {following}")
        for url, failure in zip(route.urls[1:], failures[1:], strict=True):
            failures[0].error.add_note(f"{url}: {failure.error}")
        waits = [
            (failure.wait_s, failure)
            for failure in failures
            if failure.wait_s is not None and waited[failure.cause] + failure.wait_s <= longest[failure.cause]
        ]
        if not waits:
            raise failures[0].error
        seconds, shortest = min(waits, key=lambda wait: wait[0])
        waited[shortest.cause] += seconds
        pause *= 2
        route.again(shortest.error, f"attempt {attempts} failed, the next one in {seconds:g} s")
        yield Pause(seconds)


def read_all(head: Head) -> Steps[bytes]:
    """The whole body, for ``take``."""
    del head
    blocks = []
    while block := (yield from next_block()):
        blocks.append(block)
    return b"".join(blocks)


def next_block() -> Steps[bytes]:
    """The next bytes of the body, none at its end; IncompleteAnswerError if it is cut."""
    try:
        return cast(bytes, (yield Read()))
    except httpx2.TransportError as failed:
        raise IncompleteAnswerError(f"the answer was cut: {failed!r}") from failed


def _attempt(request: Request, route: Route, url: str, take: Callable[[Head], Steps[T]]) -> Steps[T]:
    headers = {**route.headers, "Accept": request.accept}
    body = None
    if request.body is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(request.body, allow_nan=False).encode()
    timeout_s = route.timeout_s if request.timeout_s is None else request.timeout_s
    try:
        head = cast(Head, (yield Open(request.method, url + request.path, headers, body, timeout_s)))
    except (httpx2.ConnectError, httpx2.ConnectTimeout):
        raise
    except httpx2.TransportError as failed:
        raise ConnectionFailedError(f"{url} gave no whole answer: {failed!r}") from failed
    if head.status != 200:
        raise _refused(head, (yield from read_all(head)))
    kind = head.headers.get("content-type")
    if (kind or "").split(";")[0] != request.accept.split(";")[0]:
        raise BadAnswerError(f"asked for {request.accept}, got {kind}")
    return (yield from take(head))


def _nobody(url: str, failed: httpx2.TransportError, route: Route, attempts: int) -> ConnectionFailedError:
    tried = f", {attempts} times tried" if attempts > 1 else ""
    proxy = proxy_variable(url) if route.proxied else None
    doubt = f"it goes through the proxy of {proxy}" if proxy else "does `qshower serve` run there?"
    return ConnectionFailedError(f"no connection to {url}{tried}: {str(failed) or 'timed out'}; {doubt}")


def _refused(head: Head, body: bytes) -> RefusedError:
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": head.reason, "detail": body.decode(errors="replace")[:200]}
    return refusal(head.status, problem, _seconds(head.headers.get("retry-after", "")))


def _seconds(retry_after: str) -> float | None:
    """A Retry-After in seconds or as a date; None if it is neither."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
