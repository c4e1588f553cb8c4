"""Requests, their options, and rows grouped by condition."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from qshower.sampler.errors import InvalidInputError
from qshower.sampler.request import MAX_SWEEPS, SamplerOptions, rows_by_condition

HEAVY = ("numba", "llvmlite", "torch", "dwave", "dimod", "networkx")
VALUE_TYPES = ("errors", "machine", "request", "provenance", "protocol")


@pytest.mark.parametrize("module", VALUE_TYPES)
def test_value_types_need_no_compiler_no_torch_and_no_ocean(module: str) -> None:
    code = f"import sys, qshower.sampler.{module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("width", [0, 1, 7, 8, 302])
def test_distinct_conditions_are_those_of_numpy(width: int) -> None:
    rng = np.random.default_rng(width)
    some = rng.choice(np.array([-1, 1], dtype=np.int8), size=(9, width))
    conditions = some[rng.integers(9, size=200)]
    found, members = rows_by_condition(conditions)
    assert found.dtype == np.int8
    if width:
        expected, member = np.unique(conditions, axis=0, return_inverse=True)
        assert np.array_equal(found, expected)
        assert np.array_equal(np.concatenate(members), np.argsort(member.reshape(-1), kind="stable"))
    else:
        assert found.shape == (1, 0)
    assert all((conditions[rows] == row).all() for row, rows in zip(found, members, strict=True))
    assert np.array_equal(np.sort(np.concatenate(members)), np.arange(200))


def test_no_rows_have_no_condition() -> None:
    distinct, rows = rows_by_condition(np.empty((0, 3), dtype=np.int8))
    assert distinct.shape == (0, 3)
    assert rows == []


@pytest.mark.parametrize("sweeps", [0, -1, True, 2.0, MAX_SWEEPS + 1, "9"])
def test_sweeps_out_of_range_are_refused(sweeps: object) -> None:
    with pytest.raises(InvalidInputError, match=r"options\.sweeps.*an integer from 1"):
        SamplerOptions(sweeps=sweeps).sweeps_or(256, "gibbs")  # type: ignore[arg-type]


def test_another_option_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match=r"options\.gauges.*annealing takes only sweeps"):
        SamplerOptions(sweeps=9, gauges=4).sweeps_or(256, "annealing")


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_options_of_numpy_are_python_s_numbers(kind: type[np.integer[Any]]) -> None:
    eight, three = kind(8), kind(3)
    options = SamplerOptions(sweeps=eight, num_reads=three, annealing_time_us=np.float64(20.0))  # type: ignore[arg-type]
    assert [type(value) for value in options.given().values()] == [int, int, float]
    assert options == SamplerOptions(sweeps=8, num_reads=3, annealing_time_us=20.0)
