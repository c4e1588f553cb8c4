"""Checkpoints of a run: written whole or not at all, and read by runs of the same configuration alone."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from qshower.model.manifest import CHECKPOINT
from qshower.model.training.sections import RunConfig
from qshower.sampler.errors import DefectError
from qshower.sampler.files import replacing


def write_checkpoint(folder: Path, config: RunConfig, state: dict[str, Any]) -> None:
    """Write ``state`` into a folder, with the configuration it belongs to."""
    with replacing(folder / CHECKPOINT) as temporary:
        torch.save({**state, "config": config.model_dump_json()}, temporary)


def read_checkpoint(folder: Path, config: RunConfig) -> dict[str, Any] | None:
    """The state in a folder, None if there is none; DefectError if it is of another configuration."""
    file = folder / CHECKPOINT
    if not file.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(file, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        reason = f"unreadable ({type(error).__name__})"
        raise DefectError(str(file), reason, "a readable checkpoint; delete it to start anew") from error
    if state["config"] != config.model_dump_json():
        raise DefectError(
            str(file),
            "a checkpoint of another configuration",
            "the same configuration; delete it to start anew, or choose another output",
        )
    return state
