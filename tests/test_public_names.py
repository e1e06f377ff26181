"""What of paths and URLs an export shows to the world."""

import pyarrow as pa
import pytest

from pipelines.exports.public_names import host_of, public_uri, public_uris, public_value, without_private_uri


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("/home/ann/photos/0001.png", "0001.png"),
        ("photos/0001.png", "0001.png"),
        ("file:///home/ann/0001.png", "0001.png"),
        ("C:\\Users\\ann\\0001.png", "0001.png"),
        ("https://a.org/x/1.jpg", "https://a.org/x/1.jpg"),
        ("https://ann:pw@a.org/x/1.jpg?size=9#here", "https://a.org/x/1.jpg?size=9"),
        ("https://a.org/1.jpg?X-Amz-Signature=abc&size=9", "https://a.org/1.jpg"),
        ("https://a.org?user@b=1", "https://a.org?user@b=1"),
        ("s3://bucket/folder/1.jpg", "s3://bucket/folder/1.jpg"),
        ("/data/0.tar#member=a%20b.jpg&offset=512&size=9", "0.tar#member=a%20b.jpg&offset=512&size=9"),
        ("zip://1.jpg::/home/ann/all.zip", "zip://1.jpg::all.zip"),
    ],
)
def test_folders_and_secrets_are_left_out(uri, shown):
    assert public_uri(uri) == shown


def test_options_keep_what_is_no_place():
    options = {
        "clip": "ViT-B-16/openai",
        "captions": ["/home/ann/captions.json"],
        "mask_option": ("checkpoint=/home/ann/My Models/sam.pth", "points=32"),
        "templates": "a photo of a {}.",
        "masks_from": "~/run",
        "threads": 8,
        "nothing": None,
    }
    assert public_value(options) == {
        "clip": "ViT-B-16/openai",
        "captions": ["captions.json"],
        "mask_option": ["checkpoint=sam.pth", "points=32"],
        "templates": "a photo of a {}.",
        "masks_from": "run",
        "threads": 8,
        "nothing": None,
    }


def test_a_sentence_about_an_image_names_its_file_alone():
    assert without_private_uri("/home/ann/1.png: no such file", "/home/ann/1.png") == "1.png: no such file"
    member = "/data/0.tar#member=1.jpg&offset=512&size=9"
    assert without_private_uri("/data/0.tar: cut short", member) == "0.tar: cut short"
    assert without_private_uri("nothing", None) == "nothing"


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("https://ann@Live.Staticflickr.com:443/1.jpg", "live.staticflickr.com:443"),
        ("s3://bucket/1.jpg", "s3://bucket"),
        ("/home/ann/1.png", ""),
        (None, ""),
    ],
)
def test_hosts(uri, host):
    assert host_of(uri) == host


def test_a_column_keeps_its_nulls_and_its_order():
    column = pa.chunked_array([["/a/2.png", None], ["/a/1.png", "/b/2.png"]])
    assert public_uris(column).to_pylist() == ["2.png", None, "1.png", "2.png"]
    assert public_uris(pa.chunked_array([[None]], pa.string())).to_pylist() == [None]
