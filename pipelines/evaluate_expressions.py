"""Referring and reasoning benchmarks: an expression is one prompt, proposals answer it; cIoU, gIoU and P@X."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg_model import rle
from ovseg_model.datasets.dataset_files import read_image
from ovseg_model.datasets.referring import ReferringBenchmark, ReferringSample, open_referring_benchmark
from ovseg_model.mask_metrics import MaskCounts
from ovseg_model.proposals import ImageInput, ProposalError
from ovseg_model.proposals.soft import frame_title
from ovseg_model.rank_agreement import IMAGES_COMPARED
from pipelines.evaluation import (
    TUNING_FILE,
    EvaluateOptions,
    Evaluation,
    Outcome,
    compare_with_crops,
    evenly_spaced,
    predict_in_parts,
)
from pipelines.expression_report import OTHERS, Answer, finish, identity_of, samples_of, score_answer
from pipelines.open_segmenter import ModelOptions, Models, open_models
from pipelines.progress import show_progress
from pipelines.write_tables import RunFolder
from schemas import UserError

if TYPE_CHECKING:
    from ovseg_model.proposals.soft import SoftProposals

VERSION = 2
"""Raised whenever the same options begin to give other answers."""


@dataclass(frozen=True)
class Answering:
    """How proposals become an answer."""

    answer: str
    """best or union."""

    union_threshold: float | None
    """None of the best."""

    mask_threshold: float


def evaluate_expressions(
    options: EvaluateOptions,
    model_options: ModelOptions,
    mask_threshold: float,
    folder: RunFolder,
    given: Collection[str],
) -> Outcome:
    """Answers every expression, scores, writes result.json and returns the text for the screen.

    given: names of the options that the user gave.

    Raises:
        UserError: an option, a file of the benchmark or a weight is not as wanted.
    """
    name, _, split = options.benchmark.partition(":")
    benchmark = open_referring_benchmark(name)
    split = split or benchmark.default_split
    root = required_root(options)
    samples, warning = samples_of(benchmark, root, split, options.limit)
    models = open_models(one_prompt(model_options, given), folder.path(".work"))
    made_by = {
        "version": VERSION,
        "benchmark": benchmark.name,
        "split": split,
        "limit": options.limit,
        "samples": identity_of(samples),
        "answer": options.answer,
        "mask_threshold": mask_threshold,
        "models": models.fingerprint,
        "frame": frame_title(models.network),
        "meaningless": models.meaningless,
    }
    silent = replace(models, agreement=None)
    made_by |= settle_threshold(Question(benchmark, root, split, silent, made_by), options, folder)
    answering = Answering(options.answer, made_by["union_threshold"], mask_threshold)
    evaluation = Evaluation(folder, made_by, root=str(root.resolve()))
    evaluation.begin()
    compare_with_crops(folder, models.agreement, lambda: read_for_agreement(samples, models, answering))
    answers = predict_in_parts(evaluation, samples, lambda part: answer(part, silent, answering), benchmark.name)
    return finish(benchmark, answers, made_by, warning, folder)


def one_prompt(options: ModelOptions, given: Collection[str]) -> ModelOptions:
    """The options with the expression itself as the prompt, but where templates were given: it is no class name."""
    return options if "templates" in given else replace(options, templates="{}")


def required_root(options: EvaluateOptions) -> Path:
    """The folder of the data set.

    Raises:
        UserError: none was given, or it is none.
    """
    if not options.root:
        raise UserError(f"--root is missing: give the folder that holds the files of {options.benchmark}")
    root = Path(options.root)
    if not root.is_dir():
        raise UserError(f"--root {root}: is no folder; give the one that holds the files of {options.benchmark}")
    return root


def read_for_agreement(samples: Sequence[ReferringSample], models: Models, answering: Answering) -> None:
    """Answers the expressions of a few images with one pass beside crops; the answers are not kept."""
    chosen = set(evenly_spaced(sorted({sample.image for sample in samples}), IMAGES_COMPARED))
    answer([sample for sample in samples if sample.image in chosen], models, answering)


def answer(samples: Sequence[ReferringSample], models: Models, answering: Answering) -> list[Answer]:
    """The answer to each expression. Masks are proposed once an image."""
    answers: list[Answer] = []
    for image, group in groupby(samples, key=lambda sample: sample.image):
        answers += answer_image(image, list(group), models, [answering])[0]
    return answers


def answer_image(
    image: str, samples: Sequence[ReferringSample], models: Models, ways: Sequence[Answering]
) -> list[list[Answer]]:
    """The answers to the expressions of one image by each of some ways, which have one mask threshold.

    Raises:
        UserError: the image has another size than its masks.
    """
    pixels_HW3 = read_image(image)
    check_size(image, pixels_HW3, samples)
    texts_TD = models.embeddings.embed([sample.text for sample in samples])
    (found,) = models.network.propose_soft([ImageInput(Path(image).stem, image, pixels_HW3)], texts_TD)
    if isinstance(found, ProposalError):
        failed = {"reason": found.reason, "detail": found.detail}
        return [[{"mask": None, "failed": failed} for _ in samples] for _ in ways]
    masks = answer_texts(pixels_HW3, found, texts_TD, models, ways)
    return [[{"mask": mask, "failed": None} for mask in each] for each in masks]


def answer_texts(
    pixels_HW3: np.ndarray, found: SoftProposals, texts_TD: np.ndarray, models: Models, ways: Sequence[Answering]
) -> list[list[rle.Rle | None]]:
    """The mask that answers each text by each way, in the image's frame; None where no proposal does."""
    from ovseg_model.segment import hard_masks, resize_image

    masks_Nhw = hard_masks(found.masks_Nhw, ways[0].mask_threshold)
    masks_Nhw = masks_Nhw[masks_Nhw.any(axis=(1, 2))]
    frame_hw3 = resize_image(pixels_HW3, masks_Nhw.shape[1:])
    (vectors_ND,) = models.regions.embed([(frame_hw3, [masks_Nhw])])
    if models.agreement:
        models.agreement.add([(frame_hw3, masks_Nhw)], [vectors_ND], texts_TD)
    others_D = models.embeddings.embed([OTHERS])[0]
    chosen = (choose(vectors_ND, texts_TD, others_D, way) for way in ways)
    return [unions(masks_Nhw, chosen_TN, pixels_HW3.shape[:2]) for chosen_TN in chosen]


def unions(masks_Nhw: np.ndarray, chosen_TN: np.ndarray, size_HW: Sequence[int]) -> list[rle.Rle | None]:
    """The union of the masks that each text chose, in another frame; None where it chose none."""
    from ovseg_model.oracles import nearest

    answers: list[rle.Rle | None] = [None] * len(chosen_TN)
    for number in np.flatnonzero(chosen_TN.any(axis=1)):
        union_hw = masks_Nhw[chosen_TN[number]].any(axis=0)
        answers[number] = rle.encode_masks(nearest(union_hw, size_HW)[None])[0]
    return answers


def check_size(image: str, pixels_HW3: np.ndarray, samples: Sequence[ReferringSample]) -> None:
    """Refuses an image of another size than the masks of its expressions; raises UserError."""
    for sample in samples:
        if tuple(sample.mask["size"]) != pixels_HW3.shape[:2]:
            raise UserError(
                f"{image}: is {pixels_HW3.shape[:2]}, the mask of {sample.name} {tuple(sample.mask['size'])} (height, "
                "width); give the images that the annotations were made on"
            )


def choose(vectors_ND: np.ndarray, texts_TD: np.ndarray, others_D: np.ndarray, answering: Answering) -> np.ndarray:
    """Which proposals answer each text, bool (T, N): the best, or all that are likelier than "others" by a threshold.

    vectors_ND, texts_TD, others_D: unit vectors. The first proposal wins a tie.
    """
    from ovseg_model.segment import LOGIT_SCALE

    cosine_TN = texts_TD @ vectors_ND.T
    if answering.answer == "union":
        margin_TN = LOGIT_SCALE * (cosine_TN - vectors_ND @ others_D)
        probability_TN = (1 + np.tanh(margin_TN / 2)) / 2  # the softmax over two, without an exp that overflows
        return probability_TN > answering.union_threshold
    chosen_TN = np.zeros(cosine_TN.shape, bool)
    if cosine_TN.shape[1]:
        chosen_TN[np.arange(len(chosen_TN)), cosine_TN.argmax(axis=1)] = True
    return chosen_TN


# The threshold of a union.

UNION_THRESHOLDS = tuple(number / 20 for number in range(2, 20))
"""0.1 to 0.95; at 0.5 a proposal is as near to the expression as to "others"."""


@dataclass(frozen=True)
class Question:
    """What is asked of what, with everything open."""

    benchmark: ReferringBenchmark
    root: Path
    split: str
    models: Models
    made_by: dict[str, Any]
    """What decides an answer, but for the threshold."""


def settle_threshold(question: Question, options: EvaluateOptions, folder: RunFolder) -> dict[str, Any]:
    """The threshold of the union and how it came to be: nothing, as given, or the best on another split.

    Raises:
        UserError: --tune-on is the split that is reported, or none.
    """
    if options.answer != "union":
        return {"union_threshold": None, "chosen": ""}
    if not options.tune_on:
        return {"union_threshold": options.union_threshold, "chosen": "not tuned"}
    if options.tune_on == question.split:
        raise UserError(f"--tune-on {options.tune_on}: is the split that is reported; wanted another of its splits")
    samples, _ = samples_of(question.benchmark, question.root, options.tune_on, 0)
    samples = evenly_spaced(samples, options.tune_images)
    tried = tried_before(question, samples, options.tune_on, folder)
    threshold, giou = tried[0]
    how = f"the best of {len(tried)} on {len(samples):,} expressions of {options.tune_on}, by gIoU ({giou:.4f} there)"
    return {"union_threshold": threshold, "chosen": how}


def tried_before(
    question: Question, samples: Sequence[ReferringSample], split: str, folder: RunFolder
) -> list[tuple[float, float]]:
    """What `try_thresholds` says, stored, and read again where just this was searched before."""
    searched = {**question.made_by, "split": split, "samples": identity_of(samples), "limit": len(samples)}
    searched = json.loads(json.dumps(searched))
    if folder.has(TUNING_FILE) and (stored := folder.read_json(TUNING_FILE))["searched"] == searched:
        return [(threshold, giou) for threshold, giou in stored["tried"]]
    tried = try_thresholds(samples, question.models, question.made_by["mask_threshold"])
    folder.write_json(TUNING_FILE, {"searched": searched, "tried": tried})
    return tried


def try_thresholds(
    samples: Sequence[ReferringSample], models: Models, mask_threshold: float
) -> list[tuple[float, float]]:
    """Every threshold with its gIoU, best first; ties in the order of the thresholds. Masks are proposed once."""
    ways = [Answering("union", threshold, mask_threshold) for threshold in UNION_THRESHOLDS]
    counts = [MaskCounts()] * len(ways)
    groups = [list(group) for _, group in groupby(samples, key=lambda sample: sample.image)]
    for group in show_progress(groups, "tune", "expressions", len(samples), len):
        by_way = answer_image(group[0].image, group, models, ways)
        for number, answers in enumerate(by_way):
            counts[number] += sum(map(score_answer, group, [each["mask"] for each in answers]), MaskCounts())
    tried = [(way.union_threshold, each.giou) for way, each in zip(ways, counts, strict=True)]
    return sorted(tried, key=lambda each: -each[1])
