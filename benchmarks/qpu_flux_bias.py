"""How often flux biases of a given strength fail to hold the condition, and what that does to energies.

The condition's qubits are programmed with the machine's own h and J and held by flux biases (``condition_mode:
"flux_bias"``); a violation is a spin of the condition that is read with the wrong sign.

    python -m benchmarks.qpu_flux_bias --topology zephyr:12 pegasus:16 -o benchmarks/qpu_flux_bias_results.json
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.qpu_acceptance import BUNDLES, settings_for
from benchmarks.qpu_bias import Reference, machine_of, request_of
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.request import SamplerOptions

_VIOLATIONS = re.compile(r"left ([\d.]+)% of the condition's spins wrong")


@dataclass(frozen=True, slots=True)
class Row:
    """One strength.

    ``violations`` is the share of the condition's spins that were read wrongly; the energy's shift, in standard
    deviations, is that of unrefined draws.
    """

    topology: str
    machine: str
    hidden_beta: float
    noise: str
    flux_bias_phi0: float
    violations: float
    energy_shift: float
    energy_shift_error: float


def measure(topology: str, name: str, beta: float, arguments: argparse.Namespace) -> Iterator[Row]:
    """Rows of one chip at all strengths; one calibration serves them all."""
    machine, conditions = machine_of(name, topology, 2)
    plain = request_of(machine, conditions, 2 * arguments.rows, 1, SamplerOptions(sweeps=arguments.reference_sweeps))
    reference = Reference(machine, np.split(GibbsSampler(threads=1).sample(plain).spins, len(conditions)))
    config = EmulatorConfig(topology=topology, defects=0.03, beta=beta, seed=3, sweeps=128).with_noise(arguments.noise)
    with tempfile.TemporaryDirectory() as folder, EmulatorServer(config) as emulator:
        for strength in arguments.strengths:
            settings = replace(settings_for(emulator, folder), flux_bias_phi0=strength, max_copies=2)
            with QpuSampler(settings) as sampler:
                options = SamplerOptions(refine_sweeps=0, condition_mode="flux_bias")
                batch = sampler.sample(request_of(machine, conditions, arguments.rows, 5, options))
            found = [match for note in batch.provenance.notes if (match := _VIOLATIONS.search(note))]
            shift, error, *_ = reference.compare(batch.spins)
            yield Row(topology, name, beta, arguments.noise, strength, float(found[0][1]) / 100.0, shift, error)


def main() -> None:
    """Print the table; write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", nargs="+", choices=list(BUNDLES), default=["zephyr:12"])
    parser.add_argument("--machine", default="bundle", help="as in benchmarks.qpu_bias")
    parser.add_argument("--beta", type=float, nargs="+", default=[3.2, 7.0], help="hidden beta")
    parser.add_argument("--noise", default="typical", help="noise level of the emulator")
    parser.add_argument(
        "--strengths",
        type=float,
        nargs="+",
        default=[1e-5, 3e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3],
        help="flux biases in Phi_0",
    )
    parser.add_argument("--rows", type=int, default=400, help="rows of each of two conditions")
    parser.add_argument("--reference-sweeps", type=int, default=256)
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    print(f"{'topology':11}{'beta':>6}{'flux bias':>11}{'violations':>12}{'energy shift':>17}")
    rows = []
    for topology in arguments.topology:
        for beta in arguments.beta:
            for row in measure(topology, arguments.machine, beta, arguments):
                rows.append(asdict(row))
                print(
                    f"{topology:11}{beta:6.1f}{row.flux_bias_phi0:11.0e}{row.violations:12.2%}"
                    f"{row.energy_shift:9.3f} ± {row.energy_shift_error:.3f}",
                    flush=True,
                )
                if arguments.output is not None:
                    arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
