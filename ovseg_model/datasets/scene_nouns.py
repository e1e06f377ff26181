"""What scenes are made of: nouns, the words that captions use for them, and the colours they usually have."""

from __future__ import annotations

import re
from dataclasses import dataclass

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (205, 45, 45),
    "orange": (235, 130, 35),
    "yellow": (240, 210, 60),
    "green": (65, 150, 60),
    "blue": (55, 105, 200),
    "purple": (130, 65, 165),
    "pink": (235, 140, 175),
    "brown": (130, 85, 50),
    "white": (240, 240, 235),
    "grey": (140, 140, 145),
    "black": (45, 45, 50),
}
"""Colour words and what they mean, RGB 0..255, before every thing's own jitter."""


@dataclass(frozen=True)
class Noun:
    """A class of the world. Texture tells a stuff and shape tells a thing; colours are habits, with exceptions."""

    name: str
    kind: str
    """ "stuff" or "thing"."""

    colours: tuple[str, ...]
    """Typical colours, most usual first."""

    plural: str = ""
    """Of a thing; stuff has none."""

    synonyms: tuple[str, ...] = ()
    """Other nouns that captions use for it."""

    compounds: tuple[str, ...] = ()
    """Phrases of several words that captions use for it."""

    labelled: bool = True
    """Whether a data set with fixed labels would have it; if not, only captions name it."""

    @property
    def singulars(self) -> tuple[str, ...]:
        """Everything that means one of it, the name first."""
        return (self.name, *self.synonyms, *self.compounds)


def _stuff(name: str, colours: str, synonyms: str = "", compounds: str = "", *, labelled: bool = True) -> Noun:
    return Noun(name, "stuff", tuple(colours.split()), "", _listed(synonyms), _listed(compounds), labelled)


def _thing(
    name: str, colours: str, plural: str = "", synonyms: str = "", compounds: str = "", *, labelled: bool = True
) -> Noun:
    plural = plural or name + "s"
    return Noun(name, "thing", tuple(colours.split()), plural, _listed(synonyms), _listed(compounds), labelled)


def _listed(phrases: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in phrases.split(",") if phrase.strip())


NOUNS: tuple[Noun, ...] = (
    _stuff("grass", "green", "lawn, meadow", "green grass"),
    _stuff("water", "blue", "lake", "blue water"),
    _stuff("brick", "red", "", "brick wall"),
    _stuff("sand", "yellow", "beach", "sandy beach"),
    _stuff("sky", "blue", "", "clear sky, blue sky"),
    _stuff("snow", "white", "", "fresh snow"),
    _stuff("gravel", "grey", "pebbles", "gravel path"),
    _stuff("wood", "brown", "planks", "wood floor"),
    _stuff("tile", "white", "tiles", "tile floor"),
    _stuff("road", "black", "street", "asphalt road"),
    _stuff("carpet", "purple", "rug", ""),
    _stuff("straw", "yellow", "hay", "", labelled=False),
    _stuff("hedge", "green", "foliage", "", labelled=False),
    _stuff("marble", "white", "", "marble floor", labelled=False),
    _stuff("roof", "orange", "shingles", "", labelled=False),
    _stuff("curtain", "pink", "drapes", "", labelled=False),
    _thing("kite", "red yellow blue"),
    _thing("tree", "green", "", "", "apple tree"),
    _thing("cup", "white blue", "", "mug", "coffee cup"),
    _thing("fish", "orange grey", "fish", "goldfish"),
    _thing("house", "white brown", "", "home, cottage"),
    _thing("boat", "white red", "", "sailboat", "sailing boat"),
    _thing("car", "red blue black", "", "automobile", "sports car"),
    _thing("flower", "pink red yellow", "", "blossom"),
    _thing("umbrella", "purple red", "", "parasol"),
    _thing("ball", "blue red", "", "", "beach ball"),
    _thing("apple", "red green"),
    _thing("banana", "yellow"),
    _thing("chair", "brown", "", "seat", "kitchen chair"),
    _thing("lamp", "yellow orange", "", "", "desk lamp"),
    _thing("clock", "white", "", "", "wall clock"),
    _thing("bottle", "green", "", "", "glass bottle"),
    _thing("balloon", "red pink", "", "", "party balloon"),
    _thing("cat", "black grey", "", "kitten", "house cat"),
    _thing("tent", "orange green"),
    _thing("duck", "yellow", "", "duckling"),
    _thing("moon", "yellow white", "", "crescent", labelled=False),
    _thing("mushroom", "red", "", "toadstool", labelled=False),
    _thing("butterfly", "orange purple", "butterflies", labelled=False),
    _thing("snail", "brown", labelled=False),
    _thing("ladder", "brown", labelled=False),
    _thing("key", "grey yellow", "", "", "door key", labelled=False),
    _thing("cactus", "green", "cactuses", labelled=False),
    _thing("rocket", "white red", "", "spaceship", "space rocket", labelled=False),
)
"""All classes in label order: a label map holds positions in this list."""

NAMES = tuple(noun.name for noun in NOUNS)
STUFF = tuple(noun.name for noun in NOUNS if noun.kind == "stuff")
THINGS = tuple(noun.name for noun in NOUNS if noun.kind == "thing")
LABELLED = tuple(noun.name for noun in NOUNS if noun.labelled)
CAPTIONS_ONLY = tuple(noun.name for noun in NOUNS if not noun.labelled)
"""The classes that no data set with fixed labels has: what generalisation is measured on."""


def _by_words() -> dict[str, str]:
    words = {}
    for noun in NOUNS:
        words.update(dict.fromkeys(noun.singulars, noun.name))
        if noun.plural:
            words[noun.plural] = noun.name
            words.update({f"{synonym}s": noun.name for synonym in noun.synonyms})
    return words


CLASS_OF_WORDS = _by_words()
"""Class name by every word or phrase that captions use for it."""


def class_of(noun: str) -> str | None:
    """Returns the class that a caption's noun means, or None when it names nothing visible ("photo", "day").

    Longest match from the end, as English compounds have their head last: "red beach ball" is a ball.
    """
    words = noun.lower().split()
    for start in range(len(words)):
        if (name := CLASS_OF_WORDS.get(" ".join(words[start:]))) is not None:
            return name
    return None


_MENTION = re.compile(rf"\b({'|'.join(sorted(CLASS_OF_WORDS, key=len, reverse=True))})\b")


def mentioned(caption: str) -> frozenset[str]:
    """Returns the classes that a caption of a scene names."""
    return frozenset(CLASS_OF_WORDS[words] for words in _MENTION.findall(caption.lower()))
