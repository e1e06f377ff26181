"""`ovseg train-proposals`: images and label maps in, OVSeg's proposal network out; under torchrun on several GPUs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg_model.proposals.training_options import ProposalTrainingOptions, with_preset
from pipelines.options import SentenceParser, add_options, option, read_options
from pipelines.write_tables import writing
from schemas import UserError


@dataclass(frozen=True)
class RunOptions:
    """What is trained on what, and where the result goes."""

    output: str = option("", "local folder of the result; the same command again goes on where it was stopped")
    benchmark: str = option("", "benchmark whose classes and label files these are, or scenes, which are drawn")
    data: str = option("", "folder in which the benchmark finds its own images: those that it is evaluated on")
    images: str = option("", "folder of images")
    labels: str = option("", "folder of label maps, or panoptic PNGs, by the names of their images")
    classes: str = option("", "file of class names, one a line, line N for label N - 1; not with --benchmark")
    panoptic_json: str = option("", "COCO's panoptic JSON; then --labels holds its PNGs")
    clip_architecture: str | None = option(None, "open_clip architecture of a checkpoint file that does not say it")
    device: str = option("auto", "auto, cpu, cuda or cuda:NUMBER; under torchrun each process takes a GPU of its own")


def main(argv: Sequence[str]) -> int:
    """Parses, trains and prints; `argv` begins with the verb.

    Raises:
        UserError: an option, a file or a weight is not as wanted, or the loss is no number.
    """
    parser = SentenceParser("ovseg train-proposals", description=__doc__, allow_abbrev=False)
    for group in (RunOptions, ProposalTrainingOptions):
        add_options(parser, group)
    namespace = parser.parse_args(argv[1:])
    run, names = (
        read_options(namespace, RunOptions),
        {each.name for each in dataclasses.fields(ProposalTrainingOptions)},
    )
    options = with_preset({name: value for name, value in vars(namespace).items() if name in names})
    if not run.output:
        raise UserError("--output is missing; give a local folder")
    if "://" in run.output:
        raise UserError(f"--output {run.output}: wanted a local folder; copy the result to a bucket afterwards")
    with writing(run.output):
        print(train(run, options))
    return 0


def train(run: RunOptions, options: ProposalTrainingOptions) -> str:
    """Trains and returns the text for the end.

    Raises:
        UserError: as `ovseg_model.proposals.train_proposals.train_proposals`.
    """
    from ovseg_model.proposals.network_weights import require_transformers
    from ovseg_model.proposals.training_maps import MapPlaces, open_maps

    require_transformers()
    places = MapPlaces(**{each.name: getattr(run, each.name) for each in dataclasses.fields(MapPlaces)})
    maps = open_maps(places, options.crop_px)
    print(f"{len(maps):,} images, {len(maps.classes)} classes")

    from ovseg_model.clip import resolve_clip
    from ovseg_model.proposals.network_weights import resolve_network
    from ovseg_model.proposals.proposal_network import INITIAL_TYPES
    from ovseg_model.proposals.train_proposals import NETWORK_FOLDER, ProposalTraining, train_proposals

    clip = resolve_clip(options.clip, run.clip_architecture)
    init = resolve_network(options.init, model_types=INITIAL_TYPES) if options.init else None
    result: dict[str, Any] = train_proposals(ProposalTraining(maps, clip, init, options, Path(run.output)), run.device)
    if not result:  # another process than the first
        return ""
    last = result["loss"][-1]
    return f"loss {last['loss']:.3f} after {last['step']:,} steps\nresult: {run.output}/{NETWORK_FOLDER}"
