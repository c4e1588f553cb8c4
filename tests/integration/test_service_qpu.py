"""The service in front of Ocean's own client and the emulator of the solver API."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from qshower.model.bundle import find_bundles, load_bundle
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.settings import load_settings
from tests.polling import until

BODY = {"incident_energies_mev": [1000, 65536, 500000], "sampler": "qpu", "seed": 1}
TOKEN = "TEST-0123456789abcdef"

EmulatorMaker = Callable[..., EmulatorServer]


@dataclass(frozen=True)
class Services:
    """Makes running services, and stops one."""

    make: Callable[..., TestClient]
    stop: Callable[[TestClient], None]

    def __call__(self, endpoint: str, token: str = TOKEN, **values: Any) -> TestClient:
        return self.make(endpoint, token, **values)


@pytest.fixture(scope="module")
def catalogue(untrained_bundles: Path) -> Catalogue:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    return Catalogue(bundles, "test-zephyr")


@pytest.fixture
def service_on(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Services]:
    """Makes a running service whose QPU is at an endpoint; its ``stop`` stops one."""
    opened: list[TestClient] = []

    def make(endpoint: str, token: str = TOKEN, **values: Any) -> TestClient:
        monkeypatch.setenv("DWAVE_API_ENDPOINT", endpoint)
        monkeypatch.setenv("DWAVE_API_TOKEN", token)
        for name in ("DWAVE_API_SOLVER", "DWAVE_PROFILE", "DWAVE_CONFIG_FILE"):
            monkeypatch.delenv(name, raising=False)
        settings = load_settings(qpu_state_folder=tmp_path / "state", **values)
        client = TestClient(create_app(settings, load_models=lambda _: catalogue))
        client.__enter__()
        opened.append(client)
        return client

    def stop(client: TestClient) -> None:
        opened.remove(client)
        client.__exit__(None, None, None)

    yield Services(make, stop)
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def emulator_of() -> Iterator[EmulatorMaker]:
    """Makes an emulator."""
    opened: list[EmulatorServer] = []

    def make(topology: str, **values: Any) -> EmulatorServer:
        server = EmulatorServer(EmulatorConfig(topology=topology, sweeps=16, seed=5, **values))
        opened.append(server)
        return server

    yield make
    for server in opened:
        server.close()


@pytest.mark.parametrize(("topology", "model"), [("zephyr:12", "test-zephyr"), ("pegasus:16", "test-pegasus")])
def test_showers_from_a_qpu(emulator_of: EmulatorMaker, service_on: Services, topology: str, model: str) -> None:
    emulator = emulator_of(topology, defects=0.03)
    client = service_on(emulator.endpoint)
    response = client.post("/generate", json=BODY)
    assert response.status_code == 200, response.text
    document = response.json()
    assert np.array(document["showers_mev"]).shape == (3, 6480)
    provenance = document["provenance"]
    assert provenance["sampler"] == "qpu"
    # No model was named: it is the one for the topology that is there.
    assert provenance["model"] == model
    assert provenance["solver"] == emulator.solver_name
    assert provenance["graph_id"] == emulator.graph_id
    assert len(provenance["problem_ids"]) >= 1
    assert provenance["beta"] == pytest.approx(4.0, rel=0.2)
    assert provenance["beta_calibrated_at"]
    assert provenance["missing_qubits"] >= 0
    assert provenance["refine_sweeps"] == 16
    assert provenance["condition_mode"] == "fold"
    assert provenance["qpu_access_time_us"] > 0
    assert provenance["qpu_timing_us"]["qpu_programming_time"] > 0
    assert provenance["sweeps"] is None
    states = {state["name"]: state for state in client.get("/samplers").json()["samplers"]}
    assert states["qpu"]["available"]
    assert states["qpu"]["detail"]["solver"] == emulator.solver_name
    assert TOKEN not in response.text + client.get("/samplers").text + client.get("/metrics").text
    billed = re.search(r"^qshower_qpu_access_seconds_total (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert billed is not None
    assert float(billed[1]) == pytest.approx(provenance["qpu_access_time_us"] * 1e-6)


def test_a_model_of_another_topology(emulator_of: EmulatorMaker, service_on: Services) -> None:
    emulator = emulator_of("zephyr:6", defects=0.0)
    client = service_on(emulator.endpoint)
    for change in ({}, {"solver": "zephyr"}, {"solver": emulator.solver_name}):
        response = client.post("/generate", json={**BODY, **change, "model": "test-pegasus"})
        assert response.status_code == 422, response.text
        assert response.json()["field"] == "model"
        assert "test-zephyr" in response.json()["allowed"]
    auto = client.post("/generate", json={**BODY, "solver": emulator.solver_name}).json()["provenance"]
    assert auto["model"] == "test-zephyr"
    missing = client.post("/generate", json={**BODY, "solver": "Advantage_nowhere"})
    assert missing.status_code == 503
    assert emulator.solver_name in missing.json()["detail"]


def test_options_of_the_qpu(emulator_of: EmulatorMaker, service_on: Services) -> None:
    client = service_on(emulator_of("zephyr:6", defects=0.0).endpoint)
    options = {"num_reads": 20, "annealing_time_us": 30.0, "gauges": 2, "refine_sweeps": 3}
    provenance = client.post("/generate", json={**BODY, "options": options}).json()["provenance"]
    assert (provenance["annealing_time_us"], provenance["gauges"], provenance["refine_sweeps"]) == (30.0, 2, 3)
    assert client.post("/generate", json={**BODY, "options": {"sweeps": 5}}).status_code == 422
    capped = client.post("/generate", json={**BODY, "options": {"max_qpu_access_time_us": 1.0}})
    assert capped.status_code == 429
    assert int(capped.headers["retry-after"]) >= 1


def test_the_annealing_time_is_a_setting(emulator_of: EmulatorMaker, service_on: Services) -> None:
    client = service_on(emulator_of("zephyr:6", defects=0.0).endpoint, qpu_annealing_time_us=35.0)
    plain = client.post("/generate", json=BODY).json()["provenance"]
    asked = client.post("/generate", json={**BODY, "options": {"annealing_time_us": 40.0}}).json()["provenance"]
    assert (plain["annealing_time_us"], asked["annealing_time_us"]) == (35.0, 40.0)
    # Each has a calibration of its own.
    assert plain["beta_calibrated_at"] != asked["beta_calibrated_at"]


def test_a_setting_that_the_solver_does_not_take_is_no_fault_of_the_request(
    emulator_of: EmulatorMaker, service_on: Services
) -> None:
    emulator = emulator_of("zephyr:6", defects=0.0)
    client = service_on(emulator.endpoint, qpu_annealing_time_us=0.001)
    for body in (BODY, {**BODY, "dry_run": True}):
        refused = client.post("/generate", json=body)
        assert refused.status_code == 503, refused.text
        assert "QSHOWER_QPU_ANNEALING_TIME_US: 0.001 is not allowed; allowed: " in refused.json()["detail"]
    told = client.post("/generate", json={**BODY, "sampler": "auto"}).json()["provenance"]
    assert (told["sampler"], told["fallback_from"]) == ("gibbs", "qpu")
    assert "QSHOWER_QPU_ANNEALING_TIME_US" in told["fallback_reason"]
    # A request's own option is the request's fault.
    wrong = client.post("/generate", json={**BODY, "options": {"annealing_time_us": 0.001}})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "options.annealing_time_us")
    assert client.post("/generate", json={**BODY, "options": {"annealing_time_us": 20.0}}).status_code == 200


def test_a_dry_run_draws_nothing(emulator_of: EmulatorMaker, service_on: Services, tmp_path: Path) -> None:
    emulator = emulator_of("zephyr:6", defects=0.03)
    client = service_on(emulator.endpoint)
    body = {**BODY, "dry_run": True}
    before = client.post("/generate", json=body)
    assert before.status_code == 200, before.text
    estimate = before.json()["estimate"]
    assert list(before.json()) == ["estimate"]
    assert (estimate["model"], estimate["solver"]) == ("test-zephyr", emulator.solver_name)
    assert estimate["graph_id"] == emulator.graph_id
    assert estimate["conditions"] == 3
    assert 0 < estimate["calibration_us"] < estimate["access_time_us"]
    assert not (tmp_path / "state" / "qpu_budget.json").exists()
    # Once there is a calibration, a draw takes what its estimate says.
    assert client.post("/generate", json=BODY).status_code == 200
    auto = {**body, "sampler": "auto"}
    after = client.post("/generate", json=auto, headers={"accept": "application/x-hdf5"}).json()["estimate"]
    assert after["calibration_us"] == 0
    drawn = client.post("/generate", json=BODY).json()["provenance"]
    assert drawn["num_reads"] == after["reads"]
    assert len(drawn["problem_ids"]) == after["problems"]
    assert drawn["qpu_access_time_us"] == pytest.approx(after["access_time_us"], rel=0.1)
    more = {**body, "showers_per_energy": 4}
    one, two = (
        client.post("/generate", json={**more, "options": {"gauges": gauges}}).json()["estimate"] for gauges in (1, 2)
    )
    assert two["problems"] == 2 * one["problems"]
    assert client.post("/generate", json={**body, "options": {"sweeps": 2}}).json()["field"] == "options.sweeps"
    assert client.post("/generate", json={**body, "incident_energies_mev": [1.0]}).status_code == 422


def key_entry(key: str, budget: str = "") -> str:
    return f"{key}:{hashlib.sha256(key.encode()).hexdigest()}{budget}"


def by(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def left_of(client: TestClient, key: str) -> dict[str, Any]:
    states = {state["name"]: state for state in client.get("/samplers", headers=by(key)).json()["samplers"]}
    left: dict[str, Any] = states["qpu"]["detail"]["key"]
    return left


def test_each_key_has_its_own_budget(emulator_of: EmulatorMaker, service_on: Services, tmp_path: Path) -> None:
    emulator = emulator_of("zephyr:6", defects=0.0)
    # The first draw calibrates; the second one's price is that of those to come.
    first = service_on(emulator.endpoint)
    assert first.post("/generate", json=BODY).status_code == 200
    price = first.post("/generate", json=BODY).json()["provenance"]["qpu_access_time_us"]
    budget = round(1.5 * price, 1)
    keys = ",".join([key_entry("ada"), key_entry("bob", f":{budget}"), key_entry("cat", ":0")])
    client = service_on(emulator.endpoint, api_keys=keys)
    assert left_of(client, "bob") == {
        "name": "bob", "used_today_us": 0.0, "daily_budget_us": budget, "left_today_us": budget
    }  # fmt: skip
    answer = client.post("/generate", json=BODY, headers=by("bob"))
    assert answer.status_code == 200, answer.text
    used = answer.json()["provenance"]["qpu_access_time_us"]
    assert left_of(client, "bob")["left_today_us"] == pytest.approx(budget - used)
    for key, told in (("bob", f"{(budget - used) / 1000:.1f} ms"), ("cat", "nothing is left")):
        refused = client.post("/generate", json={**BODY, "fallback": ["gibbs"]}, headers=by(key))
        assert refused.status_code == 429
        assert told in refused.json()["detail"]
        assert f"'{key}'" in refused.json()["detail"]
        assert 1 <= int(refused.headers["retry-after"]) <= 86400
    # Refusals cost nothing, others are not held up, and what a key may not pay for it may still have for free.
    assert left_of(client, "bob")["used_today_us"] == pytest.approx(used)
    assert left_of(client, "cat")["used_today_us"] == 0.0
    assert client.post("/generate", json=BODY, headers=by("ada")).status_code == 200
    assert left_of(client, "ada")["daily_budget_us"] is None
    assert left_of(client, "ada")["used_today_us"] > 0
    assert client.post("/generate", json={**BODY, "sampler": "gibbs"}, headers=by("cat")).status_code == 200
    ledger = json.loads((tmp_path / "state" / "qpu_budget.json").read_text())
    assert {name for day in ledger.values() for name in day} == {"", "ada", "bob"}


def test_two_draws_at_once_share_one_budget(emulator_of: EmulatorMaker, service_on: Services) -> None:
    emulator = emulator_of("zephyr:6", defects=0.0)
    first = service_on(emulator.endpoint)
    assert first.post("/generate", json=BODY).status_code == 200
    price = first.post("/generate", json=BODY).json()["provenance"]["qpu_access_time_us"]
    client = service_on(emulator.endpoint, api_keys=key_entry("bob", f":{1.5 * price}"))
    statuses: list[int] = []

    def ask(threshold_mev: float) -> None:
        # Thresholds differ, so that the two are not drawn as one batch.
        body = {**BODY, "threshold_mev": threshold_mev}
        statuses.append(client.post("/generate", json=body, headers=by("bob")).status_code)

    threads = [threading.Thread(target=ask, args=(value,)) for value in (0.1, 0.2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 429]


def test_a_qpu_that_is_gone(emulator_of: EmulatorMaker, service_on: Services) -> None:
    emulator = emulator_of("zephyr:6", defects=0.0)
    client = service_on(emulator.endpoint)
    auto = {**BODY, "sampler": "auto"}
    assert client.post("/generate", json=auto).json()["provenance"]["sampler"] == "qpu"
    emulator.close()
    response = client.post("/generate", json=BODY)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    for body in ({**BODY, "fallback": ["gibbs"]}, auto):
        provenance = client.post("/generate", json=body).json()["provenance"]
        assert provenance["sampler"] == "gibbs"
        assert provenance["fallback_from"] == "qpu"
        assert "cannot be reached" in provenance["fallback_reason"]
    assert client.get("/samplers").json()["auto"] == "gibbs"


def test_a_wrong_token(emulator_of: EmulatorMaker, service_on: Services) -> None:
    emulator = emulator_of("zephyr:6", defects=0.0, token="right")
    client = service_on(emulator.endpoint, token="wrong-token-of-mine")
    response = client.post("/generate", json=BODY)
    assert response.status_code == 503
    assert "token" in response.json()["detail"]
    assert "wrong-token-of-mine" not in response.text


def test_other_samplers_answer_while_the_solver_api_hangs(emulator_of: EmulatorMaker, service_on: Services) -> None:
    """Twelve requests wait for an API that says nothing; a large answer of Gibbs comes before any of them ends."""
    emulator = emulator_of("zephyr:12")
    client = service_on(emulator.endpoint)
    emulator.arm("solvers_hang")
    ended: list[int] = []

    def wait_for_the_qpu() -> None:
        ended.append(client.post("/generate", json=BODY | {"deadline_s": 40}).status_code)

    waiting = [threading.Thread(target=wait_for_the_qpu) for _ in range(12)]
    for thread in waiting:
        thread.start()
    until(lambda: emulator.backend.state()["calls"].get("solvers", 0))
    many = {"incident_energies_mev": [5e4] * 30, "sampler": "gibbs", "seed": 1}
    answer = client.post("/generate", json=many)
    assert answer.status_code == 200
    assert len(answer.content) > 1 << 18
    assert not ended
    for thread in waiting:
        thread.join()
    assert set(ended) <= {503, 504}


@pytest.mark.parametrize("work", ["request", "calibration"])
def test_a_stop_in_mid_draw_ends_it(
    emulator_of: EmulatorMaker, service_on: Services, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """The problem would wait for an hour: only closing the sampler ends the draw, and with it the thread it is in."""
    monkeypatch.setattr("qshower.service.background.recalibration.CLOSE_S", 1000.0)
    emulator = emulator_of("zephyr:6", defects=0.0)
    settings: dict[str, Any] = {"qpu_recalibrate_s": 86400.0} if work == "calibration" else {}
    emulator.arm("slow_queue")
    before = emulator.backend.state()["submitted"]
    long: dict[str, Any] = {"drain_timeout_s": 0.2, "qpu_deadline_s": 3600.0, "default_deadline_s": 3600.0}
    client = service_on(emulator.endpoint, **settings, **long)
    ended: list[httpx2.Response] = []
    asking = threading.Thread(target=lambda: ended.append(client.post("/generate", json=BODY)))
    if work == "request":
        asking.start()
    until(lambda: emulator.backend.state()["submitted"] != before)
    name = {"request": "sample-qpu", "calibration": "recalibration"}[work]
    busy = [thread for thread in threading.enumerate() if thread.name.startswith(name)]
    assert busy
    service_on.stop(client)
    for thread in busy:
        thread.join(60)
        assert not thread.is_alive()
    jobs = emulator.backend.state()["jobs"]
    assert (jobs.get("PENDING", 0), jobs["CANCELLED"] >= 1) == (0, True)
    if work == "request":
        asking.join()
        assert ended[0].status_code == 503
        assert "shut down" in ended[0].json()["detail"]


@pytest.mark.parametrize("fault", ["solvers_503", "solvers_page"])
def test_a_solver_api_that_is_down_is_told_of_in_our_words_with_its_time_to_retry(
    emulator_of: EmulatorMaker, service_on: Services, fault: str
) -> None:
    emulator = emulator_of("zephyr:4", retry_after_s=77)
    emulator.arm(fault)
    client = service_on(emulator.endpoint)
    response = client.post("/generate", json=BODY)
    assert response.status_code == 503
    assert "the solver API failed (HTTP 50" in response.json()["detail"]
    told = response.text + client.get("/samplers").text
    assert "upstream" not in told
    assert "<html" not in told
    if fault == "solvers_503":
        assert 60 <= int(response.headers["Retry-After"]) <= 77
