"""``train``: from a configuration file to a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qshower.model.bundle import Bundle, save_bundle
from qshower.model.manifest import CHECKPOINT, MANIFEST, EnergyCodeSpec, Manifest, lattice_of
from qshower.model.sweep_calibration import SWEEPS_TRIED, failure_fields, measure_sweeps, measured_fields
from qshower.model.trained_networks import arrays_of
from qshower.model.training.coded_config import CodedConfig
from qshower.model.training.coded_loop import CodedTrainer
from qshower.model.training.config import read_config
from qshower.model.training.data import TrainingShowers, load_training_showers
from qshower.model.training.loop import Report, Trainer, decoder_fields
from qshower.sampler.errors import InvalidInputError, SamplerError
from qshower.sampler.files import replaceable, replaceable_folder
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.tempering import TemperingSampler

TOLERANCE = 0.2
"""Of the sweeps that are measured after training: a quarter of the time of what `qshower calibrate` takes."""

SHORT_RUN_STEPS, SHORT_RUN_TOLERANCE = 1000, 0.5
"""A trial run is not to wait longer for this measurement than for its training."""


def train(
    config_path: Path,
    *,
    resume: bool = True,
    check_data: bool = True,
    report: Report | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Path:
    """Train as the YAML file says, measure the sweeps that draws need, and return the folder of the bundle it wrote.

    A killed run goes on from its last checkpoint, to the same result; a finished one only measures and writes its
    bundle again. The bundle appears at the end, whole.

    Args:
        config_path: the configuration.
        resume: False to start anew.
        check_data: refuse showers that look as if they were in another unit than MeV, or that are mostly empty.
        report: called with step and figures after every step, and with the last step while sweeps are measured.
        announce: called with lines of text, such as what is odd about the data.

    Returns:
        The folder of the bundle.

    Raises:
        InvalidInputError: names the key or file.
    """
    config = read_config(Path(config_path))
    replaceable(config.output / CHECKPOINT)
    replaceable_folder(config.output / config.name, MANIFEST)
    config.output.mkdir(parents=True, exist_ok=True)
    showers = load_training_showers(
        config.data, config.network.symmetry, config.schedule.seed, check=check_data, announce=announce
    )
    trainer = CodedTrainer(config, showers) if isinstance(config, CodedConfig) else Trainer(config, showers)
    if resume and trainer.restore(config.output):
        announce(f"continues from step {trainer.step} of {config.total_steps}")
    latest: dict[str, float] = {}

    def reported(step: int, figures: dict[str, float]) -> None:
        latest.update(figures)
        if report is not None:
            report(step, figures)

    trainer.run(config.output, reported)
    command = f"qshower train {Path(config_path).name}"
    machine, manifest, parts = (
        _coded_parts(trainer, command) if isinstance(trainer, CodedTrainer) else _parts(trainer, command)
    )
    target = config.output / config.name
    fields = _measure(
        Bundle(target, manifest, "", machine),
        SHORT_RUN_TOLERANCE if config.total_steps < SHORT_RUN_STEPS else TOLERANCE,
        config.schedule.threads,
        lambda sweeps: reported(trainer.step, {**latest, "sweeps_tried": sweeps}),
    )
    save_bundle(target, manifest.model_copy(update=fields), machine, **parts)
    return target


def _measure(bundle: Bundle, tolerance: float, threads: int, tried: Callable[[int], None]) -> dict[str, Any]:
    """Measure the sweeps that the bundle's draws need: the manifest's fields of what came of it, a failure too."""
    with GibbsSampler(threads=threads) as gibbs, TemperingSampler(threads=threads) as tempering:
        try:
            measured = measure_sweeps(
                bundle,
                gibbs.sample,
                tempering.sample,
                tolerance,
                threads=threads,
                progress=lambda _, sweeps: tried(sweeps),
            )
        except (InvalidInputError, SamplerError) as error:
            # A machine too cold for tempering, say: hours of training are not lost for that.
            return failure_fields(str(error))
    return measured_fields(measured)


Parts = tuple[BoltzmannMachine, Manifest, dict[str, Any]]
"""Machine, manifest without measured sweeps, and what else ``save_bundle`` takes."""


def _parts(trainer: Trainer, command: str) -> Parts:
    figures = trainer.validate()
    trainer.model.load_state_dict(trainer.averages)
    model, config = trainer.model, trainer.config
    machine = model.rbm.machine()
    settings = config.model_dump(mode="json", exclude={"output": True, "data": {"files"}, "start_from": True})
    training = _training_record(trainer, settings, command)
    manifest = Manifest(
        **_common(trainer, machine),
        scaling=config.network.scaling,
        likelihood=config.network.likelihood,
        decoder=decoder_fields(model.decoder.shape),
        training=training,
        quality={"validation_nats_per_shower": {name: round(value, 3) for name, value in figures.items()}},
    )
    return (
        machine,
        manifest,
        {
            "decoder_state": arrays_of(model.decoder.state_dict()),
            "encoder_state": arrays_of(model.encoder.state_dict()),
        },
    )


def _coded_parts(trainer: CodedTrainer, command: str) -> Parts:
    config = trainer.config
    machine = trainer.fit.machine(trainer.fitted)
    settings = config.model_dump(mode="json", exclude={"output": True, "data": {"files"}, "start_from": True})
    manifest = Manifest(
        **_common(trainer, machine),
        scaling="log1p",
        likelihood="depth",
        decoder=decoder_fields(trainer.decoder.shape),
        training=_training_record(trainer, settings, command),
        quality={"validation_nats_per_shower": {name: round(x, 3) for name, x in trainer.best_figures.items()}},
    )
    return machine, manifest, {"decoder_state": arrays_of(trainer.best), "code": trainer.code}


def _common(trainer: Trainer | CodedTrainer, machine: BoltzmannMachine) -> dict[str, Any]:
    """What the manifests of both kinds of run say alike."""
    config = trainer.config
    code = trainer.energy_code if isinstance(trainer, CodedTrainer) else trainer.code
    return {
        "name": config.name,
        "description": config.description,
        "default": config.default,
        "geometry": trainer.showers.geometry.as_dict(),
        "domain_mev": config.data.domain_mev,
        "energy_code": EnergyCodeSpec(kind=config.latent.energy_code, levels=code.level_count),
        "symmetry": trainer.showers.symmetry,
        "lattice": lattice_of(machine),
        "sweeps": SWEEPS_TRIED[-1],  # unless fewer are measured to be enough
    }


def _training_record(trainer: Trainer | CodedTrainer, settings: dict[str, Any], command: str) -> dict[str, Any]:
    showers: TrainingShowers = trainer.showers
    return {
        "files": showers.sources,
        "configuration": settings,
        "command": command,
        "started_from": None if trainer.config.start_from is None else trainer.config.start_from.name,
        "steps": trainer.step,
        "seconds": round(trainer.seconds),
        "showers_trained_on": len(showers.training),
        "showers_validated_on": len(showers.validation),
    }
