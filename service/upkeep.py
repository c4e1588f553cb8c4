"""What the service does by itself in the background, and the first such: keeping the QPU's calibrations fresh."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from numpy.typing import NDArray

from qshower.service.catalogue import Catalogue

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.qpu.qpu_sampler import QpuSampler

CONDITIONS = 8
"""Incident energies, even in the logarithm, whose conditions a calibration may choose from."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 3600.0
"""After a failure the next attempt waits as long as the error says, and at least this; twice as long each time."""
LONGEST_POLL_S = 60.0
CLOSE_S = 5.0

_log = structlog.get_logger("qshower.service")


def calibration_conditions(bundle: Bundle) -> NDArray[np.int8]:
    """(rows, condition nodes) of energies spread over the model's domain."""
    return bundle.conditions(np.geomspace(*bundle.domain_mev, CONDITIONS))


class BackgroundWork(ABC):
    """Work for one model after another, in a thread of its own, whenever some is due.

    A failure is logged and shown, and tried again later, the later the more there were.

    Args:
        what: the work, in the log and as the thread's name.
        poll_s: how often to look whether some is due.
        clock: seconds.
    """

    def __init__(self, what: str, poll_s: float, clock: Callable[[], float]) -> None:
        self._what, self._poll_s, self._clock = what, poll_s, clock
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._running: str | None = None
        self._done = self._failed = 0
        self._last_done_at: str | None = None
        self._last_error: str | None = None
        self._next_at = -np.inf
        self._pause_s = FIRST_PAUSE_S

    @abstractmethod
    def _due(self) -> Bundle | None:
        """The first model that needs it, None if there is none or it is not the time."""

    @abstractmethod
    def _do(self, bundle: Bundle) -> None:
        """Do it, and log that it was done."""

    def start(self) -> None:
        """Look after it from now on, first of all at once."""
        self._thread = threading.Thread(target=self._run, name=f"qpu-{self._what}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin no more. What is under way ends when it is done, or with the sampler."""
        self._stop.set()

    def close(self) -> None:
        """Stop, and wait a little for what is under way."""
        self.stop()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def check(self) -> str | None:
        """Do it for the first model that needs it, if it may be done now; its name, None if nothing was done.

        Blocks. A failure is not raised: ``status`` has it.
        """
        if self._clock() < self._next_at:
            return None
        bundle = self._due()
        if bundle is None:
            return None
        with self._lock:
            self._running = bundle.name
        try:
            self._do(bundle)
        except Exception as error:  # whatever it is, the service goes on as before
            self._note_failure(bundle, error)
            return None
        finally:
            with self._lock:
                self._running = None
        with self._lock:
            self._done += 1
            self._last_done_at = datetime.now(UTC).isoformat(timespec="seconds")
            self._last_error, self._pause_s = None, FIRST_PAUSE_S
        return bundle.name

    def status(self) -> Mapping[str, Any]:
        """For a health page: what is under way, how many were done and failed, the last error and the next attempt."""
        with self._lock:
            wait_s = max(0.0, self._next_at - self._clock()) if self._last_error is not None else None
            return {
                "running": self._running,
                "done": self._done,
                "failed": self._failed,
                "last_done_at": self._last_done_at,
                "last_error": self._last_error,
                "next_attempt_in_s": wait_s,
            }

    def _note_failure(self, bundle: Bundle, error: Exception) -> None:
        after_s = getattr(error, "retry_after_s", None) or 0.0
        with self._lock:
            self._failed += 1
            self._last_error = f"{type(error).__name__}: {error}"
            self._next_at = self._clock() + max(self._pause_s, after_s)
            self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)
        _log.warning(f"{self._what} failed", model=bundle.name, error=self._last_error)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                done = self.check()
            except Exception as error:  # of finding out what is due: nobody else would ever hear of it
                with self._lock:
                    self._last_error = f"{type(error).__name__}: {error}"
                _log.warning(f"what {self._what} is due could not be found out", error=str(error))
                done = None
            if done is None:
                self._stop.wait(self._poll_s)


class Upkeep(BackgroundWork):
    """Calibrates the QPU when its calibration is older than ``every_s``, drifts, or is not there.

    One at a time; only while the circuit is closed; at the expense of the day's budget, and of no API key. A model
    that was never calibrated is so only if it is the one that requests get that name none. After a failure the
    calibration there was stays in use, and the circuit breaker hears nothing of it.

    Args:
        qpu: what to calibrate.
        catalogue: the models.
        every_s: age at which a calibration is renewed.
        clock: seconds.
    """

    def __init__(
        self, qpu: QpuSampler, catalogue: Catalogue, every_s: float, clock: Callable[[], float] = monotonic
    ) -> None:
        super().__init__("calibration", min(LONGEST_POLL_S, every_s / 10.0), clock)
        self._qpu, self._catalogue, self._every_s = qpu, catalogue, every_s

    def status(self) -> Mapping[str, Any]:
        """As of any work, and at which age a calibration is renewed."""
        return {"every_s": self._every_s, **super().status()}

    def _do(self, bundle: Bundle) -> None:
        found = self._qpu.calibrate(bundle.machine, calibration_conditions(bundle), counted=False)
        _log.info(
            "calibrated", model=bundle.name, solver=found.solver, beta=round(found.beta, 4), error=found.beta_error
        )

    def _due(self) -> Bundle | None:
        """The first model that needs a calibration, None if there is none or it is not the time."""
        missing = True
        for bundle in self._catalogue.defaults() + self._catalogue.bundles():
            state = self._qpu.availability(bundle.machine)
            if state.detail["circuit"]["state"] != "closed":
                return None
            if not state.available:
                continue
            known = state.detail["calibration"]
            if known is None:
                if missing:
                    return bundle
                continue
            missing = False
            drifts = known["drift"] is not None and not known["drift_pause"]
            if known["age_s"] > self._every_s or drifts:
                return bundle
        return None
