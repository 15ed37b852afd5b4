"""Digests of rows that follow one another, which the index makes of its own likewise: equal ones need no second look.

A digest is the MD5 of the rows as PostgreSQL's binary records (`record_send`) of the columns of `sql.DIGESTED`. What a
source does not tell of a row is left out on both sides. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from struct import Struct

from vaulthalla.stores.base import ObjectInfo

COLUMNS = 7
TEXT_OID, BIGINT_OID, TIME_OID = 25, 20, 1184
# Binary times are microseconds since 2000; this one counts since 1970.
EPOCH_MICROS = 946_684_800_000_000
# After every key that a store can have.
LAST = "\U0010ffff" * 257

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_KEY = Struct(">iii").pack
_TEXT = Struct(">ii").pack
_SIZE_AND_TIME = Struct(">iiqiiq").pack
_NOTHING = 2 * _TEXT(TEXT_OID, 0)


def of_listing(infos: Sequence[ObjectInfo]) -> str | None:
    """Of live rows as a listing told them; None where it told more than the digest covers, or nothing at all."""
    rows: list[bytes] = []
    for info in infos:
        modified = info.last_modified
        if modified is None or info.restore or info.restore_expires or info.mtime_ns is not None:
            return None
        key, etag, storage_class = info.key.encode(), info.etag.encode(), info.storage_class.encode()
        since = modified - _EPOCH
        micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
        rows += (
            _KEY(COLUMNS, TEXT_OID, len(key)),
            key,
            _TEXT(TEXT_OID, len(etag)),
            etag,
            _TEXT(TEXT_OID, len(storage_class)),
            storage_class,
            _NOTHING,
            _SIZE_AND_TIME(BIGINT_OID, 8, info.size, TIME_OID, 8, micros),
        )
    return hashlib.md5(b"".join(rows), usedforsecurity=False).hexdigest() if rows else None
