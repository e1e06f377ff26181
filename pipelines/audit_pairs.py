"""`ovseg audit`: precision and recall of PAIRS against human labels, by cosine, margin, mask size, noun and label.

A pair is right when its noun means the label that people gave to what lies under its mask. Writes audit.json,
audit.md and audit.png. A run is read part by part; memory grows with distinct nouns, and holds a COCO JSON whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.audit_counts import IMAGE_KINDS, LABELLED, OTHER_SIZE, AuditCounts, no_counts
from pipelines.audit_part import PartJudge
from pipelines.audit_report import audit_markdown, audit_numbers, audit_text
from pipelines.audit_truth import Truth, open_benchmark_maps, open_instances, open_label_maps, open_scenes
from pipelines.derived_run import open_source
from pipelines.draw_audit import draw_audit
from pipelines.label_meaning import Meaning, SceneMeaning, WordMeaning, require_senses
from pipelines.options import SentenceParser, add_options, option, read_options
from pipelines.progress import show_progress
from pipelines.write_tables import open_run_folder, refuse_inside
from schemas import UserError

JSON_FILE, TEXT_FILE, PICTURE_FILE = "audit.json", "audit.md", "audit.png"

TRUTHS = ("annotations", "label_maps", "benchmark", "scenes")


@dataclass(frozen=True)
class AuditOptions:
    """What the pairs are held against, and what counts as right."""

    annotations: str = option("", "COCO instances JSON of the run's images (found by image_id, else by file name)")
    label_maps: str = option("", "folder of label maps, STEM.png for the image STEM.jpg; with --class-names")
    class_names: str = option(
        "", "with --label-maps: text file, line N for label N - 1, commas between a class's names"
    )
    ignore_label: tuple[str, ...] = option((), "with --label-maps: values without a label (default: 255 or 65535)")
    benchmark: str = option("", "label maps of a benchmark, as NAME or NAME:SPLIT (docs/benchmarks.md); with --root")
    root: str = option("", "with --benchmark: folder that holds the data set")
    scenes: str = option("", "folder that `ovseg draw-scenes` wrote the run's scenes to: its truth has no gaps")
    senses: str = option(
        "used",
        "senses of a word in WordNet: used (the first, and those of its tagged texts), all, or none (equal names only)",
        choices=("used", "all", "none"),
    )
    min_cover: float = option(0.5, "share of a mask's pixels that must have a label; below it the mask is unlabelled")
    output: str = option("", "folder of audit.json, audit.md and audit.png (default: the run)")

    def __post_init__(self) -> None:
        """Refuses what does not go together; raises UserError."""
        given = [name for name in TRUTHS if getattr(self, name)]
        if len(given) != 1:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in TRUTHS)
            raise UserError(f"wanted one truth to hold the pairs against, of {flags}; got {len(given)}")
        for name, other in (("label_maps", "class_names"), ("benchmark", "root")):
            if bool(getattr(self, name)) != bool(getattr(self, other)):
                flags = [f"--{each.replace('_', '-')}" for each in (name, other)]
                raise UserError(f"{flags[0]} and {flags[1]} go together; give both, or neither")
        if not 0 <= self.min_cover <= 1:
            raise UserError(f"--min-cover: wanted 0 to 1, got {self.min_cover}")


def main(argv: Sequence[str]) -> int:
    """Audits a run, writes what was found and prints its main table; `argv` begins with the verb.

    Raises:
        UserError: the run has no PAIRS, the truth cannot be read, or it has none of the run's images.
    """
    parser = SentenceParser("ovseg audit", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", nargs="?", default="", help="folder or URL of a finished run with PAIRS")
    add_options(parser, AuditOptions)
    namespace = parser.parse_args(argv[1:])
    if not namespace.run:
        raise UserError("RUN is missing; give the folder of a finished run")
    print(audit(namespace.run, read_options(namespace, AuditOptions)))
    return 0


def audit(url: str, options: AuditOptions) -> str:
    """Audits a run and writes the three files; returns the text for the screen.

    Raises:
        UserError: as `main`.
    """
    source = open_source(url)
    if not source.tables["pairs"]["rows"]:
        raise UserError(f"RUN {url}: its PAIRS have no rows; there is nothing to audit")
    folder = open_run_folder(options.output or url)
    refuse_inside(source.run, folder, "--output")
    judge = PartJudge(source, *open_truth(options), options.min_cover)
    parts = show_progress(source.parts("pairs"), "audit", "parts")
    counts = sum(map(judge.count, parts), no_counts(len(judge.truth.names)))
    require_labelled(counts, options)
    numbers = audit_numbers(counts, judge.truth.names, judge.describe())
    folder.write_json(JSON_FILE, numbers)
    folder.write(TEXT_FILE, audit_markdown(numbers).encode())
    folder.write(PICTURE_FILE, draw_audit(numbers))
    files = ", ".join((JSON_FILE, TEXT_FILE, PICTURE_FILE))
    return f"{audit_text(numbers)}\n\n{files}: {folder.path()}"


def open_truth(options: AuditOptions) -> tuple[Truth, Meaning]:
    """The labels that were asked for, and the rule by which nouns mean them.

    Raises:
        UserError: they cannot be read, or WordNet is not there.
    """
    if options.scenes:
        scenes = open_scenes(Path(options.scenes))
        return scenes, SceneMeaning(scenes.names)
    senses = "" if options.senses == "none" else options.senses
    if senses and options.annotations:
        require_senses()  # before a large JSON is read
    truth = open_named_labels(options)
    return truth, WordMeaning(truth.names, senses)


def open_named_labels(options: AuditOptions) -> Truth:
    """The labels that people named by words, not by scenes' classes; raises UserError where they cannot be read."""
    if options.annotations:
        return open_instances(Path(options.annotations))
    if options.benchmark:
        return open_benchmark_maps(options.benchmark, options.root)
    return open_label_maps(options.label_maps, options.class_names, ignored_values(options.ignore_label))


def ignored_values(texts: Sequence[str]) -> tuple[int, ...]:
    """The values of --ignore-label.

    Raises:
        UserError: one is no whole number from 0 to 65535.
    """
    wrong = [text for text in texts if not (text.isascii() and text.isdecimal() and int(text) < 2**16)]
    if wrong:
        raise UserError(f"--ignore-label: wanted whole numbers from 0 to 65535, got {wrong[0]!r}")
    return tuple(map(int, texts))


def require_labelled(counts: AuditCounts, options: AuditOptions) -> None:
    """Refuses a truth that knows nothing of the run's images.

    Raises:
        UserError: not one image of the run is labelled in the size that it was mined in.
    """
    if counts.images[LABELLED]:
        return
    name = next(name for name in TRUTHS if getattr(options, name))
    others = f", {counts.images[OTHER_SIZE]:,} are {IMAGE_KINDS[OTHER_SIZE]}" if counts.images[OTHER_SIZE] else ""
    raise UserError(
        f"--{name.replace('_', '-')} {getattr(options, name)}: none of the run's {counts.images.sum():,} images has "
        f"labels there{others}; give the labels of the images that were mined"
    )
