"""Which classes of a benchmark the training taxonomy, COCO-Stuff-171, has too: by a rule of this project.

OVSeg reports means over seen and unseen classes of ADE20K-150 (37.6 and 21.9 mIoU, appendix A.8 of Liang et al., CVPR
2023) without saying which is which, so our columns are not comparable with these two numbers. The rule: a class is
seen if one of its names, which commas part, is one of COCO-Stuff's. Names are compared in lower case, without spaces
and hyphens ("pottedplant" is "potted plant"), and never by their plurals. COCO-Stuff's own are

- the name as it stands: "dining table", "wall-brick";
- of a name with a dash also what stands before it, for the rest says which kind: "wall-brick", "building-other" and
  "door-stuff" are seen as "wall", "building" and "door";
- of a kind that is no "other" or "stuff" also the usual order of the words: "brick wall", "wood floor";
- the spellings of SPELLINGS; and HOMONYMS are not seen, though a word is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ovseg_model.datasets.benchmark import CLASS_TABLES, BenchmarkClass, read_class_table

TAXONOMY = "coco-stuff-171"

UNKINDS = ("other", "stuff")
"""What stands after a dash without naming a kind."""

SPELLINGS = {
    "airplane": ("aeroplane", "plane"),
    "motorcycle": ("motorbike",),
    "couch": ("sofa",),
    "tv": ("tvmonitor", "television"),
}
"""COCO's name, and other names of the same thing in the benchmarks: without them PASCAL VOC would have unseen classes,
though its twenty are all of COCO's."""

HOMONYMS = ("andiron, firedog, dog, dog-iron",)
"""Classes of the benchmarks that share a word with COCO-Stuff, and mean another thing by it."""


def seen_classes(classes: Iterable[BenchmarkClass]) -> frozenset[str]:
    """Returns the OVSeg names, verbatim, of the classes that COCO-Stuff-171 has too, by the rule above."""
    known = {_bare(name) for each in read_class_table(CLASS_TABLES / f"{TAXONOMY}.tsv") for name in _names(each.name)}
    names = (each.name for each in classes if each.name not in HOMONYMS)
    return frozenset(name for name in names if known & {_bare(part) for part in name.split(",")})


def _names(name: str) -> Iterator[str]:
    """Everything that a name of COCO-Stuff is found by."""
    yield name
    yield from SPELLINGS.get(name, ())
    what, dash, kind = name.partition("-")
    if dash:
        yield what
    if dash and kind not in UNKINDS:
        yield kind + what


def _bare(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "")
