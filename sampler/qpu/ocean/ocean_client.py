"""The one long-lived Ocean client of a sampler: built on first use, never hanging, never leaking.

Ocean's own client can wait for ever: a poll that leaves a problem out, a problem that is COMPLETED without an answer, a
server that refuses every poll. So every blocking step here has a deadline of its own, and a client that did not come
to an end in time is *retired*: it takes no more problems, and is closed, in a thread that is given up after a while,
as soon as nobody uses it. Closing without waiting makes its endless loops end at their next step.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from threading import Condition, Event, Lock, RLock, Thread
from time import monotonic
from typing import Any, TypeVar

from dwave.cloud.api import exceptions as api
from dwave.cloud.api.resources import Solvers
from dwave.cloud.client.qpu import Client

from qshower.sampler.errors import (
    SamplerError,
    SamplerUnavailableError,
    SolverAuthenticationFailedError,
    SolverConfigurationError,
    SolverNotFoundHereError,
)
from qshower.sampler.qpu.ocean.configuration import OceanConfiguration, ocean_configuration
from qshower.sampler.qpu.ocean.ocean_errors import OFFLINE_RETRY_S, RETRY_S, cause_of, typed_error
from qshower.sampler.qpu.ocean.solver import SolverInfo, solver_info
from qshower.sampler.qpu.qpu_settings import QpuSettings

Result = TypeVar("Result")
FAMILIES = ("zephyr", "pegasus")
_NAMES = {"name", "name__eq", "identity", "identity__eq"}
"""Features of a solver that name it."""
_LOG = logging.getLogger(__name__)
SLICE_S = 0.1
"""How long a thread waits for anything before it looks at the clock and for ``close``."""
_OURS_TO_MEND = (SolverAuthenticationFailedError, SolverConfigurationError)
_LONGEST_RECONNECT_S = 60.0
_LONGEST_POLLING_S = 3600.0
"""Ocean gives a problem up at this age: later than any deadline, which is ours to keep."""


@dataclass(slots=True, eq=False)
class Connection:
    """One client, and how many problems it works on."""

    client: Any
    users: int = 0
    retired: bool = False
    closed: bool = False

    @property
    def left_behind(self) -> bool:
        """Retired, and not in use any more."""
        return self.retired and self.users == 0


def in_time(work: Callable[[], Result], timeout_s: float, what: str, closing: Event) -> Result:
    """The result of ``work``, run in a daemon thread that is left behind if it takes longer or ``closing`` is set.

    Raises:
        SamplerUnavailableError: it took longer, or nobody wants it any more.
    """
    until = monotonic() + timeout_s
    outcome: list[Result] = []
    failure: list[BaseException] = []
    done = Event()

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # handed to the caller, who sorts it out
            failure.append(error)
        finally:
            done.set()

    Thread(target=run, name=f"qpu-{what}", daemon=True).start()
    while not done.wait(max(0.0, min(SLICE_S, until - monotonic()))):
        if closing.is_set():
            raise closed_error()
        if monotonic() >= until:
            raise SamplerUnavailableError(
                f"the solver API did not answer within {timeout_s:.1f} s", retry_after_s=RETRY_S
            )
    if failure:
        raise failure[0]
    return outcome[0]


def closed_error(problem_ids: tuple[str, ...] = ()) -> SamplerUnavailableError:
    """What a draw ends with once the sampler is closed."""
    return SamplerUnavailableError("the QPU sampler is closed", problem_ids=problem_ids)


def silence_ocean() -> None:
    """Hold Ocean's loggers at WARNING or above: below, they write the token."""
    names = ["dwave", *(name for name in logging.root.manager.loggerDict if name.startswith("dwave."))]
    for name in names:
        logger = logging.getLogger(name)
        if name == "dwave" or logger.level != logging.NOTSET:
            logger.setLevel(max(logger.level, logging.WARNING))


class OceanClient:
    """Finds solvers and lends the connection to them. Safe to use from several threads; opens nothing when built."""

    def __init__(self, settings: QpuSettings) -> None:
        self._settings = settings
        self._lock = RLock()
        self._idle = Condition(self._lock)
        self._asking = Lock()
        self._pid = os.getpid()
        self._connection: Connection | None = None
        self._solvers: dict[str, SolverInfo] = {}
        self._not_for_us: set[tuple[str, str]] = set()
        self._unusable: dict[str, str] = {}
        self._eligible: tuple[str, ...] | None = None
        self._last_seen: dict[str, SolverInfo] = {}
        self._checked_at = -1e9
        self._lacking = False
        self._failure: SamplerError | None = None
        self._failed_at = -1e9
        self._wait_s = 0.0
        self._token: str | None = settings.token
        self._configuration: OceanConfiguration | None = None
        self._closing = Event()

    @property
    def secret(self) -> str | None:
        """The token, to keep it out of messages."""
        return self._token

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called: draws under way come to an end at their next step."""
        return self._closing.is_set()

    def pause(self, pause_s: float) -> None:
        """Wait for ``pause_s``; SamplerUnavailableError as soon as the link is closed."""
        self._closing.wait(pause_s)
        self.refuse_if_closed()

    def refuse_if_closed(self, problem_ids: tuple[str, ...] = ()) -> None:
        """SamplerUnavailableError once ``close`` was called."""
        if self._closing.is_set():
            raise closed_error(problem_ids)

    def __repr__(self) -> str:
        """Without the token."""
        return f"OceanClient(endpoint={self._settings.endpoint!r}, connected={self._connection is not None})"

    def find(self, wanted: str | None, family: str, timeout_s: float) -> SolverInfo:
        """The solver to use: ``wanted``, else the configured one, else the largest that fits.

        ``wanted`` is a name, ``NAME;graph_id=…``, or a family.

        Raises:
            SamplerUnavailableError: the API cannot be reached or refuses; at once, with the reason of the last
                attempt, while waiting between two attempts.
            SolverNotFoundHereError: no such solver is online, or none that could be used.
        """
        solvers = self.online(timeout_s)
        try:
            return self._chosen(solvers, wanted, family)
        except SolverNotFoundHereError:
            self._lacking = True
            raise

    def _chosen(self, solvers: Mapping[str, SolverInfo], wanted: str | None, family: str) -> SolverInfo:
        name = wanted or self._settings.solver or self._configured_name()
        if name is not None and name not in FAMILIES:
            name, _, pinned = name.partition(";graph_id=")
            if name not in solvers:
                if name in self._unusable:
                    raise SolverNotFoundHereError(self._unusable[name], retry_after_s=OFFLINE_RETRY_S)
                online = ", ".join(sorted(solvers)) or "none"
                raise SolverNotFoundHereError(
                    f"no solver named {name} is online; online: {online}", retry_after_s=OFFLINE_RETRY_S
                )
            if pinned and pinned != solvers[name].graph.graph_id:
                raise SolverNotFoundHereError(
                    f"{name} has the graph {solvers[name].graph.graph_id} today, not {pinned} as asked for"
                )
            return solvers[name]
        fitting = [info for info in solvers.values() if info.graph.family == (name or family)]
        among = ""
        if wanted is None and self._settings.solver is None and self._eligible is not None:
            fitting = [info for info in fitting if info.name in self._eligible]
            among = " with the features that Ocean's configuration asks for"
        if not fitting:
            reasons = "".join(f"; {reason}" for reason in self._unusable.values())
            raise SolverNotFoundHereError(
                f"no {name or family} solver{among} is online{reasons}", retry_after_s=OFFLINE_RETRY_S
            )
        return max(fitting, key=lambda info: (info.graph.qubits.size, info.name))

    def online(self, timeout_s: float) -> dict[str, SolverInfo]:
        """The QPU solvers that are online, by name; asked for anew every ``solver_check_s``."""
        with self._lock:
            if self._fresh():
                return self._solvers
        deadline = monotonic() + timeout_s
        while not self._asking.acquire(timeout=max(0.0, min(SLICE_S, deadline - monotonic()))):
            self.refuse_if_closed()
            if monotonic() >= deadline:
                raise SamplerUnavailableError("the solver API has not answered yet", retry_after_s=RETRY_S)
        try:
            with self._lock:
                if self._fresh():
                    return self._solvers
                self._refuse_while_waiting()
            return self._ask(deadline)
        finally:
            self._asking.release()

    def last_graph(self, solver: str) -> str | None:
        """The graph_id that ``solver`` had when it was last seen online; asks nobody."""
        with self._lock:
            seen = self._last_seen.get(solver)
            return None if seen is None else seen.graph.graph_id

    def last_seen(self, family: str) -> SolverInfo | None:
        """The solver that ``find`` would choose among those seen so far, None if none fits; asks nobody."""
        with self._lock:
            seen = dict(self._last_seen)
        try:
            return self._chosen(seen, None, family)
        except SolverNotFoundHereError:
            return None

    def forget(self) -> None:
        """Ask for solvers and graphs anew at the next call: what we believe has been proven wrong."""
        with self._lock:
            self._checked_at = -1e9

    @contextmanager
    def borrow(self, info: SolverInfo) -> Iterator[Connection]:
        """The connection that ``info`` belongs to, kept open while in use."""
        with self._lock:
            self.refuse_if_closed()
            connection = self._connection
            if connection is None or connection.retired or info.solver.client is not connection.client:
                self.forget()
                raise SamplerUnavailableError("the connection to the solver API was replaced", retry_after_s=1.0)
            connection.users += 1
        try:
            yield connection
        finally:
            with self._idle:
                connection.users -= 1
                idle = connection.left_behind
                self._idle.notify_all()
            if idle:
                self._shut(connection)

    def retire(self, connection: Connection) -> None:
        """Use this connection no more: something in it did not come to an end."""
        with self._lock:
            connection.retired = True
            if self._connection is connection:
                self._connection, self._solvers, self._checked_at = None, {}, -1e9

    def close(self) -> None:
        """Close the connection, within ``close_timeout_s``. Idempotent.

        Draws under way cancel their problems and end with SamplerUnavailableError; they are waited for, and not for
        ever.
        """
        until = monotonic() + self._settings.close_timeout_s
        self._closing.set()
        with self._idle:
            connection, self._connection, self._solvers = self._connection, None, {}
            if connection is None:
                return
            # Whoever uses it last would shut it: so that it is not shut beneath the others, that is left to this call.
            self._idle.wait_for(lambda: connection.users == 0, max(0.0, until - monotonic()))
            connection.retired = True
        self._shut(connection, until)

    def _fresh(self) -> bool:
        if os.getpid() != self._pid:
            # After a fork the client's threads are gone and its locks may be held: start anew, leave it untouched.
            self._pid, self._connection, self._solvers, self._checked_at = os.getpid(), None, {}, -1e9
        # A solver that was looked for in vain may be back any moment.
        most_s = self._settings.solver_check_s
        if self._lacking:
            most_s = min(most_s, self._settings.availability_ttl_s / 2)
        return bool(self._connection) and monotonic() - self._checked_at < most_s

    def _refuse_while_waiting(self) -> None:
        self.refuse_if_closed()
        left = self._failed_at + self._wait_s - monotonic()
        failure = self._failure
        if failure is None or left <= 0:
            return
        if isinstance(failure, SamplerUnavailableError):
            # Waiting alone does not mend a token or a configuration.
            wait_s = None if isinstance(failure, _OURS_TO_MEND) else left
            raise type(failure)(str(failure), retry_after_s=wait_s) from failure
        raise type(failure)(str(failure)) from failure

    def _ask(self, deadline: float) -> dict[str, SolverInfo]:
        try:
            connection = self._connect(deadline)
            solvers = in_time(lambda: self._fetch(connection.client), deadline - monotonic(), "solvers", self._closing)
        except Exception as error:  # Ocean raises almost anything: typed_error sorts it
            if self.closed:
                raise closed_error() from None
            typed = self._note_failure(error)
            raise typed from cause_of(typed, error, self._token)
        with self._lock:
            self._failure, self._wait_s, self._lacking = None, 0.0, False
            self._solvers, self._checked_at = solvers, monotonic()
            self._last_seen |= solvers
            return solvers

    def _note_failure(self, error: Exception) -> SamplerError:
        typed = typed_error(error, "connect", (), self._token)
        with self._lock:
            self._failure, self._failed_at = typed, monotonic()
            self._wait_s = min(max(self._settings.reconnect_wait_s, 2 * self._wait_s), _LONGEST_RECONNECT_S)
            self._checked_at = -1e9
            connection = self._connection
            if connection is not None and isinstance(typed, _OURS_TO_MEND):
                # Something else may be configured by the next attempt.
                self.retire(connection)
                if connection.users == 0:
                    Thread(target=self._shut, args=(connection,), name="qpu-close", daemon=True).start()
            if isinstance(typed, SamplerUnavailableError) and not isinstance(typed, _OURS_TO_MEND):
                typed.retry_after_s = max(typed.retry_after_s or 0.0, self._wait_s)
        return typed

    def _connect(self, deadline: float) -> Connection:
        with self._lock:
            self.refuse_if_closed()
            if self._connection is not None:
                return self._connection
        silence_ocean()
        given_up = Event()

        def build() -> Any:
            client = self._build()
            if given_up.is_set():
                _close_quietly(client)
            return client

        try:
            client = in_time(build, deadline - monotonic(), "connect", self._closing)
        except SamplerUnavailableError:
            given_up.set()
            raise
        connection = Connection(client)
        with self._lock:
            if not self.closed:
                self._connection = connection
                return connection
        self._shut(connection)
        raise closed_error()

    def _build(self) -> Any:
        settings = self._settings
        self._configuration = ocean_configuration(settings)
        client = self._configuration.connect(
            Client,
            request_timeout=settings.request_timeout_s,
            poll_strategy="long-polling",
            poll_wait_time=settings.poll_wait_s,
            poll_pause=settings.poll_pause_s,
            polling_timeout=max(settings.deadline_s, _LONGEST_POLLING_S),
            http_retry_total=0,
            cache_enabled=False,
        )
        self._token = client.config.token
        return client

    def _fetch(self, client: Any) -> dict[str, SolverInfo]:
        """Online solvers; full definitions only of those whose graph_id is new.

        A solver that cannot be used, because its definition lacks something, hides no other one.
        """
        known = {info.key: info for info in self._solvers.values() if info.solver.client is client}
        # In a session of its own: Ocean's keeps the type of answer it expects in itself, and threads of Ocean's may be
        # using it, as may one of ours that a time-out has left behind.
        with closing(Solvers.from_config(config=client.config, cache=False)) as session:
            listed = session.list_solvers(filter="none,+identity,+status")
        online = {
            (str(entry.identity.name), str(getattr(entry.identity.version, "graph_id", None)))
            for entry in listed
            if str(entry.get("status", "")).lower() == "online"
        }
        if known and online <= known.keys() | self._not_for_us:
            return {key[0]: info for key, info in known.items() if key in online}
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
        self._unusable, self._eligible = unusable, _eligible(client, self._configuration)
        self._not_for_us = online - {info.key for info in found.values()}
        return found

    def _configured_name(self) -> str | None:
        """The solver or family that Ocean's own configuration asks for, if it does."""
        with self._lock:
            connection = self._connection
        chosen = (connection.client.config.solver or {}) if connection is not None else {}
        identity = chosen.get("identity__eq") or chosen.get("identity") or {}
        name = chosen.get("name__eq") or chosen.get("name") or identity.get("name")
        pinned = (identity.get("version") or {}).get("graph_id")
        return f"{name};graph_id={pinned}" if name and pinned else name

    def _shut(self, connection: Connection, until: float | None = None) -> None:
        """Close the client; waits for that until the instant ``until``, or for ``close_timeout_s``."""
        with self._lock:
            if connection.closed:
                return
            connection.closed = True
        closing = Thread(target=_close_quietly, args=(connection.client,), name="qpu-close", daemon=True)
        closing.start()
        closing.join(self._settings.close_timeout_s if until is None else max(0.0, until - monotonic()))


def _eligible(client: Any, configuration: OceanConfiguration | None) -> tuple[str, ...] | None:
    """Names of the solvers with the features that Ocean's configuration asks for; None if it asks for a name at most.

    An order among them is not heeded: of those that fit a model the largest is taken.
    """
    features = {name: value for name, value in (client.config.solver or {}).items() if name != "order_by"}
    if not features.keys() - _NAMES:
        return None
    try:
        return tuple(str(solver.name) for solver in client.get_solvers(refresh=True, order_by=None, **features))
    except (TypeError, ValueError, AttributeError, LookupError, re.error) as error:
        source = "DWAVE_API_SOLVER" if configuration is None else configuration.sources["solver"]
        raise SolverConfigurationError(
            f"{source}: {features!r} is not allowed; allowed: features that Ocean's get_solvers takes ({error})"
        ) from error


def _close_quietly(client: Any) -> None:
    try:
        client.close(wait=False)
    except (api.RequestError, OSError, RuntimeError) as error:
        _LOG.warning("closing the solver client: %s", type(error).__name__)
