"""The S3 events in a file: bare, or in the envelopes of SNS, SQS, EventBridge, R2 queues and MinIO. No database.

A file is one JSON document, or JSON Lines. Envelopes nest (an SQS body may hold an SNS envelope that holds
`Records`). What is JSON but no S3 event is told as such; what is not JSON is damaged, and refused with its place.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from indexing.inputs import damaged

# One message is a few kilobytes; a whole document is held in memory while it is read.
LONGEST_LINE = 64 * 2**20
LONGEST_DOCUMENT = 128 * 2**20
# More in a row are no events, but somebody's way to keep us busy.
MOST_BLANK_LINES = 100_000
DEEPEST = 8
# Events take more for each object in them; what takes less is made to fill memory with empty ones.
BYTES_AN_OBJECT = 24
BYTES_LOOKED_AT = 2**20

_BYTE = re.compile(r"\(byte (\d+)\)")


class Name(msgspec.Struct):
    name: str = ""


class S3Object(msgspec.Struct, frozen=True):
    """`object` in an S3 record or an R2 message."""

    key: str = ""
    size: int | None = None
    etag: str | None = msgspec.field(default=None, name="eTag")
    version_id: str | None = msgspec.field(default=None, name="versionId")
    sequencer: str | None = None


class S3Entity(msgspec.Struct):
    bucket: Name
    object: S3Object


class RestoreData(msgspec.Struct):
    expires: str | None = msgspec.field(default=None, name="lifecycleRestorationExpiryTime")
    storage_class: str | None = msgspec.field(default=None, name="lifecycleRestoreStorageClass")


class Glacier(msgspec.Struct):
    restore: RestoreData = msgspec.field(default_factory=RestoreData, name="restoreEventData")


class TransitionData(msgspec.Struct):
    storage_class: str | None = msgspec.field(default=None, name="destinationStorageClass")


class Lifecycle(msgspec.Struct):
    transition: TransitionData = msgspec.field(default_factory=TransitionData, name="transitionEventData")


class Tiering(msgspec.Struct):
    access_tier: str | None = msgspec.field(default=None, name="destinationAccessTier")


class BridgeObject(msgspec.Struct, rename="kebab"):
    key: str = ""
    size: int | None = None
    etag: str | None = None
    version_id: str | None = None
    sequencer: str | None = None


class Detail(msgspec.Struct, rename="kebab"):
    """`detail` of an EventBridge event."""

    bucket: Name = msgspec.field(default_factory=Name)
    object: BridgeObject = msgspec.field(default_factory=BridgeObject)
    reason: str | None = None
    deletion_type: str | None = None
    destination_storage_class: str | None = None
    source_storage_class: str | None = None
    destination_access_tier: str | None = None
    restore_expiry_time: str | None = None


class Item(msgspec.Struct):
    """Any event, or any envelope around events: the fields tell which. Others are ignored."""

    # an S3 record
    version: str | float | None = msgspec.field(default=None, name="eventVersion")
    event_name: str | None = msgspec.field(default=None, name="eventName")
    event_time: str | None = msgspec.field(default=None, name="eventTime")
    s3: S3Entity | None = None
    glacier: Glacier | None = msgspec.field(default=None, name="glacierEventData")
    lifecycle: Lifecycle | None = msgspec.field(default=None, name="lifecycleEventData")
    tiering: Tiering | None = msgspec.field(default=None, name="intelligentTieringEventData")
    # EventBridge
    detail_type: str | None = msgspec.field(default=None, name="detail-type")
    detail: msgspec.Raw = msgspec.Raw()
    source: str | None = None
    time: str | None = None
    # an R2 queue message
    action: str | None = None
    bucket: msgspec.Raw = msgspec.Raw()
    object: msgspec.Raw = msgspec.Raw()
    # s3:TestEvent
    event: str | None = msgspec.field(default=None, name="Event")
    test_bucket: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Bucket")
    test_time: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Time")
    # envelopes
    records: list[Item] | None = msgspec.field(default=None, name="Records")
    batch: list[Item] | None = msgspec.field(default=None, name="Messages")
    queued: list[Item] | None = msgspec.field(default=None, name="messages")
    result: msgspec.Raw = msgspec.Raw()
    sns: Item | None = msgspec.field(default=None, name="Sns")
    message: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Message")
    sqs_body: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Body")
    body: msgspec.Raw = msgspec.Raw()


_DECODER: msgspec.json.Decoder[Item | list[Item]] = msgspec.json.Decoder(Item | list[Item])
_TEXT = msgspec.json.Decoder(str)


def items(file: BinaryIO, name: str) -> Iterator[tuple[Item, str]]:
    """Events of a file with their places, in its order; with what is no S3 event (see `records.change_of`).

    Raises Damaged.
    """
    number, line = _first_line(file, name)
    whole, blanks = _decoded_line(line), 0
    if whole is None:
        yield from _document(line, file, name, number)
        return
    while True:
        if whole is not None:
            yield from _unwrapped(whole, name, f"line {number}", DEEPEST)
        line = file.readline(LONGEST_LINE)
        if not line:
            return
        number += 1
        whole = _line(line, name, number) if line.strip() else None
        blanks = 0 if whole is not None else blanks + 1
        if blanks:
            _blank(line, name, number, blanks=blanks)


def _first_line(file: BinaryIO, name: str) -> tuple[int, bytes]:
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            return number, line
        _blank(line, name, number, blanks=number)
    raise damaged(name, "", "no S3 event records found: the file is empty")


def _blank(line: bytes, name: str, number: int, *, blanks: int) -> None:
    """Raises Damaged where blanks go on and on."""
    if len(line) == LONGEST_LINE or blanks > MOST_BLANK_LINES:
        raise damaged(name, f"line {number}", "blanks without an end, instead of S3 event records")


def _decoded_line(line: bytes) -> Item | list[Item] | None:
    """The first line as a whole; None when it is only the beginning of a document, or damaged."""
    if _is_hollow(line):
        return None
    try:
        return _DECODER.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def _line(line: bytes, name: str, number: int) -> Item | list[Item]:
    if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
        raise damaged(name, f"line {number}", f"longer than {LONGEST_LINE} bytes")
    return _decoded(line, name, f"line {number}")


def _document(start: bytes, file: BinaryIO, name: str, number: int) -> Iterator[tuple[Item, str]]:
    whole = start + file.read(LONGEST_DOCUMENT - len(start) + 1)
    if len(whole) > LONGEST_DOCUMENT:
        why = f"a JSON document of more than {LONGEST_DOCUMENT} bytes; write one event a line (JSON Lines)"
        raise damaged(name, "", why)
    yield from _unwrapped(_decoded(whole, name, "", first_line=number), name, "", DEEPEST)


def _is_hollow(raw: bytes) -> bool:
    return len(raw) > BYTES_LOOKED_AT and raw.count(b"{") * BYTES_AN_OBJECT > len(raw)


def _decoded(raw: bytes, name: str, place: str, *, first_line: int = 1) -> Item | list[Item]:
    if _is_hollow(raw):
        raise damaged(name, place, "objects with next to nothing in them, instead of S3 event records")
    try:
        return _DECODER.decode(raw)
    except UnicodeDecodeError as error:
        raise damaged(name, place, "it is not UTF-8") from error
    except RecursionError as error:
        raise damaged(name, place, "values are nested too deep") from error
    except msgspec.MsgspecError as error:
        raise damaged(name, place or _place(raw, error, first_line), str(error)) from error


def _place(raw: bytes, error: msgspec.MsgspecError, first_line: int) -> str:
    """`line 3, column 7` for people; where a wrong type was found, the error names the field instead."""
    if isinstance(error, msgspec.ValidationError):
        return ""
    position = _BYTE.search(str(error))
    text = raw[: int(position[1])] if position else raw.rstrip()
    line, column = first_line + text.count(b"\n"), len(text) - text.rfind(b"\n")
    return f"line {line}, column {column}"


def _unwrapped(found: Item | list[Item], name: str, place: str, depth: int) -> Iterator[tuple[Item, str]]:
    """The events inside; a list is told by the number of its entry."""
    if isinstance(found, list):
        for number, item in enumerate(found, 1):
            yield from _unwrapped(item, name, f"{place}, entry {number}" if place else f"entry {number}", depth)
        return
    if not depth:
        raise damaged(name, place, "too many envelopes inside each other")
    inner = found.records if found.records is not None else found.batch if found.batch is not None else found.queued
    if inner is not None:
        yield from _unwrapped(inner, name, place, depth - 1)
    elif found.s3 is not None or found.detail_type is not None:
        yield found, place
    else:
        nested = _nested(found, name, place)
        if nested is None:
            yield found, place
        else:
            yield from _unwrapped(nested, name, place, depth - 1)


def _nested(found: Item, name: str, place: str) -> Item | list[Item] | None:
    """What an envelope with one message carries; None when it carries none that is JSON."""
    if found.sns is not None:
        return found.sns
    for raw in (found.message, found.sqs_body, found.body, found.result):
        if body := bytes(raw):
            text = _content(body)
            return None if text is None else _decoded(text, name, place)
    return None


def _content(raw: bytes) -> bytes | None:
    """A body: JSON itself, JSON in a string, or in Base64 as R2's pull consumers get it."""
    if raw[:1] in b"{[":
        return raw
    if raw[:1] != b'"':
        return None
    try:
        text = _TEXT.decode(raw).strip().encode()
    except UnicodeError:
        return None
    if text[:1] in b"{[" and text:
        return text
    try:
        plain = base64.b64decode(text, validate=True).strip()
    except (binascii.Error, ValueError):
        return None
    return plain if plain and plain[:1] in b"{[" else None
