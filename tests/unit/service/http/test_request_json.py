from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from fastapi.exceptions import RequestValidationError

from qshower.sampler.errors import InvalidInputError
from qshower.service.http.request_json import MOST_FIELDS, parsed
from qshower.service.service_errors import MalformedError
from qshower.service.settings import load_settings

MOST = 1000


def test_the_largest_legal_request_fits_into_the_largest_body() -> None:
    """Each energy with all its digits, on a line of its own."""
    limits = load_settings().limits
    energies = [123456.789012345678 + number * 1e-10 for number in range(limits.showers)]
    body = json.dumps({"incident_energies_mev": energies, "model": "m" * 200, "solver": "s" * 200}, indent=4).encode()
    assert len(body) <= limits.most_body_bytes < 8 << 20
    assert len(parsed(body, limits.showers).incident_energies_mev) == limits.showers


def test_a_body_limit_that_is_set_is_kept() -> None:
    assert load_settings(max_body_bytes=77).limits.most_body_bytes == 77


def refused(body: bytes) -> str:
    with pytest.raises((InvalidInputError, MalformedError, RequestValidationError)) as caught:
        parsed(body, MOST)
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            orjson.dumps({f"x{number}": 1 for number in range(MOST_FIELDS + 1)}),
            "more than 1000 fields; known: incident",
        ),
        (orjson.dumps({"incident_energies_mev": [1] * 2500}), "the body has 2500 values; allowed: 1 to 1000 showers"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 100_000, "4300"),
        (b"{}x", "Extra data at character 2"),
        (b"null", "must be a JSON object"),
        (b"\xff\xfe\xfd", "is not JSON"),
        (b"", "is not JSON"),
    ],
    ids=range(8),
)
def test_what_no_request_can_be_is_refused_before_it_is_looked_into(body: bytes, said: str) -> None:
    assert said in refused(body)


@pytest.mark.parametrize(
    "value", ["\ud800", ["\ud800"], {"\ud800": 1}, 2**64, [2**65], {"a": {"b": 2**65}}, float("nan")]
)
@pytest.mark.parametrize("field", ["model", "sampler", "fallback", "options", "seed", "unknown"])
def test_the_field_of_a_wrong_value_is_known(field: str, value: Any) -> None:
    with pytest.raises(RequestValidationError) as caught:
        parsed(json.dumps({"incident_energies_mev": [1000], field: value}).encode(), MOST)
    assert all(error["loc"][:2] == ("body", field) for error in caught.value.errors())
