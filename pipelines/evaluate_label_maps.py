"""Label-map benchmarks: λ settled, predictions stored image by image, then counted; label_map_report.py tells them."""

from __future__ import annotations

import json
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
    open_benchmark_split,
)
from ovseg_model.label_png import UNLABELLED, label_png
from ovseg_model.proposals import ImageInput, ProposalError
from ovseg_model.rank_agreement import IMAGES_COMPARED
from ovseg_model.read_ahead import read_ahead
from pipelines.draw_segmentation import class_colours
from pipelines.evaluation import (
    DROPS_FILE,
    PREDICTIONS,
    TUNING_FILE,
    EvaluateOptions,
    Evaluation,
    Outcome,
    compare_with_crops,
    evenly_spaced,
)
from pipelines.label_map_report import finish
from pipelines.open_segmenter import ModelOptions, Models, check_class_vectors, open_models
from pipelines.progress import show_progress
from pipelines.score_predictions import (
    THREADS,
    ScoringJob,
    prediction_file,
    prediction_name,
    score_plain,
    write_scores,
)
from pipelines.write_tables import RunFolder
from schemas import UserError

if TYPE_CHECKING:
    from ovseg_model.class_names import ClassVectors
    from ovseg_model.oracles import TruthMasks
    from ovseg_model.segment import ScoredProposals, Segmenter, SegmentOptions

VERSION = 2
"""Raised whenever the same options begin to give other predictions."""


@dataclass(frozen=True)
class Asked:
    """A label-map evaluation as it was asked for."""

    options: EvaluateOptions
    segment: SegmentOptions
    models: ModelOptions
    given: frozenset[str]
    """Names of the options that were given: the others may be the benchmark's own."""


@dataclass(frozen=True)
class Work:
    """The same with everything open."""

    asked: Asked
    benchmark: LabelMapBenchmark
    split: str
    root: Path | None
    samples: tuple[LabelledSample, ...]
    there: int
    """Images of the split, before --limit."""

    models: Models
    vectors: ClassVectors
    segmenter: Segmenter

    def made_by(self) -> dict[str, Any]:
        """What decides a prediction, but for λ and the mask threshold."""
        from ovseg_model.proposals.soft import frame_title

        options = self.asked.options
        return {
            "version": VERSION,
            "benchmark": self.benchmark.name,
            "split": self.split,
            "root": str(self.root.resolve()) if self.root else None,
            "limit": options.limit,
            "names": options.names,
            "synonyms": self.asked.models.synonyms,
            "oracle": options.oracle,
            "models": self.models.fingerprint,
            "frame": frame_title(self.segmenter.network),
            "meaningless": self.models.meaningless,
        }


def evaluate_label_maps(asked: Asked, folder: RunFolder) -> Outcome:
    """Predicts what is missing, scores, writes the result and returns it as text.

    Raises:
        UserError: an option, a file of the benchmark or a weight is not as wanted.
    """
    work = open_work(asked, folder)
    settings = settle(work, folder)
    made_by = {**work.made_by(), "options": asdict(settings.options), "chosen": settings.chosen}
    Evaluation(folder, made_by).begin()
    job = ScoringJob(folder, work.benchmark.name, work.samples, work.there)
    work = replace(work, segmenter=replace(work.segmenter, options=settings.options))
    compare_with_crops(folder, work.models.agreement, lambda: read_for_agreement(work))
    predict(job, work)
    scores = score_plain(job)
    write_scores(folder, scores)
    return finish(job, scores, made_by)


def open_work(asked: Asked, folder: RunFolder) -> Work:
    """Finds the samples, then opens the models and embeds the class names.

    Raises:
        UserError: as `evaluate_label_maps`.
    """
    from ovseg_model.class_names import embed_classes
    from ovseg_model.segment import Segmenter

    options = asked.options
    benchmark, split = open_benchmark_split(options.benchmark)
    root = Path(options.root) if options.root else None
    samples = tuple(benchmark.find_samples(root, split))
    there, samples = len(samples), samples[: options.limit or None]
    models = open_models(asked.models, folder.path(".work"), proposals=options.oracle != "masks")
    if not options.oracle and not ("clip_weight" in asked.given and asked.segment.clip_weight == 1):
        check_class_vectors(models)
    names = split_names(benchmark.names(options.names), asked.models.synonyms)
    vectors = embed_classes(models.embeddings, names, asked.models.synonyms)
    network = truth_masks(benchmark, samples) if options.oracle == "masks" else models.network
    segmenter = Segmenter(network, models.regions, asked.segment)
    return Work(asked, benchmark, split, root, samples, there, models, vectors, segmenter)


def truth_masks(benchmark: LabelMapBenchmark, samples: Iterable[LabelledSample]) -> TruthMasks:
    """The truth's own masks as a proposal network, for --oracle masks."""
    from ovseg_model.oracles import TruthMasks

    by_name = {sample.name: sample for sample in samples}
    return TruthMasks(lambda name: benchmark.read_labels(by_name[name]), IGNORE)


# λ and the mask threshold.


@dataclass(frozen=True)
class Settings:
    """Options of the segmenter, and how they came to be."""

    options: SegmentOptions
    chosen: str
    """A sentence that is printed with every number."""


def settle(work: Work, folder: RunFolder) -> Settings:
    """λ and threshold: tuned where that was asked for, 1 where masks have no classes, else given or the benchmark's."""
    from ovseg_model.proposals.soft import gives_probabilities

    asked = work.asked
    if asked.options.tune_on:
        return tuned(work, folder)
    if not gives_probabilities(work.segmenter.network):
        return Settings(replace(asked.segment, clip_weight=1.0), clip_alone(asked.segment, asked.given))
    if "clip_weight" in asked.given:
        return Settings(asked.segment, "as given")
    how = "λ is OVSeg's for this benchmark, or nearest to it (docs/benchmarks.md); it was searched on ADE20K's own val"
    return Settings(replace(asked.segment, clip_weight=work.benchmark.settings.clip_weight), how)


def clip_alone(segment: SegmentOptions, given: frozenset[str]) -> str:
    """Why λ is 1, and that a λ which was given has no part in it."""
    how = "the masks come without class probabilities, so CLIP stands alone"
    in_vain = "clip_weight" in given and segment.clip_weight != 1
    return f"{how}; --clip-weight {segment.clip_weight:g} has no part in it" if in_vain else how


def tuned(work: Work, folder: RunFolder) -> Settings:
    """The best point of the grid on another split; the grid is stored, and read again where it was searched before.

    Raises:
        UserError: that split is the reported one, or nothing depends on the grid.
    """
    from ovseg_model.tuning import Tried, tune

    tune_on = tuning_split(work)
    samples = evenly_spaced(work.benchmark.find_samples(work.root, tune_on), work.asked.options.tune_images)
    searched = json.loads(json.dumps({**work.made_by(), "split": tune_on, "limit": len(samples)}))
    if folder.has(TUNING_FILE) and (stored := folder.read_json(TUNING_FILE))["searched"] == searched:
        tried = [Tried(*point) for point in stored["tried"]]
    else:
        batches = labelled_batches(work.benchmark, samples, work.segmenter.network.batch_size)
        shown = show_progress(batches, "tune", "images", len(samples), size_of_batch)
        tried = tune(work.segmenter, shown, work.vectors)
        folder.write_json(TUNING_FILE, {"searched": searched, "tried": tried})
    best = tried[0]
    options = replace(work.asked.segment, mask_threshold=best.mask_threshold, clip_weight=best.clip_weight)
    how = (
        f"λ {best.clip_weight:g} and mask threshold {best.mask_threshold:g} are the best of {len(tried)} points on "
        f"{len(samples)} images of {tune_on}, by mIoU U ({best.miou_union:.4f} there)"
    )
    return Settings(options, how)


def tuning_split(work: Work) -> str:
    """The split of --tune-on.

    Raises:
        UserError: it is the reported one, is none, or there is nothing to tune: all before the first image.
    """
    from ovseg_model.proposals.soft import HardProposals
    from ovseg_model.tuning import NOTHING_TO_TUNE

    oracle = work.asked.options.oracle
    if oracle == "masks":
        raise UserError("--tune-on: with --oracle masks nothing depends on λ or the mask threshold; leave it away")
    if oracle == "labels":
        raise UserError("--tune-on: with --oracle labels no class is predicted, so λ has no part; leave it away")
    if isinstance(work.segmenter.network, HardProposals):
        raise UserError(NOTHING_TO_TUNE)
    tune_on = work.benchmark.checked_split(work.asked.options.tune_on)
    if tune_on == work.split:
        others = ", ".join(each for each in work.benchmark.splits if each != tune_on) or "none: it has no other"
        raise UserError(f"--tune-on {tune_on}: is the split that is reported; wanted another of its splits ({others})")
    return tune_on


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


def size_of_batch(batch: tuple[Sequence[ImageInput], Sequence[np.ndarray]]) -> int:
    """Images of a batch."""
    return len(batch[0])


def read_input(benchmark: LabelMapBenchmark, sample: LabelledSample) -> ImageInput:
    """A sample's image as generators take it; its id is the sample's name."""
    return ImageInput(sample.name, sample.image, benchmark.read_image(sample))


# Predictions.


def predict(job: ScoringJob, work: Work) -> None:
    """Writes the label map of every sample that has none yet; one whose proposals fail is unlabelled, and listed."""
    there = set(job.folder.names(PREDICTIONS))
    missing = [each for each in job.samples if prediction_name(each).rpartition("/")[2] not in there]
    segmenter, vectors = work.segmenter, work.vectors
    colours_K3, size = class_colours(vectors.count), segmenter.network.batch_size
    batches = labelled_batches(work.benchmark, missing, size)
    label = f"predict {work.benchmark.name}"
    for images, maps in show_progress(batches, label, "images", len(missing), size_of_batch):
        proposed = segmenter.network.propose_soft(images, vectors.vectors_VD)
        scored = segmenter.score_batch(images, proposed, vectors)
        for image, truth_HW, found in zip(images, maps, scored, strict=True):
            if isinstance(found, ProposalError):
                note_drop(job.folder, image.image_id, found)
            labels_HW = labels_of(found, truth_HW, segmenter, vectors.count, work.asked.options.oracle)
            job.folder.write(prediction_file(image.image_id), label_png(labels_HW, colours_K3))


def read_for_agreement(work: Work) -> None:
    """Scores a few samples with one pass beside crops; their label maps are not made here."""
    segmenter = replace(work.segmenter, agreement=work.models.agreement)
    images = [read_input(work.benchmark, sample) for sample in evenly_spaced(work.samples, IMAGES_COMPARED)]
    for _ in segmenter.score(images, work.vectors):
        pass


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
