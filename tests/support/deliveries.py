"""S3 Inventory deliveries of any size, laid out and spelled as AWS documents them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

SCHEMA = "Bucket, Key, Size, LastModifiedDate, ETag, StorageClass"
VERSIONS_SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def row(key: str, *, bucket: str = "bucket", size: int = 5, etag: str = "e", at: datetime = LONG_AGO) -> list[str]:
    """One object in the columns of SCHEMA."""
    return [bucket, quote_plus(key, safe="/"), str(size), stamp(at), etag, "STANDARD"]


def stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def csv_bytes(rows: Iterable[Sequence[str]], *, zipped: bool = False) -> bytes:
    """All fields quoted, as S3 writes them."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    raw = text.getvalue().encode("utf-8", "surrogateescape")
    return gzip.compress(raw, 1) if zipped else raw


def deliver(
    home: Path,
    files: Sequence[Sequence[Sequence[str]]],
    *,
    as_of: datetime,
    schema: str = SCHEMA,
    bucket: str = "bucket",
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """A delivery below `home`, which stands for the destination bucket; returns its manifest.json."""
    config = Path("inventories", bucket, "all")
    entries = []
    for number, rows in enumerate(files):
        body = csv_bytes(rows, zipped=True)
        key = config / "data" / f"part-{number}.csv.gz"
        (home / key).parent.mkdir(parents=True, exist_ok=True)
        (home / key).write_bytes(body)
        entries.append({"key": key.as_posix(), "size": len(body), "MD5checksum": md5(body)})
    content = {
        "sourceBucket": bucket,
        "destinationBucket": "arn:aws:s3:::inventories",
        "version": "2016-11-30",
        "creationTimestamp": str(int(as_of.timestamp() * 1000)),
        "fileFormat": "CSV",
        "fileSchema": schema,
        "files": entries,
        **(changes or {}),
    }
    folder = home / config / as_of.strftime("%Y-%m-%dT%H-%MZ")
    folder.mkdir(parents=True)
    raw = json.dumps(content, indent=1).encode()
    (folder / "manifest.json").write_bytes(raw)
    (folder / "manifest.checksum").write_text(md5(raw))
    return folder / "manifest.json"


def md5(raw: bytes) -> str:
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()
