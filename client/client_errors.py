"""What can go wrong between a client and the service.

::

    ShowerServiceError
    ├── InvalidArgumentError         an argument that cannot be sent: a mask hides it, or JSON has no such value
    ├── ClientConfigurationError     the URL, the API key or the environment's proxy cannot be used
    ├── MissingPackageError          an optional package is needed: h5py, pyarrow
    ├── ConnectionFailedError        no answer: refused, cut or timed out
    │   └── IncompleteAnswerError    an answer began and did not end: cut, or fewer showers than were asked for
    ├── BadAnswerError               an answer that is not what was asked for
    └── RefusedError                 the service said no: status, title, detail
        ├── InvalidRequestError      the request must change (field, value, allowed)
        │   ├── MalformedError             400
        │   ├── NotAcceptableError         406
        │   ├── TooLargeError              413
        │   ├── UnsupportedEncodingError   415
        │   ├── MisdirectedError           421: the service is not called by that host
        │   ├── InvalidValueError          422
        │   ├── ProblemRangeError          422: the model does not fit the solver's ranges
        │   └── ConditionNotHeldError      422: flux biases do not hold the condition
        ├── UnauthorisedError        401
        ├── NotFoundError            404
        │   ├── UnknownModelError
        │   └── UnknownJobError
        ├── JobNotDoneError          409
        ├── BusyError                429; retry_after_s
        │   ├── QueueFullError
        │   ├── RateError                  the key has drawn its showers of a minute
        │   └── BudgetError                the QPU budget is used up
        ├── UnavailableError         503; retry_after_s where waiting helps
        │   ├── NotReadyError              starting or draining
        │   ├── ModelBrokenError           the model's files are not whole
        │   ├── SamplerUnavailableError
        │   ├── SamplerFailedError
        │   ├── SamplerAnswerError
        │   └── BankExhaustedError
        ├── DeadlineError            504
        ├── StorageError             507: no room for the answer on the service's disk
        └── InternalError            500

A problem whose type is newer than the client has the class of its status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ShowerServiceError(Exception):
    """Root of the tree."""


class ClientConfigurationError(ShowerServiceError, ValueError):
    """What the client was given, or the environment's proxy or certificates, cannot be used; nothing was sent."""


class MissingPackageError(ShowerServiceError, ImportError):
    """An optional package is not installed; the message says how to install it. Nothing was sent."""


class InvalidArgumentError(ShowerServiceError, ValueError):
    """An argument that cannot be sent; nothing was."""


class ConnectionFailedError(ShowerServiceError):
    """No answer came."""


class IncompleteAnswerError(ConnectionFailedError):
    """An answer began and did not end as it should."""


class BadAnswerError(ShowerServiceError):
    """An answer came that is not what was asked for."""


class RefusedError(ShowerServiceError):
    """The service answered with a problem. ``problem`` is its whole document, ``type`` the URN of its kind."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.problem = dict(problem)
        self.retry_after_s = retry_after_s
        self.type: str | None = self.problem.get("type")
        self.field: str | None = self.problem.get("field")
        self.value: Any = self.problem.get("value")
        self.allowed: str | None = self.problem.get("allowed")
        super().__init__(f"{status} {self.problem.get('title', '')}: {self.problem.get('detail', '')}")


class InvalidRequestError(RefusedError):
    """The request has to change before it can be answered."""


class MalformedError(InvalidRequestError):
    """The body is no JSON object."""


class NotAcceptableError(InvalidRequestError):
    """The service cannot make the format that was asked for."""


class TooLargeError(InvalidRequestError):
    """The body, or what the answer would take, is too large."""


class UnsupportedEncodingError(InvalidRequestError):
    """The body is encoded in a way that the service does not undo."""


class MisdirectedError(InvalidRequestError):
    """The service is not called by the host that the URL names."""


class InvalidValueError(InvalidRequestError):
    """A value is not allowed: ``field``, ``value``, ``allowed``."""


class ProblemRangeError(InvalidRequestError):
    """The model does not fit the solver's ranges."""


class ConditionNotHeldError(InvalidRequestError):
    """Flux biases do not hold the condition."""


class UnauthorisedError(RefusedError):
    """The API key is missing or unknown."""


class NotFoundError(RefusedError):
    """No such model or page."""


class UnknownModelError(NotFoundError):
    """No model of that name is loaded."""


class UnknownJobError(NotFoundError):
    """No job of that name is known."""


class JobNotDoneError(RefusedError):
    """The job has no result yet."""


class BusyError(RefusedError):
    """Too much is waiting, or the key has used up what it may."""


class QueueFullError(BusyError):
    """Too much is waiting."""


class RateError(BusyError):
    """The caller's key has drawn the showers that it may draw in a minute."""


class BudgetError(BusyError):
    """The QPU budget, of the day or of the caller's key, is used up."""


class UnavailableError(RefusedError):
    """Not ready, draining, or the sampler cannot be used now."""


class NotReadyError(UnavailableError):
    """The service is starting or shutting down."""


class ModelBrokenError(UnavailableError):
    """The model's files on the service's disk are altered or unreadable."""


class SamplerUnavailableError(UnavailableError):
    """The sampler cannot be used now."""


class SamplerFailedError(UnavailableError):
    """The sampler failed."""


class SamplerAnswerError(UnavailableError):
    """What the sampler answered was no valid draw."""


class BankExhaustedError(UnavailableError):
    """The bank has too few latents left; waiting does not help."""


class DeadlineError(RefusedError):
    """Not done before the deadline."""


class StorageError(RefusedError):
    """The service's disk has no room for the answer."""


class InternalError(RefusedError):
    """The service failed in a way that it did not foresee; its log has it."""


TYPE_PREFIX = "urn:qshower:"

BY_TYPE: Mapping[str, type[RefusedError]] = {
    "malformed": MalformedError,
    "not-acceptable": NotAcceptableError,
    "too-large": TooLargeError,
    "unsupported-encoding": UnsupportedEncodingError,
    "invalid-value": InvalidValueError,
    "problem-range": ProblemRangeError,
    "condition-not-held": ConditionNotHeldError,
    "unauthorised": UnauthorisedError,
    "not-found": NotFoundError,
    "unknown-model": UnknownModelError,
    "misdirected": MisdirectedError,
    "unknown-job": UnknownJobError,
    "job-not-done": JobNotDoneError,
    "rate": RateError,
    "model-broken": ModelBrokenError,
    "storage": StorageError,
    "queue-full": QueueFullError,
    "budget": BudgetError,
    "not-ready": NotReadyError,
    "sampler-unavailable": SamplerUnavailableError,
    "sampler-failed": SamplerFailedError,
    "sampler-answer": SamplerAnswerError,
    "bank-exhausted": BankExhaustedError,
    "deadline": DeadlineError,
    "internal": InternalError,
}

BY_STATUS: Mapping[int, type[RefusedError]] = {
    400: InvalidRequestError,
    401: UnauthorisedError,
    404: NotFoundError,
    406: InvalidRequestError,
    409: JobNotDoneError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    421: InvalidRequestError,
    422: InvalidRequestError,
    429: BusyError,
    500: InternalError,
    503: UnavailableError,
    504: DeadlineError,
    507: StorageError,
}


def refusal(status: int, problem: Mapping[str, Any], retry_after_s: float | None) -> RefusedError:
    """The error of a problem document, by its type, else by its status."""
    kind = str(problem.get("type", "")).removeprefix(TYPE_PREFIX)
    return BY_TYPE.get(kind, BY_STATUS.get(status, RefusedError))(status, problem, retry_after_s)
