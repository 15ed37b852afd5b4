"""Runs and chunks for people: to be looked at, and to be cancelled; only the engine writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from vaulthalla.work.models import TERMINAL, Chunk, Run
from vaulthalla.work.runs import request_cancel

if TYPE_CHECKING:
    RunBase = admin.ModelAdmin[Run]
    ChunkBase = admin.ModelAdmin[Chunk]
else:
    # Only the stubs know what a model's admin is an admin of.
    RunBase = ChunkBase = admin.ModelAdmin


class ReadOnly:
    """Nothing can be added, changed or deleted by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Run)
class RunAdmin(ReadOnly, RunBase):
    list_display = ("id", "vault", "kind", "status", "trigger", "stall_code", "error_code", "started_at", "finished_at")
    list_filter = ("status", "kind", "trigger", "stall_code")
    search_fields = ("vault__name", "=id")
    list_select_related = ("vault",)
    date_hierarchy = "created_at"
    actions = ("cancel",)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Cancelling is for those who may change runs, although nobody edits one."""
        return request.user.has_perm("work.change_run")

    @admin.action(description="Cancel the selected runs", permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Run]) -> None:
        """Their running chunks stop at their next look at the lease."""
        unfinished = list(queryset.exclude(status__in=TERMINAL).values_list("pk", flat=True))
        for run_id in unfinished:
            request_cancel(run_id)
        self.message_user(request, f"{len(unfinished)} runs are asked to stop.", messages.SUCCESS)


@admin.register(Chunk)
class ChunkAdmin(ReadOnly, ChunkBase):
    list_display = ("run", "ordinal", "phase", "kind", "queue", "pool", "status", "attempts", "worker", "lease_until")
    list_filter = ("status", "queue", "kind")
    search_fields = ("=run__id", "worker")
    list_select_related = ("run",)
    # Counting every chunk there ever was would make each page slow.
    show_full_result_count = False
