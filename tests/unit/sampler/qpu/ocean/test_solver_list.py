"""Which solvers are offered, and which is chosen; the rest is tested through the emulator."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from dwave.cloud.api.models import SolverConfiguration

from qshower.sampler.errors import SamplerUnavailableError, SolverConfigurationError, SolverNotFoundHereError
from qshower.sampler.lattice import ideal_graph
from qshower.sampler.qpu.ocean.connection import Connection
from qshower.sampler.qpu.ocean.solver import NEEDED_PARAMETERS, NEEDED_PROPERTIES
from qshower.sampler.qpu.ocean.solver_list import SolverList, fetch_solvers

SESSION = "qshower.sampler.qpu.ocean.solver_list.Solvers.from_config"


def solver(name: str, graph_id: str | None, status: str = "ONLINE", **properties: object) -> dict[str, object]:
    """A solver's definition, as the API sends it; a property that is None is left out."""
    graph = ideal_graph("zephyr:1")
    every = {
        "category": "qpu",
        "topology": {"type": "zephyr", "shape": [1, 4]},
        "qubits": sorted(graph),
        "couplers": [sorted(edge) for edge in graph.edges],
        "num_qubits": 48,
        "supported_problem_types": ["ising", "qubo"],
        "parameters": dict.fromkeys(["num_reads", "annealing_time", "answer_mode", "auto_scale"], ""),
        "h_range": [-4, 4],
        "j_range": [-1, 1],
        "num_reads_range": [1, 100],
        "annealing_time_range": [1, 100],
        **properties,
    }
    version = {} if graph_id is None else {"version": {"graph_id": graph_id}}
    there = {name: value for name, value in every.items() if value is not None}
    return {"identity": {"name": name, **version}, "status": status, "properties": there}


class Account:
    """An account that sees these solvers, and counts what is asked of it."""

    def __init__(self, *solvers: dict[str, object]) -> None:
        self.solvers = list(solvers)
        self.full_fetches = 0
        self.config = SimpleNamespace(solver=None)

    def list_solvers(self, filter: str) -> list[SolverConfiguration]:  # noqa: A002 - Ocean's name
        full = filter.startswith("all")
        self.full_fetches += full
        every = [{**one, "properties": one["properties"] if full else {}} for one in self.solvers]
        return [SolverConfiguration.model_validate(one) for one in every]

    def get_solvers(self, **_: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=one["identity"]["name"]) for one in self.solvers]  # type: ignore[index]


def usual_account() -> Account:
    """A Zephyr QPU, a hybrid solver, and a QPU that is offline."""
    hybrid: dict[str, object] = {
        "identity": {"name": "hybrid"},
        "status": "ONLINE",
        "properties": {"category": "hybrid"},
    }
    return Account(solver("qpu", "g1"), hybrid, solver("asleep", "g0", "OFFLINE"))


def found_in(account: Account, monkeypatch: pytest.MonkeyPatch, before: SolverList | None = None) -> SolverList:
    """What is found in ``account``."""
    monkeypatch.setattr(SESSION, lambda **_: closing_session(account))
    return fetch_solvers(Connection(account), before or SolverList())


def closing_session(account: Account) -> SimpleNamespace:
    """A session of solver lists."""
    return SimpleNamespace(list_solvers=account.list_solvers, close=lambda: None)


def test_full_definitions_are_fetched_only_when_a_graph_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    account = usual_account()
    closed: list[bool] = []

    def session_of(config: object, *, cache: bool) -> SimpleNamespace:
        assert config is account.config
        assert not cache
        return SimpleNamespace(list_solvers=account.list_solvers, close=lambda: closed.append(True))

    monkeypatch.setattr(SESSION, session_of)
    connection, found = Connection(account), SolverList()
    for _ in range(3):
        found = fetch_solvers(connection, found)
    assert account.full_fetches == 1
    assert len(closed) == 3
    assert set(found.solvers) == {("qpu", "g1")}
    account.solvers[0] = solver("qpu", "g2")
    later = fetch_solvers(connection, found)
    assert account.full_fetches == 2
    assert set(later.solvers) == {("qpu", "g2")}


@pytest.mark.parametrize("lacking", NEEDED_PROPERTIES)
def test_a_solver_that_lacks_a_property_is_told_by_it_and_hides_no_other_one(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = found_in(Account(solver("odd", "g3", "ONLINE", **{lacking: None}), solver("qpu", "g1")), monkeypatch)
    assert found.choose(None, None, "zephyr").name == "qpu"
    with pytest.raises(SolverNotFoundHereError, match=f"^solver odd lacks the property {lacking}$"):
        found.choose("odd", None, "zephyr")
    with pytest.raises(SolverNotFoundHereError, match="no pegasus solver is online; solver odd lacks"):
        found.choose(None, None, "pegasus")


@pytest.mark.parametrize("lacking", NEEDED_PARAMETERS)
def test_a_solver_that_lacks_a_parameter_is_told_by_it(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    others = dict.fromkeys({*NEEDED_PARAMETERS} - {lacking}, "")
    found = found_in(Account(solver("odd", "g3", parameters=others)), monkeypatch)
    with pytest.raises(SolverNotFoundHereError, match=f"^solver odd lacks the parameter {lacking}$"):
        found.choose("odd", None, "zephyr")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("topology", {"type": "zephyr"}),
        ("topology", "zephyr"),
        ("qubits", [0, "one"]),
        ("couplers", [[0, 1, 2]]),
        ("h_range", 4),
        ("num_reads_range", ["few", "many"]),
        ("extended_j_range", [1]),
        ("default_annealing_time", "soon"),
        ("problem_timing_data", "no data"),
        ("problem_run_duration_range", "long"),
        ("per_group_coupling_range", {}),
    ],
)
def test_a_property_that_is_no_use_is_told_by_its_name_and_value(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = found_in(Account(solver("odd", "g3", "ONLINE", **{name: value}), solver("qpu", "g1")), monkeypatch)
    if not value:
        # As good as not there.
        assert set(found.solvers) == {("odd", "g3"), ("qpu", "g1")}
        return
    with pytest.raises(SolverNotFoundHereError, match=rf"^the property {name} of solver odd cannot be used: "):
        found.choose("odd", None, "zephyr")
    assert found.choose(None, None, "zephyr").name == "qpu"


@pytest.mark.parametrize("timing", [None, {"version": 1}, {"version": "1.0.0"}])
def test_a_solver_without_timing_data_says_so_when_a_cost_is_asked_for(
    timing: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Account(solver("odd", "g3", problem_timing_data=timing))
    info = found_in(account, monkeypatch).choose("odd", None, "zephyr")
    with pytest.raises(SamplerUnavailableError, match=r"^odd publishes no usable timing data: "):
        info.access_time_us(10, 10, 20.0)


def test_of_two_solvers_of_one_name_one_is_to_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = found_in(Account(solver("twin", "g2"), solver("twin", "g1")), monkeypatch)
    with pytest.raises(
        SolverNotFoundHereError, match=r"^2 solvers are named twin: say which, twin;graph_id=g1 or twin;graph_id=g2$"
    ):
        found.choose("twin", None, "zephyr")
    assert [found.choose(f"twin;graph_id={one}", None, "zephyr").graph.graph_id for one in ("g1", "g2")] == ["g1", "g2"]
    with pytest.raises(SolverNotFoundHereError, match=r"^twin has the graph g1 or g2 today, not g3 as asked for$"):
        found.choose("twin;graph_id=g3", None, "zephyr")


def test_features_that_ocean_is_configured_with_choose_among_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    account = usual_account()
    account.config.solver = {"num_active_qubits__gte": 4000, "order_by": "-num_active_qubits"}
    asked: list[dict[str, object]] = []
    whole = account.get_solvers

    def filtered(**features: object) -> list[SimpleNamespace]:
        asked.append(features)
        return [] if "num_active_qubits__gte" in features else whole()

    monkeypatch.setattr(account, "get_solvers", filtered)
    found = found_in(account, monkeypatch)
    assert asked[-1] == {"refresh": True, "order_by": None, "num_active_qubits__gte": 4000}
    with pytest.raises(SolverNotFoundHereError, match="no zephyr solver with the features that Ocean's configuration"):
        found.choose(None, None, "zephyr")
    # A request may name another one all the same.
    assert found.choose("qpu", None, "zephyr").name == "qpu"
    account.config.solver = {"num_active_qubits__about": "many"}

    def refusing(**_: object) -> list[SimpleNamespace]:
        raise ValueError("no such operator")

    monkeypatch.setattr(account, "get_solvers", refusing)
    with pytest.raises(SolverConfigurationError, match=r"DWAVE_API_SOLVER: .*__about.* is not allowed"):
        found_in(account, monkeypatch)
