"""Random fields found in reads with planted errors, and what they do to an apparent scale."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from qshower.sampler.lattice import compact_lattice
from qshower.sampler.placement import Placement
from qshower.sampler.qpu.calibration.estimators import Estimate
from qshower.sampler.qpu.calibration.random_fields import (
    RandomFields,
    attenuation,
    correction,
    field_variance,
    random_fields,
)
from qshower.sampler.qpu.drawing.part_reads import PartReads
from qshower.sampler.qpu.embedding.embedding import Embedding
from qshower.sampler.qpu.embedding.layout import Layout
from qshower.sampler.qpu.embedding.ranges import CouplingLimits
from qshower.sampler.qpu.planning.gauge_shares import gauge_of_reads
from qshower.sampler.qpu.planning.packing import Part

GAUGES, READS = 60, 40
STRENGTH = 4.0


def reads_of(error_h: float, error_j: float, seed: int, jitter: float = 0.0) -> PartReads:
    """Reads of independent spins in fields of up to some kT, errors and temperature those of each programming."""
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
    rows, columns = np.concatenate([layout.ends, layout.ends[:, ::-1]]).T
    adjacency = csr_array((np.ones(rows.size), (rows, columns)), shape=(felt.size, felt.size))
    spread = np.sqrt(RandomFields(error_h**2, error_j**2).variances(felt, adjacency))
    noise = spread * rng.standard_normal((GAUGES, felt.size))
    count = GAUGES * READS
    shaken = (felt + noise) * rng.normal(1.0, jitter, (GAUGES, 1))
    up = rng.random((count, felt.size)) < 1 / (1 + np.exp(2 * shaken[gauge_of_reads(count, GAUGES)]))
    spins = np.where(up, 1, -1).astype(np.int8)
    part = Part(0, 0, np.arange(count))
    return PartReads(
        part,
        Embedding(
            layout,
            CouplingLimits(None, nothing, nothing, 0),  # type: ignore[arg-type]
        ),
        felt,
        1.0,
        spins,
    )


def couplers_of(reads: PartReads) -> NDArray[np.int64]:
    """The pairs of qubits that are coupled."""
    return reads.embedding.layout.qubits[reads.embedding.layout.ends]


def score_variance(reads: PartReads) -> float:
    """v of reads at strength 1."""
    return field_variance([reads], couplers_of(reads), 1.0, [1.0], GAUGES)


@pytest.mark.parametrize(("error_h", "error_j"), [(0.3, 0.0), (0.15, 0.25)])
def test_planted_random_fields_are_found(error_h: float, error_j: float) -> None:
    reads = reads_of(error_h, error_j, 1)
    found = random_fields([reads], couplers_of(reads), 1.0, GAUGES)
    # 54 000 squared deviations tell a variance to below a percent, and how it is shared out to a few.
    assert found.alone == pytest.approx(error_h**2, rel=0.15, abs=0.002)
    assert found.each == pytest.approx(error_j**2, rel=0.15, abs=0.002)


def test_without_errors_nothing_is_corrected() -> None:
    reads = reads_of(0.0, 0.0, 2)
    assert correction([reads], couplers_of(reads), 1.0, [STRENGTH], GAUGES).value == pytest.approx(1.0, abs=2e-3)
    noisy = reads_of(0.3, 0.3, 2)
    assert correction([noisy], couplers_of(noisy), 1.0, [1.0], GAUGES) == Estimate(1.0, 0.0)
    assert correction([noisy], couplers_of(noisy), 1.0, [STRENGTH], GAUGES).value > 1.005


def test_a_correction_is_as_uncertain_as_it_says() -> None:
    some = [reads_of(0.15, 0.2, seed) for seed in range(12)]
    found = [correction([reads], couplers_of(reads), 1.0, [STRENGTH], GAUGES) for reads in some]
    scatter = np.std([one.value for one in found], ddof=1)
    # Twelve values tell their scatter to 21 %; each of the errors is good to a few percent.
    assert np.mean([one.error for one in found]) / scatter == pytest.approx(1.0, abs=0.6)


def test_what_random_fields_do_to_the_score_of_a_programming_is_found() -> None:
    for error in (0.05, 0.3):
        reads = reads_of(error, 0.0, 4)
        x = reads.fields
        left = 1 - np.tanh(x) ** 2
        expected = error**2 * (x**2 * left**2).sum() / (x**2 * left).sum()
        assert score_variance(reads) == pytest.approx(expected, rel=0.15)
    # Whole programmings hotter or colder by 5 %: nothing that strays from spin to spin, seen in the scores alone.
    # Their 60 curvatures of c kT² a read, scaled by 0.05, are a v of 0.05² c, to 2 sqrt(2/59).
    expected = 0.05**2 * (x**2 * left).sum()
    assert score_variance(reads_of(0.0, 0.0, 4)) < 0.02 * expected
    assert score_variance(reads_of(0.0, 0.0, 4, 0.05)) == pytest.approx(expected, rel=0.4)


def test_attenuation_is_the_scale_that_noisy_means_look_like() -> None:
    rng = np.random.default_rng(3)
    fields, variances = rng.normal(0, 0.8, 500), rng.uniform(0, 0.2, 500)
    r = attenuation(fields, variances)
    noisy = np.tanh(fields + np.sqrt(variances) * rng.standard_normal((20_000, 500))).mean(axis=0)
    # 20 000 draws of each mean: 500 errors of 0.003, which add up to below 0.1 in a sum of 100 or so.
    assert fields @ noisy == pytest.approx(fields @ np.tanh(r * fields), abs=0.5)
    assert r < 0.98
    assert attenuation(fields, np.zeros(500)) == pytest.approx(1.0)
