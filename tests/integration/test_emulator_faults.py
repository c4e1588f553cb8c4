"""What each of the emulator's faults does to Ocean's client, with nothing between them.

These are the raw effects that the project's own client wrapper has to survive. Whatever makes the client spin or hang
is bounded here: the fault is lifted, or the client lives in a process that is killed.
"""

from __future__ import annotations

import binascii
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from dwave.cloud.api.exceptions import (
    InternalServerError,
    RequestTimeout,
    ResourceAccessForbiddenError,
    ResourceBadRequestError,
    ResourceLimitsExceededError,
    ResourceNotFoundError,
)
from dwave.cloud.client import Client
from dwave.cloud.exceptions import (
    CanceledFutureError,
    InvalidAPIResponseError,
    PollingTimeout,
    SolverAuthenticationError,
    SolverError,
    SolverFailureError,
    SolverNotFoundError,
    SolverOfflineError,
)
from dwave.cloud.solver import StructuredSolver

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.emulator.fault_injection import FAULTS, STAGES
from tests.polling import until

SETTINGS: dict[str, Any] = {
    "client": "qpu",
    "config_file": False,
    "cache_enabled": False,
    "token": "any",
    "request_timeout": 30.0,
    "poll_wait_time": 1,
    "http_retry_total": 0,
}


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorServer]:
    with EmulatorServer(EmulatorConfig(topology="zephyr:2", beta=1.0, slow_s=0.3)) as running:
        yield running


@pytest.fixture(scope="module")
def client(emulator: EmulatorServer) -> Iterator[Client]:
    with Client.from_config(endpoint=emulator.endpoint, **SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def solver(client: Client) -> StructuredSolver:
    return client.get_solver()


@pytest.fixture(scope="module")
def hasty(emulator: EmulatorServer) -> Iterator[Client]:
    """A client that does not wait long for a reply; the others are patient, for machines that are busy."""
    with Client.from_config(endpoint=emulator.endpoint, **{**SETTINGS, "request_timeout": 2.0}) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_fault_left(emulator: EmulatorServer) -> Iterator[None]:
    yield
    emulator.faults.clear()


def _ask(solver: StructuredSolver, reads: int = 40) -> Any:
    """A future for a draw of ten uncoupled spins."""
    h = dict.fromkeys(sorted(solver.nodes)[:10], 0.2)
    return solver.sample_ising(h, {}, num_reads=reads, answer_mode="raw", auto_scale=False)


def _result(solver: StructuredSolver) -> Any:
    future = _ask(solver)
    assert future.wait(20.0)
    return future.result()


def _wait_for_calls(emulator: EmulatorServer, stage: str, calls: int) -> None:
    """Return once the client has been at ``stage`` so often; without a pause of its own that takes milliseconds."""
    until(lambda: emulator.faults.calls()[stage] >= calls)


HTTP_ERRORS = {
    "400": SolverError,
    "401": SolverAuthenticationError,
    "403": SolverError,
    "404": SolverError,
    "429": SolverError,
    "500": SolverError,
    "503": SolverError,
    "page": SolverError,
}
BROKEN_REPLIES = {
    "hang": RequestTimeout,
    "drop": requests.exceptions.ConnectionError,
    "truncated": (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError),
    "bad_json": InvalidAPIResponseError,
    "wrong_type": InvalidAPIResponseError,
}

DEFINITION = {
    **BROKEN_REPLIES,
    "400": ResourceBadRequestError,
    "401": SolverAuthenticationError,
    "403": ResourceAccessForbiddenError,
    "404": ResourceNotFoundError,
    "429": ResourceLimitsExceededError,
    "500": InternalServerError,
    "503": InternalServerError,
    "page": InternalServerError,
}

RUN = {
    **{f"{stage}_{action}": error for stage in ("submit", "poll", "answer") for action, error in HTTP_ERRORS.items()},
    **{
        f"{stage}_{action}": error for stage in ("submit", "poll", "answer") for action, error in BROKEN_REPLIES.items()
    },
    "submit_refused": SolverFailureError,
    "problem_failed": SolverFailureError,
    "problem_offline": SolverOfflineError,
    "problem_cancelled": CanceledFutureError,
    "answer_bad_base64": binascii.Error,
    "answer_missing_field": KeyError,
}
# 5xx replies to a poll are no errors to the client: it asks again at once, see below.
del RUN["poll_500"], RUN["poll_503"], RUN["poll_page"]

BOUNDED_BELOW = {
    "solver_offline",
    "maintenance",
    "slow_queue",
    "slow_run",
    "poll_500",
    "poll_503",
    "poll_page",
    "poll_omits_id",
    "answer_missing",
    "answer_no_timing",
    "energies_half",
    "energies_wrong",
    "reads_missing",
    "wrong_variables",
    "nan_accepted",
    *(f"{stage}_slow" for stage in STAGES),
    *(name for name in FAULTS if name.startswith("cancel_")),
}


def test_every_fault_has_its_test() -> None:
    assert {*RUN, *(f"solvers_{action}" for action in DEFINITION)} | BOUNDED_BELOW == set(FAULTS)


@pytest.mark.parametrize("action", sorted(DEFINITION))
def test_the_definition_cannot_be_read(emulator: EmulatorServer, client: Client, hasty: Client, action: str) -> None:
    emulator.arm(f"solvers_{action}:1")
    with pytest.raises(DEFINITION[action]):
        (hasty if action == "hang" else client).get_solver(refresh=True)
    assert client.get_solver(refresh=True).online


def test_a_solver_that_is_offline_is_not_found(emulator: EmulatorServer, client: Client) -> None:
    emulator.arm("solver_offline")
    with pytest.raises(SolverNotFoundError):
        client.get_solver(refresh=True)


@pytest.mark.parametrize("name", sorted(RUN))
def test_a_run_goes_wrong(emulator: EmulatorServer, solver: StructuredSolver, hasty: Client, name: str) -> None:
    victim = hasty.get_solver() if name.endswith("_hang") else solver
    emulator.arm(f"{name}:1")
    with pytest.raises(RUN[name]):
        _result(victim)
    assert _result(solver)["num_variables"] == 160


@pytest.mark.parametrize("stage", ["submit", "poll", "answer"])
def test_slow_answers_come_in_the_end(emulator: EmulatorServer, solver: StructuredSolver, stage: str) -> None:
    emulator.arm(f"{stage}_slow:1")
    began = time.monotonic()
    assert _result(solver)["num_variables"] == 160
    assert time.monotonic() - began > 0.3


def test_slow_definitions_come_in_the_end(emulator: EmulatorServer, client: Client) -> None:
    emulator.arm("solvers_slow:1")
    assert client.get_solver(refresh=True).online


@pytest.mark.parametrize("name", ["poll_500", "poll_503", "poll_page"])
def test_server_errors_to_polls_are_asked_again_without_a_pause(
    emulator: EmulatorServer, solver: StructuredSolver, name: str
) -> None:
    before = emulator.faults.calls()["poll"]
    emulator.arm(name)
    future = _ask(solver)
    _wait_for_calls(emulator, "poll", before + 20)
    assert not future.done()
    emulator.faults.clear()
    assert future.wait(20.0)
    assert future.result()["num_variables"] == 160


def test_completed_without_an_answer_is_asked_again_without_a_pause(
    emulator: EmulatorServer, solver: StructuredSolver
) -> None:
    before = emulator.faults.calls()["answer"]
    emulator.arm("answer_missing")
    future = _ask(solver)
    _wait_for_calls(emulator, "answer", before + 20)
    assert not future.done()
    emulator.faults.clear()
    assert future.wait(20.0)


def test_a_slow_queue_ends_with_polling_timeout(emulator: EmulatorServer) -> None:
    emulator.arm("slow_queue:1")
    with Client.from_config(endpoint=emulator.endpoint, polling_timeout=1, **SETTINGS) as client:
        future = _ask(client.get_solver())
        assert future.wait(20.0)
        with pytest.raises(PollingTimeout):
            future.result()


FORGOTTEN = """
import sys, threading
from dwave.cloud.client import Client
client = Client.from_config(endpoint=sys.argv[1], token="any", client="qpu", config_file=False, cache_enabled=False,
                            request_timeout=2, poll_wait_time=1, polling_timeout=1)
solver = client.get_solver()
future = solver.sample_ising({min(solver.nodes): 0.1}, {})
print("resolved" if future.wait(4.0) else "waits", flush=True)
closing = threading.Thread(target=client.close, daemon=True)
closing.start()
closing.join(2.0)
print("close hangs" if closing.is_alive() else "closed", flush=True)
import os
os._exit(0)
"""


def test_a_poll_that_omits_the_id_hangs_the_client_and_its_close(emulator: EmulatorServer) -> None:
    emulator.arm("poll_omits_id:1")
    outcome = subprocess.run(
        [sys.executable, "-c", FORGOTTEN, emulator.endpoint], capture_output=True, text=True, timeout=60, check=False
    )
    assert outcome.stdout.split("\n")[:2] == ["waits", "close hangs"], outcome.stderr


def test_half_of_the_energies_silently_halve_the_reads(emulator: EmulatorServer, solver: StructuredSolver) -> None:
    emulator.arm("energies_half:1")
    reads = _ask(solver).sampleset
    assert len(reads) == 20
    assert (np.abs(reads.record.energy - reads.record.sample.sum(axis=1) * 0.2) > 1e-6).sum() > 5


def test_energies_that_do_not_belong_are_passed_on(emulator: EmulatorServer, solver: StructuredSolver) -> None:
    emulator.arm("energies_wrong:1")
    reads = _ask(solver).sampleset
    np.testing.assert_allclose(reads.record.energy - reads.record.sample.sum(axis=1) * 0.2, 0.5)


def test_missing_reads_are_passed_on(emulator: EmulatorServer, solver: StructuredSolver) -> None:
    emulator.arm("reads_missing:1")
    assert len(_ask(solver).sampleset) == 36


def test_a_missing_variable_is_passed_on(emulator: EmulatorServer, solver: StructuredSolver) -> None:
    emulator.arm("wrong_variables:1")
    assert len(_ask(solver).sampleset.variables) == 9


def test_missing_timing_is_passed_on(emulator: EmulatorServer, solver: StructuredSolver) -> None:
    emulator.arm("answer_no_timing:1")
    assert _ask(solver).sampleset.info["timing"] == {}


def test_nan_in_a_coupling(emulator: EmulatorServer, solver: StructuredSolver) -> None:
    edge = min(solver.undirected_edges)
    with pytest.raises(SolverFailureError, match="finite"):
        solver.sample_ising({}, {edge: float("nan")}, auto_scale=False).result()
    emulator.arm("nan_accepted:1")
    assert solver.sample_ising({}, {edge: float("nan")}, auto_scale=False).result()["num_variables"] == 160


def test_nan_in_a_bias_makes_a_lonely_qubit_vanish(solver: StructuredSolver) -> None:
    first, *others = sorted(solver.nodes)
    lonely = next(other for other in others if (first, other) not in solver.edges)
    reads = solver.sample_ising({first: 0.1, lonely: float("nan")}, {}, auto_scale=False).sampleset
    assert list(reads.variables) == [first]


def test_nan_in_the_bias_of_a_coupled_qubit_is_refused(solver: StructuredSolver) -> None:
    """The client counts the qubit as active, the encoding as inactive: the couplings no longer fit."""
    first, second = min(solver.undirected_edges)
    with pytest.raises(SolverFailureError, match="couplers between active qubits"):
        solver.sample_ising({first: 0.1, second: float("nan")}, {(first, second): 0.5}, auto_scale=False).result()


@pytest.mark.parametrize("name", sorted(name for name in FAULTS if name.startswith("cancel_")))
def test_a_cancel_goes_wrong(emulator: EmulatorServer, hasty: Client, name: str) -> None:
    """A cancel whose reply is lost or refused raises its error in the future, unless a poll sees CANCELLED first."""
    solver = hasty.get_solver()
    emulator.arm("slow_queue:1")
    emulator.arm(f"{name}:1")
    future = _ask(solver)
    # The id must be known before a cancel can be sent.
    until(lambda: future.id is not None)
    future.cancel()
    assert future.wait(20.0)
    with pytest.raises(
        (
            CanceledFutureError,
            SolverError,
            InvalidAPIResponseError,
            requests.exceptions.RequestException,
            RequestTimeout,
        )
    ):
        future.result()
    for status in emulator.backend.every_status():
        if status["status"] == "PENDING":
            emulator.backend.cancel(status["id"])


def test_maintenance_fails_what_is_queued(emulator: EmulatorServer) -> None:
    config = EmulatorConfig(topology="zephyr:2", maintenance_s=0.5)
    with (
        EmulatorServer(config) as other,
        Client.from_config(endpoint=other.endpoint, **SETTINGS) as client,
    ):
        solver = client.get_solver()
        other.arm("slow_queue:1")
        waiting = _ask(solver)
        until(lambda: other.backend.state()["jobs"].get("PENDING", 0))
        other.arm("maintenance")
        with pytest.raises(SolverOfflineError):
            _result(solver)
        with pytest.raises(SolverOfflineError):
            waiting.result()
        until(lambda: other.backend.definition()["status"] == "ONLINE")
        assert client.get_solver(refresh=True).graph_id != solver.graph_id
