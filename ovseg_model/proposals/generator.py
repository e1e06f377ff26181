"""Mask generators: what one is, how it is resolved before a run, opened in a worker, and called safely."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np

from ovseg_model.halving import is_device_error, is_out_of_memory
from ovseg_model.proposals.options import OptionValue, closest_of, parse_options
from ovseg_model.rle import Rle, areas_px, check_rles
from schemas.errors import UserError

ProposalReason = Literal["no_masks", "no_annotation", "mask_size_mismatch", "bad_annotation", "proposal_failed"]
"""Why an image has no masks; the closed list of the propose_masks stage."""


class ImageInput(NamedTuple):
    """One image for a generator: pixels_HW3 is RGB uint8 in [0, 255], with its EXIF orientation applied."""

    image_id: str
    image_uri: str
    pixels_HW3: np.ndarray


class MaskProposals(NamedTuple):
    """The masks of one image, in the generator's order and the image's frame; scores in [0, 1], one a mask.

    Masks are RLE so that nothing large leaves a generator.
    """

    masks: list[Rle]
    predicted_iou: list[float] | None = None
    stability: list[float] | None = None


@dataclasses.dataclass(frozen=True)
class ProposalError:
    """Why one image has no masks; the image is dropped under this reason and the run goes on."""

    reason: ProposalReason
    detail: str

    def __post_init__(self) -> None:
        """Refuse a reason outside the closed list (ValueError): such a drop could not be counted."""
        if self.reason not in get_args(ProposalReason):
            raise ValueError(f"reason: wanted one of {', '.join(get_args(ProposalReason))}; got {self.reason!r}")


class MaskGenerator(Protocol):
    """Something that proposes masks for images, whatever their classes (OVSeg 3.2: a MaskFormer)."""

    name: str
    """Stored in MASKS.generator."""
    batch_size: int
    """Images a call; the step cuts each unit of images into such batches, after a crash or for a retry into others: an
    image's outcome must not depend on its neighbours.

    Optional: measure(image_HW3) -> counts by name, what else a run should say of this generator; called once, with the
    first image of the first unit that has masks. They stand in totals.measured of run.json."""

    def propose(self, images: Sequence[ImageInput]) -> list[MaskProposals | ProposalError]:
        """Return one outcome an image, in the order of the images."""
        ...


@dataclasses.dataclass(frozen=True)
class GeneratorSpec:
    """A resolved generator: small and picklable; each worker process opens it once."""

    name: str
    options: tuple[tuple[str, OptionValue], ...]
    device: str
    identity_json: str
    """What decides the masks: versions, options, sha256 of files; no path, no device that has no part."""
    places: tuple[tuple[str, str], ...] = ()
    """Where files made before the run stand."""

    def fingerprint(self) -> dict[str, object]:
        """Return what a part's hash is made of: specs with equal fingerprints give equal masks."""
        return {"generator": self.name, **json.loads(self.identity_json)}


class Resolution(NamedTuple):
    """What a generator finds out before work starts: the identity of its results, places of its files."""

    identity: dict[str, object]
    places: dict[str, str]


class GeneratorKind(NamedTuple):
    """What the module of a built-in generator declares as KIND.

    resolve(options, device, work_folder) runs once, before work starts, and raises UserError;
    open(options, places, device) runs once in each worker process.
    """

    options: type
    resolve: Callable[[Any, str, str], Resolution]
    open: Callable[[Any, Mapping[str, str], str], MaskGenerator]
    packages: tuple[str, ...] = ()
    """Whose versions may touch a mask, beside those of every generator and those its identity names."""


BUILT_IN = {
    "annotations": "ovseg_model.proposals.annotations",
    "felzenszwalb": "ovseg_model.proposals.felzenszwalb",
    "maskformer": "ovseg_model.proposals.maskformer",
    "sam": "ovseg_model.proposals.sam",
}
"""Generators known by name, and the module that is imported only when one is chosen."""


def generator_kind(name: str) -> GeneratorKind:
    """Return a built-in generator's declaration; raises UserError for an unknown name."""
    if name not in BUILT_IN:
        raise UserError(
            f"mask generator {name!r} is not known: {closest_of(name, BUILT_IN)}; "
            "a generator of your own is named package.module:factory"
        )
    return importlib.import_module(BUILT_IN[name]).KIND


def packages_of(name: str) -> tuple[str, ...]:
    """Return the packages that a built-in generator's masks depend on; a generator of the user's names none."""
    return () if ":" in name else generator_kind(name).packages


def resolve_generator(name: str, options: Mapping[str, object], device: str, work_folder: str) -> GeneratorSpec:
    """Settle a generator before work starts: check options, hash files, prepare what workers will read.

    options: words of a command line, or values of the right type. work_folder: local folder or fsspec URL for
    prepared files, in reach of every worker. Raises UserError for anything unknown, missing or unreadable.
    """
    if ":" in name:
        return _resolve_plug_in(name, options, device)
    kind = generator_kind(name)
    parsed = parse_options(f"mask generator {name}", kind.options, options)
    found = kind.resolve(parsed, device, work_folder)
    values = tuple((field.name, getattr(parsed, field.name)) for field in dataclasses.fields(parsed))
    return GeneratorSpec(name, values, device, _canonical_json(name, found.identity), tuple(found.places.items()))


def on_device(spec: GeneratorSpec, device: str) -> GeneratorSpec:
    """Return the spec of a generator that was resolved here and will be opened on a machine with another device."""
    identity = json.loads(spec.identity_json)
    identity |= {"device": device} if "device" in identity else {}
    return dataclasses.replace(spec, device=device, identity_json=_canonical_json(spec.name, identity))


def open_generator(spec: GeneratorSpec) -> MaskGenerator:
    """Open a resolved generator in this process."""
    if ":" in spec.name:
        return _make_plug_in(spec.name, dict(spec.options), spec.device)
    kind = generator_kind(spec.name)
    return kind.open(kind.options(**dict(spec.options)), dict(spec.places), spec.device)


def propose_in_batches(generator: MaskGenerator, images: Sequence[ImageInput]) -> list[MaskProposals | ProposalError]:
    """Call a generator batch by batch; return one checked outcome an image, in order.

    Where a batch raises, its images are tried one by one, and those that still raise become proposal_failed.
    UserError, out-of-memory errors and errors of the device pass through: they are no fault of an image, and after
    the last every image would fail. Masks are checked to have the image's size and sound run lengths; a mask without
    a pixel is left out, together with its scores.
    """
    starts = range(0, len(images), generator.batch_size)
    batches = [images[start : start + generator.batch_size] for start in starts]
    outcomes = [outcome for batch in batches for outcome in _propose_or_split(generator, batch)]
    return [_checked(image, outcome) for image, outcome in zip(images, outcomes, strict=True)]


def _propose_or_split(generator: MaskGenerator, batch: Sequence[ImageInput]) -> list[MaskProposals | ProposalError]:
    try:
        outcomes = list(generator.propose(batch))
    except Exception as error:
        if _is_not_the_image(error):
            raise
        if len(batch) == 1:
            return [ProposalError("proposal_failed", f"{type(error).__name__}: {error}")]
        return [outcome for image in batch for outcome in _propose_or_split(generator, [image])]
    if len(outcomes) != len(batch):
        raise UserError(
            f"mask generator {generator.name}: propose must return one outcome an image; "
            f"got {len(outcomes)} for {len(batch)} images"
        )
    return outcomes


def _is_not_the_image(error: Exception) -> bool:
    return isinstance(error, (UserError, ImportError)) or is_out_of_memory(error) or is_device_error(error)


def _checked(image: ImageInput, outcome: MaskProposals | ProposalError) -> MaskProposals | ProposalError:
    if isinstance(outcome, ProposalError):
        return outcome
    if not isinstance(outcome, MaskProposals):
        wanted = "MaskProposals or a ProposalError"
        raise UserError(f"mask generator: propose must return {wanted} an image; got a {type(outcome).__name__}")
    wanted = list(image.pixels_HW3.shape[:2])
    for index, mask in enumerate(outcome.masks):
        if list(mask["size"]) != wanted:
            return ProposalError("mask_size_mismatch", f"mask {index}: wanted {wanted}, got {list(mask['size'])}")
    scores = [score for score in (outcome.predicted_iou, outcome.stability) if score is not None]
    if any(len(score) != len(outcome.masks) for score in scores):
        return ProposalError("proposal_failed", f"wanted one score a mask, for {len(outcome.masks)} masks")
    try:
        check_rles(outcome.masks)
    except ValueError as error:
        return ProposalError("proposal_failed", str(error))
    return _without_empty_masks(outcome)


def _without_empty_masks(proposals: MaskProposals) -> MaskProposals | ProposalError:
    kept = np.flatnonzero(areas_px(proposals.masks))
    if kept.size == 0:
        return ProposalError("no_masks", "the generator found no mask")
    if kept.size == len(proposals.masks):
        return proposals
    return MaskProposals(*(column and [column[index] for index in kept] for column in proposals))


def _resolve_plug_in(name: str, options: Mapping[str, object], device: str) -> GeneratorSpec:
    """Open the user's generator once, so that a bad option fails now, and ask it what decides its results."""
    generator = _make_plug_in(name, options, device)
    if hasattr(generator, "fingerprint"):
        identity = dict(generator.fingerprint())
    else:
        factory = _plug_in_factory(name)
        version = getattr(importlib.import_module(name.partition(":")[0]), "__version__", None)
        identity = {"version": version, "options": dict(options)}
        identity |= {"device": device} if _takes_device(factory) else {}
    return GeneratorSpec(name, tuple(sorted(options.items())), device, _canonical_json(name, identity))


def _canonical_json(name: str, identity: Mapping[str, object]) -> str:
    try:
        return json.dumps(identity, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"mask generator {name}: its fingerprint must be plain JSON values; {error}") from error


def _make_plug_in(name: str, options: Mapping[str, object], device: str) -> MaskGenerator:
    factory = _plug_in_factory(name)
    arguments = dict(options) | ({"device": device} if _takes_device(factory) else {})
    _check_arguments(name, factory, arguments)
    try:
        generator = factory(**arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"mask generator {name}: the factory failed with {arguments}: {type(error).__name__}: {error}"
        ) from error
    for attribute in ("name", "batch_size", "propose"):
        if not hasattr(generator, attribute):
            raise UserError(
                f"mask generator {name}: the factory returned a {type(generator).__name__} "
                f"without {attribute!r}; see MaskGenerator in ovseg_model/proposals/generator.py"
            )
    return generator


def _plug_in_factory(name: str) -> Callable[..., MaskGenerator]:
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(
            f"mask generator {name!r}: wanted package.module:factory, importable here; "
            f"got {type(error).__name__}: {error}"
        ) from error
    if not callable(factory):
        raise UserError(f"mask generator {name!r}: wanted something to call, got a {type(factory).__name__}")
    return factory


def _takes_device(factory: Callable[..., MaskGenerator]) -> bool:
    return "device" in inspect.signature(factory).parameters


def _check_arguments(name: str, factory: Callable[..., MaskGenerator], arguments: Mapping[str, object]) -> None:
    signature = inspect.signature(factory)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no option"
        raise UserError(f"mask generator {name}: {error}; its factory takes {takes}") from error
