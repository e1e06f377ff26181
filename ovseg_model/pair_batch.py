"""What a training batch is, how it is made, and the sums of what was read for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from ovseg_model.fetch_options import FetchOptions
from ovseg_model.region_augmentation import Augmentation
from ovseg_model.regions import RegionOptions, normalise
from schemas.errors import UserError

if TYPE_CHECKING:
    import torch

COLUMNS = ("pair_id", "image_uri", "image_sha256", "height", "width", "mask", "box_xywh_px", "area_px", "noun")
COLUMNS += ("hard_negatives",)
"""What every batch needs of PAIRS; captions and crops are read on demand."""

SHOWN_DETAILS = 3
"""Drops that counts keep in words."""

CHOICES = {
    "view": ("region", "image"),
    "pixels": ("uint8", "float32"),
    "missing": ("substitute", "fail"),
    "whole_text": ("caption", "noun"),
}


@dataclass(frozen=True)
class BatchOptions:
    """How batches are made of the chosen rows. All but `fetch` decides what is in them."""

    batch_size: int = 256
    """Rows of a global batch, over all ranks; the paper's for ViT-L/14."""

    size_px: int = 224
    """Side of the model's input."""

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    """The model's, of RGB in 0..1; these are OpenAI's CLIP's."""

    region: RegionOptions = field(default_factory=RegionOptions)
    """How a region is cut: as the scorer and the segmenter cut it."""

    view: str = "region"
    """"region": the masked region. "image": all of the image, padded to a square, beside its mask (Alpha-CLIP)."""

    augmentation: Augmentation | None = field(default_factory=Augmentation)
    """The random crop of a region; None for none. Whole images in the "image" view are never cropped."""

    whole_share: float = 0.0
    """Share of rows that show all of their image, with a mask that is True everywhere, against forgetting; drawn by
    seed, epoch and pair_id. Alpha-CLIP has 0.1."""

    whole_text: str = "caption"
    """What such a row is trained against: its image's caption, as in Alpha-CLIP, or the noun."""

    seed: int = 0
    """Of the order, the crops and the whole images."""

    window_rows: int = 8192
    """Rows that are shuffled with each other, at least; a worker holds its rank's, with crops some 20 KB each."""

    drop_last: bool = True
    """Leave out the last rows of an epoch, if they are less than a batch."""

    pixels: str = "uint8"
    """"uint8": rounded, 0..255, to be normalised on the device, a quarter of the bytes. "float32": normalised, equal to
    `regions.region_batch`."""

    stored_crops: bool = True
    """Use crop_png where a row has it and it shows enough: a tight box, no whole image."""

    missing: str = "substitute"
    """A row without pixels: "substitute" counts it and takes another, "fail" stops with a sentence."""

    fetch: FetchOptions = field(default_factory=FetchOptions)
    """Where images may come from; its threads are those of each worker."""

    def __post_init__(self) -> None:
        """Refuses values that make no batch. Raises UserError."""
        for name in ("batch_size", "size_px", "window_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: wanted 1 or more, got {getattr(self, name)}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name}: wanted one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not (math.isfinite(self.whole_share) and 0 <= self.whole_share <= 1):
            raise UserError(f"whole_share: wanted a share from 0 to 1, got {self.whole_share}")
        if self.seed < 0:
            raise UserError(f"seed: wanted 0 or more, got {self.seed}")

    @property
    def crops_serve(self) -> bool:
        """Whether a stored crop shows all that an item needs."""
        return self.stored_crops and self.view == "region" and self.region.expand_ratio == 1

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of PAIRS that batches are made of."""
        caption = ("caption",) if self.whole_share and self.whole_text == "caption" else ()
        return (*COLUMNS, *caption, *(("crop_png",) if self.crops_serve else ()))


class LoaderState(NamedTuple):
    """Where training is: the epoch, from 0, and how many of its global batches are done."""

    epoch: int = 0
    batches_done: int = 0


@dataclass(frozen=True)
class BatchCounts:
    """Rows read, kept and dropped by reason; counts of batches, ranks and restarts add up.

    `substitutes` of the kept rows stand in for dropped ones; `details` are the first drops in words.
    """

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    substitutes: int = 0
    details: tuple[str, ...] = ()

    def __add__(self, other: BatchCounts) -> BatchCounts:
        dropped = {key: self.dropped.get(key, 0) + other.dropped.get(key, 0) for key in self.dropped | other.dropped}
        details = dict.fromkeys((*self.details, *other.details))
        return BatchCounts(
            self.read + other.read,
            self.kept + other.kept,
            dict(sorted(dropped.items())),
            self.substitutes + other.substitutes,
            tuple(details)[:SHOWN_DETAILS],
        )

    def text(self) -> str:
        """One line for the end of an epoch, and one for each of the first drops."""
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.dropped.items()) or "none"
        stands = f" ({self.substitutes:,} rows stood in for them)" if self.substitutes else ""
        lines = [f"rows: {self.read:,} read, {self.kept:,} kept; dropped: {reasons}{stands}"]
        return "\n".join([*lines, *(f"  {detail}" for detail in self.details)])


@dataclass(frozen=True)
class PairBatch:
    """One rank's part of a global batch of B rows; S is the side of the model's input.

    regions_B3SS: uint8, RGB in 0..255 (see `normalised`), or float32, normalised, by `BatchOptions.pixels`.
    masks_BSS: bool, the foreground in the frame of the region; a pixel that touches it is True.
    captions: the caption of rows that show all of their image and are trained against it, else None.
    whole_B: bool, the rows that show all of their image.
    """

    regions_B3SS: torch.Tensor
    masks_BSS: torch.Tensor
    nouns: list[str]
    captions: list[str | None]
    hard_negatives: list[list[str]]
    pair_ids: list[str]
    whole_B: torch.Tensor
    epoch: int
    index: int
    counts: BatchCounts

    def __len__(self) -> int:
        """B."""
        return len(self.pair_ids)

    @property
    def next_state(self) -> LoaderState:
        """Where training is once this batch is done."""
        return LoaderState(self.epoch, self.index + 1)

    def to(self, device: torch.device | str) -> PairBatch:
        """The batch with its tensors on a device."""
        names = ("regions_B3SS", "masks_BSS", "whole_B")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
        """The regions as the model's input, float32 (B, 3, S, S), on their device."""
        if self.regions_B3SS.is_floating_point():
            return self.regions_B3SS
        return normalise(self.regions_B3SS, mean, std)
