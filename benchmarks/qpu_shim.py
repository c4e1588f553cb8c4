"""What shims mend: an emulated chip's planted offsets, and the bias of unrefined draws, before and after.

On each chip with planted offsets draws are compared with Gibbs three times: without a shim, with one of the qubits, and
with one of qubits and couplers; each time after a calibration. A row says

* what the qubits (kT) and the couplers (share of J = 1) are off by in every programming, root mean square: the
  emulator's own figures, which no client sees, with what the shim programs added;
* the shim's own figures of the same, after it was applied;
* the bias of the reads, as they are and after refinement sweeps, in the figures of ``benchmarks.qpu_bias``.

``flux`` plants flux offsets alone; ``errors`` adds control errors, half of whose variance is the chip's own and half
new with each programming, which no shim can mend; the rest are noise levels of the emulator.

    python -m benchmarks.qpu_shim --topology zephyr:12 pegasus:16 -o benchmarks/qpu_shim_results.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.qpu_acceptance import BUNDLES, refined, settings_for
from benchmarks.qpu_bias import FIGURES, Reference, machine_of, request_of
from qshower.sampler.emulator.chip import Chip
from qshower.sampler.emulator.emulator_config import NOISE_LEVELS, EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.emulator.physics import Physics
from qshower.sampler.emulator.problem import Problem, RunParameters
from qshower.sampler.emulator.timing import DEFAULT_ANNEALING_TIME_US
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.shims.flux_bias import Shim
from qshower.sampler.request import SamplerOptions

_FLUX = {"flux_offset_phi0": 5e-5}
PLANTED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"flux": _FLUX, "errors": _FLUX | {"control_error_h": 0.02, "control_error_j": 0.02}, **NOISE_LEVELS}
)
SHIMS = ("none", "qubits", "qubits and couplers")


@dataclass(frozen=True, slots=True)
class Row:
    """One chip, machine, shim, number of gauges and of refinement sweeps; see the module's docstring."""

    topology: str
    seed: int
    machine: str
    planted: str
    flux_offset_phi0: float
    control_error: float
    readout_flip: float
    shim: str
    shim_reads: int
    qubits_off_kt: float
    couplers_off: float
    qubits_off_reported_kt: float | None
    couplers_off_reported: float | None
    beta: float
    gauges: int
    sweeps: int
    energy_shift: float
    energy_shift_error: float
    magnetisation_error: float
    correlation_error: float
    energy_variation: float
    up_variation: float


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A machine to draw from, and what its draws should look like."""

    name: str
    machine: BoltzmannMachine
    conditions: NDArray[np.int8]
    reference: Reference

    @classmethod
    def of(cls, name: str, topology: str, arguments: argparse.Namespace) -> Target:
        """Four times as many Gibbs draws as a chip will be asked for."""
        machine, conditions = machine_of(name, topology, arguments.conditions)
        options = SamplerOptions(sweeps=arguments.reference_sweeps)
        request = request_of(machine, conditions, 4 * arguments.rows, 1, options)
        states = GibbsSampler(threads=1).sample(request).spins
        return cls(name, machine, conditions, Reference(machine, np.split(states, len(conditions))))


def static_offsets(config: EmulatorConfig, chip: Chip, shim: Shim | None) -> tuple[float, float]:
    """Root mean square of what is the same in every programming of h = J = 0: of h' in kT, of J' in units of J."""
    own = float(np.sqrt(config.systematic_share))
    static = replace(
        config,
        control_error_h=own * config.control_error_h,
        control_error_j=own * config.control_error_j,
        systematic_share=1.0,
    )
    biases, j = np.zeros(chip.nominal_qubits), np.zeros(len(chip.couplers))
    if shim is not None:
        biases[shim.qubits] = shim.flux_biases_phi0
        if shim.couplers is not None:
            j[np.lexsort((chip.couplers.max(axis=1), chip.couplers.min(axis=1)))] = shim.couplers.offsets
    h = np.zeros(len(chip.qubits))
    problem = Problem(
        kind="ising",
        active=np.arange(len(chip.qubits)),
        couplers=np.arange(len(chip.couplers)),
        linear=h,
        quadratic=-j,
        h=h,
        j=-j,
        parameters=RunParameters(flux_biases=tuple(biases.tolist())),
    )
    physics = Physics(static, chip)
    left = physics.program(problem, np.random.default_rng(), 0.0, 0)
    beta = physics.beta(DEFAULT_ANNEALING_TIME_US, 0.0, 0)
    return float(np.sqrt(np.square(left.h).mean())), float(np.sqrt(np.square(left.j).mean())) / beta


def measure(
    topology: str, planted: str, seed: int, targets: list[Target], arguments: argparse.Namespace
) -> Iterator[Row]:
    """Rows of one emulated chip: every shim, every machine."""
    plain = EmulatorConfig(topology=topology, defects=0.03, beta=4.4, seed=seed, sweeps=256)
    config = replace(plain, **PLANTED[planted])
    with (
        tempfile.TemporaryDirectory() as folder,
        EmulatorServer(config) as emulator,
        QpuSampler(settings_for(emulator, folder)) as sampler,
    ):
        for kind in SHIMS:
            shim = None
            if kind != "none":
                couplers = kind != "qubits"
                shim = operations.shim(
                    sampler.access, targets[0].machine, reads=arguments.shim_reads, couplers=couplers
                )
            off = None if shim is None else shim.couplers
            qubits_kt, couplers_off = static_offsets(config, emulator.backend.chip, shim)
            for target in targets:
                found = operations.calibrate(sampler.access, target.machine, target.conditions)
                for gauges in arguments.gauges:
                    options = SamplerOptions(refine_sweeps=0, gauges=gauges)
                    request = request_of(target.machine, target.conditions, arguments.rows, 5, options)
                    drawn = sampler.sample(request).spins
                    for sweeps, states in refined(request, drawn, arguments.sweeps):
                        yield Row(
                            topology=topology,
                            seed=seed,
                            machine=target.name,
                            planted=planted,
                            flux_offset_phi0=config.flux_offset_phi0,
                            control_error=config.control_error_j,
                            readout_flip=config.readout_flip,
                            shim=kind,
                            shim_reads=0 if shim is None else arguments.shim_reads,
                            qubits_off_kt=qubits_kt,
                            couplers_off=couplers_off,
                            qubits_off_reported_kt=None if shim is None else shim.offset_after_kt,
                            couplers_off_reported=None if off is None else off.after,
                            beta=found.beta,
                            gauges=gauges,
                            sweeps=sweeps,
                            **dict(zip(FIGURES, target.reference.compare(states), strict=True)),
                        )


def main() -> None:
    """Print the table; write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", nargs="+", choices=list(BUNDLES), default=["zephyr:12"])
    parser.add_argument("--machine", nargs="+", default=["bundle", "random"], help="as in benchmarks.qpu_bias")
    parser.add_argument("--planted", nargs="+", choices=list(PLANTED), default=["flux", "errors", "typical", "high"])
    parser.add_argument("--shim-reads", type=int, default=1000, help="reads of each of a shim's programmings")
    parser.add_argument("--rows", type=int, default=400, help="rows of each condition")
    parser.add_argument("--conditions", type=int, default=4)
    parser.add_argument("--seed", type=int, nargs="+", default=[3], help="of the chips")
    parser.add_argument("--gauges", type=int, nargs="+", default=[1])
    parser.add_argument("--sweeps", type=int, nargs="+", default=[0], help="refinement sweeps, ascending")
    parser.add_argument("--reference-sweeps", type=int, default=1024)
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    print(
        f"{'topology':11}{'planted':8}{'machine':8}{'shim':20}{'qubits kT':>10}{'couplers':>10}{'beta':>7}"
        f"{'gauges':>7}{'sweeps':>7}{'energy shift':>17}{'rms dm':>8}{'rms dc':>8}{'TV of E':>9}"
    )
    rows = []
    for topology in arguments.topology:
        targets = [Target.of(name, topology, arguments) for name in arguments.machine]
        for planted, seed in product(arguments.planted, arguments.seed):
            for row in measure(topology, planted, seed, targets, arguments):
                rows.append(asdict(row))
                print(
                    f"{topology:11}{planted:8}{row.machine[-7:]:8}{row.shim:20}{row.qubits_off_kt:10.3f}"
                    f"{row.couplers_off:10.2%}{row.beta:7.3f}{row.gauges:7d}"
                    f"{row.sweeps:7d}{row.energy_shift:9.3f} ± {row.energy_shift_error:.3f}"
                    f"{row.magnetisation_error:8.4f}{row.correlation_error:8.4f}{row.energy_variation:9.3f}",
                    flush=True,
                )
                if arguments.output is not None:
                    arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
