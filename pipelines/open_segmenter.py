"""The options that `segment` and `evaluate` share, and what they open: a proposal generator, CLIP, class vectors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from pipelines.options import (
    ONE_PASS_LAYERS_HELP,
    ONE_PASS_SIZE_HELP,
    REGION_WAYS,
    REGIONS_HELP,
    SCORER_HELP,
    SCORERS,
    option,
    require_at_least,
)

if TYPE_CHECKING:
    from ovseg_model.class_embeddings import ClassEmbeddings
    from ovseg_model.proposals.soft import ProposalNetwork
    from ovseg_model.rank_agreement import CropAgreement
    from ovseg_model.region_encoder import MaskEncoder
    from ovseg_model.segment import SegmentOptions


@dataclass(frozen=True)
class ModelOptions:
    """Where masks come from, and the CLIP that names them."""

    masks: str = option(
        "felzenszwalb",
        "mask proposals: felzenszwalb (no weights), sam, maskformer (any MaskFormer or Mask2Former, and the network of "
        "ovseg train-proposals), annotations, or package.module:factory",
    )
    mask_option: tuple[str, ...] = option((), "an option of the generator as NAME=VALUE; may be given several times")
    clip: str = option("scenes", "CLIP, as --clip of ovseg match; adapted.safetensors of ovseg finetune among them")
    clip_architecture: str | None = option(None, "open_clip architecture of a checkpoint file that does not say it")
    templates: str = option("vild", "prompt templates: vild (OVSeg's 14), photo, or a sentence with {}")
    precision: str = option("fp32", "CLIP's number format", choices=("fp32", "bf16", "fp16"))
    region_batch: int = option(20, "masked regions a CLIP forward; smaller batches are padded to it")
    expand_ratio: float = option(1.0, "box of the region over the mask's tight box")
    antialias: bool = option(True, "antialiased resize of regions, as in mining; OVSeg's own inference has none")
    regions: str = option("float", REGIONS_HELP, choices=REGION_WAYS)
    scorer: str = option("crops", SCORER_HELP, choices=SCORERS)
    one_pass_layers: int = option(1, ONE_PASS_LAYERS_HELP)
    one_pass_size: int = option(0, ONE_PASS_SIZE_HELP)
    device: str = option("auto", "device of generator and CLIP: auto, cpu, cuda or cuda:N")
    synonyms: str = option(
        "verbatim",
        'names with commas: verbatim ("road, route" is one text, OVSeg\'s way), max or mean over the names',
        choices=("verbatim", "max", "mean"),
    )


@dataclass(frozen=True)
class Models:
    """What was opened, and what decides its results."""

    network: ProposalNetwork | None
    regions: MaskEncoder
    embeddings: ClassEmbeddings
    fingerprint: dict[str, Any]
    agreement: CropAgreement | None = None
    """Where masks are read in one pass: what compares it with crops."""

    @property
    def meaningless(self) -> bool:
        """Whether CLIP's weights are random."""
        return self.regions.clip.weights.meaningless


def open_models(options: ModelOptions, work_folder: str, proposals: bool = True) -> Models:
    """Resolves and opens the generator and CLIP.

    work_folder: for what a generator prepares. proposals: False leaves the generator out, where regions are given.

    Raises:
        UserError: as `resolve_clip` and `resolve_generator`.
    """
    from ovseg_model.class_embeddings import ClassEmbeddings, prompt_templates
    from ovseg_model.clip import load_clip, resolve_clip, resolve_device
    from ovseg_model.one_pass import OnePassOptions
    from ovseg_model.rank_agreement import CropAgreement
    from ovseg_model.region_encoder import open_mask_encoder
    from ovseg_model.regions import RegionOptions

    require_at_least("region_batch", options.region_batch, 1)
    device = resolve_device(options.device)
    templates = prompt_templates(options.templates)
    region_options = RegionOptions(options.expand_ratio, options.antialias)
    one_pass = OnePassOptions(options.one_pass_layers, options.one_pass_size)
    network, network_fingerprint = open_proposals(options, device, work_folder) if proposals else (None, {})
    weights = resolve_clip(options.clip, options.clip_architecture)
    clip = load_clip(weights, device, options.precision, image_batch=options.region_batch)
    regions = open_mask_encoder(clip, options.scorer, options.regions, region_options, one_pass)
    agreement = None
    if options.scorer == "one-pass":
        agreement = CropAgreement(open_mask_encoder(clip, "crops", options.regions, region_options, one_pass))
    fingerprint = {
        "proposals": network_fingerprint,
        "clip": clip.fingerprint(),
        "templates": list(templates),
        "expand_ratio": options.expand_ratio,
        "antialias": options.antialias,
        **({} if options.regions == "float" else {"regions": options.regions}),
        **({} if options.scorer == "crops" else {"scorer": options.scorer, "one_pass": asdict(one_pass)}),
    }
    return Models(network, regions, ClassEmbeddings(clip, templates), fingerprint, agreement)


def open_proposals(options: ModelOptions, device: str, work_folder: str) -> tuple[ProposalNetwork, dict[str, Any]]:
    """The generator of --masks as a proposal network, and what decides its masks.

    One that proposes soft masks itself does so; masks of any other are hard and without classes.

    Raises:
        UserError: as `resolve_generator`, and for an option that soft masks do not read.
    """
    from ovseg_model.proposals import open_generator, resolve_generator
    from ovseg_model.proposals.soft import HardProposals
    from pipelines.plan import parse_generator_options

    given = parse_generator_options(options.mask_option)
    spec = resolve_generator(options.masks, given, device, work_folder)
    generator = open_generator(spec)
    if hasattr(generator, "check_soft_options"):
        generator.check_soft_options(given)
    return generator if hasattr(generator, "propose_soft") else HardProposals(generator), spec.fingerprint()


def check_class_vectors(models: Models) -> None:
    """Refuses a CLIP, or templates, that are not those of the proposal network's classes.

    Raises:
        UserError: vectors of names that it was trained with are others now.
    """
    check = getattr(models.network, "check_vectors", None)
    if check:
        check(models.embeddings.embed)


def effective_options(options: SegmentOptions, demo: bool, given: Collection[str]) -> SegmentOptions:
    """The options, or for --demo those of OVSeg's demo, but for what was given.

    given: names of the options that the user gave.
    """
    from ovseg_model.segment import DEMO

    kept = {each.name: getattr(options, each.name) for each in fields(options) if each.name in given}
    return replace(DEMO, **kept) if demo else options
