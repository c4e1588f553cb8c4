"""``qshower samplers`` on a terminal of 80 columns, and of any other width."""

from typing import Any

import pytest

from qshower.service.commands.sampler_lines import lines_of

SOLVER = {
    "circuit": {"state": "closed", "failures": 0, "retry_after_s": None, "last_error": None},
    "budget": {
        "used_today_us": 1965439.7,
        "daily_budget_us": 5e6,
        "left_today_us": 3034560.3,
        "key_budget_us": None,
        "keys_today": 0,
    },
    "solver": "Advantage2_emulated_z12",
    "graph_id": "526f6bdb68",
    "missing_qubits": 3,
    "missing_couplers": 0,
    "copies": 4,
    "calibration": {
        "beta": 3.9961,
        "error": 0.0144,
        "calibrated_at": "2026-11-29T09:37:09.025+00:00",
        "age_s": 7300.0,
        "stale": True,
        "drift": 0.021,
        "drift_pause": False,
    },
    "shim": None,
    "model": "electron-zephyr",
}
QPU = {
    "name": "qpu",
    "available": True,
    "reason": None,
    "reproducible": False,
    "options": ["annealing_time_us", "condition_mode", "gauges", "max_qpu_access_time_us", "num_reads", "solver"],
    "detail": SOLVER,
}


def test_a_qpu_that_can_be_used() -> None:
    assert lines_of(QPU, 80) == [
        "qpu: usable",
        "  solver       Advantage2_emulated_z12, graph 526f6bdb68, room for 4 copies of",
        "               the model, 3 qubits of it missing",
        "  model        electron-zephyr",
        "  calibration  beta 3.996 ± 0.014, 2 h old, stale, drifted by +2.1%",
        "  budget       1.97 s of QPU time used today (UTC), 3.03 s of 5 s left",
        "  options      annealing_time_us, condition_mode, gauges,",
        "               max_qpu_access_time_us, num_reads, solver",
    ]


def test_a_qpu_that_cannot() -> None:
    circuit = {"state": "open", "failures": 5, "retry_after_s": 20.0, "last_error": "no answer"}
    detail = {"circuit": circuit, "budget": {"used_today_us": 0.0, "daily_budget_us": None}, "retry_after_s": 20.4}
    state = {**QPU, "available": False, "reason": "too many failures", "options": [], "detail": detail}
    assert lines_of(state, 80) == [
        "qpu: not usable",
        "  why not      too many failures; again in 20 s",
        "  budget       0 s of QPU time used today (UTC), no limit",
        "  connection   5 failures in a row, no answer; again in 20 s",
    ]


def test_a_classical_sampler() -> None:
    detail = {"device": "cpu", "threads": 2, "latent_cache": {"mine": {"ready": 5, "wanted": 256, "bytes": 1200}}}
    state = {"name": "gibbs", "available": True, "reason": None, "options": ["sweeps"], "detail": detail}
    assert lines_of(state, 80) == [
        "gibbs: usable",
        "  device       cpu, 2 threads",
        "  latent cache mine ready 5, wanted 256, bytes 1200",
        "  options      sweeps",
    ]


@pytest.mark.parametrize("columns", [1, 40, 60, 80, 200])
@pytest.mark.parametrize("calibration", [SOLVER["calibration"], None])
def test_nothing_is_cut_or_in_brackets(columns: int, calibration: Any) -> None:
    new = {"of_a_later_version": {"a": [1, {"b": 2.5}], "c": None}}
    key = {"name": "ada", "used_today_us": None, "daily_budget_us": 1e6, "left_today_us": None}
    lines = lines_of({**QPU, "detail": {**SOLVER, **new, "key": key, "calibration": calibration}}, columns)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= max(columns, 40)
    assert not set("{}[]'…") & set(text)
    for word in ("Advantage2_emulated_z12", "526f6bdb68", "ada:", "a 1, b 2.5", "max_qpu_access_time_us"):
        assert word in " ".join(text.split())
