"""What may be asked of an export, and which format listens to which option."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from pipelines.options import option, require_at_least
from schemas import UserError

FORMATS = ("datasets", "webdataset", "coco", "ovseg")

PAIRS_A_FILE = {"datasets": 20_000, "webdataset": 1000}
"""Unless --shard-pairs says another number."""


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, in which format, to which place."""

    format: str = option("", "datasets (Parquet and a card), webdataset (tars), coco (JSON) or ovseg", choices=FORMATS)
    output: str = option("", "local folder of the export, which must not be there yet")
    where: str | None = option(None, 'filter over PAIRS columns, such as "margin > 0.02 and not abstract"')
    uris: str = option(
        "public",
        "image_uri and source_url of the export: public (local files by their names, addresses without passwords and "
        "keys) or full (as mined)",
        choices=("public", "full"),
    )
    shard_pairs: int = option(0, "datasets, webdataset: pairs a file; 0 is 20,000 a Parquet file and 1,000 a tar")
    crops: bool = option(False, "datasets: cut the crops that the run has not stored from its images now")
    title: str = option("a photo of a {}.", "ovseg: text of a pair, a sentence with {} for the noun, or {} alone")
    side: int = option(224, "ovseg: side of the square that a region is stretched to, px; 0 leaves it as it is cut")

    def __post_init__(self) -> None:
        """Refuses values that no export can work with, and options that the format does not have.

        Raises:
            UserError: naming the option.
        """
        require_at_least("shard_pairs", self.shard_pairs, 0)
        require_at_least("side", self.side, 0)
        if self.title.count("{}") != 1 or self.title.count("{") != 1 or self.title.count("}") != 1:
            raise UserError(f"--title: wanted a sentence with one {{}} where the noun goes, got {self.title!r}")
        for each in fields(self):
            listeners = LISTENERS.get(each.name, FORMATS)
            if self.format and self.format not in listeners and getattr(self, each.name) != each.default:
                flag = f"--{each.name.replace('_', '-')}"
                raise UserError(
                    f"{flag} is an option of --format {' or '.join(listeners)}, not of {self.format}; leave it out"
                )

    def pairs_a_file(self) -> int:
        """Pairs in one file of a format that has several."""
        return self.shard_pairs or PAIRS_A_FILE[self.format]

    def stated(self) -> dict[str, Any]:
        """What decides the bytes of the export, for its own record."""
        named = [each.name for each in fields(self) if self.format in LISTENERS.get(each.name, FORMATS)]
        return {name: getattr(self, name) for name in named if name != "output"}


LISTENERS: dict[str, tuple[str, ...]] = {
    "shard_pairs": ("datasets", "webdataset"),
    "crops": ("datasets",),
    "title": ("ovseg",),
    "side": ("ovseg",),
    "uris": ("datasets", "webdataset", "coco"),
}
"""Options that only some formats have."""
