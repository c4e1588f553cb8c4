"""The solvers that are online, and the choice among them."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from dwave.cloud.api.resources import Solvers

from qshower.sampler.errors import SamplerUnavailableError, SolverConfigurationError, SolverNotFoundHereError
from qshower.sampler.qpu.ocean.connection import Connection
from qshower.sampler.qpu.ocean.ocean_errors import OFFLINE_RETRY_S
from qshower.sampler.qpu.ocean.solver import SolverInfo, solver_info

FAMILIES = ("zephyr", "pegasus")
_NAMES = {"name", "name__eq", "identity", "identity__eq"}
"""Features of a solver that name it."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class SolverList:
    """The QPU solvers that are online.

    Attributes:
        solvers: by name.
        unusable: why a solver that is online cannot be used, by name.
        not_for_us: (name, graph_id) of what else the API offers.
        configured: the solver or family that Ocean's configuration asks for.
        eligible: names of the solvers with the features that it asks for, None if it asks for a name at most.
    """

    solvers: Mapping[str, SolverInfo] = field(default_factory=dict)
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
        return max(fitting, key=lambda info: (info.graph.qubits.size, info.name))

    def _named(self, asked: str) -> SolverInfo:
        name, _, pinned = asked.partition(";graph_id=")
        if name not in self.solvers:
            if name in self.unusable:
                raise SolverNotFoundHereError(self.unusable[name], retry_after_s=OFFLINE_RETRY_S)
            online = ", ".join(sorted(self.solvers)) or "none"
            raise SolverNotFoundHereError(
                f"no solver named {name} is online; online: {online}", retry_after_s=OFFLINE_RETRY_S
            )
        graph_id = self.solvers[name].graph.graph_id
        if pinned and pinned != graph_id:
            raise SolverNotFoundHereError(f"{name} has the graph {graph_id} today, not {pinned} as asked for")
        return self.solvers[name]


def fetch_solvers(connection: Connection, before: SolverList) -> SolverList:
    """What is online now; full definitions are fetched only if a graph_id is new since ``before``.

    A solver that cannot be used, because its definition lacks something, hides no other one. Raises whatever Ocean's
    client does, and SolverConfigurationError if Ocean's configuration asks for features that cannot be.
    """
    client = connection.client
    known = {info.key: info for info in before.solvers.values() if info.solver.client is client}
    # In a session of its own: Ocean's keeps the type of answer it expects in itself, and threads of Ocean's may be
    # using it, as may one of ours that a time-out has left behind.
    with closing(Solvers.from_config(config=client.config, cache=False)) as session:
        listed = session.list_solvers(filter="none,+identity,+status")
    online = {
        (str(entry.identity.name), str(getattr(entry.identity.version, "graph_id", None)))
        for entry in listed
        if str(entry.get("status", "")).lower() == "online"
    }
    configured = _configured_name(client)
    if known and online <= known.keys() | before.not_for_us:
        solvers = {key[0]: info for key, info in known.items() if key in online}
        return SolverList(solvers, before.unusable, before.not_for_us, configured, before.eligible)
    found: dict[str, SolverInfo] = {}
    unusable: dict[str, str] = {}
    for solver in client.get_solvers(refresh=True):
        if solver.properties.get("topology", {}).get("type") not in FAMILIES:
            continue
        solver.return_matrix = True
        try:
            info = known.get((solver.name, solver.graph_id)) or solver_info(solver)
        except SamplerUnavailableError as error:
            unusable[str(solver.name)] = str(error)
            _LOG.warning("%s", error)
            continue
        found[info.name] = info
    not_for_us = frozenset(online - {info.key for info in found.values()})
    return SolverList(found, unusable, not_for_us, configured, _eligible(connection))


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
