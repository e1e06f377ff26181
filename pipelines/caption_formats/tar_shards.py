"""webdataset and img2dataset shards: uncompressed tar files in which the files of a sample share a key.

Image bytes are skipped here: a row's URI names shard, member, offset and size, and whoever needs the image reads
just these bytes.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from ovseg_model.images import ShardMember
from pipelines.caption_formats.columns import CANDIDATES
from pipelines.caption_formats.image_folder import captions_of_text
from pipelines.caption_formats.input_files import IMAGE_EXTENSIONS, InputFile, open_input
from pipelines.caption_formats.read_options import ReadOptions
from pipelines.caption_formats.rows import (
    BadRow,
    CaptionRow,
    RowError,
    optional_flag,
    optional_text,
    require_utf8,
    rows_of_captions,
    shown,
)
from schemas.errors import UserError


class Sample(NamedTuple):
    """The files of one sample by their extensions in lower case."""

    key: str
    members: dict[str, tarfile.TarInfo]


KIND_OF_MEMBER = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a pipe",
}
"""What a member that is no file is called."""


class TruncatedShardError(Exception):
    """The shard ends where more was to come."""


def read_tar(file: InputFile, options: ReadOptions) -> Iterator[CaptionRow | BadRow]:
    """The captions of one shard in its order; image_id is `<shard>/<key>`.

    Raises:
        UserError: it is no tar file, or a compressed one.
    """
    with open_input(file.uri) as opened:
        reader = _ShardReader(file, opened, options)
        yield from reader.rows()


class _ShardReader:
    def __init__(self, file: InputFile, opened: IO[bytes], options: ReadOptions) -> None:
        self._file = file
        self._opened = opened
        self._options = options
        self._seen: set[str] = set()

    def rows(self) -> Iterator[CaptionRow | BadRow]:
        sample = Sample("", {})
        try:
            for member in members_of(self._file, self._opened):
                if not is_file(member):
                    yield self._no_file(member)
                    continue
                key, extension = key_and_extension(member.name)
                if not extension:
                    continue
                if key != sample.key or extension in sample.members:
                    yield from self._rows_of_sample(sample)
                    sample = Sample(key, {})
                sample.members[extension] = member
            yield from self._rows_of_sample(sample)
        except TruncatedShardError as error:
            # What the last sample lacks may be what is cut off: it counts only when it is whole.
            yield from (row for row in self._rows_of_sample(sample) if isinstance(row, CaptionRow))
            yield RowError("truncated_shard", str(error)).row(self._file.uri)

    def _no_file(self, member: tarfile.TarInfo) -> BadRow:
        kind = "a sparse file, whose bytes are not in one piece" if member.issparse() else kind_of_link(member)
        return RowError("not_a_file", f"wanted a file, got {kind}").row(f"{self._file.name}/{member.name}")

    def _rows_of_sample(self, sample: Sample) -> list[CaptionRow | BadRow]:
        if not sample.members:
            return []
        image_id = f"{self._file.name}/{sample.key}"
        try:
            self._check_key(sample.key)
            image = image_member(sample)
            about = self._about(sample)
            captions, column = self._captions(sample, about)
            texts = [self._text(about, role) for role in ("source_url", "licence")]
            safety = self._safety(about)
        except RowError as problem:
            return [problem.row(image_id)]
        uri = ShardMember(self._file.uri, image.name, image.offset_data, image.size).uri
        return rows_of_captions(image_id, image_id, uri, captions, column, *texts, safety)

    def _check_key(self, key: str) -> None:
        require_utf8(key, "member name")
        if key in self._seen:
            wanted = "wanted the files of a sample side by side and each key once (tar --sort=name)"
            raise RowError("duplicate_image", f"{wanted}, got key {shown(key)} again")
        self._seen.add(key)

    def _about(self, sample: Sample) -> dict[str, Any]:
        """What the sample's .json says; empty without one."""
        if "json" not in sample.members:
            return {}
        try:
            about = json.loads(self._read(sample.members["json"]))
        except (ValueError, RecursionError) as error:
            raise RowError("not_json", f".json: wanted a JSON object ({error})") from error
        if not isinstance(about, dict):
            raise RowError("not_json", f".json: wanted a JSON object, got {shown(about)}")
        return about

    def _captions(self, sample: Sample, about: dict[str, Any]) -> tuple[list[Any], str]:
        """The captions of the .txt, or else of the .json."""
        if "txt" in sample.members and not self._options.caption_column:
            return captions_of_text(self._read(sample.members["txt"])), ".txt"
        column = self._column(about, "caption")
        if column is None or about[column] is None or about[column] == []:
            raise RowError("no_caption", f"wanted a .txt, or a caption in a .json, got {', '.join(sample.members)}")
        captions = about[column]
        return captions if isinstance(captions, list) else [captions], column

    def _text(self, about: dict[str, Any], role: str) -> str | None:
        column = self._column(about, role)
        return optional_text(about[column], column) if column else None

    def _safety(self, about: dict[str, Any]) -> str | None:
        column = self._column(about, "safety")
        return optional_flag(about[column], column) if column else None

    def _column(self, about: dict[str, Any], role: str) -> str | None:
        named = getattr(self._options, f"{role}_column")
        return next((name for name in ((named,) if named else CANDIDATES[role]) if name in about), None)

    def _read(self, member: tarfile.TarInfo) -> bytes:
        place = self._opened.tell()
        self._opened.seek(member.offset_data)
        data = self._opened.read(member.size)
        self._opened.seek(place)
        return data


def members_of(file: InputFile, opened: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The members of a shard that are no folders, without their data.

    Raises:
        UserError: it is no uncompressed tar file.
        TruncatedShardError: it ends before its end mark, after what is whole was yielded.
    """
    size_bytes = opened.seek(0, 2)
    opened.seek(0)
    archive = _open_archive(file, opened, size_bytes)
    while member := _next(archive):
        if is_file(member) and member.offset_data + member.size > size_bytes:
            raise TruncatedShardError(
                f"{member.name} ends at byte {member.offset_data + member.size}, the shard at {size_bytes}"
            )
        if not member.isdir():
            yield member
        # tarfile keeps every member that it has seen; a shard has ten thousands.
        archive.members.clear()
    opened.seek(archive.offset)
    if opened.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise TruncatedShardError(f"wanted a member or the end mark at byte {archive.offset} of {size_bytes}")


def is_file(member: tarfile.TarInfo) -> bool:
    """Whether a member's bytes stand in the shard, one after the other, from its offset on."""
    return member.isreg() and not member.issparse()


def kind_of_link(member: tarfile.TarInfo) -> str:
    """What a member that is no file is, in words."""
    kind = KIND_OF_MEMBER.get(member.type, f"a member of type {member.type!r}")
    return f"{kind} to {shown(member.linkname)}, which is not followed" if member.linkname else kind


def _open_archive(file: InputFile, opened: IO[bytes], size_bytes: int) -> tarfile.TarFile:
    if size_bytes < tarfile.BLOCKSIZE:
        raise TruncatedShardError(f"wanted a first member, got {size_bytes} bytes")
    try:
        return tarfile.open(fileobj=opened, mode="r:")
    except tarfile.TarError as error:
        raise UserError(
            f"{file.uri}: wanted an uncompressed tar file, in which images are found by offset, got another ({error}); "
            "unpack compressed ones"
        ) from error


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except tarfile.TarError as error:
        raise TruncatedShardError(f"at byte {archive.offset}: {error}") from error


def key_and_extension(name: str) -> tuple[str, str]:
    """A member's key and its extension in lower case, cut at the first dot of the base name; '' for hidden files."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower() if stem else ""


def image_member(sample: Sample) -> tarfile.TarInfo:
    """The sample's image; raises RowError when there is none."""
    found = next((extension for extension in IMAGE_EXTENSIONS if extension in sample.members), None)
    if found is None:
        raise RowError("missing_image", f"wanted an image, got {', '.join(sample.members)}")
    require_utf8(sample.members[found].name, "member name")
    return sample.members[found]
