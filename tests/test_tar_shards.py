"""Tar shards: what a row's URI names is what the image's bytes are, and nothing is lost without a word."""

import gzip
import io
import json
import tarfile

import fsspec
import pytest

from ovseg_model.images import FetchOptions, ShardMember, read_image_bytes
from pipelines.caption_formats.tar_shards import key_and_extension
from pipelines.read_captions import BadRow, CaptionRow, ReadOptions, input_files, read_rows, read_shard
from schemas import UserError
from schemas.drops import READING

JPEG = b"\xff\xd8 the bytes of "


def tar_bytes(members, format_=tarfile.PAX_FORMAT):
    """A tar file of (name, bytes) in order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sample(key, caption="a cat", about=None):
    members = [(f"{key}.jpg", JPEG + key.encode()), (f"{key}.txt", caption.encode())]
    return members + ([(f"{key}.json", json.dumps(about).encode())] if about else [])


def write_shard(path, members, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members, **options))
    return path


def read(path, **options):
    read_options = ReadOptions((str(path),), **options)
    rows = [row for shard in input_files(read_options) for row in read_shard(shard, read_options)]
    assert all(row.reason in READING for row in rows if isinstance(row, BadRow))
    return rows


def kept(rows):
    return [row for row in rows if isinstance(row, CaptionRow)]


def reasons(rows):
    return [(row.key, row.reason) for row in rows if isinstance(row, BadRow)]


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_uris_name_the_very_bytes_of_each_image(tmp_path, format_):
    path = write_shard(tmp_path / "00000.tar", sample("000") + sample("001"), format_=format_)
    rows = read(path)
    assert [(row.image_id, row.caption) for row in rows] == [("00000/000", "a cat"), ("00000/001", "a cat")]
    assert rows[0].image_uri == f"{path}#member=000.jpg&offset=512&size={len(JPEG) + 3}"
    assert [read_image_bytes(row.image_uri, FetchOptions()) for row in rows] == [JPEG + b"000", JPEG + b"001"]


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_odd_letters(tmp_path, format_):
    key = f"{'long/' * 60}café & 50% #1"
    rows = read(write_shard(tmp_path / "a.tar", sample("x") + sample(key), format_=format_))
    assert rows[1].image_id == f"a/{key}"
    assert "caf%C3%A9%20%26%2050%25%20%231.jpg&offset=" in rows[1].image_uri
    assert ShardMember.from_uri(rows[1].image_uri).member == f"{key}.jpg"
    assert read_image_bytes(rows[1].image_uri, FetchOptions()) == JPEG + key.encode()


def test_img2dataset_writes_json_beside_txt(tmp_path):
    about = {"url": "http://x/1.jpg", "caption": "another", "license": "CC0", "status": "success", "width": None}
    (row,) = read(write_shard(tmp_path / "a.tar", sample("1", "a cat", about)))
    assert row[2:] == (0, "a cat", "http://x/1.jpg", "CC0", None)


def test_a_safety_flag_stands_in_json(tmp_path):
    (row,) = read(write_shard(tmp_path / "a.tar", sample("1", "a cat", {"nsfw": False, "punsafe": 0.5})))
    assert row.safety == "false"
    (row,) = read(tmp_path / "a.tar", safety_column="punsafe")
    assert row.safety == "0.5"


def test_captions_of_json_may_be_a_list(tmp_path):
    members = [("1.jpg", JPEG), ("1.json", json.dumps({"caption": ["a cat", "", "the cat"]}).encode())]
    rows = read(write_shard(tmp_path / "a.tar", members))
    assert [(row.order, row.caption) for row in kept(rows)] == [(0, "a cat"), (2, "the cat")]
    assert reasons(rows) == [("a/1#1", "empty_caption")]


def test_a_named_field_of_json_wins_over_txt(tmp_path):
    path = write_shard(tmp_path / "a.tar", sample("1", "from txt", {"alt": "from json", "by": "me"}))
    (row,) = read(path, caption_column="alt", licence_column="by")
    assert (row.caption, row.licence) == ("from json", "me")


def test_bad_samples_drop_alone(tmp_path):
    members = [
        *sample("ok"),
        ("text.txt", b"no image"),
        ("image.jpg", JPEG),
        ("latin.jpg", JPEG),
        ("latin.txt", b"caf\xe9"),
        ("empty.jpg", JPEG),
        ("empty.txt", b" "),
        ("json.jpg", JPEG),
        ("json.json", b"{"),
        ("list.jpg", JPEG),
        ("list.json", b"[1]"),
        ("number.jpg", JPEG),
        ("number.json", b'{"caption": 5}'),
        ("null.jpg", JPEG),
        ("null.json", b'{"caption": null}'),
        *sample("ok"),
        (".hidden.jpg", JPEG),
        ("noextension", b"x"),
        *sample("last"),
    ]
    rows = read(write_shard(tmp_path / "a.tar", members))
    assert [row.image_id for row in kept(rows)] == ["a/ok", "a/last"]
    assert reasons(rows) == [
        ("a/text", "missing_image"),
        ("a/image", "no_caption"),
        ("a/latin", "not_utf8"),
        ("a/empty", "empty_caption"),
        ("a/json", "not_json"),
        ("a/list", "not_json"),
        ("a/number#0", "bad_column_type"),
        ("a/null", "no_caption"),
        ("a/ok", "duplicate_image"),
    ]


def test_files_of_a_sample_that_stand_apart_are_told(tmp_path):
    members = [("1.jpg", JPEG), ("2.jpg", JPEG), ("1.txt", b"a cat")]
    rows = read(write_shard(tmp_path / "a.tar", members))
    assert reasons(rows) == [("a/1", "no_caption"), ("a/2", "no_caption"), ("a/1", "duplicate_image")]
    assert "tar --sort=name" in rows[2].detail


def test_a_jpg_is_taken_before_a_png(tmp_path):
    members = [("1.png", b"mask"), ("1.jpg", JPEG), ("1.seg.png", b"other"), ("1.txt", b"a cat")]
    (row,) = read(write_shard(tmp_path / "a.tar", members))
    assert "member=1.jpg" in row.image_uri


def write_members(path, *members):
    """A shard of TarInfos, with as many bytes as each says."""
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name, type_=tarfile.REGTYPE, linkname="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = type_, linkname, size
    return info


def test_links_and_devices_are_told_and_not_followed(tmp_path):
    shard = write_members(
        tmp_path / "a.tar",
        member("folder", tarfile.DIRTYPE),
        member("1.jpg", size=3),
        member("2.jpg", tarfile.SYMTYPE, "/etc/\x1bhostname"),
        member("3.jpg", tarfile.LNKTYPE, "1.jpg"),
        member("null", tarfile.CHRTYPE),
        member("disk.png", tarfile.BLKTYPE),
        member("pipe.png", tarfile.FIFOTYPE),
    )
    rows = read(shard)
    assert [row for row in rows if row.reason == "not_a_file"] == [
        BadRow(
            "a/2.jpg", "not_a_file", "wanted a file, got a symbolic link to '/etc/\\x1bhostname', which is not followed"
        ),
        BadRow("a/3.jpg", "not_a_file", "wanted a file, got a hard link to '1.jpg', which is not followed"),
        BadRow("a/null", "not_a_file", "wanted a file, got a character device"),
        BadRow("a/disk.png", "not_a_file", "wanted a file, got a block device"),
        BadRow("a/pipe.png", "not_a_file", "wanted a file, got a pipe"),
    ]
    assert [(row.key, row.reason) for row in rows if row.reason != "not_a_file"] == [("a/1", "no_caption")]


def test_a_sparse_file_is_told_since_its_bytes_do_not_stand_in_one_piece(tmp_path):
    sparse = member("1.jpg", size=512)
    sparse.pax_headers = {"GNU.sparse.map": "0,512", "GNU.sparse.size": "1000000"}
    rows = read(write_members(tmp_path / "a.tar", sparse, member("2.jpg")))
    assert reasons(rows) == [("a/1.jpg", "not_a_file"), ("a/2", "no_caption")]
    assert rows[0].detail == "wanted a file, got a sparse file, whose bytes are not in one piece"


def test_a_member_name_that_is_no_utf8(tmp_path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    (row,) = read(write_shard(tmp_path / "a.tar", [(f"{name}.jpg", JPEG), (f"{name}.txt", b"x")]))
    assert (row.key, row.reason) == ("a/caf\\udce9", "not_utf8")


# Shards that are cut short


def test_what_came_before_a_cut_is_kept(tmp_path):
    members = sample("0") + sample("1") + sample("2")
    data = tar_bytes(members)
    starts = [512 * 2 * index for index in range(7)]  # a header and one block of data each
    wanted = {
        starts[4] + 600: 2,
        starts[4] + 512: 2,
        starts[3] + 100: 1,
        starts[2] + 515: 1,
        starts[6]: 3,
        starts[6] + 9: 3,
    }
    for size_bytes, whole in wanted.items():
        path = tmp_path / "a.tar"
        path.write_bytes(data[:size_bytes])
        rows = read(path)
        assert [row.image_id for row in kept(rows)] == [f"a/{number}" for number in range(whole)], size_bytes
        assert reasons(rows) == [(str(path), "truncated_shard")], size_bytes


def test_garbage_in_the_middle_is_told(tmp_path):
    data = tar_bytes(sample("0") + sample("1"))
    (tmp_path / "a.tar").write_bytes(data[:2048] + b"\x07" * 512 + data[2560:])
    rows = read(tmp_path / "a.tar")
    assert [row.image_id for row in kept(rows)] == ["a/0"]
    assert reasons(rows) == [(f"{tmp_path}/a.tar", "truncated_shard")]


@pytest.mark.parametrize("size_bytes", [0, 100])
def test_a_shard_that_is_cut_at_its_start(tmp_path, size_bytes):
    (tmp_path / "a.tar").write_bytes(tar_bytes(sample("0"))[:size_bytes])
    assert reasons(read(tmp_path / "a.tar")) == [(f"{tmp_path}/a.tar", "truncated_shard")]


# Several shards


def test_names_are_below_the_shards_common_folder(tmp_path):
    for name in ("x/00000.tar", "y/00000.tar", "y/00001.tar"):
        write_shard(tmp_path / name, sample("1"))
    assert [row.image_id for row in read(tmp_path / "*/*.tar")] == ["x/00000/1", "y/00000/1", "y/00001/1"]


def test_a_folder_of_shards_leaves_the_rest_of_img2dataset_aside(tmp_path):
    write_shard(tmp_path / "00000.tar", sample("1"))
    (tmp_path / "00000_stats.json").write_text("{}")
    (tmp_path / "00000.parquet").write_bytes(b"")
    options = ReadOptions((str(tmp_path),))
    assert input_files(options)[0].captions_format == "tar"
    assert [row.image_id for row in read_rows(input_files(options), options)] == ["00000/1"]


def test_shards_and_tables_cannot_be_one_run(tmp_path):
    write_shard(tmp_path / "a.tar", sample("1"))
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(UserError, match=r"tar shards and .*b.jsonl cannot be one run; name the shards alone"):
        read(tmp_path / "*")


def test_compressed_shards_are_refused(tmp_path):
    data = gzip.compress(tar_bytes(sample("1")), compresslevel=0)
    for name in ("a.tar.gz", "a.tgz"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(
            UserError, match="is a compressed tar, in which images cannot be found by offset; unpack it"
        ):
            read(tmp_path / name)
    (tmp_path / "b.tar").write_bytes(data)
    with pytest.raises(UserError, match="wanted an uncompressed tar file"):
        read(tmp_path / "b.tar")


def test_shards_in_memory():
    fsspec.filesystem("memory").pipe("/shards/00000.tar", tar_bytes(sample("1")))
    (row,) = read("memory://shards/*.tar")
    assert row.image_uri.startswith("memory:///shards/00000.tar#member=1.jpg&offset=512&size=")
    assert read_image_bytes(row.image_uri, FetchOptions()) == JPEG + b"1"


def test_image_bytes_are_skipped_not_read(tmp_path, monkeypatch):
    path = write_shard(tmp_path / "a.tar", [("1.jpg", bytes(50_000_000)), ("1.txt", b"a cat")])
    read_bytes = []
    original = io.BufferedReader.read

    class Counting(io.BufferedReader):
        def read(self, size=-1):
            data = original(self, size)
            read_bytes.append(len(data))
            return data

    monkeypatch.setattr("pipelines.caption_formats.input_files.io.BufferedReader", Counting)
    assert len(read(path)) == 1
    assert sum(read_bytes) < 20_000


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a/b.c/000.seg.PNG", ("a/b.c/000", "seg.png")),
        ("./000.jpg", ("000", "jpg")),
        ("a/.hidden.jpg", ("a/", "")),
        ("plain", ("plain", "")),
    ],
)
def test_key_and_extension(name, wanted):
    assert key_and_extension(name) == wanted
