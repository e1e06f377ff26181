"""Class names of a user or a benchmark: several names a class, and their vectors.

Array names end in their axes: V names, K classes, D dimensions, N regions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ovseg_model.class_embeddings import ClassEmbeddings, unit_vectors
from schemas.errors import UserError

SYNONYMS = ("verbatim", "max", "mean")
"""What becomes of a class of several names: one text as it stands, with its commas ("road, route", OVSeg's way); each
name for itself, and the class has the best of them; or the direction of their mean vector."""

ClassNames = tuple[tuple[str, ...], ...]
"""Names of each class, the first its title; no class without."""


@dataclass(frozen=True)
class ClassVectors:
    """Vectors of all names, and which belong to one class."""

    vectors_VD: np.ndarray
    """float32, unit length."""

    starts: tuple[int, ...]
    """First name of each class; the names of a class stand together."""

    @property
    def count(self) -> int:
        """Classes, K."""
        return len(self.starts)

    def join(self, values_NV: np.ndarray) -> np.ndarray:
        """Returns values by class, (N, K), the greatest of its names': cosines or logits, before a softmax."""
        if len(self.starts) == values_NV.shape[1]:
            return values_NV
        return np.maximum.reduceat(values_NV, self.starts, axis=1)


def split_names(names: Iterable[str], synonyms: str) -> ClassNames:
    """Returns the names of each class, whose texts may hold several names with commas between.

    synonyms: one of SYNONYMS; "verbatim" keeps every text whole. Raises UserError for an unknown way and for a text
    without a name.
    """
    if synonyms not in SYNONYMS:
        raise UserError(f"--synonyms: wanted one of {', '.join(SYNONYMS)}, got {synonyms!r}")
    classes = []
    for number, text in enumerate(names):
        parts = [text] if synonyms == "verbatim" else text.split(",")
        kept = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
        if not kept:
            raise UserError(f"class names: class {number + 1} of them is empty ({text!r}); give it a name")
        classes.append(kept)
    return tuple(classes)


def embed_classes(embeddings: ClassEmbeddings, classes: ClassNames, synonyms: str) -> ClassVectors:
    """Returns the vectors of classes; with "mean" one a class, the direction of the mean of its names'.

    classes: as `split_names` returns them, at least one.
    """
    flat = [name for names in classes for name in names]
    starts = np.cumsum([0, *(len(names) for names in classes)])
    vectors_VD = embeddings.embed(flat)
    if synonyms == "mean":
        means = [vectors_VD[start:end].mean(axis=0) for start, end in pairwise(starts)]
        return ClassVectors(unit_vectors(np.stack(means)).astype(np.float32), tuple(range(len(classes))))
    return ClassVectors(vectors_VD, tuple(starts[:-1].tolist()))


def titles(classes: ClassNames) -> list[str]:
    """Returns the first name of each class."""
    return [names[0] for names in classes]


def check_distinct(classes: Sequence[tuple[str, ...]]) -> None:
    """Refuses a name that stands in two classes: the first would take all. Raises UserError."""
    owner: dict[str, int] = {}
    for number, names in enumerate(classes):
        for name in names:
            if owner.setdefault(name, number) != number:
                raise UserError(f"class names: {name!r} names two classes; give each name once")
