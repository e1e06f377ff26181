"""Nouns as unit vectors for training: the text tower is frozen, so each is embedded once and kept on disk by content.

Array names end in their axes: V nouns, D dimensions of the shared space.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg_model.class_embeddings import ClassEmbeddings, prompt_templates
from ovseg_model.clip import Clip

NAMES_PER_SAVE = 4096
"""Nouns embedded between two bars of progress."""


def noun_vectors(clip: Clip, nouns: Sequence[str], templates: str, cache_folder: Path | None) -> np.ndarray:
    """Returns unit vectors of nouns, float32 (V, D), in their order.

    clip: the model whose text tower reads them; templates: as `prompt_templates` takes them. cache_folder: where they
    are kept under a hash of weights, templates and nouns, so that a second run or another rank reads them; None keeps
    nothing. A file that is cut short or of another shape is made again.
    """
    path = cache_folder / f"{_content_hash(clip, nouns, templates)}.npy" if cache_folder else None
    if path and (kept := _read(path, (len(nouns), clip.embed_dim))) is not None:
        return kept
    vectors_VD = _embed(clip, nouns, templates)
    if path:
        _write(path, vectors_VD)
    return vectors_VD


def _content_hash(clip: Clip, nouns: Sequence[str], templates: str) -> str:
    text = json.dumps([clip.fingerprint(), prompt_templates(templates), list(nouns)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _embed(clip: Clip, nouns: Sequence[str], templates: str) -> np.ndarray:
    from tqdm import tqdm

    embeddings = ClassEmbeddings(clip, prompt_templates(templates))
    starts = tqdm(range(0, len(nouns), NAMES_PER_SAVE), "embedding nouns", unit=f" x {NAMES_PER_SAVE}", disable=None)
    parts = [embeddings.embed(nouns[start : start + NAMES_PER_SAVE]) for start in starts]
    return np.concatenate(parts) if parts else np.zeros((0, clip.embed_dim), np.float32)


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    try:
        vectors_VD = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors_VD if vectors_VD.shape == shape and vectors_VD.dtype == np.float32 else None


def _write(path: Path, vectors_VD: np.ndarray) -> None:
    """Whole or absent; two ranks that write at once write the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.npy")
    np.save(unfinished, vectors_VD)
    os.replace(unfinished, path)
