import sys

from qshower.service.logs import LONGEST_TRACEBACK, MOST_FRAMES, plain_traceback


def fails(depth: int, message: str) -> None:
    if depth:
        fails(depth - 1, message)
    raise ValueError(message)


def traceback_of(depth: int, message: str) -> str:
    try:
        fails(depth, message)
    except ValueError as error:
        return plain_traceback((type(error), error, error.__traceback__))
    raise AssertionError(sys.version)


def test_a_traceback_has_lines_of_code_and_no_values() -> None:
    text = traceback_of(0, "what happened")
    assert text.startswith("Traceback (most recent call last):")
    assert text.endswith("ValueError: what happened")
    assert "raise ValueError(message)" in text


def test_a_long_message_and_a_deep_stack_are_cut() -> None:
    text = traceback_of(900, f"{'x' * 10_000_000} what happened")
    assert len(text) <= LONGEST_TRACEBACK + 3
    assert text.startswith("Traceback (most recent call last):")
    assert text.endswith("what happened")
    assert traceback_of(900, "short").count("\n") < 3 * MOST_FRAMES
