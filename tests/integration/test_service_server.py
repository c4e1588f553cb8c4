"""The service as a process of its own, behind a real socket."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import h5py
import httpx2
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from qshower.client import Client, Showers
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from tests.polling import until

Start = Callable[..., tuple[subprocess.Popen[str], str, list[str]]]

START_S, STOP_S = 120, 60
ENERGY = 65536.0


@pytest.fixture
def environment(untrained_bundles: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QSHOWER_", "DWAVE_"))}
    return {
        **kept,
        "QSHOWER_MODEL_FOLDER": str(untrained_bundles),
        "QSHOWER_DEFAULT_MODEL": "test-zephyr",
        "QSHOWER_QPU": "off",
    }


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Starts a server on a free port; ends what it started."""
    started: list[tuple[subprocess.Popen[str], IO[str]]] = []

    def begin(**variables: str) -> tuple[subprocess.Popen[str], str, list[str]]:
        command = [sys.executable, "-m", "qshower.service.cli", "serve", "--port", "0"]
        process = subprocess.Popen(
            command, env={**environment, **variables}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        stderr = process.stderr
        assert stderr is not None
        started.append((process, stderr))
        lines: list[str] = []
        url = None
        for line in stderr:
            lines.append(line)
            found = re.search(r"url=(http://\S+)", line)
            url = found[1] if found else url
            if "] ready " in line:
                break
        assert process.poll() is None, "".join(lines)
        assert url, "".join(lines)
        # Somebody has to read on, or the server blocks on a full pipe.
        threading.Thread(target=lambda: lines.extend(stderr), daemon=True).start()
        return process, url, lines

    yield begin
    for process, stderr in started:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_S)
        stderr.close()


def test_the_same_seed_alone_in_a_crowd_and_after_a_restart_in_all_formats(start: Start) -> None:
    body = {"incident_energies_mev": [ENERGY], "sampler": "gibbs", "seed": 1}
    process, url, _ = start()
    assert httpx2.get(f"{url}/health/ready", timeout=60).status_code == 200

    def ask(accept: str, **change: Any) -> bytes:
        response = httpx2.post(f"{url}/generate", json={**body, **change}, headers={"accept": accept}, timeout=120)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == accept
        return response.content

    alone = np.array(json.loads(ask("application/json"))["showers_mev"], dtype=np.float32)
    with h5py.File(io.BytesIO(ask("application/x-hdf5"))) as file:
        assert np.array_equal(file["showers"][:], alone)
    table = pa.ipc.open_stream(ask("application/vnd.apache.arrow.stream")).read_all()
    assert np.array_equal(np.array(table["showers_mev"].to_pylist(), dtype=np.float32), alone)
    crowd = np.load(io.BytesIO(ask("application/x-npz", incident_energies_mev=[ENERGY] * 500)))["showers_mev"]
    assert crowd.shape == (500, 6480)
    assert np.array_equal(crowd[:1], alone)
    assert len(np.unique(crowd, axis=0)) == 500

    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_S) == 0
    _, again, _ = start()
    with Client(again) as client:
        after = client.generate([ENERGY] * 500, sampler="gibbs", seed=1)
        assert np.array_equal(after.showers_mev, crowd)
        together: list[NDArray[np.float32] | None] = [None] * 8

        def one(index: int) -> None:
            together[index] = client.generate([ENERGY] * 3, sampler="gibbs", seed=1).showers_mev

        threads = [threading.Thread(target=one, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(showers is not None and np.array_equal(showers, crowd[:3]) for showers in together)


def test_sigterm_finishes_what_is_in_work_and_refuses_the_rest(start: Start) -> None:
    process, url, lines = start(QSHOWER_DRAIN_GRACE_S="4")
    answer: dict[str, Showers] = {}

    def long_request() -> None:
        with Client(url) as client:
            answer["showers"] = client.generate([ENERGY] * 60, sampler="annealing", seed=1, options={"sweeps": 6000})

    thread = threading.Thread(target=long_request)
    with httpx2.Client(base_url=url, timeout=60) as http:
        thread.start()
        until(lambda: "qshower_queue_requests 1.0" in http.get("/metrics").text)
        process.send_signal(signal.SIGTERM)
        until(lambda: http.get("/health/ready").status_code != 200)
        refused = http.post("/generate", json={"incident_energies_mev": [ENERGY]})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "30"
        assert http.get("/health/live").status_code == 200
    thread.join(STOP_S)
    assert process.wait(STOP_S) == 0
    assert answer["showers"].showers_mev.shape == (60, 6480)
    assert not [line for line in lines if "Traceback" in line]


def test_a_client_that_goes_away_gives_its_place_free(start: Start) -> None:
    _, url, lines = start()
    host, port = url.removeprefix("http://").split(":")
    order = {"incident_energies_mev": [ENERGY] * 2000, "sampler": "annealing", "options": {"sweeps": 20_000}}
    body = json.dumps(order)
    lines_of_head = ("POST /generate HTTP/1.1", f"Host: {host}", "Content-Type: application/json")
    head = "\r\n".join((*lines_of_head, f"Content-Length: {len(body)}", "", ""))
    with httpx2.Client(base_url=url, timeout=60) as http:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall((head + body).encode())
            until(lambda: "qshower_queue_rows 2000.0" in http.get("/metrics").text)
        until(lambda: "qshower_queue_rows 0.0" in http.get("/metrics").text)
        text = http.get("/metrics").text
    assert 'qshower_generate_total{outcome="client_gone"} 1.0' in text
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.parametrize("sampler", ["gibbs", "tempering", "annealing"])
def test_sigterm_ends_a_process_whose_sampler_would_go_on_for_hours(start: Start, sampler: str) -> None:
    process, url, _ = start(QSHOWER_DRAIN_TIMEOUT_S="1", QSHOWER_DEFAULT_DEADLINE_S="3600")
    answers: list[httpx2.Response] = []
    body = {"incident_energies_mev": [ENERGY] * 500, "sampler": sampler, "options": {"sweeps": 1_000_000}}
    asking = threading.Thread(target=lambda: answers.append(httpx2.post(f"{url}/generate", json=body, timeout=START_S)))
    asking.start()
    until(lambda: "qshower_queue_requests 1.0" in httpx2.get(f"{url}/metrics", timeout=60).text)
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_S) == 0
    asking.join()
    assert (answers[0].status_code, answers[0].json()["type"]) == (503, "urn:qshower:not-ready")


def test_a_job_survives_kill(start: Start, tmp_path: Path) -> None:
    folder = {"QSHOWER_JOBS_FOLDER": str(tmp_path / "jobs")}
    body = {"incident_energies_mev": [ENERGY], "showers_per_energy": 3000, "sampler": "gibbs", "seed": 1}
    process, url, _ = start(**folder)
    job = httpx2.post(f"{url}/jobs", json=body, timeout=60).json()["id"]
    until(lambda: httpx2.get(f"{url}/jobs/{job}", timeout=60).json()["showers_done"] > 0)
    process.kill()
    process.wait(STOP_S)
    _, url, _ = start(**folder)
    until(lambda: httpx2.get(f"{url}/jobs/{job}", timeout=60).json()["state"] == "done")
    accept = {"accept": "application/x-npz"}
    kept = np.load(io.BytesIO(httpx2.get(f"{url}/jobs/{job}/result", headers=accept, timeout=120).content))
    with Client(url) as client:
        first = client.generate([ENERGY] * 300, sampler="gibbs", seed=1)
    assert kept["showers_mev"].shape == (3000, 6480)
    assert np.array_equal(kept["showers_mev"][:300], first.showers_mev)


def test_a_port_in_use_is_one_line(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "qshower.service.cli", "serve", "--port", str(port)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_S)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "QSHOWER_PORT" in done.stderr
    assert str(port) in done.stderr
    assert "--port" in done.stderr


def test_sigterm_in_mid_draw_ends_the_process(start: Start, tmp_path: Path) -> None:
    """The problem would wait for an hour, and no thread that waits for it keeps the process from its end."""
    with EmulatorServer(EmulatorConfig(topology="zephyr:6", defects=0.0, queue_s=3600.0)) as emulator:
        process, url, _ = start(
            QSHOWER_QPU="on",
            QSHOWER_QPU_STATE_FOLDER=str(tmp_path),
            QSHOWER_QPU_DEADLINE_S="3600",
            QSHOWER_DEFAULT_DEADLINE_S="3600",
            QSHOWER_QPU_RECALIBRATE_S="86400",
            QSHOWER_DRAIN_TIMEOUT_S="1",
            DWAVE_API_ENDPOINT=emulator.endpoint,
            DWAVE_API_TOKEN="any",
        )
        answers: list[httpx2.Response] = []

        def ask() -> None:
            body = {"incident_energies_mev": [ENERGY], "sampler": "qpu"}
            answers.append(httpx2.post(f"{url}/generate", json=body, timeout=START_S))

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: emulator.backend.state()["submitted"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0
        asking.join()
        jobs = emulator.backend.state()["jobs"]
    assert (answers[0].status_code, answers[0].json()["type"]) == (503, "urn:qshower:not-ready")
    assert answers[0].headers["retry-after"] == "30"
    assert (jobs.get("PENDING", 0), jobs["CANCELLED"] >= 1) == (0, True)


def test_a_second_interrupt_ends_at_once(start: Start) -> None:
    process, url, lines = start(QSHOWER_DRAIN_TIMEOUT_S="3600")
    with httpx2.Client(base_url=url, timeout=START_S) as http:
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps(
            {"incident_energies_mev": [ENERGY] * 500, "sampler": "annealing", "options": {"sweeps": 10**6}}
        )
        head = (
            f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}\r\n{body}".encode())
            until(lambda: "qshower_queue_requests 1.0" in http.get("/metrics").text)
            process.send_signal(signal.SIGINT)
            until(lambda: any("Shutting down" in line for line in lines))
            process.send_signal(signal.SIGINT)
            assert process.wait(STOP_S) == 130
    until(lambda: any("stopped at once" in line for line in lines))


def test_sigterm_while_it_starts_ends_the_process(environment: dict[str, str], tmp_path: Path) -> None:
    """Kernels are being compiled, for nothing is cached."""
    command = [sys.executable, "-m", "qshower.service.cli", "serve", "--port", "0"]
    variables = {**environment, "NUMBA_CACHE_DIR": str(tmp_path)}
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"url=(http://\S+)", line):
                until(partial(alive, found[1]))
                process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0
    assert "stopped while starting" in said[-1]


def alive(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health/live", timeout=START_S).status_code == 200
    except httpx2.TransportError:
        return False
