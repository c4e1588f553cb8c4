"""Reads that anneal back from Gibbs states against forward reads, at equal QPU access time, on the emulator.

A reverse anneal starts from one state for each programming, so that every further start costs a programming. How near
the reads of one condition come to the law is told by the node means and the correlations of coupled nodes: the root
mean square of their differences from a large Gibbs sample. Beside it there is a Gibbs sample of as many rows as there
are forward reads: what no sampler can be better than.

    python -m benchmarks.qpu_reverse --output reverse.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from dwave.system import DWaveSampler
from numpy.typing import NDArray

from qshower.model.bundle import find_bundles, load_bundle
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.gibbs.chains import refine
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

TOKEN = "any"  # noqa: S105 - the emulator takes any
BUNDLE = "electron-zephyr-coded"
BETA = 4.0
REFERENCE_ROWS = 20_000
MOST_READS = 4000
REFINE_SWEEPS = 16
SEED = 11


@dataclass(frozen=True, slots=True)
class Way:
    """A way to read: forward, or back to the anneal fraction ``depth`` from ``starts`` that each serve many reads.

    Attributes:
        name: what a table calls it.
        anneal_us: length of the anneal.
        depth: smallest anneal fraction of a reverse anneal, None for a forward one.
        reads_of_start: reads of each programming; None for as many as the budget has.
        again: whether each read starts from the start, or from the read before.
    """

    name: str
    anneal_us: float
    depth: float | None = None
    reads_of_start: int | None = None
    again: bool = True

    def parameters(self) -> dict[str, Any]:
        """What a problem sets, but for its state."""
        if self.depth is None:
            return {"annealing_time": self.anneal_us}
        quarter = self.anneal_us / 4.0
        points = [[0.0, 1.0], [quarter, self.depth], [3 * quarter, self.depth], [self.anneal_us, 1.0]]
        return {"anneal_schedule": points, "reinitialize_state": self.again}


def _back(anneal_us: float, depth: float, reads: int | None = None, *, again: bool = True) -> Way:
    starts = "one start" if reads is None else f"{reads} reads a start"
    name = f"{anneal_us:g} us to {depth:g}, {starts if again else 'each from the last'}"
    return Way(name, anneal_us, depth, reads, again)


WAYS = (
    Way("forward", 20.0),
    *(Way(f"forward, {reads} reads a programming", 20.0, None, reads) for reads in (10, 100)),
    *(_back(4.0, depth, reads) for depth in (0.9, 0.5) for reads in (10, 100)),
    *(_back(time_us, depth) for time_us in (4.0, 20.0) for depth in (0.9, 0.5)),
    *(_back(time_us, depth, again=False) for time_us in (4.0, 20.0) for depth in (0.9, 0.5)),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Distances of the reads that a budget buys.

    ``refined_…`` are those after ``REFINE_SWEEPS`` sweeps, ``gibbs_…`` those of as many rows of a Gibbs sample.
    """

    noise: str
    seed: int
    energy_mev: float
    way: str
    budget_ms: float
    access_ms: float
    starts: int
    reads: int
    means: float
    correlations: float
    refined_means: float
    refined_correlations: float
    gibbs_means: float
    gibbs_correlations: float


class Bench:
    """One condition of the machine on one emulated chip without defects."""

    def __init__(self, sampler: DWaveSampler, machine: BoltzmannMachine, condition: NDArray[np.int8]) -> None:
        self._sampler = sampler
        free = np.setdiff1d(np.arange(machine.node_count), machine.condition_nodes)
        place = np.full(machine.node_count, -1)
        place[free] = np.arange(free.size)
        inner = (place[machine.edges] >= 0).all(axis=1)
        self._machine, self._condition = machine, condition
        self._free, self.ends = free, place[machine.edges[inner]]
        self._qubits = machine.qubits[free].tolist()
        h = (machine.h + _fields_of(machine, condition))[free] / BETA
        self._h = dict(zip(self._qubits, h.tolist(), strict=True))
        pairs = machine.qubits[machine.edges[inner]].tolist()
        self._j = dict(zip(map(tuple, pairs), (machine.j[inner] / BETA).tolist(), strict=True))
        rows = np.tile(condition, (2 * REFERENCE_ROWS, 1))
        request = LatentRequest(machine, rows, streams_of(SEED, len(rows)), SamplerOptions())
        spins = GibbsSampler().sample(request).spins[:, free]
        self._reference, self._others = spins[:REFERENCE_ROWS], spins[REFERENCE_ROWS:]
        self._wanted = self._moments(self._reference)

    def _moments(self, spins: NDArray[np.int8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = spins.astype(np.float32)
        pairs = np.array([np.mean(values[:, a] * values[:, b]) for a, b in self.ends.tolist()])
        return values.mean(axis=0), pairs

    def distances(self, spins: NDArray[np.int8]) -> tuple[float, float]:
        """Root mean square differences of node means and of coupled nodes' correlations from the reference."""
        found = self._moments(spins)
        first, second = (float(np.sqrt(np.mean((a - b) ** 2))) for a, b in zip(found, self._wanted, strict=True))
        return first, second

    def gibbs(self, rows: int) -> tuple[float, float]:
        """The same of a Gibbs sample of its own."""
        return self.distances(self._others[:rows])

    def refined(self, spins: NDArray[np.int8]) -> tuple[float, float]:
        """The same of ``spins`` after the Gibbs sweeps that a draw on a QPU ends with."""
        whole = np.empty((len(spins), self._machine.node_count), dtype=np.int8)
        whole[:, self._machine.condition_nodes], whole[:, self._free] = self._condition, spins
        streams = streams_of(SEED, len(spins))
        return self.distances(refine(self._machine, whole, REFINE_SWEEPS, streams)[:, self._free])

    def draw(self, way: Way, budget_us: float) -> tuple[NDArray[np.int8], float, int]:
        """(reads, free) spins that ``way`` buys for ``budget_us``, their access time, and how many starts."""
        found: list[NDArray[np.int8]] = []
        spent_us, start = 0.0, 0
        for reads in self._problems(way, budget_us):
            parameters = way.parameters()
            if way.depth is not None:
                state = self._others[-1 - start]
                parameters["initial_state"] = dict(zip(self._qubits, state.tolist(), strict=True))
            start += 1
            future = self._sampler.solver.sample_ising(
                self._h, self._j, num_reads=reads, answer_mode="raw", auto_scale=False, **parameters
            )
            states = np.asarray(future.result()["solutions"], dtype=np.int8)[:, self._qubits]
            found.append(states)
            spent_us += future.timing["qpu_access_time"]
        return np.concatenate(found), spent_us, start

    def _problems(self, way: Way, budget_us: float) -> Iterator[int]:
        """The reads of each problem."""
        values = way.parameters()
        if way.depth is not None:
            values["initial_state"] = [3]

        def cost_us(reads: int) -> float:
            return float(
                self._sampler.solver.estimate_qpu_access_time(num_qubits=len(self._qubits), num_reads=reads, **values)
            )

        one, each = cost_us(1), cost_us(2) - cost_us(1)
        while budget_us > one:
            reads = int((budget_us - one) / each) + 1
            reads = min(reads, way.reads_of_start or MOST_READS)
            yield reads
            budget_us -= cost_us(reads)


def _fields_of(machine: BoltzmannMachine, condition: NDArray[np.int8]) -> NDArray[np.float64]:
    """(nodes,) fields that the condition's nodes exert on their neighbours."""
    spins = np.zeros(machine.node_count)
    spins[machine.condition_nodes] = condition
    fields = np.zeros(machine.node_count)
    np.add.at(fields, machine.edges[:, 0], machine.j * spins[machine.edges[:, 1]])
    np.add.at(fields, machine.edges[:, 1], machine.j * spins[machine.edges[:, 0]])
    return fields


def measure(noise: str, seed: int, energies_mev: Sequence[float], budgets_ms: Sequence[float]) -> Iterator[Row]:
    """All ways, budgets and conditions on the chip of that seed and noise."""
    bundle = load_bundle(find_bundles()[BUNDLE])
    config = EmulatorConfig(topology="zephyr:12", defects=0.0, beta=BETA, seed=seed).with_noise(noise)
    with (
        EmulatorServer(config) as emulator,
        DWaveSampler(endpoint=emulator.endpoint, token=TOKEN, cache_enabled=False) as sampler,
    ):
        sampler.solver.return_matrix = True
        for energy_mev in energies_mev:
            bench = Bench(sampler, bundle.machine, bundle.conditions(np.array([energy_mev]))[0])
            for budget_ms, way in product(budgets_ms, WAYS):
                spins, spent_us, starts = bench.draw(way, budget_ms * 1e3)
                found, refined, floor = bench.distances(spins), bench.refined(spins), bench.gibbs(len(spins))
                access_ms, reads = spent_us / 1e3, len(spins)
                yield Row(
                    noise, seed, energy_mev, way.name, budget_ms, access_ms, starts, reads, *found, *refined, *floor
                )


def main() -> None:
    """Print a row for each measurement, and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--noise", nargs="+", default=["none", "typical"])
    parser.add_argument("--seed", nargs="+", type=int, default=[SEED])
    parser.add_argument("--energy-mev", nargs="+", type=float, default=[4096.0])
    parser.add_argument("--budget-ms", nargs="+", type=float, default=[1000.0])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for noise, seed in product(arguments.noise, arguments.seed):
        for row in measure(noise, seed, arguments.energy_mev, arguments.budget_ms):
            rows.append(row)
            print(
                f"{row.noise:8} {row.seed:3} {row.energy_mev:8.0f} {row.budget_ms:6.0f} ms {row.way:34} "
                f"{row.starts:4} starts {row.reads:6} reads: means {row.means:.4f} refined {row.refined_means:.4f} "
                f"({row.gibbs_means:.4f}) correlations {row.correlations:.4f} refined {row.refined_correlations:.4f} "
                f"({row.gibbs_correlations:.4f})",
                flush=True,
            )
    if arguments.output is not None:
        arguments.output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
