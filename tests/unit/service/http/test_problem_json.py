from __future__ import annotations

import orjson

from qshower.sampler.errors import ConditionNotHeldError, PlacementError
from qshower.service.http.problem_json import problem_of, problem_response


def test_what_a_placement_lacks_is_told_in_full_beside_a_short_text() -> None:
    qubits, couplers = tuple(range(100, 300)), ((1, 2), (3, 40))
    problem, headers = problem_of(PlacementError("lacks 200", qubits=qubits, couplers=couplers), 7.0)
    body = orjson.loads(problem_response(problem, headers).body)
    assert body["status"] == 503
    assert body["detail"] == "lacks 200"
    assert body["missing_qubits"] == list(qubits)
    assert body["missing_couplers"] == [[1, 2], [3, 40]]


def test_a_block_larger_than_the_chip_lacks_nothing_in_particular() -> None:
    problem, headers = problem_of(PlacementError("larger than the chip"), 7.0)
    assert "missing_qubits" not in orjson.loads(problem_response(problem, headers).body)


def test_a_condition_that_is_not_held_is_no_reason_to_try_the_same_again() -> None:
    """It would be billed again, and come out as before: the request has to change."""
    problem, headers = problem_of(ConditionNotHeldError("flux biases left 49.8% wrong"), 7.0)
    assert (problem.status, problem.type) == (422, "urn:qshower:condition-not-held")
    assert "Retry-After" not in headers
