"""How much planted errors move the scores of the programmings of a calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qshower.sampler.lattice import compact_lattice
from qshower.sampler.placement import Placement
from qshower.sampler.qpu.calibration.score_variance import score_variance
from qshower.sampler.qpu.drawing.part_reads import PartReads
from qshower.sampler.qpu.embedding.embedding import Embedding
from qshower.sampler.qpu.embedding.layout import Layout
from qshower.sampler.qpu.embedding.ranges import CouplingLimits
from qshower.sampler.qpu.planning.gauge_shares import gauge_of_reads
from qshower.sampler.qpu.planning.packing import Part

GAUGES, READS = 60, 40


def reads_of(error: float, seed: int, *, jitter: float = 0.0, gauges: int = GAUGES) -> PartReads:
    """Reads of independent spins in fields of up to some kT.

    Each programming has errors of the fields of its own, of standard deviation ``error`` (kT), and a temperature of its
    own, off by the share ``jitter``.
    """
    rng = np.random.default_rng(seed)
    lattice = compact_lattice("zephyr")
    fields = rng.normal(0, 0.3, lattice.node_count) * rng.choice([1.0, 6.0], lattice.node_count, p=[0.8, 0.2])
    machine = lattice.with_parameters(fields.astype(np.float32), np.zeros(len(lattice.edges), dtype=np.float32))
    free, nothing = machine.partitions != 0, np.zeros(0, dtype=np.int64)
    placement = Placement(
        np.where(free, machine.qubits, -1), free, nothing, nothing, nothing, nothing.reshape(0, 2), 0.0, 0.0
    )
    layout = Layout.of(machine, placement)
    felt = machine.h[layout.nodes].astype(np.float64)
    noise = error * rng.standard_normal((gauges, felt.size))
    count = gauges * READS
    shaken = (felt + noise) * rng.normal(1.0, jitter, (gauges, 1))
    up = rng.random((count, felt.size)) < 1 / (1 + np.exp(2 * shaken[gauge_of_reads(count, gauges)]))
    spins = np.where(up, 1, -1).astype(np.int8)
    limits = CouplingLimits(None, nothing, nothing, 0)  # type: ignore[arg-type]
    return PartReads(Part(0, 0, np.arange(count)), Embedding(layout, limits), felt, 1.0, spins, gauges)


@pytest.mark.parametrize("error", [0.0, 0.05, 0.15, 0.3])
def test_the_variance_of_planted_errors_is_found(error: float) -> None:
    """Twice what errors of the fields alone do: of couplings, both ends would be moved."""
    reads = reads_of(error, 4)
    x = reads.fields
    left = 1 - np.tanh(x) ** 2
    expected = 2 * error**2 * (x**2 * left**2).sum() / (x**2 * left).sum()
    assert score_variance([reads], 1.0) == pytest.approx(expected, rel=0.15, abs=5e-4)


def test_programmings_of_other_temperatures_are_seen() -> None:
    """Whole programmings hotter or colder by 5 %, which no spin shows: of c kT² a read that is a v of 0.05² c.

    60 of them tell it to 2 sqrt(2/59).
    """
    reads = reads_of(0.0, 4, jitter=0.05)
    x = reads.fields
    expected = 0.05**2 * (x**2 * (1 - np.tanh(x) ** 2)).sum()
    assert score_variance([reads], 1.0) == pytest.approx(expected, rel=0.4)


def test_few_reads_of_a_programming_tell_nothing() -> None:
    reads = reads_of(0.3, 0, gauges=1)
    assert score_variance([replace(reads, gauges=READS)], 1.0) is None
    assert score_variance([reads], 1.0) is not None
