"""Listings race with writes of ours and of others, deletes, late events, late inventories, second looks and runs that
end early: the index ends as the bucket.

Nothing is left to threads: which page is answered when, and what happens meanwhile, is the seed's choice.
RACE_SEEDS=N takes other seeds, as many as asked; RACE_SEEDS=A-B takes those.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction

from indexing import freshness, merge, ranges, reconcile, scanning
from indexing.events import apply as applying
from indexing.events.records import Change, Effect
from indexing.inventory import sql as inventory_sql
from indexing.inventory.importing import Import
from indexing.models import IndexState, RemoteObject, ScanRange, Source
from tests.integration.indexing.staged import pieces_of
from tests.support import deliveries
from vaulthalla.requests import RequestClass
from vaulthalla.stores import memory
from vaulthalla.stores.base import ObjectInfo, Ordering, StoreUnavailable
from vaulthalla.stores.memory import Fault, MemoryBucket, MemoryStore, StoredObject
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import Lease, drive

pytestmark = pytest.mark.django_db(transaction=True)

IN_CI = 40


def seeds() -> Sequence[int]:
    asked = os.environ.get("RACE_SEEDS", "")
    first, dash, last = asked.partition("-")
    if dash:
        return range(int(first), int(last))
    return range(1_000, 1_000 + int(asked)) if asked else range(IN_CI)


class World:
    """A bucket whose clock is not this host's, its users, and their events, which come when they like."""

    def __init__(self, seed: int, vault: Vault) -> None:
        self.random = random.Random(seed)
        self.now = datetime.now(UTC) - timedelta(minutes=self.random.choice((0, 7, -7)))
        self.whole_seconds = self.random.random() < 0.5  # as the Date of most answers
        self.lossy = self.random.random() < 0.3  # whether events get lost
        self.ordered = self.random.random() < 0.8
        self.vault = vault
        self.bucket = MemoryBucket(self.date)
        self.events: list[Change] = []
        self.unwritten: list[Callable[[], object]] = []
        self.flights: list[tuple[Future[Any], Callable[[], object]]] = []
        self.number = 0
        self.calm = False
        # Of each key: since when, which ETag (none: gone) and size.
        self.history: dict[str, list[tuple[datetime, str, int]]] = {}

    # --- time

    def clock(self) -> datetime:
        self.now += timedelta(milliseconds=self.random.choice((0, 1, 400, 2_500)))
        return self.now

    def date(self) -> datetime:
        now = self.clock()
        return now.replace(microsecond=0) if self.whole_seconds else now

    # --- what happens

    def happens(self) -> None:
        moves = {self.edit: 5, self.write_ours: 3, self.deliver: 3, self.record: 3, self.look: 1, self.inventory: 1}
        (move,) = self.random.choices(list(moves), weights=list(moves.values()))
        move()

    def any_key(self) -> str:
        return f"{self.random.randrange(220):04}"

    def write(self, key: str) -> StoredObject:
        self.number += 1
        stored = self.bucket.write(key, f"{self.number}".encode())
        self.note(key, self.now, stored.etag, len(stored.body))
        return stored

    def remove(self, key: str) -> datetime:
        at = self.date()
        self.number += 1
        self.bucket.remove(key)
        self.note(key, self.now, "", 0)
        return at

    def note(self, key: str, at: datetime, etag: str, size: int) -> None:
        """The event of it may come late, twice, or never."""
        self.history.setdefault(key, []).append((at, etag, size))
        event = Change(
            effect=Effect.CREATED if etag else Effect.REMOVED,
            bucket=self.vault.bucket,
            key=key,
            at=at,
            etag=etag,
            size=size,
            sequencer=f"{self.number:08X}",
        )
        if not self.lossy or self.random.random() < 0.7:
            self.events += [event] * self.random.choice((1, 2))

    def edit(self) -> None:
        """Somebody else writes or deletes."""
        key = self.any_key()
        if self.random.random() < 0.6:
            self.write(key)
        elif key in self.bucket.objects:
            self.remove(key)

    def write_ours(self) -> None:
        """As a sync does it: on condition of what the index says. It is recorded later."""
        key = self.any_key()
        row = RemoteObject.objects.filter(vault=self.vault, key=key).first()
        known = row.etag if row is not None and not row.tombstone else ""
        held = self.bucket.objects.get(key)
        if (row is not None and row.doubtful) or known != (held.etag if held else ""):
            return
        since = merge.revision_of(self.vault.pk)
        if held is None or self.random.random() < 0.6:
            stored = self.write(key)
            info = stored.info(key, stored.last_modified)
            self.unwritten.append(lambda: merge.observe(self.vault.pk, [info], source=Source.OWN, since=since))
        else:
            gone = [(key, self.remove(key))]
            self.unwritten.append(lambda: merge.observe_gone(self.vault.pk, gone, source=Source.OWN, since=since))

    def record(self) -> None:
        """What was written goes into the index."""
        kept, self.unwritten = self.unwritten, []
        for one in kept:
            with transaction.atomic():
                one()

    def deliver(self) -> None:
        count = self.random.randrange(1 + len(self.events))
        self.random.shuffle(self.events)
        some, self.events = self.events[:count], self.events[count:]
        with transaction.atomic():
            applying.apply(self.vault, some)

    def look(self) -> None:
        """A HEAD of a row that is in doubt, or of any."""
        doubtful = RemoteObject.objects.filter(vault=self.vault, doubtful=True).values_list("key", flat=True)
        self.head([self.random.choice([*doubtful, self.any_key()])])

    def head(self, keys: Iterable[str]) -> None:
        since = merge.revision_of(self.vault.pk)
        found: list[ObjectInfo] = []
        gone: list[tuple[str, datetime]] = []
        for key in keys:
            at, stored = self.date(), self.bucket.objects.get(key)
            if stored is None:
                gone.append((key, at))
            else:
                found.append(stored.info(key, at))
        with transaction.atomic():
            merge.observe(self.vault.pk, found, source=Source.HEAD, since=since)
            merge.observe_gone(self.vault.pk, gone, source=Source.HEAD, since=since)

    def inventory(self) -> None:
        """Comes late, and has looked at each key at another time before it began."""
        as_of = self.now - timedelta(seconds=self.random.choice((0, 1, 30)))
        rows = []
        for key, told in self.history.items():
            looked = as_of - timedelta(seconds=self.random.choice((0, 2, 60)))
            seen = [state for state in told if state[0] <= looked]
            if seen and seen[-1][1]:
                at, etag, size = seen[-1]
                rows.append(deliveries.row(key, size=size, etag=etag, at=at))
        table = inventory_sql.stage(1, uuid4())
        inventory_sql.load(table, pieces_of(*rows))
        with transaction.atomic():
            Import(vault=self.vault, as_of=as_of, tables=[table], replace=True).merge()
        inventory_sql.drop(table)

    # --- listings

    def open_store(self, vault: Vault, meter: Any) -> MemoryStore:
        able = memory.EVERYTHING if self.ordered else replace(memory.EVERYTHING, ordering=Ordering.UNSPECIFIED)
        return MemoryStore(self.bucket, meter, prefix=vault.prefix, capabilities=able)

    def fails(self) -> None:
        """At some page, perhaps, this run ends."""
        if self.random.random() < 0.6:
            nth = self.random.randrange(1, 24)
            self.bucket.inject(Fault(operation="list_page", nth=nth, error=StoreUnavailable("no route")))

    def list_bucket(self) -> None:
        drive(scanning.start_reconcile(self.vault, allow_list_scan=True).pk)

    # --- in place of threads

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.answer(len(self.flights))

    def submit(self, ask: Callable[..., object], *arguments: object) -> Future[Any]:
        future: Future[Any] = Future()
        self.flights.append((future, lambda: ask(*arguments)))
        return future

    def answer(self, count: int) -> None:
        self.random.shuffle(self.flights)
        some, self.flights = self.flights[:count], self.flights[count:]
        for future, ask in some:
            try:
                future.set_result(ask())
            except Exception as error:
                future.set_exception(error)

    def outlast_any(self, flights: Iterable[Future[Any]]) -> None:
        """Some pages come; things happen before and after."""
        self.perhaps()
        if not any(flight.done() for flight in flights):
            self.answer(self.random.randrange(1, 1 + len(self.flights)))
        self.perhaps()

    def outlast(self, flight: Future[Any]) -> Any:
        self.answer(len(self.flights))
        return flight.result()

    def perhaps(self) -> None:
        if not self.calm and self.random.random() < 0.15:
            self.happens()

    # --- the end

    def quiet(self) -> None:
        """All that is under way arrives. Whoever looks then sees what is."""
        self.bucket.faults.clear()
        self.now += timedelta(minutes=1)
        self.record()
        with transaction.atomic():
            applying.apply(self.vault, self.events)
        self.events = []
        self.head(list(RemoteObject.objects.filter(vault=self.vault, doubtful=True).values_list("key", flat=True)))

    def index_is_the_bucket(self) -> None:
        rows = RemoteObject.objects.filter(vault=self.vault, tombstone=False)
        held = {key: (stored.etag, len(stored.body)) for key, stored in self.bucket.objects.items()}
        known = {key: (etag, size) for key, etag, size in rows.values_list("key", "etag", "size")}
        assert known == held
        assert not rows.filter(doubtful=True).exists()
        state = IndexState.objects.get(vault=self.vault)
        counted = (state.object_count, state.total_bytes, state.doubtful_count)
        assert counted == (len(held), sum(size for _, size in held.values()), 0)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Callable[[World], None]:
    def patch(world: World) -> None:
        monkeypatch.setattr(memory, "PAGE_KEYS", 10)
        monkeypatch.setattr(freshness, "KEYS_PER_PAGE", 10)
        monkeypatch.setattr(ranges, "PAGES_PER_RANGE", 2)
        monkeypatch.setattr(reconcile, "open_store", world.open_store)
        monkeypatch.setattr(reconcile, "ThreadPoolExecutor", lambda **_: world)
        monkeypatch.setattr(Lease, "outlast_any", world.outlast_any)
        monkeypatch.setattr(Lease, "outlast", world.outlast)

    return patch


@pytest.mark.parametrize("seed", seeds())
def test_the_index_ends_as_the_bucket(seed: int, vault: Vault, patched: Callable[[World], None]) -> None:
    world = World(seed, vault)
    patched(world)
    world.now -= timedelta(days=3)
    for number in range(200):
        world.write(f"{number:04}")
    world.now += timedelta(days=3)
    for _ in range(3):
        world.fails()
        world.list_bucket()
        world.happens()
        world.deliver()
    world.quiet()
    if not world.lossy and IndexState.objects.get(vault=vault).complete:
        # Events that are all there need no listing.
        world.index_is_the_bucket()
    # An unfinished scan is only finished by the next one, so a second one sees what changed meanwhile.
    for world.calm in (False, True):
        world.list_bucket()
        world.now += timedelta(minutes=1)
    world.quiet()
    world.index_is_the_bucket()
    assert not ScanRange.objects.exists()
    assert world.bucket.seen[RequestClass.LIST] > 0
