"""The plots of a report, as SVG inside its page: text stays text, and colours are the page's, light or dark.

Written by hand: a page has five plots, and loading matplotlib for them takes longer than all else at a run's end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 26, 42
"""Of the plotting area from the edges; all in the units of the SVG, about a pixel."""

BINS = 40
TICKS = 5
POINTS = 200
"""Of a line: ranks at even distances of their logarithms."""

ROW = 46
"""Height of a stage."""


@dataclass(frozen=True)
class Axis:
    """A range of values with its label; logarithmic ones reach from a power of ten to another."""

    low: float
    high: float
    label: str
    is_log: bool = False

    def shares(self, values: Any) -> np.ndarray:
        """Where values lie between low (0) and high (1), float64 (N,)."""
        values, low, high = np.asarray(values, np.float64), self.low, self.high
        if self.is_log:
            values, low, high = np.log10(values), math.log10(low), math.log10(high)
        return (values - low) / (high - low)

    def edges(self, bins: int) -> np.ndarray:
        """Edges of bins of equal width on this axis, float64 (bins + 1,)."""
        spaced = np.geomspace if self.is_log else np.linspace
        return spaced(self.low, self.high, bins + 1)

    def ticks(self) -> list[float]:
        """Values that get a number: powers of ten, or some five round ones."""
        if self.is_log:
            return [10.0**power for power in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]
        step = round_step((self.high - self.low) / TICKS)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def linear_axis(values: np.ndarray, label: str) -> Axis:
    """From the lowest to the highest value, or around the only one."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return Axis(low, high, label) if low < high else Axis(low - 0.5, high + 0.5, label)


def log_axis(low: float, high: float, label: str) -> Axis:
    """From the power of ten at or below `low` (above 0) to the one above `high`."""
    first = math.floor(math.log10(low))
    return Axis(10.0**first, 10.0 ** max(first + 1, math.ceil(math.log10(high))), label, is_log=True)


def round_step(step: float) -> float:
    """The next of 1, 2, 5, 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(each * power for each in (1, 2, 5, 10) if each * power >= step * (1 - 1e-9))


def tick_text(value: float) -> str:
    """A number beside an axis."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{0.0 if abs(value) < 1e-12 else value:g}"


def histogram(title: str, series: Mapping[str, np.ndarray], x: Axis) -> str:
    """How values of one or two series, by name, are distributed: percent of the series by bin, as SVG.

    The first series is bars, the second a line.
    """
    percents = {name: percent_by_bin(values, x) for name, values in series.items()}
    highest = max((float(each.max()) for each in percents.values()), default=0.0)
    y = Axis(0.0, highest or 1.0, "%")
    drawers = (bars, steps)
    drawn = [draw(each, x, y) for draw, each in zip(drawers, percents.values(), strict=False)]
    return plot(title, x, y, drawn, list(series))


def percent_by_bin(values: np.ndarray, x: Axis) -> np.ndarray:
    """Percent of all values by bin of the axis, float64 (BINS,); what lies beyond it counts in the outer bins."""
    edges = x.edges(BINS)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return 100 * counts / max(1, len(values))


def bars(heights: np.ndarray, x: Axis, y: Axis) -> str:
    """A bar a bin."""
    left, width = across(np.arange(len(heights)) / len(heights)), (WIDTH - LEFT - RIGHT) / len(heights)
    tops = down(y.shares(heights))
    rects = (
        f'<rect x="{at:.1f}" y="{top:.1f}" width="{width - 0.6:.1f}" height="{HEIGHT - BOTTOM - top:.1f}"/>'
        for at, top, height in zip(left, tops, heights, strict=True)
        if height
    )
    return f'<g class="bar">{"".join(rects)}</g>'


def steps(heights: np.ndarray, x: Axis, y: Axis) -> str:
    """The outline of bars."""
    edges = across(np.arange(len(heights) + 1) / len(heights))
    return polyline(np.repeat(edges, 2)[1:-1], np.repeat(down(y.shares(heights)), 2), "line second")


def rank_plot(title: str, series: Mapping[str, np.ndarray]) -> str:
    """Counts by rank, both logarithmic (Zipf's plot), as SVG; counts in any order, zeros left out, two series."""
    ranked = {name: np.sort(counts[counts > 0])[::-1] for name, counts in series.items()}
    x = log_axis(1, max([2, *map(len, ranked.values())]), "rank of the noun")
    y = log_axis(1, max([2, *(int(each[0]) for each in ranked.values() if len(each))]), "times")
    classes = ("line first", "line second")
    drawn = [rank_line(each, x, y, class_) for class_, each in zip(classes, ranked.values(), strict=False)]
    return plot(title, x, y, drawn, list(series))


def rank_line(counts: np.ndarray, x: Axis, y: Axis, class_: str) -> str:
    """Descending counts as a line, of a few points where there are many."""
    if not len(counts):
        return ""
    ranks = np.unique(np.geomspace(1, len(counts), POINTS).round().astype(int))
    return polyline(across(x.shares(ranks)), down(y.shares(counts[ranks - 1])), class_)


def polyline(xs: np.ndarray, ys: np.ndarray, class_: str) -> str:
    """A line through points; a single point is a dot."""
    if len(xs) == 1:
        return f'<circle class="dot {class_}" cx="{xs[0]:.1f}" cy="{ys[0]:.1f}" r="3"/>'
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline class="{class_}" points="{points}"/>'


def across(shares: np.ndarray) -> np.ndarray:
    """Horizontal places of shares of an axis."""
    return LEFT + shares * (WIDTH - LEFT - RIGHT)


def down(shares: np.ndarray) -> np.ndarray:
    """Vertical places of shares of an axis, which grows upwards."""
    return HEIGHT - BOTTOM - shares * (HEIGHT - BOTTOM - TOP)


def plot(title: str, x: Axis, y: Axis, drawn: Iterable[str], names: Sequence[str]) -> str:
    """Axes, what is drawn in them, and the names of the series where there are two."""
    legend = legend_of(names) if len(names) > 1 else ""
    return svg(title, HEIGHT, "".join([*axes(x, y), *drawn, legend]))


def axes(x: Axis, y: Axis) -> Iterator[str]:
    """Grid lines, numbers and labels of both axes."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value, at in zip(y.ticks(), down(y.shares(y.ticks())), strict=True):
        yield f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>'
        yield label(LEFT - 6, at + 4, tick_text(value), "end")
    for value, at in zip(x.ticks(), across(x.shares(x.ticks())), strict=True):
        yield f'<line class="grid" x1="{at:.1f}" y1="{bottom}" x2="{at:.1f}" y2="{bottom + 4}"/>'
        yield label(at, bottom + 18, tick_text(value), "middle")
    yield f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
    yield label((LEFT + right) / 2, HEIGHT - 6, x.label, "middle")
    yield label(LEFT - 6, TOP - 12, y.label, "end")


def legend_of(names: Sequence[str]) -> str:
    """The names of two series in their colours, above the plot."""
    places = ((LEFT + 20, "first"), ((LEFT + WIDTH) / 2, "second"))
    return "".join(
        label(at, TOP - 12, f"■ {name}", "start", class_) for (at, class_), name in zip(places, names, strict=True)
    )


def label(x: float, y: float, text: str, anchor: str, class_: str = "") -> str:
    """A line of text."""
    return f'<text class="{class_}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def svg(title: str, height: int, content: str) -> str:
    """The SVG element, with its title for those who cannot see it."""
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return f'<svg {size} role="img" aria-label="{escape(title)}">{content}</svg>'


class Yield(NamedTuple):
    """What a stage kept of what it read."""

    stage: str
    text: str
    read: int
    kept: int


def yields_plot(yields: Sequence[Yield]) -> str:
    """A bar a stage, as SVG: what it kept, in colour, of what it read."""
    full = WIDTH - 4
    rows = [
        label(2, ROW * number + 16, f"{each.stage}: {each.text}", "start")
        + f'<rect class="rest" x="2" y="{ROW * number + 22}" width="{full}" height="16"/>'
        + f'<rect class="bar" x="2" y="{ROW * number + 22}" width="{full * kept_share(each):.1f}" height="16"/>'
        for number, each in enumerate(yields)
    ]
    return svg("what each stage kept of what it read", ROW * len(yields), "".join(rows))


def kept_share(each: Yield) -> float:
    """Kept over read, 0 of nothing."""
    return each.kept / each.read if each.read else 0.0
