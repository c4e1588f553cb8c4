"""Latents of real showers: what a bundle's own code, or its encoder, makes of showers that it never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

from qshower.model.bundle import ENCODER_FILE, Bundle
from qshower.model.decoder import ShowerView
from qshower.model.encoder import Encoder, EncoderShape, shower_features
from qshower.model.grid import Grid
from qshower.model.layers import energy_features
from qshower.model.symmetry import canonical_elements, turn
from qshower.model.trained_networks import encoder_state_of

CHUNK_ROWS = 512

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """Latents of real showers.

    Attributes:
        spins: (rows, nodes) int8 of −1 and +1, the condition's included.
        log_probability: (rows,) ln q(s_free | shower, E) of these spins; None for a code whose law is not known.
    """

    spins: NDArray[np.int8]
    log_probability: Array | None


def encode_showers(
    bundle: Bundle, energies_mev: Array, showers_mev: NDArray[np.float32], streams: NDArray[np.uint64]
) -> Posterior | None:
    """Latents of showers (rows, voxels) in MeV at energies (rows,); None for a bundle with neither code nor encoder.

    A bundle with a method ``codes(energies_mev, showers_mev, streams)`` gives its spins (rows, nodes) itself; of
    others the encoder's posterior is sampled.
    """
    codes = getattr(bundle, "codes", None)
    if codes is not None:
        return Posterior(codes(energies_mev, showers_mev, streams), None)
    if ENCODER_FILE not in bundle.manifest.files:
        return None
    encoder = _encoder(bundle)
    grid = Grid.of(bundle.geometry)
    spins = np.empty((len(energies_mev), bundle.machine.node_count), dtype=np.int8)
    spins[:, bundle.machine.condition_nodes] = bundle.conditions(energies_mev)
    free = bundle.machine.free_nodes
    log_probability = np.empty(len(energies_mev))
    rng = np.random.default_rng(streams.reshape(-1))
    for start in range(0, len(energies_mev), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        above = np.where(showers_mev[rows] < bundle.geometry.threshold_mev, np.float32(0), showers_mev[rows])
        block = grid.from_voxels(above)
        if bundle.manifest.symmetry == "dihedral":
            block = turn(block, canonical_elements(block, grid), grid)
        latent, logits = _encode(encoder, bundle, block, energies_mev[rows], rng)
        spins[rows, free] = latent.numpy().astype(np.int8)
        log_probability[rows] = logsigmoid(latent * logits).sum(dim=1, dtype=torch.float64).numpy()
    return Posterior(spins, log_probability)


def _encoder(bundle: Bundle) -> Encoder:
    """The bundle's encoder; the sizes are those of its tensors."""
    state = encoder_state_of(bundle.path)
    levels = sorted(name for name in state if name.startswith("level_logits.") and name.endswith(".weight"))
    shape = EncoderShape(
        partition_bits=tuple(int(state[name].shape[0]) for name in levels),
        hidden=int(state["first.weight"].shape[0]),
        level_hidden=int(state[levels[0]].shape[1]),
    )
    encoder = Encoder(shape, bundle.decoder_shape)
    encoder.load_state_dict(state)
    return encoder.eval().requires_grad_(requires_grad=False)


def _encode(
    encoder: Encoder, bundle: Bundle, block: NDArray[np.float32], energies_mev: Array, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    energies = torch.from_numpy(energies_mev).float()
    showers = torch.from_numpy(block)
    features = shower_features(showers, ShowerView.of(showers, energies))
    noise = torch.from_numpy(rng.logistic(size=(len(block), len(bundle.machine.free_nodes))).astype(np.float32))
    with torch.no_grad():
        latent, logits = encoder(features, energy_features(bundle.decoder_shape, energies), noise, 1.0, hard=True)
    return torch.where(latent > 0, 1.0, -1.0), logits
