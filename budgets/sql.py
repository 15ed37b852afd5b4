"""Every SQL statement of the budgets: named, with its purpose and the index it relies on.

A run's budget rows are always locked in the order of their ids, and after the chunk and the run (see
vaulthalla.work.sql), so that chunks that draw and settle several classes never wait for each other in a circle.
At every commit, for each run and class: held = the sum of its allotments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from vaulthalla.requests import RequestClass, Requests

# Holds a run's rows of some classes. Relies on `one_budget_row_per_class` (run, request_class).
LOCK = """
SELECT request_class, "limit", used, held, lost
  FROM budgets_runbudget
 WHERE run_id = %(run)s AND request_class = ANY(%(classes)s)
 ORDER BY id
   FOR NO KEY UPDATE
"""

# Proves that the lease is ours and keeps it ours until the draw is committed. By primary key.
HOLD_LEASE = """
SELECT id FROM work_chunk WHERE id = %(chunk)s AND lease_token = %(token)s FOR SHARE
"""

# Among how many the rest of a budget is shared. Relies on `chunk_unfinished` (run, phase).
ACTIVE_CHUNKS = """
SELECT count(*) FROM work_chunk WHERE run_id = %(run)s AND status = 'running'
"""

# What this lease holds already. Relies on `one_allotment_per_lease_and_class`.
OWN = """
SELECT request_class, amount FROM budgets_allotment WHERE lease_token = %(token)s
"""

# Books what a draw granted, on the budget and on the lease. The budget rows are locked.
HOLD = """
UPDATE budgets_runbudget AS budget
   SET held = budget.held + granted.amount
  FROM unnest(%(classes)s::text[], %(amounts)s::bigint[]) AS granted (request_class, amount)
 WHERE budget.run_id = %(run)s AND budget.request_class = granted.request_class
"""
GRANT = """
INSERT INTO budgets_allotment (run_id, chunk_id, lease_token, request_class, amount)
SELECT %(run)s, %(chunk)s, %(token)s, granted.request_class, granted.amount
  FROM unnest(%(classes)s::text[], %(amounts)s::bigint[]) AS granted (request_class, amount)
    ON CONFLICT (lease_token, request_class) DO UPDATE SET amount = budgets_allotment.amount + EXCLUDED.amount
"""

# Moves what was spent from held to used. The budget rows are locked.
SETTLE = """
WITH spent AS (
    UPDATE budgets_allotment AS allotment
       SET amount = allotment.amount - attempts.amount
      FROM unnest(%(classes)s::text[], %(amounts)s::bigint[]) AS attempts (request_class, amount)
     WHERE allotment.lease_token = %(token)s AND allotment.request_class = attempts.request_class
    RETURNING allotment.request_class, attempts.amount
)
UPDATE budgets_runbudget AS budget
   SET held = budget.held - spent.amount, used = budget.used + spent.amount
  FROM spent
 WHERE budget.run_id = %(run)s AND budget.request_class = spent.request_class
"""

# Gives back what a lease still holds. Deleting the row is what makes one of return and write-off win.
RETURN = """
WITH freed AS (
    DELETE FROM budgets_allotment WHERE lease_token = %(token)s RETURNING request_class, amount
)
UPDATE budgets_runbudget AS budget
   SET held = budget.held - freed.amount
  FROM freed
 WHERE budget.run_id = %(run)s AND budget.request_class = freed.request_class
"""

# Runs with allotments of leases that are gone. The table holds rows of live leases only, so it is small.
ORPHANED_RUNS = """
SELECT DISTINCT allotment.run_id
  FROM budgets_allotment AS allotment
 WHERE NOT EXISTS (
       SELECT FROM work_chunk AS chunk
        WHERE chunk.id = allotment.chunk_id AND chunk.lease_token = allotment.lease_token
       )
"""

# Books the allotments of dead leases as lost: they may have been sent, so they are never given out again.
WRITE_OFF = """
WITH orphaned AS (
    DELETE FROM budgets_allotment AS allotment
     WHERE allotment.run_id = %(run)s
       AND NOT EXISTS (
           SELECT FROM work_chunk AS chunk
            WHERE chunk.id = allotment.chunk_id AND chunk.lease_token = allotment.lease_token
           )
    RETURNING allotment.request_class, allotment.amount
), lost AS (
    SELECT request_class, sum(amount)::bigint AS amount FROM orphaned GROUP BY request_class
)
UPDATE budgets_runbudget AS budget
   SET held = budget.held - lost.amount, lost = budget.lost + lost.amount
  FROM lost
 WHERE budget.run_id = %(run)s AND budget.request_class = lost.request_class
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One class of one run's budget. A limit of None is unlimited."""

    limit: int | None
    used: int
    held: int
    lost: int

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else self.limit - self.used - self.held - self.lost


def lock(run_id: int, classes: Mapping[RequestClass, int]) -> dict[RequestClass, Line]:
    """The lines of some classes, held until the transaction ends."""
    rows = _rows(LOCK, {"run": run_id, "classes": [str(name) for name in classes]})
    return {RequestClass(row[0]): Line(limit=row[1], used=row[2], held=row[3], lost=row[4]) for row in rows}


def hold_lease(chunk_id: int, token: UUID) -> bool:
    return bool(_rows(HOLD_LEASE, {"chunk": chunk_id, "token": token}))


def active_chunks(run_id: int) -> int:
    return int(_rows(ACTIVE_CHUNKS, {"run": run_id})[0][0])


def own(token: UUID) -> Requests:
    return Requests({RequestClass(row[0]): row[1] for row in _rows(OWN, {"token": token})})


def grant(run_id: int, chunk_id: int, token: UUID, amounts: Requests) -> None:
    """Free → held, on the budget and on the lease."""
    values = {"run": run_id, "chunk": chunk_id, "token": token, **_columns(amounts)}
    _do(HOLD, values)
    _do(GRANT, values)


def settle(run_id: int, token: UUID, spent: Requests) -> None:
    """Held → used."""
    if any(spent.values()):
        lock(run_id, spent)
        _do(SETTLE, {"run": run_id, "token": token, **_columns(spent)})


def give_back(run_id: int, token: UUID) -> None:
    """Held → free, all that the lease still holds."""
    held = own(token)
    if held:
        lock(run_id, held)
        _do(RETURN, {"run": run_id, "token": token})


def orphaned_runs() -> list[int]:
    return [row[0] for row in _rows(ORPHANED_RUNS, {})]


def write_off(run_id: int) -> None:
    """Held → lost, of all leases of a run that are gone."""
    lock(run_id, dict.fromkeys(RequestClass, 0))
    _do(WRITE_OFF, {"run": run_id})


def _columns(amounts: Requests) -> dict[str, list[Any]]:
    some = {name: amount for name, amount in amounts.items() if amount}
    return {"classes": [str(name) for name in some], "amounts": list(some.values())}


def _rows(statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())


def _do(statement: str, values: Mapping[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
