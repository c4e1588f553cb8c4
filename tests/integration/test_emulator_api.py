"""The emulator's HTTP side as it is on the wire: what the client never does, the admin page, the command's life."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.errors import InvalidInputError
from tests.polling import until

TOKEN = {"X-Auth-Token": "any"}
API = "/sapi/v2"


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorServer]:
    with EmulatorServer(EmulatorConfig(topology="zephyr:2")) as running:
        yield running


@pytest.fixture
def wire(emulator: EmulatorServer) -> Iterator[http.client.HTTPConnection]:
    host, port = emulator.endpoint.split("/")[2].split(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
        yield connection


def _call(
    wire: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    payload = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
    wire.request(method, path, payload, TOKEN if headers is None else headers)
    reply = wire.getresponse()
    return reply.status, orjson.loads(reply.read())


def test_one_connection_serves_many_calls(emulator: EmulatorServer, wire: http.client.HTTPConnection) -> None:
    status, solvers = _call(wire, "GET", f"{API}/solvers/remote/?filter=none,%2Bstatus,%2Bidentity")
    assert (status, set(solvers[0])) == (200, {"status", "identity"})
    kept = wire.sock
    status, solver = _call(wire, "GET", f"{API}/solvers/remote/{emulator.solver_name}?filter=all,-status,-avg_load")
    assert (status, set(solver)) == (200, {"identity", "description", "properties"})
    status, error = _call(wire, "GET", f"{API}/solvers/remote/other")
    assert (status, error["error_code"]) == (404, 404)
    assert wire.sock is kept


@pytest.mark.parametrize("headers", [{}, {"X-Auth-Token": ""}])
def test_no_token_no_answer(wire: http.client.HTTPConnection, headers: dict[str, str]) -> None:
    assert _call(wire, "GET", f"{API}/solvers/remote/", headers=headers) == (
        401,
        {"error_code": 401, "error_msg": "Invalid token"},
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", None, 404),
        ("GET", f"{API}/problems/no-such-id/", None, 404),
        ("GET", f"{API}/problems/?id=no-such-id", None, 404),
        ("GET", f"{API}/problems/?id=a&timeout=soon", None, 400),
        ("POST", f"{API}/problems/", b"{", 400),
        ("POST", f"{API}/problems/", [1], 400),
        ("DELETE", f"{API}/problems/", {"id": 1}, 400),
        ("POST", f"{API}/solvers/remote/", None, 404),
        ("POST", "/admin/fault", {"name": "no_such_fault"}, 400),
        ("POST", "/admin/fault", {"name": "poll_503", "count": -1}, 400),
        ("POST", "/admin/other", None, 404),
    ],
)
def test_bad_calls(wire: http.client.HTTPConnection, method: str, path: str, body: Any, status: int) -> None:
    got, error = _call(wire, method, path, body)
    assert got == status == error["error_code"]
    assert error["error_msg"]
    assert _call(wire, "GET", "/admin/state")[0] == 200


def test_bodies_may_be_deflated_and_chunked(wire: http.client.HTTPConnection) -> None:
    body = zlib.compress(orjson.dumps([{"type": "ising", "solver": {"name": "other"}}]))
    deflated = {**TOKEN, "Content-Encoding": "deflate"}
    status, replies = _call(wire, "POST", f"{API}/problems/", body, deflated)
    assert (status, replies[0]["error_code"]) == (200, 404)
    wire.request(
        "POST", f"{API}/problems/", io.BytesIO(body), {**deflated, "Transfer-Encoding": "chunked"}, encode_chunked=True
    )
    reply = wire.getresponse()
    assert orjson.loads(reply.read()) == replies
    assert _call(wire, "POST", f"{API}/problems/", b"not deflated", deflated)[0] == 400


def test_a_body_that_is_too_large_is_not_read(wire: http.client.HTTPConnection) -> None:
    wire.putrequest("POST", f"{API}/problems/")
    wire.putheader("X-Auth-Token", "any")
    wire.putheader("Content-Length", str(2**40))
    wire.endheaders()
    assert wire.getresponse().status == 413


def _job(emulator: EmulatorServer) -> dict[str, Any]:
    lin = np.full(emulator.backend.chip.qubits.shape[0], np.nan)
    lin[0] = 0.5
    data = {"format": "qp", "lin": base64.b64encode(lin.tobytes()).decode(), "quad": ""}
    return {"solver": {"name": emulator.solver_name}, "type": "ising", "params": {"num_reads": 3}, "data": data}


def test_a_long_poll_returns_when_the_problem_ends(emulator: EmulatorServer, wire: http.client.HTTPConnection) -> None:
    _, [job] = _call(wire, "POST", f"{API}/problems/", [_job(emulator)])
    _, [status] = _call(wire, "GET", f"{API}/problems/?id={job['id']}&timeout=30")
    assert status["status"] == "COMPLETED"
    _, solved = _call(wire, "GET", f"{API}/problems/{job['id']}/")
    assert solved["answer"]["num_variables"] == 160
    _, [refused] = _call(wire, "DELETE", f"{API}/problems/", [job["id"]])
    assert refused["error_code"] == 409
    _, [unknown] = _call(wire, "DELETE", f"{API}/problems/", ["no-such-id"])
    assert unknown["error_code"] == 404
    _, listed = _call(wire, "GET", f"{API}/problems/")
    assert job["id"] in [status["id"] for status in listed]


def test_a_long_poll_returns_at_its_time_limit(emulator: EmulatorServer, wire: http.client.HTTPConnection) -> None:
    emulator.arm("slow_queue:1")
    _, [job] = _call(wire, "POST", f"{API}/problems/", [_job(emulator)])
    _, [status] = _call(wire, "GET", f"{API}/problems/?id={job['id']}&timeout=0.2")
    assert status["status"] == "PENDING"
    _, cancelled = _call(wire, "DELETE", f"{API}/problems/{job['id']}")
    assert cancelled["status"] == "CANCELLED"


def test_a_problem_in_progress_runs_on_though_it_is_cancelled(
    emulator: EmulatorServer, wire: http.client.HTTPConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator.backend, "config", replace(emulator.backend.config, slow_s=1.0))
    emulator.arm("slow_run:1")
    _, [job] = _call(wire, "POST", f"{API}/problems/", [_job(emulator)])
    deadline = time.monotonic() + 60.0
    while _call(wire, "GET", f"{API}/problems/?id={job['id']}")[1][0]["status"] == "PENDING":
        assert time.monotonic() < deadline
    _, [reply] = _call(wire, "DELETE", f"{API}/problems/", [job["id"]])
    assert reply["error_code"] == 202
    _, [status] = _call(wire, "GET", f"{API}/problems/?id={job['id']}&timeout=30")
    assert status["status"] == "COMPLETED"


def test_requests_of_the_wrong_kind_are_refused(emulator: EmulatorServer, wire: http.client.HTTPConnection) -> None:
    _, [job] = _call(wire, "POST", f"{API}/problems/", [_job(emulator) | {"params": [1]}])
    assert job["error_code"] == 400
    assert _call(wire, "DELETE", "/admin/fault", {"name": ["a"]}, {})[0] == 400
    wire.request("DELETE", f"{API}/problems/", headers=TOKEN)
    reply = wire.getresponse()
    assert (reply.status, reply.read()) == (200, b"[]")


def test_web_pages_are_kept_out(wire: http.client.HTTPConnection) -> None:
    assert _call(wire, "POST", "/admin/fault", {"name": "poll_503"}, {"Origin": "http://example.org"})[0] == 403
    assert _call(wire, "GET", "/admin/state")[1]["faults"] == {}


def test_faults_by_admin_call(emulator: EmulatorServer, wire: http.client.HTTPConnection) -> None:
    assert "poll_503" in _call(wire, "GET", "/admin/fault")[1]
    _, state = _call(wire, "POST", "/admin/fault", {"name": "solvers_429", "count": 1}, {})
    assert state["faults"] == {"solvers_429": 1}
    wire.request("GET", f"{API}/solvers/remote/", headers=TOKEN)
    reply = wire.getresponse()
    reply.read()
    assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
    assert _call(wire, "GET", f"{API}/solvers/remote/")[0] == 200
    _call(wire, "POST", "/admin/fault", {"name": "poll_503"})
    _call(wire, "POST", "/admin/fault", {"name": "answer_404"})
    assert _call(wire, "DELETE", "/admin/fault", {"name": "poll_503"})[1]["faults"] == {"answer_404": None}
    assert _call(wire, "DELETE", "/admin/fault")[1]["faults"] == {}


def test_maintenance_by_admin_call_starts_at_once() -> None:
    config = EmulatorConfig(topology="zephyr:2", maintenance_s=3600.0)
    with EmulatorServer(config) as emulator:
        host, port = emulator.endpoint.split("/")[2].split(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as wire:
            assert _call(wire, "POST", "/admin/fault", {"name": "maintenance"})[1]["online"] is False
            assert _call(wire, "GET", f"{API}/solvers/remote/")[1][0]["status"] == "OFFLINE"


def test_hanging_requests_end_with_their_client(emulator: EmulatorServer) -> None:
    emulator.arm("solvers_hang:1")
    host, port = emulator.endpoint.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(f"GET {API}/solvers/remote/ HTTP/1.1\r\nHost: x\r\nX-Auth-Token: a\r\n\r\n".encode())
        until(lambda: "solvers_hang" not in emulator.faults.armed())
        before = len(emulator._http._open)
    until(lambda: len(emulator._http._open) < before)


def test_a_port_in_use_is_named() -> None:
    with EmulatorServer(EmulatorConfig(topology="zephyr:2")) as emulator:
        port = int(emulator.endpoint.split("/")[2].split(":")[1])
        with pytest.raises(InvalidInputError, match=f"port: {port}"):
            EmulatorServer(EmulatorConfig(topology="zephyr:2", port=port))


RUN = """
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import run_emulator
from tests.polling import until
run_emulator(EmulatorConfig(topology="zephyr:2"))
print("closed")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        endpoint = child.stdout.readline().strip()
        assert endpoint.startswith("http://127.0.0.1:")
        assert endpoint.endswith("/sapi/v2")
        child.send_signal(number)
        out, errors = child.communicate(timeout=30)
    assert (out, errors, child.returncode) == ("closed\n", "", 0)
