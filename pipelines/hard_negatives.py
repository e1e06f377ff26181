"""Hard negatives: for a region, nouns of other images that CLIP ranks high on it and that its own captions lack."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.noun_relations import PACKAGE, family, require_wordnet, singular_head
from pipelines.noun_rules.nltk_packages import package_sha256
from pipelines.open_models import open_once
from schemas import UserError

VERSION = 1
"""Of how hard negatives are chosen; another one makes PAIRS anew, where they were asked for."""

WORD = re.compile(r"[\w'-]+")


@dataclass(frozen=True)
class NegativesSpec:
    """How many hard negatives a pair gets, and the WordNet that says which nouns are related; travels to workers."""

    count: int
    wordnet_sha256: str
    """Over the files that are read of it, in hex."""

    def fingerprint(self) -> dict[str, Any]:
        """What decides the column, apart from NOUNS and the scorer."""
        return {"version": VERSION, **asdict(self)}


def resolve_negatives(count: int) -> NegativesSpec | None:
    """The spec, with WordNet looked for before work starts; None where no hard negatives are asked for.

    Raises:
        UserError: WordNet is not there; with the command that gets it.
    """
    if not count:
        return None
    require_wordnet()
    return NegativesSpec(count, wordnet_sha256())


def open_negatives(spec: NegativesSpec) -> NegativesSpec:
    """The spec, once it is known that this process has its WordNet.

    Raises:
        UserError: WordNet is not there, or is another one.
    """
    require_wordnet()
    if wordnet_sha256() != spec.wordnet_sha256:
        raise UserError(
            "--hard-negatives: this worker has another WordNet than the machine that started the run; give all "
            "machines the same NLTK data"
        )
    return spec


@lru_cache(1)
def wordnet_sha256() -> str:
    """sha256 over the WordNet files that are read, in hex; computed once a process."""
    return hashlib.sha256(json.dumps(package_sha256((PACKAGE,)), sort_keys=True).encode()).hexdigest()


def unit_negatives(spec: NegativesSpec | None, read_nouns: Callable[[], pa.Table]) -> UnitNegatives | None:
    """What chooses hard negatives in one unit; None where none are asked for.

    read_nouns: gives the NOUNS of the whole unit, whichever of its images are matched now: a retry, or a unit that is
    made image by image, must choose from the same nouns.
    """
    return UnitNegatives(read_nouns(), open_once(open_negatives, spec).count) if spec else None


class UnitNegatives:
    """The nouns of one unit, from which the hard negatives of its regions are chosen."""

    def __init__(self, nouns: pa.Table, count: int) -> None:
        """nouns: NOUNS rows of the unit. count: hard negatives a region, at most."""
        flags = nouns.group_by("noun").aggregate([("abstract", "any"), ("generic", "any")])
        flagged = pc.or_(flags["abstract_any"], flags["generic_any"])
        self.candidates: list[str] = sorted(flags["noun"].filter(pc.invert(flagged)).to_pylist())
        """Distinct nouns that are flagged neither abstract nor generic, sorted."""
        generic = flags["noun"].filter(flags["generic_any"]).to_pylist()
        self._relations = Relations(self.candidates, generic)
        self._count = count
        by_image = nouns.group_by("image_id").aggregate([("noun", "distinct")])
        pairs = zip(by_image["image_id"].to_pylist(), by_image["noun_distinct"].to_pylist(), strict=True)
        self._nouns_of: dict[str, list[str]] = dict(pairs)

    def allowed(self, image_id: str, captions: Iterable[str]) -> np.ndarray:
        """Which candidates an image may have: bool (C,).

        Not those that are nouns of the image, or related to one, and not those whose words all stand in its captions.
        """
        own = self._nouns_of.get(image_id, ())
        words = {word for caption in captions for word in WORD.findall(caption.lower())}
        refused = self._relations.related_to(own) | self._relations.written_in(words)
        allowed = np.ones(len(self.candidates), bool)
        allowed[list(refused)] = False
        return allowed

    def choose(self, allowed_C: np.ndarray, cosines_CM: np.ndarray) -> list[list[str]]:
        """For each region the allowed candidates of the highest cosine, best first; ties go to the lower noun.

        Args:
            allowed_C: bool, as `allowed` gives it.
            cosines_CM: float32, candidates x regions.
        """
        numbers = np.flatnonzero(allowed_C)
        best_NM = np.argsort(-cosines_CM[numbers], axis=0, kind="stable")[: self._count]
        return [[self.candidates[number] for number in numbers[column]] for column in best_NM.T]


class Relations:
    """Candidates by their words and by their places in WordNet, so that one look finds all that a noun is related to.

    It finds what `noun_relations.related` says of each, but one: a noun on the generic list ("thing") is related to
    its own word only, since nearly everything lies below it.
    """

    def __init__(self, candidates: Sequence[str], generic: Collection[str]) -> None:
        """candidates: distinct nouns, known by their positions from here on. generic: those nouns that say nothing."""
        self._generic = frozenset(generic)
        self._words = [set(noun.split()) for noun in candidates]
        self._number = {noun: number for number, noun in enumerate(candidates)}
        self._by_sense, self._by_above = defaultdict[int, set[int]](set), defaultdict[int, set[int]](set)
        self._by_head, self._unknown_by_head = defaultdict[str, set[int]](set), defaultdict[str, set[int]](set)
        self._by_word = defaultdict[str, list[int]](list)
        for number, noun in enumerate(candidates):
            self._add(number, noun)

    def _add(self, number: int, noun: str) -> None:
        own = family(noun)
        for sense in own.senses:
            self._by_sense[sense].add(number)
        for sense in own.above:
            self._by_above[sense].add(number)
        self._by_head[singular_head(noun)].add(number)
        if not own.senses:
            self._unknown_by_head[singular_head(noun)].add(number)
        self._by_word[noun.split()[0]].append(number)

    def related_to(self, nouns: Iterable[str]) -> set[int]:
        """The candidates that are one of the nouns or related to one."""
        found: set[int] = set()
        for noun in nouns:
            found |= {self._number[noun]} if noun in self._number else set()
            found |= set() if noun in self._generic else self._related(noun)
        return found

    def written_in(self, words: Collection[str]) -> set[int]:
        """The candidates all of whose words are among these, in lower case."""
        possible = {number for word in words for number in self._by_word.get(word, ())}
        return {number for number in possible if self._words[number].issubset(words)}

    def _related(self, noun: str) -> set[int]:
        own, head = family(noun), singular_head(noun)
        near = [self._by_sense.get(sense, set()) for sense in own.senses | own.above]
        below = [self._by_above.get(sense, set()) for sense in own.senses]
        same_head = self._unknown_by_head if own.senses else self._by_head
        return set[int]().union(*near, *below, same_head.get(head, set()))
