"""Every exception of Ocean's client becomes one of ours, with what a user can do about it."""

from __future__ import annotations

import binascii

import pytest
import requests
from dwave.cloud import exceptions as ocean
from dwave.cloud.api import exceptions as api

from qshower.sampler.errors import (
    SamplerAnswerError,
    SamplerError,
    SamplerTimeoutError,
    SamplerUnavailableError,
    SolverAuthenticationFailedError,
    SolverNotFoundHereError,
)
from qshower.sampler.qpu.ocean.api_replies import RefusedByApiError
from qshower.sampler.qpu.ocean.ocean_errors import cause_of, typed_error

ERRORS = [
    (ocean.SolverAuthenticationError(error_code=401), "answer", SolverAuthenticationFailedError),
    (api.ResourceAuthenticationError(), "connect", SolverAuthenticationFailedError),
    (api.InternalServerError(error_code=500), "connect", SamplerUnavailableError),
    (api.ResourceAccessForbiddenError(error_code=403), "connect", SamplerUnavailableError),
    (api.ResourceLimitsExceededError(error_code=429), "connect", SamplerUnavailableError),
    (ocean.SolverNotFoundError("x"), "connect", SolverNotFoundHereError),
    (ocean.SolverOfflineError("Solver is offline"), "answer", SolverNotFoundHereError),
    (ocean.SolverFailureError("x"), "answer", SamplerUnavailableError),
    (ocean.SolverFailureError("x"), "submit", SamplerError),
    (ocean.SolverError(error_msg="x", error_code=400), "submit", SamplerError),
    (ocean.SolverError(error_msg="x", error_code=404), "answer", SamplerAnswerError),
    (ocean.SolverError(error_msg="x", error_code=503), "answer", SamplerUnavailableError),
    (ocean.RequestTimeout(), "submit", SamplerUnavailableError),
    (requests.exceptions.ChunkedEncodingError(), "answer", SamplerUnavailableError),
    (ConnectionResetError(), "answer", SamplerUnavailableError),
    (ocean.InvalidAPIResponseError("x"), "answer", SamplerAnswerError),
    (ocean.InvalidAPIResponseError("x"), "connect", SamplerUnavailableError),
    (binascii.Error("x"), "answer", SamplerAnswerError),
    (KeyError("solutions"), "answer", SamplerAnswerError),
    (IndexError("x"), "answer", SamplerAnswerError),
    (RuntimeError("never seen before"), "answer", SamplerAnswerError),
    (ocean.PollingTimeout(), "answer", SamplerTimeoutError),
    (ocean.CanceledFutureError(), "answer", SamplerUnavailableError),
]


@pytest.mark.parametrize(("error", "phase", "kind"), ERRORS, ids=lambda value: str(value)[:30])
def test_every_exception_has_its_type_and_keeps_the_problem_id(
    error: Exception, phase: str, kind: type[SamplerError]
) -> None:
    typed = typed_error(error, phase, ("id-1",) if phase == "answer" else (), None)  # type: ignore[arg-type]
    assert type(typed) is kind
    assert "\n" not in str(typed)
    if phase == "answer":
        assert typed.problem_ids == ("id-1",)


def test_a_token_echoed_by_a_server_is_taken_out() -> None:
    error = RefusedByApiError(500, "bad header X-Auth-Token: ABC-123 " + "x" * 1000, None)
    typed = typed_error(error, "answer", (), "ABC-123")
    text = str(typed)
    assert cause_of(typed, error, "ABC-123") is None
    assert cause_of(typed, error, "another") is error
    assert "ABC-123" not in text
    assert "***" in text
    assert len(text) < 400
