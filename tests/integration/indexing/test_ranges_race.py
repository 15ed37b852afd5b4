"""Listings in ranges race with writes, deletes, late events and runs that end early: the index ends as the bucket."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from indexing import freshness, merge, ranges, reconcile, scanning
from indexing.models import RemoteObject, ScanRange, Source
from indexing.order import Known
from vaulthalla.requests import RequestClass
from vaulthalla.stores import memory
from vaulthalla.stores.base import StoreUnavailable
from vaulthalla.stores.memory import Fault, MemoryBucket, MemoryStore
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import drive

pytestmark = pytest.mark.django_db(transaction=True)
SEEDS = 25


class World:
    """A bucket whose clock is not this host's, its users, and their events, which come when they like."""

    def __init__(self, seed: int, vault: Vault) -> None:
        self.random = random.Random(seed)
        self.now = datetime.now(UTC) - timedelta(minutes=self.random.choice((0, 7, -7)))
        self.vault = vault
        self.bucket = MemoryBucket(self.clock)
        self.late: list[tuple[str, Known]] = []
        self.number = 0

    def clock(self) -> datetime:
        self.now += timedelta(milliseconds=self.random.choice((0, 1, 400, 2_500)))
        return self.now

    def edit(self) -> None:
        """Somebody writes or deletes; the event of it may come late, twice, or never."""
        key = f"{self.random.randrange(220):04}"
        self.number += 1
        at, sequencer = self.clock(), f"{self.number:08X}"
        if self.random.random() < 0.4:
            self.bucket.remove(key)
            known = Known(observed_at=at, source=Source.EVENT, gone=True, sequencer=sequencer)
        else:
            stored = self.bucket.write(key, f"{self.number}".encode())
            size = len(stored.body)
            known = Known(observed_at=at, source=Source.EVENT, etag=stored.etag, size=size, sequencer=sequencer)
        if self.random.random() < 0.7:
            self.late += [(key, known)] * self.random.choice((1, 2))

    def deliver(self, count: int) -> None:
        self.random.shuffle(self.late)
        for key, known in self.late[:count]:
            merge.merge_known(self.vault.pk, {key: known}, source=Source.EVENT)
        del self.late[:count]

    def trouble(self) -> None:
        """At some page: edits, and perhaps the end of this run."""
        for _ in range(3):
            nth = self.random.randrange(1, 20)
            moment = self.random.choice(list(memory.Moment))
            self.bucket.inject(Fault(operation="list_page", nth=nth, moment=moment, hook=self.edit))
        if self.random.random() < 0.6:
            nth = self.random.randrange(1, 24)
            self.bucket.inject(Fault(operation="list_page", nth=nth, error=StoreUnavailable("no route")))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_index_ends_as_the_bucket(seed: int, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(seed, vault)
    bucket = world.bucket
    monkeypatch.setattr(memory, "PAGE_KEYS", 10)
    monkeypatch.setattr(freshness, "KEYS_PER_PAGE", 10)
    monkeypatch.setattr(ranges, "PAGES_PER_RANGE", 2)
    monkeypatch.setattr(reconcile, "open_store", lambda vault, meter: MemoryStore(bucket, meter, prefix=vault.prefix))
    for number in range(200):
        bucket.write(f"{number:04}", b"first")
    for _ in range(3):
        world.trouble()
        drive(scanning.start_reconcile(vault, allow_list_scan=True).pk)
        world.edit()
        world.deliver(world.random.randrange(1 + len(world.late)))
    bucket.faults.clear()
    world.now += timedelta(minutes=1)
    # An unfinished scan is only finished by the next one, so a second one sees what changed meanwhile.
    for _ in range(2):
        drive(scanning.start_reconcile(vault, allow_list_scan=True).pk)
        world.now += timedelta(minutes=1)
    world.deliver(len(world.late))
    rows = RemoteObject.objects.filter(vault=vault, tombstone=False)
    assert dict(rows.values_list("key", "etag")) == {key: stored.etag for key, stored in bucket.objects.items()}
    assert not rows.filter(doubtful=True).exists()
    assert not ScanRange.objects.exists()
    assert bucket.seen[RequestClass.LIST] > 0
