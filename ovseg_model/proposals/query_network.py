"""A MaskFormer or Mask2Former at work: queries of images, their masks, and how sure it is that they are something.

Array names end in their axes: B images of one padded size, N queries, K classes, D dimensions of the class vectors, H
and W pixels, h and w the network's own coarser grid, X whatever its class head puts out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.nn.functional import interpolate

from ovseg_model.clip import first_line, resolve_device
from ovseg_model.device_clock import device_at_work
from ovseg_model.halving import fitting_rows
from ovseg_model.proposals.generator import ImageInput
from ovseg_model.proposals.network_input import (
    InputSize,
    Size,
    groups_of_one_size,
    pad_batch,
    padded,
    resize_image,
    resized,
)
from ovseg_model.proposals.network_weights import OVSEG_TYPE, NetworkWeights, pixel_statistics, require_transformers
from ovseg_model.proposals.soft import SoftProposals
from schemas.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
"""auto: bf16 on a GPU, fp32 on a CPU. Half precision is autocast, not a cast of the weights: sampling positions of
Mask2Former in bf16 would be several pixels off."""

BATCH = 4
"""Images a forward: enough to fill a GPU at 640 px, and 100 masks of each still fit beside the weights."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Queries(NamedTuple):
    """What a network says of one image, float32 on its device."""

    mask_logits_Nhw: torch.Tensor
    """Over the padded input."""

    heads_NX: torch.Tensor
    """Class logits of a plain network, the last of which is "no object"; embeddings of OVSeg's."""

    size: Size
    """At which the image was read."""


class Classifier(Protocol):
    """How a network reads its class heads."""

    gives_probabilities: bool
    """Whether `class_probability` is more than None."""

    def objectness(self, heads_NX: torch.Tensor) -> torch.Tensor:
        """1 - P(no object) of each query, float32 (N,)."""
        ...

    def class_probability(self, heads_NX: torch.Tensor, class_vectors_KD: np.ndarray) -> torch.Tensor | None:
        """P(class) of each query, float32 (N, K), rows of sum 1 or less; None from a network without classes."""
        ...


class PlainClassifier:
    """Any MaskFormer's own classes, of which only "no object" is read: its proposals have no class."""

    def __init__(self, use_objectness: bool = False) -> None:
        """use_objectness: spread 1 - P(no object) evenly over the asked classes, so that a fusion weighs queries."""
        self.gives_probabilities = use_objectness

    def objectness(self, heads_NX: torch.Tensor) -> torch.Tensor:
        """As `Classifier`."""
        return 1 - heads_NX.softmax(dim=-1)[:, -1]

    def class_probability(self, heads_NX: torch.Tensor, class_vectors_KD: np.ndarray) -> torch.Tensor | None:
        """As `Classifier`."""
        if not self.gives_probabilities:
            return None
        classes = len(class_vectors_KD)
        return (self.objectness(heads_NX) / classes)[:, None].expand(-1, classes)


class QueryNetwork:
    """An open network: images in, queries out. Also a `ProposalNetwork` of soft masks."""

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        classifier: Classifier,
        mean_std: tuple[Sequence[float], Sequence[float]],
        size: InputSize,
        device: str = "cpu",
        precision: str = "auto",
        batch: int = BATCH,
    ) -> None:
        """module: pixels float32 (B, 3, H, W) to class heads (B, N, X) and mask logits (B, N, h, w).

        mean_std: of its input, RGB in 0..1. batch: images a forward. Raises UserError for an unknown device or
        precision.
        """
        if precision not in PRECISIONS:
            raise UserError(f"precision: wanted one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.device = resolve_device(device)
        self.name, self.batch_size = name, batch
        self._fitting = fitting_rows(batch, "the proposal network's batches")
        self.classifier, self.size = classifier, size
        self._mean_std = mean_std
        self._dtype = _DTYPES.get(settled_precision(precision, self.device))
        self._module = module.to(self.device).eval().requires_grad_(False)

    @property
    def gives_probabilities(self) -> bool:
        """As `ProposalNetwork`."""
        return self.classifier.gives_probabilities

    @property
    def frame(self) -> str:
        """As `ProposalNetwork`."""
        return f"short side {self.size.short_side_px:,} px, long side {self.size.max_side_px:,} px at most"

    def queries(self, images: Sequence[np.ndarray]) -> list[Queries]:
        """Returns the queries of images, RGB uint8 (H, W, 3), in order.

        Images whose padded sizes are equal share forwards, so that a batch gives what single images give, up to
        rounding; fewer do where memory runs out.
        """
        sizes = [resized(image.shape[:2], self.size) for image in images]
        found: dict[int, Queries] = {}
        for group in groups_of_one_size(sizes, self.batch_size):
            of_group = [images[at] for at in group], [sizes[at] for at in group]
            queries = self._fitting.run(partial(self._forwards, *of_group))
            found.update(zip(group, queries, strict=True))
        return [found[position] for position in range(len(images))]

    def _forwards(self, images: Sequence[np.ndarray], sizes: Sequence[Size], batch: int) -> list[Queries]:
        """Queries of images of one padded size, at most `batch` a forward."""
        starts = range(0, len(images), batch)
        parts = [self._forward(images[start : start + batch], sizes[start : start + batch]) for start in starts]
        return [queries for part in parts for queries in part]

    def _forward(self, images: Sequence[np.ndarray], sizes: Sequence[Size]) -> list[Queries]:
        read = [resize_image(image, size) for image, size in zip(images, sizes, strict=True)]
        with device_at_work(self.device):
            pixels_B3HW = pad_batch(read, padded(sizes[0]), *self._mean_std, self.device)
            with torch.inference_mode(), autocast(self.device, self._dtype):
                heads_BNX, masks_BNhw = self._module(pixels_B3HW)
            rows = zip(masks_BNhw.float(), heads_BNX.float(), sizes, strict=True)
        return [Queries(*row) for row in rows]

    def propose_soft(self, images: Sequence[ImageInput], class_vectors_KD: np.ndarray) -> list[SoftProposals]:
        """As `ProposalNetwork`: every query of each image, masks float32 at the size the image was read at."""
        return [
            self._soft(queries, class_vectors_KD) for queries in self.queries([image.pixels_HW3 for image in images])
        ]

    def _soft(self, queries: Queries, class_vectors_KD: np.ndarray) -> SoftProposals:
        with torch.inference_mode(), device_at_work(self.device):
            masks_NHW = enlarge(queries.mask_logits_Nhw, queries.size).sigmoid_()
            probability_NK = self.classifier.class_probability(queries.heads_NX, class_vectors_KD)
            probability = None if probability_NK is None else probability_NK.cpu().numpy()
            return SoftProposals(masks_NHW.cpu().numpy(), probability)


def enlarge(logits_Nhw: torch.Tensor, size: Size) -> torch.Tensor:
    """Returns mask logits at the size an image was read at: bilinear to its padded size, then cropped, (N, H, W)."""
    height, width = size
    return interpolate(logits_Nhw[:, None], padded(size), mode="bilinear", align_corners=False)[:, 0, :height, :width]


def autocast(device: str, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    """Where matrix products run in a dtype; None leaves everything as it is."""
    return torch.autocast(device.split(":")[0], dtype) if dtype else contextlib.nullcontext()


def settled_precision(precision: str, device: str) -> str:
    """What auto means on a device; other precisions mean themselves."""
    if precision != "auto":
        return precision
    return "bf16" if device.startswith("cuda") else "fp32"


# Opening one.


def open_network(
    weights: NetworkWeights,
    device: str = "cpu",
    precision: str = "auto",
    size: InputSize | None = None,
    batch: int = BATCH,
    use_objectness: bool = False,
) -> QueryNetwork:
    """Opens resolved weights; nothing is fetched, and no pickled code is run.

    size: None takes what OVSeg's own network was trained at, and 640 to 2560 px of others. use_objectness: as
    `PlainClassifier`; OVSeg's network has classes and ignores it. Raises UserError for weights that do not fit.
    """
    require_transformers()
    if weights.model_type == OVSEG_TYPE:
        from ovseg_model.proposals.proposal_network import load_network

        return load_network(weights, device, precision, size, batch)
    module = _PlainModule(load_transformers(weights))
    mean_std = pixel_statistics(weights.folder)
    classifier = PlainClassifier(use_objectness)
    return QueryNetwork(weights.model_type, module, classifier, mean_std, size or InputSize(), device, precision, batch)


class _PlainModule(torch.nn.Module):
    """A transformers model, called as `QueryNetwork` calls it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels_B3HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model(pixel_values=pixels_B3HW)
        return found.class_queries_logits, found.masks_queries_logits


def load_transformers(weights: NetworkWeights) -> torch.nn.Module:
    """Opens a MaskFormer or Mask2Former of transformers, float32 on the CPU. Raises UserError where it does not fit."""
    import transformers

    classes = {
        "maskformer": transformers.MaskFormerForInstanceSegmentation,
        "mask2former": transformers.Mask2FormerForUniversalSegmentation,
    }
    try:
        with quiet_transformers():
            model, found = classes[weights.model_type].from_pretrained(
                weights.folder,
                local_files_only=True,
                use_safetensors=weights.file.endswith(".safetensors"),
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a foreign folder makes transformers raise
        raise UserError(
            f"proposal network {weights.folder}: cannot be opened: {type(error).__name__}: {first_line(error)}"
        ) from error
    # The weights of the training loss are no part of the network.
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("criterion."))
    if missing or found["mismatched_keys"]:
        wrong = missing or sorted(str(each) for each in found["mismatched_keys"])
        raise UserError(
            f"proposal network {weights.folder}: {weights.file} does not fit {weights.model_type}: {wrong[0]}"
        )
    # Masks of the inner layers serve training only.
    model.config.use_auxiliary_loss = weights.model_type == "mask2former"
    return model


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers' bars and its advice for its own users from the screen."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
