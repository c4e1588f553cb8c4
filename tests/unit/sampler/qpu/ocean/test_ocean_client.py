"""What the link does with lists of solvers and with Ocean's exceptions; the rest is tested through the emulator."""

from __future__ import annotations

import binascii
from threading import Event
from types import SimpleNamespace

import pytest
import requests
from dwave.cloud import exceptions as ocean
from dwave.cloud.api import exceptions as api

from qshower.sampler.errors import (
    SamplerAnswerError,
    SamplerError,
    SamplerTimeoutError,
    SamplerUnavailableError,
    SolverAuthenticationFailedError,
    SolverNotFoundHereError,
)
from qshower.sampler.lattice import ideal_graph
from qshower.sampler.qpu.ocean.ocean_client import OceanClient, in_time
from qshower.sampler.qpu.ocean.ocean_errors import cause_of, typed_error
from qshower.sampler.qpu.qpu_settings import QpuSettings

SESSION = "qshower.sampler.qpu.ocean.ocean_client.Solvers.from_config"


class Listed(dict[str, str]):
    """An entry of a solver list, as Ocean's client hands it out."""

    def __init__(self, name: str, graph_id: str | None, status: str = "online") -> None:
        super().__init__(status=status)
        version = None if graph_id is None else SimpleNamespace(graph_id=graph_id)
        self.identity = SimpleNamespace(name=name, version=version)


class Account:
    """An account that sees a Zephyr QPU and a hybrid solver, and counts what is asked of it."""

    def __init__(self) -> None:
        self.graph_id = "g1"
        self.full_fetches = 0
        self.config = SimpleNamespace(solver=None)

    def list_solvers(self, **_: object) -> list[Listed]:
        return [Listed("qpu", self.graph_id), Listed("hybrid", None), Listed("asleep", "g0", "offline")]

    def get_solvers(self, **_: object) -> list[SimpleNamespace]:
        self.full_fetches += 1
        graph = ideal_graph("zephyr:1")
        properties = {
            "topology": {"type": "zephyr", "shape": [1, 4]},
            "qubits": sorted(graph),
            "couplers": [sorted(edge) for edge in graph.edges],
            "num_qubits": 48,
            "h_range": [-4, 4],
            "j_range": [-1, 1],
            "num_reads_range": [1, 100],
            "annealing_time_range": [1, 100],
        }
        return [SimpleNamespace(name="qpu", graph_id=self.graph_id, properties=properties, client=self)]


def closing_session(account: Account) -> SimpleNamespace:
    """A session of solver lists."""
    return SimpleNamespace(list_solvers=account.list_solvers, close=lambda: None)


def test_full_definitions_are_fetched_only_when_a_graph_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    link, account = OceanClient(QpuSettings(token="t")), Account()
    closed: list[bool] = []

    def session_of(config: object, *, cache: bool) -> SimpleNamespace:
        assert config is account.config
        assert not cache
        return SimpleNamespace(list_solvers=account.list_solvers, close=lambda: closed.append(True))

    monkeypatch.setattr(SESSION, session_of)
    for _ in range(3):
        link._solvers = link._fetch(account)
    assert account.full_fetches == 1
    assert len(closed) == 3
    assert set(link._solvers) == {"qpu"}
    first = link._solvers["qpu"]
    account.graph_id = "g2"
    link._solvers = link._fetch(account)
    assert account.full_fetches == 2
    assert link._solvers["qpu"].graph.graph_id == "g2"
    assert link._solvers["qpu"] is not first


ERRORS = [
    (ocean.SolverAuthenticationError(error_code=401), "answer", SolverAuthenticationFailedError),
    (api.ResourceAuthenticationError(), "connect", SolverAuthenticationFailedError),
    (api.InternalServerError(error_code=500), "connect", SamplerUnavailableError),
    (api.ResourceAccessForbiddenError(error_code=403), "connect", SamplerUnavailableError),
    (api.ResourceLimitsExceededError(error_code=429), "connect", SamplerUnavailableError),
    (ocean.SolverNotFoundError("x"), "connect", SolverNotFoundHereError),
    (ocean.SolverOfflineError("Solver is offline"), "answer", SolverNotFoundHereError),
    (ocean.SolverFailureError("x"), "answer", SamplerUnavailableError),
    (ocean.SolverFailureError("x"), "submit", SamplerError),
    (ocean.SolverError(error_msg="x", error_code=400), "submit", SamplerError),
    (ocean.SolverError(error_msg="x", error_code=404), "answer", SamplerAnswerError),
    (ocean.SolverError(error_msg="x", error_code=503), "answer", SamplerUnavailableError),
    (ocean.RequestTimeout(), "submit", SamplerUnavailableError),
    (requests.exceptions.ChunkedEncodingError(), "answer", SamplerUnavailableError),
    (ConnectionResetError(), "answer", SamplerUnavailableError),
    (ocean.InvalidAPIResponseError("x"), "answer", SamplerAnswerError),
    (ocean.InvalidAPIResponseError("x"), "connect", SamplerUnavailableError),
    (binascii.Error("x"), "answer", SamplerAnswerError),
    (KeyError("solutions"), "answer", SamplerAnswerError),
    (IndexError("x"), "answer", SamplerAnswerError),
    (RuntimeError("never seen before"), "answer", SamplerAnswerError),
    (ocean.PollingTimeout(), "answer", SamplerTimeoutError),
    (ocean.CanceledFutureError(), "answer", SamplerUnavailableError),
]


@pytest.mark.parametrize(("error", "phase", "kind"), ERRORS, ids=lambda value: str(value)[:30])
def test_every_exception_has_its_type_and_keeps_the_problem_id(
    error: Exception, phase: str, kind: type[SamplerError]
) -> None:
    typed = typed_error(error, phase, ("id-1",) if phase == "answer" else (), None)  # type: ignore[arg-type]
    assert type(typed) is kind
    assert "\n" not in str(typed)
    if phase == "answer":
        assert typed.problem_ids == ("id-1",)


def test_a_token_echoed_by_a_server_is_taken_out() -> None:
    error = ocean.SolverError(error_msg="bad header X-Auth-Token: ABC-123 " + "x" * 1000, error_code=500)
    typed = typed_error(error, "answer", (), "ABC-123")
    text = str(typed)
    assert cause_of(typed, error, "ABC-123") is None
    assert cause_of(typed, error, "another") is error
    assert "ABC-123" not in text
    assert "***" in text
    assert len(text) < 400


def test_work_in_time_gives_its_result_or_its_error_and_late_work_is_left_behind() -> None:
    closing, never = Event(), Event()
    assert in_time(lambda: 7, 5.0, "test", closing) == 7
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: 1 // 0, 5.0, "test", closing)
    with pytest.raises(SamplerUnavailableError, match="did not answer within"):
        in_time(never.wait, 0.05, "test", closing)
    closing.set()
    with pytest.raises(SamplerUnavailableError, match="closed"):
        in_time(never.wait, 1e6, "test", closing)
    never.set()


def test_a_solver_that_lacks_a_property_hides_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    link, account = OceanClient(QpuSettings(token="t")), Account()
    whole = account.get_solvers

    def with_an_odd_one(**_: object) -> list[SimpleNamespace]:
        (sound,) = whole()
        odd = {name: value for name, value in sound.properties.items() if name != "h_range"}
        return [SimpleNamespace(name="odd", graph_id="g3", properties=odd, client=account), sound]

    monkeypatch.setattr(account, "get_solvers", with_an_odd_one)
    monkeypatch.setattr(SESSION, lambda **_: closing_session(account))
    solvers = link._fetch(account)
    assert set(solvers) == {"qpu"}
    assert link._chosen(solvers, None, "zephyr").name == "qpu"
    with pytest.raises(SolverNotFoundHereError, match="odd lacks a usable property: KeyError\\('h_range'\\)"):
        link._chosen(solvers, "odd", "zephyr")
    with pytest.raises(SolverNotFoundHereError, match="no pegasus solver is online; solver odd lacks"):
        link._chosen(solvers, None, "pegasus")


def test_features_that_ocean_is_configured_with_choose_among_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    link, account = OceanClient(QpuSettings(token="t")), Account()
    account.config.solver = {"num_active_qubits__gte": 4000, "order_by": "-num_active_qubits"}
    asked: list[dict[str, object]] = []
    whole = account.get_solvers

    def filtered(**features: object) -> list[SimpleNamespace]:
        asked.append(features)
        return [] if "num_active_qubits__gte" in features else whole()

    monkeypatch.setattr(account, "get_solvers", filtered)
    monkeypatch.setattr(SESSION, lambda **_: closing_session(account))
    solvers = link._fetch(account)
    assert asked[-1] == {"refresh": True, "order_by": None, "num_active_qubits__gte": 4000}
    with pytest.raises(SolverNotFoundHereError, match="no zephyr solver with the features that Ocean's configuration"):
        link._chosen(solvers, None, "zephyr")
    # A request may name another one all the same.
    assert link._chosen(solvers, "qpu", "zephyr").name == "qpu"
    account.config.solver = {"num_active_qubits__about": "many"}
    account.graph_id = "g2"

    def refusing(**features: object) -> list[SimpleNamespace]:
        if len(features) > 1:
            raise ValueError("no such operator")
        return whole()

    monkeypatch.setattr(account, "get_solvers", refusing)
    with pytest.raises(SamplerUnavailableError, match=r"DWAVE_API_SOLVER: .*num_active_qubits__about.* is not allowed"):
        link._fetch(account)
