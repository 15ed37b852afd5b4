"""Runs and chunks for people: to be looked at, and to be cancelled; only the engine writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import OuterRef, QuerySet, Subquery, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString

from vaulthalla.work.models import TERMINAL, Chunk, Run
from vaulthalla.work.phases import Phase
from vaulthalla.work.runs import request_cancel

if TYPE_CHECKING:
    RunBase = admin.ModelAdmin[Run]
    ChunkBase = admin.ModelAdmin[Chunk]
    AnyPaginator = Paginator[Any]
else:
    # Only the stubs know what a model's admin is an admin of.
    RunBase = ChunkBase = admin.ModelAdmin
    AnyPaginator = Paginator


class ReadOnly:
    """Nothing can be added, changed or deleted by hand."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class BoundedPaginator(AnyPaginator):
    """Pages over the first rows of a table that may hold millions: counting those would take longer than the page."""

    MOST = 10_000

    @cached_property
    def count(self) -> int:
        rows = self.object_list[: self.MOST]
        return rows.count() if isinstance(rows, QuerySet) else len(rows)


@admin.register(Run)
class RunAdmin(ReadOnly, RunBase):
    list_display: tuple[str, ...] = (
        "id",
        "vault",
        "kind",
        "status",
        "trigger",
        "progress",
        "why",
        "started_at",
        "finished_at",
    )
    list_filter = ("status", "kind", "trigger", "stall_code", "vault")
    search_fields = ("vault__name", "=id")
    list_select_related = ("vault",)
    list_per_page = 50
    date_hierarchy = "created_at"
    actions = ("cancel",)
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("vault", "kind", "status", "trigger", "reached", "progress", "cancel_requested")}),
        ("Why it stopped", {"fields": ("why",)}),
        ("Asked for, and what came of it", {"fields": ("options", "result")}),
        ("Times", {"fields": ("created_at", "started_at", "finished_at")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        return super().get_queryset(request).annotate(done=_items("items_done"), total=_items("items_total"))

    @admin.display(description="phase")
    def reached(self, run: Run) -> str:
        if run.status in TERMINAL:
            return "over"
        return phase_word(run.phase)

    @admin.display(description="progress")
    def progress(self, run: Run) -> str:
        """Items of what is planned so far; chunks of long ago are gone."""
        done, total = getattr(run, "done", None), getattr(run, "total", None)
        if not total:
            return "-"
        return f"{done} of {total}" if run.status not in TERMINAL else str(done)

    @admin.display(description="why it stopped", ordering="stall_code")
    def why(self, run: Run) -> SafeString | str:
        # Never None: a page, unlike a list, would show that word.
        if run.error_code:
            return _explained(run.error_code, run.error_message, run.error_remedy)
        return _explained(run.stall_code, run.stall_reason, run.stall_remedy) if run.stall_code else "-"

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


def _items(column: str) -> Subquery:
    # One look per run of the page; a join would multiply the rows.
    chunks = Chunk.objects.filter(run=OuterRef("pk")).order_by().values("run")
    return Subquery(chunks.annotate(sum=Sum(column)).values("sum"))


def run_link(run_id: int) -> SafeString:
    """The run's page, for rows that know its number alone."""
    return format_html('<a href="{}">{}</a>', reverse("admin:work_run_change", args=[run_id]), run_id)


def phase_word(phase: int) -> str:
    """What a person reads for the number that orders chunks; runs of one step have numbers of their own."""
    return Phase(phase).name.lower() if phase in set(Phase) else "not begun" if not phase else str(phase)


def _explained(code: str, reason: str, remedy: str) -> SafeString:
    return format_html("<strong>{}</strong>: {}<br><code>{}</code>", code, reason, remedy)


@admin.register(Chunk)
class ChunkAdmin(ReadOnly, ChunkBase):
    list_display = (
        "id",
        "of_run",
        "ordinal",
        "step",
        "kind",
        "served_by",
        "pool",
        "status",
        "attempts",
        "items_done",
        "items_total",
        "worker",
        "lease_until",
        "error",
    )
    list_filter = ("status", "queue", "kind")
    search_fields = ("=run__id", "worker")
    # By primary key: the model's own order would sort every chunk there ever was.
    ordering = ("-id",)
    paginator = BoundedPaginator
    show_full_result_count = False

    @admin.display(description="run", ordering="run_id")
    def of_run(self, chunk: Chunk) -> SafeString:
        return run_link(chunk.run_id)

    @admin.display(description="queue", ordering="queue")
    def served_by(self, chunk: Chunk) -> str:
        """The name that a worker is started with; what the queue is for would fill four lines of each row."""
        return chunk.queue

    @admin.display(description="phase", ordering="phase")
    def step(self, chunk: Chunk) -> str:
        return phase_word(chunk.phase)
