"""Events are found in every envelope, mean what their family says, and damage is told with its place."""

from __future__ import annotations

import base64
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from indexing.events.envelopes import LONGEST_LINE, MOST_BLANK_LINES, items
from indexing.events.feed import Told, known_through
from indexing.events.records import Change, Effect, Skip, change_of
from indexing.inputs import Damaged

AT = "2026-11-20T10:00:00.123Z"


def record(name: str = "ObjectCreated:Put", key: str = "a+b%2Bc", **extra: Any) -> dict[str, Any]:
    found = {"key": key, "size": 5, "eTag": "e1", "sequencer": "0A", **extra.pop("object", {})}
    s3 = {"s3SchemaVersion": "1.0", "bucket": {"name": "bucket"}, "object": found}
    return {"eventVersion": "2.9", "eventName": name, "eventTime": AT, "eventSource": "aws:s3", "s3": s3, **extra}


def bridge(kind: str, **detail: Any) -> dict[str, Any]:
    found = {"key": "a b+c", "size": 5, "etag": "e1", "sequencer": "0A", **detail.pop("object", {})}
    return {
        "source": "aws.s3",
        "detail-type": kind,
        "time": "2026-11-20T10:00:00Z",
        "detail": {"bucket": {"name": "bucket"}, "object": found, **detail},
    }


R2 = {
    "account": "x",
    "action": "PutObject",
    "bucket": "bucket",
    "object": {"key": "a b+c", "size": 5, "eTag": "e1"},
    "eventTime": AT,
}
BARE = {"Records": [record()]}
SNS = {"Type": "Notification", "Message": json.dumps(BARE)}
MINIO = {"EventName": "s3:ObjectCreated:Put", "Key": "bucket/x", "Records": [record("s3:ObjectCreated:Put")]}


def read(text: str | bytes) -> list[Change]:
    raw = text if isinstance(text, bytes) else text.encode()
    return [change_of(item, "f.json", place) for item, place in items(io.BytesIO(raw), "f.json")]


@pytest.mark.parametrize(
    "document",
    [
        record(),
        BARE,
        [record()],
        MINIO,
        SNS,
        {"Records": [{"Sns": SNS}]},
        {"Records": [{"messageId": "1", "body": json.dumps(BARE)}]},
        {"Records": [{"body": json.dumps(SNS)}]},
        {"Messages": [{"MessageId": "1", "Body": json.dumps(SNS)}]},
        {"Messages": [{"Body": json.dumps(bridge("Object Created"))}]},
        bridge("Object Created"),
        R2,
        {"body": R2},
        {"queue": "q", "messages": [{"id": "1", "body": R2}]},
        {"success": True, "result": {"messages": [{"body": base64.b64encode(json.dumps(R2).encode()).decode()}]}},
    ],
    ids=lambda document: "+".join(document) if isinstance(document, dict) else "array",
)
def test_every_envelope_holds_the_same_event(document: Any) -> None:
    compact = json.dumps(document)
    for text in (compact, json.dumps(document, indent=2), "\n" + compact + "\n\n", "\ufeff" + compact):
        (change,) = read(text)
        assert (change.effect, change.bucket, change.key, change.etag, change.size) == (
            Effect.CREATED, "bucket", "a b+c", "e1", 5,
        )  # fmt: skip


def test_json_lines_keep_their_order() -> None:
    lines = [json.dumps(record(key=f"k{number}")) for number in range(5)]
    assert [change.key for change in read("\n\n".join(lines))] == [f"k{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("name", "extra", "effect", "skip"),
    [
        ("ObjectCreated:CompleteMultipartUpload", {}, Effect.CREATED, None),
        ("s3:ObjectCreated:Copy", {}, Effect.CREATED, None),
        ("ObjectRemoved:Delete", {}, Effect.REMOVED, None),
        ("ObjectRemoved:Delete", {"versionId": "v"}, Effect.DOUBT, None),
        ("ObjectRemoved:DeleteMarkerCreated", {"versionId": "v"}, Effect.REMOVED, None),
        ("LifecycleExpiration:Delete", {}, Effect.REMOVED, None),
        ("LifecycleExpiration:Delete", {"versionId": "v"}, Effect.DOUBT, None),
        ("LifecycleExpiration:DeleteMarkerCreated", {"versionId": "v"}, Effect.REMOVED, None),
        ("LifecycleTransition", {}, Effect.STORED, None),
        ("IntelligentTiering", {}, Effect.STORED, None),
        ("ObjectRestore:Completed", {}, Effect.STORED, None),
        ("ObjectRestore:Delete", {}, Effect.STORED, None),
        ("ObjectRestore:Post", {}, Effect.NOTHING, Skip.NO_CHANGE),
        ("ObjectTagging:Put", {}, Effect.NOTHING, Skip.NO_CHANGE),
        ("Replication:OperationFailedReplication", {}, Effect.NOTHING, Skip.NO_CHANGE),
        ("SomethingNew:Done", {}, Effect.NOTHING, Skip.UNKNOWN),
        (None, {}, Effect.NOTHING, Skip.UNKNOWN),
    ],
)
def test_families(name: str, extra: dict[str, Any], effect: Effect, skip: Skip | None) -> None:
    (change,) = read(json.dumps(record(name, object=extra)))
    assert (change.effect, change.skip) == (effect, skip)


@pytest.mark.parametrize(
    ("version", "effect"),
    [
        ("2.0", Effect.CREATED),
        ("2.99", Effect.CREATED),
        (2.1, Effect.CREATED),
        ("3.0", Effect.DOUBT),
        ("", Effect.DOUBT),
    ],
)
def test_of_another_major_version_only_the_key_is_believed(version: object, effect: Effect) -> None:
    (change,) = read(json.dumps({**record("ObjectCreated:Put"), "eventVersion": version}))
    assert (change.effect, change.skip) == (effect, None)
    (change,) = read(json.dumps({**record("ObjectTagging:Put"), "eventVersion": version}))
    assert (change.effect, change.skip) == (Effect.NOTHING, Skip.NO_CHANGE)


def test_storage_changes_tell_the_class_and_the_restore() -> None:
    data = {"lifecycleEventData": {"transitionEventData": {"destinationStorageClass": "GLACIER"}}}
    assert read(json.dumps(record("LifecycleTransition", **data)))[0].storage_class == "GLACIER"
    data = {"intelligentTieringEventData": {"destinationAccessTier": "DEEP_ARCHIVE_ACCESS"}}
    (tiered,) = read(json.dumps(record("IntelligentTiering", **data)))
    assert (tiered.storage_class, tiered.archive_status) == ("INTELLIGENT_TIERING", "DEEP_ARCHIVE_ACCESS")
    restored = {"lifecycleRestorationExpiryTime": "2026-12-01T00:00:00.000Z", "lifecycleRestoreStorageClass": "GLACIER"}
    data = {"glacierEventData": {"restoreEventData": restored}}
    (change,) = read(json.dumps(record("ObjectRestore:Completed", **data)))
    assert (change.storage_class, change.restore) == ("GLACIER", "active")
    assert change.restore_expires == datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "detail", "effect"),
    [
        ("Object Deleted", {"deletion-type": "Delete Marker Created", "object": {"version-id": "v"}}, Effect.REMOVED),
        ("Object Deleted", {"deletion-type": "Permanently Deleted", "object": {"version-id": "v"}}, Effect.DOUBT),
        ("Object Deleted", {"deletion-type": "Permanently Deleted", "reason": "Lifecycle Expiration"}, Effect.REMOVED),
        ("Object Storage Class Changed", {"destination-storage-class": "GLACIER"}, Effect.STORED),
        ("Object Access Tier Changed", {"destination-access-tier": "ARCHIVE_ACCESS"}, Effect.STORED),
        ("Object Restore Completed", {"restore-expiry-time": AT, "source-storage-class": "GLACIER"}, Effect.STORED),
        ("Object Restore Expired", {}, Effect.STORED),
        ("Object Tags Added", {}, Effect.NOTHING),
        ("Object Dreamt Of", {}, Effect.NOTHING),
    ],
)
def test_eventbridge_families(kind: str, detail: dict[str, Any], effect: Effect) -> None:
    assert read(json.dumps(bridge(kind, **detail)))[0].effect is effect


def test_what_is_no_s3_event() -> None:
    assert read('{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}')[0].skip is Skip.TEST_EVENT
    for other in ("{}", '{"Type": "Notification", "Message": "hello"}', json.dumps({**bridge("x"), "source": "mine"})):
        assert [change.skip for change in read(other)] == [Skip.NOT_S3]
    assert read('{"Records": []}') == read("[]") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no S3 event records found"),
        ("hello", "f.json, line 1, column 1: JSON is malformed"),
        ('{"Records": [\n  {"eventName": tru', "f.json, line 2, column"),
        (json.dumps(record()) + "\n" + json.dumps(record())[:-9], "f.json, line 2: "),
        (json.dumps(record()) + '\n{"Body": "{\\"Records\\": ["}', "f.json, line 2: "),
        (json.dumps(record(object={"size": "x"})) + "\n", "Expected `int | null`, got `str` - at `$.s3.object.size`"),
        (json.dumps({"Records": [record(), {**record(), "eventTime": "noon"}]}), "f.json, line 1, entry 2: 'noon'"),
        (b"\xff\xfe{}", "f.json"),
    ],
)
def test_damage_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(Damaged) as caught:
        read(text)
    assert said in caught.value.message
    assert caught.value.exit_code == 2


def test_envelopes_inside_each_other_come_to_an_end() -> None:
    text = json.dumps(record())
    for _ in range(10):
        text = json.dumps({"Body": text})
    with pytest.raises(Damaged, match="too many envelopes"):
        read(text)


NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("as_of", "first", "last", "vouched", "through"),
    [
        (None, NOON, NOON + HOUR, NOON, None),  # no complete index
        (NOON, NOON, NOON + HOUR, None, NOON + HOUR),  # follows on
        (NOON, NOON - HOUR, NOON + HOUR, None, NOON + HOUR),  # overlaps
        (NOON, NOON + HOUR, NOON + 2 * HOUR, None, None),  # a gap
        (NOON, NOON - 2 * HOUR, NOON - HOUR, None, None),  # all of it known
        (NOON, NOON + HOUR, NOON + 2 * HOUR, NOON + 3 * HOUR, NOON + 3 * HOUR),  # vouched for
        (NOON, NOON + HOUR, NOON + 2 * HOUR, NOON + HOUR, NOON + 2 * HOUR),  # vouched up to where the file begins
        (NOON, NOON + 2 * HOUR, NOON + 3 * HOUR, NOON + HOUR, NOON + HOUR),  # a gap behind what is vouched for
        (NOON, NOON, NOON + HOUR, NOON - HOUR, NOON + HOUR),  # time never goes back
        (NOON, None, None, None, None),  # nothing of this vault
        (NOON, None, None, NOON + HOUR, NOON + HOUR),
    ],
)
def test_contiguity(
    as_of: datetime | None,
    first: datetime | None,
    last: datetime | None,
    vouched: datetime | None,
    through: datetime | None,
) -> None:
    assert known_through(as_of, Told(first=first, last=last), vouched=vouched) == through


LINE = json.dumps(record()).encode()


def test_the_shortest_events_are_not_too_many_objects() -> None:
    place = {"bucket": {"name": "b"}, "object": {"key": "k"}}
    short = json.dumps({"eventName": "ObjectCreated:Put", "eventTime": "2026-11-20T10:00:00Z", "s3": place}).encode()
    assert len(read(b"[" + b",".join([short] * 20_000) + b"]")) == 20_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LINE + b"\n" + LINE.replace(b"Put", b"\xff"), "line 2: it is not UTF-8"),
        (b"\n" * (MOST_BLANK_LINES + 2), f"line {MOST_BLANK_LINES + 1}: blanks"),
        (LINE + b"\n" * (MOST_BLANK_LINES + 3), "blanks without an end"),
        (b" " * LONGEST_LINE + b"{}", "line 1: blanks"),
        (b'{"Message":' * 90_000, "nested too deep|JSON|truncated"),
        (b"[" + b"{}," * 2**22 + b"{}]", "next to nothing"),
        (LINE + b"\n[" + b"{}," * 2**20 + b"{}]", "line 2: objects with next to nothing"),
        (json.dumps({"body": "[" + "{}," * 2**20 + "{}]"}).encode(), "next to nothing"),
    ],
    ids=["not UTF-8", "blank lines", "blank lines at the end", "a blank line", "deep", "empty", "empty line", "inside"],
)  # fmt: skip
def test_what_only_keeps_us_busy_is_told_too(text: bytes, said: str) -> None:
    with pytest.raises(Damaged, match=said):
        read(text)
