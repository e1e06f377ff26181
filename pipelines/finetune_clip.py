"""`ovseg finetune`: PAIRS in, mask-adapted CLIP out; under torchrun on several GPUs or machines."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg_model.fetch_options import FetchOptions
from ovseg_model.finetune_options import FinetuneOptions
from pipelines.draw_recognised import SHOWN, Recognised, draw_recognised
from pipelines.options import SentenceParser, add_options, option, read_options, require_at_least
from pipelines.write_tables import writing
from schemas import UserError

if TYPE_CHECKING:
    from ovseg_model.finetune import Finetuning

PICTURE_FILE = "recognised.png"


@dataclass(frozen=True)
class RunOptions:
    """What is trained on what, and where the result goes."""

    pairs: str = option("", "PAIRS: a run, its pairs folder, a Parquet file or a glob; any fsspec URL")
    output: str = option("", "local folder of the result; the same command again goes on where it was stopped")
    where: str | None = option(None, 'filter over PAIRS columns, such as "cosine > 0.25 and area_px > 1024"')
    cap: int = option(0, "pairs of one noun at most, chosen by a seeded hash; 0 takes all")
    allow_meaningless: bool = option(False, "take pairs whose scorer had random weights, for plumbing")
    clip: str = option("scenes", "CLIP to adapt, as --clip of ovseg match")
    clip_architecture: str | None = option(None, "open_clip architecture of a checkpoint file that does not say it")
    eval_set: str = option(
        "",
        "labelled set for accuracy before, during and after: scenes, scenes:ink, a folder of ovseg draw-scenes, "
        "coco:INSTANCES.json:IMAGES_FOLDER, or BENCHMARK@ROOT such as ade20k-150@data",
    )
    eval_images: int = option(500, "images of it, the first by name")
    device: str = option("auto", "auto, cpu, cuda or cuda:NUMBER; under torchrun each process takes a GPU of its own")


def main(argv: Sequence[str]) -> int:
    """Parses, trains and prints; `argv` begins with the verb.

    Raises:
        UserError: an option, a table or a weight is not as wanted, or the loss is no number.
    """
    run, finetuning, fetch = parse(argv)
    with writing(run.output):
        print(train(run, finetuning, fetch))
    return 0


def parse(argv: Sequence[str]) -> tuple[RunOptions, FinetuneOptions, FetchOptions]:
    """The options of the verb that `argv` begins with.

    Raises:
        UserError: an option is not as wanted.
    """
    parser = SentenceParser("ovseg finetune", description=__doc__, allow_abbrev=False)
    groups = (RunOptions, FinetuneOptions, FetchOptions)
    for group in groups:
        add_options(parser, group)
    namespace = parser.parse_args(argv[1:])
    run, finetuning, fetch = (read_options(namespace, group) for group in groups)
    check_options(run)
    return run, finetuning, fetch


def check_options(run: RunOptions) -> None:
    """Refuses a run without input or output.

    Raises:
        UserError: naming the option.
    """
    for name, wanted in (("pairs", "a run of ovseg mine, or its pairs folder"), ("output", "a local folder")):
        if not getattr(run, name):
            raise UserError(f"--{name} is missing; give {wanted}")
    if "://" in run.output:
        raise UserError(f"--output {run.output}: wanted a local folder; copy the result to a bucket afterwards")
    require_at_least("cap", run.cap, 0)
    require_at_least("eval_images", run.eval_images, 1)


def train(run: RunOptions, options: FinetuneOptions, fetch: FetchOptions) -> str:
    """Trains and returns the text for the end.

    Raises:
        UserError: as `ovseg_model.finetune.finetune`.
    """
    from ovseg_model.clip import resolve_clip
    from ovseg_model.finetune import Finetuning, finetune
    from ovseg_model.labelled_regions import open_labelled_set
    from ovseg_model.pair_batches import open_pairs

    labelled = open_labelled_set(run.eval_set, run.eval_images) if run.eval_set else None
    pairs = open_pairs(run.pairs, run.where, run.cap or None, options.seed, run.allow_meaningless)
    weights = resolve_clip(run.clip, run.clip_architecture)
    print(pairs.text())
    finetuning = Finetuning(pairs, weights, options, fetch, labelled, Path(run.output))
    result = finetune(finetuning, run.device)
    if not result:  # another process than the first
        return ""
    if labelled and not (Path(run.output) / PICTURE_FILE).exists():
        picture = draw_recognised(recognised_by_both(finetuning, run.device))
        (Path(run.output) / PICTURE_FILE).write_bytes(picture)
    return accuracy_table(result, run.output)


def recognised_by_both(run: Finetuning, device: str) -> list[Recognised]:
    """A region of each of the first images of the labelled set, as CLIP takes it before and after."""
    from ovseg_model.adapted_weights import adapt_clip, load_adapted
    from ovseg_model.clip import load_clip, resolve_device
    from ovseg_model.finetune import ADAPTED_FILE, open_meter

    device = resolve_device(device)
    images = list(itertools.islice((each for each in run.labelled.images() if len(each.truth_N)), SHOWN))
    meter = open_meter(run, load_clip(run.weights, device))
    models = adapt_clip(run.weights), load_adapted(str(run.output / ADAPTED_FILE))
    before, after = (meter.recognise(model.to(device), images) for model in models)
    classes = run.labelled.classes
    shown = []
    for number, image in enumerate(images):
        at = number % len(image.truth_N)  # not always the first: that is the stuff behind
        names = (classes[each[at]] for each in (image.truth_N, before[number], after[number]))
        shown.append(Recognised(image.image_HW3, image.masks_NHW[at], *names))
    return shown


def accuracy_table(result: dict[str, Any], output: str) -> str:
    """Accuracy before and after, and where the model is."""
    lines = [f"result: {output}"]
    rows = result["accuracy"]
    if len(rows) > 1:
        before, after = rows[0], rows[-1]
        names = [name for name in before if name != "step"]
        lines = [f"{name:<20}{before[name]:>8.3f} before{after[name]:>8.3f} after" for name in names] + lines
        lines.insert(0, f"accuracy on {result['made_by']['eval_set']}:")
    return "\n".join(lines)
