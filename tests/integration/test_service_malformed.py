"""Bodies that nobody should send: never an error of the service, never costly, never parsed where others wait."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from benchmarks.malformed_bodies import LEGAL, bodies, largest
from qshower.model.bundle import find_bundles, load_bundle
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.http import request_json
from qshower.service.settings import load_settings

Use = Callable[[httpx2.AsyncClient], Awaitable[None]]
JSON = {"content-type": "application/json"}


@pytest.fixture
def asking(untrained_bundles: Path) -> Callable[[Use], None]:
    """Runs a function with a client of a service in the same event loop."""
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}

    @asynccontextmanager
    async def service() -> AsyncIterator[httpx2.AsyncClient]:
        app = create_app(load_settings(qpu="off"), load_models=lambda _: Catalogue(bundles, "test-zephyr"))
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://service", timeout=None) as client:
                yield client

    def run(use: Use) -> None:
        async def main() -> None:
            async with service() as client:
                await use(client)

        asyncio.run(main())

    return run


def test_no_body_is_an_error_of_the_service(asking: Callable[[Use], None]) -> None:
    """Some; `python -m benchmarks.malformed_bodies` sends ten thousand."""

    async def use(client: httpx2.AsyncClient) -> None:
        for body in bodies(seed=1, count=200):
            answer = await client.post("/generate", content=body, headers=JSON)
            # 413: the answer would be too large; 504: some ask for a deadline that nothing can meet.
            assert answer.status_code in (200, 400, 404, 413, 422, 429, 504), body
            if answer.status_code != 200:
                assert len(answer.content) < 20_000
                assert orjson.loads(answer.content)["status"] == answer.status_code

    asking(use)


def test_bodies_of_the_largest_size_are_parsed_off_the_event_loop(
    asking: Callable[[Use], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def watched(body: bytes, most: int) -> Any:
        threads.append(threading.get_ident())
        return parsed(body, most)

    parsed = request_json.parsed
    monkeypatch.setattr(request_json, "parsed", watched)

    async def use(client: httpx2.AsyncClient) -> None:
        answer = await client.post("/generate", content=orjson.dumps(LEGAL), headers=JSON)
        assert answer.status_code == 200
        assert threads == [threading.get_ident()]
        threads.clear()
        sent = largest(load_settings().limits.most_body_bytes)
        for name, body in sent.items():
            answer = await client.post("/generate", content=body, headers=JSON)
            assert answer.status_code in (400, 422), name
            assert len(answer.content) < 4000
        assert len(threads) == len(sent)
        assert threading.get_ident() not in threads

    asking(use)
