"""What commands share: consoles, progress bars, lists of numbers."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from qshower.sampler.errors import InvalidInputError

LINE_INTERVAL_S = 30.0


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
    """A progress bar on standard error; where that is no terminal, a line every ``LINE_INTERVAL_S``."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if unit in ("showers", "steps") else TaskProgressColumn(),
        TextColumn(unit if unit == "showers" else ""),
        TimeRemainingColumn(),
    )
    if not sys.stderr.isatty():
        yield _Lines(unit)
        return
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar


class _Lines(Progress):
    """Progress in lines, for files and logs."""

    def __init__(self, unit: str) -> None:
        super().__init__(disable=True)
        self._unit, self._due = unit, time.monotonic() + LINE_INTERVAL_S

    def update(self, task_id: TaskID, *arguments: Any, **changes: Any) -> None:
        super().update(task_id, *arguments, **changes)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + LINE_INTERVAL_S
        task = next(task for task in self.tasks if task.id == task_id)
        if self._unit == "percent":
            done = f"{task.percentage:.0f} %"
        else:
            done = f"{task.completed:.0f}{'' if task.total is None else f' of {task.total:.0f}'} {self._unit}"
        say(f"{task.description}: {done}")


def numbers(flag: str, text: str) -> list[float]:
    """The comma-separated finite numbers of a flag; InvalidInputError names the flag."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(value) for value in values):
        raise InvalidInputError(flag, text, "finite numbers with commas between, such as 1000,65536")
    return values
