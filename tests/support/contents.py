"""Bodies and what an upload promises about them."""

from __future__ import annotations

import hashlib

from vaulthalla.stores.base import Content

MTIME_NS = 1_700_000_000_123_456_789


def content_of(body: bytes, *, mtime_ns: int = MTIME_NS, storage_class: str = "") -> Content:
    return Content(
        size=len(body),
        sha256=hashlib.sha256(body).digest(),
        md5=hashlib.md5(body, usedforsecurity=False).digest(),
        mtime_ns=mtime_ns,
        storage_class=storage_class,
    )
