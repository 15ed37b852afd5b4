"""What a run may still spend, has spent, and has lost."""

from __future__ import annotations

from budgets.models import RunBudget
from vaulthalla.requests import RequestClass, Requests


def remaining(run_id: int) -> dict[RequestClass, int | None]:
    """What is neither used, held nor lost, of each class; None is unlimited."""
    rows = RunBudget.objects.filter(run=run_id)
    return {RequestClass(row.request_class): _remaining(row) for row in rows}


def limits(run_id: int) -> dict[RequestClass, int | None]:
    """What the run was given; None is unlimited."""
    rows = RunBudget.objects.filter(run=run_id).values_list("request_class", "limit")
    return {RequestClass(name): limit for name, limit in rows}


def spent(run_id: int) -> Requests:
    """Attempts and bytes booked so far; of a finished run, all there were, but for what was lost."""
    return _column(run_id, "used")


def lost(run_id: int) -> Requests:
    """What was held by workers that died: some of it may have been sent."""
    return _column(run_id, "lost")


def _remaining(row: RunBudget) -> int | None:
    return None if row.limit is None else row.limit - row.used - row.held - row.lost


def _column(run_id: int, name: str) -> Requests:
    rows = RunBudget.objects.filter(run=run_id).values_list("request_class", name)
    return Requests({RequestClass(request_class): amount for request_class, amount in rows})
