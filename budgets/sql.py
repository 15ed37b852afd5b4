"""Every SQL statement of the budgets: named, with its purpose and the index it relies on.

A run's budget rows are always locked in the order of their ids, and after the chunk and the run (see
vaulthalla.work.sql), so that chunks that draw and settle several classes never wait for each other in a circle.
Price policies are locked last, in the order of their ids, then an override; whoever holds them locks nothing else.
At every commit, for each run and class: held = the sum of its allotments; where money is limited,
used + held + lost <= reserved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection

from vaulthalla.requests import RequestClass, Requests

# Holds a run's rows of some classes. Relies on `one_budget_row_per_class` (run, request_class).
LOCK = """
SELECT request_class, "limit", used, held, lost, reserved
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

# Moves what was spent from held to used, and books it on its UTC day. The budget rows are locked.
SETTLE = """
WITH spent AS (
    UPDATE budgets_allotment AS allotment
       SET amount = allotment.amount - attempts.amount
      FROM unnest(%(classes)s::text[], %(amounts)s::bigint[]) AS attempts (request_class, amount)
     WHERE allotment.lease_token = %(token)s AND allotment.request_class = attempts.request_class
    RETURNING allotment.request_class, attempts.amount
), today AS (
    INSERT INTO budgets_dayspend
           (run_id, vault_id, provider, currency, day, request_class, used, lost, unit_price)
    SELECT purse.run_id, purse.vault_id, purse.provider, purse.currency,
           (clock_timestamp() AT TIME ZONE 'UTC')::date, spent.request_class, spent.amount, 0, budget.unit_price
      FROM spent
      JOIN budgets_purse AS purse ON purse.run_id = %(run)s
      JOIN budgets_runbudget AS budget ON budget.run_id = %(run)s AND budget.request_class = spent.request_class
        ON CONFLICT (run_id, request_class, day)
        DO UPDATE SET used = budgets_dayspend.used + EXCLUDED.used, unit_price = EXCLUDED.unit_price
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
), today AS (
    INSERT INTO budgets_dayspend
           (run_id, vault_id, provider, currency, day, request_class, used, lost, unit_price)
    SELECT purse.run_id, purse.vault_id, purse.provider, purse.currency,
           (clock_timestamp() AT TIME ZONE 'UTC')::date, lost.request_class, 0, lost.amount, budget.unit_price
      FROM lost
      JOIN budgets_purse AS purse ON purse.run_id = %(run)s
      JOIN budgets_runbudget AS budget ON budget.run_id = %(run)s AND budget.request_class = lost.request_class
     WHERE lost.amount > 0
        ON CONFLICT (run_id, request_class, day)
        DO UPDATE SET lost = budgets_dayspend.lost + EXCLUDED.lost, unit_price = EXCLUDED.unit_price
)
UPDATE budgets_runbudget AS budget
   SET held = budget.held - lost.amount, lost = budget.lost + lost.amount
  FROM lost
 WHERE budget.run_id = %(run)s AND budget.request_class = lost.request_class
"""

# What more of each class is paid for. The budget rows and the policies are locked.
RESERVE = """
UPDATE budgets_runbudget AS budget
   SET reserved = budget.reserved + more.amount
  FROM unnest(%(classes)s::text[], %(amounts)s::bigint[]) AS more (request_class, amount)
 WHERE budget.run_id = %(run)s AND budget.request_class = more.request_class
"""

# What a scope has booked today and this month, and what its runs under way have set aside beyond that. One
# statement, so that what moves from one to the other is counted once. Relies on `spend_by_day` and `run_unfinished`.
COMMITTED = """
SELECT (SELECT COALESCE(sum((used + lost) * unit_price) FILTER (WHERE day = %(day)s), 0)
          FROM budgets_dayspend
         WHERE day = %(day)s AND currency = %(currency)s
           AND (%(provider)s = '' OR provider = %(provider)s)
           AND (%(vault)s::bigint IS NULL OR vault_id = %(vault)s)),
       (SELECT COALESCE(sum((used + lost) * unit_price), 0)
          FROM budgets_dayspend
         WHERE day >= date_trunc('month', %(day)s::date)::date AND day <= %(day)s AND currency = %(currency)s
           AND (%(provider)s = '' OR provider = %(provider)s)
           AND (%(vault)s::bigint IS NULL OR vault_id = %(vault)s)),
       (SELECT COALESCE(sum((budget.reserved - budget.used - budget.lost) * budget.unit_price), 0)
          FROM budgets_purse AS purse
          JOIN work_run AS run ON run.id = purse.run_id
           AND run.status IN ('queued', 'planning', 'running')
          JOIN budgets_runbudget AS budget ON budget.run_id = purse.run_id AND budget.reserved IS NOT NULL
         WHERE purse.currency = %(currency)s
           AND (%(provider)s = '' OR purse.provider = %(provider)s)
           AND (%(vault)s::bigint IS NULL OR purse.vault_id = %(vault)s))
"""

# What one run has booked on any day and set aside beyond that.
OF_RUN = """
SELECT COALESCE((SELECT sum((used + lost) * unit_price) FROM budgets_dayspend WHERE run_id = %(run)s), 0)
     + COALESCE((SELECT sum((reserved - used - lost) * unit_price)
                   FROM budgets_runbudget WHERE run_id = %(run)s AND reserved IS NOT NULL), 0)
"""

# The day that counts, by the database's clock alone.
TODAY = "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date"

# The account of a run that is over: what was spent and lost on each day, and what of the reservation is left.
CLOSE_BOOKS = """
INSERT INTO budgets_ledgerentry
       (run_id, run_kind, vault_id, vault_name, provider, kind, request_class, quantity, amount, currency,
        catalog_version, day)
SELECT purse.run_id, run.kind, purse.vault_id, purse.vault_name, purse.provider, entry.kind, entry.request_class,
       entry.quantity, -entry.quantity * entry.unit_price, purse.currency, purse.catalog_version, entry.day
  FROM budgets_purse AS purse
  JOIN work_run AS run ON run.id = purse.run_id
  JOIN (
       SELECT run_id, 'settle' AS kind, request_class, used AS quantity, unit_price, day
         FROM budgets_dayspend WHERE run_id = %(run)s
        UNION ALL
       SELECT run_id, 'lost', request_class, lost, unit_price, day
         FROM budgets_dayspend WHERE run_id = %(run)s
        UNION ALL
       SELECT run_id, 'release', request_class, reserved - used - lost, unit_price,
              (clock_timestamp() AT TIME ZONE 'UTC')::date
         FROM budgets_runbudget WHERE run_id = %(run)s AND reserved IS NOT NULL
       ) AS entry ON entry.run_id = purse.run_id
 WHERE purse.run_id = %(run)s AND entry.quantity > 0
 ORDER BY entry.day, entry.kind DESC, entry.request_class
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One class of one run's budget. A limit of None is unlimited."""

    limit: int | None
    used: int
    held: int
    lost: int
    reserved: int | None = None

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else self.limit - self.used - self.held - self.lost

    @property
    def paid(self) -> int | None:
        """What may still be handed out of what is paid for; None where money is not limited."""
        return None if self.reserved is None else self.reserved - self.used - self.held - self.lost


def lock(run_id: int, classes: Mapping[RequestClass, int]) -> dict[RequestClass, Line]:
    """The lines of some classes, held until the transaction ends."""
    rows = _rows(LOCK, {"run": run_id, "classes": [str(name) for name in classes]})
    return {RequestClass(row[0]): _line(*row[1:]) for row in rows}


def _line(limit: int | None, used: int, held: int, lost: int, reserved: int | None) -> Line:
    return Line(limit=limit, used=used, held=held, lost=lost, reserved=reserved)


def reserve(run_id: int, amounts: Requests) -> None:
    """More of what the run may send is paid for. Budget rows and policies are locked."""
    _do(RESERVE, {"run": run_id, **_columns(amounts)})


def committed(*, day: date, currency: str, provider: str, vault: int | None) -> tuple[Decimal, Decimal]:
    """What a scope has spent or set aside, of today's window and of the month's."""
    values = {"day": day, "currency": currency, "provider": provider, "vault": vault}
    today, month, outstanding = _rows(COMMITTED, values)[0]
    return today + outstanding, month + outstanding


def of_run(run_id: int) -> Decimal:
    return Decimal(_rows(OF_RUN, {"run": run_id})[0][0])


def today() -> date:
    found: date = _rows(TODAY, {})[0][0]
    return found


def close_books(run_id: int) -> None:
    _do(CLOSE_BOOKS, {"run": run_id})


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
