"""From whatever Ocean's client raises to one typed error that keeps the cause and the problem's id."""

from __future__ import annotations

import binascii
from typing import Literal

import requests
from dwave.cloud import exceptions as ocean
from dwave.cloud.api import exceptions as api

from qshower.sampler.errors import (
    SamplerAnswerError,
    SamplerError,
    SamplerTimeoutError,
    SamplerUnavailableError,
    SolverAuthenticationFailedError,
    SolverConfigurationError,
    SolverNotFoundHereError,
)
from qshower.sampler.qpu.ocean.api_replies import RefusedByApiError, refusal, retry_after_s

Phase = Literal["connect", "submit", "answer"]

BUSY_RETRY_S = 30.0
"""When to try again after "too many requests"."""
RETRY_S = 10.0
"""When to try again after a failure that may pass."""
OFFLINE_RETRY_S = 60.0
"""When to try again if the solver is offline."""

_NETWORK = (api.RequestTimeout, OSError)
"""Every exception of requests, which Ocean's client lets through, is an OSError."""
_LOCAL = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
)
"""What a request meets before it is sent."""
_MALFORMED = (api.ResourceBadResponseError, binascii.Error, ValueError, LookupError, TypeError, AttributeError)


def typed_error(error: BaseException, phase: Phase, problem_ids: tuple[str, ...], secret: str | None) -> SamplerError:
    """The error of our tree that ``error`` amounts to. ``secret`` is kept out of its message."""
    if isinstance(error, SamplerError):
        return error
    reply = _reply(error, secret)
    if reply is not None:
        return _refused(reply, phase, problem_ids, redacted(str(reply), secret))
    text = redacted(f"{type(error).__name__}: {error}", secret)
    if isinstance(error, ocean.SolverOfflineError):
        return SolverNotFoundHereError(
            f"the solver is offline ({text})", retry_after_s=OFFLINE_RETRY_S, problem_ids=problem_ids
        )
    if isinstance(error, ocean.SolverNotFoundError):
        return SolverNotFoundHereError(f"no such solver is online ({text})", retry_after_s=OFFLINE_RETRY_S)
    if isinstance(error, ocean.PollingTimeout):
        return SamplerTimeoutError(f"the problem was not solved in time ({text})", problem_ids=problem_ids)
    if isinstance(error, ocean.CanceledFutureError):
        return SamplerUnavailableError(
            f"the problem was cancelled on the solver ({text})", retry_after_s=RETRY_S, problem_ids=problem_ids
        )
    if isinstance(error, ocean.SolverFailureError):
        if phase == "submit":
            return SamplerError(f"the solver refused the problem ({text})")
        return SamplerUnavailableError(
            f"the solver failed the problem ({text})", retry_after_s=RETRY_S, problem_ids=problem_ids
        )
    if isinstance(error, _LOCAL):
        return SolverConfigurationError(f"Ocean's configuration cannot be used ({text})")
    if isinstance(error, _NETWORK) and not isinstance(error, api.ResourceBadResponseError):
        return SamplerUnavailableError(
            f"the solver API cannot be reached ({text})", retry_after_s=RETRY_S, problem_ids=problem_ids
        )
    return _malformed(error, phase, problem_ids, text)


def refuses(error: BaseException) -> bool:
    """Whether ``error``, met at a submit, is the API's word that the problem was not taken."""
    if isinstance(error, (ocean.SolverFailureError, ocean.SolverOfflineError)):
        return True
    code = _status(error)
    return code is not None and 400 <= code < 500


def too_many(error: BaseException) -> bool:
    """Whether ``error`` is the API's word that there are too many requests, or problems, now."""
    return _status(error) == 429


def may_pass(error: BaseException) -> bool:
    """Whether ``error``, met while an accepted problem was waited for, may be gone when it is asked for again.

    So it is with all that does not concern the problem itself: a refusal of the moment, a lost connection, a reply that
    is not the API's.
    """
    code = _status(error)
    if code is not None:
        return code in (403, 429) or code >= 500
    if isinstance(error, (ocean.InvalidAPIResponseError, api.ResourceBadResponseError)):
        return True
    return isinstance(error, _NETWORK) and not isinstance(error, _LOCAL)


def told_to_wait_s(error: BaseException) -> float | None:
    """The ``Retry-After`` that came with ``error``, None if none did."""
    if isinstance(error, RefusedByApiError):
        return error.retry_after_s
    response = getattr(error, "response", None)
    return None if response is None else retry_after_s(response.headers.get("Retry-After"))


def cause_of(typed: SamplerError, error: BaseException, secret: str | None) -> BaseException | None:
    """What ``typed`` is to be raised from: ``error``, unless that is itself or would carry the secret into a log."""
    said = f"{error!r} {error}"
    return None if typed is error or any(form in said for form in _forms(secret)) else error


def redacted(text: str, secret: str | None) -> str:
    """``text`` without ``secret``, on one line of bounded length."""
    for form in _forms(secret):
        text = text.replace(form, "***")
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."


def _forms(secret: str | None) -> list[str]:
    """How ``secret`` may stand in a text, longest first: libraries quote it, or leave out the blanks around it."""
    forms = {secret, secret.strip(), repr(secret)[1:-1]} if secret else set()
    return sorted(forms - {""}, key=len, reverse=True)


def _malformed(error: BaseException, phase: Phase, problem_ids: tuple[str, ...], text: str) -> SamplerError:
    known = isinstance(error, _MALFORMED)
    message = "the solver API's reply makes no sense" if known else "Ocean's client failed"
    if phase == "connect":
        return SamplerUnavailableError(f"{message} ({text})", retry_after_s=RETRY_S)
    return SamplerAnswerError(f"{message} ({text})", problem_ids=problem_ids)


def _refused(reply: RefusedByApiError, phase: Phase, problem_ids: tuple[str, ...], text: str) -> SamplerError:
    code, wait_s = reply.status, reply.retry_after_s
    if code == 401:
        return SolverAuthenticationFailedError(f"the solver API refused the token ({text})", problem_ids=problem_ids)
    if code == 429:
        wait_s = BUSY_RETRY_S if wait_s is None else wait_s
        return SamplerUnavailableError(
            f"the solver API takes no more requests now ({text})", retry_after_s=wait_s, problem_ids=problem_ids
        )
    if code == 403:
        return SamplerUnavailableError(f"the solver API forbids this request ({text})", problem_ids=problem_ids)
    if 400 <= code < 500:
        if phase == "connect":
            return SolverNotFoundHereError(f"the solver API knows no such solver ({text})")
        if phase == "submit":
            return SamplerError(f"the solver API refused the problem ({text})")
        return SamplerAnswerError(f"the solver API no longer knows the problem ({text})", problem_ids=problem_ids)
    wait_s = RETRY_S if wait_s is None else wait_s
    return SamplerUnavailableError(f"the solver API failed ({text})", retry_after_s=wait_s, problem_ids=problem_ids)


def _reply(error: BaseException, secret: str | None) -> RefusedByApiError | None:
    """The API's refusal in ``error``, None if it is no such thing."""
    if isinstance(error, RefusedByApiError):
        return error
    code, response = _status(error), getattr(error, "response", None)
    if code is None:
        return None
    # What Ocean takes for the API's message may be a whole page.
    return RefusedByApiError(code, None, None) if response is None else refusal(response, secret)


def _status(error: BaseException) -> int | None:
    if isinstance(error, RefusedByApiError):
        return error.status
    for kind, code in (
        ((api.ResourceAuthenticationError, ocean.SolverAuthenticationError), 401),
        (api.ResourceAccessForbiddenError, 403),
        (api.ResourceNotFoundError, 404),
        (api.ResourceLimitsExceededError, 429),
    ):
        if isinstance(error, kind):
            return code
    status = getattr(error, "error_code", None)
    return status if isinstance(status, int) else None
