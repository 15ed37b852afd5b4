"""What every store promises. Gaps of the servers are named in conftest.py."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from tests.contract.conftest import Subject
from tests.support.contents import MTIME_NS, content_of
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import (
    BodyCorrupt,
    Condition,
    MeterRefused,
    ObjectArchived,
    ObjectInfo,
    ObjectMissing,
    PreconditionFailed,
    Store,
    UploadMissing,
    Written,
)

BODY = b"what a user wrote\n"
ABSENT = Condition(absent=True)
NOBODYS = Condition(etag="0" * 32)
PART = 5 * 2**20


def put(store: Store, key: str, body: bytes = BODY, *, condition: Condition | None = None) -> Written:
    return store.put(key, body, content_of(body), condition=condition or Condition())


def read(store: Store, key: str, *, if_match: str | None = None) -> bytes:
    into = io.BytesIO()
    store.get(key, into, if_match=if_match)
    return into.getvalue()


def keys(store: Store, *, limit: int = 1000, prefix: str = "", after: str = "") -> list[str]:
    found: list[str] = []
    page = store.list_page(limit=limit, prefix=prefix, after=after)
    found += [info.key for info in page.objects]
    while page.next_after is not None:
        page = store.list_page(limit=limit, prefix=prefix, after=page.next_after)
        found += [info.key for info in page.objects]
    return found


def test_prefixes_are_the_next_level_below(subject: Subject) -> None:
    for key in ("a/1", "a/2", "b", "c d/x/1", "c d/y", "é/1"):
        put(subject.store, key)
    assert list(subject.store.list_prefixes()) == ["a/", "c d/", "é/"]
    assert list(subject.store.list_prefixes(after="b")) == ["c d/", "é/"]
    assert list(subject.store.list_prefixes(prefix="c d/")) == ["c d/x/"]


# --- bodies


@pytest.mark.parametrize("body", [b"", b"x", BODY, b"\0\xff" * 300_000], ids=["empty", "byte", "text", "large"])
def test_what_is_put_is_read_back(subject: Subject, body: bytes) -> None:
    written = put(subject.store, "folder/file", body)
    into = io.BytesIO()
    seen: list[bytes] = []
    info = subject.store.get("folder/file", into, on_bytes=seen.append)
    assert into.getvalue() == b"".join(seen) == body
    assert (info.etag, info.size) == (written.etag, len(body))


def test_a_file_is_put_as_bytes_are(subject: Subject) -> None:
    subject.store.put("file", io.BytesIO(BODY), content_of(BODY))
    assert read(subject.store, "file") == BODY


def test_time_and_hash_are_kept(subject: Subject) -> None:
    put(subject.store, "file")
    info = subject.store.head("file")
    assert info.mtime_ns == MTIME_NS
    assert info.sha256 == (None if subject.kind == "directory" else content_of(BODY).sha256)


@pytest.mark.parametrize("mtime_ns", [0, 1, -1_500_000_001, 2**62], ids=["zero", "one", "before-1970", "far"])
def test_any_time_is_kept_to_the_nanosecond(subject: Subject, mtime_ns: int) -> None:
    subject.store.put("file", BODY, content_of(BODY, mtime_ns=mtime_ns))
    assert subject.store.head("file").mtime_ns == mtime_ns


def test_the_answer_says_when_it_was_given(subject: Subject) -> None:
    written = put(subject.store, "file")
    info = subject.store.head("file")
    assert written.observed_at <= info.observed_at
    assert abs(info.observed_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert info.last_modified.tzinfo is not None


def test_a_part_of_a_body_is_read(subject: Subject) -> None:
    put(subject.store, "file", b"0123456789")
    into = io.BytesIO()
    info = subject.store.get("file", into, offset=3, length=4)
    assert (into.getvalue(), info.size) == (b"3456", 10)


def test_the_rest_of_a_body_is_read(subject: Subject) -> None:
    put(subject.store, "file", b"0123456789")
    into = io.BytesIO()
    subject.store.get("file", into, offset=8)
    assert into.getvalue() == b"89"


def test_a_range_of_an_empty_body_is_empty(subject: Subject) -> None:
    put(subject.store, "file", b"")
    into = io.BytesIO()
    assert subject.store.get("file", into, length=10).size == 0
    assert into.getvalue() == b""


def test_a_torn_put_is_refused(subject: Subject) -> None:
    with pytest.raises(BodyCorrupt):
        subject.store.put("file", b"what a user wrotX\n", content_of(BODY))
    with pytest.raises(ObjectMissing):
        subject.store.head("file")


def test_an_archived_body_is_not_read(objects: Subject) -> None:
    objects.store.put("file", BODY, content_of(BODY, storage_class="GLACIER"))
    assert objects.store.head("file").storage_class == "GLACIER"
    with pytest.raises(ObjectArchived):
        read(objects.store, "file")


# --- what is missing


def test_what_is_missing_is_said_to_be(subject: Subject) -> None:
    with pytest.raises(ObjectMissing):
        subject.store.head("folder/file")
    with pytest.raises(ObjectMissing):
        read(subject.store, "folder/file")
    with pytest.raises(ObjectMissing):
        subject.store.copy("folder/file", "other", source_etag="0" * 32)


def test_deleting_what_is_gone_is_success(subject: Subject) -> None:
    put(subject.store, "folder/file")
    gone_at = subject.store.delete("folder/file")
    assert gone_at <= subject.store.delete("folder/file")
    assert keys(subject.store) == []


# --- conditions


def test_a_condition_that_holds_lets_a_put_through(subject: Subject) -> None:
    first = put(subject.store, "file", condition=ABSENT)
    put(subject.store, "file", b"second", condition=Condition(etag=first.etag))
    assert read(subject.store, "file") == b"second"


@pytest.mark.parametrize("condition", [ABSENT, NOBODYS], ids=["absent", "version"])
def test_a_put_does_not_replace_what_was_not_planned_for(subject: Subject, condition: Condition) -> None:
    put(subject.store, "file", b"theirs")
    with pytest.raises(PreconditionFailed):
        put(subject.store, "file", condition=condition)
    assert read(subject.store, "file") == b"theirs"


def test_a_put_over_a_version_that_is_gone_is_refused(subject: Subject) -> None:
    with pytest.raises((PreconditionFailed, ObjectMissing)):
        put(subject.store, "file", condition=NOBODYS)
    assert keys(subject.store) == []


def test_a_body_is_read_only_in_the_version_asked_for(subject: Subject) -> None:
    written = put(subject.store, "file")
    assert read(subject.store, "file", if_match=written.etag) == BODY
    with pytest.raises(PreconditionFailed):
        read(subject.store, "file", if_match="0" * 32)


def test_delete_wants_the_version_it_was_told(subject: Subject) -> None:
    written = put(subject.store, "file")
    with pytest.raises(PreconditionFailed):
        subject.store.delete("file", if_match="0" * 32)
    subject.store.delete("file", if_match=written.etag)
    assert keys(subject.store) == []


# --- copies


def test_a_copy_is_the_same_object_elsewhere(subject: Subject) -> None:
    written = put(subject.store, "from here/ü+%")
    subject.store.copy("from here/ü+%", "to/there", source_etag=written.etag, condition=ABSENT)
    info = subject.store.head("to/there")
    assert (read(subject.store, "to/there"), info.mtime_ns) == (BODY, MTIME_NS)
    assert info.sha256 == subject.store.head("from here/ü+%").sha256


def test_a_copy_keeps_its_class(objects: Subject) -> None:
    written = objects.store.put("file", BODY, content_of(BODY, storage_class="STANDARD_IA"))
    objects.store.copy("file", "copy", source_etag=written.etag, storage_class="STANDARD_IA")
    assert objects.store.head("copy").storage_class == "STANDARD_IA"


def test_copy_wants_the_source_it_was_told(subject: Subject) -> None:
    put(subject.store, "file")
    with pytest.raises(PreconditionFailed):
        subject.store.copy("file", "copy", source_etag="0" * 32)


def test_copy_does_not_replace_what_appeared(subject: Subject) -> None:
    written = put(subject.store, "file")
    put(subject.store, "taken", b"theirs")
    with pytest.raises(PreconditionFailed):
        subject.store.copy("file", "taken", source_etag=written.etag, condition=ABSENT)
    assert read(subject.store, "taken") == b"theirs"


# --- listings

ORDERED = ["a", "a b", "a+b", "a-/x", "a/b/c", "a/d", "a0", "ab", "b%2Fc", "z", "é", "\uffee", "😀"]


def test_a_listing_is_complete_and_in_byte_order(subject: Subject) -> None:
    wanted = [key for key in ORDERED if key != "a"]
    for key in reversed(wanted):
        put(subject.store, key)
    assert keys(subject.store) == wanted == sorted(wanted, key=str.encode)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_pages_join_without_gap_or_overlap(subject: Subject, limit: int) -> None:
    wanted = sorted(f"{folder}/{name}" for folder in "abc" for name in ("x", "y", "z/z"))
    for key in wanted:
        put(subject.store, key)
    assert keys(subject.store, limit=limit) == wanted


def test_a_listing_starts_after_any_key(subject: Subject) -> None:
    for key in ("a/1", "a/2", "b"):
        put(subject.store, key)
    assert keys(subject.store, after="a/1") == ["a/2", "b"]
    assert keys(subject.store, after="a/10") == ["a/2", "b"]
    assert keys(subject.store, after="a0") == ["b"]
    assert keys(subject.store, after="b") == []


def test_a_listing_is_narrowed_by_a_prefix(subject: Subject) -> None:
    for key in ("a", "folder/1", "folder/2", "folder2", "g"):
        put(subject.store, key)
    assert keys(subject.store, prefix="folder/") == ["folder/1", "folder/2"]
    assert keys(subject.store, prefix="folder", limit=1) == ["folder/1", "folder/2", "folder2"]
    assert keys(subject.store, prefix="folder/", after="folder/1") == ["folder/2"]
    assert keys(subject.store, prefix="nothing") == []


def test_a_listing_describes_what_a_head_does(subject: Subject) -> None:
    put(subject.store, "file")
    (listed,) = subject.store.list_page().objects
    head = subject.store.head("file")
    assert _shared(listed) == _shared(head)


def _shared(info: ObjectInfo) -> ObjectInfo:
    """What both a LIST and a HEAD show; a HEAD's times have whole seconds."""
    return replace(
        info,
        sha256=None,
        mtime_ns=None,
        etag_is_md5=False,
        observed_at=info.last_modified.replace(microsecond=0),
        last_modified=info.last_modified.replace(microsecond=0),
    )


@pytest.mark.parametrize("key", ["a//b", "/lead", "trail/", "a/../b", "./a", " ", "a\tb\nc", "k" * 900, "q?a=b&c#d"])
def test_keys_are_never_changed(objects: Subject, key: str) -> None:
    written = put(objects.store, key)
    assert keys(objects.store) == [key]
    assert read(objects.store, key) == BODY
    objects.store.copy(key, "copy", source_etag=written.etag)
    objects.store.delete(key)
    assert keys(objects.store) == ["copy"]


# --- parts


def test_parts_become_one_object(objects: Subject) -> None:
    store, bodies = objects.store, [b"a" * PART, b"b" * 10]
    whole = content_of(b"".join(bodies))
    upload = store.start_upload("file", whole)
    parts = [
        store.upload_part("file", upload, number, body, md5=content_of(body).md5)
        for number, body in enumerate(bodies, start=1)
    ]
    assert list(store.list_parts("file", upload)) == parts
    written = store.complete_upload("file", upload, parts, condition=ABSENT)
    info = store.head("file")
    assert written.etag.endswith("-2")
    assert (info.etag, info.size, info.sha256, info.mtime_ns) == (written.etag, whole.size, whole.sha256, MTIME_NS)


def test_an_upload_does_not_replace_what_appeared(objects: Subject) -> None:
    store = objects.store
    upload = store.start_upload("file", content_of(BODY))
    part = store.upload_part("file", upload, 1, BODY, md5=content_of(BODY).md5)
    put(store, "file", b"theirs")
    with pytest.raises(PreconditionFailed):
        store.complete_upload("file", upload, [part], condition=ABSENT)
    store.abort_upload("file", upload)
    assert read(store, "file") == b"theirs"


def test_a_torn_part_is_refused(objects: Subject) -> None:
    upload = objects.store.start_upload("file", content_of(BODY))
    with pytest.raises(BodyCorrupt):
        objects.store.upload_part("file", upload, 1, b"torn", md5=content_of(BODY).md5)


def test_an_upload_that_is_gone_is_said_to_be(objects: Subject) -> None:
    store = objects.store
    upload = store.start_upload("file", content_of(BODY))
    part = store.upload_part("file", upload, 1, BODY, md5=content_of(BODY).md5)
    store.abort_upload("file", upload)
    store.abort_upload("file", upload)
    with pytest.raises(UploadMissing):
        store.complete_upload("file", upload, [part])
    with pytest.raises(UploadMissing):
        store.list_parts("file", upload)


# --- the meter


def test_each_operation_is_one_request_of_its_class(objects: Subject) -> None:
    store = objects.store
    written = put(store, "file")
    store.head("file")
    read(store, "file")
    store.list_page()
    store.copy("file", "copy", source_etag=written.etag)
    store.delete("copy")
    upload = store.start_upload("parts", content_of(BODY))
    part = store.upload_part("parts", upload, 1, BODY, md5=content_of(BODY).md5)
    store.list_parts("parts", upload)
    store.complete_upload("parts", upload, [part])
    store.abort_upload("parts", store.start_upload("parts", content_of(BODY)))
    assert objects.meter.counts == Requests(
        {
            RequestClass.PUT: 5,
            RequestClass.HEAD: 1,
            RequestClass.GET: 1,
            RequestClass.LIST: 2,
            RequestClass.COPY: 1,
            RequestClass.DELETE: 2,
            RequestClass.DOWNLOAD_BYTES: len(BODY),
        }
    )


def test_what_the_meter_refuses_is_not_sent(objects: Subject) -> None:
    put(objects.store, "file")
    objects.meter.limits.update({RequestClass.PUT: 1, RequestClass.DELETE: 0, RequestClass.LIST: 0})
    with pytest.raises(MeterRefused) as refused:
        put(objects.store, "file", b"more")
    assert refused.value.request_class is RequestClass.PUT
    with pytest.raises(MeterRefused):
        objects.store.delete("file")
    with pytest.raises(MeterRefused):
        objects.store.list_page()
    assert read(objects.store, "file") == BODY


def test_a_body_stops_at_the_byte_budget(objects: Subject) -> None:
    put(objects.store, "file", b"x" * 3_000_000)
    objects.meter.limits[RequestClass.DOWNLOAD_BYTES] = 1_000_000
    into = io.BytesIO()
    with pytest.raises(MeterRefused):
        objects.store.get("file", into)
    assert len(into.getvalue()) <= 1_000_000
    objects.meter.limits.clear()
    assert len(read(objects.store, "file")) == 3_000_000


def test_threads_share_a_store(subject: Subject) -> None:
    wanted = [f"{number:03}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: put(subject.store, key, key.encode(), condition=ABSENT), wanted))
        bodies = list(pool.map(lambda key: read(subject.store, key), wanted))
    assert bodies == [key.encode() for key in wanted]
    assert keys(subject.store) == wanted
