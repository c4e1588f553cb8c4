"""Unused reads of a QPU answer later requests, without a problem, a bill, or even a solver."""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from qshower.client import Client
from qshower.model.bundle import Bundle, find_bundles, load_bundle
from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.protocol import Sampler
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.quota import Quota
from qshower.sampler.qpu.unused_reads import UnusedReads
from qshower.sampler.registry import SamplerRegistry
from qshower.sampler.tempering import TemperingSampler
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.latent_cache.cached_reads import CachedReads
from qshower.service.sampler_table import build_registry
from qshower.service.settings import Settings, load_settings
from tests.polling import until

EmulatorMaker = Callable[..., EmulatorServer]
ServiceMaker = Callable[..., TestClient]

LOW, HIGH = 1000.0, 500000.0
UNEVEN = {"incident_energies_mev": [LOW] * 9 + [HIGH], "sampler": "qpu"}
"""One programming of two copies, nine reads each: one of them for LOW, one for HIGH, eight reads of which nobody asked
for. On four copies it would not be cheaper by a tenth."""


@pytest.fixture(scope="module")
def catalogue(untrained_bundles: Path) -> Catalogue:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    return Catalogue(bundles, "test-zephyr")


@pytest.fixture
def emulator_of() -> Iterator[EmulatorMaker]:
    """Makes an emulator."""
    opened: list[EmulatorServer] = []

    def make(*, clock: Callable[[], float] = time.monotonic, **values: Any) -> EmulatorServer:
        config = EmulatorConfig(topology="zephyr:6", sweeps=16, seed=5, **{"defects": 0.0, **values})
        opened.append(EmulatorServer(config, clock=clock))
        return opened[-1]

    yield make
    for server in opened:
        server.close()


@pytest.fixture
def emulator(emulator_of: EmulatorMaker) -> EmulatorServer:
    return emulator_of()


@pytest.fixture
def service_at(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ServiceMaker]:
    """Makes a running service whose QPU is an emulator."""
    monkeypatch.setenv("DWAVE_API_TOKEN", "any")
    for name in ("DWAVE_API_SOLVER", "DWAVE_PROFILE", "DWAVE_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    opened: list[TestClient] = []

    def make(
        emulator: EmulatorServer, make_samplers: Callable[[Settings], SamplerRegistry] = build_registry, **values: Any
    ) -> TestClient:
        monkeypatch.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
        settings = load_settings(qpu_state_folder=tmp_path / "state", **values)
        client = TestClient(create_app(settings, load_models=lambda _: catalogue, make_samplers=make_samplers))
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def service_on(service_at: ServiceMaker, emulator: EmulatorServer) -> ServiceMaker:
    """Makes a running service whose QPU is the usual emulator."""
    return lambda **values: service_at(emulator, **values)


def ask(client: TestClient, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    response = client.post("/generate", json=body)
    assert response.status_code == status, response.text
    # Nobody waits for what the draw has left, but a test.
    until(lambda: not metrics_of(client).get("qshower_qpu_unused_reads_waiting"))
    document: dict[str, Any] = response.json()
    return document


def metrics_of(client: TestClient) -> dict[str, float]:
    """Samples of the metrics page by name and labels."""
    lines = [line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[:1] != "#"]
    return {name: float(value) for name, value in lines}


def cache_of(client: TestClient, model: str = "test-zephyr") -> dict[str, Any]:
    states = {state["name"]: state for state in client.get("/samplers").json()["samplers"]}
    cache: dict[str, Any] = states["qpu"]["detail"]["latent_cache"][model]
    return cache


def submitted(emulator: EmulatorServer) -> int:
    count: int = emulator.backend.state()["submitted"]
    return count


def used_today(tmp_path: Path) -> float:
    return Quota(tmp_path / "state" / "qpu_budget.json", None, None).status().used_today_us


def for_high(count: int, **change: Any) -> dict[str, Any]:
    return {"incident_energies_mev": [HIGH], "showers_per_energy": count, "sampler": "qpu", **change}


def test_a_second_request_is_served_from_what_the_first_left(
    emulator: EmulatorServer, service_on: ServiceMaker, tmp_path: Path
) -> None:
    client = service_on()
    first = ask(client, UNEVEN)["provenance"]
    assert cache_of(client)["ready"] == 8
    before = submitted(emulator)
    used = used_today(tmp_path)
    second = ask(client, for_high(5))
    told = second["provenance"]
    assert submitted(emulator) == before
    assert np.array(second["showers_mev"]).shape == (5, 6480)
    for field in (
        "model",
        "sampler",
        "solver",
        "graph_id",
        "beta",
        "beta_calibrated_at",
        "annealing_time_us",
        "missing_qubits",
    ):
        assert told[field] == first[field], field
    assert told["problem_ids"] == first["problem_ids"]
    assert told["qpu_timing_us"] == first["qpu_timing_us"]
    assert told["qpu_access_time_us"] == 0.0
    assert (told["from_cache"], first["from_cache"]) == (True, False)
    assert cache_of(client)["ready"] == 3
    assert used_today(tmp_path) == used
    counts = dict(
        re.findall(
            r'^qshower_latent_cache_(\w+)\{model="test-zephyr",sampler="qpu"\} (\S+)$',
            client.get("/metrics").text,
            re.M,
        )
    )
    assert (float(counts["ready"]), float(counts["consumed_total"])) == (3.0, 5.0)


def test_what_is_cached_answers_without_a_solver(emulator: EmulatorServer, service_on: ServiceMaker) -> None:
    client = service_on()
    ask(client, UNEVEN)
    emulator.close()
    assert ask(client, for_high(4))["provenance"]["from_cache"]
    auto = ask(client, for_high(4, sampler="auto"))["provenance"]
    assert (auto["sampler"], auto["fallback_from"]) == ("qpu", None)
    # Nothing is left.
    ask(client, for_high(1), status=503)
    assert ask(client, for_high(1, fallback=["gibbs"]))["provenance"]["fallback_from"] == "qpu"


def test_rows_beyond_what_is_cached_are_drawn(emulator: EmulatorServer, service_on: ServiceMaker) -> None:
    client = service_on()
    ask(client, UNEVEN)
    before = submitted(emulator)
    told = ask(client, for_high(11))["provenance"]
    assert submitted(emulator) > before
    assert [(group["rows"], group["from_cache"]) for group in told["groups"]] == [([0, 8], True), ([8, 11], False)]
    assert told["qpu_access_time_us"] > 0
    assert cache_of(client)["ready"] == 0


def test_reads_survive_a_draw_that_fails_beside_them(emulator: EmulatorServer, service_on: ServiceMaker) -> None:
    client = service_on()
    ask(client, UNEVEN)
    emulator.arm("problem_failed")
    ask(client, for_high(11), status=503)
    assert cache_of(client)["ready"] == 8
    emulator.faults.clear()
    assert ask(client, for_high(8))["provenance"]["problem_ids"]
    assert cache_of(client)["ready"] == 0


def test_an_answer_does_not_wait_for_the_reads_it_leaves(
    service_on: ServiceMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, gate, put = service_on(), threading.Event(), CachedReads.put

    def once_allowed(self: CachedReads, reads: UnusedReads) -> int:
        assert gate.wait(60)
        return put(self, reads)

    monkeypatch.setattr(CachedReads, "put", once_allowed)
    answer = client.post("/generate", json=UNEVEN)
    assert answer.status_code == 200
    assert answer.json()["provenance"]["notes"] == ["beta_eff was measured with this draw: no calibration was kept"]
    counts = metrics_of(client)
    of = {end: counts[f'qshower_qpu_unused_reads_total{{outcome="{end}"}}'] for end in ("cached", "dropped")}
    assert (counts["qshower_qpu_unused_reads_waiting"], of) == (8, {"cached": 0, "dropped": 0})
    gate.set()
    until(lambda: not metrics_of(client)["qshower_qpu_unused_reads_waiting"])
    assert metrics_of(client)['qshower_qpu_unused_reads_total{outcome="cached"}'] == 8
    assert cache_of(client)["ready"] == 8


def test_what_an_option_bought_too_many_of_is_cached(emulator: EmulatorServer, service_on: ServiceMaker) -> None:
    client = service_on()
    ask(client, {**UNEVEN, "options": {"num_reads": 40}})
    kept = cache_of(client)["ready"]
    assert kept >= 40 - 1
    before = submitted(emulator)
    assert ask(client, for_high(39))["provenance"]["from_cache"]
    assert submitted(emulator) == before
    assert cache_of(client)["ready"] == kept - 39


def test_a_request_of_several_batches_has_cached_reads_whole(
    emulator: EmulatorServer, service_on: ServiceMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = service_on()
    first = ask(client, UNEVEN)["provenance"]
    before = submitted(emulator)
    # Of the lane of cached reads, which is not there yet.
    monkeypatch.setattr(QpuSampler, "capabilities", replace(QpuSampler.capabilities, batch_rows=3))
    bundle, calls = type(cast(FastAPI, client.app).state.service.generator.selection.catalogue.get(None)), list[int]()
    decode = bundle.decode

    def second_batch_fails(self: Bundle, spins: NDArray[np.int8], *more: Any) -> NDArray[np.float32]:
        calls.append(len(spins))
        if len(calls) == 2:
            raise SamplerUnavailableError("no")
        return decode(self, spins, *more)

    with monkeypatch.context() as patch:
        patch.setattr(bundle, "decode", second_batch_fails)
        ask(client, for_high(8), status=503)
    assert calls[:2] == [3, 3]
    assert cache_of(client)["ready"] == 8, "what is shown to nobody goes back"
    told = ask(client, for_high(8))
    assert submitted(emulator) == before
    assert len({tuple(shower) for shower in told["showers_mev"]}) == 8
    for field in ("problem_ids", "qpu_timing_us"):
        assert told["provenance"][field] == first[field], field
    assert told["provenance"]["qpu_access_time_us"] == 0.0
    assert told["provenance"]["from_cache"] is True
    assert "groups" not in told["provenance"]
    assert cache_of(client)["ready"] == 0


@pytest.mark.parametrize("change", [{"seed": 1}, {"options": {"refine_sweeps": 3}}, {"solver": "zephyr"}])
def test_seeds_and_options_neither_take_nor_leave(
    emulator: EmulatorServer, service_on: ServiceMaker, change: dict[str, Any]
) -> None:
    client = service_on()
    ask(client, UNEVEN)
    before = submitted(emulator)
    assert ask(client, for_high(2, **change))["provenance"]["from_cache"] is False
    assert submitted(emulator) > before
    assert cache_of(client)["ready"] == 8
    if "seed" not in change:
        ask(client, {**UNEVEN, **change})
        assert cache_of(client)["ready"] == 8


def test_none_are_cached_without_memory(emulator: EmulatorServer, service_on: ServiceMaker) -> None:
    client = service_on(latent_cache_bytes=0)
    ask(client, UNEVEN)
    states = {state["name"]: state for state in client.get("/samplers").json()["samplers"]}
    assert "latent_cache" not in states["qpu"]["detail"]
    before = submitted(emulator)
    ask(client, for_high(1))
    assert submitted(emulator) > before


def test_a_dry_run_counts_what_is_cached(emulator: EmulatorServer, service_on: ServiceMaker) -> None:
    http = service_on()
    ask(http, UNEVEN)
    client = Client("http://testserver", http=http)
    emulator_had = submitted(emulator)
    alone, seeded = client.estimate([HIGH], showers_per_energy=3), client.estimate([HIGH], showers_per_energy=3, seed=1)
    assert (alone.cached, alone.access_time_us, alone.problems, alone.reads) == (3, 0.0, 0, 0)
    assert (seeded.cached, seeded.reads) == (0, 3)
    more = client.estimate([HIGH], showers_per_energy=11)
    assert (more.cached, more.reads, more.conditions) == (8, 3, 1)
    assert more.access_time_us == pytest.approx(seeded.access_time_us)
    assert submitted(emulator) == emulator_had
    assert cache_of(http)["ready"] == 8


def test_metrics_tell_of_circuit_costs_and_calibration(
    emulator_of: EmulatorMaker, service_at: ServiceMaker, tmp_path: Path
) -> None:
    hours = [0.0]
    emulator = emulator_of(beta_drift_per_hour=1.0, clock=lambda: 3600.0 * hours[0])
    client = service_at(emulator, qpu_daily_budget_us=5e6)
    states = {state: f'qshower_qpu_circuit{{state="{state}"}}' for state in ("closed", "open", "half_open")}
    of = {
        name: f'qshower_qpu_calibration_{name}{{model="test-zephyr",solver="{emulator.solver_name}"}}'
        for name in ("age_seconds", "stale", "drift_ratio", "beta")
    }
    fresh = metrics_of(client)
    assert [fresh[states[state]] for state in ("closed", "open", "half_open")] == [1, 0, 0]
    assert fresh["qshower_qpu_access_seconds_total"] == 0
    assert fresh["qshower_qpu_left_today_seconds"] == 5
    assert not fresh.keys() & set(of.values())
    provenance = ask(client, UNEVEN)["provenance"]
    drawn = metrics_of(client)
    billed = provenance["qpu_access_time_us"] * 1e-6
    assert drawn["qshower_qpu_access_seconds_total"] == pytest.approx(billed)
    assert drawn["qshower_qpu_used_today_seconds"] == pytest.approx(billed)
    assert drawn["qshower_qpu_left_today_seconds"] == pytest.approx(5 - billed)
    assert drawn[of["beta"]] == provenance["beta"]
    assert (drawn[of["stale"]], drawn[of["drift_ratio"]]) == (0, 0)
    assert 0 <= drawn[of["age_seconds"]] < 3600
    # Kept reads cost nothing.
    ask(client, for_high(8))
    assert metrics_of(client)["qshower_qpu_access_seconds_total"] == drawn["qshower_qpu_access_seconds_total"]
    hours[0] = 0.5
    ask(client, {**UNEVEN, "incident_energies_mev": [LOW] * 300})
    assert metrics_of(client)[of["drift_ratio"]] > 0.1
    # Failures in a row open the circuit; what they cost counts.
    before = metrics_of(client)["qshower_qpu_access_seconds_total"]
    emulator.arm("problem_failed")
    for _ in range(4):
        ask(client, for_high(1, seed=1), status=503)
    broken = metrics_of(client)
    assert [broken[states[state]] for state in ("closed", "open", "half_open")] == [0, 1, 0]
    assert broken["qshower_qpu_access_seconds_total"] > before
    (tmp_path / "state" / "qpu_budget.json").write_text("not a ledger")
    left = {name.removeprefix("qshower_qpu_").split("{")[0] for name in metrics_of(client) if "_qpu_" in name}
    assert left == {"unused_reads_total", "unused_reads_waiting"}


@pytest.mark.parametrize("name", ["calibrations.json", "shims.json", "qpu_budget.json"])
def test_a_state_file_that_cannot_be_read_takes_the_qpu_along_and_nothing_else(
    emulator: EmulatorServer, service_on: ServiceMaker, tmp_path: Path, name: str
) -> None:
    digest = hashlib.sha256(b"key").hexdigest()
    client = service_on(api_keys=f"ada:{digest}:1e9")
    client.headers["x-api-key"] = "key"
    ask(client, UNEVEN)
    path, before = tmp_path / "state" / name, submitted(emulator)
    content = path.read_text() if path.exists() else None
    path.write_text('{"SECRET": ')
    for page in ("/metrics", "/samplers", "/health/live", "/health/ready"):
        assert client.get(page).status_code == 200
    # With a seed, so that nothing cached will do.
    assert ask(client, for_high(1, seed=1, sampler="gibbs"))["provenance"]["sampler"] == "gibbs"
    auto = ask(client, for_high(1, seed=1, sampler="auto"))["provenance"]
    assert (auto["sampler"], auto["fallback_from"]) == ("gibbs", "qpu")
    refused = ask(client, for_high(1, seed=1), status=503)
    for text in (auto["fallback_reason"], refused["detail"]):
        assert name in text
        assert str(path.parent) not in text
        assert "remove it" in text
        assert "SECRET" not in text
    assert submitted(emulator) == before
    gauge = 'qshower_latent_cache_ready{model="test-zephyr",sampler="qpu"}'
    told = metrics_of(client)
    assert told[gauge] == 8, "what cannot be told to hold is not lost"
    # Nor what is known.
    assert any(sample.startswith("qshower_qpu_circuit") for sample in told) == (name != "qpu_budget.json")
    if name == "calibrations.json":
        ask(client, for_high(2), status=503)
    path.unlink()
    if content is not None:
        path.write_text(content)
    # Put right, everything is as before.
    assert ask(client, for_high(8))["provenance"]["from_cache"]
    assert submitted(emulator) == before


def test_reads_past_their_age_are_forgotten(service_on: ServiceMaker) -> None:
    client = service_on(qpu_cached_reads_max_age_s=1e-6)
    ask(client, UNEVEN)
    assert cache_of(client)["ready"] == 0
    assert cache_of(client)["discarded"] == 8


def test_each_read_is_served_once_to_requests_that_come_together(
    emulator: EmulatorServer, service_on: ServiceMaker
) -> None:
    client = service_on()
    ask(client, UNEVEN)
    before = submitted(emulator)
    answers: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(client, for_high(2)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert submitted(emulator) == before
    assert cache_of(client)["ready"] == 0
    assert len({tuple(shower) for answer in answers for shower in answer["showers_mev"]}) == 8


def test_reads_of_another_calibration_are_forgotten(
    emulator: EmulatorServer, service_on: ServiceMaker, catalogue: Catalogue, tmp_path: Path
) -> None:
    client = service_on()
    first = ask(client, UNEVEN)["provenance"]
    assert cache_of(client)["ready"] == 8
    settings = QpuSettings(endpoint=emulator.endpoint, token="any", state_dir=tmp_path / "state")
    bundle = catalogue.get(None)
    with QpuSampler(settings) as other:
        found = operations.calibrate(other.access, bundle.machine, bundle.conditions(np.array([LOW, HIGH])))
    assert cache_of(client)["ready"] == 0
    second = ask(client, UNEVEN)["provenance"]
    assert (second["beta"], second["beta_calibrated_at"]) == (found.beta, found.calibrated_at)
    assert second["beta"] != first["beta"]
    assert not any("measured" in note for note in second["notes"])
    assert cache_of(client)["ready"] == 8


def test_reads_of_a_solver_that_has_drifted_are_forgotten(service_at: ServiceMaker, emulator_of: EmulatorMaker) -> None:
    hours = [0.0]
    emulator = emulator_of(beta_drift_per_hour=1.0, clock=lambda: 3600.0 * hours[0])
    client = service_at(emulator)
    ask(client, UNEVEN)
    assert cache_of(client)["ready"] == 8
    hours[0] = 0.5
    many = ask(client, {**UNEVEN, "incident_energies_mev": [LOW] * 200 + [HIGH] * 9})["provenance"]
    assert any(note.startswith("drift") for note in many["notes"])
    # Neither what was there, of which one read was not needed, nor what this draw left.
    assert cache_of(client)["ready"] == 0


def test_reads_of_another_graph_are_forgotten(
    emulator_of: EmulatorMaker, service_at: ServiceMaker, tmp_path: Path
) -> None:
    emulator = emulator_of(maintenance_s=3.0)
    hasty = QpuSettings(state_dir=tmp_path, availability_ttl_s=0.1)
    classical: list[Sampler] = [GibbsSampler(threads=1), AnnealingSampler(1), TemperingSampler(1)]
    client = service_at(emulator, make_samplers=lambda _: SamplerRegistry([*classical, QpuSampler(hasty)]))
    ask(client, UNEVEN)
    emulator.arm("maintenance:1")
    ask(client, for_high(1, seed=1), status=503)
    assert cache_of(client)["ready"] == 8, "a solver that is away takes nothing from what it has drawn"
    until(lambda: client.post("/generate", json=for_high(1, seed=1)).status_code == 200)
    assert cache_of(client)["ready"] == 0
    assert cache_of(client)["discarded"] == 8
