"""The error of a job that a solver does not take."""

from __future__ import annotations


class RefusedError(Exception):
    """The job is refused; ``code`` and the message go to the client as error_code and error_msg."""

    def __init__(self, message: str, code: int = 400) -> None:
        self.code = code
        super().__init__(message)
