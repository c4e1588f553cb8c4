"""The solvers that are online, and the choice among them."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from dwave.cloud.api.resources import Solvers
from dwave.cloud.solver import StructuredSolver

from qshower.sampler.errors import SamplerUnavailableError, SolverConfigurationError, SolverNotFoundHereError
from qshower.sampler.qpu.ocean.connection import Connection
from qshower.sampler.qpu.ocean.ocean_errors import OFFLINE_RETRY_S
from qshower.sampler.qpu.ocean.solver import SolverInfo, check_definition, solver_info

FAMILIES = ("zephyr", "pegasus")
_NAMES = {"name", "name__eq", "identity", "identity__eq"}
"""Features of a solver that name it."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class SolverList:
    """The QPU solvers that are online.

    Attributes:
        solvers: by name and graph_id.
        unusable: why a solver that is online cannot be used, by name.
        not_for_us: (name, graph_id) of what else the API offers.
        configured: the solver or family that Ocean's configuration asks for.
        eligible: names of the solvers with the features that it asks for, None if it asks for a name at most.
    """

    solvers: Mapping[tuple[str, str], SolverInfo] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    not_for_us: frozenset[tuple[str, str]] = frozenset()
    configured: str | None = None
    eligible: Collection[str] | None = None

    def choose(self, wanted: str | None, default: str | None, family: str) -> SolverInfo:
        """The solver to use: ``wanted``, else ``default``, else the configured one, else the largest of ``family``.

        ``wanted`` and ``default`` are a name, ``NAME;graph_id=…``, or a family. SolverNotFoundHereError if no such
        solver is online, or none that could be used.
        """
        name = wanted or default or self.configured
        if name is not None and name not in FAMILIES:
            return self._named(name)
        fitting = [info for info in self.solvers.values() if info.graph.family == (name or family)]
        among = ""
        if wanted is None and default is None and self.eligible is not None:
            fitting = [info for info in fitting if info.name in self.eligible]
            among = " with the features that Ocean's configuration asks for"
        if not fitting:
            reasons = "".join(f"; {reason}" for reason in self.unusable.values())
            raise SolverNotFoundHereError(
                f"no {name or family} solver{among} is online{reasons}", retry_after_s=OFFLINE_RETRY_S
            )
        return max(fitting, key=lambda info: (info.graph.qubits.size, *info.key))

    def _named(self, asked: str) -> SolverInfo:
        name, _, pinned = asked.partition(";graph_id=")
        found = sorted((info for info in self.solvers.values() if info.name == name), key=lambda info: info.key)
        if not found:
            if name in self.unusable:
                raise SolverNotFoundHereError(self.unusable[name], retry_after_s=OFFLINE_RETRY_S)
            online = ", ".join(sorted({info.name for info in self.solvers.values()})) or "none"
            raise SolverNotFoundHereError(
                f"no solver named {name} is online; online: {online}", retry_after_s=OFFLINE_RETRY_S
            )
        graphs = [info.graph.graph_id for info in found]
        if pinned and pinned not in graphs:
            raise SolverNotFoundHereError(
                f"{name} has the graph {' or '.join(graphs)} today, not {pinned} as asked for"
            )
        if not pinned and len(found) > 1:
            which = " or ".join(f"{name};graph_id={graph_id}" for graph_id in graphs)
            raise SolverNotFoundHereError(f"{len(found)} solvers are named {name}: say which, {which}")
        return next(info for info in found if not pinned or info.graph.graph_id == pinned)


def fetch_solvers(connection: Connection, before: SolverList) -> SolverList:
    """What is online now; full definitions are fetched only if a graph_id is new since ``before``.

    A solver that cannot be used, because its definition lacks something, hides no other one. Raises whatever Ocean's
    client does, and SolverConfigurationError if Ocean's configuration asks for features that cannot be.
    """
    client = connection.client
    known = {key: info for key, info in before.solvers.items() if info.solver.client is client}
    # In a session of its own: Ocean's keeps the type of answer it expects in itself, and threads of Ocean's may be
    # using it, as may one of ours that a time-out has left behind.
    with closing(Solvers.from_config(config=client.config, cache=False)) as session:
        online = _online(session.list_solvers(filter="none,+identity,+status"))
        if known and online.keys() <= known.keys() | before.not_for_us:
            solvers = {key: info for key, info in known.items() if key in online}
            return replace(before, solvers=solvers, configured=_configured_name(client))
        definitions = _online(session.list_solvers(filter="all,-avg_load"))
    found: dict[tuple[str, str], SolverInfo] = {}
    unusable: dict[str, str] = {}
    for key, definition in definitions.items():
        try:
            info = known.get(key) or _usable(client, definition)
        except SamplerUnavailableError as error:
            unusable[key[0]] = str(error)
            _LOG.warning("%s", error)
            continue
        if info is not None:
            found[key] = info
    not_for_us = frozenset(online.keys() - found.keys())
    return SolverList(found, unusable, not_for_us, _configured_name(client), _eligible(connection))


def _online(listed: Iterable[Any]) -> dict[tuple[str, str], Any]:
    """The entries of a list that are online, by name and graph_id."""
    return {
        (str(entry.identity.name), str(getattr(entry.identity.version, "graph_id", None))): entry
        for entry in listed
        if entry.identity is not None and str(entry.get("status", "")).lower() == "online"
    }


def _usable(client: Any, definition: Any) -> SolverInfo | None:
    """The solver of a definition, None if it is none of ours; SamplerUnavailableError says what a QPU lacks."""
    properties = definition.get("properties") or {}
    if str(properties.get("category") or "qpu").lower() != "qpu":
        return None
    check_definition(str(definition.identity.name), properties)
    topology = properties["topology"]
    if isinstance(topology, Mapping) and topology.get("type") not in FAMILIES:
        return None
    solver = StructuredSolver(client=client, data=definition)
    solver.return_matrix = True
    return solver_info(solver)


def _configured_name(client: Any) -> str | None:
    """The solver or family that Ocean's own configuration asks for, if it does."""
    chosen = client.config.solver or {}
    identity = chosen.get("identity__eq") or chosen.get("identity") or {}
    name = chosen.get("name__eq") or chosen.get("name") or identity.get("name")
    pinned = (identity.get("version") or {}).get("graph_id")
    return f"{name};graph_id={pinned}" if name and pinned else name


def _eligible(connection: Connection) -> tuple[str, ...] | None:
    """Names of the solvers with the features that Ocean's configuration asks for; None if it asks for a name at most.

    An order among them is not heeded: of those that fit a model the largest is taken.
    """
    client = connection.client
    features = {name: value for name, value in (client.config.solver or {}).items() if name != "order_by"}
    if not features.keys() - _NAMES:
        return None
    try:
        return tuple(str(solver.name) for solver in client.get_solvers(refresh=True, order_by=None, **features))
    except (TypeError, ValueError, AttributeError, LookupError, re.error) as error:
        raise SolverConfigurationError(
            f"{connection.solver_source}: {features!r} is not allowed; allowed: features that Ocean's get_solvers "
            f"takes ({error})"
        ) from error
