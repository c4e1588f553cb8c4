from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qshower.sampler.qpu.planning.packing import Cost, Packed, pack


def cost_us(parts: np.ndarray, reads: np.ndarray) -> np.ndarray:
    """Programming 34 ms, then about 0.14 ms a read, a little more for more active qubits."""
    return 34_000.0 + reads * (130.0 + 5.0 * parts)


def gauged_us(parts: np.ndarray, reads: np.ndarray) -> np.ndarray:
    """The same in up to eight gauges, each programmed for itself."""
    return np.minimum(8, reads) * 34_000.0 + reads * (130.0 + 5.0 * parts)


def total_us(programmings: tuple[Packed, ...], cost: Cost = cost_us) -> float:
    return float(sum(cost(np.array(len(one.parts)), np.array(float(one.reads))) for one in programmings))


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
        assert programming.reads <= (most if num_reads is None else num_reads)
        for part in programming.parts:
            assert 1 <= part.rows.size <= programming.reads
            assert np.isin(part.rows, members[part.condition]).all()
        if num_reads is not None:
            assert programming.reads == num_reads


def test_one_condition_of_many_rows_is_spread_over_the_copies() -> None:
    (programming,) = pack(members_of([1000]), 4, cost_us, 10_000)
    assert [part.rows.size for part in programming.parts] == [250] * 4
    assert programming.reads == 250


def test_the_best_copy_gets_the_most_rows() -> None:
    (programming,) = pack(members_of([3, 9, 5]), 3, cost_us, 10_000)
    assert [part.condition for part in programming.parts] == [1, 2, 0]


def test_it_is_never_dearer_than_whole_groups_and_far_cheaper_than_one_each() -> None:
    sizes = np.random.default_rng(1).multinomial(1000, np.full(96, 1 / 96)).tolist()
    total = total_us(pack(members_of(sizes), 4, cost_us, 10_000))
    ordered = sorted(sizes, reverse=True)
    whole = sum(34_000.0 + ordered[start] * 150.0 for start in range(0, 96, 4))
    assert total <= whole
    assert total < 1000 * 34_135.0 / 20


@pytest.mark.parametrize(
    ("sizes", "reads"),
    [
        ([1000] * 5, [1000, 250]),
        ([1000] * 9, [1000, 1000, 250]),
        ([3000] * 3, [1500, 750]),
        ([3000] * 5, [3000, 750]),
        ([5000, 5000, *[50] * 20], [2500, 50, 50, 50, 50, 50]),
    ],
)
def test_it_is_no_dearer_than_a_split_that_takes_two_sizes(sizes: list[int], reads: list[int]) -> None:
    """As found by a local search over all splits: most groups of one size whole, the last one side by side."""
    stated = sum(34_000.0 + one * 150.0 for one in reads)
    assert total_us(pack(members_of(sizes), 4, cost_us, 10_000)) <= stated


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=30),
    st.integers(1, 5),
    st.integers(1, 64),
    st.sampled_from([cost_us, gauged_us]),
)
def test_it_is_never_dearer_than_parts_of_one_common_size(
    sizes: list[int], copies: int, pieces: int, cost: Cost
) -> None:
    limit = -(-max(sizes) // pieces)
    parts = sorted((min(limit, size - at) for size in sizes for at in range(0, size, limit)), reverse=True)
    common = sum(
        float(cost(np.array(len(parts[at : at + copies])), np.array(float(parts[at]))))
        for at in range(0, len(parts), copies)
    )
    # Gauges that outnumber the reads of a part are rare, and are not searched through.
    slack = 1.0 + (1e-9 if cost is cost_us else 0.05)
    assert total_us(pack(members_of(sizes), copies, cost, 10_000), cost) <= common * slack


def test_nothing_to_draw_needs_no_programming() -> None:
    assert pack([], 4, cost_us, 100) == ()


@pytest.mark.parametrize("copies", [1, 4])
def test_reads_beyond_the_solvers_limit_take_more_programmings(copies: int) -> None:
    programmings = pack(members_of([25_000]), copies, cost_us, 1000)
    assert max(programming.reads for programming in programmings) <= 1000
    assert len(programmings) == -(-25 // copies)
