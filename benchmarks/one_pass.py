"""Seconds to embed 100 masks of an image in one forward of CLIP, beside a crop a mask; and what becomes of scores.

    python -m benchmarks.one_pass --output docs/one_pass.md

Speed: ViT-B/16 with random weights, 100 ellipses on smooth noise of 480 x 640 px, one thread, ways in turns, medians of
CPU seconds. "crops" cuts and embeds 20 masks as `--scorer crops` does, scaled to 100; "one pass" does everything that
`--scorer one-pass` does, masks to patches included. Bars: 15 at 448 px, 40 at 224 px. First of all, with all blocks and
a mask of every patch, one pass must be the model's own forward to 1e-4, else the run fails.

Agreement: it is another scorer, so its speed says nothing by itself. On drawn scenes, with the CLIP that was trained on
them, each noun that a scene shows looks for its mask among the scene's masks: those of the truth, and Felzenszwalb's
proposals. "right": the best mask shows mostly the noun's class. "same best", "rank correlation" (Spearman's, over the
masks of a noun): beside crops of the same masks. "kept": nouns whose best crop is among the masks that a prefilter with
the best 1, 3 or 10 of any noun leaves, with the share of masks that it leaves. A CLIP trained on photographs alone has
not been measured, for want of weights here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.masked_regions import HEIGHT, PACKAGES, WIDTH
from benchmarks.pages import write_page
from benchmarks.results import note
from benchmarks.segmenter import draw_ellipses, draw_image
from benchmarks.timing import require, time_in_turns
from ovseg_model.class_embeddings import ClassEmbeddings, prompt_templates
from ovseg_model.clip import Clip, load_clip, resolve_clip
from ovseg_model.datasets.scene_check import object_masks, objects
from ovseg_model.datasets.scene_nouns import NAMES
from ovseg_model.datasets.scenes import Scene, draw_scene, numbers
from ovseg_model.one_pass import OnePassEncoder, OnePassOptions, encode_masks
from ovseg_model.proposals.felzenszwalb import Felzenszwalb, FelzenszwalbOptions
from ovseg_model.proposals.generator import ImageInput, MaskProposals
from ovseg_model.rank_agreement import MILLIONTHS, best_masks, rank_agreement
from ovseg_model.region_encoder import MaskEncoder, RegionEncoder
from ovseg_model.regions import RegionOptions
from ovseg_model.rle import decode_masks

REGIONS = RegionOptions()
BARS, GOALS = {224: 40.0, 448: 15.0}, {224: 64.0}
LARGEST_DIFFERENCE = 1e-4
SCENE_PX = 128
PREFILTERS = (1, 3, 10)

# Speed.


def check_is_clip(clip: Clip) -> None:
    """Ends the run where one pass through all blocks with all patches is not the model's own forward."""
    side = clip.image_size_px
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    visual = clip.model.visual
    everything = torch.ones(1, visual.grid_size[0] ** 2, dtype=torch.bool)
    with clip.inference():
        found = torch.cat(encode_masks(visual, images, [everything] * 2, len(visual.transformer.resblocks)))
        difference = float((found - visual(images)).abs().max())
    require(difference <= LARGEST_DIFFERENCE, f"one pass through all blocks is {difference:.1e} off the forward")


def measure_speed(clip: Clip, masks: int, crops: int, sizes: Sequence[int], repeats: int) -> Iterator[str]:
    """Checks, times, and yields the lines of the table. Exits where a bar is not held."""
    check_is_clip(clip)
    randoms = np.random.default_rng(0)
    image_HW3 = draw_image(randoms, HEIGHT, WIDTH)
    masks_NHW = draw_ellipses(randoms, masks, HEIGHT, WIDTH) > 0
    by_crops = partial(RegionEncoder(clip, REGIONS).embed, [(image_HW3, [masks_NHW[:crops]])])
    ways = {"crops": by_crops, "crops again": by_crops}
    for size in sizes:
        encoder = OnePassEncoder(clip, OnePassOptions(size_px=size), REGIONS)
        ways[f"one pass, {size} px"] = partial(encoder.embed, [(image_HW3, [masks_NHW])])
    times = time_in_turns(ways, repeats)
    yield f"| way | ms for {masks} masks, median of CPU | of wall | spread of wall | × |\n|---|---:|---:|---:|---:|"
    scaled = masks / crops
    baseline = scaled * times["crops"].cpu_median
    for name, each in times.items():
        factor = 1000 * (scaled if name.startswith("crops") else 1)
        label = f"{name} ({crops}, scaled)" if name.startswith("crops") else name
        ratio = baseline / (factor / 1000 * each.cpu_median)
        spread = f"{factor * min(each.wall):.0f} to {factor * max(each.wall):.0f}"
        yield f"| {label} | {factor * each.cpu_median:.0f} | {factor * each.wall_median:.0f} | {spread} | {ratio:.1f} |"
    for size in sizes:
        ratio = baseline / times[f"one pass, {size} px"].cpu_median
        note(
            f"one pass at {size} px", "a crop a mask", ratio, BARS.get(size), GOALS.get(size), "scaled; another scorer"
        )
        require(ratio >= BARS.get(size, 0), f"{size} px: wanted {BARS.get(size, 0):g}x crops or more, got {ratio:.1f}x")


# Agreement.


@dataclass(frozen=True)
class MaskedScene:
    """A drawn scene, masks of it, and what each shows."""

    scene: Scene
    masks_MHW: np.ndarray
    nouns: tuple[int, ...]
    """Classes that it shows, by position in NAMES."""

    shown_M: np.ndarray
    """Class that covers most of each mask."""


def scenes_with_masks(count: int, proposed: bool) -> list[MaskedScene]:
    """Test scenes with the masks of the truth, or with proposals; those of fewer than two masks are left out."""
    found = []
    for number in numbers("test", count):
        scene = draw_scene(number, SCENE_PX)
        masks_MHW = propose(scene) if proposed else object_masks(scene)
        nouns = tuple(sorted({NAMES.index(region.noun) for region in objects(scene)}))
        if len(masks_MHW) > 1:
            shown = [int(np.bincount(scene.labels_HW[mask_HW]).argmax()) for mask_HW in masks_MHW]
            found.append(MaskedScene(scene, masks_MHW, nouns, np.array(shown)))
    return found


def propose(scene: Scene) -> np.ndarray:
    """Felzenszwalb's masks, bool (M, H, W), as in `make demo`."""
    generator = Felzenszwalb(FelzenszwalbOptions(min_area_fraction=0.01))
    (found,) = generator.propose([ImageInput("scene", "", scene.image_HW3)])
    return decode_masks(found.masks) if isinstance(found, MaskProposals) else np.zeros((0, 1, 1), bool)


@dataclass
class Tally:
    """What a way of scoring did, summed over scenes."""

    nouns: int = 0
    right: int = 0
    same: int = 0
    correlation: float = 0.0
    masks: int = 0
    kept: dict[int, int] = field(default_factory=lambda: dict.fromkeys(PREFILTERS, 0))
    left: dict[int, int] = field(default_factory=lambda: dict.fromkeys(PREFILTERS, 0))

    def add(self, case: MaskedScene, cosines_NM: np.ndarray, reference_NM: np.ndarray) -> None:
        """Adds a scene: cosines of its nouns and masks by this way, and by crops."""
        best_N, wanted_N = cosines_NM.argmax(axis=1), reference_NM.argmax(axis=1)
        counts = rank_agreement(cosines_NM, reference_NM)
        self.nouns += len(case.nouns)
        self.right += int((case.shown_M[best_N] == np.array(case.nouns)).sum())
        self.same += counts["agreement_top1"]
        self.correlation += counts["agreement_spearman_millionths"] / MILLIONTHS
        self.masks += len(case.masks_MHW)
        for count in PREFILTERS:
            chosen = best_masks(cosines_NM, count)
            self.left[count] += len(chosen)
            self.kept[count] += int(np.isin(wanted_N, chosen).sum())

    def cells(self) -> str:
        """Table cells."""
        kept = " | ".join(f"{self.kept[m] / self.nouns:.0%} of {self.left[m] / self.masks:.0%}" for m in PREFILTERS)
        shares = f"{self.right / self.nouns:.1%} | {self.same / self.nouns:.1%} | {self.correlation / self.nouns:.2f}"
        return f"{shares} | {kept}"


def cosines(encoder: MaskEncoder, cases: Sequence[MaskedScene], names_KD: np.ndarray) -> list[np.ndarray]:
    """Cosines of the nouns and masks of each scene, (N, M)."""
    vectors = encoder.embed([(case.scene.image_HW3, [case.masks_MHW]) for case in cases])
    return [names_KD[list(case.nouns)] @ each.T for case, each in zip(cases, vectors, strict=True)]


def measure_agreement(clip: Clip, cases: Sequence[MaskedScene], ways: dict[str, OnePassOptions]) -> Iterator[str]:
    """Lines of the table."""
    names_KD = ClassEmbeddings(clip, prompt_templates("vild")).embed(NAMES)
    encoders: dict[str, MaskEncoder] = {"crops": RegionEncoder(clip, REGIONS)}
    encoders |= {name: OnePassEncoder(clip, options, REGIONS) for name, options in ways.items()}
    reference = cosines(encoders["crops"], cases, names_KD)
    header = " | ".join(f"kept by best {count}" for count in PREFILTERS)
    yield f"| way | right | same best | rank correlation | {header} |\n|---|---:|---:|---:|{'---:|' * len(PREFILTERS)}"
    for name, encoder in encoders.items():
        tally = Tally()
        for case, found, wanted in zip(cases, cosines(encoder, cases, names_KD), reference, strict=True):
            tally.add(case, found, wanted)
        yield f"| {name} | {tally.cells()} |"


def ways_of(clip: Clip, layers: Sequence[int]) -> dict[str, OnePassOptions]:
    """Settings of one pass that are compared, by name: input size, blocks, and share of a patch."""
    own, default = clip.image_size_px, OnePassOptions().patch_share
    named = {f"one pass, {own} px, last {count}": OnePassOptions(count) for count in layers}
    ends = (layers[0], layers[-1])
    named |= {f"one pass, {2 * own} px, last {count}": OnePassOptions(count, 2 * own) for count in ends}
    shares = [OnePassOptions(layers[-1], patch_share=share) for share in (0.0, 0.5)]
    named |= {
        f"one pass, {own} px, last {each.layers}, share {each.patch_share:g} (not {default:g})": each for each in shares
    }
    return named


def main() -> None:
    """Checks, times, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="ViT-B-16/random", help="whose speed is measured")
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--crops", type=int, default=20, help="masks that are cropped; scaled to all")
    parser.add_argument("--sizes", type=int, nargs="*", default=[224, 448], help="sides of the input in one pass, px")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way; the median counts")
    parser.add_argument("--scenes", type=int, default=40, help="drawn scenes")
    parser.add_argument("--output", type=Path, help="file for the Markdown page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clip = load_clip(resolve_clip(arguments.clip), image_batch=arguments.crops)
    sections = {f"Speed: {arguments.clip}": measure_speed(clip, *_speed(arguments))}
    scenes = load_clip(resolve_clip("scenes"))
    ways = ways_of(scenes, (1, 2, 3, 6))
    for title, proposed in {"masks of the truth": False, "Felzenszwalb's proposals": True}.items():
        cases = scenes_with_masks(arguments.scenes, proposed)
        masks = sum(len(case.masks_MHW) for case in cases)
        title = f"Agreement: {len(cases)} scenes of {SCENE_PX} px, {masks} {title}"
        sections[title] = measure_agreement(scenes, cases, ways)
    written = []
    for title, lines in sections.items():
        print(f"## {title}\n", flush=True)
        kept = []
        for line in lines:
            print(line, flush=True)
            kept.append(line)
        written.append(f"## {title}\n\n" + "\n".join(kept))
    if arguments.output:
        write_page(arguments.output, "All masks in one pass", __doc__, written, PACKAGES, torch.get_num_threads())


def _speed(arguments: argparse.Namespace) -> tuple[int, int, list[int], int]:
    return arguments.masks, arguments.crops, arguments.sizes, arguments.repeats


if __name__ == "__main__":
    main()
