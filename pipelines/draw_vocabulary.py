"""Pairs per noun by rank, on logarithmic axes: how skewed a training set is, before and after something."""

from __future__ import annotations

import io
from collections.abc import Mapping

VOCABULARY_PLOT = "vocabulary.png"

COLOURS = ("#bbbbbb", "#4477aa")


def draw_pairs_per_noun(counts: Mapping[str, Mapping[str, int]]) -> bytes:
    """The picture, as PNG: a line for each of two sets, from its name to pairs by noun."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for (name, pairs), colour in zip(counts.items(), COLOURS, strict=True):
        by_rank = sorted(pairs.values(), reverse=True)
        label = f"{name}: {sum(by_rank):,} pairs of {len(by_rank):,} nouns"
        axes.plot(range(1, len(by_rank) + 1), by_rank, color=colour, marker=".", markersize=3, label=label)
    if any(counts.values()):
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel("noun, by rank")
    axes.set_ylabel("pairs")
    axes.legend(fontsize=8)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=120)
    return sink.getvalue()
