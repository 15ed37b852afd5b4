"""Hashes of local files: one pass each, and never of a file that moved under the reader."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from sync.fingerprint import Fingerprint, fingerprint

if TYPE_CHECKING:
    from hashlib import _Hash

READ_BYTES = 1 << 20
MIB = 1 << 20

# Part sizes that common clients use, in the order of how common they are: 8 MiB (aws s3, rclone's S3
# default is 5), 16 (s3cmd 15, Cyberduck 10), console and SDK sizes, and decimal megabytes.
COMMON_PART_BYTES = (
    *(mib * MIB for mib in (8, 5, 16, 10, 15, 25, 32, 50, 64, 100, 128, 256, 512)),
    8_000_000,
    5_000_000,
)

_MD5_HEX_DIGITS = 32
# At most 10 000 parts.
_COUNT_DIGITS = 5


class FileChanged(Exception):
    """The file was written to while it was read, so a hash of it means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashes:
    """Of one file as it was at `fingerprint`. `part_md5s` in order, when a part size was given."""

    sha256: bytes
    md5: bytes
    fingerprint: Fingerprint
    part_md5s: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        return self.fingerprint.size


def hash_file(file: BinaryIO, *, part_size: int | None = None, on_bytes: Callable[[int], None] | None = None) -> Hashes:
    """Reads an unbuffered file from its start. `on_bytes` hears of each piece (for progress and leases).

    Raises FileChanged when it was written to meanwhile.
    """
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    parts = _Parts(part_size) if part_size else None
    before = _whole(file)
    for piece in _pieces(file, on_bytes):
        sha256.update(piece)
        md5.update(piece)
        if parts:
            parts.update(piece)
    _check_still(file, before)
    return Hashes(
        sha256=sha256.digest(),
        md5=md5.digest(),
        fingerprint=before,
        part_md5s=parts.digests() if parts else (),
    )


def md5_of(body: bytes | memoryview) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def multipart_etag(part_md5s: Sequence[bytes]) -> str:
    """The ETag that S3 gives an object of these parts."""
    whole = hashlib.md5(b"".join(part_md5s), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(part_md5s)}"


def parts_of(etag: str) -> int | None:
    """How many parts a multipart ETag speaks of; None for any other ETag."""
    digest, dash, count = etag.rpartition("-")
    is_count = count.isascii() and count.isdigit() and len(count) <= _COUNT_DIGITS and int(count) > 0
    return int(count) if dash and len(digest) == _MD5_HEX_DIGITS and is_count else None


def candidate_part_sizes(size: int, parts: int) -> tuple[int, ...]:
    """The part sizes worth trying: common ones, and the even split, that cut `size` bytes into `parts`."""
    if parts == 1:
        # Whatever the part size was, the one part is the whole file.
        return (max(size, 1),)
    even = -(-size // parts)
    rounded = -(-even // MIB) * MIB
    sizes = dict.fromkeys((*COMMON_PART_BYTES, rounded, even))
    return tuple(part for part in sizes if part > 0 and max(1, -(-size // part)) == parts)


def matches_etag(file: BinaryIO, etag: str, *, on_bytes: Callable[[int], None] | None = None) -> bool | None:
    """Whether the file's content can be what a multipart ETag was made of, all candidates in one pass.

    None: no part size that is worth trying gives this number of parts, so nothing can be said. False
    says no more than that none of those tried fits. Raises FileChanged.
    """
    before = _whole(file)
    parts = parts_of(etag)
    sizes = candidate_part_sizes(before.size, parts) if parts else ()
    if not sizes:
        return None
    candidates = [_Parts(size) for size in sizes]
    for piece in _pieces(file, on_bytes):
        for candidate in candidates:
            candidate.update(piece)
    _check_still(file, before)
    return any(multipart_etag(candidate.digests()) == etag for candidate in candidates)


@dataclass(slots=True)
class _Parts:
    """MD5 of each part of a stream."""

    part_size: int
    done: list[bytes] = field(default_factory=list)
    left: int = field(init=False)
    current: _Hash = field(init=False)

    def __post_init__(self) -> None:
        self._begin()

    def update(self, piece: bytes | memoryview) -> None:
        view = memoryview(piece)
        while len(view) > self.left:
            self.current.update(view[: self.left])
            view = view[self.left :]
            self.done.append(self.current.digest())
            self._begin()
        self.current.update(view)
        self.left -= len(view)

    def digests(self) -> tuple[bytes, ...]:
        """Of the whole stream: an empty one is one empty part."""
        return (*self.done, self.current.digest())

    def _begin(self) -> None:
        self.left = self.part_size
        self.current = hashlib.md5(usedforsecurity=False)


def _whole(file: BinaryIO) -> Fingerprint:
    file.seek(0)
    return fingerprint(os.fstat(file.fileno()))


def _pieces(file: BinaryIO, on_bytes: Callable[[int], None] | None) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(READ_BYTES))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        yield buffer[:count]
        if on_bytes:
            on_bytes(count)


def _check_still(file: BinaryIO, before: Fingerprint) -> None:
    if fingerprint(os.fstat(file.fileno())) != before:
        raise FileChanged(f"{before.size} bytes when reading began")
