"""The emulator's HTTP side: the solver API on a loopback port, and an admin page for faults.

::

    GET    /sapi/v2/solvers/remote/?filter=…        the solver's definition, in a list
    GET    /sapi/v2/solvers/remote/NAME             the solver's definition
    POST   /sapi/v2/problems/                       submit a list of jobs (or one job)
    GET    /sapi/v2/problems/?id=A,B&timeout=30     statuses, by long poll
    GET    /sapi/v2/problems/ID/                    status and answer
    DELETE /sapi/v2/problems/                       cancel a list of ids
    GET    /admin/state                             counts and armed faults
    POST   /admin/fault {"name": …, "count": …}     arm a fault;  DELETE /admin/fault clears {"name": …} or all
"""

from __future__ import annotations

import errno
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable

from qshower.sampler.closing import Closing
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.fault_injection import FaultPlan, parse_fault
from qshower.sampler.emulator.handler import ApiHandler
from qshower.sampler.emulator.jobs import SolverBackend
from qshower.sampler.errors import InvalidInputError

HOST = "127.0.0.1"
API_PATH = "/sapi/v2"
CLOSE_S = 5.0


class EmulatorServer(Closing):
    """An emulated solver on a loopback port, from construction to ``close``.

    Example::

        with EmulatorServer(EmulatorConfig(topology="zephyr:12")) as emulator:
            sampler = DWaveSampler(endpoint=emulator.endpoint, token="any", cache_enabled=False)
    """

    def __init__(self, config: EmulatorConfig | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives the seconds that drift, queueing and maintenance go by.

        Raises InvalidInputError if the port is taken.
        """
        self.config = config if config is not None else EmulatorConfig()
        try:
            self._http = _HttpServer((HOST, self.config.port), ApiHandler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise InvalidInputError(
                "port", self.config.port, "a port that no other program uses; 0 takes a free one"
            ) from error
        self.faults = FaultPlan(self.config.faults)
        try:
            self.backend = SolverBackend(self.config, self.faults, clock)
        except BaseException:
            self._http.server_close()
            raise
        self._http.backend = self.backend
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, name="emulator-http", daemon=True
        )
        self._thread.start()
        self._closed = False

    @property
    def endpoint(self) -> str:
        """URL to give a client as its endpoint."""
        return f"http://{HOST}:{self._http.server_address[1]}{API_PATH}"

    @property
    def solver_name(self) -> str:
        """Name of the only solver."""
        return self.backend.chip.solver_name

    @property
    def graph_id(self) -> str:
        """Fingerprint of today's working graph."""
        return self.backend.chip.graph_id

    def arm(self, fault: str) -> None:
        """Arm a fault given as ``name`` or ``name:count``."""
        self.faults.arm(*parse_fault(fault))

    def close(self) -> None:
        """Stop at once: open requests are cut, running problems dropped. Ends within about 5 s. Idempotent."""
        if self._closed:
            return
        self._closed = True
        ends_at = time.monotonic() + CLOSE_S
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(CLOSE_S)
        self.backend.close(max(0.1, ends_at - time.monotonic()))
        self._http.cut_connections(max(0.1, ends_at - time.monotonic()))


def _print_at_once(line: str) -> None:
    # A script that waits for the endpoint reads a pipe, which Python would otherwise fill before it sends.
    print(line, flush=True)


def run_emulator(config: EmulatorConfig, announce: Callable[[str], None] = _print_at_once) -> None:
    """Serve until SIGTERM or Ctrl-C; ``announce`` is given the endpoint once it answers. Call from the main thread."""
    stop = threading.Event()
    with EmulatorServer(config) as emulator:
        previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            announce(emulator.endpoint)
            stop.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class _HttpServer(socketserver.TCPServer):
    """One daemon thread for each connection; connections can be cut."""

    allow_reuse_address = True
    request_queue_size = 128
    backend: SolverBackend

    def __init__(self, address: tuple[str, int], handler: type[ApiHandler]) -> None:
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        super().__init__(address, handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="emulator-connection", daemon=True
        )
        with self._lock:
            self._open[request] = thread
        thread.start()

    def _serve(self, request: socket.socket, client_address: object) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            # The client went away in the middle of a reply: nobody is left to tell.
            pass
        finally:
            with self._lock:
                self._open.pop(request, None)
            self.shutdown_request(request)

    def cut_connections(self, timeout_s: float) -> None:
        """Close every connection and wait for its thread."""
        with self._lock:
            still_open = dict(self._open)
        for request in still_open:
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                # Already closed by its own thread.
                continue
        ends_at = time.monotonic() + timeout_s
        for thread in still_open.values():
            thread.join(max(0.0, ends_at - time.monotonic()))
