"""Any open_clip model: weights found by name before work starts, loaded safely, and unit vectors from either tower.

Two halves. `resolve_clip` runs once, in the launcher: it may fetch, and it says what. `load_clip` runs in every
worker: it reads the file that the resolved weights name, and nothing else. Array names end in their axes: B images,
T texts, C channels, H and W pixels, L tokens, D dimensions of the shared space.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.util
import json
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg_model.device_clock import device_at_work
from ovseg_model.halving import Fitting, fitting_rows
from ovseg_model.regions import normalise
from schemas.errors import UserError

if TYPE_CHECKING:
    import torch

    from ovseg_model.mask_adapted_clip import MaskAdaptedClip

RANDOM_TAG = "random"
RANDOM_SEED = 0
CHECKPOINT_TAG = "checkpoint"
CONFIG_FILE = "open_clip_config.json"
BPE_FILE = "bpe_merges.txt.gz"
"""A tokenizer's own merges, beside the config file of a model that has another vocabulary than OpenAI's."""

EMBEDDED = {"scenes": os.path.join(os.path.dirname(os.path.abspath(__file__)), "scenes_clip")}
"""Models that ship with the project, by name: scenes is a small CLIP of the drawn world in datasets/scenes.py."""

ADAPTED_TAG = "adapted"
"""The tag of a mask-adapted CLIP, which describes itself: a .safetensors file that `ovseg finetune` wrote."""

LOCAL_FOLDER = "local-dir:"
"""How open_clip marks an architecture that a folder's config file describes."""

SAFE_FILE, PLAIN_FILE = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
"""The names under which open_clip publishes weights, safetensors first."""

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
PRECISIONS = ("fp32", "bf16", "fp16")

LENGTH_STEP = 4
"""Texts are cut to multiples of this many tokens. Finer steps cut more, but leave more batches half full: of 1, 2, 4
and 8, 4 was fastest for 12 nouns in 14 templates (67 texts/s against 41 with 8, ViT-B-32, one CPU thread)."""

LIST_COMMAND = 'python -c "import open_clip; [print(a, t, sep=chr(47)) for a, t in open_clip.list_pretrained()]"'


@dataclass(frozen=True)
class ClipWeights:
    """Resolved weights: small and picklable, so that a worker opens exactly what the launcher found."""

    name: str
    """ARCHITECTURE/TAG, or for a checkpoint its file or folder name (after ARCHITECTURE/ when that was given): the
    same wherever the file lies, because tables carry it."""

    architecture: str
    """open_clip's name, or `local-dir:` and the folder whose open_clip_config.json describes the model."""

    tag: str
    """open_clip's pretrained tag, "random", "checkpoint" or "adapted"."""

    path: str | None
    """The weights file on this machine; None for random weights."""

    sha256: str
    """Of the weights file; for random weights, of a text that names architecture and seed."""

    size_bytes: int
    """Of the weights file; 0 for random weights."""

    meaningless: bool
    """Whether every output must be marked as meaningless: random weights."""

    config_sha256: str | None = None
    """Of open_clip_config.json, and of the merges beside it, when those describe the model."""

    def fingerprint(self) -> dict[str, str]:
        """What decides the model's numbers, free of paths: equal ones are the same model."""
        model = f"config {self.config_sha256}" if self.config_sha256 else self.architecture
        return {"name": self.name, "model": model, "tag": self.tag, "sha256": self.sha256}


# Finding weights: once, before work starts.


def resolve_clip(
    name: str,
    architecture: str | None = None,
    cache_dir: str | None = None,
    say: Callable[[str], None] = print,
) -> ClipWeights:
    """Finds the weights a name stands for and fetches them if need be, after saying what, how large and to where.

    name: ARCHITECTURE/TAG of open_clip; ARCHITECTURE/random, seeded weights that mean nothing; one of EMBEDDED; or a
    checkpoint: a .safetensors, .pt, .pth or .bin file, a folder as open_clip saves it, or the mask-adapted CLIP that
    `ovseg finetune` wrote. architecture: of a checkpoint that has no open_clip_config.json beside it; weights trained
    with QuickGELU, as OpenAI's and OVSeg's were, need the architecture that ends in -quickgelu. cache_dir: where
    fetched weights are kept, by default the Hugging Face cache.

    A checkpoint is opened once here, so that one that does not fit stops the run before it starts. Raises UserError
    for an unknown name, a checkpoint that cannot be read or does not fit, and weights that cannot be fetched.
    """
    import open_clip

    head, _, tag = name.rpartition("/")
    if name in EMBEDDED and architecture:
        raise UserError(
            f"CLIP {name} ships with its architecture; leave {architecture} away, it is for checkpoint files"
        )
    if name in EMBEDDED:
        weights = dataclasses.replace(_checkpoint_weights(EMBEDDED[name], architecture), name=name)
    elif head in open_clip.list_models():
        if architecture not in (None, head):
            raise UserError(
                f"CLIP {name}: its architecture is {head}, but {architecture} was given as well; leave that away, "
                "it is for checkpoint files"
            )
        weights = _random_weights(head) if tag == RANDOM_TAG else _tagged_weights(head, tag, cache_dir, say)
    elif os.path.exists(os.path.expanduser(name)):
        path = os.path.abspath(os.path.expanduser(name))
        weights = _adapted_weights(path, architecture) or _checkpoint_weights(path, architecture)
    else:
        raise UserError(_unknown_name(name))
    if weights.tag in (CHECKPOINT_TAG, ADAPTED_TAG) or needs_transformers(weights.architecture):
        load_clip(weights)
    return weights


def _random_weights(architecture: str) -> ClipWeights:
    text = f"open_clip {architecture} initialised with seed {RANDOM_SEED}"
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return ClipWeights(f"{architecture}/{RANDOM_TAG}", architecture, RANDOM_TAG, None, sha256, 0, meaningless=True)


def _unknown_name(name: str) -> str:
    """The sentence for a name that is neither a model nor a file."""
    import open_clip

    if name.startswith(("/", ".", "~")) or name.endswith(CHECKPOINT_SUFFIXES):
        return (
            f"CLIP: there is no file or folder {name}; give a checkpoint that exists, or ARCHITECTURE/TAG of open_clip"
        )
    known = [*EMBEDDED, *("/".join(pair) for pair in open_clip.list_pretrained())]
    return (
        f"CLIP: wanted ARCHITECTURE/TAG of open_clip, ARCHITECTURE/random, {', '.join(EMBEDDED)} or a checkpoint's "
        f"path, got {name!r}; "
        f"{_closest(name, known)}all are listed by: {LIST_COMMAND}"
    )


def _closest(name: str, known: Sequence[str]) -> str:
    """The part of a sentence that names what is near, or nothing."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"closest: {', '.join(near)}; " if near else ""


def _tagged_weights(architecture: str, tag: str, cache_dir: str | None, say: Callable[[str], None]) -> ClipWeights:
    """Weights that open_clip knows by a tag, from the cache or fetched."""
    import open_clip

    tag = tag.lower().replace("-", "_")
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in known:
        raise UserError(
            f"CLIP: {architecture} has no weights {tag!r}; {_closest(tag, known)}it has "
            f"{', '.join([*known, RANDOM_TAG])}; all models are listed by: {LIST_COMMAND}"
        )
    path = _cached_file(architecture, tag, cache_dir) or _fetch(architecture, tag, cache_dir, say)
    size_bytes = os.path.getsize(path)
    return ClipWeights(
        f"{architecture}/{tag}", architecture, tag, path, file_sha256(path), size_bytes, meaningless=False
    )


def _published_files(architecture: str, tag: str) -> tuple[str, tuple[str, ...]]:
    """The hub repository of a tag, and the files that may hold its weights, safetensors first."""
    import open_clip

    place = open_clip.get_pretrained_cfg(architecture, tag).get("hf_hub", "")
    repository, _, file = place.rpartition("/")
    if not repository:
        raise UserError(
            f"CLIP {architecture}/{tag}: open_clip names no hub repository for it; give a checkpoint's path"
        )
    return repository, ((os.path.splitext(file)[0] + ".safetensors", file) if file else (SAFE_FILE, PLAIN_FILE))


def _cached_file(architecture: str, tag: str, cache_dir: str | None) -> str | None:
    """The file of a tag in the cache; the network is not asked."""
    from huggingface_hub import try_to_load_from_cache

    repository, files = _published_files(architecture, tag)
    found = (try_to_load_from_cache(repository, file, cache_dir) for file in files)
    return next((path for path in found if isinstance(path, str)), None)


def _fetch(architecture: str, tag: str, cache_dir: str | None, say: Callable[[str], None]) -> str:
    """Fetches the file of a tag into the cache, saying so first. Raises UserError when that fails."""
    from huggingface_hub import constants
    from open_clip.pretrained import download_pretrained_from_hf

    repository, files = _published_files(architecture, tag)
    folder = cache_dir or constants.HF_HUB_CACHE
    try:
        file, size_bytes = first_published(repository, files)
        say(f"fetching {architecture}/{tag}, {size_bytes / 2**20:.0f} MiB, {file} of {repository}, to {folder}")
        return download_pretrained_from_hf(repository, filename=file, cache_dir=cache_dir)
    except Exception as error:  # each network layer has exceptions of its own
        raise UserError(_not_fetched(architecture, tag, repository, files[0], folder, error)) from error


def first_published(repository: str, files: Sequence[str]) -> tuple[str, int]:
    """The first of the files that the repository has, and its size in bytes."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    for file in files[:-1]:
        with contextlib.suppress(EntryNotFoundError):
            return file, get_hf_file_metadata(hf_hub_url(repository, file)).size or 0
    return files[-1], get_hf_file_metadata(hf_hub_url(repository, files[-1])).size or 0


def _not_fetched(architecture: str, tag: str, repository: str, file: str, folder: str, error: Exception) -> str:
    """The sentence for weights out of reach; the command in it runs on any machine that has open_clip."""
    import open_clip

    quick = f"{architecture}-quickgelu"
    needs_quick = tag in open_clip.list_pretrained_tags_by_model(quick)
    command = f"print(open_clip.download_pretrained(open_clip.get_pretrained_cfg('{architecture}', '{tag}')))"
    return (
        f"CLIP {architecture}/{tag}: wanted {file} of {repository}, which is not in {folder} and could not be fetched "
        f'({first_line(error)}); on a machine with network run: python -c "import open_clip; {command}" and give the '
        f"path of the file that it prints, with architecture {quick if needs_quick else architecture}"
    )


def _checkpoint_weights(path: str, architecture: str | None) -> ClipWeights:
    """Weights in a file or folder of the user's, with the architecture that is given or described beside them."""
    file = _checkpoint_file(path)
    config = os.path.join(os.path.dirname(file), CONFIG_FILE)
    if architecture:
        check_architecture(architecture)
        name, model, config_sha256 = f"{architecture}/{os.path.basename(path)}", architecture, None
    elif os.path.isfile(config):
        _check_config(config)
        name, model = os.path.basename(path), LOCAL_FOLDER + os.path.dirname(file)
        config_sha256 = _description_sha256(config)
    else:
        raise UserError(
            f"CLIP {path}: its architecture is not known; give it by --clip-architecture, as ViT-B-16 or "
            f"ViT-B-16-quickgelu, or put {CONFIG_FILE} beside the file"
        )
    sha256, size_bytes = file_sha256(file), os.path.getsize(file)
    return ClipWeights(name, model, CHECKPOINT_TAG, file, sha256, size_bytes, False, config_sha256)


def _adapted_weights(path: str, architecture: str | None) -> ClipWeights | None:
    """Weights of a mask-adapted CLIP; None for any other file."""
    from ovseg_model.adapted_weights import is_adapted, read_description

    if not is_adapted(path):
        return None
    if architecture:
        raise UserError(f"CLIP {path}: a mask-adapted CLIP says its architecture itself; leave {architecture} away")
    origin = read_description(path)["origin"]
    name = f"{ADAPTED_TAG}/{os.path.basename(path)}"
    model = origin["architecture"] or f"adapted from {origin['name']}"
    return ClipWeights(
        name, model, ADAPTED_TAG, path, file_sha256(path), os.path.getsize(path), bool(origin["meaningless"])
    )


def _description_sha256(config: str) -> str:
    """Of a config file, and of the tokenizer's merges where they lie beside it: both decide the numbers."""
    merges = os.path.join(os.path.dirname(config), BPE_FILE)
    if not os.path.isfile(merges):
        return file_sha256(config)
    return hashlib.sha256(f"{file_sha256(config)} {file_sha256(merges)}".encode()).hexdigest()


def _checkpoint_file(path: str) -> str:
    """The weights file that a path means; of a folder, the one that open_clip saves."""
    if os.path.isdir(path):
        files = [os.path.join(path, file) for file in (SAFE_FILE, PLAIN_FILE)]
        path_in_folder = next((file for file in files if os.path.isfile(file)), None)
        if path_in_folder is None:
            raise UserError(
                f"CLIP {path}: wanted {SAFE_FILE} or {PLAIN_FILE} in the folder, found neither; give a file"
            )
        return path_in_folder
    if not path.endswith(CHECKPOINT_SUFFIXES):
        raise UserError(f"CLIP {path}: wanted a checkpoint that ends in one of {', '.join(CHECKPOINT_SUFFIXES)}")
    return path


def check_architecture(architecture: str) -> None:
    """Refuses a name that is none of open_clip's architectures. Raises UserError."""
    import open_clip

    if architecture not in open_clip.list_models():
        raise UserError(
            f"CLIP architecture: wanted one of open_clip's, got {architecture!r}; "
            f"{_closest(architecture, open_clip.list_models())}all are listed by: "
            'python -c "import open_clip; print(*open_clip.list_models())"'
        )


def _check_config(path: str) -> None:
    """Refuses a config file that does not describe a model."""
    try:
        with open(path, encoding="utf-8") as file:
            keys = set(json.load(file)["model_cfg"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: wanted JSON with a model_cfg, as open_clip saves it; {first_line(error)}") from error
    if missing := {"embed_dim", "vision_cfg", "text_cfg"} - keys:
        raise UserError(f"{path}: model_cfg lacks {', '.join(sorted(missing))}; save it again with open_clip")


def needs_transformers(architecture: str) -> bool:
    """Whether an architecture's tokenizer or text tower comes from the transformers package."""
    import open_clip

    text = open_clip.get_model_config(architecture)["text_cfg"]
    return bool(text.get("hf_tokenizer_name") or text.get("hf_model_name"))


def file_sha256(path: str) -> str:
    """Returns the sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """What an exception says, cut to its first line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# Opening a model: in every worker.


def resolve_device(name: str) -> str:
    """Returns the device a name means: "cpu", "cuda" or "cuda:1"; "auto" is a GPU where there is one.

    Raises UserError for a GPU that is not there: nothing falls back silently.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if gpus else "cpu"
    gpu = re.fullmatch(r"cuda(?::(\d+))?", name)
    if name != "cpu" and not gpu:
        raise UserError(f"device: wanted auto, cpu, cuda or cuda:NUMBER, got {name!r}")
    if gpu and int(gpu[1] or 0) >= gpus:
        raise UserError(f"device {name}: torch sees {gpus} GPUs here; use --device cpu, or a machine with that GPU")
    return name


def load_clip(
    weights: ClipWeights,
    device: str = "cpu",
    precision: str = "fp32",
    image_batch: int = 32,
    text_batch: int = 64,
) -> Clip:
    """Opens resolved weights; nothing is fetched, and no pickled code is run.

    device: as `resolve_device` takes it. precision: fp32, bf16 or fp16; weights are cast once. image_batch,
    text_batch: rows of every forward; smaller ones are padded. Raises UserError for a device that is not there, an
    unknown precision, and a weights file that is gone, has changed, or does not fit its architecture.
    """
    resolved = resolve_device(device)
    if precision not in PRECISIONS:
        raise UserError(f"precision: wanted one of {', '.join(PRECISIONS)}, got {precision!r}")
    if weights.tag == ADAPTED_TAG:
        from ovseg_model.adapted_weights import load_adapted_clip

        return load_adapted_clip(weights, resolved, precision, image_batch, text_batch)
    model = create_model(weights, precision)
    if weights.path is not None:
        load_weights(model, weights)
    model.to(resolved).eval().requires_grad_(False)
    tokenizer = open_tokenizer(weights)
    _check_vocabulary(weights, tokenizer)
    return Clip(model, tokenizer, weights, resolved, precision, image_batch, text_batch)


def _check_vocabulary(weights: ClipWeights, tokenizer: Callable[[Sequence[str]], torch.Tensor]) -> None:
    """Refuses a tokenizer of more tokens than the text tower knows: another model's."""
    import open_clip

    known = open_clip.get_model_config(weights.architecture)["text_cfg"].get("vocab_size")
    got = getattr(tokenizer, "vocab_size", None)
    if known and got and got > known:
        raise UserError(
            f"CLIP {weights.name}: its text tower knows {known:,} tokens, its tokenizer {got:,}; put {BPE_FILE}, the "
            f"merges that it was trained with, beside {CONFIG_FILE}"
        )


def create_model(weights: ClipWeights, precision: str) -> torch.nn.Module:
    """Returns the architecture with seeded weights, on the CPU; the caller's random state is left as it was.

    weights: only architecture and tag are read. precision: one of PRECISIONS. Raises UserError when the architecture
    needs a package that is not installed.
    """
    import open_clip
    import torch

    _require_transformers(weights)
    tag = open_clip.get_pretrained_cfg(weights.architecture, weights.tag)
    with torch.random.fork_rng(devices=[]), _quiet_about_random_weights():
        torch.default_generator.manual_seed(RANDOM_SEED)
        return open_clip.create_model(
            weights.architecture,
            load_weights=False,
            pretrained_text=False,
            precision=precision,
            # open_clip 3.3 only warns when weights trained with QuickGELU meet an architecture without it.
            force_quick_gelu=bool(tag.get("quick_gelu")),
            force_preprocess_cfg=tag or _usual_preprocessing(weights.architecture),
        )


def _usual_preprocessing(architecture: str) -> dict[str, Any]:
    """Mean and standard deviation that all tags of an architecture share, for a checkpoint that does not say.

    Without it a checkpoint of a SigLIP architecture would be fed with CLIP's mean and deviation.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    configs = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    usual = {(tuple(config["mean"]), tuple(config["std"])) for config in configs}
    return dict(zip(("mean", "std"), usual.pop(), strict=True)) if len(usual) == 1 else {}


@contextlib.contextmanager
def _quiet_about_random_weights() -> Iterator[None]:
    """Drops open_clip's warning about random weights: ours are loaded afterwards, or marked as meaningless."""
    root = logging.getLogger()

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(("No pretrained weights loaded", "Local config loaded, but no CLIP"))

    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def _require_transformers(weights: ClipWeights) -> None:
    if needs_transformers(weights.architecture) and importlib.util.find_spec("transformers") is None:
        raise UserError(
            f"CLIP {weights.name} needs the transformers package; install it with: pip install transformers"
        )


def load_weights(model: torch.nn.Module, weights: ClipWeights) -> None:
    """Puts a file's weights into the model, all of them and no others. Raises UserError as `load_clip`."""
    import open_clip

    path = weights.path or ""
    check_file(weights)
    try:
        open_clip.load_checkpoint(model, path, strict=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"CLIP {path}: holds Python objects beside tensors, or is damaged, and is not opened; save its state dict "
            "alone, best as safetensors"
        ) from error
    except Exception as error:  # whatever a foreign file makes open_clip raise
        raise UserError(
            f"CLIP {path} does not fit {weights.architecture}: {misfit(error)}; give the architecture that it was "
            "trained with"
        ) from error


def check_file(weights: ClipWeights) -> None:
    """Refuses a file that is gone, has changed since it was resolved, or is a program. Raises UserError."""
    path = weights.path or ""
    if not os.path.isfile(path):
        raise UserError(f"CLIP {weights.name}: {path} is not there; every machine that scores needs it at that path")
    if os.path.getsize(path) != weights.size_bytes:
        raise UserError(
            f"CLIP {weights.name}: {path} had {weights.size_bytes} bytes when the run began, now "
            f"{os.path.getsize(path)}; start again"
        )
    if is_torchscript(path):
        raise UserError(
            f"CLIP {path} is a TorchScript archive, a program rather than weights, as OpenAI publishes them; use "
            "ARCHITECTURE/openai, the same weights as safetensors, or save its state dict"
        )


def is_torchscript(path: str) -> bool:
    """Whether a file is a TorchScript archive: a zip that holds code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def misfit(error: Exception) -> str:
    """Returns the first detail of torch's list of keys that do not fit, else an error's first line."""
    lines = [line.strip() for line in str(error).splitlines()]
    detail = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else first_line(error)
    detail = detail.rstrip(". ")
    return detail if len(detail) <= 200 else detail[:200] + "…"


def open_tokenizer(weights: ClipWeights) -> Callable[[Sequence[str]], torch.Tensor]:
    """Returns the tokenizer of an architecture, with its own merges if it has some: texts to int64 (T, L).

    Raises UserError when transformers cannot get at its files.
    """
    import open_clip

    merges = os.path.join(weights.architecture.removeprefix(LOCAL_FOLDER), BPE_FILE)
    own = {"bpe_path": merges} if os.path.isfile(merges) else {}
    try:
        return open_clip.get_tokenizer(weights.architecture, **own)
    except OSError as error:
        raise UserError(
            f"CLIP {weights.name}: its tokenizer is neither here nor within reach ({first_line(error)}); run "
            "once on a machine with network and copy the Hugging Face cache"
        ) from error


# Running a model.


def cuttable(model: torch.nn.Module) -> bool:
    """Whether texts may be cut behind their end token without changing the result.

    True for open_clip's own text towers with a causal mask that are pooled at the end token: no token sees what
    follows it. False for towers that look both ways, pool elsewhere, append a class token, or come from transformers.
    """
    import open_clip
    from open_clip.transformer import TextTransformer

    tower = getattr(model, "text", model)
    if not isinstance(tower, (open_clip.CLIP, TextTransformer)):
        return False
    causal = tower.attn_mask is not None
    return causal and getattr(tower, "cls_emb", None) is None and _pooling(tower)[0] in ("argmax", "eos")


def pooled_at_class_token(model: torch.nn.Module) -> bool:
    """Whether of the last block's output only the class token is read, so that the patches may skip it.

    True for open_clip's own vision transformers with plain blocks that are pooled at the class token; False for towers
    that pool otherwise, have blocks of their own, or come from timm or transformers.
    """
    from open_clip.transformer import ResidualAttentionBlock, Transformer, VisionTransformer

    tower = getattr(model, "visual", None)
    if type(tower) is not VisionTransformer or type(tower.transformer) is not Transformer or tower.output_tokens:
        return False
    plain = all(type(block) is ResidualAttentionBlock for block in tower.transformer.resblocks)
    return plain and tower.attn_pool is None and tower.pool_type == "tok"


def _pooling(tower: torch.nn.Module) -> tuple[str, int]:
    """How a text tower is pooled, and its end token; CLIP holds its text tower's parts itself, under other names."""
    if hasattr(tower, "text_pool_type"):
        return tower.text_pool_type, tower.text_eos_id
    return tower.pool_type, tower.eos_id


class Clip:
    """A CLIP model ready to embed. Read-only attributes say what it wants and what decides its numbers."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Callable[[Sequence[str]], torch.Tensor],
        weights: ClipWeights,
        device: str,
        precision: str,
        image_batch: int,
        text_batch: int,
        adapted: MaskAdaptedClip | None = None,
    ) -> None:
        """Use `load_clip`.

        model: open_clip's, on its device, cast and in eval mode. adapted: what it is a part of, float32.
        """
        import open_clip

        preprocessing = open_clip.get_model_preprocess_cfg(model)
        self.model = model
        self.weights = weights
        self.device = device
        self.precision = precision
        self.image_batch = image_batch
        self.text_batch = text_batch
        self._image_rows = fitting_rows(image_batch, "CLIP's rows of images")
        self._text_rows = fitting_rows(text_batch, "CLIP's rows of texts")
        self.image_size_px = _square_side(preprocessing["size"], weights)
        self.mean: tuple[float, ...] = tuple(preprocessing["mean"])
        self.std: tuple[float, ...] = tuple(preprocessing["std"])
        self.embed_dim: int = open_clip.get_model_config(weights.architecture)["embed_dim"]
        self.logit_scale = float(model.logit_scale.exp())
        self.cuts_texts = cuttable(model)
        self.skips_patches = adapted is None and pooled_at_class_token(model)
        self.takes_masks = adapted is not None and (adapted.depth > 0 or adapted.alpha_conv is not None)
        self.sees_whole_images = adapted is not None and adapted.alpha_conv is not None
        self._adapted = adapted
        self._tokenizer = tokenizer

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the numbers, but for thread count and library versions."""
        names = ("precision", "image_batch", "text_batch", "cuts_texts")
        numbers = {name: getattr(self, name) for name in names}
        return {**self.weights.fingerprint(), **numbers, "device": self.device.split(":")[0]}

    def embed_images(self, batch_BCHW: torch.Tensor, masks_BSS: torch.Tensor | None = None) -> np.ndarray:
        """Returns unit vectors of images, float32 (B, D), of what `image_vectors` takes."""
        return on_host(self.image_vectors(batch_BCHW, masks_BSS))

    def image_vectors(self, batch_BCHW: torch.Tensor, masks_BSS: torch.Tensor | None = None) -> torch.Tensor:
        """Returns unit vectors of images, float32 (B, D), on the device, which may still be at work on them.

        batch_BCHW: B images of 3 x image_size_px x image_size_px, RGB: float32, normalised with `mean` and `std`, or
        uint8, which the device normalises; B may be 0. masks_BSS: bool, True in the foreground, read by a model that
        `takes_masks` and by no other. Every forward has image_batch rows, so a row does not depend on how many others
        came with it; where memory runs out it has half of them, which `halving` counts. Raises ValueError for another
        shape.
        """
        wanted = (3, self.image_size_px, self.image_size_px)
        if tuple(batch_BCHW.shape[1:]) != wanted:
            raise ValueError(f"images: wanted (B, {', '.join(map(str, wanted))}), got {tuple(batch_BCHW.shape)}")
        columns = (batch_BCHW,) if masks_BSS is None or not self.takes_masks else (batch_BCHW, masks_BSS)
        return self._embed_rows(columns, self._image_rows, self._encode_images)

    def _encode_images(self, rows: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """Image features, not normalised (B, D)."""
        if not rows.is_floating_point():
            rows = normalise(rows, self.mean, self.std)
        if self._adapted is not None:
            return self._adapted(rows, masks)
        rows = self.cast(rows)
        if self.skips_patches:
            return encode_class_token(self.model.visual, rows)
        return self.model.encode_image(rows, normalize=False)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns unit vectors of texts, float32 (T, D); T may be 0.

        Texts of like length share forwards of text_batch rows, cut to that length where `cuttable` allows; a
        text's own length decides, so a row does not depend on the others.
        """
        import torch

        vectors_TD = np.empty((len(texts), self.embed_dim), np.float32)
        if not texts:
            return vectors_TD
        tokens_TL = self._tokenizer(list(texts))
        lengths = self._lengths(tokens_TL)
        alike = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        cut = [tokens_TL[rows, : lengths[rows[0]]] for rows in alike]
        vectors = [self._embed_rows((each_TL,), self._text_rows, self._encode_texts) for each_TL in cut]
        vectors_TD[np.concatenate(alike)] = on_host(torch.cat(vectors))
        return vectors_TD

    def _lengths(self, tokens_TL: torch.Tensor) -> np.ndarray:
        """Tokens to read of each text: up to its end token, rounded up to LENGTH_STEP; all where cutting is wrong."""
        context = tokens_TL.shape[1]
        if not self.cuts_texts:
            return np.full(len(tokens_TL), context)
        pool, end_token = _pooling(getattr(self.model, "text", self.model))
        ends = (tokens_TL if pool == "argmax" else (tokens_TL == end_token).int()).argmax(dim=1).numpy()
        return np.minimum((ends // LENGTH_STEP + 1) * LENGTH_STEP, context)

    def _encode_texts(self, tokens_TL: torch.Tensor) -> torch.Tensor:
        """Text features, not normalised (T, D)."""
        if self.cuts_texts:
            return encode_cut_texts(getattr(self.model, "text", self.model), tokens_TL)
        return self.model.encode_text(tokens_TL, normalize=False)

    def _embed_rows(
        self, columns: tuple[torch.Tensor, ...], fitting: Fitting[int], encode: Callable[..., torch.Tensor]
    ) -> torch.Tensor:
        """Encodes rows in forwards of exactly as many as fit; at unit length, float32 (N, D), on the device.

        columns: what `encode` takes, N rows each. Nothing waits for the device between forwards.
        """
        import torch

        count, start = len(columns[0]), 0
        vectors = [torch.empty(0, self.embed_dim, device=self.device)]
        while start < count:
            vectors.append(fitting.run(partial(self._forward, [column[start:] for column in columns], encode)))
            start += len(vectors[-1])
        return torch.cat(vectors)

    def _forward(self, columns: Sequence[torch.Tensor], encode: Callable[..., torch.Tensor], rows: int) -> torch.Tensor:
        """Unit vectors of the first rows, padded where there are fewer, float32 (at most `rows`, D)."""
        with self.inference(), device_at_work(self.device):
            parts = [sent_to(self.device, _padded(column[:rows], rows)) for column in columns]
            return unit_rows(encode(*parts)[: len(columns[0])])

    def cast(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns images in the number format of the weights."""
        import open_clip

        dtype = open_clip.get_input_dtype(self.precision)
        return images_BCHW if self._adapted is not None or dtype is None else images_BCHW.to(dtype)

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """A context for forwards of parts of the model: without gradients, in its precision."""
        import torch

        with torch.inference_mode(), self._autocast():
            yield

    def _autocast(self) -> AbstractContextManager[Any]:
        """Weights of an adapted model stay float32, so its forwards are cast; those of others were cast once."""
        import open_clip
        import torch

        dtype = open_clip.get_input_dtype(self.precision)
        if self._adapted is None or dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.split(":")[0], dtype)


def unit_rows(features_ND: torch.Tensor) -> torch.Tensor:
    """Returns features at unit length, float32 (N, D), where they are."""
    import torch

    return torch.nn.functional.normalize(features_ND.float(), dim=-1)


def on_host(vectors_ND: torch.Tensor) -> np.ndarray:
    """Returns vectors as an array, once the device has made them."""
    return vectors_ND.cpu().numpy()


def sent_to(device: str, rows: torch.Tensor) -> torch.Tensor:
    """Returns rows on a device; to a GPU from locked memory, so that whoever sends them need not wait."""
    if rows.device.type == "cpu" and device.startswith("cuda"):
        return rows.contiguous().pin_memory().to(device, non_blocking=True)
    return rows.to(device)


def _padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Rows, the last one repeated until there are `count`."""
    import torch

    if len(rows) == count:
        return rows.contiguous()
    return torch.cat([rows, rows[-1:].expand(count - len(rows), *rows.shape[1:])])


def encode_cut_texts(tower: torch.nn.Module, tokens_TL: torch.Tensor) -> torch.Tensor:
    """Runs a `cuttable` text tower on fewer tokens than its context.

    open_clip's own forward adds all positions of the context. tokens_TL: int64, each row up to its end token or
    further. Returns features, not normalised, (T, D).
    """
    from open_clip.transformer import text_global_pool

    length = tokens_TL.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    hidden_TLW = tower.token_embedding(tokens_TL).to(dtype) + tower.positional_embedding[:length].to(dtype)
    hidden_TLW = tower.ln_final(tower.transformer(hidden_TLW, attn_mask=tower.attn_mask[:length, :length]))
    pooled_TW = text_global_pool(hidden_TLW, tokens_TL, *_pooling(tower))
    projection = tower.text_projection
    if projection is None:
        return pooled_TW
    return projection(pooled_TW) if callable(projection) else pooled_TW @ projection


def encode_class_token(tower: torch.nn.Module, images_BCHW: torch.Tensor) -> torch.Tensor:
    """Runs an image tower that is `pooled_at_class_token`, its last block at the class token alone.

    There the patches are read as keys and values only: 7 % less arithmetic in 12 blocks, 14 % in 6. Returns features,
    not normalised, (B, D).
    """
    *blocks, last = tower.transformer.resblocks
    hidden_BLE = tower._embeds(images_BCHW)
    batch_first = tower.transformer.batch_first
    hidden = hidden_BLE if batch_first else hidden_BLE.transpose(0, 1).contiguous()
    for block in blocks:
        hidden = block(hidden)
    normed = last.ln_1(hidden)
    own = (slice(None), slice(1)) if batch_first else slice(1)
    token = hidden[own] + last.ls_1(last.attention(normed[own], normed, normed))
    token = token + last.ls_2(last.mlp(last.ln_2(token)))
    return project_class_token(tower, token if batch_first else token.transpose(0, 1))


def project_class_token(tower: torch.nn.Module, token_B1E: torch.Tensor) -> torch.Tensor:
    """Returns the features, (B, D), of class tokens behind the last block of an image tower pooled at them."""
    pooled, _ = tower._pool(token_B1E)
    return pooled if tower.proj is None else pooled @ tower.proj


def _square_side(size: int | Sequence[int], weights: ClipWeights) -> int:
    """The side of a square input in pixels. Raises UserError for another shape: regions are stretched to a square."""
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UserError(f"CLIP {weights.name}: wanted a model with a square input, this one takes {height} x {width}")
    return height
