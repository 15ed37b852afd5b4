"""A page of ListObjectsV2, at a twentieth of the CPU of botocore's own parser.

Objects of a page are written alike, so the first one tells the pattern by which the others are read; where any differs,
the C parser reads all of them.
"""

from __future__ import annotations

import operator
import re
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.parsers import expat

ROOT = "ListBucketResult"
# What a page says of itself; no object has a property of such a name.
OF_PAGE = frozenset({ROOT, "IsTruncated", "EncodingType", "NextContinuationToken"})
# Longer than any key (1 024 bytes, each encoded as three) and any token.
LONGEST_TEXT = 1 << 16
_OPEN, _CLOSE = "<Contents>", "</Contents>"
_LEAF = re.compile(r"<(\w+)>([^<]+)</\1>")

Read = tuple[list[dict[str, str]], list[str], dict[str, str]]


class BadListing(Exception):
    """The body is not a whole, well-formed ListBucketResult: an `<Error>`, cut short, or something else."""


@dataclass(slots=True)
class Listing:
    """What one page says. Keys are decoded, absolute, in the order of the page; values are the page's own text."""

    entries: list[dict[str, str]] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    truncated: bool = False
    next_token: str = ""


def parse(body: bytes) -> Listing:
    """Raises BadListing unless the page is whole: its root closed and `IsTruncated` stated."""
    entries, prefixes, top = _read_alike(body) or _read(body)
    if ROOT not in top:
        raise BadListing(f"the answer is no <{ROOT}>")
    truncated = top.get("IsTruncated", "").strip()
    if truncated not in ("true", "false"):
        raise BadListing("the page does not state IsTruncated")
    if not all(entry.get("Key") for entry in entries):
        raise BadListing("an object has no key")
    if top.get("EncodingType", "").strip() == "url":
        _decode(entries)
        prefixes = [_decoded(prefix) for prefix in prefixes]
    token = top.get("NextContinuationToken", "").strip()
    return Listing(entries=entries, prefixes=prefixes, truncated=truncated == "true", next_token=token)


def _read_alike(body: bytes) -> Read | None:
    """What `_read` reads, of a page whose objects all have the properties of the first in its order; else None."""
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError:
        return None
    head, opened, rest = text.partition(_OPEN)
    inner, closed, tail = rest.rpartition(_CLOSE)
    objects = (opened + inner + closed).replace("&quot;", '"').replace("&#34;", '"')
    if not (opened and closed) or "&" in objects or not objects.isprintable() or "<!" in head + tail:
        return None
    first = objects[: objects.find(_CLOSE) + len(_CLOSE)]
    try:
        (entry,), _, _ = _read(first.encode())
        others, prefixes, top = _read((head + tail).encode())
    except BadListing:
        return None
    names, pattern = _shape(_LEAF.sub(r"<\1>\0</\1>", first))
    found = pattern.findall(objects)
    tags = len(found) * first.count("<")
    if others or len(names) < 2 or not tags == objects.count("<") == objects.count(">"):
        return None
    entries = [dict(zip(names, values, strict=True)) for values in found]
    return (entries, prefixes, top) if entries[0] == entry else None


@lru_cache(maxsize=64)
def _shape(entry: str) -> tuple[tuple[str, ...], re.Pattern[str]]:
    """The properties of an object written like this one, and the pattern of their values."""
    names = tuple(name for name, _ in _LEAF.findall(entry))
    pieces = [re.escape(piece) for piece in entry.split("\0")]
    return names, re.compile("([^<]+)".join(pieces))


def _read(body: bytes) -> Read:
    """The leaves of each `<Contents>`, the common prefixes, and the leaves of the page itself.

    A leaf's text arrives in one piece right before its end, so ends alone tell all: a third of the calls from C."""
    entries: list[dict[str, str]] = []
    prefixes: list[str] = []
    top: dict[str, str] = {}
    entry: dict[str, str] = {}
    text: deque[str] = deque(maxlen=1)

    def end(name: str) -> None:
        nonlocal entry
        if name == "Contents":
            entries.append(entry)
            entry = {}
        elif name == "CommonPrefixes":
            prefixes.append(entry.pop("Prefix", ""))
        elif name in OF_PAGE:
            top[name] = text.pop() if text else ""
        elif text:
            entry[name] = text.pop()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.buffer_size = LONGEST_TEXT
    # Does nothing, in C: with any handler here, blanks before a leaf are not joined to its text.
    parser.StartElementHandler = operator.is_
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # also an encoding that nobody knows
        raise BadListing(f"the page is not whole: {error}") from error
    return entries, prefixes, top


def _decode(entries: list[dict[str, str]]) -> None:
    """Undoes `EncodingType=url`. Bytes that are not UTF-8 survive as surrogates: such a key is later
    skipped with a reason, not renamed."""
    for entry in entries:
        entry["Key"] = _decoded(entry.get("Key", ""))


def _decoded(key: str) -> str:
    key = key.replace("+", " ").replace("%2F", "/")
    return unquote_to_bytes(key).decode("utf-8", "surrogateescape") if "%" in key else key


def timestamp(text: str) -> datetime:
    """RFC 3339 as listings write it, in UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def take_over(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """The `before-parse.s3.ListObjectsV2` handler: leaves a `Listing` in the response and botocore an empty body.

    A page that is not whole becomes a 500, which botocore retries like any server error."""
    if response_dict["status_code"] != 200:
        return
    try:
        customized_response_dict["Listing"] = parse(response_dict["body"])
    except BadListing:
        response_dict["status_code"] = 500
    else:
        response_dict["body"] = b"<ListBucketResult/>"
