"""Spins packed one bit each come out as they went in."""

import numpy as np
import pytest

from qshower.sampler.packed_spins import pack_spins, rows_by_key, unpack_spins
from tests.conftest import SpinMaker


@pytest.mark.parametrize("nodes", [1, 7, 8, 9, 16, 1208])
def test_packing_is_undone_by_unpacking(rng: np.random.Generator, random_spins: SpinMaker, nodes: int) -> None:
    spins = random_spins(rng, (5, nodes))
    packed = pack_spins(spins)
    assert packed.shape == (5, -(-nodes // 8))
    assert np.array_equal(unpack_spins(packed, nodes), spins)


def test_rows_of_each_condition(random_spins: SpinMaker, rng: np.random.Generator) -> None:
    conditions = np.unique(random_spins(rng, (64, 11)), axis=0)[:3][[0, 2, 0, 1, 2, 0]]
    found = rows_by_key(conditions)
    assert sorted(rows.tolist() for rows in found.values()) == [[0, 2, 5], [1, 4], [3]]
