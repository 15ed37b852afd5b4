"""Celery's side: what beat asks for. It may run twice, late, or beside itself."""

from __future__ import annotations

from indexing.events.queue import poll_due
from vaulthalla.celery import app


@app.task(name="indexing.poll", ignore_result=True)  # type: ignore[untyped-decorator,unused-ignore]
def poll_tick() -> list[int]:
    """Starts a poll of each event queue whose time has come; ids of the runs."""
    return poll_due()
