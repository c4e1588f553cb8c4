"""``qshower generate``: showers into a CaloChallenge HDF5 file, drawn in this process or by a server."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from anyio.from_thread import BlockingPortal, start_blocking_portal
from numpy.typing import NDArray

from qshower.client import ShowerClient
from qshower.model.showers_file import open_showers
from qshower.model.showers_writer import write_showers
from qshower.sampler.errors import DefectError, InvalidInputError
from qshower.sampler.files import replaceable
from qshower.sampler.protocol import Sampler, StoredSampler
from qshower.service.commands.terminal import numbers, progress, say, show_warnings
from qshower.service.engine.batches import DrawnRows
from qshower.service.generation.answer_provenance import Origin, merged_parts, provenance_json
from qshower.service.generation.shower_request import ShowerAnswer, ShowerRequest
from qshower.service.logs import configure_logs
from qshower.service.metrics import Metrics
from qshower.service.running import Service, running_service
from qshower.service.settings import load_settings

CHUNK_ROWS = 1000
LONGEST_WAIT_S = 10.0
AHEAD = 2
"""Chunks that are drawn while another is compressed."""


def rows_per_chunk(sampler: Sampler) -> int:
    """How many rows to ask a sampler for at a time. One that bills bills for each chunk's conditions anew."""
    return sampler.capabilities.batch_rows or CHUNK_ROWS if sampler.capabilities.billed else CHUNK_ROWS


@dataclass(frozen=True, slots=True)
class Request:
    """The flags of ``qshower generate``."""

    output: Path
    energies_mev: str | None = None
    log_uniform_mev: str | None = None
    like: Path | None = None
    count: int | None = None
    sampler: str = "auto"
    fallback: tuple[str, ...] = ()
    solver: str | None = None
    model: str | None = None
    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    threshold_mev: float | None = None
    url: str | None = None
    api_key: str | None = None
    connect_wait_s: float = 0.0

    @property
    def sampler_options(self) -> dict[str, Any]:
        """By the names of SamplerOptions, the solver among them."""
        return {**self.options, **({} if self.solver is None else {"solver": self.solver})}


def run(request: Request) -> None:
    """Write the file, whole or not at all."""
    if not request.output.parent.is_dir():
        raise DefectError(str(request.output), "its folder does not exist", "a path in an existing folder")
    replaceable(request.output)
    energies = incident_energies(request)
    sampler = _in_process(request, energies) if request.url is None else _from_server(request, request.url, energies)
    say(f"{energies.shape[0]} showers by {sampler} in {request.output}")


def incident_energies(request: Request) -> NDArray[np.float64]:
    """(rows,) incident energies in MeV, from the one of the three flags that is given."""
    given = [
        flag
        for flag, value in (
            ("--energies-mev", request.energies_mev),
            ("--log-uniform-mev", request.log_uniform_mev),
            ("--like", request.like),
        )
        if value is not None
    ]
    if len(given) != 1:
        allowed = "one of --energies-mev 1000,65536, --log-uniform-mev 1000:1000000 -n 100, --like FILE.hdf5"
        found = f"{' and '.join(given)} exclude each other" if given else "no incident energies"
        raise InvalidInputError("energies", given, allowed, message=f"{found}: give {allowed}")
    if request.energies_mev is not None:
        values = np.array(numbers("--energies-mev", request.energies_mev))
        if (values <= 0).any():
            raise InvalidInputError("--energies-mev", request.energies_mev, "numbers > 0")
        return np.repeat(values, request.count or 1)
    if request.log_uniform_mev is not None:
        return _log_uniform(request.log_uniform_mev, request.count, request.seed)
    assert request.like is not None  # noqa: S101 - one of the three is given
    with open_showers(request.like) as file:
        energies = file.energies_mev()
    if request.count is not None and request.count > energies.shape[0]:
        raise InvalidInputError("-n", request.count, f"at most the {energies.shape[0]} showers of {request.like}")
    return energies[: request.count]


def _log_uniform(text: str, count: int | None, seed: int | None) -> NDArray[np.float64]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = -1.0
    if not 0 < low <= high < np.inf:
        raise InvalidInputError("--log-uniform-mev", text, "LOW:HIGH with 0 < LOW <= HIGH, such as 1000:1000000")
    if count is None:
        message = "-n is required: the number of showers, with --log-uniform-mev"
        raise InvalidInputError("-n", None, "the number of showers", message=message)
    random = np.random.default_rng(None if seed is None else [seed, 0x456E65726779])
    return np.clip(np.exp(random.uniform(np.log(low), np.log(high), count)), low, high)


def _from_server(request: Request, url: str, energies: NDArray[np.float64]) -> str:
    show_warnings()
    client = ShowerClient(
        url, request.api_key, longest_wait_s=LONGEST_WAIT_S, connect_wait_s=request.connect_wait_s, sleep=time.sleep
    )
    with client, progress("bytes") as bar:
        task = bar.add_task("receiving", total=None)

        def received(seen: int, total: int | None) -> None:
            bar.update(task, completed=seen, total=total)

        client.save(
            request.output,
            energies,
            sampler=request.sampler,
            fallback=request.fallback,
            solver=request.solver,
            model=request.model,
            seed=request.seed,
            options=request.options,
            threshold_mev=request.threshold_mev,
            progress=received,
        )
    with open_showers(request.output) as file:
        name: str = orjson.loads(file.attributes["provenance"])["sampler"]
    return name


def _in_process(request: Request, energies: NDArray[np.float64]) -> str:
    """Chunks are drawn in an event loop of their own, while this thread compresses and writes."""
    configure_logs(load_settings(log_level="warning"))
    wish = ShowerRequest(
        energies_mev=energies,
        sampler=request.sampler,
        fallback=request.fallback,
        model=request.model,
        seed=request.seed,
        options=request.sampler_options,
        threshold_mev=request.threshold_mev,
        showers_per_energy=1 if request.energies_mev is None else request.count or 1,
    )
    log = _Log()
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_quiet_service()) as service,
        progress("showers") as bar,
    ):
        task = bar.add_task("drawing", total=energies.shape[0])
        chunks = _chunks(portal, service, wish, log, lambda rows: bar.advance(task, rows))
        write_showers(request.output, energies, chunks, attributes=log.attributes)
    return log.sampler


@asynccontextmanager
async def _quiet_service() -> AsyncIterator[Service]:
    settings = load_settings(max_queue_rows=1 << 40, max_pending_bytes=1 << 50)
    async with running_service(settings, Metrics(), warm=False) as service:
        # Nobody waits at the other end of a connection: no deadline, no bound on the answer's size.
        yield replace(service, generator=service.generator.unbounded())


@dataclass(slots=True)
class _Log:
    """How the chunks came to be."""

    origin: Origin | None = None
    geometry: dict[str, Any] | None = None
    parts: list[DrawnRows] = field(default_factory=list)
    elapsed_s: dict[str, float] = field(default_factory=dict)

    def add(self, answer: ShowerAnswer, first_row: int) -> None:
        """Note a chunk that begins at ``first_row``."""
        if self.origin is None or (self.origin.fallback_from is None and answer.origin.fallback_from is not None):
            self.origin = answer.origin
        self.geometry = answer.geometry.as_dict()
        moved = [replace(part, start=part.start + first_row, stop=part.stop + first_row) for part in answer.parts]
        self.parts = merged_parts([*self.parts, *moved])
        for stage, seconds in answer.elapsed_s.items():
            self.elapsed_s[stage] = self.elapsed_s.get(stage, 0.0) + seconds

    @property
    def sampler(self) -> str:
        """The one that drew."""
        return str(self._provenance()["sampler"])

    def attributes(self) -> dict[str, str]:
        """Provenance and geometry of all chunks together, as JSON."""
        return {
            "provenance": orjson.dumps(self._provenance()).decode(),
            "geometry": orjson.dumps(self.geometry).decode(),
        }

    def _provenance(self) -> dict[str, Any]:
        assert self.origin is not None  # noqa: S101 - there is at least one chunk
        return provenance_json(self.origin, self.parts, self.elapsed_s)


def _chunks(
    portal: BlockingPortal, service: Service, wish: ShowerRequest, log: _Log, done: Callable[[int], None]
) -> Iterator[NDArray[np.float32]]:
    rows, selection = wish.rows, service.generator.selection
    names = selection.candidates(wish.sampler, wish.fallback)
    samplers = [selection.registry.get(name) for name in names if name in selection.registry]
    size = max([CHUNK_ROWS, *(rows_per_chunk(sampler) for sampler in samplers)])
    # A bank serves its latents in the order in which they are asked for.
    ahead = 1 if any(isinstance(sampler, StoredSampler) for sampler in samplers) else AHEAD
    starts = iter(range(0, rows, size))
    running: deque[tuple[int, Any]] = deque()

    def start_next() -> None:
        first = next(starts, None)
        if first is not None:
            part = replace(wish, energies_mev=wish.energies_mev[first : first + size], first_row=first)
            running.append((first, portal.start_task_soon(service.generator.generate, part)))

    for _ in range(ahead):
        start_next()
    try:
        while running:
            first, future = running.popleft()
            answer: ShowerAnswer = future.result()
            start_next()
            log.add(answer, first)
            yield answer.showers_mev
            done(answer.showers_mev.shape[0])
    finally:
        for _, future in running:
            future.cancel()


__all__ = ["Request", "incident_energies", "rows_per_chunk", "run"]
