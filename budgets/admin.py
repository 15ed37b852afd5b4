"""Budgets of runs for people: to be looked at, since only draws and settlements write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from budgets.models import (
    Allotment,
    BillLine,
    ClassUse,
    DaySpend,
    Delivery,
    LedgerEntry,
    Notification,
    OverrideStatus,
    PriceList,
    PriceOverride,
    PricePolicy,
    PriceRate,
    Purse,
    RunBudget,
)
from vaulthalla.errors import Refused
from vaulthalla.work.admin import BoundedPaginator, ReadOnly
from vaulthalla.work.models import Run

if TYPE_CHECKING:
    BudgetBase = admin.ModelAdmin[RunBudget]
    AllotmentBase = admin.ModelAdmin[Allotment]
    BudgetInlineBase = admin.TabularInline[RunBudget, Run]
    PriceListBase = admin.ModelAdmin[PriceList]
    PriceRateBase = admin.ModelAdmin[PriceRate]
    PolicyBase = admin.ModelAdmin[PricePolicy]
    SpendBase = admin.ModelAdmin[DaySpend]
    BillBase = admin.ModelAdmin[BillLine]
    ClassUseBase = admin.ModelAdmin[ClassUse]
    LedgerBase = admin.ModelAdmin[LedgerEntry]
    OverrideBase = admin.ModelAdmin[PriceOverride]
    PurseBase = admin.ModelAdmin[Purse]
    NotificationBase = admin.ModelAdmin[Notification]
    DeliveryBase = admin.ModelAdmin[Delivery]
    DeliveryInlineBase = admin.TabularInline[Delivery, Notification]
else:
    # Only the stubs know what a model's admin is an admin of.
    BudgetBase = AllotmentBase = PriceListBase = PriceRateBase = admin.ModelAdmin
    PolicyBase = SpendBase = BillBase = ClassUseBase = LedgerBase = OverrideBase = PurseBase = admin.ModelAdmin
    NotificationBase = DeliveryBase = admin.ModelAdmin
    BudgetInlineBase = DeliveryInlineBase = admin.TabularInline

AMOUNTS: tuple[str, ...] = ("request_class", "limit", "used", "held", "lost", "remaining")


class Remaining:
    """The column that no row holds."""

    @admin.display(description="remaining")
    def remaining(self, row: RunBudget) -> int | str:
        # In words: a page, unlike a list, would show None as that.
        return "unlimited" if row.limit is None else row.limit - row.used - row.held - row.lost


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


@admin.register(PricePolicy)
class PricePolicyAdmin(ReadOnly, PolicyBase):
    """Policies are set by `vh pricing budget set-…`, which looks at the whole of them first."""

    list_display = ("id", "scope", "provider", "vault", "mode", "max_run", "max_daily", "max_monthly", "currency")
    list_filter = ("scope", "mode")
    list_select_related = ("vault",)


@admin.register(DaySpend)
class DaySpendAdmin(ReadOnly, SpendBase):
    list_display = ("day", "run_id", "provider", "request_class", "used", "lost", "unbilled", "currency")
    list_filter = ("request_class", "provider")
    search_fields = ("=run_id",)
    ordering = ("-id",)
    paginator = BoundedPaginator
    show_full_result_count = False


@admin.register(ClassUse)
class ClassUseAdmin(ReadOnly, ClassUseBase):
    list_display = ("month", "run_id", "storage_class", "request_class", "quantity", "copied_bytes", "cut_short")
    list_filter = ("storage_class", "request_class")
    search_fields = ("=run_id",)
    ordering = ("-id",)
    paginator = BoundedPaginator
    show_full_result_count = False


@admin.register(BillLine)
class BillLineAdmin(ReadOnly, BillBase):
    """Imported by `vh pricing bill import`, and compared by `vh pricing bill compare`."""

    list_display = ("starts_at", "source", "bucket", "operation", "tier", "storage_class", "quantity")
    list_filter = ("source", "tier")
    search_fields = ("bucket", "operation")
    ordering = ("-id",)
    paginator = BoundedPaginator
    show_full_result_count = False


@admin.register(LedgerEntry)
class LedgerEntryAdmin(ReadOnly, LedgerBase):
    list_display = ("id", "run_id", "vault_name", "kind", "request_class", "quantity", "amount", "currency", "day")
    list_filter = ("kind", "request_class", "provider")
    search_fields = ("=run_id", "vault_name")
    ordering = ("-id",)
    paginator = BoundedPaginator
    show_full_result_count = False


@admin.register(PriceOverride)
class PriceOverrideAdmin(ReadOnly, OverrideBase):
    """Granted or refused here under one's own name; the same rules hold as on the command line."""

    list_display = ("id", "vault", "policies", "status", "requested_by", "decided_by", "expires_at", "used_by_run")
    list_filter = ("status",)
    list_select_related = ("vault",)
    actions = ("approve", "deny")

    @admin.action(description="Approve", permissions=["decide"])
    def approve(self, request: HttpRequest, found: QuerySet[PriceOverride]) -> None:
        self._decide(request, found, OverrideStatus.APPROVED)

    @admin.action(description="Deny", permissions=["decide"])
    def deny(self, request: HttpRequest, found: QuerySet[PriceOverride]) -> None:
        self._decide(request, found, OverrideStatus.DENIED)

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Rows are changed by these actions alone; who may use them is who holds Django's change permission."""
        return request.user.has_perm("budgets.change_priceoverride")

    def _decide(self, request: HttpRequest, found: QuerySet[PriceOverride], status: OverrideStatus) -> None:
        from budgets.overrides import decide

        for row in found:
            try:
                decide(str(row.pk), status, by=request.user.get_username())
            except Refused as refused:
                self.message_user(request, refused.message, messages.ERROR)


@admin.register(Purse)
class PurseAdmin(ReadOnly, PurseBase):
    paginator = BoundedPaginator
    show_full_result_count = False
    list_display = ("run", "vault_name", "provider", "catalog_version", "verified", "refused_reason")
    list_filter = ("provider", "verified")
    search_fields = ("vault_name",)
    list_select_related = ("run",)


class DeliveryInline(ReadOnly, DeliveryInlineBase):
    model = Delivery
    fields = readonly_fields = ("channel", "attempts", "delivered_at", "next_at", "error")


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly, DeliveryBase):
    list_display = ("notification", "channel", "attempts", "delivered_at", "next_at", "error")
    list_filter = ("channel",)
    list_select_related = ("notification",)
    ordering = ("-id",)


@admin.register(Notification)
class NotificationAdmin(ReadOnly, NotificationBase):
    """Seen to under one's own name; what they tell of is found by runs and the tick."""

    list_display = (
        *("id", "severity", "title", "vault_name", "policy_id", "count", "last_seen"),
        *("acknowledged_by", "resolved_at"),
    )
    list_filter = ("severity", "topic", ("acknowledged_at", admin.EmptyFieldListFilter), "quiet")
    search_fields = ("vault_name", "text")
    inlines = (DeliveryInline,)
    actions = ("acknowledge",)

    def has_acknowledge_permission(self, request: HttpRequest) -> bool:
        """Nobody edits one; who may say that it is seen to holds Django's change permission."""
        return request.user.has_perm("budgets.change_notification")

    @admin.action(description="Acknowledge", permissions=["acknowledge"])
    def acknowledge(self, request: HttpRequest, found: QuerySet[Notification]) -> None:
        from budgets.notices import acknowledge

        numbers = [str(number) for number in found.values_list("pk", flat=True)]
        acknowledge(numbers, every=False, by=request.user.get_username())
        self.message_user(request, f"{len(numbers)} are seen to.", messages.SUCCESS)
