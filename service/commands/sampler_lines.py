"""The state of a sampler in plain lines, for people; programs take ``--json``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

LABEL_COLUMNS = 13
LEAST_COLUMNS = 40
MOST_DEPTH = 8
"""Of lists in lists that are shown."""


def lines_of(state: Mapping[str, Any], columns: int) -> list[str]:
    """One sampler of ``GET /samplers``, in lines of at most ``columns`` characters (40 at least)."""
    lines = [f"{state['name']}: {'usable' if state['available'] else 'not usable'}"]
    for label, text in _facts(state):
        first = f"  {label:<{LABEL_COLUMNS}}"
        lines += textwrap.wrap(
            text,
            max(columns, LEAST_COLUMNS),
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_on_hyphens=False,
        )
    return lines


def _facts(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What there is to say, the most wanted first; a detail that is not known here is said as it is."""
    detail = {name: value for name, value in state["detail"].items() if value is not None}
    wait_s = detail.pop("retry_after_s", None)
    if state["reason"]:
        yield "why not", state["reason"] + ("" if wait_s is None else f"; again in {_age(wait_s)}")
    if "solver" in detail:
        yield "solver", _solver(detail)
    if "device" in detail:
        threads = detail.pop("threads", None)
        yield "device", detail.pop("device") + ("" if threads is None else f", {threads} threads")
    if "model" in detail:
        yield "model", detail.pop("model")
    if "calibration" in detail:
        yield "calibration", _calibration(detail.pop("calibration"))
    elif state["available"] and "budget" in detail:
        yield "calibration", "none yet; the first draw makes one"
    for name in ("budget", "key"):
        if name in detail:
            yield name, _budget(detail.pop(name))
    circuit = detail.pop("circuit", {})
    if circuit.get("state", "closed") != "closed":
        again = circuit.get("retry_after_s")
        when = "" if again is None else f"; again in {_age(again)}"
        yield "connection", f"{circuit['failures']} failures in a row, {circuit.get('last_error')}{when}"
    for name, value in detail.items():
        yield name.replace("_", " "), flat(value)
    if state["options"]:
        yield "options", ", ".join(state["options"])


def _solver(detail: dict[str, Any]) -> str:
    said = f"{detail.pop('solver')}, graph {detail.pop('graph_id', '?')}"
    copies = detail.pop("copies", None)
    said += "" if copies is None else f", room for {copies} copies of the model"
    lacking = [f"{detail.pop(f'missing_{kind}', 0)} {kind}" for kind in ("qubits", "couplers")]
    return said + "".join(f", {what} of it missing" for what in lacking if not what.startswith("0 "))


def _calibration(known: Mapping[str, Any]) -> str:
    said = f"beta {known['beta']:.3f} ± {known['error']:.3f}, {_age(known['age_s'])} old"
    said += ", stale" if known.get("stale") else ""
    drift = known.get("drift")
    return said + ("" if drift is None else f", drifted by {drift:+.1%}")


def _budget(known: Mapping[str, Any]) -> str:
    name = f"{known['name']}: " if "name" in known else ""
    used, daily, left = (known.get(field) for field in ("used_today_us", "daily_budget_us", "left_today_us"))
    said = name + ("unknown" if used is None else f"{_seconds(used)} of QPU time used today (UTC)")
    said += ", no limit" if daily is None else f", {_seconds(left or 0.0)} of {_seconds(daily)} left"
    limit = known.get("key_budget_us")
    return said + ("" if limit is None else f", {_seconds(limit)} for each key")


def _seconds(value_us: float) -> str:
    return f"{value_us / 1e6:.3g} s"


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def flat(value: Any, depth: int = MOST_DEPTH) -> str:
    """A value of a document in one line: no brackets, no quotes."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping | list | tuple) and depth == 0:
        return "…"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {flat(inner, depth - 1)}" for name, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple):
        return ", ".join(flat(inner, depth - 1) for inner in value)
    return str(value)
