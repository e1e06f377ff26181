"""Where an image is: its path in a table, joined to what it is relative to."""

from __future__ import annotations

import os
import posixpath
from urllib.parse import quote


def normal_path(path: str) -> str:
    """A path without `.`, `..` and doubled slashes where they can be resolved; a URL as it is."""
    if "://" in path or not ("./" in path or "//" in path or path.endswith(("/", "."))):
        return path
    return posixpath.normpath(path)


class ImageBase:
    """The folder or URL prefix that relative image paths start from."""

    def __init__(self, place: str) -> None:
        """Takes a URL prefix, or a folder whose path is made absolute."""
        place = place.removeprefix("file://")
        place = place if "://" in place else os.path.abspath(place)
        self._prefix = place if place.endswith("/") else place + "/"
        self._is_http = place.startswith(("http://", "https://"))

    def join(self, path: str) -> str:
        """The URI of an image by its normal path: URLs and absolute paths as they are, others from here.

        Below http(s) the path is percent-encoded; other schemes take it literally.
        """
        if path.startswith("/") or "://" in path:
            return path
        path = quote(path) if self._is_http else path
        return self._prefix + path if not path.startswith("../") else self._climb(path)

    def _climb(self, path: str) -> str:
        """As file systems and browsers do: no `..` leads above the root, or out of the host or bucket."""
        scheme, colon, rest = self._prefix.rpartition("://")
        host, _, folder = rest.partition("/") if colon else ("", "", rest.removeprefix("/"))
        return f"{scheme}{colon}{host}{posixpath.normpath(f'/{folder}{path}')}"
