"""Banks in the service: requests are served whole or not at all, and fail nobody else."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from qshower.client import Client, UnavailableError
from qshower.model.bundle import find_bundles, load_bundle
from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.bank_file import open_bank
from qshower.sampler.claim import Claim
from qshower.sampler.errors import BankExhaustedError, SamplerUnavailableError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.packed_spins import unpack_spins
from qshower.sampler.protocol import Sampler
from qshower.sampler.registry import SamplerRegistry
from qshower.sampler.replay import ReplaySampler, draw_bank
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions, streams_of
from qshower.sampler.tempering import TemperingSampler
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.generation.sampler_status import SamplerStatus
from qshower.service.generation.selection import Selection
from qshower.service.generation.shower_request import ShowerAnswer, ShowerRequest
from qshower.service.metrics import Metrics
from qshower.service.running import Service, running_service
from qshower.service.schemas import SamplerState
from qshower.service.settings import load_settings

Value = TypeVar("Value")


class OnService(Protocol):
    """Runs a coroutine function with a service."""

    def __call__(self, work: Callable[[Service], Awaitable[Value]], **settings: Any) -> Value: ...


FEW_MEV, MANY_MEV = 2000.0, 500_000.0
FEW, MANY = 5, 100
BATCH_ROWS = 64


@pytest.fixture(scope="module")
def catalogue(untrained_bundles: Path) -> Catalogue:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    return Catalogue(bundles, "test-zephyr")


@pytest.fixture(scope="module")
def bank_of(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Draws a bank of FEW and MANY latents of two conditions of a model."""

    def draw(model: str) -> Path:
        bundle, path = catalogue.get(model), tmp_path_factory.mktemp("banks") / f"{model}.hdf5"
        conditions = bundle.conditions(np.repeat([FEW_MEV, MANY_MEV], [FEW, MANY]))
        assert len(np.unique(conditions, axis=0)) == 2
        with GibbsSampler(threads=1) as sampler:
            draw_bank(path, sampler, bundle.machine, conditions, seed=3, options=SamplerOptions(sweeps=2))
        return path

    return draw


@pytest.fixture(scope="module")
def bank(bank_of: Callable[[str], Path]) -> Path:
    return bank_of("test-zephyr")


@pytest.fixture
def on_service(catalogue: Catalogue) -> OnService:
    """Runs a coroutine function with the generator of a service, in an event loop of its own."""

    def run(work: Callable[[Service], Awaitable[Value]], **settings: Any) -> Value:
        async def whole() -> Value:
            known = load_settings(qpu="off", max_batch_rows=BATCH_ROWS, **settings)
            async with running_service(known, Metrics(), lambda _: catalogue, warm=False) as service:
                return await asyncio.wait_for(work(service), 60)

        return asyncio.run(whole())

    return run


def order(energy_mev: float, rows: int, **changes: Any) -> ShowerRequest:
    return ShowerRequest(np.full(rows, energy_mev), sampler="replay", **changes)


def left(service: Service) -> int:
    left: int = service.samplers.of("replay").detail.get("left", 0)
    return left


def test_a_refused_request_uses_nothing_up_and_fails_nobody_else(on_service: OnService, bank: Path) -> None:
    async def work(service: Service) -> tuple[list[ShowerAnswer | BaseException], int, ShowerAnswer]:
        # What comes while the first is drawn would go together, were it drawn.
        orders = [order(MANY_MEV, 1), order(FEW_MEV, FEW + 1), order(MANY_MEV, 3), order(MANY_MEV, MANY + 1)]
        answers = await asyncio.gather(*map(service.generator.generate, orders), return_exceptions=True)
        return answers, left(service), await service.generator.generate(order(MANY_MEV, MANY - 4))

    (first, short, other, long), rest, last = on_service(work, bank=bank)
    assert isinstance(first, ShowerAnswer)
    assert isinstance(other, ShowerAnswer)
    assert (first.showers_mev.shape[0], other.showers_mev.shape[0]) == (1, 3)
    for refused in (short, long):
        assert isinstance(refused, BankExhaustedError)
        assert "1 of 1 conditions" in str(refused)
    assert rest == FEW + MANY - 4
    # Drawn and decoded in batches like any other.
    assert last.showers_mev.shape[0] == MANY - 4 > BATCH_ROWS


def test_a_request_of_several_batches_has_the_bank_in_order(
    on_service: OnService, catalogue: Catalogue, bank: Path
) -> None:
    async def work(service: Service) -> ShowerAnswer:
        return await service.generator.generate(order(MANY_MEV, MANY, seed=1))

    answer = on_service(work, bank=bank)
    bundle = catalogue.get(None)
    spins = unpack_spins(open_bank(bank).packed[FEW:], bundle.machine.node_count)
    streams = streams_of(1, MANY)
    energies = np.full(MANY, MANY_MEV)
    assert np.array_equal(answer.showers_mev, bundle.decode(spins, energies, streams, bundle.geometry.threshold_mev))


def test_what_is_given_up_goes_back_to_its_place(
    on_service: OnService, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = threading.Event(), threading.Event()
    unpacked = Claim.spins

    def slow(claim: Claim, *rows: int) -> NDArray[np.int8]:
        begun.set()
        assert gate.wait(30)
        return unpacked(claim, *rows)

    async def work(service: Service) -> tuple[int, int]:
        with monkeypatch.context() as patch:
            patch.setattr(Claim, "spins", slow)
            task = asyncio.create_task(service.generator.generate(order(FEW_MEV, 2)))
            await asyncio.to_thread(begun.wait, 30)
            held = left(service)
            task.cancel()
            await asyncio.wait([task])
            gate.set()
        return held, left(service)

    assert on_service(work, bank=bank) == (FEW + MANY - 2, FEW + MANY)


def test_the_order_and_its_seed_are_settings(on_service: OnService, bank: Path) -> None:
    async def work(service: Service) -> NDArray[np.float32]:
        return (await service.generator.generate(order(MANY_MEV, MANY, seed=1))).showers_mev

    in_file = on_service(work, bank=bank)
    one, again, other = (on_service(work, bank=bank, bank_order="random", bank_seed=seed) for seed in (1, 1, 2))
    # A chance of 1/100! that a shuffle changes nothing, or that two seeds shuffle alike.
    assert np.array_equal(one, again)
    assert not np.array_equal(one, in_file)
    assert not np.array_equal(one, other)


def test_what_a_bank_has_run_out_of_is_not_waited_for(catalogue: Catalogue, bank: Path) -> None:
    settings = load_settings(qpu="off", bank=bank, latent_cache_bytes=0)
    pauses: list[float] = []
    with TestClient(create_app(settings, load_models=lambda _: catalogue)) as http:
        client = Client("http://testserver", http=http, sleep=pauses.append)
        client.generate([FEW_MEV] * FEW, sampler="replay")
        client.generate([MANY_MEV] * (MANY - 1), sampler="replay")
        # One condition has run out, then all of them have.
        for left, of in ((1, 2), (0, 1)):
            with pytest.raises(UnavailableError) as caught:
                client.generate([FEW_MEV, MANY_MEV][:of], sampler="replay")
            assert caught.value.retry_after_s is None
            assert caught.value.problem["type"] == "urn:qshower:bank-exhausted"
            ran_out = f"1 latents asked for and 0 left for 1 of {of} conditions ({left} left in all)"
            assert caught.value.problem["detail"] == f"the bank {bank.name} is exhausted: {ran_out}"
            if left:
                client.generate([MANY_MEV], sampler="replay")
    assert pauses == []


@pytest.mark.parametrize(
    ("fallback", "wait", "kind"),
    [
        # Neither comes back by itself.
        (["qpu"], None, "bank-exhausted"),
        # One of them does.
        (["annealing"], "7", "sampler-unavailable"),
        (["qpu", "annealing"], "7", "sampler-unavailable"),
    ],
)
def test_when_to_try_again_is_told_only_if_that_helps(
    catalogue: Catalogue, bank: Path, fallback: list[str], wait: str | None, kind: str
) -> None:
    class Down(AnnealingSampler):
        def sample(self, request: LatentRequest) -> LatentBatch:
            raise SamplerUnavailableError("in maintenance", retry_after_s=7.0)

    settings = load_settings(qpu="off", latent_cache_bytes=0, retry_after_s=99)
    samplers: list[Sampler] = [GibbsSampler(threads=1), TemperingSampler(1), Down(1), ReplaySampler(bank)]
    app = create_app(settings, load_models=lambda _: catalogue, make_samplers=lambda _: SamplerRegistry(samplers))
    with pytest.MonkeyPatch.context() as patch:
        # What is warmed is drawn.
        patch.setattr("qshower.service.running.warm_up", lambda *_: None)
        with TestClient(app) as http:
            body = {"incident_energies_mev": [FEW_MEV] * (FEW + 1), "sampler": "replay", "fallback": fallback}
            refused = http.post("/generate", json=body)
    assert (refused.status_code, refused.headers.get("retry-after")) == (503, wait), refused.text
    problem = refused.json()
    assert problem["type"] == f"urn:qshower:{kind}"
    for name in ("replay", *fallback):
        assert f"{name}: " in problem["detail"]


def test_a_bank_chooses_its_model(on_service: OnService, bank_of: Callable[[str], Path]) -> None:
    async def work(service: Service) -> tuple[str, str, SamplerState]:
        first = await service.generator.generate(order(MANY_MEV, 2))
        named = await service.generator.generate(order(MANY_MEV, 2, model="test-pegasus"))
        with pytest.raises(SamplerUnavailableError, match="another machine"):
            await service.generator.generate(order(MANY_MEV, 2, model="test-zephyr"))
        return first.origin.model, named.origin.model, service.samplers.of("replay")

    first, named, state = on_service(work, bank=bank_of("test-pegasus"))
    assert (first, named) == ("test-pegasus", "test-pegasus")
    assert state.available
    assert state.detail["model"] == "test-pegasus"


def test_a_bank_that_fits_several_models_chooses_none(catalogue: Catalogue, bank_of: Callable[[str], Path]) -> None:
    """The same machine with two decoders: which one is meant is for the request to say."""
    pegasus = catalogue.get("test-pegasus")
    bundles = {"test-zephyr": catalogue.get("test-zephyr"), "test-pegasus": pegasus, "twin": pegasus}
    with ReplaySampler(bank_of("test-pegasus")) as replay:
        for default, chosen in (("test-zephyr", "test-zephyr"), ("test-pegasus", "test-pegasus")):
            status = SamplerStatus(Selection(Catalogue(bundles, default), SamplerRegistry([replay])))
            assert status.of("replay").detail["model"] == chosen
