"""Rows that nobody looks at any more: chunks and operations of runs that ended, and notifications that are over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any

from django.db.models import QuerySet
from django.db.models.functions import Now

from budgets.notices import over_for
from sync.models import Operation
from vaulthalla.work.models import TERMINAL, Chunk, Run

# Small transactions: none holds locks, or makes vacuum wait, for longer than a moment.
BATCH = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How many rows went; `finished` when none of them is left."""

    chunks: int
    operations: int
    notifications: int
    finished: bool


def clean_up(*, older_than: timedelta, seconds: float) -> Removed:
    """Deletes the chunks and operations of runs that ended before that; runs, their results and budgets stay.

    And notifications that are over for as long. Stops after so many seconds. Any number of processes may do this at
    once.
    """
    until = monotonic() + seconds
    ended = Run.objects.filter(status__in=TERMINAL, finished_at__lt=Now() - older_than)
    operations = sum(_batches(Operation.objects.filter(run__in=ended), until))
    chunks = sum(_batches(Chunk.objects.filter(run__in=ended), until))
    notifications = sum(_batches(over_for(older_than), until))
    return Removed(chunks=chunks, operations=operations, notifications=notifications, finished=monotonic() < until)


def _batches(rows: QuerySet[Any], until: float) -> Iterator[int]:
    """Deletes one batch per step, and says how many rows that were."""
    while monotonic() < until:
        ids = list(rows.order_by().values_list("pk", flat=True)[:BATCH])
        if not ids:
            return
        rows.model._default_manager.filter(pk__in=ids).delete()
        yield len(ids)
