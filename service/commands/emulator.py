"""``qshower emulator``."""

from __future__ import annotations

from typing import Any

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import run_emulator


def run(values: dict[str, Any], noise: str | None) -> None:
    """Serve until a signal; the endpoint goes to standard output once it answers."""
    config = EmulatorConfig(**values)
    if noise is not None:
        config = config.with_noise(noise)
    run_emulator(config, lambda endpoint: print(endpoint, flush=True))
