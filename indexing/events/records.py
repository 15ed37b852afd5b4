"""One S3 event as a change of one key, whatever family told of it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import unquote_plus

import msgspec

from indexing.events.envelopes import BridgeObject, Detail, Item, S3Object
from indexing.inputs import Damaged, damaged
from indexing.merge import storable
from vaulthalla.stores.base import Restore

# What decoding raises; a string that is not UTF-8 is found only when it is looked at.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
LARGEST_SIZE = 2**63 - 1
FIRST_YEAR, LAST_YEAR = 1970, 9998


class Effect(StrEnum):
    """What an event means for its key."""

    CREATED = "created"
    REMOVED = "removed"
    # A version or a marker went: only a HEAD tells what is current now.
    DOUBT = "doubt"
    # The content stays; its storage class, access tier or restore state changed.
    STORED = "stored"
    NOTHING = "nothing"


class Skip(StrEnum):
    """Why an event changes nothing."""

    TEST_EVENT = "test_event"
    NOT_S3 = "not_s3_event"
    NO_CHANGE = "no_change_of_content"
    UNKNOWN = "unknown_event"
    OTHER_BUCKET = "other_bucket"
    OTHER_PREFIX = "other_prefix"
    CONTROL = "vaulthalla_object"
    NOT_TEXT = "key_not_text"
    OLD_VERSION = "old_version"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What one event tells. `at` is store time; empty texts are unknown; `skip` says why there is no effect."""

    effect: Effect
    skip: Skip | None = None
    bucket: str = ""
    key: str = ""
    at: datetime | None = None
    etag: str = ""
    size: int = 0
    version_id: str = ""
    sequencer: str = ""
    storage_class: str = ""
    archive_status: str = ""
    restore: str = Restore.NONE.value
    restore_expires: datetime | None = None
    lifecycle: bool = False
    # It came by a switch that leaves out no kind of event: EventBridge's, or R2's for deletes.
    everything: bool = False


# By family, and where it matters by what happened.
_EFFECTS = {
    ("ObjectCreated", ""): Effect.CREATED,
    ("LifecycleTransition", ""): Effect.STORED,
    ("IntelligentTiering", ""): Effect.STORED,
    ("ObjectRestore", "Completed"): Effect.STORED,
    ("ObjectRestore", "Delete"): Effect.STORED,
    ("ReducedRedundancyLostObject", ""): Effect.DOUBT,
}
_UNCHANGED = ("ObjectTagging", "ObjectAcl", "Replication", "ObjectAccessed", "ObjectAnnotation", "ObjectRestore")
_BRIDGE_UNCHANGED = ("Object Tags Added", "Object Tags Deleted", "Object ACL Updated", "Object Restore Initiated")
_R2 = {
    "PutObject": Effect.CREATED,
    "CopyObject": Effect.CREATED,
    "CompleteMultipartUpload": Effect.CREATED,
    "DeleteObject": Effect.REMOVED,
    "LifecycleDeletion": Effect.REMOVED,
}


def is_event(change: Change) -> bool:
    """Whether it came from S3 at all."""
    return change.skip is not Skip.NOT_S3


def change_of(item: Item, name: str, place: str) -> Change:
    """The change an event tells of. `name` and `place` are for errors. Raises Damaged, also for what no row can hold.

    Only the key may be such a text, since skipping it by name harms nothing else.
    """
    change = _change_of(item, name, place)
    if not 0 <= change.size <= LARGEST_SIZE:
        raise damaged(name, place, f"{change.size} is no object's size")
    for text in (change.etag, change.version_id, change.sequencer, change.storage_class):
        if not storable(text):
            raise damaged(name, place, f"{text!r} holds what is no text")
    return change


def _change_of(item: Item, name: str, place: str) -> Change:
    if item.s3 is not None:
        return _record(item, item.s3.object, item.s3.bucket.name, name, place)
    if item.detail_type is not None:
        return _bridge(item, name, place)
    if item.action is not None and bytes(item.bucket) and bytes(item.object):
        return _r2(item, name, place)
    if item.event == "s3:TestEvent":
        return _test(item, name, place)
    return Change(effect=Effect.NOTHING, skip=Skip.NOT_S3)


def _test(item: Item, name: str, place: str) -> Change:
    """Sent when notifications are switched on: a feed tells all that happens from then on."""
    try:
        bucket = msgspec.json.decode(item.test_bucket, type=str)
        at = _optional_time(msgspec.json.decode(item.test_time, type=str), name, place)
    except (*UNREADABLE, Damaged):
        bucket, at = "", None
    return Change(effect=Effect.NOTHING, skip=Skip.TEST_EVENT, bucket=bucket, at=at)


def _record(item: Item, found: S3Object, bucket: str, name: str, place: str) -> Change:
    """A notification record of S3, or of a store that speaks like it; the key is form-encoded."""
    family, _, detail = (item.event_name or "").removeprefix("s3:").partition(":")
    effect, skip = _meaning(family, detail, bool(found.version_id))
    if effect is not Effect.NOTHING and not _understood(item.version):
        effect = Effect.DOUBT
    facts: dict[str, object] = {}
    if effect is Effect.STORED:
        facts = _storage(item, family, detail, name, place)
    return Change(
        effect=effect,
        skip=skip,
        bucket=bucket,
        key=_decoded(found.key, name, place),
        at=_time(item.event_time, name, place),
        etag=(found.etag or "").strip('"'),
        size=found.size or 0,
        version_id=found.version_id or "",
        sequencer=found.sequencer or "",
        lifecycle=family.startswith("Lifecycle"),
        **facts,  # type: ignore[arg-type]
    )


def _understood(version: str | float | None) -> bool:
    """Minor versions add fields; of another major one nothing but the key can be relied on."""
    return version is None or str(version).partition(".")[0] == "2"


def _meaning(family: str, detail: str, versioned: bool) -> tuple[Effect, Skip | None]:
    if family in ("ObjectRemoved", "LifecycleExpiration"):
        return _removal(detail, versioned)
    effect = _EFFECTS.get((family, detail)) or _EFFECTS.get((family, ""))
    if effect is not None:
        return effect, None
    if family == "TestEvent":
        return Effect.NOTHING, Skip.TEST_EVENT
    return Effect.NOTHING, Skip.NO_CHANGE if family in _UNCHANGED else Skip.UNKNOWN


def _removal(detail: str, versioned: bool) -> tuple[Effect, Skip | None]:
    """A delete that names a version may have taken any version, or a delete marker."""
    if detail == "NoOP":
        return Effect.NOTHING, Skip.NO_CHANGE
    return (Effect.DOUBT if detail == "Delete" and versioned else Effect.REMOVED), None


def _storage(item: Item, family: str, detail: str, name: str, place: str) -> dict[str, object]:
    if family == "IntelligentTiering":
        tier = item.tiering.access_tier if item.tiering else None
        return {"storage_class": "INTELLIGENT_TIERING", "archive_status": _archive_status(tier)}
    if family == "LifecycleTransition":
        return {"storage_class": (item.lifecycle.transition.storage_class if item.lifecycle else None) or ""}
    restored = item.glacier.restore if item.glacier else None
    known: dict[str, object] = {"storage_class": (restored.storage_class if restored else None) or ""}
    if detail == "Completed":
        expires = restored.expires if restored else None
        known |= {"restore": Restore.ACTIVE.value, "restore_expires": _optional_time(expires, name, place)}
    return known


def _bridge(item: Item, name: str, place: str) -> Change:
    """An EventBridge event; the key is plain."""
    if item.source != "aws.s3":
        return Change(effect=Effect.NOTHING, skip=Skip.NOT_S3)
    try:
        detail = msgspec.json.decode(item.detail, type=Detail)
    except UNREADABLE as error:
        raise damaged(name, place, f"detail: {error}") from error
    found = detail.object
    effect, skip = _bridge_meaning(item.detail_type or "", detail, found)
    facts = _bridge_storage(item.detail_type or "", detail, name, place) if effect is Effect.STORED else {}
    return Change(
        effect=effect,
        skip=skip,
        bucket=detail.bucket.name,
        key=found.key,
        at=_time(item.time, name, place),
        etag=(found.etag or "").strip('"'),
        size=found.size or 0,
        version_id=found.version_id or "",
        sequencer=found.sequencer or "",
        lifecycle=(detail.reason or "").startswith("Lifecycle") or "Storage Class" in (item.detail_type or ""),
        everything=True,
        **facts,  # type: ignore[arg-type]
    )


def _bridge_meaning(kind: str, detail: Detail, found: BridgeObject) -> tuple[Effect, Skip | None]:
    match kind:
        case "Object Created":
            return Effect.CREATED, None
        case "Object Deleted":
            marker = detail.deletion_type == "Delete Marker Created"
            return (Effect.REMOVED if marker or not found.version_id else Effect.DOUBT), None
        case "Object Storage Class Changed" | "Object Access Tier Changed":
            return Effect.STORED, None
        case "Object Restore Completed" | "Object Restore Expired":
            return Effect.STORED, None
    return Effect.NOTHING, Skip.NO_CHANGE if kind in _BRIDGE_UNCHANGED else Skip.UNKNOWN


def _bridge_storage(kind: str, detail: Detail, name: str, place: str) -> dict[str, object]:
    match kind:
        case "Object Access Tier Changed":
            status = _archive_status(detail.destination_access_tier)
            return {"storage_class": "INTELLIGENT_TIERING", "archive_status": status}
        case "Object Storage Class Changed":
            return {"storage_class": detail.destination_storage_class or ""}
        case "Object Restore Completed":
            expires = _optional_time(detail.restore_expiry_time, name, place)
            restored = {"restore": Restore.ACTIVE.value, "restore_expires": expires}
            return {"storage_class": detail.source_storage_class or "", **restored}
    return {"storage_class": detail.source_storage_class or ""}


def _r2(item: Item, name: str, place: str) -> Change:
    """A message of R2's event notifications; the key is plain, and there is no sequencer and no version."""
    try:
        bucket = msgspec.json.decode(item.bucket, type=str)
        found = msgspec.json.decode(item.object, type=S3Object)
    except UNREADABLE as error:
        raise damaged(name, place, str(error)) from error
    effect = _R2.get(item.action or "", Effect.NOTHING)
    return Change(
        effect=effect,
        skip=Skip.UNKNOWN if effect is Effect.NOTHING else None,
        bucket=bucket,
        key=found.key,
        at=_time(item.event_time, name, place),
        etag=(found.etag or "").strip('"'),
        size=found.size or 0,
        lifecycle=item.action == "LifecycleDeletion",
        everything=effect is Effect.REMOVED,
    )


def _archive_status(tier: str | None) -> str:
    return tier if tier in ("ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS") else ""


def _decoded(key: str, name: str, place: str) -> str:
    if "%" not in key and "+" not in key:
        return key
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        # Told apart from every text, so that it is skipped by name and never another key.
        return unquote_plus(key, errors="surrogateescape")


def _time(text: str | None, name: str, place: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError as error:
        raise damaged(name, place, f"{text!r} is no event time") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    # At either end of the calendar another zone's time is in a year that does not exist.
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise damaged(name, place, f"{text!r} is no event time")
    return moment


def _optional_time(text: str | None, name: str, place: str) -> datetime | None:
    return _time(text, name, place) if text else None
