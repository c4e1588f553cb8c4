"""The path under which a proxy publishes the service (ASGI's ``root_path``), whether or not the proxy takes it off."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


def with_root_path(scope: Scope, root_path: str) -> Scope:
    """``scope`` of a request whose path begins with ``root_path``, as ASGI wants it."""
    if not root_path or scope["type"] not in ("http", "websocket"):
        return scope
    path: str = scope["path"]
    under = path == root_path or path.startswith(f"{root_path}/")
    return {**scope, "root_path": root_path, "path": path if under else root_path + path}


def route_path(scope: Scope) -> str:
    """The path as routes have it."""
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    return path.removeprefix(root_path) if root_path and path.startswith(f"{root_path}/") else path


class RootPath:
    """Puts ``root_path`` into requests."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        await self._app(with_root_path(scope, self._root_path), receive, send)
