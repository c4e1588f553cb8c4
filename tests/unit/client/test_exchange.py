"""Where a request goes, when it goes again, and what an answer becomes: the same for both kinds of client."""

from __future__ import annotations

import email.utils
import functools
import inspect
import io
import json
import time
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import numpy as np
import pytest

from qshower.client import (
    AsyncClient,
    BadAnswerError,
    BudgetError,
    BusyError,
    Client,
    ConnectionFailedError,
    DeadlineError,
    Estimate,
    IncompleteAnswerError,
    InternalError,
    RefusedError,
    Showers,
    UnauthorisedError,
    UnavailableError,
    client_errors,
)
from qshower.service.http import problem_json

FIRST, SECOND = "http://first", "http://second"
Handler = Callable[[httpx2.Request], httpx2.Response]


class Blocking:
    """An AsyncClient whose methods block, so that one test serves both kinds."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if inspect.iscoroutinefunction(found):
            return lambda *positional, **named: anyio.run(functools.partial(found, *positional, **named))
        return found


class Answering:
    """Makes clients of a server that is one function, and keeps the pauses that they took."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.pauses: list[float] = []

    def __call__(self, handler: Handler, **options: Any) -> Any:
        transport = httpx2.MockTransport(handler)
        if self._kind == "sync":
            http = httpx2.Client(transport=transport)
            return Client(FIRST, http=http, sleep=self.pauses.append, **options)

        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        http_of_loop = httpx2.AsyncClient(transport=transport)
        return Blocking(AsyncClient(FIRST, http=http_of_loop, sleep=sleep, **options))


@pytest.fixture(params=["sync", "async"])
def answering(request: pytest.FixtureRequest) -> Answering:
    return Answering(request.param)


def npz(rows: int) -> httpx2.Response:
    buffer, empty = io.BytesIO(), np.array("{}")
    showers = np.ones((rows, 2))
    np.savez(buffer, incident_energies_mev=np.ones(rows), showers_mev=showers, geometry=empty, provenance=empty)
    return httpx2.Response(200, content=buffer.getvalue(), headers={"content-type": "application/x-npz"})


def always(response: httpx2.Response) -> Handler:
    return lambda _: response


def in_turn(*answers: httpx2.Response | Exception) -> tuple[Handler, list[str]]:
    """A server that gives these answers one after the other, and the hosts that it was asked as."""
    waiting, asked = list(answers), list[str]()

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.host)
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler, asked


def busy(wait: str, status: int = 429) -> httpx2.Response:
    return httpx2.Response(status, headers={"retry-after": wait})


def test_showers_as_arrays(answering: Answering) -> None:
    showers = answering(always(npz(2))).generate([1.0, 2.0])
    assert isinstance(showers, Showers)
    assert showers.showers_mev.shape == (2, 2)


@pytest.mark.parametrize(("status", "kind"), [(401, UnauthorisedError), (429, BusyError), (418, RefusedError)])
def test_refusals_without_a_problem_document(answering: Answering, status: int, kind: type[RefusedError]) -> None:
    with pytest.raises(kind, match="no"):
        answering(always(httpx2.Response(status, text="<html>no</html>"))).generate([1.0])


def test_every_type_of_problem_has_its_error() -> None:
    types = {name for _, _, name, _ in problem_json._KINDS} | {name for name, _ in problem_json._HTTP_KINDS.values()}
    assert types | {"internal"} <= set(client_errors.BY_TYPE)
    for _, status, name, _ in problem_json._KINDS:
        error = client_errors.refusal(status, {"type": f"urn:qshower:{name}"}, None)
        assert type(error) is client_errors.BY_TYPE[name]
        assert isinstance(error, client_errors.BY_STATUS[status])
        assert error.type == f"urn:qshower:{name}"


def test_a_problem_of_a_later_version_has_the_class_of_its_status(answering: Answering) -> None:
    problem = {"type": "urn:qshower:coffee", "title": "No coffee", "status": 500, "detail": "the pot is empty"}
    with pytest.raises(InternalError, match="500 No coffee: the pot is empty"):
        answering(always(httpx2.Response(500, json=problem))).generate([1.0])
    budget = {"type": "urn:qshower:budget", "title": "t", "status": 429, "detail": "d"}
    with pytest.raises(BudgetError):
        answering(always(httpx2.Response(429, json=budget))).models()


def test_the_key_is_sent(answering: Answering) -> None:
    sent: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.headers["authorization"])
        return npz(1)

    answering(answer, api_key="k").generate([1.0])
    assert sent == ["Bearer k"]


def test_each_call_may_have_its_own_time_out(answering: Answering) -> None:
    seen: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.extensions["timeout"])
        return npz(1)

    client = answering(answer, timeout_s=50.0)
    client.generate([1.0])
    client.generate([1.0], timeout_s=3.0)
    assert [(limits["read"], limits["connect"]) for limits in seen] == [(50.0, 10.0), (3.0, 3.0)]


def test_it_waits_as_long_as_it_is_told(answering: Answering, caplog: pytest.LogCaptureFixture) -> None:
    client = answering(in_turn(busy("7"), busy("2", 503), npz(1))[0])
    assert client.generate([1.0]).showers_mev.shape == (1, 2)
    assert answering.pauses == [7.0, 2.0]
    assert client.retries == len(caplog.records) == 2


def test_a_date_is_waited_for_too(answering: Answering) -> None:
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    answering(in_turn(busy(soon), npz(1))[0]).generate([1.0])
    (pause,) = answering.pauses
    assert 0 < pause <= 30


@pytest.mark.parametrize("said", ["later", "-1", ""])
def test_a_retry_after_that_is_none_is_not_waited_for(answering: Answering, said: str) -> None:
    with pytest.raises(BusyError):
        answering(always(busy(said))).generate([1.0])
    assert answering.pauses == []


def test_it_does_not_wait_for_ever(answering: Answering) -> None:
    with pytest.raises(UnavailableError):
        answering(always(busy("25", 503)), longest_wait_s=60).generate([1.0])
    assert answering.pauses == [25.0, 25.0]


def test_it_does_not_repeat_what_cannot_help(answering: Answering) -> None:
    handler, asked = in_turn(httpx2.Response(504))
    with pytest.raises(DeadlineError):
        answering(handler, fallback_url=SECOND).generate([1.0])
    assert (asked, answering.pauses) == (["first"], [])


@pytest.mark.parametrize("kind", [httpx2.ConnectError, httpx2.ConnectTimeout])
def test_where_nobody_listens_it_fails_at_once(
    answering: Answering, kind: type[httpx2.TransportError], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise kind("refused", request=request)

    client = answering(refuse)
    with pytest.raises(ConnectionFailedError, match=f"no connection to {FIRST}: refused; does `qshower serve` run"):
        client.generate([1.0])
    with pytest.raises(ConnectionFailedError):
        client.models()
    assert (answering.pauses, client.retries, caplog.records) == ([], 0, [])


def test_waiting_for_a_server_is_asked_for_logged_and_counted(
    answering: Answering, caplog: pytest.LogCaptureFixture
) -> None:
    refused = [httpx2.ConnectError("refused") for _ in range(3)]
    client = answering(in_turn(*refused)[0], connect_wait_s=1.0, longest_wait_s=0.0)
    with pytest.raises(ConnectionFailedError, match="3 times tried: refused"):
        client.generate([1.0])
    assert (answering.pauses, client.retries) == ([0.2, 0.4], 2)
    assert [record.name for record in caplog.records] == ["qshower.client"] * 2
    assert caplog.records[1].getMessage().endswith("attempt 2 failed, the next one in 0.4 s")


def test_a_server_that_is_being_started_is_reached(answering: Answering) -> None:
    refused = httpx2.ConnectError("refused")
    client = answering(in_turn(refused, refused, npz(1))[0], connect_wait_s=1.0)
    assert client.generate([1.0]).showers_mev.shape == (1, 2)
    assert client.retries == 2


@pytest.mark.parametrize(
    "failure",
    [lambda: busy("9"), lambda: busy("9", 503), lambda: httpx2.Response(503), lambda: httpx2.ConnectError("refused")],
)
def test_what_the_first_service_does_not_take_goes_to_the_second_at_once(
    answering: Answering, failure: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    handler, asked = in_turn(failure(), npz(1))
    client = answering(handler, fallback_url=SECOND + "/")
    assert client.generate([1.0], sampler="qpu").showers_mev.shape == (1, 2)
    assert (asked, answering.pauses, client.retries) == (["first", "second"], [], 1)
    assert caplog.records[0].getMessage().endswith(f"trying {SECOND}")


def test_after_both_the_shorter_wait_is_waited_for(answering: Answering) -> None:
    handler, asked = in_turn(busy("9"), busy("4"), busy("8"), npz(1))
    answering(handler, fallback_url=SECOND).generate([1.0])
    assert (asked, answering.pauses) == (["first", "second", "first", "second"], [4.0])


def test_if_both_fail_the_error_tells_of_both(answering: Answering) -> None:
    handler, _ = in_turn(httpx2.ConnectError("refused"), httpx2.Response(503, json={"title": "Off", "detail": "d"}))
    with pytest.raises(ConnectionFailedError, match=FIRST) as caught:
        answering(handler, fallback_url=SECOND).generate([1.0])
    assert caught.value.__notes__ == [f"{SECOND}: 503 Off: d"]


@pytest.mark.parametrize("choices", [{}, {"sampler": "qpu"}, {"sampler": "gibbs", "fallback": "qpu"}])
def test_lost_requests_that_could_be_billed_twice_are_sent_nowhere_else(
    answering: Answering, choices: dict[str, str]
) -> None:
    handler, asked = in_turn(httpx2.ReadError("cut"))
    client = answering(handler, fallback_url=SECOND)
    with pytest.raises(ConnectionFailedError, match="cut"):
        client.generate([1.0], **choices)
    assert (asked, answering.pauses) == (["first"], [])


def test_lost_requests_that_cost_nothing_go_to_the_second_service(answering: Answering) -> None:
    lost = httpx2.ReadTimeout("slow")
    handler, asked = in_turn(lost, npz(1), lost, httpx2.Response(200, json={"models": []}))
    client = answering(handler, fallback_url=SECOND)
    client.generate([1.0], sampler="gibbs", fallback=["annealing"])
    assert client.models() == []
    assert asked == ["first", "second"] * 2


def test_whether_a_service_is_ready(answering: Answering) -> None:
    client = answering(in_turn(httpx2.ReadError("cut"), httpx2.Response(503), httpx2.Response(200))[0])
    assert [client.ready() for _ in range(3)] == [False, False, True]


ESTIMATE: dict[str, Any] = {
    "model": "m",
    "solver": "S",
    "graph_id": "g",
    "access_time_us": 1500,
    "calibration_us": 0.0,
    "problems": 1,
    "reads": 2,
    "conditions": 3,
    "copies": 4,
    "missing_qubits": 5,
    "cached": 6,
}


def test_a_dry_run_is_a_typed_estimate(answering: Answering) -> None:
    sent: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        return httpx2.Response(200, json={"estimate": {**ESTIMATE, "of a later version": 1}})

    client = answering(answer)
    estimate = client.estimate([1000.0], showers_per_energy=3, options={"gauges": 2})
    assert estimate == Estimate(**ESTIMATE)
    assert isinstance(estimate.access_time_us, float)
    body = {"incident_energies_mev": [1000.0], "showers_per_energy": 3, "options": {"gauges": 2}}
    assert sent == [{**body, "sampler": "qpu", "dry_run": True}]
    client.estimate([1000.0], sampler="auto")
    assert sent[-1]["sampler"] == "auto"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"estimate": 3},
        {"estimate": {}},
        {"estimate": {**ESTIMATE, "reads": "2"}},
        {"estimate": {**ESTIMATE, "reads": 1.5}},
        {"estimate": {**ESTIMATE, "model": None}},
        {"estimate": {**ESTIMATE, "cached": True}},
        [],
    ],
)
def test_an_estimate_that_is_none(answering: Answering, answer: object) -> None:
    with pytest.raises(BadAnswerError):
        answering(always(httpx2.Response(200, json=answer))).estimate([1000.0])


@pytest.mark.parametrize(
    ("content", "kind"), [(b"PK", "application/x-npz"), (b"", "application/x-npz"), (b"{}", "application/json")]
)
def test_an_answer_that_is_not_one(answering: Answering, content: bytes, kind: str) -> None:
    with pytest.raises(BadAnswerError):
        answering(always(httpx2.Response(200, content=content, headers={"content-type": kind}))).generate([1.0])


def test_an_answer_with_other_than_the_showers_asked_for_is_incomplete(answering: Answering) -> None:
    with pytest.raises(IncompleteAnswerError, match="1 showers were asked for"):
        answering(always(npz(2))).generate([1.0])


def test_progress_is_told(answering: Answering) -> None:
    told: list[tuple[int, int | None]] = []
    answer = npz(1)
    answering(always(answer)).generate([1.0], progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (len(answer.content), len(answer.content))
