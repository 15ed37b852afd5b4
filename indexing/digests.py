"""Digests of rows that follow one another, which the index makes of its own likewise: equal ones need no second look.

A digest is the MD5 of how many rows there are and of their columns one after another: texts with a NUL between any two
of them (PostgreSQL holds none), then sizes and times as 8 bytes each, big-endian, where a time that is not known is a
zero byte. What a source does not tell of a row is left out on both sides. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from struct import pack

from vaulthalla.stores.base import ObjectInfo

BETWEEN = b"\0"
# What a source need not tell, so that the index may know more.
OPTIONAL = ("version_id", "archive_status")
# Times are microseconds since 2000; this one counts since 1970.
EPOCH_MICROS = 946_684_800_000_000
# After every key that a store can have.
LAST = "\U0010ffff" * 257

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def of_columns(count: int, texts: Iterable[bytes], sizes: bytes, times: bytes) -> str:
    """Of rows by column: keys, ETags, storage classes, then what else is told, each joined by BETWEEN."""
    rows = b"".join((pack(">q", count), BETWEEN.join(texts), sizes, times))
    return hashlib.md5(rows, usedforsecurity=False).hexdigest()


def of_listing(infos: Sequence[ObjectInfo]) -> str | None:
    """Of live rows as a listing told them; None where it told more than the digest covers, or nothing at all."""
    if not infos or any(info.restore or info.restore_expires or info.mtime_ns is not None for info in infos):
        return None
    keys, etags = [info.key for info in infos], [info.etag for info in infos]
    classes = [info.storage_class for info in infos]
    times = [(info.last_modified - _EPOCH) // _MICROSECOND for info in infos]
    texts = ("\0".join(column).encode() for column in (keys, etags, classes))
    each = f">{len(infos)}q"
    return of_columns(len(infos), texts, pack(each, *[info.size for info in infos]), pack(each, *times))
