"""Samples a second of the training loader beside a plain torch Dataset and Hugging Face `datasets`.

    python -m benchmarks.loader --rows 20000 --images 2000

writes PAIRS with stored crops and the images beside them, and prints a Markdown table. Every way reads the same rows,
shuffled, by the same number of workers, in turns within one run; a figure is the median of `--repeats` epochs. Without
workers it counts CPU-seconds of one process, which others on the machine do not change; with workers, seconds after
their first sample.
"bytes" ends at a row's crop, noun and mask as stored; "regions" at the batch that a model takes, without augmentation.
First every way's multiset of (pair_id, bytes) is compared: a difference fails the run. The plain Dataset holds all of
the table in memory, which is neither counted nor possible for a large one; ours opens and checks its files each epoch.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ovseg_model.fetch_options import FetchOptions
from ovseg_model.images import decode_image
from ovseg_model.pair_batches import BatchOptions, PairSelection, open_pairs, pair_batches
from ovseg_model.pair_order import EpochOrder, batch_count, batch_positions
from ovseg_model.pair_reader import RowReader
from ovseg_model.region_augmentation import region_item
from ovseg_model.regions import RegionOptions, fill_colour
from ovseg_model.rle import decode_masks, encode_masks
from pipelines.match_regions import crop_png, pair_id
from pipelines.write_tables import parquet_bytes
from schemas import PAIRS, conform_rows
from schemas.examples import example_rows

ROWS_PER_PART = 2000
IMAGE_PX = 320
NOUNS = 200
WANTED = ("pair_id", "noun", "mask", "box_xywh_px", "crop_png")
"""The columns that every way reads."""

Sample = tuple[str, bytes]
Way = Callable[[], Iterator[Sample]]


def write_pairs(folder: Path, rows: int, images: int) -> None:
    """PAIRS of drawn noise: crops that PNG cannot shrink much, some 20 to 60 KB, as photographs are."""
    per_image = -(-rows // images)
    written: list[dict] = []
    for number in range(images):
        written += image_rows(folder, number, min(per_image, rows - number * per_image))
    for part, start in enumerate(range(0, len(written), ROWS_PER_PART)):
        table = conform_rows(written[start : start + ROWS_PER_PART], PAIRS)
        (folder / f"part-{part:05d}.parquet").write_bytes(parquet_bytes(table, PAIRS, {}))


def image_rows(folder: Path, number: int, count: int) -> Iterator[dict]:
    """The rows of one image, which is written as JPEG; pixels are smooth with noise."""
    randoms = np.random.default_rng(number)
    small = Image.fromarray(randoms.integers(0, 256, (20, 20, 3), np.uint8))
    smooth = np.asarray(small.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC), np.int16)
    pixels = (smooth + randoms.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "jpeg", quality=92)
    path = folder / f"{number:06d}.jpg"
    path.write_bytes(sink.getvalue())
    decoded = decode_image(sink.getvalue(), FetchOptions())
    for row in example_rows(PAIRS, max(count, 0), seed=number).to_pylist():
        x, y = randoms.integers(0, IMAGE_PX // 2, 2).tolist()
        width, height = randoms.integers(40, IMAGE_PX // 2, 2).tolist()
        grid_y, grid_x = np.mgrid[:IMAGE_PX, :IMAGE_PX]
        centre_y, centre_x = y + (height - 1) / 2, x + (width - 1) / 2
        ellipse = ((grid_y - centre_y) / (height / 2)) ** 2 + ((grid_x - centre_x) / (width / 2)) ** 2 <= 1
        ys, xs = np.nonzero(ellipse)
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        row |= {"image_id": path.stem, "image_uri": str(path), "height": IMAGE_PX, "width": IMAGE_PX}
        row |= {"image_sha256": hashlib.sha256(sink.getvalue()).hexdigest(), "mask": encode_masks(ellipse[None])[0]}
        row |= {"box_xywh_px": box, "area_px": int(ellipse.sum()), "noun": f"noun {randoms.integers(NOUNS)}"}
        row |= {"crop_png": crop_png(decoded, box), "pair_id": pair_id(row["image_sha256"], row["mask"], row["noun"])}
        yield row


def decoded_region(row: dict, options: BatchOptions) -> np.ndarray:
    """What the plain ways make of a row, with the project's own functions: uint8 (3, S, S)."""
    x, y, width, height = row["box_xywh_px"]
    crop_HW3 = np.asarray(Image.open(io.BytesIO(row["crop_png"])).convert("RGB"))
    mask_HW = decode_masks([row["mask"]])[0][y : y + height, x : x + width]
    fill = fill_colour(options.mean, options.region)
    region_3SS, _ = region_item(crop_HW3, mask_HW, options.size_px, fill, RegionOptions())
    return region_3SS.round().clamp(0, 255).byte().numpy()


class PlainRows:
    """A map-style torch Dataset as one writes it first: the table in memory, one row a call."""

    def __init__(self, files: tuple[str, ...], options: BatchOptions | None) -> None:
        """`options` to decode, None for bytes only."""
        self.table = pa.concat_tables([pq.read_table(name, columns=list(WANTED)) for name in files]).combine_chunks()
        self.options = options

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int) -> Sample:
        return as_sample(self.table.slice(index, 1).to_pylist()[0], self.options)


class HuggingFaceRows:
    """`datasets` over the same files, memory-mapped, one row a call."""

    def __init__(self, files: tuple[str, ...], options: BatchOptions | None, cache: str) -> None:
        """`options` to decode, None for bytes only."""
        from datasets import load_dataset

        whole = load_dataset("parquet", data_files=list(files), split="train", cache_dir=cache, columns=list(WANTED))
        self.rows = whole
        self.options = options

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return as_sample(self.rows[index], self.options)


def as_sample(row: dict, options: BatchOptions | None) -> Sample:
    """pair_id, and the stored crop or the bytes of the region."""
    return row["pair_id"], row["crop_png"] if options is None else decoded_region(row, options).tobytes()


def map_style(rows: PlainRows | HuggingFaceRows, workers: int) -> Way:
    """An epoch through torch's DataLoader, shuffled."""

    def epoch() -> Iterator[Sample]:
        import torch
        from torch.utils.data import DataLoader

        options = {"num_workers": workers, "collate_fn": list, "generator": torch.Generator().manual_seed(0)}
        for batch in DataLoader(rows, BatchOptions().batch_size, shuffle=True, **options):
            yield from batch

    return epoch


def our_bytes(selection: PairSelection, options: BatchOptions) -> Iterator[Sample]:
    """The loader's order and reading without its pixels; in one process, as the others do it with 0 workers."""
    reader = RowReader(selection, WANTED)
    order = EpochOrder([len(group.rows_N) for group in selection.groups], options.seed, 0, options.window_rows)
    for index in range(batch_count(len(order), options.batch_size, drop_last=False)):
        positions_N = batch_positions(order, options.batch_size, index)
        reader.forget_before(int(order.windows(positions_N).min()))
        for row in reader.read(order, positions_N):
            yield row["pair_id"], row["crop_png"]


def our_regions(selection: PairSelection, options: BatchOptions, workers: int) -> Iterator[Sample]:
    """The loader as the trainer calls it."""
    for batch in pair_batches(selection, options, workers=workers):
        yield from zip(batch.pair_ids, batch.regions_B3SS, strict=True)


def content(samples: Iterator[Sample]) -> Counter:
    """The multiset of (pair_id, sha256 of the bytes)."""
    return Counter(
        (id_, hashlib.sha256(data if isinstance(data, bytes) else data.numpy().tobytes()).hexdigest())
        for id_, data in samples
    )


def check_equal(ways: dict[str, Way]) -> None:
    """Stops the benchmark when two ways do not read the same."""
    contents = {name: content(way()) for name, way in ways.items()}
    first, *others = contents
    for name in others:
        if contents[name] != contents[first]:
            sys.exit(f"benchmark failed: {name} and {first} read other samples")


def time_ways(ways: dict[str, Way], repeats: int, workers: int = 0) -> dict[str, list[float]]:
    """Samples a second of each way, in turns; a CPU-second where there are no workers.

    Workers are timed from their first sample on: they live as long as training does, and start once.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            rates[name].append(rate_after_start(way) if workers else rate_of_process(way))
    return rates


def rate_of_process(way: Way) -> float:
    """Samples a CPU-second of this process."""
    start = time.process_time()
    return sum(1 for _ in way()) / (time.process_time() - start)


def rate_after_start(way: Way) -> float:
    """Samples a second, from the first one on."""
    samples = way()
    next(samples)
    start = time.perf_counter()
    return sum(1 for _ in samples) / (time.perf_counter() - start)


def markdown(work: str, workers: int, rates: dict[str, list[float]]) -> Iterator[str]:
    """Table rows: the median, the spread, and how many times as fast ours is."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = next(iter(medians.values()))
    for name, values in rates.items():
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        yield f"| {work} | {workers} | {name} | {medians[name]:,.0f} | {spread} | {ours / medians[name]:.2f} |"


def main() -> None:
    """Writes, checks, times, prints."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each way; the median counts")
    parser.add_argument("--workers", type=int, nargs="*", default=[0], help="for regions; bytes are read with 0")
    parser.add_argument("--size-px", type=int, default=224)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments)


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """One benchmark in a folder of its own."""
    write_pairs(folder, arguments.rows, arguments.images)
    selection = open_pairs(str(folder))
    options = BatchOptions(size_px=arguments.size_px, augmentation=None, drop_last=False)
    cache = str(folder / "cache")
    plain, datasets_ = PlainRows(selection.files, None), HuggingFaceRows(selection.files, None, cache)
    print(f"{len(selection):,} rows in {len(selection.groups):,} row groups of {len(selection.files)} files\n")
    print("| work | workers | loader | samples/s, median | spread | ours is × |\n|---|---|---|---|---|---|")
    bytes_ = {
        "ours": lambda: our_bytes(selection, options),
        "torch Dataset over pyarrow": map_style(plain, 0),
        "datasets": map_style(datasets_, 0),
    }
    check_equal(bytes_)
    print(*markdown("bytes", 0, time_ways(bytes_, arguments.repeats)), sep="\n")
    plain.options = datasets_.options = options
    for workers in arguments.workers:
        regions = {
            "ours": lambda workers=workers: our_regions(selection, options, workers),
            "torch Dataset over pyarrow": map_style(plain, workers),
            "datasets": map_style(datasets_, workers),
        }
        check_equal(regions)
        print(*markdown("regions", workers, time_ways(regions, arguments.repeats, workers)), sep="\n")


if __name__ == "__main__":
    main()
