"""Blocks that Ctrl-C waits for. What is written with them has its tests in test_showers_file."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qshower.sampler.errors import InvalidInputError
from qshower.sampler.files import replaceable, uninterrupted


@pytest.fixture
def handler() -> Iterator[list[int]]:
    """Numbers of the signals that came to the program's own handler."""
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    yield seen
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    reached = []

    def interrupt() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            reached.append(1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        assert reached == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_many_interrupts_are_told_once_and_an_error_is_not_lost(handler: list[int]) -> None:
    def fail() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert handler == []
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        fail()
    assert handler == [signal.SIGINT]
    with uninterrupted():
        pass
    assert handler == [signal.SIGINT]


def test_an_ignored_interrupt_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_change_nothing(handler: list[int]) -> None:
    during = []

    def block() -> None:
        with uninterrupted():
            during.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=block)
    known = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert during == [known]
    assert handler == []


def test_a_path_that_cannot_be_reached_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "file" / "x.hdf5", tmp_path / "loop", tmp_path / ("x" * 300)):
        with pytest.raises(InvalidInputError, match="a folder that can be reached") as caught:
            replaceable(path)
        assert caught.value.field == str(path)
    assert replaceable(tmp_path / "new" / "x.hdf5") == (tmp_path / "new" / "x.hdf5").resolve()
