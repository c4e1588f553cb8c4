"""The registry of samplers."""

from __future__ import annotations

from typing import cast

import pytest

from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.protocol import Sampler
from qshower.sampler.registry import SamplerRegistry


class _Renamed:
    """An annealing sampler under another name, whose close may fail."""

    def __init__(self, name: str, *, failing: bool = False) -> None:
        self.inner, self.name, self.failing, self.closed = AnnealingSampler(threads=1), name, failing, 0

    def close(self) -> None:
        self.closed += 1
        self.inner.close()
        if self.failing:
            raise OSError("cannot close")


def registry_of(*samplers: _Renamed) -> SamplerRegistry:
    """Of samplers that nobody asks for more than their name and their end."""
    return SamplerRegistry([cast(Sampler, sampler) for sampler in samplers])


def test_samplers_are_found_by_name_in_the_order_given() -> None:
    first, second = _Renamed("b"), _Renamed("a")
    with registry_of(first, second) as registry:
        assert registry.names() == ("b", "a")
        assert registry.get("a") is second
        assert (first.closed, second.closed) == (0, 0)
    assert (first.closed, second.closed) == (1, 1)


def test_unknown_name_is_refused_with_the_names_there_are() -> None:
    message = r"sampler: 'magic' is not allowed; allowed: a, b"
    with registry_of(_Renamed("a"), _Renamed("b")) as registry, pytest.raises(InvalidInputError, match=message):
        registry.get("magic")
    with SamplerRegistry([]) as empty, pytest.raises(InvalidInputError, match="no sampler"):
        empty.get("a")


def test_two_samplers_of_one_name_are_refused() -> None:
    first = _Renamed("a")
    with pytest.raises(InvalidInputError, match="different names"):
        registry_of(first, first)
    first.close()


def test_every_sampler_is_closed_even_if_one_fails_to() -> None:
    samplers = [_Renamed("a"), _Renamed("b", failing=True), _Renamed("c")]
    registry = registry_of(*samplers)
    with pytest.raises(OSError, match="cannot close"):
        registry.close()
    assert [sampler.closed for sampler in samplers] == [1, 1, 1]
