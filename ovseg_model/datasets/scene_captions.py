"""Five captions of a scene, as people write them.

They name some of what is there, in varying words, beside what nobody can see ("photo", "view", "day").
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ovseg_model.datasets.scene_nouns import NAMES, NOUNS, Noun

CAPTIONS = 5
COLOUR_SHARE, SIZE_SHARE, SYNONYM_SHARE = 0.3, 0.12, 0.3
"""How often a mention has its colour, its size, and another word than its name."""


@dataclass(frozen=True)
class Seen:
    """What captions may mention: a class that is visible, how often, how large and in which colour."""

    noun: str
    count: int
    area_fraction: float
    """Share of the image that its largest instance covers, 0 to 1."""

    colour: str
    """Of the largest instance."""


ALONE = (
    "a photo of {a}.",
    "{a}",
    "There is {a} in the scene",
    "a picture of {a}",
    "This is a photo of {a}",
    "{a} on a sunny day",
    "a close up of {a}",
    "an image of {a} in the middle",
)
TOGETHER = (
    "{a} and {b}",
    "{a} next to {b}",
    "{a} in front of {b}",
    "a photo of {a} beside {b}.",
    "There is {a} near {b} in the scene.",
    "a view of {a} with {b} in the background",
)
THREE = ("{a}, {b} and {c}", "{a} with {b} and {c} nearby.", "a group of things: {a}, {b} and {c}")
ON_STUFF = (
    "{a} on {s}",
    "{a} over {s}",
    "{a} in front of {s}.",
    "a photo of {a} with {s} in the background",
    "{s} behind {a}",
    "{a} and some {s}",
    "a view of {s} with {a} on it",
)
STUFF_ALONE = (
    "a photo of {s}.",
    "some {s}",
    "a view of {s} during the day",
    "There is {s} in the scene",
    "a picture full of {s}",
)
STUFF_TOGETHER = ("{s} and {t}", "{s} next to some {t}", "a view of {s} with {t} behind it", "a lot of {s}, and {t}")

NUMBERS = {2: "two", 3: "three", 4: "four"}


def write_captions(seen: Sequence[Seen], randoms: random.Random) -> tuple[str, ...]:
    """Returns CAPTIONS captions of what is seen, which must not be nothing; some things stay unsaid."""
    return tuple(write_caption(seen, randoms) for _ in range(CAPTIONS))


def write_caption(seen: Sequence[Seen], randoms: random.Random) -> str:
    """Returns one caption; what is larger is mentioned more often."""
    things = _by_chance([each for each in seen if _noun(each).kind == "thing"], randoms)
    stuff = _by_chance([each for each in seen if _noun(each).kind == "stuff"], randoms)
    form = randoms.choice(_forms(len(things), len(stuff), randoms))
    words = dict(zip("abc", (_thing_phrase(each, randoms) for each in things), strict=False))
    words |= dict(zip("st", (_stuff_phrase(each, randoms) for each in stuff), strict=False))
    caption = form.format(**words).replace("some the ", "some ")
    return caption[0].upper() + caption[1:] if randoms.random() < 0.3 else caption


def _forms(things: int, stuff: int, randoms: random.Random) -> tuple[str, ...]:
    """Sentence forms that fit what there is: most name things, as captions do."""
    if not things:
        return STUFF_TOGETHER if stuff > 1 and randoms.random() < 0.5 else STUFF_ALONE
    wishes = [ALONE, ON_STUFF, TOGETHER, THREE, STUFF_ALONE]
    weights = [35, 35 * (stuff > 0), 25 * (things > 1), 15 * (things > 2), 5 * (stuff > 0)]
    return randoms.choices(wishes, weights)[0]


def _by_chance(seen: Sequence[Seen], randoms: random.Random) -> list[Seen]:
    """The same in random order, in which the larger tend to stand first (exponential keys: weighted sampling)."""
    return sorted(seen, key=lambda each: randoms.expovariate(1) / each.area_fraction)


def _thing_phrase(thing: Seen, randoms: random.Random) -> str:
    """A thing as captions name it: "a red kite", "two cups", "the large tree"."""
    noun, many = _noun(thing), thing.count > 1 and randoms.random() < 0.7
    adjectives = [_size(thing.area_fraction)] if randoms.random() < SIZE_SHARE else []
    adjectives += [thing.colour] if randoms.random() < COLOUR_SHARE and not many else []
    if many:
        number = NUMBERS.get(thing.count, "several") if randoms.random() < 0.7 else "some"
        return " ".join([number, *adjectives[:1], noun.plural])
    named = " ".join([*adjectives, _word(noun, randoms)])
    return f"the {named}" if randoms.random() < 0.12 else _with_article(named)


def _stuff_phrase(stuff: Seen, randoms: random.Random) -> str:
    """A stuff as captions name it: "the grass", "green lawn"."""
    noun = _noun(stuff)
    word = _word(noun, randoms)
    if word == noun.name and randoms.random() < COLOUR_SHARE / 2:
        word = f"{stuff.colour} {word}"
    return f"the {word}" if randoms.random() < 0.25 else word


def _word(noun: Noun, randoms: random.Random) -> str:
    """The noun's name, or now and then another word for it."""
    others = (*noun.synonyms, *noun.compounds)
    return randoms.choice(others) if others and randoms.random() < SYNONYM_SHARE else noun.name


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _size(area_fraction: float) -> str:
    return "small" if area_fraction < 0.05 else "medium" if area_fraction < 0.12 else "large"


def _noun(seen: Seen) -> Noun:
    return NOUNS[NAMES.index(seen.noun)]
