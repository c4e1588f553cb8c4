"""What noise and missing qubits bend, and what refinement mends: QPU draws against Gibbs after 0, 4, 16 and 64 sweeps.

The reads of one draw are refined further and further. For each number of sweeps:

* *energy*: shift of the mean energy, in standard deviations of the energy at the same condition;
* *moments*: root mean square error of the magnetisations, and of the correlations of coupled spins, the sampling noise
  taken off;
* *total variation* of the energy, by its rank among reference energies of the same condition, in 20 classes, and of
  the number of free spins that are up, likewise; beside the *floor*: another set of as many Gibbs draws.

At each noise level of the emulator: ``none`` shows what missing qubits alone bend; the others add control errors,
readout errors and flux offsets.

    python -m benchmarks.qpu_bias --topology zephyr:12 pegasus:16 --machine bundle random -o results.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.qpu_acceptance import BUNDLES, refined, settings_for
from qshower.model.bundle import find_bundles, load_bundle
from qshower.sampler.emulator.emulator_config import NOISE_LEVELS, EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

MADE_UP = {"random": 0.2, "strong": 0.3}
"""Standard deviation of the couplings (kT) of machines made for this; the pretrained ones' is about 0.002."""
REFERENCE_SWEEPS = 1024
CLASSES = 20
FLOOR = "floor"


@dataclass(frozen=True, slots=True)
class Row:
    """One machine, noise level and number of sweeps; see the module's docstring.

    ``noise`` is a noise level of the emulator, or ``floor``; what it stands for is beside it: the standard deviation of
    the errors of h and J, that of the qubits' flux offsets, and the chance that a spin is read wrongly.
    """

    topology: str
    machine: str
    noise: str
    control_error: float
    flux_offset_phi0: float
    readout_flip: float
    gauges: int
    missing_qubits: int
    beta: float
    sweeps: int
    energy_shift: float
    energy_shift_error: float
    magnetisation_error: float
    correlation_error: float
    energy_variation: float
    up_variation: float


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Gibbs draws, split by condition."""

    machine: BoltzmannMachine
    states: list[NDArray[np.int8]]

    def compare(self, states: NDArray[np.int8]) -> tuple[float, float, float, float, float, float]:
        """The figures of a row, from the energy's shift on; as many states of each condition, in the same order."""
        machine = self.machine
        pairs = machine.edges[(machine.partitions[machine.edges] != 0).all(axis=1)]
        shifts, errors, first, second, energy_ranks, up_ranks = [], [], [], [], [], []
        for mine, theirs in zip(np.split(states, len(self.states)), self.states, strict=True):
            a, b = machine.energies(mine), machine.energies(theirs)
            shifts.append((a.mean() - b.mean()) / b.std())
            errors.append(np.sqrt(1 / len(a) + 1 / len(b)))
            first.append(_excess(mine[:, machine.free_nodes], theirs[:, machine.free_nodes]))
            second.append(
                _excess(mine[:, pairs[:, 0]] * mine[:, pairs[:, 1]], theirs[:, pairs[:, 0]] * theirs[:, pairs[:, 1]])
            )
            energy_ranks.append(_classes(a, b))
            up_ranks.append(_classes(mine.sum(axis=1, dtype=np.int64), theirs.sum(axis=1, dtype=np.int64)))
        return (
            float(np.mean(shifts)),
            float(np.mean(errors) / np.sqrt(len(shifts))),
            float(np.sqrt(max(0.0, float(np.mean(first))))),
            float(np.sqrt(max(0.0, float(np.mean(second))))),
            _variation(energy_ranks),
            _variation(up_ranks),
        )


def _excess(mine: NDArray[np.int8], theirs: NDArray[np.int8]) -> float:
    """Mean squared difference of the means of the columns, less what sampling noise alone would give."""
    difference = mine.mean(axis=0) - theirs.mean(axis=0)
    noise = mine.var(axis=0) / len(mine) + theirs.var(axis=0) / len(theirs)
    return float((difference**2 - noise).mean())


def _classes(mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, CLASSES) shares of ``mine`` and ``theirs`` in classes that hold about as many of ``theirs`` each."""
    edges = np.quantile(theirs, np.linspace(0, 1, CLASSES + 1)[1:-1])
    counts = [np.bincount(np.searchsorted(edges, some), minlength=CLASSES) / len(some) for some in (mine, theirs)]
    return np.array(counts)


def _variation(classes: list[NDArray[np.float64]]) -> float:
    """Total variation of the shares, averaged over the conditions before they are compared."""
    mine, theirs = np.mean(classes, axis=0)
    return float(np.abs(mine - theirs).sum() / 2)


def request_of(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], rows: int, seed: int, options: SamplerOptions
) -> LatentRequest:
    """``rows`` rows of each condition, side by side."""
    total = rows * len(conditions)
    streams = streams_of(seed, total)
    return LatentRequest(machine, np.repeat(conditions, rows, axis=0), streams, options, deadline_s=1800.0)


def machine_of(name: str, topology: str, conditions: int) -> tuple[BoltzmannMachine, NDArray[np.int8]]:
    """A machine and conditions: the pretrained one (``bundle``), one made up, or that of a bundle's folder."""
    if name in MADE_UP:
        rng = np.random.default_rng(1)
        lattice = compact_lattice(topology.split(":")[0])
        spread = MADE_UP[name]
        machine = lattice.with_parameters(
            rng.normal(0, 0.2, lattice.node_count).astype(np.float32),
            rng.normal(0, spread, len(lattice.edges)).astype(np.float32),
        )
        shape = (conditions, machine.condition_nodes.size)
        return machine, rng.choice(np.array([-1, 1], dtype=np.int8), size=shape)
    bundle = load_bundle(find_bundles()[BUNDLES[topology]] if name == "bundle" else Path(name))
    return bundle.machine, bundle.conditions(np.geomspace(*bundle.domain_mev, conditions + 2)[1:-1])


def measure(topology: str, name: str, noises: list[str], arguments: argparse.Namespace) -> Iterator[Row]:
    """Rows for one chip and machine, all noise levels."""
    machine, conditions = machine_of(name, topology, arguments.conditions)
    plain = SamplerOptions(sweeps=REFERENCE_SWEEPS)

    def gibbs(rows: int, seed: int) -> NDArray[np.int8]:
        request = request_of(machine, conditions, rows, seed, plain)
        return GibbsSampler(threads=1).sample(request).spins

    reference = Reference(machine, np.split(gibbs(4 * arguments.rows, 1), len(conditions)))
    yield Row(
        topology=topology,
        machine=name,
        noise=FLOOR,
        control_error=0.0,
        flux_offset_phi0=0.0,
        readout_flip=0.0,
        gauges=1,
        missing_qubits=0,
        beta=1.0,
        sweeps=REFERENCE_SWEEPS,
        **dict(zip(FIGURES, reference.compare(gibbs(arguments.rows, 2)), strict=True)),
    )
    for noise in noises:
        config = EmulatorConfig(topology=topology, defects=0.03, beta=4.4, seed=3, sweeps=256).with_noise(noise)
        with (
            tempfile.TemporaryDirectory() as folder,
            EmulatorServer(config) as emulator,
            QpuSampler(settings_for(emulator, folder)) as sampler,
        ):
            options = SamplerOptions(refine_sweeps=0, gauges=arguments.gauges)
            request = request_of(machine, conditions, arguments.rows, 5, options)
            batch = sampler.sample(request)
        made = batch.provenance
        for sweeps, states in refined(request, batch.spins, arguments.sweeps):
            yield Row(
                topology=topology,
                machine=name,
                noise=noise,
                control_error=config.control_error_j,
                flux_offset_phi0=config.flux_offset_phi0,
                readout_flip=config.readout_flip,
                gauges=arguments.gauges,
                missing_qubits=made.missing_qubits or 0,
                beta=made.beta or 0.0,
                sweeps=sweeps,
                **dict(zip(FIGURES, reference.compare(states), strict=True)),
            )


FIGURES = (
    "energy_shift",
    "energy_shift_error",
    "magnetisation_error",
    "correlation_error",
    "energy_variation",
    "up_variation",
)


def main() -> None:
    """Print the table; write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", nargs="+", choices=list(BUNDLES), default=["zephyr:12"])
    parser.add_argument(
        "--machine",
        nargs="+",
        default=["bundle"],
        help="bundle (the pretrained one), random or strong (couplings of 0.2 or 0.3 kT), or a bundle's folder",
    )
    parser.add_argument("--noise", nargs="+", choices=list(NOISE_LEVELS), default=list(NOISE_LEVELS))
    parser.add_argument("--rows", type=int, default=400, help="rows of each condition")
    parser.add_argument("--conditions", type=int, default=4)
    parser.add_argument("--gauges", type=int, default=1)
    parser.add_argument("--sweeps", type=int, nargs="+", default=[0, 4, 16, 64], help="ascending")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    print(
        f"{'topology':11}{'machine':9}{'noise':>9}{'lost':>6}{'beta':>7}{'sweeps':>7}{'energy shift':>17}"
        f"{'rms dm':>8}{'rms dc':>8}{'TV of E':>9}{'TV of up':>9}"
    )
    rows = []
    for topology in arguments.topology:
        for name in arguments.machine:
            for row in measure(topology, name, arguments.noise, arguments):
                rows.append(asdict(row))
                print(
                    f"{topology:11}{name[-8:]:9}{row.noise:>9}{row.missing_qubits:6d}{row.beta:7.3f}{row.sweeps:7d}"
                    f"{row.energy_shift:9.3f} ± {row.energy_shift_error:.3f}{row.magnetisation_error:8.4f}"
                    f"{row.correlation_error:8.4f}{row.energy_variation:9.3f}{row.up_variation:9.3f}",
                    flush=True,
                )
                if arguments.output is not None:
                    arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
