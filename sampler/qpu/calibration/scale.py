"""The effective inverse temperature of a solver for a machine: measured, kept on disk, watched."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.gibbs.chains import draw
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.calibration.estimators import Blocks, Scale, energy_scale, pseudolikelihood_scale
from qshower.sampler.qpu.drawing.part_reads import PartReads
from qshower.sampler.qpu.embedding.gauges import GAUGES_OF_A_SET
from qshower.sampler.qpu.planning.gauge_shares import gauge_of_reads, spread_reads
from qshower.sampler.qpu.quota import utc_now
from qshower.sampler.qpu.state_files import altered, known_fields, locked, read_json, write_json
from qshower.sampler.request import streams_of
from qshower.sampler.time_limit import TimeLimit

_CHAIN_SWEEPS = 256
_CHAINS = 600
_LEAST_FREEDOM = 10
"""Gauges, or sets of them, of fewer degrees of freedom, all copies together, do not show how much they differ."""
MOST_AMPLIFIED = 3.0
"""Control errors heat an amplified machine more than a draw. At three times its strength that stays below a percent
with control errors of 2 %; at eight times it does not (docs/qpu-measurements.md)."""
MOST_FIELD_KT = 1.0
UNKNOWN_FIELD_VARIANCE = 0.1
SPINS_WATCHED = 200_000
"""Spins of each part that a draw's apparent temperature is estimated from; more would only cost time."""
SPINS_MEASURED = 3_000_000
"""The same for a calibration: all reads, unless they would take much memory."""


@dataclass(frozen=True, slots=True)
class CalibrationKey:
    """What a calibration belongs to."""

    solver: str
    graph_id: str
    machine: str
    annealing_time_us: float

    def __str__(self) -> str:
        return f"{self.solver}|{self.graph_id}|{self.machine}|{self.annealing_time_us:g}"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A measured beta_eff, in 1/(programmed unit), with standard errors.

    Attributes:
        solver, graph_id, machine, annealing_time_us: what it belongs to; ``machine`` is a fingerprint.
        beta: the value in use.
        beta_error: its standard error.
        beta_pseudolikelihood: by maximum pseudolikelihood.
        beta_pseudolikelihood_error: its standard error.
        reads: reads behind it.
        calibrated_at: UTC, ISO 8601.
        method: how ``beta`` was found.
        beta_energies: by energy matching; None if ``beta`` is that.
        beta_energies_error: its standard error.
        gauges: programmings behind it, each with gauges of its own.
        amplification: what (h, J) was multiplied by in them, beside what a draw programs: the largest of the copies.
        field_variance: of the random fields that control errors act as, in kT²: how much the score of one programming
            differs from that of another, as ``score_variance`` has it. Calibrations that do not tell are taken to be of
            a noisy chip.
        after_drift: whether it was made because reads had drifted away from the one before.
    """

    solver: str
    graph_id: str
    machine: str
    annealing_time_us: float
    beta: float
    beta_error: float
    beta_pseudolikelihood: float
    beta_pseudolikelihood_error: float
    reads: int
    calibrated_at: str
    method: str = "energy matching"
    beta_energies: float | None = None
    beta_energies_error: float | None = None
    gauges: int = 1
    amplification: float = 1.0
    field_variance: float = UNKNOWN_FIELD_VARIANCE
    after_drift: bool = False

    @property
    def key(self) -> CalibrationKey:
        """What it belongs to."""
        return CalibrationKey(self.solver, self.graph_id, self.machine, self.annealing_time_us)

    def age_s(self, now: datetime) -> float:
        """Seconds since it was made."""
        return (now - datetime.fromisoformat(self.calibrated_at)).total_seconds()

    @property
    def methods_agree(self) -> bool:
        """Whether the two methods differ by less than 5 % or four standard errors."""
        by_energies = self.beta if self.beta_energies is None else self.beta_energies
        error_by_energies = self.beta_error if self.beta_energies_error is None else self.beta_energies_error
        difference = abs(by_energies - self.beta_pseudolikelihood)
        error = math.hypot(error_by_energies, self.beta_pseudolikelihood_error)
        return difference < max(0.05 * self.beta, 4 * error)


class CalibrationStore:
    """Calibrations in one JSON file, shared by all processes that name it."""

    def __init__(self, path: Path, clock: Callable[[], datetime] = utc_now) -> None:
        self._path, self._clock = path, clock

    def get(self, key: CalibrationKey) -> Calibration | None:
        """The latest calibration of ``key``, if there is one."""
        entry = read_json(self._path).get(str(key))
        return None if entry is None else self._parse(entry)

    def put(self, calibration: Calibration) -> None:
        """Keep ``calibration`` in place of an earlier one of the same key."""
        with locked(self._path):
            write_json(self._path, read_json(self._path) | {str(calibration.key): asdict(calibration)})

    def all(self) -> tuple[Calibration, ...]:
        """Every calibration kept."""
        return tuple(self._parse(entry) for entry in read_json(self._path).values())

    def now(self) -> datetime:
        """The time now, in UTC."""
        return self._clock()

    def _parse(self, entry: Any) -> Calibration:
        try:
            calibration = Calibration(**known_fields(Calibration, entry))
            numbers = (calibration.beta, calibration.beta_pseudolikelihood)
            sound = all(math.isfinite(number) and number > 0 for number in numbers)
            calibration.age_s(self._clock())
        except (TypeError, ValueError, AttributeError):
            raise altered(self._path, "a calibration lacks a field") from None
        if not sound:
            raise altered(self._path, "a calibration has no beta above 0")
        return calibration


def apparent_scale(parts: Sequence[PartReads], spins_used: int = SPINS_WATCHED) -> Scale:
    """Pseudolikelihood estimate of r from the reads of some parts: 1 where the assumed beta_eff is right.

    At most ``spins_used`` spins of each part are looked at.
    """
    pulls, blocks = [], []
    for reads in parts:
        count = reads.spins.shape[0]
        picked = spread_reads(count, reads.gauges, max(1, spins_used // reads.spins.shape[1]))
        blocks.append(
            np.unique(_blocks(count, reads.gauges, len(parts))[picked], return_inverse=True)[1].astype(np.int64)
        )
        pulls.append(pulls_of(reads, picked))
    return pseudolikelihood_scale(_padded(pulls), Blocks.of(blocks))


def pulls_of(reads: PartReads, picked: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """(reads, n) −2 s_i f_i of a part's reads, or of those ``picked``, in kT at the assumed beta_eff.

    0 for spins that the condition holds.
    """
    layout = reads.embedding.layout
    spins = reads.spins if picked is None else reads.spins[picked]
    pulls: NDArray[np.float64] = -2.0 * reads.factor * spins * layout.local_fields(reads.fields, spins)
    pulls[:, layout.machine.partitions[layout.nodes] == 0] = 0.0
    return pulls


def matched_scale(
    parts: Sequence[PartReads],
    start: float,
    seed: int,
    limit: TimeLimit,
) -> Scale:
    """Energy matching of some parts, all with the same number of reads and of gauges, against Gibbs chains."""
    machines = [programmed_machine(reads) for reads in parts]
    energies = np.stack([_energies(reads) for reads in parts])
    call = 0

    def chains(r: float) -> NDArray[np.float64]:
        nonlocal call
        drawn = []
        for reads, machine in zip(parts, machines, strict=True):
            # Streams of their own for each copy: with the same ones, chains of like machines go the same way.
            streams = streams_of(seed, _CHAINS, call * _CHAINS)
            call += 1
            conditions = np.ones((_CHAINS, machine.condition_nodes.size), dtype=np.int8)
            states = draw(machine, conditions, streams, _CHAIN_SWEEPS, beta=r, limit=limit)
            drawn.append(_energies(reads, states[:, reads.embedding.layout.nodes]))
        return np.stack(drawn)

    # Two Newton steps: the start is the estimate by pseudolikelihood, a percent or so away.
    blocks = Blocks.of([_blocks(energies.shape[1], parts[0].gauges, len(parts))] * len(parts))
    return energy_scale(energies, chains, start, blocks, rounds=2)


def amplifications(parts: Sequence[PartReads], energy_spread_kt: float) -> tuple[float, ...]:
    """How much stronger to program each part in a measurement, so that its energies spread by ``energy_spread_kt``.

    The spread of the energy, in kT, is what a read tells of the temperature: a weak machine tells little, and control
    errors, which have a size of their own, hide even that. Never below 1, nor above ``MOST_AMPLIFIED``: a solver's
    beta_eff is that of the energies it is programmed with, so not too far from a draw's. Nor so strong that the field
    of a spin's couplings, by root mean square, would exceed ``MOST_FIELD_KT``: neither annealer nor chains forget
    their start in a machine of strong couplings, however small it is.
    """
    found = []
    for reads in parts:
        spread = float(_energies(reads).std())
        field = float(np.sqrt(2.0 * np.square(reads.factor * reads.embedding.layout.j).sum() / reads.spins.shape[1]))
        most = min(MOST_AMPLIFIED, MOST_FIELD_KT / max(field, 1e-6))
        found.append(max(1.0, min(energy_spread_kt / max(spread, 1e-6), most)))
    return tuple(found)


def programmed_machine(reads: PartReads) -> BoltzmannMachine:
    """The machine that was really programmed: unplaced nodes and missing couplers left out, the condition folded in."""
    layout = reads.embedding.layout
    h = np.zeros(layout.machine.node_count)
    h[layout.nodes] = reads.fields * reads.factor
    j = np.zeros(layout.machine.j.shape[0])
    j[layout.couplings] = layout.j * reads.factor
    return layout.machine.with_parameters(h.astype(np.float32), j.astype(np.float32))


def _blocks(reads: int, gauges: int, copies: int) -> NDArray[np.int64]:
    """(reads,) the block of each read of a part: its set of gauges, or its gauge if sets are few, or just itself.

    What one gauge of a set is off by is partly made up for by the others: only whole sets differ by chance.
    """
    programming = gauge_of_reads(reads, gauges)
    for block in (programming // GAUGES_OF_A_SET, programming):
        if copies * int(block.max(initial=0)) >= _LEAST_FREEDOM:
            return block
    return np.arange(reads)


def _energies(reads: PartReads, spins: NDArray[np.int8] | None = None) -> NDArray[np.float64]:
    """(reads,) programmed energies in kT at the assumed beta_eff."""
    states = reads.spins if spins is None else spins
    layout = reads.embedding.layout
    products = states[:, layout.ends[:, 0]] * states[:, layout.ends[:, 1]]
    energies: NDArray[np.float64] = reads.factor * (states @ reads.fields + products @ layout.j)
    return energies


def _padded(pieces: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The pieces below each other, filled up with zeros, which add nothing to a pseudolikelihood's slope."""
    width = max(piece.shape[1] for piece in pieces)
    return np.concatenate([np.pad(piece, ((0, 0), (0, width - piece.shape[1]))) for piece in pieces])
