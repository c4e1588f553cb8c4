from typing import Any

from qshower.sampler.provenance import Provenance
from qshower.service.engine.work import DrawnRows
from qshower.service.generation.answer_provenance import Origin, merged_parts, provenance_json

ORIGIN = Origin("m", 1, "0" * 64, "0.1", 7, 0.01515)
TIMES = {"queue": 0.1, "total": 1.0}


def gibbs(**changes: Any) -> Provenance:
    return Provenance(**{"sampler": "gibbs", "sweeps": 64, "beta": 1.0, "elapsed_s": {"sample": 0.5}, **changes})


def qpu(problem: str, access: float = 100.0, **changes: Any) -> Provenance:
    fields = {
        "sampler": "qpu",
        "solver": "S",
        "graph_id": "g",
        "problem_ids": (problem,),
        "num_reads": 10,
        "beta": 4.0,
        "missing_qubits": 3,
        "qpu_access_time_us": access,
        "qpu_timing_us": {"qpu_access_time": access},
        "notes": ("stale",),
        "elapsed_s": {"draw": 0.25},
    }
    return Provenance(**{**fields, **changes})


def test_one_part() -> None:
    answer = provenance_json(ORIGIN, [DrawnRows(0, 5, 1.0, gibbs())], TIMES)
    assert answer["sampler"] == "gibbs"
    assert answer["sweeps"] == 64
    assert answer["problem_ids"] is None
    assert answer["qpu_timing_us"] is None
    assert answer["notes"] == []
    assert answer["elapsed_s"] == {"queue": 0.1, "total": 1.0}
    assert "groups" not in answer


def test_parts_that_agree_are_told_once() -> None:
    parts = [DrawnRows(5, 9, 1.0, qpu("b")), DrawnRows(0, 5, 1.0, qpu("a"))]
    answer = provenance_json(ORIGIN, parts, TIMES)
    assert answer["problem_ids"] == ["a", "b"]
    assert answer["qpu_access_time_us"] == 200.0
    assert answer["qpu_timing_us"] == {"qpu_access_time": 200.0}
    assert answer["notes"] == ["stale"]
    assert answer["elapsed_s"]["sample_draw"] == 0.5
    assert "groups" not in answer


def test_parts_that_differ_become_groups() -> None:
    parts = [
        DrawnRows(0, 5, 1.0, qpu("a")),
        DrawnRows(5, 6, 1.0, qpu("b")),
        DrawnRows(6, 9, 1.0, qpu("c", missing_qubits=4)),
    ]
    answer = provenance_json(ORIGIN, parts, TIMES)
    assert answer["missing_qubits"] is None
    assert answer["solver"] == "S"
    assert answer["groups"] == [{"rows": [0, 6], "missing_qubits": 3}, {"rows": [6, 9], "missing_qubits": 4}]


def test_a_shared_programming_counts_by_its_share() -> None:
    answer = provenance_json(ORIGIN, [DrawnRows(0, 1, 0.25, qpu("a"))], TIMES)
    assert answer["qpu_access_time_us"] == 25.0
    assert answer["qpu_timing_us"] == {"qpu_access_time": 25.0}
    assert any("share" in note for note in answer["notes"])


def test_a_long_run_keeps_few_parts() -> None:
    parts: list[DrawnRows] = []
    for start in range(0, 5000, 1000):
        parts = merged_parts([*parts, DrawnRows(start, start + 1000, 1.0, gibbs())])
    assert [(part.start, part.stop) for part in parts] == [(0, 5000)]
    assert parts[0].provenance.elapsed_s == {"sample": 2.5}
    kept = merged_parts([DrawnRows(0, 1, 1.0, qpu("a")), DrawnRows(1, 2, 1.0, qpu("b"))])
    assert len(kept) == 2
    assert len(merged_parts([DrawnRows(0, 1, 1.0, gibbs()), DrawnRows(1, 2, 1.0, gibbs(sweeps=32))])) == 2
