"""What one running service consists of."""

from __future__ import annotations

from dataclasses import dataclass

from service.engine import Engine
from service.generation import Generator
from service.metrics import Metrics
from service.settings import Settings


@dataclass(slots=True, eq=False)
class Service:
    """The parts that the routes use. ``ready`` once the models are loaded and the samplers warm."""

    settings: Settings
    generator: Generator
    engine: Engine
    metrics: Metrics
    ready: bool = False
