"""Everything the emulator can be told to do wrong.

A fault belongs to a *stage*, the call it strikes (``solvers``: the solver's definition; ``submit``; ``poll``;
``answer``; ``cancel``; ``problem``: the run itself), and has an *action*. Most are one action at one stage, named
``stage_action``; the rest corrupt the contents of one kind of reply.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qshower.sampler.errors import InvalidInputError

STAGES = ("solvers", "submit", "poll", "answer", "cancel")

_ACTIONS = {
    "400": "HTTP 400",
    "401": "HTTP 401, token refused",
    "403": "HTTP 403, access forbidden",
    "404": "HTTP 404",
    "429": "HTTP 429, too many requests",
    "500": "HTTP 500",
    "503": "HTTP 503",
    "page": "HTTP 502 with a page of HTML, as a proxy in front of the API answers",
    "hang": "the request is read and never answered",
    "drop": "the connection is closed without an answer",
    "truncated": "the body ends half way, then the connection is closed",
    "bad_json": "the body is not JSON",
    "wrong_type": "the reply's Content-Type is text/html",
    "slow": "the reply comes late, by the emulator's slow_s",
}

_SPECIAL = {
    "solver_offline": ("solvers", "offline", "the solver's status is OFFLINE"),
    "submit_refused": ("submit", "refused", "the problem is refused: error_code 400 for it inside a good reply"),
    "poll_omits_id": ("poll", "omits_id", "the reply leaves out the problem that was asked for"),
    "problem_failed": ("problem", "failed", "the problem ends FAILED with an internal error"),
    "problem_offline": ("problem", "offline", 'the problem ends FAILED with "Solver is offline"'),
    "problem_cancelled": ("problem", "cancelled", "the problem ends CANCELLED though nobody asked for it"),
    "slow_queue": ("problem", "stuck", "the problem stays PENDING until it is cancelled"),
    "slow_run": ("problem", "slow_run", "the problem is IN_PROGRESS for the emulator's slow_s, cancelled or not"),
    "answer_missing": ("answer", "missing", "COMPLETED, but the reply holds no answer"),
    "answer_bad_base64": ("answer", "bad_base64", "solutions are not base64"),
    "answer_missing_field": ("answer", "missing_field", "the answer holds no solutions"),
    "answer_no_timing": ("answer", "no_timing", "the answer holds no timing"),
    "energies_half": ("answer", "energies_half", "only the first half of the energies is sent"),
    "energies_wrong": ("answer", "energies_wrong", "the energies do not belong to the solutions"),
    "reads_missing": ("answer", "reads_missing", "one read in ten is missing, consistently"),
    "wrong_variables": ("answer", "wrong_variables", "one active variable is left out, consistently"),
    "nan_accepted": ("problem", "nan_accepted", "J that is not a number is accepted and read as 0"),
    "maintenance": (
        "problem",
        "maintenance",
        "the solver goes offline, fails what is queued, and returns with fewer qubits and a new graph_id",
    ),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: at which stage, what, and a line that says so."""

    name: str
    stage: str
    action: str
    effect: str


def _all_faults() -> dict[str, Fault]:
    faults = {
        f"{stage}_{action}": Fault(f"{stage}_{action}", stage, action, effect)
        for stage in STAGES
        for action, effect in _ACTIONS.items()
    }
    faults |= {name: Fault(name, *rest) for name, rest in _SPECIAL.items()}
    return faults


FAULTS: Mapping[str, Fault] = MappingProxyType(_all_faults())
"""Every fault by name."""


def parse_fault(text: str) -> tuple[Fault, int | None]:
    """The fault and how often it strikes, from ``name`` or ``name:count``.

    Without a count it strikes until it is cleared; maintenance only once, or the solver would never be back.
    """
    name, colon, count = text.partition(":")
    if name not in FAULTS:
        raise InvalidInputError("fault", name, ", ".join(sorted(FAULTS)))
    if not colon:
        return FAULTS[name], 1 if name == "maintenance" else None
    if not count.isdecimal() or int(count) < 1:
        raise InvalidInputError("fault", text, "name or name:count with a count of at least 1")
    return FAULTS[name], int(count)


class FaultPlan:
    """The faults that are armed now. Safe to use from several threads."""

    def __init__(self, faults: tuple[str, ...] = ()) -> None:
        self._lock = threading.Lock()
        self._left: dict[str, int | None] = {}
        self._calls = dict.fromkeys((*STAGES, "problem"), 0)
        for fault in faults:
            self.arm(*parse_fault(fault))

    def arm(self, fault: Fault, count: int | None = None) -> None:
        """Let ``fault`` strike ``count`` times, or until it is cleared."""
        with self._lock:
            self._left[fault.name] = count

    def clear(self, name: str | None = None) -> None:
        """Disarm one fault, or all."""
        with self._lock:
            if name is None:
                self._left.clear()
            else:
                self._left.pop(name, None)

    def armed(self) -> dict[str, int | None]:
        """Names of the armed faults and how often each will still strike."""
        with self._lock:
            return dict(self._left)

    def calls(self) -> dict[str, int]:
        """How often each stage was reached, with or without a fault."""
        with self._lock:
            return dict(self._calls)

    def strike(self, stage: str) -> Fault | None:
        """The fault of ``stage`` that was armed first, its count lowered by one; None if there is none."""
        with self._lock:
            self._calls[stage] += 1
            name = next((name for name in self._left if FAULTS[name].stage == stage), None)
            if name is None:
                return None
            left = self._left[name]
            if left == 1:
                del self._left[name]
            elif left is not None:
                self._left[name] = left - 1
            return FAULTS[name]
