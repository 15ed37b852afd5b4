"""The manifest's bytes: its root and its objects of rows, read and written. Pure; docs/manifest.md is the contract.

What cannot be trusted to the last byte is refused: a root must be exactly what its content encodes to, and an object
exactly what the root says of it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, Annotated, Any

import msgspec

from vaulthalla.errors import VaulthallaError

FORMAT = "vaulthalla-manifest"
VERSION = 1
ROOT = ".vaulthalla/manifest.json"
FOLDER = ".vaulthalla/manifest/"
OWN_KEYS = ".vaulthalla/"
# What decoding raises for bytes that are not of the type; the last one for what is nested too deep.
NOT_OF_TYPE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
ROWS_HEADER = b'["vaulthalla-rows",1]\n'

MOST_ROOT_BYTES = 2**21
MOST_SHARDS = 256
MOST_DELTAS = 64
MOST_RETIRED = 2_048
MOST_LINE_BYTES = 2**16
# Rows of different keys never come near this; what claims more is made to fill a disk.
MOST_EXPANSION = 500
KEPT_AFTER_RETIREMENT = timedelta(days=7)
READ_BYTES = 2**18
GZIP = 31  # zlib's window bits for it
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
# The years 1 to 9999, in microseconds since 1970.
Micros = Annotated[int, msgspec.Meta(ge=-62_135_596_800_000_000, le=253_402_300_799_999_999)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
ObjectName = Annotated[str, msgspec.Meta(pattern=r"^(shard|delta)-[0-9a-f]{32}\.gz\Z")]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Unusable(VaulthallaError):
    """A manifest that must not be read, and must not be written over either."""

    code = "manifest_damaged"


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One object of rows: what its bytes must be, and which keys it spans. Empty ones are not written."""

    name: ObjectName
    sha256: Digest
    bytes: Count
    unpacked: Count
    rows: Count
    first: str
    last: str


class Retired(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A name that no newer root uses. Readers of older roots may still ask for it for a week."""

    name: ObjectName
    at: Moment


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far what the manifest knows can be trusted; the fields of `IndexState`."""

    complete: bool = False
    snapshot_as_of: Moment | None = None
    floor_at: Moment | None = None
    events_through: Moment | None = None

    @property
    def floor(self) -> datetime | None:
        """What happened before is in the manifest already."""
        return (self.floor_at or self.snapshot_as_of) if self.complete else None


class Root(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest: shards by key range, then deltas. Of each key the last object that has a row of it holds."""

    bucket: str
    prefix: str
    writer: str | None
    generated_at: Moment
    object_count: Count
    total_bytes: Count
    facts: Facts
    shards: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=MOST_SHARDS)]
    deltas: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=MOST_DELTAS)]
    retired: Annotated[tuple[Retired, ...], msgspec.Meta(max_length=MOST_RETIRED)]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return (*self.shards, *self.deltas)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(entry.name for entry in self.entries)


class Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is known of one key; times in microseconds since 1970. `rival_at` is set exactly while it is doubtful."""

    key: Annotated[str, msgspec.Meta(min_length=1)]
    observed_at: Micros
    gone: bool
    size: Count
    etag: str
    last_modified: Micros | None
    storage_class: str
    archive_status: str
    restore: Annotated[str, msgspec.Meta(pattern=r"^(|ongoing|active)\Z")]
    restore_expires: Micros | None
    version_id: str
    sequencer: str
    sha256: Digest | None
    mtime_ns: Int64 | None
    rival_at: Micros | None


class _Head(msgspec.Struct):
    format: str
    version: int


class _Envelope(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format: str
    version: int
    sha256: Digest
    manifest: msgspec.Raw


# --- the root ---


def encode_root(root: Root) -> bytes:
    """The one way to write this root."""
    content = msgspec.json.encode(root)
    digest = hashlib.sha256(content).hexdigest()
    envelope = _Envelope(format=FORMAT, version=VERSION, sha256=digest, manifest=msgspec.Raw(content))
    return msgspec.json.encode(envelope) + b"\n"


def decode_root(raw: bytes, *, bucket: str, prefix: str) -> Root:
    """Raises Unusable: damaged, of a newer version, or of another bucket or prefix."""
    if len(raw) > MOST_ROOT_BYTES:
        raise damaged("it is larger than a manifest may be")
    root = _read(raw)
    if encode_root(root) != raw:
        raise damaged("its checksum is not that of its content, or it is not written as a manifest is")
    _check_names(root)
    if (root.bucket, root.prefix) != (bucket, prefix):
        raise foreign(root, bucket, prefix)
    return root


def _read(raw: bytes) -> Root:
    try:
        head = msgspec.json.decode(raw, type=_Head)
        if head.format != FORMAT:
            raise damaged(f"its format is {head.format[:40]!r}")
        if head.version > VERSION:
            raise newer(head.version)
        envelope = msgspec.json.decode(raw, type=_Envelope)
        return msgspec.json.decode(envelope.manifest, type=Root)
    except NOT_OF_TYPE as error:
        raise damaged(str(error)) from error


def _check_names(root: Root) -> None:
    """Names are unique, shards do not overlap, and nothing claims to be more than its bytes can hold."""
    if len(root.names) != len(root.entries):
        raise damaged("it names an object twice")
    if any(entry.unpacked > max(entry.bytes * MOST_EXPANSION, MOST_LINE_BYTES) for entry in root.entries):
        raise damaged("an object claims to unpack to more than its bytes could hold")
    last: str | None = None
    for shard in root.shards:
        if shard.first > shard.last or (last is not None and shard.first <= last):
            raise damaged("its shards overlap")
        last = shard.last


# --- objects of rows ---


@dataclass(kw_only=True)
class Pack:
    """Rows on their way into the bytes of one object, written to `file`. Rows come in key order."""

    name: str
    file: IO[bytes]

    def __post_init__(self) -> None:
        # Without a time in it, the same rows are the same bytes.
        self._zip = zlib.compressobj(4, zlib.DEFLATED, GZIP)
        self._encoder = msgspec.json.Encoder()
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self.bytes = self.unpacked = self.rows = 0
        self.first = self.last = ""
        self._add_lines(ROWS_HEADER)

    def add(self, rows: Iterable[Row]) -> None:
        some = list(rows)
        if not some:
            return
        self.first = self.first or some[0].key
        self.last = some[-1].key
        self.rows += len(some)
        self._add_lines(self._encoder.encode_lines(some))

    def finish(self) -> Entry:
        self._write(self._zip.flush())
        return Entry(
            name=self.name,
            sha256=self._sha256.hexdigest(),
            bytes=self.bytes,
            unpacked=self.unpacked,
            rows=self.rows,
            first=self.first,
            last=self.last,
        )

    @property
    def md5(self) -> bytes:
        return self._md5.digest()

    def _add_lines(self, lines: bytes) -> None:
        self.unpacked += len(lines)
        self._write(self._zip.compress(lines))

    def _write(self, packed: bytes) -> None:
        self.bytes += len(packed)
        self._sha256.update(packed)
        self._md5.update(packed)
        self.file.write(packed)


def verify(file: IO[bytes], entry: Entry) -> None:
    """Raises Unusable unless these are exactly the bytes that the root names."""
    digest, length = hashlib.sha256(), 0
    while piece := file.read(READ_BYTES):
        length += len(piece)
        digest.update(piece)
    if length != entry.bytes or digest.hexdigest() != entry.sha256:
        raise damaged(f"its object {entry.name} is not the one that was published")


def unpack(file: IO[bytes], entry: Entry) -> Iterator[Row]:
    """The rows of an object, in constant memory. Raises Unusable."""
    lines = _lines(file, entry)
    if next(lines, b"") + b"\n" != ROWS_HEADER:
        raise damaged(f"{entry.name} does not begin as an object of rows does")
    decoder = msgspec.json.Decoder(Row)
    count, last = 0, ""
    for line in lines:
        row = _row(decoder, line, entry)
        if row.key <= last:
            raise damaged(f"{entry.name}: its rows are not in key order")
        if not count and row.key != entry.first:
            raise damaged(f"{entry.name} begins with another key than the manifest says")
        count, last = count + 1, row.key
        yield row
    if count != entry.rows or last != entry.last:
        raise damaged(f"{entry.name} has other rows than the manifest says")


def _row(decoder: msgspec.json.Decoder[Row], line: bytes, entry: Entry) -> Row:
    try:
        row = decoder.decode(line)
    except NOT_OF_TYPE as error:
        raise damaged(f"{entry.name}: {error}") from error
    # PostgreSQL holds no NUL, so no publisher's index did.
    if b"\\u0000" in line or row.key.startswith(OWN_KEYS):
        raise damaged(f"{entry.name} has a row that no index holds")
    return row


def _lines(file: IO[bytes], entry: Entry) -> Iterator[bytes]:
    unzip, total, rest = zlib.decompressobj(GZIP), 0, b""
    pending = file.read(READ_BYTES)
    try:
        while pending and not unzip.eof:
            piece = unzip.decompress(pending, READ_BYTES)
            pending = unzip.unconsumed_tail or file.read(READ_BYTES)
            total += len(piece)
            if total > entry.unpacked:
                raise damaged(f"{entry.name} unpacks to more than the manifest says")
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
            if len(rest) > MOST_LINE_BYTES:
                raise damaged(f"{entry.name} has a row that is too long")
    except zlib.error as error:
        raise damaged(f"{entry.name} cannot be unpacked ({error})") from error
    if not unzip.eof or unzip.unused_data or rest or total != entry.unpacked:
        raise damaged(f"{entry.name} does not end where it should")


# --- refusals ---


def damaged(why: str) -> Unusable:
    return Unusable(f"The manifest {ROOT} is damaged: {why}. The index stays as it is.")


def newer(version: int) -> Unusable:
    return Unusable(
        f"The manifest {ROOT} has format version {version}; this version of Vaulthalla reads up to {VERSION}."
        " The index stays as it is.",
        code="manifest_newer",
        remedy="Upgrade Vaulthalla on this host.",
    )


def foreign(root: Root, bucket: str, prefix: str) -> Unusable:
    return Unusable(
        f"The manifest {ROOT} is of {root.bucket}/{root.prefix}, not of {bucket}/{prefix}. The index stays as it is.",
        code="manifest_foreign",
    )


def as_json(root: Root) -> Any:
    """For a JSON column."""
    return msgspec.to_builtins(root)


def of_json(value: Any) -> Root | None:
    return None if not value else msgspec.convert(value, Root)
