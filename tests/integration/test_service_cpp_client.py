"""The C++ client: compiled with warnings as errors, against the service and against servers that misbehave."""

import contextlib
import io
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any, Protocol, cast, overload

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray

from qshower.client import Client
from qshower.model.bundle import find_bundles, load_bundle
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.settings import load_settings
from tests.polling import until

HEADER = Path(__file__).parents[2] / "client" / "qshower.hpp"
COMPILER = shutil.which("c++")
PROGRAM = r"""
#include "qshower.hpp"
#include <fstream>
#include <iostream>
int main(int, char** argument) {
  qshower::Client client("127.0.0.1", std::atoi(argument[1]), argument[2], 120);
  qshower::Request request;
  request.incident_energies_mev = {1000.0, std::atof(argument[3])};
  request.showers_per_energy = 2;
  request.sampler = "gibbs";
  request.seed = 18446744073709551615ULL;
  request.options_json = "{\"sweeps\": 8}";
  if (argument[5] != nullptr) {
    request.sampler = argument[5];
    request.options_json = "";
    try {
      const qshower::Estimate one = client.estimate(request);
      std::cout << one.model << "|" << one.solver << "|" << one.graph_id << "|" << one.access_time_us << "|"
                << one.calibration_us << "|" << one.problems << "|" << one.reads << "|" << one.conditions << "|"
                << one.copies << "|" << one.missing_qubits << "|" << one.cached << "\n";
    } catch (const qshower::Refused& refused) {
      std::cout << "refused " << refused.status << " " << refused.problem << "\n";
    } catch (const qshower::Error& error) {
      std::cout << "error " << error.what() << "\n";
    }
    return 0;
  }
  for (int repeat = 0; repeat < 3; ++repeat) {
    try {
      const qshower::Showers showers = client.generate(request);
      std::ofstream file(argument[4], std::ios::binary);
      file.write(reinterpret_cast<const char*>(showers.row(0)),
                 static_cast<std::streamsize>(showers.showers_mev.size() * sizeof(float)));
      std::cout << "ok " << showers.count << " " << showers.voxels << " " << showers.incident_energies_mev[3] << " "
                << showers.provenance << "\n";
    } catch (const qshower::Refused& refused) {
      std::cout << "refused " << refused.status << " " << refused.retry_after_s << " " << refused.problem << "\n";
    } catch (const qshower::Error& error) {
      std::cout << "error " << error.what() << "\n";
    }
  }
}
"""

Drawn = tuple[list[str], NDArray[np.float32] | None]


class Ask(Protocol):
    """Runs the program: its three lines and its showers, or the line of a dry run."""

    @overload
    def __call__(self, port: int, *, key: str = "", energy: float = 65536.0, estimate: None = None) -> Drawn: ...

    @overload
    def __call__(self, port: int, *, key: str = "", energy: float = 65536.0, estimate: str) -> str: ...


pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert COMPILER is not None
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "main.cpp").write_text(PROGRAM)
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
    subprocess.run(
        [COMPILER, *flags, f"-I{HEADER.parent}", folder / "main.cpp", "-o", folder / "main"], check=True, timeout=120
    )
    return folder / "main"


@pytest.fixture
def ask(program: Path, tmp_path: Path) -> Ask:
    """Runs the program: its three lines, and the showers it wrote last."""

    def run(port: int, *, key: str = "", energy: float = 65536.0, estimate: str | None = None) -> str | Drawn:
        output = tmp_path / "showers.bin"
        if estimate is not None:
            command: list[str | Path] = [program, str(port), key, str(energy), output, estimate]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
            return done.stdout.rstrip("\n")
        done = subprocess.run(
            [program, str(port), key, str(energy), output], capture_output=True, text=True, timeout=120, check=True
        )
        lines = done.stdout.splitlines()
        assert len(lines) == 3
        return lines, np.fromfile(output, dtype=np.float32) if output.exists() else None

    return cast(Ask, run)


@pytest.fixture
def service_port(untrained_bundles: Path) -> Iterator[int]:
    with served(untrained_bundles, qpu="off") as port:
        yield port


@contextmanager
def served(folder: Path, **settings: Any) -> Iterator[int]:
    """The port of a running service."""
    bundles = {name: load_bundle(path) for name, path in find_bundles(folder).items()}
    app = create_app(load_settings(**settings), load_models=lambda _: Catalogue(bundles, "test-zephyr"))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    assert server.started
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], int]]:
    """A port where each connection gets the same bytes, whatever it asks."""
    listener = socket.create_server(("127.0.0.1", 0))
    content: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # A client that has seen enough may go before the rest is sent, or read.
            with connection, contextlib.suppress(OSError):
                connection.settimeout(60)
                connection.recv(65536)
                connection.sendall(content[0])
                # What is closed with a part of the request unread is reset, and the answer with it.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()

    def start(answer: bytes) -> int:
        content[:] = [answer]
        port: int = listener.getsockname()[1]
        return port

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_it_gets_the_showers_that_python_gets(ask: Ask, service_port: int) -> None:
    lines, showers = ask(service_port)
    with Client(f"http://127.0.0.1:{service_port}") as client:
        expected = client.generate(
            [1000.0, 65536.0], showers_per_energy=2, sampler="gibbs", seed=2**64 - 1, options={"sweeps": 8}
        )
    assert showers is not None
    assert np.array_equal(showers.reshape(4, 6480), expected.showers_mev)
    for line in lines:
        word, count, voxels, energy, provenance = line.split(" ", 4)
        assert (word, count, voxels, energy) == ("ok", "4", "6480", "65536")
        assert json.loads(provenance)["seed"] == 2**64 - 1


def test_its_dry_run_is_python_s(
    ask: Ask, untrained_bundles: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with EmulatorServer(EmulatorConfig(topology="zephyr:6", sweeps=16, seed=5)) as emulator:
        monkeypatch.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
        monkeypatch.setenv("DWAVE_API_TOKEN", "any")
        with served(untrained_bundles, qpu_state_folder=tmp_path) as port:
            told = ask(port, estimate="qpu").split("|")
            with Client(f"http://127.0.0.1:{port}") as client:
                expected = client.estimate([1000.0, 65536.0], showers_per_energy=2, seed=2**64 - 1)
            assert ask(port, estimate="gibbs").startswith("refused 422")
        assert emulator.backend.state()["submitted"] == 0
    assert told[:3] == [expected.model, expected.solver, expected.graph_id]
    assert [float(value) for value in told[3:]] == pytest.approx(astuple(expected)[3:], rel=1e-5)
    assert expected.access_time_us > expected.calibration_us > 0


def test_it_survives_bad_answers_to_a_dry_run(ask: Ask, answering: Callable[[bytes], int]) -> None:
    numbers = {"access_time_us": 1.5e3, "calibration_us": 0.0}
    counts = dict.fromkeys(("problems", "reads", "conditions", "copies", "missing_qubits", "cached"), 3)
    whole: dict[str, dict[str, Any]] = {
        "estimate": {"model": 'a "b" \\ \u00e9 \U0001f600', "solver": "S", "graph_id": "g", **numbers, **counts}
    }

    def told(text: str) -> str:
        body = text.encode()
        return ask(answering(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body), estimate="qpu")

    for text in (json.dumps(whole), json.dumps(whole, ensure_ascii=False, indent=1)):
        assert told(text) == 'a "b" \\ \u00e9 \U0001f600|S|g|1500|0|3|3|3|3|3|3'
    text = json.dumps(whole)
    for cut in range(len(text)):
        assert told(text[:cut]).startswith("error ") if cut % 7 == 0 else True
    for name, value in (("reads", "many"), ("reads", -1), ("reads", 1.5), ("access_time_us", "a"), ("cached", None)):
        assert told(json.dumps({"estimate": {**whole["estimate"], name: value}})).startswith("error "), (name, value)
    for name in whole["estimate"]:
        lacking = {other: value for other, value in whole["estimate"].items() if other != name}
        assert told(json.dumps({"estimate": lacking})) == f"error the estimate holds no {name}"


def test_it_tells_a_refusal(ask: Ask, service_port: int) -> None:
    lines, _ = ask(service_port, energy=5.0)
    for line in lines:
        word, status, retry_after_s, problem = line.split(" ", 3)
        assert (word, status, retry_after_s) == ("refused", "422", "-1")
        assert json.loads(problem)["field"] == "incident_energies_mev[1]"


def test_it_survives_bad_answers(ask: Ask, answering: Callable[[bytes], int]) -> None:
    npz = io.BytesIO()
    np.savez(npz, incident_energies_mev=np.ones(3), showers_mev=np.ones((3, 2), dtype=np.float32))
    whole = npz.getvalue()

    def http(body: bytes, length: int | None = None, status: str = "200 OK", more: str = "") -> bytes:
        size = len(body) if length is None else length
        return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{more}\r\n".encode() + body

    cases = {
        "before its answer was whole": http(whole, length=len(whole) + 1),
        "not HTTP": b"SSH-2.0-none\r\n\r\n",
        "does not say its length": b"HTTP/1.1 200 OK\r\n\r\nhello",
        "no npz": http(b"hello"),
        "holds no geometry": http(whole),
        "cut short": http(whole[len(whole) // 2 :]),
        # A server that closes without a word may do so just when the next request is sent.
        "refused 503 7": http(b"{}", status="503 Busy", more="Retry-After: 7\r\nConnection: close\r\n"),
    }
    for said, answer in cases.items():
        lines, _ = ask(answering(answer))
        assert all(said in line for line in lines), (said, lines)


def test_it_tells_that_nobody_is_there(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    lines, _ = ask(port)
    assert all(line.startswith("error") for line in lines)
