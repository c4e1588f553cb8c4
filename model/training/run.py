"""``train``: from a configuration file to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.bundle import DEFAULT_SWEEPS, EnergyCodeSpec, Manifest, lattice_of, save_bundle
from model.training.config import TrainingConfig, read_config
from model.training.data import TrainingShowers, load_training_showers
from model.training.loop import Report, Trainer, decoder_fields


def train(config_path: Path, *, resume: bool = True, report: Report | None = None) -> Path:
    """Train as the YAML file says and return the folder of the bundle it wrote.

    A killed run goes on from its last checkpoint, to the same result, unless ``resume`` is False; a finished one only
    writes its bundle again. ``report(step, figures)`` is called after every step. Errors: InvalidInputError naming the
    key or file.
    """
    config = read_config(Path(config_path))
    config.output.mkdir(parents=True, exist_ok=True)
    showers = load_training_showers(config.data, config.network.symmetry, config.schedule.seed)
    trainer = Trainer(config, showers)
    if resume:
        trainer.restore(config.output)
    trainer.run(config.output, report or _silent)
    figures = trainer.validate()
    return _export(config, showers, trainer, figures, f"qshower train {Path(config_path).name}")


def _silent(step: int, figures: dict[str, float]) -> None:
    """No report."""


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
