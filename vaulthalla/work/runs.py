"""The life of a run: created active or queued, moved from phase to phase, closed exactly once.

    (new) ──> queued ──> planning ──> running ──> success | stalled | failed | cancelled
       └───────────────────^  └────────────────────────^

Whoever finishes the last chunk of a phase opens the next one, and whoever finishes the last chunk of all closes
the run; both hold the run's row, so that of two last finishers exactly one sees nothing unfinished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.db.models.functions import Now

from vaulthalla.errors import NotFound, Stall, StallCode, VaulthallaError
from vaulthalla.vaults.models import Vault
from vaulthalla.work import doorbell, registry, sql
from vaulthalla.work.models import (
    ACTIVE,
    SNAPSHOT_LIKE,
    SYNC_LIKE,
    TERMINAL,
    Chunk,
    ChunkStatus,
    Queue,
    Run,
    RunKind,
    RunStatus,
    Trigger,
)
from vaulthalla.work.phases import Phase
from vaulthalla.work.values import Busy, NewChunk

# An option that tells what a run is expected to come to, and changes nothing about what it does.
EXPECTED = "estimate"
EXCLUSIVE = ("one_active_sync_per_vault", "one_queued_sync_per_vault", "one_snapshot_per_vault")


# --- beginning ---


def create_run(
    vault: Vault | None,
    kind: RunKind,
    *,
    trigger: Trigger = Trigger.MANUAL,
    options: Mapping[str, Any] | None = None,
    chunks: Sequence[NewChunk],
) -> Run:
    """A run with its budget and chunks, in one transaction; a last chunk to finish it is always appended.

    It is active (`planning`), or `queued` behind the active sync-like run of its vault. Where one that asks
    for the same is waiting already (or, of reconciles and inventories, running), that one is returned. Raises
    Busy when another one is in the way.
    """
    registry.load()
    wanted = Run(vault=vault, kind=kind, trigger=trigger, options=dict(options or {}), status=RunStatus.PLANNING)
    if kind not in SYNC_LIKE:
        return _insert(wanted, chunks) or _join(wanted)
    active = _insert(wanted, chunks)
    if active:
        return active
    wanted = Run(vault=vault, kind=kind, trigger=trigger, options=dict(options or {}), status=RunStatus.QUEUED)
    return _insert(wanted, chunks) or _join(wanted)


def _insert(run: Run, chunks: Sequence[NewChunk]) -> Run | None:
    """The run, stored; None when a run of its vault excludes it."""
    try:
        with transaction.atomic():
            if run.status == RunStatus.PLANNING:
                run.started_at = Now()
            run.save(force_insert=True)
            for hook in registry.run_created:
                hook(run)
            finish = NewChunk(f"{registry.FINISH}.{run.kind}", Phase.FINISH, Queue.CONTROL)
            _store_chunks(run, [*chunks, finish])
            if run.status == RunStatus.PLANNING:
                advance(run)
    except IntegrityError as error:
        if constraint_of(error) in EXCLUSIVE:
            return None
        raise
    return Run.objects.select_related("vault").get(pk=run.pk)


def _join(wanted: Run) -> Run:
    """The run in the way, if it does exactly what is wanted."""
    kinds, statuses = (SYNC_LIKE, [RunStatus.QUEUED]) if wanted.kind in SYNC_LIKE else (SNAPSHOT_LIKE, [*ACTIVE])
    other = Run.objects.filter(vault=wanted.vault, kind__in=kinds, status__in=statuses).select_related("vault").first()
    if other is None:
        # It ended between our attempt and this look.
        raise Busy(
            f"Another run of vault {wanted.vault} has just ended.", run_id=0, remedy="Run the same command again."
        )
    if other.kind == wanted.kind and _asked(other) == _asked(wanted):
        return other
    state = "waiting" if other.status == RunStatus.QUEUED else "under way"
    raise Busy(
        f"Vault {wanted.vault} has a {other.get_kind_display()} {state} (run {other.pk}).",
        run_id=other.pk,
        remedy="Wait for it, or cancel it.",
    )


def _asked(run: Run) -> dict[str, Any]:
    """What a run is to do: an estimate moves with what the run that it is of has done."""
    return {name: value for name, value in run.options.items() if name != EXPECTED}


def constraint_of(error: IntegrityError) -> str:
    """The name of the constraint that was violated."""
    diagnosis = getattr(error.__cause__, "diag", None)
    return getattr(diagnosis, "constraint_name", None) or ""


# --- chunks ---


def add_chunks(run_id: int, chunks: Sequence[NewChunk]) -> list[int]:
    """Appends chunks to a run; their ids, in order. Only inside `with lease.commit():`, so that the caller's own
    chunk keeps its phase open; phases must not be earlier than the caller's. A run that is stopping skips them."""
    run = lock(run_id)
    ids = _store_chunks(run, chunks)
    _ring(_opened(run, chunks))
    return ids


def _store_chunks(run: Run, chunks: Sequence[NewChunk]) -> list[int]:
    last = Chunk.objects.filter(run=run).aggregate(last=Max("ordinal"))["last"] or 0
    rows = [
        Chunk(
            run=run,
            ordinal=last + number,
            phase=new.phase,
            kind=new.kind,
            queue=new.queue,
            pool=new.pool,
            status=_first_status(run, new),
            payload=dict(new.payload),
            items_total=new.items,
        )
        for number, new in enumerate(chunks, 1)
    ]
    return [chunk.pk for chunk in Chunk.objects.bulk_create(rows, batch_size=1000)]


def _first_status(run: Run, new: NewChunk) -> ChunkStatus:
    if run.phase and new.phase < run.phase:
        raise ValueError(f"A {new.kind!r} chunk of phase {new.phase} in a run that is past it ({run.phase}).")
    if run.stopping and new.phase != Phase.FINISH:
        return ChunkStatus.SKIPPED
    return ChunkStatus.PENDING if run.phase and new.phase == run.phase else ChunkStatus.WAITING


def _opened(run: Run, chunks: Sequence[NewChunk]) -> dict[str, int]:
    return dict(Counter(str(new.queue) for new in chunks if _first_status(run, new) == ChunkStatus.PENDING))


# --- moving on ---


def lock(run_id: int) -> Run:
    """The run, held until the transaction ends. Inserting rows that refer to it does not wait."""
    return Run.objects.select_for_update(no_key=True).get(pk=run_id)


def advance(run: Run) -> None:
    """Opens the lowest unfinished phase, or closes the run. The caller holds the run's lock (or has just made it)."""
    if run.status in TERMINAL or run.status == RunStatus.QUEUED:
        return
    phase = sql.lowest_phase(run.pk)
    if phase is None:
        _close(run)
    elif phase != run.phase:
        run.phase = phase
        run.status = RunStatus.RUNNING if phase >= Phase.TRANSFER else run.status
        run.save(update_fields=["phase", "status"])
        _ring(Counter(sql.open_phase(run.pk, phase)))


def _close(run: Run) -> None:
    run.status = _verdict(run)
    run.finished_at = Now()
    run.save(update_fields=["status", "finished_at"])
    run.refresh_from_db(fields=["finished_at"])
    for hook in registry.run_finished:
        hook(run)
    if run.kind in SYNC_LIKE and run.vault_id:
        promote_next(run.vault_id)


def _verdict(run: Run) -> RunStatus:
    if run.cancel_requested:
        return RunStatus.CANCELLED
    if run.error_code or run.chunks.filter(status=ChunkStatus.FAILED).exists():
        return RunStatus.FAILED
    return RunStatus.STALLED if run.stall_code else RunStatus.SUCCESS


def promote_next(vault_id: int) -> bool:
    """Starts the queued run of a vault that has no active one."""
    queued = Run.objects.filter(vault_id=vault_id, kind__in=SYNC_LIKE, status=RunStatus.QUEUED)
    try:
        with transaction.atomic():
            run = queued.select_for_update(no_key=True).first()
            if run is None:
                return False
            run.status, run.started_at = RunStatus.PLANNING, Now()
            run.save(update_fields=["status", "started_at"])
            advance(run)
    except IntegrityError as error:
        if constraint_of(error) in EXCLUSIVE:
            return False
        raise
    return True


def _ring(opened: Mapping[str, int]) -> None:
    if opened:
        transaction.on_commit(lambda: doorbell.ring(opened))


# --- ending early ---


def record_stall(run_id: int, stall: Stall) -> None:
    """Remembers why the run will end `stalled`; the first stall wins. Stops nothing by itself."""
    Run.objects.filter(pk=run_id, stall_code="").update(
        stall_code=stall.code, stall_reason=stall.message, stall_remedy=stall.remedy
    )


def record_error(run_id: int, error: VaulthallaError) -> None:
    """Remembers why the run will end `failed`; the first error wins. Stops nothing by itself."""
    Run.objects.filter(pk=run_id, error_code="").update(
        error_code=error.code, error_message=error.message, error_remedy=error.remedy
    )


def skip_unfinished(run_id: int) -> None:
    """Skips what has not begun, except the chunk that finishes the run; what runs now is its phase's last."""
    with transaction.atomic():
        run = lock(run_id)
        stop(run)
        advance(run)


def stop(run: Run) -> None:
    """The same for a caller that holds the run's lock and will advance it."""
    if run.status in TERMINAL:
        return
    run.stopping = True
    run.save(update_fields=["stopping"])
    sql.skip_before(run.pk, Phase.FINISH)


def request_cancel(run_id: int) -> Run:
    """Asks a run to end `cancelled`: at once when it is queued, else as soon as its running chunks have stopped.

    Somebody must still run its last chunk: a worker, or `drive(run_id)`. A finished run stays as it is.
    """
    with transaction.atomic():
        try:
            run = lock(run_id)
        except Run.DoesNotExist:
            raise NotFound(f"There is no run {run_id}.") from None
        if run.status not in TERMINAL:
            run.cancel_requested = True
            run.save(update_fields=["cancel_requested"])
            _cancel(run)
    return Run.objects.select_related("vault").get(pk=run_id)


def _cancel(run: Run) -> None:
    if run.status == RunStatus.QUEUED:
        # Nothing was done, so there is nothing to finish.
        sql.skip_before(run.pk, Phase.FINISH + 1)
        _close(run)
    else:
        stop(run)
        advance(run)


# --- telling ---


def failure_of(run: Run) -> VaulthallaError:
    """What kept a finished run from success, as the error of the command that waited for it."""
    if run.status == RunStatus.STALLED:
        return Stall(StallCode(run.stall_code), run.stall_reason, remedy=run.stall_remedy)
    message = run.error_message or f"Run {run.pk} was {run.status}."
    return VaulthallaError(message, code=run.error_code or run.status, remedy=run.error_remedy)


# --- finding ---


def active_run(vault: Vault | int, kinds: Sequence[RunKind] = SYNC_LIKE) -> Run | None:
    """The run of these kinds (sync-like by default) that a vault is at work on."""
    found = Run.objects.filter(vault=vault, kind__in=kinds, status__in=ACTIVE).select_related("vault")
    return found.order_by("id").first()
