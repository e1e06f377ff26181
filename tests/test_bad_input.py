"""Bad input from end to end: a poisoned corpus through `ovseg mine`, and every row of docs/bad-input.md by name.

Each case is kept, or is a DROPS row with its reason, or is one sentence before work starts; never a traceback.
"""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import tiny_clip
from PIL import Image, ImageFile
from run_files import files_of, manifest_of

from ovseg_model.images import FetchOptions, ImageError, decode_image
from pipelines import write_tables
from pipelines.command_line import main
from pipelines.spill import Spill
from schemas.drops import REASONS

REPOSITORY = Path(__file__).parent.parent
PAGE = (REPOSITORY / "docs" / "bad-input.md").read_text()
CAPTION = "a red kite on the grass"
MAX_IMAGE_BYTES = 200_000


class Case(NamedTuple):
    """A record of the corpus: the row of the page that it is, the record, and its drop as (stage, reason), or None.

    `key` is that of its drop; "" stands for the record's image_id, "line" for the line of the table.
    """

    name: str
    record: dict
    drop: tuple[str, str] | None = None
    key: str = ""


# Images: name, file, bytes, and height and width in pixels or the reason of the drop


def encoded(image, format_, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


NOISE = Image.effect_noise((64, 48), 60).convert("RGB")
GREY_16_BIT = Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20)
FRAMES = {"save_all": True, "append_images": [NOISE.rotate(90), NOISE.rotate(180)]}
TURNED = Image.Exif()
TURNED[0x0112] = 6


def png_of_size(width, height):
    """A PNG of 70 bytes whose header promises this many pixels, with none behind it."""
    data = bytearray(encoded(Image.new("RGB", (3, 2)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def with_size(data, at, layout, width, height):
    """An image file whose width and height, which stand at a byte, are other ones."""
    size = struct.calcsize(layout)
    return data[:at] + struct.pack(layout, width, height) + data[at + size :]


BMP = encoded(NOISE, "BMP")
GIF = encoded(NOISE, "GIF")
JPEG = encoded(NOISE, "JPEG")
UNREADABLE, TOO_LARGE = ("propose_masks", "image_unreadable"), ("propose_masks", "image_too_large")

IMAGES = [
    ("sound JPEG", "sound.jpg", JPEG, (48, 64)),
    ("JPEG cut short", "cut.jpg", JPEG[:-500], UNREADABLE),
    ("PNG cut short", "cut.png", encoded(NOISE, "PNG")[:-500], UNREADABLE),
    ("GIF cut short", "cut.gif", GIF[:-500], UNREADABLE),
    ("WebP cut short", "cut.webp", encoded(NOISE, "WEBP")[:-50], UNREADABLE),
    ("BMP cut short", "cut.bmp", BMP[:-500], UNREADABLE),
    ("TIFF cut short", "cut.tif", encoded(NOISE, "TIFF")[:-500], UNREADABLE),
    ("empty file", "empty.jpg", b"", UNREADABLE),
    ("PNG named .jpg", "png.jpg", encoded(NOISE, "PNG"), (48, 64)),
    ("text, or a web page, named .jpg", "text.jpg", b"<html>404 Not Found</html>", UNREADABLE),
    ("SVG", "drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", UNREADABLE),
    ("CMYK JPEG", "cmyk.jpg", encoded(NOISE.convert("CMYK"), "JPEG"), (48, 64)),
    ("16-bit PNG", "deep.png", encoded(GREY_16_BIT, "PNG"), (48, 64)),
    ("16-bit TIFF", "deep.tif", encoded(GREY_16_BIT, "TIFF"), (48, 64)),
    ("32-bit TIFF", "float.tif", encoded(Image.new("F", (64, 48), 0.5), "TIFF"), UNREADABLE),
    ("grey JPEG", "grey.jpg", encoded(NOISE.convert("L"), "JPEG"), (48, 64)),
    ("black-and-white PNG", "bilevel.png", encoded(NOISE.convert("1"), "PNG"), (48, 64)),
    ("animated GIF", "animated.gif", encoded(NOISE, "GIF", **FRAMES), (48, 64)),
    ("animated WebP", "animated.webp", encoded(NOISE, "WEBP", **FRAMES), (48, 64)),
    ("animated PNG", "animated.png", encoded(NOISE, "PNG", **FRAMES), (48, 64)),
    ("JPEG that EXIF turns", "turned.jpg", encoded(NOISE, "JPEG", exif=TURNED), (64, 48)),
    ("JPEG with broken EXIF", "exif.jpg", encoded(NOISE, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), (48, 64)),
    ("one pixel", "pixel.png", encoded(Image.new("RGB", (1, 1), "red"), "PNG"), (1, 1)),
    ("no pixel", "none.png", png_of_size(0, 0), UNREADABLE),
    ("70 bytes that promise 60,000 × 60,000 pixels", "bomb.png", png_of_size(60_000, 60_000), TOO_LARGE),
    ("just over --max-image-px", "large.png", png_of_size(10_000, 8_001), TOO_LARGE),
    ("more bytes than --max-image-bytes", "heavy.bmp", encoded(NOISE.resize((320, 240)), "BMP"), TOO_LARGE),
]
"""As a JSONL table of local files brings them."""


def image_case(name, file, data, answer):
    is_kept = isinstance(answer[0], int)
    return Case(name, {"image_id": file, "image": file, "caption": CAPTION}, None if is_kept else answer)


# Captions and structure

SOUND = "sound.jpg"
READ, NOUNS, MASKS = "read_captions", "extract_nouns", "propose_masks"
LONG = "a red kite and a dog " * 5000
EVIL = "a \x00kite\x1b[2J on \x07the\x9b31m grass\r\nand a dog\u202e"


def caption_case(name, caption, drop=None, key="line"):
    image_id = name.replace(" ", "-")
    return Case(name, {"image_id": image_id, "image": SOUND, "caption": caption}, drop, key.format(image_id))


CAPTIONS = [
    caption_case("empty caption", "", (READ, "empty_caption")),
    caption_case("white space only", " \t\n\u3000", (READ, "empty_caption")),
    caption_case("null", None, (READ, "missing_caption")),
    caption_case("number", 7, (READ, "bad_column_type")),
    caption_case("object", {"en": "a kite"}, (READ, "bad_column_type")),
    caption_case("no caption in a list", [], (READ, "missing_caption")),
    caption_case("null in a list", ["a kite", None], (READ, "missing_caption"), "line#1"),
    caption_case("100 kB of words", LONG, (READ, "caption_too_long"), "{}#0"),
    caption_case("word of 100 kB", "a" * 100_000, (READ, "caption_too_long"), "{}#0"),
    caption_case("10,000 characters", LONG[:9_999] + "x"),
    caption_case("half a surrogate pair", "a kite \ud83d", (READ, "not_utf8")),
    caption_case("emoji and words", "a kite 🪁 and a dog 🐕‍🦺 👨‍👩‍👧"),
    caption_case("emoji only", "🪁🐕", (NOUNS, "no_nouns"), "{}#0"),
    caption_case("Chinese", "一只猫坐在垫子上"),
    caption_case("Arabic", "قطة على السجادة"),
    caption_case("Devanagari", "एक बिल्ली"),
    caption_case("combining marks", "a cafe\u0301 with " + "e" + "\u0301" * 1000),
    caption_case("control characters among words", EVIL),
    caption_case("control characters only", "\x00\x1b\x7f", (NOUNS, "no_nouns"), "{}#0"),
    caption_case("markup", "<b>a kite</b> &amp; '; DROP TABLE pairs; -- a dog"),
]

STRUCTURE = [
    Case(
        "caption without an image",
        {"image_id": None, "image": None, "caption": "lost"},
        (READ, "missing_image"),
        "line",
    ),
    Case("image by its key only", {"image_id": "key-only", "image": None, "caption": CAPTION}, (MASKS, "no_image_uri")),
    Case(
        "file that is not there",
        {"image_id": "gone", "image": "gone.jpg", "caption": CAPTION},
        (MASKS, "image_missing"),
    ),
    Case("folder in place of a file", {"image_id": "dir", "image": ".", "caption": CAPTION}, (MASKS, "image_missing")),
    Case("path with a NUL", {"image_id": "nul", "image": "a\0.jpg", "caption": CAPTION}, (MASKS, "image_missing")),
    Case(
        "device in place of a file",
        {"image_id": "dev", "image": "/dev/zero", "caption": CAPTION},
        (MASKS, "image_missing"),
    ),
    Case("path that climbs", {"image_id": "climbs", "image": "../outside/sound.jpg", "caption": CAPTION}),
    Case(
        "path that climbs to what is no image",
        {"image_id": "secret", "image": "../" * 30 + "etc/passwd", "caption": CAPTION},
        UNREADABLE,
    ),
    Case("the same row again", {"image_id": "twice", "image": SOUND, "caption": CAPTION}),
    Case(
        "the same row again",
        {"image_id": "twice", "image": SOUND, "caption": CAPTION},
        (READ, "duplicate_caption"),
        "twice#0",
    ),
    Case("the same id, another caption", {"image_id": "two", "image": SOUND, "caption": CAPTION}),
    Case("the same id, another caption", {"image_id": "two", "image": SOUND, "caption": "a dog"}),
    Case("the same id, another image", {"image_id": "torn", "image": "grey.jpg", "caption": CAPTION}),
    Case(
        "the same id, another image",
        {"image_id": "torn", "image": SOUND, "caption": "a dog"},
        (READ, "conflicting_image_uri"),
        "torn#0",
    ),
    Case("ids that differ in case", {"image_id": "Kite.png", "image": SOUND, "caption": CAPTION}),
    Case("ids that differ in case", {"image_id": "kite.png", "image": "turned.jpg", "caption": CAPTION}),
    Case("id that looks like a path", {"image_id": "../../../etc/passwd", "image": SOUND, "caption": CAPTION}),
]

CASES = [*[image_case(*image) for image in IMAGES], *CAPTIONS, *STRUCTURE]
BAD_LINES = {"line that is no JSON": (b"{", "not_json"), "line that is no UTF-8": (b'{"image": "caf\xe9"}', "not_utf8")}


class Run(NamedTuple):
    """A finished run: its folder, status and what it printed."""

    folder: Path
    status: int
    out: str
    err: str

    def table(self, name):
        return ds.dataset(self.folder / name).to_table().to_pylist()

    def drops(self):
        """(stage, reason) of each dropped record, by key."""
        found = {}
        for row in self.table("drops"):
            found.setdefault(row["key"], []).append((row["stage"], row["reason"]))
        return found


def ovseg(folder, *arguments):
    """Runs a verb by plain loops, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*arguments, "--output", str(folder), "--runner", "plain"])
    return Run(folder, status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(tiny_clip.write_folder(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def models(clip):
    return ["--nouns", "lexicon", "--masks", "fakes:HalvesGenerator", "--clip", clip, "--torch-threads", "1"]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """The corpus: a JSONL table beside its images, one record a case, and then the lines that are no records."""
    folder = tmp_path_factory.mktemp("poisoned")
    for place in ("images", "outside"):
        (folder / place).mkdir()
    for _, file, data, _ in IMAGES:
        (folder / "images" / file).write_bytes(data)
    (folder / "outside" / SOUND).write_bytes(JPEG)
    lines = [json.dumps(case.record).encode() for case in CASES] + [line for line, _ in BAD_LINES.values()]
    (folder / "captions.jsonl").write_bytes(b"\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def mined(poisoned, models, tmp_path_factory):
    inputs = ["--captions", str(poisoned / "captions.jsonl"), "--images", str(poisoned / "images")]
    limits = ["--max-image-bytes", str(MAX_IMAGE_BYTES), "--images-per-unit", "16"]
    return ovseg(tmp_path_factory.mktemp("mined") / "run", "mine", *inputs, *limits, *models)


def key_of(case, poisoned):
    line = f"{poisoned / 'captions.jsonl'}:{CASES.index(case) + 1}"
    return case.key.replace("line", line) if case.key else case.record["image_id"]


@pytest.mark.parametrize("case", [case for case in CASES if case.drop], ids=lambda case: case.name)
def test_a_bad_record_is_a_row_of_drops(case, mined, poisoned):
    assert mined.drops()[key_of(case, poisoned)] == [case.drop]


@pytest.mark.parametrize("case", [case for case in CASES if not case.drop], ids=lambda case: case.name)
def test_what_can_be_read_is_mined(case, mined):
    pairs = [row for row in mined.table("pairs") if row["image_id"] == case.record["image_id"]]
    assert case.record["caption"].strip() in {row["caption"] for row in pairs}
    for row in pairs:
        assert row["caption"][row["start_char"] : row["end_char"]].lower() == row["noun"]


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_that_is_no_record_is_a_row_of_drops(name, mined, poisoned):
    line = len(CASES) + 1 + list(BAD_LINES).index(name)
    assert mined.drops()[f"{poisoned / 'captions.jsonl'}:{line}"] == [(READ, BAD_LINES[name][1])]


@pytest.mark.parametrize(
    "image", [image for image in IMAGES if isinstance(image[3][0], int)], ids=lambda image: image[0]
)
def test_masks_have_the_size_of_the_image_as_it_is_seen(image, mined):
    masks = [row for row in mined.table("masks") if row["image_id"] == image[1]]
    assert {(row["height"], row["width"], *row["mask"]["size"]) for row in masks} == {image[3] * 2}


def test_ids_that_differ_in_case_stay_two_images(mined):
    sizes = {row["image_id"]: (row["height"], row["width"]) for row in mined.table("masks")}
    assert (sizes["Kite.png"], sizes["kite.png"]) == ((48, 64), (64, 48))
    manifest = manifest_of(mined.folder)
    assert manifest["units"]["images"] == len({row["image_id"] for row in mined.table("captions")})


def test_every_record_is_kept_or_dropped(mined):
    assert mined.status == 0
    totals = {stage: facts["totals"] for stage, facts in manifest_of(mined.folder)["stages"].items()}
    for stage, each in totals.items():
        assert each["kept"] + sum(each["dropped"].values()) == each["read"], stage
    records = len(CASES) + len(BAD_LINES) + 1  # one record is a list of two captions, one of them null
    assert totals["read_captions"]["read"] == records
    assert totals["read_captions"]["kept"] == totals["extract_nouns"]["read"] == len(mined.table("captions"))
    assert totals["extract_nouns"]["kept"] == len(
        {(row["image_id"], row["caption_index"]) for row in mined.table("nouns")}
    )
    assert totals["propose_masks"]["read"] == len({row["image_id"] for row in mined.table("captions")})
    assert totals["match_regions"]["read"] == len(mined.table("nouns"))
    assert sum(sum(each["dropped"].values()) for each in totals.values()) == len(mined.table("drops"))


def test_nothing_but_progress_is_said(mined):
    assert [word for word in ("Traceback", "Error", "Warning", "warn(") if word in mined.err] == []
    assert all(character.isprintable() or character in "\r\n" for character in mined.err)


def test_a_second_command_has_nothing_to_do(mined, poisoned, models, tmp_path):
    shutil.copytree(mined.folder, tmp_path / "run")
    inputs = ["--captions", str(poisoned / "captions.jsonl"), "--images", str(poisoned / "images")]
    limits = ["--max-image-bytes", str(MAX_IMAGE_BYTES), "--images-per-unit", "16"]
    assert ovseg(tmp_path / "run", "mine", *inputs, *limits, *models).status == 0
    assert files_of(tmp_path / "run") == files_of(mined.folder)


@pytest.mark.parametrize("rule", ["nouns", "phrases"])
def test_the_other_noun_rules_take_the_same_captions(rule, nltk_data, poisoned, tmp_path):
    inputs = ["--captions", str(poisoned / "captions.jsonl"), "--images", str(poisoned / "images")]
    run = ovseg(tmp_path / "run", "nouns", *inputs, "--nouns", rule)
    assert run.status == 0
    captions = {(row["image_id"], row["caption_index"]): row["caption"] for row in run.table("captions")}
    for row in run.table("nouns"):
        assert captions[row["image_id"], row["caption_index"]][row["start_char"] : row["end_char"]] == row["surface"]
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", row["noun"])
    without = {key for key, found in run.drops().items() if found == [(NOUNS, "no_nouns")]}
    assert without == {"emoji-only#0", "control-characters-only#0"}


BOMBS = {
    "PNG": png_of_size(60_000, 60_000),
    "PNG below Pillow's own limit": png_of_size(10_000, 8_001),
    "JPEG": with_size(JPEG, JPEG.index(b"\xff\xc0") + 5, ">HH", 65_500, 65_500),
    "BMP": with_size(BMP, 18, "<ii", 60_000, 60_000),
    "GIF": with_size(GIF, 6, "<HH", 60_000, 60_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_a_pixel_is_decoded(name, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match=r"^image_too_large: wanted at most 80000000 pixels \(--max-image-px\)"):
        decode_image(BOMBS[name], FetchOptions())


# Other formats: name, key below the input's folder, and the drop, or None


SHARD = [
    ("shard: sound sample", "a/sound", None),
    ("shard: names that differ in case", "a/Sound", None),
    ("shard: name that climbs out (../../etc/passwd.jpg)", "a/../../etc/passwd", None),
    ("shard: absolute name (/etc/hostname.jpg)", "a//etc/hostname", None),
    ("shard: symbolic link", "a/symbolic.jpg", "not_a_file"),
    ("shard: hard link", "a/hard.jpg", "not_a_file"),
    ("shard: device or pipe", "a/null.png", "not_a_file"),
    ("shard: sample whose image was a link", "a/symbolic", "missing_image"),
    ("shard: image without a caption", "a/alone", "no_caption"),
    ("shard: caption without an image", "a/text", "missing_image"),
    ("shard: the same name again", "a/sound", "duplicate_image"),
    ("shard: cut short", "cut.tar", "truncated_shard"),
]
"""One shard of them, and a second one that is cut in its second sample."""


def sample(key):
    return [file_member(f"{key}.jpg", JPEG), file_member(f"{key}.txt", CAPTION.encode())]


def file_member(name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def link_member(name, type_, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type_, linkname
    return info, b""


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def shards(models, tmp_path_factory):
    """The run over two shards; its parent folder holds nothing else."""
    folder = tmp_path_factory.mktemp("shards")
    members = [
        *sample("sound"),
        *sample("Sound"),
        *sample("../../etc/passwd"),
        *sample("/etc/hostname"),
        link_member("symbolic.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        file_member("symbolic.txt", CAPTION.encode()),
        link_member("hard.jpg", tarfile.LNKTYPE, "sound.jpg"),
        link_member("null.png", tarfile.CHRTYPE),
        file_member("alone.jpg", JPEG),
        file_member("text.txt", CAPTION.encode()),
        *sample("sound"),
    ]
    write_shard(folder / "a.tar", members)
    write_shard(folder / "cut.tar", [*sample("first"), *sample("second")])
    os.truncate(folder / "cut.tar", 4000)
    return ovseg(folder / "run", "mine", "--captions", str(folder / "*.tar"), *models)


@pytest.mark.parametrize(("name", "key", "reason"), SHARD, ids=lambda value: value)
def test_a_poisoned_shard(name, key, reason, shards):
    assert shards.status == 0
    if reason is None:
        assert key in {row["image_id"] for row in shards.table("pairs")}
    else:
        full_key = f"{shards.folder.parent}/{key}" if reason == "truncated_shard" else key
        assert (READ, reason) in shards.drops()[full_key]


def test_a_shard_is_unpacked_nowhere(shards):
    assert sorted(path.name for path in shards.folder.parent.iterdir()) == ["a.tar", "cut.tar", "run"]
    assert {row["image_sha256"] for row in shards.table("masks")} == {shards.table("masks")[0]["image_sha256"]}
    assert manifest_of(shards.folder)["stages"]["read_captions"]["totals"]["read"] == 13
    assert len(shards.table("drops")) == sum(reason is not None for _, _, reason in SHARD)


FOLDER = [
    ("folder: image without a .txt", "alone", "no_caption"),
    ("folder: .txt without an image", "text.txt", "missing_image"),
    ("folder: empty .txt", "empty", "empty_caption"),
    ("folder: .txt that is no UTF-8", "latin", "not_utf8"),
    ("folder: two images of one name", "sound.png", "duplicate_image"),
    ("folder: two .txt of one name", "sound.txt", "missing_image"),
]


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder") / "images"
    folder.mkdir()
    for name in ("sound.jpg", "sound.png", "alone.jpg", "empty.jpg", "latin.jpg"):
        (folder / name).write_bytes(JPEG)
    texts = {"sound.TXT": b"a kite", "sound.txt": b"a dog", "text.txt": b"x", "empty.txt": b"", "latin.txt": b"caf\xe9"}
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    return ovseg(folder.parent / "run", "nouns", "--captions", str(folder), "--nouns", "lexicon")


@pytest.mark.parametrize(("name", "key", "reason"), FOLDER, ids=lambda value: value)
def test_a_poisoned_folder(name, key, reason, folder_run):
    assert folder_run.drops()[key] == [(READ, reason)]
    assert [row["caption"] for row in folder_run.table("captions")] == ["a kite"]
    assert len(folder_run.table("drops")) == len(FOLDER)


COCO = [
    ("COCO: image without captions", "2", "no_caption"),
    ("COCO: caption of an image that is not listed", "c.json:annotation 7", "unknown_image"),
    ("COCO: image listed twice, with other facts", "c.json:images[2]", "duplicate_image"),
    ("COCO: image without an id", "c.json:images[3]", "missing_image"),
    ("COCO: caption that is null", "c.json:annotation 8", "missing_caption"),
    ("COCO: licence that is no text", "c.json:images[4]", "bad_column_type"),
    ("COCO: id that is no text and no whole number", "c.json:images[5]", "bad_column_type"),
]


@pytest.fixture(scope="module")
def coco_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    images = [
        {"id": 1, "file_name": "1.jpg"},
        {"id": 2, "file_name": "2.jpg"},
        {"id": 1, "file_name": "other.jpg"},
        {"file_name": "3.jpg"},
        {"id": 4, "file_name": "4.jpg", "license": 1},
        {"id": 5.5, "file_name": "5.jpg"},
    ]
    annotations = [
        {"id": 6, "image_id": 1, "caption": CAPTION},
        {"id": 7, "image_id": 99, "caption": CAPTION},
        {"id": 8, "image_id": 1, "caption": None},
    ]
    document = {"images": images, "annotations": annotations, "licenses": [{"id": 1, "url": ["x"]}]}
    (folder / "c.json").write_text(json.dumps(document))
    inputs = ["--captions", str(folder / "c.json"), "--images", str(folder)]
    return ovseg(folder / "run", "nouns", *inputs, "--nouns", "lexicon")


@pytest.mark.parametrize(("name", "key", "reason"), COCO, ids=lambda value: value)
def test_a_poisoned_coco_json(name, key, reason, coco_run):
    drops = {key.removeprefix(f"{coco_run.folder.parent}/"): found for key, found in coco_run.drops().items()}
    assert drops[key] == [(READ, reason)]
    assert [row["image_id"] for row in coco_run.table("captions")] == ["1"]
    assert len(drops) == len(COCO)


# What cannot be read or written at all: one sentence


def parquet(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def doubled_parquet():
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([["1"], ["x"], ["y"]], ["image", "caption", "caption"]), sink)
    return sink.getvalue()


TABLES = [
    ("table that is not there", "none.jsonl", None, "nothing matches; wanted an existing file, folder or glob"),
    ("table whose name tells no format", "t.dat", b"x", "the name does not tell the format"),
    ("empty table", "t.csv", b"", "no caption could be read (no rows); check the format and the column options"),
    ("table with a header only", "t.csv", b"image,caption\n", "no caption could be read (no rows)"),
    ("table in which every row is bad", "t.jsonl", b'{"image": "1", "caption": ""}', "(1 empty_caption)"),
    ("JSONL without a caption column", "t.jsonl", b'{"image": "1"}', "wanted a column for the caption"),
    ("JSONL without an image column", "t.jsonl", b'{"caption": "x"}', "wanted a column for the image"),
    ("JSONL that is no JSON", "t.jsonl", b"image,caption\n", "wanted one JSON object a line, got none"),
    ("CSV without its columns", "t.csv", b"a,b\n1,x\n", "got a, b in the first line; without a header there, say"),
    ("CSV in UTF-16", "t.csv", "image,caption\n1,x\n".encode("utf-16"), r"i\x00m\x00a\x00g\x00e\x00"),
    (
        "CSV with escape sequences in its header",
        "t.csv",
        b"\x1b[2J,\x07\n1,x\n",
        r"got \x1b[2J, \x07 in the first line",
    ),
    ("CSV with a column twice", "t.csv", b"image,caption,caption\n1,x,y\n", "wanted one column caption, got 2"),
    ("Parquet without its columns", "t.parquet", parquet(image=["1"]), "wanted a column for the caption"),
    (
        "Parquet with a caption column of numbers",
        "t.parquet",
        parquet(image=["1"], caption=[0.5]),
        "of a type that cannot be read: caption (double)",
    ),
    (
        "Parquet with an image column of bytes in structs",
        "t.parquet",
        parquet(image=[{"bytes": b"x"}], caption=["x"]),
        "of a type that cannot be read: image (struct<",
    ),
    ("Parquet with a column twice", "t.parquet", doubled_parquet(), "wanted one column caption, got 2"),
    ("Parquet that is none, or cut short", "t.parquet", b"PAR1", "cannot be read as Parquet"),
    ("COCO JSON that is no JSON", "t.json", b"{", "wanted one JSON document, got something else"),
    ("COCO JSON without its lists", "t.json", b'{"images": []}', "got no list annotations but 'images'"),
    (
        "COCO JSON of masks",
        "t.json",
        b'{"images": [], "annotations": [{"bbox": []}]}',
        "got annotations without a caption",
    ),
    ("gzip that is cut short", "t.jsonl.gz", b"\x1f\x8b\x08\x00", "cannot be read to its end"),
    (
        "tar that is compressed",
        "t.tar.gz",
        b"\x1f\x8b",
        "is a compressed tar, in which images cannot be found by offset",
    ),
    ("tar that is none", "t.tar", b"x" * 2000, "wanted an uncompressed tar file"),
    ("folder without an image", "t/readme.txt", b"x", "wanted a folder of images with .txt beside them, got no image"),
]


def sentence_of(run, verb):
    """What a refused run said, which must be one line without a control character, and all that it said at last."""
    assert run.status == 2
    assert "Traceback" not in run.err
    last = run.err.rsplit("\r", 1)[-1].rsplit(f"ovseg {verb}: ", 1)[1]
    assert last.endswith("\n")
    assert last[:-1].isprintable()
    return last[:-1]


@pytest.mark.parametrize(("name", "file", "data", "message"), TABLES, ids=lambda value: str(value)[:40])
def test_a_table_that_cannot_be_read_is_one_sentence(name, file, data, message, tmp_path):
    table = tmp_path / "input" / file
    table.parent.mkdir(parents=True)
    if data is not None:
        table.write_bytes(data)
    place = table.parent if "/" in file else table
    run = ovseg(tmp_path / "run", "nouns", "--captions", str(place), "--nouns", "lexicon")
    assert message in sentence_of(run, "nouns")
    assert not (tmp_path / "run" / "units.json").exists()


@pytest.fixture(scope="module")
def sound(drawn, models):
    """The arguments of a small sound run of two units."""
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--images-per-unit", "6"]
    return ["mine", *inputs, *models]


@pytest.fixture(scope="module")
def whole(sound, tmp_path_factory):
    """What a run on a sound disk ends in."""
    return files_of(ovseg(tmp_path_factory.mktemp("whole") / "run", *sound).folder)


FULL = "cannot be written: No space left on device; free space there and give the same command again"

PLACES = [
    "captions/part-00001.parquet",
    "drops/part-00001-read_captions.parquet",
    ".input.json",
    "units.json",
    ".planned.json",
    "nouns/part-00000.parquet",
    "drops/part-00001-extract_nouns.parquet",
    "masks/part-00001.parquet",
    "pairs/part-00000.parquet",
    "vocabulary/part-00000.parquet",
    "timings.json",
    "run.json",
    "_SUCCESS",
    "examples.png",
]
"""Every kind of file that a run writes, in its order."""


class FullDisk:
    """Stands in for a file that is opened for writing: half of what is written fits."""

    def __init__(self, path, mode):
        self.file = open(path, mode)  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_disk(monkeypatch, name):
    """Lets the disk be full from the moment that a file of the run is written."""
    folder, _, base = name.rpartition("/")
    hidden = f"{folder}/.{base}."

    def open_(path, mode):
        return FullDisk(path, mode) if hidden in path else open(path, mode)

    monkeypatch.setattr(write_tables, "open", open_, raising=False)


@pytest.mark.parametrize("name", PLACES)
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(name, sound, whole, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        fill_disk(patch, name)
        assert sentence_of(ovseg(run, *sound), "mine").startswith(f"{run}/{name} {FULL}")
    kept = {".input.json", ".parts.arrow", ".planned.json", ".unfinished"}  # what is known, planned and begun
    assert not [path for path in run.rglob("*") if path.name.startswith(".") and path.name not in kept]
    assert ovseg(run, *sound).status == 0
    assert files_of(run) == whole


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_disk_that_is_full_while_captions_are_read(sound, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Spill, "_path", lambda spill, bucket: "/dev/full")
        assert FULL in sentence_of(ovseg(tmp_path / "run", *sound), "mine")
    assert list((tmp_path / "run").iterdir()) == []
    assert ovseg(tmp_path / "run", *sound).status == 0
    assert files_of(tmp_path / "run") == whole


def test_a_full_disk_is_the_same_sentence_under_beam(sound, whole, tmp_path, monkeypatch, capsys, caplog):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        fill_disk(patch, "masks/part-00000.parquet")
        assert main([*sound, "--output", str(run)]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith(f"ovseg mine: {run}/masks/part-00000.parquet {FULL}")
    assert err.endswith("which goes on\n")  # and not with the step that Beam adds
    assert "Traceback" not in err + caplog.text
    assert main([*sound, "--output", str(run)]) == 0
    assert files_of(run) == whole


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=40k none {disk} || exit 99
{command}; echo first $?
mount -o remount,size=4m {disk}
{command}; echo second $?
cp -r {disk}/run {copy}
"""


def test_a_disk_that_is_really_full(drawn, tmp_path):
    """A file system of 40 kB, mounted where only this test's processes see it, which then grows."""
    (tmp_path / "disk").mkdir()
    arguments = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--nouns", "lexicon"]
    command = [sys.executable, "-m", "pipelines", "nouns", *arguments, "--images-per-unit", "1", "--runner", "plain"]
    line = " ".join([*command, "--output", str(tmp_path / "disk/run")])
    script = ON_A_SMALL_DISK.format(disk=tmp_path / "disk", command=line, copy=tmp_path / "copy")
    try:
        done = subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("this system has no unshare")
    if done.returncode == 99 or "first" not in done.stdout:
        pytest.skip(f"this system lets nobody mount a file system: {done.stderr.strip()}")
    assert ("first 2" in done.stdout, "second 0" in done.stdout) == (True, True), done.stderr
    assert FULL in done.stderr
    assert "Traceback" not in done.stderr
    run = ovseg(tmp_path / "run", "nouns", *arguments, "--images-per-unit", "1")
    assert files_of(tmp_path / "copy") == files_of(run.folder)


def taken_by_a_file(run):
    run.write_text("mine")


def below_a_file(run):
    run.parent.rmdir()
    run.parent.write_text("mine")


def foreign_units(run):
    run.mkdir()
    (run / "units.json").write_text('{"metre": 1}')


def foreign_manifest(run):
    run.mkdir()
    (run / "run.json").write_text("[]")


def foreign_part(run):
    (run / "captions").mkdir(parents=True)
    (run / "captions" / "part-00000.parquet").write_bytes(parquet(image=["1"]))


def taken_table(run):
    run.mkdir()
    (run / "nouns").write_text("mine")


def another_input(run):
    table = run.parent / "other.jsonl"
    table.write_text('{"image": "1.jpg", "caption": "a kite"}')
    assert ovseg(run, "nouns", "--captions", str(table), "--nouns", "lexicon").status == 0


OUTPUTS = [
    ("--output is a file", taken_by_a_file, "is no folder that can be written to; give another place"),
    ("--output below a file", below_a_file, "is no folder that can be written to; give another place"),
    ("--output holds a run of another input", another_input, "holds a run of another input (1 images in 1 units)"),
    ("--output holds a units.json of something else", foreign_units, "units.json is no file of a run of this release"),
    ("--output holds a run.json of something else", foreign_manifest, "run.json is no file of a run of this release"),
    ("--output holds a table of something else", foreign_part, "parquet is no file of a run of this release"),
    (
        "--output holds a file of a table's name",
        taken_table,
        "cannot be written: File exists; mend that",
    ),
]


@pytest.mark.parametrize(("name", "prepare", "message"), OUTPUTS, ids=lambda value: str(value)[:50])
def test_an_output_that_cannot_be_used_is_one_sentence_and_stays_as_it_is(name, prepare, message, sound, tmp_path):
    run = tmp_path / "folder" / "run"
    run.parent.mkdir()
    prepare(run)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert message in sentence_of(ovseg(run, *sound), "mine")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")
def test_a_file_system_that_takes_no_folder_is_one_sentence(sound):
    """The superuser too may make no folder in /proc, though os.access says so."""
    said = sentence_of(ovseg("/proc/ovseg-run", *sound), "mine")
    refused = OTHERS["file system that takes no new folder, or is read-only"]
    assert refused in said or "/proc is no folder that can be written to" in said


def test_files_of_somebody_else_stay_where_they_are(sound, whole, tmp_path):
    others = ["notes.txt", "masks/part-of-mine", "captions/.hidden", "src/module.py"]
    for name in others:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("mine")
    assert ovseg(tmp_path / "run", *sound).status == 0
    assert set(files_of(tmp_path / "run")) - set(whole) == set(others) - {"captions/.hidden"}
    assert [(tmp_path / "run" / name).read_text() for name in others] == ["mine"] * len(others)


def test_no_control_character_reaches_the_terminal(poisoned, models, tmp_path):
    row = {"image_id": "x\x1b[2J\n", "image": SOUND, "caption": EVIL}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    inputs = ["--captions", str(tmp_path / "t.jsonl"), "--images", str(poisoned / "images")]
    run = ovseg(tmp_path / "run\x1b[31m", "mine", *inputs, *models)
    assert run.status == 0
    assert r"x\x1b[2J\n: a \x00kite\x1b[2J on \x07the\x9b31m grass\r\nand a dog\u202e" in run.out
    assert r"run\x1b[31m" in run.out
    assert all(character.isprintable() or character == "\n" for character in run.out)


# The page


def dropped(cases):
    """The rows of the page about records: the reasons that each must name; none where all is kept."""
    rows = {}
    for name, drop in cases:
        rows.setdefault(name, set()).update([drop] if drop else [])
    return rows


RECORDS = dropped(
    [
        *[(case.name, case.drop) for case in CASES],
        *[(name, (READ, reason)) for name, (_, reason) in BAD_LINES.items()],
        *[(name, reason and (READ, reason)) for name, _, reason in [*SHARD, *FOLDER, *COCO]],
    ]
)
SENTENCES = {row[0]: row[-1] for row in [*TABLES, *OUTPUTS]}
OTHERS = {
    "disk full, or quota used up": FULL,
    "file system that takes no new folder, or is read-only": "; mend that and give the same command",
    "--output holds other files": "kept where they are",
}


def rows_of_page():
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
    return {name: answer for name, answer in rows if name not in ("case", "---")}


def test_the_page_has_every_case_and_no_other():
    assert list(rows_of_page()) == [*RECORDS, *SENTENCES, *OTHERS]


@pytest.mark.parametrize("name", RECORDS)
def test_the_page_says_what_becomes_of_a_record(name):
    answer = rows_of_page()[name]
    assert set(re.findall(r"`(\w+)` `(\w+)`", answer)) == RECORDS[name]
    assert RECORDS[name] or answer.startswith("kept")
    assert all(reason in REASONS for _, reason in RECORDS[name])


@pytest.mark.parametrize("name", [*SENTENCES, *OTHERS])
def test_the_page_says_the_sentence(name):
    assert {**SENTENCES, **OTHERS}[name] in rows_of_page()[name]
