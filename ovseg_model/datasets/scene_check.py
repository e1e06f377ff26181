"""What a CLIP knows of scenes: retrieval, nouns in whole scenes, and the same objects as box crops and masked regions.

Array names end in their axes: N scenes or regions, T captions, K classes, D dimensions, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ovseg_model.class_embeddings import ClassEmbeddings, prompt_templates
from ovseg_model.clip import Clip, load_clip, resolve_clip
from ovseg_model.datasets.scene_nouns import CAPTIONS_ONLY, NAMES, STUFF, THINGS
from ovseg_model.datasets.scenes import LEAST_VISIBLE, STYLES, Region, Scene, draw_scene, numbers, seen_in
from ovseg_model.region_accuracy import count_regions
from ovseg_model.regions import RegionOptions, mask_boxes_xywh, region_batch

SIZE_PX = 128
"""Side of the scenes that are checked: objects are then cut out of more pixels than the model's input has."""

CHUNK = 64
"""Scenes drawn at once."""


@dataclass(frozen=True)
class SceneCheck:
    """Results on scenes of one style; every accuracy is a share, 0 to 1."""

    style: str
    scenes: int
    retrieval: dict[str, float]
    """ "text to scene R@1" and so on, each caption against all scenes and each scene against one caption of each."""

    recall: dict[str, float]
    """Recall@1 of each noun in whole scenes, where it is visible: see `noun_recall`."""

    crops: dict[str, float]
    """Zero-shot accuracy of each noun's regions as box crops, over all classes."""

    masked: dict[str, float]
    """The same regions with their background filled."""


def check_scenes(
    clip: Clip, scenes: int, style: str = STYLES[0], split: str = "test", templates: str = "vild"
) -> SceneCheck:
    """Runs every check on `scenes` scenes of a split; several thousand for figures to be quoted."""
    classes_KD = ClassEmbeddings(clip, prompt_templates(templates)).embed(NAMES)
    wholes_ND, captions, visible, crops, masked, truth = [], [], [], [], [], []
    for chunk in _drawn(split, scenes, style):
        wholes_ND.append(_embed(clip, chunk, _whole_masks))
        captions += [scene.captions[0] for scene in chunk]
        visible += [{seen.noun for seen in seen_in(scene.regions, SIZE_PX**2)} for scene in chunk]
        crops.append(_embed(clip, chunk, box_masks))
        masked.append(_embed(clip, chunk, object_masks))
        truth += [NAMES.index(region.noun) for scene in chunk for region in objects(scene)]
    whole_ND = np.concatenate(wholes_ND)
    return SceneCheck(
        style,
        scenes,
        retrieval(whole_ND @ clip.embed_texts(captions).T),
        noun_recall(whole_ND @ classes_KD.T, visible),
        *(accuracy_by_noun(np.concatenate(each) @ classes_KD.T, np.array(truth)) for each in (crops, masked)),
    )


def report(clip_name: str, scenes: int, split: str, templates: str) -> str:
    """Returns the results of a CLIP, by name, on scenes of both styles, as Markdown.

    Raises UserError for a CLIP that cannot be found.
    """
    clip = load_clip(resolve_clip(clip_name))
    results = [check_scenes(clip, scenes, style, split, templates) for style in STYLES]
    return f"{table(results)}\n\n{STYLES[0]}, noun by noun:\n\n{table_of_nouns(results[0])}"


def _drawn(split: str, scenes: int, style: str) -> Iterator[list[Scene]]:
    from tqdm import tqdm

    for start in tqdm(range(0, scenes, CHUNK), f"checking {style}", unit=f" x {CHUNK} scenes", disable=None):
        part = numbers(split, min(CHUNK, scenes - start), start)
        yield [draw_scene(number, SIZE_PX, style) for number in part]


def objects(scene: Scene) -> list[Region]:
    """The regions that are large enough to be mentioned."""
    return [region for region in scene.regions if region.area_px >= LEAST_VISIBLE * scene.labels_HW.size]


def object_masks(scene: Scene) -> np.ndarray:
    """Visible pixels of each of `objects`, bool (N, H, W)."""
    instances = np.array([region.instance for region in objects(scene)])
    return scene.instances_HW == instances[:, None, None]


def box_masks(scene: Scene) -> np.ndarray:
    """The box of each of `objects`, background and all, bool (N, H, W)."""
    masks_NHW = np.zeros_like(object_masks(scene))
    for mask_HW, (x, y, width, height) in zip(masks_NHW, mask_boxes_xywh(object_masks(scene)).tolist(), strict=True):
        mask_HW[y : y + height, x : x + width] = True
    return masks_NHW


def _whole_masks(scene: Scene) -> np.ndarray:
    return np.ones((1, *scene.labels_HW.shape), bool)


def _embed(clip: Clip, scenes: Sequence[Scene], masks_of: Callable[[Scene], np.ndarray]) -> np.ndarray:
    """Unit vectors of the masked regions of scenes, float32 (N, D)."""
    import torch

    regions = [
        region_batch(scene.image_HW3, masks_of(scene), clip.image_size_px, clip.mean, clip.std, RegionOptions())
        for scene in scenes
    ]
    return clip.embed_images(torch.cat(regions))


def retrieval(cosine_NT: np.ndarray) -> dict[str, float]:
    """Returns recall@1 and @5 in both directions; caption n belongs to scene n. Ties count against."""
    own = np.diag(cosine_NT)
    # The own pair is counted as well, hence ranks from 1.
    of_text, of_scene = (cosine_NT >= own).sum(axis=0), (cosine_NT >= own[:, None]).sum(axis=1)
    ranks = {"text to scene": of_text, "scene to text": of_scene}
    return {f"{way} R@{k}": float((rank <= k).mean()) for way, rank in ranks.items() for k in (1, 5)}


def noun_recall(cosine_NK: np.ndarray, visible: Sequence[set[str]]) -> dict[str, float]:
    """Returns recall@1 of each noun: how often it beats every noun of its kind that is not visible, where it is.

    Other right answers are set aside, as is usual where several are right ("filtered" ranking). cosine_NK: scenes and
    NAMES; visible: names by scene. Chance is 1 in about 26 for things, 1 in about 15 for stuff. Nouns that no scene
    shows are left out.
    """
    hits: dict[str, list[bool]] = {}
    for kind in (STUFF, THINGS):
        columns = np.array([NAMES.index(name) for name in kind])
        for cosine_K, names in zip(cosine_NK, visible, strict=True):
            hidden = [column for column in columns if NAMES[column] not in names]
            for name in names & set(kind):
                hits.setdefault(name, []).append(bool(cosine_K[NAMES.index(name)] > cosine_K[hidden].max()))
    return {name: float(np.mean(hits[name])) for name in NAMES if name in hits}


def accuracy_by_noun(cosine_NK: np.ndarray, truth_N: np.ndarray) -> dict[str, float]:
    """Returns the share of each noun's regions whose best class is their own; nouns without regions are left out."""
    counts = count_regions(cosine_NK, truth_N)
    found = zip(NAMES, counts.top1_K.tolist(), counts.regions_K.tolist(), strict=True)
    return {name: right / regions for name, right, regions in found if regions}


def mean_of(by_noun: dict[str, float], nouns: Sequence[str]) -> float:
    """Returns the mean over those of the nouns that are there; NaN if none is."""
    values = [by_noun[noun] for noun in nouns if noun in by_noun]
    return float(np.mean(values)) if values else float("nan")


def table(results: Sequence[SceneCheck]) -> str:
    """Returns the results as Markdown: a column a style."""
    lines = [f"| | {' | '.join(f'{each.style}, {each.scenes:,} scenes' for each in results)} |"]
    lines.append("|---|" + "---:|" * len(results))
    for name in results[0].retrieval:
        lines.append(_row(f"whole scenes: {name}", [each.retrieval[name] for each in results]))
    kinds = {"things": THINGS, "stuff": STUFF, "nouns that only captions name": CAPTIONS_ONLY}
    measures = {
        "whole scenes: noun recall@1": "recall",
        "box crops: top-1 of 44": "crops",
        "masked regions: top-1 of 44": "masked",
    }
    for measure, field in measures.items():
        for kind, nouns in kinds.items():
            lines.append(_row(f"{measure}, {kind}", [mean_of(getattr(each, field), nouns) for each in results]))
    return "\n".join(lines)


def table_of_nouns(result: SceneCheck) -> str:
    """Returns a line a noun as Markdown: recall in whole scenes, accuracy as box crop and as masked region."""
    lines = ["| noun | whole scenes | box crops | masked regions |", "|---|---:|---:|---:|"]
    for name in NAMES:
        values = [each.get(name, float("nan")) for each in (result.recall, result.crops, result.masked)]
        lines.append(_row(name, values))
    return "\n".join(lines)


def _row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |"
