import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qshower.model.drawing.philox import philox_block, uniforms
from qshower.sampler.request import streams_of


def test_generator_gives_the_known_answers() -> None:
    """Vectors of the Random123 distribution for philox4x32-10."""
    everything = np.uint64(0xFFFFFFFF)
    assert [hex(word) for word in philox_block((0, 0, 0, 0), (0, 0))] == [
        "0x6627e8d5",
        "0xe169c58d",
        "0xbc57ac4c",
        "0x9b00dbd8",
    ]
    ones = philox_block((everything,) * 4, (everything,) * 2)
    assert [hex(word) for word in ones] == ["0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd"]


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(1, 50))
def test_a_row_depends_on_its_stream_alone(seed: int, index: int, count: int) -> None:
    streams = np.array([[1, 2], [seed, index], [3, 4]], dtype=np.uint64)
    alone = uniforms(streams[1:2], count)[0]
    np.testing.assert_array_equal(uniforms(streams, 60)[1, :count], alone)
    assert (alone > 0).all()
    assert (alone < 1).all()


def test_numbers_are_uniform_and_rows_independent() -> None:
    """|z| < 5 for the mean, and for the correlation of neighbouring rows: false alarm below 2e-6."""
    streams = streams_of(9, 64)
    numbers = uniforms(streams, 4000).astype(np.float64)
    z = (numbers.mean() - 0.5) * np.sqrt(12 * numbers.size)
    assert abs(z) < 5
    centred = (numbers - 0.5) * np.sqrt(12)
    assert abs((centred[1:] * centred[:-1]).sum() / np.sqrt(centred[1:].size)) < 5
