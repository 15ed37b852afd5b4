"""Budgets of runs for people: to be looked at, since only draws and settlements write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest

from budgets.models import Allotment, RunBudget
from vaulthalla.work.admin import ReadOnly

if TYPE_CHECKING:
    BudgetBase = admin.ModelAdmin[RunBudget]
    AllotmentBase = admin.ModelAdmin[Allotment]
else:
    # Only the stubs know what a model's admin is an admin of.
    BudgetBase = AllotmentBase = admin.ModelAdmin


@admin.register(RunBudget)
class RunBudgetAdmin(ReadOnly, BudgetBase):
    list_display = ("run", "request_class", "limit", "used", "held", "lost", "remaining")
    list_filter = ("request_class",)
    search_fields = ("=run__id", "run__vault__name")
    list_select_related = ("run",)
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[RunBudget]:
        left = F("limit") - F("used") - F("held") - F("lost")
        return super().get_queryset(request).annotate(remaining_amount=left)

    @admin.display(description="remaining", ordering="remaining_amount", empty_value="unlimited")
    def remaining(self, row: RunBudget) -> int | None:
        value: int | None = getattr(row, "remaining_amount", None)
        return value


@admin.register(Allotment)
class AllotmentAdmin(ReadOnly, AllotmentBase):
    list_display = ("run", "chunk", "request_class", "amount")
    list_filter = ("request_class",)
    search_fields = ("=run__id",)
    list_select_related = ("run", "chunk__run")
