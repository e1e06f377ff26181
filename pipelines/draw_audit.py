"""The picture of `ovseg audit`: precision by cosine and by size, calibration, and precision over recall."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.terminal import escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES = (11, 8)
DPI = 100
COLOUR, TINT = "tab:blue", "tab:orange"


def draw_audit(numbers: dict[str, Any]) -> bytes:
    """Four panels as PNG of what audit.json holds; bars are 95 % intervals, numbers beside points are pairs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    truth, judged = numbers["truth"], numbers["judged"]
    precision = "" if judged["precision"] is None else f", precision {judged['precision']:.3f}"
    title = f"{judged['pairs']:,} judged pairs against {truth['kind']} ({truth['source']}){precision}"
    figure.suptitle(escaped(title), parse_math=False)
    (cosine, calibration), (size, curve) = figure.subplots(2, 2)
    draw_cosine(cosine, numbers["by_cosine"])
    draw_calibration(calibration, numbers["calibration"])
    draw_size(size, numbers["by_size"])
    draw_curve(curve, numbers["precision_recall"])
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def draw_cosine(axes: Axes, bins: Sequence[dict[str, Any]]) -> None:
    """Precision of deciles at the middle of each; a line to both sides shows how wide it is."""
    middles = [(each["from"] + each["to"]) / 2 for each in bins]
    _draw_precision(axes, middles, bins)
    widths = [(each["to"] - each["from"]) / 2 for each in bins]
    axes.errorbar(middles, [each["precision"] for each in bins], xerr=widths, fmt="none", color=COLOUR, alpha=0.4)
    _finish(axes, "cosine, deciles of pairs", "precision", "By cosine")


def draw_calibration(axes: Axes, calibration: dict[str, Any]) -> None:
    """Precision over probability; on the diagonal a probability means what it says."""
    bins = [each for each in calibration["bins"] if each["pairs"]]
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    _draw_precision(axes, [each["mean_probability"] for each in bins], bins)
    axes.set_xlim(0, 1)
    error = calibration["expected_calibration_error"]
    told = "" if error is None else f", expected error {error:.3f}"
    _finish(axes, "probability (mean of bin)", "precision", f"Calibration{told}")


def draw_size(axes: Axes, bins: Sequence[dict[str, Any]]) -> None:
    """Precision by size of mask, with how many pairs each is of."""
    shown = [(place, each) for place, each in enumerate(bins) if each["pairs"]]
    axes.bar([place for place, _ in shown], [each["precision"] for _, each in shown], color=COLOUR, alpha=0.4)
    _draw_precision(axes, [place for place, _ in shown], [each for _, each in shown])
    for place, each in shown:
        axes.text(place, 0.02, f"{each['pairs']:,} pairs", ha="center", fontsize=8)
    labels = [f"{each['from_percent']} to {each['to_percent']} %" for each in bins]
    axes.set_xticks(range(len(bins)), labels)
    _finish(axes, "mask, share of the image", "precision", "By size")


def draw_curve(axes: Axes, points: Sequence[dict[str, Any]]) -> None:
    """Precision over recall as the least cosine rises from all pairs (right) to few (left)."""
    shown = [each for each in points if each["recall"] is not None]
    axes.plot([each["recall"] for each in shown], [each["precision"] for each in shown], color=COLOUR)
    for each in shown[:: max(1, len(shown) // 5)]:
        place = each["recall"], each["precision"]
        axes.plot(*place, "o", color=TINT, markersize=4)
        axes.annotate(f"≥ {each['cosine']:.3f}", place, xytext=(4, 5), textcoords="offset points", fontsize=8)
    axes.set_xlim(0, 1)
    _finish(axes, "recall of (image, label) that a noun names", "precision", "Precision and recall by least cosine")


def _draw_precision(axes: Axes, places: Sequence[float], bins: Sequence[dict[str, Any]]) -> None:
    """Points with their intervals upwards and downwards."""
    shares = [each["precision"] for each in bins]
    low = [max(0.0, each["precision"] - each["interval"][0]) for each in bins]
    high = [max(0.0, each["interval"][1] - each["precision"]) for each in bins]
    axes.errorbar(places, shares, yerr=(low, high), fmt="o", color=COLOUR, capsize=3)


def _finish(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set(xlabel=x, ylabel=y, title=title, ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
