"""``qshower evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.progress import TaskID
from rich.table import Table

from qshower.evaluation.report import Choices, evaluate
from qshower.model.bundle import find_bundles
from qshower.service.commands.terminal import console, progress, say


def run(reference: Path, samples: Sequence[Path], output: Path, choices: Choices) -> None:
    """Write the report and print its summary; figures are shown as soon as they are known."""
    with progress("percent") as bar:
        tasks: dict[str, TaskID] = {}

        def reached(stage: str, share: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0)
            bar.update(tasks[stage], completed=share, visible=share < 1.0)

        announce = bar.console.print if not bar.disable else say
        written = evaluate(reference, samples, output, choices, progress=reached, announce=announce)
    header, *rows = written.summary
    # One column for each sample keeps the figures whole on a narrow terminal.
    table = Table(header[0], *(row[0] for row in rows))
    for place, name in enumerate(header[1:], start=1):
        table.add_row(name, *(row[place] for row in rows))
    console().print(table)
    say(f"wrote {written.index} and {written.report}")


def bundle_folder(text: str) -> Path:
    """A folder, or that of a bundle that comes with the package."""
    folder = Path(text)
    return folder if folder.is_dir() else find_bundles().get(text, folder)
