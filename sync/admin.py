"""Plans, transfers and conflicts for people, and what can be started from a page: a sync, a decision, a stop.

Nothing here waits: an action makes a run, and workers do it. Local files, directories and bases have composite
keys, which the admin cannot show; `vh vault ls` does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from budgets.admin import BudgetInline
from budgets.models import RunBudget
from sync.models import Conflict, ConflictStatus, Operation, Transfer
from sync.options import SyncOptions
from sync.prices import cost_json, cost_text, estimate_json
from sync.resolve import decide_conflicts
from sync.start import first_chunks
from vaulthalla import units
from vaulthalla.errors import Refused
from vaulthalla.vaults.admin import VaultAdmin
from vaulthalla.vaults.models import Vault
from vaulthalla.work.admin import BoundedPaginator, ReadOnly, RunAdmin, run_link
from vaulthalla.work.engine import create_run
from vaulthalla.work.models import Run, RunKind, RunStatus

if TYPE_CHECKING:
    OperationBase = admin.ModelAdmin[Operation]
    TransferBase = admin.ModelAdmin[Transfer]
    ConflictBase = admin.ModelAdmin[Conflict]
else:
    # Only the stubs know what a model's admin is an admin of.
    OperationBase = TransferBase = ConflictBase = admin.ModelAdmin

NO_WORKERS = "Workers carry it out; without any, the next “vh vault sync” does."

# The layers below register these without what only this one knows.
admin.site.unregister(Vault)
admin.site.unregister(Run)


def _started(vaults_and_options: Iterable[tuple[Vault, RunKind, SyncOptions]]) -> tuple[list[str], list[str]]:
    """(what was started, what could not be), in sentences."""
    done, refused = [], []
    for vault, kind, options in vaults_and_options:
        try:
            run = create_run(vault, kind, options=options.as_options(vault.policy), chunks=first_chunks(vault))
            state = "waits for the one before it" if run.status == RunStatus.QUEUED else "has begun"
            done.append(f"Run {run.pk} of vault {vault} {state}.")
        except Refused as error:
            refused.append(f"Vault {vault}: {error.message} {error.remedy}")
    return done, refused


def _tell(request: HttpRequest, done: Iterable[str], refused: Iterable[str]) -> None:
    for text in done:
        messages.success(request, f"{text} {NO_WORKERS}")
    for text in refused:
        messages.warning(request, text)


@admin.register(Vault)
class SyncedVaultAdmin(VaultAdmin):
    list_display = (*VaultAdmin.list_display, "last_run", "open_conflicts")
    actions = ("sync_now",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Vault]:
        newest = Run.objects.filter(vault=OuterRef("pk")).order_by("-id")
        is_open = Q(conflicts__status=ConflictStatus.OPEN)
        return (
            super()
            .get_queryset(request)
            .annotate(
                last_run_id=Subquery(newest.values("pk")[:1]),
                last_run_status=Subquery(newest.values("status")[:1]),
                open_number=Count("conflicts", filter=is_open),
            )
        )

    @admin.display(description="last run", ordering="last_run_id", empty_value="never")
    def last_run(self, vault: Vault) -> SafeString | None:
        number = getattr(vault, "last_run_id", None)
        if number is None:
            return None
        address = reverse("admin:work_run_change", args=[number])
        return format_html('<a href="{}">{}</a>', address, getattr(vault, "last_run_status", ""))

    @admin.display(description="open conflicts", ordering="open_number")
    def open_conflicts(self, vault: Vault) -> SafeString | int:
        number = int(getattr(vault, "open_number", 0))
        if not number:
            return 0
        address = reverse("admin:sync_conflict_changelist")
        return format_html('<a href="{}?vault__id__exact={}&status__exact=open">{}</a>', address, vault.pk, number)

    def has_sync_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("work.add_run")

    @admin.action(description="Sync the selected vaults now", permissions=["sync"])
    def sync_now(self, request: HttpRequest, queryset: QuerySet[Vault]) -> None:
        _tell(request, *_started((vault, RunKind.SYNC, SyncOptions()) for vault in queryset))


class PlannedBudgetInline(BudgetInline):
    """What was expected of each class beside what it came to."""

    fields = readonly_fields = (BudgetInline.fields[0], "planned", *BudgetInline.fields[1:])

    def get_queryset(self, request: HttpRequest) -> QuerySet[RunBudget]:
        return super().get_queryset(request).select_related("run")

    @admin.display(description="planned")
    def planned(self, row: RunBudget) -> int | str:
        estimate = estimate_json(row.run)
        return estimate["requests"][row.request_class] if estimate else "-"


@admin.register(Run)
class SyncRunAdmin(RunAdmin):
    list_display = (*RunAdmin.list_display[:6], "requests", *RunAdmin.list_display[6:])
    inlines = (PlannedBudgetInline,)
    fieldsets: ClassVar[Any] = (
        *RunAdmin.fieldsets[:2],
        ("Plan", {"fields": ("operations", "planned_bytes", "planned_cost", "cost")}),
        *RunAdmin.fieldsets[2:],
    )
    readonly_fields = ("operations", "planned_bytes", "planned_cost", "cost")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        return super().get_queryset(request).prefetch_related("budget")

    @admin.display(description="requests")
    def requests(self, run: Run) -> str:
        spent = [(row.request_class, row.used + row.lost) for row in run.budget.all()]
        return ", ".join(f"{number} {name}" for name, number in spent if number and name != "downloaded_bytes")

    @admin.display(description="planned bytes")
    def planned_bytes(self, run: Run) -> str:
        estimate = estimate_json(run)
        if estimate is None:
            return "-"
        moved = estimate["bytes"]
        return f"{units.format_size(moved['up'])} up, {units.format_size(moved['down'])} down"

    @admin.display(description="planned cost")
    def planned_cost(self, run: Run) -> str:
        return cost_text((estimate_json(run) or {}).get("cost")) or "unknown"

    @admin.display(description="cost")
    def cost(self, run: Run) -> str:
        return cost_text(cost_json(run)) or "unknown"

    @admin.display(description="operations and chunks")
    def operations(self, run: Run) -> SafeString:
        plan, chunks = reverse("admin:sync_operation_changelist"), reverse("admin:work_chunk_changelist")
        return format_html(
            '<a href="{0}?run__id__exact={2}">operations</a> · <a href="{0}?run__id__exact={2}&status__exact=failed">'
            'failed ones</a> · <a href="{1}?run__id__exact={2}">chunks</a>',
            plan,
            chunks,
            run.pk,
        )


@admin.register(Operation)
class OperationAdmin(ReadOnly, OperationBase):
    list_display = ("id", "of_run", "ordinal", "action", "path", "status", "bytes", "reason")
    list_filter = ("status", "action")
    search_fields = ("=run__id", "path")
    # By primary key: the model's own order would sort every operation there ever was.
    ordering = ("-id",)
    paginator = BoundedPaginator
    show_full_result_count = False

    @admin.display(description="run", ordering="run_id")
    def of_run(self, operation: Operation) -> SafeString:
        return run_link(operation.run_id)

    @admin.display(description="size", ordering="size")
    def bytes(self, operation: Operation) -> str:
        return units.format_size(operation.size)


@admin.register(Transfer)
class TransferAdmin(ReadOnly, TransferBase):
    list_display = ("vault", "path", "direction", "bytes", "progress", "created_at")
    list_filter = ("direction", "vault")
    search_fields = ("path", "vault__name")
    list_select_related = ("vault",)
    ordering = ("-id",)

    @admin.display(description="size", ordering="size")
    def bytes(self, transfer: Transfer) -> str:
        return units.format_size(transfer.size)

    @admin.display(description="parts")
    def progress(self, transfer: Transfer) -> str:
        return f"{len(transfer.parts)} of {-(-transfer.size // max(1, transfer.part_size))}"


@admin.register(Conflict)
class ConflictAdmin(ReadOnly, ConflictBase):
    list_display = ("path", "vault", "reason", "local_side", "remote_side", "status", "resolution", "detected_at")
    list_filter = ("status", "vault", "reason")
    search_fields = ("path", "vault__name")
    list_select_related = ("vault",)
    ordering = ("status", "-id")
    actions = ("keep_local", "keep_remote", "keep_both")
    show_full_result_count = False

    @admin.display(description="local")
    def local_side(self, conflict: Conflict) -> str:
        return _side(conflict.local)

    @admin.display(description="remote")
    def remote_side(self, conflict: Conflict) -> str:
        return _side(conflict.remote)

    def has_resolve_permission(self, request: HttpRequest) -> bool:
        """Resolving is for those who may change conflicts, although nobody edits one."""
        return request.user.has_perm("sync.change_conflict")

    @admin.action(description="Keep local: the local side wins", permissions=["resolve"])
    def keep_local(self, request: HttpRequest, queryset: QuerySet[Conflict]) -> None:
        _resolve(request, queryset, "keep_local")

    @admin.action(description="Keep remote: the remote side wins", permissions=["resolve"])
    def keep_remote(self, request: HttpRequest, queryset: QuerySet[Conflict]) -> None:
        _resolve(request, queryset, "keep_remote")

    @admin.action(description="Keep both: the local copy is kept beside", permissions=["resolve"])
    def keep_both(self, request: HttpRequest, queryset: QuerySet[Conflict]) -> None:
        _resolve(request, queryset, "keep_both")


def _resolve(request: HttpRequest, chosen: QuerySet[Conflict], decision: str) -> None:
    """One decision per vault, for the versions that were shown, then a run that carries it out."""
    still_open = chosen.filter(status=ConflictStatus.OPEN).select_related("vault__policy")
    closed = chosen.count() - still_open.count()
    by_vault: defaultdict[Vault, list[str]] = defaultdict(list)
    for conflict in still_open:
        by_vault[conflict.vault].append(str(conflict.pk))
    decided, refused = [], []
    for vault, ids in by_vault.items():
        try:
            paths = decide_conflicts(vault, ids, every=False, decisions=[decision])
            decided.append((vault, RunKind.RESOLVE, SyncOptions(patterns=paths, exact=True)))
        except Refused as error:
            refused.append(f"Vault {vault}: {error.message} {error.remedy}")
    done, busy = _started(decided)
    # The decision is noted, whoever carries it out.
    refused += [f"{text} The decision stands: the vault's next sync carries it out." for text in busy]
    refused += [f"Of the selected conflicts, {closed} were closed already."] if closed else []
    _tell(request, done, refused)


def _side(side: dict[str, Any]) -> str:
    if not side.get("present"):
        return "deleted"
    size = units.format_size(side.get("size"))
    # Enough to tell two apart: the whole of it would push the decision off the screen, and its page has it.
    return f"{size}, ETag {side['etag'][:8]}" if side.get("etag") else size
