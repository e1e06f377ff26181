"""Referring and reasoning benchmarks: an expression is one prompt, proposals answer it; cIoU, gIoU and P@X."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovseg_model import rle
from ovseg_model.datasets.dataset_files import read_image
from ovseg_model.datasets.referring import ReferringSample, open_referring_benchmark
from ovseg_model.proposals import ImageInput, ProposalError
from ovseg_model.proposals.soft import frame_title
from pipelines.evaluation import (
    EvaluateOptions,
    Evaluation,
    Outcome,
    predict_in_parts,
)
from pipelines.expression_report import OTHERS, Answer, finish, identity_of, samples_of
from pipelines.open_segmenter import ModelOptions, Models, open_models
from pipelines.write_tables import RunFolder
from schemas import UserError

if TYPE_CHECKING:
    from ovseg_model.proposals.soft import SoftProposals

VERSION = 1
"""Raised whenever the same options begin to give other answers."""


@dataclass(frozen=True)
class Answering:
    """How proposals become an answer."""

    answer: str
    """best or union."""

    union_threshold: float
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
    answering = Answering(options.answer, options.union_threshold, mask_threshold)
    made_by = {
        "version": VERSION,
        "benchmark": benchmark.name,
        "split": split,
        "limit": options.limit,
        "samples": identity_of(samples),
        "answer": options.answer,
        "union_threshold": options.union_threshold if options.answer == "union" else None,
        "mask_threshold": mask_threshold,
        "models": models.fingerprint,
        "frame": frame_title(models.network),
        "meaningless": models.meaningless,
    }
    evaluation = Evaluation(folder, made_by, root=str(root.resolve()))
    evaluation.begin()
    answers = predict_in_parts(evaluation, samples, lambda part: answer(part, models, answering), benchmark.name)
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


def answer(samples: Sequence[ReferringSample], models: Models, answering: Answering) -> list[Answer]:
    """The answer to each expression. Masks are proposed once an image."""
    answers: list[Answer] = []
    for image, group in groupby(samples, key=lambda sample: sample.image):
        answers += answer_image(image, list(group), models, answering)
    return answers


def answer_image(image: str, samples: Sequence[ReferringSample], models: Models, answering: Answering) -> list[Answer]:
    """The answers to the expressions of one image.

    Raises:
        UserError: the image has another size than its masks.
    """
    pixels_HW3 = read_image(image)
    check_size(image, pixels_HW3, samples)
    texts_TD = models.embeddings.embed([sample.text for sample in samples])
    (found,) = models.network.propose_soft([ImageInput(Path(image).stem, image, pixels_HW3)], texts_TD)
    if isinstance(found, ProposalError):
        failed = {"reason": found.reason, "detail": found.detail}
        return [{"mask": None, "failed": failed} for _ in samples]
    masks = answer_texts(pixels_HW3, found, texts_TD, models, answering)
    return [{"mask": mask, "failed": None} for mask in masks]


def answer_texts(
    pixels_HW3: np.ndarray, found: SoftProposals, texts_TD: np.ndarray, models: Models, answering: Answering
) -> list[rle.Rle | None]:
    """The mask that answers each text, in the image's frame; None where no proposal does."""
    from ovseg_model.oracles import nearest
    from ovseg_model.segment import hard_masks, resize_image

    masks_Nhw = hard_masks(found.masks_Nhw, answering.mask_threshold)
    masks_Nhw = masks_Nhw[masks_Nhw.any(axis=(1, 2))]
    (vectors_ND,) = models.regions.embed([(resize_image(pixels_HW3, masks_Nhw.shape[1:]), [masks_Nhw])])
    chosen_TN = choose(vectors_ND, texts_TD, models.embeddings.embed([OTHERS])[0], answering)
    answers: list[rle.Rle | None] = [None] * len(texts_TD)
    for number in np.flatnonzero(chosen_TN.any(axis=1)):
        union_hw = masks_Nhw[chosen_TN[number]].any(axis=0)
        answers[number] = rle.encode_masks(nearest(union_hw, pixels_HW3.shape[:2])[None])[0]
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
