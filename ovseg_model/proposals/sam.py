"""Masks of SAM (Kirillov et al., ICCV 2023): what segment-anything's SamAutomaticMaskGenerator returns, faster.

Options have its names and defaults; docs/masks.md says what is faster and what was measured. With option boxes, one
mask for each box that a detector made.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ovseg_model.halving import Fitting, is_device_error
from ovseg_model.proposals.generator import (
    GeneratorKind,
    ImageInput,
    MaskProposals,
    ProposalError,
    Resolution,
)
from ovseg_model.proposals.options import option
from ovseg_model.proposals.sam_boxes import BoxTable, prepare_boxes
from ovseg_model.proposals.sam_weights import SamWeights, load_sam, resolve_sam
from schemas.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ovseg_model.proposals.sam_everything import Batches, SamModel
    from ovseg_model.proposals.sam_postprocess import KeptMasks

VERSION = 1
"""Raised whenever the same options begin to give other masks."""

COMPARED = (
    "mask_precision_images",
    "mask_precision_equal_millionths",
    "mask_precision_iou_millionths",
    "mask_precision_apart_millionths",
)
"""Counts of a comparison with fp32: images, and sums over them of what `sam_agreement.PromptAgreement` holds."""

COMPARED_POINTS_PER_SIDE = 4
MILLIONTHS = 1_000_000

IMAGES_ON_A_GPU = 4
"""Images, or crops, of one forward where image_batch is 0; more gain little."""


@dataclasses.dataclass(frozen=True)
class SamOptions:
    """Options of the sam generator; those that segment-anything has, by its names and defaults."""

    checkpoint: str = option(help="a SAM checkpoint: a path, or vit_b, vit_l, vit_h where the published file lies here")
    model_type: str = option(
        "auto", choices=("auto", "vit_b", "vit_l", "vit_h"), help="what the checkpoint must be; auto takes what it is"
    )
    image_encoder: str = option("", help="package.module:factory of an encoder that is no ViT, as MobileSAM's")
    points_per_side: int = option(32, unit="points", minimum=1, help="of the grid; all of it is its square")
    points_per_batch: int = option(64, unit="points", minimum=1, help="a forward; a CPU takes what its caches hold")
    pred_iou_thresh: float = option(0.88, help="masks of no higher predicted IoU are left out; 0 keeps all")
    stability_score_thresh: float = option(0.95, help="masks of lower stability are left out; 0 keeps all")
    stability_score_offset: float = option(
        1.0, unit="logits", help="stability: IoU of the mask with itself, its threshold this much higher and lower"
    )
    box_nms_thresh: float = option(0.7, minimum=0, maximum=1, help="of two boxes this alike the lesser is dropped")
    crop_n_layers: int = option(0, minimum=0, maximum=4, help="layers of crops: the 2 x 2 of the first, 4 x 4, ...")
    crop_nms_thresh: float = option(0.7, minimum=0, maximum=1, help="box_nms_thresh for masks of different crops")
    crop_overlap_ratio: float = option(
        512 / 1500, unit="share of the short side", minimum=0, maximum=1, help="by which crops overlap"
    )
    crop_n_points_downscale_factor: int = option(1, minimum=1, help="points_per_side of a layer is divided by this")
    min_mask_region_area: int = option(0, unit="px", minimum=0, help="smaller holes and islands are removed")
    boxes: str = option("", help="COCO results or instances JSON: a mask for each box, in place of a grid of points")
    box_score_thresh: float = option(0.0, help="boxes of a lower score get no mask")
    box_multimask: bool = option(True, help="of a box: the best by predicted IoU of three masks, or SAM's single mask")
    precision: str = option("fp32", choices=("fp32", "bf16", "fp16"), help="of encoder and decoder; weights are cast")
    compare_precision: bool = option(True, help="half precision is compared with fp32 on an image of a run")
    compile: bool = option(False, help="torch.compile encoder and decoder: minutes at first, faster afterwards")
    # The identity holds this 0 and the kind of device, so that it stays true of a device that is found out later.
    image_batch: int = option(
        0, unit="images", minimum=0, help="images, or crops, a forward; 0 is 1 on a CPU and 4 on a GPU"
    )


class SegmentAnything:
    """Masks of SAM, highest predicted IoU first, or one a box in the order of the boxes.

    Where a GPU's memory runs out, forwards are halved and the images tried again, down to one point of one image.
    predicted_iou is cut to 0..1: SAM's may lie a little outside.
    """

    name = "sam"

    def __init__(self, model: SamModel, options: SamOptions, boxes: BoxTable | None = None) -> None:
        """Takes an open model, and the table of option boxes."""
        from ovseg_model.proposals.sam_everything import Batches

        self._model, self._options, self._boxes = model, options, boxes
        self.batch_size = options.image_batch or (1 if model.device == "cpu" else IMAGES_ON_A_GPU)
        asked = Batches(self.batch_size, options.points_per_batch)
        self._fitting = Fitting(asked, Batches.halved, "SAM's forwards")

    def propose(self, images: Sequence[ImageInput]) -> list[MaskProposals | ProposalError]:
        """Return one outcome an image, in order; no_masks where none passes, no_annotation where no box is known."""
        return self._fitting.run(lambda batches: self._propose(images, batches))

    def _propose(self, images: Sequence[ImageInput], batches: Batches) -> list[MaskProposals | ProposalError]:
        from ovseg_model.proposals.sam_everything import everything

        if self._boxes:
            return self._in_boxes(images, batches)
        found = everything(self._model, [image.pixels_HW3 for image in images], self._options, batches)
        return [_proposals(kept, "no mask passes SAM's thresholds") for kept in found]

    def _in_boxes(self, images: Sequence[ImageInput], batches: Batches) -> list[MaskProposals | ProposalError]:
        from ovseg_model.proposals.sam_everything import masks_in_boxes

        options, known = self._options, self._boxes.look_up(images)
        asked = [at for at, boxes in enumerate(known) if boxes is not None and len(boxes)]
        found = masks_in_boxes(
            self._model,
            [images[at].pixels_HW3 for at in asked],
            [known[at] for at in asked],
            options.stability_score_offset,
            options.box_multimask,
            batches,
        )
        of_image = dict(zip(asked, found, strict=True))
        return [
            _proposals(of_image[at], "") if at in of_image else _without_boxes(image, known[at] is not None)
            for at, image in enumerate(images)
        ]


class HalfPrecisionSam(SegmentAnything):
    """A SAM in bf16 or fp16, which can say how far it agrees with fp32."""

    def __init__(
        self, model: SamModel, options: SamOptions, boxes: BoxTable | None, open_model: Callable[[str], SamModel]
    ) -> None:
        """open_model: opens the same SAM in a precision, not compiled."""
        super().__init__(model, options, boxes)
        self._open_model = open_model

    def measure(self, image_HW3: np.ndarray) -> dict[str, int]:
        """Returns counts of how far masks of an image, RGB uint8 (H, W, 3), agree with fp32; they add up over images.

        The fp32 model is held meanwhile. None, and a line in the log, where that does not fit or another thing is
        wrong: a comparison must not cost a run its masks. Raises only what a broken GPU does.
        """
        try:
            return self._compared(image_HW3)
        except Exception as problem:
            if is_device_error(problem):
                raise
            why = f"{type(problem).__name__}: {problem}"
            logging.getLogger(__name__).warning("%s is not compared with fp32: %s", self._options.precision, why)
        return {}

    def _compared(self, image_HW3: np.ndarray) -> dict[str, int]:
        from ovseg_model.proposals.sam_agreement import prompt_agreement

        # torch.compile would take minutes for the shapes of this one forward.
        half = self._open_model(self._options.precision) if self._options.compile else self._model
        found = prompt_agreement(self._open_model("fp32"), half, image_HW3, COMPARED_POINTS_PER_SIDE)
        millionths = (round(share * MILLIONTHS) for share in found)
        return dict(zip(COMPARED, (1, *millionths), strict=True))


def mask_precision_sentence(precision: str, counts: Mapping[str, int]) -> str:
    """Says in words what counts of `HalfPrecisionSam.measure` add up to."""
    images, *sums = (counts.get(name, 0) for name in COMPARED)
    if not images:
        return f"SAM in {precision} was not compared with fp32: no image has masks, it failed, or was not wanted"
    equal, iou, apart = (each / MILLIONTHS / images for each in sums)
    points = COMPARED_POINTS_PER_SIDE**2
    return (
        f"SAM in {precision} beside fp32, {points} points on {images:,} of its images: {equal:.2%} of mask pixels "
        f"equal, IoU {iou:.4f} in the mean, predicted IoUs {apart:.1e} apart"
    )


def _proposals(kept: KeptMasks, why_none: str) -> MaskProposals | ProposalError:
    if not kept.masks:
        return ProposalError("no_masks", why_none)
    return MaskProposals(kept.masks, [min(max(score, 0.0), 1.0) for score in kept.predicted_iou], kept.stability)


def _without_boxes(image: ImageInput, is_listed: bool) -> ProposalError:
    if is_listed:
        return ProposalError("no_masks", "the image has no box of sufficient score")
    return ProposalError("no_annotation", f"no box is known of image {image.image_id!r} ({image.image_uri})")


def _resolve(options: SamOptions, device: str, work_folder: str) -> Resolution:
    """Find the weights and build their model once, so that ones that do not fit stop the run before it starts."""
    from ovseg_model.clip import resolve_device

    layer_points = options.points_per_side // options.crop_n_points_downscale_factor**options.crop_n_layers
    if layer_points < 1:
        raise UserError(
            f"mask generator sam: the last of {options.crop_n_layers} crop layers has no point a side left; give a "
            "higher points_per_side or a lower crop_n_points_downscale_factor"
        )
    kind = resolve_device(device).split(":")[0]
    weights = resolve_sam(options.checkpoint, options.model_type, options.image_encoder)
    not_ours = ("checkpoint", "model_type", "boxes", "compare_precision")
    values = {name: value for name, value in dataclasses.asdict(options).items() if name not in not_ours}
    identity = {"version": VERSION, **weights.fingerprint(), "options": values, "device": kind}
    places = dataclasses.asdict(weights)
    if options.boxes:
        places["boxes"], identity["boxes_sha256"] = prepare_boxes(options.boxes, work_folder, options.box_score_thresh)
    return Resolution(identity, places)


def _open(options: SamOptions, places: Mapping[str, str], device: str) -> SegmentAnything:
    from ovseg_model.clip import resolve_device
    from ovseg_model.proposals.sam_everything import SamModel

    boxes = BoxTable(places["boxes"]) if "boxes" in places else None
    weights = SamWeights(**{name: place for name, place in places.items() if name != "boxes"})

    def open_model(precision: str, compiled: bool = False) -> SamModel:
        return SamModel(load_sam(weights), resolve_device(device), precision, compiled)

    model = open_model(options.precision, options.compile)
    if options.precision == "fp32" or not options.compare_precision:
        return SegmentAnything(model, options, boxes)
    return HalfPrecisionSam(model, options, boxes, open_model)


KIND = GeneratorKind(SamOptions, _resolve, _open, ("scipy", "segment-anything", "torch", "torchvision"))
