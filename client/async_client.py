"""The client for programs with an event loop (asyncio or trio); what it does is what ``qshower.client.Client`` does.

Example::

    async with AsyncClient("http://127.0.0.1:8000") as client:
        showers = await client.generate([1000.0, 65536.0], seed=1)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack, cast

import anyio
import httpx2
from numpy.typing import ArrayLike

from qshower.client import calls
from qshower.client.calls import Choices
from qshower.client.exchange import Head, Item, Open, Pause, Read, Steps
from qshower.client.http_setup import CONNECT_TIMEOUT_S, open_http
from qshower.client.progress_display import Progress
from qshower.client.route import route_to
from qshower.client.shower_data import Estimate, Showers


class AsyncClient:
    """As ``Client``, with the same arguments; its methods are awaited."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        fallback_url: str | None = None,
        timeout_s: float = 600.0,
        longest_wait_s: float = 60.0,
        connect_wait_s: float = 0.0,
        http: httpx2.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._route = route_to(
            (url, fallback_url),
            api_key,
            timeout_s=timeout_s,
            longest_wait_s=longest_wait_s,
            connect_wait_s=connect_wait_s,
            proxied=http is None,
        )
        self._sleep = sleep
        self._owns = http is None
        self._http = http or open_http(httpx2.AsyncClient)

    @property
    def retries(self) -> int:
        """How often a request was sent again so far, all calls together."""
        return self._route.retries

    async def generate(
        self,
        energies_mev: ArrayLike,
        *,
        progress: Progress = False,
        timeout_s: float | None = None,
        **choices: Unpack[Choices],
    ) -> Showers:
        """As ``Client.generate``."""
        steps = calls.generate(energies_mev, choices, progress, timeout_s, self._route)
        return cast(Showers, await self._answer(steps))

    def iter_batches(
        self,
        energies_mev: ArrayLike,
        *,
        progress: Progress = False,
        timeout_s: float | None = None,
        **choices: Unpack[Choices],
    ) -> AsyncGenerator[Showers]:
        """As ``Client.iter_batches``, for ``async for``; ``contextlib.aclosing`` closes it early."""
        return self._items(calls.batches(energies_mev, choices, progress, timeout_s, self._route))

    async def save(
        self,
        path: str | Path,
        energies_mev: ArrayLike,
        *,
        progress: Progress = False,
        timeout_s: float | None = None,
        **choices: Unpack[Choices],
    ) -> None:
        """As ``Client.save``."""
        await self._answer(calls.save(Path(path), energies_mev, choices, progress, timeout_s, self._route))

    async def estimate(
        self, energies_mev: ArrayLike, *, timeout_s: float | None = None, **choices: Unpack[Choices]
    ) -> Estimate:
        """As ``Client.estimate``."""
        return cast(Estimate, await self._answer(calls.estimate(energies_mev, choices, timeout_s, self._route)))

    async def models(self, *, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """The models that are loaded, the default first."""
        return cast(list[dict[str, Any]], (await self._document("/models", timeout_s))["models"])

    async def model(self, name: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Geometry, domain, hash, training data and quality of a model."""
        return await self._document(f"/models/{name}", timeout_s)

    async def samplers(self, *, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """Which samplers can be used now, and why not."""
        return cast(list[dict[str, Any]], (await self._document("/samplers", timeout_s))["samplers"])

    async def ready(self) -> bool:
        """Whether the first service takes requests now."""
        try:
            return (await self._http.get(f"{self._route.urls[0]}/health/ready")).status_code == 200
        except httpx2.TransportError:
            return False

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        if self._owns:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    async def _document(self, path: str, timeout_s: float | None) -> dict[str, Any]:
        return cast(dict[str, Any], await self._answer(calls.document(path, timeout_s, self._route)))

    async def _answer(self, steps: Steps[None]) -> Any:
        """The last item of ``steps``, None if there is none."""
        answer = None
        async with aclosing(self._items(steps)) as items:
            async for answer in items:  # noqa: B007 - the last one is wanted
                pass
        return answer

    async def _items(self, steps: Steps[None]) -> AsyncGenerator[Any]:
        """Carry out ``steps`` and yield their items."""
        async with AsyncExitStack() as stack:
            stack.callback(steps.close)
            response = await stack.enter_async_context(AsyncExitStack())
            blocks: AsyncIterator[bytes] | None = None
            came: Head | bytes | None = None
            failed: httpx2.TransportError | None = None
            while True:
                try:
                    step = steps.send(came) if failed is None else steps.throw(failed)
                except StopIteration:
                    return
                came = failed = None
                try:
                    match step:
                        case Open():
                            await response.aclose()
                            timeout = httpx2.Timeout(step.timeout_s, connect=min(step.timeout_s, CONNECT_TIMEOUT_S))
                            opened = await response.enter_async_context(
                                self._http.stream(
                                    step.method, step.url, content=step.body, headers=step.headers, timeout=timeout
                                )
                            )
                            blocks = aiter(opened.aiter_bytes())
                            came = Head(opened.status_code, opened.reason_phrase, opened.headers)
                        case Read():
                            came = await anext(blocks, b"") if blocks is not None else b""
                        case Pause():
                            await response.aclose()
                            await self._sleep(step.seconds)
                        case Item():
                            yield step.value
                except httpx2.TransportError as error:
                    failed = error
