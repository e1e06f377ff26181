"""What WordNet knows of a noun: its singular and whether its first sense is abstract."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

from nltk.corpus import wordnet

from pipelines.noun_rules.flags import is_abstract_file
from pipelines.noun_rules.word_forms import singular_of

_CACHED_WORDS = 1 << 16

# NLTK's reader is one object a process and seeks in shared files, so two threads must not look up at once.
READER_LOCK = threading.Lock()


class NounSenses:
    """Lemmas and abstractness of nouns by WordNet's noun files, each word looked up once."""

    def __init__(self) -> None:
        """Load WordNet now, so that no lookup does it in the middle of a batch."""
        with READER_LOCK:
            wordnet.ensure_loaded()
        self.lemma = lru_cache(_CACHED_WORDS)(_lemma)
        self.is_abstract = lru_cache(_CACHED_WORDS)(_is_abstract)


def _lemma(word: str, plural: bool) -> str:
    """The singular of a lower-case noun, by morphy.

    WordNet lists some plurals as words of their own ("hands" is an act, "clocks" a plant). Of a word tagged
    as plural the singular is taken unless WordNet's counts say that its first sense is the rarer ("woods").
    A word unknown to WordNet keeps its form, or loses its plural ending where it was tagged as plural.
    """
    singular = singular_of(word) if plural else word
    with READER_LOCK:
        known = wordnet.morphy(word, wordnet.NOUN)
        if known is None or singular == known:
            return singular
        rival = wordnet.morphy(singular, wordnet.NOUN)
        return rival if rival and _uses(rival) >= _uses(known) else known


def _uses(lemma: str) -> int:
    """How often the lemma's first sense was counted in WordNet's tagged texts."""
    first = wordnet.synsets(lemma, wordnet.NOUN)[0]
    return sum(entry.count() for entry in first.lemmas() if entry.name().lower() == lemma)


def _is_abstract(words: Sequence[str]) -> bool:
    """Whether the first sense of a phrase (its words, head last and lemmatised) is abstract.

    The longest tail of the phrase that WordNet knows decides: "parking meter" is a thing, "meter" a length.
    Words unknown to WordNet are not abstract.
    """
    with READER_LOCK:
        for start in range(len(words)):
            known = wordnet.morphy("_".join(words[start:]), wordnet.NOUN)
            if known:
                first = wordnet.synsets(known, wordnet.NOUN)[0]
                return is_abstract_file(first.lexname(), first.name().partition(".")[0])
    return False
