"""At most so many pairs of one noun over a whole run, whatever order they come in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

CAP_COLUMNS = ("noun", "cosine", "pair_id")

CAP_WAYS = ("cosine", "hash")


@dataclass
class NounCap:
    """Sees all rows once, some at a time, then says which of them are within the cap.

    It takes 16 bytes a row, and some 80 at its end. `by` cosine keeps a noun's best pairs (of equal ones those of
    lowest pair_id), hash those of lowest pair_id. Of the pair_id the first 64 of its 128 bits count.
    """

    cap: int
    by: str
    codes: dict[str, int] = field(default_factory=dict)
    nouns: list[np.ndarray] = field(default_factory=list)
    cosines: list[np.ndarray] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)

    def see(self, rows: pa.Table) -> None:
        """Takes in rows (CAP_COLUMNS) as they are before the cap."""
        encoded = rows["noun"].combine_chunks().dictionary_encode()
        codes = [self.codes.setdefault(noun, len(self.codes)) for noun in encoded.dictionary.to_pylist()]
        self.nouns.append(np.array(codes, np.int32)[encoded.indices.to_numpy()])
        self.cosines.append(rows["cosine"].to_numpy())
        self.hashes.append(hash_heads(rows["pair_id"]))

    def kept_rows(self) -> np.ndarray:
        """Whether each row is within the cap: bool (N,), in the order in which they were seen."""
        noun_N, hash_N = np.concatenate(self.nouns), np.concatenate(self.hashes)
        keys = (hash_N, -np.concatenate(self.cosines)) if self.by == "cosine" else (hash_N,)
        order = np.lexsort((*keys, noun_N))
        keep_N = np.empty(len(order), bool)
        keep_N[order] = place_in_group(noun_N[order]) < self.cap
        return keep_N


def hash_heads(pair_ids: pa.ChunkedArray) -> np.ndarray:
    """The first 64 bits of each pair_id, uint64."""
    return np.frombuffer(bytes.fromhex("".join(pair_ids.to_pylist())), ">u8")[::2].astype(np.uint64)


def place_in_group(keys_N: np.ndarray) -> np.ndarray:
    """How many equal values stand right before each, int64; equal ones stand together."""
    starts = np.flatnonzero(np.concatenate([[True], keys_N[1:] != keys_N[:-1]]))[: len(keys_N)]
    sizes = np.diff(starts, append=len(keys_N))
    return np.arange(len(keys_N)) - np.repeat(starts, sizes)
