"""What noise and holes bend, and what refinement mends: QPU draws against Gibbs after 0, 4, 16 and 64 sweeps.

For each condition: the shift of the mean energy in standard deviations of the energy, and the root mean square error
of the magnetisations with the sampling noise taken off. Both have an error of their own, printed beside them.

    python -m benchmarks.qpu_bias --topology zephyr:12 --machine MODEL_FOLDER
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.bundle import load_bundle
from sampler.emulator.config import EmulatorConfig
from sampler.emulator.server import EmulatorServer
from sampler.gibbs.sampler import GibbsSampler
from sampler.lattice import compact_lattice
from sampler.machine import BoltzmannMachine
from sampler.qpu.sampler import QpuSampler
from sampler.qpu.settings import QpuSettings
from sampler.request import LatentRequest, SamplerOptions

NOISE: dict[str, dict[str, float]] = {
    "none": {},
    "control 1 %": {"control_error_h": 0.01, "control_error_j": 0.01},
    "control 3 %": {"control_error_h": 0.03, "control_error_j": 0.03},
    "control 1 %, flips 0.5 %": {"control_error_h": 0.01, "control_error_j": 0.01, "readout_flip": 0.005},
}
REFERENCE_SWEEPS = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One noise level and number of sweeps; see the module's docstring."""

    topology: str
    noise: str
    gauges: int
    holes: int
    beta: float
    sweeps: int
    energy_shift: float
    energy_shift_error: float
    magnetisation_error: float


def request_of(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], rows: int, seed: int, options: SamplerOptions
) -> LatentRequest:
    """``rows`` rows of each condition, side by side."""
    total = rows * len(conditions)
    streams = np.stack([np.full(total, seed), np.arange(total)], axis=1).astype(np.uint64)
    return LatentRequest(machine, np.repeat(conditions, rows, axis=0), streams, options, deadline_s=900.0)


def compare(
    machine: BoltzmannMachine, one: NDArray[np.int8], other: NDArray[np.int8], conditions: int
) -> tuple[float, float, float]:
    """Energy shift, its error, and magnetisation error of ``one`` against ``other``, averaged over the conditions."""
    shifts, errors, squares = [], [], []
    for mine, theirs in zip(np.split(one, conditions), np.split(other, conditions), strict=True):
        a, b = machine.energies(mine), machine.energies(theirs)
        shifts.append((a.mean() - b.mean()) / b.std())
        errors.append(np.sqrt(1 / len(a) + 1 / len(b)))
        free = machine.free_nodes
        difference = mine[:, free].mean(axis=0) - theirs[:, free].mean(axis=0)
        noise = mine[:, free].var(axis=0) / len(a) + theirs[:, free].var(axis=0) / len(b)
        squares.append(float((difference**2 - noise).mean()))
    return (
        float(np.mean(shifts)),
        float(np.mean(errors) / np.sqrt(conditions)),
        float(np.sqrt(max(0, np.mean(squares)))),
    )


def measure(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], topology: str, rows: int, gauges: int, sweeps: list[int]
) -> list[Row]:
    """Rows for one chip, all noise levels."""
    plain = request_of(machine, conditions, rows, 1, SamplerOptions(sweeps=REFERENCE_SWEEPS))
    reference = GibbsSampler().sample(plain).spins
    found = []
    for name, noise in NOISE.items():
        config = EmulatorConfig(topology=topology, defects=0.03, beta=4.4, seed=3, sweeps=256, **noise)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder, EmulatorServer(config) as emulator:
            settings = QpuSettings(
                endpoint=emulator.endpoint,
                token="emulator",  # noqa: S106 - the emulator takes any
                state_dir=Path(folder),
                deadline_s=600.0,
            )
            with QpuSampler(settings) as sampler:
                for count in sweeps:
                    options = SamplerOptions(refine_sweeps=count, gauges=gauges)
                    batch = sampler.sample(request_of(machine, conditions, rows, 2 + count, options))
                    shift, error, magnetisation = compare(machine, batch.spins, reference, len(conditions))
                    made = batch.provenance
                    row = Row(
                        topology, name, gauges, made.holes or 0, made.beta or 0.0, count, shift, error, magnetisation
                    )
                    found.append(row)
                    print(
                        f"{topology:12}{name:26}{gauges:7d}{row.holes:6d}{row.beta:8.3f}{count:7d}"
                        f"{shift:10.3f} ± {error:.3f}{magnetisation:10.4f}",
                        flush=True,
                    )
    return found


def main() -> None:
    """Print the table; write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="zephyr:12")
    parser.add_argument("--machine", type=Path, help="bundle whose machine to draw from (default: random couplings)")
    parser.add_argument("--rows", type=int, default=300, help="rows of each condition")
    parser.add_argument("--conditions", type=int, default=4)
    parser.add_argument("--gauges", type=int, default=1)
    parser.add_argument("--sweeps", type=int, nargs="+", default=[0, 4, 16, 64])
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    if arguments.machine is None:
        rng = np.random.default_rng(1)
        lattice = compact_lattice(arguments.topology.split(":")[0])
        machine = lattice.with_parameters(
            rng.normal(0, 0.2, lattice.node_count), rng.normal(0, 0.2, len(lattice.edges))
        )
        shape = (arguments.conditions, machine.condition_nodes.size)
        conditions = rng.choice(np.array([-1, 1], dtype=np.int8), size=shape)
    else:
        bundle = load_bundle(arguments.machine)
        machine = bundle.machine
        conditions = bundle.conditions(np.geomspace(*bundle.domain_mev, arguments.conditions + 2)[1:-1])
    print(
        f"{'topology':12}{'noise':26}{'gauges':>7}{'holes':>6}{'beta':>8}{'sweeps':>7}{'energy shift / sd':>18}"
        f"{'rms dm':>10}"
    )
    rows = measure(machine, conditions, arguments.topology, arguments.rows, arguments.gauges, arguments.sweeps)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
