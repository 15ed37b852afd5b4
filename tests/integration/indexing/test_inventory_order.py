"""An inventory among events, in any order: whatever the index is sure of is what the bucket holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import uuid4

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexing import merge
from indexing.events import apply as applying
from indexing.events.records import Change, Effect
from indexing.inventory import sql
from indexing.inventory.importing import Import
from indexing.models import IndexState, RemoteObject
from tests.support.deliveries import stamp
from vaulthalla.vaults.models import Vault

pytestmark = pytest.mark.django_db

AS_OF = datetime(2026, 11, 20, tzinfo=UTC)
KEYS = "abc"


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
    lines = [f"{step.key}\t{step.etag}\tSTANDARD\t\t\t5\t{stamp(step.at)}\n" for step in seen]
    table = sql.stage(1, uuid4())
    sql.load(table, lines)
    job = Import(vault=vault, as_of=AS_OF, tables=[table])
    job.tally.rows = len(lines)
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


def deliver(vault: Vault, events: list[Change], size: int) -> None:
    for start in range(0, len(events), size):
        applying.apply(vault, events[start : start + size])
