"""What the ending of an English noun tells: its singular, and whether it is likely abstract."""

from __future__ import annotations

WORD_FORMS_VERSION = "1"
"""Changes with every change of a list or rule below, since they decide rows."""

_PLURAL_AND_SINGULAR = """
men:man women:woman children:child feet:foot teeth:tooth geese:goose mice:mouse oxen:ox people:people
leaves:leaf knives:knife loaves:loaf shelves:shelf halves:half wolves:wolf calves:calf wives:wife lives:life
scarves:scarf hooves:hoof thieves:thief elves:elf selves:self bookshelves:bookshelf cacti:cactus
fungi:fungus movies:movie cookies:cookie ties:tie pies:pie zombies:zombie selfies:selfie brownies:brownie
smoothies:smoothie hoodies:hoodie birdies:birdie lies:lie neckties:necktie foodies:foodie veggies:veggie
shoes:shoe toes:toe canoes:canoe hoes:hoe oboes:oboe horseshoes:horseshoe snowshoes:snowshoe
headaches:headache mustaches:mustache moustaches:moustache caches:cache axes:axe buses:bus gases:gas
lenses:lens viruses:virus campuses:campus circuses:circus walruses:walrus octopuses:octopus cactuses:cactus
choruses:chorus canvases:canvas atlases:atlas minibuses:minibus buzzes:buzz waltzes:waltz quizzes:quiz
"""
_IRREGULAR_SINGULARS = dict(pair.split(":") for pair in _PLURAL_AND_SINGULAR.split())

# Words that end like plurals and are none, or that have no singular in use.
_SAME_IN_BOTH_NUMBERS = """
bus gas lens series species news pants jeans shorts glasses sunglasses eyeglasses goggles scissors tweezers
clothes canvas christmas texas pajamas pyjamas leggings tights trousers overalls binoculars headquarters
outskirts surroundings belongings fries atlas bias pancreas means mathematics athletics gymnastics politics
physics graphics electronics diabetes rabies alas overseas sometimes paris athens memphis los angeles
suspenders pliers ruins stairs woods ramen omen specimen abdomen regimen stamen
"""
_UNCHANGED = frozenset(_SAME_IN_BOTH_NUMBERS.split())

_UNCHANGED_ENDINGS = ("ss", "us", "is", "'s")

_PLURAL_ENDINGS = (
    ("ies", "y"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("sses", "ss"),
    ("zzes", "zz"),
    ("xes", "x"),
    ("oes", "o"),
    ("men", "man"),
    ("s", ""),
)

_NAMING_ENDINGS = "ness ship hood ment ity ety ism tion sion ance ence dom ing ure"
_ABSTRACT_ENDINGS = tuple(_NAMING_ENDINGS.split())

# Endings lie about these: they are things, places or people.
_THINGS = """
ship spaceship battleship warship airship steamship flagship hood apartment monument equipment pavement
garment instrument document ornament basement compartment department ointment parchment pigment
advertisement cement element city celebrity facility university deity community station television
intersection mansion plantation reception vegetation illustration invention lotion carnation location
destination decoration collection section congregation railway-station playstation population nation
accordion cushion fence ambulance entrance audience appliance residence fragrance science kingdom wisdom
building painting ceiling ring king string thing wing awning drawing earring clothing crossing railing
stocking icing frosting topping dumpling sibling duckling starling sling siding paneling flooring lining
seating carving engraving etching bedding stuffing pudding covering coating piping tubing opening living
landing clearing housing scaffolding wiring swing spring sewing-machine offering parking picture furniture
sculpture creature structure figure miniature pasture
"""
_THINGS_DESPITE_ENDING = frozenset(_THINGS.split())

# Short everyday words that no ending gives away: times, games and acts, feelings, qualities.
_TIMES_ACTS_QUALITIES = """
time day night morning evening afternoon noon dawn dusk sunset sunrise today tomorrow yesterday week weekend
month year season summer winter autumn spring fall century decade moment hour minute second birthday
christmas holiday anniversary festival monday tuesday wednesday thursday friday saturday sunday january
february march april june july august september october november december past future date game match race
sport baseball basketball football soccer tennis hockey rugby golf cricket volleyball polo show shot walk
ride trip tour visit jump swing trick practice work job act action play dance use turn way love fun joy hope
fear surprise interest attention view idea life luck peace beauty fashion style colour color kind type sort
part rest reason case fact news size shape height length distance number lot half event wedding ceremony
party celebration concert premiere background foreground pattern design theme focus concept dream mind mood
danger need state luxury
"""
_ABSTRACT_WORDS = frozenset(_TIMES_ACTS_QUALITIES.split())


def singular_of(word: str) -> str:
    """The singular of a lower-case noun by its ending; a word that is no plural comes back unchanged.

    Of a compound written with hyphens the last part changes: "brush-strokes" gives "brush-stroke".
    """
    start, hyphen, last = word.rpartition("-")
    return start + hyphen + _singular_of_part(last)


def looks_abstract(singular: str) -> bool:
    """Whether a lower-case singular names nothing that has a region, by its ending and two short lists.

    An approximation of the `abstract` flag for the rule that has no WordNet; docs/nouns.md says how good.
    """
    if singular in _ABSTRACT_WORDS:
        return True
    return singular.endswith(_ABSTRACT_ENDINGS) and singular not in _THINGS_DESPITE_ENDING


def _singular_of_part(word: str) -> str:
    if word in _IRREGULAR_SINGULARS:
        return _IRREGULAR_SINGULARS[word]
    if word in _UNCHANGED or word.endswith(_UNCHANGED_ENDINGS):
        return word
    for plural, singular in _PLURAL_ENDINGS:
        if word.endswith(plural) and len(word) > len(plural) + 1:
            return word[: -len(plural)] + singular
    return word
