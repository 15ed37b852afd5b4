"""The index for people: to be looked at, since only merges may write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.http import HttpRequest

from indexing.models import IndexState

if TYPE_CHECKING:
    StateAdmin = admin.ModelAdmin[IndexState]
else:
    # Only the stubs know what a model's admin is an admin of.
    StateAdmin = admin.ModelAdmin


@admin.register(IndexState)
class IndexStateAdmin(StateAdmin):
    list_display = (
        "vault",
        "source",
        "complete",
        "snapshot_as_of",
        "events_through",
        "object_count",
        "total_bytes",
        "doubtful_count",
    )
    list_filter = ("complete", "source")
    search_fields = ("vault__name",)
    list_select_related = ("vault",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: IndexState | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: IndexState | None = None) -> bool:
        return False
