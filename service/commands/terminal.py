"""What commands share: consoles, progress bars, lists of numbers."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from qshower.sampler.errors import InvalidInputError


def console() -> Console:
    """Standard output, for what a command is asked for."""
    return Console(soft_wrap=True)


def two_columns() -> Table:
    """A table of names and values, none of them cut short."""
    table = Table(show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    return table


def say(text: str) -> None:
    """A remark on standard error, so that standard output stays what was asked for."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(text, markup=False)


def show_warnings() -> None:
    """Print what libraries warn of on standard error, a line each."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)


@contextmanager
def progress(unit: str) -> Iterator[Progress]:
    """A progress bar on standard error; nothing where that is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if unit in ("showers", "steps") else TaskProgressColumn(),
        TextColumn(unit if unit == "showers" else ""),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        yield bar


def numbers(flag: str, text: str) -> list[float]:
    """The comma-separated finite numbers of a flag; InvalidInputError names the flag."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(value) for value in values):
        raise InvalidInputError(flag, text, "finite numbers with commas between, such as 1000,65536")
    return values
