"""What answers from the first second on: that the service starts, until the application is there to answer itself."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from qshower.service.http.problem_json import problem_of, problem_response
from qshower.service.http.root_path import route_path, with_root_path
from qshower.service.service_errors import NotReadyError

LIVE: dict[str, dict[str, Any]] = {"/health/live": {"status": "live"}, "/v2/health/live": {"live": True}}
"""What the probes of liveness answer, by path."""


class Starting:
    """An ASGI application that stands for the one that ``make`` makes in a thread, which may take long.

    Until that one has started, the probes of liveness are 200 and everything else 503. ``failed`` is called if it
    cannot start; ``failure`` says why.
    """

    def __init__(
        self, make: Callable[[], FastAPI], failed: Callable[[], None], *, retry_after_s: float, root_path: str = ""
    ) -> None:
        self.app: FastAPI | None = None
        self.failure: BaseException | None = None
        self._make = make
        self._failed = failed
        self._retry_after_s = retry_after_s
        self._root_path = root_path
        self._stop = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application do so."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self.app is not None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(with_root_path(scope, self._root_path))(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    def _answer(self, scope: Scope) -> Response:
        live = LIVE.get(route_path(scope))
        if live is not None and scope["method"] in ("GET", "HEAD"):
            return JSONResponse(live)
        error = NotReadyError("the service is starting", retry_after_s=self._retry_after_s)
        return problem_response(*problem_of(error, self._retry_after_s))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        running = asyncio.create_task(self._run())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._stop.set()
        await running
        await send({"type": "lifespan.shutdown.complete"})

    async def _run(self) -> None:
        """The application from its making to its shutdown."""
        try:
            app = await in_daemon_thread(self._make)
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(app.router.lifespan_context(app))
                self.app = app
                await self._stop.wait()
        except BaseException as error:  # whatever it is ends the server, which raises it
            self.failure = error
            self._failed()


async def in_daemon_thread(work: Callable[[], FastAPI]) -> FastAPI:
    """What ``work`` returns. The process may end while it runs."""
    loop, made = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def tell(give: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(lambda: None if made.done() else give())

    def run() -> None:
        try:
            app = work()
        except BaseException as error:  # it belongs to whoever waits
            failure = error
            tell(lambda: made.set_exception(failure))
        else:
            tell(lambda: made.set_result(app))

    threading.Thread(target=run, name="start", daemon=True).start()
    result: FastAPI = await made
    return result
