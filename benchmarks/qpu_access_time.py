"""QPU access time per shower, batched by condition and packed side by side, against one programming per shower.

The figures are the solver's own timing fields. Without a QPU they come from the emulator, whose timing model is that
of the published problem_timing_data of the solvers it stands for.

    python -m benchmarks.qpu_access_time --topology zephyr:12 --levels 96 -o access_time.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from qshower.model.energy_code import ThermometerCode
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

DOMAIN_MEV = (1_000.0, 1_000_000.0)


@dataclass(frozen=True, slots=True)
class Row:
    """One batch size.

    Attributes:
        topology: the chip.
        levels: levels of the energy code.
        showers: batch size.
        conditions: distinct conditions in it.
        problems: programmings.
        copies: conditions side by side.
        access_time_ms: QPU access time of the batch, as billed.
        per_shower_ms: the same per shower.
        one_each_ms: QPU access time of as many problems of one read each.
        saving: how many times less.
    """

    topology: str
    levels: int
    showers: int
    conditions: int
    problems: int
    copies: int
    access_time_ms: float
    per_shower_ms: float
    one_each_ms: float
    saving: float


def batch(machine: BoltzmannMachine, code: ThermometerCode, showers: int, seed: int) -> LatentRequest:
    """A request for log-uniform energies."""
    low, high = np.log(DOMAIN_MEV)
    energies = np.exp(np.random.default_rng(seed).uniform(low, high, showers))
    streams = streams_of(seed, showers)
    return LatentRequest(machine, code.conditions(energies), streams, SamplerOptions(), deadline_s=900.0)


def measure(topology: str, levels: int, sizes: list[int], defects: float, copies: int, seed: int) -> list[Row]:
    """Rows for one chip, each batch really drawn and its bill read from the answers."""
    rng = np.random.default_rng(seed)
    lattice = compact_lattice(topology.split(":")[0])
    machine = lattice.with_parameters(rng.normal(0, 0.2, lattice.node_count), rng.normal(0, 0.2, len(lattice.edges)))
    code = ThermometerCode(machine.condition_nodes.size, levels, *DOMAIN_MEV)
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        EmulatorServer(EmulatorConfig(topology=topology, defects=defects, seed=seed, sweeps=16)) as emulator,
    ):
        settings = QpuSettings(
            endpoint=emulator.endpoint,
            token="emulator",  # noqa: S106 - the emulator takes any
            state_dir=Path(folder),
            max_copies=copies,
            refine_sweeps=1,
            request_cap_us=None,
        )
        with QpuSampler(settings) as sampler:
            first = batch(machine, code, 4, seed)
            operations.calibrate(sampler.access, machine, first.conditions)
            alone = sampler.sample(batch(machine, code, 1, seed)).provenance.qpu_access_time_us
            for showers in sizes:
                request = batch(machine, code, showers, seed + showers)
                estimate = sampler.estimate(request)
                provenance = sampler.sample(request).provenance
                used, ids = provenance.qpu_access_time_us, provenance.problem_ids
                if used is None or alone is None or ids is None:
                    raise RuntimeError("the solver sent no timing")
                rows.append(
                    Row(
                        topology=topology,
                        levels=levels,
                        showers=showers,
                        conditions=estimate.conditions,
                        problems=len(ids),
                        copies=estimate.copies,
                        access_time_ms=used / 1000,
                        per_shower_ms=used / 1000 / showers,
                        one_each_ms=alone * showers / 1000,
                        saving=alone * showers / used,
                    )
                )
    return rows


def main() -> None:
    """Print the table; write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", action="append", help="chip, may be repeated (default: zephyr:12 and pegasus:16)")
    parser.add_argument("--levels", type=int, default=96, help="levels of the energy code")
    parser.add_argument("--showers", type=int, nargs="+", default=[1, 100, 1000, 10_000], help="batch sizes")
    parser.add_argument("--defects", type=float, default=0.03, help="fraction of qubits missing")
    parser.add_argument("--copies", type=int, default=4, help="most conditions side by side")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    rows = []
    header = (
        f"{'topology':12}{'showers':>8}{'conditions':>11}{'problems':>9}{'copies':>7}{'access ms':>11}"
        f"{'ms/shower':>11}{'one each ms':>13}{'saving':>8}"
    )
    print(header)
    for topology in arguments.topology or ["zephyr:12", "pegasus:16"]:
        for row in measure(
            topology, arguments.levels, arguments.showers, arguments.defects, arguments.copies, arguments.seed
        ):
            rows.append(row)
            print(
                f"{row.topology:12}{row.showers:8d}{row.conditions:11d}{row.problems:9d}{row.copies:7d}"
                f"{row.access_time_ms:11.1f}{row.per_shower_ms:11.3f}{row.one_each_ms:13.0f}{row.saving:8.1f}",
                flush=True,
            )
    if arguments.output is not None:
        arguments.output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
