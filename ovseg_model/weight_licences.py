"""Licences of weights, as far as they are known: of what CLIP and mask generators are published under.

Of a tag of open_clip and a file of SAM by its name; of a transformers folder by its model card, where that lies in it.
Nothing is fetched to find out, and nothing is guessed: what is not known is None.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from ovseg_model.clip import EMBEDDED, ClipWeights
from ovseg_model.proposals.generator import GeneratorSpec
from ovseg_model.proposals.sam_weights import PUBLISHED

LICENCE_OF_TAG = {
    "openai": "MIT",  # of the repository that releases them
    "metaclip_400m": "CC-BY-NC-4.0",
    "metaclip_fullcc": "CC-BY-NC-4.0",
    "dfn2b": "apple-amlr",
    "dfn5b": "apple-amlr",
}
"""By open_clip's pretrained tag."""

LICENCE_OF_OWNER = {"laion": "MIT"}
"""By who publishes a tag's weights, where all of theirs have one licence."""

LICENCE_OF_SAM = "Apache-2.0"
LICENCE_OF_OURS = "Apache-2.0"

MODEL_CARD = "README.md"


def clip_licence(weights: ClipWeights) -> str | None:
    """The licence of a CLIP by its name or tag; None where it is not known, as of a checkpoint of one's own."""
    if weights.name in EMBEDDED:
        return LICENCE_OF_OURS
    return LICENCE_OF_TAG.get(weights.tag) or LICENCE_OF_OWNER.get(_publisher(weights))


def generator_weights(spec: GeneratorSpec | None) -> list[dict[str, Any]]:
    """The weight files of a mask generator: name, sha256, bytes and licence of each.

    Empty for generators without any, and for a user's own, of which only the generator knows.
    """
    if spec is None or spec.name not in _FILES:
        return []
    places = dict(spec.places)
    name, path, licence = _FILES[spec.name](places, dict(spec.options))
    return [{"name": name, "sha256": places["sha256"], "bytes": os.path.getsize(path), "licence": licence}]


def licence_of_card(card: str) -> str | None:
    """What a model card says of its licence, in the metadata that it begins with; None where it says nothing."""
    metadata = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    lines = metadata[1] if metadata else ""
    keys = dict(re.findall(r"^(license|license_name):[ \t]*(\S.*?)[ \t]*$", lines, re.MULTILINE))
    named = keys.get("license_name") if keys.get("license") == "other" else None
    return named or keys.get("license")


def _publisher(weights: ClipWeights) -> str:
    from open_clip.pretrained import get_pretrained_cfg

    place = get_pretrained_cfg(weights.architecture, weights.tag) or {}
    return str(place.get("hf_hub", "")).partition("/")[0]


Facts = tuple[str, str, "str | None"]
"""Name, path and licence of a weights file."""


def _sam_file(places: dict[str, str], options: dict[str, Any]) -> Facts:
    name = os.path.basename(places["path"])
    return name, places["path"], LICENCE_OF_SAM if name in PUBLISHED.values() else None


def _network_file(places: dict[str, str], options: dict[str, Any]) -> Facts:
    given = str(options["weights"])
    name = os.path.basename(os.path.abspath(given)) if os.path.isdir(os.path.expanduser(given)) else given
    card = os.path.join(places["folder"], MODEL_CARD)
    return name, os.path.join(places["folder"], places["file"]), _licence_of_file(card)


def _licence_of_file(card: str) -> str | None:
    try:
        with open(card, encoding="utf-8") as file:
            return licence_of_card(file.read())
    except (OSError, UnicodeDecodeError):
        return None


_FILES: dict[str, Callable[[dict[str, str], dict[str, Any]], Facts]] = {"sam": _sam_file, "maskformer": _network_file}
"""Built-in generators that have weights."""
