"""The chip that is in the machine, and maintenance, which changes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from qshower.sampler.emulator.chip import build_chip
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.physics import Physics


class InstalledChip:
    """Chip and physics as they were when ``now`` was last called. Its user has to lock it."""

    def __init__(self, config: EmulatorConfig, clock: Callable[[], float]) -> None:
        self._config, self._clock = config, clock
        self._offline_until_s: float | None = None
        self.chip = build_chip(config.topology, config.defects, config.seed)
        self.physics = Physics(config, self.chip)

    @property
    def offline(self) -> bool:
        """Whether it is under maintenance."""
        return self._offline_until_s is not None

    def now(self) -> Self:
        """Itself, back from a maintenance whose time is over."""
        if self._offline_until_s is not None and self._clock() >= self._offline_until_s:
            self._offline_until_s = None
            self.chip = self.chip.after_maintenance(self._config.seed)
            self.physics = Physics(self._config, self.chip)
        return self

    def take_offline(self) -> None:
        """Begin a maintenance."""
        self._offline_until_s = self._clock() + self._config.maintenance_s
