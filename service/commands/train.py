"""``qshower train``."""

from __future__ import annotations

from pathlib import Path

from qshower.model.training.config import read_config
from qshower.service.commands.terminal import progress, say


def run(config: Path, *, resume: bool, check_data: bool) -> None:
    """Train as ``config`` says, with a progress bar that shows the latest figures."""
    total = read_config(config).total_steps
    from qshower.model.training.run import train  # loads torch and numba, for what a configuration asks

    with progress("steps") as bar:
        task = bar.add_task("training", total=total)

        def report(step: int, figures: dict[str, float]) -> None:
            shown = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
            bar.update(task, completed=step, description=f"training {shown}")

        announce = say if bar.disable else lambda text: bar.console.print(text, markup=False)
        folder = train(config, resume=resume, check_data=check_data, report=report, announce=announce)
    say(f"bundle in {folder}")
