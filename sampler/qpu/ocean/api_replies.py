"""What the solver API says when it refuses: status, its own short message, and when to try again.

Ocean keeps the body of such a reply as the message of its exception, whatever it is, and drops ``Retry-After``; and it
repeats a poll that ends with 5xx at once, for as long as it does. Here every refusal becomes an exception with what is
of use to a caller. A page that a proxy or a load balancer answers with goes to the log alone.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson
from dwave.cloud.client.qpu import Client
from requests import Response, Session

_LOG = logging.getLogger(__name__)
_LONGEST_MESSAGE = 200
_LONGEST_PAGE = 2000
LONGEST_RETRY_AFTER_S = 3600.0


class RefusedByApiError(Exception):
    """The API answered with an HTTP error.

    Attributes:
        status: the HTTP status.
        message: the API's own message, None if its reply is no message of the API's.
        retry_after_s: its ``Retry-After``, None without one.
    """

    def __init__(self, status: int, message: str | None, retry_after_s: float | None) -> None:
        self.status, self.message, self.retry_after_s = status, message, retry_after_s
        super().__init__(f"HTTP {status}" if message is None else f"HTTP {status}: {message}")


class ApiClient(Client):  # type: ignore[misc]  # Ocean comes without types
    """Ocean's client for QPUs, whose requests end with RefusedByApiError when the API refuses them."""

    def create_session(self) -> Session:
        """A session of one of the client's threads."""
        session: Session = super().create_session()
        session.hooks["response"].append(self._raise_if_refused)
        return session

    def _raise_if_refused(self, response: Response, **_: Any) -> None:
        if not response.ok:
            raise refusal(response, self.config.token)


def refusal(response: Response, secret: str | None) -> RefusedByApiError:
    """What the API's ``response``, an error, says. What is no message of the API's is logged, without ``secret``."""
    message = _message(response.content)
    if message is None:
        page = response.text[:_LONGEST_PAGE]
        _LOG.warning(
            "HTTP %d of the solver API came with this page: %s",
            response.status_code,
            repr(page.replace(secret, "***") if secret else page),
        )
    return RefusedByApiError(response.status_code, message, retry_after_s(response.headers.get("Retry-After")))


def retry_after_s(header: str | None) -> float | None:
    """The seconds that a ``Retry-After`` asks for, as a number or as a date (RFC 9110), an hour at most."""
    if header is None:
        return None
    try:
        if header.strip().isdecimal():
            wait_s = float(header)
        else:
            wait_s = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return None
    return min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S)


def _message(body: bytes) -> str | None:
    """The ``error_msg`` of a reply in the API's format."""
    try:
        message = orjson.loads(body)["error_msg"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    if not isinstance(message, str) or "<" in message:
        return None
    message = " ".join(message.split())
    return message if len(message) <= _LONGEST_MESSAGE else f"{message[: _LONGEST_MESSAGE - 3]}..."
