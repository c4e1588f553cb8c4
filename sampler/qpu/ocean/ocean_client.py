"""The way to the solver API: which solvers there are, and the one long-lived connection to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock, RLock
from time import monotonic

from qshower.sampler.errors import (
    SamplerError,
    SamplerUnavailableError,
    SolverAuthenticationFailedError,
    SolverConfigurationError,
    SolverNotFoundHereError,
)
from qshower.sampler.qpu.ocean.connection import SLICE_S, Connection, Connector, closed_error
from qshower.sampler.qpu.ocean.ocean_errors import RETRY_S, cause_of, told_to_wait_s, typed_error
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.ocean.solver_list import SolverList, fetch_solvers
from qshower.sampler.qpu.qpu_settings import QpuSettings

_OURS_TO_MEND = (SolverAuthenticationFailedError, SolverConfigurationError)
"""Waiting alone does not help against these."""
_LONGEST_RECONNECT_S = 60.0
_NEVER = -1e9


class OceanClient:
    """Finds solvers and lends the connection to them. Safe to use from several threads; opens nothing when built."""

    def __init__(self, settings: QpuSettings) -> None:
        self._settings = settings
        self._connector = Connector(settings)
        self._lock = RLock()
        self._asking = Lock()
        self._list = SolverList()
        self._list_of: Connection | None = None
        self._last_seen: dict[tuple[str, str], SolverInfo] = {}
        self._checked_at = _NEVER
        self._lacking = False
        self._failure: SamplerError | None = None
        self._failed_at = _NEVER
        self._wait_s = 0.0

    @property
    def secret(self) -> str | None:
        """The token, to keep it out of messages."""
        return self._connector.secret

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called: draws under way come to an end at their next step."""
        return self._connector.closed

    def pause(self, pause_s: float) -> None:
        """Wait for ``pause_s``; SamplerUnavailableError as soon as the client is closed."""
        self._connector.pause(pause_s)

    def refuse_if_closed(self, problem_ids: tuple[str, ...] = ()) -> None:
        """SamplerUnavailableError once ``close`` was called."""
        self._connector.refuse_if_closed(problem_ids)

    def __repr__(self) -> str:
        """Without the token."""
        connected = self._connector.current is not None
        return f"OceanClient(endpoint={self._settings.endpoint!r}, connected={connected})"

    def find(self, wanted: str | None, family: str, timeout_s: float) -> SolverInfo:
        """The solver to use: ``wanted``, else the configured one, else the largest that fits.

        ``wanted`` is a name, ``NAME;graph_id=…``, or a family.

        Raises:
            SamplerUnavailableError: the API cannot be reached or refuses; at once, with the reason of the last
                attempt, while waiting between two attempts.
            SolverNotFoundHereError: no such solver is online, or none that could be used.
        """
        solvers = self._online(timeout_s)
        try:
            return solvers.choose(wanted, self._settings.solver, family)
        except SolverNotFoundHereError:
            self._lacking = True
            raise

    def had_graph(self, solver: str, graph_id: str) -> bool:
        """Whether ``solver`` had that graph when it was last seen online; asks nobody."""
        with self._lock:
            return (solver, graph_id) in self._last_seen

    def last_seen(self, family: str) -> SolverInfo | None:
        """The solver that ``find`` would choose among those seen so far, None if none fits; asks nobody."""
        with self._lock:
            seen = replace(self._list, solvers=dict(self._last_seen))
        try:
            return seen.choose(None, self._settings.solver, family)
        except SolverNotFoundHereError:
            return None

    def forget(self) -> None:
        """Ask for solvers and graphs anew at the next call: what we believe has been proven wrong."""
        with self._lock:
            self._checked_at = _NEVER

    @contextmanager
    def borrow(self, info: SolverInfo) -> Iterator[Connection]:
        """The connection that ``info`` belongs to, kept open while in use."""
        if info.solver.client is not getattr(self._connector.current, "client", None):
            self.forget()
        with self._connector.borrow(info.solver.client) as connection:
            yield connection

    def retire(self, connection: Connection) -> None:
        """Use this connection no more: something in it did not come to an end."""
        self._connector.retire(connection)

    def close(self) -> None:
        """Close the connection, within ``close_timeout_s``. Idempotent.

        Draws under way cancel their problems and end with SamplerUnavailableError; they are waited for, and not for
        ever.
        """
        self._connector.close()

    def _online(self, timeout_s: float) -> SolverList:
        """The QPU solvers that are online; asked for anew every ``solver_check_s``."""
        with self._lock:
            if self._fresh():
                return self._list
        deadline = monotonic() + timeout_s
        while not self._asking.acquire(timeout=max(0.0, min(SLICE_S, deadline - monotonic()))):
            self.refuse_if_closed()
            if monotonic() >= deadline:
                raise SamplerUnavailableError("the solver API has not answered yet", retry_after_s=RETRY_S)
        try:
            with self._lock:
                if self._fresh():
                    return self._list
                self._refuse_while_waiting()
            return self._ask(deadline)
        finally:
            self._asking.release()

    def _fresh(self) -> bool:
        # A solver that was looked for in vain may be back any moment.
        most_s = self._settings.solver_check_s
        if self._lacking:
            most_s = min(most_s, self._settings.availability_ttl_s / 2)
        connection = self._connector.current
        return connection is not None and connection is self._list_of and monotonic() - self._checked_at < most_s

    def _refuse_while_waiting(self) -> None:
        self.refuse_if_closed()
        left = self._failed_at + self._wait_s - monotonic()
        failure = self._failure
        if failure is None or left <= 0:
            return
        if isinstance(failure, SamplerUnavailableError):
            wait_s = None if isinstance(failure, _OURS_TO_MEND) else left
            raise type(failure)(str(failure), retry_after_s=wait_s) from failure
        raise type(failure)(str(failure)) from failure

    def _ask(self, deadline: float) -> SolverList:
        try:
            connection = self._connector.connect(deadline)
            before = self._list if self._list_of is connection else SolverList()
            solvers = self._connector.within(lambda: fetch_solvers(connection, before), deadline, "solvers")
        except Exception as error:  # Ocean raises almost anything: typed_error sorts it
            if self.closed:
                raise closed_error() from None
            typed = self._note_failure(error)
            raise typed from cause_of(typed, error, self.secret)
        with self._lock:
            self._failure, self._wait_s, self._lacking = None, 0.0, False
            self._list, self._list_of, self._checked_at = solvers, connection, monotonic()
            # Under a name that is online again there may be another graph.
            names = {name for name, _ in solvers.solvers}
            earlier = {key: info for key, info in self._last_seen.items() if key[0] not in names}
            self._last_seen = {**earlier, **solvers.solvers}
            return solvers

    def _note_failure(self, error: Exception) -> SamplerError:
        typed = typed_error(error, "connect", (), self.secret)
        connection = self._connector.current
        with self._lock:
            self._failure, self._failed_at = typed, monotonic()
            grown_s = min(max(self._settings.reconnect_wait_s, 2 * self._wait_s), _LONGEST_RECONNECT_S)
            self._wait_s = max(grown_s, told_to_wait_s(error) or 0.0)
            self._checked_at = _NEVER
            if isinstance(typed, SamplerUnavailableError) and not isinstance(typed, _OURS_TO_MEND):
                typed.retry_after_s = max(typed.retry_after_s or 0.0, self._wait_s)
        if connection is not None and isinstance(typed, _OURS_TO_MEND):
            # Something else may be configured by the next attempt.
            self._connector.retire(connection)
        return typed
