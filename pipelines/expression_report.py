"""The result of a benchmark of expressions: stored answers to numbers, JSON, a picture and the screen.

Array names end in their axes: H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ovseg_model import rle
from ovseg_model.class_embeddings import templates_title
from ovseg_model.datasets.benchmark import IGNORE
from ovseg_model.datasets.dataset_files import read_image
from ovseg_model.datasets.referring import ReferringBenchmark, ReferringSample, open_referring_benchmark
from ovseg_model.mask_metrics import THRESHOLDS, MaskCounts, count_mask
from pipelines.draw_segmentation import JudgedImage, class_colours, worst_and_best
from pipelines.evaluation import (
    DROPS_FILE,
    RESULT_FILE,
    SAMPLES_FILE,
    SHOWN,
    Evaluation,
    Outcome,
    agreement_notes,
    clip_notes,
    predict_in_parts,
    regions_notes,
    sha256_of,
)
from pipelines.write_tables import RunFolder
from schemas import UserError

Answer = dict[str, Any]
"""What is stored of an expression: mask, COCO RLE or None where no proposal answers; failed, why there are none."""

OTHERS = "others"
"""The text that an expression is weighed against where the answer is a union, as in OVSeg's demo of one class."""


class Answered(NamedTuple):
    """An expression with its answer and what that scores."""

    sample: ReferringSample
    answer: Answer
    counts: MaskCounts


# Samples.


def samples_of(benchmark: ReferringBenchmark, root: Path, split: str, limit: int) -> tuple[list[ReferringSample], str]:
    """The samples that are asked, those of an image together, and what must be said of their number.

    Raises:
        UserError: as `find_samples`.
    """
    samples = benchmark.find_samples(root, split)[: limit or None]
    return in_order_of_images(samples), benchmark.count_warning(split, samples)


def identity_of(samples: Sequence[ReferringSample]) -> str:
    """Which expressions stored answers are to, in order."""
    return sha256_of([(sample.name, sample.text, Path(sample.image).name) for sample in samples])


def in_order_of_images(samples: Sequence[ReferringSample]) -> list[ReferringSample]:
    """Samples with those of an image together, images in the order in which they first come."""
    first: dict[str, int] = {}
    for sample in samples:
        first.setdefault(sample.image, len(first))
    return sorted(samples, key=lambda sample: first[sample.image])


def score_again(folder: RunFolder, stored: dict[str, Any]) -> Outcome:
    """Scores the answers of an evaluation that ran to its end, without any model.

    stored: its evaluation.json.

    Raises:
        UserError: the data set is gone or has become another, or answers are missing.
    """
    made_by = stored["made_by"]
    benchmark = open_referring_benchmark(made_by["benchmark"])
    samples, warning = samples_of(benchmark, Path(stored["root"]), made_by["split"], made_by["limit"])
    if identity_of(samples) != made_by["samples"]:
        raise UserError(f"{stored['root']}: has other expressions than those that {folder.url} answers; evaluate again")

    def missing(part: Sequence[ReferringSample]) -> list[Answer]:
        raise UserError(f"{folder.url}: there is no answer to {part[0].name}; run ovseg evaluate to its end")

    answers = predict_in_parts(Evaluation(folder, made_by), samples, missing, benchmark.name)
    return finish(benchmark, answers, made_by, warning, folder)


# Numbers.


def finish(
    benchmark: ReferringBenchmark,
    answers: Iterable[tuple[ReferringSample, Answer]],
    made_by: dict[str, Any],
    warning: str,
    folder: RunFolder,
) -> Outcome:
    """Scores, writes result.json, drops.json and the picture; returns the text for the screen."""
    scored = [Answered(sample, each, score_answer(sample, each["mask"])) for sample, each in answers]
    drops = [{"sample": each.sample.name, **each.answer["failed"]} for each in scored if each.answer["failed"]]
    result = {
        "protocol": [
            *[warning] * bool(warning),
            *protocol(benchmark, made_by, len(drops)),
            *agreement_notes(folder, "expressions"),
        ],
        "numbers": {group or "all": numbers(sum_of(scored, group)) for group in ("", *benchmark.groups)},
        "failed": len(drops),
        "made_by": made_by,
    }
    folder.write_json(DROPS_FILE, drops)
    folder.write_json(RESULT_FILE, result)
    folder.write(SAMPLES_FILE, draw_answers(scored))
    return Outcome(text_of(result, folder), failed=len(drops) == len(scored))


def sum_of(scored: Sequence[Answered], group: str) -> MaskCounts:
    """The counts of a group; "" is all."""
    return sum((each.counts for each in scored if group in ("", each.sample.group)), MaskCounts())


def score_answer(sample: ReferringSample, predicted: dict[str, Any] | None) -> MaskCounts:
    """The counts of one answer; None is an empty mask."""
    truth_HW = rle.decode_masks([sample.mask])[0]
    predicted_HW = rle.decode_masks([predicted])[0] if predicted else np.zeros_like(truth_HW)
    return count_mask(predicted_HW, truth_HW, rle.decode_masks([sample.ignore])[0] if sample.ignore else None)


def numbers(counts: MaskCounts) -> dict[str, float | int | None]:
    """Shares of 1; null of no sample."""
    precisions = {f"p_at_{round(10 * each):02}": counts.precision_at(each) for each in THRESHOLDS}
    shares = {"ciou": counts.ciou, "giou": counts.giou, **precisions}
    return {"samples": counts.samples, **{name: each if counts.samples else None for name, each in shares.items()}}


def draw_answers(scored: Sequence[Answered]) -> bytes:
    """The expressions of lowest and of highest IoU, the mask that is meant and the answer beside the image, as PNG."""
    ranked = sorted(scored, key=lambda each: each.counts.giou)
    shown = ranked if len(ranked) <= 2 * SHOWN else [*ranked[:SHOWN], *ranked[-SHOWN:]]
    rows = [
        JudgedImage(
            read_image(each.sample.image),
            mask_map(each.sample.mask, each.sample.mask["size"]),
            mask_map(each.answer["mask"], each.sample.mask["size"]),
            each.sample.text,
            each.counts.giou,
        )
        for each in shown
    ]
    return worst_and_best(rows, ["mask"], class_colours(1), "Lowest and highest IoU of an expression")


def mask_map(mask: rle.Rle | None, size_HW: Sequence[int]) -> np.ndarray:
    """A mask as a label map of one class, uint16 (H, W); IGNORE outside."""
    mask_HW = rle.decode_masks([mask])[0] if mask else np.zeros(tuple(size_HW), bool)
    return np.where(mask_HW, 0, IGNORE).astype(np.uint16)


# What is said.


def protocol(benchmark: ReferringBenchmark, made_by: dict[str, Any], failed: int) -> list[str]:
    """The sentences without which the numbers say nothing: what ran, and nothing that could have."""
    models = made_by["models"]
    return [
        f"{benchmark.title}, split {made_by['split']}"
        + (f", the first {made_by['limit']:,} expressions" if made_by["limit"] else ""),
        f"masks {models['proposals']['generator']}, mask threshold {made_by['mask_threshold']:g}, "
        f"CLIP {models['clip']['name']} alone, {templates_title(models['templates'])}",
        f"test resolution: {made_by['frame']}",
        *regions_notes(models),
        f"{how_asked(models['templates'])}; {how_answered(made_by)}.",
        benchmark.notes,
        *clip_notes(models["clip"], made_by["meaningless"], drawn=False),
        *([f"proposals failed of {failed:,} expressions, which count as unanswered: {DROPS_FILE}"] if failed else []),
    ]


def how_asked(templates: Sequence[str]) -> str:
    """What becomes of an expression before CLIP reads it."""
    if len(templates) == 1:
        return "The expression is one prompt"
    return f"The expression is put into {len(templates)} prompts, whose vectors are averaged"


def how_answered(made_by: dict[str, Any]) -> str:
    """What the answer is."""
    if made_by["answer"] == "union":
        threshold = made_by["union_threshold"]
        union = f'the answer is the union of proposals whose probability against "{OTHERS}" is above {threshold:g}'
        return f"{union} ({made_by['chosen']})"
    return "the answer is the single proposal of highest cosine"


def text_of(result: dict[str, Any], folder: RunFolder) -> str:
    """The result for the screen, in percent."""
    lines = [*result["protocol"], "", f"{'':<12}{'expressions':>12}{'cIoU':>8}{'gIoU':>8}{'P@0.5':>8}"]
    for group, values in result["numbers"].items():
        shares = "".join(f"{_percent(values[name]):>8}" for name in ("ciou", "giou", "p_at_05"))
        lines.append(f"{group:<12}{values['samples']:>12,}{shares}")
    return "\n".join([*lines, f"result: {folder.path()}"])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
