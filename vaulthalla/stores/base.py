"""What a store is: the one protocol every backend implements, and the values that cross it.

Keys are relative to the store's prefix and are never normalised. All times are store time (the
response's `Date`), never this host's clock. Methods are safe to call from several threads at once.

StoreError
├── ObjectMissing          404: the key (or version) is not there
├── NotModified            304: it is still the version that the caller has
├── PreconditionFailed     412 / 409 ConditionalRequestConflict: somebody else was first
├── UploadMissing          NoSuchUpload: the multipart upload is gone
├── ObjectArchived         403 InvalidObjectState: a restore is needed before GET or COPY
├── BodyCorrupt            a body that is short, or fails its checksum, in either direction
├── AccessDenied           credentials refused, or not allowed to do this
├── BucketMissing          the bucket (or second directory) does not exist
├── StoreFull              no space or quota left for what was to be written
├── StoreUnavailable       time-outs, refused connections, 5xx after retries
└── UnexpectedResponse     any other answer; carries the provider's own code and message
MeterRefused               (not a StoreError) the meter stopped the attempt before the wire
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import BinaryIO, Protocol

import msgspec

from vaulthalla.requests import RequestClass


class StoreError(Exception):
    """A store's answer that is not success. `code` is stable and machine-readable.

    `observed_at` is store time where the store did answer: that a key is gone is knowledge, too."""

    code = "store_error"

    def __init__(self, message: str, *, provider_code: str = "", observed_at: datetime | None = None) -> None:
        super().__init__(message)
        self.provider_code = provider_code
        self.observed_at = observed_at


class ObjectMissing(StoreError):
    code = "object_missing"


class NotModified(StoreError):
    code = "not_modified"


class PreconditionFailed(StoreError):
    code = "precondition_failed"


class UploadMissing(StoreError):
    code = "upload_missing"


class ObjectArchived(StoreError):
    code = "object_archived"


class BodyCorrupt(StoreError):
    code = "body_corrupt"


class AccessDenied(StoreError):
    code = "access_denied"


class BucketMissing(StoreError):
    code = "bucket_missing"


class StoreFull(StoreError):
    code = "store_full"


class StoreUnavailable(StoreError):
    code = "store_unavailable"


class UnexpectedResponse(StoreError):
    code = "unexpected_response"


class MeterRefused(Exception):
    """No allotment is left for this class, or the lease has lapsed: nothing was sent."""

    def __init__(self, request_class: RequestClass | None, reason: str) -> None:
        super().__init__(reason)
        self.request_class = request_class


class Meter(Protocol):
    """Asked before every wire attempt, retries included, and for every body byte received.

    Called from helper threads; must not touch the database.
    """

    def attempt(self, request_class: RequestClass) -> None:
        """Count one attempt, or raise MeterRefused so that nothing is sent."""

    def answered(self, request_class: RequestClass, status: int) -> None:
        """Told of the HTTP status that an attempt of this thread was answered with; of none when no answer came."""

    def received(self, count: int) -> None:
        """Count body bytes downloaded, or raise MeterRefused to stop the transfer."""


class Restore(StrEnum):
    """Restore state of an archived object, from `x-amz-restore` or LIST's RestoreStatus."""

    NONE = ""
    ONGOING = "ongoing"
    ACTIVE = "active"


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One object as the store described it. `sha256`/`mtime_ns` come from our own metadata, or rclone's mtime.

    A Struct, since listings make a thousand of them a page, at a sixth of what a frozen dataclass costs.
    """

    key: str
    size: int
    etag: str  # without quotes
    last_modified: datetime
    observed_at: datetime  # store time of the answer
    storage_class: str = "STANDARD"
    archive_status: str = ""  # INTELLIGENT_TIERING: ARCHIVE_ACCESS | DEEP_ARCHIVE_ACCESS, from HEAD only
    restore: Restore = Restore.NONE
    restore_expires: datetime | None = None
    version_id: str = ""
    sha256: bytes | None = None
    mtime_ns: int | None = None
    etag_is_md5: bool = False  # only where the answer says how the object was written and encrypted


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a listing. `next_after` is where to go on (a key or an opaque token); None = the end."""

    objects: Sequence[ObjectInfo]
    next_after: str | None
    observed_at: datetime
    unreadable: Sequence[str] = ()  # prefixes that could not be read (directory stores): below them nothing is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What must hold at the destination for a write: nothing, absent, or exactly this ETag."""

    absent: bool = False
    etag: str | None = None


ANYTHING = Condition()


def require(key: str, found: str | None, condition: Condition) -> None:
    """Raises PreconditionFailed unless the ETag found (None: no object) is what `condition` asks for."""
    if condition.absent and found is not None:
        raise PreconditionFailed(f"{key} exists already.")
    if condition.etag is not None and found != condition.etag:
        raise PreconditionFailed(f"{key} is {'gone' if found is None else 'another version'}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What an upload promises about its body; stored in object metadata."""

    size: int
    sha256: bytes
    md5: bytes
    mtime_ns: int
    storage_class: str = ""  # empty: the provider's default


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a write returned. The ETag is the response's own, never a later HEAD's."""

    etag: str
    observed_at: datetime
    version_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part the store holds. number counts from 1."""

    number: int
    size: int
    etag: str


class Ordering(StrEnum):
    """Whether a listing comes in UTF-8 binary key order (so StartAfter can split it)."""

    BINARY = "binary"
    UNSPECIFIED = "unspecified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What this store does, proven by a probe or promised by its provider profile.

    A condition that is not proven gets a HEAD right before the request (see `Vault.capabilities`, `costs`).
    """

    conditional_put: bool = False
    conditional_copy: bool = False
    conditional_delete: bool = False
    conditional_complete: bool = False  # CompleteMultipartUpload; some stores keep conditions on PUT alone
    ordering: Ordering = Ordering.BINARY
    storage_classes: frozenset[str] = field(default_factory=frozenset)
    multipart: bool = True


class Store(Protocol):
    """Objects by key. Raises StoreError, or MeterRefused before anything is sent.

    A condition that `capabilities` does not prove is checked by the store itself, with one HEAD right
    before the write: callers state the condition either way and budget with `costs`.
    """

    capabilities: Capabilities

    def list_page(self, *, after: str = "", prefix: str = "", limit: int = 1000, token: bool = False) -> Page:
        """One LIST. `after` is a key (StartAfter), or with `token` the previous page's `next_after`
        as an opaque token where the store does not list in order. `prefix` narrows below the store's own."""

    def list_prefixes(self, *, after: str = "", prefix: str = "") -> Sequence[str]:
        """One LIST with the delimiter "/": of the keys after `after` and below `prefix`, the first common prefixes
        (up to a page), in key order."""

    def head(self, key: str) -> ObjectInfo:
        """One HEAD; raises ObjectMissing."""

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
        """One GET (attempt), streamed into `into`; `on_bytes` sees each piece (for hashing).

        The answer's size is the whole object's. Raises PreconditionFailed when the ETag is no longer
        `if_match`, NotModified (without a body) when it is still `if_none_match`, BodyCorrupt when the
        body ends early."""

    def put(self, key: str, body: bytes | BinaryIO, content: Content, *, condition: Condition = ANYTHING) -> Written:
        """One PUT, sent with a checksum of the promised content so that the store refuses a torn read."""

    def start_upload(self, key: str, content: Content) -> str:
        """CreateMultipartUpload → upload id. Metadata is that of `content`."""

    def upload_part(self, key: str, upload_id: str, number: int, body: bytes, *, md5: bytes) -> Part:
        """One UploadPart; the store refuses a body that does not match `md5`. Raises UploadMissing."""

    def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        """The parts the store holds, in number order (may take several LIST requests)."""

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[Part], *, condition: Condition = ANYTHING
    ) -> Written:
        """CompleteMultipartUpload. Raises UploadMissing, PreconditionFailed."""

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Drops the upload; an upload that is gone is success."""

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
        """Server-side COPY inside the store; metadata is kept. A store forgets the class unless it is
        told: `storage_class` is the source's own. Above 5 GB (`size`) it takes several requests, see
        `copy_requests`. Raises ObjectMissing (source gone) or PreconditionFailed (source or destination changed)."""

    def delete(self, key: str, *, if_match: str | None = None) -> datetime:
        """One DELETE; deleting what is gone is success. Returns the store time since when it is gone."""


def require_news(key: str, found: str, if_none_match: str | None) -> None:
    """Raises NotModified when the ETag found is the one the caller has."""
    if if_none_match is not None and found == if_none_match:
        raise NotModified(f"{key} is what it was.")


def check(store: Store, key: str, condition: Condition) -> None:
    """One HEAD in place of a condition the store does not keep. Raises PreconditionFailed; ObjectMissing when
    a version was asked for and there is none."""
    try:
        found: str | None = store.head(key).etag
    except ObjectMissing:
        if condition.etag is not None:
            raise
        found = None
    require(key, found, condition)


def costs(
    capabilities: Capabilities,
    counts: Mapping[RequestClass, int],
    *,
    conditional: RequestClass,
    multipart: bool = False,
) -> dict[RequestClass, int]:
    """`counts` plus the HEAD that an unproven condition on `conditional` needs; `multipart`: it is on the Complete."""
    proven = {
        RequestClass.PUT: capabilities.conditional_complete if multipart else capabilities.conditional_put,
        RequestClass.COPY: capabilities.conditional_copy,
        RequestClass.DELETE: capabilities.conditional_delete,
    }[conditional]
    return dict(counts) if proven else {**counts, RequestClass.HEAD: counts.get(RequestClass.HEAD, 0) + 1}


# One CopyObject takes no more than this; larger objects are copied in parts of COPY_PART_BYTES.
COPY_LIMIT_BYTES = 5 * 2**30
COPY_PART_BYTES = 2**30


def copy_requests(size: int) -> dict[RequestClass, int]:
    """What a copy of an object of `size` bytes takes, its condition apart (see `costs`)."""
    if size <= COPY_LIMIT_BYTES:
        return {RequestClass.COPY: 1}
    parts = -(-size // COPY_PART_BYTES)
    return {RequestClass.HEAD: 1, RequestClass.PUT: 2, RequestClass.COPY: parts}
