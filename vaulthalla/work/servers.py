"""Whether servers answer, and what waits in the database, for `vh status`."""

from __future__ import annotations

from typing import Any

from vaulthalla import env

CONNECT_SECONDS = 3


def reachable(found: dict[str, Any]) -> dict[str, Any]:
    """Adds `running` to servers named by DATABASE_URL and REDIS_URL."""
    if not found["postgresql"]["embedded"]:
        found["postgresql"]["running"] = _database_answers(env.text("DATABASE_URL"))
    if not found["valkey"]["embedded"]:
        found["valkey"]["running"] = _broker_answers(env.text("REDIS_URL"))
    return found


def waiting() -> dict[str, Any] | None:
    """Runs and chunks that are not over; None when the database is not at this version's schema."""
    from vaulthalla.startup import setup

    setup(start=False)
    from django.db import DatabaseError
    from django.db.models import Count, Min, Q

    from vaulthalla.work.models import ACTIVE, Chunk, ChunkStatus, Run, RunStatus

    try:
        runs = Run.objects.aggregate(
            active=Count("pk", filter=Q(status__in=ACTIVE)), queued=Count("pk", filter=Q(status=RunStatus.QUEUED))
        )
        chunks = Chunk.objects.filter(status=ChunkStatus.PENDING).aggregate(
            pending=Count("pk"), oldest=_now() - Min("not_before")
        )
    except DatabaseError:
        return None
    return {
        "runs_active": runs["active"],
        "runs_queued": runs["queued"],
        "chunks_pending": chunks["pending"],
        "oldest_pending_seconds": int(chunks["oldest"].total_seconds()) if chunks["oldest"] else None,
    }


def _now() -> Any:
    from django.db.models.functions import Now

    return Now()


def _database_answers(url: str) -> bool:
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=CONNECT_SECONDS).close()
    except psycopg.Error:
        return False
    return True


def _broker_answers(url: str) -> bool:
    from kombu import Connection

    try:
        with Connection(env.broker(url), connect_timeout=CONNECT_SECONDS) as connection:
            connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
    except Exception:  # each transport raises its own; all mean the same here
        return False
    return True
