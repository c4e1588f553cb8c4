"""uvicorn around the application: a port bound before anything slow, and a shutdown that drains."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from qshower.sampler.files import why
from qshower.service.api_keys import check_exposure, load_api_keys
from qshower.service.logs import configure_logs
from qshower.service.service_errors import SettingsError
from qshower.service.settings import Settings, service_link

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

BACKLOG = 2048

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


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Errors of the start are raised, not logged."""
    keys = load_api_keys(settings)
    check_exposure(settings, keys)
    configure_logs(settings)
    if (link := service_link()) is not None:
        _log.warning("ignored the service link of Kubernetes or Docker", variable="QSHOWER_PORT", value=link)
    with bind(settings) as listener:
        host, port = listener.getsockname()[:2]
        _log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
        # Only now, so that a port in use is reported at once and not after seconds of loading.
        import uvicorn

        from qshower.service.app import create_app
        from qshower.service.catalogue import load_catalogue
        from qshower.service.sampler_table import build_registry

        # Before the event loop, so that what is wrong with a bundle is one line and not a traceback of the server.
        catalogue, registry = load_catalogue(settings), build_registry(settings)
        app = create_app(settings, load_models=lambda _: catalogue, make_samplers=lambda _: registry)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=settings.logs.level == "debug",
            timeout_graceful_shutdown=max(1, round(settings.times.drain_timeout_s)),
            lifespan="on",
            server_header=False,
        )
        server = uvicorn.Server(config)
        _drain_first(server, app, settings.times.drain_grace_s)
        # uvicorn raises the signals it was stopped by once more when it is done; a clean stop is no failure.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listener])


def _drain_first(server: uvicorn.Server, app: FastAPI, grace_s: float) -> None:
    """On the first signal refuse new work, and let ``grace_s`` pass before uvicorn closes its connections."""
    stop = server.handle_exit

    def drain(sig: int, frame: FrameType | None) -> None:
        service = getattr(app.state, "service", None)
        first = service is not None and not service.engine.draining
        if service is not None:
            service.engine.drain()
        if first and grace_s > 0 and sig == signal.SIGTERM:
            threading.Timer(grace_s, stop, (sig, frame)).start()
        else:
            stop(sig, frame)

    server.handle_exit = drain  # type: ignore[method-assign]
