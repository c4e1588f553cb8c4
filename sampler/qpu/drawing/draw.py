"""One draw on a solver: a plan's problems built, run, and turned back to spins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qshower.sampler.qpu.drawing.part_reads import PartReads, PlanReads
from qshower.sampler.qpu.drawing.problem_builder import BuiltProblem, Fields, ProblemBuilder
from qshower.sampler.qpu.ocean.problems import Answer
from qshower.sampler.qpu.planning.gauge_shares import gauge_of_reads
from qshower.sampler.qpu.planning.planner import Plan
from qshower.sampler.qpu.session import QpuSession
from qshower.sampler.qpu.shims.flux_bias import Shim


def draw(
    session: QpuSession, plan: Plan, beta: float, shim: Shim | None = None, *, strengths: Sequence[float] | None = None
) -> PlanReads:
    """The reads of every part of ``plan``.

    Args:
        session: on what, and at whose expense.
        plan: what to program.
        beta: assumed beta_eff, in 1/(programmed unit).
        shim: what makes up for the offsets that the chip's qubits, and perhaps its couplers, have.
        strengths: what (h, J) of each copy is multiplied by; None for 1, as every draw has it.

    Returns:
        The reads; those that there are, and the failure, if a problem failed and the others were cancelled, or if what
        is left of cap or quota is not enough and nothing was submitted.

    Raises:
        ProblemRangeError: (h, J)/beta leaves the solver's ranges; nothing was submitted.
    """
    builder = ProblemBuilder(plan, session.settings, shim)
    built = builder.problems(beta, [1.0] * len(plan.embeddings) if strengths is None else strengths, session.rng)
    given = session.answers([one.problem for one in built])
    parts = _unpacked(plan, built, given.by_number, builder.fields)
    return PlanReads(tuple(parts), (*shim_notes(shim), *builder.notes), given.failure)


def shim_notes(shim: Shim | None) -> tuple[str, ...]:
    """What a user should know of the shim that a draw was made with."""
    if shim is None:
        return ()
    notes = (f"flux-bias shim of {shim.measured_at}",)
    return notes if shim.couplers is None else (*notes, f"coupler shim of {shim.couplers.measured_at}")


def _unpacked(
    plan: Plan, built: Sequence[BuiltProblem], answers: Mapping[int, Answer], fields: Fields
) -> list[PartReads]:
    """The reads of the programmings all of whose problems were answered."""
    reads: list[PartReads] = []
    for programming in plan.programmings:
        mine = [number for number, one in enumerate(built) if one.programming is programming]
        if not all(number in answers for number in mine):
            continue
        came_from = gauge_of_reads(programming.reads, len(mine))
        spins = np.empty((programming.reads, built[mine[0]].gauge.size), dtype=np.int8)
        for turn, number in enumerate(mine):
            spins[came_from == turn] = answers[number].spins * built[number].gauge
        at = 0
        for part, factor in zip(programming.parts, built[mine[0]].factors, strict=True):
            embedding = plan.embeddings[part.copy]
            width = embedding.layout.nodes.size
            piece = np.ascontiguousarray(spins[:, at : at + width])
            reads.append(PartReads(part, embedding, fields[part.copy, part.condition], factor, piece, len(mine)))
            at += width
    return reads
