"""Classification benchmarks: masked regions of any labelled set, Waterbirds, and folders of images (forgetting)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg_model.class_embeddings import templates_title
from ovseg_model.class_names import split_names
from ovseg_model.datasets.dataset_files import read_image
from ovseg_model.datasets.image_folder import open_image_folder
from ovseg_model.datasets.scene_nouns import NAMES
from ovseg_model.datasets.waterbirds import BACKGROUNDS, WATERBIRDS, BirdSample, read_region, region_note
from ovseg_model.group_metrics import GroupCounts, count_groups
from ovseg_model.labelled_regions import LabelledImage, LabelledSet, open_labelled_set
from ovseg_model.read_ahead import read_ahead
from ovseg_model.region_accuracy import TOP, RegionCounts, best_classes, count_best
from pipelines.draw_segmentation import per_class_bars
from pipelines.evaluate_expressions import required_root
from pipelines.evaluation import (
    BARS_FILE,
    PER_CLASS_FILE,
    RESULT_FILE,
    EvaluateOptions,
    Evaluation,
    clip_notes,
    predict_in_parts,
    regions_notes,
    sha256_of,
)
from pipelines.open_segmenter import ModelOptions, Models, open_models
from pipelines.write_tables import RunFolder
from schemas import UserError

if TYPE_CHECKING:
    from ovseg_model.class_names import ClassVectors

BATCH = 64
THREADS = 4
VERSION = 2
"""Raised whenever the same options begin to give other numbers."""


def embed_names(models: Models, names: Sequence[str], synonyms: str) -> ClassVectors:
    """The vectors of class names."""
    from ovseg_model.class_names import embed_classes

    return embed_classes(models.embeddings, split_names(names, synonyms), synonyms)


def begin(
    options: EvaluateOptions, model_options: ModelOptions, models: Models, folder: RunFolder, samples: Any
) -> Evaluation:
    """The evaluation with all that decides its numbers; samples: plain values that tell which are asked, in order."""
    made_by = {
        "version": VERSION,
        "benchmark": options.benchmark,
        "root": options.root,
        "limit": options.limit,
        "samples": sha256_of(samples),
        "synonyms": model_options.synonyms,
        "models": {name: value for name, value in models.fingerprint.items() if name != "proposals"},
        "meaningless": models.meaningless,
    }
    evaluation = Evaluation(folder, made_by)
    evaluation.begin()
    return evaluation


# Masked regions: the cheapest honest number, for it needs no proposals.


def evaluate_regions(options: EvaluateOptions, model_options: ModelOptions, folder: RunFolder) -> str:
    """Zero-shot accuracy on human masks, of any set that `open_labelled_set` takes as --root."""
    if not options.root:
        raise UserError(
            "--root is missing: give a labelled set, such as scenes, coco:INSTANCES.json:IMAGES or ade20k-150@FOLDER"
        )
    labelled = open_labelled_set(options.root, options.limit or None)
    models = open_models(model_options, folder.path(".work"), proposals=False)
    classes = embed_names(models, labelled.classes, model_options.synonyms)
    evaluation = begin(options, model_options, models, folder, [labelled.classes, labelled.samples])

    def predict(part: Sequence[int]) -> list[list[list[int]]]:
        chunks = (part[start : start + BATCH] for start in range(0, len(part), BATCH))
        return [rows for chunk in chunks for rows in recognise(map(labelled.read, chunk), models, classes)]

    counts = RegionCounts.zero(len(labelled.classes))
    for _, rows in predict_in_parts(evaluation, range(len(labelled.samples)), predict, "regions"):
        if rows:
            truth_N, best_NT = np.split(np.array(rows), [1], axis=1)
            counts += count_best(best_NT, truth_N[:, 0], len(labelled.classes))
    drawn = labelled.classes == NAMES  # of scenes, or of a folder of them
    notes = [*[labelled.warning] * bool(labelled.warning), images_note(labelled), *who(evaluation, drawn)]
    return told(f"masked regions of {labelled.name}", labelled.classes, counts, evaluation, notes)


def recognise(images: Iterable[LabelledImage], models: Models, classes: ClassVectors) -> Iterator[list[list[int]]]:
    """Yields the regions of each image, plain: true class, then the best ones. Images share CLIP's forwards."""
    images = list(images)
    vectors = models.regions.embed([(each.image_HW3, [each.masks_NHW]) for each in images])
    for image, vectors_ND in zip(images, vectors, strict=True):
        best_NT = best_classes(classes.join(vectors_ND @ classes.vectors_VD.T))
        yield np.column_stack([image.truth_N, best_NT]).tolist()


def images_note(labelled: LabelledSet) -> str:
    """Of how many images the numbers are, and of how many that are there."""
    taken = len(labelled.samples)
    if labelled.there is None:
        return f"the first {taken:,} drawn scenes, which have no end; --limit takes more or fewer"
    if taken < labelled.there:
        return f"the first {taken:,} of {labelled.there:,} images: the numbers compare with no published ones"
    return f"all {taken:,} images"


def told(title: str, names: Sequence[str], counts: RegionCounts, evaluation: Evaluation, notes: Sequence[str]) -> str:
    """Writes result.json, per_class.csv and the bars; returns the text for the screen.

    names: of the classes. notes: what must be said with the numbers.
    """
    shares = {"top1": counts.top1, f"top{TOP}": counts.top5, "mean_class": counts.mean_class}
    total = int(counts.regions_K.sum())
    plain = {name: None if math.isnan(value) else value for name, value in shares.items()}
    present = int((counts.regions_K > 0).sum())
    protocol = [f"{title}: {total:,} of {present} of {len(counts.regions_K)} classes", *notes]
    numbers = {**plain, "count": total}
    result = {"protocol": protocol, "numbers": numbers, "made_by": evaluation.made_by}
    evaluation.folder.write_json(RESULT_FILE, result)
    evaluation.folder.write(PER_CLASS_FILE, per_class_csv(names, counts))
    with np.errstate(invalid="ignore"):  # NaN of a class without regions
        share_K = counts.top1_K / counts.regions_K
    evaluation.folder.write(BARS_FILE, per_class_bars(names, share_K, f"{title}: top-1 by class", measure="top-1"))
    lines = [*protocol, ""]
    lines += [f"{name:<12}{100 * value:8.2f}" for name, value in shares.items()]
    return "\n".join([*lines, f"result: {evaluation.folder.path()}"])


def per_class_csv(names: Sequence[str], counts: RegionCounts) -> bytes:
    """A row a class: name, regions or images of it, those recognised at first and among the best."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["class", "name", "count", "top1", f"top{TOP}"])
    columns = (counts.regions_K.tolist(), counts.top1_K.tolist(), counts.top5_K.tolist())
    writer.writerows(zip(range(len(names)), names, *columns, strict=True))
    return sink.getvalue().encode()


def who(evaluation: Evaluation, drawn: bool = False) -> list[str]:
    """Which CLIP recognises by which prompts, and what must be said of it; drawn: as `clip_notes`."""
    models = evaluation.made_by["models"]
    notes = clip_notes(models["clip"], evaluation.made_by["meaningless"], drawn)
    return [f"CLIP {models['clip']['name']}, {templates_title(models['templates'])}", *regions_notes(models), *notes]


# Folders of images: what finetuning has forgotten.


def evaluate_image_folder(options: EvaluateOptions, model_options: ModelOptions, folder: RunFolder) -> str:
    """Zero-shot accuracy on whole images, by CLIP's own preprocessing (shorter side, centre crop)."""
    found = open_image_folder(required_root(options))
    images = found.images[: options.limit or None]
    models = open_models(model_options, folder.path(".work"), proposals=False)
    classes = embed_names(models, found.classes, model_options.synonyms)
    asked = [found.classes, [(image.name, image.label) for image in images]]
    evaluation = begin(options, model_options, models, folder, asked)
    read = whole_image_reader(models)

    def predict(part: Sequence[Any]) -> list[list[int]]:
        import torch

        pixels = torch.stack(list(read_ahead(lambda each: read(each.image), part, THREADS)))
        cosine_NK = classes.join(models.regions.clip.embed_images(pixels) @ classes.vectors_VD.T)
        return best_classes(cosine_NK).tolist()

    counts = RegionCounts.zero(len(found.classes))
    for image, best in predict_in_parts(evaluation, images, predict, "images"):
        counts += count_best(np.array([best]), np.array([image.label]), len(found.classes))
    notes = [f"the first {len(images):,} of {len(found.images):,} images"] * (len(images) < len(found.images))
    return told(f"whole images of {found.root}", found.classes, counts, evaluation, [*notes, *who(evaluation)])


def whole_image_reader(models: Models) -> Callable[[str], Any]:
    """A function from a path to an image as CLIP reads it, float32 (3, S, S), normalised."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    config = PreprocessCfg(**open_clip.get_model_preprocess_cfg(models.regions.clip.model))
    transform = image_transform_v2(config, is_train=False)
    return lambda path: transform(Image.fromarray(read_image(path)))


# Waterbirds.


def evaluate_waterbirds(options: EvaluateOptions, model_options: ModelOptions, folder: RunFolder) -> str:
    """Two class prompts on the bird's region; both averages, and the worst group."""
    root, split = required_root(options), options.benchmark.partition(":")[2] or WATERBIRDS.default_split
    samples = WATERBIRDS.find_samples(root, split)
    warning = WATERBIRDS.count_warning(split, samples)
    samples = samples[: options.limit or None]
    train_LB = WATERBIRDS.train_group_counts(root).reshape(len(WATERBIRDS.classes), len(BACKGROUNDS))
    models = open_models(model_options, folder.path(".work"), proposals=False)
    classes = embed_names(models, WATERBIRDS.classes, model_options.synonyms)
    asked = [(each.name, each.label, each.background, each.mask is not None) for each in samples]
    evaluation = begin(options, model_options, models, folder, asked)

    def predict(part: Sequence[BirdSample]) -> list[int]:
        birds = list(read_ahead(_read_bird, part, THREADS))
        vectors = models.regions.embed([(image, [region[None]]) for image, region in birds])
        return (np.concatenate(vectors) @ classes.vectors_VD.T).argmax(axis=1).tolist()

    predicted = list(predict_in_parts(evaluation, samples, predict, WATERBIRDS.name))
    columns = [np.array(each) for each in zip(*((p, s.label, s.background) for s, p in predicted), strict=True)]
    counts = count_groups(*columns, *train_LB.shape)
    protocol = [*[warning] * bool(warning), WATERBIRDS.notes, region_note(samples), *who(evaluation)]
    result = {"groups": counts.as_json(), "train_groups": train_LB.tolist(), "numbers": bird_numbers(counts, train_LB)}
    folder.write_json(RESULT_FILE, {"protocol": protocol, **result, "made_by": evaluation.made_by})
    return "\n".join([*protocol, "", *bird_lines(counts, train_LB), f"result: {folder.path()}"])


def _read_bird(sample: BirdSample) -> tuple[np.ndarray, np.ndarray]:
    image_HW3 = read_image(sample.image)
    return image_HW3, read_region(sample, *image_HW3.shape[:2])


def bird_numbers(counts: GroupCounts, train_LB: np.ndarray) -> dict[str, float | None]:
    """Both averages and the worst group, shares of 1; null where they cannot be."""
    shares = {
        "sample_mean": counts.sample_mean,
        "train_weighted_mean": counts.weighted_mean(train_LB),
        "worst_group": counts.worst,
    }
    return {name: None if math.isnan(value) else value for name, value in shares.items()}


def bird_lines(counts: GroupCounts, train_LB: np.ndarray) -> list[str]:
    """The table for the screen, in percent."""
    shares = [*counts.group_accuracy().ravel(), *bird_numbers(counts, train_LB).values()]
    names = [*WATERBIRDS.groups, "mean over images", "mean weighted by training groups", "worst group"]
    cells = ("-" if share is None or math.isnan(share) else f"{100 * share:.2f}" for share in shares)
    sizes = [f"   of {size:,}" for size in counts.samples_LB.ravel().tolist()] + [""] * 3
    return [f"{name:<34}{cell:>8}{size}" for name, cell, size in zip(names, cells, sizes, strict=True)]
