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
BAR_LEFT, BAR_WIDTH, BAR_STEPS = 286, 10, 24
SHADES = 48
MOST_CELL_LABELS = 7
LONGEST_CELL_LABEL = 8


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


@dataclass(frozen=True, slots=True)
class ColourScale:
    """What the colours of a matrix mean.

    Attributes:
        low: value of the first colour; what is below has it too.
        high: value of the last colour.
        unit: stands at the colour bar.
        diverging: blue, white, red instead of light to dark.
        decades: values are powers of ten of what the bar shows.
    """

    low: float
    high: float
    unit: str
    diverging: bool = False
    decades: bool = False

    def shares(self, values: Array) -> Array:
        """Where values stand between the first colour (0) and the last (1)."""
        span = self.high - self.low
        return np.asarray(np.clip((values - self.low) / (span if span > 0 else 1.0), 0, 1), dtype=np.float64)

    def ticks(self) -> list[tuple[float, str]]:
        """A few values, and the text that the bar has there."""
        if self.decades:
            first, last = int(np.ceil(self.low - 1e-9)), int(np.floor(self.high + 1e-9))
            return [
                (float(power), _number(10.0**power)) for power in range(first, last + 1, max(1, (last - first) // 3))
            ]
        high = self.high if self.high > self.low else self.low + 1.0
        return [(value, _number(value)) for value in Axis(self.low, high, 0, 1).ticks()]


@dataclass(frozen=True, slots=True)
class Cells:
    """What the columns or rows of a matrix are: the axis's name with its unit, and a text for each."""

    name: str
    labels: Sequence[str]

    def shown(self) -> list[tuple[int, str]]:
        """A few of the labels, and where they stand."""
        stride = -(-len(self.labels) // MOST_CELL_LABELS)
        texts = [
            text if len(text) <= LONGEST_CELL_LABEL else f"{text[: LONGEST_CELL_LABEL - 1]}…" for text in self.labels
        ]
        return [(index, texts[index]) for index in range(0, len(texts), stride)]


def heat_figure(title: str, values: Array, scale: ColourScale, columns: Cells, rows: Cells) -> str:
    """A matrix as coloured cells, row 0 at the top, with a bar of its colours; NaN cells stay white."""
    height, width = values.shape
    cell_width, cell_height = (BAR_LEFT - 10 - LEFT) / width, (RATIO_BOTTOM - TOP) / height
    if height == width:
        cell_width = cell_height = min(cell_width, cell_height)
    right, bottom = LEFT + width * cell_width, TOP + height * cell_height
    body = [
        f'<g transform="translate({LEFT} {TOP}) scale({cell_width:.4f} {cell_height:.4f})" '
        f'shape-rendering="crispEdges">{_cells(scale.shares(values), diverging=scale.diverging)}</g>'
    ]
    for index, text in columns.shown():
        body.append(_text(LEFT + (index + 0.5) * cell_width, bottom + 12, text, anchor="middle"))
    for index, text in rows.shown():
        body.append(_text(LEFT - 4, TOP + (index + 0.5) * cell_height + 3.5, text, anchor="end"))
    body.append(_text((LEFT + right) / 2, bottom + 26, columns.name, anchor="middle"))
    body.append(_upright(10, (TOP + bottom) / 2, rows.name))
    body += _colour_bar(scale)
    body.append(_text(LEFT, 13, title, weight="600"))
    return _svg("".join(body), title)


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


def _cells(shares: Array, *, diverging: bool) -> str:
    """Cells of one unit, those of one colour as one path; neighbours in a row are drawn together."""
    shades = np.where(np.isfinite(shares), np.rint(np.nan_to_num(shares) * (SHADES - 1)), -1).astype(int)
    runs: dict[int, list[str]] = {}
    for row, line in enumerate(shades):
        starts = np.flatnonzero(np.diff(line, prepend=-2))
        for start, stop in zip(starts, [*starts[1:], len(line)], strict=True):
            runs.setdefault(int(line[start]), []).append(f"M{start} {row}h{stop - start}v1h{start - stop}z")
    return "".join(
        f'<path fill="{_colour(shade / (SHADES - 1), diverging=diverging)}" d="{"".join(paths)}"/>'
        for shade, paths in sorted(runs.items())
        if shade >= 0
    )


def _colour_bar(scale: ColourScale) -> list[str]:
    """The colours from bottom to top at the right border, with values and unit."""
    step = (RATIO_BOTTOM - TOP) / BAR_STEPS
    colours = [_colour((index + 0.5) / BAR_STEPS, diverging=scale.diverging) for index in range(BAR_STEPS)]
    outline = f"h{BAR_WIDTH}v{-step - 0.2:.2f}h-{BAR_WIDTH}z"
    body = [
        f'<path fill="{colour}" d="M{BAR_LEFT} {RATIO_BOTTOM - index * step:.2f}{outline}"/>'
        for index, colour in enumerate(colours)
    ]
    for value, text in scale.ticks():
        place = RATIO_BOTTOM - float(scale.shares(np.array([value]))[0]) * (RATIO_BOTTOM - TOP)
        body.append(_line(BAR_LEFT + BAR_WIDTH, place, BAR_LEFT + BAR_WIDTH + 3, place, LINE))
        body.append(_text(BAR_LEFT + BAR_WIDTH + 5, place + 3.5, text))
    body.append(_text(BAR_LEFT + BAR_WIDTH / 2, RATIO_BOTTOM + 14, scale.unit, anchor="middle"))
    return body


def _colour(share: float, *, diverging: bool) -> str:
    """Blue-white-red, or a light-to-dark scale that also reads in grey."""
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


class _Pen:
    """Writes an SVG path of horizontal and vertical strokes, relative and to a tenth of a pixel."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._x = self._y = 0

    def move(self, x: float, y: float) -> None:
        self._x, self._y = round(10 * x), round(10 * y)
        self._parts.append(f"M{_tenths(self._x)} {_tenths(self._y)}")

    def across(self, x: float) -> None:
        """To ``x``; a stroke that goes on is not begun anew."""
        new = round(10 * x)
        if new != self._x:
            self._parts.append(f"h{_tenths(new - self._x)}")
        self._x = new

    def up(self, y: float) -> None:
        new = round(10 * y)
        if new != self._y:
            self._parts.append(f"v{_tenths(new - self._y)}")
        self._y = new

    def close(self) -> None:
        self._parts.append("z")

    def text(self) -> str:
        return "".join(self._parts)


def _tenths(value: int) -> str:
    """``value`` / 10, as short as SVG takes it."""
    whole, rest = divmod(abs(value), 10)
    return ("-" if value < 0 else "") + (f"{whole or ''}.{rest}" if rest else str(whole))


def _steps(x: Axis, y: Axis, edges: Array, values: Array, *, closed: bool = False) -> str:
    """An SVG path of a step function; it breaks where values are not finite, and runs at the border outside."""
    places, heights = x(edges), y(np.nan_to_num(values, nan=y.low))
    finite = np.isfinite(values)
    pen = _Pen()
    pen_down = False
    for index in range(len(values)):
        if not finite[index]:
            pen_down = False
            continue
        if not pen_down:
            pen.move(places[index], y.start if closed else heights[index])
            pen_down = True
        pen.up(heights[index])
        # Bins of one height are one stroke.
        if index + 1 == len(values) or not finite[index + 1] or abs(heights[index + 1] - heights[index]) >= 0.05:
            pen.across(places[index + 1])
    if closed:
        pen.up(y.start)
        pen.close()
    return pen.text()


def _band(x: Axis, y: Axis, edges: Array, half_width: Array) -> str:
    """1 ± ``half_width``: for each stretch of bins that have one, along the top and back along the bottom."""
    places, upper, lower = x(edges), y(1 + half_width), y(1 - half_width)
    wide = np.flatnonzero(half_width > 0)
    pen = _Pen()
    for stretch in np.split(wide, np.flatnonzero(np.diff(wide) > 1) + 1):
        if not stretch.size:
            continue
        pen.move(places[stretch[0]], upper[stretch[0]])
        for index in stretch:
            pen.up(upper[index])
            pen.across(places[index + 1])
        for index in stretch[::-1]:
            pen.up(lower[index])
            pen.across(places[index])
        pen.close()
    return pen.text()


def _x_ticks(axis: Axis, bottom: float) -> list[str]:
    places = [(value, float(axis(value))) for value in axis.ticks()]
    marks = "".join(f"M{place:.1f} {bottom:g}v-4" for _, place in places)
    return [_marks(marks), *(_text(place, bottom + 12, _number(value), anchor="middle") for value, place in places)]


def _y_ticks(axis: Axis, values: Sequence[float] | None = None) -> list[str]:
    places = [(value, float(axis(value))) for value in values or axis.ticks()]
    marks = "".join(f"M{LEFT} {place:.1f}h4" for _, place in places)
    return [_marks(marks), *(_text(LEFT - 4, place + 3.5, _number(value), anchor="end") for value, place in places)]


def _marks(path: str) -> str:
    return f'<path d="{path}" stroke="{LINE}" stroke-width=".8"/>' if path else ""


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


def _text(x: float, y: float, text: str, *, anchor: str = "", weight: str = "") -> str:
    style = (f' text-anchor="{anchor}"' if anchor else "") + (f' font-weight="{weight}"' if weight else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{style}>{escape(text)}</text>'


def _upright(x: float, y: float, text: str) -> str:
    """Text that runs upwards, centred."""
    return f'<text transform="translate({x} {y:.1f}) rotate(-90)" text-anchor="middle">{escape(text)}</text>'


def _svg(body: str, label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label, quote=True)}" font-family="system-ui,sans-serif" font-size="9.5">{body}</svg>'
    )
