"""What the API's queries ask for: which fields of a solver's definition, which of the submitted problems."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

STATUSES = ("PENDING", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED")
MOST_PROBLEMS = 1000
"""Most problems that one reply lists."""


class QueryError(ValueError):
    """A query that the API does not take."""


def filtered(definition: Mapping[str, Any], query: str) -> dict[str, Any]:
    """The fields of ``definition`` that ``query`` asks for.

    It is ``all`` or ``none``, then ``+PATH`` and ``-PATH`` in any number, with commas between them; a path is the name
    of a field, or names with dots between them, as in ``-properties.couplers``. What is not there is passed over.
    """
    first, *terms = query.split(",")
    if first not in ("all", "none") or not all(term[:1] in ("+", "-") and term[1:] for term in terms):
        raise QueryError("filter must be all or none, then +field or -field")
    chosen: dict[str, Any] = copy.deepcopy(dict(definition)) if first == "all" else {}
    for term in terms:
        *above, last = term[1:].split(".")
        source: Any = definition
        target: Any = chosen
        for name in above:
            source = source.get(name) if isinstance(source, Mapping) else None
            if isinstance(target, dict):
                target = (
                    target.setdefault(name, {}) if term[0] == "+" and isinstance(source, Mapping) else target.get(name)
                )
        if not isinstance(target, dict):
            continue
        if term[0] == "-":
            target.pop(last, None)
        elif isinstance(source, Mapping) and last in source:
            target[last] = copy.deepcopy(source[last])
    return chosen


@dataclass(frozen=True, slots=True)
class ProblemQuery:
    """Which problems a list is to hold; None stands for any.

    Attributes:
        label: their label.
        solver: the name of their solver.
        status: one of ``STATUSES``.
        max_results: how many at most.
    """

    label: str | None = None
    solver: str | None = None
    status: str | None = None
    max_results: int = MOST_PROBLEMS

    @classmethod
    def of(cls, query: Mapping[str, list[str]]) -> ProblemQuery:
        """What a URL's ``query`` asks for; QueryError if a value is not allowed."""
        given = {name: query[name][0] for name in ("label", "solver", "status") if name in query}
        if given.get("status", STATUSES[0]) not in STATUSES:
            raise QueryError(f"status must be one of {', '.join(STATUSES)}")
        most = query.get("max_results", [str(MOST_PROBLEMS)])[0]
        if not most.isdecimal() or not 1 <= int(most) <= MOST_PROBLEMS:
            raise QueryError(f"max_results must be 1 to {MOST_PROBLEMS}")
        return cls(**given, max_results=int(most))

    def chosen(self, statuses: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The first of ``statuses`` that it asks for, in their order."""
        found = (
            status
            for status in statuses
            if self.label in (None, status["label"])
            and self.solver in (None, status["solver"]["name"])
            and self.status in (None, status["status"])
        )
        return [status for status, _ in zip(found, range(self.max_results), strict=False)]
