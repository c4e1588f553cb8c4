"""Latents kept ready: what is served from them, what is not, and what an answer says about it."""

import asyncio
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from qshower.model.bundle import find_bundles, load_bundle
from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.registry import SamplerRegistry
from qshower.sampler.request import LatentRequest, SamplerOptions
from qshower.sampler.reservoir import Reservoir
from qshower.sampler.stock import LEVEL_BYTES
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.engine.batches import DrawKey, Work
from qshower.service.engine.engine import Engine, Limits
from qshower.service.generation.answer_provenance import Origin, provenance_json
from qshower.service.http.encoding import encode
from qshower.service.kept import NOTE as KEPT_NOTE
from qshower.service.metrics import Metrics
from qshower.service.reservoirs import Reservoirs
from qshower.service.schemas import Estimate
from qshower.service.service_errors import SettingsError
from qshower.service.settings import Settings, load_settings

NOTE = "reservoir: drawn before the request"
PER_LEVEL = 6
BODY = {"incident_energies_mev": [1000, 65536, 500000], "sampler": "gibbs"}


@pytest.fixture(scope="module")
def catalogue(untrained_bundles):
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    return Catalogue(bundles, "test-zephyr")


@pytest.fixture
def client_of(catalogue):
    opened = []

    def make(**settings):
        values = {"qpu": "off", "reservoir_per_level": PER_LEVEL, **settings}
        client = TestClient(create_app(load_settings(**values), load_models=lambda _: catalogue))
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


def states_of(client, sampler="gibbs"):
    samplers = {state["name"]: state for state in client.get("/samplers").json()["samplers"]}
    return samplers[sampler]["detail"].get("reservoirs")


def once_full(client, sampler="gibbs"):
    """The reservoirs' states when all of them are full."""
    for _ in range(3000):
        states = states_of(client, sampler)
        if all(state["ready"] == state["wanted"] for state in states.values()):
            return states
        time.sleep(0.01)
    raise AssertionError(f"not filled: {states}")


def counts_of(client):
    found = re.findall(r"^qshower_reservoir_(\w+)\{(.*?)\} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return {name: float(value) for name, labels, value in found if 'model="test-zephyr"' in labels}


def kept_notes(provenance):
    """What it says of reservoirs."""
    return [note for note in provenance["notes"] if note.startswith("reservoir")]


def test_a_plain_request_is_served_from_stock_and_says_so(client_of):
    client = client_of()
    states = once_full(client)
    assert states["test-zephyr"]["wanted"] == 16 * PER_LEVEL
    assert set(states) == {"test-zephyr", "test-pegasus"}
    response = client.post("/generate", json=BODY)
    assert response.status_code == 200, response.text
    provenance = response.json()["provenance"]
    assert kept_notes(provenance) == [NOTE]
    assert (provenance["sampler"], provenance["sweeps"], provenance["seed"]) == ("gibbs", 32, None)
    assert "groups" not in provenance
    showers = np.array(response.json()["showers_mev"])
    assert (np.diff(showers.sum(axis=1)) > 0).all()
    counts = counts_of(client)
    assert counts["served_total"] == 3
    assert counts["missed_total"] == 0
    assert counts["wanted"] == 16 * PER_LEVEL
    # It fills up again.
    assert once_full(client)["test-zephyr"]["served"] == 3


def test_a_reservoir_that_cannot_be_told_of_leaves_the_other_metrics():
    one = {"ready": 5, "wanted": 9, "bytes": 70, "served": 2, "missed": 1}

    def status():
        yield "gibbs", "m", one
        raise SamplerUnavailableError("calibrations.json cannot be read")

    metrics = Metrics()
    metrics.watch_reservoirs(status)
    page = metrics.page().decode()
    assert 'qshower_reservoir_ready{model="m",sampler="gibbs"} 5.0' in page
    assert "qshower_queue_rows" in page


def test_any_classical_sampler_can_be_stocked(client_of, monkeypatch):
    monkeypatch.setenv("QSHOWER_RESERVOIR_SAMPLERS", "annealing, tempering")
    client = client_of(reservoir_per_level=2)
    assert states_of(client) is None, "gibbs is not asked for"
    drawn = []
    for sampler in ("annealing", "tempering"):
        states = once_full(client, sampler)
        assert set(states) == {"test-zephyr", "test-pegasus"}
        seeded, plain = (
            client.post("/generate", json={**BODY, "sampler": sampler, **change}).json()["provenance"]
            for change in ({"seed": 1}, {})
        )
        assert (kept_notes(seeded), kept_notes(plain)) == ([], [NOTE])
        # As the request would have had it drawn.
        assert (plain["sampler"], plain["sweeps"]) == (sampler, seeded["sweeps"])
        drawn.append(once_full(client, sampler)["test-zephyr"]["max_bytes"])
    assert sum(drawn) <= 16 << 20


def test_the_interface_s_page_tells_of_them():
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    dry_run = page[page.index("**Dry run.**") : page.index("### Latents kept ready")]
    assert [name for name in Estimate.model_fields if f"`{name}`" not in dry_run] == []
    kept = page[page.index("### Latents kept ready") :].split("\n### ")[0]
    assert f"`{NOTE}`" in kept
    assert f"`{KEPT_NOTE}`" in kept
    named = re.findall(r"QSHOWER_[A-Z_]+", kept)
    assert {name.removeprefix("QSHOWER_").lower() for name in named} <= Settings.model_fields.keys()


@pytest.mark.parametrize("value", ["qpu", "gibbs;annealing", "gibbs,replay"])
def test_samplers_that_cannot_be_stocked_are_refused(value):
    with pytest.raises(SettingsError, match="QSHOWER_RESERVOIR_SAMPLERS"):
        load_settings(reservoir_samplers=value)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"options": {"sweeps": 32}}, {"sampler": "annealing"}], ids=["seed", "options", "annealing"]
)
def test_who_asks_for_more_than_showers_gets_a_draw(client_of, change):
    client = client_of()
    once_full(client)
    provenance = client.post("/generate", json={**BODY, **change}).json()["provenance"]
    assert kept_notes(provenance) == []
    assert states_of(client)["test-zephyr"]["served"] == 0


def test_seeded_showers_are_the_same_with_and_without(client_of):
    with_stock, without = client_of(), client_of(reservoir_bytes=0)
    once_full(with_stock)
    body = {**BODY, "seed": 5}
    first, second = (client.post("/generate", json=body).json()["showers_mev"] for client in (with_stock, without))
    assert first == second


def test_none_without_memory(client_of):
    client = client_of(reservoir_bytes=0)
    assert states_of(client) is None
    assert kept_notes(client.post("/generate", json=BODY).json()["provenance"]) == []
    assert counts_of(client) == {}


def test_rows_beyond_the_stock_are_drawn(client_of):
    client = client_of()
    once_full(client)
    body = {**BODY, "showers_per_energy": PER_LEVEL + 4}
    provenance = client.post("/generate", json=body).json()["provenance"]
    assert kept_notes(provenance) == [NOTE]
    rows = PER_LEVEL + 4
    expected = [
        {"rows": [start, start + count], "notes": notes}
        for energy in range(3)
        for start, count, notes in ((energy * rows, PER_LEVEL, [NOTE]), (energy * rows + PER_LEVEL, 4, []))
    ]
    assert provenance["groups"] == expected


def test_memory_is_bounded(catalogue):
    bound = 200_000
    with SamplerRegistry([GibbsSampler(threads=1)]) as registry:
        small = Reservoirs(catalogue, registry, lambda: True, max_bytes=bound, per_level=1_000_000)
        states = [state for _, _, state in small.status()]
        assert len(states) == 2
        for state in states:
            assert 0.5 * bound / 2 < state["max_bytes"] + 16 * LEVEL_BYTES <= bound / 2
        none = Reservoirs(catalogue, registry, lambda: True, max_bytes=1000, per_level=10)
        assert list(none.status()) == []
        assert none.get("gibbs", "test-zephyr") is None
        for reservoirs in (small, none):
            reservoirs.close()


def test_a_reservoir_waits_while_there_is_work(catalogue):
    busy = True
    with SamplerRegistry([GibbsSampler(threads=1)]) as registry:
        reservoirs = Reservoirs(catalogue, registry, lambda: not busy, max_bytes=1 << 20, per_level=2)
        reservoirs.start()
        time.sleep(0.2)
        assert all(state["ready"] == 0 for _, _, state in reservoirs.status())
        busy = False
        for _ in range(3000):
            if all(state["ready"] == state["wanted"] for _, _, state in reservoirs.status()):
                break
            time.sleep(0.01)
        reservoirs.close()
        assert all(state["ready"] == 32 and not state["running"] for _, _, state in reservoirs.status())


def test_nothing_is_refilled_while_an_answer_is_encoded(client_of, monkeypatch):
    client = client_of()
    once_full(client)
    reservoirs = client.app.state.service.generator._cache
    seen = []

    def slowly(answer, wanted):
        time.sleep(0.3)
        seen.extend(state["ready"] for _, model, state in reservoirs.status() if model == "test-zephyr")
        return encode(answer, wanted)

    monkeypatch.setattr("qshower.service.http.routes.encode", slowly)
    assert client.post("/generate", json=BODY).status_code == 200
    assert seen == [16 * PER_LEVEL - 3]
    once_full(client)


def test_what_waits_for_a_qpu_leaves_the_cpu_idle(catalogue):
    """Waiting and being drawn there is idle; being decoded is not, nor is any other request."""
    bundle, drawing = catalogue.get(None), threading.Event()
    gibbs, metrics, seen = GibbsSampler(threads=1), Metrics(), []
    activity = metrics.activity

    class Slow:
        name, machine, geometry, conditions = bundle.name, bundle.machine, bundle.geometry, bundle.conditions

        def __init__(self, failure=None):
            self.failure = failure

        def sample(self, request):
            drawing.wait(30)
            return gibbs.sample(request)

        def decode(self, *latents):
            seen.append((activity.idle, activity.cpu_idle))
            if self.failure:
                raise self.failure
            return bundle.decode(*latents)

    async def work():
        engine = Engine(Limits(64, 1000, 10, 1 << 40, 1.0), metrics)
        streams = np.zeros((1, 2), np.uint64)

        async def ask(sampler, failure=None):
            key = DrawKey(bundle.name, sampler, SamplerOptions(sweeps=8), 0.0, elsewhere=sampler == "qpu")
            with activity.answering():
                one = Slow(failure)
                energies = np.array([5e4])
                work = Work(key, one, one, energies, bundle.conditions(energies), streams)
                await engine.submit(work).future

        try:
            tasks = [asyncio.create_task(ask("qpu")) for _ in range(2)]
            await asyncio.sleep(0.01)
            states = [(activity.idle, activity.cpu_idle)]
            tasks.append(asyncio.create_task(ask("gibbs")))
            await asyncio.sleep(0.01)
            states.append((activity.idle, activity.cpu_idle))
            drawing.set()
            await asyncio.gather(*tasks)
            states.append((activity.idle, activity.cpu_idle))
            with pytest.raises(RuntimeError, match="no"):
                await ask("qpu", RuntimeError("no"))
            states.append((activity.idle, activity.cpu_idle))
        finally:
            await engine.close(10)
        return states

    assert asyncio.run(work()) == [(False, True), (False, False), (True, True), (True, True)]
    assert set(seen) == {(False, False)}


def test_drawn_and_kept_latents_go_to_the_rows_they_are_for(catalogue):
    """The spins decoded are, row by row, those in stock or those of the row's own stream."""
    bundle, options = catalogue.get(None), SamplerOptions(sweeps=8)
    gibbs, seen = GibbsSampler(threads=1), []

    class Watched:
        """A bundle that shows which latents it decodes."""

        name, machine, geometry, conditions = bundle.name, bundle.machine, bundle.geometry, bundle.conditions

        def decode(self, spins, energies, streams, threshold_mev):
            seen.append((spins, energies, streams))
            return bundle.decode(spins, energies, streams, threshold_mev)

    energies = np.array([2e3, 5e5, 2e3, 2e3, 5e5])
    streams = np.stack([np.full(5, 3), np.arange(5)], axis=1).astype(np.uint64)
    reservoir = Reservoir(
        gibbs, bundle.machine, bundle.conditions(energies[:1]), per_level=2, max_bytes=10_000, options=options
    )
    assert reservoir.refill() == 2

    async def work():
        engine = Engine(Limits(64, 1000, 10, 1 << 40, 1.0), Metrics())
        key = DrawKey(bundle.name, "gibbs", options, 0.0, cached=True)
        try:
            conditions = bundle.conditions(energies)
            work = Work(key, Watched(), gibbs, energies, conditions, streams, cache=reservoir)
            return await engine.submit(work).future
        finally:
            await engine.close(10)

    drawn = asyncio.run(work())
    spins = seen[0][0]
    assert np.array_equal(spins[:, bundle.machine.condition_nodes], bundle.conditions(energies))
    assert [(part.start, part.stop) for part in drawn.parts] == [(0, 1), (1, 2), (2, 3), (3, 5)]
    assert [part.share for part in drawn.parts] == [1 / 2, 1 / 3, 1 / 2, 2 / 3]
    # Row 1 was drawn as the request's stream says; row 0, of a condition in stock, was not.
    alone = np.array([gibbs_row(gibbs, bundle, energies, streams, options, row) for row in range(5)])
    assert [bool(np.array_equal(spins[row], alone[row])) for row in range(5)] == [False, True, False, True, True]
    told = provenance_json(Origin("m", "0", "1", None, 0.0), drawn.parts, {})
    assert [group["rows"] for group in told["groups"]] == [[0, 1], [1, 2], [2, 3], [3, 5]]


def gibbs_row(gibbs, bundle, energies, streams, options, row):
    one = slice(row, row + 1)
    return gibbs.sample(LatentRequest(bundle.machine, bundle.conditions(energies[one]), streams[one], options)).spins[0]
