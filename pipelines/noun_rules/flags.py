"""Flags on nouns: words that name no region of the image. They mark a row and never remove it.

The paper keeps every noun and accepts that "group" or "view" is forced onto some mask (OVSeg section 3.2).
Here every noun is kept too, and a later filter over PAIRS can drop what is flagged.
"""

from __future__ import annotations

from collections.abc import Iterable

GENERIC_NOUNS_VERSION = "1"
"""Changes with every change of GENERIC_NOUNS, since the list decides rows."""

_ABOUT_THE_PICTURE = """
photo photograph photography picture image pic snapshot shot screenshot view close-up closeup portrait
selfie scene scenery background foreground backdrop illustration vector footage video frame stock angle
perspective focus depiction example version caption
"""

_ABOUT_AMOUNT = """
group bunch couple pair lot lots number variety set row series collection assortment array range selection
amount bit dozen half handful hundred thousand piece part portion rest plenty majority kind type sort style
"""

_ABOUT_PLACE = """
top side front back middle center centre end edge corner bottom left right area place spot space distance
direction position inside outside interior exterior surrounding surroundings rear background north south
east west
"""

_ABOUT_NOTHING_SEEN = """
thing something anything nothing everything someone anyone everyone somebody anybody everybody nobody one
other others stuff item object way time day moment today fact case reason
"""

GENERIC_NOUNS = frozenset(f"{_ABOUT_THE_PICTURE} {_ABOUT_AMOUNT} {_ABOUT_PLACE} {_ABOUT_NOTHING_SEEN}".split())
"""Lemmas about the picture, an amount, a place within it, or nothing in particular."""

ABSTRACT_LEXICOGRAPHER_FILES = frozenset(
    {
        "noun.act",  # game, baseball, walk: one sees who acts and with what, not the act
        "noun.attribute",  # colour, style, height: belongs to a region, is none
        "noun.cognition",  # idea, view, pattern: in the mind of the beholder
        "noun.event",  # wedding, race, time: the whole picture at most
        "noun.feeling",  # love, fun
        "noun.motive",  # reason, need
        "noun.relation",  # part, rest, contrast: holds between regions
        "noun.state",  # life, danger, dark: a condition of something else
        "noun.time",  # day, winter, birthday
    }
)
"""WordNet's lexicographer files whose nouns have no region of their own.

Left out on purpose, since what captions name from them can mostly be drawn around: communication (sign,
book, poster), phenomenon (snow, cloud, light), shape (circle, square), process (flame, bloom), possession
(money, gift), quantity (yard, mug, parking: WordNet counts containers and lengths here; words of amount are
on the generic list), group (crowd, forest), location (park, corner) and all files of things, stuff and
living beings.
"""

_BEGINNERS = """
abstraction psychological_feature cognition motivation attribute state feeling time event act relation
social_relation measure
"""
ABSTRACT_BEGINNERS = frozenset(_BEGINNERS.split())
"""Nouns of the mixed file noun.Tops that head the abstract files above; food and person stand there too."""


def is_generic(nouns: Iterable[str]) -> bool:
    """Whether all nouns of a phrase (given as lemmas, without its adjectives) are on the generic list.

    All, since a concrete modifier makes a thing of a generic head: "lot" is generic, "parking lot" is not.
    """
    return all(noun in GENERIC_NOUNS for noun in nouns)


def is_abstract_file(lexicographer_file: str, beginner: str) -> bool:
    """Whether a WordNet sense is abstract, by its lexicographer file and, in noun.Tops, by its own name."""
    if lexicographer_file == "noun.Tops":
        return beginner in ABSTRACT_BEGINNERS
    return lexicographer_file in ABSTRACT_LEXICOGRAPHER_FILES
