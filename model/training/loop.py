"""The training run: autoencoder and prior together, then the prior alone, with checkpoints that lose nothing.

Every step draws its random numbers from (seed, step), and a checkpoint holds everything else, so that a run that was
killed and started again ends with the same result as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qshower.model.autoencoder import Autoencoder, Batch, Bound
from qshower.model.bundle import load_bundle
from qshower.model.decoder import SampledDecoder
from qshower.model.decoder_shape import DecoderShape
from qshower.model.encoder import Encoder, EncoderShape, bernoulli_entropy
from qshower.model.energy_code import build_energy_code
from qshower.model.grid import Grid
from qshower.model.losses import divergence
from qshower.model.point_decoder import PointDecoder
from qshower.model.rbm import RBM
from qshower.model.trained_networks import decoder_of, encoder_state_of
from qshower.model.training.checkpoint import read_checkpoint, write_checkpoint
from qshower.model.training.config import TrainingConfig
from qshower.model.training.data import TrainingShowers
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.gibbs.chains import refine
from qshower.sampler.lattice import compact_lattice

VALIDATION_ROWS = 1024
WARM_UP_STEPS = 200
GRADIENT_NORM = 200.0
# Chains cannot follow a machine that moves as fast as the networks do.
JOINT_PRIOR_PACE = 0.05

Report = Callable[[int, dict[str, float]], None]


def build_autoencoder(config: TrainingConfig, showers: TrainingShowers) -> Autoencoder:
    """Fresh networks for a configuration, or those of the bundle it starts from, on the configured lattice."""
    torch.manual_seed(config.schedule.seed)
    network = config.network
    grid = Grid.of(showers.geometry)
    latent = config.latent
    machine = compact_lattice(latent.topology, latent.nodes_per_partition, latent.chip_size)
    free = len(machine.free_nodes)
    shape = DecoderShape(
        latent_bits=free,
        angular_bins=grid.angular_bins,
        radial_bins=grid.radial_bins,
        domain_low_mev=config.data.domain_mev[0],
        domain_high_mev=config.data.domain_mev[1],
        trunk=network.trunk,
        layer_code=network.layer_code,
        layer_hidden=network.layer_hidden,
        angular_channels=network.angular_channels,
        voxel_channels=network.voxel_channels,
        profile_hidden=network.profile_hidden,
        profile_memory=network.profile_memory,
    )
    bits = tuple(len(machine.nodes_of(partition)) for partition in (1, 2, 3))
    encoder = Encoder(EncoderShape(bits, network.encoder_hidden, network.level_hidden), shape)
    decoder = SampledDecoder(shape) if network.likelihood == "sampled" else PointDecoder(shape, network.scaling)
    if config.start_from is not None:
        start = load_bundle(config.start_from, build_decoder=False)
        try:
            decoder.load_state_dict(decoder_of(start).state_dict())
            encoder.load_state_dict(encoder_state_of(config.start_from))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise InvalidInputError(
                "start_from", str(config.start_from), f"a bundle of the same networks ({reason})"
            ) from error
    return Autoencoder(encoder, RBM(machine), decoder, high=network.high, low=network.low)


class Trainer:
    """One run's state and its steps."""

    def __init__(self, config: TrainingConfig, showers: TrainingShowers) -> None:
        self.config = config
        self.schedule = config.schedule
        self.showers = showers
        torch.set_num_threads(self.schedule.threads)
        self.model = build_autoencoder(config, showers)
        machine = self.model.rbm.lattice
        self.code = build_energy_code(
            config.latent.energy_code,
            len(machine.condition_nodes),
            levels=config.latent.levels,
            domain_mev=config.data.domain_mev,
        )
        networks = [*self.model.encoder.parameters(), *self.model.decoder.parameters()]
        self.network_parameters = networks
        self.network_optimizer = torch.optim.AdamW(networks, betas=(0.9, 0.99), weight_decay=self.schedule.weight_decay)
        self.prior_optimizer = self._new_prior_optimizer()
        self.averages = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.step = 0
        self.seconds = 0.0
        self.chains = self._new_chains(np.random.default_rng((self.schedule.seed, 1)))

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.schedule.autoencoder_steps + self.schedule.prior_steps

    def run(self, folder: Path, report: Report) -> None:
        """Do the steps that are left, with a checkpoint now and then."""
        started = time.perf_counter()
        before = self.seconds
        while self.step < self.total_steps:
            figures = self._autoencoder_step() if self.step < self.schedule.autoencoder_steps else self._prior_step()
            self.step += 1
            last = self.step in (self.schedule.autoencoder_steps, self.total_steps)
            if self.step % self.schedule.checkpoint_every == 0 or last:
                if self.step <= self.schedule.autoencoder_steps:
                    figures |= self.validate()
                self.seconds = before + time.perf_counter() - started
                self.save(folder)
            report(self.step, figures)

    def save(self, folder: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "averages": self.averages,
            "network_optimizer": self.network_optimizer.state_dict(),
            "prior_optimizer": self.prior_optimizer.state_dict(),
            "chains": torch.from_numpy(self.chains),
        }
        write_checkpoint(folder, self.config, state)

    def restore(self, folder: Path) -> bool:
        """Go on from the folder's checkpoint, if there is one; InvalidInputError if it is of another configuration."""
        state = read_checkpoint(folder, self.config)
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self.network_optimizer.load_state_dict(state["network_optimizer"])
        self.prior_optimizer.load_state_dict(state["prior_optimizer"])
        self.averages = state["averages"]
        self.chains = state["chains"].numpy()
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        return True

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Terms of the bound on showers kept out of the training, with the averaged parameters, in nats per shower."""
        current = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.averages)
        rows = self.showers.validation[:VALIDATION_ROWS]
        figures: dict[str, float] = {}
        for start in range(0, len(rows), self.schedule.batch):
            chosen = rows[start : start + self.schedule.batch]
            bound = self._bound(chosen, np.random.default_rng((self.schedule.seed, 2, start)))
            values = {**bound.parts, "entropy": bernoulli_entropy(bound.logits)}
            for name, value in values.items():
                figures[f"validation_{name}"] = figures.get(f"validation_{name}", 0.0) + float(value.sum()) / len(rows)
        self.model.load_state_dict(current)
        return figures

    def _bound(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Bound:
        showers, energies, view = self.showers.view(rows)
        conditions = torch.from_numpy(self.code.conditions(self.showers.energies[rows])).float()
        noise = torch.from_numpy(
            rng.logistic(size=(len(rows), self.model.decoder.shape.latent_bits)).astype(np.float32)
        )
        done = min(1.0, self.step / max(1, self.schedule.autoencoder_steps))
        start, end = self.schedule.relaxation_start, self.schedule.relaxation_end
        batch = Batch(self.showers.features[rows], showers, energies, view, conditions)
        bound: Bound = self.model(batch, noise, start * (end / start) ** done, hard=self.schedule.hard)
        return bound

    def _autoencoder_step(self) -> dict[str, float]:
        schedule = self.schedule
        rng = np.random.default_rng((schedule.seed, 3, self.step))
        done = self.step / schedule.autoencoder_steps
        pace = min(1.0, (self.step + 1) / WARM_UP_STEPS) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        _set_rate(self.network_optimizer, schedule.learning_rate * pace)
        _set_rate(self.prior_optimizer, schedule.learning_rate * JOINT_PRIOR_PACE * pace)
        rows = rng.choice(self.showers.training, schedule.batch, p=self.showers.probability)
        bound = self._bound(rows, rng)
        self._advance_chains(rng)
        rise = min(1.0, done / schedule.divergence_rise)
        weight = schedule.divergence_start + (schedule.divergence - schedule.divergence_start) * rise
        model_energy = self.model.rbm.energy(torch.from_numpy(self.chains).float())
        latent = divergence(bound.logits, self.model.rbm.energy(bound.spins), model_energy)
        loss = bound.reconstruction.mean() + weight * latent
        if not torch.isfinite(loss):
            raise InvalidInputError(
                "schedule.learning_rate",
                schedule.learning_rate,
                f"a rate at which the loss stays finite (step {self.step})",
            )
        self.network_optimizer.zero_grad()
        self.prior_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network_parameters, GRADIENT_NORM)
        self.network_optimizer.step()
        self.prior_optimizer.step()
        self._average()
        return {"loss": float(loss.detach()), "latent": float(latent.detach())}

    @torch.no_grad()
    def _prior_step(self) -> dict[str, float]:
        """One step of persistent contrastive divergence on posterior samples, the autoencoder frozen at its average."""
        schedule = self.schedule
        if self.step == schedule.autoencoder_steps:
            self._freeze()
        rng = np.random.default_rng((schedule.seed, 4, self.step))
        done = (self.step - schedule.autoencoder_steps) / schedule.prior_steps
        _set_rate(
            self.prior_optimizer, schedule.prior_learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        )
        rows = rng.choice(self.showers.training, schedule.prior_batch, p=self.showers.probability)
        energies = torch.from_numpy(self.showers.energies[rows]).float()
        noise = torch.from_numpy(
            rng.logistic(size=(len(rows), self.model.decoder.shape.latent_bits)).astype(np.float32)
        )
        latent, _ = self.model.encode(self.showers.features[rows], energies, noise, 1.0, hard=True)
        posterior = torch.cat(
            [torch.from_numpy(self.code.conditions(self.showers.energies[rows])).float(), latent], dim=1
        )
        self._advance_chains(rng)
        chains = torch.from_numpy(self.chains).float()
        rbm = self.model.rbm
        for parameter, gradient in zip((rbm.h, rbm.j), rbm.contrast(posterior, chains), strict=True):
            parameter.grad = gradient
        self.prior_optimizer.step()
        self._average()
        gap = float(rbm.energy(posterior).mean() - rbm.energy(chains).mean())
        return {"energy_gap": gap}

    def _freeze(self) -> None:
        """Keep the averaged encoder and decoder, and begin the machine anew from h = J = 0."""
        for name in ("rbm.h", "rbm.j"):
            self.averages[name].zero_()
        self.model.load_state_dict(self.averages)
        self.prior_optimizer = self._new_prior_optimizer()
        self.chains = self._new_chains(np.random.default_rng((self.schedule.seed, 5)))

    def _new_prior_optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.model.rbm.parameters(), betas=(0.9, 0.99))

    def _new_chains(self, rng: np.random.Generator) -> NDArray[np.int8]:
        """Random states whose conditions follow the training energies, as evenly as their number allows."""
        machine = self.model.rbm.lattice
        order = np.argsort(self.showers.energies[self.showers.training])
        below = np.cumsum(self.showers.probability[order])
        places = np.searchsorted(below, (np.arange(self.schedule.chains) + 0.5) / self.schedule.chains)
        rows = self.showers.training[order[np.minimum(places, len(order) - 1)]]
        spins = np.where(rng.random((self.schedule.chains, machine.node_count)) < 0.5, -1, 1).astype(np.int8)
        spins[:, machine.condition_nodes] = self.code.conditions(self.showers.energies[rows])
        return spins

    def _advance_chains(self, rng: np.random.Generator) -> None:
        streams = rng.integers(0, 2**63, size=(len(self.chains), 2), dtype=np.uint64)
        self.chains = refine(self.model.rbm.machine(), self.chains, self.schedule.chain_sweeps, streams, threads=1)

    def _average(self) -> None:
        keep = min(self.schedule.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                self.averages[name].lerp_(tensor, 1 - keep)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def decoder_fields(shape: DecoderShape) -> dict[str, Any]:
    """A decoder's sizes, JSON-ready."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(shape).items()}
