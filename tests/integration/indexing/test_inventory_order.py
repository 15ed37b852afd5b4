"""An inventory among events, in any order: whatever the index is sure of is what the bucket holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexing import merge
from indexing.events import apply as applying
from indexing.events.records import Change, Effect
from indexing.inventory import importing, runs, sql
from indexing.inventory.importing import Import
from indexing.models import IndexState, RemoteObject, ScanRange
from tests.integration.indexing.staged import pieces_of
from tests.support import deliveries
from vaulthalla.vaults.models import Vault

# What is staged is read on another connection, so it is committed.
pytestmark = pytest.mark.django_db(transaction=True)

AS_OF = datetime(2026, 11, 20, tzinfo=UTC)
KEYS = "abc"
ORDINARY = sql.Comparison._new


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened in the bucket, hours before or after the inventory began."""

    hour: int
    key: str
    gone: bool

    @property
    def at(self) -> datetime:
        return AS_OF + timedelta(hours=self.hour)

    @property
    def etag(self) -> str:
        return "" if self.gone else f"e{self.hour}"

    def event(self) -> Change:
        effect = Effect.REMOVED if self.gone else Effect.CREATED
        sequencer = f"{self.hour + 1000:04X}"
        return Change(
            effect=effect, bucket="bucket", key=self.key, at=self.at, etag=self.etag, size=5, sequencer=sequencer
        )


steps = st.lists(
    st.builds(Step, st.integers(-70, 10), st.sampled_from(KEYS), st.booleans()),
    max_size=9,
    unique_by=lambda step: (step.hour, step.key),
)
# How many hours before it began the inventory looked at each key.
lags = st.fixed_dictionaries({key: st.integers(0, 47) for key in KEYS})


def bucket_at(history: list[Step], key: str, hour: int) -> Step | None:
    done = [step for step in history if step.key == key and step.hour <= hour]
    last = max(done, key=lambda step: step.hour, default=None)
    return None if last is None or last.gone else last


def take_inventory(vault: Vault, history: list[Step], lag: dict[str, int]) -> None:
    seen = [found for key in KEYS if (found := bucket_at(history, key, -lag[key]))]
    load(vault, [deliveries.row(step.key, etag=step.etag, at=step.at) for step in seen])


def load(vault: Vault, rows: list[list[str]]) -> None:
    table = sql.stage(1, uuid4())
    sql.load(table, pieces_of(*rows))
    job = Import(vault=vault, as_of=AS_OF, tables=[table])
    job.tally.rows = len(rows)
    with transaction.atomic():
        job.merge()
    sql.drop(table)


# How many events came before the inventory, and how many at a time.
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, lags, st.randoms(use_true_random=False), st.tuples(st.integers(0, 9), st.integers(1, 4)))
def test_what_is_certain_is_true(
    vault: Vault, history: list[Step], lag: dict[str, int], random: Random, parts: tuple[int, int]
) -> None:
    before, size = parts
    events = [step.event() for step in history]
    random.shuffle(events)
    with transaction.atomic():
        merge.reset(vault.pk)
    deliver(vault, events[:before], size)
    take_inventory(vault, history, lag)
    deliver(vault, events[before:], size)
    deliver(vault, events[: len(events) // 2], size)  # twice
    rows = {row.key: row for row in RemoteObject.objects.filter(vault=vault)}
    for key in KEYS:
        row, truth = rows.get(key), bucket_at(history, key, 10)
        if row is None or not row.doubtful:
            known = row.etag if row is not None and not row.tombstone else None
            assert known == (truth.etag if truth else None), (key, history, lag)
    state = IndexState.objects.get(vault=vault)
    assert state.object_count == sum(not row.tombstone for row in rows.values())
    assert state.doubtful_count == sum(row.doubtful for row in rows.values())


SNAPSHOT, SCAN = AS_OF - timedelta(hours=24), AS_OF - timedelta(hours=12)
NEAR = [timedelta(seconds=n) for n in (-3600, -3, -2, -1, 0, 1, 2, 3, 3600)]


@pytest.mark.parametrize("scan", [None, SCAN])
@pytest.mark.parametrize("snapshot", [None, SNAPSHOT])
def test_news_go_in_as_the_merge_would_take_them(
    vault: Vault, snapshot: datetime | None, scan: datetime | None
) -> None:
    """Below "a" the scan under way has been, below "c" it has not; the index knows one key of three below each."""
    times = [at + by for at in (SNAPSHOT, SCAN) for by in NEAR]
    rows = [
        deliveries.row(f"{part}{n:02}-{name}", etag="e", at=at)
        for part in "ac"
        for n, at in enumerate(times)
        for name in ("known", "new", "news")
    ]
    found = [row[1].replace("known", name) for row in rows for name in ("gone", "known") if "known" in row[1]]
    events = [Step(-30 if number % 4 < 2 else -1, key, gone="gone" in key).event() for number, key in enumerate(found)]

    def imported(new: Any) -> list[dict[str, Any]]:
        with transaction.atomic():
            merge.reset(vault.pk)
            merge.begin(vault.pk)
            applying.apply(vault, events)
            if scan is not None:
                ScanRange.objects.create(vault=vault, low="", high=None, reached="b", after=b"b")
            state = IndexState.objects.filter(vault=vault)
            state.update(complete=snapshot is not None, snapshot_as_of=snapshot, scan_started_at=scan)
        with (
            patch.object(sql.Comparison, "_new", new),
            patch.object(runs, "ROWS_A_DIGEST", 1),
            patch.object(importing, "MOST_BESIDE", 0),
        ):
            load(vault, rows)
        counts = state.values("object_count", "total_bytes", "doubtful_count", "revision")
        return [*RemoteObject.objects.filter(vault=vault).order_by("key").values(), *counts]

    straight: list[str] = []

    def noted(self: sql.Comparison, blocks: Any, numbers: Any) -> list[int]:
        new = ORDINARY(self, blocks, numbers)
        straight.extend(blocks.spans[number][1] for number in new)
        return new

    assert imported(noted) == imported(lambda *_: [])
    later = [at for at in times if all(at > floor + timedelta(seconds=2) for floor in (snapshot, scan) if floor)]
    assert len(straight) == 2 * 2 * len(later)


def deliver(vault: Vault, events: list[Change], size: int) -> None:
    for start in range(0, len(events), size):
        with transaction.atomic():
            applying.apply(vault, events[start : start + size])
