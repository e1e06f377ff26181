"""PAIRS of small drawn images, written as the miner writes them."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_model.rle import encode_masks
from pipelines.match_regions import crop_png, pair_id
from pipelines.write_tables import parquet_bytes
from schemas import PAIRS, conform_rows
from schemas.examples import example_rows
from schemas.run import RUN_FORMAT

NOUNS = ("ball", "box", "kite", "tree")
HEIGHT, WIDTH = 24, 36


def image_of(index):
    """RGB uint8 (24, 36, 3): noise, so that every pixel counts."""
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def mask_of(index):
    """bool (24, 36): an ellipse whose place and size depend on the index."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    cy, cx, ry, rx = 8 + index % 7, 12 + index % 11, 4 + index % 4, 5 + index % 6
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def pair_rows(folder, count, *, crops=False, **changes):
    """`count` PAIRS rows, two an image, whose PNGs stand in `folder`; `changes` replace columns, by value or index."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = example_rows(PAIRS, count).to_pylist()
    for index, row in enumerate(rows):
        image_HW3, mask_HW = image_of(index // 2), mask_of(index)
        path = folder / f"{index // 2:04d}.png"
        sink = io.BytesIO()
        Image.fromarray(image_HW3).save(sink, "png")
        path.write_bytes(sink.getvalue())
        ys, xs = np.nonzero(mask_HW)
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        row |= {
            "image_id": path.stem,
            "image_uri": str(path),
            "image_sha256": hashlib.sha256(sink.getvalue()).hexdigest(),
            "height": HEIGHT,
            "width": WIDTH,
            "mask": encode_masks(mask_HW[None])[0],
            "box_xywh_px": box,
            "area_px": int(mask_HW.sum()),
            "noun": NOUNS[index % 4],
            "caption": f"caption {index}",
            "cosine": 0.1 + index / 1000,
            "crop_png": crop_png(image_HW3, box) if crops else None,
        }
        row["pair_id"] = pair_id(row["image_sha256"], row["mask"], row["noun"])
        row |= {name: value(index) if callable(value) else value for name, value in changes.items()}
    return rows


def write_pairs(path, rows, rows_per_group=None, table=PAIRS):
    """One Parquet file of PAIRS rows; row groups as the miner's, or of `rows_per_group` rows."""
    import pyarrow.parquet as pq

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(parquet_bytes(conform_rows(rows, PAIRS), table, {}))
    if rows_per_group:
        pq.write_table(pq.read_table(path), path, row_group_size=rows_per_group)
    return path


def write_run(folder, parts, weights=()):
    """A finished run directory that has PAIRS only: a list of rows a part."""
    listed = []
    for number, rows in enumerate(parts):
        path = write_pairs(folder / f"pairs/part-{number:05d}.parquet", rows)
        data = path.read_bytes()
        facts = {"path": f"pairs/{path.name}", "rows": len(rows), "bytes": len(data)}
        listed.append({**facts, "sha256": hashlib.sha256(data).hexdigest()})
    table = {"version": PAIRS.version, "rows": sum(map(len, parts)), "parts": listed}
    images = len({row["image_id"] for rows in parts for row in rows})
    units = {"scheme": "hash", "count": len(parts), "images": images, "input_sha256": "0" * 64, "options": {}}
    units |= {"shards": []}
    manifest = {
        "format": RUN_FORMAT,
        "sources": [],
        "units": units,
        "stages": {},
        "tables": {"pairs": table},
        "weights": list(weights),
        "versions": {},
    }
    (folder / "run.json").write_text(json.dumps({**manifest, "meaningless": False}))
    (folder / "units.json").write_text(json.dumps(units))
    (folder / "_SUCCESS").write_bytes(b"")
    return folder
