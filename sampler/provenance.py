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
    ``from_cache`` says that latents were drawn before they were asked for, and served from the latent cache. ``notes``
    are remarks a user should see (clipped ranges, a stale calibration, ...).
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
    missing_qubits: int | None = None
    missing_couplers: int | None = None
    refine_sweeps: int | None = None
    condition_mode: ConditionMode | None = None
    qpu_access_time_us: float | None = None
    qpu_timing_us: dict[str, float] | None = None
    from_cache: bool = False
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


def merged_provenance(sources: Sequence[Provenance]) -> Provenance:
    """Provenance of latents that were drawn earlier, by one or several draws.

    A field keeps the value on which the draws agree and is None where they do not; problem ids and notes are joined.
    What the draws cost (QPU time, wall time) is left out: it was paid when they were drawn, not by this request.
    """
    if not sources:
        return Provenance(sampler="none")
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
    return Provenance(**merged)


def provenance_from_cache(sources: Sequence[Provenance]) -> Provenance:
    """Provenance of cached latents from the draws ``sources``, where one draw may stand several times.

    As ``merged_provenance``, but the solvers' timing fields of QPU draws are there, summed over the draws as their
    problems are listed, with a billed access time of 0.
    """
    draws = list({id(source): source for source in sources}.values())
    merged = dataclasses.replace(merged_provenance(draws), from_cache=True)
    timings = [draw.qpu_timing_us for draw in draws if draw.qpu_timing_us is not None]
    if not timings:
        return merged
    names = dict.fromkeys(name for timing in timings for name in timing)
    summed = {name: sum(timing.get(name, 0.0) for timing in timings) for name in names}
    return dataclasses.replace(merged, qpu_access_time_us=0.0, qpu_timing_us=summed)
