"""Names to unit vectors: each name is put into every prompt template, embedded once, and remembered."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ovseg_model.halving import halved_batches
from schemas.errors import UserError

_SIZED = (
    "a photo of a {size} {{}}.",
    "This is a photo of a {size} {{}}.",
    "There is a {size} {{}} in the scene.",
)

TEMPLATES: dict[str, tuple[str, ...]] = {
    # OVSeg, Liang et al. CVPR 2023, appendix A.2. Four end without a full stop, and a text tower reads that.
    "vild": (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        *(sentence.format(size=size) for sentence in _SIZED for size in ("small", "medium", "large")),
    ),
    "photo": ("a photo of a {}.",),
}
"""Prompt templates by name; {} is where the class name goes."""

NAMES_PER_CALL = 256
"""Names embedded at once: the tokens of 256 names in 14 templates are 2 MB, those of a whole vocabulary hundreds."""

MOST_REMEMBERED = 200_000
"""Names whose vectors are kept, 400 MB at 512 dimensions; beyond, all are forgotten and embedded again when asked."""


class TextEmbedder(Protocol):
    """What class embeddings need of a model."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, float32 (T, D); no row depends on the other texts."""


class VectorStore(Protocol):
    """Where vectors of names are kept beyond this process; `noun_vectors.KeptVectors` is one."""

    def find(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors, float32 (D,), of those of the names that are kept."""

    def add(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Keeps new vectors."""


def prompt_templates(name: str) -> tuple[str, ...]:
    """Returns the templates of a name, or the name itself when it contains {}.

    Raises UserError for a name that is neither.
    """
    if "{}" in name:
        return (name,)
    if name not in TEMPLATES:
        raise UserError(
            f"prompt templates: wanted {', '.join(TEMPLATES)}, or a sentence of your own with {{}} for the name, "
            f"got {name!r}"
        )
    return TEMPLATES[name]


def templates_title(templates: Sequence[str]) -> str:
    """Returns what a set of templates is called: its name and size, such as "templates vild (14)", or its texts."""
    for name, known in TEMPLATES.items():
        if tuple(templates) == known:
            return f"templates {name} ({len(known)})"
    return "template " + ", ".join(repr(each) for each in templates)


def average_unit_vectors(vectors_KTD: np.ndarray) -> np.ndarray:
    """Returns the direction of each name's mean vector: every vector normalised, averaged, normalised again.

    vectors_KTD: floats, K names in T templates, D dimensions, none zero. Returns float32 (K, D), unit length. Raises
    ValueError when a name's vectors cancel out. OVSeg, Liang et al. CVPR 2023, appendix A.2.
    """
    mean_KD = unit_vectors(vectors_KTD).mean(axis=-2)
    return unit_vectors(mean_KD).astype(np.float32)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors, along the last axis, scaled to length 1 in float64. Raises ValueError for a zero vector."""
    vectors = vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not lengths.all():
        raise ValueError("unit_vectors: a zero vector has no direction")
    return vectors / lengths


class ClassEmbeddings:
    """Unit vectors of class names, each distinct name embedded once. Threads may share it."""

    def __init__(self, clip: TextEmbedder, templates: Sequence[str], store: VectorStore | None = None) -> None:
        """Keeps the model and the templates; {} in a template is where the name goes.

        store: asked before a name is embedded, and given what was: vectors are the same bytes with it and without.
        """
        self._clip = clip
        self._store = store
        self._templates = tuple(templates)
        self._vectors: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def embed(self, names: Sequence[str]) -> np.ndarray:
        """Returns unit vectors, float32 (K, D), in the order of the names; repeats are allowed.

        A name's vector does not depend on which names are asked for together, nor on those asked for before.
        """
        with self._lock:
            if len(self._vectors) > MOST_REMEMBERED:
                self._vectors.clear()
            missing = [name for name in dict.fromkeys(names) if name not in self._vectors]
            if missing and self._store:
                self._vectors.update(self._store.find(missing))
                missing = [name for name in missing if name not in self._vectors]
            for start in range(0, len(missing), NAMES_PER_CALL):
                self._remember(missing[start : start + NAMES_PER_CALL])
            return np.stack([self._vectors[name] for name in names]) if names else self._clip.embed_texts([])

    def _remember(self, names: Sequence[str]) -> None:
        """Embeds new names, one call for all their prompts."""
        # replace, not format: names and templates may hold braces of their own.
        prompts = [template.replace("{}", name) for name in names for template in self._templates]
        halved = halved_batches()
        vectors = self._clip.embed_texts(prompts)
        averaged = average_unit_vectors(vectors.reshape(len(names), len(self._templates), -1))
        vectors_of_names = dict(zip(names, averaged, strict=True))
        self._vectors.update(vectors_of_names)
        # What is kept for others is of the size that its key names.
        if self._store and halved_batches() == halved:
            self._store.add(vectors_of_names)
