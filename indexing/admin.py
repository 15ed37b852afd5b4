"""The index for people: to be looked at, since only merges may write it.

Rows of single objects have composite keys, which the admin cannot show; `vh vault ls` does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from django.contrib import admin

from indexing.freshness import Freshness, freshness
from indexing.models import EventFeed, IndexCount, IndexState, ScanRange, SetAside, Webhook
from indexing.state import max_age_of, trust_of
from vaulthalla.work.admin import ReadOnly

if TYPE_CHECKING:
    StateAdmin = admin.ModelAdmin[IndexState]
    FeedAdmin = admin.ModelAdmin[EventFeed]
    AsideAdmin = admin.ModelAdmin[SetAside]
    HookAdmin = admin.ModelAdmin[Webhook]
    CountAdmin = admin.ModelAdmin[IndexCount]
    RangeAdmin = admin.ModelAdmin[ScanRange]
else:
    # Only the stubs know what a model's admin is an admin of.
    StateAdmin = FeedAdmin = AsideAdmin = HookAdmin = CountAdmin = RangeAdmin = admin.ModelAdmin


@admin.register(IndexState)
class IndexStateAdmin(ReadOnly, StateAdmin):
    list_display = (
        "vault",
        "status",
        "why",
        "source",
        "snapshot_as_of",
        "events_through",
        "object_count",
        "total_bytes",
        "doubtful_count",
    )
    list_filter = ("complete", "source")
    search_fields = ("vault__name",)
    list_select_related = ("vault__policy",)

    @admin.display(description="freshness")
    def status(self, state: IndexState) -> str:
        return _freshness(state).status.value

    @admin.display(description="why")
    def why(self, state: IndexState) -> str:
        return _freshness(state).why


def _freshness(state: IndexState) -> Freshness:
    return freshness(trust_of(state), max_age=max_age_of(state.vault), now=datetime.now(UTC))


@admin.register(EventFeed)
class EventFeedAdmin(ReadOnly, FeedAdmin):
    list_display = (
        "vault",
        "kind",
        "name",
        "last_poll_at",
        "newest_event_at",
        "through",
        "waiting",
        "records",
        "error",
    )
    list_filter = ("kind", "gap", "everything")
    search_fields = ("vault__name", "name")
    list_select_related = ("vault",)


@admin.register(SetAside)
class SetAsideAdmin(ReadOnly, AsideAdmin):
    list_display = ("vault", "feed", "reason", "detail", "size", "received_at")
    list_filter = ("reason",)
    search_fields = ("vault__name", "feed", "message_id")
    list_select_related = ("vault",)


@admin.register(Webhook)
class WebhookAdmin(ReadOnly, HookAdmin):
    # Never the secret.
    fields = list_display = ("vault", "topic_arn", "created_at")
    search_fields = ("vault__name", "topic_arn")
    list_select_related = ("vault",)


@admin.register(IndexCount)
class IndexCountAdmin(ReadOnly, CountAdmin):
    list_display = ("vault", "classes", "tombstones", "counted_at")
    search_fields = ("vault__name",)
    list_select_related = ("vault",)


@admin.register(ScanRange)
class ScanRangeAdmin(ReadOnly, RangeAdmin):
    # Where a store goes on may be no text.
    fields = list_display = ("vault", "low", "high", "reached")
    search_fields = ("vault__name",)
    list_select_related = ("vault",)
