"""`ovseg segment`: photographs and class names in; label map, JSON with RLE masks, and a picture of each out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from glob import has_magic
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from ovseg_model.class_names import ClassNames, check_distinct, split_names, titles
from ovseg_model.fetch_options import FetchOptions, ImageError
from ovseg_model.http_fetch import is_http
from ovseg_model.images import ShardMember, read_images
from ovseg_model.proposals import ImageInput, ProposalError
from ovseg_model.proposals.annotation_index import stem_of
from ovseg_model.rle import areas_px, boxes_xywh_px, encode_masks
from pipelines.open_segmenter import ModelOptions, check_class_vectors, effective_options, open_models
from pipelines.options import SentenceParser, add_options, option, read_options
from pipelines.progress import show_progress
from pipelines.summary import ONLY_SCENES, knows_only_scenes
from pipelines.terminal import escaped
from pipelines.write_tables import RunFolder, open_run_folder
from schemas import UserError

if TYPE_CHECKING:
    from ovseg_model.class_names import ClassVectors
    from ovseg_model.segment import ScoredProposals, Segment, Segmentation, Segmenter, SegmentOptions

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")

PLACES_HELP = (
    "images, folders of images, or globs; paths or fsspec URLs. A folder is what stands in it, not in folders below: "
    "those too with a glob in quotes, as 'photos/**/*.jpg'"
)

LABELS_ENDING, OVERLAY_ENDING, FACTS_ENDING = ".labels.png", ".overlay.png", ".json"
"""Of the three files of an image, after its name. A folder's pictures with the first two are no photographs."""

OTHERS = "others"
"""The background that one class alone is given, as in OVSeg's demo: a softmax over one class says nothing."""

CLIP_ALONE = "since the masks come without class probabilities: CLIP stands alone"

DROPS_FILE = "drops.json"
SHOWN_DROPS = 10

VERSION = 2
"""Raised whenever the same options begin to give other files."""


@dataclass(frozen=True)
class InputOptions:
    """Which classes are looked for, and where the results go."""

    classes: str = option("", 'class names with commas between; several names of a class with |: "cat, road|route"')
    classes_file: str | None = option(None, "text file, one class a line; | as above, commas as --synonyms says")
    background: str = option(
        "", f'class names, as --classes, that compete but are left unlabelled; beside a single class, "{OTHERS}"'
    )
    output: str = option("segmented", "folder of the results: a path or fsspec URL")
    demo: bool = option(False, "OVSeg's demo: CLIP alone, and of each class the one best proposal")
    least_score: float = option(0.0, "proposals whose best class scores less are left out of the JSON, 0 to 1")

    def __post_init__(self) -> None:
        """Refuses values that nothing can be made of; raises UserError."""
        if not self.output:
            raise UserError("--output is empty; give a folder for the results")
        if not 0 <= self.least_score <= 1:
            raise UserError(f"--least-score: wanted 0 to 1, got {self.least_score}")


class Classes(NamedTuple):
    """What is looked for: the asked classes first, background behind."""

    names: ClassNames
    asked: int
    """How many of them are no background."""


def main(argv: Sequence[str]) -> int:
    """Segments and prints; `argv` begins with the verb.

    Raises:
        UserError: an option, an image's place, a weight or a class name is not as wanted.
    """
    from ovseg_model.segment import SegmentOptions

    parser = SentenceParser("ovseg segment", description=__doc__, allow_abbrev=False)
    parser.add_argument("images", nargs="*", help=PLACES_HELP)
    groups = (InputOptions, SegmentOptions, ModelOptions, FetchOptions)
    for group in groups:
        add_options(parser, group)
    namespace = parser.parse_intermixed_args(argv[1:])
    asked, segment, models, fetch = (read_options(namespace, group) for group in groups)
    classes = read_classes(asked, models.synonyms)
    uris = find_images(namespace.images)
    folder = open_run_folder(asked.output)
    options = effective_options(segment, asked.demo, vars(namespace))
    work = open_work(classes, asked, options, models, folder)
    if "clip_weight" in vars(namespace) and options.clip_weight != work.segmenter.options.clip_weight:
        print(f"--clip-weight {options.clip_weight:g}: has no part in it, {CLIP_ALONE}", file=sys.stderr)
    for line in notices(work):
        print(line, file=sys.stderr)
    results = segment_all(uris, fetch, work)
    print(summary(results, work))
    return 1 if results.dropped else 0


# What is asked for.


def read_classes(options: InputOptions, synonyms: str) -> Classes:
    """The classes of --classes or --classes-file, and the background.

    Raises:
        UserError: there are none, both are given, the file cannot be read, or a name stands in two classes.
    """
    if bool(options.classes) == bool(options.classes_file):
        raise UserError('wanted class names, by --classes "cat, sofa, window" or by --classes-file, one of the two')
    asked = _listed(options.classes_file, synonyms) if options.classes_file else _words(options.classes)
    if not asked:
        given = f"-file {options.classes_file}" if options.classes_file else f" {options.classes!r}"
        raise UserError(f"--classes{given}: holds no name; give names with commas between, or a file of a name a line")
    background = _words(options.background) or _others(asked)
    check_distinct([*asked, *background])
    return Classes((*asked, *background), len(asked))


def _others(asked: ClassNames) -> ClassNames:
    """The background of a single class; raises UserError where it is called so itself."""
    if len(asked) != 1:
        return ()
    if OTHERS in asked[0]:
        raise UserError(
            f"--classes: a single class competes with a background that is called {OTHERS!r} too; give another name, "
            "or what it is to compete with by --background"
        )
    return ((OTHERS,),)


def _words(text: str) -> ClassNames:
    """Classes with commas between, their names with | between.

    Raises:
        UserError: it holds a semicolon, which parts nothing: one class would be made of all.
    """
    if ";" in text:
        raise UserError(
            f"class names {text!r}: classes have commas between them, names of one class |; got a semicolon"
        )
    classes = [tuple(name.strip() for name in part.split("|") if name.strip()) for part in text.split(",")]
    return tuple(names for names in classes if names)


def _listed(path: str, synonyms: str) -> ClassNames:
    """Classes of a file; lines without a name are passed over."""
    lines = [[part for part in line.split("|") if part.strip()] for line in _lines(path)]
    classes = [dict.fromkeys(chain.from_iterable(split_names(parts, synonyms))) for parts in lines if parts]
    return tuple(map(tuple, classes))


def _lines(path: str) -> list[str]:
    try:
        with fsspec.open(path, "rt", encoding="utf-8-sig") as file:  # Windows begins such files with a mark
            return file.read().splitlines()
    except (OSError, ImportError, ValueError) as error:
        raise UserError(
            f"--classes-file {path}: cannot be read ({error}); give a text file, one class a line"
        ) from error


def find_images(places: Sequence[str]) -> list[str]:
    """The images of files, folders and globs, in order, each once.

    Raises:
        UserError: nothing is given, a place is not there or holds no image, or two images have one name, under which
            their results would stand.
    """
    if not places:
        raise UserError("wanted images: files, folders or globs; for example: ovseg segment photo.jpg --classes cat")
    found = list(dict.fromkeys(uri for place in places for uri in _images_at(place)))
    owner = {DROPS_FILE.removesuffix(FACTS_ENDING): DROPS_FILE}
    for uri in found:
        if owner.setdefault(stem_of(uri), uri) != uri:
            raise UserError(
                f"{owner[stem_of(uri)]} and {uri}: results are named after the image, and these would overwrite each "
                "other; rename one of them, or segment them into different folders"
            )
    return found


def _images_at(place: str) -> list[str]:
    if is_http(place) or ShardMember.from_uri(place):
        return [place]  # whether it is there, fetching it says
    try:
        file_system, path = fsspec.core.url_to_fs(place)
        is_local = isinstance(file_system, LocalFileSystem)
        found = _listed_images(file_system, os.path.abspath(path) if is_local else path)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{place}: cannot be listed ({error})") from error
    if not found:
        raise UserError(_nothing_at(place, file_system.exists(path) or has_magic(path)))
    return found if is_local else [file_system.unstrip_protocol(each) for each in found]


def _nothing_at(place: str, is_there: bool) -> str:
    """Why a place has no image."""
    if not is_there:
        return f"{place}: does not exist; wanted a file, or a folder or glob of images"
    endings = ", ".join(IMAGE_ENDINGS)
    return (
        f"{place}: there is no image; wanted a file, or a folder or glob of files with {endings}; folders below a "
        f"folder are not looked into: that is '{place.rstrip('/')}/**/*.jpg'"
    )


def _listed_images(file_system: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """Photographs of a folder or a glob; a file that is named itself, whatever its ending."""
    if file_system.isdir(path):
        return sorted(filter(_is_photograph, file_system.ls(path, detail=False)))
    return [path] if file_system.exists(path) else sorted(filter(_is_photograph, file_system.glob(path)))


def _is_photograph(path: str) -> bool:
    """Whether a file of a folder is meant: no hidden one, and no result of ours."""
    name = path.rsplit("/", 1)[-1].lower()
    is_ours = name.endswith((LABELS_ENDING, OVERLAY_ENDING))
    return name.endswith(IMAGE_ENDINGS) and not name.startswith(".") and not is_ours


# The work.


class LoadedImage(NamedTuple):
    """An image that could be read."""

    uri: str
    sha256: str
    pixels_HW3: np.ndarray


@dataclass
class Results:
    """What became of all images, by uri."""

    made: list[str]
    kept: list[str]
    """Their results were there already, of the same image by the same options."""

    dropped: list[dict[str, str]]
    """image, reason and detail."""


@dataclass(frozen=True)
class Work:
    """All that turns an image into its files."""

    segmenter: Segmenter
    classes: Classes
    vectors: ClassVectors
    colours_K3: np.ndarray
    least_score: float
    folder: RunFolder
    made_by: dict[str, Any]
    meaningless: bool


def open_work(
    classes: Classes, asked: InputOptions, options: SegmentOptions, model_options: ModelOptions, folder: RunFolder
) -> Work:
    """Opens the models and embeds the class names.

    Raises:
        UserError: as `open_models`.
    """
    from ovseg_model.class_names import embed_classes
    from ovseg_model.proposals.soft import gives_probabilities
    from ovseg_model.segment import Segmenter
    from pipelines.draw_segmentation import class_colours

    models = open_models(model_options, folder.path(".work"))
    if options.clip_weight < 1:
        check_class_vectors(models)
    if not gives_probabilities(models.network):  # CLIP stands alone, whatever was asked
        options = replace(options, clip_weight=1.0)
    vectors = embed_classes(models.embeddings, classes.names, model_options.synonyms)
    segmenter = Segmenter(models.network, models.regions, options, models.agreement)
    made_by = {
        "version": VERSION,
        "classes": classes.names,
        "asked": classes.asked,
        "synonyms": model_options.synonyms,
        "least_score": asked.least_score,
        "options": asdict(options),
        "models": models.fingerprint,
    }
    colours_K3 = class_colours(classes.asked)
    return Work(segmenter, classes, vectors, colours_K3, asked.least_score, folder, made_by, models.meaningless)


def notices(work: Work) -> Sequence[str]:
    """What should be known of the labels: whether CLIP has ever seen a photograph."""
    lines = list(ONLY_SCENES) if knows_only_scenes([work.made_by["models"]["clip"]]) else []
    return [*lines, *(["CLIP's weights are random: the labels mean nothing"] if work.meaningless else [])]


def segment_all(uris: Sequence[str], fetch: FetchOptions, work: Work) -> Results:
    """Segments images in batches and writes each one's files; what stands is not made again."""
    results = Results([], [], [])
    batch: list[LoadedImage] = []
    for image in show_progress(_missing(uris, fetch, work, results), "segment", "images"):
        batch.append(image)
        if len(batch) == work.segmenter.network.batch_size:
            _segment_batch(batch, work, results)
            batch = []
    _segment_batch(batch, work, results)
    work.folder.write_json(DROPS_FILE, results.dropped)
    return results


def _missing(uris: Sequence[str], fetch: FetchOptions, work: Work, results: Results) -> Iterator[LoadedImage]:
    """Images that can be read and whose results are not there yet; the others are noted."""
    for uri, image in zip(uris, read_images(uris, fetch), strict=True):
        if isinstance(image, ImageError):
            results.dropped.append({"image": uri, "reason": image.reason, "detail": image.detail})
        elif _stands(uri, image.sha256, work):
            results.kept.append(uri)
        else:
            yield LoadedImage(uri, image.sha256, image.pixels)


def _stands(uri: str, sha256: str, work: Work) -> bool:
    """Whether all files are there, and the JSON, which is written last, is of this image and these options."""
    name = stem_of(uri)
    if not all(work.folder.has(name + ending) for ending in (LABELS_ENDING, OVERLAY_ENDING, FACTS_ENDING)):
        return False
    try:
        found = work.folder.read_json(name + FACTS_ENDING)
    except ValueError:
        return False
    made_by = json.loads(json.dumps(work.made_by))
    return isinstance(found, dict) and (found.get("sha256"), found.get("made_by")) == (sha256, made_by)


def _segment_batch(batch: Sequence[LoadedImage], work: Work, results: Results) -> None:
    inputs = [ImageInput(stem_of(image.uri), image.uri, image.pixels_HW3) for image in batch]
    for image, found in zip(batch, work.segmenter.segment(inputs, work.vectors), strict=True):
        if isinstance(found, ProposalError):
            results.dropped.append({"image": image.uri, "reason": found.reason, "detail": found.detail})
        else:
            write_result(image, found, work)
            results.made.append(image.uri)


# What comes out.


def write_result(image: LoadedImage, found: Segmentation, work: Work) -> None:
    """Writes the label map, the overlay and, last, the JSON of one image."""
    from ovseg_model.label_png import UNLABELLED, label_png
    from pipelines.draw_segmentation import draw_overlay_with_legend

    asked = work.classes.asked
    labels_HW = np.where(found.labels_HW < asked, found.labels_HW, UNLABELLED).astype(np.uint16)
    names = titles(work.classes.names[:asked])
    name = stem_of(image.uri)
    work.folder.write(name + LABELS_ENDING, label_png(labels_HW, work.colours_K3))
    overlay = draw_overlay_with_legend(image.pixels_HW3, labels_HW, names, work.colours_K3)
    work.folder.write(name + OVERLAY_ENDING, overlay)
    work.folder.write_json(name + FACTS_ENDING, describe(image, labels_HW, found, work))


def describe(image: LoadedImage, labels_HW: np.ndarray, found: Segmentation, work: Work) -> dict[str, Any]:
    """What the JSON of one image holds.

    labels: by class, its number in the label map and the pixels it covers. instances: every proposal with its best
    class, best first, masks may overlap; of the demo, the proposals that a class chose. segments: the panoptic ones,
    which do not overlap. Background is left out of all. The table of docs/segmentation.md names every field.
    """
    from ovseg_model.segment import instances, panoptic_segments

    asked, options = work.classes.asked, work.segmenter.options
    counts_K = np.bincount(labels_HW[labels_HW < asked], minlength=asked)
    scored, size_HW = _used(found.proposals, options), labels_HW.shape
    return {
        "image": image.uri.rsplit("/", 1)[-1],
        "sha256": image.sha256,
        "height": size_HW[0],
        "width": size_HW[1],
        "labels": [
            {"label": number, "names": names, "area_px": int(counts_K[number])}
            for number, names in enumerate(work.classes.names[:asked])
        ],
        "instances": _rows(instances(scored, options, work.least_score), size_HW, work.classes),
        "segments": _rows(panoptic_segments(scored, options, work.least_score), size_HW, work.classes),
        "meaningless": work.meaningless,
        "made_by": work.made_by,
    }


def _used(scored: ScoredProposals, options: SegmentOptions) -> ScoredProposals:
    """The scores that the label map was made of."""
    from ovseg_model.segment import best_proposals

    if not options.best_proposal_only:
        return scored
    scores_NK = best_proposals(scored)
    return scored._replace(scores_NK=scores_NK, valid_N=scored.valid_N & scores_NK.any(axis=1))


def _rows(segments: Sequence[Segment], size_HW: tuple[int, ...], classes: Classes) -> list[dict[str, Any]]:
    """Segments as plain values, masks as COCO RLE in the image's frame."""
    from ovseg_model.oracles import nearest

    kept = [each for each in segments if each.class_number < classes.asked]
    masks = encode_masks(nearest(np.stack([each.mask_hw for each in kept]), size_HW)) if kept else []
    areas, boxes = areas_px(masks).tolist(), boxes_xywh_px(masks).tolist()
    return [
        {
            "label": each.class_number,
            "name": classes.names[each.class_number][0],
            "score": round(each.score, 6),
            "area_px": area,
            "box_xywh_px": box,
            "mask": mask,
        }
        for each, mask, area, box in zip(kept, masks, areas, boxes, strict=True)
    ]


def summary(results: Results, work: Work) -> str:
    """Counts, and what has to be known of them."""
    lines = [f"segmented {len(results.made):,}, kept {len(results.kept):,}, dropped {len(results.dropped):,}"]
    lines += [f"  {each['image']}: {each['reason']}, {each['detail']}" for each in results.dropped[:SHOWN_DROPS]]
    if len(results.dropped) > SHOWN_DROPS:
        lines.append(f"  and {len(results.dropped) - SHOWN_DROPS:,} more in {work.folder.path(DROPS_FILE)}")
    lines += agreement_lines(work) if results.made else []
    return "\n".join(map(escaped, [*lines, *notices(work), f"results: {work.folder.path()}"]))


def agreement_lines(work: Work) -> Iterator[str]:
    """How far one pass agrees with crops, where it read the masks."""
    from ovseg_model.rank_agreement import agreement_sentence

    if work.segmenter.agreement:
        yield agreement_sentence(
            work.segmenter.agreement.counts, "classes", "no image has two masks that CLIP was asked of"
        )
