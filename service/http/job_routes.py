"""The pages of jobs: requests that are too large to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from qshower.sampler.errors import InvalidInputError
from qshower.service.http.answer_stream import Sending, ShowerResponse
from qshower.service.http.encoding import Content, encoder_of
from qshower.service.http.negotiation import Format, Wanted, negotiate
from qshower.service.http.problem_json import declared
from qshower.service.http.request_json import OPENAPI_BODY, generate_request
from qshower.service.jobs.background_jobs import JobResult, Jobs
from qshower.service.schemas import GenerateRequest, JobStatus

router = APIRouter()
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.service.jobs
    return jobs


def _account(request: Request) -> str:
    name: str = getattr(request.state, "api_key_name", "")
    return name


@router.post(
    "/jobs",
    status_code=202,
    summary="Draw showers as a job",
    openapi_extra=OPENAPI_BODY,
    responses=declared(400, 401, 404, 413, 415, 422, 429, 507),
)
async def submit(
    request: Request, body: Annotated[GenerateRequest, Depends(generate_request)], response: Response
) -> JobStatus:
    """Take in what ``POST /generate`` takes, without a deadline, and draw it in the background."""
    if body.dry_run:
        raise InvalidInputError("dry_run", value=True, allowed="false: a dry run is answered by POST /generate")
    if body.deadline_s is not None:
        raise InvalidInputError("deadline_s", body.deadline_s, "null: a job has no deadline")
    status = await _jobs(request).submit(body.model_dump(mode="json"), _account(request))
    response.headers["Location"] = f"/jobs/{status.id}"
    return status


@router.get("/jobs/{job}", summary="How a job stands", responses=declared(401, 404))
async def status(request: Request, job: str) -> JobStatus:
    """State and progress of a job."""
    return _jobs(request).status(job, _account(request))


@router.get(
    "/jobs/{job}/result",
    summary="The showers of a job",
    response_class=Response,
    responses={
        200: {
            "description": "As POST /generate answers.",
            "content": {kind.value: _BINARY for kind in Format},
        },
        **declared(401, 404, 406, 409, 507),
    },
)
async def result(request: Request, job: str) -> Response:
    """The showers of a job that is done, in the format that the Accept header asks for; as often as wanted."""
    wanted = negotiate(request.headers.get("accept"))
    found = await _jobs(request).result(job, _account(request))
    pieces = _pieces(found, wanted)
    first = await anext(pieces)
    return ShowerResponse(Sending(first, pieces, lambda _: None, AsyncExitStack(), lambda _: None), wanted, None)


@router.delete("/jobs/{job}", status_code=204, summary="Cancel a job", responses=declared(401, 404, 507))
async def remove(request: Request, job: str) -> Response:
    """Stop a job and remove its showers."""
    await _jobs(request).remove(job, _account(request))
    return Response(status_code=204)


async def _pieces(found: JobResult, wanted: Wanted) -> AsyncGenerator[bytes, None]:
    provenance = found.provenance()
    content = Content(found.request.energies_mev, found.heads[0].geometry, provenance)
    encoder = await asyncio.to_thread(encoder_of, wanted, content)
    try:
        if head := encoder.head():
            yield head
        async for chunk in found.chunks():
            if piece := await asyncio.to_thread(encoder.chunk, chunk.start, chunk.showers_mev):
                yield piece
        tail = encoder.tail(provenance)
        while piece := await asyncio.to_thread(next, tail, b""):
            yield piece
    finally:
        await asyncio.to_thread(encoder.close)
