"""How showers came to be, as the JSON object that every answer carries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from qshower.sampler.provenance import Provenance
from qshower.service.engine.work import DrawnRows
from qshower.service.machine_paths import without_paths

# What each part of a request adds to the whole, rather than shares with it.
_SUMMED = ("qpu_access_time_us", "qpu_timing_us")
_APART = ("problem_ids", "notes", "elapsed_s", *_SUMMED)


@dataclass(frozen=True, slots=True)
class Origin:
    """What the service knows about an answer, beside what the sampler says."""

    model: str
    model_version: int
    model_sha256: str
    version: str
    seed: int | None
    threshold_mev: float
    fallback_from: str | None = None
    fallback_reason: str | None = None
    notes: tuple[str, ...] = ()


def provenance_json(origin: Origin, parts: Iterable[DrawnRows], elapsed_s: dict[str, float]) -> dict[str, Any]:
    """The provenance of an answer made of ``parts``.

    Where the parts agree on a field it stands at the top; where they differ it is null there and stands under
    ``groups``, with the rows of each. A QPU problem shared with other requests counts by this one's share.
    """
    ordered = sorted(parts, key=lambda part: part.start)
    # Cached rows between drawn ones make many parts of few draws, and a draw's cost counts once.
    draws = {id(part.provenance): part.provenance for part in ordered}
    by_draw = {key: asdict(provenance) for key, provenance in draws.items()}
    documents = list(by_draw.values())
    first = documents[0]
    differing = [
        name for name in first if name not in _APART and any(document[name] != first[name] for document in documents)
    ]
    merged = {name: None if name in differing else value for name, value in first.items() if name not in _APART}
    shares = [sum(part.share for part in ordered if id(part.provenance) == key) for key in by_draw]
    stages = dict(elapsed_s)
    for document in documents:
        for stage, seconds in document["elapsed_s"].items():
            # The engine's own "sample" is the whole of it.
            if stage != "sample":
                stages[f"sample_{stage}"] = stages.get(f"sample_{stage}", 0.0) + seconds
    notes = dict.fromkeys([*origin.notes, *(note for document in documents for note in document["notes"])])
    access = _summed([document["qpu_access_time_us"] for document in documents], shares)
    if access is not None and min(shares) < 1.0 - 1e-9:
        notes["QPU problems shared with other requests: times are this request's share"] = None
    sampler = merged.pop("sampler")
    answer: dict[str, Any] = {
        "model": origin.model,
        "model_version": origin.model_version,
        "model_sha256": origin.model_sha256,
        "version": origin.version,
        "sampler": sampler,
        "fallback_from": origin.fallback_from,
        "fallback_reason": origin.fallback_reason and without_paths(origin.fallback_reason),
        "seed": origin.seed,
        **merged,
        "problem_ids": _joined(document["problem_ids"] for document in documents),
        "qpu_access_time_us": access,
        "qpu_timing_us": _timing([document["qpu_timing_us"] for document in documents], shares),
        "threshold_mev": origin.threshold_mev,
        "notes": list(notes),
        "elapsed_s": {stage: round(seconds, 6) for stage, seconds in stages.items()},
    }
    if differing:
        values = {key: {name: _listed(document[name]) for name in differing} for key, document in by_draw.items()}
        answer["groups"] = _groups(ordered, [values[id(part.provenance)] for part in ordered])
    return answer


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _groups(parts: list[DrawnRows], values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows and values of each group, neighbours that agree made into one."""
    groups: list[dict[str, Any]] = []
    for part, value in zip(parts, values, strict=True):
        last = groups[-1] if groups else None
        if last is not None and last["rows"][1] == part.start and all(last[name] == value[name] for name in value):
            last["rows"][1] = part.stop
        else:
            groups.append({"rows": [part.start, part.stop], **value})
    return groups


def merged_parts(parts: Iterable[DrawnRows]) -> list[DrawnRows]:
    """``parts``, neighbours of one and the same sampler answer made into one: what a long run keeps of its batches."""
    merged: list[DrawnRows] = []
    for part in parts:
        last = merged[-1] if merged else None
        if last is not None and last.stop == part.start and _plain(last.provenance) == _plain(part.provenance):
            stages = dict(last.provenance.elapsed_s)
            for stage, seconds in part.provenance.elapsed_s.items():
                stages[stage] = stages.get(stage, 0.0) + seconds
            fields = {**_fields(last.provenance), "elapsed_s": stages}
            merged[-1] = DrawnRows(last.start, part.stop, 1.0, Provenance(**fields))
        else:
            merged.append(part)
    return merged


def _fields(provenance: Provenance) -> dict[str, Any]:
    return {name: getattr(provenance, name) for name in provenance.__slots__}


def _plain(provenance: Provenance) -> dict[str, Any] | object:
    """What must agree for two parts to be reported as one; a QPU answer is never merged."""
    if provenance.problem_ids is not None or provenance.qpu_access_time_us is not None:
        return object()
    return {name: value for name, value in _fields(provenance).items() if name != "elapsed_s"}


def _joined(groups: Iterable[tuple[str, ...] | None]) -> list[str] | None:
    lists = [group for group in groups if group is not None]
    return list(dict.fromkeys(name for group in lists for name in group)) if lists else None


def _summed(values: list[float | None], shares: list[float]) -> float | None:
    known = [value * share for value, share in zip(values, shares, strict=True) if value is not None]
    return sum(known) if known else None


def _timing(values: list[dict[str, float] | None], shares: list[float]) -> dict[str, float] | None:
    total: dict[str, float] = {}
    for value, share in zip(values, shares, strict=True):
        for name, micros in (value or {}).items():
            total[name] = total.get(name, 0.0) + micros * share
    return total if any(value is not None for value in values) else None
