"""What of a path or URL may be shown to the world: no folder of this machine, no password, no key."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

import pyarrow as pa

from ovseg_model.images import ShardMember

SECRET_WORDS = ("sig", "token", "key", "secret", "pass", "pwd", "cred", "auth", "session", "policy", "account")
"""A query with a parameter whose name holds one of these may be a secret, so it is left out as a whole."""


def public_uri(uri: str) -> str:
    """A local file by its name alone, any other URI without user name, password, fragment and secret query.

    A member of a tar shard keeps its place in the shard.
    """
    member = ShardMember.from_uri(uri)
    if member is not None:
        return member._replace(shard=public_uri(member.shard)).uri
    if "::" in uri:
        return "::".join(map(public_uri, uri.split("::")))
    scheme, mark, rest = uri.partition("://")
    if not mark or scheme.lower() in ("file", "local"):
        return re.split(r"[/\\]", uri.rstrip("/\\"))[-1]
    rest = re.sub(r"^[^/?#]*@", "", rest.partition("#")[0])
    place, mark, query = rest.partition("?")
    return f"{scheme}://{place}" + ("" if _may_be_secret(query) else mark + query)


def _may_be_secret(query: str) -> bool:
    names = [name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)]
    return any(word in name for name in names for word in SECRET_WORDS)


def public_uris(column: pa.ChunkedArray) -> pa.Array:
    """`public_uri` of a column of strings; null stays null. Each distinct value is looked at once."""
    encoded = column.combine_chunks().dictionary_encode()
    return pa.array(map(public_uri, encoded.dictionary.to_pylist()), pa.string()).take(encoded.indices)


def public_value(value: Any) -> Any:
    """A value of an option, or of JSON that holds options, whose paths and URLs are public."""
    match value:
        case str():
            return _public_text(value)
        case dict():
            return {key: public_value(each) for key, each in value.items()}
        case list() | tuple():
            return [public_value(each) for each in value]
    return value


def _public_text(text: str) -> str:
    named = re.fullmatch(r"([A-Za-z_]\w*=)(.*)", text, re.DOTALL)
    if named:
        return named[1] + _public_text(named[2])
    is_place = "://" in text or text.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:[/\\]", text)
    return public_uri(text) if is_place else text


def without_private_uri(text: str, uri: str | None) -> str:
    """A sentence about an image, with its URI made public."""
    for private in (uri, (uri or "").partition("#member=")[0]):
        text = text.replace(private, public_uri(private)) if private else text
    return text


def host_of(uri: str | None) -> str:
    """The host (or bucket, with its scheme) that a URI names; "" for a local file and for none."""
    scheme, mark, rest = public_uri(uri or "").rpartition("::")[2].partition("://")
    host = re.split(r"[/?#]", rest)[0].lower()
    return "" if not mark or not host else host if scheme.lower() in ("http", "https") else f"{scheme.lower()}://{host}"
