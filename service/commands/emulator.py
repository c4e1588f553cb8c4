"""``qshower emulator``."""

from __future__ import annotations

from typing import Any

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import run_emulator
from qshower.sampler.errors import InvalidInputError


def run(values: dict[str, Any], noise: str | None) -> None:
    """Serve until a signal; the endpoint goes to standard output once it answers."""
    try:
        config = EmulatorConfig(**values)
        if noise is not None:
            config = config.with_noise(noise)
    except InvalidInputError as error:
        raise InvalidInputError("--" + error.field.replace("_", "-"), error.value, error.allowed) from None
    run_emulator(config, lambda endpoint: print(endpoint, flush=True))
