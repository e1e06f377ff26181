"""`ovseg mine` with models that can be computed by hand: in this process, or as a command that may be killed.

`python tests/fake_mine.py mine …` runs one command. OVSEG_TEST_KILL names an image and how its generator dies.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from fakes import ColourScorer, HalvesGenerator
from PIL import Image

from pipelines import match_regions, plan
from pipelines.command_line import main
from pipelines.excluded_images import resolve_exclusions
from pipelines.hard_negatives import resolve_negatives
from pipelines.manifest import StageFacts
from pipelines.match_regions import MatchRegions
from pipelines.safety_flags import resolve_safety

MODELS = ["--nouns", "lexicon", "--masks", "fake_mine:make", "--device", "cpu", "--runner", "plain"]

CAPTIONS = ("a red ball in the sky", "a ball on the grass", "the sky above a dog", "grass and a small kite")


@dataclass(frozen=True)
class ColourScorerSpec:
    """Colours that score; they need no weights."""

    weights = SimpleNamespace(path="", architecture="")
    uses_one_pass, precision = False, "fp32"

    def fingerprint(self):
        return {"scorer": "colour"}


def open_colour_scorer(spec):
    return ColourScorer()


def plan_colours(run, options):
    match = options.match
    added = resolve_exclusions(options.exclude), resolve_safety(match.safety), resolve_negatives(match.hard_negatives)
    step = MatchRegions(run, ColourScorerSpec(), options.match, options.fetch, *added)
    return step, StageFacts(step.counts, asdict(options.match), step.fingerprint())


def use_fakes(patch=setattr):
    """Puts the colour scorer in CLIP's place; `patch` is setattr, or a monkeypatch's."""
    patch(plan, "PLANNERS", {**plan.PLANNERS, "pairs": plan_colours})
    patch(match_regions, "open_scorer", open_colour_scorer)


class DeadlyGenerator(HalvesGenerator):
    """Halves of every image; at the image that OVSEG_TEST_KILL names, death."""

    def propose(self, images):
        image_id, _, how = os.environ.get("OVSEG_TEST_KILL", "").partition(" ")
        if image_id in [image.image_id for image in images]:
            die(how)
        return super().propose(images)


def die(how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    raise {"memory": MemoryError, "interrupt": KeyboardInterrupt}[how]


def make():
    return DeadlyGenerator()


def png(index):
    """Two colours that tell this image from the others."""
    pixels = np.full((8, 16, 3), (250, 10, index), np.uint8)
    pixels[:, 8:] = (10, index, 250)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png")
    return sink.getvalue()


def write_shard(path, images):
    """A tar shard of captioned images 000, 001, …"""
    with tarfile.open(path, "w") as tar:
        for index in range(images):
            for name, data in (("png", png(index)), ("txt", CAPTIONS[index % len(CAPTIONS)].encode())):
                member = tarfile.TarInfo(f"{index:03d}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def arguments(shard, run, images_per_unit, *more):
    """The command that mines a shard."""
    units = ["--images-per-unit", str(images_per_unit)]
    return ["mine", "--captions", str(shard), *units, *MODELS, "--output", str(run), *more]


def command(*given):
    """The same as a process of its own."""
    return [sys.executable, __file__, *given]


def environment(kill=""):
    """Its environment."""
    places = os.pathsep.join(map(str, (Path(__file__).parent.parent, Path(__file__).parent)))
    return {**os.environ, "PYTHONPATH": places, "OVSEG_TEST_KILL": kill}


if __name__ == "__main__":
    use_fakes()
    sys.exit(main())
