"""Classification benchmarks: masked regions of any labelled set, Waterbirds, and folders of images (forgetting)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg_model.class_names import split_names
from ovseg_model.datasets.dataset_files import read_image
from ovseg_model.datasets.image_folder import open_image_folder
from ovseg_model.datasets.waterbirds import BACKGROUNDS, WATERBIRDS, BirdSample, read_region, region_note
from ovseg_model.group_metrics import GroupCounts, count_groups
from ovseg_model.labelled_regions import LabelledImage, open_labelled_set
from ovseg_model.read_ahead import read_ahead
from ovseg_model.region_accuracy import TOP, RegionCounts, count_regions
from pipelines.evaluate_expressions import required_root
from pipelines.evaluation import RESULT_FILE, EvaluateOptions, Evaluation, predict_in_parts
from pipelines.open_segmenter import ModelOptions, Models, open_models
from pipelines.progress import show_progress
from pipelines.write_tables import RunFolder
from schemas import UserError

if TYPE_CHECKING:
    from ovseg_model.class_names import ClassVectors

BATCH = 64
THREADS = 4
MOST_IMAGES = 2_000
"""Images of a labelled set where --limit does not say it: drawn scenes have no end."""

VERSION = 1
"""Raised whenever the same options begin to give other numbers."""


def embed_names(models: Models, names: Sequence[str], synonyms: str) -> ClassVectors:
    """The vectors of class names."""
    from ovseg_model.class_names import embed_classes

    return embed_classes(models.embeddings, split_names(names, synonyms), synonyms)


def begin(options: EvaluateOptions, model_options: ModelOptions, models: Models, folder: RunFolder) -> Evaluation:
    """The evaluation with all that decides its numbers."""
    made_by = {
        "version": VERSION,
        "benchmark": options.benchmark,
        "root": options.root,
        "limit": options.limit,
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
    labelled = open_labelled_set(options.root, options.limit or MOST_IMAGES)
    models = open_models(model_options, folder.path(".work"), proposals=False)
    classes = embed_names(models, labelled.classes, model_options.synonyms)
    evaluation = begin(options, model_options, models, folder)
    counts = RegionCounts.zero(len(labelled.classes))
    for images in show_progress(_chunks(labelled.images()), "regions", f"x{BATCH} images"):
        vectors = models.regions.embed([(each.image_HW3, [each.masks_NHW]) for each in images])
        truth_N = np.concatenate([each.truth_N for each in images])
        counts += count_regions(classes.join(np.concatenate(vectors) @ classes.vectors_VD.T), truth_N)
    return told(f"masked regions of {labelled.name}", counts, evaluation)


def _chunks(images: Iterator[LabelledImage]) -> Iterator[list[LabelledImage]]:
    images = (each for each in images if len(each.truth_N))
    while chunk := list(islice(images, BATCH)):
        yield chunk


def told(title: str, counts: RegionCounts, evaluation: Evaluation) -> str:
    """Writes result.json; returns the text for the screen."""
    shares = {"top1": counts.top1, f"top{TOP}": counts.top5, "mean_class": counts.mean_class}
    total = int(counts.regions_K.sum())
    plain = {name: None if math.isnan(value) else value for name, value in shares.items()}
    evaluation.folder.write_json(RESULT_FILE, {"numbers": {**plain, "count": total}, "made_by": evaluation.made_by})
    present = int((counts.regions_K > 0).sum())
    lines = [f"{title}: {total:,} of {present} of {len(counts.regions_K)} classes", _who(evaluation)]
    lines += [f"{name:<12}{100 * value:8.2f}" for name, value in shares.items()]
    return "\n".join([*lines, f"result: {evaluation.folder.path()}"])


def _who(evaluation: Evaluation) -> str:
    models = evaluation.made_by["models"]
    note = "; its weights are random: the numbers mean nothing" if evaluation.made_by["meaningless"] else ""
    return f"CLIP {models['clip']['name']}, {len(models['templates'])} templates{note}"


# Folders of images: what finetuning has forgotten.


def evaluate_image_folder(options: EvaluateOptions, model_options: ModelOptions, folder: RunFolder) -> str:
    """Zero-shot accuracy on whole images, by CLIP's own preprocessing (shorter side, centre crop)."""
    found = open_image_folder(required_root(options))
    images = found.images[: options.limit or None]
    models = open_models(model_options, folder.path(".work"), proposals=False)
    classes = embed_names(models, found.classes, model_options.synonyms)
    evaluation = begin(options, model_options, models, folder)
    read = whole_image_reader(models)

    def predict(part: Sequence[Any]) -> list[list[int]]:
        import torch

        pixels = torch.stack(list(read_ahead(lambda each: read(each.image), part, THREADS)))
        cosine_NK = classes.join(models.regions.clip.embed_images(pixels) @ classes.vectors_VD.T)
        return np.argsort(-cosine_NK, axis=1, kind="stable")[:, :TOP].tolist()

    counts = RegionCounts.zero(len(found.classes))
    for image, best in predict_in_parts(evaluation, images, predict, "images"):
        ranks_1K = np.zeros((1, len(found.classes)), np.float32)
        ranks_1K[0, best] = np.arange(len(best), 0, -1)
        counts += count_regions(ranks_1K, np.array([image.label]))
    return told(f"whole images of {found.root}", counts, evaluation)


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
    evaluation = begin(options, model_options, models, folder)

    def predict(part: Sequence[BirdSample]) -> list[int]:
        birds = list(read_ahead(_read_bird, part, THREADS))
        vectors = models.regions.embed([(image, [region[None]]) for image, region in birds])
        return (np.concatenate(vectors) @ classes.vectors_VD.T).argmax(axis=1).tolist()

    predicted = list(predict_in_parts(evaluation, samples, predict, WATERBIRDS.name))
    columns = [np.array(each) for each in zip(*((p, s.label, s.background) for s, p in predicted), strict=True)]
    counts = count_groups(*columns, *train_LB.shape)
    result = {"groups": counts.as_json(), "train_groups": train_LB.tolist(), "numbers": bird_numbers(counts, train_LB)}
    folder.write_json(RESULT_FILE, {**result, "made_by": evaluation.made_by})
    notes = [warning] * bool(warning) + [WATERBIRDS.notes, region_note(samples), _who(evaluation)]
    return "\n".join([*notes, "", *bird_lines(counts, train_LB), f"result: {folder.path()}"])


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
