"""A whole mining run of a few images beside the parts that one would put together without this project.

    NLTK_DATA=FOLDER python -m benchmarks.whole_run --output docs/whole_run_speed.md

"parts" is `pos_tag(word_tokenize(caption))` for nouns, SamAutomaticMaskGenerator for masks, for each mask a copy of the
image that is filled, cut and resized by PIL, one CLIP forward an image, and a text forward a noun at context 77. "ours"
is `ovseg mine --runner plain` from its options to its summary, tables and manifest written. Models are loaded before
the clock starts, on both sides; images are JPEGs of smooth noise, 480 x 640 px, on the disk. SAM is a ViT-B and CLIP a
ViT-B/16 with random weights: both take the time of trained ones. Masks are those that pass by predicted IoU and
stability (26 % and four fifths of them); none is suppressed, since random weights make the same few boxes again and
again.

Each way's first turn is also compared, before anything is said: the same nouns and number of masks an image, and of
every noun the best cosine within 2e-3: PIL's rounding alone moves cosines by 7e-4 here. With bf16 and all options nouns
must be equal, and cosines are told; the comparison with fp32 that a run makes once by itself is left out
(--no-compare-precision), since two images would pay for all of it. One pass is compared with crops on one image of the
two, as in every run. Further turns, if any, follow in order, and bars are on ratios of medians of CPU
seconds, 1.3 in fp32 and 2 in bf16 (wall seconds beside them). "all options" is bf16 and one pass in place of crops,
which is another scorer: docs/one_pass.md says how far it agrees. A run below a bar exits with 1 and writes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import tempfile
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import torch
from nltk import pos_tag, word_tokenize
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, build_sam_vit_b

from benchmarks import sam_everything
from benchmarks.masked_regions import PACKAGES
from benchmarks.masked_regions import usual as usual_regions
from benchmarks.pages import write_page
from benchmarks.results import note
from benchmarks.sam_everything import generator_of, loosened
from benchmarks.segmenter import draw_image
from benchmarks.timing import Times, require
from ovseg_model.clip import Clip, load_clip, resolve_clip
from ovseg_model.proposals import open_generator
from ovseg_model.scorer import open_scorer
from pipelines import mine_pairs
from pipelines.open_models import open_once
from pipelines.plan import plan_run

CLIP = "ViT-B-16/random"
CAPTIONS = ("A dog on the grass near a house.", "A red ball beside a fence under the sky.")
BARS = {"ours, fp32": 1.3, "ours, bf16": 2.0}
GOAL = 10
LARGEST_COSINE_DIFFERENCE = 2e-3
TEMPLATE = "a photo of a {}."

Scores = dict[str, dict[str, float]]
"""By image, the best cosine of every noun."""

BF16 = ("--precision", "bf16", "--mask-option", "precision=bf16")
UNCOMPARED = ("--no-compare-precision", "--mask-option", "compare_precision=false")
WAYS = {
    "ours, fp32": (),
    "ours, bf16": (*BF16, *UNCOMPARED),
    "ours, all options": (*BF16, *UNCOMPARED, "--scorer", "one-pass"),
}


@dataclass
class Case:
    """Images with captions, SAM's checkpoint and options, and what both sides have loaded."""

    folder: Path
    images: dict[str, str]
    """Caption by file name."""
    generator: SamAutomaticMaskGenerator
    mask_options: tuple[str, ...]
    clip: Clip
    threads: int

    def parts(self) -> tuple[Scores, dict[str, int]]:
        """Best cosines, and numbers of masks, by the usual parts."""
        scores, masks = {}, {}
        for name, caption in self.images.items():
            nouns = [word.lower() for word, tag in pos_tag(word_tokenize(caption)) if tag.startswith("NN")]
            image_HW3 = np.asarray(Image.open(self.folder / "images" / name).convert("RGB"))
            found = self.generator.generate(image_HW3)
            vectors_MD = self.embed_regions(image_HW3, np.stack([each["segmentation"] for each in found]))
            scores[name] = {noun: float((vectors_MD @ self.embed_noun(noun)).max()) for noun in nouns}
            masks[name] = len(found)
        return scores, masks

    def embed_regions(self, image_HW3: np.ndarray, masks_MHW: np.ndarray) -> torch.Tensor:
        """Unit vectors of an image's regions, one forward."""
        regions = usual_regions(image_HW3, masks_MHW, self.clip.image_size_px)
        with torch.inference_mode():
            return torch.nn.functional.normalize(self.clip.model.encode_image(regions), dim=-1)

    def embed_noun(self, noun: str) -> torch.Tensor:
        """Unit vector of one noun, one forward at the whole context."""
        with torch.inference_mode():
            features = self.clip.model.encode_text(self.clip._tokenizer([TEMPLATE.format(noun)]))
        return torch.nn.functional.normalize(features, dim=-1)[0]

    def arguments(self, way: str) -> list[str]:
        """The command of one of our ways."""
        inputs = ["--captions", str(self.folder / "images/captions.jsonl")]
        models = ["--masks", "sam", *self.mask_options, "--clip", CLIP, "--templates", "photo"]
        run = ["--output", str(self.folder / "run"), "--runner", "plain", "--torch-threads", str(self.threads)]
        return ["mine", *inputs, "--nouns", "nouns", *models, *run, *WAYS[way]]

    def load(self, way: str) -> None:
        """Opens the models of one of our ways, for all runs of this process."""
        options, _ = mine_pairs.parse(self.arguments(way))
        with contextlib.redirect_stderr(io.StringIO()):
            plan = plan_run(mine_pairs.MAKES["mine"], options)
        open_once(open_generator, plan.masks.generator)
        open_once(open_scorer, plan.pairs.scorer)
        shutil.rmtree(self.folder / "run")

    def mine(self, way: str) -> None:
        """One of our ways."""
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            mine_pairs.main(self.arguments(way))

    def mined(self) -> tuple[Scores, dict[str, int]]:
        """Best cosines, and numbers of masks, of the run that was made last."""
        scores: Scores = {name: {} for name in self.images}
        for row in ds.dataset(self.folder / "run/pairs").to_table(columns=["image_uri", "noun", "cosine"]).to_pylist():
            scores[Path(row["image_uri"]).name][row["noun"]] = row["cosine"]
        uris = ds.dataset(self.folder / "run/masks").to_table(columns=["image_uri"])["image_uri"].to_pylist()
        return scores, dict(Counter(Path(uri).name for uri in uris))


def open_case(folder: Path, images: int, points_per_side: int, threads: int) -> Case:
    """Draws and writes images and captions, and SAM's weights as a checkpoint."""
    names = {f"{number:03d}.jpg": CAPTIONS[number % len(CAPTIONS)] for number in range(images)}
    (folder / "images").mkdir()
    for number, name in enumerate(names):
        pixels = draw_image(np.random.default_rng(number), 480, 640)
        Image.fromarray(pixels).save(folder / "images" / name, quality=95)
    records = [json.dumps({"image": name, "caption": text}) for name, text in names.items()]
    (folder / "images/captions.jsonl").write_text("\n".join(records))
    torch.manual_seed(0)
    sam = sam_everything.open_case(build_sam_vit_b(), points_per_side)
    options = loosened(sam.options)
    sam.sam.image_encoder = sam.encoder
    torch.save(sam.sam.state_dict(), folder / "sam.pth")
    kept = ("points_per_side", "pred_iou_thresh", "stability_score_thresh", "box_nms_thresh")
    chosen = [f"checkpoint={folder / 'sam.pth'}", *(f"{name}={getattr(options, name)!r}" for name in kept)]
    mask_options = tuple(word for each in chosen for word in ("--mask-option", each))
    clip = load_clip(resolve_clip(CLIP), "cpu", "fp32")
    generator = generator_of(sam.sam, options)
    generator.output_mode = "binary_mask"
    return Case(folder, names, generator, mask_options, clip, threads)


def largest_difference(ones: Scores, others: Scores) -> float:
    """Between best cosines of the same nouns. Exits where the nouns differ."""
    for name, nouns in ones.items():
        require(set(nouns) == set(others[name]), f"{name}: nouns {sorted(nouns)} and {sorted(others[name])} differ")
    return max(abs(cosine - others[name][noun]) for name, nouns in ones.items() for noun, cosine in nouns.items())


def first_turn(case: Case) -> tuple[dict[str, Times], list[str]]:
    """Runs and times every way once; lines of what was compared. Exits where results differ."""
    times = {name: Times() for name in ("parts", *WAYS)}
    made: list[tuple[Scores, dict[str, int]]] = []
    times["parts"].run(lambda: made.append(case.parts()))
    ((scores, masks),) = made
    lines = [f"{sum(masks.values())} masks and {sum(map(len, scores.values()))} nouns in {len(masks)} images"]
    for way in WAYS:
        case.load(way)
        times[way].run(partial(case.mine, way))
        found, found_masks = case.mined()
        difference = largest_difference(scores, found)
        if way == "ours, fp32":
            require(found_masks == masks, f"{way}: {found_masks} masks, the parts make {masks}")
            require(difference <= LARGEST_COSINE_DIFFERENCE, f"{way}: best cosines differ by {difference:.1e}")
        lines.append(f"{way}: {sum(found_masks.values())} masks, best cosines differ by {difference:.1e} at most")
    return times, lines


def measure(case: Case, repeats: int) -> tuple[str, dict[str, float]]:
    """The Markdown section, and how many times as much CPU as each of our ways the parts take."""
    times, checked = first_turn(case)
    for _ in range(repeats - 1):
        times["parts"].run(case.parts)
        for way in WAYS:
            times[way].run(partial(case.mine, way))
    cpu = {name: each.cpu_median for name, each in times.items()}
    lines = ["| way | CPU s, median | least to most | wall s, median | times as fast, CPU | wall |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, each in times.items():
        spread = f"{min(each.cpu):.1f} to {max(each.cpu):.1f}"
        ratios = f"{cpu['parts'] / cpu[name]:.2f} | {times['parts'].wall_median / each.wall_median:.2f}"
        lines.append(f"| {name} | {cpu[name]:.1f} | {spread} | {each.wall_median:.1f} | {ratios} |")
    readings = "one turn: a single reading" if repeats == 1 else f"medians of {repeats} turns"
    note = f"{readings}; {'; '.join(checked)}. Goal with all options: {GOAL}."
    return "\n\n".join(["\n".join(lines), textwrap.fill(note, 120)]), {way: cpu["parts"] / cpu[way] for way in WAYS}


def main(argv: Sequence[str] | None = None) -> None:
    """Checks, times, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--points-per-side", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way; the median counts")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--output", type=Path, help="file for the Markdown page")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        section, ratios = measure(
            open_case(Path(folder), given.images, given.points_per_side, given.threads), given.repeats
        )
    print(section)
    remark = "one reading" if given.repeats == 1 else ""
    for way, ratio in ratios.items():
        note(f"whole run, {way}", "parts put together", ratio, BARS.get(way), None if way in BARS else GOAL, remark)
    for way, bar in BARS.items():
        require(ratios[way] >= bar, f"{way}: wanted {bar}x the parts or more, got {ratios[way]:.2f}x")
    if given.output:
        write_page(given.output, "Speed of a whole run", __doc__, [section], PACKAGES, given.threads)


if __name__ == "__main__":
    main()
