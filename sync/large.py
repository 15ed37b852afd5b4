"""Large bodies, in parts: several at once, each kept when it is done, so that a crash or a budget costs one part."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from zlib import crc32

from budgets.meter import Pot
from sync.costs import MIB, RANGE_SIZE, pieces
from sync.hashing import md5_of
from sync.tree import LocalChanged, Staged, Tree, seal
from vaulthalla.requests import RequestClass
from vaulthalla.stores.base import (
    BodyCorrupt,
    Condition,
    Content,
    MeterRefused,
    ObjectInfo,
    Part,
    PreconditionFailed,
    Store,
    UploadMissing,
    Written,
)

PARALLEL_PARTS = 4
# Parts are sent from memory; however many bodies are under way, a process holds no more than this many.
PARTS_IN_MEMORY = threading.BoundedSemaphore(8)
MOST_CORRUPT_PARTS = 3
HASHED_BYTES = 4 * MIB


class Unfinished(Exception):
    """A body stopped on its way, to be gone on with when that is paid for; the parts it has are kept."""

    def __init__(self, refused: RequestClass | None = None) -> None:
        super().__init__()
        self.refused = refused


@dataclass(slots=True, kw_only=True)
class BigBody:
    """A `Transfer` row in memory. Helper threads add parts; the main thread stores it while `dirty`.

    `allowance` is how many requests this attempt may start (None: any number): what a budget has left.
    """

    path: str
    version: str
    size: int
    part_size: int
    upload_id: str = ""
    staged: Staged | None = None
    sha256: bytes | None = None
    part_checksums: list[int] = field(default_factory=list)
    parts: dict[int, str] = field(default_factory=dict)
    allowance: int | None = None
    refused: RequestClass | None = None
    stale_upload: str = ""
    dirty: bool = True
    corrupt: int = 0

    @property
    def missing(self) -> list[int]:
        return [number for number in range(1, pieces(self.size, self.part_size) + 1) if number not in self.parts]

    @property
    def held(self) -> int:
        """Bytes of the parts that are done; the last part may be shorter than the others."""
        return sum(self.span(number)[1] for number in self.parts)

    def span(self, number: int) -> tuple[int, int]:
        """(offset, length) of a part."""
        offset = (number - 1) * self.part_size
        return offset, min(self.part_size, self.size - offset)

    def kept(self, number: int, etag: str) -> None:
        self.parts[number] = etag
        self.dirty = True

    def restart(self) -> None:
        """Forgets the upload and its parts; the hashes stay."""
        self.upload_id = ""
        self.parts.clear()
        self.dirty = True

    def hash_once(self, file: BinaryIO) -> None:
        """SHA-256 of the whole and a checksum of each part, side by side; remembered for later attempts.

        By its checksum a part is known to be what was hashed when it is read again to be sent.
        """
        if self.sha256 is not None:
            return
        whole, checksums = hashlib.sha256(), []
        with ThreadPoolExecutor(1) as other:
            for number in range(1, pieces(self.size, self.part_size) + 1):
                _, length = self.span(number)
                part = _read_exactly(file, length, self.path)
                checksum = other.submit(crc32, part)
                whole.update(part)
                checksums.append(checksum.result())
        self.part_checksums, self.sha256, self.dirty = checksums, whole.digest(), True


def upload_parts(
    store: Store,
    file: BinaryIO,
    body: BigBody,
    content: Content,
    stop: threading.Event,
    *,
    condition: Condition,
    completing: Callable[[], Pot | None],
) -> Written | None:
    """Uploads what is missing and completes. None when `stop` or the allowance came first; parts are kept.

    `completing` sets aside what the completion takes: it may be two requests, of which one alone is in vain.
    Raises UploadMissing (start again) and PreconditionFailed as the store's `complete_upload` does.
    """
    path, keep_back = body.path, 1 if body.upload_id else 2
    if body.allowance is not None and body.allowance < keep_back + (1 if body.missing else 0):
        body.refused = RequestClass.PUT
        return None
    if not body.upload_id:
        body.upload_id, body.dirty = store.start_upload(path, content), True

    def one(number: int) -> None:
        offset, length = body.span(number)
        with PARTS_IN_MEMORY:
            data = os.pread(file.fileno(), length, offset)
            if len(data) != length or crc32(data) != body.part_checksums[number - 1]:
                raise LocalChanged(path, "changed while it was uploaded")
            body.kept(number, store.upload_part(path, body.upload_id, number, data, md5=md5_of(data)).etag)

    try:
        allowed = None if body.allowance is None else body.allowance - keep_back
        if not _in_parallel(body, one, allowed, stop, RequestClass.PUT):
            return None
        parts = [Part(number=n, size=body.span(n)[1], etag=etag) for n, etag in sorted(body.parts.items())]
        pot = completing()
        if pot is None:
            body.refused = RequestClass.PUT
            return None
        with pot:
            written = store.complete_upload(path, body.upload_id, parts, condition=condition)
    except UploadMissing:
        body.restart()
        raise
    return written


def download_ranges(
    store: Store, tree: Tree, etag: str, body: BigBody, stop: threading.Event
) -> tuple[Staged, ObjectInfo, bytes] | None:
    """Fetches the missing ranges of exactly `etag`; (sealed file, description, SHA-256) once all are there.

    None when `stop` or the allowance came first. Raises PreconditionFailed when the object changed.
    """
    path = body.path
    file = tree.reopen(body.staged) if body.staged else None
    if file is None:
        body.parts.clear()
        file, body.staged = tree.stage(path)
        body.dirty = True
    staged = body.staged
    if staged is None:
        raise AssertionError("a download without a file")
    seen: list[ObjectInfo] = []
    hashed = _Prefix(body, file.fileno())

    def one(number: int) -> None:
        offset, length = body.span(number)
        try:
            target: Any = _At(file.fileno(), offset)
            seen.append(store.get(path, target, offset=offset, length=length, if_match=etag))
        except BodyCorrupt:
            body.corrupt += 1
            if body.corrupt == MOST_CORRUPT_PARTS:
                raise
            raise Unfinished from None
        # What is remembered as here must be, also after a power cut.
        os.fdatasync(file.fileno())
        body.kept(number, "1")
        hashed.advance()

    with file:
        os.truncate(file.fileno(), body.size)
        try:
            if not _in_parallel(body, one, body.allowance, stop, RequestClass.GET):
                return None
            info = seen[-1] if seen else store.head(path)
            if info.etag != etag:
                # All parts were here before, so that no request told yet.
                raise PreconditionFailed(f"{path} is another version.")
        except PreconditionFailed:
            tree.discard(staged)
            raise
        sha256 = hashed.finish()
        sealed = seal(file, staged, mtime_ns=info.mtime_ns)
    return sealed, info, sha256


def range_size(size: int) -> int:
    """Bytes per GET of a large download."""
    return max(RANGE_SIZE, -(-size // 10_000 // MIB) * MIB)


def _in_parallel(
    body: BigBody,
    one: Callable[[int], None],
    allowed: int | None,
    stop: threading.Event,
    request_class: RequestClass,
) -> bool:
    """Runs `one` for every missing part; False when some are left. The first error ends it."""
    missing = body.missing
    todo = deque(missing if allowed is None else missing[: max(0, allowed)])
    failures: list[BaseException] = []

    def work() -> None:
        while todo and not failures and not stop.is_set():
            try:
                number = todo.popleft()
            except IndexError:
                return  # another thread took the last one
            try:
                one(number)
            except BaseException as error:  # handed to the thread that waits for all of them
                failures.append(error)

    with ThreadPoolExecutor(PARALLEL_PARTS) as pool:
        for _ in range(PARALLEL_PARTS):
            pool.submit(work)
    for error in sorted(failures, key=lambda error: isinstance(error, MeterRefused)):
        if isinstance(error, MeterRefused):
            body.refused = error.request_class
        raise error
    if body.missing and not stop.is_set():
        body.refused = request_class
    return not body.missing


class _Prefix:
    """SHA-256 of a body while its ranges arrive, as far as there is no gap; by whoever has just brought one."""

    def __init__(self, body: BigBody, fd: int) -> None:
        self.body, self.fd = body, fd
        self.number = 1
        self.whole = hashlib.sha256()
        self.lock = threading.Lock()

    def advance(self) -> None:
        """Hashes what follows on without a gap, unless another thread is at it."""
        while self.number in self.body.parts and self.lock.acquire(blocking=False):
            try:
                self._hash_next()
            finally:
                self.lock.release()

    def finish(self) -> bytes:
        """The hash once all parts are there."""
        with self.lock:
            while self.number in self.body.parts:
                self._hash_next()
        return self.whole.digest()

    def _hash_next(self) -> None:
        if self.number not in self.body.parts:
            return
        offset, length = self.body.span(self.number)
        for start in range(offset, offset + length, HASHED_BYTES):
            self.whole.update(os.pread(self.fd, min(HASHED_BYTES, offset + length - start), start))
        self.number += 1


class _At:
    """Writes at an offset of a shared file, whatever other threads write elsewhere."""

    def __init__(self, fd: int, offset: int) -> None:
        self.fd, self.offset = fd, offset

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            count = os.pwrite(self.fd, view, self.offset)
            self.offset += count
            view = view[count:]
        return len(data)


def _read_exactly(file: BinaryIO, length: int, path: str) -> bytes:
    pieces_: list[bytes] = []
    left = length
    while left:
        piece = file.read(left)
        if not piece:
            raise LocalChanged(path, "shrank while it was read")
        pieces_.append(piece)
        left -= len(piece)
    return pieces_[0] if len(pieces_) == 1 else b"".join(pieces_)
