"""Answers in the solver API's ``qp`` format."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.emulator.chip import Chip
from qshower.sampler.emulator.problem import Problem, local_ends


def energies(problem: Problem, chip: Chip, spins: NDArray[np.int8]) -> NDArray[np.float64]:
    """(reads,) energies of the submitted problem, without its offset."""
    ends = local_ends(chip, problem.active, problem.couplers)
    values = np.empty(spins.shape[0], dtype=np.float64)
    for start in range(0, spins.shape[0], 256):
        block = spins[start : start + 256]
        if problem.kind == "qubo":
            block = (block + 1) // 2
        products = block[:, ends[:, 0]] * block[:, ends[:, 1]]
        values[start : start + 256] = block @ problem.linear + products @ problem.quadratic
    return values


def encode_answer(problem: Problem, chip: Chip, spins: NDArray[np.int8], timing_us: dict[str, float]) -> dict[str, Any]:
    """The answer for reads ``spins`` (reads, active) of −1 and +1: raw, or as a histogram by energy."""
    counts = np.ones(spins.shape[0], dtype=np.int64)
    values = energies(problem, chip, spins)
    if problem.parameters.histogram:
        packed = np.packbits(spins > 0, axis=1)
        _, first, counts = np.unique(packed, axis=0, return_index=True, return_counts=True)
        order = np.argsort(values[first], kind="stable")
        spins, values, counts = spins[first[order]], values[first[order]], counts[order]
    most = problem.parameters.max_answers
    spins, values, counts = spins[:most], values[:most], counts[:most]
    answer = {
        "format": "qp",
        "num_variables": chip.nominal_qubits,
        "active_variables": _base64(chip.qubits[problem.active].astype("<i4")),
        "energies": _base64(values.astype("<f8")),
        "solutions": _base64(np.packbits(spins > 0, axis=1)),
        "timing": timing_us,
    }
    if problem.parameters.histogram:
        answer["num_occurrences"] = _base64(counts.astype("<i4"))
    return answer


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
