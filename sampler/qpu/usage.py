"""On what terms a call uses a QPU, and what it has used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qshower.sampler.time_limit import TimeLimit


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a call uses a QPU.

    Attributes:
        limit: until when all must be back, and whether anybody waits for it.
        cap_us: most QPU access time of the call, None for no cap.
        account: who pays for it, "" for nobody in particular.
    """

    limit: TimeLimit
    cap_us: float | None = None
    account: str = ""


@dataclass(slots=True)
class Usage:
    """What a call has used so far, calibrations on the way included.

    Attributes:
        problem_ids: the solver's ids of all answered problems.
        reads: reads over all of them.
        access_time_us: QPU access time of all of them.
        doubtful_us: what problems may cost that were sent, and whose answers never came.
        timing_us: the solver's own timing fields, summed.
        untimed: problems whose answer had no timing: their access time is an estimate.
    """

    problem_ids: list[str] = field(default_factory=list)
    reads: int = 0
    access_time_us: float = 0.0
    doubtful_us: float = 0.0
    timing_us: dict[str, float] = field(default_factory=dict)
    untimed: int = 0

    def enter(self, problem_id: str, reads: int, timing_us: Mapping[str, float], estimate_us: float) -> None:
        """Add one answered problem."""
        self.problem_ids.append(problem_id)
        self.reads += reads
        self.untimed += "qpu_access_time" not in timing_us
        self.access_time_us += timing_us.get("qpu_access_time", estimate_us)
        for name, value in timing_us.items():
            self.timing_us[name] = self.timing_us.get(name, 0.0) + value

    @property
    def may_be_billed(self) -> bool:
        """Whether anything may have been accepted, and so billed."""
        return bool(self.problem_ids or self.doubtful_us)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should see of it."""
        if not self.untimed:
            return ()
        return ("the solver sent no timing for some problems: their access time is an estimate",)
