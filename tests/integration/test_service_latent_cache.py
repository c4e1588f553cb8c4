"""Latent caches filled in idle time: what is served from them, what is not, and what an answer says about it."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from qshower.model.bundle import Bundle, find_bundles, load_bundle
from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.latent_cache import LatentCache
from qshower.sampler.registry import SamplerRegistry
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions, streams_of
from qshower.service.app import create_app
from qshower.service.background.idle_tracking import IdleTracking
from qshower.service.catalogue import Catalogue
from qshower.service.engine.admission import Limits
from qshower.service.engine.engine import Engine
from qshower.service.engine.work import DrawKey, Drawn, Work
from qshower.service.generation.answer_provenance import Origin, provenance_json
from qshower.service.generation.shower_request import ShowerAnswer
from qshower.service.http.encoding import encode
from qshower.service.http.negotiation import Wanted
from qshower.service.latent_cache.latent_caches import LatentCaches
from qshower.service.metrics import Metrics
from qshower.service.schemas import Estimate
from qshower.service.settings import load_settings, variables
from tests.polling import until

ClientMaker = Callable[..., TestClient]
CachesMaker = Callable[..., LatentCaches]

PER_CONDITION = 6
BODY = {"incident_energies_mev": [1000, 65536, 500000], "sampler": "gibbs"}


@pytest.fixture(scope="module")
def catalogue(untrained_bundles: Path) -> Catalogue:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    return Catalogue(bundles, "test-zephyr")


@pytest.fixture
def client_of(catalogue: Catalogue) -> Iterator[ClientMaker]:
    opened: list[TestClient] = []

    def make(**settings: Any) -> TestClient:
        values = {"qpu": "off", "latent_cache_per_condition": PER_CONDITION, **settings}
        client = TestClient(create_app(load_settings(**values), load_models=lambda _: catalogue))
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


def detail_of(client: TestClient, sampler: str = "gibbs") -> dict[str, Any]:
    samplers = {state["name"]: state for state in client.get("/samplers").json()["samplers"]}
    detail: dict[str, Any] = samplers[sampler]["detail"]
    return detail


def states_of(client: TestClient, sampler: str = "gibbs") -> dict[str, Any]:
    states: dict[str, Any] = detail_of(client, sampler)["latent_cache"]
    return states


def once_full(client: TestClient, sampler: str = "gibbs") -> dict[str, Any]:
    """The caches' states when all of them are full."""

    def full() -> dict[str, Any] | None:
        states = states_of(client, sampler)
        return states if all(state["ready"] == state["wanted"] for state in states.values()) else None

    states = until(full)
    assert states is not None
    return states


def has_ahead(client: TestClient, sampler: str, count: int) -> bool:
    """Whether so many latents of the default model are ready."""
    ready: int = states_of(client, sampler)["test-zephyr"]["ready"]
    return ready >= count


def counts_of(client: TestClient) -> dict[str, float]:
    found = re.findall(r"^qshower_latent_cache_(\w+)\{(.*?)\} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return {name: float(value) for name, labels, value in found if 'model="test-zephyr",sampler="gibbs"' in labels}


def test_a_plain_request_is_served_from_the_cache_and_says_so(client_of: ClientMaker) -> None:
    client = client_of()
    states = once_full(client)
    assert states["test-zephyr"]["wanted"] == 16 * PER_CONDITION
    assert set(states) == {"test-zephyr", "test-pegasus"}
    response = client.post("/generate", json=BODY)
    assert response.status_code == 200, response.text
    provenance = response.json()["provenance"]
    assert provenance["from_cache"] is True
    assert (provenance["sampler"], provenance["sweeps"], provenance["seed"]) == ("gibbs", 32, None)
    assert "groups" not in provenance
    showers = np.array(response.json()["showers_mev"])
    assert (np.diff(showers.sum(axis=1)) > 0).all()
    counts = counts_of(client)
    assert counts["consumed_total"] == 3
    assert counts["missed_total"] == 0
    assert counts["wanted"] == 16 * PER_CONDITION
    # It fills up again.
    assert once_full(client)["test-zephyr"]["consumed"] == 3


def test_a_cache_that_cannot_be_told_of_leaves_the_other_metrics() -> None:
    one = {"ready": 5, "wanted": 9, "bytes": 70, "consumed": 2, "missed": 1}

    def status() -> Iterator[tuple[str, str, dict[str, int]]]:
        yield "gibbs", "m", one
        raise SamplerUnavailableError("calibrations.json cannot be read")

    metrics = Metrics()
    metrics.watch_latent_caches(status)
    page = metrics.page().decode()
    assert 'qshower_latent_cache_ready{model="m",sampler="gibbs"} 5.0' in page
    assert "qshower_queue_rows" in page


def test_any_cacheable_sampler_s_cache_is_filled_once_it_was_asked_for(client_of: ClientMaker) -> None:
    client = client_of(latent_cache_per_condition=2)
    once_full(client)
    for sampler in ("annealing", "tempering"):
        assert {state["ready"] for state in states_of(client, sampler).values()} == {0}
        first = client.post("/generate", json={**BODY, "sampler": sampler}).json()["provenance"]
        assert first["from_cache"] is False
        until(partial(has_ahead, client, sampler, 32))
        seeded, plain = (
            client.post("/generate", json={**BODY, "sampler": sampler, **change}).json()["provenance"]
            for change in ({"seed": 1}, {})
        )
        assert (seeded["from_cache"], plain["from_cache"]) == (False, True)
        # As the request would have had it drawn.
        assert (plain["sampler"], plain["sweeps"]) == (sampler, seeded["sweeps"])
        assert states_of(client, sampler)["test-pegasus"]["ready"] == 0
    bounds = [
        state["max_bytes"] for name in ("gibbs", "annealing", "tempering") for state in states_of(client, name).values()
    ]
    assert sum(bounds) <= 32 << 20


def test_the_interface_s_page_tells_of_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    dry_run = page[page.index("### Dry run") : page.index("### Latent cache")]
    assert [name for name in Estimate.model_fields if f"`{name}`" not in dry_run] == []
    cache = page[page.index("### Latent cache") :].split("\n### ")[0]
    assert "`from_cache`" in cache
    named = re.findall(r"QSHOWER_[A-Z_]+", cache)
    assert set(named) <= {variable.name for variable in variables()}


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"options": {"sweeps": 32}}, {"sampler": "annealing"}], ids=["seed", "options", "annealing"]
)
def test_who_asks_for_more_than_showers_gets_a_draw(client_of: ClientMaker, change: dict[str, Any]) -> None:
    client = client_of()
    once_full(client)
    provenance = client.post("/generate", json={**BODY, **change}).json()["provenance"]
    assert provenance["from_cache"] is False
    assert states_of(client)["test-zephyr"]["consumed"] == 0


def test_seeded_showers_are_the_same_with_and_without(client_of: ClientMaker) -> None:
    with_cache, without = client_of(), client_of(latent_cache_bytes=0)
    once_full(with_cache)
    body = {**BODY, "seed": 5}
    first, second = (client.post("/generate", json=body).json()["showers_mev"] for client in (with_cache, without))
    assert first == second


def test_none_without_memory(client_of: ClientMaker) -> None:
    client = client_of(latent_cache_bytes=0)
    assert detail_of(client).get("latent_cache") is None
    assert client.post("/generate", json=BODY).json()["provenance"]["from_cache"] is False
    assert counts_of(client) == {}


def test_rows_beyond_the_cached_are_drawn(client_of: ClientMaker) -> None:
    client = client_of()
    once_full(client)
    body = {**BODY, "showers_per_energy": PER_CONDITION + 4}
    provenance = client.post("/generate", json=body).json()["provenance"]
    assert provenance["from_cache"] is None
    rows = PER_CONDITION + 4
    expected = [
        {"rows": [start, start + count], "from_cache": cached}
        for energy in range(3)
        for start, count, cached in ((energy * rows, PER_CONDITION, True), (energy * rows + PER_CONDITION, 4, False))
    ]
    assert provenance["groups"] == expected


@pytest.fixture
def caches_of(catalogue: Catalogue) -> Iterator[CachesMaker]:
    """Makes latent caches of Gibbs samples."""
    with SamplerRegistry([GibbsSampler(threads=1)]) as registry:
        opened: list[LatentCaches] = []

        def make(idle: Callable[[], bool] = lambda: True, **values: Any) -> LatentCaches:
            settings: dict[str, Any] = {"max_bytes": 1 << 20, "per_condition": 2, "max_age_s": 60.0} | values
            opened.append(LatentCaches(catalogue, registry, idle, **settings))
            return opened[-1]

        yield make
        for caches in opened:
            caches.close()


def test_memory_is_bounded(caches_of: CachesMaker, catalogue: Catalogue) -> None:
    states = [state for _, _, state in caches_of(max_bytes=200_000, per_condition=1_000_000).status()]
    assert [state["max_bytes"] for state in states] == [100_000] * 2
    none = caches_of(max_bytes=0)
    assert list(none.status()) == []
    assert none.claim("gibbs", catalogue.get(None), np.ones((1, 4), np.int8)) is None


def test_a_cache_waits_while_there_is_work(caches_of: CachesMaker) -> None:
    asked, busy = threading.Semaphore(0), [True]

    def idle() -> bool:
        asked.release()
        return not busy[0]

    caches = caches_of(idle)
    caches.start()
    for _ in range(3):
        assert asked.acquire(timeout=60)
    assert all(state["ready"] == 0 for _, _, state in caches.status())
    busy[0] = False
    while any(state["ready"] < state["wanted"] for _, _, state in caches.status()):
        assert asked.acquire(timeout=60)
    assert all(state["ready"] == 32 for _, _, state in caches.status())


def test_nothing_is_drawn_ahead_while_an_answer_is_encoded(
    client_of: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of()
    once_full(client)
    caches = cast(FastAPI, client.app).state.service.generator._cache
    filling, asked, seen = caches._filling, threading.Semaphore(0), list[int]()
    idle = filling._idle

    def watched() -> bool:
        asked.release()
        return idle()

    def slowly(answer: ShowerAnswer, wanted: Wanted) -> bytes:
        monkeypatch.setattr(filling, "_idle", watched)
        for _ in range(3):
            assert asked.acquire(timeout=60)
        states = {(sampler, model): state["ready"] for sampler, model, state in caches.status()}
        seen.append(states["gibbs", "test-zephyr"])
        return encode(answer, wanted)

    monkeypatch.setattr("qshower.service.http.answer_stream.encode", slowly)
    assert client.post("/generate", json=BODY).status_code == 200
    assert seen == [16 * PER_CONDITION - 3]
    once_full(client)


def test_what_waits_for_a_qpu_leaves_the_cpu_idle(catalogue: Catalogue) -> None:
    """Waiting and being drawn there is idle; being decoded is not, nor is any other request."""
    bundle, drawing = catalogue.get(None), threading.Event()
    gibbs, idle, seen = GibbsSampler(threads=1), IdleTracking(), list[bool]()

    class Slow:
        name, machine, geometry, conditions = bundle.name, bundle.machine, bundle.geometry, bundle.conditions

        def __init__(self, failure: Exception | None = None) -> None:
            self.failure = failure

        def sample(self, request: LatentRequest) -> LatentBatch:
            drawing.wait(30)
            return gibbs.sample(request)

        def decode(self, *latents: Any) -> NDArray[np.float32]:
            seen.append(idle.cpu_idle)
            if self.failure:
                raise self.failure
            return bundle.decode(*latents)

    async def work() -> list[bool]:
        engine = Engine(Limits(64, 1000, 10, 1 << 40, 1.0), Metrics(), idle)
        streams, asked = np.zeros((1, 2), np.uint64), asyncio.Semaphore(0)

        async def ask(sampler: str, failure: Exception | None = None) -> None:
            key = DrawKey(bundle.name, sampler, SamplerOptions(sweeps=8), 0.0, elsewhere=sampler == "qpu")
            with idle.answering():
                one = Slow(failure)
                energies = np.array([5e4])
                work = Work(key, cast(Bundle, one), one, energies, bundle.conditions(energies), streams)
                queued = engine.submit(work)
                asked.release()
                await queued.whole()

        try:
            tasks = [asyncio.create_task(ask("qpu")) for _ in range(2)]
            await asked.acquire()
            await asked.acquire()
            states = [idle.cpu_idle]
            tasks.append(asyncio.create_task(ask("gibbs")))
            await asked.acquire()
            states.append(idle.cpu_idle)
            drawing.set()
            await asyncio.gather(*tasks)
            states.append(idle.cpu_idle)
            with pytest.raises(RuntimeError, match="no"):
                await ask("qpu", RuntimeError("no"))
            states.append(idle.cpu_idle)
        finally:
            await engine.close(10)
        return states

    assert asyncio.run(work()) == [True, False, True, True]
    assert set(seen) == {False}


def test_drawn_and_cached_latents_go_to_the_rows_they_are_for(catalogue: Catalogue) -> None:
    """The spins decoded are, row by row, those cached or those of the row's own stream."""
    bundle, options = catalogue.get(None), SamplerOptions(sweeps=8)
    gibbs, seen = GibbsSampler(threads=1), list[tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.uint64]]]()

    class Watched:
        """A bundle that shows which latents it decodes."""

        name, machine, geometry, conditions = bundle.name, bundle.machine, bundle.geometry, bundle.conditions

        def decode(
            self,
            spins: NDArray[np.int8],
            energies: NDArray[np.float64],
            streams: NDArray[np.uint64],
            threshold_mev: float,
        ) -> NDArray[np.float32]:
            seen.append((spins, energies, streams))
            return bundle.decode(spins, energies, streams, threshold_mev)

    energies = np.array([2e3, 5e5, 2e3, 2e3, 5e5])
    streams = streams_of(3, 5)
    cache = LatentCache(bundle.machine, 10_000)
    with AnnealingSampler(1) as other:
        ahead = other.sample(LatentRequest(bundle.machine, bundle.conditions(energies[[0, 0]]), streams[:2]))
    assert cache.put(ahead.spins, ahead.provenance) == 2

    async def work() -> Drawn:
        engine = Engine(Limits(64, 1000, 10, 1 << 40, 1.0), Metrics())
        key = DrawKey(bundle.name, "gibbs", options, 0.0)
        try:
            conditions = bundle.conditions(energies)
            work = Work(
                key, cast(Bundle, Watched()), gibbs, energies, conditions, streams, claim=cache.claim(conditions)
            )
            return await engine.submit(work).whole()
        finally:
            await engine.close(10)

    drawn = asyncio.run(work())
    spins = seen[0][0]
    assert np.array_equal(spins[:, bundle.machine.condition_nodes], bundle.conditions(energies))
    assert [(part.start, part.stop) for part in drawn.parts] == [(0, 1), (1, 2), (2, 3), (3, 5)]
    assert [part.share for part in drawn.parts] == [1 / 2, 1 / 3, 1 / 2, 2 / 3]
    # Row 1 was drawn as the request's stream says; row 0, of a cached condition, was not.
    alone = np.array([gibbs_row(gibbs, bundle, energies, streams, options, row) for row in range(5)])
    assert [bool(np.array_equal(spins[row], alone[row])) for row in range(5)] == [False, True, False, True, True]
    told = provenance_json(Origin("m", 1, "0", "1", None, 0.0), drawn.parts, {})
    assert [group["rows"] for group in told["groups"]] == [[0, 1], [1, 2], [2, 3], [3, 5]]


def gibbs_row(
    gibbs: GibbsSampler,
    bundle: Bundle,
    energies: NDArray[np.float64],
    streams: NDArray[np.uint64],
    options: SamplerOptions,
    row: int,
) -> NDArray[np.int8]:
    one = slice(row, row + 1)
    return gibbs.sample(LatentRequest(bundle.machine, bundle.conditions(energies[one]), streams[one], options)).spins[0]
