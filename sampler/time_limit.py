"""Until when work may go on: to its deadline, and only while somebody waits for what comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from qshower.sampler.errors import SamplerCancelledError, SamplerTimeoutError


def never() -> bool:
    """Of work that nobody gives up."""
    return False


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """What long work asks between two steps, whether it runs on a CPU, a GPU or a QPU.

    Attributes:
        deadline: instant of ``time.monotonic``, infinite for none.
        given_up: whether nobody waits for the result any more; called in any thread, often.
    """

    deadline: float = math.inf
    given_up: Callable[[], bool] = never

    @property
    def left_s(self) -> float:
        """Seconds to the deadline, below 0 past it."""
        return self.deadline - monotonic()

    def check(self, worker: str) -> None:
        """Go on, or end with an error that names the ``worker``.

        Raises:
            SamplerCancelledError: the work was given up.
            SamplerTimeoutError: the deadline has passed.
        """
        if self.given_up():
            raise SamplerCancelledError(f"{worker}: nobody waits for the draw any more")
        if monotonic() >= self.deadline:
            raise SamplerTimeoutError(f"{worker}: the deadline passed before the draw was done")


UNLIMITED = TimeLimit()
