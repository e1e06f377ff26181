"""Nouns without NLTK and without data files: word lists, endings and the neighbouring words decide.

A rule of its own, chosen by name and never a fall-back: it finds nearly the nouns of the `nouns` rule
(docs/nouns.md says how nearly), so the two must not be mixed within one run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from functools import cache
from typing import NamedTuple

from pipelines.noun_rules import lexicon_words as words
from pipelines.noun_rules.flags import GENERIC_NOUNS_VERSION, is_generic
from pipelines.noun_rules.rule import Noun
from pipelines.noun_rules.word_forms import WORD_FORMS_VERSION, looks_abstract, singular_of


class Kind(Enum):
    """What a word can be on its own; `settled_kinds` narrows the kinds that name two possibilities."""

    NOUN = auto()
    NOUN_OR_ADJECTIVE = auto()
    COMPOUND = auto()
    """Joined by hyphens: an adjective before a noun ("city-street scene"), else a noun ("t-shirt")."""
    NOUN_OR_VERB = auto()
    NOUN_OR_VERB_IN_S = auto()
    ADJECTIVE = auto()
    VERB = auto()
    ADVERB = auto()
    CONJUNCTION = auto()
    AUXILIARY = auto()
    PRONOUN = auto()
    PREPOSITION = auto()
    TO = auto()
    DETERMINER = auto()
    BOUNDARY = auto()
    """Punctuation, and the two ends of the caption."""


class Word(NamedTuple):
    """A word or a punctuation mark of a caption, its character span, and what it can be."""

    text: str
    start_char: int
    end_char: int
    kind: Kind


class Lexicon:
    """Nouns by embedded word lists and context rules; single words, like the `nouns` rule."""

    name = "lexicon"
    version = words.LEXICON_VERSION

    def fingerprint(self) -> dict[str, object]:
        """Versions of rule and lists, and the sha256 of the word lists."""
        listed = "\n".join(sorted(f"{word} {kind.name}" for word, kind in _listed_kinds().items()))
        return {
            "rule": self.name,
            "version": self.version,
            "generic_nouns_version": GENERIC_NOUNS_VERSION,
            "word_forms_version": WORD_FORMS_VERSION,
            "words_sha256": hashlib.sha256(listed.encode()).hexdigest(),
        }

    def extract(self, captions: Sequence[str]) -> list[list[Noun]]:
        """The nouns of each caption, in the captions' order; within a caption by `start_char`."""
        return [self._nouns_of(caption) for caption in captions]

    def _nouns_of(self, caption: str) -> list[Noun]:
        found = list(split_words(caption))
        settled = zip(found, settled_kinds(found), strict=True)
        return [_noun(caption, word) for word, kind in settled if kind is Kind.NOUN]


def _noun(caption: str, word: Word) -> Noun:
    noun = word.text.lower()
    singular = singular_of(noun)
    return Noun(
        noun=noun,
        surface=caption[word.start_char : word.end_char],
        start_char=word.start_char,
        end_char=word.end_char,
        head=noun,
        lemma=singular,
        tag_pattern="NN" if singular == noun else "NNS",
        abstract=looks_abstract(singular),
        generic=is_generic([singular]),
    )


# --- From a caption to words -------------------------------------------------------------------------------

_WORD_OR_MARK = re.compile(r"[^\W_]+(?:[-'’./][^\W_]+)*|(?<= )['’](?:s|re|ve|ll|m|d)\b|[^\w\s]")
_CLITIC = re.compile(r"(?<=\w)['’](?:s|re|ve|ll|m|d)$", re.IGNORECASE)


def split_words(caption: str) -> Iterator[Word]:
    """The words and punctuation marks of a caption in order; "dog's" is split before its apostrophe."""
    for match in _WORD_OR_MARK.finditer(caption):
        text, start, end = match.group(), match.start(), match.end()
        clitic = _CLITIC.search(text)
        if not clitic:
            yield Word(text, start, end, kind_of(text.lower()))
            continue
        stem = text[: clitic.start()]
        stem_kind = kind_of(stem.lower())
        yield Word(stem, start, start + len(stem), stem_kind)
        yield Word(clitic.group(), start + len(stem), end, _kind_of_clitic(stem_kind, clitic.group()))


def _kind_of_clitic(stem: Kind, clitic: str) -> Kind:
    """After a pronoun an auxiliary ("she's"), after anything else the possessive ("the dog's bowl")."""
    shortened = stem in (Kind.PRONOUN, Kind.AUXILIARY, Kind.DETERMINER) or clitic[1:].lower() != "s"
    return Kind.AUXILIARY if shortened else Kind.DETERMINER


# --- From a word to what it can be -------------------------------------------------------------------------

_KIND_OF_LIST = {
    Kind.NOUN: (
        words.NOUNS_IN_ING,
        words.NOUNS_IN_ED,
        words.NOUNS_IN_LY,
        words.NOUNS_IN_AL,
        words.NOUNS_IN_IC,
        words.NOUNS_IN_IVE,
        words.NOUNS_IN_OUS_FUL_BLE,
        words.NOUNS_IN_ISH,
    ),
    Kind.NOUN_OR_ADJECTIVE: (words.NOUNS_OR_ADJECTIVES,),
    Kind.NOUN_OR_VERB: (words.NOUNS_OR_VERBS,),
    Kind.ADJECTIVE: (
        words.ADJECTIVES_OF_SIZE,
        words.ADJECTIVES_OF_LOOKS,
        words.ADJECTIVES_OF_KIND,
        words.ADJECTIVES_OF_ORIGIN,
    ),
    Kind.VERB: (words.IRREGULAR_VERBS, words.FINITE_VERBS),
    Kind.ADVERB: (words.ADVERBS,),
    Kind.CONJUNCTION: (words.CONJUNCTIONS,),
    Kind.AUXILIARY: (words.AUXILIARIES,),
    Kind.PRONOUN: (words.PRONOUNS,),
    Kind.PREPOSITION: (words.PREPOSITIONS,),
    Kind.DETERMINER: (words.DETERMINERS,),
}

# Ending, shortest word it says something about, and what it says.
_ENDINGS = (
    (("ing",), 5, Kind.VERB),
    (("ed",), 4, Kind.VERB),
    (("ly",), 4, Kind.ADVERB),
    (("ous", "ful", "able", "ible", "less", "ish", "ic", "al", "ive", "ular"), 5, Kind.ADJECTIVE),
)


def kind_of(word: str) -> Kind:
    """What a lower-case word, or a punctuation mark, can be: by list, by shape, by ending, else a noun."""
    listed = _listed_kinds().get(word)
    return listed or _kind_by_shape(word) or _kind_by_ending(word)


@cache
def _listed_kinds() -> dict[str, Kind]:
    kinds = {word: kind for kind, lists in _KIND_OF_LIST.items() for text in lists for word in text.split()}
    for verb in words.NOUNS_OR_VERBS.split():
        for form in (verb + "s", verb + "es", verb[:-1] + "ies"):
            kinds.setdefault(form, Kind.NOUN_OR_VERB_IN_S)
    kinds["to"] = Kind.TO
    # Written apart from its word, as tokenised corpora do.
    kinds |= {f"{mark}{clitic}": Kind.AUXILIARY for mark in "'’" for clitic in ("re", "ve", "ll", "m", "d")}
    kinds |= {f"{mark}s": Kind.DETERMINER for mark in "'’"}
    return kinds


def _kind_by_shape(word: str) -> Kind | None:
    if not any(character.isalpha() for character in word):
        return Kind.DETERMINER if word.isalnum() else Kind.BOUNDARY
    if word[0].isdigit():
        return Kind.ADJECTIVE
    if word.endswith(("n't", "n’t")):
        return Kind.AUXILIARY
    return _kind_of_compound(word) if "-" in word else None


def _kind_of_compound(word: str) -> Kind:
    last = word.rpartition("-")[2]
    describes = last.endswith("ed") or kind_of(last) in (Kind.ADJECTIVE, Kind.VERB, Kind.NOUN_OR_ADJECTIVE)
    return Kind.ADJECTIVE if describes else Kind.COMPOUND


def _kind_by_ending(word: str) -> Kind:
    for endings, shortest, kind in _ENDINGS:
        if len(word) >= shortest and word.endswith(endings) and not word.endswith("eed"):
            return kind
    return Kind.NOUN


# --- From what a word can be to what it is -----------------------------------------------------------------

_NOMINAL = frozenset(
    {
        Kind.NOUN,
        Kind.NOUN_OR_ADJECTIVE,
        Kind.COMPOUND,
        Kind.NOUN_OR_VERB,
        Kind.NOUN_OR_VERB_IN_S,
        Kind.ADJECTIVE,
    }
)
_ADJECTIVAL = frozenset({Kind.ADJECTIVE, Kind.NOUN_OR_ADJECTIVE})
_OPENS_A_NOUN = frozenset({Kind.DETERMINER, Kind.ADJECTIVE, Kind.PREPOSITION})
_FOLLOWS_A_PLURAL_VERB = frozenset({Kind.PREPOSITION, Kind.TO, Kind.ADVERB})
_FOLLOWS_A_SINGULAR_VERB = _FOLLOWS_A_PLURAL_VERB | _ADJECTIVAL | {Kind.PRONOUN}
_PLURALS_WITHOUT_S = frozenset({"people", "men", "women", "children", "cattle", "police"})


class _Place(NamedTuple):
    """The neighbours of a word: what the one before was found to be, what the two after can be."""

    before: Kind
    before_is_plural: bool
    after: Kind
    second_after: Kind


def settled_kinds(found: Sequence[Word]) -> list[Kind]:
    """What each word is in its caption, from left to right; no kind is left that names two possibilities."""
    ahead = [word.kind for word in found] + [Kind.BOUNDARY, Kind.BOUNDARY]
    settled: list[Kind] = []
    plural = False
    for position, word in enumerate(found):
        before = settled[-1] if settled else Kind.BOUNDARY
        place = _Place(before, plural, ahead[position + 1], ahead[position + 2])
        settle = _SETTLE.get(word.kind)
        settled.append(settle(place) if settle else word.kind)
        plural = word.text.lower() in _PLURALS_WITHOUT_S or word.text.lower().endswith("s")
    return settled


def _noun_or_adjective(place: _Place) -> Kind:
    joined = place.after is Kind.CONJUNCTION and place.second_after in _ADJECTIVAL
    return Kind.ADJECTIVE if joined or place.after in _NOMINAL else Kind.NOUN


def _compound(place: _Place) -> Kind:
    return Kind.ADJECTIVE if place.after in _NOMINAL else Kind.NOUN


def _noun_or_verb(place: _Place) -> Kind:
    """A verb after "to", a pronoun or an auxiliary, with an object after it, or after a plural subject."""
    if place.before in (Kind.TO, Kind.PRONOUN, Kind.AUXILIARY):
        return Kind.VERB
    if place.after is Kind.DETERMINER and place.before not in _OPENS_A_NOUN:
        return Kind.VERB
    has_subject = place.before is Kind.NOUN and place.before_is_plural
    return Kind.VERB if has_subject and place.after in _FOLLOWS_A_PLURAL_VERB else Kind.NOUN


def _noun_or_verb_in_s(place: _Place) -> Kind:
    """A verb after a pronoun, or after a noun where an object or a place follows: "a man rides a horse"."""
    if place.before is Kind.PRONOUN:
        return Kind.VERB
    if place.before is not Kind.NOUN:
        return Kind.NOUN
    agrees = not place.before_is_plural and place.after in _FOLLOWS_A_SINGULAR_VERB
    return Kind.VERB if agrees or place.after is Kind.DETERMINER else Kind.NOUN


_SETTLE: dict[Kind, Callable[[_Place], Kind]] = {
    Kind.NOUN_OR_ADJECTIVE: _noun_or_adjective,
    Kind.COMPOUND: _compound,
    Kind.NOUN_OR_VERB: _noun_or_verb,
    Kind.NOUN_OR_VERB_IN_S: _noun_or_verb_in_s,
}
