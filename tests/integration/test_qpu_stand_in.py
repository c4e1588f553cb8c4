"""Against an annealer that is not the emulator: an independent, smaller server of the solver API, with other habits.

Its chip lacks 5 % of its qubits, takes h up to ±2, J from −1.5 and 1000 reads at most, lists qubits and couplers in no
order, and has no parameters but the four that any QPU has.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dwave.graphs
import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.errors import (
    SamplerAnswerError,
    SamplerError,
    SamplerUnavailableError,
    SolverAuthenticationFailedError,
    SolverNotFoundHereError,
)
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.operations import estimate_calibration
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import LatentRequest, SamplerOptions

TOKEN = "STAND-IN-0123456789"
NAME = "Somebody_elses_annealer"
TYPES = {
    "solvers": "solver-definition-list",
    "problems": "problems",
    "problem": "problem",
}


class Annealer:
    """The chip: what it is, and how it anneals.

    Attributes:
        beta: inverse temperature of its reads.
        fault: what is wrong with it, "" for nothing.
    """

    def __init__(self, beta: float, fault: str = "") -> None:
        self.beta, self.fault = beta, fault
        self._rng = np.random.default_rng(8)
        self._turn = threading.Lock()
        graph = dwave.graphs.zephyr_graph(2)
        nodes = self._rng.permutation(sorted(graph))
        self.qubits = nodes[round(0.05 * len(nodes)) :]
        there = set(self.qubits.tolist())
        edges = [edge for edge in graph.edges if there.issuperset(edge)]
        self.couplers = np.array(edges)[self._rng.permutation(len(edges))]
        self.answers: dict[str, dict[str, Any]] = {}

    def definition(self) -> dict[str, Any]:
        """As the API tells it."""
        parameters = ["num_reads", "annealing_time", "answer_mode", "auto_scale"]
        return {
            "identity": {"name": NAME, "version": {"graph_id": "0123456789"}},
            "status": "OFFLINE" if self.fault == "offline" else "ONLINE",
            "description": "",
            "avg_load": 0.0,
            "properties": {
                "category": "qpu",
                "topology": {"type": "zephyr", "shape": [2, 4]},
                "num_qubits": 160,
                "qubits": self.qubits.tolist(),
                "couplers": self.couplers.tolist(),
                "supported_problem_types": ["ising"],
                "parameters": dict.fromkeys(parameters),
                "h_range": [-2.0, 2.0],
                "j_range": [-1.0, 1.0],
                "extended_j_range": [-1.5, 1.0],
                "num_reads_range": [1, 1000],
                "annealing_time_range": [5.0, 100.0],
                "problem_timing_data": {
                    "version": "1.0.0",
                    "typical_programming_time": 5000.0,
                    "default_programming_thermalization": 0.0,
                    "default_annealing_time": 10.0,
                    "readout_time_model": "pwl_log_log",
                    "readout_time_model_parameters": [0.0, 3.0, 1.0, 2.0],
                    "qpu_delay_time_per_sample": 10.0,
                    "default_readout_thermalization": 0.0,
                    "decorrelation_max_nominal_anneal_time": 100.0,
                    "decorrelation_time_range": [10.0, 1000.0],
                    "reverse_annealing_with_reinit_prog_time_delta": 0.0,
                    "reverse_annealing_without_reinit_prog_time_delta": 0.0,
                    "reverse_annealing_with_reinit_delay_time_delta": 0.0,
                    "reverse_annealing_without_reinit_delay_time_delta": 0.0,
                },
            },
        }

    def solve(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job's status, or why it is refused. One job at a time: each gets a number of its own."""
        with self._turn:
            return self._solved(job)

    def _solved(self, job: dict[str, Any]) -> dict[str, Any]:
        lin = np.frombuffer(base64.b64decode(job["data"]["lin"]), dtype="<f8")
        j = np.frombuffer(base64.b64decode(job["data"]["quad"]), dtype="<f8")
        active = np.flatnonzero(~np.isnan(lin))
        place = {qubit: number for number, qubit in enumerate(self.qubits[active].tolist())}
        pairs = [(place[a], place[b]) for a, b in self.couplers.tolist() if a in place and b in place]
        ends, h, parameters = np.array(pairs).reshape(-1, 2), lin[active], job["params"]
        refused = (
            set(parameters) - set(self.definition()["properties"]["parameters"])
            or np.abs(h).max() > 2.0
            or (j.size and (j.min() < -1.5 or j.max() > 1.0))
            or not 1 <= parameters["num_reads"] <= 1000
            or len(pairs) != j.size
        )
        if refused:
            return {"error_code": 400, "error_msg": f"not taken: {refused}"}
        spins = self._anneal(h, ends, j, parameters["num_reads"])
        energies = spins @ h + (spins[:, ends[:, 0]] * spins[:, ends[:, 1]]) @ j
        if self.fault == "wrong energies":
            energies = energies + 1.0
        status = {
            "id": f"problem-{len(self.answers)}",
            "type": "ising",
            "solver": self.definition()["identity"],
            "status": "COMPLETED",
            "submitted_on": "2026-01-01T00:00:00Z",
            "solved_on": "2026-01-01T00:00:01Z",
        }
        self.answers[status["id"]] = {
            **status,
            "answer": {
                "format": "qp",
                "num_variables": 160,
                "active_variables": packed(self.qubits[active].astype("<i4")),
                "energies": packed(energies.astype("<f8")),
                "solutions": packed(np.packbits(spins > 0, axis=1)),
                "timing": {"qpu_access_time": 5000.0 + 50.0 * len(spins)},
            },
        }
        return status

    def _anneal(
        self, h: NDArray[np.float64], ends: NDArray[np.int64], j: NDArray[np.float64], reads: int
    ) -> NDArray[np.int8]:
        """(reads, qubits) spins: heat bath, all spins of a colour at once, from hot to β."""
        coupling = np.zeros((h.size, h.size))
        coupling[ends[:, 0], ends[:, 1]] = coupling[ends[:, 1], ends[:, 0]] = j
        graph = nx.Graph(ends.tolist())
        graph.add_nodes_from(range(h.size))
        colour = nx.greedy_color(graph)
        classes = [[one for one in colour if colour[one] == number] for number in sorted(set(colour.values()))]
        spins = self._rng.choice([-1.0, 1.0], (h.size, reads))
        for beta in [*np.linspace(0.1, self.beta, 30), *[self.beta] * 20]:
            for some in classes:
                field = h[some, None] + coupling[some] @ spins
                up = self._rng.random(field.shape) < 1.0 / (1.0 + np.exp(2.0 * beta * field))
                spins[some] = np.where(up, 1.0, -1.0)
        return spins.T.astype(np.int8)


def packed(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


class Handler(BaseHTTPRequestHandler):
    """The API in front of the server's ``annealer``."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        annealer, url = self.server.annealer, urlsplit(self.path)  # type: ignore[attr-defined]
        parts = url.path.strip("/").split("/")[1:]
        if parts[0] == "solvers":
            self.reply("solvers", [annealer.definition()])
        elif len(parts) == 1:
            ids = parse_qs(url.query)["id"][0].split(",")
            self.reply("problems", [annealer.answers[one] for one in ids])
        else:
            self.reply("problem", annealer.answers[parts[1]])

    def do_POST(self) -> None:
        body = zlib.decompress(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply("problems", [self.server.annealer.solve(job) for job in json.loads(body)])  # type: ignore[attr-defined]

    def reply(self, kind: str, document: object) -> None:
        fault = self.server.annealer.fault  # type: ignore[attr-defined]
        status, body = 200, json.dumps(document).encode()
        content_type = f"application/vnd.dwave.sapi.{TYPES[kind]}+json; version=3.0.0"
        if self.headers["X-Auth-Token"] != TOKEN:
            status, body = 401, b""
        elif fault == "busy":
            status, body = 429, b"slow down"
        elif fault == "page":
            body, content_type = b"<html>\n<h1>Hello</h1>\n</html>", "text/html"
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def sampler_on(tmp_path: Path) -> Iterator[Callable[..., QpuSampler]]:
    """Makes a sampler on an annealer."""
    opened: list[tuple[ThreadingHTTPServer, threading.Thread, QpuSampler]] = []

    def make(annealer: Annealer, **changes: Any) -> QpuSampler:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.annealer = annealer  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        values = {"endpoint": f"http://127.0.0.1:{server.server_port}/api", "token": TOKEN, "state_dir": tmp_path}
        settings = QpuSettings(
            **{**values, "max_missing_fraction": 0.3, "calibration_gauges": 8, "max_copies": 2, **changes}
        )
        opened.append((server, thread, QpuSampler(settings)))
        return opened[-1][2]

    yield make
    for server, thread, sampler in opened:
        sampler.close()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def machine() -> BoltzmannMachine:
    rng = np.random.default_rng(3)
    lattice = compact_lattice("zephyr", 24, chip_size=2)
    return lattice.with_parameters(rng.normal(0, 0.4, lattice.node_count), rng.normal(0, 0.4, len(lattice.edges)))


def request_of(machine: BoltzmannMachine, rows: int = 4, deadline_s: float = 120.0) -> LatentRequest:
    rng = np.random.default_rng(4)
    conditions = rng.choice([-1, 1], (rows, machine.condition_nodes.size)).astype(np.int8)
    streams = np.stack([np.zeros(rows), np.arange(rows)], axis=1).astype(np.uint64)
    return LatentRequest(machine, conditions, streams, SamplerOptions(), deadline_s)


@pytest.mark.parametrize("beta", [3.3, 5.3])
def test_the_first_draw_finds_the_temperature(
    beta: float, sampler_on: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    """8000 reads, of which the solver takes 1000 at a time: found to 0.3 to 0.4 %, as 24 draws each have shown."""
    sampler, request = sampler_on(Annealer(beta), calibration_reads=8000), request_of(machine)
    assert estimate_calibration(sampler.access, machine, request.conditions).reads >= 8000
    batch = sampler.sample(request)
    assert batch.provenance.solver == NAME
    assert batch.provenance.beta == pytest.approx(beta, rel=0.02)


@pytest.mark.parametrize(
    ("fault", "token", "kind", "said"),
    [
        ("offline", TOKEN, SolverNotFoundHereError, "no zephyr solver is online"),
        ("wrong energies", TOKEN, SamplerAnswerError, "energies do not belong to their states"),
        ("", "another", SolverAuthenticationFailedError, "refused the token"),
        ("busy", TOKEN, SamplerUnavailableError, "takes no more requests now (HTTP 429)"),
        ("page", TOKEN, SamplerUnavailableError, "makes no sense (ResourceBadResponseError: Received media type"),
    ],
)
def test_what_cannot_be_used_is_refused_with_one_clear_line(
    fault: str,
    token: str,
    kind: type[SamplerError],
    said: str,
    sampler_on: Callable[..., QpuSampler],
    machine: BoltzmannMachine,
) -> None:
    with pytest.raises(kind, match=re.escape(said)) as caught:
        sampler_on(Annealer(4.0, fault), token=token).sample(request_of(machine))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"parameters": {"num_reads": "", "annealing_time": ""}},
            "lacks the parameter answer_mode, the parameter",
        ),
        ({"topology": None}, "lacks the property topology"),
    ],
)
def test_what_a_solver_lacks_is_told_to_users(
    change: dict[str, object],
    said: str,
    sampler_on: Callable[..., QpuSampler],
    machine: BoltzmannMachine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    annealer = Annealer(4.0)
    definition = annealer.definition()
    definition["properties"] |= change
    monkeypatch.setattr(annealer, "definition", lambda: definition)
    answer = sampler_on(annealer).availability(machine)
    assert not answer.available
    assert said in (answer.reason or "")
