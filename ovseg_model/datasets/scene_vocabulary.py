"""A tokenizer vocabulary for the words of scenes: byte-pair merges after which each of them is one token.

The merges are in the form that open_clip's SimpleTokenizer reads, so any other text is still tokenized, in pieces.
"""

from __future__ import annotations

import gzip
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ovseg_model.class_embeddings import TEMPLATES
from ovseg_model.datasets import scene_captions
from ovseg_model.datasets.scene_nouns import COLOURS, NOUNS

END = "</w>"
"""What the tokenizer appends to a word's last letter."""

FORMS = (
    *scene_captions.ALONE,
    *scene_captions.TOGETHER,
    *scene_captions.THREE,
    *scene_captions.ON_STUFF,
    *scene_captions.STUFF_ALONE,
    *scene_captions.STUFF_TOGETHER,
)


def words() -> list[str]:
    """Returns every word that captions and prompt templates use, sorted, lower case."""
    named = [phrase for noun in NOUNS for phrase in (*noun.singulars, noun.plural)]
    counted = [*scene_captions.NUMBERS.values(), "several", "an", "the", "small", "medium", "large"]
    texts = " ".join([*named, *COLOURS, *FORMS, *counted, *itertools.chain(*TEMPLATES.values())])
    return sorted(set(re.findall("[a-z]+", re.sub(r"\{.*?\}", " ", texts).lower())))


def byte_pair_merges(vocabulary: Iterable[str]) -> list[tuple[str, str]]:
    """Returns the merges, in order, that make every word one token: always the most frequent pair, ties by spelling.

    Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", ACL 2016, section 3.2.
    """
    pieces = [[*word[:-1], word[-1] + END] for word in vocabulary]
    merges = []
    while pairs := Counter(pair for word in pieces for pair in itertools.pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merged(word, best) for word in pieces]
    return merges


def _merged(word: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """A word with every occurrence of the pair joined, from left to right."""
    joined: list[str] = []
    for piece in word:
        # Only what came from the word itself may join: "aaa" with (a, a) is "aa", "a".
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def write_merges(path: Path) -> int:
    """Writes the merges of scenes as SimpleTokenizer reads them; returns the size of the vocabulary in tokens."""
    merges = byte_pair_merges(words())
    text = "\n".join(["#version: scenes", *(" ".join(pair) for pair in merges)])
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    # 256 bytes, each alone and at a word's end, the merges, and the tokens for start and end of text.
    return 2 * 256 + len(merges) + 2
