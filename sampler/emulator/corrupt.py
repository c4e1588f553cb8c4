"""Replies made wrong on purpose."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np


def corrupt_answer(action: str, reply: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request for an answer, corrupted by a fault of stage ``answer``."""
    answer = reply.get("answer")
    if answer is None:
        return reply
    if action == "missing":
        return {name: value for name, value in reply.items() if name != "answer"}
    corrupted = dict(answer)
    energies = np.frombuffer(base64.b64decode(answer["energies"]), dtype="<f8")
    active = np.frombuffer(base64.b64decode(answer["active_variables"]), dtype="<i4")
    solutions = np.frombuffer(base64.b64decode(answer["solutions"]), dtype=np.uint8).reshape(energies.shape[0], -1)
    if action == "bad_base64":
        # One character more than whole groups of four: no base64 text has such a length.
        corrupted["solutions"] = answer["solutions"][: len(answer["solutions"]) - 3]
    elif action == "missing_field":
        del corrupted["solutions"]
    elif action == "no_timing":
        del corrupted["timing"]
    elif action == "energies_half":
        corrupted["energies"] = _base64(energies[: energies.shape[0] // 2])
    elif action == "energies_wrong":
        corrupted["energies"] = _base64(energies + 0.5)
    elif action == "reads_missing":
        kept = energies.shape[0] - max(1, energies.shape[0] // 10)
        corrupted["energies"], corrupted["solutions"] = _base64(energies[:kept]), _base64(solutions[:kept])
        if "num_occurrences" in answer:
            counts = np.frombuffer(base64.b64decode(answer["num_occurrences"]), dtype="<i4")
            corrupted["num_occurrences"] = _base64(counts[:kept])
    elif action == "wrong_variables":
        bits = np.unpackbits(solutions, axis=1)[:, : active.shape[0] - 1]
        corrupted["active_variables"], corrupted["solutions"] = _base64(active[:-1]), _base64(np.packbits(bits, axis=1))
    return {**reply, "answer": corrupted}


def _base64(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
