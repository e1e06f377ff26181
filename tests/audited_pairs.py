"""Runs whose PAIRS are written by hand, to be held against labels."""

from dataclasses import asdict

from drawn_pairs import write_run

from ovseg_model import rle
from pipelines.match_regions import pair_id
from pipelines.units import Units
from pipelines.write_tables import RunFolder
from schemas import PAIRS
from schemas.examples import example_rows


def pair_row(image_id, noun, mask, cosine=0.3, margin=0.1, probability=0.5, **changes):
    """A PAIRS row of an image, a noun and an RLE."""
    (row,) = example_rows(PAIRS, 1).to_pylist()
    height, width = mask["size"]
    row |= {
        "pair_id": pair_id("0" * 64, mask, f"{image_id} {noun}"),
        "image_id": image_id,
        "image_uri": f"/images/{image_id}.png",
        "height": height,
        "width": width,
        "mask": mask,
        "box_xywh_px": rle.boxes_xywh_px([mask])[0].tolist(),
        "area_px": int(rle.areas_px([mask])[0]),
        "noun": noun,
        "lemma": noun,
        "cosine": cosine,
        "margin": margin,
        "probability": probability,
    }
    return row | changes


def finished_run(folder, parts):
    """A finished run that has PAIRS only: a list of rows a part, each sorted by image."""
    folder.mkdir(parents=True, exist_ok=True)
    write_run(folder, parts)
    RunFolder(str(folder)).write_json("units.json", asdict(Units("hash", len(parts), 1, "0" * 64, {})))
    return folder
