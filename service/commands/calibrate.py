"""``qshower calibrate``: what a sampler needs to draw well from a model."""

from __future__ import annotations

import numpy as np

from sampler.errors import InvalidInputError, SamplerUnavailableError
from sampler.qpu.sampler import QpuSampler
from sampler.request import SamplerOptions
from service.catalogue import load_catalogue
from service.commands.terminal import console, two_columns
from service.generation import HOW_TO_CONFIGURE
from service.logs import configure_logs
from service.samplers import build_registry
from service.settings import Settings, load_settings

QPU_CONDITIONS = 8


def run(sampler: str, model: str | None, solver: str | None) -> None:
    """Measure and print."""
    settings = load_settings(log_level="warning")
    configure_logs(settings)
    if sampler == "qpu":
        _qpu(settings, model, solver)
    else:
        raise InvalidInputError("--sampler", sampler, "gibbs or qpu")


def _qpu(settings: Settings, model: str | None, solver: str | None) -> None:
    """Effective inverse temperature of a solver for a model, kept for the draws to come."""
    catalogue = load_catalogue(settings)
    fitting = catalogue.fitting(solver) if solver in ("zephyr", "pegasus") else ()
    bundle = fitting[0] if model is None and fitting else catalogue.get(model)
    energies = np.geomspace(*bundle.domain_mev, QPU_CONDITIONS)
    with build_registry(settings) as registry:
        if "qpu" not in registry.names():
            raise SamplerUnavailableError(HOW_TO_CONFIGURE["qpu"])
        qpu = registry.get("qpu")
        assert isinstance(qpu, QpuSampler)  # noqa: S101 - the only sampler of that name
        found = qpu.calibrate(bundle.machine, bundle.conditions(energies), SamplerOptions(solver=solver))
    table = two_columns()
    table.add_row("model", bundle.name)
    for name in found.__slots__:
        table.add_row(name, str(getattr(found, name)))
    console().print(table)
