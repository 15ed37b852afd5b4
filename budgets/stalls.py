"""The stall of an exhausted budget, with the command that lets the plan go on."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote

from budgets.models import RunBudget
from budgets.reserve import money_stall
from vaulthalla.errors import Stall, StallCode
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.work.models import Run

# A policy's fields are 63-bit integers.
HIGHEST = 2**63 - 1


def budget_stall(
    run_id: int, request_class: RequestClass, *, planned: Requests | None = None, anew: Requests | None = None
) -> Stall:
    """Names the exhausted field, and every field with a value that suffices: what was planned, else twice as much.

    `planned` is the whole run's need, as far as that is known. Where a price policy kept the run from more, that is
    told, and paid is what the same command takes `anew`, where no plan will tell.
    """
    by_money = money_stall(run_id, anew=anew)
    if by_money is not None:
        return by_money
    rows = {RequestClass(row.request_class): row for row in RunBudget.objects.filter(run=run_id)}
    row, known = rows[request_class], planned or Requests()
    limit = row.limit or 0
    enough = {request_class: max(2 * limit, limit + 1)}
    enough |= {name: n for name, n in known.items() if (most := rows[name].limit) is not None and n > most}
    return Stall(
        StallCode(f"budget_{request_class.field}"),
        _reason(request_class, row, known[request_class]),
        remedy=_remedy(run_id, enough),
    )


def _reason(request_class: RequestClass, row: RunBudget, planned: int) -> str:
    used = f"{row.used} used" + (f", {row.lost} lost with a worker" if row.lost else "")
    need = f"; the plan needs {planned}" if planned else ""
    return f"The run's {request_class.field} budget of {row.limit} does not suffice ({used}{need})."


def _remedy(run_id: int, enough: Mapping[RequestClass, int]) -> str:
    vault = Run.objects.values_list("vault__name", flat=True).get(pk=run_id)
    if vault is None:
        return "Run the same command again."
    options = " ".join(f"{name.option} {min(enough[name], HIGHEST)}" for name in RequestClass if name in enough)
    return f"vh vault sync set {quote(vault)} {options}"
