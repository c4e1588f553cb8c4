"""The client: showers as numpy arrays, problems as typed errors. Needs numpy and httpx2.

Example::

    with Client("http://127.0.0.1:8000") as client:
        showers = client.generate([1000.0, 65536.0], seed=1)
        print(showers.showers_mev.sum(axis=1), showers.provenance["sampler"])
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack, cast

import httpx2
from numpy.typing import ArrayLike

from qshower.client import calls
from qshower.client.calls import Choices
from qshower.client.exchange import Head, Item, Open, Pause, Read, Steps
from qshower.client.http_setup import CONNECT_TIMEOUT_S, open_http
from qshower.client.progress_display import Progress
from qshower.client.route import route_to
from qshower.client.shower_data import Estimate, Showers


class Client:
    """Talks to a service over one pool of connections. A context manager; safe to use from several threads.

    Waits and tries again where the service says when (429, 503 with Retry-After), and, if asked to, where no connection
    can be made. With a ``fallback_url``, a request that the first service does not take goes there at once. After a
    request was sent and its answer lost, it is sent nowhere else if that could bill a QPU draw twice or use up a bank:
    that is, unless it names ``gibbs``, ``annealing`` or ``tempering``. Each further attempt is logged
    (``qshower.client``, a warning) and counted in ``retries``.

    Args:
        url: of the service, such as ``http://127.0.0.1:8000``.
        api_key: sent as a bearer token; None where the service asks for none.
        fallback_url: a second service, with the same models and the same key.
        timeout_s: longest silence of the server while it works on an answer; each call can have its own.
        longest_wait_s: longest time, all pauses of one call together, to wait where the service says when to try again;
            0 never waits.
        connect_wait_s: the same where nobody listens, such as at a service that is being started; 0, the default, fails
            at once.
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
        fallback_url: str | None = None,
        timeout_s: float = 600.0,
        longest_wait_s: float = 60.0,
        connect_wait_s: float = 0.0,
        http: httpx2.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
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
        self._http = http or open_http(httpx2.Client)

    @property
    def retries(self) -> int:
        """How often a request was sent again so far, all calls together."""
        return self._route.retries

    def generate(
        self,
        energies_mev: ArrayLike,
        *,
        progress: Progress = False,
        timeout_s: float | None = None,
        **choices: Unpack[Choices],
    ) -> Showers:
        """Draw a shower (or ``showers_per_energy``) for each energy; ``choices`` are those of ``POST /generate``.

        Energies may be a number, a list, an array (N,) or (N, 1), or a column of pandas or torch. ``progress`` shows a
        line in a terminal or a notebook, or is a function that is called with the bytes received and the bytes in all,
        if they are known.

        Returns:
            Energies and showers in MeV in the order of the request, the geometry, and how the showers came to be.

        Raises:
            ShowerServiceError: see client.client_errors.
        """
        showers: Showers = self._answer(calls.generate(energies_mev, choices, progress, timeout_s, self._route))
        return showers

    def iter_batches(
        self,
        energies_mev: ArrayLike,
        *,
        progress: Progress = False,
        timeout_s: float | None = None,
        **choices: Unpack[Choices],
    ) -> Generator[Showers]:
        """As ``generate``, but yield the showers in batches as they come, and keep none. Needs pyarrow.

        Together the batches are what ``generate`` answers. Their sizes are the service's choice. The last one has the
        final provenance, those before it what was known when the stream began. To stop early, close the iterator.

        Raises:
            ShowerServiceError: see client.client_errors; IncompleteAnswerError if the stream is cut, after the batches
                that came whole.
        """
        return self._items(calls.batches(energies_mev, choices, progress, timeout_s, self._route))

    def save(
        self,
        path: str | Path,
        energies_mev: ArrayLike,
        *,
        progress: Progress = False,
        timeout_s: float | None = None,
        **choices: Unpack[Choices],
    ) -> None:
        """As ``generate``, into a CaloChallenge HDF5 file, which appears whole or not at all. Needs no h5py.

        Raises:
            ShowerServiceError: see client.client_errors.
            OSError: the file cannot be written, or is a device or pipe; what stood there before still does.
        """
        self._answer(calls.save(Path(path), energies_mev, choices, progress, timeout_s, self._route))

    def estimate(
        self, energies_mev: ArrayLike, *, timeout_s: float | None = None, **choices: Unpack[Choices]
    ) -> Estimate:
        """What ``generate`` would take on a QPU: a dry run, which draws and bills nothing.

        ``sampler`` is ``qpu`` unless ``choices`` say otherwise.

        Returns:
            QPU access time in µs, problems, reads, conditions and copies, and how many showers cached reads answer.

        Raises:
            ShowerServiceError: see client.client_errors; InvalidRequestError for a sampler that bills nothing.
        """
        estimate: Estimate = self._answer(calls.estimate(energies_mev, choices, timeout_s, self._route))
        return estimate

    def models(self, *, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """The models that are loaded, the default first."""
        return cast(list[dict[str, Any]], self._document("/models", timeout_s)["models"])

    def model(self, name: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Geometry, domain, hash, training data and quality of a model."""
        return self._document(f"/models/{name}", timeout_s)

    def samplers(self, *, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """Which samplers can be used now, and why not."""
        return cast(list[dict[str, Any]], self._document("/samplers", timeout_s)["samplers"])

    def ready(self) -> bool:
        """Whether the first service takes requests now."""
        try:
            return self._http.get(f"{self._route.urls[0]}/health/ready").status_code == 200
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

    def _document(self, path: str, timeout_s: float | None) -> dict[str, Any]:
        return cast(dict[str, Any], self._answer(calls.document(path, timeout_s, self._route)))

    def _answer(self, steps: Steps[None]) -> Any:
        """The last item of ``steps``, None if there is none."""
        answer = None
        for answer in self._items(steps):  # noqa: B007 - the last one is wanted
            pass
        return answer

    def _items(self, steps: Steps[None]) -> Generator[Any]:
        """Carry out ``steps`` and yield their items."""
        with ExitStack() as stack:
            stack.callback(steps.close)
            response = stack.enter_context(ExitStack())
            blocks: Iterator[bytes] = iter(())
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
                            response.close()
                            timeout = httpx2.Timeout(step.timeout_s, connect=min(step.timeout_s, CONNECT_TIMEOUT_S))
                            opened = response.enter_context(
                                self._http.stream(
                                    step.method, step.url, content=step.body, headers=step.headers, timeout=timeout
                                )
                            )
                            blocks = opened.iter_bytes()
                            came = Head(opened.status_code, opened.reason_phrase, opened.headers)
                        case Read():
                            came = next(blocks, b"")
                        case Pause():
                            response.close()
                            self._sleep(step.seconds)
                        case Item():
                            yield step.value
                except httpx2.TransportError as error:
                    failed = error
