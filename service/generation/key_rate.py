"""How many showers an API key may draw in a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qshower.service.service_errors import RateError

MINUTE_S = 60.0


@dataclass(slots=True)
class _Bucket:
    """Showers that may be drawn now; below 0 after a request for more than a minute's worth."""

    left: float
    at_s: float


class KeyRates:
    """A token bucket for each API key that has a rate: a minute's showers at once, and so many each minute after.

    A request is taken if anything is left, however large it is, and the key waits until what it took is made up for:
    in the long run no key draws more than its rate. Lives in one event loop.

    Args:
        per_minute: most showers of a minute, by the keys' names.
        clock: seconds.
    """

    def __init__(self, per_minute: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = dict(per_minute), clock
        self._buckets = {name: _Bucket(rate, clock()) for name, rate in self._per_minute.items()}

    def take(self, name: str, rows: int) -> None:
        """Count ``rows`` showers for the key ``name``; RateError, with when to try again, if nothing is left for it."""
        bucket = self._filled(name)
        if bucket is None:
            return
        if bucket.left <= 0:
            rate = self._per_minute[name]
            wait_s = (1.0 - bucket.left) * MINUTE_S / rate if rate else MINUTE_S
            raise RateError(f"the key {name!r} may draw {rate:g} showers a minute", retry_after_s=wait_s)
        bucket.left -= rows

    def give_back(self, name: str, rows: int) -> None:
        """Take back what ``take`` counted for showers that were refused for another reason."""
        bucket = self._filled(name)
        if bucket is not None:
            bucket.left = min(bucket.left + rows, self._per_minute[name])

    def left(self) -> Mapping[str, float]:
        """Showers that each key with a rate may draw now."""
        return {name: bucket.left for name in self._per_minute if (bucket := self._filled(name)) is not None}

    def _filled(self, name: str) -> _Bucket | None:
        bucket = self._buckets.get(name)
        if bucket is not None:
            rate, now = self._per_minute[name], self._clock()
            bucket.left = min(rate, bucket.left + (now - bucket.at_s) * rate / MINUTE_S)
            bucket.at_s = now
        return bucket
