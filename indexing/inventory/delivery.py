"""What is to be imported: one file, or the files that a delivery's `manifest.json` names. No database, no store."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from indexing.inputs import BUFFER, CLOCKS_APART, damaged, moment, told, unpacked
from indexing.inventory.rows import wrong_bucket
from indexing.inventory.schema import schema_of, split
from vaulthalla.errors import Refused

MANIFEST = "manifest.json"
CHECKSUM = "manifest.checksum"
FORMS = ("CSV", "ORC", "PARQUET")
COLUMNAR = (b"PAR1", b"ORC")
LARGEST_MANIFEST = 64 * 2**20
_DATED = re.compile(r"[12][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One file of rows: `path` on this host, or `key` of a bucket. `md5` (hexadecimal) is empty where none is known."""

    name: str
    size: int
    md5: str = ""
    path: str = ""
    bucket: str = ""
    key: str = ""
    etag: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Files of one inventory that began at `as_of`. `columns`: their names, where the files do not tell."""

    files: Sequence[DataFile]
    as_of: datetime
    columns: Sequence[str] | None = None
    has_header: bool = False

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def reading(self) -> dict[str, Any]:
        """How its rows are read, as JSON."""
        return {"columns": None if self.columns is None else list(self.columns), "has_header": self.has_header}

    def as_json(self) -> dict[str, Any]:
        files = [file.as_json() for file in self.files]
        return {"files": files, "as_of": self.as_of.isoformat(), **self.reading}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Delivery:
        """What `as_json` wrote."""
        files = [DataFile(**file) for file in told["files"]]
        as_of = datetime.fromisoformat(told["as_of"])
        return cls(files=files, as_of=as_of, columns=told["columns"], has_header=told["has_header"])


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

    def tell(self) -> int:
        return self.count

    def close(self) -> None:
        self.file.close()
        super().close()


def unpacked_pieces(
    path: Path, file: DataFile, progress: Callable[[int], None], verified: Callable[[str], None]
) -> Iterator[bytes]:
    """The content of one CSV, unpacked; its checksum is verified at the end. Raises Refused.

    `progress` is told how many bytes of the file were read, `verified` at last the MD5 of all of them.
    """
    watched = Watched(path)
    buffered = io.BufferedReader(watched, BUFFER)
    with unpacked(cast("io.BufferedReader", buffered)) as content, told(file.name, content):
        while piece := content.read(BUFFER):
            progress(watched.count)
            yield piece
        while buffered.read(BUFFER):  # what follows the content belongs to the checksum, too
            pass
        verified(_promised(watched.md5.hexdigest(), file))


def verify(path: Path, file: DataFile, keep: Callable[[], None]) -> str:
    """The MD5 of a file, by reading all of it. Raises Refused where the manifest says another one."""
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as raw:
        while piece := raw.read(BUFFER):
            md5.update(piece)
            keep()
    return _promised(md5.hexdigest(), file)


def _promised(found: str, file: DataFile) -> str:
    if file.md5 and found != file.md5.lower():
        raise damaged(file.name, "", f"its MD5 is {found}, the manifest says {file.md5}")
    return found


def is_columnar(path: Path) -> bool:
    """Parquet and ORC tell by their first bytes."""
    with path.open("rb") as file:
        return file.read(4).startswith(COLUMNAR)


def of_file(path: Path, *, schema: str = "", has_header: bool = False, as_of: str = "") -> Delivery:
    """One file; as old as its last modification unless told. Raises Refused."""
    if not path.is_file():
        raise Refused(f"{path} is no file that can be read.", code="input_missing", remedy="Name a readable file.")
    size = path.stat().st_size
    if not size:
        raise damaged(str(path), "", "the file is empty")
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    file = DataFile(path=str(path.absolute()), name=str(path), size=size)
    return of_one(file, changed, schema=schema, has_header=has_header, as_of=as_of)


def of_one(file: DataFile, changed: datetime, *, schema: str, has_header: bool, as_of: str) -> Delivery:
    """A file without a manifest. Raises Refused."""
    began = moment(as_of, option="--as-of") if as_of else changed
    columns = split(schema) if schema else None
    if columns:
        schema_of(columns, origin="--schema")
    return Delivery(files=[file], as_of=min(began, datetime.now(UTC)), columns=columns, has_header=has_header)


def of_manifest(path: Path, *, bucket: str) -> Delivery:
    """A whole delivery, all of whose files lie below a directory above the manifest. Raises Refused."""
    if path.is_dir():
        path /= MANIFEST
    name = str(path)
    raw = _read(path)
    beside = path.with_name(CHECKSUM)
    verify_manifest(raw, name, beside.read_bytes()[:200] if beside.is_file() else None)
    return of_content(raw, name, bucket=bucket, find=lambda entry: _data_file(path, entry, name))


def of_content(raw: bytes, name: str, *, bucket: str, find: Callable[[Mapping[str, Any]], DataFile]) -> Delivery:
    """What `manifest.json` says; `find` knows where the file of an entry is. Raises Refused."""
    manifest = _Manifest(raw, name)
    if manifest.bucket != bucket:
        raise wrong_bucket(manifest.bucket, bucket, name)
    columns = split(manifest.schema) if manifest.form == "CSV" else None
    if columns:
        schema_of(columns, origin=name)
    return Delivery(files=[find(entry) for entry in manifest.files], as_of=manifest.as_of, columns=columns)


def newest(folder: Path) -> Path:
    """The manifest of the newest complete delivery in a directory of them. Raises Refused."""
    if not folder.is_dir():
        raise Refused(f"{folder} is no directory.", code="input_missing", remedy="Name the directory of deliveries.")
    names = sorted((path.name for path in folder.iterdir() if is_dated(path.name)), reverse=True)
    for name in names:
        if all((folder / name / file).is_file() for file in (MANIFEST, CHECKSUM)):
            return folder / name / MANIFEST
    raise none_complete(str(folder))


def is_dated(name: str) -> bool:
    """Whether a folder is called as S3 calls deliveries."""
    return bool(_DATED.fullmatch(name))


def none_complete(where: str) -> Refused:
    """Nothing there can be imported."""
    return Refused(
        f"{where} holds no complete delivery: a folder like 2026-11-20T01-00Z with {MANIFEST} and {CHECKSUM}.",
        code="input_missing",
        remedy="Name the folder of one inventory configuration: DESTINATION/SOURCE-BUCKET/CONFIGURATION/",
    )


@dataclass(slots=True, init=False)
class _Manifest:
    """The parts of `manifest.json` that matter."""

    bucket: str
    form: str
    schema: str
    as_of: datetime
    files: list[Mapping[str, Any]] = field(default_factory=list)

    def __init__(self, raw: bytes, name: str) -> None:
        try:
            content = json.loads(raw)
            self.bucket, self.form = str(content["sourceBucket"]), str(content["fileFormat"]).upper()
            self.schema, self.files = str(content["fileSchema"]), list(content["files"])
            self.as_of = datetime.fromtimestamp(int(content["creationTimestamp"]) / 1000, UTC)
        except json.JSONDecodeError as error:
            raise damaged(name, f"line {error.lineno}, column {error.colno}", error.msg) from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise damaged(name, "", f"no inventory manifest: {error!r} is missing or wrong") from error
        if self.form not in FORMS:
            raise unknown_form(name, str(content["fileFormat"]))
        if self.as_of > datetime.now(UTC) + CLOCKS_APART:
            raise damaged(name, "", "creationTimestamp lies in the future")


def unknown_form(name: str, form: str) -> Refused:
    """A format of which nothing is known here."""
    return Refused(
        f"{name}: files of format {form!r}; inventories are imported from CSV, ORC and Parquet.",
        code="format_unsupported",
        remedy="Let S3 Inventory deliver one of these.",
    )


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


def verify_manifest(raw: bytes, name: str, checksum: bytes | None) -> None:
    """S3 writes the checksum last: without it the delivery is not complete."""
    if checksum is None:
        raise damaged(name.replace(MANIFEST, CHECKSUM), "", "missing, so the delivery is not complete")
    promised = checksum.decode("ascii", "replace").split()
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if [found] != [word.lower() for word in promised[:1]]:
        raise damaged(name, "", f"its MD5 is {found}, {CHECKSUM} says {' '.join(promised)}")


def entry_of(entry: Mapping[str, Any], name: str) -> tuple[PurePosixPath, int, str]:
    """Key, size and MD5 of an entry of `files`. Raises Refused."""
    try:
        return PurePosixPath(entry["key"]), int(entry["size"]), str(entry["MD5checksum"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(name, "", f"an entry of files: {error!r} is missing or wrong") from error


def _data_file(manifest: Path, entry: Mapping[str, Any], name: str) -> DataFile:
    key, size, md5 = entry_of(entry, name)
    path = _found(manifest.parent, key)
    if path is None:
        raise damaged(name, "", f"{key} is not there")
    if path.stat().st_size != size:
        raise damaged(str(path), "", f"{path.stat().st_size} bytes, the manifest says {size}")
    return DataFile(path=str(path.absolute()), name=str(path), size=size, md5=md5)


def _found(folder: Path, key: PurePosixPath) -> Path | None:
    """Where a delivery was copied whole, its keys are paths below a folder above the manifest; or all lies together."""
    if key.is_absolute() or ".." in key.parts:
        return None
    near = (folder / key.name, folder / "data" / key.name, folder.parent / "data" / key.name)
    above = (parent / key for parent in (folder.absolute(), *folder.absolute().parents))
    return next((path for path in (*above, *near) if path.is_file()), None)
