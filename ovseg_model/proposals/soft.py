"""Mask proposals for segmentation: soft masks and, from a proposal network, its own class probabilities.

Mining wants class-agnostic masks (`MaskGenerator`, RLE); the segmenter of OVSeg also weighs every pixel by how sure
the network is, and fuses its class probabilities with CLIP's (Liang et al., CVPR 2023, section 3.1; method of its
release). Array names end in their axes: N proposals, K classes, D dimensions, h and w of the proposals' frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ovseg_model.proposals.generator import (
    ImageInput,
    MaskGenerator,
    MaskProposals,
    ProposalError,
    propose_in_batches,
)
from ovseg_model.rle import decode_masks

OWN_SIZE = "the image's own size"
"""The frame of masks that are made for the image as it is."""


class SoftProposals(NamedTuple):
    """The proposals of one image, in the generator's order."""

    masks_Nhw: np.ndarray
    """float32 in [0, 1]: how much a pixel belongs to a proposal; bool where masks are hard. The frame is the image's
    own, or the image resized to what the network reads (aspect ratio kept, up to rounding). N may be 0."""

    class_probability_NK: np.ndarray | None = None
    """float32: the network's softmax over the asked vectors (names, of which a class may have several) and "no object",
    without the column of the latter, so a
    row sums to 1 or less. None from a generator that knows no classes."""


class ProposalNetwork(Protocol):
    """Something that proposes soft masks and may classify them by vectors of class names."""

    name: str
    batch_size: int

    gives_probabilities: bool
    """Whether its proposals come with class probabilities: λ has no part in a result without them. A plug-in that does
    not say it is taken to give them."""

    frame: str
    """The size of its masks, at which CLIP sees the image too, in words: the test resolution."""

    def propose_soft(
        self, images: Sequence[ImageInput], class_vectors_KD: np.ndarray
    ) -> list[SoftProposals | ProposalError]:
        """Returns proposals of each image, in order; an image without any has none, a failure is an error of its own.

        class_vectors_KD: float32 unit vectors of the class names, by the CLIP that the network was trained with.
        """
        ...


class HardProposals:
    """Any mask generator as a proposal network: its masks, hard, in the image's own frame, without classes."""

    gives_probabilities = False
    frame = OWN_SIZE

    def __init__(self, generator: MaskGenerator) -> None:
        """Takes an open generator."""
        self.name, self.batch_size = generator.name, generator.batch_size
        self._generator = generator

    def propose_soft(
        self, images: Sequence[ImageInput], class_vectors_KD: np.ndarray
    ) -> list[SoftProposals | ProposalError]:
        """Returns bool masks (N, H, W) of each image, in the generator's order; class_vectors_KD is not read.

        That the generator finds no mask in an image is N = 0 and no error.
        """
        outcomes = propose_in_batches(self._generator, images)
        return [_decoded(image, outcome) for image, outcome in zip(images, outcomes, strict=True)]


def gives_probabilities(network: ProposalNetwork) -> bool:
    """Whether λ can matter to the proposals of a network."""
    return getattr(network, "gives_probabilities", True)


def frame_title(network: ProposalNetwork) -> str:
    """The test resolution, in words."""
    return getattr(network, "frame", "as the plug-in chooses")


def _decoded(image: ImageInput, outcome: MaskProposals | ProposalError) -> SoftProposals | ProposalError:
    if isinstance(outcome, MaskProposals):
        return SoftProposals(decode_masks(outcome.masks))
    if outcome.reason == "no_masks":
        return SoftProposals(np.zeros((0, *image.pixels_HW3.shape[:2]), bool))
    return outcome
