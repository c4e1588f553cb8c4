"""One draw on a solver: problems built from programmings, run, and turned back to spins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError, SamplerError
from qshower.sampler.provenance import ConditionMode
from qshower.sampler.qpu.embedding.embedding import Embedding
from qshower.sampler.qpu.embedding.gauges import draw_gauges
from qshower.sampler.qpu.embedding.layout import mean_field
from qshower.sampler.qpu.embedding.ranges import checked_factor, widest_beta
from qshower.sampler.qpu.ocean.problems import Answer, Problem
from qshower.sampler.qpu.ocean.runner import Runner, Usage
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.planning.packing import Part, Programming
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.shims.couplers import permitted
from qshower.sampler.qpu.shims.flux_bias import Shim


@dataclass(frozen=True, slots=True)
class DrawOptions:
    """How to draw: what a request asked for, or the defaults.

    Attributes:
        annealing_time_us: anneal time of each read.
        gauges: spin-reversal gauges each programming is repeated in.
        condition_mode: how the condition is held.
        cap_us: most QPU access time of this draw, None for no cap.
    """

    annealing_time_us: float
    gauges: int = 1
    condition_mode: ConditionMode = "fold"
    cap_us: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PartReads:
    """What came back for one part.

    Attributes:
        part: the part.
        site: where it was drawn.
        fields: (n,) programmed fields, in kT at the assumed beta_eff and before any rescaling.
        factor: what (h, J)/beta was multiplied by: the strength asked for, and less than that to fit the ranges.
        spins: (reads, n) int8, gauges undone.
    """

    part: Part
    site: Embedding
    fields: NDArray[np.float64]
    factor: float
    spins: NDArray[np.int8]


@dataclass(slots=True, eq=False)
class _Planned:
    """A problem, which parts it holds, and the gauge of its spins."""

    programming: Programming
    problem: Problem
    gauge: NDArray[np.int8]
    factors: tuple[float, ...]


class Drawer:
    """Draws on one solver through one borrowed connection."""

    def __init__(self, runner: Runner, settings: QpuSettings, shim: Shim | None = None) -> None:
        """``shim`` is what makes up for the offsets that the chip's qubits, and perhaps its couplers, have."""
        self._runner, self._info, self._settings = runner, runner.info, settings
        self._shim_phi0 = None if shim is None else shim.nominal(runner.info)
        self._couplers = None if shim is None else shim.couplers

    def draw(
        self,
        programmings: Sequence[Programming],
        sites: Sequence[Embedding],
        conditions: NDArray[np.int8],
        beta: float,
        options: DrawOptions,
        deadline: float,
        rng: np.random.Generator,
        bill: Usage,
        strengths: Sequence[float] | None = None,
        answered: list[PartReads] | None = None,
    ) -> list[PartReads]:
        """The reads of every part, in the order of ``programmings`` and their parts.

        Args:
            programmings: what to program.
            sites: the copy each part's ``copy`` names.
            conditions: (conditions, condition nodes) int8, what each part's ``condition`` names.
            beta: assumed beta_eff, in 1/(programmed unit).
            options: how to draw.
            deadline: instant of ``time.monotonic`` by which all must be back.
            rng: randomness of the gauges.
            bill: what is used is added to it.
            strengths: what (h, J) of each of ``sites`` is multiplied by; None for 1, as every draw has it.
            answered: if a problem fails, the reads of the programmings that were answered are added to this.

        Raises:
            BudgetExceededError: before anything is submitted.
            ProblemRangeError: before anything is submitted.
            SamplerError: a problem failed; the others were cancelled.
        """
        short = sum(programming.reads < options.gauges for programming in programmings)
        if short:
            bill.note(
                f"{short} of {len(programmings)} programmings have fewer reads than the {options.gauges} gauges asked "
                "for, and no more gauges than reads"
            )
        fields = self._fields(programmings, sites, conditions)
        strengths = [1.0] * len(sites) if strengths is None else strengths
        planned = [
            one
            for programming in programmings
            for one in self._plan(programming, sites, fields, conditions, beta, options, rng, bill, strengths)
        ]
        answers: dict[int, Answer] = {}
        try:
            self._runner.run([one.problem for one in planned], options.cap_us, deadline, bill, answers)
        except SamplerError:
            if answered is not None:
                lacking = {id(one.programming) for number, one in enumerate(planned) if number not in answers}
                whole = [programming for programming in programmings if id(programming) not in lacking]
                answered += self._unpack(whole, planned, answers, sites, fields)
            raise
        return self._unpack(programmings, planned, answers, sites, fields)

    def least_beta(self, sites: Sequence[Embedding], conditions: NDArray[np.int8]) -> float:
        """Smallest beta_eff at which every condition fits the solver's ranges on every site, with a little room."""
        least = 0.0
        for site in sites:
            fields = site.layout.fields(conditions)
            h = np.where(np.abs(fields).max(axis=0) == fields.max(axis=0), fields.max(axis=0), fields.min(axis=0))
            least = max(least, 1.01 * widest_beta(self._info, site.limits, h, site.layout.j))
        return least

    def _fields(
        self, programmings: Sequence[Programming], sites: Sequence[Embedding], conditions: NDArray[np.int8]
    ) -> dict[tuple[int, int], NDArray[np.float64]]:
        """(copy, condition) → (n,) fields in kT."""
        fields: dict[tuple[int, int], NDArray[np.float64]] = {}
        means: NDArray[np.float64] | None = None
        if any(site.layout.needs_mean_field for site in sites):
            means = mean_field(sites[0].layout.machine, conditions)
        for copy, site in enumerate(sites):
            parts = [part for programming in programmings for part in programming.parts if part.copy == copy]
            wanted = sorted({part.condition for part in parts})
            if wanted:
                rows = site.layout.fields(conditions[wanted], None if means is None else means[wanted])
                fields.update({(copy, condition): row for condition, row in zip(wanted, rows, strict=True)})
        return fields

    def _plan(
        self,
        programming: Programming,
        sites: Sequence[Embedding],
        fields: dict[tuple[int, int], NDArray[np.float64]],
        conditions: NDArray[np.int8],
        beta: float,
        options: DrawOptions,
        rng: np.random.Generator,
        bill: Usage,
        strengths: Sequence[float],
    ) -> list[_Planned]:
        settings, info = self._settings, self._info
        scaled = []
        for part in programming.parts:
            site = sites[part.copy]
            strength = strengths[part.copy]
            h, j = strength * fields[part.copy, part.condition] / beta, strength * site.layout.j / beta
            factor, note = checked_factor(info, site.limits, h, j, beta, settings.range_policy, settings.min_rescale)
            bill.note(note)
            scaled.append((site, factor * strength, h * factor, j * factor))
        factors = tuple(factor for _, factor, _, _ in scaled)
        used = [site for site, *_ in scaled]
        qubits = np.concatenate([site.layout.qubits for site in used])
        h, j = np.concatenate([h for _, _, h, _ in scaled]), np.concatenate([j for *_, j in scaled])
        spin_cuts = np.cumsum([site.layout.qubits.size for site in used])
        j_cuts = np.cumsum([len(site.layout.ends) for site in used])[:-1]
        ends = np.concatenate(
            [site.layout.ends + cut - site.layout.qubits.size for site, cut in zip(used, spin_cuts, strict=True)]
        )
        shares = _split(programming.reads, options.gauges)
        signs = np.ones((1, h.size), dtype=np.int8)
        if options.gauges > 1:
            gauges = draw_gauges(info, used, ends, j, len(shares), rng)
            bill.note(gauges.note)
            signs = gauges.signs
        planned = []
        for reads, gauge in zip(shares, signs, strict=True):
            turned = np.split(j * gauge[ends].prod(axis=1), j_cuts)
            flux = self._shim_phi0
            if options.condition_mode == "flux_bias":
                flux = self._flux_biases(programming, sites, conditions, np.split(gauge, spin_cuts[:-1]))
                flux += 0.0 if self._shim_phi0 is None else self._shim_phi0
            problem = Problem(
                qubits=qubits,
                h=h * gauge,
                ends=ends,
                j=np.concatenate([self._shimmed(site, some) for site, some in zip(used, turned, strict=True)]),
                reads=reads,
                annealing_time_us=options.annealing_time_us,
                flux_biases=flux,
            )
            planned.append(_Planned(programming, problem, gauge, factors))
        return planned

    def _shimmed(self, site: Embedding, j: NDArray[np.float64]) -> NDArray[np.float64]:
        """``j`` (m,), gauge applied, with what the site's couplers are off by taken off."""
        if self._couplers is None:
            return j
        layout = site.layout
        offsets = self._couplers.of_pairs(self._info, layout.qubits[layout.ends])
        return permitted(self._info, site.limits, j, -offsets)

    def _flux_biases(
        self,
        programming: Programming,
        sites: Sequence[Embedding],
        conditions: NDArray[np.int8],
        gauges: list[NDArray[np.int8]],
    ) -> NDArray[np.float64]:
        """(nominal qubits,) flux biases that push each placed condition qubit to its condition."""
        if not self._info.takes_flux_biases:
            raise InvalidInputError("options.condition_mode", "flux_bias", f"fold: {self._info.name} has none")
        biases = np.zeros(self._info.num_qubits)
        for part, gauge in zip(programming.parts, gauges, strict=True):
            layout = sites[part.copy].layout
            column = np.full(layout.machine.node_count, -1, dtype=np.int64)
            column[layout.machine.condition_nodes] = np.arange(layout.machine.condition_nodes.size)
            held = np.flatnonzero(column[layout.nodes] >= 0)
            wanted = conditions[part.condition][column[layout.nodes[held]]]
            # A flux bias of +Φ pushes to s = +1, as a field h below 0 does.
            biases[layout.qubits[held]] = self._settings.flux_bias_phi0 * wanted * gauge[held]
        return biases

    def _unpack(
        self,
        programmings: Sequence[Programming],
        planned: list[_Planned],
        answers: Mapping[int, Answer],
        sites: Sequence[Embedding],
        fields: dict[tuple[int, int], NDArray[np.float64]],
    ) -> list[PartReads]:
        reads: list[PartReads] = []
        for programming in programmings:
            mine = [number for number, one in enumerate(planned) if one.programming is programming]
            came_from = programming_of_reads(programming.reads, len(mine))
            spins = np.empty((programming.reads, planned[mine[0]].gauge.size), dtype=np.int8)
            for turn, number in enumerate(mine):
                spins[came_from == turn] = answers[number].spins * planned[number].gauge
            at = 0
            for part, factor in zip(programming.parts, planned[mine[0]].factors, strict=True):
                site = sites[part.copy]
                width = site.layout.nodes.size
                piece = np.ascontiguousarray(spins[:, at : at + width])
                reads.append(PartReads(part, site, fields[part.copy, part.condition], factor, piece))
                at += width
        return reads


def _split(reads: int, gauges: int) -> list[int]:
    """``reads`` shared out over at most ``gauges`` programmings, as evenly as whole reads allow."""
    turns = min(gauges, reads)
    return [reads // turns + (turn < reads % turns) for turn in range(turns)]


def programming_of_reads(reads: int, gauges: int) -> NDArray[np.int64]:
    """(reads,) which of a part's ``gauges`` programmings each of its reads came from: each in its turn.

    So any reads in a row, and a part of fewer rows takes the first ones, are shared out evenly over all of them.
    """
    return np.arange(reads) % max(1, min(gauges, reads))


def spread_reads(reads: int, gauges: int, most: int) -> NDArray[np.int64]:
    """Up to ``most`` of a part's ``reads``, spread over all of them, as many of each programming as of any other."""
    turns = max(1, min(gauges, reads))
    if most >= reads:
        return np.arange(reads)
    rounds = np.linspace(0, reads // turns - 1, max(1, most // turns)).round().astype(np.int64)
    return (rounds[:, None] * turns + np.arange(turns)).ravel()[:most]


def programming_cost_us(info: SolverInfo, qubits: int, reads: int, options: DrawOptions) -> float:
    """QPU access time of one programming, all its gauges together."""
    # There are one or two different shares, however many gauges.
    shares = Counter(_split(reads, options.gauges))
    return sum(times * info.access_time_us(qubits, some, options.annealing_time_us) for some, times in shares.items())


def qubits_of(programming: Programming, sites: Sequence[Embedding]) -> int:
    """Active qubits of a programming."""
    return sum(sites[part.copy].layout.qubits.size for part in programming.parts)
