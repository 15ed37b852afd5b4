"""Every SQL statement of the engine beyond the ORM: named, with its purpose and the index it relies on.

Leases are measured by the database's clock alone. Row locks are taken in one order, everywhere:
own chunk, its run, then whatever else (budgets). Runs are locked FOR NO KEY UPDATE, so that inserting
rows that refer to them never waits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

# Takes the oldest chunk that may run now. One queue a statement, so that the index `chunk_pending`
# (queue, run, ordinal) gives the order and the first row it can lock is the answer.
CLAIM = """
UPDATE work_chunk AS chunk
   SET status = 'running',
       attempts = chunk.attempts + 1,
       lease_token = %(token)s,
       lease_until = clock_timestamp() + %(seconds)s * interval '1 second',
       worker = %(worker)s
  FROM work_run AS run
 WHERE run.id = chunk.run_id
   AND chunk.id = (
       SELECT pending.id
         FROM work_chunk AS pending
        WHERE pending.status = 'pending'
          AND pending.queue = %(queue)s
          AND pending.pool = ANY(%(pools)s)
          AND pending.not_before <= now()
          AND {of_run}
        ORDER BY pending.run_id, pending.ordinal
        LIMIT 1
          FOR NO KEY UPDATE SKIP LOCKED
       )
RETURNING chunk.id, chunk.run_id, run.vault_id, run.kind, chunk.kind, chunk.phase, chunk.queue,
          chunk.payload, chunk.cursor, chunk.attempts
"""

CLAIM_OF_ANY = CLAIM.replace("{of_run}", "true")
# The CLI works on its own run first of all.
CLAIM_OF_RUN = CLAIM.replace("{of_run}", "pending.run_id = %(run)s")

# Proves that the lease is still ours, moves its end, and tells whether the run was cancelled. By primary key.
RENEW = """
UPDATE work_chunk AS chunk
   SET lease_until = clock_timestamp() + %(seconds)s * interval '1 second'
  FROM work_run AS run
 WHERE chunk.id = %(chunk)s AND chunk.lease_token = %(token)s AND run.id = chunk.run_id
RETURNING run.cancel_requested
"""

# Holds the own chunk for a transaction: no row means that it belongs to somebody else. By primary key.
LOCK_CHUNK = """
SELECT id, set_config('lock_timeout', %(patience)s, true)
  FROM work_chunk WHERE id = %(chunk)s AND lease_token = %(token)s FOR NO KEY UPDATE
"""

# Records progress and moves the lease, inside the transaction that holds the chunk. By primary key.
CHECKPOINT = """
UPDATE work_chunk
   SET cursor = CASE WHEN %(moved)s THEN %(cursor)s::jsonb ELSE cursor END,
       items_done = items_done + %(items)s,
       lease_until = clock_timestamp() + %(seconds)s * interval '1 second'
 WHERE id = %(chunk)s AND lease_token = %(token)s
"""

# Ends a lease for good. By primary key and token: no row means that it was not ours to end.
END_CHUNK = """
UPDATE work_chunk
   SET status = %(status)s, error = %(error)s, lease_token = NULL, lease_until = NULL
 WHERE id = %(chunk)s AND lease_token = %(token)s
"""

# Gives a chunk back. Progress forgets earlier attempts; a delay keeps it from being claimed too soon.
RELEASE_CHUNK = """
UPDATE work_chunk
   SET status = 'pending',
       lease_token = NULL,
       lease_until = NULL,
       error = %(error)s,
       attempts = CASE WHEN %(progress)s THEN 0 ELSE attempts - %(uncounted)s END,
       cursor = CASE WHEN %(progress)s THEN %(cursor)s::jsonb ELSE cursor END,
       not_before = clock_timestamp() + %(delay)s * interval '1 second'
 WHERE id = %(chunk)s AND lease_token = %(token)s
"""

# One lapsed lease that nobody else is looking at. Relies on the index `chunk_leased` (lease_until).
LAPSED = """
SELECT id, run_id, kind, attempts, worker
  FROM work_chunk
 WHERE status = 'running' AND lease_until < clock_timestamp()
 ORDER BY lease_until
 LIMIT 1
   FOR NO KEY UPDATE SKIP LOCKED
"""

# Who holds leases. Relies on the index `chunk_leased`.
WORKERS = "SELECT DISTINCT worker FROM work_chunk WHERE status = 'running' AND lease_until >= clock_timestamp()"

# Ends the leases of a process that is known to be gone; the row of a chunk that moved on meanwhile is not its any more.
EXPIRE = """
UPDATE work_chunk SET lease_until = clock_timestamp() - interval '1 second'
 WHERE status = 'running' AND worker = %(worker)s AND lease_until >= clock_timestamp()
"""

# Gives a lapsed chunk, locked by LAPSED, to whoever claims it next, or gives it up. By primary key.
TAKE_BACK = """
UPDATE work_chunk
   SET status = %(status)s, error = %(error)s, lease_token = NULL, lease_until = NULL
 WHERE id = %(chunk)s
"""

# The phase that a run is in: its lowest with unfinished chunks. Relies on `chunk_unfinished` (run, phase).
LOWEST_PHASE = """
SELECT phase FROM work_chunk
 WHERE run_id = %(run)s AND status IN ('waiting', 'pending', 'running')
 ORDER BY phase LIMIT 1
"""

# Lets the chunks of a phase be claimed. Relies on `chunk_unfinished` (run, phase).
OPEN_PHASE = """
UPDATE work_chunk SET status = 'pending'
 WHERE run_id = %(run)s AND phase = %(phase)s AND status = 'waiting'
RETURNING queue
"""

# Skips what has not begun, up to a phase. Relies on `chunk_unfinished` (run, phase).
SKIP_BEFORE = """
UPDATE work_chunk SET status = 'skipped'
 WHERE run_id = %(run)s AND phase < %(phase)s AND status IN ('waiting', 'pending')
"""

# Runs that are not over although nothing is left to claim or to wait for: their last finisher died between two
# steps, or the run before them vanished. Relies on `run_unfinished` and `chunk_unfinished`.
STRANDED = """
SELECT run.id, run.status
  FROM work_run AS run
 WHERE run.status IN ('planning', 'running', 'queued')
   AND NOT EXISTS (
       SELECT FROM work_chunk AS chunk
        WHERE chunk.run_id = run.id AND chunk.phase = run.phase
          AND chunk.status IN ('pending', 'running')
       )
"""

# Queues with chunks that could be claimed now. Relies on `chunk_pending`.
RINGING = """
SELECT queue, count(*)
  FROM (SELECT queue FROM work_chunk WHERE status = 'pending' AND not_before <= now() LIMIT 1000) AS pending
 GROUP BY queue
"""

# Sums up a run for people. By the index of `chunk_ordinal` (run, ordinal).
PROGRESS = """
SELECT run.phase,
       count(*) FILTER (WHERE chunk.status IN ('done', 'failed', 'skipped')),
       count(*),
       coalesce(sum(CASE WHEN chunk.status IN ('done', 'failed', 'skipped')
                         THEN chunk.items_total ELSE least(chunk.items_done, chunk.items_total) END), 0)::bigint,
       coalesce(sum(chunk.items_total), 0)::bigint
  FROM work_run AS run JOIN work_chunk AS chunk ON chunk.run_id = run.id
 WHERE run.id = %(run)s
 GROUP BY run.phase
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The row that a claim returned."""

    chunk_id: int
    run_id: int
    vault_id: int | None
    run_kind: str
    kind: str
    phase: int
    queue: str
    payload: dict[str, Any]
    cursor: Any
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapsed:
    """A chunk whose worker was not heard of in time."""

    chunk_id: int
    run_id: int
    kind: str
    attempts: int
    worker: str


def claim(
    queue: str, *, pools: Sequence[str], run_id: int | None, token: UUID, seconds: float, worker: str
) -> Claimed | None:
    """Leases the oldest claimable chunk of a queue; None when there is none."""
    values = {"queue": queue, "pools": list(pools), "token": token, "seconds": seconds, "worker": worker, "run": run_id}
    row = _row(CLAIM_OF_ANY if run_id is None else CLAIM_OF_RUN, values)
    if row is None:
        return None
    return Claimed(
        chunk_id=row[0],
        run_id=row[1],
        vault_id=row[2],
        run_kind=row[3],
        kind=row[4],
        phase=row[5],
        queue=row[6],
        payload=_json(row[7]),
        cursor=_json(row[8]),
        attempts=row[9],
    )


def renew(chunk_id: int, token: UUID, *, seconds: float) -> bool | None:
    """Whether the run was cancelled; None when the lease is no longer ours."""
    row = _row(RENEW, {"chunk": chunk_id, "token": token, "seconds": seconds})
    return None if row is None else bool(row[0])


def lock_chunk(chunk_id: int, token: UUID, *, patience: float) -> bool:
    """Holds the chunk until the transaction ends, which waits so many seconds for any other lock."""
    return _row(LOCK_CHUNK, {"chunk": chunk_id, "token": token, "patience": f"{int(patience)}s"}) is not None


def checkpoint(chunk_id: int, token: UUID, *, moved: bool, cursor: Any, items: int, seconds: float) -> bool:
    return _changed(
        CHECKPOINT,
        {
            "chunk": chunk_id,
            "token": token,
            "moved": moved,
            "cursor": json.dumps(cursor),
            "items": items,
            "seconds": seconds,
        },
    )


def end_chunk(chunk_id: int, token: UUID, *, status: str, error: str = "") -> bool:
    return _changed(END_CHUNK, {"chunk": chunk_id, "token": token, "status": status, "error": error})


def release_chunk(
    chunk_id: int,
    token: UUID,
    *,
    delay: float,
    progress: bool = False,
    cursor: Any = None,
    counted: bool = True,
    error: str = "",
) -> bool:
    """Back to pending. `progress` takes `cursor` over and forgets attempts; not `counted`: this one was no attempt."""
    values = {
        "chunk": chunk_id,
        "token": token,
        "delay": delay,
        "progress": progress,
        "cursor": json.dumps(cursor),
        "uncounted": 0 if counted else 1,
        "error": error,
    }
    return _changed(RELEASE_CHUNK, values)


def lapsed() -> Lapsed | None:
    """Locks one chunk whose lease is over; to be taken back in the same transaction."""
    row = _row(LAPSED, {})
    if row is None:
        return None
    return Lapsed(chunk_id=row[0], run_id=row[1], kind=row[2], attempts=row[3], worker=row[4])


def workers() -> list[str]:
    """The processes that hold leases, by the names they gave."""
    return [str(name) for (name,) in _rows(WORKERS, {})]


def expire(worker: str) -> None:
    _changed(EXPIRE, {"worker": worker})


def take_back(chunk_id: int, *, status: str, error: str) -> None:
    _changed(TAKE_BACK, {"chunk": chunk_id, "status": status, "error": error})


def lowest_phase(run_id: int) -> int | None:
    """None when every chunk is finished. A statement of its own: it must see what was committed while the
    caller waited for the run's lock."""
    row = _row(LOWEST_PHASE, {"run": run_id})
    return None if row is None else int(row[0])


def open_phase(run_id: int, phase: int) -> list[str]:
    """The queue of each chunk that may now be claimed."""
    return [row[0] for row in _rows(OPEN_PHASE, {"run": run_id, "phase": phase})]


def skip_before(run_id: int, phase: int) -> None:
    _changed(SKIP_BEFORE, {"run": run_id, "phase": phase})


def stranded() -> list[tuple[int, str]]:
    """Run ids and their statuses."""
    return [(row[0], row[1]) for row in _rows(STRANDED, {})]


def ringing() -> dict[str, int]:
    return {row[0]: row[1] for row in _rows(RINGING, {})}


def progress(run_id: int) -> tuple[int, int, int, int, int] | None:
    """Phase, chunks done and in all, items done and in all."""
    row = _row(PROGRESS, {"run": run_id})
    return None if row is None else (row[0], row[1], row[2], row[3], row[4])


def claimable(run_id: int) -> int:
    """How many chunks of a run nobody works on could be claimed now, or when their pause is over."""
    found = _row("SELECT count(*) FROM work_chunk WHERE run_id = %(run)s AND status = 'pending'", {"run": run_id})
    return int(found[0]) if found else 0


def _row(statement: str, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        row: tuple[Any, ...] | None = cursor.fetchone()
        return row


def _rows(statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())


def _changed(statement: str, values: Mapping[str, Any]) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return bool(cursor.rowcount > 0)


def _json(value: Any) -> Any:
    # Django leaves jsonb to the caller of a raw cursor.
    return json.loads(value) if isinstance(value, str | bytes) else value
