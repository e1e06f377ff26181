"""Masks of any MaskFormer or Mask2Former: the paper's generator (OVSeg, section 3.2), its classes ignored.

Hard masks in the network's order. Only what a mask needs is computed at the image's size: a query none of whose
logits is above the threshold has an empty mask, since bilinear interpolation goes nowhere above its corners.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ovseg_model.device_clock import device_at_work
from ovseg_model.halving import Fitting
from ovseg_model.proposals.generator import (
    GeneratorKind,
    ImageInput,
    MaskProposals,
    ProposalError,
    Resolution,
)
from ovseg_model.proposals.network_input import InputSize, padded
from ovseg_model.proposals.network_weights import OVSEG_TYPE, NetworkWeights, resolve_network
from ovseg_model.proposals.options import option
from ovseg_model.rle import Rle, encode_masks
from schemas.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ovseg_model.proposals.query_network import Queries, QueryNetwork
    from ovseg_model.proposals.soft import SoftProposals

VERSION = 1
"""Raised whenever the same options begin to give other masks."""

BATCHES_A_CALL = 4
"""Images that are looked through for equal sizes, in batches: photos are landscape or portrait."""

PIXELS_AT_ONCE = {"cpu": 1 << 22}
MOST_PIXELS = 1 << 26
LEAST_PIXELS = 1 << 20
"""Pixels of enlarged logits held at once, by kind of device: 16 MB, elsewhere 256 MB, where memory runs out 4 MB; but
one mask whatever its size."""


@dataclasses.dataclass(frozen=True)
class MaskformerOptions:
    """Options of the maskformer generator; sizes are those of OVSeg's Swin-B configuration."""

    weights: str = option(help="a folder, or a Hugging Face id as facebook/maskformer-swin-base-coco")
    short_side_px: int = option(640, unit="px", minimum=32, help="short side at which the network reads an image")
    max_side_px: int = option(2560, unit="px", minimum=32, help="where the long side would be longer, this is it")
    mask_threshold: float = option(
        0.5, minimum=0.01, maximum=0.99, help="a pixel belongs to a mask above this probability"
    )
    min_area_fraction: float = option(
        0.0, unit="share of the image", minimum=0, maximum=1, help="smaller masks are left out"
    )
    max_masks: int = option(
        100, unit="masks", minimum=1, help="masks kept of one image, those of highest score, in the network's order"
    )
    score: str = option(
        "objectness",
        choices=("objectness", "quality"),
        help="what predicted_iou holds: 1 - P(no object), or the mean probability inside the mask",
    )
    use_objectness: bool = option(
        False,
        help="for ovseg segment and evaluate with a plain checkpoint: 1 - P(no object), spread evenly over the "
        "classes, is fused with CLIP's probabilities by λ",
    )
    batch: int = option(4, unit="images", minimum=1, help="images a forward; only those of one padded size share one")
    precision: str = option(
        "auto", choices=("auto", "fp32", "bf16", "fp16"), help="autocast; auto is bf16 on a GPU and fp32 on a CPU"
    )

    @property
    def size(self) -> InputSize:
        """At which images are read."""
        return InputSize(self.short_side_px, self.max_side_px)


OF_HARD_MASKS = ("mask_threshold", "min_area_fraction", "max_masks", "score")
"""Options that soft masks do not read: every query takes part, and the segmenter has a threshold of its own."""


class Maskformer:
    """Hard masks of a query network, in the order of its queries; empty ones are left out.

    predicted_iou is the network's objectness, 1 - P(no object), or by option the mean probability inside the mask:
    neither was trained to be an IoU, but both order masks.
    """

    name = "maskformer"

    def __init__(self, network: QueryNetwork, options: MaskformerOptions) -> None:
        """Takes an open network, which decides batch and size."""
        self.batch_size = BATCHES_A_CALL * network.batch_size
        self._network, self._options = network, options
        asked = PIXELS_AT_ONCE.get(network.device.split(":")[0], MOST_PIXELS)
        self._fitting = Fitting(asked, halved_pixels, "pixels of enlarged masks")

    @property
    def gives_probabilities(self) -> bool:
        """As `ProposalNetwork`: OVSeg's own network does, a plain checkpoint does not."""
        return self._network.gives_probabilities

    @property
    def frame(self) -> str:
        """As `ProposalNetwork`."""
        return self._network.frame

    def check_soft_options(self, given: Collection[str]) -> None:
        """Refuses options that `propose_soft` does not read; given: names of those that the user gave."""
        for name in OF_HARD_MASKS:
            if name in given:
                raise UserError(
                    f"--mask-option {name}: is for mining; here every query of maskformer takes part with its soft "
                    "mask, and --mask-threshold says what is foreground; leave it away"
                )

    def check_vectors(self, embed: Callable[[Sequence[str]], np.ndarray]) -> None:
        """As `OvsegNetwork`; a plain checkpoint reads no class vectors. Raises UserError."""
        check = getattr(self._network, "check_vectors", None)
        if check:
            check(embed)

    def propose(self, images: Sequence[ImageInput]) -> list[MaskProposals | ProposalError]:
        """Return one outcome an image, in order; no_masks where every mask is empty or too small."""
        found = self._network.queries([image.pixels_HW3 for image in images])
        return [self._masks(queries, image.pixels_HW3.shape[:2]) for queries, image in zip(found, images, strict=True)]

    def propose_soft(self, images: Sequence[ImageInput], class_vectors_KD: np.ndarray) -> list[SoftProposals]:
        """As `ProposalNetwork`: every query, masks soft; of the options only those of the input count."""
        return self._network.propose_soft(images, class_vectors_KD)

    def _masks(self, queries: Queries, size: tuple[int, int]) -> MaskProposals | ProposalError:
        masks, scores_N = self._fitting.run(lambda pixels: self._large_masks(queries, size, pixels))
        if not masks:
            return ProposalError("no_masks", "no query has a mask that is large enough")
        best = best_in_order(scores_N, self._options.max_masks).tolist()
        return MaskProposals([masks[at] for at in best], scores_N[best].tolist())

    def _large_masks(self, queries: Queries, size: tuple[int, int], pixels: int) -> tuple[list[Rle], torch.Tensor]:
        """Masks that are large enough, and their scores (N,); at most so many pixels are enlarged to at once."""
        import torch

        at_once = max(1, pixels // max(math.prod(size), math.prod(padded(queries.size))))
        rles: list[Rle] = []
        kept = []
        with torch.inference_mode():
            rows_N = (queries.mask_logits_Nhw.amax(dim=(1, 2)) > self._threshold).nonzero()[:, 0]
            for few_N in rows_N.split(at_once):
                with device_at_work(self._network.device):
                    masks_NHW, *scores = self._measured(queries, few_N, size)
                rles += encode_masks(masks_NHW)
                kept.append(scores)
            rows, qualities = zip(*kept, strict=True)
            if self._options.score == "quality":
                return rles, torch.cat(qualities)
            # Of all at once: how many rows are multiplied decides how their products are rounded.
            return rles, self._network.classifier.objectness(queries.heads_NX[torch.cat(rows)])

    def _measured(self, queries: Queries, rows_N: torch.Tensor, size: tuple[int, int]) -> Measured:
        """The masks of some queries that are large enough."""
        logits_NHW = image_logits(queries._replace(mask_logits_Nhw=queries.mask_logits_Nhw[rows_N]), size)
        masks_NHW = logits_NHW > self._threshold
        areas_N = masks_NHW.sum(dim=(1, 2))
        kept_N = (areas_N >= max(1, self._options.min_area_fraction * math.prod(size))).nonzero()[:, 0]
        masks_NHW, quality_N = masks_NHW[kept_N], None
        if self._options.score == "quality":
            quality_N = (logits_NHW[kept_N].sigmoid() * masks_NHW).sum(dim=(1, 2)) / areas_N[kept_N]
        return Measured(masks_NHW.cpu().numpy(), rows_N[kept_N], quality_N)

    @property
    def _threshold(self) -> float:
        """Of mask logits."""
        return math.log(self._options.mask_threshold / (1 - self._options.mask_threshold))


class Measured(NamedTuple):
    """Some queries at the image's size."""

    masks_NHW: np.ndarray
    rows_N: torch.Tensor
    """Which queries they are."""
    quality_N: torch.Tensor | None
    """Mean probability inside each mask, where that is its score."""


def halved_pixels(pixels: int) -> int | None:
    """Returns half as many, or None for the least."""
    return pixels // 2 if pixels > LEAST_PIXELS else None


def image_logits(queries: Queries, size: tuple[int, int]) -> torch.Tensor:
    """Returns mask logits in the image's own frame, (N, H, W): those of the size it was read at, bilinear."""
    from torch.nn.functional import interpolate

    from ovseg_model.proposals.query_network import enlarge

    read_NHW = enlarge(queries.mask_logits_Nhw, queries.size)
    if queries.size == size or not len(read_NHW):
        return read_NHW.reshape(-1, *size) if not len(read_NHW) else read_NHW
    return interpolate(read_NHW[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def best_in_order(scores_N: torch.Tensor, most: int) -> torch.Tensor:
    """Returns positions of the highest scores, ascending, int64; of equal scores the earlier."""
    return scores_N.argsort(descending=True, stable=True)[:most].sort().values


def _resolve(options: MaskformerOptions, device: str, work_folder: str) -> Resolution:
    """Finds or fetches the weights and opens them once, so that ones that do not fit stop the run before it starts."""
    weights = resolve_network(options.weights)
    if options.use_objectness and weights.model_type == OVSEG_TYPE:
        raise UserError("mask generator maskformer: use_objectness is for plain checkpoints; this network has classes")
    network = _network(weights, options, device)
    # Masks as such do not depend on use_objectness: it is told where it was asked for, and older hashes stay.
    unnamed = {"weights"} | (set() if options.use_objectness else {"use_objectness"})
    values = {name: value for name, value in dataclasses.asdict(options).items() if name not in unnamed}
    identity = {"version": VERSION, **weights.fingerprint(), "options": values, "device": network.device.split(":")[0]}
    return Resolution(identity, dataclasses.asdict(weights))


def _network(weights: NetworkWeights, options: MaskformerOptions, device: str) -> QueryNetwork:
    from ovseg_model.proposals.query_network import open_network

    return open_network(
        weights, device, options.precision, options.size, options.batch, use_objectness=options.use_objectness
    )


def _open(options: MaskformerOptions, places: Mapping[str, str], device: str) -> Maskformer:
    return Maskformer(_network(NetworkWeights(**places), options, device), options)


KIND = GeneratorKind(MaskformerOptions, _resolve, _open, ("torch", "transformers"))
