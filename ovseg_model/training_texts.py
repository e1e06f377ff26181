"""What a batch is trained against: the vectors of its nouns, and of captions where a row shows its whole image.

Array names end in their axes: B rows, V nouns, D dimensions of the shared space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from ovseg_model.clip import Clip
from ovseg_model.pair_batches import PairBatch


class Texts:
    """Nouns, embedded before training, and captions, embedded as they come: the text tower is frozen."""

    def __init__(self, clip: Clip, nouns: Sequence[str], vectors_VD: np.ndarray, device: str) -> None:
        """vectors_VD: unit vectors of the nouns, float32, in their order."""
        self._clip = clip
        self._number_of = {noun: number for number, noun in enumerate(nouns)}
        self._vectors_VD = torch.from_numpy(vectors_VD).to(device)

    def of(self, batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what stands beside each row: a number, equal for equal texts, int64 (B,), and its vector (B, D)."""
        device = self._vectors_VD.device
        numbers = [self._number_of[noun] for noun in batch.nouns]
        vectors_BD = self._vectors_VD[torch.tensor(numbers, device=device)]
        rows = [row for row, caption in enumerate(batch.captions) if caption is not None]
        if rows:
            captions = [batch.captions[row] for row in rows]
            vectors_BD[rows] = torch.from_numpy(self._clip.embed_texts(captions)).to(device)
            for row, caption in zip(rows, captions, strict=True):
                numbers[row] = self._caption_number(caption)
        return torch.tensor(numbers, device=device), vectors_BD

    def _caption_number(self, caption: str) -> int:
        """A number beyond those of nouns, the same on every process."""
        digest = hashlib.blake2b(caption.encode(), digest_size=7).digest()
        return len(self._number_of) + int.from_bytes(digest, "little")

    def numbers(self, nouns: Sequence[str]) -> list[int]:
        """Returns the numbers of those of the nouns that have a vector."""
        return [self._number_of[noun] for noun in nouns if noun in self._number_of]

    def vectors(self, numbers: torch.Tensor) -> torch.Tensor:
        """Returns the vectors of numbers of nouns: one more axis, D."""
        return self._vectors_VD[numbers]
