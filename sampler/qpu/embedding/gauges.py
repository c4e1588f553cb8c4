"""Spin-reversal gauges: the same law, programmed with some spins' signs reversed.

With g ∈ {−1, +1}ⁿ: h' = g·h, J'_ij = g_i g_j J_ij, s = g·s'. A flip can turn an allowed J = −1.5 into +1.5, which is
not. Spins that such a J joins are *tied*: turned together or not at all. So are the ends of couplings whose turning
would bring the sum of J over a coupler group out of its range.

An error that belongs to the chip, δh or δJ, acts on the given spins as g_i δh_i and g_i g_j δJ_ij. Over random gauges
its mean falls like one over the root of their number. Over a set of four gauges that are one random gauge, turned by
the rows of ``_PATTERNS`` column by column, it is nought: in each column but 0, and in the product of any two, as many
signs are + as −. So in whole sets what δh does to first order cancels, and what δJ_ij does if i and j have different
columns. All spins of a colour class have one column, but where another choice lets fewer couplers, programmed or idle,
join spins of the same column: the classes of copies side by side are permuted, and single spins, or tied ones as one,
moved.

Not all is mended by that. The errors of couplers inside tied spins do not average at all; those of others whose ends
have one column do so over sets only, like one over the root of their number. These are some couplers of tied spins,
and on Zephyr about a tenth of the idle couplers between copies, for which three columns are too few (nothing is left
with seven, in sets of eight gauges). Of a last set that is not whole errors cancel in part.

Source of spin-reversal gauges: Boixo et al., Evidence for Quantum Annealing with More than One Hundred Qubits, Nature
Physics 10, 218 (2014), doi:10.1038/nphys2900, arXiv:1304.4595. Sets of four and their columns are this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from qshower.sampler.qpu.embedding.embedding import Embedding
from qshower.sampler.qpu.ocean.solver import SolverInfo

_PATTERNS = np.array([[1, 1, 1, 1], [1, -1, -1, 1], [1, 1, -1, -1], [1, -1, 1, -1]], dtype=np.int8)
"""Rows: gauges of a set; columns: what spins are given. Column 0 is the condition's: its h is held anyway."""
_PERMUTED = np.array([(0, *classes) for classes in permutations((1, 2, 3))])
_ROUNDS = 2
_WORTH_SAYING = 0.05
GAUGES_OF_A_SET = len(_PATTERNS)


@dataclass(frozen=True, slots=True, eq=False)
class Gauges:
    """Gauges of the spins of one programming.

    Attributes:
        signs: (gauges, spins) int8.
        left: share of the programmed couplings whose ends have one column: their errors do not cancel in a set.
    """

    signs: NDArray[np.int8]
    left: float

    @property
    def note(self) -> str | None:
        """What is to be said of them, if anything is."""
        if self.left < _WORTH_SAYING:
            return None
        return (
            f"gauges: errors of up to {self.left:.0%} of the couplings do not cancel: their J, or sums of J, leave no "
            "room for turning their spins apart"
        )


def draw_gauges(
    embeddings: Sequence[Embedding],
    ends: NDArray[np.int64],
    j: NDArray[np.float64],
    count: int,
    rng: np.random.Generator,
) -> Gauges:
    """``count`` gauges that keep ``j`` (m,), already within the ranges, within them, in sets of four.

    Args:
        embeddings: the copies programmed side by side; spins and couplings are theirs, one copy after the other.
        ends: (m, 2) int64, the spins each coupling joins, counted over all copies.
        j: (m,) float64, programmed couplings.
        count: how many.
        rng: where the flips come from.

    Returns:
        The signs of each gauge, and the share of the couplings whose errors stay in a set of four.
    """
    info = embeddings[0].limits.info
    low, high = info.j_range
    links = _links(info, np.concatenate([embedding.layout.qubits for embedding in embeddings]))
    signs: list[NDArray[np.int8]] = []
    together = (-j > high) | (-j < low)
    grown = True
    while len(signs) * GAUGES_OF_A_SET < count:
        if grown:
            tied = _tied(embeddings, ends[together])
            column = _columns(embeddings, tied, links)[tied]
        base = rng.choice(np.array([-1, 1], dtype=np.int8), size=int(tied.max(initial=-1)) + 1)
        turned: NDArray[np.int8] = base[tied] * _PATTERNS[:, column]
        # Each turn finds couplings that were turned, and were not tied therefore: some time it finds none.
        overturned = _overturned(info, embeddings, j, turned[:, ends[:, 0]] * turned[:, ends[:, 1]])
        grown = bool(overturned.any())
        if grown:
            together |= overturned
        else:
            signs.append(turned)
    left = float((column[ends[:, 0]] == column[ends[:, 1]]).mean()) if len(ends) else 0.0
    return Gauges(np.concatenate(signs)[:count], left)


def _links(info: SolverInfo, qubits: NDArray[np.int64]) -> NDArray[np.int64]:
    """(links, 2) spins on ``qubits`` (spins,) that a coupler joins, whether it is programmed or idle."""
    spin = np.full(info.graph.label_count, -1, dtype=np.int64)
    spin[qubits] = np.arange(qubits.size)
    links = spin[info.graph.couplers]
    return links[(links >= 0).all(axis=1)]


def _tied(embeddings: Sequence[Embedding], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(spins,) number of the group of tied spins that each is in, given the ``pairs`` (pairs, 2) tied."""
    count = sum(embedding.layout.qubits.size for embedding in embeddings)
    groups: NDArray[np.int64] = connected_components(_matrix(pairs, count), directed=False)[1].astype(np.int64)
    return groups


def _columns(embeddings: Sequence[Embedding], tied: NDArray[np.int64], links: NDArray[np.int64]) -> NDArray[np.int64]:
    """(groups,) column of each group of ``tied`` spins, so that few ``links`` join two of one column."""
    colours = np.concatenate([embedding.layout.colours for embedding in embeddings]).astype(np.int64)
    copies = np.repeat(np.arange(len(embeddings)), [embedding.layout.qubits.size for embedding in embeddings])
    between = _matrix(links[copies[links[:, 0]] != copies[links[:, 1]]], colours.size)
    # Copies whose turn has not come yet are in nobody's way.
    column = np.where(copies == 0, colours, 0)
    for _ in range(_ROUNDS):
        for copy in range(1, len(embeddings)):
            mine = copies == copy
            met = np.zeros((4, 4))
            np.add.at(met, colours[mine], (between @ np.eye(4)[column])[mine])
            column[mine] = _PERMUTED[met[np.arange(4), _PERMUTED].sum(axis=1).argmin()][colours[mine]]
    votes = np.zeros((int(tied.max(initial=-1)) + 1, 4))
    np.add.at(votes, (tied, column), 1.0)
    # A free spin's column must not be 0, or its own error would stay.
    found = np.where(votes[:, 1:].any(axis=1), 1 + votes[:, 1:].argmax(axis=1), 0)
    joined = tied[links]
    return _improved(found, _matrix(joined[joined[:, 0] != joined[:, 1]], found.size))


def _improved(column: NDArray[np.int64], matrix: csr_array) -> NDArray[np.int64]:
    """``column`` (groups,), altered in place group by group for as long as that leaves fewer links within a column."""
    met = matrix @ np.eye(4)[column]
    numbers = np.arange(column.size)
    while column.size:
        saved = np.where(column > 0, met[numbers, column] - met[:, 1:].min(axis=1), 0.0)
        best = int(saved.argmax())
        if saved[best] <= 0:
            break
        new = 1 + int(met[best, 1:].argmin())
        row = slice(matrix.indptr[best], matrix.indptr[best + 1])
        met[matrix.indices[row], column[best]] -= matrix.data[row]
        met[matrix.indices[row], new] += matrix.data[row]
        column[best] = new
    return column


def _overturned(
    info: SolverInfo, embeddings: Sequence[Embedding], j: NDArray[np.float64], products: NDArray[np.int8]
) -> NDArray[np.bool_]:
    """(m,) couplings that some of ``products`` (gauges, m) of their ends' signs drive a sum out of its range by."""
    found = np.zeros(j.size, dtype=np.bool_)
    if info.sum_range is None:
        return found
    low, high = info.sum_range
    start = 0
    for embedding in embeddings:
        limits, stop = embedding.limits, start + len(embedding.layout.ends)
        given, mine = j[start:stop], found[start:stop]
        largest = limits.sums(np.abs(given)).max(initial=0.0)
        for product in products[:, start:stop] if largest >= min(high, -low) else ():
            turned = given * product
            sums = limits.sums(turned)
            for beyond, worse in ((sums < low, turned < given), (sums > high, turned > given)):
                mine[limits.coupling[beyond[limits.group]]] |= worse[limits.coupling[beyond[limits.group]]]
        start = stop
    return found


def _matrix(pairs: NDArray[np.int64], count: int) -> csr_array:
    """(count, count) how many of ``pairs`` join two."""
    rows, columns = np.concatenate([pairs, pairs[:, ::-1]]).T
    return csr_array((np.ones(rows.size), (rows, columns)), shape=(count, count))
