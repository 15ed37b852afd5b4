"""A store in memory that behaves as S3 is documented to: for simulations and tests, counted like a real one.

One `MemoryBucket` is the provider's side: objects, clock, what it has seen, faults to come. Any number of
`MemoryStore`s are clients of it, each with its own meter and prefix. One call is one attempt; nothing is retried.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import BinaryIO

import msgspec

from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import (
    ANYTHING,
    COPY_LIMIT_BYTES,
    BodyCorrupt,
    Capabilities,
    Condition,
    Content,
    Meter,
    ObjectArchived,
    ObjectInfo,
    ObjectMissing,
    Ordering,
    Page,
    Part,
    Restore,
    StoreError,
    UnexpectedResponse,
    UploadMissing,
    Written,
    check,
    require,
    require_news,
)
from vaulthalla.stores.profiles import ARCHIVE_CLASSES, ARCHIVE_STATUSES, AWS_CLASSES

PIECE_BYTES = 64 * 1024
PAGE_KEYS = 1000
EVERYTHING = Capabilities(
    conditional_put=True,
    conditional_copy=True,
    conditional_delete=True,
    conditional_complete=True,
    storage_classes=AWS_CLASSES,
)


class Moment(StrEnum):
    """Whether a fault strikes before the store acts, or after it acted but before the answer arrives."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(slots=True, kw_only=True)
class Fault:
    """The `nth` call (from now) of the Store method `operation`, or of any for "", raises `error`.

    `hook` runs instead of, or before, the error: another writer, a clock that jumps. `status`: the error is an answer
    with it, not the lack of one."""

    operation: str = ""
    nth: int = 1
    error: Exception | None = None
    status: int | None = None
    moment: Moment = Moment.BEFORE
    hook: Callable[[], object] | None = None

    def strikes(self, operation: str) -> bool:
        if self.operation not in ("", operation):
            return False
        self.nth -= 1
        return self.nth == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A body with what the store knows of it."""

    body: bytes
    etag: str
    last_modified: datetime
    storage_class: str = "STANDARD"
    archive_status: str = ""
    restore: Restore = Restore.NONE
    restore_expires: datetime | None = None
    sha256: bytes | None = None
    mtime_ns: int | None = None

    @property
    def readable(self) -> bool:
        """Archived objects are read only while restored."""
        archived = self.storage_class in ARCHIVE_CLASSES or self.archive_status in ARCHIVE_STATUSES
        return not archived or self.restore is Restore.ACTIVE

    def info(self, key: str, now: datetime) -> ObjectInfo:
        return ObjectInfo(
            key=key,
            size=len(self.body),
            etag=self.etag,
            last_modified=self.last_modified,
            observed_at=now,
            storage_class=self.storage_class,
            archive_status=self.archive_status,
            restore=self.restore,
            restore_expires=self.restore_expires,
            sha256=self.sha256,
            mtime_ns=self.mtime_ns,
            etag_is_md5="-" not in self.etag,
        )

    def listed(self, key: str, now: datetime) -> ObjectInfo:
        """A LIST shows no metadata, no archive status, and not how the object is encrypted."""
        return msgspec.structs.replace(
            self.info(key, now), sha256=None, mtime_ns=None, archive_status="", etag_is_md5=False
        )


@dataclass(slots=True, kw_only=True)
class _Upload:
    key: str
    content: Content
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class MemoryBucket:
    """The provider's side. All of it under one lock, so that every operation is atomic, as on S3."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.clock = clock
        self.objects: dict[str, StoredObject] = {}
        self.uploads: dict[str, _Upload] = {}
        self.seen = Requests()
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self._keys: list[str] = []
        self._upload_count = 0

    def inject(self, *faults: Fault) -> None:
        self.faults.extend(faults)

    def write(self, key: str, body: bytes, *, storage_class: str = "STANDARD") -> StoredObject:
        """Another writer's PUT: no meter, no metadata of ours."""
        with self.lock:
            return self.store(key, body, etag=hashlib.md5(body, usedforsecurity=False).hexdigest(), like=storage_class)

    def remove(self, key: str) -> None:
        """Another writer's DELETE."""
        with self.lock:
            if self.objects.pop(key, None) is not None:
                self._keys.remove(key)

    def restore(self, key: str, state: Restore, expires: datetime | None = None) -> None:
        """Moves an archived object's restore along."""
        with self.lock:
            self.objects[key] = replace(self.objects[key], restore=state, restore_expires=expires)

    def store(
        self, key: str, body: bytes, *, etag: str, like: str | Content | StoredObject, storage_class: str = ""
    ) -> StoredObject:
        """The new object, with the metadata of what it is `like` (or a bare storage class)."""
        known = like if isinstance(like, (Content, StoredObject)) else None
        stored = StoredObject(
            body=body,
            etag=etag,
            last_modified=self.clock(),
            storage_class=storage_class or (like if isinstance(like, str) else "") or "STANDARD",
            sha256=known.sha256 if known else None,
            mtime_ns=known.mtime_ns if known else None,
        )
        if key not in self.objects:
            insort(self._keys, key)
        self.objects[key] = stored
        return stored

    def open_upload(self, key: str, content: Content) -> str:
        self._upload_count += 1
        upload_id = f"upload-{self._upload_count}"
        self.uploads[upload_id] = _Upload(key=key, content=content)
        return upload_id

    def following(self, after: str, prefix: str) -> Iterator[str]:
        """Keys behind `after` that start with `prefix`, in UTF-8 order (that of Python's strings)."""
        start = max(bisect_right(self._keys, after), bisect_right(self._keys, prefix) - (prefix in self.objects))
        for index in range(start, len(self._keys)):
            if not self._keys[index].startswith(prefix):
                return
            yield self._keys[index]

    def scattered(self, after: str, prefix: str) -> Iterator[str]:
        """The same keys in an order nobody promises; `after` is a token of it."""
        order = sorted((_token(key), key) for key in self._keys if key.startswith(prefix))
        return (key for token, key in order if token > after)


class MemoryStore:
    """A client of a MemoryBucket; satisfies `Store`."""

    def __init__(
        self, bucket: MemoryBucket, meter: Meter, *, prefix: str = "", capabilities: Capabilities = EVERYTHING
    ) -> None:
        self.bucket = bucket
        self.meter = meter
        self.prefix = prefix
        self.capabilities = capabilities

    def assuming(self, capabilities: Capabilities) -> MemoryStore:
        """The same store, trusting other capabilities."""
        return MemoryStore(self.bucket, self.meter, prefix=self.prefix, capabilities=capabilities)

    @contextmanager
    def _attempt(self, operation: str, request_class: RequestClass) -> Iterator[None]:
        """One attempt: asked of the meter, seen by the bucket, struck by at most one fault."""
        self.meter.attempt(request_class)
        with self.bucket.lock:
            self.bucket.seen[request_class] += 1
            fault = next((fault for fault in self.bucket.faults if fault.strikes(operation)), None)
            if fault is not None:
                self.bucket.faults.remove(fault)
                if fault.status is not None:
                    self.meter.answered(request_class, fault.status)
            _strike(fault, Moment.BEFORE)
            yield
            _strike(fault, Moment.AFTER)

    # --- reading

    def list_page(self, *, after: str = "", prefix: str = "", limit: int = PAGE_KEYS, token: bool = False) -> Page:
        with self._attempt("list_page", RequestClass.LIST):
            now = self.bucket.clock()
            scattered = token and self.capabilities.ordering is Ordering.UNSPECIFIED
            order = self.bucket.scattered if scattered else self.bucket.following
            start = after if scattered or not after else self.prefix + after
            keys: list[str] = []
            more = False
            for key in order(start, self.prefix + prefix):
                if len(keys) == min(limit, PAGE_KEYS):
                    more = True
                    break
                keys.append(key)
            objects = [self.bucket.objects[key].listed(key[len(self.prefix) :], now) for key in keys]
        following = _token(keys[-1]) if scattered and keys else objects[-1].key if objects else ""
        return Page(objects=objects, next_after=following if more else None, observed_at=now)

    def list_prefixes(self, *, after: str = "", prefix: str = "") -> Sequence[str]:
        with self._attempt("list_prefixes", RequestClass.LIST):
            below = len(self.prefix + prefix)
            keys = self.bucket.following(self.prefix + after if after else "", self.prefix + prefix)
            found = dict.fromkeys(key[: key.index("/", below) + 1] for key in keys if "/" in key[below:])
        return [one[len(self.prefix) :] for one in found][:PAGE_KEYS]

    def head(self, key: str) -> ObjectInfo:
        with self._attempt("head", RequestClass.HEAD):
            return self._found(key).info(key, self.bucket.clock())

    def get(
        self,
        key: str,
        into: BinaryIO,
        *,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        on_bytes: Callable[[bytes], None] | None = None,
    ) -> ObjectInfo:
        with self._attempt("get", RequestClass.GET):
            stored = self._found(key)
            require(key, stored.etag, Condition(etag=if_match))
            require_news(key, stored.etag, if_none_match)
            if not stored.readable:
                raise ObjectArchived(f"{key} must be restored first.")
            if offset > len(stored.body):
                raise BodyCorrupt(f"{key} is shorter than {offset} bytes.")
            body = stored.body[offset : None if length is None else offset + length]
            info = stored.info(key, self.bucket.clock())
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            self.bucket.seen[RequestClass.DOWNLOAD_BYTES] += len(piece)
            self.meter.received(len(piece))
            into.write(piece)
            if on_bytes is not None:
                on_bytes(piece)
        return info

    # --- writing

    def put(self, key: str, body: bytes | BinaryIO, content: Content, *, condition: Condition = ANYTHING) -> Written:
        held = self._held(key, condition, proven=self.capabilities.conditional_put)
        with self._attempt("put", RequestClass.PUT):
            data = body if isinstance(body, bytes) else body.read()
            self._require(key, held)
            if len(data) != content.size or _md5(data) != content.md5:
                raise BodyCorrupt(f"{key} is not the content it was sent as.")
            return self._keep(key, data, content.md5.hex(), content)

    def start_upload(self, key: str, content: Content) -> str:
        with self._attempt("start_upload", RequestClass.PUT):
            return self.bucket.open_upload(self.prefix + key, content)

    def upload_part(self, key: str, upload_id: str, number: int, body: bytes, *, md5: bytes) -> Part:
        with self._attempt("upload_part", RequestClass.PUT):
            upload = self._upload(key, upload_id)
            if _md5(body) != md5:
                raise BodyCorrupt(f"Part {number} of {key} is not the content it was sent as.")
            part = Part(number=number, size=len(body), etag=md5.hex())
            upload.parts[number] = (part, body)
            return part

    def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        with self._attempt("list_parts", RequestClass.LIST):
            return [part for _, (part, _) in sorted(self._upload(key, upload_id).parts.items())]

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[Part], *, condition: Condition = ANYTHING
    ) -> Written:
        held = self._held(key, condition, proven=self.capabilities.conditional_complete)
        with self._attempt("complete_upload", RequestClass.PUT):
            upload = self._upload(key, upload_id)
            self._require(key, held)
            bodies = [body for part in parts for known, body in [upload.parts[part.number]] if known.etag == part.etag]
            if len(bodies) != len(parts):
                raise UnexpectedResponse(f"{key}: a part is not the one that was sent.", provider_code="InvalidPart")
            etag = f"{_md5(b''.join(_md5(body) for body in bodies)).hex()}-{len(bodies)}"
            del self.bucket.uploads[upload_id]
            return self._keep(key, b"".join(bodies), etag, upload.content)

    def abort_upload(self, key: str, upload_id: str) -> None:
        with self._attempt("abort_upload", RequestClass.DELETE):
            self.bucket.uploads.pop(upload_id, None)

    def copy(
        self,
        source: str,
        key: str,
        *,
        source_etag: str,
        size: int = 0,
        storage_class: str = "",
        condition: Condition = ANYTHING,
    ) -> Written:
        if size > COPY_LIMIT_BYTES:
            raise StoreError("objects in memory are smaller than that")
        held = self._held(key, condition, proven=self.capabilities.conditional_copy)
        with self._attempt("copy", RequestClass.COPY):
            origin = self._found(source)
            require(source, origin.etag, Condition(etag=source_etag))
            self._require(key, held)
            if not origin.readable:
                raise ObjectArchived(f"{source} must be restored first.")
            etag = _md5(origin.body).hex()
            stored = self.bucket.store(
                self.prefix + key, origin.body, etag=etag, like=origin, storage_class=storage_class
            )
            return Written(etag=etag, observed_at=stored.last_modified)

    def delete(self, key: str, *, if_match: str | None = None) -> datetime:
        try:
            held = self._held(key, Condition(etag=if_match), proven=self.capabilities.conditional_delete)
        except ObjectMissing as gone:
            return gone.observed_at or self.bucket.clock()
        with self._attempt("delete", RequestClass.DELETE):
            if self.prefix + key in self.bucket.objects:
                self._require(key, held)
                self.bucket.remove(self.prefix + key)
            return self.bucket.clock()

    # --- the bucket's view

    def _held(self, key: str, condition: Condition, *, proven: bool) -> Condition:
        """The condition to state with the write; one the store does not keep is checked before, by a HEAD."""
        if proven or condition == ANYTHING:
            return condition
        check(self, key, condition)
        return ANYTHING

    def _require(self, key: str, condition: Condition) -> None:
        known = self.bucket.objects.get(self.prefix + key)
        require(key, known.etag if known else None, condition)

    def _found(self, key: str) -> StoredObject:
        stored = self.bucket.objects.get(self.prefix + key)
        if stored is None:
            raise ObjectMissing(f"{key} does not exist.", observed_at=self.bucket.clock())
        return stored

    def _upload(self, key: str, upload_id: str) -> _Upload:
        upload = self.bucket.uploads.get(upload_id)
        if upload is None or upload.key != self.prefix + key:
            raise UploadMissing(f"{upload_id} of {key} does not exist.")
        return upload

    def _keep(self, key: str, body: bytes, etag: str, content: Content) -> Written:
        stored = self.bucket.store(
            self.prefix + key, body, etag=etag, like=content, storage_class=content.storage_class
        )
        return Written(etag=etag, observed_at=stored.last_modified)


def _strike(fault: Fault | None, moment: Moment) -> None:
    if fault is None or fault.moment is not moment:
        return
    if fault.hook is not None:
        fault.hook()
    if fault.error is not None:
        raise fault.error


def _md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def _token(key: str) -> str:
    return _md5(key.encode()).hex()
