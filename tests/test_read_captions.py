"""Caption tables of every format become the same rows; what is bad becomes a BadRow, never a silence."""

import gzip
import json
import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.caption_formats.columns import CANDIDATES
from pipelines.caption_formats.delimited import unquoted
from pipelines.caption_formats.image_places import ImageBase, normal_path
from pipelines.read_captions import BadRow, CaptionRow, ReadOptions, input_files, read_rows
from schemas import UserError
from schemas.drops import READING


def read(*captions, **options):
    given = ReadOptions(tuple(str(each) for each in captions), **options)
    rows = list(read_rows(input_files(given), given))
    assert all(row.reason in READING for row in rows if isinstance(row, BadRow))
    return rows


def problems(rows, folder):
    """Key below the folder and reason of the bad rows."""
    return [(row.key.removeprefix(f"{folder}/"), row.reason) for row in rows if isinstance(row, BadRow)]


def kept(rows):
    return [row for row in rows if isinstance(row, CaptionRow)]


def write_lines(path, *records):
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


# JSONL


def test_jsonl_rows_with_every_column(tmp_path):
    record = {"image": "a/1.jpg", "caption": " a cat ", "image_id": 7, "url": "http://x/1", "license": "CC0"}
    table = write_lines(tmp_path / "t.jsonl", record)
    assert read(table) == [CaptionRow("7", f"{tmp_path}/a/1.jpg", 0, "a cat", "http://x/1", "CC0")]


def test_a_list_of_captions_is_a_row_each_and_a_bad_one_drops_alone(tmp_path):
    table = write_lines(tmp_path / "t.jsonl", {"file_name": "1.jpg", "captions": ["a cat", " ", None, "a dog", 3]})
    rows = read(table)
    assert [(row.order, row.caption) for row in kept(rows)] == [(0, "a cat"), (3, "a dog")]
    assert problems(rows, tmp_path) == [
        ("t.jsonl:1#1", "empty_caption"),
        ("t.jsonl:1#2", "missing_caption"),
        ("t.jsonl:1#4", "bad_column_type"),
    ]


def test_bad_jsonl_rows_never_stop_the_reading(tmp_path):
    table = write_lines(
        tmp_path / "t.jsonl",
        b'\xef\xbb\xbf{"image": "1.jpg", "caption": "first"}',
        b"{not json",
        b'["a", "list"]',
        b'{"image": "3.jpg", "caption": "caf\xe9"}',
        b"   ",
        {"image": "4.jpg"},
        {"caption": "no image"},
        {"image": "5.jpg", "caption": ""},
        {"image": "6.jpg", "caption": {"en": "a cat"}},
        {"image": ["7.jpg"], "caption": "a cat"},
        {"image": "8.jpg", "caption": []},
        b'{"image": "9.jpg", "caption": "half a \\ud83d face"}',
        b'{"image": "10.jpg", "caption": "two"} {}',
        {"image": "11.jpg", "caption": "last"},
    )
    rows = read(table)
    assert [row.caption for row in kept(rows)] == ["first", "last"]
    assert problems(rows, tmp_path) == [
        ("t.jsonl:2", "not_json"),
        ("t.jsonl:3", "not_json"),
        ("t.jsonl:4", "not_utf8"),
        ("t.jsonl:6", "missing_caption"),
        ("t.jsonl:7", "missing_image"),
        ("t.jsonl:8", "empty_caption"),
        ("t.jsonl:9", "bad_column_type"),
        ("t.jsonl:10", "bad_column_type"),
        ("t.jsonl:11", "missing_caption"),
        ("t.jsonl:12", "not_utf8"),
        ("t.jsonl:13", "not_json"),
    ]
    assert rows[3].detail == "wanted UTF-8, got byte 0xe9 at 34"
    for row in rows:
        json.dumps(row, ensure_ascii=False).encode()


def test_columns_are_chosen_over_the_first_records_not_the_first_alone(tmp_path):
    table = write_lines(tmp_path / "t.jsonl", {"id": 1}, {"url": "http://x/1.jpg", "TEXT": "a cat"})
    rows = read(table)
    assert kept(rows) == [CaptionRow("http://x/1.jpg", "http://x/1.jpg", 0, "a cat", None, None)]
    assert problems(rows, tmp_path) == [("t.jsonl:1", "missing_image")]


def test_a_table_with_ids_may_lack_images(tmp_path):
    table = write_lines(tmp_path / "t.jsonl", {"image_id": "a", "caption": "a cat"}, {"image_id": None, "caption": "x"})
    rows = read(table)
    assert kept(rows) == [CaptionRow("a", None, 0, "a cat", None, None)]
    assert problems(rows, tmp_path) == [("t.jsonl:2", "missing_image")]


def test_named_columns_win(tmp_path):
    record = {"image": "1.jpg", "pic": "2.jpg", "caption": "a cat", "alt": "a dog", "key": "k", "page": "p", "by": 4}
    options = {"image_column": "pic", "caption_column": "alt", "image_id_column": "key"}
    rows = read(write_lines(tmp_path / "t.jsonl", record), **options, source_url_column="page", licence_column="by")
    assert rows == [CaptionRow("k", f"{tmp_path}/2.jpg", 0, "a dog", "p", "4")]


@pytest.mark.parametrize(
    ("value", "flag"),
    [("UNLIKELY", "UNLIKELY"), (True, "true"), (False, "false"), (0.25, "0.25"), (3, "3"), (None, None), ("", None)],
)
def test_a_safety_flag_goes_through_as_text(tmp_path, value, flag):
    (row,) = read(write_lines(tmp_path / "t.jsonl", {"image": "1.jpg", "caption": "a cat", "NSFW": value}))
    assert row.safety == flag


def test_a_safety_flag_that_is_none_of_these_drops_its_row(tmp_path):
    rows = read(write_lines(tmp_path / "t.jsonl", {"image": "1.jpg", "caption": "a cat", "safety": {"score": 1}}))
    assert problems(rows, tmp_path) == [("t.jsonl:1", "bad_column_type")]


def test_a_safety_column_may_have_any_name(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("image,caption,punsafe,nsfw\n1.jpg,a cat,0.9,no\n")
    assert [row.safety for row in read(table)] == ["no"]
    assert [row.safety for row in read(table, safety_column="punsafe")] == ["0.9"]


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        (
            {"image": "1", "words": "x"},
            {},
            "wanted a column for the caption (caption, captions, text, sentence, alt_text)",
        ),
        ({"image": "1", "words": "x"}, {}, "got image, words; name it by --caption-column"),
        ({"img": "1", "caption": "x"}, {}, "got img, caption; name it by --image-column"),
        (
            {"image": "1", "caption": "x"},
            {"caption_column": "alt"},
            "wanted a column alt (--caption-column), got image, caption",
        ),
        ({"image": "1", "caption": "x"}, {"image_id_column": "key"}, "wanted a column key (--image-id-column)"),
        (b"image,caption", {}, "wanted one JSON object a line, got none in the first 1 lines"),
    ],
)
def test_a_table_without_its_columns_is_one_sentence(record, options, message, tmp_path):
    table = write_lines(tmp_path / "t.jsonl", record)
    with pytest.raises(UserError) as error:
        read(table, **options)
    assert str(error.value).startswith(str(table))
    assert message in str(error.value)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_compressed_text(tmp_path, suffix):
    path = tmp_path / f"t.jsonl.{suffix}"
    with fsspec.open(str(path), "wb", compression="infer") as file:
        file.write(b'{"image": "1.jpg", "caption": "a cat"}\n')
    assert [row.caption for row in read(path)] == ["a cat"]


def test_a_gzip_file_that_is_cut_short_is_an_error(tmp_path):
    lines = b"".join(b'{"image": "%d.jpg", "caption": "a cat"}\n' % number for number in range(1000))
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(lines)[:-20])
    with pytest.raises(UserError, match=r"cannot be read to its end .* wanted a whole file"):
        read(path)


def test_a_caption_of_too_many_characters_drops_with_its_beginning(tmp_path):
    table = write_lines(tmp_path / "t.jsonl", {"image": "1.jpg", "caption": ["a cat", "ca" * 3]})
    rows = read(table, max_caption_chars=5)
    assert [row.caption for row in kept(rows)] == ["a cat"]
    assert rows[1] == BadRow(
        "1.jpg#1", "caption_too_long", "wanted at most 5 characters (--max-caption-chars), got 6: 'cacaca'"
    )


# CSV and TSV


def test_csv_with_quotes_line_breaks_and_crlf(tmp_path):
    table = tmp_path / "t.csv"
    table.write_bytes(b'image,caption\r\n1.jpg,"a cat, ""Tom"",\r\n\r\non a mat"\r\n\r\n2.jpg,a dog\r\n')
    assert [(row.image_id, row.caption) for row in read(table)] == [
        ("1.jpg", 'a cat, "Tom",\r\n\r\non a mat'),
        ("2.jpg", "a dog"),
    ]


def test_bad_csv_rows_are_told_by_line(tmp_path):
    table = tmp_path / "t.csv"
    table.write_bytes(b'image,caption\n1.jpg\n2.jpg,"stray\n3.jpg,"b"\n4.jpg,caf\xe9\n,no image\n5.jpg,\n6.jpg,a cat\n')
    rows = read(table)
    assert [row.image_id for row in kept(rows)] == ["3.jpg", "6.jpg"]
    assert problems(rows, tmp_path) == [
        ("t.csv:2", "wrong_field_count"),
        ("t.csv:3", "wrong_field_count"),
        ("t.csv:5", "not_utf8"),
        ("t.csv:6", "missing_image"),
        ("t.csv:7", "empty_caption"),
    ]
    assert rows[0].detail == "wanted 2 fields (image, caption), got 1: ['1.jpg']"
    assert rows[1].detail.startswith("line 3: ")


def test_a_quote_that_never_ends_costs_its_line_only(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text('image,caption\n1.jpg,a cat\n2.jpg,"no end\n3.jpg,a dog\n')
    rows = read(table)
    assert [row.image_id for row in kept(rows)] == ["1.jpg", "3.jpg"]
    assert problems(rows, tmp_path) == [("t.csv:3", "wrong_field_count")]
    assert rows[1].detail == "line 3: unexpected end of data"


def test_a_quote_far_from_the_end_costs_its_line_only(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.caption_formats.delimited.MAX_LINES_OF_RECORD", 3)
    table = tmp_path / "t.csv"
    lines = [f"{number}.jpg,{'' if number != 2 else chr(34)}a cat" for number in range(9)]
    table.write_text("\n".join(["image,caption", *lines]) + "\n")
    rows = read(table)
    assert [row.image_id for row in kept(rows)] == [f"{number}.jpg" for number in range(9) if number != 2]
    assert problems(rows, tmp_path) == [("t.csv:4", "wrong_field_count")]
    assert "a quote is not closed within 3 lines" in rows[2].detail


def test_headerless_tsv_with_named_columns(tmp_path):
    table = tmp_path / "t.tsv"
    table.write_text('a "red" cat\thttp://x/1.jpg\n"a dog\thttp://x/2.jpg\n\n"say ""hi"""\thttp://x/3.jpg\n')
    rows = read(table, columns=("caption,url",))
    assert [row.caption for row in rows] == ['a "red" cat', '"a dog', 'say "hi"']
    assert rows[0] == CaptionRow("http://x/1.jpg", "http://x/1.jpg", 0, 'a "red" cat', None, None)
    assert rows == read(table, columns=("caption", "url"))


def test_a_headerless_table_without_names_says_what_to_do(tmp_path):
    table = tmp_path / "t.tsv"
    table.write_text("a cat\thttp://x/1.jpg\n")
    with pytest.raises(
        UserError, match=r"got a cat, http://x/1.jpg in the first line; without a header there, say --col"
    ):
        read(table)


@pytest.mark.parametrize(
    ("field", "wanted"), [('"a"', "a"), ('"a""b"', 'a"b'), ('"a" b"', '"a" b"'), ('"', '"'), ('""', ""), ("a", "a")]
)
def test_unquoted(field, wanted):
    assert unquoted(field) == wanted


def test_conceptual_captions_reads_whole(test_data):
    rows = read(test_data / "cc3m_validation.tsv", columns=("caption", "url"))
    assert len(rows) == 15_833
    assert len(kept(rows)) == 15_833
    assert rows[1].caption == "an angler fishes river on a snowy day ."


# Parquet


def test_parquet_texts_lists_and_numbers(tmp_path):
    table = pa.table(
        {
            "image": pa.array(["1.jpg", None, "3.jpg"]).dictionary_encode(),
            "captions": pa.array([["a cat", "a dog"], ["x"], None], pa.large_list(pa.string())),
            "image_id": pa.array([1, 2, 3], pa.int64()),
            "width": [1.5, 2.5, 3.5],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    rows = read(tmp_path / "t.parquet")
    assert kept(rows) == [
        CaptionRow("1", f"{tmp_path}/1.jpg", 0, "a cat", None, None),
        CaptionRow("1", f"{tmp_path}/1.jpg", 1, "a dog", None, None),
        CaptionRow("2", None, 0, "x", None, None),
    ]
    assert problems(rows, tmp_path) == [("t.parquet:2", "missing_caption")]


def test_parquet_safety_flags_may_be_truth_values_or_numbers(tmp_path):
    table = pa.table({"image": ["1.jpg", "2.jpg"], "caption": ["x", "y"], "nsfw": [True, None], "punsafe": [0.5, 0.25]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert [row.safety for row in read(tmp_path / "t.parquet")] == ["true", None]
    assert [row.safety for row in read(tmp_path / "t.parquet", safety_column="punsafe")] == ["0.5", "0.25"]


def test_parquet_positions_go_on_over_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.caption_formats.parquet.ROWS_PER_BATCH", 2)
    pq.write_table(pa.table({"image": list("abcde"), "caption": ["x", "", "x", "", ""]}), tmp_path / "t.parquet")
    keys = [key for key, _ in problems(read(tmp_path / "t.parquet"), tmp_path)]
    assert keys == ["t.parquet:1", "t.parquet:3", "t.parquet:4"]


def test_parquet_bytes_that_are_no_utf8_drop_alone(tmp_path):
    raw = pa.array([b"a cat", b"caf\xe9"], pa.binary())
    broken = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    for number, column in enumerate([raw, broken]):
        path = tmp_path / f"t{number}.parquet"
        pq.write_table(pa.table({"image": ["1.jpg", "2.jpg"], "caption": column}), path)
        rows = read(path)
        assert [row.caption for row in kept(rows)] == ["a cat"]
        assert problems(rows, tmp_path) == [(f"t{number}.parquet:1", "not_utf8")]


def test_parquet_types_that_cannot_be_read_are_named(tmp_path):
    images = pa.array([{"bytes": b"x", "path": "1.jpg"}])
    pq.write_table(pa.table({"image": images, "caption": ["a"], "score": [0.5]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"got caption; of a type that cannot be read: image \(struct<"):
        read(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="wanted text or a list of texts in column score, got double; name another col"):
        read(tmp_path / "t.parquet", caption_column="score", image_column="caption")


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    pq.write_table(pa.Table.from_arrays([["1"], ["x"], ["y"]], ["image", "caption", "caption"]), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("image,caption,caption\n1.jpg,x,y\n")
    for name in ("t.parquet", "t.csv"):
        with pytest.raises(UserError, match=rf"{name}: wanted one column caption, got 2; rename one, or name another"):
            read(tmp_path / name)


def test_what_is_no_parquet_is_an_error(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"t\.parquet: cannot be read as Parquet"):
        read(tmp_path / "t.parquet")


# COCO


COCO = {
    "licenses": [{"id": 1, "name": "Attribution", "url": "http://cc/by"}, {"id": 2, "name": "Own"}],
    "images": [
        {"id": 10, "file_name": "10.jpg", "coco_url": "http://c/10.jpg", "flickr_url": "http://f/10", "license": 1},
        {"id": 11, "file_name": "11.jpg", "coco_url": "http://c/11.jpg", "license": 2},
        {"id": 12, "file_name": "12.jpg", "coco_url": "http://c/12.jpg", "license": 9},
    ],
    "annotations": [
        {"id": 5, "image_id": 10, "caption": "a cat\n"},
        {"id": 3, "image_id": 10, "caption": "the cat"},
        {"id": 4, "image_id": 11, "caption": "a dog"},
        {"id": 8, "image_id": 99, "caption": "nobody"},
        {"id": 9, "image_id": 11},
    ],
}


def write_coco(path, **changes):
    path.write_text(json.dumps({**COCO, **changes}))
    return path


def test_coco_from_its_urls(tmp_path):
    rows = read(write_coco(tmp_path / "c.json"))
    assert kept(rows) == [
        CaptionRow("10", "http://c/10.jpg", 5, "a cat", "http://f/10", "http://cc/by"),
        CaptionRow("10", "http://c/10.jpg", 3, "the cat", "http://f/10", "http://cc/by"),
        CaptionRow("11", "http://c/11.jpg", 4, "a dog", None, "Own"),
    ]
    assert problems(rows, tmp_path) == [
        ("c.json:annotation 8", "unknown_image"),
        ("c.json:annotation 9", "missing_caption"),
        ("12", "no_caption"),
    ]


def test_coco_from_a_folder_keeps_its_url_as_source(tmp_path):
    rows = kept(read(write_coco(tmp_path / "c.json"), images=str(tmp_path / "train")))
    assert rows[0].image_uri == f"{tmp_path}/train/10.jpg"
    assert [row.source_url for row in rows] == ["http://f/10", "http://f/10", "http://c/11.jpg"]


def test_coco_entries_that_cannot_be_read_drop_alone(tmp_path):
    images = [{"file_name": "x"}, {"id": 1, "file_name": "1.jpg"}, {"id": 1, "file_name": "2.jpg"}, 7]
    annotations = ["x", {"image_id": 1, "caption": "a cat"}, {"id": 2**70, "image_id": 1, "caption": "a dog"}]
    rows = read(write_coco(tmp_path / "c.json", images=images, annotations=annotations), images="/i")
    assert kept(rows) == [
        CaptionRow("1", "/i/1.jpg", 0, "a cat", None, None),
        CaptionRow("1", "/i/1.jpg", 0, "a dog", None, None),
    ]
    assert problems(rows, tmp_path) == [
        ("c.json:images[0]", "missing_image"),
        ("c.json:images[2]", "duplicate_image"),
        ("c.json:images[3]", "missing_image"),
        ("c.json:annotations[0]", "unknown_image"),
    ]


def test_coco_safety_flags_are_the_images(tmp_path):
    images = [{"id": 10, "coco_url": "http://c/10.jpg", "safety": "safe"}, {"id": 11, "coco_url": "http://c/11.jpg"}]
    rows = kept(read(write_coco(tmp_path / "c.json", images=images)))
    assert {(row.image_id, row.safety) for row in rows} == {("10", "safe"), ("11", None)}


def test_a_licence_that_is_no_text_drops_the_images_that_have_it(tmp_path):
    licences = [{"id": 1, "url": 5.5}, {"id": 2, "name": "Own"}]
    rows = read(write_coco(tmp_path / "c.json", licenses=licences))
    assert [(row.image_id, row.licence) for row in kept(rows)] == [("11", "Own")]
    assert problems(rows, tmp_path)[0] == ("c.json:images[0]", "bad_column_type")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "1"}\n{"image": "2"}\n', "wanted one JSON document, got something else (Extra data"),
        ("[]", "got a list at its top"),
        ('{"rows": 1}', "got no list images and no list annotations but 'rows'"),
        (
            '{"images": [], "annotations": [{"segmentation": []}]}',
            "got annotations without a caption; instances and panoptic files hold masks",
        ),
        (
            '{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}',
            "its images have no coco_url; say by --images which folder holds them",
        ),
    ],
)
def test_what_is_no_coco_captions_json_is_one_sentence(text, message, tmp_path):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError) as error:
        read(tmp_path / "c.json")
    assert message in str(error.value)


def test_coco_val2017_reads_whole(test_data):
    rows = read(test_data / "captions_val2017.json")
    assert len(kept(rows)) == len(rows) == 25_014
    assert len({row.image_id for row in rows}) == 5_000
    assert {row.licence.split("/")[2] for row in rows} == {"creativecommons.org", "flickr.com"}


# Folder


def test_a_folder_of_images_with_texts_beside_them(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.JPG", "deep/a.png", "alone.webp", "b.jpg", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"image")
    (tmp_path / "deep/a.txt").write_text("a cat\n\nthe cat\n")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfa dog")
    (tmp_path / "empty.png").write_bytes(b"image")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.png").write_bytes(b"image")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "readme.txt").write_text("about")
    rows = read(tmp_path)
    assert kept(rows) == [
        CaptionRow("b", f"{tmp_path}/b.JPG", 0, "a dog", None, None),
        CaptionRow("deep/a", f"{tmp_path}/deep/a.png", 0, "a cat", None, None),
        CaptionRow("deep/a", f"{tmp_path}/deep/a.png", 1, "the cat", None, None),
    ]
    assert problems(rows, tmp_path) == [
        ("b.jpg", "duplicate_image"),
        ("readme.txt", "missing_image"),
        ("alone", "no_caption"),
        ("empty", "empty_caption"),
        ("latin", "not_utf8"),
    ]


def test_a_second_text_of_an_image_is_told(tmp_path):
    for name in ("a.jpg", "a.TXT", "a.txt"):
        (tmp_path / name).write_text("a cat")
    rows = read(tmp_path)
    assert kept(rows) == [CaptionRow("a", f"{tmp_path}/a.jpg", 0, "a cat", None, None)]
    assert problems(rows, tmp_path) == [("a.txt", "missing_image")]


def test_a_folder_without_images_names_the_way_out(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"got no image .*; name tables by a glob such as .*/\*\.parquet"):
        read(tmp_path)


def test_a_folder_in_memory():
    fsspec.filesystem("memory").pipe({"/pics/1.jpg": b"image", "/pics/1.txt": b"a cat"})
    assert read("memory://pics") == [CaptionRow("1", "memory:///pics/1.jpg", 0, "a cat", None, None)]


# Places


@pytest.mark.parametrize(
    ("base", "path", "uri"),
    [
        ("/data", "a/1.jpg", "/data/a/1.jpg"),
        ("/data/", "../1.jpg", "/1.jpg"),
        ("file:///data", "1.jpg", "/data/1.jpg"),
        ("/data", "/abs/1.jpg", "/abs/1.jpg"),
        ("/data", "s3://b/1.jpg", "s3://b/1.jpg"),
        ("/data", "../../../1.jpg", "/1.jpg"),
        ("s3://b/sub", "../x y#1.jpg", "s3://b/x y#1.jpg"),
        ("s3://b/sub", "../../other/1.jpg", "s3://b/other/1.jpg"),
        ("https://h/sub", "../../other.org/1.jpg", "https://h/other.org/1.jpg"),
        ("memory:///sub", "../../1.jpg", "memory:///1.jpg"),
        ("memory:///", "1.jpg", "memory:///1.jpg"),
        ("https://h/sub/", "x y#1.jpg", "https://h/sub/x%20y%231.jpg"),
    ],
)
def test_image_places(base, path, uri):
    assert ImageBase(base).join(path) == uri


def test_a_relative_base_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ImageBase("images").join("1.jpg") == f"{os.getcwd()}/images/1.jpg"


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("./a//b.jpg", "a/b.jpg"),
        ("a/../b.jpg", "b.jpg"),
        ("../b.jpg", "../b.jpg"),
        ("http://h//x/../y", "http://h//x/../y"),
    ],
)
def test_normal_path(path, normal):
    assert normal_path(path) == normal


# Inputs


def test_inputs_are_sorted_listed_once_and_mixed(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        write_lines(tmp_path / name, {"image": f"{name}.jpg", "caption": name})
    (tmp_path / "c.csv").write_text("image,caption\nc.jpg,c\n")
    patterns = [f"{tmp_path}/*.jsonl", f"{tmp_path}/a.jsonl", f"{tmp_path}/c.csv"]
    files = input_files(ReadOptions(tuple(patterns)))
    assert [(file.uri, file.captions_format, file.name) for file in files] == [
        (f"{tmp_path}/a.jsonl", "jsonl", "a.jsonl"),
        (f"{tmp_path}/b.jsonl", "jsonl", "b.jsonl"),
        (f"{tmp_path}/c.csv", "csv", "c.csv"),
    ]
    assert files[0].size_bytes == os.path.getsize(tmp_path / "a.jsonl")
    assert [row.caption for row in read(*patterns)] == ["a.jsonl", "b.jsonl", "c"]


def test_a_file_that_changes_has_another_stamp(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", {"image": "1", "caption": "x"})
    (tmp_path / "pics").mkdir()
    image = tmp_path / "pics/1.jpg"
    image.write_bytes(b"x")
    options = ReadOptions((str(path), str(tmp_path / "pics")))
    before = input_files(options)
    assert input_files(options) == before
    for changed in (path, image):
        os.utime(changed, (1, 1))
    assert [one.modified == other.modified for one, other in zip(before, input_files(options), strict=True)] == [
        False,
        False,
    ]


def test_a_table_in_memory_holds_images_beside_it():
    fsspec.filesystem("memory").pipe("/tables/t.jsonl", b'{"image": "i/1.jpg", "caption": "a cat"}')
    (row,) = read("memory://tables/*.jsonl")
    assert (row.image_id, row.image_uri) == ("i/1.jpg", "memory:///tables/i/1.jpg")


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(Path("t.jsonl"), {"image": "1.jpg", "caption": "x"})
    (row,) = read("t.jsonl")
    assert (row.image_id, row.image_uri) == ("1.jpg", f"{os.getcwd()}/1.jpg")


def test_a_directory_is_read_by_the_format_that_is_named(tmp_path):
    write_lines(tmp_path / "a.jsonl", {"image": "1.jpg", "caption": "x"})
    (tmp_path / "notes.md").write_text("no table")
    assert [row.caption for row in read(tmp_path, captions_format="jsonl")] == ["x"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none.jsonl", {}, "none.jsonl: nothing matches; wanted an existing file, folder or glob"),
        ("*.none", {}, "*.none: nothing matches"),
        ("t.dat", {}, "the name does not tell the format; wanted .json, .jsonl"),
        ("t.dat", {"captions_format": "xml"}, "--captions-format: wanted auto or one of coco, jsonl"),
        ("t.dat", {"captions_format": "folder"}, "is a file; --captions-format folder wants a folder"),
        ("c.json", {"image_column": "x"}, "c.json is read as coco, which has no use for it; leave it out"),
    ],
)
def test_an_input_that_cannot_be_read_is_one_sentence(name, options, message, tmp_path):
    (tmp_path / "t.dat").write_text("")
    write_coco(tmp_path / "c.json")
    with pytest.raises(UserError) as error:
        read(tmp_path / name, **options)
    assert message in str(error.value)


def test_a_scheme_nobody_serves_is_one_sentence():
    with pytest.raises(UserError, match="--captions nowhere://x: cannot look there"):
        read("nowhere://x")


def test_what_is_no_shard_is_no_tar_input(tmp_path):
    assert input_files(ReadOptions((str(write_coco(tmp_path / "c.json")),)))[0].captions_format == "coco"


def test_an_empty_table_has_no_rows(tmp_path):
    for name in ("t.jsonl", "t.csv", "t.tsv"):
        (tmp_path / name).write_text("")
        assert read(tmp_path / name) == []


def test_the_documentation_lists_every_candidate():
    text = (Path(__file__).parent.parent / "docs/inputs.md").read_text()
    for role, names in CANDIDATES.items():
        assert ", ".join(f"`{name}`" for name in names) in text, role
