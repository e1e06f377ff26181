"""Label-map benchmarks: predictions stored image by image, counted, and told as a table, JSON, CSV and pictures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg_model.class_names import split_names
from ovseg_model.datasets.benchmark import (
    IGNORE,
    LabelledSample,
    LabelMapBenchmark,
    check_count,
    open_benchmark_split,
)
from ovseg_model.label_png import UNLABELLED, label_png
from ovseg_model.metrics import TITLES, segmentation_result, split_result
from ovseg_model.proposals import ImageInput, ProposalError
from ovseg_model.read_ahead import read_ahead
from pipelines.draw_segmentation import JudgedImage, class_colours, per_class_bars, worst_and_best
from pipelines.evaluation import (
    DROPS_FILE,
    PREDICTIONS,
    RESULT_FILE,
    EvaluateOptions,
    Evaluation,
    evenly_spaced,
)
from pipelines.open_segmenter import ModelOptions, Models, open_models
from pipelines.progress import show_progress
from pipelines.score_predictions import (
    THREADS,
    Scores,
    ScoringJob,
    prediction_file,
    prediction_name,
    read_prediction,
    score_plain,
    write_scores,
)
from pipelines.write_tables import RunFolder
from schemas import UserError

if TYPE_CHECKING:
    from ovseg_model.class_names import ClassVectors
    from ovseg_model.segment import ScoredProposals, Segmenter, SegmentOptions

TUNING_FILE, PER_CLASS_FILE = "tuning.json", "per_class.csv"
BARS_FILE, SAMPLES_FILE = "per_class.png", "worst_and_best.png"
SHOWN = 4
"""Images of lowest and of highest score that are drawn."""

VERSION = 1
"""Raised whenever the same options begin to give other predictions."""


@dataclass(frozen=True)
class Asked:
    """A label-map evaluation as it was asked for."""

    options: EvaluateOptions
    segment: SegmentOptions
    models: ModelOptions
    given: frozenset[str]
    """Names of the options that were given: the others may be the benchmark's own."""


def evaluate_label_maps(asked: Asked, folder: RunFolder) -> str:
    """Predicts what is missing, scores, writes the result and returns it as text.

    Raises:
        UserError: an option, a file of the benchmark or a weight is not as wanted.
    """
    from ovseg_model.class_names import embed_classes
    from ovseg_model.segment import Segmenter

    benchmark, split = open_benchmark_split(asked.options.benchmark)
    root = Path(asked.options.root) if asked.options.root else None
    samples = list(benchmark.find_samples(root, split))
    warning = check_count(benchmark, len(samples), split)
    samples = samples[: asked.options.limit or None]
    models = open_models(asked.models, folder.path(".work"), proposals=asked.options.oracle != "masks")
    names = split_names(benchmark.names(asked.options.names), asked.models.synonyms)
    vectors = embed_classes(models.embeddings, names, asked.models.synonyms)
    segmenter = Segmenter(network_of(asked, models, benchmark, samples), models.regions, asked.segment)
    settings = settle(asked, benchmark, split, root, segmenter, vectors, folder)
    segmenter = replace(segmenter, options=settings.options)
    made_by = {
        "version": VERSION,
        "benchmark": benchmark.name,
        "split": split,
        "root": str(root.resolve()) if root else None,
        "limit": asked.options.limit,
        "names": asked.options.names,
        "synonyms": asked.models.synonyms,
        "oracle": asked.options.oracle,
        "options": asdict(settings.options),
        "chosen": settings.chosen,
        "models": models.fingerprint,
        "meaningless": models.meaningless,
    }
    evaluation = Evaluation(folder, made_by)
    evaluation.begin()
    job = ScoringJob(folder, benchmark.name, tuple(samples))
    predict(job, benchmark, segmenter, vectors, asked.options.oracle)
    scores = score_plain(job)
    write_scores(folder, scores)
    text = finish(job, scores, made_by)
    return f"{warning}\n\n{text}" if warning else text


# λ and the mask threshold.


@dataclass(frozen=True)
class Settings:
    """Options of the segmenter, and how they came to be."""

    options: SegmentOptions
    chosen: str
    """A sentence that is printed with every number."""


def settle(
    asked: Asked,
    benchmark: LabelMapBenchmark,
    split: str,
    root: Path | None,
    segmenter: Segmenter,
    vectors: ClassVectors,
    folder: RunFolder,
) -> Settings:
    """λ and threshold: tuned where that was asked for, 1 where masks have no classes, else given or the benchmark's."""
    from ovseg_model.oracles import TruthMasks
    from ovseg_model.proposals.soft import HardProposals

    if asked.options.tune_on:
        return tuned(asked, benchmark, split, root, segmenter, vectors, folder)
    if isinstance(segmenter.network, (HardProposals, TruthMasks)):
        return Settings(replace(asked.segment, clip_weight=1.0), "hard masks without classes, so CLIP stands alone")
    if "clip_weight" in asked.given:
        return Settings(asked.segment, "as given")
    how = "λ is OVSeg's for this benchmark, or nearest to it (docs/benchmarks.md); it was searched on ADE20K's own val"
    return Settings(replace(asked.segment, clip_weight=benchmark.settings.clip_weight), how)


def tuned(
    asked: Asked,
    benchmark: LabelMapBenchmark,
    split: str,
    root: Path | None,
    segmenter: Segmenter,
    vectors: ClassVectors,
    folder: RunFolder,
) -> Settings:
    """The best point of the grid on another split; the grid is stored, and read again where it was searched before."""
    from ovseg_model.tuning import Tried, tune

    if asked.options.oracle == "masks":
        raise UserError("--tune-on: with --oracle masks nothing depends on λ or the mask threshold; leave it away")
    tune_on = benchmark.checked_split(asked.options.tune_on)
    if tune_on == split:
        others = ", ".join(each for each in benchmark.splits if each != split) or "none: it has no other"
        raise UserError(f"--tune-on {tune_on}: is the split that is reported; wanted another of its splits ({others})")
    samples = evenly_spaced(benchmark.find_samples(root, tune_on), asked.options.tune_images)
    searched = {"on": tune_on, "images": len(samples), "models": segmenter.regions.clip.fingerprint()}
    if folder.has(TUNING_FILE) and (stored := folder.read_json(TUNING_FILE))["searched"] == searched:
        tried = [Tried(*point) for point in stored["tried"]]
    else:
        batches = show_progress(labelled_batches(benchmark, samples, segmenter.network.batch_size), "tune", "batches")
        tried = tune(segmenter, batches, vectors)
        folder.write_json(TUNING_FILE, {"searched": searched, "tried": tried})
    best = tried[0]
    options = replace(asked.segment, mask_threshold=best.mask_threshold, clip_weight=best.clip_weight)
    how = (
        f"λ {best.clip_weight:g} and mask threshold {best.mask_threshold:g} are the best of {len(tried)} points on "
        f"{len(samples)} images of {tune_on}, by mIoU U ({best.miou_union:.4f} there)"
    )
    return Settings(options, how)


def labelled_batches(
    benchmark: LabelMapBenchmark, samples: Sequence[LabelledSample], size: int
) -> Iterator[tuple[list[ImageInput], list[np.ndarray]]]:
    """Images and their label maps, a batch at a time, read ahead."""

    def read(sample: LabelledSample) -> tuple[ImageInput, np.ndarray]:
        return read_input(benchmark, sample), benchmark.read_labels(sample)

    batch: list[tuple[ImageInput, np.ndarray]] = []
    for number, pair in enumerate(read_ahead(read, samples, THREADS), start=1):
        batch.append(pair)
        if len(batch) == size or number == len(samples):
            yield [image for image, _ in batch], [labels for _, labels in batch]
            batch = []


def read_input(benchmark: LabelMapBenchmark, sample: LabelledSample) -> ImageInput:
    """A sample's image as generators take it; its id is the sample's name."""
    return ImageInput(sample.name, sample.image, benchmark.read_image(sample))


# Predictions.


def network_of(asked: Asked, models: Models, benchmark: LabelMapBenchmark, samples: Iterable[LabelledSample]) -> Any:
    """The proposal generator, or the truth's own masks for --oracle masks."""
    if asked.options.oracle != "masks":
        return models.network
    from ovseg_model.oracles import TruthMasks

    by_name = {sample.name: sample for sample in samples}
    return TruthMasks(lambda name: benchmark.read_labels(by_name[name]), IGNORE)


def predict(
    job: ScoringJob, benchmark: LabelMapBenchmark, segmenter: Segmenter, vectors: ClassVectors, oracle: str
) -> None:
    """Writes the label map of every sample that has none yet; one whose proposals fail is unlabelled, and listed."""
    there = set(job.folder.names(PREDICTIONS))
    missing = [each for each in job.samples if prediction_name(each).rpartition("/")[2] not in there]
    size = segmenter.network.batch_size
    batches = labelled_batches(benchmark, missing, size)
    for images, maps in show_progress(batches, f"predict {benchmark.name}", f"x{size} images"):
        proposed = segmenter.network.propose_soft(images, vectors.vectors_VD)
        scored = segmenter.score_batch(images, proposed, vectors)
        for image, truth_HW, found in zip(images, maps, scored, strict=True):
            if isinstance(found, ProposalError):
                note_drop(job.folder, image.image_id, found)
            labels_HW = labels_of(found, truth_HW, segmenter, vectors.count, oracle)
            job.folder.write(prediction_file(image.image_id), label_png(labels_HW, class_colours(vectors.count)))


def labels_of(
    found: ScoredProposals | ProposalError, truth_HW: np.ndarray, segmenter: Segmenter, classes: int, oracle: str
) -> np.ndarray:
    """The predicted label map, uint16 (H, W); all unlabelled where there are no proposals."""
    from ovseg_model.oracles import with_true_labels

    if isinstance(found, ProposalError):
        return np.full(truth_HW.shape, UNLABELLED, np.uint16)
    if oracle == "labels":
        found = with_true_labels(found, truth_HW, classes, IGNORE, segmenter.options.mask_threshold)
    return segmenter.label_map(found, truth_HW.shape)


def note_drop(folder: RunFolder, sample: str, error: ProposalError) -> None:
    """Adds a sample to drops.json; it is scored all the same, as an image without any label."""
    drops = folder.read_json(DROPS_FILE) if folder.has(DROPS_FILE) else []
    folder.write_json(DROPS_FILE, [*drops, {"sample": sample, "reason": error.reason, "detail": error.detail}])


# The result.


def job_of(folder: RunFolder, made_by: dict[str, Any]) -> ScoringJob:
    """The samples of a stored evaluation, found again.

    Raises:
        UserError: it is of no label-map benchmark, or the files are not there.
    """
    if "oracle" not in made_by:
        raise UserError(f"{folder.url}: is an evaluation of {made_by['benchmark']}, which needs no second scoring")
    benchmark, split = open_benchmark_split(f"{made_by['benchmark']}:{made_by['split']}")
    root = Path(made_by["root"]) if made_by["root"] else None
    samples = benchmark.find_samples(root, split)[: made_by["limit"] or None]
    return ScoringJob(folder, benchmark.name, tuple(samples))


def finish(job: ScoringJob, scores: Scores, made_by: dict[str, Any]) -> str:
    """Writes result.json, per_class.csv and the pictures; returns the text for the screen."""
    benchmark, _ = open_benchmark_split(job.benchmark)
    names = benchmark.names(made_by["names"])
    result = result_of(benchmark, scores, made_by)
    iou_K = segmentation_result(scores.counts).iou_K
    folder = job.folder
    folder.write_json(RESULT_FILE, result)
    folder.write(PER_CLASS_FILE, per_class_csv(benchmark, names, scores, iou_K))
    seen_K = seen_classes_of(benchmark)
    folder.write(BARS_FILE, per_class_bars(names, iou_K, f"{benchmark.title}: IoU by class", seen_K))
    folder.write(SAMPLES_FILE, draw_samples(job, benchmark, scores, names))
    return result_text(result, folder)


def result_of(benchmark: LabelMapBenchmark, scores: Scores, made_by: dict[str, Any]) -> dict[str, Any]:
    """What result.json holds: the numbers as shares of 1, null where there is nothing to divide by."""
    numbers = segmentation_result(scores.counts)
    seen_K = seen_classes_of(benchmark)
    parts = None if seen_K is None else asdict(split_result(scores.counts, seen_K))
    plain = {name: value for name, value in asdict(numbers).items() if name != "iou_K"}
    return _without_nan(
        {
            "benchmark": benchmark.title,
            "images": len(scores.samples),
            "protocol": protocol(benchmark, made_by),
            "numbers": plain,
            "seen": sum(each.name in benchmark.seen for each in benchmark.classes),
            "seen_unseen": parts,
            "made_by": made_by,
        }
    )


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
        f"{benchmark.title}, split {made_by['split']}"
        + (f", the first {made_by['limit']}" if made_by["limit"] else ""),
        f"masks {masks}, CLIP {models['clip']['name']}, class names "
        f"{made_by['names']} ({made_by['synonyms']}), {len(models['templates'])} templates",
        f"λ {options['clip_weight']:g}, mask threshold {options['mask_threshold']:g}: {made_by['chosen']}",
    ]
    lines += [oracles[made_by["oracle"]]] if made_by["oracle"] else []
    lines += ["CLIP's weights are random: the numbers mean nothing"] if made_by["meaningless"] else []
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
