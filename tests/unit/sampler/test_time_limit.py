"""Until when work may go on."""

import math
from time import monotonic

import pytest

from qshower.sampler.errors import SamplerCancelledError, SamplerTimeoutError
from qshower.sampler.time_limit import UNLIMITED, TimeLimit


def test_it_ends_past_the_deadline_and_when_nobody_waits() -> None:
    UNLIMITED.check("test")
    assert UNLIMITED.left_s == math.inf
    with pytest.raises(SamplerTimeoutError, match="test: the deadline passed"):
        TimeLimit(monotonic() - 1.0).check("test")
    waits = [False, False, True]
    limit = TimeLimit(monotonic() + 3600.0, lambda: waits.pop(0))
    assert 3500 < limit.left_s <= 3600
    limit.check("test")
    limit.check("test")
    with pytest.raises(SamplerCancelledError, match="test: nobody waits"):
        limit.check("test")
