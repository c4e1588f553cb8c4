"""How latents came to be, as JSON too, and over several draws whose latents are served later."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

ConditionMode = Literal["fold", "flux_bias"]

_COSTS = frozenset({"qpu_access_time_us", "qpu_timing_us", "elapsed_s"})
_TUPLES = frozenset({"problem_ids", "notes"})


@dataclass(frozen=True, slots=True)
class Provenance:
    """How latents came to be. Fields that do not apply are None.

    ``qpu_timing_us`` holds the solver's own timing fields, summed over the problems; ``elapsed_s`` wall time by stage.
    ``notes`` are remarks a user should see (clipped ranges, a stale calibration, ...).
    """

    sampler: str
    sweeps: int | None = None
    solver: str | None = None
    graph_id: str | None = None
    problem_ids: tuple[str, ...] | None = None
    num_reads: int | None = None
    beta: float | None = None
    beta_calibrated_at: str | None = None
    annealing_time_us: float | None = None
    gauges: int | None = None
    holes: int | None = None
    missing_couplers: int | None = None
    refine_sweeps: int | None = None
    condition_mode: ConditionMode | None = None
    qpu_access_time_us: float | None = None
    qpu_timing_us: dict[str, float] | None = None
    notes: tuple[str, ...] = ()
    elapsed_s: dict[str, float] = field(default_factory=dict)


def provenance_to_json(provenance: Provenance) -> str:
    """One JSON object with a key per field.

    >>> drawn = Provenance(sampler="gibbs", sweeps=256)
    >>> provenance_from_json(provenance_to_json(drawn)) == drawn
    True
    """
    return json.dumps(dataclasses.asdict(provenance), sort_keys=True)


def provenance_from_json(text: str) -> Provenance:
    """The provenance that ``provenance_to_json`` wrote. Raises ValueError or TypeError for anything else."""
    fields: dict[str, Any] = json.loads(text)
    for name in _TUPLES & fields.keys():
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return Provenance(**fields)


def provenance_of_kept(sources: Sequence[Provenance], note: str, *, timing: bool = False) -> Provenance:
    """Provenance of latents that were drawn earlier, by one or several draws.

    A field keeps the value on which the draws agree and is None where they do not; problem ids and notes are joined.
    What the draws cost (QPU time, wall time) is left out: it was paid when they were drawn, not by this request.

    With ``timing`` the solvers' timing fields of QPU draws are there all the same, summed as the problems they belong
    to are listed, and their billed access time is 0.
    """
    if not sources:
        return Provenance(sampler="none", notes=(note,))
    merged: dict[str, Any] = {}
    for spec in dataclasses.fields(Provenance):
        values = [getattr(source, spec.name) for source in sources]
        if spec.name in _COSTS:
            continue
        if spec.name in _TUPLES:
            joined = tuple(dict.fromkeys(item for value in values for item in value or ()))
            merged[spec.name] = joined if joined or spec.name == "notes" else None
        elif all(value == values[0] for value in values):
            merged[spec.name] = values[0]
        elif spec.name == "sampler":
            merged[spec.name] = "+".join(dict.fromkeys(values))
    merged["notes"] = (*merged["notes"], note)
    timings = [source.qpu_timing_us for source in sources if source.qpu_timing_us is not None]
    if timing and timings:
        merged["qpu_access_time_us"] = 0.0
        fields = dict.fromkeys(name for one in timings for name in one)
        merged["qpu_timing_us"] = {name: sum(one.get(name, 0.0) for one in timings) for name in fields}
    return Provenance(**merged)
