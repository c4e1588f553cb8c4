"""``train``: from a configuration file to a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qshower.model.bundle import DEFAULT_SWEEPS, EnergyCodeSpec, Manifest, lattice_of, load_bundle, save_bundle
from qshower.model.sweeps import keep_failure, keep_sweeps, measure_sweeps
from qshower.model.training.config import TrainingConfig, read_config
from qshower.model.training.data import TrainingShowers, load_training_showers
from qshower.model.training.loop import Report, Trainer, decoder_fields
from qshower.sampler.errors import InvalidInputError, SamplerError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.tempering import TemperingSampler

TOLERANCE = 0.2
"""Of the sweeps that are measured after training: a quarter of the time of what `qshower calibrate` takes."""


def train(config_path: Path, *, resume: bool = True, report: Report | None = None) -> Path:
    """Train as the YAML file says, measure the sweeps that draws need, and return the folder of the bundle it wrote.

    A killed run goes on from its last checkpoint, to the same result, unless ``resume`` is False; a finished one only
    writes its bundle again and measures. ``report(step, figures)`` is called after every step, and with the last step
    while sweeps are measured. Errors: InvalidInputError naming the key or file.
    """
    config = read_config(Path(config_path))
    config.output.mkdir(parents=True, exist_ok=True)
    showers = load_training_showers(config.data, config.network.symmetry, config.schedule.seed)
    trainer = Trainer(config, showers)
    if resume:
        trainer.restore(config.output)
    latest: dict[str, float] = {}

    def told(step: int, figures: dict[str, float]) -> None:
        latest.update(figures)
        if report is not None:
            report(step, figures)

    trainer.run(config.output, told)
    figures = trainer.validate()
    target = _export(config, showers, trainer, figures, f"qshower train {Path(config_path).name}")
    _measure(target, config.schedule.threads, lambda sweeps: told(trainer.step, {**latest, "sweeps_tried": sweeps}))
    return target


def _measure(target: Path, threads: int, tried: Callable[[int], None]) -> None:
    """Measure the sweeps that the bundle's draws need; what comes of it, a failure too, goes into its manifest."""
    bundle = load_bundle(target)
    with GibbsSampler(threads=threads) as gibbs, TemperingSampler(threads=threads) as tempering:
        try:
            measured = measure_sweeps(
                bundle,
                gibbs.sample,
                tempering.sample,
                TOLERANCE,
                threads=threads,
                progress=lambda _, sweeps: tried(sweeps),
            )
        except (InvalidInputError, SamplerError) as error:
            # A machine too cold for tempering, say: hours of training are not lost for that.
            keep_failure(bundle, str(error))
        else:
            keep_sweeps(bundle, measured)


def _export(
    config: TrainingConfig, showers: TrainingShowers, trainer: Trainer, figures: dict[str, float], command: str
) -> Path:
    trainer.model.load_state_dict(trainer.averages)
    model = trainer.model
    machine = model.rbm.machine()
    training: dict[str, Any] = {
        "files": showers.sources,
        "configuration": config.model_dump(
            mode="json", exclude={"output": True, "data": {"files"}, "start_from": True}
        ),
        "command": command,
        "steps": trainer.step,
        "seconds": round(trainer.seconds),
        "showers_trained_on": len(showers.training),
        "showers_validated_on": len(showers.validation),
        "started_from": None if config.start_from is None else config.start_from.name,
    }
    manifest = Manifest(
        name=config.name,
        description=config.description,
        default=config.default,
        geometry=showers.geometry.as_dict(),
        domain_mev=config.data.domain_mev,
        energy_code=EnergyCodeSpec(kind=config.latent.energy_code, levels=trainer.code.level_count),
        scaling=config.network.scaling,
        symmetry=config.network.symmetry,
        likelihood=config.network.likelihood,
        decoder=decoder_fields(model.decoder.shape),
        lattice=lattice_of(machine),
        sweeps=DEFAULT_SWEEPS,
        training=training,
        quality={"validation_nats_per_shower": {name: round(value, 3) for name, value in figures.items()}},
    )
    target = config.output / config.name
    save_bundle(target, manifest, machine, model.decoder.state_dict(), model.encoder.state_dict())
    return target
