"""What a run may still spend, has spent, and has lost."""

from __future__ import annotations

from collections.abc import Collection

from budgets.models import DaySpend, RunBudget
from budgets.share import within
from vaulthalla.requests import RequestClass, Requests


def remaining(run_id: int) -> dict[RequestClass, int | None]:
    """What is neither used, held nor lost, of each class; None is unlimited."""
    rows = RunBudget.objects.filter(run=run_id)
    return {RequestClass(row.request_class): _remaining(row) for row in rows}


def let_through(run_id: int, needs: Requests) -> Requests:
    """What of `needs` the run's request limits leave room for."""
    return within(needs, remaining(run_id))


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


def billed(run_id: int) -> Requests:
    """Of `spent`, what the provider bills."""
    found = Requests(spent(run_id))
    rows = DaySpend.objects.filter(run_id=run_id, unbilled__gt=0).values_list("request_class", "unbilled")
    for name, unbilled in rows:
        found[RequestClass(name)] -= unbilled
    return found


def by_run(run_ids: Collection[int]) -> dict[int, tuple[Requests, Requests]]:
    """(spent, lost) of several runs at once."""
    found: dict[int, tuple[Requests, Requests]] = {number: (Requests(), Requests()) for number in run_ids}
    rows = RunBudget.objects.filter(run__in=run_ids).values_list("run", "request_class", "used", "lost")
    for number, name, used, gone in rows:
        found[number][0][RequestClass(name)] = used
        found[number][1][RequestClass(name)] = gone
    return found


def _remaining(row: RunBudget) -> int | None:
    return None if row.limit is None else row.limit - row.used - row.held - row.lost


def _column(run_id: int, name: str) -> Requests:
    rows = RunBudget.objects.filter(run=run_id).values_list("request_class", name)
    return Requests({RequestClass(request_class): amount for request_class, amount in rows})
