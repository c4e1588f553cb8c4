"""Nothing that the connection does can hang."""

from __future__ import annotations

from threading import Event

import pytest

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.qpu.ocean.connection import in_time


def test_work_in_time_gives_its_result_or_its_error_and_late_work_is_left_behind() -> None:
    closing, never = Event(), Event()
    assert in_time(lambda: 7, 5.0, "test", closing) == 7
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: 1 // 0, 5.0, "test", closing)
    with pytest.raises(SamplerUnavailableError, match="did not answer within"):
        in_time(never.wait, 0.05, "test", closing)
    closing.set()
    with pytest.raises(SamplerUnavailableError, match="closed"):
        in_time(never.wait, 1e6, "test", closing)
    never.set()
