"""Where a proposal network's weights lie: found, or fetched after saying so, once, before work starts.

A folder holds config.json and model.safetensors (or pytorch_model.bin), as transformers saves MaskFormer and
Mask2Former, and as `proposal_network.save_network` saves OVSeg's own variant. Nothing here opens a model.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ovseg_model.clip import file_sha256, first_line, first_published
from schemas.errors import UserError

CONFIG_FILE, INPUT_FILE = "config.json", "preprocessor_config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""In the order of look-up: the second is opened without running code, but the first cannot hold any."""

OVSEG_TYPE = "ovseg-proposal-network"
MODEL_TYPES = ("maskformer", "mask2former", OVSEG_TYPE)
"""What config.json may say in model_type of something that proposes masks."""

BACKBONE_TYPES = ("swin", "resnet")
"""What it says of a backbone alone, for training to begin with."""

INSTALL = "pip install 'ovseg-mining[maskformer]'"

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class NetworkWeights:
    """Resolved weights: small and picklable, so that a worker opens exactly what the launcher found."""

    model_type: str
    """One of MODEL_TYPES or BACKBONE_TYPES."""

    folder: str
    file: str
    """One of WEIGHT_FILES, in the folder."""

    sha256: str
    """Of the weights file."""

    config_sha256: str
    """Of config.json."""

    def fingerprint(self) -> dict[str, str]:
        """What decides the network, free of paths."""
        return {"model_type": self.model_type, "sha256": self.sha256, "config_sha256": self.config_sha256}


def resolve_network(
    name: str,
    cache_dir: str | None = None,
    say: Callable[[str], None] = print,
    model_types: Sequence[str] = MODEL_TYPES,
) -> NetworkWeights:
    """Finds the weights that a name stands for, and fetches them if need be, after saying what, how large and to where.

    name: a local folder, or a Hugging Face id as facebook/maskformer-swin-base-coco. cache_dir: where fetched files
    are kept, by default the Hugging Face cache. model_types: what may be there.

    Raises UserError for a missing transformers package, a name that is neither, a folder without the files, another
    kind of model, and weights that cannot be fetched.
    """
    require_transformers()
    local = os.path.abspath(os.path.expanduser(name))
    if os.path.isdir(local):
        return _of_folder(local, model_types)
    if not HUB_ID.fullmatch(name):
        raise UserError(
            f"proposal network: there is no folder {name!r}; give a folder with {CONFIG_FILE} and {WEIGHT_FILES[0]}, "
            "or a Hugging Face id as facebook/maskformer-swin-base-coco"
        )
    return _of_folder(_cached_folder(name, cache_dir) or _fetch(name, cache_dir, say), model_types)


def require_transformers() -> None:
    """Raises UserError, with the line that installs it, where the transformers package is missing."""
    if importlib.util.find_spec("transformers") is None:
        raise UserError(f"MaskFormer needs the transformers package; install it with: {INSTALL}")


def read_json(path: str) -> dict[str, Any]:
    """Returns a JSON object of a file. Raises UserError for anything else."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({first_line(error)}); save the network again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: wanted a JSON object, got a {type(found).__name__}; save the network again")
    return found


def _of_folder(folder: str, model_types: Sequence[str]) -> NetworkWeights:
    config = os.path.join(folder, CONFIG_FILE)
    file = next((file for file in WEIGHT_FILES if os.path.isfile(os.path.join(folder, file))), None)
    if file is None or not os.path.isfile(config):
        raise UserError(
            f"proposal network {folder}: wanted {CONFIG_FILE} and one of {', '.join(WEIGHT_FILES)} in it, found "
            f"{', '.join(sorted(os.listdir(folder))[:8]) or 'nothing'}; weights in several pieces must be saved as one"
        )
    model_type = read_json(config).get("model_type")
    if model_type not in model_types:
        raise UserError(
            f"{config}: wanted a model of type {', '.join(model_types)}, got {model_type!r}; give another checkpoint"
        )
    return NetworkWeights(model_type, folder, file, file_sha256(os.path.join(folder, file)), file_sha256(config))


def _cached_folder(repository: str, cache_dir: str | None) -> str | None:
    """The cache's folder of a repository, where both files are in it; the network is not asked."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repository, file, cache_dir) for file in (CONFIG_FILE, *WEIGHT_FILES)]
    there = [path for path in found if isinstance(path, str)]
    return os.path.dirname(there[0]) if isinstance(found[0], str) and len(there) > 1 else None


def _fetch(repository: str, cache_dir: str | None, say: Callable[[str], None]) -> str:
    """Fetches a repository's files into the cache, saying so first; returns their folder."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    place = cache_dir or constants.HF_HUB_CACHE
    try:
        file, size_bytes = first_published(repository, WEIGHT_FILES)
        say(f"fetching {repository}, {size_bytes / 2**20:.0f} MiB, {file}, to {place}")
        # The weights come last: a folder that holds them is complete.
        for small in (INPUT_FILE, CONFIG_FILE):
            try:
                config = hf_hub_download(repository, small, cache_dir=cache_dir)
            except EntryNotFoundError:
                if small == CONFIG_FILE:
                    raise
        hf_hub_download(repository, file, cache_dir=cache_dir)
    except Exception as error:  # each network layer has exceptions of its own
        raise UserError(_not_fetched(repository, place, error)) from error
    return os.path.dirname(config)


def _not_fetched(repository: str, place: str, error: Exception) -> str:
    files = " ".join((CONFIG_FILE, INPUT_FILE, WEIGHT_FILES[0]))
    return (
        f"proposal network {repository}: wanted {CONFIG_FILE} and {WEIGHT_FILES[0]}, which are not in {place} and "
        f"could not be fetched ({first_line(error)}); on a machine with network run: hf download {repository} {files} "
        f"--local-dir {repository.rpartition('/')[2]} (with {WEIGHT_FILES[1]} where it has no {WEIGHT_FILES[0]}), and "
        "give that folder"
    )


def pixel_statistics(folder: str) -> tuple[Sequence[float], Sequence[float]]:
    """Returns mean and deviation of the input, RGB in 0..1: those of preprocessor_config.json, else ImageNet's."""
    path = os.path.join(folder, INPUT_FILE)
    stated = read_json(path) if os.path.isfile(path) else {}
    mean, std = (stated.get(name) for name in ("image_mean", "image_std"))
    return tuple(mean or IMAGENET_MEAN), tuple(std or IMAGENET_STD)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
