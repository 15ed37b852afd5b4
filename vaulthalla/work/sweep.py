"""Makes good what died: takes leases back, gives up poison, moves stranded runs on, rings for what waits."""

from __future__ import annotations

from django.db import transaction

from vaulthalla.work import doorbell, process, registry, runs, sql
from vaulthalla.work.execute import MOST_ATTEMPTS, chunk_failed
from vaulthalla.work.models import ChunkStatus, Run, RunStatus
from vaulthalla.work.values import SweepReport

# Chunks of a command's own process: nobody else can go on with them.
INLINE = "inline"
GONE = "its process ended, or lost touch with the database"


def sweep(*, ring: bool = False) -> SweepReport:
    """One round; any number of processes may sweep at once. With `ring`, also wakes workers for what can be claimed."""
    registry.load()
    retaken = failed = 0
    for worker in filter(process.is_gone, sql.workers()):
        sql.expire(worker)
    while (gave_up := _take_back_one()) is not None:
        retaken, failed = retaken + (not gave_up), failed + gave_up
    for hook in registry.swept:
        hook()
    advanced, promoted = _move_stranded()
    ringing = sql.ringing()
    if ring:
        doorbell.ring(ringing)
    return SweepReport(retaken=retaken, failed=failed, advanced=advanced, promoted=promoted, ringing=ringing)


def _take_back_one() -> bool | None:
    """Whether the lapsed chunk was given up; None when no lease has lapsed."""
    with transaction.atomic():
        chunk = sql.lapsed()
        if chunk is None:
            return None
        give_up = chunk.attempts >= MOST_ATTEMPTS or chunk.kind == INLINE
        status = ChunkStatus.FAILED if give_up else ChunkStatus.PENDING
        sql.take_back(chunk.chunk_id, status=status, error=f"{chunk.worker}: {GONE}")
        run = runs.lock(chunk.run_id)
        if give_up:
            runs.record_error(run.pk, chunk_failed(chunk.kind, chunk.attempts, GONE))
            run.refresh_from_db()
        if give_up or run.stopping:
            runs.stop(run)
            runs.advance(run)
    return give_up


def _move_stranded() -> tuple[int, int]:
    """How many runs were moved on, and how many queued ones started."""
    advanced = promoted = 0
    for run_id, status in sql.stranded():
        if status == RunStatus.QUEUED:
            promoted += _promote(run_id)
        else:
            with transaction.atomic():
                runs.advance(runs.lock(run_id))
            advanced += 1
    return advanced, promoted


def _promote(run_id: int) -> bool:
    vault_id = Run.objects.filter(pk=run_id).values_list("vault_id", flat=True).first()
    if vault_id is None or runs.active_run(vault_id):
        return False
    return runs.promote_next(vault_id)
