"""What is to be imported: one file, or the files that a delivery's `manifest.json` names. No database."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO, cast

from indexing.inputs import CLOCKS_APART, damaged, moment, told, unpacked
from indexing.inventory.rows import wrong_bucket
from indexing.inventory.schema import Schema, schema_of, split
from vaulthalla.errors import Refused

CHECKSUM = "manifest.checksum"
LARGEST_MANIFEST = 64 * 2**20
BUFFER = 1 << 20
# First bytes of formats that are not CSV.
_MAGIC = {b"PAR1": "Parquet", b"ORC": "ORC"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One file of rows. `md5` (hexadecimal) is empty where nobody promised one."""

    path: Path
    name: str
    md5: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Files of one inventory that began at `as_of`."""

    files: Sequence[DataFile]
    as_of: datetime
    schema: Schema | None = None
    has_header: bool = False

    @property
    def bytes(self) -> int:
        return sum(file.path.stat().st_size for file in self.files)


class Watched(io.RawIOBase):
    """A file that counts and hashes what is read from it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = path.open("rb", buffering=0)
        self.count = 0
        self.md5 = hashlib.md5(usedforsecurity=False)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer) or 0
        self.md5.update(memoryview(buffer)[:count])
        self.count += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


@dataclass(slots=True)
class Progress:
    """Bytes read of a whole delivery."""

    total: int
    before: int = 0
    current: Watched | None = None

    @property
    def done(self) -> int:
        return self.before + (self.current.count if self.current else 0)


@contextmanager
def reading(file: DataFile, progress: Progress) -> Iterator[TextIO]:
    """The text of one CSV, unpacked; its checksum is verified at the end. Raises Refused."""
    watched = Watched(file.path)
    progress.current = watched
    buffered = io.BufferedReader(watched, BUFFER)
    _only_csv(buffered.peek(4), file.name)
    with unpacked(cast("io.BufferedReader", buffered)) as content, told(file.name, content):
        text = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="")
        yield text
        while buffered.read(BUFFER):  # what follows the content belongs to the checksum, too
            pass
        if file.md5 and watched.md5.hexdigest() != file.md5.lower():
            raise damaged(file.name, "", f"its MD5 is {watched.md5.hexdigest()}, the manifest says {file.md5}")
        progress.before, progress.current = progress.before + watched.count, None
        text.detach()


def of_file(path: Path, *, schema: str = "", has_header: bool = False, as_of: str = "") -> Delivery:
    """One file; as old as its last modification unless told. Raises Refused."""
    if not path.is_file():
        raise Refused(f"{path} is no file that can be read.", code="input_missing", remedy="Name a readable file.")
    if not path.stat().st_size:
        raise damaged(str(path), "", "the file is empty")
    began = moment(as_of, option="--as-of") if as_of else datetime.fromtimestamp(path.stat().st_mtime, UTC)
    columns = schema_of(split(schema), origin="--schema") if schema else None
    file = DataFile(path=path, name=str(path))
    return Delivery(files=[file], as_of=min(began, datetime.now(UTC)), schema=columns, has_header=has_header)


def of_manifest(path: Path, *, bucket: str) -> Delivery:
    """A whole delivery, all of whose files lie below a directory above the manifest. Raises Refused."""
    if path.is_dir():
        path /= "manifest.json"
    name = str(path)
    raw = _read(path)
    _verify_manifest(path, raw)
    manifest = _Manifest(raw, name)
    if manifest.bucket != bucket:
        raise wrong_bucket(manifest.bucket, bucket, name)
    return Delivery(
        files=[_data_file(path, entry, name) for entry in manifest.files],
        as_of=manifest.as_of,
        schema=schema_of(split(manifest.schema), origin=name),
    )


@dataclass(slots=True, init=False)
class _Manifest:
    """The parts of `manifest.json` that matter."""

    bucket: str
    schema: str
    as_of: datetime
    files: list[Mapping[str, Any]] = field(default_factory=list)

    def __init__(self, raw: bytes, name: str) -> None:
        try:
            content = json.loads(raw)
            self.bucket, form = str(content["sourceBucket"]), str(content["fileFormat"])
            self.schema, self.files = str(content["fileSchema"]), list(content["files"])
            self.as_of = datetime.fromtimestamp(int(content["creationTimestamp"]) / 1000, UTC)
        except json.JSONDecodeError as error:
            raise damaged(name, f"line {error.lineno}, column {error.colno}", error.msg) from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise damaged(name, "", f"no inventory manifest: {error!r} is missing or wrong") from error
        if form.upper() != "CSV":
            raise not_csv(name, form)
        if self.as_of > datetime.now(UTC) + CLOCKS_APART:
            raise damaged(name, "", "creationTimestamp lies in the future")


def not_csv(name: str, form: str) -> Refused:
    """ORC and Parquet are read by nothing that is installed with us."""
    return Refused(
        f"{name} is {form}; inventories are imported from CSV and gzipped CSV.",
        code="format_unsupported",
        remedy="Let S3 Inventory deliver CSV, or convert the file and name its columns with --schema.",
    )


def _only_csv(start: bytes, name: str) -> None:
    for magic, form in _MAGIC.items():
        if start.startswith(magic):
            raise not_csv(name, form)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _bounded(file, path)
    except OSError as error:
        why = error.strerror or str(error)
        raise Refused(f"{path} cannot be read: {why}.", code="input_missing", remedy="Name a manifest.json.") from error


def _bounded(file: BinaryIO, path: Path) -> bytes:
    raw = file.read(LARGEST_MANIFEST + 1)
    if len(raw) > LARGEST_MANIFEST:
        raise damaged(str(path), "", "too large for a manifest")
    return raw


def _verify_manifest(path: Path, raw: bytes) -> None:
    """S3 writes the checksum last: without it the delivery is not complete."""
    beside = path.with_name(CHECKSUM)
    if not beside.is_file():
        raise damaged(str(beside), "", "missing, so the delivery is not complete")
    promised = beside.read_bytes()[:200].decode("ascii", "replace").split()
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if [found] != [word.lower() for word in promised[:1]]:
        raise damaged(str(path), "", f"its MD5 is {found}, {CHECKSUM} says {' '.join(promised)}")


def _data_file(manifest: Path, entry: Mapping[str, Any], name: str) -> DataFile:
    try:
        key, size, md5 = PurePosixPath(entry["key"]), int(entry["size"]), str(entry["MD5checksum"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(name, "", f"an entry of files: {error!r} is missing or wrong") from error
    path = _found(manifest.parent, key)
    if path is None:
        raise damaged(name, "", f"{key} is not there")
    if path.stat().st_size != size:
        raise damaged(str(path), "", f"{path.stat().st_size} bytes, the manifest says {size}")
    return DataFile(path=path, name=str(path), md5=md5)


def _found(folder: Path, key: PurePosixPath) -> Path | None:
    """Where a delivery was copied whole, its keys are paths below a folder above the manifest; or all lies together."""
    if key.is_absolute() or ".." in key.parts:
        return None
    near = (folder / key.name, folder / "data" / key.name, folder.parent / "data" / key.name)
    above = (parent / key for parent in (folder.absolute(), *folder.absolute().parents))
    return next((path for path in (*above, *near) if path.is_file()), None)
