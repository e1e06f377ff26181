"""Embeds masked regions and prompted nouns in one space, so that a cosine scores the pair."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ovseg_model import rle

if TYPE_CHECKING:
    from ovseg_model.class_embeddings import ClassEmbeddings
    from ovseg_model.clip import Clip, ClipWeights
    from ovseg_model.noun_vectors import Folder

MASKS_PER_DECODE = 16
"""Masks decoded at once: 16 masks of a 12-megapixel image are 200 MB."""

ImageMasks = tuple[np.ndarray, Sequence[rle.Rle]]
"""Pixels, RGB uint8 (H, W, 3), and masks of the same size."""


class Scorer(Protocol):
    """What matching needs of a model; a test passes a fake, a user a model of their own."""

    @property
    def name(self) -> str:
        """Stored as PAIRS.scorer."""

    @property
    def meaningless(self) -> bool:
        """Whether its numbers mean nothing (random weights)."""

    def embed_nouns(self, nouns: Sequence[str]) -> np.ndarray:
        """Unit vectors of nouns, float32 (N, D)."""

    def embed_regions(self, images: Sequence[ImageMasks]) -> list[np.ndarray]:
        """Unit vectors of every image's masked regions, float32 (M, D) each."""


@dataclass(frozen=True)
class ClipScorerSpec:
    """A CLIP scorer as workers open it: resolved weights and all that decides its numbers. Small and picklable."""

    weights: ClipWeights
    device: str
    precision: str
    region_batch: int
    templates: str
    expand_ratio: float
    antialias: bool
    torch_threads: int
    noun_folder: Folder | None = None
    """Where vectors of nouns are kept for other workers; no number depends on it."""

    def fingerprint(self) -> dict[str, Any]:
        """Weights by sha256, numbers, kind of device and, on CPUs, thread count: equal ones give equal bytes."""
        kind = self.device.split(":")[0]
        names = ("precision", "region_batch", "templates", "expand_ratio", "antialias")
        names += ("torch_threads",) if kind == "cpu" else ()
        numbers = {name: getattr(self, name) for name in names}
        return {**numbers, "device": kind, "clip": self.weights.fingerprint()}


class ClipScorer:
    """CLIP with its prompted nouns. Regions of several images share forwards; each distinct noun is embedded once."""

    def __init__(self, spec: ClipScorerSpec) -> None:
        """Loads the weights that the spec names; nothing is fetched."""
        from ovseg_model.class_embeddings import prompt_templates
        from ovseg_model.clip import load_clip
        from ovseg_model.region_encoder import RegionEncoder
        from ovseg_model.regions import RegionOptions

        set_torch_threads(spec)
        clip = load_clip(spec.weights, spec.device, spec.precision, image_batch=spec.region_batch)
        self._templates = prompt_templates(spec.templates)
        self._options = RegionOptions(spec.expand_ratio, spec.antialias)
        self._noun_folder = spec.noun_folder
        self._nouns = self._embeddings(clip)
        self._regions = RegionEncoder(clip, self._options)
        self.name = spec.weights.name
        self.meaningless = spec.weights.meaningless

    def halved(self) -> ClipScorer | None:
        """The same model with half as many rows a forward, for where memory ran out; None at one row."""
        from ovseg_model.region_encoder import RegionEncoder

        clip = self._regions.clip
        if max(clip.image_batch, clip.text_batch) == 1:
            return None
        half, other = clip.with_batches(max(1, clip.image_batch // 2), max(1, clip.text_batch // 2)), copy.copy(self)
        other._nouns = self._embeddings(half)
        other._regions = RegionEncoder(half, self._options)
        return other

    def _embeddings(self, clip: Clip) -> ClassEmbeddings:
        """What embeds nouns by this model; one with other batches keeps its vectors apart."""
        from ovseg_model.class_embeddings import ClassEmbeddings
        from ovseg_model.noun_vectors import KeptVectors

        kept = KeptVectors(self._noun_folder, clip, self._templates) if self._noun_folder else None
        return ClassEmbeddings(clip, self._templates, kept)

    def embed_nouns(self, nouns: Sequence[str]) -> np.ndarray:
        """Unit vectors of the prompted nouns, float32 (N, D)."""
        return self._nouns.embed(nouns)

    def embed_regions(self, images: Sequence[ImageMasks]) -> list[np.ndarray]:
        """Unit vectors of every image's masked regions, float32 (M, D) each."""
        return self._regions.embed([(pixels, decoded_in_chunks(masks)) for pixels, masks in images])


def decoded_in_chunks(masks: Sequence[rle.Rle]) -> Iterator[np.ndarray]:
    """Masks of one image, bool (N, H, W), a few at a time."""
    for start in range(0, len(masks), MASKS_PER_DECODE):
        yield rle.decode_masks(masks[start : start + MASKS_PER_DECODE])


def set_torch_threads(spec: ClipScorerSpec) -> None:
    """Sets the CPU threads of a forward; another count may round differently, hence it is part of the spec."""
    import torch

    torch.set_num_threads(spec.torch_threads)


def open_scorer(spec: ClipScorerSpec) -> Scorer:
    """The scorer of a spec."""
    return ClipScorer(spec)
