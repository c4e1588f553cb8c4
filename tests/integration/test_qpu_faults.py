"""Every row of the table of what goes wrong between a client and the solver API: a typed error, in time, no leak."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.errors import (
    CircuitOpenError,
    SamplerAnswerError,
    SamplerError,
    SamplerTimeoutError,
    SamplerUnavailableError,
    SolverAuthenticationFailedError,
    SolverNotFoundHereError,
)
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.provenance import Provenance
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.ocean.connection import Connector
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of
from tests.polling import holds, until

TOKEN = "TEST-0123456789abcdef-secret"
DEADLINE_S = 2.5
PATIENT_S = 20.0
"""Deadline where something other than a time-out is expected: long enough for a busy test machine."""
REQUEST_TIMEOUT_S = 5.0
GRACE_S = 0.5
"""For cancelling, the last of a draw's time."""
HANG_S = 240.0
"""A thread that has not ended by then never will, on however slow a machine."""
OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture(scope="module")
def machine() -> BoltzmannMachine:
    """16 nodes, 12 of them drawn."""
    rng = np.random.default_rng(5)
    lattice = compact_lattice("zephyr", 4, chip_size=2)
    return lattice.with_parameters(rng.normal(0, 0.3, 16), rng.normal(0, 0.3, len(lattice.edges)))


@pytest.fixture
def emulator() -> Iterator[EmulatorServer]:
    config = EmulatorConfig(topology="zephyr:2", defects=0.0, token=TOKEN, sweeps=32, retry_after_s=0)
    with EmulatorServer(config) as server:
        yield server


def settings_for(endpoint: str, folder: Path, **changes: object) -> QpuSettings:
    values: dict[str, object] = {
        "endpoint": endpoint,
        "token": TOKEN,
        "state_dir": folder,
        "request_timeout_s": REQUEST_TIMEOUT_S,
        "poll_wait_s": 1,
        "poll_pause_s": 0.02,
        "answer_wait_s": 2.0,
        "cancel_grace_s": GRACE_S,
        "deadline_s": DEADLINE_S,
        "solver_check_s": 0.0,
        "reconnect_wait_s": 0.0,
        "breaker_failures": 1000,
        "calibration_reads": 50,
        "max_copies": 1,
    }
    return QpuSettings(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def make_sampler(emulator: EmulatorServer, tmp_path: Path) -> Iterator[Callable[..., QpuSampler]]:
    made: list[QpuSampler] = []

    def make(**changes: object) -> QpuSampler:
        made.append(QpuSampler(settings_for(emulator.endpoint, tmp_path, **changes)))
        return made[-1]

    yield make
    for sampler in made:
        sampler.close()


def request_of(
    machine: BoltzmannMachine, rows: int = 4, deadline_s: float | None = DEADLINE_S, **options: object
) -> LatentRequest:
    conditions = np.ones((rows, 4), dtype=np.int8)
    streams = streams_of(0, rows)
    return LatentRequest(machine, conditions, streams, SamplerOptions(**options), deadline_s)  # type: ignore[arg-type]


UNAVAILABLE, ANSWER, TIMEOUT = SamplerUnavailableError, SamplerAnswerError, SamplerTimeoutError
AUTHENTICATION, NOT_FOUND = SolverAuthenticationFailedError, SolverNotFoundHereError

TABLE: dict[str, type[SamplerError]] = {
    "solvers_401": AUTHENTICATION,
    "solvers_403": UNAVAILABLE,
    "solvers_404": NOT_FOUND,
    "solvers_429": UNAVAILABLE,
    "solvers_500": UNAVAILABLE,
    "solvers_503": UNAVAILABLE,
    "solvers_page": UNAVAILABLE,
    "solvers_hang": UNAVAILABLE,
    "solvers_drop": UNAVAILABLE,
    "solvers_truncated": UNAVAILABLE,
    "solvers_bad_json": UNAVAILABLE,
    "solvers_wrong_type": UNAVAILABLE,
    "solver_offline": NOT_FOUND,
    "submit_400": SamplerError,
    "submit_401": AUTHENTICATION,
    "submit_403": UNAVAILABLE,
    "submit_429": UNAVAILABLE,
    "submit_500": UNAVAILABLE,
    "submit_503": UNAVAILABLE,
    "submit_page": UNAVAILABLE,
    "submit_hang": UNAVAILABLE,
    "submit_drop": UNAVAILABLE,
    "submit_truncated": UNAVAILABLE,
    "submit_bad_json": ANSWER,
    "submit_wrong_type": ANSWER,
    "submit_refused": SamplerError,
    "poll_401": AUTHENTICATION,
    "poll_403": TIMEOUT,
    "poll_404": ANSWER,
    "poll_429": TIMEOUT,
    "poll_500": TIMEOUT,
    "poll_503": TIMEOUT,
    "poll_page": TIMEOUT,
    "poll_hang": TIMEOUT,
    "poll_drop": TIMEOUT,
    "poll_truncated": TIMEOUT,
    "poll_bad_json": TIMEOUT,
    "poll_wrong_type": TIMEOUT,
    "poll_omits_id": TIMEOUT,
    "answer_401": AUTHENTICATION,
    "answer_403": TIMEOUT,
    "answer_404": ANSWER,
    "answer_429": TIMEOUT,
    "answer_500": TIMEOUT,
    "answer_503": TIMEOUT,
    "answer_page": TIMEOUT,
    "answer_hang": ANSWER,
    "answer_drop": TIMEOUT,
    "answer_truncated": TIMEOUT,
    "answer_bad_json": TIMEOUT,
    "answer_wrong_type": TIMEOUT,
    "answer_missing": ANSWER,
    "answer_bad_base64": ANSWER,
    "answer_missing_field": ANSWER,
    "energies_half": ANSWER,
    "energies_wrong": ANSWER,
    "reads_missing": ANSWER,
    "wrong_variables": ANSWER,
    "problem_failed": UNAVAILABLE,
    "problem_offline": NOT_FOUND,
    "problem_cancelled": UNAVAILABLE,
    "slow_queue": TIMEOUT,
}

NEEDS_A_WAIT = {name for name in TABLE if name.startswith("poll_")}
"""Faults that only strike while a problem is not solved yet."""
TO_THE_DEADLINE = {name for name, kind in TABLE.items() if kind is TIMEOUT} | {"submit_429"}
"""Faults that may pass, so that it is tried again as long as there is time."""


class Waiting:
    """How long one thread asks to wait for events: that is how it waits for the API, and for its own helpers.

    A wait that is over early took no longer than it lasted, so what a thread has waited in vain, and what it is about
    to wait, is a bound on when it gives up that does not depend on how slow the machine is.
    """

    def __init__(self) -> None:
        self.thread: int | None = None
        self.in_vain_s = 0.0
        self.longest_s = 0.0

    def wait(self, event: threading.Event, timeout: float | None = None) -> bool:
        """In place of ``Event.wait``."""
        starting = sys._getframe(2).f_code is threading.Thread.start.__code__
        if threading.get_ident() != self.thread or starting or event.is_set():
            return EVENT_WAIT(event, timeout)
        assert timeout is not None, "a wait without an end"
        self.longest_s = max(self.longest_s, self.in_vain_s + timeout)
        come = EVENT_WAIT(event, timeout)
        self.in_vain_s += 0.0 if come else timeout
        return come


EVENT_WAIT = threading.Event.wait


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    found = Waiting()
    monkeypatch.setattr(threading.Event, "wait", lambda event, timeout=None: found.wait(event, timeout))
    return found


def error_of(sampler: QpuSampler, request: LatentRequest, waiting: Waiting | None = None) -> SamplerError:
    """What ``sampler`` raises for ``request``; the test fails if it answers, raises anything else, or hangs."""
    outcome: list[object] = []

    def work() -> None:
        if waiting is not None:
            waiting.thread = threading.get_ident()
        try:
            outcome.append(sampler.sample(request))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(HANG_S)
    assert not thread.is_alive(), f"no end {HANG_S:g} s after a call with a deadline of {request.deadline_s} s"
    assert isinstance(outcome[0], SamplerError), f"{outcome[0]!r}"
    return outcome[0]


@pytest.mark.parametrize("fault", sorted(TABLE))
def test_each_fault_is_a_typed_error_in_time(
    fault: str,
    emulator: EmulatorServer,
    make_sampler: Callable[..., QpuSampler],
    machine: BoltzmannMachine,
    waiting: Waiting,
) -> None:
    sampler = make_sampler()
    sampler.sample(request_of(machine, deadline_s=30.0))
    deadline_s = DEADLINE_S if fault in TO_THE_DEADLINE else PATIENT_S
    if fault in NEEDS_A_WAIT:
        emulator.arm("slow_queue")
    emulator.arm(fault)
    error = error_of(sampler, request_of(machine, num_reads=20, deadline_s=deadline_s), waiting)
    assert type(error) is TABLE[fault], f"{error!r}"
    assert waiting.longest_s <= deadline_s + 0.01
    assert waiting.longest_s > 0.0 or TABLE[fault] is not TIMEOUT
    assert TOKEN not in str(error)
    if not fault.startswith(("solver", "submit")):
        assert len(error.problem_ids) == 1
    emulator.faults.clear()
    batch = sampler.sample(request_of(machine, deadline_s=30.0))
    assert batch.spins.shape == (4, 16)


@pytest.mark.parametrize(
    "fault",
    [
        *(f"{stage}_{action}:2" for stage in ("poll", "answer") for action in ("403", "429", "500", "503", "page")),
        *(f"{stage}_{action}:2" for stage in ("poll", "answer") for action in ("drop", "truncated")),
        *(f"{stage}_{action}:2" for stage in ("poll", "answer") for action in ("bad_json", "wrong_type")),
    ],
)
def test_an_accepted_problem_is_asked_for_until_it_answers_and_submitted_once(
    fault: str, tmp_path: Path, machine: BoltzmannMachine
) -> None:
    config = EmulatorConfig(topology="zephyr:2", defects=0.0, token=TOKEN, sweeps=32, slow_s=2.0, retry_after_s=0)
    with (
        EmulatorServer(config) as emulator,
        QpuSampler(settings_for(emulator.endpoint, tmp_path, deadline_s=HANG_S)) as sampler,
    ):
        sampler.sample(request_of(machine, deadline_s=HANG_S))
        before = emulator.backend.state()["submitted"]
        emulator.arm("slow_run:1")
        emulator.arm(fault)
        batch = sampler.sample(request_of(machine, deadline_s=HANG_S))
        assert not emulator.faults.armed()
        assert emulator.backend.state()["submitted"] == before + 1
    assert batch.provenance.problem_ids is not None
    assert len(batch.provenance.problem_ids) == 1


class Pauses(list[float]):
    """What a sampler asks to wait between two attempts, without the waiting."""

    def pause(self, connector: Connector, pause_s: float) -> None:
        """In place of ``Connector.pause``."""
        self.append(pause_s)
        connector.refuse_if_closed()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    found = Pauses()
    monkeypatch.setattr(Connector, "pause", lambda connector, pause_s: found.pause(connector, pause_s))
    return found


@pytest.mark.parametrize(
    ("fault", "asked"),
    [
        ("submit_429:3", [7.0, 7.0, 7.0]),
        ("poll_429:3", [7.0, 7.0, 7.0]),
        ("poll_503:3", [7.0, 7.0, 7.0]),
        ("answer_503:2", [7.0, 7.0]),
        # Without a Retry-After the pauses grow.
        ("poll_500:6", [0.25, 0.5, 1.0, 2.0, 4.0, 5.0]),
        ("answer_drop:3", [0.25, 0.5, 1.0]),
    ],
)
def test_the_solver_api_is_asked_again_when_it_wants_to_be(
    fault: str, asked: list[float], tmp_path: Path, machine: BoltzmannMachine, pauses: Pauses
) -> None:
    config = EmulatorConfig(topology="zephyr:2", defects=0.0, token=TOKEN, sweeps=32, slow_s=0.3, retry_after_s=7)
    with (
        EmulatorServer(config) as emulator,
        QpuSampler(settings_for(emulator.endpoint, tmp_path, deadline_s=HANG_S)) as sampler,
    ):
        sampler.sample(request_of(machine, deadline_s=HANG_S))
        emulator.arm("slow_run:1")
        emulator.arm(fault)
        sampler.sample(request_of(machine, deadline_s=HANG_S))
    assert pauses == asked


@pytest.mark.parametrize("fault", ["poll_429", "poll_hang"])
def test_an_answer_that_is_there_at_the_deadline_is_taken(
    fault: str, tmp_path: Path, machine: BoltzmannMachine
) -> None:
    """Whatever keeps it from being told of before: here the API wants to be left alone for longer than there is."""
    config = EmulatorConfig(topology="zephyr:2", defects=0.0, token=TOKEN, sweeps=32, slow_s=0.3, retry_after_s=3600)
    with EmulatorServer(config) as emulator:
        settings = settings_for(emulator.endpoint, tmp_path, request_timeout_s=HANG_S, cancel_grace_s=60.0)
        with QpuSampler(settings) as sampler:
            sampler.sample(request_of(machine, deadline_s=HANG_S))
            emulator.arm("slow_run:1")
            emulator.arm(fault)
            provenance = sampler.sample(request_of(machine, deadline_s=15.0)).provenance
            state = emulator.backend.state()
    assert len(provenance.problem_ids or ()) == 1
    assert "CANCELLED" not in state["jobs"]


@pytest.mark.parametrize("fault", ["poll_429", "poll_drop", "poll_503"])
def test_problems_that_were_lost_sight_of_are_cancelled_at_the_deadline(
    fault: str, emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler(cancel_grace_s=5.0, gauges=4)
    sampler.sample(request_of(machine, deadline_s=60.0))
    emulator.arm("slow_queue")
    emulator.arm(fault)
    with pytest.raises(SamplerTimeoutError):
        sampler.sample(request_of(machine, deadline_s=5.0))
    jobs = emulator.backend.state()["jobs"]
    assert jobs["CANCELLED"] == 4
    assert "PENDING" not in jobs


@pytest.mark.parametrize("fault", ["solvers_429", "solvers_503", "submit_503"])
def test_the_time_that_the_solver_api_asks_for_is_handed_on(
    fault: str, tmp_path: Path, machine: BoltzmannMachine
) -> None:
    config = EmulatorConfig(topology="zephyr:2", defects=0.0, token=TOKEN, sweeps=32, retry_after_s=77)
    with EmulatorServer(config) as emulator, QpuSampler(settings_for(emulator.endpoint, tmp_path)) as sampler:
        sampler.sample(request_of(machine, deadline_s=HANG_S))
        emulator.arm(fault)
        error = error_of(sampler, request_of(machine, deadline_s=HANG_S))
        assert isinstance(error, SamplerUnavailableError)
        assert error.retry_after_s == 77.0
        if fault.startswith("solvers"):
            # And it is left alone until then.
            emulator.faults.clear()
            asked = emulator.backend.state()["calls"]["solvers"]
            again = error_of(sampler, request_of(machine, deadline_s=HANG_S))
            assert isinstance(again, SamplerUnavailableError)
            assert 0.0 < (again.retry_after_s or 0.0) <= 77.0
            assert emulator.backend.state()["calls"]["solvers"] == asked


@pytest.mark.parametrize("stage", ["solvers", "submit", "poll", "answer"])
def test_the_page_of_a_proxy_goes_to_the_log_and_not_to_users(
    stage: str,
    emulator: EmulatorServer,
    make_sampler: Callable[..., QpuSampler],
    machine: BoltzmannMachine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sampler = make_sampler(availability_ttl_s=0.0)
    sampler.sample(request_of(machine, deadline_s=30.0))
    if stage == "poll":
        emulator.arm("slow_queue")
    emulator.arm(f"{stage}_page")
    error = error_of(sampler, request_of(machine, deadline_s=DEADLINE_S))
    told = f"{error} {sampler.availability(machine)}"
    assert "HTTP 502" in str(error)
    assert "<" not in str(error)
    assert "solver-api-7.internal" not in told
    assert "solver-api-7.internal" in caplog.text
    assert TOKEN not in caplog.text


def test_a_problem_given_up_is_not_followed_by_requests_of_ocean_s_own(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler()
    sampler.sample(request_of(machine, deadline_s=30.0))
    asked = emulator.backend.state()["calls"]["solvers"]
    emulator.arm("answer_503")
    assert type(error_of(sampler, request_of(machine, deadline_s=DEADLINE_S))) is TIMEOUT
    emulator.faults.clear()
    assert sampler.sample(request_of(machine, deadline_s=30.0)).spins.shape == (4, 16)
    # One for each of the two draws.
    holds(lambda: emulator.backend.state()["calls"]["solvers"] == asked + 2)


def test_an_answer_without_timing_is_taken_and_noted(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler()
    sampler.sample(request_of(machine, deadline_s=30.0))
    emulator.arm("answer_no_timing")
    provenance = sampler.sample(request_of(machine, deadline_s=30.0)).provenance
    assert any("timing" in note for note in provenance.notes)
    assert provenance.qpu_access_time_us is not None
    assert provenance.qpu_access_time_us > 0


@pytest.mark.parametrize("token", [None, "", "another"])
def test_a_missing_or_wrong_token_is_said_and_never_shown(
    token: str | None,
    emulator: EmulatorServer,
    tmp_path: Path,
    machine: BoltzmannMachine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        if name.startswith("DWAVE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DWAVE_CONFIG_FILE", os.devnull)
    with QpuSampler(settings_for(emulator.endpoint, tmp_path, token=token)) as sampler:
        with pytest.raises(SolverAuthenticationFailedError) as caught:
            sampler.sample(request_of(machine))
        assert caught.value.retry_after_s is None
        assert "another" not in str(caught.value)
        availability = sampler.availability(machine)
        assert not availability.available
        assert "token" in (availability.reason or "")


def test_a_server_that_is_gone_is_unavailable_with_a_time_to_retry(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    fresh, used = make_sampler(), make_sampler()
    used.sample(request_of(machine, deadline_s=30.0))
    emulator.close()
    for sampler in (fresh, used):
        with pytest.raises(SamplerUnavailableError) as caught:
            sampler.sample(request_of(machine))
        assert caught.value.retry_after_s
        availability = sampler.availability(machine)
        assert not availability.available
        assert availability.detail["retry_after_s"] > 0


def test_attempts_to_reconnect_are_spaced_out(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler(reconnect_wait_s=600.0)
    emulator.arm("solvers_500:1")
    for _ in range(3):
        with pytest.raises(SamplerUnavailableError) as caught:
            sampler.sample(request_of(machine))
        assert 0 < (caught.value.retry_after_s or 0) <= 600
    # The second and third attempt asked nobody: the fault struck once, and the list would have come by now.
    assert not emulator.faults.armed()
    assert emulator.backend.state()["calls"]["solvers"] == 1


def test_the_breaker_opens_and_one_probe_closes_it(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler, now = make_sampler(breaker_failures=3, breaker_cooldown_s=15.0, solver_check_s=60.0), [0.0]
    sampler.access.breaker.clock = lambda: now[0]
    sampler.sample(request_of(machine, deadline_s=30.0))
    emulator.arm("problem_failed")
    for _ in range(3):
        with pytest.raises(SamplerUnavailableError, match="failed the problem"):
            sampler.sample(request_of(machine))
    with pytest.raises(CircuitOpenError) as caught:
        sampler.sample(request_of(machine))
    assert caught.value.retry_after_s
    assert not sampler.availability(machine).available
    assert sampler.availability(machine).detail["circuit"]["state"] == "open"
    emulator.faults.clear()
    now[0] = 15.1
    assert sampler.sample(request_of(machine, deadline_s=30.0)).spins.shape == (4, 16)
    assert sampler.availability(machine).available


def test_maintenance_brings_another_graph_and_a_new_placement(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler(max_missing_fraction=0.3)
    before = sampler.sample(request_of(machine, deadline_s=30.0)).provenance.graph_id
    emulator.arm("maintenance:1")
    with pytest.raises(SamplerUnavailableError):
        sampler.sample(request_of(machine))

    def drawn() -> Provenance | None:
        try:
            return sampler.sample(request_of(machine, deadline_s=30.0)).provenance
        except SolverNotFoundHereError:
            return None

    provenance = until(drawn)
    assert provenance is not None
    assert provenance.graph_id != before
    assert provenance.graph_id == emulator.graph_id
    assert any("measured with this draw" in note for note in provenance.notes)


@pytest.mark.parametrize(("fault", "submits"), [("submit_drop:1", 1), ("submit_400:1", 2)])
def test_only_a_refused_problem_is_tried_again_on_another_graph(
    fault: str, submits: int, tmp_path: Path, machine: BoltzmannMachine
) -> None:
    config = EmulatorConfig(topology="zephyr:2", defects=0.0, token=TOKEN, sweeps=32, maintenance_s=0.0)
    with EmulatorServer(config) as emulator:
        settings = settings_for(emulator.endpoint, tmp_path, solver_check_s=600.0, max_missing_fraction=0.3)
        with QpuSampler(settings) as sampler:
            first = sampler.sample(request_of(machine, deadline_s=PATIENT_S)).provenance
            # A new graph, of which the sampler does not know yet; it is calibrated for beforehand, by another one.
            emulator.backend.start_maintenance()
            with QpuSampler(settings) as other:
                other.sample(request_of(machine, deadline_s=PATIENT_S))
            before = emulator.backend.state()["calls"]["submit"]
            emulator.arm(fault)
            if submits == 1:
                # The answer got lost: for all one knows the problem runs, and is billed.
                assert isinstance(error_of(sampler, request_of(machine, deadline_s=PATIENT_S)), UNAVAILABLE)
            else:
                again = sampler.sample(request_of(machine, deadline_s=PATIENT_S)).provenance
                assert again.graph_id == emulator.graph_id != first.graph_id
            assert emulator.backend.state()["calls"]["submit"] == before + submits


@pytest.mark.parametrize("work", ["calibrate", "shim"])
def test_calibrations_and_shims_are_measured_on_todays_graph(
    work: str, tmp_path: Path, machine: BoltzmannMachine
) -> None:
    config = EmulatorConfig(topology="zephyr:2", defects=0.0, token=TOKEN, sweeps=32, maintenance_s=0.0)
    with EmulatorServer(config) as emulator:
        settings = settings_for(emulator.endpoint, tmp_path, solver_check_s=600.0, max_missing_fraction=0.3)
        with QpuSampler(settings) as sampler:
            before = operations.calibrate(sampler.access, machine, np.ones((1, 4), dtype=np.int8)).graph_id
            # A new graph, of which the sampler does not know yet.
            emulator.backend.start_maintenance()
            if work == "shim":
                found = operations.shim(sampler.access, machine, reads=50).graph_id
            else:
                found = operations.calibrate(sampler.access, machine, np.ones((1, 4), dtype=np.int8)).graph_id
    assert found == emulator.graph_id != before


def test_the_token_reaches_no_log_and_no_repr(
    emulator: EmulatorServer,
    make_sampler: Callable[..., QpuSampler],
    machine: BoltzmannMachine,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("dwave").setLevel(logging.DEBUG)
    sampler = make_sampler()
    batch = sampler.sample(request_of(machine, deadline_s=30.0))
    emulator.arm("submit_403")
    with pytest.raises(SamplerUnavailableError):
        sampler.sample(request_of(machine))
    shown = "".join(map(repr, (sampler, sampler.access.client, sampler.access.settings, batch.provenance)))
    assert TOKEN not in shown + caplog.text + "".join(capfd.readouterr())
    assert TOKEN not in repr(sampler.availability(machine))


@pytest.mark.parametrize("token", ["SECRET-123456789\n", " SECRET-123456789", "SECRET-1234\t56789"])
def test_a_token_with_blanks_reaches_no_text(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """Such a token makes the client's HTTP library quote it; it comes from the environment, as a file's last line."""
    monkeypatch.setenv("DWAVE_API_TOKEN", token)
    with QpuSampler(QpuSettings(endpoint=emulator.endpoint, state_dir=tmp_path, request_timeout_s=2.0)) as sampler:
        shown = repr(sampler.availability(machine))
        try:
            sampler.sample(request_of(machine))
        except SamplerError as error:
            shown += "".join(traceback.format_exception(error))
    assert "SECRET" not in shown


def test_all_problems_under_way_are_cancelled_at_the_deadline(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler(cancel_grace_s=2.0, gauges=4)
    sampler.sample(request_of(machine, deadline_s=60.0))
    emulator.arm("slow_queue")
    with pytest.raises(SamplerTimeoutError):
        sampler.sample(request_of(machine, deadline_s=2.0))
    jobs = emulator.backend.state()["jobs"]
    assert jobs["CANCELLED"] == 4
    assert "PENDING" not in jobs


def test_a_problem_that_runs_on_though_it_was_cancelled_is_not_waited_for(
    make_sampler: Callable[..., QpuSampler], emulator: EmulatorServer, machine: BoltzmannMachine, waiting: Waiting
) -> None:
    sampler = make_sampler(cancel_grace_s=60.0)
    sampler.sample(request_of(machine, deadline_s=30.0))
    emulator.backend.config = replace(emulator.backend.config, slow_s=HANG_S)
    emulator.arm("slow_run:1")
    error = error_of(sampler, request_of(machine, deadline_s=DEADLINE_S), waiting)
    assert type(error) is SamplerTimeoutError
    assert "IN_PROGRESS" in str(error)
    assert waiting.longest_s <= DEADLINE_S + 0.01
    assert emulator.backend.state()["jobs"]["IN_PROGRESS"] == 1
    assert sampler.sample(request_of(machine, deadline_s=30.0)).spins.shape == (4, 16)


def test_problems_refused_because_there_were_too_many_are_sent_again(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler(gauges=4, deadline_s=HANG_S)
    used_us = sampler.sample(request_of(machine, deadline_s=HANG_S)).provenance.qpu_access_time_us or 0.0
    jobs = emulator.backend.state()["submitted"]
    emulator.arm("submit_429:3")
    provenance = sampler.sample(request_of(machine, deadline_s=HANG_S)).provenance
    assert len(provenance.problem_ids or ()) == 4
    assert emulator.backend.state()["submitted"] == jobs + 4
    used_us += provenance.qpu_access_time_us or 0.0
    assert sampler.access.quota.status().used_today_us == pytest.approx(used_us)


@pytest.mark.parametrize("fault", ["submit_429", "submit_400", "submit_refused"])
def test_whatever_the_solver_refuses_is_not_charged(
    fault: str, emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler(gauges=4)
    sampler.sample(request_of(machine, deadline_s=30.0))
    used_us = sampler.access.quota.status().used_today_us
    emulator.arm(fault)
    deadline_s = DEADLINE_S if fault in TO_THE_DEADLINE else PATIENT_S
    assert type(error_of(sampler, request_of(machine, deadline_s=deadline_s))) is TABLE[fault]
    assert sampler.access.quota.status().used_today_us == pytest.approx(used_us)


def test_closing_in_mid_draw_cancels_its_problems_and_says_so(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler(gauges=4, deadline_s=600.0, close_timeout_s=PATIENT_S)
    sampler.sample(request_of(machine, deadline_s=60.0))
    emulator.arm("slow_queue")
    request = request_of(machine, deadline_s=600.0)
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(error_of, sampler, request)
        until(lambda: emulator.backend.state()["jobs"].get("PENDING", 0) >= 4)
        sampler.close()
        # All of them were cancelled, and the draw was over, before the client was closed.
        jobs = emulator.backend.state()["jobs"]
        assert jobs["CANCELLED"] == 4
        assert "PENDING" not in jobs
        error = drawing.result()
    assert type(error) is SamplerUnavailableError
    assert "closed" in str(error)
    assert len(error.problem_ids) == 1
    assert sampler.access.breaker.status().failures == 0
    with pytest.raises(SamplerUnavailableError, match="closed"):
        sampler.sample(request)


def test_a_client_that_is_built_while_the_sampler_closes_is_closed_too(
    make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = make_sampler()
    build, built = sampler.access.client._connector._build, []

    def slow_build() -> object:
        built.append(build())
        sampler.close()
        return built[0]

    monkeypatch.setattr(sampler.access.client._connector, "_build", slow_build)
    error = error_of(sampler, request_of(machine, deadline_s=PATIENT_S))
    assert "closed" in str(error)
    until(lambda: built[0].client._closed)


def test_closing_does_not_wait_for_a_list_of_solvers(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler(request_timeout_s=HANG_S)
    emulator.arm("solvers_hang")
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(error_of, sampler, request_of(machine, deadline_s=600.0)) for _ in range(2)]
        until(lambda: emulator.backend.state()["calls"].get("solvers", 0))
        sampler.close()
        for error in asking:
            assert "closed" in str(error.result(HANG_S / 2))


def test_a_request_may_wait_longer_than_the_deadline_of_others(
    make_sampler: Callable[..., QpuSampler], emulator: EmulatorServer, machine: BoltzmannMachine
) -> None:
    """Ocean's own limit on a problem's age is not in the way."""
    sampler = make_sampler(deadline_s=30.0)
    connection = sampler.access.client._connector._build()
    connection.client.close(wait=False)
    assert connection.client.config.polling_timeout > 3000


def open_sockets() -> int:
    return sum(entry.is_symlink() and entry.readlink().name.startswith("socket:") for entry in OPEN_FILES.iterdir())


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="counts sockets in /proc")
def test_two_hundred_failures_leak_no_thread_and_no_socket(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    quick = ["problem_failed", "energies_wrong", "answer_bad_base64", "submit_403", "solvers_500", "answer_404"]
    quick += ["submit_drop", "solvers_drop", "submit_truncated"]
    stuck = ["answer_missing", "answer_truncated", "slow_queue", "poll_omits_id", "poll_drop"]
    stuck += ["submit_hang", "poll_hang", "answer_hang", "solvers_hang"]
    sampler = make_sampler(cancel_grace_s=0.1, request_timeout_s=1.5)
    sampler.sample(request_of(machine, deadline_s=30.0))
    sampler.sample(request_of(machine, deadline_s=30.0))

    def client_threads() -> int:
        return sum(not thread.name.startswith("emulator") for thread in threading.enumerate())

    threads, sockets = client_threads(), open_sockets()
    for turn in range(200):
        fault = stuck[turn // 20 % len(stuck)] if turn % 20 == 0 else quick[turn % len(quick)]
        if fault in NEEDS_A_WAIT:
            emulator.arm("slow_queue")
        emulator.arm(fault)
        with pytest.raises(SamplerError):
            sampler.sample(request_of(machine, deadline_s=0.6 if fault in stuck else PATIENT_S))
        emulator.faults.clear()
    assert sampler.sample(request_of(machine, deadline_s=30.0)).spins.shape == (4, 16)
    until(lambda: client_threads() <= threads + 2)
    gc.collect()
    # Each worker thread of the client keeps one connection: both ends of it are in this process here.
    assert open_sockets() <= sockets + 2 * 16
