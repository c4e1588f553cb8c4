"""The coded run: a fixed code, then a machine fitted to it, then a decoder that reads it; resumable without loss.

The decoder learns ln p(shower | bits, E) of the training showers and their codes, missing bits filled from the
machine, a small share of all bits flipped. What is kept is the running average of its parameters at the checkpoint
with the best likelihood of the validation showers, which nothing is trained on.

Every step draws its random numbers from (seed, stage, step), and a checkpoint holds everything else, so that a run
that was killed and started again ends with the same result as one that was not.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qshower.model.bundle import load_bundle
from qshower.model.code_placement import place_code
from qshower.model.decoder_shape import DecoderShape
from qshower.model.depth_decoder import DepthDecoder
from qshower.model.energy_code import build_energy_code
from qshower.model.geometry import Geometry
from qshower.model.grid import Grid
from qshower.model.shower_code import ShowerCode
from qshower.model.trained_networks import decoder_of
from qshower.model.training.checkpoint import read_checkpoint, write_checkpoint
from qshower.model.training.coded_config import CodedConfig
from qshower.model.training.data import TrainingShowers
from qshower.model.training.loop import GRADIENT_NORM, WARM_UP_STEPS, Report
from qshower.model.training.machine_fit import Coded, FitSchedule, FitState, MachineFit
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.lattice import compact_lattice

VALIDATION_ROWS = 768
FIT_CHECKPOINT_EVERY = 500


def start_decoder(decoder: DepthDecoder, folder: Path) -> None:
    """Give ``decoder`` the parameters of the bundle in ``folder``.

    Maps that read the code's bits start anew where the codes differ in number; of a layer's own map the part that reads
    energies and hits is kept.

    Raises:
        BundleError: no bundle there.
        InvalidInputError: another kind of decoder, or other sizes.
    """
    source = decoder_of(load_bundle(folder, build_decoder=False))
    if not isinstance(source, DepthDecoder):
        raise InvalidInputError("start_from", str(folder), "a bundle with a code (likelihood depth)")
    with torch.no_grad():
        for (name, own), given in zip(decoder.named_parameters(), source.parameters(), strict=True):
            if name == "layer.weight":
                kept = min(own.shape[1], given.shape[1])
                own[:, -kept:] = given[:, -kept:]
            elif own.shape == given.shape:
                own.copy_(given)
            elif name != "profile_bits.weight":
                raise InvalidInputError("start_from", str(folder), f"a bundle of the same network sizes ({name})")


def _fitted_code(config: CodedConfig, grid: Grid, showers: TrainingShowers) -> ShowerCode:
    """The code of a configuration, fitted to the training showers."""
    chosen, rows = config.code, showers.training
    return ShowerCode.fitted(
        chosen.observables,
        grid,
        showers.energies[rows],
        showers.showers[rows],
        showers.probability,
        reach=chosen.reach,
        given_hits=chosen.given_hits,
        share_cells=chosen.share_cells,
        share_given_energy=chosen.share_given_energy,
    )


def _decoder_shape(config: CodedConfig, code: ShowerCode, latent_bits: int, geometry: Geometry) -> DecoderShape:
    grid, threshold = Grid.of(geometry), config.data.threshold_mev
    return DecoderShape(
        latent_bits=latent_bits,
        angular_bins=grid.angular_bins,
        radial_bins=grid.radial_bins,
        domain_low_mev=config.data.domain_mev[0],
        domain_high_mev=config.data.domain_mev[1],
        bits_per_layer=code.bits_per_layer,
        share_bits=code.share_bits,
        threshold_mev=geometry.threshold_mev if threshold is None else threshold,
        **config.network.model_dump(exclude={"symmetry"}),
    )


class CodedTrainer:
    """One run's state and its steps: those of the machine first, then those of the decoder."""

    def __init__(self, config: CodedConfig, showers: TrainingShowers) -> None:
        self.config, self.schedule, self.showers = config, config.schedule, showers
        torch.set_num_threads(self.schedule.threads)
        grid = Grid.of(showers.geometry)
        rows = showers.training
        self.code = _fitted_code(config, grid, showers)
        self.bits = self.code.bits(grid, showers.energies, showers.showers).reshape(len(showers.energies), -1)
        latent = config.latent
        self.lattice = compact_lattice(latent.topology, latent.nodes_per_partition, latent.chip_size)
        self.energy_code = build_energy_code(
            latent.energy_code,
            len(self.lattice.condition_nodes),
            levels=latent.levels,
            domain_mev=config.data.domain_mev,
        )
        machine = config.machine
        weights = showers.probability
        self.nodes = place_code(
            self.lattice, self.bits[rows], showers.energies[rows], weights, swaps=machine.swaps, seed=self.schedule.seed
        )
        conditions = self.energy_code.conditions(showers.energies)
        coded = Coded(self.bits[rows], self.nodes, conditions[rows], showers.energies[rows], weights)
        fit = FitSchedule(
            machine.steps,
            machine.rate,
            machine.chains,
            machine.sweeps,
            machine.open_sweeps,
            machine.bound,
            self.schedule.seed,
        )
        self.fit = MachineFit(self.lattice, coded, fit)
        self.fitted: FitState = self.fit.start()
        self.fills: NDArray[np.int8] | None = None
        torch.manual_seed(self.schedule.seed)
        self.decoder = DepthDecoder(_decoder_shape(config, self.code, len(self.lattice.free_nodes), showers.geometry))
        if config.start_from is not None:
            start_decoder(self.decoder, config.start_from)
        places = np.searchsorted(self.lattice.free_nodes, self.nodes).reshape(self.decoder.visible.shape)
        self.decoder.visible.copy_(torch.from_numpy(places))
        if self.code.share is not None:
            self.decoder.share_terms.copy_(torch.from_numpy(self.code.share.terms))
            self.decoder.share_span.copy_(torch.from_numpy(self.code.share.span))
        self.optimizer = torch.optim.AdamW(
            self.decoder.parameters(), betas=(0.9, 0.99), weight_decay=self.schedule.weight_decay
        )
        self.averages = self._state()
        self.best = self._state()
        self.best_figures: dict[str, float] = {}
        self.step = 0
        self.seconds = 0.0

    def run(self, folder: Path, report: Report) -> None:
        """Do the steps that are left, with a checkpoint now and then."""
        started, before = time.perf_counter(), self.seconds
        fits = self.config.machine.steps
        while self.step < self.config.total_steps:
            if self.step < fits:
                self.fitted, figures = self.fit.step(self.fitted)
                self.step += 1
                due = self.step % FIT_CHECKPOINT_EVERY == 0 or self.step == fits
            else:
                figures = self._decoder_step()
                self.step += 1
                due = (self.step - fits) % self.schedule.checkpoint_every == 0 or self.step == self.config.total_steps
                if due:
                    figures |= self._select()
            if due:
                self.seconds = before + time.perf_counter() - started
                self.save(folder)
            report(self.step, figures)

    def save(self, folder: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        kept = {name: torch.from_numpy(np.array(value)) for name, value in MachineFit.kept(self.fitted).items()}
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "fitted": kept,
            "decoder": self.decoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages,
            "best": self.best,
            "best_figures": self.best_figures,
        }
        write_checkpoint(folder, self.config, state)

    def restore(self, folder: Path) -> bool:
        """Go on from the folder's checkpoint, if there is one; InvalidInputError if it is of another configuration."""
        state = read_checkpoint(folder, self.config)
        if state is None:
            return False
        self.fitted = MachineFit.restored({name: value.numpy() for name, value in state["fitted"].items()})
        self.decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averages, self.best, self.best_figures = state["averages"], state["best"], state["best_figures"]
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        return True

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """-ln p by part of showers kept out of the training, with the averaged parameters, in nats per shower."""
        current = self._state()
        self.decoder.load_state_dict(self.averages)
        rows = self.showers.validation[:VALIDATION_ROWS]
        latent = self._latents(self.filled()[0, rows])
        figures: dict[str, float] = {}
        for start in range(0, len(rows), self.schedule.batch):
            part = slice(start, start + self.schedule.batch)
            for name, value in self._likelihood(rows[part], latent[part]).items():
                key = f"validation_{name}"
                figures[key] = figures.get(key, 0.0) - float(value.sum()) / len(rows)
        self.decoder.load_state_dict(current)
        return figures

    def filled(self) -> NDArray[np.int8]:
        """(fills, rows, bits) codes of all showers, missing bits drawn by the fitted machine; the same every time."""
        if self.fills is None:
            section = self.config.machine
            rng = np.random.default_rng((self.schedule.seed, 2))
            machine = self.fit.machine(self.fitted)
            rows = len(self.bits)
            parts = []
            for _ in range(section.fills):
                spins = np.where(rng.random((rows, machine.node_count)) < 0.5, -1, 1).astype(np.int8)
                spins[:, machine.condition_nodes] = self.energy_code.conditions(self.showers.energies)
                spins[:, self.nodes] = np.where(self.bits != 0, self.bits, spins[:, self.nodes])
                law = machine.h, machine.j
                parts.append(self.fit.fill(law, spins, self.bits, section.fill_sweeps, rng)[:, self.nodes])
            self.fills = np.stack(parts)
        return self.fills

    def _decoder_step(self) -> dict[str, float]:
        schedule = self.schedule
        done_steps = self.step - self.config.machine.steps
        rng = np.random.default_rng((schedule.seed, 3, done_steps))
        pace = min(1.0, (done_steps + 1) / WARM_UP_STEPS)
        pace *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done_steps / schedule.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.learning_rate * pace
        rows = rng.choice(self.showers.training, schedule.batch, p=self.showers.probability)
        fills = self.filled()
        turned = rng.random((len(rows), *self.decoder.visible.shape)) < schedule.flips
        turned[:, :, : self.code.share_bits] = False
        bits = fills[rng.integers(len(fills)), rows] * np.where(turned.reshape(len(rows), -1), -1, 1)
        parts = self._likelihood(rows, self._latents(bits))
        loss = -torch.stack(list(parts.values())).sum(dim=0).mean()
        if not torch.isfinite(loss):
            raise InvalidInputError(
                "schedule.learning_rate", schedule.learning_rate, f"a rate at which the loss stays finite ({self.step})"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        keep = min(schedule.average, (1 + done_steps) / (10 + done_steps))
        with torch.no_grad():
            for name, tensor in self.decoder.named_parameters():
                self.averages[name].lerp_(tensor, 1 - keep)
        return {"loss": float(loss.detach())}

    def _select(self) -> dict[str, float]:
        """Validate, and keep the averages if they are the best so far."""
        figures = self.validate()
        if not self.best_figures or sum(figures.values()) < sum(self.best_figures.values()):
            self.best = {name: tensor.clone() for name, tensor in self.averages.items()}
            self.best_figures = dict(figures)
        return figures

    def _likelihood(self, rows: NDArray[np.int64], latent: torch.Tensor) -> dict[str, torch.Tensor]:
        energies = torch.from_numpy(self.showers.energies[rows]).float()
        return self.decoder.log_likelihood(latent, energies, torch.from_numpy(self.showers.showers[rows]))

    def _latents(self, bits: NDArray[Any]) -> torch.Tensor:
        latent = torch.zeros(len(bits), self.decoder.shape.latent_bits)
        latent[:, self.decoder.visible.flatten()] = torch.from_numpy(bits.astype(np.float32))
        return latent

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.decoder.state_dict().items()}
