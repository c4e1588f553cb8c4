"""Several copies of a machine side by side on one chip, each placed as well as its neighbours allow."""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import PlacementError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.placement import Placement, PlacementSearch, WorkingGraph, graph_mask

_NAMED: Final = 40
"""Missing qubits or couplers that an error's message names; its attributes have all of them."""


def placements_by_number(
    machine: BoltzmannMachine,
    graph: WorkingGraph,
    *,
    copies: int,
    place_condition: bool = False,
    max_missing_fraction: float = 0.1,
) -> tuple[tuple[Placement, ...], ...]:
    """The best placement of ``machine``, the best two disjoint ones found, three, … and ``copies``, each best first.

    Args:
        machine: its ``qubits`` are labels of the ideal graph ``machine.topology``.
        graph: today's chip, of the same family and any size.
        copies: how many disjoint placements to look for; it ends earlier if no more stay below the limit.
        place_condition: whether condition nodes need qubits too; not so when the condition is folded into h.
        max_missing_fraction: a placement is refused if more than this share of its nodes has no qubit, or if more than
            this share of the |J| between those that have one has no coupler.

    Raises:
        PlacementError: the families differ, the block is larger than the chip, or the best placement lacks more than
            the limit; the error names the missing qubits or couplers.
    """
    search = PlacementSearch(machine, graph, place_condition=place_condition)
    active = graph_mask(graph)
    best = search.best(active)
    _refuse_above(best, max_missing_fraction, graph)
    by_number: dict[int, tuple[Placement, ...]] = {1: (best,)}
    if copies > 1:
        for gap in (0, 1):
            for number, tiling in _tilings(search, active, copies, max_missing_fraction, gap).items():
                known = by_number.get(number)
                if number > 1 and (known is None or _worst(tiling) < _worst(known)):
                    by_number[number] = tiling
    return tuple(by_number[number] for number in sorted(by_number))


def _worst(placements: tuple[Placement, ...]) -> tuple[float, float]:
    """Highest cost, then the sum of all."""
    return max(placement.cost for placement in placements), sum(placement.cost for placement in placements)


def _refuse_above(best: Placement, limit: float, graph: WorkingGraph) -> None:
    """PlacementError if the best placement leaves too many nodes unplaced or lacks too many couplers."""
    if best.within(limit):
        return
    chip = f"{graph.family}:{graph.size} ({graph.graph_id})"
    qubits = tuple(best.missing_qubits.tolist())
    couplers = tuple((one, other) for one, other in best.missing_couplers.tolist())
    if best.unplaced_fraction > limit:
        message = (
            f"the model needs {np.count_nonzero(best.needed)} qubits and its best placement on {chip} lacks "
            f"{len(qubits)}, more than {limit:.0%}; missing qubits: {_listed([str(qubit) for qubit in qubits])}"
        )
    else:
        message = (
            f"the model's best placement on {chip} lacks {len(couplers)} couplers between working qubits, which would "
            f"carry {best.missing_share:.1%} of its |J|, more than {limit:.0%}; missing couplers: "
            f"{_listed([f'{one}-{other}' for one, other in couplers])}"
        )
    raise PlacementError(message, qubits=qubits, couplers=couplers)


def _listed(names: list[str]) -> str:
    """The first names, and how many there are beside them."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _tilings(
    search: PlacementSearch, active: NDArray[np.bool_], copies: int, limit: float, gap: int
) -> dict[int, tuple[Placement, ...]]:
    """Disjoint placements on a grid of corners, each the best of its corner's symmetries, by their number.

    ``gap`` 0 lets neighbouring copies want the same border line, which is then shared out between them.
    """
    wanted: list[NDArray[np.int64]] = []
    free = active.copy()
    corners, size = search.corners()
    columns, rows = (
        _stops(int(corners[:, axis].min()), int(corners[:, axis].max()), int(size[axis]) + gap) for axis in (0, 1)
    )
    for corner in product(columns, rows):
        labels = search.best_near(corner, free)
        wanted.append(labels)
        free[labels[free[labels]]] = False
    found: dict[int, tuple[Placement, ...]] = {}
    while wanted:
        if len(wanted) <= copies:
            placements = [
                search.placement(labels, mine)
                for labels, mine in zip(wanted, _shared_out(search.weight, wanted, active), strict=True)
            ]
            if all(placement.within(limit) for placement in placements):
                found[len(wanted)] = tuple(sorted(placements, key=lambda placement: placement.cost))
        wanted.pop(_most_contested(search.weight, wanted, active))
    return found


def _most_contested(weight: NDArray[np.float64], wanted: list[NDArray[np.int64]], active: NDArray[np.bool_]) -> int:
    """The copy that would be worst off if it got nothing that another wants."""
    sole = active & (_claims(wanted, active.size) < 2)
    return int(np.argmax([weight[~sole[labels]].sum() for labels in wanted]))


def _shared_out(
    weight: NDArray[np.float64], wanted: list[NDArray[np.int64]], active: NDArray[np.bool_]
) -> list[NDArray[np.bool_]]:
    """What is left of ``active`` for each copy: a qubit that several want goes to the one that is worst off."""
    contested = active & (_claims(wanted, active.size) > 1)
    left = [active & ~contested for _ in wanted]
    costs = [float(weight[~mine[labels]].sum()) for mine, labels in zip(left, wanted, strict=True)]
    claims: dict[int, list[tuple[float, int]]] = {}
    for copy, labels in enumerate(wanted):
        for node in np.flatnonzero(contested[labels]):
            claims.setdefault(int(labels[node]), []).append((float(weight[node]), copy))
    # The weightiest first, so that small ones are left to even things out.
    for qubit, those in sorted(claims.items(), key=lambda claim: -max(claim[1])[0]):
        lost, winner = max(those, key=lambda one: costs[one[1]])
        costs[winner] -= lost
        left[winner][qubit] = True
    return left


def _claims(wanted: list[NDArray[np.int64]], size: int) -> NDArray[np.int64]:
    """(size,) how many copies want each qubit; the last entry is that of the label −1."""
    claims = np.zeros(size, dtype=np.int64)
    for labels in wanted:
        claims[labels] += 1
    return claims


def _stops(low: int, high: int, pitch: int) -> list[int]:
    """As many places as fit between two corners at ``pitch``, spread evenly."""
    count = (high - low) // max(1, pitch) + 1
    return [round(place) for place in np.linspace(low, high, count)] if count > 1 else [low]
