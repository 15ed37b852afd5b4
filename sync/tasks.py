"""Celery's side: what beat asks for. Each may run twice, late, or beside itself."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings

from sync.cleanup import clean_up
from sync.start import start_due
from vaulthalla.celery import app

# Well below the soft time limit; what is left goes on in a task of its own.
CLEANUP_SECONDS = 60


@app.task(name="sync.due", ignore_result=True)  # type: ignore[untyped-decorator,unused-ignore]
def due_tick() -> list[int]:
    """Starts the syncs whose time has come; ids of the runs."""
    return start_due()


@app.task(name="sync.cleanup", ignore_result=True)  # type: ignore[untyped-decorator,unused-ignore]
def cleanup_tick() -> None:
    """Removes the chunks and operations of runs that ended long ago, and notifications that are long over."""
    removed = clean_up(older_than=timedelta(days=settings.HISTORY_DAYS), seconds=CLEANUP_SECONDS)
    if not removed.finished:
        cleanup_tick.delay()
