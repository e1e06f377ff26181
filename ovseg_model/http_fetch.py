"""Images over HTTP: one deadline, a size cap while reading, redirects followed by hand, X-Robots-Tag honoured.

Proxies are not supported: the address that is checked has to be the one that is connected to.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urljoin

import urllib3
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    LocationParseError,
    LocationValueError,
    MaxRetryError,
    NameResolutionError,
    SSLError,
)
from urllib3.util.retry import Retry

from ovseg_model.fetch_options import FetchOptions, ImageError
from ovseg_model.local_addresses import public_pools

MAX_REDIRECTS = 5
CHUNK_BYTES = 1 << 16
PASSING_STATUSES = frozenset({408, 425, 429})
"""Client errors that say: later. Those of the server, 5xx, say so too."""

DISALLOWING = ("noai", "noimageai", "noindex", "noimageindex", "none")
"""Directives of X-Robots-Tag that ask machines not to use an image; none is noindex and nofollow."""

DIRECTIVES_WITH_VALUES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""Directives that have a colon of their own; before any other colon stands a user agent."""


class ByteRange(NamedTuple):
    """A part of a file: its first byte, and how many."""

    offset: int
    size: int


def is_http(uri: str) -> bool:
    """Tell whether a URI is fetched over HTTP."""
    return uri[:8].lower().startswith(("http://", "https://"))


def described(uri: str) -> str:
    """A URI for messages: without user name, password and query, which may be secrets."""
    uri = re.sub(r"(?<=://)[^/?#]*@", "", uri)
    return uri.split("?", 1)[0] if is_http(uri) else uri


def fetch_http(url: str, options: FetchOptions, byte_range: ByteRange | None = None) -> bytes:
    """The body behind an http(s) URL, or one range of it, within `timeout_s` and `max_image_bytes`.

    Failures that can pass are tried again with back-off, as long as the deadline allows.

    Raises:
        ImageError: image_missing (no URL), fetch_timeout, fetch_failed, fetch_refused, fetch_local_address,
            fetch_disallowed or image_too_large.
    """
    deadline_s = time.monotonic() + options.timeout_s
    policy = Retry(total=options.retries, backoff_factor=0.25)
    while True:
        try:
            return _follow(url, options, byte_range, deadline_s)
        except ImageError as error:
            policy = _wait(policy, url, error, deadline_s)


def _wait(policy: Retry, url: str, error: ImageError, deadline_s: float) -> Retry:
    """The policy for the next try, after its back-off; raises the error when there is none."""
    if not error.can_pass:
        raise error
    try:
        policy = policy.increment("GET", described(url), error=error)
    except MaxRetryError:
        raise error from None
    asked_s = error.retry_after_s
    wait_s = policy.get_backoff_time() if asked_s is None else asked_s
    if time.monotonic() + wait_s >= deadline_s:
        raise error
    time.sleep(wait_s)
    return policy


def _follow(url: str, options: FetchOptions, byte_range: ByteRange | None, deadline_s: float) -> bytes:
    for hop in range(MAX_REDIRECTS + 1):
        public_only = hop > 0 or not options.allow_local_hosts
        response = _request(url, options, byte_range, deadline_s, public_only)
        try:
            location = response.get_redirect_location()
            if not location:
                return _body(url, response, options, byte_range, deadline_s)
        finally:
            # An unread body would block the connection: it is only worth keeping when nothing is left.
            response.release_conn() if response.closed else response.close()
        url = _redirect_target(url, location)
    raise ImageError("fetch_refused", f"{described(url)}: more than {MAX_REDIRECTS} redirects")


def _redirect_target(url: str, location: str) -> str:
    target = _joined(url, location)
    if not is_http(target):
        raise ImageError("fetch_refused", f"{described(url)}: redirects to {described(target)}, which is not http(s)")
    return target


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise ImageError("fetch_refused", f"{described(url)}: redirects to what is no URL") from error


def _request(
    url: str, options: FetchOptions, byte_range: ByteRange | None, deadline_s: float, public_only: bool
) -> urllib3.BaseHTTPResponse:
    remaining_s = deadline_s - time.monotonic()
    if remaining_s <= 0:
        raise ImageError("fetch_timeout", f"{described(url)}: no answer within {options.timeout_s} s")
    # identity: images are compressed already, and Content-Length then is the size that is capped.
    headers = {"User-Agent": options.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
    if byte_range:
        headers["Range"] = f"bytes={byte_range.offset}-{byte_range.offset + byte_range.size - 1}"
    try:
        return _pools(public_only, os.getpid()).request(
            "GET",
            url,
            headers=headers,
            timeout=urllib3.Timeout(total=remaining_s),
            retries=False,
            redirect=False,
            preload_content=False,
        )
    except HTTPError as error:
        raise _transport_error(url, error, options) from error


@functools.lru_cache(maxsize=4)
def _pools(public_only: bool, process_id: int) -> urllib3.PoolManager:
    """One set of connections a process; a forked one must not write into its parent's sockets."""
    settings = {"num_pools": 64, "maxsize": 64}
    return public_pools(**settings) if public_only else urllib3.PoolManager(**settings)


def _transport_error(url: str, error: HTTPError, options: FetchOptions) -> ImageError:
    """What a failure of urllib3's is called here; its own words may hold addresses of objects."""
    place = described(url)
    match error:
        case LocationParseError() | LocationValueError():
            return ImageError("image_missing", f"{place} is no URL that can be fetched")
        # Below TimeoutError in urllib3's family, though nothing has timed out.
        case NameResolutionError():
            return ImageError("fetch_failed", f"{place}: the host's name cannot be resolved")
        case SSLError():
            return ImageError("fetch_failed", f"{place}: no secure connection (TLS)")
        case urllib3.exceptions.NewConnectionError():
            return ImageError("fetch_failed", f"{place}: no connection")
        case urllib3.exceptions.TimeoutError():
            return ImageError("fetch_timeout", f"{place}: no answer within {options.timeout_s} s")
    return ImageError("fetch_failed", f"{place}: the connection broke ({type(error).__name__})")


def _body(
    url: str,
    response: urllib3.BaseHTTPResponse,
    options: FetchOptions,
    byte_range: ByteRange | None,
    deadline_s: float,
) -> bytes:
    _check_status(url, response, byte_range)
    if options.honour_robots_tag:
        _check_robots_tag(url, response.headers.getlist("X-Robots-Tag"), options)
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > options.max_image_bytes:
        raise _too_large(url, f"{length} bytes", options)
    data = bytearray()
    try:
        # read1 returns what one receive brings, so that slow drops of data meet the deadline.
        while chunk := response.read1(CHUNK_BYTES):
            data += chunk
            if len(data) > options.max_image_bytes:
                raise _too_large(url, "more", options)
            if time.monotonic() > deadline_s:
                raise ImageError("fetch_timeout", f"{described(url)}: not read within {options.timeout_s} s")
    except HTTPError as error:
        raise _transport_error(url, error, options) from error
    return bytes(data)


def _too_large(url: str, got: str, options: FetchOptions) -> ImageError:
    detail = f"{described(url)}: wanted at most {options.max_image_bytes} bytes (--max-image-bytes), got {got}"
    return ImageError("image_too_large", detail)


def _check_status(url: str, response: urllib3.BaseHTTPResponse, byte_range: ByteRange | None) -> None:
    status, detail = response.status, f"{described(url)}: HTTP {response.status}"
    if status in PASSING_STATUSES or status >= 500:
        raise ImageError("fetch_failed", detail, _retry_after_s(response.headers.get("Retry-After")))
    if byte_range is None and status != 200:
        raise ImageError("fetch_refused", detail)
    if byte_range and not _is_range(response, byte_range):
        raise ImageError("fetch_refused", f"{detail}, where one range of bytes was asked for")


def _is_range(response: urllib3.BaseHTTPResponse, byte_range: ByteRange) -> bool:
    wanted = f"bytes {byte_range.offset}-{byte_range.offset + byte_range.size - 1}/"
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(wanted)


def _retry_after_s(header: str | None) -> float | None:
    try:
        return Retry().parse_retry_after(header) if header else None
    except InvalidHeader:
        return None


def _check_robots_tag(url: str, headers: Iterable[str], options: FetchOptions) -> None:
    directive = disallowing_directive(headers, options.user_agent.split("/", 1)[0])
    if directive:
        raise ImageError("fetch_disallowed", f"{described(url)}: X-Robots-Tag says {directive}")


def disallowing_directive(headers: Iterable[str], agent: str) -> str | None:
    """The first directive of X-Robots-Tag headers that asks `agent` not to use the image, or None.

    A directive behind `name:` is for that user agent, and so are those after it up to the next name.
    """
    for header in headers:
        scope = ""
        for token in header.lower().split(","):
            name, colon, directive = (part.strip() for part in token.rpartition(":"))
            if name in DIRECTIVES_WITH_VALUES or name.startswith("unavailable_after"):
                continue
            scope = name if colon else scope
            if directive in DISALLOWING and scope in ("", agent.lower()):
                return f"{scope}: {directive}" if scope else directive
    return None
