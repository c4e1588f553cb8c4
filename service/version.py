"""The version of the running program."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def program_version() -> str:
    """Version of the installed distribution, ``"unknown"`` where it runs uninstalled."""
    try:
        return version("qshower")
    except PackageNotFoundError:
        return "unknown"
