"""Rows that nobody looks at any more: the chunks and operations of runs that ended long ago."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from django.db.models import Model, QuerySet
from django.db.models.functions import Now

from sync.models import Operation
from vaulthalla.work.models import TERMINAL, Chunk, Run

# Small transactions: none holds locks, or makes vacuum wait, for longer than a moment.
BATCH = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How many rows went; `finished` when none of them is left."""

    chunks: int
    operations: int
    finished: bool


def clean_up(*, older_than: timedelta, seconds: float) -> Removed:
    """Deletes the chunks and operations of runs that ended before that; runs, their results and budgets stay.

    Stops after so many seconds. Any number of processes may do this at once.
    """
    until = monotonic() + seconds
    operations = sum(_batches(Operation.objects.all(), older_than, until))
    chunks = sum(_batches(Chunk.objects.all(), older_than, until))
    return Removed(chunks=chunks, operations=operations, finished=monotonic() < until)


def _batches(rows: QuerySet[Operation] | QuerySet[Chunk], older_than: timedelta, until: float) -> Iterator[int]:
    """Deletes one batch per step, and says how many rows that were."""
    over = Run.objects.filter(status__in=TERMINAL, finished_at__lt=Now() - older_than)
    model: type[Model] = rows.model
    while monotonic() < until:
        ids = list(rows.filter(run__in=over).order_by().values_list("pk", flat=True)[:BATCH])
        if not ids:
            return
        model._default_manager.filter(pk__in=ids).delete()
        yield len(ids)
