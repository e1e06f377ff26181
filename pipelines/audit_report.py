"""The numbers of `ovseg audit`: sums to shares with their intervals, for audit.json, audit.md and the screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.audit_counts import (
    IMAGE_KINDS,
    LABEL_COLUMNS,
    MICRO,
    OUTCOMES,
    OUTSIDE,
    PROBABILITY_BINS,
    SIZE_EDGES_PERCENT,
    STEPS,
    WRONG,
    AuditCounts,
)
from pipelines.audit_truth import LabelNames
from pipelines.markdown import cell, markdown_table
from pipelines.terminal import escaped, shortened

DECILES = 10
THRESHOLDS = 100
"""Points of the curve of precision and recall, one about every hundredth of the judged pairs."""

Z_95 = 1.959963984540054
"""Standard deviations of a normal distribution that hold 95 %."""

DECIMALS = 6
TOP_NOUNS = 30
NOUN_CHARS = 40

Numbers = dict[str, Any]
"""Plain values: counts, shares of 1, null where there is nothing to divide by."""


def wilson_interval(right: int, pairs: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, (low, high), 0 to 1; all of it where there is nothing.

    Pairs of one image are no independent draws: the true interval is somewhat wider.
    """
    if not pairs:
        return 0.0, 1.0
    share, square = right / pairs, Z_95**2 / pairs
    middle, half = share + square / 2, Z_95 * math.sqrt(share * (1 - share) / pairs + square / pairs / 4)
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


def precision_of(right: int, pairs: int) -> Numbers:
    """Counts, their quotient and its interval."""
    low, high = wilson_interval(int(right), int(pairs))
    interval = [round(low, DECIMALS), round(high, DECIMALS)] if pairs else None
    return {"pairs": int(pairs), "right": int(right), "precision": share_of(right, pairs), "interval": interval}


def share_of(part: int, whole: int) -> float | None:
    """A quotient of counts, rounded; None of nothing."""
    return round(int(part) / int(whole), DECIMALS) if whole else None


def audit_numbers(counts: AuditCounts, names: LabelNames, facts: Numbers) -> Numbers:
    """All that audit.json holds; `facts` stand first, as they are."""
    return {
        **facts,
        "images": dict(zip(IMAGE_KINDS, counts.images.tolist(), strict=True)),
        **pair_numbers(counts.outcomes_O),
        "by_cosine": grid_bins(counts.cosine_B2, -1.0),
        "by_margin": grid_bins(counts.margin_B2, 0.0),
        "by_size": size_bins(counts.size_S2),
        "calibration": calibration(counts.probability_P3),
        "recall": recall_numbers(counts.labels_K.sum(axis=0)),
        "precision_recall": curve(counts),
        "by_noun": noun_rows(counts.nouns),
        "by_label": label_rows(counts.labels_K, names),
    }


def pair_numbers(outcomes_O: np.ndarray) -> Numbers:
    """How many pairs are what, and both precisions: of nouns that the labels can judge, and of all nouns."""
    equal, related, wrong = outcomes_O[: WRONG + 1].tolist()
    outside = int(outcomes_O[OUTSIDE])
    return {
        "pairs": int(outcomes_O.sum()),
        "outcomes": dict(zip(OUTCOMES, outcomes_O.tolist(), strict=True)),
        "judged": precision_of(equal + related, equal + related + wrong),
        "judged_equal_names": precision_of(equal, equal + related + wrong),
        "all_nouns": precision_of(equal + related, equal + related + wrong + outside),
    }


def grid_bins(table_B2: np.ndarray, start: float) -> list[Numbers]:
    """At most DECILES bins of about equally many pairs, lowest first; equal scores stay together."""
    return [
        {"from": _on_grid(first, start), "to": _on_grid(last, start), **precision_of(right, pairs)}
        for first, last, pairs, right in quantiles(table_B2, DECILES)
    ]


def quantiles(table_B2: np.ndarray, most: int) -> Iterator[tuple[int, int, int, int]]:
    """First and last step, pairs and right ones of at most `most` bins of about equally many pairs."""
    steps = np.flatnonzero(table_B2[:, 0])
    pairs = table_B2[steps, 0]
    bins = most * (np.cumsum(pairs) - pairs) // max(1, pairs.sum())
    for number in np.unique(bins):
        own = steps[bins == number]
        yield int(own[0]), int(own[-1]), *map(int, table_B2[own].sum(axis=0))


def _on_grid(step: int, start: float) -> float:
    return round(step / STEPS + start, 4)


def size_bins(size_S2: np.ndarray) -> list[Numbers]:
    """Precision by the mask's share of its image, in percent."""
    edges = zip(SIZE_EDGES_PERCENT, SIZE_EDGES_PERCENT[1:], size_S2, strict=False)
    return [{"from_percent": low, "to_percent": high, **precision_of(row[1], row[0])} for low, high, row in edges]


def calibration(probability_P3: np.ndarray) -> Numbers:
    """Precision by probability, and the mean distance of both, weighted by pairs (expected calibration error)."""
    bins = []
    for number, (pairs, right, micro) in enumerate(probability_P3.tolist()):
        mean = round(micro / MICRO / pairs, DECIMALS) if pairs else None
        edges = {"from": number / PROBABILITY_BINS, "to": (number + 1) / PROBABILITY_BINS}
        bins.append({**edges, "mean_probability": mean, **precision_of(right, pairs)})
    pairs_P, right_P, micro_P = probability_P3.T.astype(np.float64)
    error = round(float(np.abs(right_P - micro_P / MICRO).sum() / pairs_P.sum()), DECIMALS) if pairs_P.any() else None
    return {"bins": bins, "expected_calibration_error": error}


def recall_numbers(sums: np.ndarray) -> Numbers:
    """What was found of (image, label) and of things; `sums` by LABEL_COLUMNS."""
    by_name = dict(zip(LABEL_COLUMNS, sums.tolist(), strict=True))
    return {
        "image_labels": by_name["images"],
        "image_labels_named": by_name["images_named"],
        "image_labels_found": by_name["images_found"],
        "of_named_image_labels": share_of(by_name["images_found"], by_name["images_named"]),
        "things": by_name["things"],
        "things_named": by_name["things_named"],
        "things_found": by_name["things_found"],
        "of_things": share_of(by_name["things_found"], by_name["things"]),
        "of_named_things": share_of(by_name["things_found"], by_name["things_named"]),
    }


def curve(counts: AuditCounts) -> list[Numbers]:
    """Precision of the pairs at or above a cosine, and the share of named (image, label) that they find."""
    named = counts.labels_K[:, LABEL_COLUMNS.index("images_named")].sum()
    above_B2, found_B = (np.cumsum(each[::-1], axis=0)[::-1] for each in (counts.cosine_B2, counts.found_B))
    return [
        {
            "cosine": _on_grid(step, -1.0),
            "pairs": int(above_B2[step, 0]),
            "precision": share_of(above_B2[step, 1], above_B2[step, 0]),
            "recall": share_of(found_B[step], named),
        }
        for step, *_ in quantiles(counts.cosine_B2, THRESHOLDS)
    ]


def noun_rows(nouns: Mapping[str, np.ndarray]) -> list[Numbers]:
    """A row a noun, the most frequent first."""
    order = sorted(nouns, key=lambda noun: (-int(nouns[noun].sum()), noun))
    return [{"noun": noun, "all": int(nouns[noun].sum()), **judged_of(nouns[noun])} for noun in order]


def judged_of(outcomes_O: np.ndarray) -> Numbers:
    """Precision of the judged pairs among some."""
    return precision_of(outcomes_O[:WRONG].sum(), outcomes_O[: WRONG + 1].sum())


def label_rows(labels_K: np.ndarray, names: LabelNames) -> list[Numbers]:
    """A row a label that occurs, in their order: precision of the pairs on it, and what was found of it."""
    rows = []
    for name, row in zip(names, labels_K, strict=True):
        if row.any():
            own = dict(zip(LABEL_COLUMNS, row.tolist(), strict=True))
            recall = {key: own[key] for key in LABEL_COLUMNS[2:]}
            rows.append({"label": name[0], **precision_of(own["right"], own["pairs"]), **recall})
    return rows


def audit_text(numbers: Numbers) -> str:
    """The main table and the rule, for the screen."""
    lines = [*main_lines(numbers), "", *recall_lines(numbers), "", numbers["rule"], *notes(numbers)]
    return "\n".join(map(escaped, lines))


def main_lines(numbers: Numbers) -> Iterator[str]:
    """A line a kind of pairs: how many, how many are right, precision and interval."""
    yield f"{'pairs of':<44}{'pairs':>10}{'right':>10}{'precision':>11}  95 % interval"
    for title, key in (
        ("nouns that the labels can judge", "judged"),
        ("the same, equal names only", "judged_equal_names"),
        ("all nouns, on labelled masks", "all_nouns"),
    ):
        row = numbers[key]
        yield f"{title:<44}{row['pairs']:>10,}{row['right']:>10,}{_share(row['precision']):>11}  {_interval(row)}"
    outcomes = numbers["outcomes"]
    for title, count in (
        ("not judged: mask without a label", outcomes["unlabelled"]),
        ("not judged: noun outside the labels", outcomes["outside"] + outcomes["outside_unlabelled"]),
        ("not judged: image without labels", outcomes["no_truth"]),
        ("all pairs", numbers["pairs"]),
    ):
        yield f"{title:<44}{count:>10,}"


def recall_lines(numbers: Numbers) -> Iterator[str]:
    """What was found, and how well probabilities are calibrated."""
    recall = numbers["recall"]
    yield f"{'recall of':<44}{'there':>10}{'found':>10}{'recall':>11}"
    for title, there, found, key in (
        ("(image, label) that a noun names", "image_labels_named", "image_labels_found", "of_named_image_labels"),
        ("things that a noun names, IoU 0.5", "things_named", "things_found", "of_named_things"),
        ("all things, IoU 0.5", "things", "things_found", "of_things"),
    ):
        yield f"{title:<44}{recall[there]:>10,}{recall[found]:>10,}{_share(recall[key]):>11}"
    yield f"expected calibration error of probability: {_share(numbers['calibration']['expected_calibration_error'])}"


def notes(numbers: Numbers) -> Iterator[str]:
    """What must be said with the numbers."""
    yield (
        f"A mask is unlabelled where less than {numbers['min_cover']:g} of its pixels have a label, or more of them "
        "have none than have the label of most."
    )
    if numbers["named_by"] == "PAIRS":
        yield "The run has no NOUNS of its own units, so that nouns without a pair name nothing in its recall."
    if numbers["meaningless"]:
        yield "MEANINGLESS: the scorer's weights are random. These numbers show the plumbing, not quality."


def audit_markdown(numbers: Numbers) -> str:
    """audit.md: the main table, then bins, the most frequent nouns, and the labels."""
    sections = [
        f"# Audit of pairs against {numbers['truth']['kind']} ({cell(numbers['truth']['source'])})",
        "\n\n".join([numbers["rule"], *notes(numbers)]),
        "```\n" + "\n".join([*main_lines(numbers), "", *recall_lines(numbers)]) + "\n```",
        "## By cosine\n\n" + bin_table("cosine", numbers["by_cosine"], _grid_edges),
        "## By margin over the noun's next best mask\n\n" + bin_table("margin", numbers["by_margin"], _grid_edges),
        "## By size\n\n" + bin_table("mask, share of image", numbers["by_size"], _size_edges),
        "## Calibration\n\n" + bin_table("probability", numbers["calibration"]["bins"], _probability_edges),
        f"## The {TOP_NOUNS} most frequent nouns\n\n" + noun_table(numbers["by_noun"][:TOP_NOUNS]),
        "## By label\n\n" + label_table(numbers["by_label"]),
    ]
    return "\n\n".join(sections) + "\n"


def bin_table(title: str, bins: Sequence[Numbers], edges: Callable[[Numbers], str]) -> str:
    """A Markdown table of bins."""
    rows = [[edges(row), *_precision_cells(row)] for row in bins]
    return markdown_table([title, "pairs", "right", "precision", "95 % interval"], rows, 1)


def noun_table(rows: Sequence[Numbers]) -> str:
    """A Markdown table of nouns; of those outside the labels nothing is judged."""
    cells = [[shortened(row["noun"], NOUN_CHARS), f"{row['all']:,}", *_precision_cells(row)] for row in rows]
    return markdown_table(["noun", "all pairs", "judged", "right", "precision", "95 % interval"], cells, 1)


def label_table(rows: Sequence[Numbers]) -> str:
    """A Markdown table of labels."""
    cells = [
        [
            shortened(row["label"], NOUN_CHARS),
            *_precision_cells(row)[:3],
            f"{row['images_named']:,}",
            _share(share_of(row["images_found"], row["images_named"])),
            f"{row['things']:,}",
            _share(share_of(row["things_found"], row["things"])),
        ]
        for row in rows
    ]
    header = ["label", "pairs on it", "right", "precision", "images naming it", "found", "things", "found"]
    return markdown_table(header, cells, 1)


def _precision_cells(row: Numbers) -> list[str]:
    return [f"{row['pairs']:,}", f"{row['right']:,}", _share(row["precision"]), _interval(row)]


def _grid_edges(row: Numbers) -> str:
    return f"{row['from']:.4f} to {row['to']:.4f}"


def _size_edges(row: Numbers) -> str:
    return f"{row['from_percent']} to {row['to_percent']} %"


def _probability_edges(row: Numbers) -> str:
    mean = "" if row["mean_probability"] is None else f" (mean {row['mean_probability']:.3f})"
    return f"{row['from']:.1f} to {row['to']:.1f}{mean}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"


def _interval(row: Numbers) -> str:
    return f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}" if row["interval"] else "-"
