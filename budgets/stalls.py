"""The stall of an exhausted budget, with the command that lets the plan go on."""

from __future__ import annotations

from shlex import quote

from budgets.models import RunBudget
from budgets.reserve import money_stall
from vaulthalla.errors import Stall, StallCode
from vaulthalla.requests import RequestClass
from vaulthalla.work.models import Run

# A policy's fields are 63-bit integers.
HIGHEST = 2**63 - 1


def budget_stall(run_id: int, request_class: RequestClass, *, planned: int | None = None) -> Stall:
    """Names the exhausted field and a value that suffices: what was planned where that is known, else twice as much.

    `planned` is the whole run's need of this class. Where a price policy kept the run from more, that is told.
    """
    by_money = money_stall(run_id)
    if by_money is not None:
        return by_money
    row = RunBudget.objects.get(run=run_id, request_class=request_class.value)
    limit = row.limit or 0
    enough = planned if planned is not None and planned > limit else max(2 * limit, limit + 1)
    return Stall(
        StallCode(f"budget_{request_class.field}"),
        _reason(request_class, row, planned),
        remedy=_remedy(run_id, request_class, min(enough, HIGHEST)),
    )


def _reason(request_class: RequestClass, row: RunBudget, planned: int | None) -> str:
    used = f"{row.used} used" + (f", {row.lost} lost with a worker" if row.lost else "")
    need = "" if planned is None else f"; the plan needs {planned}"
    return f"The run's {request_class.field} budget of {row.limit} does not suffice ({used}{need})."


def _remedy(run_id: int, request_class: RequestClass, enough: int) -> str:
    vault = Run.objects.values_list("vault__name", flat=True).get(pk=run_id)
    if vault is None:
        return "Run the same command again."
    return f"vh vault sync set {quote(vault)} {request_class.option} {enough}"
