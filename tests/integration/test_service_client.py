"""The Python client, against the application itself and against a server that misbehaves."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from qshower.client import (
    BadAnswerError,
    BusyError,
    ConnectionFailedError,
    DeadlineError,
    Estimate,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    ShowerClient,
    UnauthorisedError,
    UnavailableError,
)
from qshower.model.bundle import find_bundles, load_bundle
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.settings import load_settings

URL = "http://testserver"


@pytest.fixture(scope="module")
def client(untrained_bundles: Path) -> Iterator[ShowerClient]:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    app = create_app(load_settings(qpu="off"), load_models=lambda _: Catalogue(bundles, "test-zephyr"))
    with TestClient(app) as http:
        yield ShowerClient(URL, http=http, sleep=lambda _: None, longest_wait_s=0.0)


def answering(handler: Callable[[httpx2.Request], httpx2.Response], **options: Any) -> tuple[ShowerClient, list[float]]:
    """A client of a server made of one function, and the pauses it took."""
    pauses: list[float] = []
    http = httpx2.Client(transport=httpx2.MockTransport(handler))
    return ShowerClient(URL, http=http, sleep=pauses.append, **options), pauses


def npz(rows: int) -> httpx2.Response:
    buffer = io.BytesIO()
    empty = np.array("{}")
    np.savez(
        buffer, incident_energies_mev=np.ones(rows), showers_mev=np.ones((rows, 2)), geometry=empty, provenance=empty
    )
    return httpx2.Response(200, content=buffer.getvalue(), headers={"content-type": "application/x-npz"})


def test_showers_as_arrays(client: ShowerClient) -> None:
    showers = client.generate([1000.0, 65536.0], showers_per_energy=2, sampler="gibbs", seed=1)
    assert showers.incident_energies_mev.tolist() == [1000, 1000, 65536, 65536]
    assert showers.showers_mev.shape == (4, 6480)
    assert showers.showers_mev.dtype == np.float32
    assert showers.provenance["sampler"] == "gibbs"
    assert showers.geometry["voxel_count"] == 6480
    again = client.generate(np.array([1000.0]), sampler="gibbs", seed=1, options={"sweeps": 32})
    assert np.array_equal(again.showers_mev[0], showers.showers_mev[0])


def test_showers_as_a_file(client: ShowerClient, tmp_path: Path) -> None:
    path, seen = tmp_path / "out.hdf5", list[tuple[int, int | None]]()
    client.save(path, [1000.0], seed=1, sampler="gibbs", progress=lambda done, total: seen.append((done, total)))
    with h5py.File(path) as file:
        assert file["showers"].shape == (1, 6480)
        expected = client.generate([1000.0], seed=1, sampler="gibbs").showers_mev
        assert np.array_equal(file["showers"][:], expected)
    assert seen[-1][0] == seen[-1][1] == path.stat().st_size


def test_a_refusal_leaves_the_file_as_it_was(client: ShowerClient, tmp_path: Path) -> None:
    path = tmp_path / "out.hdf5"
    path.write_text("before")
    with pytest.raises(InvalidRequestError):
        client.save(path, [1.0])
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["out.hdf5"]


def test_what_the_service_says_about_itself(client: ShowerClient) -> None:
    assert client.models()[0]["name"] == "test-zephyr"
    assert client.model("test-pegasus")["topology"] == "pegasus:16"
    assert {state["name"] for state in client.samplers()} == {"gibbs", "annealing", "tempering", "qpu", "replay"}
    assert client.ready()


def test_refusals_are_typed(client: ShowerClient) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.generate([5000.0, 5.0])
    assert (caught.value.status, caught.value.field, caught.value.value) == (422, "incident_energies_mev[1]", 5.0)
    assert caught.value.allowed is not None
    assert "1000 to 1000000" in caught.value.allowed
    with pytest.raises(NotFoundError):
        client.generate([5000.0], model="nothing")
    with pytest.raises(UnavailableError) as unavailable:
        client.generate([5000.0], sampler="qpu")
    assert unavailable.value.retry_after_s == 30.0
    with pytest.raises(DeadlineError):
        client.generate([5000.0], deadline_s=1e-6)
    with pytest.raises(ValueError, match="finite"):
        client.generate([np.nan])


@pytest.mark.parametrize(("status", "kind"), [(401, UnauthorisedError), (429, BusyError), (500, RefusedError)])
def test_refusals_without_a_problem_document(status: int, kind: type[RefusedError]) -> None:
    client, _ = answering(lambda _: httpx2.Response(status, text="<html>no</html>"))
    with pytest.raises(kind, match="no"):
        client.generate([1.0])


def test_the_key_is_sent() -> None:
    sent: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.headers["authorization"])
        return npz(1)

    client, _ = answering(answer, api_key="k")
    client.generate([1.0])
    assert sent == ["Bearer k"]


def test_it_waits_as_long_as_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    answers = [httpx2.Response(429, headers={"retry-after": "7"}), httpx2.Response(503, headers={"retry-after": "2"})]
    client, pauses = answering(lambda _: answers.pop(0) if answers else npz(1))
    assert client.generate([1.0]).showers_mev.shape == (1, 2)
    assert pauses == [7.0, 2.0]
    assert client.retries == len(caplog.records) == 2


def test_it_does_not_wait_for_ever() -> None:
    client, pauses = answering(lambda _: httpx2.Response(503, headers={"retry-after": "25"}), longest_wait_s=60)
    with pytest.raises(UnavailableError):
        client.generate([1.0])
    assert pauses == [25.0, 25.0]


def test_it_does_not_repeat_what_cannot_help() -> None:
    calls: list[int] = []

    def answer(_: httpx2.Request) -> httpx2.Response:
        calls.append(1)
        return httpx2.Response(504)

    client, pauses = answering(answer)
    with pytest.raises(DeadlineError):
        client.generate([1.0])
    assert (len(calls), pauses) == (1, [])


@pytest.mark.parametrize("kind", [httpx2.ConnectError, httpx2.ConnectTimeout])
def test_where_nobody_listens_it_fails_at_once(
    kind: type[httpx2.TransportError], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise kind("refused", request=request)

    client, pauses = answering(refuse)
    with pytest.raises(ConnectionFailedError, match=f"no connection to {URL}: refused; does `qshower serve` run there"):
        client.generate([1.0])
    with pytest.raises(ConnectionFailedError):
        client.models()
    assert (pauses, client.retries, caplog.records) == ([], 0, [])


def test_waiting_for_a_server_is_asked_for_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    client, pauses = answering(refuse, connect_wait_s=1.0, longest_wait_s=0.0)
    with pytest.raises(ConnectionFailedError, match="3 times tried: refused"):
        client.generate([1.0])
    assert (pauses, client.retries) == ([0.2, 0.4], 2)
    assert [record.name for record in caplog.records] == ["qshower.client"] * 2
    assert "attempt 2 failed" in caplog.records[1].getMessage()
    assert caplog.records[1].getMessage().endswith("the next one in 0.4 s")


def test_a_server_that_is_being_started_is_reached(caplog: pytest.LogCaptureFixture) -> None:
    refusals = [httpx2.ConnectError("refused"), httpx2.ConnectError("refused")]

    def answer(request: httpx2.Request) -> httpx2.Response:
        if refusals:
            raise refusals.pop()
        return npz(1)

    client, _ = answering(answer, connect_wait_s=1.0)
    assert client.generate([1.0]).showers_mev.shape == (1, 2)
    assert client.retries == len(caplog.records) == 2


def test_requests_that_are_lost_are_never_sent_again() -> None:
    calls: list[int] = []

    def cut(request: httpx2.Request) -> httpx2.Response:
        calls.append(1)
        raise httpx2.ReadError("cut", request=request)

    client, pauses = answering(cut)
    with pytest.raises(ConnectionFailedError, match="cut"):
        client.generate([1.0])
    assert (len(calls), pauses) == (1, [])
    assert not client.ready()


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


def test_a_dry_run_is_a_typed_estimate() -> None:
    sent: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        return httpx2.Response(200, json={"estimate": {**ESTIMATE, "of a later version": 1}})

    client, _ = answering(answer)
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
def test_an_estimate_that_is_none(answer: object) -> None:
    client, _ = answering(lambda _: httpx2.Response(200, json=answer))
    with pytest.raises(BadAnswerError):
        client.estimate([1000.0])


def test_a_dry_run_of_what_bills_nothing_is_refused(client: ShowerClient) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.estimate([1000.0], sampler="gibbs")
    assert caught.value.field == "dry_run"
    with pytest.raises(UnavailableError):
        client.estimate([1000.0])


def always(response: httpx2.Response) -> Callable[[httpx2.Request], httpx2.Response]:
    """A server that answers everything alike."""
    return lambda _: response


def test_an_answer_that_is_not_one() -> None:
    for response in (
        npz(2),
        httpx2.Response(200, content=b"PK", headers={"content-type": "application/x-npz"}),
        httpx2.Response(200, content=b"", headers={"content-type": "application/x-npz"}),
        httpx2.Response(200, json={}),
    ):
        client, _ = answering(always(response))
        with pytest.raises(BadAnswerError):
            client.generate([1.0])


def test_the_client_needs_nothing_else_of_the_project() -> None:
    others = ("sampler", "model", "evaluation", "service", "torch", "h5py")
    script = f"import client, sys; print([name for name in {others} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
