"""The jobs of a service: taken in, drawn chunk by chunk beside other requests, kept until they expire.

A job goes through the same engine as every request, a chunk at a time. What is on disk is not drawn again: after a
restart, or a kill, a job goes on from its first missing chunk, with the same showers, since each has its own stream.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from qshower.sampler.errors import QShowerError, SamplerTimeoutError
from qshower.service.generation.answer_provenance import merged_parts, provenance_json
from qshower.service.generation.request_options import check_options
from qshower.service.generation.shower_request import ShowerAnswer, ShowerRequest
from qshower.service.jobs.job_files import JobChunk, JobEnd, JobFiles, JobOrder
from qshower.service.schemas import JobStatus
from qshower.service.service_errors import (
    DeadlineError,
    JobNotDoneError,
    NotReadyError,
    QueueFullError,
    StorageError,
    UnknownJobError,
)

if TYPE_CHECKING:
    from qshower.service.generation.generator import Generator
    from qshower.service.settings import JobSettings

CHUNK_ROWS = 256
PATIENCE_S = 3600.0
"""A job fails once its next chunk could not be drawn for so long."""
LONGEST_PAUSE_S = 60.0
CLEAN_EVERY_S = 60.0

_log = structlog.get_logger("qshower.service")


@dataclass(slots=True, eq=False)
class _Job:
    order: JobOrder
    chunks: int
    end: JobEnd | None
    task: asyncio.Task[None] | None = None
    running: bool = False


class Jobs:
    """Draws and keeps jobs. Lives in one event loop, from ``start`` to ``stop``.

    Args:
        settings: folder and bounds.
        files: the folder.
        generator: draws the chunks.
        request_of: the request that a body asks for on behalf of a key; InvalidInputError if it is not allowed.
    """

    def __init__(
        self,
        settings: JobSettings,
        files: JobFiles,
        generator: Generator,
        request_of: Callable[[dict[str, Any], str], ShowerRequest],
    ) -> None:
        self._settings, self._files = settings, files
        self._generator, self._request_of = generator, request_of
        self._jobs: dict[str, _Job] = {}
        self._turns = asyncio.Semaphore(settings.running)
        self._cleaning: asyncio.Task[None] | None = None
        self._fault: StorageError | None = StorageError("jobs are not taken yet")

    async def start(self) -> None:
        """Take the folder and go on with what is in it. Where it cannot be used, jobs are refused and nothing else."""
        try:
            await asyncio.to_thread(self._files.open)
            found = await asyncio.to_thread(lambda: list(self._files.load()))
        except StorageError as error:
            self._fault = error
            _log.warning("no jobs are taken", error=str(error))
            return
        self._fault = None
        for order, chunks, end in sorted(found, key=lambda one: one[0].created_at):
            self._jobs[order.id] = _Job(order, chunks, end)
            if end is None:
                self._begin(self._jobs[order.id])
        self._cleaning = asyncio.create_task(self._clean())

    async def stop(self) -> None:
        """Stop drawing; what is unfinished goes on at the next start."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        tasks += [self._cleaning] if self._cleaning is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fault = StorageError("the service has shut down")
        await asyncio.to_thread(self._files.close)

    async def submit(self, body: dict[str, Any], account: str) -> JobStatus:
        """Take in a job for the key ``account``.

        Raises:
            InvalidInputError: a value is not allowed.
            QueueFullError: there are too many jobs.
            StorageError: it cannot be written.
        """
        if self._fault is not None:
            raise self._fault
        wish, selection = self._request_of(body, account), self._generator.selection
        check_options(wish, selection.candidates(wish.sampler, wish.fallback), selection.registry)
        wish.check(selection.catalogue.get(wish.model), None)
        if len(self._jobs) >= self._settings.most:
            ends = [job.end.at + self._settings.expiry_s - time.time() for job in self._jobs.values() if job.end]
            wait_s = max(1.0, min(ends, default=LONGEST_PAUSE_S))
            raise QueueFullError(f"{len(self._jobs)} jobs are kept, the most allowed", retry_after_s=wait_s)
        seed = secrets.randbits(64) if wish.seed is None else wish.seed
        order = JobOrder(secrets.token_hex(16), account, body, seed, wish.rows, time.time())
        job = self._jobs[order.id] = _Job(order, 0, None)
        try:
            await asyncio.to_thread(self._files.create, order)
        except BaseException:
            del self._jobs[order.id]
            raise
        self._begin(job)
        return self._status(job)

    def status(self, job: str, account: str) -> JobStatus:
        """How a job of the key ``account`` stands; UnknownJobError if it has none of that id."""
        return self._status(self._find(job, account))

    async def remove(self, job: str, account: str) -> None:
        """Cancel a job, and forget its showers; UnknownJobError."""
        found = self._find(job, account)
        del self._jobs[job]
        if found.task is not None:
            found.task.cancel()
            await asyncio.gather(found.task, return_exceptions=True)
        await asyncio.to_thread(self._files.remove, job)

    async def result(self, job: str, account: str) -> JobResult:
        """The showers of a job that is done; UnknownJobError, JobNotDoneError."""
        found = self._find(job, account)
        if found.end is None or found.end.error is not None:
            state = self._status(found).state
            why = f": {found.end.error}" if found.end is not None else ""
            raise JobNotDoneError(f"the job is {state}, with {self._done(found)} of {found.order.showers} showers{why}")
        request = self._request_of(found.order.body, account)
        heads = await asyncio.to_thread(self._heads, found)
        return JobResult(self._files, job, request, heads)

    def _heads(self, job: _Job) -> list[JobChunk]:
        """The chunks without their showers."""
        return [self._files.read(job.order.id, number, showers=False) for number in range(job.chunks)]

    def _find(self, job: str, account: str) -> _Job:
        found = self._jobs.get(job)
        if found is None or found.order.account != account:
            raise UnknownJobError("there is no job of that id; it may have been cancelled, or have expired")
        return found

    def _done(self, job: _Job) -> int:
        return min(job.chunks * CHUNK_ROWS, job.order.showers)

    def _status(self, job: _Job) -> JobStatus:
        end = job.end
        state = ("running" if job.running else "waiting") if end is None else ("failed" if end.error else "done")
        return JobStatus.model_validate(
            {
                "id": job.order.id,
                "state": state,
                "showers": job.order.showers,
                "showers_done": self._done(job),
                "created_at": _iso(job.order.created_at),
                "ended_at": None if end is None else _iso(end.at),
                "expires_at": None if end is None else _iso(end.at + self._settings.expiry_s),
                "error": None if end is None else end.error,
            }
        )

    def _begin(self, job: _Job) -> None:
        job.task = asyncio.create_task(self._run(job))

    async def _run(self, job: _Job) -> None:
        error: str | None = None
        try:
            async with self._turns:
                job.running = True
                await self._draw(job)
        except NotReadyError:
            return  # the service shuts down; the job goes on when it is back
        except QShowerError as failed:
            error = f"{type(failed).__name__}: {failed}"
        except Exception as failed:  # whatever it is, it is the job's, and the service goes on
            error = f"{type(failed).__name__}: something unexpected happened; the server's log has it"
            _log.error("a job failed", job=job.order.id, error=f"{type(failed).__name__}: {failed}")
        finally:
            job.running = False
        job.end = JobEnd(time.time(), error)
        try:
            await asyncio.to_thread(self._files.end, job.order.id, job.end)
        except StorageError as full:
            # In memory it has ended; after a restart it is tried once more.
            _log.warning("the end of a job could not be written", job=job.order.id, error=str(full))

    async def _draw(self, job: _Job) -> None:
        order = job.order
        wish = replace(self._request_of(order.body, order.account), seed=order.seed, deadline_s=None)
        model = None if job.chunks == 0 else (await asyncio.to_thread(self._heads, job))[0].origin.model_sha256
        while (first := job.chunks * CHUNK_ROWS) < order.showers:
            part = replace(wish, energies_mev=wish.energies_mev[first : first + CHUNK_ROWS], first_row=first)
            answer = await self._patiently(part)
            model = model or answer.origin.model_sha256
            if answer.origin.model_sha256 != model:
                raise StorageError(f"the model {answer.origin.model} has changed since the job began")
            parts = tuple(replace(one, start=one.start + first, stop=one.stop + first) for one in answer.parts)
            chunk = JobChunk(first, answer.showers_mev, answer.geometry, answer.origin, parts, answer.elapsed_s)
            await asyncio.to_thread(self._files.write, order.id, job.chunks, chunk)
            job.chunks += 1

    async def _patiently(self, part: ShowerRequest) -> ShowerAnswer:
        """The showers of a chunk, asked for again while the service is busy or the sampler away."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await self._generator.generate(part)
            except NotReadyError:
                raise
            except QShowerError as error:
                wait_s = getattr(error, "retry_after_s", None)
                if wait_s is None and isinstance(error, (DeadlineError, SamplerTimeoutError)):
                    wait_s = 1.0
                if wait_s is None or time.monotonic() + wait_s > until:
                    raise
            await asyncio.sleep(min(wait_s, LONGEST_PAUSE_S))

    async def _clean(self) -> None:
        """Remove what has expired, now and then."""
        while True:
            for name, job in list(self._jobs.items()):
                if job.end is not None and job.end.at + self._settings.expiry_s <= time.time():
                    del self._jobs[name]
                    await asyncio.to_thread(self._files.remove, name)
            await asyncio.sleep(min(CLEAN_EVERY_S, self._settings.expiry_s))


@dataclass(frozen=True, slots=True, eq=False)
class JobResult:
    """The showers of a job that is done. ``heads`` are its chunks without them."""

    files: JobFiles
    job: str
    request: ShowerRequest
    heads: list[JobChunk]

    def provenance(self) -> dict[str, Any]:
        """Of all chunks together."""
        elapsed_s: dict[str, float] = {}
        for head in self.heads:
            for stage, seconds in head.elapsed_s.items():
                elapsed_s[stage] = elapsed_s.get(stage, 0.0) + seconds
        fallen = next((head.origin for head in self.heads if head.origin.fallback_from is not None), None)
        parts = merged_parts(part for head in self.heads for part in head.parts)
        return provenance_json(fallen or self.heads[0].origin, parts, elapsed_s)

    async def chunks(self) -> AsyncIterator[JobChunk]:
        """Its showers in order; StorageError if they are removed meanwhile."""
        for number in range(len(self.heads)):
            yield await asyncio.to_thread(self.files.read, self.job, number)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
