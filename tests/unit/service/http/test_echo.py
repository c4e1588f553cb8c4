from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qshower.service.http.echo import LONGEST_ECHO, cut, echo, shown
from qshower.service.machine_paths import without_paths

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers(-(10**40), 10**40)
    | st.text(st.characters(exclude_categories=()), max_size=300),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner),
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**64 - 1, 2**64 - 1),
        (2**64, str(2**64)),
        ([2**65], f"[{2**65}]"),
        ({"a": [2**65]}, f"{{'a': [{2**65}]}}"),
        ("\ud800", "\\ud800"),
        (["a", {"b": 1.5}], ["a", {"b": 1.5}]),
        (["\ud800"], "['\\ud800']"),
        (float("inf"), "inf"),
        ("x" * 300, "x" * 200 + "…"),
    ],
)
def test_an_echo(value: Any, expected: Any) -> None:
    assert echo(value) == expected


def test_true_and_null_are_written_as_json_has_them() -> None:
    assert (shown(True), shown(None), shown("a")) == ("true", "null", "'a'")


@settings(max_examples=50, deadline=None)
@given(JSON)
def test_whatever_json_holds_can_be_echoed_in_short(value: Any) -> None:
    assert len(orjson.dumps({"value": echo(value), "shown": shown(value)})) < 20 * LONGEST_ECHO


@pytest.mark.parametrize(
    "value",
    [list(range(10**6)), {str(number): 1 for number in range(10**5)}, "x" * 10**7, 10**4000, [[[[["x"]]]]] * 99],
)
def test_a_long_value_is_cut(value: Any) -> None:
    assert len(echo(value)) <= LONGEST_ECHO + 1


def test_nesting_has_an_end() -> None:
    deep: list[Any] = []
    for _ in range(200_000):
        deep = [deep]
    assert len(echo(deep)) < LONGEST_ECHO
    while deep:  # a list this deep cannot be freed at once
        deep = deep.pop()


def test_a_name_of_a_field_is_cut() -> None:
    assert cut("\udfff" + "a" * 1000) == "\\udfff" + "a" * 199 + "…"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot keep it in /var/lib/qshower/qpu (No space left)", "cannot keep it in qpu (No space left)"),
        ("'/etc/dwave.conf' is no file", "'dwave.conf' is no file"),
        ("the API at https://cloud.example/sapi/v2/x is down", "the API at https://cloud.example/sapi/v2/x is down"),
        ("allowed: true/false, 1/2", "allowed: true/false, 1/2"),
    ],
)
def test_paths_of_this_machine_stay_here(text: str, told: str) -> None:
    assert without_paths(text) == told
