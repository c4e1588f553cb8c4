"""What can go wrong between a client and the service.

::

    ShowerServiceError
    ├── InvalidArgumentError     an argument that cannot be sent: a mask hides it, or JSON has no such value
    ├── ClientConfigurationError the URL, the API key or the environment's proxy cannot be used
    ├── ConnectionFailedError    no answer: refused, cut or timed out
    ├── BadAnswerError           an answer that is not what was asked for
    └── RefusedError             the service said no: status, title, detail
        ├── InvalidRequestError  400, 406, 413, 415, 422: the request must change (field, value, allowed)
        ├── UnauthorisedError    401
        ├── NotFoundError        404
        ├── BusyError            429: queue or budget; retry_after_s
        ├── UnavailableError     503: not ready, draining, or no such sampler now; retry_after_s
        └── DeadlineError        504
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ShowerServiceError(Exception):
    """Root of the tree."""


class ClientConfigurationError(ShowerServiceError, ValueError):
    """What the client was given, or the environment's proxy or certificates, cannot be used; nothing was sent."""


class InvalidArgumentError(ShowerServiceError, ValueError):
    """An argument that cannot be sent; nothing was."""


class ConnectionFailedError(ShowerServiceError):
    """No answer came."""


class BadAnswerError(ShowerServiceError):
    """An answer came that is not what was asked for."""


class RefusedError(ShowerServiceError):
    """The service answered with a problem. ``problem`` is its whole document."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.problem = dict(problem)
        self.retry_after_s = retry_after_s
        self.field: str | None = self.problem.get("field")
        self.value: Any = self.problem.get("value")
        self.allowed: str | None = self.problem.get("allowed")
        super().__init__(f"{status} {self.problem.get('title', '')}: {self.problem.get('detail', '')}")


class InvalidRequestError(RefusedError):
    """The request has to change before it can be answered."""


class UnauthorisedError(RefusedError):
    """The API key is missing or unknown."""


class NotFoundError(RefusedError):
    """No such model or page."""


class BusyError(RefusedError):
    """Too much is waiting, or the QPU budget is used up."""


class UnavailableError(RefusedError):
    """Not ready, draining, or the sampler cannot be used now."""


class DeadlineError(RefusedError):
    """Not done before the deadline."""


BY_STATUS: Mapping[int, type[RefusedError]] = {
    400: InvalidRequestError,
    401: UnauthorisedError,
    404: NotFoundError,
    406: InvalidRequestError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: BusyError,
    503: UnavailableError,
    504: DeadlineError,
}
