"""How images are fetched, and the one error of an image that cannot be had."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from schemas.drops import IMAGES
from schemas.errors import UserError

AGENT = "ovseg-mining"
"""The product name that servers see, and that an X-Robots-Tag may address."""


def _option(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True)
class FetchOptions:
    """Where images may come from, and how large and slow they may be."""

    timeout_s: float = _option(10.0, "seconds for one image over HTTP in all: redirects, retries and reading")
    max_image_bytes: int = _option(50 * 2**20, "bytes of one image file; larger ones are dropped")
    # Below the 89,478,485 from which Pillow warns of decompression bombs.
    max_image_px: int = _option(80_000_000, "pixels of one image, checked before decoding; larger ones are dropped")
    retries: int = _option(2, "further tries after a connection failure, HTTP 408, 425, 429 or 5xx")
    threads: int = _option(8, "images fetched and decoded at once, ahead of the model")
    allow_local_hosts: bool = _option(False, "let image URLs name local addresses; a redirect never may")
    image_schemes: tuple[str, ...] = _option(
        ("file", "http", "https", "s3", "gs", "gcs", "abfs", "az", "hf", "memory"),
        "URL schemes that images may have; a table from the web must not reach into other services",
    )
    user_agent: str = _option(f"{AGENT}/0.1", "what servers are told of who asks")
    honour_robots_tag: bool = _option(
        True, "drop images whose X-Robots-Tag says noai, noimageai, noindex or noimageindex"
    )

    def __post_init__(self) -> None:
        """Refuses values that no fetch can work with; raises UserError."""
        for name, least in (("max_image_bytes", 1), ("max_image_px", 1), ("retries", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')}: wanted {least} or more, got {getattr(self, name)}")
        if not self.timeout_s > 0:
            raise UserError(f"--timeout-s: wanted more than 0, got {self.timeout_s}")
        if not self.user_agent.isascii() or not self.user_agent.isprintable():
            raise UserError(f"--user-agent: wanted printable ASCII, got {self.user_agent!r}")

    def fingerprint(self) -> dict[str, Any]:
        """What decides which images are kept; the rest decides how fast."""
        names = ("max_image_bytes", "max_image_px", "allow_local_hosts", "honour_robots_tag", "image_schemes")
        return {name: getattr(self, name) for name in names}


class ImageError(Exception):
    """An image that cannot be had: `reason` is one of schemas.drops.IMAGES, `detail` says it in words.

    `retry_after_s` is what the server asked to wait, if it did.
    """

    def __init__(self, reason: str, detail: str, retry_after_s: float | None = None) -> None:
        """Takes the reason and its words."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def can_pass(self) -> bool:
        """Whether another try could succeed."""
        return IMAGES[self.reason].can_pass

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
