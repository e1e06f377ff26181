"""Embeds masked regions and prompted nouns in one space, so that a cosine scores the pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ovseg_model import rle

if TYPE_CHECKING:
    from ovseg_model.clip import Clip, ClipWeights
    from ovseg_model.noun_vectors import Folder
    from ovseg_model.one_pass import OnePassOptions
    from ovseg_model.region_encoder import MaskEncoder

MASKS_PER_DECODE = 16
"""Masks decoded at once: 16 masks of a 12-megapixel image are 200 MB."""

REGIONS_ON_CPU, REGIONS_ON_GPU = 32, 256
"""Regions of a forward where none are asked for: a CPU gains nothing by more, a GPU is not filled by few."""

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


class TwoWayScorer(Scorer, Protocol):
    """A scorer that reads masks both ways, for a prefilter and to compare them."""

    def embed_in_one_pass(self, images: Sequence[ImageMasks]) -> list[np.ndarray]:
        """Unit vectors of every image's masks, all of an image in one forward, float32 (M, D) each."""

    def embed_crops(self, images: Sequence[ImageMasks]) -> list[np.ndarray]:
        """Unit vectors of every image's masks, a crop each, float32 (M, D) each."""


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
    regions: str = "float"
    scorer: str = "crops"
    one_pass_layers: int = 1
    one_pass_size: int = 0
    prefilter: int = 0
    noun_folder: Folder | None = None
    """Where vectors of nouns are kept for other workers; no number depends on it."""

    @property
    def name(self) -> str:
        """As PAIRS.scorer says it: the CLIP, and how masks were read where that is not by crops alone."""
        how = f"one-pass, {self.one_pass_layers} layer{'s' * (self.one_pass_layers > 1)}"
        how += f", {self.one_pass_size} px" if self.one_pass_size else ""
        if self.prefilter:
            return f"{self.weights.name} (best {self.prefilter} by {how})"
        return f"{self.weights.name} ({how})" if self.scorer == "one-pass" else self.weights.name

    @property
    def uses_one_pass(self) -> bool:
        """Whether masks are read in one forward, to score or to choose."""
        return self.scorer == "one-pass" or self.prefilter > 0

    def in_fp32(self) -> ClipScorerSpec:
        """The same in full precision, to compare with; its nouns are kept for nobody."""
        return replace(self, precision="fp32", noun_folder=None)

    def one_pass(self) -> OnePassOptions:
        """How masks are read in one forward. Raises UserError for values that no model can take."""
        from ovseg_model.one_pass import OnePassOptions

        return OnePassOptions(self.one_pass_layers, self.one_pass_size)

    def fingerprint(self) -> dict[str, Any]:
        """Weights by sha256, numbers, kind of device and, on CPUs, thread count: equal ones give equal bytes."""
        kind = self.device.split(":")[0]
        names = ("precision", "region_batch", "templates", "expand_ratio", "antialias")
        names += ("torch_threads",) if kind == "cpu" else ()
        numbers = {name: getattr(self, name) for name in names}
        return {**numbers, **self._chosen(), "device": kind, "clip": self.weights.fingerprint()}

    def _chosen(self) -> dict[str, Any]:
        """What was chosen instead of crops in fractions of a level: parts without it stay what they were."""
        chosen: dict[str, Any] = {} if self.regions == "float" else {"regions": self.regions}
        if self.uses_one_pass:
            chosen |= {"scorer": self.scorer, "prefilter": self.prefilter, "one_pass": asdict(self.one_pass())}
        return chosen


def regions_a_forward(asked: int, device: str) -> int:
    """Returns how many regions a forward has: as asked, or for 0 what suits the kind of device, such as "cuda:0"."""
    return asked or (REGIONS_ON_CPU if device == "cpu" else REGIONS_ON_GPU)


class ClipScorer:
    """CLIP with its prompted nouns. Regions of several images share forwards; each distinct noun is embedded once."""

    def __init__(self, spec: ClipScorerSpec) -> None:
        """Loads the weights that the spec names; nothing is fetched. Raises UserError where they are unfit."""
        from ovseg_model.class_embeddings import ClassEmbeddings, prompt_templates
        from ovseg_model.clip import load_clip
        from ovseg_model.noun_vectors import KeptVectors

        set_torch_threads(spec)
        clip = load_clip(spec.weights, spec.device, spec.precision, image_batch=spec.region_batch)
        self._spec = spec
        templates = prompt_templates(spec.templates)
        kept = KeptVectors(spec.noun_folder, clip, templates) if spec.noun_folder else None
        self._nouns = ClassEmbeddings(clip, templates, kept)
        self._encoders = {way: open_encoder(clip, spec, way) for way in ("crops", "one-pass")[: 1 + spec.uses_one_pass]}
        self.name = spec.name
        self.meaningless = spec.weights.meaningless

    @property
    def clip(self) -> Clip:
        """The model that both ways share."""
        return self._encoders["crops"].clip

    def embed_nouns(self, nouns: Sequence[str]) -> np.ndarray:
        """Unit vectors of the prompted nouns, float32 (N, D)."""
        return self._nouns.embed(nouns)

    def embed_regions(self, images: Sequence[ImageMasks]) -> list[np.ndarray]:
        """Unit vectors of every image's masked regions, float32 (M, D) each, by the way that the spec names."""
        return self._embed(self._spec.scorer, images)

    def embed_in_one_pass(self, images: Sequence[ImageMasks]) -> list[np.ndarray]:
        """The same, all masks of an image in one forward."""
        return self._embed("one-pass", images)

    def embed_crops(self, images: Sequence[ImageMasks]) -> list[np.ndarray]:
        """The same, a crop a mask."""
        return self._embed("crops", images)

    def _embed(self, way: str, images: Sequence[ImageMasks]) -> list[np.ndarray]:
        return self._encoders[way].embed([(pixels, decoded_in_chunks(masks)) for pixels, masks in images])


def open_encoder(clip: Clip, spec: ClipScorerSpec, way: str) -> MaskEncoder:
    """The encoder of masks of a spec, by crops or in one pass. Raises UserError where the model is unfit."""
    from ovseg_model.region_encoder import open_mask_encoder
    from ovseg_model.regions import RegionOptions

    return open_mask_encoder(clip, way, spec.regions, RegionOptions(spec.expand_ratio, spec.antialias), spec.one_pass())


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
