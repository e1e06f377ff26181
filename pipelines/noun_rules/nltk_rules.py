"""Nouns by NLTK's perceptron tagger: every noun token (the paper's mode), or phrases of adjectives and nouns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import nltk
from nltk.tag import PerceptronTagger
from nltk.tokenize import NLTKWordTokenizer, PunktTokenizer

from pipelines.noun_rules.flags import GENERIC_NOUNS_VERSION, is_generic
from pipelines.noun_rules.nltk_packages import package_sha256, require_packages
from pipelines.noun_rules.perceptron_tables import PerceptronTables
from pipelines.noun_rules.plain_words import plain_words
from pipelines.noun_rules.rule import Noun
from pipelines.noun_rules.token_spans import token_spans
from pipelines.noun_rules.word_forms import WORD_FORMS_VERSION
from pipelines.noun_rules.wordnet_senses import NounSenses

PHRASE = re.compile("J*N+")
"""Adjectives, if any, then one noun or a compound: NLTK's chunk grammar `<JJ>*<NN.*>+` over a letter a token.

No comparatives (JJR, JJS), which need another thing.
"""

# Tagged as adjectives, yet they count or compare and describe nothing that can be seen in a region.
_COUNTING = "other several many few various different multiple numerous much more most such same own certain"
_QUANTIFIERS = frozenset(_COUNTING.split())

_CACHED_NOUNS = 1 << 14

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
"""Those that are no white space, at which NLTK does not split; they are part of no word."""


class TaggedCaption(NamedTuple):
    """A caption as NLTK reads it, with a space for every control character, its tokens and their tags."""

    text: str
    words: list[str]
    tags: list[str]


class CaptionTagger:
    """NLTK's `pos_tag(word_tokenize(caption))` for many captions at once, with its models opened once."""

    def __init__(self) -> None:
        """Open splitter and tagger. Raises UserError where their data is missing."""
        require_packages()
        self._sentences = PunktTokenizer("english")
        self._words = NLTKWordTokenizer()
        self.tables = PerceptronTables(PerceptronTagger())

    def tag(self, captions: Sequence[str]) -> list[TaggedCaption]:
        """Tokens and tags of every caption, in the captions' order; they equal those of NLTK's two functions.

        Control characters are read as spaces, one for one, so that spans stay as they are.
        """
        texts = [CONTROL_CHARACTERS.sub(" ", caption) for caption in captions]
        words = [self.words(text) for text in texts]
        return list(map(TaggedCaption, texts, words, self.tables.tag(words)))

    def words(self, text: str) -> list[str]:
        """NLTK's `word_tokenize(text)`."""
        plain = plain_words(text)
        if plain is not None:
            return plain
        return [word for sentence in self._sentences.tokenize(text) for word in self._words.tokenize(sentence)]


class _SameInEveryCaption(NamedTuple):
    """What of a Noun depends on its words and their tags alone."""

    noun: str
    head: str
    lemma: str
    tag_pattern: str
    abstract: bool
    generic: bool


class _NltkRule:
    """What both rules share: tagger, senses, and how words become a Noun."""

    name: str
    version: str

    def __init__(self) -> None:
        """Open tagger and WordNet. Raises UserError where their data is missing."""
        self._tagger = CaptionTagger()
        self._senses = NounSenses()
        self._described = lru_cache(_CACHED_NOUNS)(self._describe)

    def fingerprint(self) -> dict[str, object]:
        """Versions of rule, lists and NLTK, and the sha256 of every data file read."""
        return {
            "rule": self.name,
            "version": self.version,
            "generic_nouns_version": GENERIC_NOUNS_VERSION,
            "word_forms_version": WORD_FORMS_VERSION,
            "nltk_version": nltk.__version__,
            "data_sha256": package_sha256(),
        }

    def extract(self, captions: Sequence[str]) -> list[list[Noun]]:
        """The nouns of each caption, in the captions' order; within a caption by `start_char`."""
        return [self._nouns_of(*each) for each in zip(captions, self._tagger.tag(captions), strict=True)]

    def _nouns_of(self, caption: str, tagged: TaggedCaption) -> list[Noun]:
        runs = self._runs(tagged.words, tagged.tags)
        if not runs:
            return []
        spans = list(token_spans(tagged.text, tagged.words[: runs[-1][1]]))
        nouns = []
        for first, end in runs:
            known = self._described(tuple(tagged.words[first:end]), tuple(tagged.tags[first:end]))
            start_char, end_char = spans[first][0], spans[end - 1][1]
            nouns.append(Noun(known.noun, caption[start_char:end_char], start_char, end_char, *known[1:]))
        return nouns

    def _runs(self, words: Sequence[str], tags: Sequence[str]) -> list[tuple[int, int]]:
        """The runs of tokens, first and end, that become one noun each; the last token of a run is its head."""
        raise NotImplementedError

    def _describe(self, words: tuple[str, ...], tags: tuple[str, ...]) -> _SameInEveryCaption:
        lowered = [word.lower() for word in words]
        nouns = [(word, tag) for word, tag in zip(lowered, tags, strict=True) if _is_noun(word, tag)]
        lemmas = [self._senses.lemma(word, tag.endswith("S")) for word, tag in nouns]
        in_singular = (*lowered[:-1], lemmas[-1])
        return _SameInEveryCaption(
            noun=" ".join(lowered),
            head=lowered[-1],
            lemma=" ".join(in_singular),
            tag_pattern=" ".join(tags),
            abstract=self._senses.is_abstract(in_singular),
            generic=is_generic(lemmas),
        )


class NounTokens(_NltkRule):
    """Every token tagged NN, NNS, NNP or NNPS that holds a letter: the paper's mode, about 3.7 a caption."""

    name = "nouns"
    version = "2"

    def _runs(self, words: Sequence[str], tags: Sequence[str]) -> list[tuple[int, int]]:
        named = (index for index, tag in enumerate(tags) if tag.startswith("NN"))
        return [(index, index + 1) for index in named if _has_letter(words[index])]


class NounPhrases(_NltkRule):
    """Noun phrases without determiners ("red double decker bus"); every noun token is in exactly one."""

    name = "phrases"
    version = "2"

    def _runs(self, words: Sequence[str], tags: Sequence[str]) -> list[tuple[int, int]]:
        letters = "".join(map(_letter, words, tags))
        return [match.span() for match in PHRASE.finditer(letters)]


def _is_noun(word: str, tag: str) -> bool:
    return tag.startswith("NN") and _has_letter(word)


def _has_letter(text: str) -> bool:
    return text.isalpha() or any(character.isalpha() for character in text)


def _letter(word: str, tag: str) -> str:
    """N for a noun, J for an adjective that describes, else a dash: for an emoji, and for what only counts."""
    if _is_noun(word, tag):
        return "N"
    return "J" if tag == "JJ" and _has_letter(word) and word.lower() not in _QUANTIFIERS else "-"
