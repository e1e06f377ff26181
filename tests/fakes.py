"""Stand-ins for models that fit the real protocols and can be computed by hand."""

from __future__ import annotations

import numpy as np

from ovseg_model import rle
from ovseg_model.proposals import MaskProposals, ProposalError

COLOUR_OF_NOUN = {"ball": (1.0, 0.0, 0.0), "sky": (0.0, 0.0, 1.0), "grass": (0.0, 1.0, 0.0)}


class ColourScorer:
    """A region's embedding is its mean colour, a noun's the colour it is known for; other nouns are grey."""

    name = "colour"
    meaningless = False

    def __init__(self):
        self.groups = []

    def embed_nouns(self, nouns):
        return unit_rows([COLOUR_OF_NOUN.get(noun, (1.0, 1.0, 1.0)) for noun in nouns])

    def embed_regions(self, images):
        self.groups.append([len(masks) for _, masks in images])
        return [unit_rows([mean_colour(pixels, mask) for mask in masks]) for pixels, masks in images]


class HalvesGenerator:
    """Proposes the left and the right half of every image, but nothing for a black one."""

    name = "halves"
    batch_size = 2

    def __init__(self):
        self.batches = []

    def propose(self, images):
        self.batches.append([image.image_id for image in images])
        return [self.halves(image.pixels_HW3) for image in images]

    def halves(self, pixels_HW3):
        height, width = pixels_HW3.shape[:2]
        if not pixels_HW3.any():
            return ProposalError("no_masks", "the image is black")
        masks = np.zeros((2, height, width), bool)
        masks[0, :, : width // 2] = masks[1, :, width // 2 :] = True
        return MaskProposals(rle.encode_masks(masks), [0.5, 0.25], None)


def unit_rows(rows):
    vectors = np.asarray(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mean_colour(pixels_HW3, mask):
    return pixels_HW3[rle.decode_masks([mask])[0]].mean(axis=0) + 1e-6
