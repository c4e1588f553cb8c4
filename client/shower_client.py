"""A client of the service: showers as numpy arrays, problems as typed errors. Needs numpy and httpx2, nothing else.

Example::

    with ShowerClient("http://127.0.0.1:8000") as client:
        showers = client.generate([1000.0, 65536.0], seed=1)
        print(showers.showers_mev.sum(axis=1), showers.provenance["sampler"])
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import logging
import os
import secrets
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import httpx2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from qshower.client.client_errors import BY_STATUS, BadAnswerError, ConnectionFailedError, RefusedError
from qshower.client.http_setup import checked_url, headers_of, open_http, proxy_variable
from qshower.client.request_body import request_body

JSON = "application/json"
NPZ = "application/x-npz"
HDF5 = "application/x-hdf5"
FIRST_PAUSE_S = 0.2
READ_BYTES = 1 << 20

_log = logging.getLogger("qshower.client")


@dataclass(frozen=True, slots=True, eq=False)
class Showers:
    """What the service generated.

    Attributes:
        incident_energies_mev: (N,) float64.
        showers_mev: (N, voxels) float32, in the order asked for.
        geometry: the voxel layout: layers with their r_edges_mm and angular_bins.
        provenance: model, sampler, seed and the rest of how they came to be.
    """

    incident_energies_mev: NDArray[np.float64]
    showers_mev: NDArray[np.float32]
    geometry: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request would take on a QPU, had it not been a dry run.

    Attributes:
        model, solver, graph_id: what would be drawn, and where.
        access_time_us: QPU access time to be billed, that of a calibration on the way included.
        calibration_us: the calibration's part of it; 0 if there is one already.
        problems: problems to submit, without a calibration's.
        reads: reads of all of them.
        conditions: different conditions.
        copies: conditions side by side on the chip.
        missing_qubits: spins of the model without a working qubit.
        cached: showers that cached reads would answer, at no cost; the other figures are for the rest.
    """

    model: str
    solver: str
    graph_id: str
    access_time_us: float
    calibration_us: float
    problems: int
    reads: int
    conditions: int
    copies: int
    missing_qubits: int
    cached: int


class Choices(TypedDict, total=False):
    """The fields of ``POST /generate`` beside the energies; what is left out or None is the service's choice.

    Scalars of numpy and torch are taken as the numbers that they hold.
    """

    showers_per_energy: int
    sampler: str
    fallback: Sequence[str]
    solver: str | None
    model: str | None
    seed: int | None
    options: Mapping[str, Any]
    threshold_mev: float | None
    deadline_s: float | None


class ShowerClient:
    """Talks to one service over one pool of connections. A context manager; safe to use from several threads.

    Waits and tries again where the service says when (429, 503 with Retry-After), and, if asked to, where no connection
    can be made; never after a request has been sent and lost, since a QPU draw may then be billed twice. Each pause is
    logged (``qshower.client``, a warning) and counted in ``retries``.

    Args:
        url: of the service, such as ``http://127.0.0.1:8000``.
        api_key: sent as a bearer token; None where the service asks for none.
        timeout_s: longest silence of the server while it works on an answer.
        longest_wait_s: longest time, all pauses of one call together, to wait where the service says when to try again;
            0 never waits.
        connect_wait_s: the same where nobody listens at ``url``, such as a service that is being started; 0, the
            default, fails at once.
        http: an httpx2 client to use instead of an own one; it is not closed.
        sleep: called with the seconds of each pause.

    Raises:
        ClientConfigurationError: ``url``, ``api_key`` or a proxy that the environment names cannot be used.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        timeout_s: float = 600.0,
        longest_wait_s: float = 60.0,
        connect_wait_s: float = 0.0,
        http: httpx2.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url, self._headers = checked_url(url), headers_of(api_key)
        self._longest_wait_s, self._connect_wait_s = longest_wait_s, connect_wait_s
        self._sleep = sleep
        self._retries, self._counting = 0, threading.Lock()
        self._owns = http is None
        self._http = http or open_http(timeout_s)

    @property
    def retries(self) -> int:
        """How often a request was sent again so far, all calls together."""
        return self._retries

    def generate(self, incident_energies_mev: ArrayLike, **choices: Unpack[Choices]) -> Showers:
        """Draw a shower (or ``showers_per_energy``) for each energy; ``choices`` are those of ``POST /generate``.

        Energies may be a number, a list, an array (N,) or (N, 1), or a column of pandas or torch.

        Returns:
            Energies and showers in MeV in the order of the request, the geometry, and how the showers came to be.

        Raises:
            ShowerServiceError: see client.client_errors.
        """
        body = request_body(incident_energies_mev, choices)
        response = self._send("POST", "/generate", NPZ, body)
        try:
            with np.load(io.BytesIO(response.content), allow_pickle=False) as arrays:
                showers = Showers(
                    arrays["incident_energies_mev"],
                    arrays["showers_mev"],
                    json.loads(str(arrays["geometry"])),
                    json.loads(str(arrays["provenance"])),
                )
        except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise BadAnswerError(f"the answer is no npz file of showers: {error}") from error
        _check_count(showers, len(body["incident_energies_mev"]) * body.get("showers_per_energy", 1))
        return showers

    def estimate(self, incident_energies_mev: ArrayLike, **choices: Unpack[Choices]) -> Estimate:
        """What ``generate`` would take on a QPU: a dry run, which draws and bills nothing.

        ``sampler`` is ``qpu`` unless ``choices`` say otherwise.

        Returns:
            QPU access time in µs, problems, reads, conditions and copies, and how many showers cached reads answer.

        Raises:
            ShowerServiceError: see client.client_errors; InvalidRequestError for a sampler that bills nothing.
        """
        body = {"sampler": "qpu", **request_body(incident_energies_mev, choices), "dry_run": True}
        answered = _document(self._send("POST", "/generate", JSON, body), "the dry run").get("estimate")
        try:
            return Estimate(**{one.name: _number_or_text(answered, one) for one in fields(Estimate)})
        except (KeyError, TypeError) as error:
            raise BadAnswerError(f"the dry run did not answer with an estimate: {answered!r}") from error

    def save(
        self,
        path: Path,
        incident_energies_mev: ArrayLike,
        *,
        progress: Callable[[int, int | None], None] | None = None,
        **choices: Unpack[Choices],
    ) -> None:
        """As ``generate``, into a CaloChallenge HDF5 file, which appears whole or not at all.

        ``progress`` is called with the bytes received and the bytes in all, if they are known.

        Raises:
            ShowerServiceError: see client.client_errors.
            OSError: the file cannot be written, or is a device or pipe; what stood there before still does.
        """
        body = request_body(incident_energies_mev, choices)
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "not a regular file; nothing else is replaced", str(path))
        path = path.resolve()
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            with temporary.open("xb") as file:
                self._send("POST", "/generate", HDF5, body, _Sink(file.write, progress))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def models(self) -> list[dict[str, Any]]:
        """The models that are loaded, the default first."""
        found: list[dict[str, Any]] = self._json("/models")["models"]
        return found

    def model(self, name: str) -> dict[str, Any]:
        """Geometry, domain, hash, training data and quality of a model."""
        return self._json(f"/models/{name}")

    def samplers(self) -> list[dict[str, Any]]:
        """Which samplers can be used now, and why not."""
        found: list[dict[str, Any]] = self._json("/samplers")["samplers"]
        return found

    def ready(self) -> bool:
        """Whether the service takes requests now."""
        try:
            return self._http.get(f"{self._url}/health/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def close(self) -> None:
        """Close the connections. Idempotent."""
        if self._owns:
            self._http.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _json(self, path: str) -> dict[str, Any]:
        return _document(self._send("GET", path, JSON, None), path)

    def _send(
        self, method: str, path: str, accept: str, body: dict[str, Any] | None, sink: _Sink | None = None
    ) -> httpx2.Response:
        """Send until it is answered, refused for good, or the waiting is over."""
        waited, pause = {"service": 0.0, "connection": 0.0}, FIRST_PAUSE_S
        longest = {"service": self._longest_wait_s, "connection": self._connect_wait_s}
        for attempt in itertools.count(1):
            error: ConnectionFailedError | RefusedError
            try:
                headers = {**self._headers, "Accept": accept}
                with self._http.stream(method, self._url + path, json=body, headers=headers) as response:
                    return _accepted(response, accept, sink)
            except RefusedError as refused:
                if refused.status not in (429, 503) or refused.retry_after_s is None:
                    raise
                cause, wait, error = "service", refused.retry_after_s, refused
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as failed:
                tried = f", {attempt} times tried" if attempt > 1 else ""
                why = str(failed) or "timed out"
                proxy = proxy_variable(self._url) if self._owns else None
                doubt = f"it goes through the proxy of {proxy}" if proxy else "does `qshower serve` run there?"
                said = f"no connection to {self._url}{tried}: {why}; {doubt}"
                cause, wait, error = "connection", pause, ConnectionFailedError(said)
                pause *= 2
            except httpx2.TransportError as failed:
                raise ConnectionFailedError(f"{self._url} gave no whole answer: {failed!r}") from failed
            if waited[cause] + wait > longest[cause]:
                raise error
            waited[cause] += wait
            with self._counting:
                self._retries += 1
            _log.warning("attempt %d failed (%s); the next one in %g s", attempt, error, wait)
            self._sleep(wait)
        raise AssertionError("the attempts never end by themselves")


@dataclass(frozen=True, slots=True)
class _Sink:
    write: Callable[[bytes], Any]
    progress: Callable[[int, int | None], None] | None

    def take(self, response: httpx2.Response) -> None:
        """Write the body as it comes."""
        length = response.headers.get("content-length", "")
        total = int(length) if length.isdecimal() else None
        seen = 0
        for block in response.iter_bytes(READ_BYTES):
            self.write(block)
            seen += len(block)
            if self.progress is not None:
                self.progress(seen, total)


def _accepted(response: httpx2.Response, accept: str, sink: _Sink | None) -> httpx2.Response:
    """The response, read whole or into ``sink``, if it is what was asked for."""
    if response.status_code != 200 or sink is None:
        response.read()
    if response.status_code != 200:
        raise _refused(response)
    if response.headers.get("content-type", "").split(";")[0] != accept:
        raise BadAnswerError(f"asked for {accept}, got {response.headers.get('content-type')}")
    if sink is not None:
        sink.take(response)
    return response


def _document(response: httpx2.Response, what: str) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError as error:
        raise BadAnswerError(f"{what} did not answer with JSON") from error
    if not isinstance(document, dict):
        raise BadAnswerError(f"{what} did not answer with an object")
    return document


def _number_or_text(answered: Any, wanted: Field[Any]) -> Any:
    """The value of a field of an estimate; KeyError or TypeError if it is missing or of another type."""
    value: Any = answered[wanted.name]
    kinds: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float)}
    kind = kinds[str(wanted.type)]
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if not fits:
        raise TypeError(wanted.name)
    return float(value) if wanted.type == "float" else value


def _check_count(showers: Showers, count: int) -> None:
    if showers.incident_energies_mev.shape != (count,) or showers.showers_mev.shape[:1] != (count,):
        shape = showers.showers_mev.shape
        raise BadAnswerError(f"{count} showers were asked for; the answer has shape {shape}")


def _refused(response: httpx2.Response) -> RefusedError:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": response.reason_phrase, "detail": response.text[:200]}
    after = response.headers.get("retry-after", "")
    wait = float(after) if after.isdecimal() else None
    return BY_STATUS.get(response.status_code, RefusedError)(response.status_code, problem, wait)
