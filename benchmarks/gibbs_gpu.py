"""Spin updates per second of the CUDA kernel, transfers included; wall time, as the device is the one that works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks.gibbs import COUPLING_DEVIATION
from qshower.sampler.gibbs.kernels import cuda
from qshower.sampler.gibbs.program import program_of
from qshower.sampler.gibbs.streams import DRAW, stream_keys
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.request import streams_of

CHAINS = (1024, 32_768, 131_072)
SWEEPS = 1024


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One line: medians over the repeats.

    Attributes:
        topology: family of the machine's lattice, 906 of 1208 nodes free.
        device: name of the device.
        chains: rows drawn at once.
        sweeps: sweeps of a draw.
        updates_per_s: spin updates per second of wall time.
    """

    topology: str
    device: str
    chains: int
    sweeps: int
    updates_per_s: float


def measure(*, repeats: int, told: Callable[[str], None]) -> list[dict[str, object]]:
    """Rows of both topologies; needs a CUDA device."""
    return [asdict(_row(family, chains, repeats, told)) for family in ("pegasus", "zephyr") for chains in CHAINS]


def _row(family: str, chains: int, repeats: int, told: Callable[[str], None]) -> GpuRow:
    told(f"{family}, {chains} chains on {torch.cuda.get_device_name()}")
    random = np.random.default_rng(7)
    lattice = compact_lattice(family)
    machine = lattice.with_parameters(
        random.normal(0.0, COUPLING_DEVIATION, (lattice.node_count,)).astype(np.float32),
        random.normal(0.0, COUPLING_DEVIATION, lattice.j.shape).astype(np.float32),
    )
    program = program_of(machine)
    spins = np.where(random.random((chains, machine.node_count)) < 0.5, -1, 1).astype(np.int8)
    keys = stream_keys(streams_of(1, chains), DRAW)
    cuda.run_on_device(program, spins, np.ones(2), keys)
    seconds = []
    for _ in range(repeats):
        began = perf_counter()
        cuda.run_on_device(program, spins, np.ones(SWEEPS), keys)
        seconds.append(perf_counter() - began)
    rate = chains * SWEEPS * program.graph.updates / median(seconds)
    return GpuRow(family, torch.cuda.get_device_name(), chains, SWEEPS, rate)
