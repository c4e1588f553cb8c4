from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler.qpu.packing import pack


def cost_us(parts: int, reads: int) -> float:
    """Programming 34 ms, then about 0.14 ms a read, a little more for more active qubits."""
    return 34_000.0 + reads * (130.0 + 5.0 * parts)


def members_of(sizes: list[int]) -> list[np.ndarray]:
    rows = np.random.default_rng(0).permutation(sum(sizes))
    return [np.sort(part) for part in np.split(rows, np.cumsum(sizes)[:-1])]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=40),
    st.integers(1, 5),
    st.sampled_from([50, 10_000]),
    st.none() | st.integers(1, 400),
)
def test_every_row_gets_one_read_of_its_own_condition(
    sizes: list[int], copies: int, most: int, num_reads: int | None
) -> None:
    members = members_of(sizes)
    programmings = pack(members, copies, cost_us, most, num_reads)
    rows = np.concatenate([part.rows for programming in programmings for part in programming.parts])
    assert np.array_equal(np.sort(rows), np.arange(sum(sizes)))
    for programming in programmings:
        assert len(programming.parts) <= copies
        assert [part.copy for part in programming.parts] == list(range(len(programming.parts)))
        assert programming.reads <= most
        for part in programming.parts:
            assert 1 <= part.rows.size <= programming.reads
            assert np.isin(part.rows, members[part.condition]).all()
        if num_reads is not None:
            assert programming.reads == min(num_reads, most)


def test_one_condition_of_many_rows_is_spread_over_the_copies() -> None:
    (programming,) = pack(members_of([1000]), 4, cost_us, 10_000)
    assert [part.rows.size for part in programming.parts] == [250] * 4
    assert programming.reads == 250


def test_the_best_copy_gets_the_most_rows() -> None:
    (programming,) = pack(members_of([3, 9, 5]), 3, cost_us, 10_000)
    assert [part.condition for part in programming.parts] == [1, 2, 0]


def test_it_is_never_dearer_than_whole_groups_and_far_cheaper_than_one_each() -> None:
    sizes = np.random.default_rng(1).multinomial(1000, np.full(96, 1 / 96)).tolist()
    total = sum(cost_us(len(one.parts), one.reads) for one in pack(members_of(sizes), 4, cost_us, 10_000))
    ordered = sorted(sizes, reverse=True)
    whole = sum(cost_us(4, ordered[start]) for start in range(0, 96, 4))
    assert total <= whole
    assert total < 1000 * cost_us(1, 1) / 20


def test_nothing_to_draw_needs_no_programming() -> None:
    assert pack([], 4, cost_us, 100) == ()


@pytest.mark.parametrize("copies", [1, 4])
def test_reads_beyond_the_solvers_limit_take_more_programmings(copies: int) -> None:
    programmings = pack(members_of([25_000]), copies, cost_us, 1000)
    assert max(programming.reads for programming in programmings) <= 1000
    assert len(programmings) == -(-25 // copies)
