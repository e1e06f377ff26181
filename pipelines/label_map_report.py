"""The result of a label-map benchmark: sums to numbers, numbers to JSON, CSV, pictures and the screen."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ovseg_model.class_embeddings import templates_title
from ovseg_model.datasets.benchmark import LabelMapBenchmark, check_count, open_benchmark_split
from ovseg_model.metrics import TITLES, segmentation_result, split_result
from pipelines.draw_segmentation import JudgedImage, class_colours, per_class_bars, worst_and_best
from pipelines.evaluation import (
    BARS_FILE,
    DROPS_FILE,
    PER_CLASS_FILE,
    RESULT_FILE,
    SAMPLES_FILE,
    SHOWN,
    Outcome,
    agreement_notes,
    clip_notes,
    regions_notes,
)
from pipelines.score_predictions import Scores, ScoringJob, read_prediction
from pipelines.write_tables import RunFolder

SCENES = "scenes"


def job_of(folder: RunFolder, made_by: dict[str, Any]) -> ScoringJob:
    """The samples of a stored evaluation, found again.

    Raises:
        UserError: the files are not there.
    """
    benchmark, split = open_benchmark_split(f"{made_by['benchmark']}:{made_by['split']}")
    root = Path(made_by["root"]) if made_by["root"] else None
    samples = tuple(benchmark.find_samples(root, split))
    return ScoringJob(folder, benchmark.name, samples[: made_by["limit"] or None], len(samples))


def finish(job: ScoringJob, scores: Scores, made_by: dict[str, Any]) -> Outcome:
    """Writes result.json, per_class.csv and the pictures; returns the text for the screen."""
    benchmark, _ = open_benchmark_split(job.benchmark)
    names = benchmark.names(made_by["names"])
    failed = failed_samples(job)
    notes = [*count_notes(benchmark, job, made_by["split"]), *protocol(benchmark, made_by)]
    notes += [*agreement_notes(job.folder, "classes"), *failed_note(failed)]
    result = result_of(benchmark, scores, made_by, notes) | {"failed": failed}
    iou_K = segmentation_result(scores.counts).iou_K
    folder = job.folder
    folder.write_json(RESULT_FILE, result)
    folder.write(PER_CLASS_FILE, per_class_csv(benchmark, names, scores, iou_K))
    seen_K = seen_classes_of(benchmark)
    title, present_K = f"{benchmark.title}: IoU by class", scores.counts.truth_pixels() > 0
    folder.write(BARS_FILE, per_class_bars(names, iou_K, title, seen_K, present_K))
    folder.write(SAMPLES_FILE, draw_samples(job, benchmark, scores, names))
    return Outcome(result_text(result, folder), failed=failed == len(job.samples))


def failed_samples(job: ScoringJob) -> int:
    """How many of the samples have no label because their proposals failed."""
    drops = job.folder.read_json(DROPS_FILE) if job.folder.has(DROPS_FILE) else []
    return len({drop["sample"] for drop in drops} & {sample.name for sample in job.samples})


def result_of(
    benchmark: LabelMapBenchmark, scores: Scores, made_by: dict[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
    """What result.json holds: the numbers as shares of 1, null where there is nothing to divide by."""
    numbers = segmentation_result(scores.counts)
    seen_K = seen_classes_of(benchmark)
    parts = None if seen_K is None else asdict(split_result(scores.counts, seen_K))
    plain = {name: value for name, value in asdict(numbers).items() if name != "iou_K"}
    return _without_nan(
        {
            "benchmark": benchmark.title,
            "images": len(scores.samples),
            "protocol": list(notes),
            "numbers": plain,
            "seen": sum(each.name in benchmark.seen for each in benchmark.classes),
            "seen_unseen": parts,
            "made_by": made_by,
        }
    )


def count_notes(benchmark: LabelMapBenchmark, job: ScoringJob, split: str) -> list[str]:
    """What must be said of the number of images: other ones than the official, or a part of them."""
    warning, scored = check_count(benchmark, job.there, split), len(job.samples)
    part = f"the first {scored:,} of {job.there:,} images: the numbers compare with no published ones"
    return [*[warning] * bool(warning), *[part] * (scored < job.there)]


def failed_note(failed: int) -> list[str]:
    """What must be said where proposals failed."""
    return [f"proposals failed of {failed:,} images, which count as unlabelled: {DROPS_FILE}"] * bool(failed)


def seen_classes_of(benchmark: LabelMapBenchmark) -> np.ndarray | None:
    """Which classes the training taxonomy has, bool (K,); None where that parts nothing from nothing."""
    seen_K = np.array([each.name in benchmark.seen for each in benchmark.classes])
    return seen_K if seen_K.any() and not seen_K.all() else None


def _without_nan(value: Any) -> Any:
    """The value with null for NaN, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def protocol(benchmark: LabelMapBenchmark, made_by: dict[str, Any]) -> list[str]:
    """The sentences without which the numbers say nothing."""
    models, options = made_by["models"], made_by["options"]
    oracles = {"masks": "oracle: the truth's masks, predicted labels", "labels": "oracle: these masks, true labels"}
    masks = "of the truth" if made_by["oracle"] == "masks" else models["proposals"]["generator"]
    lines = [
        f"{benchmark.title}, split {made_by['split']}",
        f"masks {masks}, CLIP {models['clip']['name']}, class names "
        f"{made_by['names']} ({made_by['synonyms']}), {templates_title(models['templates'])}",
        f"test resolution: {made_by['frame']}",
        *regions_notes(models),
        f"λ {options['clip_weight']:g}, mask threshold {options['mask_threshold']:g}: {made_by['chosen']}",
    ]
    lines += [oracles[made_by["oracle"]]] if made_by["oracle"] else []
    lines += clip_notes(models["clip"], made_by["meaningless"], drawn=benchmark.name == SCENES)
    return lines + ([benchmark.notes] if benchmark.notes else [])


def result_text(result: dict[str, Any], folder: RunFolder) -> str:
    """The result for the screen: protocol, numbers in percent, where the files are."""
    numbers, seen = result["numbers"], result["seen_unseen"]
    lines = [*result["protocol"], ""]
    lines += [f"{title:<32}{_percent(numbers[name])}" for name, title in TITLES.items()]
    lines.append(
        f"{'classes':<32}{numbers['classes']:>8} all, {numbers['classes_present']} present, "
        f"{numbers['classes_predicted']} predicted, {numbers['classes_union']} present or predicted"
    )
    if seen:
        of = f"{result['seen']} classes seen in training labels, {numbers['classes'] - result['seen']} unseen"
        for name in ("miou_union", "miou_present"):
            lines.append(f"{TITLES[name] + ', seen':<32}{_percent(seen[name]['seen'])}   ({of})")
            lines.append(f"{TITLES[name] + ', unseen':<32}{_percent(seen[name]['unseen'])}")
    return "\n".join([*lines, f"{result['images']:,} images", f"result: {folder.path()}"])


def _percent(share: float | None) -> str:
    return "       -" if share is None else f"{100 * share:8.2f}"


def per_class_csv(benchmark: LabelMapBenchmark, names: Sequence[str], scores: Scores, iou_K: np.ndarray) -> bytes:
    """A row a class: name, whether COCO-Stuff has it, pixels in truth and prediction, hits, IoU (empty: nowhere)."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["class", "name", "seen", "truth_px", "predicted_px", "hit_px", "iou"])
    counts = scores.counts
    columns = zip(counts.truth_pixels(), counts.predicted_pixels(), counts.hit_pixels(), iou_K, strict=True)
    for number, (truth, predicted, hit, iou) in enumerate(columns):
        seen = benchmark.classes[number].name in benchmark.seen
        writer.writerow([number, names[number], seen, truth, predicted, hit, "" if np.isnan(iou) else f"{iou:.6f}"])
    return sink.getvalue().encode()


def draw_samples(job: ScoringJob, benchmark: LabelMapBenchmark, scores: Scores, names: Sequence[str]) -> bytes:
    """The images of lowest and of highest score beside their truth and prediction, as PNG."""
    ranked = sorted(
        (each for each in scores.samples if not math.isnan(each.miou_present)), key=lambda e: e.miou_present
    )
    shown = ranked if len(ranked) <= 2 * SHOWN else [*ranked[:SHOWN], *ranked[-SHOWN:]]
    by_name = {sample.name: sample for sample in job.samples}
    rows = []
    for each in shown:
        sample = by_name[each.name]
        image_HW3, truth_HW = benchmark.read_image(sample), benchmark.read_labels(sample)
        prediction_HW = read_prediction(job.folder, sample)
        rows.append(JudgedImage(image_HW3, truth_HW, prediction_HW, each.name, each.miou_present))
    return worst_and_best(rows, names, class_colours(len(names)), "Lowest and highest mIoU G of an image")
