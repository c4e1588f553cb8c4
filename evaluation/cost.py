"""What showers of a bundle cost on this machine: parameters, memory, and milliseconds per shower.

Measured in a process of its own, so that its memory is not mixed with the evaluation's. Sampler: block Gibbs with the
bundle's own number of sweeps. The time a QPU takes is not this machine's and stands apart, in a sample's provenance.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from qshower.model.bundle import load_bundle
from qshower.model.drawing.tensors import parameter_count
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

BATCHES = (1, 100, 10_000)
REPEATS = {1: 20, 100: 5}
KIBIBYTE = 1024


@dataclass(frozen=True, slots=True)
class BatchCost:
    """Cost at one batch size: wall and CPU milliseconds per shower, the median over repeats; latents and decoding."""

    batch: int
    ms_per_shower: float
    cpu_ms_per_shower: float
    sample_ms_per_shower: float
    decode_ms_per_shower: float
    repeats: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a bundle.

    Attributes:
        bundle: its name.
        decoder_parameters, machine_parameters: numbers of learned values.
        peak_memory_bytes: largest resident memory of the process that generated.
        sweeps: Gibbs sweeps per shower.
        hardware: processor, cores.
        batches: by batch size.
    """

    bundle: str
    decoder_parameters: int
    machine_parameters: int
    peak_memory_bytes: int
    sweeps: int
    hardware: str
    batches: tuple[BatchCost, ...]


def measure_cost(bundle: Path, batches: Sequence[int] = BATCHES, seed: int = 0) -> Cost:
    """Generate showers from a bundle's folder in a new process and measure; BundleError if it cannot be loaded."""
    load_bundle(bundle)  # its errors do not travel between processes
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, bundle, tuple(batches), seed).result()


def _measure(path: Path, batches: Sequence[int], seed: int) -> Cost:
    bundle = load_bundle(path)
    sampler = GibbsSampler()
    rng = np.random.default_rng(seed)
    low, high = bundle.domain_mev
    results: list[BatchCost] = []
    for batch in (batches[0], *batches):  # the first batch also pays for compilation, and is measured again
        wall, cpu, sampling = [], [], []
        repeats = REPEATS.get(batch, 1)
        for repeat in range(repeats):
            energies = np.exp(rng.uniform(np.log(low), np.log(high), batch)).clip(low, high)
            streams = streams_of(seed, batch, repeat * batch)
            begun, begun_cpu = perf_counter(), process_time()
            request = LatentRequest(
                bundle.machine, bundle.conditions(energies), streams, SamplerOptions(sweeps=bundle.default_sweeps)
            )
            spins = sampler.sample(request).spins
            sampled = perf_counter()
            bundle.decode(spins, energies, streams, bundle.geometry.threshold_mev)
            wall.append(perf_counter() - begun)
            cpu.append(process_time() - begun_cpu)
            sampling.append(sampled - begun)
        total, latent = float(np.median(wall)), float(np.median(sampling))
        results.append(
            BatchCost(
                batch=batch,
                ms_per_shower=1e3 * total / batch,
                cpu_ms_per_shower=1e3 * float(np.median(cpu)) / batch,
                sample_ms_per_shower=1e3 * latent / batch,
                decode_ms_per_shower=1e3 * (total - latent) / batch,
                repeats=repeats,
            )
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else KIBIBYTE)
    return Cost(
        bundle=bundle.name,
        decoder_parameters=parameter_count(bundle.tensor_shapes),
        machine_parameters=int(bundle.machine.h.size + bundle.machine.j.size),
        peak_memory_bytes=int(peak),
        sweeps=bundle.default_sweeps,
        hardware=f"{_processor()}, {os.cpu_count()} cores",
        batches=tuple(results[1:]),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
