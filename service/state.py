"""What one running service consists of."""

from __future__ import annotations

from dataclasses import dataclass

from qshower.service.background.idle_tracking import IdleTracking
from qshower.service.engine.engine import Engine
from qshower.service.generation.generator import Generator
from qshower.service.metrics import Metrics
from qshower.service.settings import Settings


@dataclass(slots=True, eq=False)
class Service:
    """The parts that the routes use. ``ready`` once the models are loaded and the samplers warm."""

    settings: Settings
    generator: Generator
    engine: Engine
    metrics: Metrics
    idle: IdleTracking
    ready: bool = False
