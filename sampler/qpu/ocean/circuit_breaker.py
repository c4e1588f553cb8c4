"""A circuit breaker: after too many failures in a row calls are refused at once, until one probe succeeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic
from typing import Literal

from qshower.sampler.errors import CircuitOpenError

State = Literal["closed", "open", "half_open"]
_LONGEST = 10.0
"""Most times the cooldown that the wait grows to."""


@dataclass(frozen=True, slots=True)
class CircuitStatus:
    """How a circuit breaker stands.

    Attributes:
        state: ``closed``, ``open``, or ``half_open`` when a probe is due or under way.
        failures: failures in a row.
        retry_after_s: seconds until the next probe, None if the circuit is closed.
        last_error: the last of the failures.
    """

    state: State
    failures: int
    retry_after_s: float | None
    last_error: str | None


@dataclass(slots=True)
class CircuitBreaker:
    """Counts failures in a row. Safe to use from several threads.

    Attributes:
        failures_allowed: failures in a row that open the circuit.
        cooldown_s: how long it stays open before one call is let through as a probe; doubles with each failed probe.
        clock: seconds.
    """

    failures_allowed: int
    cooldown_s: float
    clock: Callable[[], float] = monotonic
    _lock: Lock = field(default_factory=Lock)
    _failures: int = 0
    _opened_at: float | None = None
    _wait_s: float = 0.0
    _entered: int = 0
    _probe: int | None = None
    _last_error: str | None = None

    def enter(self) -> int:
        """Ask to make a call: its number, to be given to ``failed`` or ``abandoned`` unless it has ``succeeded``.

        Raises:
            CircuitOpenError: the circuit is open; its ``retry_after_s`` says until when.
        """
        with self._lock:
            self._entered += 1
            if self._opened_at is None:
                return self._entered
            left = self._opened_at + self._wait_s - self.clock()
            if left > 0 or self._probe is not None:
                raise CircuitOpenError(
                    f"the QPU failed {self._failures} times in a row, last: {self._last_error}",
                    retry_after_s=max(left, 1.0),
                )
            self._probe = self._entered
            return self._probe

    def succeeded(self) -> bool:
        """The call worked: the circuit closes. Returns whether it was open."""
        with self._lock:
            was_open = self._opened_at is not None
            self._failures, self._opened_at, self._wait_s, self._probe, self._last_error = 0, None, 0.0, None, None
            return was_open

    def failed(self, call: int, error: BaseException) -> None:
        """The call of that number failed for a reason that lies with the QPU.

        One that began before the circuit opened says nothing new while the probe is awaited: it is only counted.
        """
        with self._lock:
            self._failures += 1
            self._last_error = f"{type(error).__name__}: {error}"
            if call == self._probe or (self._opened_at is None and self._failures >= self.failures_allowed):
                self._wait_s = min(max(self.cooldown_s, 2 * self._wait_s), _LONGEST * self.cooldown_s)
                self._opened_at = self.clock()
                self._probe = None

    def abandoned(self, call: int) -> None:
        """The call of that number ended for a reason that says nothing about the QPU, such as a bad option."""
        with self._lock:
            if call == self._probe:
                self._probe = None

    @property
    def state(self) -> State:
        """``closed``, ``open``, or ``half_open`` when a probe is due or under way."""
        with self._lock:
            if self._opened_at is None:
                return "closed"
            if self._probe is not None or self.clock() >= self._opened_at + self._wait_s:
                return "half_open"
            return "open"

    @property
    def retry_after_s(self) -> float | None:
        """Seconds until the next probe, None if the circuit is not open."""
        with self._lock:
            if self._opened_at is None:
                return None
            return max(0.0, self._opened_at + self._wait_s - self.clock())

    def status(self) -> CircuitStatus:
        """State, failures in a row and last error, for users and metrics."""
        return CircuitStatus(self.state, self._failures, self.retry_after_s, self._last_error)
