"""``qshower train``."""

from __future__ import annotations

from pathlib import Path

from model.training.run import train


def run(config: Path, *, resume: bool) -> None:
    """Train as ``config`` says."""
    train(config, resume=resume)
