"""What work is projected to take, from rates that are measured while the service runs.

A draw is expected to take a time proportional to sweeps · free spins · (rows + a few), decoding one proportional to
voxels · (rows + a few): what a batch costs beside its rows is in the few. What batches of a sampler and a model really
took scales these. Drawing and decoding overlap, and lanes share processors: how long a lane needed for the work of its
batches scales their sum once more.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from qshower.sampler.request import DEFAULT_SWEEPS
from qshower.service.engine.work import DrawKey, Work

UPDATES_PER_S = 4e8
VOXELS_PER_S = 1e7
ROWS_BESIDE_DRAW, ROWS_BESIDE_DECODING = 16, 8
ELSEWHERE_S, ELSEWHERE_ROW_S = 1.0, 1e-4
MEMORY = 0.9
"""What a batch's weight is multiplied by with each further one."""
GUESS_S = 0.01
"""Weight of the expectation itself, in seconds: a batch or two are worth more."""


@dataclass(slots=True)
class _Ratio:
    """Of measured to expected seconds, the last batches first."""

    measured_s: float = 0.0
    expected_s: float = 0.0

    @property
    def value(self) -> float:
        return (self.measured_s + GUESS_S) / (self.expected_s + GUESS_S)

    @property
    def known(self) -> bool:
        return self.expected_s > 0

    def learn(self, expected_s: float, measured_s: float) -> None:
        self.measured_s = MEMORY * self.measured_s + measured_s
        self.expected_s = MEMORY * self.expected_s + expected_s


class CostModel:
    """Seconds that drawing and decoding are projected to take, learnt from batches."""

    def __init__(self) -> None:
        self._draws: dict[tuple[str, str, bool], _Ratio] = defaultdict(_Ratio)
        self._decodings: dict[str, _Ratio] = defaultdict(_Ratio)
        self._paces: dict[str, _Ratio] = defaultdict(_Ratio)

    def known(self, key: DrawKey) -> bool:
        """Whether a batch of this sampler and model was measured: before that, projections are guesses."""
        return self._draws[_drawn_alike(key)].known

    def seconds(self, work: Work, lane: str, rows: int) -> float:
        """Of ``rows`` rows of ``work`` in one batch of ``lane``: drawn, decoded, at the lane's pace."""
        draw_s = self._draws[_drawn_alike(work.key)].value * _expected_draw_s(work, rows)
        return self._paces[lane].value * (
            draw_s + self._decodings[work.key.bundle].value * _expected_decode_s(work, rows)
        )

    def rows_within(self, work: Work, lane: str, seconds: float) -> int:
        """About how many rows one batch of ``lane`` draws and decodes in so many seconds; below 0 if it takes none."""
        none, more = self.seconds(work, lane, 0), self.seconds(work, lane, 1000)
        return int((seconds - none) / max((more - none) / 1000, 1e-9))

    def drawn(self, work: Work, rows: int, seconds: float) -> None:
        """Learn from a batch that was drawn."""
        self._draws[_drawn_alike(work.key)].learn(_expected_draw_s(work, rows), seconds)

    def stopped(self, work: Work, rows: int, seconds: float) -> None:
        """Learn from a draw that did not end: it takes at least so long."""
        if seconds > self._draws[_drawn_alike(work.key)].value * _expected_draw_s(work, rows):
            self.drawn(work, rows, seconds)

    def decoded(self, work: Work, rows: int, seconds: float) -> None:
        """Learn from a batch that was decoded."""
        self._decodings[work.key.bundle].learn(_expected_decode_s(work, rows), seconds)

    def paced(self, lane: str, work_s: float, elapsed_s: float) -> None:
        """Learn that ``lane`` needed ``elapsed_s`` for batches whose stages took ``work_s`` together."""
        self._paces[lane].learn(work_s, elapsed_s)


def _drawn_alike(key: DrawKey) -> tuple[str, str, bool]:
    return key.sampler, key.bundle, key.cached


def _expected_draw_s(work: Work, rows: int) -> float:
    key = work.key
    if key.cached:
        return 1e-5 * rows
    if key.elsewhere:
        return ELSEWHERE_S + ELSEWHERE_ROW_S * rows
    updates = work.free_spins * (key.options.sweeps or DEFAULT_SWEEPS)
    return updates * (rows + ROWS_BESIDE_DRAW) / UPDATES_PER_S


def _expected_decode_s(work: Work, rows: int) -> float:
    return work.voxels * (rows + ROWS_BESIDE_DECODING) / VOXELS_PER_S
