"""S3 Inventory deliveries of any size, laid out and spelled as AWS documents them.

python -m tests.support.deliveries DIR --rows N [--files K] [--format csv|orc|parquet] [--bucket NAME]
prints the path of the delivery's manifest.json.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote_plus

import pyarrow as pa
from pyarrow import orc, parquet

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


def columns_bytes(rows: Sequence[Sequence[str]], schema: str, form: str, **options: Any) -> bytes:
    """The rows that `csv_bytes` takes, as ORC or Parquet: keys plain, and each column of its own type."""
    names = [_NAMES[name.strip()] for name in schema.split(",")]
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    arrays = [_array(name, list(column)) for name, column in zip(names, cells, strict=True)]
    return table_bytes(pa.table(dict(zip(names, arrays, strict=True))), form, **options)


def table_bytes(table: pa.Table, form: str, **options: Any) -> bytes:
    """Compressed as S3 does: ORC with zlib, Parquet with snappy."""
    into = io.BytesIO()
    if form == "ORC":
        orc.write_table(table, into, compression="zlib", **options)
    else:
        parquet.write_table(table, into, compression="snappy", **options)
    return into.getvalue()


# As the manifests and files of ORC and Parquet spell them.
_NAMES = {
    "Bucket": "bucket",
    "Key": "key",
    "VersionId": "version_id",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
    "Size": "size",
    "LastModifiedDate": "last_modified_date",
    "ETag": "e_tag",
    "StorageClass": "storage_class",
}
_KINDS = {
    "size": ("bigint", "optional int64 size"),
    "last_modified_date": ("timestamp", "optional int64 last_modified_date (TIMESTAMP_MILLIS)"),
    "is_latest": ("boolean", "optional boolean is_latest"),
    "is_delete_marker": ("boolean", "optional boolean is_delete_marker"),
}


def _array(name: str, cells: list[str]) -> pa.Array:
    if name == "size":
        return pa.array([int(cell) if cell else None for cell in cells], pa.int64())
    if name == "last_modified_date":
        times = [datetime.fromisoformat(cell) if cell else None for cell in cells]
        return pa.array(times, pa.timestamp("ms", "UTC"))
    if name.startswith("is_"):
        return pa.array([cell == "true" for cell in cells], pa.bool_())
    if name == "key":
        return pa.array([unquote_plus(cell) for cell in cells], pa.string())
    return pa.array([cell or None for cell in cells], pa.string())


def file_schema(schema: str, form: str) -> str:
    """`fileSchema` of a manifest."""
    names = [_NAMES[name.strip()] for name in schema.split(",")]
    if form == "ORC":
        kinds = [f"{name}:{_KINDS.get(name, ('string', ''))[0]}" for name in names]
        return f"struct<{','.join(kinds)}>"
    lines = [_KINDS.get(name, ("", f"optional binary {name} (UTF8)"))[1] for name in names]
    return "message s3.inventory { " + " ".join(f"{line};" for line in lines) + "}"


def deliver(
    home: Path,
    files: Sequence[Sequence[Sequence[str]]],
    *,
    as_of: datetime,
    schema: str = SCHEMA,
    bucket: str = "bucket",
    form: str = "CSV",
    name: str = "part",
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """A delivery below `home`, which stands for the destination bucket; returns its manifest.json."""
    bodies = (csv_bytes(rows, zipped=True) if form == "CSV" else columns_bytes(rows, schema, form) for rows in files)
    return write(home, bodies, as_of=as_of, schema=schema, bucket=bucket, form=form, name=name, changes=changes)


def write(
    home: Path,
    bodies: Iterable[bytes],
    *,
    as_of: datetime,
    schema: str = SCHEMA,
    bucket: str = "bucket",
    form: str = "CSV",
    name: str = "part",
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """`deliver` of files that exist already."""
    config = Path("inventories", bucket, "all")
    entries = []
    ending = "csv.gz" if form == "CSV" else form.lower()
    for number, body in enumerate(bodies):
        key = config / "data" / f"{name}-{number}.{ending}"
        (home / key).parent.mkdir(parents=True, exist_ok=True)
        (home / key).write_bytes(body)
        entries.append({"key": key.as_posix(), "size": len(body), "MD5checksum": md5(body)})
    content = {
        "sourceBucket": bucket,
        "destinationBucket": "arn:aws:s3:::inventories",
        "version": "2016-11-30",
        "creationTimestamp": str(int(as_of.timestamp() * 1000)),
        "fileFormat": form,
        "fileSchema": schema if form == "CSV" else file_schema(schema, form),
        "files": entries,
        **(changes or {}),
    }
    folder = home / config / as_of.strftime("%Y-%m-%dT%H-%MZ")
    folder.mkdir(parents=True)
    raw = json.dumps(content, indent=1).encode()
    (folder / "manifest.json").write_bytes(raw)
    (folder / "manifest.checksum").write_text(md5(raw))
    return folder / "manifest.json"


def many(home: Path, *, rows: int, files: int, as_of: datetime, bucket: str = "bucket", form: str = "CSV") -> Path:
    """A delivery of `rows` objects in no order, as S3 delivers them; made a file at a time."""
    share = -(-rows // files)

    def body(number: int) -> bytes:
        first, last = number * share, min((number + 1) * share, rows)
        # Coprime to any power of ten, so that numbers are spread over the key space, each once.
        found = [(position * 7_368_787) % rows if rows % 7_368_787 else position for position in range(first, last)]
        lines = [_line(bucket, number) for number in found]
        if form == "CSV":
            return gzip.compress("".join(lines).encode(), 1)
        return columns_bytes([next(csv.reader([line])) for line in lines], SCHEMA, form)

    return write(home, map(body, range(files)), as_of=as_of, bucket=bucket, form=form)


def _line(bucket: str, number: int) -> str:
    key = f"folder-{number % 1000:04}/sub-{number // 1000 % 100:03}/object-{number:010}.bin"
    etag = f"{number * 2654435761 % 2**128:032x}"
    return f'"{bucket}","{key}","{number % 65536}","2026-01-01T00:00:00.000Z","{etag}","STANDARD"\n'


def md5(raw: bytes) -> str:
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.deliveries", description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--format", choices=("csv", "orc", "parquet"), default="csv")
    parser.add_argument("--bucket", default="bucket")
    wanted = parser.parse_args()
    form = {"csv": "CSV", "orc": "ORC", "parquet": "Parquet"}[wanted.format]
    yesterday = datetime.now(UTC) - timedelta(days=1)
    print(many(wanted.home, rows=wanted.rows, files=wanted.files, as_of=yesterday, bucket=wanted.bucket, form=form))


if __name__ == "__main__":
    main()
