"""Celery's side: doorbells. Messages carry nothing but a queue's name."""

from __future__ import annotations

from time import monotonic

from django.conf import settings

from vaulthalla.celery import app
from vaulthalla.work import doorbell, ending, lease
from vaulthalla.work.execute import claim, execute
from vaulthalla.work.sweep import sweep


@app.task(name="work.ring", ignore_result=True)  # type: ignore[untyped-decorator,unused-ignore]
def ring(queue: str) -> int:
    """Works on a queue for a chunk's time, then makes room for others; how many chunks were executed."""
    if lease.shutdown.is_set():
        # Told to end by somebody who did not tell the worker: the pool puts another process in this one's place.
        doorbell.ring({queue: 1})
        raise SystemExit
    until, executed = monotonic() + settings.CHUNK_SECONDS, 0
    with ending.in_order():
        while not lease.shutdown.is_set() and (claimed := claim([queue])) is not None:
            execute(claimed)
            executed += 1
            if monotonic() >= until:
                doorbell.ring({queue: 1})
                break
    return executed


@app.task(name="work.sweep", ignore_result=True)  # type: ignore[untyped-decorator,unused-ignore]
def sweep_tick() -> None:
    """Takes back what lapsed, moves on what is stranded, and rings for what waits."""
    sweep(ring=True)
