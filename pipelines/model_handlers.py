"""The models of the units as Beam ModelHandlers, for pipelines of your own with RunInference: docs/run-inference.md.

An element carries its key in and out, beside what the model made of it or the error that stands in its place: a bad
element fails alone, not its batch. Where memory runs out a batch is halved, down to one element. With
`large_model=True` one copy of the model serves all processes of a machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from ovseg_model import rle
from ovseg_model.halving import is_device_error, is_out_of_memory, release_memory
from ovseg_model.proposals import (
    GeneratorSpec,
    ImageInput,
    MaskProposals,
    ProposalError,
    open_generator,
    propose_in_batches,
)
from ovseg_model.scorer import ClipScorerSpec, Scorer, open_scorer
from pipelines.match_regions import REGIONS_PER_GROUP
from pipelines.open_models import open_once
from schemas import UserError

Element = TypeVar("Element")
Outcome = TypeVar("Outcome")

NOUNS_PER_BATCH = 256
IMAGES_PER_BATCH = 8


class ProposedMasks(NamedTuple):
    """The masks of one image, or why it has none."""

    image_id: str
    proposals: MaskProposals | ProposalError


class ImageRegions(NamedTuple):
    """One image and its masks: RGB uint8 (H, W, 3), and COCO RLE of the same size."""

    image_id: str
    pixels_HW3: np.ndarray
    masks: list[rle.Rle]


@dataclass(frozen=True)
class EmbeddingError:
    """Why one element has no vectors."""

    detail: str


class RegionVectors(NamedTuple):
    """Unit vectors of one image's masked regions, float32 (M, D) in the order of its masks, or why there are none."""

    image_id: str
    vectors_MD: np.ndarray | EmbeddingError


class NounVector(NamedTuple):
    """The unit vector of one noun in its prompts, float32 (D,), or why there is none."""

    noun: str
    vector_D: np.ndarray | EmbeddingError


# Beam's side: small specs that travel, models that stay.


class _Handler(ModelHandler, Generic[Element, Outcome]):
    """What the three have in common: fixed batches, counted bytes, a model with one method, opened once a process."""

    def __init__(
        self, batch: int, large_model: bool, model_copies: int | None, weigh: Callable[[Any], int] | None
    ) -> None:
        # Equal least and most make batches reproducible, where Beam would probe sizes by the clock.
        super().__init__(
            min_batch_size=batch,
            max_batch_size=batch,
            element_size_fn=weigh,
            large_model=large_model,
            model_copies=model_copies,
        )

    def run_inference(
        self, batch: Sequence[Element], model: Any, inference_args: dict[str, Any] | None = None
    ) -> list[Outcome]:
        """One outcome an element, in order.

        Raises:
            UserError: what no element is to blame for: an unknown device, weights that are gone.
        """
        return self._ask(model, list(batch))

    def get_metrics_namespace(self) -> str:
        """Where RunInference's metrics stand: the handler's name."""
        return type(self).__name__

    def _ask(self, model: Any, batch: list[Element]) -> list[Outcome]:
        raise NotImplementedError


class MaskProposalHandler(_Handler[ImageInput, ProposedMasks]):
    """Images (`ImageInput`) → `ProposedMasks`, by the mask generator of `ovseg masks`."""

    def __init__(
        self,
        spec: GeneratorSpec,
        *,
        batch: int = IMAGES_PER_BATCH,
        large_model: bool = False,
        model_copies: int | None = None,
    ) -> None:
        """`spec` from `resolve_generator`; `batch` images a call, cut again into the generator's own batches."""
        super().__init__(batch, large_model, model_copies, None)
        self._spec = spec

    def load_model(self) -> LockedGenerator:
        """The generator, once a process."""
        return open_once(LockedGenerator, self._spec)

    def get_num_bytes(self, batch: Sequence[ImageInput]) -> int:
        """Bytes of pixels."""
        return sum(getattr(image.pixels_HW3, "nbytes", 0) for image in batch)

    def _ask(self, model: LockedGenerator, batch: list[ImageInput]) -> list[ProposedMasks]:
        return model.propose(batch)


class _ScorerHandler(_Handler[Element, Outcome]):
    def __init__(
        self,
        spec: Hashable,
        open_model: Callable[[Any], Scorer],
        batch: int,
        large_model: bool,
        model_copies: int | None,
        weigh: Callable[[Any], int] | None,
    ) -> None:
        super().__init__(batch, large_model, model_copies, weigh)
        self._opening = ScorerOpening(open_model, spec)

    def load_model(self) -> LockedScorer:
        """The scorer, once a process: handlers of equal specs share it."""
        return open_once(LockedScorer, self._opening)


class RegionEmbeddingHandler(_ScorerHandler[ImageRegions, RegionVectors]):
    """Images with masks (`ImageRegions`) → `RegionVectors`, by the CLIP of `ovseg match`."""

    def __init__(
        self,
        spec: ClipScorerSpec | Hashable,
        *,
        open_model: Callable[[Any], Scorer] = open_scorer,
        batch: int = REGIONS_PER_GROUP,
        large_model: bool = False,
        model_copies: int | None = None,
    ) -> None:
        """`batch` masks a call, over images; `open_model(spec)` gives the scorer, and may be one of your own."""
        super().__init__(spec, open_model, batch, large_model, model_copies, count_masks)

    def get_num_bytes(self, batch: Sequence[ImageRegions]) -> int:
        """Bytes of pixels."""
        return sum(getattr(image.pixels_HW3, "nbytes", 0) for image in batch)

    def _ask(self, model: LockedScorer, batch: list[ImageRegions]) -> list[RegionVectors]:
        return model.embed_regions(batch)


class NounEmbeddingHandler(_ScorerHandler[str, NounVector]):
    """Nouns (str) → `NounVector`, in the prompts of the spec; a cosine of the two scores a pair."""

    def __init__(
        self,
        spec: ClipScorerSpec | Hashable,
        *,
        open_model: Callable[[Any], Scorer] = open_scorer,
        batch: int = NOUNS_PER_BATCH,
        large_model: bool = False,
        model_copies: int | None = None,
    ) -> None:
        """`batch` nouns a call; `open_model(spec)` gives the scorer, and may be one of your own."""
        super().__init__(spec, open_model, batch, large_model, model_copies, None)

    def get_num_bytes(self, batch: Sequence[str]) -> int:
        """Characters, near enough."""
        return sum(len(str(noun)) for noun in batch)

    def _ask(self, model: LockedScorer, batch: list[str]) -> list[NounVector]:
        return model.embed_nouns(batch)


def count_masks(image: ImageRegions) -> int:
    """What an image weighs in a batch."""
    return max(1, len(image.masks))


# The model's side: methods only, since attributes do not cross to the process of a large model.


class ScorerOpening(NamedTuple):
    """How a scorer is opened."""

    open_model: Callable[[Any], Scorer]
    spec: Hashable


class LockedGenerator:
    """A mask generator for one thread at a time: generators may keep state."""

    def __init__(self, spec: GeneratorSpec) -> None:
        """Opens the generator, or takes the one that this process has open."""
        self._generator = open_once(open_generator, spec)
        self._lock = threading.Lock()

    def propose(self, images: Sequence[ImageInput]) -> list[ProposedMasks]:
        """One outcome an image, in order."""
        size = self._generator.batch_size
        with self._lock:
            outcomes = apply_to_good(images, bad_pixels, lambda good: in_batches(self._propose, good, size), _no_masks)
        return [ProposedMasks(image.image_id, outcome) for image, outcome in zip(images, outcomes, strict=True)]

    def _propose(self, images: Sequence[ImageInput]) -> list[MaskProposals | ProposalError]:
        return halving(lambda part: propose_in_batches(self._generator, part), images, _no_masks)


class LockedScorer:
    """A scorer for one thread at a time."""

    def __init__(self, opening: ScorerOpening) -> None:
        """Opens the scorer, or takes the one that this process has open."""
        self._scorer: Scorer = open_once(opening.open_model, opening.spec)
        self._lock = threading.Lock()

    def embed_regions(self, images: Sequence[ImageRegions]) -> list[RegionVectors]:
        """One outcome an image, in order."""
        with self._lock:
            outcomes = apply_to_good(images, bad_regions, self._regions, EmbeddingError)
        return [RegionVectors(image.image_id, outcome) for image, outcome in zip(images, outcomes, strict=True)]

    def embed_nouns(self, nouns: Sequence[str]) -> list[NounVector]:
        """One outcome a noun, in order."""
        with self._lock:
            outcomes = apply_to_good(nouns, bad_noun, self._nouns, EmbeddingError)
        return [NounVector(noun, outcome) for noun, outcome in zip(nouns, outcomes, strict=True)]

    def _regions(self, images: Sequence[ImageRegions]) -> list[np.ndarray | EmbeddingError]:
        def embed(part: Sequence[ImageRegions]) -> list[np.ndarray]:
            inputs = [(image.pixels_HW3, image.masks) for image in part]
            return self._scorer.embed_regions(inputs)

        return halving(embed, images, EmbeddingError)

    def _nouns(self, nouns: Sequence[str]) -> list[np.ndarray | EmbeddingError]:
        def embed(part: Sequence[str]) -> list[np.ndarray]:
            return list(self._scorer.embed_nouns(part))

        return halving(embed, nouns, EmbeddingError)


# Errors as values.


def apply_to_good(
    elements: Sequence[Element],
    problem: Callable[[Element], str | None],
    function: Callable[[Sequence[Element]], list[Any]],
    error: Callable[[str], Any],
) -> list[Any]:
    """`function` over the elements without a problem, and an error in the place of each other; in order."""
    problems = [problem(element) for element in elements]
    good = [element for element, found in zip(elements, problems, strict=True) if found is None]
    made = iter(function(good) if good else ())
    return [next(made) if found is None else error(found) for found in problems]


def in_batches(
    function: Callable[[Sequence[Element]], list[Outcome]], elements: Sequence[Element], size: int
) -> list[Outcome]:
    """`function` over pieces of at most `size` elements."""
    starts = range(0, len(elements), size)
    return [outcome for start in starts for outcome in function(elements[start : start + size])]


def halving(
    function: Callable[[Sequence[Element]], Iterable[Outcome]],
    elements: Sequence[Element],
    error: Callable[[str], Any],
) -> list[Any]:
    """`function` over a batch, over its halves where it fails, and an error for an element that fails alone.

    One batch is made again for each halving, and no element is lost. UserError passes: it is no element's fault.
    """
    try:
        return list(function(elements))
    except (UserError, ImportError):
        raise
    except Exception as problem:
        if is_device_error(problem):
            raise  # the process has lost its GPU: every element would fail, wherever the fault lies
        failure = f"{type(problem).__name__}: {problem}"
        out_of_memory = is_out_of_memory(problem)
    # Outside of the handler, where the traceback no longer holds the failed batch's tensors.
    if out_of_memory:
        release_memory(f"{len(elements)} elements")
    if len(elements) == 1:
        return [error(failure)]
    middle = len(elements) // 2
    return [*halving(function, elements[:middle], error), *halving(function, elements[middle:], error)]


def bad_pixels(image: ImageInput | ImageRegions) -> str | None:
    """What is wrong with an image's pixels, or None."""
    pixels = image.pixels_HW3
    if not isinstance(pixels, np.ndarray):
        return f"pixels: wanted uint8 (H, W, 3), got a {type(pixels).__name__}"
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        return f"pixels: wanted uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}"
    return None


def bad_regions(image: ImageRegions) -> str | None:
    """What is wrong with an image or its masks, or None."""
    problem = bad_pixels(image)
    if problem:
        return problem
    size = list(image.pixels_HW3.shape[:2])
    try:
        sizes = [list(mask["size"]) for mask in image.masks]
        rle.check_rles(image.masks)
        areas = rle.areas_px(image.masks)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"masks: wanted COCO RLE, its counts a text; {type(error).__name__}: {error}"
    if any(each != size for each in sizes):
        return f"masks: wanted the image's size {size}, got {next(each for each in sizes if each != size)}"
    return None if areas.all() else f"mask {int(np.flatnonzero(areas == 0)[0])} has no pixel"


def bad_noun(noun: str) -> str | None:
    """What is wrong with a noun, or None."""
    if not isinstance(noun, str):
        return f"wanted a noun, got a {type(noun).__name__}"
    return None if noun.strip() else "wanted a noun, got an empty text"


def _no_masks(detail: str) -> ProposalError:
    return ProposalError("proposal_failed", detail)
