"""SAM's everything-mode and its post-processing, beside segment-anything's SamAutomaticMaskGenerator.

    python -m benchmarks.sam_everything --output docs/sam_speed.md
    python -m benchmarks.sam_everything --quick
    python -m benchmarks.sam_everything --only everything --points-per-side 32

Everything-mode: a ViT-B with random weights, the last layer of its mask heads enlarged so that masks have borders, an
image of smooth noise, a grid of 8 x 8 points (`--points-per-side`). `pred_iou_thresh` is the quantile that lets 26 % of
masks pass. The encoder, which takes the same time however many points are asked, is timed apart; the rest starts with
the embedding of segment-anything's encoder (bf16: of its own), from which ours may differ by 1e-4. A way's time is the
sum of the two.

Post-processing: the small logits of 1,024 points (`--quick`: 64), three masks each, are blobs about their point with
wavy borders; predicted IoUs are drawn so that 26 % pass. segment-anything's side is `_process_crop` with a predictor
that has its logits already: enlarging, filters, boxes, run lengths, and non-maximum suppression.

Equality comes first: the same kept masks in the same order, each IoU 0.9999 or more, scores to 1e-4 (post-processing:
equal RLEs), once with suppression and once without, so that every mask that passes is compared. Then ways are timed in
turns, on one thread, since threads that wait for each other on a busy machine measure that. Figures are medians. The
bars are on ratios of CPU seconds, in which other programs take no part; wall seconds stand beside, and lie far above
them where cores were shared. The usual way against itself, odd turns against even ones, says how much of a ratio may
be noise. A run below a bar exits with 1 and writes nothing. bf16 has no bar; its agreement with fp32 is printed,
and random weights make it look worse than trained ones, whose logits lie further from 0.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, build_sam_vit_b
from segment_anything.modeling import Sam
from segment_anything.utils.amg import coco_encode_rle
from segment_anything.utils.transforms import ResizeLongestSide

from benchmarks.pages import write_page
from benchmarks.results import note
from benchmarks.segmenter import draw_image
from benchmarks.timing import Times, require, time_in_turns
from ovseg_model.proposals import sam_postprocess as post
from ovseg_model.proposals.generator import MaskProposals
from ovseg_model.proposals.sam import SamOptions
from ovseg_model.proposals.sam_agreement import agreement, prompt_agreement
from ovseg_model.proposals.sam_encoder import FastViT
from ovseg_model.proposals.sam_everything import DTYPES, SamModel, everything, whole
from ovseg_model.proposals.sam_postprocess import Candidates, Frame, KeptMasks
from ovseg_model.rle import iou_matrix

HEIGHT, WIDTH = 480, 640
POINTS_PER_SIDE = 8
PACKAGES = ("numpy", "torch", "torchvision", "segment-anything", "pycocotools")
PASS_RATE = 0.26
POINTS_PER_BATCH = 64
EVERYTHING_BAR, POST_BAR = 1.4, 2.5
LEAST_IOU, LARGEST_SCORE_DIFFERENCE = 0.9999, 1e-4
LOGIT_DEVIATION = 5.0
MASKS_A_POINT = 3
LINE = 120
CELLS = 256
SLOPE = 5.0
"""Of blobs' logits, a cell: two thirds of them are as stable as segment-anything wants masks."""

Masks = list[dict]


class Remembered(torch.nn.Module):
    """An encoder that has its embedding already."""

    def __init__(self, img_size: int) -> None:
        """img_size: side of the square that it would read."""
        super().__init__()
        self.img_size = img_size
        self.embedding: torch.Tensor | None = None

    def forward(self, pixels_B3SS: torch.Tensor) -> torch.Tensor:
        """The embedding, whatever is asked."""
        return self.embedding


# Everything-mode.


@dataclass
class Case:
    """A SAM whose encoder is apart, an image, and thresholds."""

    sam: Sam
    encoder: torch.nn.Module
    image_HW3: np.ndarray
    pixels_13SS: torch.Tensor
    """What the encoder reads."""
    options: SamOptions
    encoding: Times
    """Of the usual encoder, so far."""

    def without_suppression(self) -> Case:
        """The same, every mask kept that passes."""
        return replace(self, options=loosened(self.options))

    def encode(self, encoder: torch.nn.Module, times: Times) -> torch.Tensor:
        """The image's embedding, timed."""
        found = []
        with torch.inference_mode():
            times.run(lambda: found.append(encoder(self.pixels_13SS)))
        return found[0]

    def usual(self) -> Masks:
        """Records of segment-anything, from the embedding on."""
        return generator_of(self.sam, self.options).generate(self.image_HW3)

    def model(self, precision: str) -> SamModel:
        """Ours, from the embedding on."""
        return SamModel(copy.deepcopy(self.sam), precision=precision)

    def ours(self, model: SamModel) -> KeptMasks:
        """Masks of ours."""
        return everything(model, [self.image_HW3], self.options)[0]


def loosened(options: SamOptions) -> SamOptions:
    """Options by which nothing is a duplicate."""
    return SamOptions(**{**vars(options), "box_nms_thresh": 1.0})


def generator_of(sam: Sam, options: SamOptions) -> SamAutomaticMaskGenerator:
    """segment-anything's generator of these options."""
    names = ("points_per_side", "pred_iou_thresh", "stability_score_thresh", "stability_score_offset", "box_nms_thresh")
    given = {name: getattr(options, name) for name in names}
    return SamAutomaticMaskGenerator(sam, points_per_batch=POINTS_PER_BATCH, output_mode="coco_rle", **given)


def open_case(sam: Sam, points_per_side: int, height: int = HEIGHT, width: int = WIDTH) -> Case:
    """Encodes an image, sets the masks' borders and the thresholds."""
    sam = sam.eval().requires_grad_(False)
    encoder, image_HW3 = sam.image_encoder, draw_image(np.random.default_rng(0), height, width)
    read_3HW = torch.from_numpy(ResizeLongestSide(encoder.img_size).apply_image(image_HW3)).permute(2, 0, 1)
    pixels_13SS = sam.preprocess(read_3HW)[None]
    sam.image_encoder = Remembered(encoder.img_size)
    everything_passes = SamOptions(
        "none", points_per_side=points_per_side, pred_iou_thresh=0.0, stability_score_thresh=0.0
    )
    case = Case(sam, encoder, image_HW3, pixels_13SS, loosened(everything_passes), Times())
    sam.image_encoder.embedding = case.encode(encoder, case.encoding)
    give_masks_borders(case)
    found = case.ours(case.model("fp32"))
    passing = float(np.quantile(found.predicted_iou, 1 - PASS_RATE))
    stability = float(np.nanquantile(found.stability, 0.2))
    options = {"pred_iou_thresh": passing, "stability_score_thresh": stability, "box_nms_thresh": 0.7}
    case.options = SamOptions(**{**vars(everything_passes), **options})
    return case


def give_masks_borders(case: Case) -> None:
    """Makes a random decoder's logits as large as a trained one's, and its predicted IoUs positive."""
    decoder = case.sam.mask_decoder
    decoder.iou_prediction_head.layers[-1].bias += 0.5
    model = case.model("fp32")
    side = model.embed([case.image_HW3], rows=1)
    decoded = model.decode(side, model.decoder.point_tokens(torch.full((1, 1, 2), 100.0)))
    frame = model.frame(whole(case.image_HW3), case.image_HW3.shape[:2])
    deviation = model.mask_logits(decoded, torch.tensor([0]), slice(None), frame).std()
    for head in decoder.output_hypernetworks_mlps:
        head.layers[-1].weight *= LOGIT_DEVIATION / deviation
        head.layers[-1].bias *= LOGIT_DEVIATION / deviation


def check_masks(theirs: Masks, ours: KeptMasks) -> str:
    """A sentence on what was compared. Exits where the masks differ."""
    require(
        len(theirs) == len(ours.masks), f"{len(theirs)} masks are kept by segment-anything, {len(ours.masks)} by ours"
    )
    require(bool(theirs), "no mask is kept: nothing is compared")
    pairs = zip(theirs, ours.masks, strict=True)
    ious = [iou_matrix([their["segmentation"]], [mask])[0, 0] if their["area"] else 1.0 for their, mask in pairs]
    require(min(ious) >= LEAST_IOU, f"masks have an IoU of {min(ious):.6f} only")
    difference = max(
        largest_difference([their[name] for their in theirs], scores)
        for name, scores in (("predicted_iou", ours.predicted_iou), ("stability_score", ours.stability))
    )
    require(difference <= LARGEST_SCORE_DIFFERENCE, f"scores differ by {difference:.1e}")
    return f"{len(theirs)} masks: IoU {min(ious):.6f} at least, scores differ by {difference:.1e} at most"


def largest_difference(ones: Sequence[float], others: Sequence[float]) -> float:
    """Of two lists of scores; NaN (an empty mask's stability) equals NaN."""
    ones, others = np.nan_to_num(ones, nan=-1), np.nan_to_num(others, nan=-1)
    return float(np.abs(ones - others).max(initial=0))


def against_itself(times: Times) -> float:
    """Odd turns' median over that of even ones, CPU seconds; 1 for a single turn."""
    return statistics.median(times.cpu[::2]) / statistics.median(times.cpu[1::2] or times.cpu)


def measure_everything(case: Case, repeats: int, encoder_repeats: int) -> tuple[str, float]:
    """The Markdown section, and how many times as long as ours segment-anything takes."""
    every = case.without_suppression()
    full, half = case.model("fp32"), case.model("bf16")
    encoders = {"segment-anything": case.encoder} | {
        f"ours, {precision}": FastViT(copy.deepcopy(case.encoder), DTYPES[precision]) for precision in ("fp32", "bf16")
    }
    encoding = {name: Times() for name in encoders} | {"segment-anything": case.encoding}
    embeddings = {name: case.encode(encoders[name], encoding[name]) for name in ("ours, fp32", "ours, bf16")}
    half._encoder._encoder.embedding = embeddings["ours, bf16"]
    difference = (embeddings["ours, fp32"] - case.sam.image_encoder.embedding).abs().max().item()
    require(difference <= LARGEST_SCORE_DIFFERENCE, f"embeddings differ by {difference:.1e}")
    checked = [check_masks(case.usual(), case.ours(full)), check_masks(every.usual(), every.ours(full))]
    for _ in range(encoder_repeats - 1):
        for name, encoder in encoders.items():
            case.encode(encoder, encoding[name])
    ways = {
        "segment-anything": case.usual,
        "ours, fp32": lambda: case.ours(full),
        "ours, bf16": lambda: case.ours(half),
    }
    rest = time_in_turns(ways, repeats, is_warm=True)
    half_agrees = [
        agreement([proposals(every.ours(full))], [proposals(every.ours(half))]),
        prompt_agreement(full, half, case.image_HW3, case.options.points_per_side),
    ]
    text, ratio = everything_table(encoding, rest)
    points = case.options.points_per_side
    height, width = case.image_HW3.shape[:2]
    title = f"## Everything-mode: {points} x {points} points, {height} x {width} px, bar {EVERYTHING_BAR} in fp32"
    facts = (
        f"With suppression {checked[0]}; without, {checked[1]}; embeddings differ by {difference:.1e} at most. bf16 "
        f"beside fp32: {half_agrees[1]}; of the masks that pass, {half_agrees[0]}."
    )
    return "\n\n".join([title, textwrap.fill(facts, LINE), text]), ratio


def proposals(kept: KeptMasks) -> MaskProposals:
    """Kept masks as a generator returns them."""
    return MaskProposals(kept.masks, kept.predicted_iou, kept.stability)


def everything_table(encoding: dict[str, Times], rest: dict[str, Times]) -> tuple[str, float]:
    """The table of a way's parts, and the ratio that the bar is on."""
    encoders, others = ({name: each.cpu_median for name, each in times.items()} for times in (encoding, rest))
    whole_cpu = {name: encoders[name] + others[name] for name in encoding}
    whole_wall = {name: encoding[name].wall_median + rest[name].wall_median for name in encoding}
    usual = "segment-anything"
    lines = [
        "| way | encoder, CPU s | its share | after it, CPU s | whole, CPU s | wall s | times as fast, CPU | wall |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in encoding:
        shares = f"{encoders[name]:.2f} | {encoders[name] / whole_cpu[name]:.0%} | {others[name]:.2f}"
        ratios = f"{whole_cpu[usual] / whole_cpu[name]:.2f} | {whole_wall[usual] / whole_wall[name]:.2f}"
        lines.append(f"| {name} | {shares} | {whole_cpu[name]:.2f} | {whole_wall[name]:.2f} | {ratios} |")
    parts = "; ".join(
        f"{name}: the encoder {encoders[usual] / encoders[name]:.2f}x, all after it {others[usual] / others[name]:.2f}x"
        for name in ("ours, fp32", "ours, bf16")
    )
    against = "SamAutomaticMaskGenerator"
    note("everything-mode, fp32", against, whole_cpu[usual] / whole_cpu["ours, fp32"], EVERYTHING_BAR, 1.6)
    note("everything-mode, bf16", against, whole_cpu[usual] / whole_cpu["ours, bf16"], None, 2.5, "masks agree nearly")
    turns = len(encoding[usual].wall)
    said = (
        f"{parts}, by CPU seconds. The usual way after the encoder against itself: {against_itself(rest[usual]):.2f}x. "
        f"Encoders were timed {'once' if turns == 1 else f'{turns} times'}, the rest {len(rest[usual].wall)} times."
    )
    return "\n".join([*lines, "", textwrap.fill(said, LINE)]), whole_cpu[usual] / whole_cpu["ours, fp32"]


# Post-processing.


@dataclass
class Recorded:
    """A predictor that has its logits already, as `SamAutomaticMaskGenerator._process_crop` uses one."""

    sam: Sam
    logits_PMhw: torch.Tensor
    iou_PM: torch.Tensor
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.model = SimpleNamespace(mask_threshold=post.MASK_THRESHOLD)
        self.transform = ResizeLongestSide(self.sam.image_encoder.img_size)

    def set_image(self, image_HW3: np.ndarray) -> None:
        """Begins with the first point."""
        self.size = image_HW3.shape[:2]
        self.input_size = self.transform.get_preprocess_shape(*self.size, self.transform.target_length)
        self.at = 0

    def reset_image(self) -> None:
        """Nothing is held."""

    def predict_torch(self, points: torch.Tensor, *labels: object, **options: object) -> tuple:
        """What was recorded of the next points, enlarged as the real one does it."""
        part = slice(self.at, self.at + len(points))
        self.at = part.stop
        masks = self.sam.postprocess_masks(self.logits_PMhw[part], self.input_size, self.size)
        return masks, self.iou_PM[part], None


@dataclass
class PostCase:
    """Recorded logits and the two ways."""

    sam: Sam
    logits_PMhw: torch.Tensor
    iou_PM: torch.Tensor
    size: tuple[int, int]
    options: SamOptions

    def usual(self) -> tuple[Masks, torch.Tensor]:
        """RLEs and boxes of segment-anything."""
        generator = generator_of(self.sam, self.options)
        generator.predictor = Recorded(self.sam, self.logits_PMhw, self.iou_PM)
        image_HW3 = np.zeros((*self.size, 3), np.uint8)
        with torch.inference_mode():
            data = generator._process_crop(image_HW3, [0, 0, *self.size[::-1]], 0, self.size)
            return [coco_encode_rle(rle) for rle in data["rles"]], data["iou_preds"]

    def ours(self) -> KeptMasks:
        """Ours."""
        side_px = self.sam.image_encoder.img_size
        input_size = ResizeLongestSide(side_px).get_preprocess_shape(*self.size, side_px)
        frame = Frame(side_px, input_size, (0, 0, *self.size[::-1]), self.size)
        cells = self.logits_PMhw.shape[-1]
        with torch.inference_mode():
            parts = [
                self._candidates(*batch, frame, cells)
                for batch in zip(
                    self.logits_PMhw.split(POINTS_PER_BATCH), self.iou_PM.split(POINTS_PER_BATCH), strict=True
                )
            ]
            return post.finish([(frame, post.distinct(post.joined(parts), self.options))], cells, self.options)

    def _candidates(self, logits_PMhw: torch.Tensor, iou_PM: torch.Tensor, frame: Frame, cells: int) -> Candidates:
        passes_PM = post.passing(iou_PM, self.options)
        return post.measure(logits_PMhw[passes_PM], iou_PM[passes_PM], frame, cells, self.options)


def open_post_case(points_per_side: int, size: tuple[int, int] = (HEIGHT, WIDTH), cells: int = CELLS) -> PostCase:
    """Draws blobs about a grid of points, and predicted IoUs of which 26 % pass."""
    options = SamOptions("none", points_per_side=points_per_side)
    randoms = np.random.default_rng(0)
    count = points_per_side**2
    iou = randoms.permutation((np.arange(MASKS_A_POINT * count) + 0.5) / (MASKS_A_POINT * count))
    iou = options.pred_iou_thresh + (1 - options.pred_iou_thresh) * (iou - 1 + PASS_RATE) / PASS_RATE
    sam = SimpleSam(4 * cells)
    logits = draw_blobs(randoms, points_per_side, size, cells)
    return PostCase(sam, logits, torch.from_numpy(iou).float().reshape(count, MASKS_A_POINT), size, options)


class SimpleSam(Sam):
    """Nothing but what enlarges masks."""

    def __init__(self, img_size: int) -> None:
        """img_size: side of the square that the encoder would read."""
        torch.nn.Module.__init__(self)
        self.image_encoder = Remembered(img_size)
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1), False)


def draw_blobs(randoms: np.random.Generator, points_per_side: int, size: tuple[int, int], cells: int) -> torch.Tensor:
    """Logits that fall from 20 about a point to -20 beyond a wavy border, float32 (P, M, cells, cells)."""
    used = np.array(size) / max(size) * cells
    centres = [(y, x) for y in range(points_per_side) for x in range(points_per_side)]
    waves = torch.nn.functional.interpolate(
        torch.from_numpy(randoms.standard_normal((8, 1, 24, 24))).float(), (cells, cells), mode="bicubic"
    )[:, 0]
    y_h, x_w = torch.arange(cells)[:, None], torch.arange(cells)
    logits = torch.empty(len(centres), MASKS_A_POINT, cells, cells)
    for of_point, centre in zip(logits, centres, strict=True):
        y, x = (np.array(centre) + 0.5) / points_per_side * used
        distance = ((y_h - y) ** 2 + (x_w - x) ** 2).sqrt()
        for mask in of_point:
            radius = randoms.uniform(0.02, 0.3) * cells
            mask.copy_(SLOPE * (radius - distance) + 4 * waves[randoms.integers(len(waves))])
    return logits.clamp_(-20, 20)


def measure_post(case: PostCase, repeats: int) -> tuple[str, float]:
    """The Markdown section, and how many times as long as ours segment-anything takes."""
    every = PostCase(case.sam, case.logits_PMhw, case.iou_PM, case.size, loosened(case.options))
    compared = []
    for each in (case, every):
        (rles, ious), found = each.usual(), each.ours()
        require(found.masks == rles, "the RLEs differ")
        require(bool(rles), "no mask is kept: nothing is compared")
        require(found.predicted_iou == ious.tolist(), "predicted IoUs differ")
        compared.append(len(rles))
    times = time_in_turns({"segment-anything": case.usual, "ours": case.ours}, repeats, is_warm=True)
    usual = times["segment-anything"]
    height, width = case.size
    lines = [
        f"## Post-processing: {len(case.iou_PM):,} points, {MASKS_A_POINT} masks each, {height} x {width} px, bar "
        f"{POST_BAR}\n",
        f"Equal RLEs of {compared[0]} masks, and of {compared[1]} without suppression; {PASS_RATE:.0%} of "
        f"{case.iou_PM.numel():,} pass by predicted IoU.\n",
        "| way | wall ms, median | spread | CPU ms | times as fast, CPU | wall |\n|---|---:|---:|---:|---:|---:|",
    ]
    for name, each in times.items():
        ratios = f"{usual.cpu_median / each.cpu_median:.2f} | {usual.wall_median / each.wall_median:.2f}"
        lines.append(f"| {name} | {each.cells()} | {ratios} |")
    lines.append(f"\nThe usual way against itself: {against_itself(usual):.2f}x.")
    return "\n".join(lines), usual.cpu_median / times["ours"].cpu_median


def main() -> None:
    """Checks, times, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 points of post-processing, the encoder timed once")
    parser.add_argument("--only", choices=("everything", "post"), help="one of the two")
    parser.add_argument("--points-per-side", type=int, default=POINTS_PER_SIDE, help="of everything-mode's grid")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way; the median counts")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--output", type=Path, help="file for the Markdown page")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    sections, failures = [], []
    if arguments.only != "post":
        case = open_case(build_sam_vit_b(), arguments.points_per_side)
        section, ratio = measure_everything(case, arguments.repeats, 1 if arguments.quick else arguments.repeats)
        report(section, ratio, EVERYTHING_BAR, sections, failures)
    if arguments.only != "everything":
        section, ratio = measure_post(open_post_case(8 if arguments.quick else 32), arguments.repeats)
        note("post-processing of masks", "_process_batch and NMS", ratio, POST_BAR, 3.3)
        report(section, ratio, POST_BAR, sections, failures)
    require(not failures, "; ".join(failures))
    if arguments.output:
        title, threads = "Speed of SAM's everything-mode", torch.get_num_threads()
        write_page(arguments.output, title, __doc__, sections, PACKAGES, threads)


def report(section: str, ratio: float, bar: float, sections: list[str], failures: list[str]) -> None:
    """Prints a section and notes a ratio below its bar."""
    print(section, "\n", flush=True)
    sections.append(section)
    if ratio < bar:
        failures.append(f"wanted {bar}x segment-anything or more, got {ratio:.2f}x")


if __name__ == "__main__":
    main()
