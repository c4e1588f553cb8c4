"""Small figures as SVG text: step histograms with a ratio panel, lines, matrices. No network, a few kilobytes each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

REFERENCE_FILL = "#c9ced6"
COLOURS = ("#0b62c4", "#d1495b", "#2a9d4e", "#8e44ad", "#e07b00", "#00838f", "#6d4c41", "#ad1457")
LINE = "#333"
WIDTH, HEIGHT = 340, 250
LEFT, RIGHT, TOP = 46, 8, 20
MAIN_BOTTOM, RATIO_TOP, RATIO_BOTTOM = 168, 176, 218
RATIO_LIMIT = 0.5
LOG_DECADES = 6


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to pixels, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, values: Array | float) -> Array:
        """Pixels of values; what lies outside is drawn at the border."""
        inside = np.clip(np.asarray(values, dtype=np.float64), self.low, self.high)
        if self.log:
            share = (np.log10(inside) - np.log10(self.low)) / (np.log10(self.high) - np.log10(self.low))
        else:
            share = (inside - self.low) / (self.high - self.low)
        return np.asarray(self.start + share * (self.stop - self.start), dtype=np.float64)

    def ticks(self) -> list[float]:
        """A few round values."""
        if self.log:
            first, last = int(np.ceil(np.log10(self.low) - 1e-9)), int(np.floor(np.log10(self.high) + 1e-9))
            stride = max(1, -(-(last - first) // 5))
            return [10.0**power for power in range(first, last + 1, stride)]
        raw = (self.high - self.low) / 5
        unit = 10 ** np.floor(np.log10(raw))
        step = float(next(factor for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999) * unit)
        count = int(np.floor(self.high / step + 1e-9) - np.ceil(self.low / step - 1e-9)) + 1
        return [float((np.ceil(self.low / step - 1e-9) + index) * step) for index in range(count)]


def histogram_figure(
    title: str,
    axis_label: str,
    edges: Array,
    reference: Array,
    samples: Sequence[Array],
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """Reference (filled) and samples (lines) as shares of their entries per bin, with sample/reference below.

    Bars of the ratio's shaded band are the reference's own statistical error.
    """
    total = max(float(reference.sum()), 1.0)
    shares = [counts / max(float(counts.sum()), 1.0) for counts in (reference, *samples)]
    top = max(float(share.max()) for share in shares) or 1.0
    if log_y:
        y = Axis(max(0.5 / total, top * 10.0**-LOG_DECADES), top * 2, MAIN_BOTTOM, TOP, log=True)
    else:
        y = Axis(0.0, top * 1.08, MAIN_BOTTOM, TOP)
    x = Axis(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT, log=log_x)
    ratio = Axis(1 - RATIO_LIMIT, 1 + RATIO_LIMIT, RATIO_BOTTOM, RATIO_TOP)
    body = [f'<path d="{_steps(x, y, edges, shares[0], closed=True)}" fill="{REFERENCE_FILL}"/>']
    error = np.sqrt(np.maximum(reference, 1)) / np.maximum(reference, 1)
    band = np.where(reference > 0, error, 0.0)
    body.append(f'<path d="{_band(x, ratio, edges, band)}" fill="{REFERENCE_FILL}" opacity="0.7"/>')
    body.append(_line(LEFT, float(ratio(1.0)), WIDTH - RIGHT, float(ratio(1.0)), "#999", dash="3 3"))
    for index, share in enumerate(shares[1:]):
        colour = COLOURS[index % len(COLOURS)]
        body.append(f'<path d="{_steps(x, y, edges, share)}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = np.where(shares[0] > 0, share / shares[0], np.nan)
        body.append(f'<path d="{_steps(x, ratio, edges, quotient)}" fill="none" stroke="{colour}"/>')
    body += [_frame(TOP, MAIN_BOTTOM), _frame(RATIO_TOP, RATIO_BOTTOM)]
    body += _x_ticks(x, RATIO_BOTTOM) + _y_ticks(y) + _y_ticks(ratio, (0.5, 1.0, 1.5))
    body.append(_text(WIDTH / 2 + 18, HEIGHT - 4, axis_label, anchor="middle"))
    body.append(_text(LEFT, 13, title, weight="600"))
    return _svg("".join(body), title)


def line_figure(title: str, x_label: str, x_values: Array, lines: Sequence[Array], *, log_y: bool = False) -> str:
    """Lines over common x: the first is the reference, drawn grey and wide, the others are samples."""
    x = Axis(
        float(x_values[0]), float(x_values[-1]) + (1e-9 if x_values[0] == x_values[-1] else 0), LEFT, WIDTH - RIGHT
    )
    top = max(float(values.max()) for values in lines) or 1.0
    positive = [float(values[values > 0].min()) for values in lines if (values > 0).any()]
    if log_y and positive:
        y = Axis(max(min(positive), top * 1e-6), top * 2, RATIO_BOTTOM, TOP, log=True)
    else:
        y = Axis(0.0, top * 1.08, RATIO_BOTTOM, TOP)
    body = []
    for index, values in enumerate(lines):
        colour, width = ("#8a919c", 4.0) if index == 0 else (COLOURS[(index - 1) % len(COLOURS)], 1.4)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x(x_values), y(values), strict=True))
        body.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
    body += [_frame(TOP, RATIO_BOTTOM), *_x_ticks(x, RATIO_BOTTOM), *_y_ticks(y)]
    body.append(_text(WIDTH / 2 + 18, HEIGHT - 4, x_label, anchor="middle"))
    body.append(_text(LEFT, 13, title, weight="600"))
    return _svg("".join(body), title)


def heat_figure(title: str, values: Array, low: float, high: float, *, diverging: bool, note: str = "") -> str:
    """A matrix as coloured cells, row 0 at the top; NaN cells stay white."""
    rows, columns = values.shape
    wide, high_cell = (WIDTH - LEFT - RIGHT) / columns, (RATIO_BOTTOM - TOP) / rows
    if rows == columns:
        wide = high_cell = min(wide, high_cell)
    scaled = np.clip((values - low) / (high - low if high > low else 1.0), 0, 1)
    cells = [
        f'<rect x="{LEFT + column * wide:.2f}" y="{TOP + row * high_cell:.2f}" width="{wide + 0.15:.2f}" '
        f'height="{high_cell + 0.15:.2f}" fill="{_colour(float(scaled[row, column]), diverging=diverging)}"/>'
        for row in range(rows)
        for column in range(columns)
        if np.isfinite(scaled[row, column])
    ]
    label = f"{low:.3g} to {high:.3g}" + (f"; {note}" if note else "")
    return _svg("".join(cells) + _text(LEFT, 13, title, weight="600") + _text(LEFT, HEIGHT - 6, label), title)


def sheet(figures: Sequence[str], columns: int = 3) -> str:
    """Several figures as one drawing, row by row, on white."""
    width, height = columns * WIDTH, -(-len(figures) // columns) * HEIGHT
    placed = (
        figure.replace(
            "<svg ",
            f'<svg x="{index % columns * WIDTH}" y="{index // columns * HEIGHT}" width="{WIDTH}" height="{HEIGHT}" ',
            1,
        )
        for index, figure in enumerate(figures)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(placed)}</svg>\n'
    )


def _colour(share: float, *, diverging: bool) -> str:
    """Blue-white-red, or a dark-to-light scale that also reads in grey."""
    stops = (
        ((33, 102, 172), (247, 247, 247), (178, 24, 43))
        if diverging
        else ((255, 255, 255), (120, 170, 220), (8, 48, 107))
    )
    position = share * (len(stops) - 1)
    index = min(int(position), len(stops) - 2)
    part = position - index
    mixed = (round(a + (b - a) * part) for a, b in zip(stops[index], stops[index + 1], strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _steps(x: Axis, y: Axis, edges: Array, values: Array, *, closed: bool = False) -> str:
    """An SVG path of a step function; it breaks where values are not finite, and runs at the border outside."""
    left, right = x(edges[:-1]), x(edges[1:])
    heights = y(np.nan_to_num(values, nan=y.low))
    finite = np.isfinite(values)
    parts: list[str] = []
    pen_down = False
    for index in range(len(values)):
        if not finite[index]:
            pen_down = False
            continue
        if not pen_down:
            start = y.start if closed else heights[index]
            parts.append(f"M{left[index]:.1f} {start:.1f}")
            if closed:
                parts.append(f"V{heights[index]:.1f}")
            pen_down = True
        else:
            parts.append(f"V{heights[index]:.1f}")
        parts.append(f"H{right[index]:.1f}")
    if closed:
        parts.append(f"V{y.start:.1f}Z")
    return "".join(parts)


def _band(x: Axis, y: Axis, edges: Array, half_width: Array) -> str:
    left, right = x(edges[:-1]), x(edges[1:])
    upper, lower = y(1 + half_width), y(1 - half_width)
    return "".join(
        f"M{left[i]:.1f} {upper[i]:.1f}H{right[i]:.1f}V{lower[i]:.1f}H{left[i]:.1f}Z"
        for i in range(len(half_width))
        if half_width[i] > 0
    )


def _x_ticks(axis: Axis, bottom: float) -> list[str]:
    marks = []
    for value in axis.ticks():
        place = float(axis(value))
        marks.append(_line(place, bottom, place, bottom - 4, LINE))
        marks.append(_text(place, bottom + 12, _number(value), anchor="middle"))
    return marks


def _y_ticks(axis: Axis, values: Sequence[float] | None = None) -> list[str]:
    marks = []
    for value in values or axis.ticks():
        place = float(axis(value))
        marks.append(_line(LEFT, place, LEFT + 4, place, LINE))
        marks.append(_text(LEFT - 4, place + 3.5, _number(value), anchor="end"))
    return marks


def _number(value: float) -> str:
    text = f"{value:.3g}"
    mantissa, _, power = text.partition("e")
    return f"{mantissa}e{int(power)}" if power else text


def _frame(top: float, bottom: float) -> str:
    return (
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - RIGHT}" height="{bottom - top}" fill="none" '
        f'stroke="{LINE}" stroke-width="0.8"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" stroke-width="0.8"{dashes}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


def _svg(body: str, label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label, quote=True)}" font-family="system-ui,sans-serif" font-size="9.5">{body}</svg>'
    )
