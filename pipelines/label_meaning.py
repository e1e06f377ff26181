"""Which labels a noun may mean, for `ovseg audit`: those of its own name, and those that WordNet relates it to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipelines.noun_relations import related, require_wordnet
from schemas import UserError

if TYPE_CHECKING:
    from pipelines.audit_truth import LabelNames

NOT_MEANT, RELATED, EQUAL = 0, 1, 2
"""How a noun means a label; the larger the surer."""

SENSES = ("used", "all")

EQUAL_RULE = (
    "A noun means a label when the noun, its lemma or, where no label has that name, its last word in the singular is "
    "one of the label's names."
)
WORDNET_RULE = (
    "It also means a label when WordNet gives them a common sense (synonyms), or a sense of one lies above a sense of "
    "the other (hypernyms, at any distance)"
)
SENSES_RULE = {
    "used": "; of each word the first sense counts and those that WordNet's tagged texts use.",
    "all": "; all senses of each word count.",
}
SCENES_RULE = (
    "A noun means the class of the drawn world whose captions use its longest known ending: a red beach ball is a ball."
)


class Meaning(Protocol):
    """A rule that tells which labels a noun means."""

    names: LabelNames

    @property
    def rule(self) -> str:
        """The rule in words."""

    def labels_of(self, noun: str, lemma: str) -> np.ndarray:
        """How the noun means each label, uint8 (K,): NOT_MEANT, RELATED or EQUAL."""


def require_senses() -> None:
    """Looks for WordNet.

    Raises:
        UserError: it is not there; with the option that does without it.
    """
    try:
        require_wordnet()
    except UserError as error:
        raise UserError(f"{error} Or judge by equal names alone, which needs no WordNet: --senses none.") from error


@dataclass(frozen=True)
class WordMeaning:
    """Names of labels, and WordNet if `senses` is one of SENSES; "" goes by names alone. Remembers every noun."""

    names: LabelNames
    senses: str = "used"
    known: dict[tuple[str, str], np.ndarray] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Looks for WordNet; raises UserError where it is wanted and not there."""
        if self.senses:
            require_senses()

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"{EQUAL_RULE} {WORDNET_RULE}{SENSES_RULE[self.senses]}" if self.senses else EQUAL_RULE

    def labels_of(self, noun: str, lemma: str) -> np.ndarray:
        """How the noun means each label, uint8 (K,)."""
        key = (noun, lemma)
        if key not in self.known:
            self.known[key] = self._found(noun.lower(), lemma.lower())
        return self.known[key]

    def _found(self, noun: str, lemma: str) -> np.ndarray:
        equal_K = self._named({noun, lemma})
        if not equal_K.any():
            equal_K = self._named({lemma.split()[-1]})
        related_K = [self.senses and any(self._related(noun, lemma, name) for name in names) for names in self.names]
        return np.where(equal_K, EQUAL, np.where(related_K, RELATED, NOT_MEANT)).astype(np.uint8)

    def _named(self, words: set[str]) -> np.ndarray:
        return np.array([not words.isdisjoint(names) for names in self.names], bool)

    def _related(self, noun: str, lemma: str, name: str) -> bool:
        rare_senses = self.senses == "all"
        return related(noun, name, rare_senses) or (lemma != noun and related(lemma, name, rare_senses))


@dataclass(frozen=True)
class SceneMeaning:
    """The words of the drawn world, exactly."""

    names: LabelNames
    rule: str = SCENES_RULE

    def labels_of(self, noun: str, lemma: str) -> np.ndarray:
        """How the noun means each class, uint8 (K,): EQUAL or NOT_MEANT."""
        from ovseg_model.datasets.scene_nouns import class_of

        meant = class_of(noun)
        return np.array([EQUAL if names[0] == meant else NOT_MEANT for names in self.names], np.uint8)
