"""Budgets of runs for people: to be looked at, since only draws and settlements write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin

from budgets.models import Allotment, PriceList, PriceRate, RunBudget
from vaulthalla.work.admin import BoundedPaginator, ReadOnly
from vaulthalla.work.models import Run

if TYPE_CHECKING:
    BudgetBase = admin.ModelAdmin[RunBudget]
    AllotmentBase = admin.ModelAdmin[Allotment]
    BudgetInlineBase = admin.TabularInline[RunBudget, Run]
    PriceListBase = admin.ModelAdmin[PriceList]
    PriceRateBase = admin.ModelAdmin[PriceRate]
else:
    # Only the stubs know what a model's admin is an admin of.
    BudgetBase = AllotmentBase = PriceListBase = PriceRateBase = admin.ModelAdmin
    BudgetInlineBase = admin.TabularInline

AMOUNTS = ("request_class", "limit", "used", "held", "lost", "remaining")


class Remaining:
    """The column that no row holds."""

    @admin.display(description="remaining", empty_value="unlimited")
    def remaining(self, row: RunBudget) -> int | None:
        return None if row.limit is None else row.limit - row.used - row.held - row.lost


class BudgetInline(Remaining, ReadOnly, BudgetInlineBase):
    """The budget of one run, on its page."""

    model = RunBudget
    fields = readonly_fields = AMOUNTS
    ordering = ("id",)
    verbose_name_plural = "requests"


@admin.register(RunBudget)
class RunBudgetAdmin(Remaining, ReadOnly, BudgetBase):
    list_display = ("run", *AMOUNTS)
    list_filter = ("request_class",)
    search_fields = ("=run__id", "run__vault__name")
    list_select_related = ("run",)
    ordering = ("-id",)
    paginator = BoundedPaginator
    show_full_result_count = False


@admin.register(Allotment)
class AllotmentAdmin(ReadOnly, AllotmentBase):
    list_display = ("run", "chunk", "request_class", "amount")
    list_filter = ("request_class",)
    search_fields = ("=run__id",)
    list_select_related = ("run", "chunk__run")
    ordering = ("-id",)
    paginator = BoundedPaginator
    show_full_result_count = False


@admin.register(PriceList)
class PriceListAdmin(ReadOnly, PriceListBase):
    """Lists come in by `vh pricing catalog import` and `refresh`, which look at them first."""

    list_display = ("provider", "region", "version", "currency", "source", "valid_from", "checked_at")
    list_filter = ("provider",)
    search_fields = ("region", "version")


@admin.register(PriceRate)
class PriceRateAdmin(ReadOnly, PriceRateBase):
    list_display = ("price_list", "storage_class", "charge", "price", "unit")
    list_filter = ("charge", "price_list__provider")
    search_fields = ("price_list__region", "price_list__version", "storage_class")
    list_select_related = ("price_list",)
