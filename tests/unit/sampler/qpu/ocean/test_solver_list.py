"""Which solvers are offered, and which is chosen; the rest is tested through the emulator."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qshower.sampler.errors import (
    SamplerUnavailableError,
    SolverNotFoundHereError,
)
from qshower.sampler.lattice import ideal_graph
from qshower.sampler.qpu.ocean.connection import Connection
from qshower.sampler.qpu.ocean.solver_list import SolverList, fetch_solvers

SESSION = "qshower.sampler.qpu.ocean.solver_list.Solvers.from_config"


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
    account = Account()
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
    assert set(found.solvers) == {"qpu"}
    account.graph_id = "g2"
    later = fetch_solvers(connection, found)
    assert account.full_fetches == 2
    assert later.solvers["qpu"].graph.graph_id == "g2"
    assert later.solvers["qpu"] is not found.solvers["qpu"]


def test_a_solver_that_lacks_a_property_hides_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account()
    whole = account.get_solvers

    def with_an_odd_one(**_: object) -> list[SimpleNamespace]:
        (sound,) = whole()
        odd = {name: value for name, value in sound.properties.items() if name != "h_range"}
        return [SimpleNamespace(name="odd", graph_id="g3", properties=odd, client=account), sound]

    monkeypatch.setattr(account, "get_solvers", with_an_odd_one)
    monkeypatch.setattr(SESSION, lambda **_: closing_session(account))
    found = fetch_solvers(Connection(account), SolverList())
    assert set(found.solvers) == {"qpu"}
    assert found.choose(None, None, "zephyr").name == "qpu"
    with pytest.raises(SolverNotFoundHereError, match="odd lacks a usable property: KeyError\\('h_range'\\)"):
        found.choose("odd", None, "zephyr")
    with pytest.raises(SolverNotFoundHereError, match="no pegasus solver is online; solver odd lacks"):
        found.choose(None, None, "pegasus")


def test_features_that_ocean_is_configured_with_choose_among_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account()
    account.config.solver = {"num_active_qubits__gte": 4000, "order_by": "-num_active_qubits"}
    asked: list[dict[str, object]] = []
    whole = account.get_solvers

    def filtered(**features: object) -> list[SimpleNamespace]:
        asked.append(features)
        return [] if "num_active_qubits__gte" in features else whole()

    monkeypatch.setattr(account, "get_solvers", filtered)
    monkeypatch.setattr(SESSION, lambda **_: closing_session(account))
    found = fetch_solvers(Connection(account), SolverList())
    assert asked[-1] == {"refresh": True, "order_by": None, "num_active_qubits__gte": 4000}
    with pytest.raises(SolverNotFoundHereError, match="no zephyr solver with the features that Ocean's configuration"):
        found.choose(None, None, "zephyr")
    # A request may name another one all the same.
    assert found.choose("qpu", None, "zephyr").name == "qpu"
    account.config.solver = {"num_active_qubits__about": "many"}
    account.graph_id = "g2"

    def refusing(**features: object) -> list[SimpleNamespace]:
        if len(features) > 1:
            raise ValueError("no such operator")
        return whole()

    monkeypatch.setattr(account, "get_solvers", refusing)
    with pytest.raises(SamplerUnavailableError, match=r"DWAVE_API_SOLVER: .*num_active_qubits__about.* is not allowed"):
        fetch_solvers(Connection(account), SolverList())
