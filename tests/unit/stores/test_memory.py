"""What only the store in memory can do: faults, other writers, restores, its own clock."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.contents import content_of
from tests.support.meters import CountingMeter
from vaulthalla.requests import RequestClass
from vaulthalla.stores.base import (
    Capabilities,
    Condition,
    ObjectArchived,
    ObjectMissing,
    Ordering,
    PreconditionFailed,
    Restore,
    StoreUnavailable,
)
from vaulthalla.stores.memory import Fault, MemoryBucket, MemoryStore, Moment
from vaulthalla.stores.probe import probe

BODY = b"body"


def store_of(bucket: MemoryBucket, **known: object) -> MemoryStore:
    return MemoryStore(bucket, CountingMeter(), **known)  # type: ignore[arg-type]


def test_a_fault_before_the_store_acts_changes_nothing() -> None:
    bucket = MemoryBucket()
    store = store_of(bucket)
    bucket.inject(Fault(operation="put", nth=2, error=StoreUnavailable("timed out")))
    store.put("a", BODY, content_of(BODY))
    with pytest.raises(StoreUnavailable):
        store.put("b", BODY, content_of(BODY))
    assert list(bucket.objects) == ["a"]
    assert bucket.seen[RequestClass.PUT] == 2


def test_a_fault_after_the_store_acted_leaves_what_it_did() -> None:
    bucket = MemoryBucket()
    store = store_of(bucket)
    bucket.inject(Fault(operation="delete", error=StoreUnavailable("timed out"), moment=Moment.AFTER))
    bucket.write("a", BODY)
    with pytest.raises(StoreUnavailable):
        store.delete("a")
    assert bucket.objects == {}
    assert bucket.faults == []


def test_another_writer_can_come_in_between() -> None:
    bucket = MemoryBucket()
    store = store_of(bucket)
    bucket.inject(Fault(operation="put", hook=lambda: bucket.write("a", b"theirs")))
    with pytest.raises(PreconditionFailed):
        store.put("a", BODY, content_of(BODY), condition=Condition(absent=True))
    assert bucket.objects["a"].body == b"theirs"


def test_what_the_meter_counts_is_what_the_bucket_sees() -> None:
    bucket, meter = MemoryBucket(), CountingMeter()
    store = MemoryStore(bucket, meter)
    store.put("a", BODY, content_of(BODY))
    store.get("a", io.BytesIO())
    with pytest.raises(ObjectMissing):
        store.head("b")
    assert meter.counts == bucket.seen


def test_time_is_the_stores_own() -> None:
    now = datetime(2001, 1, 1, tzinfo=UTC)
    bucket = MemoryBucket(clock=lambda: now)
    store = store_of(bucket)
    assert store.put("a", BODY, content_of(BODY)).observed_at == now
    now += timedelta(days=1)
    assert (store.head("a").last_modified, store.head("a").observed_at) == (now - timedelta(days=1), now)


def test_a_restored_body_is_read() -> None:
    bucket = MemoryBucket()
    bucket.write("a", BODY, storage_class="GLACIER")
    store = store_of(bucket)
    bucket.restore("a", Restore.ONGOING)
    with pytest.raises(ObjectArchived):
        store.get("a", io.BytesIO())
    bucket.restore("a", Restore.ACTIVE)
    store.get("a", into := io.BytesIO())
    assert into.getvalue() == BODY


def test_a_listing_without_order_is_complete_by_token() -> None:
    bucket = MemoryBucket()
    wanted = [f"{number:02}" for number in range(25)]
    for key in wanted:
        bucket.write(key, BODY)
    store = store_of(bucket, capabilities=Capabilities(ordering=Ordering.UNSPECIFIED))
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = store.list_page(after=after, limit=10, token=True)
        found += [info.key for info in page.objects]
        after = page.next_after
    assert found != wanted
    assert sorted(found) == wanted


def test_an_unproven_condition_costs_a_head() -> None:
    bucket, meter = MemoryBucket(), CountingMeter()
    store = MemoryStore(bucket, meter, capabilities=Capabilities())
    bucket.write("a", b"theirs")
    with pytest.raises(PreconditionFailed):
        store.put("a", BODY, content_of(BODY), condition=Condition(absent=True))
    with pytest.raises(PreconditionFailed):
        store.delete("a", if_match="0" * 32)
    assert meter.counts == {RequestClass.HEAD: 2}


def test_the_probe_leaves_nothing_behind() -> None:
    bucket, meter = MemoryBucket(), CountingMeter()
    able = probe(MemoryStore(bucket, meter))
    assert (able.conditional_put, able.conditional_copy, able.conditional_delete) == (True, True, True)
    assert able.conditional_complete
    assert (bucket.objects, bucket.uploads) == ({}, {})
    assert meter.counts == {RequestClass.PUT: 7, RequestClass.COPY: 3, RequestClass.DELETE: 5}
