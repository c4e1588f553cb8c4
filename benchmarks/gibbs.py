"""Spin updates per CPU second of the Gibbs sampler and of the baselines, in one interleaved run on one core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import process_time

import numpy as np
import torch

from benchmarks.baselines import DwaveFixedBeta, TorchDense
from qshower.sampler.gibbs.chains import draw
from qshower.sampler.gibbs.gibbs_sampler import warm_up
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.request import streams_of

COUPLING_DEVIATION = 0.3
"""Standard deviation of the Gaussian h and J of the machines measured, in kT."""

LEAST_SECONDS = 0.05
"""A timing repeats its call until it has used this much CPU time."""


@dataclass(frozen=True, slots=True)
class GibbsRow:
    """One line of the table; rates are medians over the repeats.

    Attributes:
        topology: family of the machine's lattice, 4 × 302 nodes, 906 of them free.
        chains: rows drawn at once, each with a condition of its own (one condition for dwave-samplers).
        sweeps: sweeps of a draw.
        updates_per_cpu_s: spin updates per second of process CPU time, on one thread, all overheads of a draw included.
        ms_per_sample: CPU milliseconds for one sample of that many sweeps.
        ratio_to_torch_dense: ``updates_per_cpu_s`` over that of a dense torch block Gibbs.
        ratio_to_dwave_samplers: ``updates_per_cpu_s`` over that of dwave-samplers at fixed beta.
        torch_dense_updates_per_cpu_s: the baseline's rate.
        dwave_samplers_updates_per_cpu_s: the baseline's rate.
    """

    topology: str
    chains: int
    sweeps: int
    updates_per_cpu_s: float
    ms_per_sample: float
    ratio_to_torch_dense: float
    ratio_to_dwave_samplers: float
    torch_dense_updates_per_cpu_s: float
    dwave_samplers_updates_per_cpu_s: float


def measure(
    *, chains: tuple[int, ...], sweeps: int, repeats: int, told: Callable[[str], None]
) -> list[dict[str, object]]:
    """Rows of both topologies, baselines interleaved with the kernel."""
    warm_up()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            asdict(_row(family, count, sweeps, repeats, told)) for family in ("pegasus", "zephyr") for count in chains
        ]
    finally:
        torch.set_num_threads(threads)


def _row(family: str, chains: int, sweeps: int, repeats: int, told: Callable[[str], None]) -> GibbsRow:
    told(f"{family}, {chains} chains")
    random = np.random.default_rng(7)
    lattice = compact_lattice(family)
    machine = lattice.with_parameters(
        random.normal(0.0, COUPLING_DEVIATION, (lattice.node_count,)).astype(np.float32),
        random.normal(0.0, COUPLING_DEVIATION, lattice.j.shape).astype(np.float32),
    )
    conditions = np.where(random.random((chains, lattice.condition_nodes.shape[0])) < 0.5, -1, 1).astype(np.int8)
    dense, fixed = TorchDense(machine), DwaveFixedBeta(machine, conditions[0])
    streams = streams_of(1, chains)
    calls: dict[str, Callable[[int], object]] = {
        "gibbs": lambda seed: draw(machine, conditions, streams + np.uint64(seed), sweeps, threads=1),
        "torch": lambda seed: dense.draw(conditions, sweeps, seed),
        "dwave": lambda seed: fixed.draw(chains, sweeps, seed),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name in calls:
        calls[name](0)
    for repeat in range(repeats):
        for name, call in calls.items():
            seconds[name].append(_seconds(call, repeat))
    updates = chains * sweeps * machine.free_nodes.shape[0]
    rate = {name: updates / median(values) for name, values in seconds.items()}
    return GibbsRow(
        topology=family,
        chains=chains,
        sweeps=sweeps,
        updates_per_cpu_s=rate["gibbs"],
        ms_per_sample=1e3 * median(seconds["gibbs"]) / chains,
        ratio_to_torch_dense=rate["gibbs"] / rate["torch"],
        ratio_to_dwave_samplers=rate["gibbs"] / rate["dwave"],
        torch_dense_updates_per_cpu_s=rate["torch"],
        dwave_samplers_updates_per_cpu_s=rate["dwave"],
    )


def _seconds(call: Callable[[int], object], seed: int) -> float:
    """CPU seconds of one call, over as many as fill ``LEAST_SECONDS``."""
    began, count = process_time(), 0
    while True:
        call(1000 * seed + count + 1)
        count += 1
        used = process_time() - began
        if used >= LEAST_SECONDS:
            return used / count
