"""What a noun is, and what a rule that finds nouns promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Noun(NamedTuple):
    """One noun, or noun phrase, at one place of one caption.

    `start_char` and `end_char` count the caption's characters from 0, end exclusive, so that
    `caption[start_char:end_char] == surface` always.
    """

    noun: str
    """The string CLIP reads: lower case, words separated by one space."""
    surface: str
    """The same, as written in the caption."""
    start_char: int
    end_char: int
    head: str
    """The head noun, lower case; equal to `noun` for a single word."""
    lemma: str
    """`noun` with its head in the singular."""
    tag_pattern: str
    """Penn Treebank tags of its words, separated by one space: "NN", "JJ NN NN"."""
    abstract: bool
    """Its first sense is nothing that has a region: a time, an act, a state (see flags.py)."""
    generic: bool
    """It speaks of the picture or of a place in it, not of a thing: photo, view, top (see flags.py)."""


class NounRule(Protocol):
    """A named, versioned way from captions to nouns.

    A rule is opened once a worker and is deterministic: its nouns depend on nothing but the caption and what
    `fingerprint` lists. It may be called from several threads.
    """

    name: str
    version: str

    def fingerprint(self) -> dict[str, object]:
        """Everything that decides the rule's rows: versions of rule and lists, sha256 of every data file."""

    def extract(self, captions: Sequence[str]) -> list[list[Noun]]:
        """The nouns of each caption, in the captions' order; within a caption by `start_char`."""
