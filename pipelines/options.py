"""Every option once: a frozen dataclass a step, from which the command line is derived."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from schemas import UserError

Options = TypeVar("Options")


def option(default: Any, help_: str, *, choices: Sequence[str] = ()) -> Any:
    """A dataclass field with its help text and, where they are closed, its choices."""
    return field(default=default, metadata={"help": help_, "choices": tuple(choices)})


REGION_WAYS = ("float", "exact", "near")
REGIONS_HELP = (
    "resize of regions: float (PIL's without its rounding), exact (PIL byte for byte) or near (within two grey levels "
    "of it, and fastest; on a GPU done there)"
)
SCORERS = ("crops", "one-pass")
SCORER_HELP = "crops (one a mask) or one-pass (all masks of an image in one forward; other scores: docs/scoring.md)"
ONE_PASS_LAYERS_HELP = "last blocks of CLIP in which each mask has a class token of its own"
ONE_PASS_SIZE_HELP = "side of the square that the whole image is shown in, px; 0 is the model's own"


@dataclass(frozen=True)
class FreezeOptions:
    """How the input is frozen and cut into units."""

    captions_per_image: int = option(0, "captions kept of each image, in order; 0 keeps all, 1 is the paper's default")
    images_per_unit: int = option(64, "images a unit, about; a unit is what a worker makes, loses and retries at once")
    unit_count: int = dataclasses.field(default=0, metadata={"hidden": True})


@dataclass(frozen=True)
class NounOptions:
    """What counts as a noun."""

    nouns: str = option(
        "nouns",
        "noun rule: nouns (every NLTK noun token, the paper's), phrases (adjectives and compounds), lexicon (needs no "
        "data files, approximate)",
        choices=("nouns", "phrases", "lexicon"),
    )


@dataclass(frozen=True)
class MaskOptions:
    """Where mask proposals come from."""

    masks: str = option(
        "felzenszwalb",
        "mask generator: felzenszwalb (no weights), annotations (masks that exist), sam (segment-anything), maskformer "
        "(any MaskFormer or Mask2Former), or package.module:factory",
    )
    mask_option: tuple[str, ...] = option((), "an option of the generator as NAME=VALUE; may be given several times")
    masks_from: str | None = option(None, "take masks from the MASKS table of this run instead of making them")
    propose_missing: bool = option(False, "with --masks-from: propose masks for images that have none there")
    mask_weights_licence: str | None = option(
        None, "licence of the generator's weights, for run.json, where it is not known (docs/tables.md)"
    )


@dataclass(frozen=True)
class ExcludeOptions:
    """Images that a run must not have, such as those of evaluation sets."""

    exclude_images: tuple[str, ...] = option(
        (), "hash lists that `ovseg hash` made, paths or fsspec URLs; images that match one are dropped unseen"
    )
    exclude_distance: int = option(
        4, "bits of 64 in which perceptual hashes of one image may differ (docs/decontamination.md); 0 wants equal ones"
    )


@dataclass(frozen=True)
class MatchOptions:
    """How nouns are matched to masked regions."""

    clip: str = option(
        "scenes",
        "CLIP that matches: ARCHITECTURE/TAG of open_clip (ViT-B-16/openai), a checkpoint path, scenes (ships with the "
        "project and knows drawn scenes only), or ARCHITECTURE/random for plumbing",
    )
    clip_architecture: str | None = option(None, "open_clip architecture of a checkpoint file that does not say it")
    weights_licence: str | None = option(
        None, "licence of CLIP's weights, for run.json, where it is not known (docs/tables.md)"
    )
    templates: str = option("vild", "prompt templates: vild (OVSeg's 14), photo, or a sentence with {}")
    precision: str = option("fp32", "CLIP's number format", choices=("fp32", "bf16", "fp16"))
    compare_precision: bool = option(
        True, "measure on a sample of images how far bf16 or fp16 agrees with fp32; opens the CLIP once more"
    )
    region_batch: int = option(
        0, "masked regions a CLIP forward, to which fewer are padded; 0: 32 on a CPU, 256 on a GPU"
    )
    expand_ratio: float = option(1.0, "box of the region over the mask's tight box")
    antialias: bool = option(True, "antialiased resize; OVSeg's own inference has none")
    regions: str = option("float", REGIONS_HELP, choices=REGION_WAYS)
    scorer: str = option("crops", SCORER_HELP, choices=SCORERS)
    one_pass_layers: int = option(1, ONE_PASS_LAYERS_HELP)
    one_pass_size: int = option(0, ONE_PASS_SIZE_HELP)
    prefilter: int = option(
        0, "crop only the masks that one pass ranks among the best N of any noun of their image; 0 crops all"
    )
    masks_per_noun: int = option(1, "best masks kept for each noun; the paper keeps 1")
    runner_up_nouns: int = option(3, "other nouns of the image listed with each pair, best first")
    runner_up_masks: int = option(
        3, "next best masks listed with each pair, for `ovseg filter --assign` to choose from"
    )
    hard_negatives: int = option(
        0, "nouns of other images listed with each pair that CLIP ranks high on its region and its captions lack"
    )
    match_abstract: bool = option(True, "match abstract nouns too, as the paper does; they are flagged")
    match_generic: bool = option(True, "match generic nouns too, as the paper does; they are flagged")
    safety: str | None = option(
        None, "package.module:function that gives an image's safety flag in place of the input's (docs/inputs.md)"
    )
    crops: bool = option(False, "store each region's box as PNG in PAIRS, so that training needs no images")


@dataclass(frozen=True)
class RunOptions:
    """Where the run lies and who runs it. Nothing here changes a row, but for the device."""

    output: str = option("", "run directory: a path or fsspec URL; the same command again completes it")
    runner: str = option("FnApiRunner", "plain (loops without Beam) or a Beam runner; every Beam option passes through")
    device: str = option("auto", "device of generators and CLIP: auto, cpu, cuda or cuda:N")
    resume: bool = option(True, "go on with the run that --output holds; --no-resume wants a folder that holds none")
    devices: str | None = option(
        None, "one process a device, units handed to whichever is free: numbers of GPUs as in 0,1,2 or cpu,cpu"
    )
    workers: int = option(
        0, "worker processes on this machine, of FnApiRunner and FlinkRunner; 0 works in the launching process"
    )
    engines: str | None = option(None, "folder that `make engines` filled (default: .engines, here or in the project)")
    report: bool = option(True, "write report.html at the end; `ovseg report RUN` writes it at any time")
    noun_cache: str | None = option(
        None,
        "folder (path or fsspec URL) where vectors of nouns are kept for other runs too; without it workers share them "
        "in the run until it is finished",
    )
    torch_threads: int = option(0, "CPU threads of one forward; 0 takes every core. Other counts may round otherwise")


@dataclass(frozen=True)
class RetryOptions:
    """What is tried again."""

    retry: str | None = option(
        None,
        "drops: try again what was dropped for a reason that can pass (network, memory, time), and complete the run",
        choices=("drops",),
    )


@dataclass(frozen=True)
class ShardOptions:
    """Several machines on one run, without an engine."""

    shard_count: int = option(1, "into how many shards the units are dealt; each makes its own, in the same --output")
    shard_index: int = option(0, "the shard to make, from 0")
    finish: bool = option(
        False, "write the manifest of a run that shards made, or say what is missing; wants --output alone"
    )


@dataclass(frozen=True)
class AcceleratorOptions:
    """GPUs that Dataflow is asked for, for the steps that run models and for no other. They change no row."""

    accelerator: str | None = option(None, "GPU type of the workers that propose masks and match, such as nvidia-l4")
    accelerator_count: int = option(1, "GPUs a worker; one process uses one")
    install_driver: bool = option(True, "with --accelerator: Dataflow installs NVIDIA's driver on the workers")
    one_process_per_gpu: bool = option(
        True, "with --accelerator: one SDK process and thread a worker (experiment no_use_multiple_sdk_containers)"
    )


OTHER_NAMES = {"--lambda": "--clip-weight", "--λ": "--clip-weight", "--threshold": "--mask-threshold"}
"""What options of ours are called elsewhere."""


class SentenceParser(argparse.ArgumentParser):
    """argparse whose errors are our sentences, without the usage in front of them."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError, with the option that was probably meant."""
        raise UserError(f"{message}; {self._hint(message)}--help lists what there is")

    def _hint(self, message: str) -> str:
        known = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        for word in message.split() if message.startswith("unrecognized arguments") else ():
            flag = word.partition("=")[0]
            close = [OTHER_NAMES[flag]] if OTHER_NAMES.get(flag) in known else get_close_matches(flag, known, 1)
            if flag.startswith("--") and close:
                return f"did you mean {close[0]}? "
        return ""


def add_options(parser: argparse.ArgumentParser, cls: type[Any]) -> None:
    """Adds one command line argument for each field of an options dataclass, in a group with its first sentence."""
    group = parser.add_argument_group((cls.__doc__ or cls.__name__).splitlines()[0].rstrip("."))
    hints = typing.get_type_hints(cls)
    for each in dataclasses.fields(cls):
        if not each.metadata.get("hidden"):
            _add_option(group, each, hints[each.name])


def read_options(namespace: argparse.Namespace, cls: type[Options]) -> Options:
    """The options dataclass from a parsed command line; what was not given keeps the class's default."""
    names = {each.name for each in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given = {name: value for name, value in vars(namespace).items() if name in names}
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def require_at_least(name: str, value: float, least: float) -> None:
    """Refuses an option value below its least.

    Raises:
        UserError: the value is too small.
    """
    if value < least:
        raise UserError(f"--{name.replace('_', '-')}: wanted {least} or more, got {value}")


def _add_option(group: argparse._ArgumentGroup, each: dataclasses.Field[Any], type_: Any) -> None:
    flag, metadata = "--" + each.name.replace("_", "-"), each.metadata
    # Nothing given leaves no trace, so that the dataclass stays the only place of the default.
    common: dict[str, Any] = {"dest": each.name, "default": argparse.SUPPRESS, "help": _help(each)}
    if type_ is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
    elif typing.get_origin(type_) is tuple:
        group.add_argument(flag, action="extend", nargs="+", metavar="VALUE", **common)
    else:
        choices = metadata.get("choices") or None
        metavar = None if choices else _plain_type(type_).__name__.upper()
        group.add_argument(flag, type=_plain_type(type_), choices=choices, metavar=metavar, **common)


def _help(each: dataclasses.Field[Any]) -> str:
    text = str(each.metadata.get("help", "")).replace("%", "%%")
    required = each.default is dataclasses.MISSING
    shown = each.default not in (None, (), "", dataclasses.MISSING)
    return f"{text} (default: {each.default})" if shown and not required else text


def _plain_type(type_: Any) -> type:
    """`X` of `X | None`."""
    if isinstance(type_, types.UnionType):
        return next(arg for arg in typing.get_args(type_) if arg is not types.NoneType)
    return type_
