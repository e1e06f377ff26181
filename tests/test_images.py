"""Fetch and decode: every way an image can fail has its reason, and a table of URLs reaches no local address."""

import hashlib
import http.server
import io
import socket
import struct
import threading
import time
import zlib

import fsspec
import numpy as np
import pytest
from PIL import Image

from ovseg_model import http_fetch, local_addresses
from ovseg_model.fetch_options import AGENT
from ovseg_model.http_fetch import described, disallowing_directive
from ovseg_model.images import (
    FetchedImage,
    FetchOptions,
    ImageError,
    ShardMember,
    decode_image,
    read_image_bytes,
    read_images,
)
from ovseg_model.local_addresses import is_local_address
from schemas import UserError
from schemas.drops import IMAGES

LOCAL = FetchOptions(allow_local_hosts=True, timeout_s=5)
RED, GREEN = (255, 0, 0), (0, 255, 0)


def encoded(image, format_="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


PNG = encoded(Image.new("RGB", (3, 2), RED))
NOISE_PNG = encoded(Image.effect_noise((64, 64), 50))


def reason_of(uri, options=LOCAL):
    with pytest.raises(ImageError) as error:
        read_image_bytes(uri, options)
    assert error.value.reason in IMAGES
    return error.value.reason


# A server of a few odd pages


class Pages(http.server.BaseHTTPRequestHandler):
    """Each page is a method; the server counts requests and keeps the last headers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append(self.path)
        self.server.last_headers = self.headers
        name = self.path.split("?")[0].strip("/").split("/")[0]
        getattr(self, f"page_{name}")()

    def log_message(self, *arguments):
        pass

    def answer(self, status=200, body=b"", headers=()):
        self.send_response(status)
        for header in headers:
            self.send_header(*header)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def page_image(self):
        self.answer(body=PNG)

    def page_missing(self):
        self.answer(404)

    def page_hiccup(self):
        self.answer(503 if self.server.requests.count(self.path) == 1 else 200, PNG)

    def page_broken(self):
        self.answer(500)

    def page_busy(self):
        self.answer(429, headers=[("Retry-After", "3600")])

    def page_slow(self):
        self.server.stop.wait(10)
        self.close_connection = True

    def page_drip(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        while not self.server.stop.wait(0.02):
            try:
                self.wfile.write(b"x")
            except OSError:
                break
        self.close_connection = True

    def page_large(self):
        self.answer(body=bytes(2000))

    def page_endless(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(bytes(5000))
        self.close_connection = True

    def page_short(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(PNG)
        self.close_connection = True

    def page_noai(self):
        self.answer(body=PNG, headers=[("X-Robots-Tag", "nofollow"), ("X-Robots-Tag", "NoAI")])

    def page_redirect(self):
        target = self.path.split("/", 2)[2]
        self.answer(302, headers=[("Location", f"/{target}" if "://" not in target else target)])

    def page_loop(self):
        self.answer(301, headers=[("Location", self.path)])

    def page_badlocation(self):
        self.answer(302, headers=[("Location", "http://[bad")])

    def page_nowhere(self):
        self.answer(302)

    def page_shard(self):
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        data = (b"before" + PNG + b"after")[first : last + 1]
        self.answer(206, data, [("Content-Range", f"bytes {first}-{last}/999")])


@pytest.fixture(scope="module")
def running():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.daemon_threads = True
    server.stop = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(running):
    running.requests = []
    return running


@pytest.fixture
def url(server):
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def public(monkeypatch):
    """As if this machine's loopback were a public address."""
    monkeypatch.setattr(local_addresses, "is_local_address", lambda address: address != "127.0.0.1")


def test_an_image_over_http(server, url):
    assert read_image_bytes(f"{url}/image", LOCAL) == PNG
    assert server.last_headers["User-Agent"] == LOCAL.user_agent
    assert "Range" not in server.last_headers


@pytest.mark.parametrize(
    ("page", "reason", "detail", "requests"),
    [
        ("missing", "fetch_refused", "HTTP 404", 1),
        ("broken", "fetch_failed", "HTTP 500", 3),
        ("busy", "fetch_failed", "HTTP 429", 1),
        ("short", "fetch_failed", "the connection broke (ProtocolError)", 3),
        ("noai", "fetch_disallowed", "X-Robots-Tag says noai", 1),
        ("nowhere", "fetch_refused", "HTTP 302", 1),
    ],
)
def test_answers_that_are_no_image(server, url, page, reason, detail, requests, monkeypatch):
    waits = []
    monkeypatch.setattr(http_fetch.time, "sleep", waits.append)
    with pytest.raises(ImageError) as error:
        read_image_bytes(f"{url}/{page}", LOCAL)
    assert (error.value.reason, error.value.detail) == (reason, f"{url}/{page}: {detail}")
    assert len(server.requests) == requests
    assert waits == [0, 0.5][: requests - 1]


def test_a_server_that_recovers(server, url):
    assert read_image_bytes(f"{url}/hiccup", LOCAL) == PNG
    assert len(server.requests) == 2


def test_no_retries_when_none_are_wanted(server, url):
    assert reason_of(f"{url}/broken", FetchOptions(allow_local_hosts=True, retries=0)) == "fetch_failed"
    assert len(server.requests) == 1


@pytest.mark.parametrize("page", ["slow", "drip"])
def test_the_deadline_is_for_the_whole_image(url, page):
    started = time.monotonic()
    assert reason_of(f"{url}/{page}", FetchOptions(allow_local_hosts=True, timeout_s=0.3)) == "fetch_timeout"
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("page", ["large", "endless"])
def test_the_size_is_capped_with_and_without_content_length(url, page):
    options = FetchOptions(allow_local_hosts=True, max_image_bytes=1000)
    assert reason_of(f"{url}/{page}", options) == "image_too_large"


def test_robots_tags_can_be_overruled(url):
    assert read_image_bytes(f"{url}/noai", FetchOptions(allow_local_hosts=True, honour_robots_tag=False)) == PNG


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        (["noindex, nofollow"], "noindex"),
        (["nofollow", "NoImageAI"], "noimageai"),
        ([f"{AGENT}: noai"], f"{AGENT}: noai"),
        (["otherbot: noindex, noimageindex"], None),
        ([f"otherbot: noai, {AGENT}: nofollow, noimageindex"], f"{AGENT}: noimageindex"),
        (["otherbot: noai", "noindex"], "noindex"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noindex"], "noindex"),
        (["max-snippet: 5, noai"], "noai"),
        (["all", ""], None),
        ([], None),
    ],
)
def test_disallowing_directive(headers, wanted):
    assert disallowing_directive(headers, AGENT) == wanted


def test_redirects_are_followed(server, url, public):
    options = FetchOptions(timeout_s=5)
    assert read_image_bytes(f"{url}/redirect/redirect/image", options) == PNG
    assert server.requests == ["/redirect/redirect/image", "/redirect/image", "/image"]
    assert reason_of(f"{url}/loop", options) == "fetch_refused"
    assert server.requests.count("/loop") == 6
    assert reason_of(f"{url}/redirect/file:///etc/hostname", options) == "fetch_refused"
    assert reason_of(f"{url}/badlocation", options) == "fetch_refused"


def test_a_redirect_to_a_local_address_is_refused_even_from_an_allowed_host(server, url):
    assert reason_of(f"{url}/redirect/image") == "fetch_local_address"
    assert server.requests == ["/redirect/image"]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0"],
)
def test_local_addresses_are_refused_before_anything_is_sent(server, host):
    assert reason_of(f"http://{host}:{server.server_address[1]}/image", FetchOptions()) == "fetch_local_address"
    assert server.requests == []


def test_a_name_is_resolved_once_and_the_checked_address_is_connected_to(server, monkeypatch):
    """DNS rebinding: a second answer would be another address than the one that was checked."""
    port = server.server_address[1]
    answers = iter(["93.184.216.34", "127.0.0.1"])
    connected = []
    monkeypatch.setattr(
        local_addresses.socket,
        "getaddrinfo",
        lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))],
    )

    def refuse(address, *_, **__):
        connected.append(address)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(local_addresses, "create_connection", refuse)
    assert reason_of("http://rebinding.example/x", FetchOptions(retries=0)) == "fetch_failed"
    assert connected == [("93.184.216.34", 80)]


def test_a_host_of_mixed_addresses_is_reached_by_its_public_ones(monkeypatch):
    found = [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("10.0.0.1", "9.9.9.9", "1.1.1.1")]
    connected = []

    def connect(address, *_, **__):
        connected.append(address[0])
        if address[0] == "9.9.9.9":
            raise ConnectionRefusedError
        return "socket"

    monkeypatch.setattr(local_addresses.socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(local_addresses, "create_connection", connect)
    assert local_addresses.connect_public("mixed.example", 80, 1, None) == "socket"
    assert connected == ["9.9.9.9", "1.1.1.1"]


@pytest.mark.parametrize(
    ("address", "is_local"),
    [
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("127.8.8.8", True),
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("192.168.1.1", True),
        ("169.254.169.254", True),
        ("100.100.100.200", True),
        ("168.63.129.16", True),
        ("224.0.0.1", True),
        ("240.0.0.1", True),
        ("0.0.0.0", True),
        ("::1", True),
        ("::", True),
        ("fe80::1%eth0", True),
        ("fd00:ec2::254", True),
        ("ff02::1", True),
        ("::ffff:10.0.0.1", True),
        ("::ffff:8.8.8.8", False),
        ("64:ff9b::a9fe:a9fe", True),
        ("64:ff9b::808:808", False),
        ("2002:7f00:1::", True),
    ],
)
def test_is_local_address(address, is_local):
    assert is_local_address(address) is is_local


def test_a_host_that_cannot_be_resolved_or_is_no_host(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(-2, "unknown")

    monkeypatch.setattr(local_addresses.socket, "getaddrinfo", fail)
    with pytest.raises(
        ImageError, match=r"^fetch_failed: http://nowhere.invalid/x: the host's name cannot be resolved$"
    ):
        read_image_bytes("http://nowhere.invalid/x", FetchOptions(retries=0))


@pytest.mark.parametrize("uri", ["http://", "http:///x", "http://[::1", "http://h:99999/", "http://exa mple/x"])
def test_what_is_no_url(uri):
    assert reason_of(uri, FetchOptions()) == "image_missing"


def test_messages_hold_no_secrets():
    assert described("https://me:secret@h/a.jpg?token=1") == "https://h/a.jpg"
    assert described("ftp://me:secret@h/a.jpg") == "ftp://h/a.jpg"
    assert described("/data/me@home/a?.jpg") == "/data/me@home/a?.jpg"


def test_a_member_of_a_shard_over_http_is_one_range(server, url):
    member = ShardMember(f"{url}/shard", "1.png", 6, len(PNG))
    assert read_image_bytes(member.uri, LOCAL) == PNG
    assert server.last_headers["Range"] == f"bytes=6-{5 + len(PNG)}"
    assert server.requests == ["/shard"]


def test_a_server_without_ranges_is_refused(url):
    assert reason_of(ShardMember(f"{url}/image", "1.png", 6, 5).uri) == "fetch_refused"


# Files and other file systems


def test_a_local_file(tmp_path):
    (tmp_path / "a#b?.png").write_bytes(PNG)
    assert read_image_bytes(f"{tmp_path}/a#b?.png", FetchOptions()) == PNG
    assert read_image_bytes(f"file://{tmp_path}/a#b?.png", FetchOptions()) == PNG


def test_a_file_system_in_memory():
    fsspec.filesystem("memory").pipe("/images/1.png", PNG)
    assert read_image_bytes("memory://images/1.png", FetchOptions()) == PNG
    assert reason_of("memory://images/2.png") == "image_missing"
    assert reason_of("memory://images/1.png", FetchOptions(max_image_bytes=10)) == "image_too_large"


def test_local_files_that_are_none(tmp_path):
    assert reason_of(None) == reason_of("") == "no_image_uri"
    assert reason_of(str(tmp_path / "none.png")) == "image_missing"
    assert reason_of(str(tmp_path)) == "image_missing"
    assert reason_of("/dev/zero") == "image_missing"
    assert reason_of("nul\0byte") == "image_missing"
    assert reason_of("x" * 5000) == "image_missing"
    assert reason_of("nowhere://x") == "fetch_refused"
    assert reason_of("nowhere://x", FetchOptions(image_schemes=("nowhere",))) == "image_missing"
    (tmp_path / "large.png").write_bytes(bytes(11))
    assert reason_of(str(tmp_path / "large.png"), FetchOptions(max_image_bytes=10)) == "image_too_large"


def test_a_chain_through_http_is_not_followed():
    """fsspec would fetch it without any check of the address."""
    for uri in ("simplecache::http://127.0.0.1/x", "zip://a.jpg::HTTPS://h/a.zip"):
        assert reason_of(uri) == "fetch_refused"
        assert reason_of(uri, FetchOptions(image_schemes=("simplecache", "zip"))) == "image_missing"


def test_a_service_of_this_network_is_not_asked():
    """fsspec has drivers (webhdfs, ftp, smb) that no address check guards."""
    for uri in ("webhdfs://127.0.0.1:9870/x", "ftp://127.0.0.1/x", "SFTP://127.0.0.1/x"):
        assert reason_of(uri) == "fetch_refused"


def test_a_driver_that_is_not_installed_stops_the_run(monkeypatch):
    def fail(url):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("ovseg_model.images.fsspec.core.url_to_fs", fail)
    with pytest.raises(UserError, match="cannot read gs://b/x: Please install gcsfs"):
        read_image_bytes("gs://b/x", FetchOptions())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError, "fetch_refused"),
        (TimeoutError, "fetch_timeout"),
        (OSError, "fetch_failed"),
        (KeyError, "fetch_failed"),
    ],
)
def test_what_file_systems_raise(error, reason, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", fail)
    assert reason_of("memory://x") == reason


def test_a_member_of_a_shard(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x" * 600 + PNG)
    member = ShardMember(f"{tmp_path}/a.tar", "dir/ä & #1.png", 600, len(PNG))
    assert member.uri == f"{tmp_path}/a.tar#member=dir/%C3%A4%20%26%20%231.png&offset=600&size={len(PNG)}"
    assert ShardMember.from_uri(member.uri) == member
    assert ShardMember.from_uri(f"{tmp_path}/a.tar#member=x") is None
    assert read_image_bytes(member.uri, FetchOptions()) == PNG
    assert reason_of(member._replace(size=len(PNG) + 1).uri) == "image_unreadable"
    assert reason_of(member.uri, FetchOptions(max_image_bytes=5)) == "image_too_large"


# Decoding


def decode(data, **options):
    return decode_image(data, FetchOptions(**options))


def test_rgb_is_height_width_channels():
    pixels = decode(PNG)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 3), np.uint8)
    assert (pixels == RED).all()
    pixels[0, 0] = 0  # may be written to


@pytest.mark.parametrize(
    ("image", "format_", "wanted"),
    [
        (Image.new("L", (1, 1), 100), "PNG", (100, 100, 100)),
        (Image.new("1", (1, 1), 1), "PNG", (255, 255, 255)),
        (Image.new("P", (1, 1), 0), "GIF", (0, 0, 0)),
        (Image.fromarray(np.full((1, 1), 0xC0FF, np.uint16)), "PNG", (0xC0, 0xC0, 0xC0)),
        (Image.fromarray(np.full((1, 1), 0xC0FF, np.uint16)), "TIFF", (0xC0, 0xC0, 0xC0)),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF", RED),
        (Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (1, 1), (255, 0, 0, 255)), "WEBP", RED),
        (Image.new("RGBA", (1, 1), (0, 0, 0, 51)), "PNG", (204, 204, 204)),
        (Image.new("LA", (1, 1), (0, 0)), "PNG", (255, 255, 255)),
    ],
    ids=lambda value: getattr(value, "mode", None) or str(value),
)
def test_every_kind_of_pixel_becomes_rgb(image, format_, wanted):
    options = {"lossless": True} if format_ == "WEBP" else {}
    assert decode(encoded(image, format_, **options)).tolist() == [[list(wanted)]]


def test_a_transparent_palette_colour_becomes_white():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    assert decode(encoded(image, "PNG", transparency=1)).tolist() == [[list(RED), [255, 255, 255]]]


def test_cmyk_jpeg_is_red_where_it_is_red():
    pixels = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - RED).max() <= 3


@pytest.mark.parametrize(("orientation", "wanted"), [(1, [RED, GREEN]), (3, [GREEN, RED]), (2, [GREEN, RED])])
def test_exif_orientation_is_applied(orientation, wanted):
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(encoded(image, exif=exif)).tolist() == [[list(colour) for colour in wanted]]


def test_exif_orientation_turns_a_wide_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(Image.new("RGB", (32, 16)), "JPEG", exif=exif)).shape == (32, 16, 3)


def test_only_the_first_frame_is_read():
    frames = [Image.new("RGB", (1, 1), colour) for colour in (RED, GREEN)]
    assert decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).tolist() == [[list(RED)]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        encoded(Image.effect_noise((64, 64), 50), "JPEG")[:1500],
        NOISE_PNG[: len(NOISE_PNG) // 2],
        encoded(Image.new("F", (1, 1)), "TIFF"),
    ],
    ids=["empty", "text", "truncated JPEG", "truncated PNG", "float"],
)
def test_what_cannot_be_decoded(data):
    with pytest.raises(ImageError) as error:
        decode(data)
    assert error.value.reason == "image_unreadable"
    assert " at 0x" not in error.value.detail


def test_formats_that_run_other_programs_are_not_opened():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    assert Image.open(io.BytesIO(postscript)).format == "EPS"
    with pytest.raises(ImageError, match=r"^image_unreadable: "):
        decode(postscript)


def test_the_size_is_checked_before_decoding():
    """A header that promises 50,000 × 50,000 pixels, with no pixels behind it."""
    header = bytearray(PNG)
    header[16:24] = struct.pack(">II", 50_000, 50_000)
    header[29:33] = struct.pack(">I", zlib.crc32(bytes(header[12:29])))
    with pytest.raises(ImageError) as error:
        decode(bytes(header))
    assert error.value.reason == "image_too_large"
    with pytest.raises(ImageError) as error:
        decode(PNG, max_image_px=5)
    assert error.value.detail == "wanted at most 5 pixels (--max-image-px), got 3 × 2"
    assert decode(PNG, max_image_px=6).shape == (2, 3, 3)


# Many


def test_images_come_in_order_with_their_hashes(tmp_path):
    paths = []
    for width in range(1, 40):
        path = tmp_path / f"{width}.png"
        path.write_bytes(encoded(Image.new("RGB", (width, 1))))
        paths.append(str(path))
    paths[5] = str(tmp_path / "none")
    results = list(read_images([*paths, None], FetchOptions(threads=3)))
    assert [result.pixels.shape[1] for result in results if isinstance(result, FetchedImage)] == [
        width for width in range(1, 40) if width != 6
    ]
    errors = {index: result.reason for index, result in enumerate(results) if isinstance(result, ImageError)}
    assert errors == {5: "image_missing", 39: "no_image_uri"}


def test_the_hash_is_that_of_the_bytes():
    fsspec.filesystem("memory").pipe("/hash/x", PNG)
    (image,) = read_images(["memory://hash/x"], FetchOptions())
    assert image.sha256 == hashlib.sha256(PNG).hexdigest()


def test_no_more_than_twice_the_threads_are_read_ahead(monkeypatch):
    asked = []

    def uris():
        for number in range(100):
            asked.append(number)
            yield str(number)

    monkeypatch.setattr("ovseg_model.images._read_image", lambda uri, options: uri)
    results = read_images(uris(), FetchOptions(threads=2))
    assert next(results) == "0"
    assert len(asked) == 5
    results.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "--threads: wanted 1 or more, got 0"),
        ({"retries": -1}, "--retries: wanted 0 or more, got -1"),
        ({"timeout_s": 0}, "--timeout-s: wanted more than 0, got 0"),
        ({"user_agent": "a\nb"}, "--user-agent: wanted printable ASCII"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(UserError, match=message):
        FetchOptions(**options)


def test_an_error_knows_whether_another_try_could_succeed():
    assert ImageError("fetch_timeout", "x").can_pass
    assert not ImageError("fetch_refused", "x").can_pass
