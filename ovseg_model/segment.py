"""Two-stage open-vocabulary segmentation: mask proposals, each classified as a masked region, joined into a label map.

The order is OVSeg's inference (Liang et al., CVPR 2023, section 3.1 and its release), step by step:

    soft masks M, network's probabilities p   proposals/soft.py
    hard masks M > threshold, valid if not empty
    CLIP's probabilities q                    softmax(100 cos(masked region, class)); 1 where a mask is not valid
    scores s = p^(1-λ) q^λ                    fuse
    label map                                 argmax_k Σ_n s[n,k] M[n], enlarged to the image before the argmax

Array names end in their axes: N proposals, K classes, h and w of the proposals' frame, H and W of the image, D
dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from ovseg_model.class_names import ClassVectors
from ovseg_model.label_png import UNLABELLED
from ovseg_model.proposals.generator import ImageInput, ProposalError
from ovseg_model.proposals.soft import ProposalNetwork, SoftProposals
from ovseg_model.rank_agreement import CropAgreement
from ovseg_model.region_encoder import MaskEncoder
from schemas.errors import UserError

LOGIT_SCALE = 100.0
"""OVSeg's fixed temperature, whatever the model's own has become (section 5.1 of its method)."""

SUMS_AT_ONCE = 2**24
"""Numbers of a label map's sums held at once, 64 MB: 847 classes of a 2560 x 1920 image would be 17 GB."""

SUMS_IN_CACHE = 2**18
"""The same on a CPU, 1 MB: the largest of sums that are still in its cache is found twice as fast."""


def _option(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True)
class SegmentOptions:
    """How proposals become a label map; the defaults are OVSeg's for Swin-B and ViT-L/14 on ADE20K."""

    mask_threshold: float = _option(
        0.4, "a soft mask above it is foreground, which CLIP sees; OVSeg: 0.4 Swin-B, 0.5 R101c, 0.35 demo"
    )
    clip_weight: float = _option(
        0.7,
        "λ, CLIP's share in the geometric fusion with the proposal network, 0 to 1: 0 runs no CLIP, 1 is CLIP alone "
        "(what OVSeg's release writes as 0); without meaning where the generator knows no classes",
    )
    soft_masks: bool = _option(True, "weigh pixels by soft masks, as OVSeg does")
    best_proposal_only: bool = _option(False, "each class keeps the one proposal that it scores highest on")

    def __post_init__(self) -> None:
        """Refuses values outside their range; raises UserError."""
        for name in ("mask_threshold", "clip_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name.replace('_', '-')}: wanted 0 to 1, got {getattr(self, name)}")


DEMO = SegmentOptions(mask_threshold=0.35, clip_weight=1.0, soft_masks=False, best_proposal_only=True)
"""OVSeg's demo, `--demo`: CLIP alone, because the network's classes are biased to those that it was trained on."""


class ScoredProposals(NamedTuple):
    """The proposals of one image with their class scores."""

    masks_Nhw: np.ndarray
    """float32 in [0, 1], or bool."""

    scores_NK: np.ndarray
    """float32 in [0, 1]."""

    valid_N: np.ndarray
    """bool: the hard mask has a pixel."""


class Segmentation(NamedTuple):
    """What is known of one image."""

    labels_HW: np.ndarray
    """uint16: class of each pixel, UNLABELLED (65535) where no proposal covers it."""

    proposals: ScoredProposals


@dataclass(frozen=True)
class Segmenter:
    """Proposals and CLIP, opened once; segments images with any classes."""

    network: ProposalNetwork
    regions: MaskEncoder
    """Of the CLIP whose text tower embeds the class names, on the device where label maps are made."""

    options: SegmentOptions
    agreement: CropAgreement | None = None
    """Told of what `regions` makes of the first images, where it reads masks in one pass."""

    def segment(self, images: Sequence[ImageInput], classes: ClassVectors) -> Iterator[Segmentation | ProposalError]:
        """Yields the segmentation of each image, or why there is none, in order."""
        for image, scored in zip(images, self.score(images, classes), strict=True):
            if isinstance(scored, ProposalError):
                yield scored
            else:
                yield Segmentation(self.label_map(scored, image.pixels_HW3.shape[:2]), scored)

    def label_map(self, scored: ScoredProposals, size_HW: Sequence[int]) -> np.ndarray:
        """As the function of this name, on CLIP's device."""
        return label_map(scored, size_HW, self.options, self.regions.clip.device)

    def score(self, images: Sequence[ImageInput], classes: ClassVectors) -> Iterator[ScoredProposals | ProposalError]:
        """Yields the scored proposals of each image, in order; the regions of a batch share CLIP's forwards."""
        for start in range(0, len(images), self.network.batch_size):
            batch = images[start : start + self.network.batch_size]
            proposed = self.network.propose_soft(batch, classes.vectors_VD)
            yield from self.score_batch(batch, proposed, classes)

    def score_batch(
        self, images: Sequence[ImageInput], proposed: Sequence[SoftProposals | ProposalError], classes: ClassVectors
    ) -> Iterator[ScoredProposals | ProposalError]:
        """Yields what became of the proposals of one batch, in order."""
        there = [(image, each) for image, each in zip(images, proposed, strict=True) if isinstance(each, SoftProposals)]
        kept_images, kept = zip(*there, strict=True) if there else ((), ())
        options = self.options
        parts = score_parts(
            kept_images,
            kept,
            self.regions,
            classes,
            options.mask_threshold,
            ask_clip=options.clip_weight > 0,
            agreement=self.agreement,
        )
        scored = (fuse_scores(each, options) for each in parts)
        for each in proposed:
            yield each if isinstance(each, ProposalError) else next(scored)


class ScoreParts(NamedTuple):
    """The proposals of one image before fusion: everything but λ is settled."""

    masks_Nhw: np.ndarray
    """As they were proposed."""

    hard_Nhw: np.ndarray
    """bool."""

    valid_N: np.ndarray
    """bool: the hard mask has a pixel."""

    network_NK: np.ndarray | None
    """p, float32; None from a generator that knows no classes."""

    clip_NK: np.ndarray
    """q, float32; 1 where a proposal is not valid, and everywhere if CLIP was not asked."""


def score_parts(
    images: Sequence[ImageInput],
    proposed: Sequence[SoftProposals],
    regions: MaskEncoder,
    classes: ClassVectors,
    mask_threshold: float,
    ask_clip: bool = True,
    agreement: CropAgreement | None = None,
) -> list[ScoreParts]:
    """Returns both probabilities of a few images' proposals: steps 1 to 4 of section 5.2 of OVSeg's method.

    ask_clip: False leaves CLIP out where the network knows the classes. agreement: told of CLIP's vectors.
    """
    hard = [hard_masks(each.masks_Nhw, mask_threshold) for each in proposed]
    valid = [masks.any(axis=(1, 2)) for masks in hard]
    if ask_clip or any(each.class_probability_NK is None for each in proposed):
        frames = [resize_image(image.pixels_HW3, masks.shape[1:]) for image, masks in zip(images, hard, strict=True)]
        kept = [(frame, masks[good]) for frame, masks, good in zip(frames, hard, valid, strict=True)]
        vectors = regions.embed([(frame, [masks]) for frame, masks in kept])
        if agreement:
            agreement.add(kept, vectors, classes.vectors_VD)
        clip = [spread(clip_probability(each, classes), good) for each, good in zip(vectors, valid, strict=True)]
    else:
        clip = [np.ones((len(masks), classes.count), np.float32) for masks in hard]
    parts = zip(proposed, hard, valid, clip, strict=True)
    return [
        ScoreParts(each.masks_Nhw, masks, good, network_probability(each.class_probability_NK, classes), q_NK)
        for each, masks, good, q_NK in parts
    ]


def network_probability(probability_NV: np.ndarray | None, classes: ClassVectors) -> np.ndarray | None:
    """Returns the network's probability of each class, p, float32 (N, K): as if logits were joined before the softmax.

    probability_NV: of each name, without "no object", which is what a row lacks of 1; None stays None. A softmax over
    the best name of each class and "no object" is their probabilities over their sum: the logits are not needed. A
    class of many names loses nothing to itself, as in `clip_probability`.
    """
    if probability_NV is None or classes.count == probability_NV.shape[1]:
        return probability_NV
    best_NK = classes.join(probability_NV)
    no_object_N1 = np.maximum(0, 1 - probability_NV.sum(axis=1, keepdims=True))
    total_N1 = best_NK.sum(axis=1, keepdims=True) + no_object_N1
    return np.divide(best_NK, total_N1, out=np.zeros_like(best_NK), where=total_N1 > 0)


def fuse_scores(parts: ScoreParts, options: SegmentOptions) -> ScoredProposals:
    """Returns the fused scores, step 5; `options` has the mask threshold that the parts were made with."""
    scores_NK = fuse(parts.network_NK, parts.clip_NK, parts.valid_N, options.clip_weight)
    masks_Nhw = parts.masks_Nhw if options.soft_masks else parts.hard_Nhw
    return ScoredProposals(masks_Nhw, scores_NK, parts.valid_N)


def hard_masks(masks_Nhw: np.ndarray, threshold: float) -> np.ndarray:
    """Returns what is foreground, bool (N, h, w): strictly above the threshold; hard masks stay as they are."""
    return masks_Nhw if masks_Nhw.dtype == bool else masks_Nhw > threshold


def resize_image(image_HW3: np.ndarray, frame_hw: Sequence[int]) -> np.ndarray:
    """Returns the image in the proposals' frame, RGB uint8 (h, w, 3), bilinear; itself where that is its own size."""
    height, width = frame_hw
    if image_HW3.shape[:2] == (height, width):
        return image_HW3
    from PIL import Image

    return np.asarray(Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BILINEAR))


def clip_probability(vectors_ND: np.ndarray, classes: ClassVectors) -> np.ndarray:
    """Returns CLIP's probability of each class, q, float32 (N, K): a softmax over the classes alone."""
    # By torch: numpy's own threads would fight with those of the forward before.
    cosines_NV = (torch.from_numpy(vectors_ND) @ torch.from_numpy(classes.vectors_VD).T).numpy()
    logits_NK = LOGIT_SCALE * classes.join(cosines_NV)
    exponentials = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def spread(probability_MK: np.ndarray, valid_N: np.ndarray) -> np.ndarray:
    """Returns rows for all proposals, float32 (N, K): those of the M valid ones in their places, 1 elsewhere."""
    spread_NK = np.ones((len(valid_N), probability_MK.shape[1]), np.float32)
    spread_NK[valid_N] = probability_MK
    return spread_NK


def fuse(p_NK: np.ndarray | None, q_NK: np.ndarray, valid_N: np.ndarray, clip_weight: float) -> np.ndarray:
    """Returns s = p^(1-λ) q^λ, float32 (N, K), λ = clip_weight.

    Proposals that are not valid have q = 1 and count by p alone; with λ = 1, or where the generator knows no classes
    (p_NK None), CLIP stands alone and they score 0.
    """
    if p_NK is None or clip_weight == 1:
        return np.where(valid_N[:, None], q_NK, 0).astype(np.float32)
    return (p_NK ** (1 - clip_weight) * q_NK**clip_weight).astype(np.float32)


def label_map(
    scored: ScoredProposals, size_HW: Sequence[int], options: SegmentOptions, device: str = "cpu"
) -> np.ndarray:
    """Returns the class of each pixel, uint16 (H, W): argmax_k Σ_n s[n,k] M[n], UNLABELLED where all are 0.

    The sums are enlarged bilinearly to the image before the argmax, as in detectron2's sem_seg_postprocess; the lower
    class wins a tie. device: where they are computed, a part at a time: neither 847 classes nor twelve megapixels may
    fill the memory.
    """
    scores_NK = best_proposals(scored) if options.best_proposal_only else scored.scores_NK
    scores = torch.from_numpy(np.ascontiguousarray(scores_NK)).to(device)
    if scored.masks_Nhw.shape[1:] == tuple(size_HW):
        return _labels_in_frame(scores, scored.masks_Nhw)
    return _labels_enlarged(scores.T.contiguous(), scored.masks_Nhw, tuple(size_HW))


def _labels_in_frame(scores_NK: torch.Tensor, masks_Nhw: np.ndarray) -> np.ndarray:
    """The label map of masks in the image's own frame, a few pixels at a time, each with its classes side by side."""
    device, (count, height, width) = scores_NK.device, masks_Nhw.shape
    masks_NP = masks_Nhw.reshape(count, height * width)
    labels_P = torch.empty(height * width, dtype=torch.int32, device=device)
    step = max(1, (SUMS_IN_CACHE if device.type == "cpu" else SUMS_AT_ONCE) // max(1, *scores_NK.shape))
    for start in range(0, height * width, step):
        part = slice(start, start + step)
        sums_PK = torch.from_numpy(masks_NP[:, part]).to(device).float().T @ scores_NK
        top_P, class_P = sums_PK.max(dim=1)
        labels_P[part] = torch.where(top_P > 0, class_P, UNLABELLED)
    return labels_P.cpu().numpy().astype(np.uint16).reshape(height, width)


def _labels_enlarged(scores_KN: torch.Tensor, masks_Nhw: np.ndarray, size_HW: tuple[int, ...]) -> np.ndarray:
    """The label map of masks in another frame, a few classes at a time: each is enlarged by itself."""
    device, (_, height, width) = scores_KN.device, masks_Nhw.shape
    masks_NP = torch.from_numpy(masks_Nhw).to(device).float().flatten(1)
    best_HW = torch.zeros(size_HW, device=device)
    labels_HW = torch.full(size_HW, UNLABELLED, dtype=torch.int32, device=device)
    step = max(1, SUMS_AT_ONCE // (size_HW[0] * size_HW[1]))
    for first in range(0, len(scores_KN), step):
        sums_Chw = (scores_KN[first : first + step] @ masks_NP).reshape(-1, height, width)
        sums_CHW = interpolate(sums_Chw[None], size_HW, mode="bilinear", align_corners=False)[0]
        top_HW, class_HW = sums_CHW.max(dim=0)
        better_HW = top_HW > best_HW
        best_HW = torch.where(better_HW, top_HW, best_HW)
        labels_HW = torch.where(better_HW, class_HW.int() + first, labels_HW)
    return labels_HW.cpu().numpy().astype(np.uint16)


def best_proposals(scored: ScoredProposals) -> np.ndarray:
    """Returns the scores with all but each class's best proposal set to 0, float32 (N, K); the first wins a tie."""
    kept_NK = np.zeros_like(scored.scores_NK)
    if len(kept_NK):
        best_K, classes_K = scored.scores_NK.argmax(axis=0), np.arange(kept_NK.shape[1])
        kept_NK[best_K, classes_K] = scored.scores_NK[best_K, classes_K]
    return kept_NK


@dataclass(frozen=True)
class Segment:
    """One piece of an image that belongs to one proposal."""

    proposal: int
    class_number: int
    score: float
    """Of the class, 0 to 1."""

    mask_hw: np.ndarray
    """bool, in the proposals' frame."""


def instances(scored: ScoredProposals, options: SegmentOptions, least_score: float = 0.0) -> list[Segment]:
    """Returns every valid proposal with its best class, in order of falling score; masks may overlap."""
    hard = hard_masks(scored.masks_Nhw, options.mask_threshold)
    best_N = scored.scores_NK.argmax(axis=1) if len(hard) else np.empty(0, int)
    score_N = scored.scores_NK[np.arange(len(hard)), best_N]
    order = np.argsort(-score_N, kind="stable")
    chosen = [int(n) for n in order if scored.valid_N[n] and score_N[n] >= least_score]
    return [Segment(n, int(best_N[n]), float(score_N[n]), hard[n]) for n in chosen]


LEAST_OVERLAP = 0.8
"""A panoptic segment that keeps less than this share of its mask goes (MaskFormer, Cheng et al. 2021, section 3.4)."""


def panoptic_segments(scored: ScoredProposals, options: SegmentOptions, least_score: float = 0.0) -> list[Segment]:
    """Returns segments that do not overlap, in the order of the proposals: MaskFormer's general inference.

    A pixel goes to the proposal of highest score times soft mask, if its own mask is hard there too; a segment that
    keeps less than LEAST_OVERLAP of its mask is left out.
    """
    found = sorted(instances(scored, options, least_score), key=lambda each: each.proposal)
    if not found:
        return []
    owner_hw = _owners(scored.masks_Nhw[[each.proposal for each in found]], [each.score for each in found])
    segments = []
    for number, each in enumerate(found):
        mask_hw = (owner_hw == number) & each.mask_hw
        if mask_hw.any() and mask_hw.sum() >= LEAST_OVERLAP * each.mask_hw.sum():
            segments.append(Segment(each.proposal, each.class_number, each.score, mask_hw))
    return segments


def _owners(masks_Nhw: np.ndarray, scores: Sequence[float]) -> np.ndarray:
    """The proposal of greatest score times mask at each pixel, int64 (h, w), a few rows at a time; the first wins."""
    count, height, width = masks_Nhw.shape
    scores_N11 = np.asarray(scores, np.float32)[:, None, None]
    owner_hw = np.empty((height, width), np.int64)
    step = max(1, SUMS_AT_ONCE // (count * width))
    for top in range(0, height, step):
        owner_hw[top : top + step] = (scores_N11 * masks_Nhw[:, top : top + step]).argmax(axis=0)
    return owner_hw
