"""Files that people hand us: plain or gzip, read in constant memory, with errors that name the file and the place."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, BinaryIO

from vaulthalla.errors import Refused

STDIN = "-"
GZIP_MAGIC = b"\x1f\x8b"
BUFFER = 1 << 20
# Rows of objects, or events, each of another key, do not pack that well.
BOMB_RATIO = 300
BOMB_BYTES = 64 * 2**20
# A store's clock may be ahead of this host's.
CLOCKS_APART = timedelta(minutes=5)


class Damaged(Refused):
    """What was handed in is torn, or is not what it should be; nothing was changed."""

    code = "input_damaged"


def damaged(name: str, place: str, why: str) -> Damaged:
    """The error for one place of one file."""
    where = f"{name}, {place}" if place else name
    return Damaged(f"{where}: {why}", remedy="Fetch the file again, or correct it; the index is as it was.")


@contextmanager
def opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed when it is gzip. Raises Refused when it cannot be read, or is torn."""
    with unpacked(_open(path, name)) as file, told(name, file):
        yield file


def _open(path: Path, name: str) -> io.BufferedReader:
    if path.is_dir():
        raise Refused(f"{name} is a directory.", code="input_missing", remedy="Name a file.")
    try:
        return path.open("rb")
    except OSError as error:
        why = error.strerror or str(error)
        raise Refused(f"{name} cannot be read: {why}.", code="input_missing", remedy="Name a readable file.") from error


@contextmanager
def unpacked(raw: io.BufferedReader) -> Iterator[BinaryIO]:
    """`raw`, or what its gzip stream holds; closes both."""
    with raw:
        if raw.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] != GZIP_MAGIC:
            yield raw
            return
        with io.BufferedReader(_Unpacked(raw), BUFFER) as file:
            yield file


class _Bomb(Exception):
    """A little that unpacks to very much."""


class _Unpacked(io.RawIOBase):
    """What a gzip stream holds. Raises _Bomb."""

    def __init__(self, raw: io.BufferedReader) -> None:
        super().__init__()
        self.raw, self.count = raw, 0
        self.file = gzip.GzipFile(fileobj=raw, mode="rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        self.count += count
        if self.count > max(BOMB_BYTES, BOMB_RATIO * self.raw.tell()):
            raise _Bomb
        return count

    def tell(self) -> int:
        return self.count


@contextmanager
def told(name: str, file: IO[bytes]) -> Iterator[None]:
    """Errors of reading and unpacking as Damaged, with how far it went."""
    try:
        yield
    except EOFError as error:
        raise damaged(name, _position(file), "the gzip stream ends too early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise damaged(name, _position(file), f"the gzip stream is damaged ({error})") from error
    except _Bomb as error:
        raise damaged(name, _position(file), f"it unpacks more than {BOMB_RATIO}-fold") from error


def _position(file: IO[bytes]) -> str:
    try:
        return f"after byte {file.tell()} of its content"
    except (OSError, ValueError):
        return ""


@contextmanager
def kept_stdin() -> Iterator[Path]:
    """Standard input as a file, so that it can be read twice: checked first, then used."""
    with tempfile.NamedTemporaryFile(prefix="vaulthalla-") as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.flush()
        yield Path(spool.name)


def moment(text: str, *, option: str) -> datetime:
    """An instant as people write it (RFC 3339; without a zone: UTC), not in the future. Raises Refused."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise _bad_moment(option, "must be a time like 2026-11-24T02:00:00Z") from error
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if found > datetime.now(UTC) + CLOCKS_APART:
        raise _bad_moment(option, "lies in the future")
    return found


def _bad_moment(option: str, why: str) -> Refused:
    return Refused(f"{option} {why}.", code="invalid_value", remedy=f"Give {option} a time like 2026-11-24T02:00:00Z.")
