"""Nouns by NLTK's perceptron tagger: every noun token (the paper's mode), or phrases by a chunk grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import nltk
from nltk.tag import PerceptronTagger
from nltk.tokenize import NLTKWordTokenizer, PunktTokenizer

from pipelines.noun_rules.flags import GENERIC_NOUNS_VERSION, is_generic
from pipelines.noun_rules.nltk_packages import package_sha256, require_packages
from pipelines.noun_rules.rule import Noun
from pipelines.noun_rules.token_spans import token_spans
from pipelines.noun_rules.word_forms import WORD_FORMS_VERSION
from pipelines.noun_rules.wordnet_senses import NounSenses

PHRASE_GRAMMAR = "PHRASE: {<JJ>*<NN.*>+}"
"""Adjectives, if any, then one noun or a compound; no comparatives (JJR, JJS), which need another thing."""

# Tagged as adjectives, yet they count or compare and describe nothing that can be seen in a region.
_COUNTING = "other several many few various different multiple numerous much more most such same own certain"
_QUANTIFIERS = frozenset(_COUNTING.split())


CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
"""Those that are no white space, at which NLTK does not split; they are part of no word."""


class Token(NamedTuple):
    """A token with NLTK's tag; `text` is NLTK's spelling, the span is the caption's (see token_spans)."""

    text: str
    tag: str
    start_char: int
    end_char: int


class CaptionTagger:
    """NLTK's `pos_tag(word_tokenize(caption))` with its models opened once, and a span for every token."""

    def __init__(self) -> None:
        """Open splitter and tagger. Raises UserError where their data is missing."""
        require_packages()
        self._sentences = PunktTokenizer("english")
        self._words = NLTKWordTokenizer()
        self._tagger = PerceptronTagger()

    def tag(self, caption: str) -> list[Token]:
        """The caption's tokens; texts and tags equal those of NLTK's two functions.

        Control characters are read as spaces, one for one, so that spans stay as they are.
        """
        caption = CONTROL_CHARACTERS.sub(" ", caption)
        words = [word for sentence in self._sentences.tokenize(caption) for word in self._words.tokenize(sentence)]
        tags = self._tagger.tag(words)
        return [Token(*tagged, *span) for tagged, span in zip(tags, token_spans(caption, words), strict=True)]


class _NltkRule:
    """What both rules share: tagger, senses, and how words become a Noun."""

    name: str
    version: str

    def __init__(self) -> None:
        """Open tagger and WordNet. Raises UserError where their data is missing."""
        self._tagger = CaptionTagger()
        self._senses = NounSenses()

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
        return [self._nouns_of(caption) for caption in captions]

    def _nouns_of(self, caption: str) -> list[Noun]:
        groups = self._groups(self._tagger.tag(caption))
        return [self._noun(caption, group) for group in groups]

    def _groups(self, tokens: list[Token]) -> list[Sequence[Token]]:
        """The token runs that become one noun each; the last token of a run is its head."""
        raise NotImplementedError

    def _noun(self, caption: str, group: Sequence[Token]) -> Noun:
        words = [token.text.lower() for token in group]
        lemmas = [self._lemma(token) for token in group if _is_noun(token)]
        in_singular = (*words[:-1], lemmas[-1])
        start, end = group[0].start_char, group[-1].end_char
        return Noun(
            noun=" ".join(words),
            surface=caption[start:end],
            start_char=start,
            end_char=end,
            head=words[-1],
            lemma=" ".join(in_singular),
            tag_pattern=" ".join(token.tag for token in group),
            abstract=self._senses.is_abstract(in_singular),
            generic=is_generic(lemmas),
        )

    def _lemma(self, token: Token) -> str:
        return self._senses.lemma(token.text.lower(), token.tag.endswith("S"))


class NounTokens(_NltkRule):
    """Every token tagged NN, NNS, NNP or NNPS that holds a letter: the paper's mode, about 3.7 a caption."""

    name = "nouns"
    version = "2"

    def _groups(self, tokens: list[Token]) -> list[Sequence[Token]]:
        return [(token,) for token in tokens if _is_noun(token)]


class NounPhrases(_NltkRule):
    """Noun phrases without determiners ("red double decker bus"); every noun token is in exactly one."""

    name = "phrases"
    version = "2"

    def __init__(self) -> None:
        """Open tagger, WordNet and grammar. Raises UserError where data is missing."""
        super().__init__()
        self._chunker = nltk.RegexpParser(PHRASE_GRAMMAR)

    def _groups(self, tokens: list[Token]) -> list[Sequence[Token]]:
        if not tokens:
            return []
        tree = self._chunker.parse([_for_chunking(token) for token in tokens])
        return [phrase.leaves() for phrase in tree.subtrees(lambda node: node.label() == "PHRASE")]


def _is_noun(token: Token) -> bool:
    return token.tag.startswith("NN") and _has_letter(token.text)


def _has_letter(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _for_chunking(token: Token) -> Token:
    """The token, retagged where the grammar must not see a noun (an emoji) or an adjective (a quantifier)."""
    if not _has_letter(token.text):
        return token._replace(tag="SYM")
    return token._replace(tag="PDT") if token.text.lower() in _QUANTIFIERS and token.tag == "JJ" else token
