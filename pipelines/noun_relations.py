"""Whether two nouns may name the same thing: equal words, or synonyms, hypernyms and hyponyms in WordNet.

A noun has all senses that WordNet lists for it, for its singular, and for the longest tail that WordNet knows where it
has several words: "parking meter" is one entry, of "red fire truck" it is "fire truck". Two nouns are related when
they share a sense, or when a sense of one lies above a sense of the other, at any distance: "dog" and "animal", but
not "dog" and "cat", whose senses only have something above them in common.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.noun_rules.nltk_packages import require_packages
from pipelines.noun_rules.word_forms import singular_of

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import Synset

PACKAGE = "wordnet"

_CACHED_NOUNS = 1 << 16

_OTHER_SINGULARS = {"people": "person"}
"""WordNet's "people" are a group or a nation, which lie under no person; in a caption they are persons."""


class Family(NamedTuple):
    """A noun's place in WordNet: numbers of its senses, and of all that lie above them (hypernyms, to the top)."""

    senses: frozenset[int]
    above: frozenset[int]

    def meets(self, other: Family) -> bool:
        """Whether the two share a sense, or one has a sense above one of the other's."""
        return not (
            self.senses.isdisjoint(other.senses)
            and self.senses.isdisjoint(other.above)
            and other.senses.isdisjoint(self.above)
        )


def require_wordnet() -> None:
    """Checks that WordNet is there.

    Raises:
        UserError: it is not; with the command that gets it.
    """
    require_packages((PACKAGE,))


def related(noun_a: str, noun_b: str, rare_senses: bool = True) -> bool:
    """Whether two nouns, in lower case, may name the same thing; in either order.

    Nouns that WordNet does not know are related to what has the same last word in the singular, and to nothing else.

    Args:
        noun_a: one noun, of one or more words.
        noun_b: the other.
        rare_senses: take every sense. Otherwise of each noun only its first and those that WordNet's tagged texts use:
            "dog" then is no person any more (a sense that it never has there), nor "mouse" a device.

    Raises:
        UserError: WordNet is not there.
    """
    if noun_a == noun_b:
        return True
    a, b = family(noun_a, rare_senses), family(noun_b, rare_senses)
    return a.meets(b) or (not (a.senses and b.senses) and singular_head(noun_a) == singular_head(noun_b))


@lru_cache(_CACHED_NOUNS)
def family(noun: str, rare_senses: bool = True) -> Family:
    """A noun's senses and all above them; both empty where WordNet does not know its last word.

    Raises:
        UserError: WordNet is not there.
    """
    from pipelines.noun_rules.wordnet_senses import READER_LOCK

    _wordnet()
    with READER_LOCK:
        senses = [sense for form in _known_forms(noun) for sense in _senses(form, rare_senses)]
        return Family(
            frozenset(sense.offset() for sense in senses), frozenset().union(*(_above(sense) for sense in senses))
        )


@lru_cache(1)
def _wordnet() -> Any:
    """NLTK's reader of WordNet, which is looked for once a process."""
    from nltk.corpus import wordnet

    require_wordnet()
    return wordnet


def _known_forms(noun: str) -> set[str]:
    """WordNet's entries for a noun: of the longest tail of its words that it knows, as it stands and in the singular.

    Both, since "hands" is a word of its own there, and so is "hand".
    """
    wordnet, words = _wordnet(), noun.split()
    for start in range(len(words)):
        tails = {"_".join([*words[start:-1], last]) for last in (words[-1], singular_word(words[-1]))}
        known = {form for tail in tails if (form := wordnet.morphy(tail, "n"))}
        if known:
            return known
    return set()


def singular_word(word: str) -> str:
    """The singular of a lower-case noun of one word."""
    return _OTHER_SINGULARS.get(word) or singular_of(word)


def singular_head(noun: str) -> str:
    """The singular of a noun's last word."""
    return singular_word(noun.split()[-1])


def _senses(form: str, rare_senses: bool) -> list[Synset]:
    senses = _wordnet().synsets(form, "n")
    return senses if rare_senses else [*senses[:1], *(sense for sense in senses[1:] if _is_used(form, sense))]


def _is_used(form: str, sense: Synset) -> bool:
    return any(entry.count() for entry in sense.lemmas() if entry.name().lower() == form)


def _above(sense: Synset) -> frozenset[int]:
    """Numbers of all hypernyms of a sense, its kinds and, where it is one thing ("Paris"), what it is an instance of.

    Raises RecursionError for no WordNet there is: its hypernyms go up to 20 deep.
    """
    known = _ABOVE.get(sense.offset())
    if known is None:
        parents = [*sense.hypernyms(), *sense.instance_hypernyms()]
        known = frozenset(parent.offset() for parent in parents).union(*map(_above, parents))
        _ABOVE[sense.offset()] = known
    return known


_ABOVE: dict[int, frozenset[int]] = {}
"""By sense, what lies above it: at most WordNet's 82,115 noun senses."""
