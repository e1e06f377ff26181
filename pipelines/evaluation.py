"""What every evaluation shares: its options, its folder, predictions that are stored in parts, and how it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from ovseg_model.checkpoint import changed_names
from ovseg_model.rank_agreement import CropAgreement, agreement_sentence
from pipelines.options import option, require_at_least
from pipelines.progress import show_progress
from pipelines.summary import ONLY_SCENES, knows_only_scenes
from pipelines.write_tables import RunFolder
from schemas import UserError

Item = TypeVar("Item")

EVALUATION_FILE, RESULT_FILE, DROPS_FILE = "evaluation.json", "result.json", "drops.json"
PREDICTIONS, TUNING_FILE = "predictions", "tuning.json"
AGREEMENT_FILE = "agreement.json"

PER_CLASS_FILE, BARS_FILE, SAMPLES_FILE = "per_class.csv", "per_class.png", "worst_and_best.png"
SHOWN = 4
"""Images, or expressions, of lowest and of highest score that are drawn."""

ITEMS_PER_PART = 256
"""Items whose predictions stand in one file: what a crash loses."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What is measured, and where the result goes."""

    benchmark: str = option("", "benchmark by name, NAME or NAME:SPLIT; --benchmark help lists them")
    root: str | None = option(None, "folder that holds the data set (docs/benchmarks.md draws its tree)")
    output: str = option("", "folder of predictions and result: a path or fsspec URL; the same command goes on there")
    limit: int = option(0, "samples, the first in order; 0 takes all. Numbers of fewer compare with no published ones")
    names: str = option(
        "ovseg",
        'class names: ovseg ("road, route" as it stands) or catseg ("road"); classes stay in OVSeg\'s order',
        choices=("ovseg", "catseg"),
    )
    oracle: str = option(
        "",
        "replace one half by the truth: masks (human masks, predicted labels) or labels (predicted masks, true labels)",
        choices=("masks", "labels"),
    )
    tune_on: str = option(
        "",
        "choose λ and the mask threshold, or for --answer union its threshold, on this split, never the one that is "
        "reported",
    )
    tune_images: int = option(200, "images of that split, or its expressions, evenly spaced")
    answer: str = option(
        "best",
        "answer to an expression: best (the single proposal of highest cosine) or union (all proposals whose "
        'probability against "others" is above --union-threshold)',
        choices=("best", "union"),
    )
    union_threshold: float = option(0.5, "for --answer union, 0 to 1")

    def __post_init__(self) -> None:
        """Refuses values out of range; raises UserError."""
        require_at_least("limit", self.limit, 0)
        require_at_least("tune_images", self.tune_images, 1)
        if not 0 <= self.union_threshold <= 1:
            raise UserError(f"--union-threshold: wanted 0 to 1, got {self.union_threshold}")


class Outcome(NamedTuple):
    """What an evaluation says in the end."""

    text: str
    failed: bool = False
    """Whether nothing was measured, since the proposals of all images failed: exit status 1."""


DIFFERENCES = {
    "chosen": "how λ or thresholds were chosen",
    "frame": "test resolution",
    "models": "models (CLIP, templates, generator)",
    "options": "options of fusion",
    "samples": "the samples that are asked",
    "version": "the release of this tool",
}
"""How that by which two evaluations differ is said; what is not here is called as its option."""


@dataclass(frozen=True)
class Evaluation:
    """A folder of one evaluation, guarded against another's predictions. Small and picklable."""

    folder: RunFolder
    made_by: dict[str, Any] = field(hash=False)
    """All that decides a prediction, plain values."""

    root: str | None = None
    """Where the data set was found, so that stored predictions can be scored again; it decides nothing."""

    def begin(self) -> None:
        """Writes down what the predictions are of, or finds that the folder holds just these.

        Raises:
            UserError: it holds another's.
        """
        wanted = json.loads(json.dumps(self.made_by))
        if self.folder.has(EVALUATION_FILE):
            found = self.folder.read_json(EVALUATION_FILE)["made_by"]
            if changed := changed_names(found, wanted):
                differs = ", ".join(DIFFERENCES.get(name, name) for name in changed)
                raise UserError(
                    f"--output {self.folder.url}: holds another evaluation, which differs in {differs}; give another "
                    "folder"
                )
            return
        self.folder.write_json(EVALUATION_FILE, {"made_by": wanted} | ({"root": self.root} if self.root else {}))


def sha256_of(values: Any) -> str:
    """The sha256 of plain values: which samples stored predictions are of, in order, so that no others take them."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def predict_in_parts(
    evaluation: Evaluation, items: Sequence[Item], predict: Callable[[Sequence[Item]], list[Any]], label: str
) -> Iterator[tuple[Item, Any]]:
    """Yields every item with its prediction, a plain value; parts that are stored already are not predicted again."""
    starts = range(0, len(items), ITEMS_PER_PART)
    parts = [items[start : start + ITEMS_PER_PART] for start in starts]
    for number, part in enumerate(show_progress(parts, label, "items", len(items), len)):
        name = f"{PREDICTIONS}/part-{number:05d}.json"
        if not evaluation.folder.has(name):
            evaluation.folder.write_json(name, predict(part))
        yield from zip(part, evaluation.folder.read_json(name), strict=True)


def clip_notes(clip: dict[str, Any], meaningless: bool, drawn: bool) -> list[str]:
    """What must be said of a CLIP beside its numbers: random weights, or one that knows drawn scenes alone.

    clip: its fingerprint. drawn: whether the images are drawn scenes, which that one does know.
    """
    notes = ["CLIP's weights are random: the numbers mean nothing"] if meaningless else []
    return [*notes, *(ONLY_SCENES if knows_only_scenes([clip]) and not drawn else [])]


def regions_notes(models: dict[str, Any]) -> list[str]:
    """What must be said where CLIP did not see each region as a crop of its own; models: `Models.fingerprint`."""
    notes = [f"regions by --scorer {models['scorer']}, not a crop each as OVSeg's"] if "scorer" in models else []
    return [*notes, *([f"regions cut by --regions {models['regions']}"] if "regions" in models else [])]


def compare_with_crops(folder: RunFolder, agreement: CropAgreement | None, read: Callable[[], None]) -> None:
    """Stores how far one pass agrees with crops, where it reads the masks and that is not known yet.

    read: puts some images through what tells `agreement` of them; the same ones every time, whatever is predicted
    already.
    """
    if agreement and not folder.has(AGREEMENT_FILE):
        read()
        folder.write_json(AGREEMENT_FILE, agreement.counts)


def agreement_notes(folder: RunFolder, texts: str) -> list[str]:
    """How far one pass agrees with crops, where that was measured; texts: what was looked for, a plural."""
    if not folder.has(AGREEMENT_FILE):
        return []
    why_not = "none of the sampled images has two masks that CLIP was asked of"
    return [agreement_sentence(folder.read_json(AGREEMENT_FILE), texts, why_not)]


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly spaced from the first."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]
