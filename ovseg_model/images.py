"""Fetch and decode: from an image's URI to its bytes, and from its bytes to RGB pixels."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote

import fsspec
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ovseg_model.fetch_options import FetchOptions, ImageError
from ovseg_model.http_fetch import ByteRange, described, fetch_http, is_http
from ovseg_model.read_ahead import read_ahead
from schemas.errors import UserError

__all__ = [
    "FetchOptions",
    "FetchedImage",
    "ImageError",
    "ShardMember",
    "decode_image",
    "read_image_bytes",
    "read_images",
]

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF")
"""What may be decoded. Pillow knows more, but some of it runs other programs (EPS) or is no picture of the web."""

GREY_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
UNSCALED = ("I", "F")
"""Pillow's modes of 32-bit pixels: nothing says which value is white."""


class ShardMember(NamedTuple):
    """An image inside an uncompressed tar shard; `offset` is that of its own first byte, in bytes."""

    shard: str
    member: str
    offset: int
    size: int

    @property
    def uri(self) -> str:
        """The URI that names shard, member and range: `00000.tar#member=000001.jpg&offset=1536&size=20412`."""
        return f"{self.shard}#member={quote(self.member)}&offset={self.offset}&size={self.size}"

    @classmethod
    def from_uri(cls, uri: str) -> ShardMember | None:
        """The member that a URI names, or None when it is the URI of a whole file."""
        found = re.fullmatch(r"(.+)#member=([^#&]*)&offset=(\d{1,18})&size=(\d{1,18})", uri)
        return cls(found[1], unquote(found[2]), int(found[3]), int(found[4])) if found else None


class FetchedImage(NamedTuple):
    """An image's content hash (sha256 of its bytes, in hex) and its pixels: RGB uint8 (height, width, 3)."""

    sha256: str
    pixels: np.ndarray


def read_images(uris: Sequence[str | None], options: FetchOptions) -> Iterator[FetchedImage | ImageError]:
    """Fetch and decode images by a pool of threads, in order; an image that cannot be had yields its error.

    At most 2 × `threads` images are fetched ahead of the consumer, which bounds the memory.
    """
    return read_ahead(functools.partial(_read_image, options=options), uris, options.threads)


def _read_image(uri: str | None, options: FetchOptions) -> FetchedImage | ImageError:
    try:
        data = read_image_bytes(uri, options)
        return FetchedImage(hashlib.sha256(data).hexdigest(), decode_image(data, options))
    except ImageError as error:
        return error


def read_image_bytes(uri: str | None, options: FetchOptions) -> bytes:
    """The bytes behind a path, an fsspec URL, an http(s) URL or a tar member's URI.

    Raises:
        ImageError: with one of the reasons of schemas.drops.IMAGES.
        UserError: the file system's driver is not installed.
    """
    if not uri:
        raise ImageError("no_image_uri", "the input names no place for the image's bytes")
    member = ShardMember.from_uri(uri)
    if member is None:
        return _read(uri, None, options)
    if member.size > options.max_image_bytes:
        raise _too_large(uri, member.size, options)
    data = _read(member.shard, ByteRange(member.offset, member.size), options)
    if len(data) != member.size:
        raise ImageError("image_unreadable", f"{described(uri)}: the shard ends after {len(data)} of its bytes")
    return data


def _read(place: str, byte_range: ByteRange | None, options: FetchOptions) -> bytes:
    if is_http(place):
        return fetch_http(place, options, byte_range)
    if "://" in place:
        return _read_remote(place, byte_range, options)
    return _read_local(place, byte_range, options)


def _too_large(uri: str, size_bytes: int, options: FetchOptions) -> ImageError:
    wanted = f"wanted at most {options.max_image_bytes} bytes (--max-image-bytes)"
    return ImageError("image_too_large", f"{described(uri)}: {wanted}, got {size_bytes}")


def _read_local(path: str, byte_range: ByteRange | None, options: FetchOptions) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("image_missing", f"{path} is not a file")
        if byte_range is None and status.st_size > options.max_image_bytes:
            raise _too_large(path, status.st_size, options)
        with open(path, "rb") as file:
            file.seek(byte_range.offset if byte_range else 0)
            return file.read(byte_range.size if byte_range else -1)
    except PermissionError as error:
        raise ImageError("image_unreadable", f"{path}: no permission to read it") from error
    except (OSError, ValueError) as error:
        raise ImageError("image_missing", f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _read_remote(url: str, byte_range: ByteRange | None, options: FetchOptions) -> bytes:
    """Through fsspec; what its drivers raise differs, hence the wide net for the last case."""
    place = described(url)
    scheme = re.split("://|::", url, maxsplit=1)[0].lower()
    if scheme not in options.image_schemes:
        raise ImageError("fetch_refused", f"{place}: images may not come by {scheme} (--image-schemes)")
    if "::" in url and re.search(r"\bhttps?://", url, re.IGNORECASE):
        raise ImageError("image_missing", f"{place}: a chain through http(s) is not followed")
    start = byte_range.offset if byte_range else 0
    end = start + byte_range.size if byte_range else options.max_image_bytes + 1
    try:
        file_system, path = fsspec.core.url_to_fs(url)
        data = file_system.cat_file(path, start=start, end=end)
    except ImportError as error:
        raise UserError(f"cannot read {place}: {error}") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ImageError("image_missing", f"{place}: there is no such object") from error
    except PermissionError as error:
        raise ImageError("fetch_refused", f"{place}: no permission to read it") from error
    except TimeoutError as error:
        raise ImageError("fetch_timeout", f"{place}: no answer in time") from error
    except ValueError as error:
        raise ImageError("image_missing", f"{place}: no file system reads this URL") from error
    except Exception as error:
        raise ImageError("fetch_failed", f"{place}: {type(error).__name__}") from error
    if len(data) > options.max_image_bytes:
        raise _too_large(url, file_system.size(path) or len(data), options)
    return data


def decode_image(data: bytes, options: FetchOptions) -> np.ndarray:
    """Decode one image (the first frame of several) to RGB uint8 (height, width, 3), EXIF orientation applied.

    Grey, palette, CMYK and 16-bit grey become 8-bit RGB; transparent pixels are laid over white, as web pages
    show them; colour profiles are ignored. The size is checked in the header, before anything is decoded.

    Raises:
        ImageError: image_unreadable (no image, cut short, or 32-bit pixels) or image_too_large.
    """
    _allow_px(options.max_image_px)
    # Pillow warns of what it then reads or refuses: the image is kept, or its drop says why.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with Image.open(io.BytesIO(data), formats=_readable_formats()) as image:
            _check_size(image, options)
            image.load()
            return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("image_too_large", f"{_wanted_px(options)}: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError("image_unreadable", f"{len(data)} bytes that are no image that Pillow reads") from error
    except Exception as error:  # decoders raise whatever the bytes provoke
        raise ImageError("image_unreadable", f"{type(error).__name__}: {error}") from error


@functools.lru_cache
def _readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _allow_px(max_image_px: int) -> None:
    """Lift Pillow's own limit for all of the process where ours is higher: it is checked before ours."""
    if Image.MAX_IMAGE_PIXELS is not None and max_image_px > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_image_px


def _check_size(image: Image.Image, options: FetchOptions) -> None:
    if image.width * image.height > options.max_image_px:
        raise ImageError("image_too_large", f"{_wanted_px(options)}, got {image.width} × {image.height}")


def _wanted_px(options: FetchOptions) -> str:
    return f"wanted at most {options.max_image_px} pixels (--max-image-px)"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in UNSCALED:
        raise ImageError("image_unreadable", f"32-bit pixels (mode {image.mode}) have no agreed range")
    if image.mode in GREY_16_BIT:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
