"""Nouns as unit vectors on disk, by content: what one worker has embedded, others and later runs read.

Array names end in their axes: V nouns, D dimensions of the shared space.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ovseg_model.class_embeddings import ClassEmbeddings, prompt_templates

if TYPE_CHECKING:
    from ovseg_model.clip import Clip

NAMES_PER_SAVE = 4096
"""Nouns embedded between two bars of progress."""

FEWEST_NAMES = 64
"""New vectors that are worth a file of their own: fewer wait for more, or many units would leave many small files."""

_PACKAGES = ("numpy", "open_clip_torch", "torch", "transformers")
_DIGEST_BYTES = 32


class Folder(Protocol):
    """Where vectors are kept: a run's folder, or one on this machine."""

    def names(self, folder: str) -> list[str]:
        """Names of the files in one of its folders; empty where that is not there."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; OSError where it is not there."""

    def write(self, name: str, data: bytes, durable: bool = True) -> object:
        """Writes a file, whole or not at all."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    path: Path

    def names(self, folder: str) -> list[str]:
        """Names of the files in one of its folders, those that are being written left out."""
        place = self.path / folder
        return sorted(file.name for file in place.iterdir() if file.name[0] != ".") if place.is_dir() else []

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        """Writes a file whole or not at all; two that write at once write the same."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        unfinished.write_bytes(data)
        os.replace(unfinished, path)


class KeptVectors:
    """Vectors of one model's nouns in a folder that others read and write at the same time.

    Files are added and never changed, each with some nouns and their vectors, under a hash of all that decides a
    vector's bytes: weights, numbers, templates, library versions, kind of device and of its instructions, threads. A
    file that is damaged, or was made by anything else, holds nothing.
    """

    def __init__(self, folder: Folder, clip: Clip, templates: Sequence[str]) -> None:
        """Keeps the place; nothing is read yet."""
        self._folder = folder
        self._key = hashlib.sha256(json.dumps(_identity(clip, templates), sort_keys=True).encode()).hexdigest()
        self._file_of: dict[str, str] = {}
        self._seen: set[str] = set()
        self._waiting: dict[str, np.ndarray] = {}

    def find(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors, float32 (D,), of those of the names that anybody has kept."""
        for file in sorted(set(self._folder.names(self._key)) - self._seen):
            self._file_of.update(dict.fromkeys(self._read(file), file))
            self._seen.add(file)
        files = sorted({self._file_of[name] for name in names if name in self._file_of})
        kept = {name: vector for file in files for name, vector in self._read(file).items()}
        # Copies: a view of one row would hold its whole file in memory.
        return {name: kept[name].copy() for name in names if name in kept}

    def add(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Keeps new vectors, once there are FEWEST_NAMES of them."""
        self._waiting.update(vectors)
        if len(self._waiting) >= FEWEST_NAMES:
            self.save()

    def save(self) -> None:
        """Writes what waits."""
        if self._waiting:
            names = sorted(self._waiting)
            content = _content(names, np.stack([self._waiting[name] for name in names]))
            file = hashlib.sha256(json.dumps(names).encode()).hexdigest() + ".vectors"
            self._folder.write(f"{self._key}/{file}", self._digest(content) + content, durable=False)
            self._waiting = {}

    def _read(self, file: str) -> dict[str, np.ndarray]:
        """The vectors of one file by name; none where it is gone or not whole."""
        try:
            data = self._folder.read(f"{self._key}/{file}")
        except OSError:
            return {}
        content = data[_DIGEST_BYTES:]
        if data[:_DIGEST_BYTES] != self._digest(content):
            return {}
        stream = io.BytesIO(content)
        vectors_VD = np.load(stream, allow_pickle=False)
        return dict(zip(json.load(stream), vectors_VD, strict=True))

    def _digest(self, content: bytes) -> bytes:
        """Over the key too, so that a file moved here from another model's folder is none of ours."""
        return hashlib.sha256(self._key.encode() + content).digest()


def _content(names: Sequence[str], vectors_VD: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, vectors_VD)
    return stream.getvalue() + json.dumps(names).encode()


def _identity(clip: Clip, templates: Sequence[str]) -> dict[str, Any]:
    """All that decides the bytes of a vector."""
    # Images have batches of their own.
    model = {name: value for name, value in clip.fingerprint().items() if name != "image_batch"}
    versions = {name: _version(name) for name in _PACKAGES}
    return {"model": model, "templates": list(templates), "versions": versions, "machine": _machine(clip.device)}


def _machine(device: str) -> list[Any]:
    """What of a machine decides how sums round: the GPU's name, or the CPU's instructions and the thread count."""
    import torch

    if device.startswith("cuda"):
        return [torch.cuda.get_device_name(device)]
    return [torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def noun_vectors(clip: Clip, nouns: Sequence[str], templates: str, cache_folder: Path | None) -> np.ndarray:
    """Returns unit vectors of nouns, float32 (V, D), in their order.

    clip: the model whose text tower reads them; templates: as `prompt_templates` takes them. cache_folder: where they
    are kept, so that a second run or another rank reads them (see KeptVectors); None keeps nothing.
    """
    from tqdm import tqdm

    sentences = prompt_templates(templates)
    kept = KeptVectors(LocalFolder(cache_folder), clip, sentences) if cache_folder else None
    embeddings = ClassEmbeddings(clip, sentences, kept)
    starts = tqdm(range(0, len(nouns), NAMES_PER_SAVE), "embedding nouns", unit=f" x {NAMES_PER_SAVE}", disable=None)
    parts = [embeddings.embed(nouns[start : start + NAMES_PER_SAVE]) for start in starts]
    if kept:
        kept.save()
    return np.concatenate(parts) if parts else np.zeros((0, clip.embed_dim), np.float32)
