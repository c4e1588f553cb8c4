"""The connection to the solver API: built on first use, never hanging, never leaking.

Ocean's own client can wait for ever: a poll that leaves a problem out, a problem that is COMPLETED without an answer, a
server that refuses every poll. So every blocking step here has a deadline of its own, and a client that did not come
to an end in time is *retired*: it takes no more problems, and is closed, in a thread that is given up after a while,
as soon as nobody uses it. Closing without waiting makes its endless loops end at their next step.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Event, RLock, Thread
from time import monotonic
from typing import Any, TypeVar

from dwave.cloud.api import exceptions as api

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.qpu.ocean.api_replies import ApiClient
from qshower.sampler.qpu.ocean.configuration import ocean_configuration
from qshower.sampler.qpu.ocean.ocean_errors import RETRY_S
from qshower.sampler.qpu.qpu_settings import QpuSettings

Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)
SLICE_S = 0.1
"""How long a thread waits for anything before it looks at the clock and for ``close``."""
_LONGEST_POLLING_S = 3600.0
"""Ocean gives a problem up at this age: later than any deadline, which is ours to keep."""


@dataclass(slots=True, eq=False)
class Connection:
    """One client, where the solver that it is to use by default is configured, and how many problems it works on."""

    client: Any
    solver_source: str = "DWAVE_API_SOLVER"
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


class Connector:
    """Opens the connection, lends it, replaces and closes it. Safe to use from several threads.

    Attributes:
        secret: the token, to keep it out of messages.
    """

    def __init__(self, settings: QpuSettings) -> None:
        self._settings = settings
        self._lock = RLock()
        self._idle = Condition(self._lock)
        self._pid = os.getpid()
        self._connection: Connection | None = None
        self._closing = Event()
        self.secret: str | None = settings.token

    @property
    def current(self) -> Connection | None:
        """The connection that is open, if one is. After a fork there is none."""
        with self._lock:
            if os.getpid() != self._pid:
                # The client's threads are gone and its locks may be held: start anew, leave it untouched.
                self._pid, self._connection = os.getpid(), None
            return self._connection

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called: draws under way come to an end at their next step."""
        return self._closing.is_set()

    def pause(self, pause_s: float) -> None:
        """Wait for ``pause_s``; SamplerUnavailableError as soon as the client is closed."""
        self._closing.wait(pause_s)
        self.refuse_if_closed()

    def refuse_if_closed(self, problem_ids: tuple[str, ...] = ()) -> None:
        """SamplerUnavailableError once ``close`` was called."""
        if self._closing.is_set():
            raise closed_error(problem_ids)

    def within(self, work: Callable[[], Result], deadline: float, what: str) -> Result:
        """The result of ``work`` by the instant ``deadline``; see ``in_time``."""
        return in_time(work, deadline - monotonic(), what, self._closing)

    def connect(self, deadline: float) -> Connection:
        """The connection, opened by the instant ``deadline`` if there is none.

        Raises whatever Ocean's client does, and SamplerUnavailableError if it takes longer.
        """
        with self._lock:
            self.refuse_if_closed()
            if self._connection is not None:
                return self._connection
        silence_ocean()
        given_up = Event()

        def build() -> Connection:
            connection = self._build()
            if given_up.is_set():
                _close_quietly(connection.client)
            return connection

        try:
            connection = self.within(build, deadline, "connect")
        except SamplerUnavailableError:
            given_up.set()
            raise
        with self._lock:
            if not self.closed:
                self._connection = connection
                return connection
        self._shut(connection)
        raise closed_error()

    @contextmanager
    def borrow(self, client: Any) -> Iterator[Connection]:
        """The connection that ``client`` is of, kept open while in use; SamplerUnavailableError if it was replaced."""
        with self._lock:
            self.refuse_if_closed()
            connection = self._connection
            if connection is None or connection.retired or client is not connection.client:
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
                # Nobody waits for that: the draw may be good, and its deadline near.
                self._shut(connection, monotonic())

    def retire(self, connection: Connection) -> None:
        """Use this connection no more: something in it did not come to an end, or it is not what it should be."""
        with self._lock:
            connection.retired = True
            if self._connection is connection:
                self._connection = None
            idle = connection.left_behind
        if idle:
            self._shut(connection, monotonic())

    def close(self) -> None:
        """Close the connection, within ``close_timeout_s``. Idempotent.

        Draws under way cancel their problems and end with SamplerUnavailableError; they are waited for, and not for
        ever.
        """
        until = monotonic() + self._settings.close_timeout_s
        self._closing.set()
        with self._idle:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            # Whoever uses it last would shut it: so that it is not shut beneath the others, that is left to this call.
            self._idle.wait_for(lambda: connection.users == 0, max(0.0, until - monotonic()))
            connection.retired = True
        self._shut(connection, until)

    def _build(self) -> Connection:
        settings = self._settings
        configuration = ocean_configuration(settings)
        client = configuration.connect(
            ApiClient,
            request_timeout=settings.request_timeout_s,
            poll_strategy="long-polling",
            poll_wait_time=settings.poll_wait_s,
            poll_pause=settings.poll_pause_s,
            polling_timeout=max(settings.deadline_s, _LONGEST_POLLING_S),
            http_retry_total=0,
            cache_enabled=False,
        )
        self.secret = client.config.token
        return Connection(client, configuration.sources.get("solver", "DWAVE_API_SOLVER"))

    def _shut(self, connection: Connection, until: float | None = None) -> None:
        """Close the client; waits for that until the instant ``until``, or for ``close_timeout_s``."""
        with self._lock:
            if connection.closed:
                return
            connection.closed = True
        closing = Thread(target=_close_quietly, args=(connection.client,), name="qpu-close", daemon=True)
        closing.start()
        closing.join(self._settings.close_timeout_s if until is None else max(0.0, until - monotonic()))


def _close_quietly(client: Any) -> None:
    try:
        client.close(wait=False)
    except (api.RequestError, OSError, RuntimeError) as error:
        _LOG.warning("closing the solver client: %s", type(error).__name__)
