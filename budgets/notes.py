"""What a run must not keep to itself though nothing blocked it: limits of milder policies that it passes."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from django.db.models import F, Sum

from budgets.models import DaySpend, Purse
from budgets.price_policy import Mode, Note, Policy, Window
from budgets.pricing import EXACT, money


def keep(purse: Purse, notes: Iterable[Note]) -> None:
    """Each policy and window once a run, with the first text. The caller saves nothing else of the row."""
    known = {(note["policy"], note["window"], note["issue"]) for note in purse.notes}
    fresh = [row for row in map(_row, notes) if (row["policy"], row["window"], row["issue"]) not in known]
    if fresh:
        purse.notes = [*purse.notes, *fresh]
        purse.save(update_fields=["notes"])


def _row(note: Note) -> dict[str, str | int | bool]:
    return {
        "policy": note.policy.id,
        "window": note.window.value if note.window else "",
        "issue": note.issue.value if note.issue else "",
        "told": note.told,
        "text": note.text,
    }


def warnings(run_id: int) -> list[str]:
    """What a command says of its run on stderr."""
    found = Purse.objects.filter(run=run_id).values_list("notes", flat=True).first()
    return [note["text"] for note in found or [] if note["told"]]


def overspent(policy: Policy, spent: dict[Window, Decimal]) -> list[Note]:
    """The limits of a milder policy that are passed once a run is over: it had no plan, or retries came on top."""
    if policy.mode not in (Mode.WARN, Mode.REPORT):
        return []
    return [
        Note(policy=policy, window=window, text=_over(policy, window, limit, spent[window]))
        for window, limit in policy.limits
        if limit is not None and spent[window] > limit
    ]


def _over(policy: Policy, window: Window, limit: Decimal, spent: Decimal) -> str:
    return (
        f"the {window.value} limit {money(limit)} {policy.currency} of {policy.scope.value} policy {policy.id} "
        f"is passed: {money(spent)} spent"
    )


def spent_by(run_id: int) -> Decimal:
    """What one run has booked on any day."""
    cost = Sum((F("used") + F("lost") - F("unbilled")) * F("unit_price"))
    found = DaySpend.objects.filter(run_id=run_id).aggregate(cost=cost)["cost"]
    return EXACT.create_decimal(found or 0)
