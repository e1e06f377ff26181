"""`ovseg <verb>`: imports a verb's module only when it runs, so that help answers at once."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from pipelines.terminal import print_error
from schemas.errors import UserError


class Verb(NamedTuple):
    """A verb: the module whose `main(argv)` runs it (argv begins with the verb), and its line of help."""

    module: str
    help: str


VERBS = {
    "mine": Verb("pipelines.mine_pairs", "captions and images in, (masked region, noun) pairs out"),
    "nouns": Verb("pipelines.mine_pairs", "captions in, NOUNS out"),
    "masks": Verb("pipelines.mine_pairs", "images in, MASKS out, to be reused with other captions"),
    "match": Verb("pipelines.mine_pairs", "NOUNS and MASKS of a run in, PAIRS out"),
    "filter": Verb("pipelines.filter_pairs", "PAIRS of a run selected again by query, cap and assignment"),
    "merge": Verb("pipelines.merge_runs", "finished runs in, the run of their union out"),
    "export": Verb("pipelines.export_run", "PAIRS of a run as datasets, webdataset, COCO or OVSeg's own layout"),
    "finetune": Verb("pipelines.finetune_clip", "PAIRS in, mask-adapted CLIP out"),
    "retrain": Verb("pipelines.retrain", "captions in, finetuned CLIP with accuracy before and after out"),
    "import-clip": Verb("pipelines.import_clip", "a checkpoint of OVSeg's release in, mask-adapted CLIP out"),
    "train-proposals": Verb("pipelines.train_proposals", "images and label maps in, OVSeg's proposal network out"),
    "segment": Verb("pipelines.segment_images", "photographs and class names in, label maps and overlays out"),
    "evaluate": Verb("pipelines.evaluate_model", "a model on a benchmark of the field, in numbers and pictures"),
    "score": Verb("pipelines.score_predictions", "stored predictions scored again, by Beam at scale"),
    "report": Verb("pipelines.report", "a finished run as one page: report.html, which every run writes at its end"),
    "draw-scenes": Verb("pipelines.draw_scenes", "draw captioned scenes with their truth, to try everything on"),
    "audit": Verb("pipelines.audit_pairs", "PAIRS against human labels: precision, recall, calibration"),
    "hash": Verb("pipelines.hash_images", "images of an evaluation set in, hash list out, to keep them out of a run"),
    "judge": Verb("pipelines.judge_pairs", "PAIRS of drawn scenes against their truth"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status: 0, or 2 for a user's mistake, said in one sentence."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(version())
        return 0
    try:
        return verb_main(arguments[0])(arguments)
    except UserError as error:
        print_error(f"ovseg {arguments[0]}: {error}")
        return 2
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `| head` does; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print_error(f"ovseg {arguments[0]}: stopped; the same command goes on where it was")
        return 130


def usage() -> str:
    """What `ovseg --help` prints."""
    lines = [f"  {name:16} {verb.help}" for name, verb in VERBS.items()]
    head = "usage: ovseg <verb> [options]     (ovseg <verb> --help lists a verb's options)"
    return "\n".join([head, "", *lines])


def version() -> str:
    """Name and version of the distribution."""
    from importlib import metadata

    return f"ovseg-mining {metadata.version('ovseg-mining')}"


def verb_main(name: str) -> Callable[[Sequence[str]], int]:
    """The main function of a verb, imported now.

    Raises:
        UserError: there is no such verb.
    """
    if name not in VERBS:
        close = get_close_matches(name, VERBS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"there is no such verb; {hint}wanted one of {', '.join(VERBS)}")
    return importlib.import_module(VERBS[name].module).main
