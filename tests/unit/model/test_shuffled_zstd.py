"""Showers in zstd of shuffled bytes."""

import numpy as np
import pytest

from qshower.model.shuffled_zstd import pack, unpack


def test_what_is_packed_comes_back_and_is_small() -> None:
    rng = np.random.default_rng(0)
    block = np.where(rng.random((40, 500)) < 0.2, rng.exponential(50.0, (40, 500)), 0).astype(np.float32)
    packed = pack(block)
    assert len(packed) < 0.4 * block.nbytes
    assert np.array_equal(unpack(packed, 40, 500), block)
    assert unpack(pack(block[:0]), 0, 500).shape == (0, 500)
    with pytest.raises((OSError, ValueError)):
        unpack(packed[:-20], 40, 500)
