"""uvicorn around the application: a socket that answers before anything slow is loaded, and a shutdown that drains."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from qshower.sampler.files import why
from qshower.service.api_keys import check_exposure, load_api_keys
from qshower.service.logs import configure_logs
from qshower.service.service_errors import SettingsError
from qshower.service.settings import Settings, service_link, unknown_variables

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from qshower.service.http.starting import Starting
    from qshower.service.running import Service

BACKLOG = 2048
SOCKET_MODE = 0o660
FORCED = 130

_log = structlog.get_logger("qshower.service")


def bind(settings: Settings) -> socket.socket:
    """A socket on the host and port of ``settings``; SettingsError if the port is in use or not allowed."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError("QSHOWER_HOST", settings.host, f"an address of this machine ({error})") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"QSHOWER_PORT={settings.port}: another program uses this port; choose another with --port"
            raise SettingsError("QSHOWER_PORT", settings.port, "a free port", message=message) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise SettingsError("QSHOWER_HOST", settings.host, "an address of this machine") from None
        message = f"QSHOWER_PORT={settings.port}: {why(error)}; choose another with --port"
        raise SettingsError("QSHOWER_PORT", settings.port, "a port one may use", message=message) from None
    return listener


def bind_unix(path: Path) -> socket.socket:
    """A Unix socket at ``path``, in the place of one that nobody listens on any more; SettingsError."""
    name, allowed = "QSHOWER_UNIX_SOCKET", "a new path, or a Unix socket that no other program listens on"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and _nobody_listens(path):
            path.unlink()
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        message = f"{name}={path}: {why(error)}; allowed: {allowed}"
        raise SettingsError(name, str(path), allowed, message=message) from None
    return listener


def _nobody_listens(path: Path) -> bool:
    if not stat.S_ISSOCK(path.stat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The socket that ``settings`` ask for, while it is listened on."""
    path = settings.connections.unix_socket
    with bind(settings) if path is None else bind_unix(path) as listener:
        try:
            yield listener
        finally:
            if path is not None:
                path.unlink(missing_ok=True)


def url_of(listener: socket.socket) -> str:
    """Where it can be reached."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Errors of the start are raised, not logged."""
    keys = load_api_keys(settings)
    check_exposure(settings, keys)
    configure_logs(settings)
    if (link := service_link()) is not None:
        _log.warning("ignored the service link of Kubernetes or Docker", variable="QSHOWER_PORT", value=link)
    for name, meant in unknown_variables().items():
        _log.warning("ignored a variable that is no setting", variable=name, **({"meant": meant} if meant else {}))
    if settings.grpc_port:
        from qshower.service.kserve.grpc_server import check_grpc_port

        check_grpc_port(settings)
    with listening(settings) as listener:
        _log.info("listening", url=url_of(listener))
        # Only now, so that a port in use is reported at once and not after seconds of loading.
        import uvicorn

        from qshower.service.http.starting import Starting

        def give_up() -> None:
            server.should_exit = True

        starting = Starting(
            lambda: _application(settings),
            give_up,
            retry_after_s=settings.times.retry_after_s,
            root_path=settings.connections.root_path,
        )
        server = uvicorn.Server(server_config(starting, settings))
        _drain_first(server, starting, settings)
        _reload_on_hangup(server, starting)
        # uvicorn raises the signals it was stopped by once more when it is done; a clean stop is no failure.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listener])
        if starting.failure is not None:
            raise starting.failure


def server_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration for ``app``, with connections under watch."""
    import uvicorn

    from qshower.service.http.connections import ConnectionWatch, limits_of

    connections = settings.connections
    return uvicorn.Config(
        app,
        http=ConnectionWatch(limits_of(settings)).protocol(),
        ws="none",
        log_config=None,
        # RequestIds writes a line for each request, with its id.
        access_log=False,
        timeout_keep_alive=max(1, round(connections.keep_alive_s)),
        timeout_graceful_shutdown=max(1, round(settings.times.drain_timeout_s)),
        forwarded_allow_ips=connections.trusted_proxies if connections.unix_socket is None else "*",
        lifespan="on",
        server_header=False,
    )


def _application(settings: Settings) -> FastAPI:
    """Import and load what takes long. What is wrong with a bundle is raised here, and becomes one line."""
    from qshower.service.app import create_app
    from qshower.service.catalogue import load_catalogue
    from qshower.service.sampler_table import build_registry

    catalogue, registry = load_catalogue(settings), build_registry(settings)
    return create_app(settings, load_models=lambda _: catalogue, make_samplers=lambda _: registry)


def _drain_first(server: uvicorn.Server, starting: Starting, settings: Settings) -> None:
    """On the first signal refuse new work, and let the grace pass before uvicorn closes its connections.

    While the service starts, and at a second SIGINT, there is nothing to wait for: the process ends.
    """
    stop, grace_s = server.handle_exit, settings.times.drain_grace_s

    def drain(sig: int, frame: FrameType | None) -> None:
        app = starting.app
        if app is None and starting.failure is None:
            _end(settings, 0, "stopped while starting")
        service: Service | None = None if app is None else app.state.service
        first = service is not None and not service.engine.draining
        if service is not None:
            service.engine.drain()
        if not first and sig == signal.SIGINT:
            _end(settings, FORCED, "stopped at once; what was in work is lost, problems on a QPU may still run")
        if first and grace_s > 0 and sig == signal.SIGTERM:
            threading.Timer(grace_s, stop, (sig, frame)).start()
        else:
            stop(sig, frame)

    server.handle_exit = drain  # type: ignore[method-assign]


def _end(settings: Settings, code: int, event: str) -> None:
    """End the process here and now, whatever its threads are at."""
    _log.warning(event)
    if settings.connections.unix_socket is not None:
        with suppress(OSError):
            settings.connections.unix_socket.unlink(missing_ok=True)
    sys.stderr.flush()
    os._exit(code)


def _reload_on_hangup(server: uvicorn.Server, starting: Starting) -> None:
    """On SIGHUP read the models again, as systemd's reload, nginx and Prometheus have it.

    A closed terminal sends it too: then the server stops, as a program does that runs in one.
    """
    in_terminal = _has_terminal()

    def reload(_: int, frame: FrameType | None) -> None:
        if in_terminal and not _has_terminal():
            server.handle_exit(signal.SIGTERM, frame)
            return
        if starting.app is not None:
            starting.app.state.service.reloading.request()

    signal.signal(signal.SIGHUP, reload)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
