"""Random crops of labelled images, by one global order: what is in batch b depends on the seed and b alone.

Resized 0.5 to 2 times, cropped, distorted in colour and flipped, as MaskFormer is trained. Array names end in their
axes: B crops, T classes present, S side of a crop, H and W pixels, 3 colour channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from ovseg_model.datasets.benchmark import IGNORE
from ovseg_model.pair_order import EpochOrder
from ovseg_model.proposals.network_input import InputSize, resize_image, resized
from ovseg_model.proposals.set_loss import Targets
from ovseg_model.proposals.training_maps import TrainingMaps
from ovseg_model.regions import normalise
from schemas.errors import UserError

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.125, 0.5, 0.5, 0.05
"""Largest change of each in the colour distortion of SSD (Liu et al., ECCV 2016), each applied half the time."""


@dataclass(frozen=True)
class CropOptions:
    """How crops are made."""

    crop_px: int = 640
    max_side_px: int = 2560
    least_scale: float = 0.5
    most_scale: float = 2.0
    """Short side of the resized image over crop_px."""

    colour: bool = True
    flip: bool = True
    seed: int = 0


class Crop(NamedTuple):
    """One crop; pixels beyond the image are 0 and have no label."""

    pixels_SS3: np.ndarray
    """RGB uint8."""

    labels_SS: np.ndarray
    """uint16: positions of classes, or IGNORE."""

    size: tuple[int, int]
    """Height and width of what is image."""

    dropped: int
    """Images that were passed over because no pixel had a label."""


class CropBatch(NamedTuple):
    """Crops of one process's share of a batch."""

    pixels_B3SS: torch.Tensor
    """uint8."""

    labels_BSS: torch.Tensor
    """int32."""

    sizes_B2: torch.Tensor
    """int64: height and width of what is image."""

    classes_BT: torch.Tensor
    """int64: labels that are present, ascending; -1 beyond them."""

    dropped: int

    def inputs(self, mean: Sequence[float], std: Sequence[float], device: str) -> torch.Tensor:
        """Returns the network's input on a device, float32 (B, 3, S, S), with zeros where there is no image."""
        pixels_B3SS = normalise(self.pixels_B3SS.to(device, non_blocking=True), mean, std)
        side = torch.arange(pixels_B3SS.shape[-1], device=device)
        rows_BS, columns_BS = (side < limits_B[:, None] for limits_B in self.sizes_B2.to(device).T)
        return pixels_B3SS * (rows_BS[:, None, :, None] & columns_BS[:, None, None, :])

    def targets(self, device: str) -> Targets:
        """Returns one binary mask a class that is present, on a device."""
        classes_BT, labels_BSS = self.classes_BT.to(device), self.labels_BSS.to(device, non_blocking=True)
        return Targets(classes_BT, (labels_BSS[:, None] == classes_BT[:, :, None, None]).float())


class CropOrder:
    """Which image comes at which position, epoch after epoch, each in an order of its own."""

    def __init__(self, images: int, seed: int) -> None:
        """images: how many there are."""
        self._images, self._seed = images, seed
        self._epochs: dict[int, EpochOrder] = {}

    def __getitem__(self, position: int) -> int:
        """The number of the image at a position, counted over all epochs."""
        epoch, at = divmod(position, self._images)
        if epoch not in self._epochs:
            self._epochs = {epoch: EpochOrder([self._images], self._seed, epoch, self._images)}
        return int(self._epochs[epoch].places(np.array([at]))[1][0])


class CropDataset(torch.utils.data.Dataset):
    """Crops by position; an image without a labelled pixel gives way to the one a batch later."""

    def __init__(self, maps: TrainingMaps, options: CropOptions, batch: int) -> None:
        """batch: crops of a global batch."""
        self.maps, self.options, self.batch = maps, options, batch
        self._order = CropOrder(len(maps), options.seed)

    def __getitem__(self, position: int) -> Crop | UserError:
        """Returns the crop, or the mistake that stands in its way: raised in a worker it would lose its sentence."""
        try:
            return self._crop(position)
        except UserError as error:
            return error

    def _crop(self, position: int) -> Crop:
        for attempt in range(len(self.maps)):
            number = self._order[position + attempt * self.batch]
            image_HW3, labels_HW = self.maps.read(number)
            if (labels_HW != IGNORE).any():
                return crop_of(image_HW3, labels_HW, self.options, position)._replace(dropped=attempt)
        raise UserError(
            f"training data: {len(self.maps):,} images were tried, and none has a labelled pixel; check that labels "
            "and class names belong together"
        )


def crop_of(image_HW3: np.ndarray, labels_HW: np.ndarray, options: CropOptions, position: int) -> Crop:
    """Returns a random crop; what is random depends on the seed and the position only."""
    draws = np.random.Generator(np.random.Philox(np.random.SeedSequence((options.seed, position)))).random
    scale = options.least_scale + draws() * (options.most_scale - options.least_scale)
    wanted = InputSize(max(1, round(scale * options.crop_px)), options.max_side_px)
    size = resized(image_HW3.shape[:2], wanted)
    image, labels = resize_image(image_HW3, size), resize_labels(labels_HW, size)
    top, left = (int(draws() * (max(0, side - options.crop_px) + 1)) for side in size)
    window = slice(top, top + options.crop_px), slice(left, left + options.crop_px)
    image, labels = image[window], labels[window]
    if options.flip and draws() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    if options.colour:
        image = distort_colour(image, draws(4), draws(4))
    return _padded(image, labels, options.crop_px)


def _padded(image_HW3: np.ndarray, labels_HW: np.ndarray, side: int) -> Crop:
    height, width = labels_HW.shape
    pixels_SS3, labels_SS = np.zeros((side, side, 3), np.uint8), np.full((side, side), IGNORE, np.uint16)
    pixels_SS3[:height, :width], labels_SS[:height, :width] = image_HW3, labels_HW
    return Crop(pixels_SS3, labels_SS, (height, width), 0)


def resize_labels(labels_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a label map at a size, each pixel the one under its centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, labels_HW.shape, strict=True)
    )
    return labels_HW[rows[:, None], columns]


def distort_colour(image_HW3: np.ndarray, chances_4: np.ndarray, amounts_4: np.ndarray) -> np.ndarray:
    """Returns an image of other brightness, contrast, saturation and hue, RGB uint8.

    chances_4: in [0, 1), each is applied below 0.5. amounts_4: in [0, 1), from the least to the most of each.
    """
    image_3HW = torch.tensor(np.ascontiguousarray(image_HW3)).permute(2, 0, 1)
    change_4 = 2 * amounts_4 - 1
    steps = (
        (functional.adjust_brightness, 1 + BRIGHTNESS * change_4[0]),
        (functional.adjust_contrast, 1 + CONTRAST * change_4[1]),
        (functional.adjust_saturation, 1 + SATURATION * change_4[2]),
        (functional.adjust_hue, HUE * change_4[3]),
    )
    for chance, (adjust, amount) in zip(chances_4, steps, strict=True):
        if chance < 0.5:
            image_3HW = adjust(image_3HW, float(amount))
    return image_3HW.permute(1, 2, 0).numpy()


def to_batch(crops: Sequence[Crop | UserError]) -> CropBatch | UserError:
    """Returns crops as one batch, or the first mistake."""
    mistake = next((crop for crop in crops if isinstance(crop, UserError)), None)
    if mistake is not None:
        return mistake
    present = [np.setdiff1d(crop.labels_SS, [IGNORE]) for crop in crops]
    classes_BT = np.full((len(crops), max(1, *map(len, present))), -1, np.int64)
    for row, labels in zip(classes_BT, present, strict=True):
        row[: len(labels)] = labels
    return CropBatch(
        torch.from_numpy(np.stack([crop.pixels_SS3 for crop in crops])).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack([crop.labels_SS for crop in crops]).astype(np.int32)),
        torch.tensor([crop.size for crop in crops]),
        torch.from_numpy(classes_BT),
        sum(crop.dropped for crop in crops),
    )


def crop_batches(
    dataset: CropDataset, steps: range, rank: int = 0, ranks: int = 1, workers: int = 0
) -> Iterator[CropBatch]:
    """Yields one process's share of the batches of steps, in order.

    workers: processes that make crops ahead. Raises UserError for what cannot be read.
    """
    shares = [batch_positions(step, dataset.batch, rank, ranks) for step in steps]
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=shares,
        num_workers=workers,
        collate_fn=to_batch,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def batch_positions(step: int, batch: int, rank: int, ranks: int) -> range:
    """Returns the positions of one process's share of a global batch; `batch` is a multiple of `ranks`."""
    share = batch // ranks
    return range(step * batch + rank * share, step * batch + (rank + 1) * share)
