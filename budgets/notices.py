"""Notifications as rows: told once per cause, counted afterwards, silenced by whoever saw them, over when resolved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from budgets import sql
from budgets.alerts import Cause
from budgets.models import Notification
from budgets.people import named
from vaulthalla.console import fields, table
from vaulthalla.errors import NotFound, Refused
from vaulthalla.vaults.lookup import row_id

MOST = 500


def tell(causes: Iterable[Cause], *, again: bool = True) -> None:
    """Adds what is new. What is open already counts once more, unless it was only looked at (not `again`).

    In the order of their keys, so that two who tell of the same causes never wait for each other in a circle.
    """
    for cause in sorted(causes, key=lambda one: one.key):
        sql.tell(
            {
                "topic": cause.topic.value,
                "severity": cause.severity.value,
                "cause": cause.key,
                "title": cause.title,
                "text": cause.text,
                "remedy": cause.remedy,
                "quiet": cause.quiet,
                "vault_id": cause.vault_id,
                "vault_name": cause.vault_name,
                "policy_id": cause.policy_id,
                "window": cause.window.value if cause.window else "",
                "window_start": cause.window_start,
                "again": int(again),
            }
        )


def resolve(found: Q) -> None:
    """What matches is over; the same cause would be a new one."""
    Notification.objects.filter(found, resolved_at__isnull=True).update(resolved_at=Now())


def open_ones() -> QuerySet[Notification]:
    """Neither over nor seen to."""
    return Notification.objects.filter(resolved_at__isnull=True, acknowledged_at__isnull=True)


def over_for(time: timedelta) -> QuerySet[Notification]:
    """Over for longer than that. One that is silenced and not over stays: its cause would be a new one without it."""
    return Notification.objects.filter(resolved_at__lt=Now() - time)


def acknowledge(numbers: Sequence[str], *, every: bool, by: str | None) -> list[Notification]:
    """Silences those named, or all that are open. Who acknowledged first stays. All or none; raises Refused."""
    if bool(numbers) == every:
        raise Refused("Name notifications by id, or say --all.", code="invalid_value", remedy="vh notifications list")
    who = named(by)
    with transaction.atomic():
        ids = list(open_ones().values_list("pk", flat=True)) if every else [one(n).pk for n in numbers]
        seen = Notification.objects.filter(pk__in=ids, acknowledged_at__isnull=True)
        seen.update(acknowledged_by=who, acknowledged_at=Now())
    return list(Notification.objects.filter(pk__in=ids))


def one(number: str) -> Notification:
    """Raises NotFound."""
    found = Notification.objects.filter(pk=row_id(number)).first()
    if found is None:
        raise NotFound(f"There is no notification {number!r}.", remedy="`vh notifications list --all` shows them.")
    return found


def listing(*, every: bool) -> list[dict[str, Any]]:
    rows = Notification.objects.all() if every else open_ones()
    return [as_json(row) for row in rows.order_by("-id")[:MOST]]


def as_json(row: Notification) -> dict[str, Any]:
    """What the command line shows and the webhook sends."""
    return {
        "id": str(row.pk),
        "topic": row.topic,
        "severity": row.severity,
        "cause": row.cause,
        "title": row.title,
        "text": row.text,
        "remedy": row.remedy or None,
        "vault": row.vault_name or None,
        "policy": None if row.policy_id is None else str(row.policy_id),
        "window": row.window or None,
        "window_start": None if row.window_start is None else row.window_start.isoformat(),
        "count": row.count,
        "first_seen": row.first_seen,
        "last_seen": row.last_seen,
        "acknowledged_by": row.acknowledged_by or None,
        "acknowledged_at": row.acknowledged_at,
        "resolved_at": row.resolved_at,
        "recorded_only": row.quiet,
    }


def with_deliveries(row: Notification) -> dict[str, Any]:
    sent = [
        {
            "channel": way.channel,
            "attempts": way.attempts,
            "delivered_at": way.delivered_at,
            "next_at": way.next_at,
            "error": way.error or None,
        }
        for way in row.deliveries.order_by("channel")
    ]
    return {**as_json(row), "deliveries": sent}


def text(value: dict[str, Any]) -> str:
    rows = [
        (n["id"], n["severity"], n["title"], n["vault"], n["policy"], n["count"], n["last_seen"], _state(n))
        for n in value["notifications"]
    ]
    columns = ("ID", "SEVERITY", "WHAT", "VAULT", "POLICY", "COUNT", "LAST SEEN", "STATE")
    return table(columns, rows, empty="There is nothing to tell.")


def _state(value: dict[str, Any]) -> str:
    if value["resolved_at"]:
        return "over"
    return f"seen by {value['acknowledged_by']}" if value["acknowledged_at"] else "open"


def info_text(value: dict[str, Any]) -> str:
    facts = [(name.replace("_", " ").capitalize(), cell) for name, cell in value.items() if name != "deliveries"]
    return fields([*facts, *((way["channel"].capitalize(), _delivered(way)) for way in value["deliveries"])])


def _delivered(way: dict[str, Any]) -> str:
    if way["delivered_at"]:
        return f"delivered {way['delivered_at']:%Y-%m-%d %H:%M:%SZ}"
    state = f"{way['attempts']} attempts" + (f", the last: {way['error']}" if way["error"] else "")
    return state if way["next_at"] else f"given up after {state}"
