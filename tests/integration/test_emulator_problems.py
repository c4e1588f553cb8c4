"""Problems of the emulator looked at, listed and cancelled with Ocean's own client of these calls."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import pytest
from dwave.cloud.api import exceptions
from dwave.cloud.api.constants import ProblemStatus
from dwave.cloud.api.models import ProblemCancelError, ProblemInfo, ProblemSubmitError
from dwave.cloud.api.resources import Problems, Solvers

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer

TOKEN = "TEST-0123456789"


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorServer]:
    with EmulatorServer(EmulatorConfig(topology="zephyr:2", token=TOKEN, sweeps=16)) as server:
        yield server


@pytest.fixture
def problems(emulator: EmulatorServer) -> Iterator[Problems]:
    with Problems(endpoint=emulator.endpoint, token=TOKEN) as resource:
        yield resource


@pytest.fixture(scope="module")
def solvers(emulator: EmulatorServer) -> Iterator[Solvers]:
    with Solvers(endpoint=emulator.endpoint, token=TOKEN) as resource:
        yield resource


def job_of(solvers: Solvers, **params: object) -> dict[str, object]:
    """A problem on the first qubit."""
    solver = solvers.list_solvers()[0]
    lin = np.full(len(solver["properties"]["qubits"]), np.nan)
    lin[0] = 0.5
    data = {"format": "qp", "lin": base64.b64encode(lin.astype("<f8").tobytes()).decode(), "quad": "", "offset": 0.0}
    return {
        "data": data,
        "params": {"num_reads": 10, **params},
        "solver": solver.identity.dict(),
        "type": "ising",
        "label": "mine",
    }


def submitted(problems: Problems, job: dict[str, object]) -> str:
    """The id of the job, which is done."""
    response = problems.session.post("", json=job)
    identifier = str(response.json()["id"])
    assert problems.get_problem(identifier, timeout=30).status is ProblemStatus.COMPLETED
    return identifier


def test_a_problem_is_told_of_whole(problems: Problems, solvers: Solvers) -> None:
    job = job_of(solvers)
    identifier = submitted(problems, job)
    info = problems.get_problem_info(identifier)
    assert isinstance(info, ProblemInfo)
    assert info.id == identifier
    assert info.data.model_dump() == job["data"]
    assert info.params == job["params"]
    assert info.metadata.label == "mine"
    assert info.metadata.status is ProblemStatus.COMPLETED
    assert info.metadata.submitted_by == TOKEN
    assert info.metadata.solved_on is not None
    assert info.answer == problems.get_problem_answer(identifier) == problems.get_problem(identifier).answer
    assert problems.get_problem_messages(identifier) == []
    for ask in (problems.get_problem_info, problems.get_problem_answer, problems.get_problem_messages):
        with pytest.raises(exceptions.ResourceNotFoundError):
            ask("no-such-id")


def test_a_problem_that_waits_has_no_answer(emulator: EmulatorServer, problems: Problems, solvers: Solvers) -> None:
    emulator.arm("slow_queue:1")
    identifier = problems.session.post("", json=job_of(solvers)).json()["id"]
    assert problems.get_problem_info(identifier).answer is None
    with pytest.raises(exceptions.ResourceNotFoundError):
        problems.get_problem_answer(identifier)
    assert problems.cancel_problem(identifier).status is ProblemStatus.CANCELLED


def test_problems_are_listed_as_they_are_asked_for(
    emulator: EmulatorServer, problems: Problems, solvers: Solvers
) -> None:
    emulator.arm("problem_failed:1")
    failed = str(problems.session.post("", json={**job_of(solvers), "label": "another"}).json()["id"])
    done = [submitted(problems, job_of(solvers)) for _ in range(2)]

    def listed(**asked: object) -> list[str]:
        return [one.id for one in problems.list_problems(**asked)]

    every = listed()
    # The newest first.
    assert every[:3] == [done[1], done[0], failed]
    assert listed(max_results=2) == every[:2]
    assert listed(label="another") == [failed]
    assert failed in listed(status="FAILED")
    assert not {*done} & {*listed(status=ProblemStatus.FAILED)}
    assert listed(solver=emulator.solver_name) == every
    assert listed(solver="another") == []
    assert listed(id=",".join([failed, *done]), status="COMPLETED") == done
    for wrong in ({"status": "DONE"}, {"max_results": 0}, {"max_results": 1001}, {"max_results": "all"}):
        with pytest.raises(exceptions.ResourceBadRequestError):
            problems.list_problems(**wrong)


def test_a_problem_that_has_ended_cannot_be_cancelled(problems: Problems, solvers: Solvers) -> None:
    identifier = submitted(problems, job_of(solvers))
    with pytest.raises(exceptions.ResourceConflictError):
        problems.cancel_problem(identifier)
    with pytest.raises(exceptions.ResourceNotFoundError):
        problems.cancel_problem("no-such-id")
    # Of a list each is told of by itself.
    several = problems.cancel_problems([identifier, "no-such-id"])
    assert all(isinstance(one, ProblemCancelError) for one in several)
    assert [one.error_code for one in several] == [409, 404]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"params": {"no_such_parameter": 1}}, 400),
        ({"params": {"x_test": 1}}, 400),
        ({"params": {"num_reads": 0}}, 400),
        ({"label": 7}, 400),
        ({"solver": {"name": "another"}}, 404),
    ],
)
def test_a_problem_that_is_refused_is_refused_alone_and_in_a_list(
    change: dict[str, object], code: int, problems: Problems, solvers: Solvers
) -> None:
    job = {**job_of(solvers), **change}
    with pytest.raises(exceptions.RequestError) as caught:
        problems.session.post("", json=job)
    assert caught.value.response.status_code == caught.value.error_code == code
    (alone,) = [ProblemSubmitError.model_validate(one) for one in problems.session.post("", json=[job]).json()]
    assert alone.error_code == code


@pytest.mark.parametrize(
    ("asked", "has", "lacks"),
    [
        ("all", ["status", "properties.couplers"], []),
        ("all,-properties.couplers", ["properties.qubits", "status"], ["properties.couplers"]),
        (
            "all,-properties.topology.shape,-status",
            ["properties.topology.type"],
            ["properties.topology.shape", "status"],
        ),
        ("none,+identity", ["identity.name"], ["properties", "status"]),
        (
            "none,+properties.topology,+status",
            ["properties.topology.type", "status"],
            ["properties.qubits", "identity"],
        ),
        ("none,+properties,-properties.couplers", ["properties.qubits"], ["properties.couplers", "status"]),
        ("all,-no.such.field,+nor.this", ["status"], ["nor", "no"]),
    ],
)
def test_a_definition_holds_the_fields_that_are_asked_for(
    asked: str, has: list[str], lacks: list[str], emulator: EmulatorServer, solvers: Solvers
) -> None:
    for path, of_list in (("remote/", True), (f"remote/{emulator.solver_name}", False)):
        reply = solvers.session.get(path, params={"filter": asked}).json()
        definition = reply[0] if of_list else reply

        def there(field: str, whole: object = definition) -> bool:
            for name in field.split("."):
                if not isinstance(whole, dict) or name not in whole:
                    return False
                whole = whole[name]
            return True

        assert all(map(there, has))
        assert not any(map(there, lacks))


@pytest.mark.parametrize("asked", ["identity", "some,+status", "all,status", "all,-"])
def test_a_filter_that_makes_no_sense_is_refused(asked: str, solvers: Solvers) -> None:
    with pytest.raises(exceptions.ResourceBadRequestError):
        solvers.list_solvers(filter=asked)
