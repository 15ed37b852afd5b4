"""Every SQL statement of the budgets: named, with its purpose and the index it relies on.

A run's budget rows are always locked in the order of their ids, and after the chunk and the run (see
vaulthalla.work.sql), so that chunks that draw and settle several classes never wait for each other in a circle.
Price policies are locked last, in the order of their ids, then an override and what was told of it; whoever holds
them locks nothing else.
At every commit, for each run and class: held = the sum of its allotments; where money is limited,
used + held + lost <= reserved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
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
SELECT clock_timestamp() FROM work_chunk WHERE id = %(chunk)s AND lease_token = %(token)s FOR SHARE
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
INSERT INTO budgets_allotment (run_id, chunk_id, lease_token, request_class, amount, day)
SELECT %(run)s, %(chunk)s, %(token)s, granted.request_class, granted.amount,
       (clock_timestamp() AT TIME ZONE 'UTC')::date
  FROM unnest(%(classes)s::text[], %(amounts)s::bigint[]) AS granted (request_class, amount)
    ON CONFLICT (lease_token, request_class)
    DO UPDATE SET amount = budgets_allotment.amount + EXCLUDED.amount, day = EXCLUDED.day
"""

# Moves what was spent from held to used, and books it on the UTC day on which it was spent, at the price of now: of
# what was spent before the price of a class rose, the row stays as it is. The budget rows are locked. The allotment
# notes the day as well: what a lease takes with it is lost on the day it was last heard of. That an attempt is free
# may become known after it was settled.
SETTLE = """
WITH spent AS (
    UPDATE budgets_allotment AS allotment
       SET amount = allotment.amount - attempts.amount, day = greatest(allotment.day, %(day)s)
      FROM unnest(%(classes)s::text[], %(amounts)s::bigint[], %(unbilled)s::bigint[])
           AS attempts (request_class, amount, unbilled)
     WHERE allotment.lease_token = %(token)s AND allotment.request_class = attempts.request_class
    RETURNING allotment.request_class, attempts.amount, attempts.unbilled
), booked AS (
    INSERT INTO budgets_dayspend
           (run_id, vault_id, provider, bucket, currency, day, request_class, used, lost, unbilled, unit_price)
    SELECT purse.run_id, purse.vault_id, purse.provider, purse.bucket, purse.currency,
           %(day)s, spent.request_class, spent.amount, 0, spent.unbilled, budget.unit_price
      FROM spent
      JOIN budgets_purse AS purse ON purse.run_id = %(run)s
      JOIN budgets_runbudget AS budget ON budget.run_id = %(run)s AND budget.request_class = spent.request_class
        ON CONFLICT (run_id, request_class, day, unit_price)
        DO UPDATE SET used = budgets_dayspend.used + EXCLUDED.used,
                      unbilled = budgets_dayspend.unbilled + EXCLUDED.unbilled
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

# Books the allotments of dead leases as lost: they may have been sent, so they are never given out again. However much
# later that is found out, they belong to the day on which their lease was last heard of.
WRITE_OFF = """
WITH orphaned AS (
    DELETE FROM budgets_allotment AS allotment
     WHERE allotment.run_id = %(run)s
       AND NOT EXISTS (
           SELECT FROM work_chunk AS chunk
            WHERE chunk.id = allotment.chunk_id AND chunk.lease_token = allotment.lease_token
           )
    RETURNING allotment.request_class, allotment.amount,
              COALESCE(allotment.day, (clock_timestamp() AT TIME ZONE 'UTC')::date) AS day
), by_day AS (
    SELECT request_class, day, sum(amount)::bigint AS amount FROM orphaned GROUP BY request_class, day
), lost AS (
    SELECT request_class, sum(amount)::bigint AS amount FROM orphaned GROUP BY request_class
), booked AS (
    INSERT INTO budgets_dayspend
           (run_id, vault_id, provider, bucket, currency, day, request_class, used, lost, unbilled, unit_price)
    SELECT purse.run_id, purse.vault_id, purse.provider, purse.bucket, purse.currency,
           by_day.day, by_day.request_class, 0, by_day.amount, 0, budget.unit_price
      FROM by_day
      JOIN budgets_purse AS purse ON purse.run_id = %(run)s
      JOIN budgets_runbudget AS budget ON budget.run_id = %(run)s AND budget.request_class = by_day.request_class
     WHERE by_day.amount > 0
        ON CONFLICT (run_id, request_class, day, unit_price)
        DO UPDATE SET lost = budgets_dayspend.lost + EXCLUDED.lost
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

# Which `enforce` policies a run was last held against, which there are now, and who bills it. By primary key; policies
# are few.
JUDGED = """
SELECT purse.judged,
       COALESCE((SELECT string_agg(policy.id || ':' || extract(epoch FROM policy.changed_at), ',' ORDER BY policy.id)
                   FROM budgets_pricepolicy AS policy
                  WHERE policy.mode = 'enforce'
                    AND (policy.scope = 'global' OR policy.vault_id = purse.vault_id
                         OR (policy.scope = 'provider' AND policy.provider = purse.provider))), ''),
       purse.provider
  FROM budgets_purse AS purse
 WHERE purse.run_id = %(run)s
"""

# Sets aside no more than what is spent or handed out. What that changes is entered: given back, or, of a run that set
# nothing aside until now, reserved after the fact. The budget rows are locked. Relies on `one_budget_row_per_class`.
SHRINK = """
WITH before AS (
    SELECT request_class, reserved, used + held + lost AS needed, held, unit_price
      FROM budgets_runbudget WHERE run_id = %(run)s
), entered AS (
    INSERT INTO budgets_ledgerentry
           (run_id, run_kind, vault_id, vault_name, provider, kind, request_class, quantity, amount, currency,
            catalog_version, day)
    SELECT purse.run_id, run.kind, purse.vault_id, purse.vault_name, purse.provider,
           CASE WHEN before.reserved IS NULL THEN 'reserve' ELSE 'release' END, before.request_class,
           abs(before.needed - COALESCE(before.reserved, 0)),
           CASE WHEN before.reserved IS NULL
                THEN before.held * before.unit_price
                     + COALESCE((SELECT sum((spend.used + spend.lost) * spend.unit_price)
                                   FROM budgets_dayspend AS spend
                                  WHERE spend.run_id = %(run)s AND spend.request_class = before.request_class), 0)
                ELSE (before.needed - before.reserved) * before.unit_price END,
           purse.currency, purse.catalog_version, (clock_timestamp() AT TIME ZONE 'UTC')::date
      FROM before
      JOIN budgets_purse AS purse ON purse.run_id = %(run)s
      JOIN work_run AS run ON run.id = %(run)s
     WHERE before.needed <> COALESCE(before.reserved, 0)
)
UPDATE budgets_runbudget SET reserved = used + held + lost WHERE run_id = %(run)s
"""

# What a scope has booked today and this month, and what its runs under way have set aside beyond that; of those that
# set nothing aside, what they hold. One statement, so that what moves from one to the other is counted once.
# Relies on `spend_by_day` and `run_unfinished`.
COMMITTED = """
SELECT (SELECT COALESCE(sum((used + lost - unbilled) * unit_price) FILTER (WHERE day = %(day)s), 0)
          FROM budgets_dayspend
         WHERE day = %(day)s AND currency = %(currency)s
           AND (%(provider)s = '' OR provider = %(provider)s)
           AND (%(vault)s::bigint IS NULL OR vault_id = %(vault)s)),
       (SELECT COALESCE(sum((used + lost - unbilled) * unit_price), 0)
          FROM budgets_dayspend
         WHERE day >= date_trunc('month', %(day)s::date)::date AND day <= %(day)s AND currency = %(currency)s
           AND (%(provider)s = '' OR provider = %(provider)s)
           AND (%(vault)s::bigint IS NULL OR vault_id = %(vault)s)),
       (SELECT COALESCE(sum(COALESCE(budget.reserved - budget.used - budget.lost, budget.held) * budget.unit_price), 0)
          FROM budgets_purse AS purse
          JOIN work_run AS run ON run.id = purse.run_id
           AND run.status IN ('queued', 'planning', 'running')
          JOIN budgets_runbudget AS budget ON budget.run_id = purse.run_id
         WHERE purse.currency = %(currency)s
           AND (%(provider)s = '' OR purse.provider = %(provider)s)
           AND (%(vault)s::bigint IS NULL OR purse.vault_id = %(vault)s))
"""

# What one run has booked on any day and set aside beyond that.
OF_RUN = """
SELECT COALESCE((SELECT sum((used + lost - unbilled) * unit_price) FROM budgets_dayspend WHERE run_id = %(run)s), 0)
     + COALESCE((SELECT sum(COALESCE(reserved - used - lost, held) * unit_price)
                   FROM budgets_runbudget WHERE run_id = %(run)s), 0)
"""

# The day that counts, by the database's clock alone.
TODAY = "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date"

# The account of a run that is over: what was spent and lost on each day, and what of the reservation is left. What was
# answered without being billed is among the requests that were sent, but not in their amount: that is released.
CLOSE_BOOKS = """
INSERT INTO budgets_ledgerentry
       (run_id, run_kind, vault_id, vault_name, provider, kind, request_class, quantity, amount, currency,
        catalog_version, day)
SELECT purse.run_id, run.kind, purse.vault_id, purse.vault_name, purse.provider, entry.kind, entry.request_class,
       entry.quantity, -entry.amount, purse.currency, purse.catalog_version, entry.day
  FROM budgets_purse AS purse
  JOIN work_run AS run ON run.id = purse.run_id
  JOIN (
       SELECT run_id, 'settle' AS kind, request_class, used AS quantity, (used - unbilled) * unit_price AS amount, day
         FROM budgets_dayspend WHERE run_id = %(run)s
        UNION ALL
       SELECT run_id, 'lost', request_class, lost, lost * unit_price, day
         FROM budgets_dayspend WHERE run_id = %(run)s
        UNION ALL
       SELECT budget.run_id, 'release', budget.request_class, budget.reserved - budget.used - budget.lost,
              (budget.reserved - budget.used - budget.lost) * budget.unit_price
              + COALESCE((SELECT sum(spend.unbilled * spend.unit_price) FROM budgets_dayspend AS spend
                           WHERE spend.run_id = %(run)s AND spend.request_class = budget.request_class), 0),
              (clock_timestamp() AT TIME ZONE 'UTC')::date
         FROM budgets_runbudget AS budget WHERE budget.run_id = %(run)s AND budget.reserved IS NOT NULL
       ) AS entry ON entry.run_id = purse.run_id
 WHERE purse.run_id = %(run)s AND (entry.quantity <> 0 OR entry.amount <> 0)
 ORDER BY entry.day, entry.kind DESC, entry.request_class
"""

# Tells of a cause, or counts it when it is told of already: of any number of workers that find it at once, one adds
# the row. Relies on `one_open_notification_per_cause`.
TELL = """
INSERT INTO budgets_notification
       (topic, severity, cause, title, text, remedy, quiet, vault_id, vault_name, policy_id, "window", window_start,
        count, acknowledged_by)
VALUES (%(topic)s, %(severity)s, %(cause)s, %(title)s, %(text)s, %(remedy)s, %(quiet)s, %(vault_id)s, %(vault_name)s,
        %(policy_id)s, %(window)s, %(window_start)s, 1, '')
    ON CONFLICT (cause) WHERE resolved_at IS NULL
    DO UPDATE SET last_seen = clock_timestamp(), text = EXCLUDED.text, remedy = EXCLUDED.remedy,
                  count = budgets_notification.count + %(again)s
"""

# Takes the delivery that waits longest, for a minute: who dies meanwhile leaves it to the next, but for the last
# attempt. What somebody has seen to needs no sending. Relies on `delivery_due` (next_at).
CLAIM_DELIVERY = """
UPDATE budgets_delivery AS delivery
   SET attempts = delivery.attempts + 1,
       next_at = CASE WHEN delivery.attempts + 1 < %(most)s
                      THEN clock_timestamp() + %(seconds)s * interval '1 second' END
  FROM (
       SELECT due.id
         FROM budgets_delivery AS due
         JOIN budgets_notification AS told ON told.id = due.notification_id
        WHERE due.next_at <= clock_timestamp() AND due.channel = ANY(%(channels)s)
          AND told.resolved_at IS NULL AND told.acknowledged_at IS NULL
        ORDER BY due.next_at
        LIMIT 1
          FOR NO KEY UPDATE OF due SKIP LOCKED
       ) AS claimed
 WHERE delivery.id = claimed.id
RETURNING delivery.id
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


def booked(*, day: date, currency: str, provider: str, vault: int | None) -> tuple[Decimal, Decimal]:
    """What a scope has spent of today's window and of the month's; what is set aside may yet come back."""
    values = {"day": day, "currency": currency, "provider": provider, "vault": vault}
    today, month, _ = _rows(COMMITTED, values)[0]
    return today, month


def tell(values: Mapping[str, Any]) -> None:
    _do(TELL, values)


def claim_delivery(channels: Sequence[str], *, seconds: int, most: int) -> int | None:
    """The id of a delivery to attempt now, and to be done with in so many seconds."""
    rows = _rows(CLAIM_DELIVERY, {"channels": list(channels), "seconds": seconds, "most": most})
    return rows[0][0] if rows else None


def of_run(run_id: int) -> Decimal:
    return Decimal(_rows(OF_RUN, {"run": run_id})[0][0])


def today() -> date:
    found: date = _rows(TODAY, {})[0][0]
    return found


def close_books(run_id: int) -> None:
    _do(CLOSE_BOOKS, {"run": run_id})


def hold_lease(chunk_id: int, token: UUID) -> datetime | None:
    """The database's time while the lease is held; None when it is lost."""
    found = _rows(HOLD_LEASE, {"chunk": chunk_id, "token": token})
    return found[0][0] if found else None


def judged(run_id: int) -> tuple[str, str, str] | None:
    """The policies a run was last held against, those of now, and its provider; None for a run that nobody bills."""
    found = _rows(JUDGED, {"run": run_id})
    return (found[0][0], found[0][1], found[0][2]) if found else None


def shrink(run_id: int) -> None:
    """Sets aside what is spent and handed out, and no more. All budget rows of the run are locked."""
    _do(SHRINK, {"run": run_id})


def active_chunks(run_id: int) -> int:
    return int(_rows(ACTIVE_CHUNKS, {"run": run_id})[0][0])


def own(token: UUID) -> Requests:
    return Requests({RequestClass(row[0]): row[1] for row in _rows(OWN, {"token": token})})


def grant(run_id: int, chunk_id: int, token: UUID, amounts: Requests) -> None:
    """Free → held, on the budget and on the lease."""
    values = {"run": run_id, "chunk": chunk_id, "token": token, **_columns(amounts)}
    _do(HOLD, values)
    _do(GRANT, values)


def settle(run_id: int, token: UUID, spent: Mapping[date, Requests], unbilled: Mapping[date, Requests]) -> None:
    """Held → used, each on the day on which it was spent; `unbilled`: how many of those the provider does not bill."""
    every = Requests.summed((*spent.values(), *unbilled.values()))
    if not any(every.values()):
        return
    lock(run_id, every)
    for day in sorted({*spent, *unbilled}):
        used, not_billed = spent.get(day, Requests()), unbilled.get(day, Requests())
        some = [name for name in RequestClass if used[name] or not_billed[name]]
        values = {
            "classes": [str(name) for name in some],
            "amounts": [used[name] for name in some],
            "unbilled": [not_billed[name] for name in some],
        }
        _do(SETTLE, {"run": run_id, "token": token, "day": day, **values})


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
