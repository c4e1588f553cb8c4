import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qshower.model.energy_code import BitCode, ThermometerCode, build_energy_code
from qshower.sampler.errors import InvalidInputError

CODE = ThermometerCode(302, 64, 1e3, 1e6)


def test_each_level_has_its_own_condition_and_neighbours_differ_least() -> None:
    alphabet = CODE.alphabet()
    assert alphabet.shape == (64, 302)
    assert len(np.unique(alphabet, axis=0)) == 64
    up = (alphabet == 1).sum(axis=1)
    assert up[0] == 0
    assert up[-1] == 302
    flips = (alphabet[1:] != alphabet[:-1]).sum(axis=1)
    assert set(flips.tolist()) <= {4, 5}


@given(st.floats(1e3, 1e6), st.floats(1e3, 1e6))
def test_more_energy_never_turns_a_spin_down(first: float, second: float) -> None:
    low, high = sorted((first, second))
    conditions = CODE.conditions(np.array([low, high]))
    assert (conditions[0] <= conditions[1]).all()


def test_levels_are_equal_in_the_logarithm() -> None:
    edges = np.geomspace(1e3, 1e6, 65)
    middles = np.sqrt(edges[:-1] * edges[1:])
    assert CODE.levels(middles).tolist() == list(range(64))
    assert CODE.levels(np.array([1e3, 1e6])).tolist() == [0, 63]


def test_bit_code_is_the_published_one() -> None:
    code = BitCode(302)
    energy = 65536.0
    numbers = (int(energy), int(np.sqrt(energy * 10)), int(np.log(energy) * np.exp(10)))
    word = [1 if number >> bit & 1 else -1 for number in numbers for bit in range(20)]
    assert code.conditions(np.array([energy]))[0].tolist() == word * 5 + [-1, -1]
    assert code.level_count is None


def test_codes_refuse_what_they_cannot_be() -> None:
    with pytest.raises(InvalidInputError, match="levels: 400"):
        ThermometerCode(302, 400, 1e3, 1e6)
    with pytest.raises(InvalidInputError, match="width: 20"):
        BitCode(20)
    with pytest.raises(InvalidInputError, match="energy_code: 'gray'"):
        build_energy_code("gray", 302, domain_mev=(1e3, 1e6))
