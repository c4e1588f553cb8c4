"""From a plan and a temperature to the problems that a solver runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError
from qshower.sampler.qpu.embedding.embedding import Embedding
from qshower.sampler.qpu.embedding.gauges import draw_gauges
from qshower.sampler.qpu.embedding.layout import mean_field
from qshower.sampler.qpu.embedding.ranges import checked_factor, widest_beta
from qshower.sampler.qpu.ocean.problems import Problem
from qshower.sampler.qpu.planning.gauge_shares import shares
from qshower.sampler.qpu.planning.packing import Programming
from qshower.sampler.qpu.planning.planner import Plan
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.shims.couplers import permitted
from qshower.sampler.qpu.shims.flux_bias import Shim

Fields = dict[tuple[int, int], NDArray[np.float64]]
"""(copy, condition) → (n,) programmed fields in kT."""


@dataclass(frozen=True, slots=True, eq=False)
class BuiltProblem:
    """One problem, and what its answer means.

    Attributes:
        programming: what it is of.
        problem: what is submitted.
        gauge: (n,) int8, the gauge of its spins.
        factors: what (h, J)/beta of each part was multiplied by.
    """

    programming: Programming
    problem: Problem
    gauge: NDArray[np.int8]
    factors: tuple[float, ...]


class ProblemBuilder:
    """Builds the problems of a plan.

    Attributes:
        fields: the programmed fields of every part.
        notes: what a user should know of the problems built so far.
    """

    def __init__(self, plan: Plan, settings: QpuSettings, shim: Shim | None = None) -> None:
        """``shim`` is what makes up for the offsets that the chip's qubits, and perhaps its couplers, have."""
        self._plan, self._settings = plan, settings
        self._shim_phi0 = None if shim is None else shim.nominal(plan.info)
        self._couplers = None if shim is None else shim.couplers
        self.fields = _fields_of(plan)
        self.notes: list[str] = []
        gauges, count = plan.options.gauges, len(plan.programmings)
        short = sum(programming.gauges < gauges for programming in plan.programmings)
        if short:
            self._note(
                f"{short} of {count} programmings have fewer reads than the {gauges} gauges asked for need, and "
                "fewer gauges"
            )

    def problems(self, beta: float, strengths: Sequence[float], rng: np.random.Generator) -> list[BuiltProblem]:
        """The problems of every programming, one for each gauge.

        Args:
            beta: assumed beta_eff, in 1/(programmed unit).
            strengths: what (h, J) of each copy is multiplied by.
            rng: randomness of the gauges.

        Raises:
            ProblemRangeError: (h, J)/beta leaves the solver's ranges by more than may be rescaled.
            InvalidInputError: the solver takes no flux biases, and the condition is held by them.
        """
        built: list[BuiltProblem] = []
        for programming in self._plan.programmings:
            built += self._of(programming, beta, strengths, rng)
        return built

    def _note(self, text: str | None) -> None:
        if text is not None and text not in self.notes:
            self.notes.append(text)

    def _of(
        self, programming: Programming, beta: float, strengths: Sequence[float], rng: np.random.Generator
    ) -> list[BuiltProblem]:
        plan, options = self._plan, self._plan.options
        scaled = []
        for part in programming.parts:
            embedding, strength = plan.embeddings[part.copy], strengths[part.copy]
            h = strength * self.fields[part.copy, part.condition] / beta
            j = strength * embedding.layout.j / beta
            factor, note = checked_factor(embedding.limits, h, j, beta, self._settings)
            self._note(note)
            scaled.append((embedding, factor * strength, h * factor, j * factor))
        factors = tuple(factor for _, factor, _, _ in scaled)
        used = [embedding for embedding, *_ in scaled]
        qubits = np.concatenate([embedding.layout.qubits for embedding in used])
        h, j = np.concatenate([h for _, _, h, _ in scaled]), np.concatenate([j for *_, j in scaled])
        spin_cuts = np.cumsum([embedding.layout.qubits.size for embedding in used])
        j_cuts = np.cumsum([len(embedding.layout.ends) for embedding in used])[:-1]
        ends = np.concatenate(
            [
                embedding.layout.ends + cut - embedding.layout.qubits.size
                for embedding, cut in zip(used, spin_cuts, strict=True)
            ]
        )
        reads_of = shares(programming.reads, programming.gauges)
        signs = np.ones((1, h.size), dtype=np.int8)
        if options.gauges > 1:
            gauges = draw_gauges(used, ends, j, len(reads_of), rng)
            self._note(gauges.note)
            signs = gauges.signs
        built = []
        for reads, gauge in zip(reads_of, signs, strict=True):
            turned = np.split(j * gauge[ends].prod(axis=1), j_cuts)
            problem = Problem(
                qubits=qubits,
                h=h * gauge,
                ends=ends,
                j=np.concatenate([self._shimmed(one, some) for one, some in zip(used, turned, strict=True)]),
                reads=reads,
                annealing_time_us=options.annealing_time_us,
                flux_biases=self._flux_biases(programming, np.split(gauge, spin_cuts[:-1])),
            )
            built.append(BuiltProblem(programming, problem, gauge, factors))
        return built

    def _shimmed(self, embedding: Embedding, j: NDArray[np.float64]) -> NDArray[np.float64]:
        """``j`` (m,), gauge applied, with what the embedding's couplers are off by taken off."""
        if self._couplers is None:
            return j
        layout = embedding.layout
        offsets = self._couplers.of_pairs(self._plan.info, layout.qubits[layout.ends])
        return permitted(embedding.limits, j, -offsets)

    def _flux_biases(self, programming: Programming, gauges: list[NDArray[np.int8]]) -> NDArray[np.float64] | None:
        """(nominal qubits,) flux biases: the shim's, and those that push placed condition qubits to the condition."""
        plan, info = self._plan, self._plan.info
        if plan.options.condition_mode != "flux_bias":
            return self._shim_phi0
        if not info.takes_flux_biases:
            raise InvalidInputError("options.condition_mode", "flux_bias", f"fold: {info.name} has none")
        biases = np.zeros(info.num_qubits)
        for part, gauge in zip(programming.parts, gauges, strict=True):
            layout = plan.embeddings[part.copy].layout
            column = np.full(plan.machine.node_count, -1, dtype=np.int64)
            column[plan.machine.condition_nodes] = np.arange(plan.machine.condition_nodes.size)
            held = np.flatnonzero(column[layout.nodes] >= 0)
            wanted = plan.conditions[part.condition][column[layout.nodes[held]]]
            # A flux bias of +Φ pushes to s = +1, as a field h below 0 does.
            biases[layout.qubits[held]] = self._settings.flux_bias_phi0 * wanted * gauge[held]
        return biases if self._shim_phi0 is None else biases + self._shim_phi0


def least_beta(embeddings: Sequence[Embedding], conditions: NDArray[np.int8]) -> float:
    """Smallest beta_eff at which every condition fits the ranges of every embedding, with a little room."""
    least = 0.0
    for embedding in embeddings:
        fields = embedding.layout.fields(conditions)
        h = np.where(np.abs(fields).max(axis=0) == fields.max(axis=0), fields.max(axis=0), fields.min(axis=0))
        least = max(least, 1.01 * widest_beta(embedding.limits, h, embedding.layout.j))
    return least


def _fields_of(plan: Plan) -> Fields:
    fields: Fields = {}
    means: NDArray[np.float64] | None = None
    if any(embedding.layout.needs_mean_field for embedding in plan.embeddings):
        means = mean_field(plan.machine, plan.conditions)
    for copy, embedding in enumerate(plan.embeddings):
        parts = [part for programming in plan.programmings for part in programming.parts if part.copy == copy]
        wanted = sorted({part.condition for part in parts})
        if wanted:
            rows = embedding.layout.fields(plan.conditions[wanted], None if means is None else means[wanted])
            fields.update({(copy, condition): row for condition, row in zip(wanted, rows, strict=True)})
    return fields
