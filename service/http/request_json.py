"""The body of ``POST /generate``: what it may cost is bounded before it is parsed, and a long one holds nobody up."""

from __future__ import annotations

import asyncio
import json
from email.message import Message
from typing import Any

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from qshower.sampler.errors import InvalidInputError
from qshower.service.http.echo import cut
from qshower.service.running import Service
from qshower.service.schemas import GenerateRequest
from qshower.service.service_errors import MalformedError

INLINE_BYTES = 1 << 14
"""Bodies up to this size are parsed where they are; a thread would cost more than the parsing."""

MOST_FIELDS = 1000
"""More colons than the fields and texts of a request can have."""

OPENAPI_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/GenerateRequest"}}},
    }
}


async def generate_request(request: Request) -> GenerateRequest:
    """The request in the body, checked; MalformedError, InvalidInputError or RequestValidationError."""
    service: Service = request.app.state.service
    if not _says_json(request.headers.get("content-type", "")):
        raise MalformedError("the body must be a JSON object, sent with content-type: application/json")
    body, most = await request.body(), service.settings.limits.showers
    return parsed(body, most) if len(body) <= INLINE_BYTES else await asyncio.to_thread(parsed, body, most)


def parsed(body: bytes, most_showers: int) -> GenerateRequest:
    """``body`` as a request; one that holds more than a request for ``most_showers`` can is refused unparsed.

    What is parsed is in proportion to the numbers that are allowed, so that a body of a few MB takes milliseconds
    whatever it is made of.
    """
    if body.count(b":") > MOST_FIELDS:
        known = ", ".join(GenerateRequest.model_fields)
        raise InvalidInputError(
            "body", None, known, message=f"the body has more than {MOST_FIELDS} fields; known: {known}"
        )
    if (values := body.count(b",") + 1) > most_showers + MOST_FIELDS:
        allowed = f"1 to {most_showers} showers for each request"
        raise InvalidInputError("body", values, allowed, message=f"the body has {values} values; allowed: {allowed}")
    document = _document(body)
    if not isinstance(document, dict):
        raise MalformedError("the body must be a JSON object, sent with content-type: application/json")
    try:
        return GenerateRequest.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None


def _document(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    # The standard library's parser is slower, and also takes NaN and lone surrogates, which then have a field's name.
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        raise MalformedError(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise MalformedError("the body is not JSON: it is nested too deeply") from None
    except ValueError as error:
        raise MalformedError(f"the body is not JSON: {cut(str(error))}") from None


def _says_json(content_type: str) -> bool:
    message = Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))
