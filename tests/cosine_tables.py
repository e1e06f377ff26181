"""PAIRS rows as the miner makes them of a table of cosines, with masks that can be drawn by hand."""

import numpy as np

from ovseg_model import rle
from pipelines.match_regions import ImageNouns, match_nouns, pair_rows
from schemas import MASKS, NOUNS, PAIRS, conform_rows
from schemas.examples import example_rows

HEIGHT, WIDTH = 4, 10


class NamedScorer:
    """What PAIRS says of a scorer."""

    name = "by hand"
    meaningless = False


def strip(start, end):
    """RLE of columns of a 4 x 10 image."""
    mask = np.zeros((1, HEIGHT, WIDTH), bool)
    mask[:, :, start:end] = True
    return rle.encode_masks(mask)[0]


def rows_of_table(cosines, nouns, image_id="a", masks_per_noun=1, runner_up_masks=3, **changes):
    """Rows of one image: `cosines` nouns x masks; mask m covers columns m to m + 2."""
    cosines_NM = np.array(cosines, np.float32)
    mask, noun = (example_rows(table, 1).to_pylist()[0] for table in (MASKS, NOUNS))
    mask |= {"image_id": image_id, "image_sha256": f"sha of {image_id}", "height": HEIGHT, "width": WIDTH}
    masks = [
        mask | {"mask_index": m, "mask": strip(m, m + 3), "box_xywh_px": [m, 0, 3, 4], "area_px": 12}
        for m in range(cosines_NM.shape[1])
    ]
    from_caption = {"caption": "words", "source_url": None, "licence": None, "safety": None}
    of_noun = [
        noun | from_caption | {"noun": name, "lemma": name, "start_char": 5 * n, "end_char": 5 * n + 4}
        for n, name in enumerate(nouns)
    ]
    matches = match_nouns(cosines_NM, masks_per_noun, 2, runner_up_masks)
    rows = pair_rows(
        ImageNouns(image_id, masks, of_noun), matches, np.zeros((HEIGHT, WIDTH, 3)), NamedScorer, False, {}
    )
    return conform_rows([row | changes for row in rows], PAIRS)
