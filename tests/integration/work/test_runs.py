"""A run goes through its phases in order and ends in exactly one status."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vaulthalla.errors import Refused, Stall, StallCode, VaulthallaError
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import (
    Busy,
    Lease,
    NewChunk,
    Phase,
    RunCancelled,
    Yield,
    active_run,
    add_chunks,
    attach_or_create,
    claim,
    create_run,
    drive,
    execute,
    on_run_finished,
    record_stall,
    request_cancel,
    run_inline,
)
from vaulthalla.work.models import Chunk, ChunkStatus, Queue, Run, RunKind, RunStatus

Handle = Callable[..., None]


def chunk(kind: str, phase: Phase = Phase.SCAN, **payload: object) -> NewChunk:
    return NewChunk(kind, phase, Queue.TRANSFER, payload)


def sync(vault: Vault, *chunks: NewChunk) -> Run:
    return create_run(vault, RunKind.SYNC, chunks=chunks)


def statuses(run: Run) -> dict[str, str]:
    return dict(run.chunks.values_list("kind", "status"))


def test_phases_run_in_order_whatever_the_order_of_chunks(vault: Vault, handle: Handle) -> None:
    seen: list[str] = []
    for kind in ("scan", "copy", "delete"):
        handle(kind, lambda lease: seen.append(lease.kind))
    handle("finish.sync", lambda lease: seen.append("finish"))
    run = sync(vault, chunk("delete", Phase.DELETE), chunk("scan"), chunk("copy", Phase.TRANSFER), chunk("scan"))
    done = drive(run.pk)
    assert seen == ["scan", "scan", "copy", "delete", "finish"]
    assert (done.status, done.started_at is not None, done.finished_at is not None) == (RunStatus.SUCCESS, True, True)


def test_a_handler_adds_work_to_its_own_and_to_later_phases(vault: Vault, handle: Handle) -> None:
    seen: list[str] = []

    def scan(lease: Lease) -> None:
        with lease.commit():
            add_chunks(lease.run_id, [chunk("copy", Phase.TRANSFER), chunk("scan.more")])

    handle("scan", scan)
    handle("scan.more", lambda lease: seen.append("more"))
    handle("copy", lambda lease: seen.append(lease.load_run().status))
    assert drive(sync(vault, chunk("scan")).pk).status == RunStatus.SUCCESS
    assert seen == ["more", RunStatus.RUNNING]


def test_work_for_an_earlier_phase_is_a_mistake(vault: Vault, handle: Handle) -> None:
    lease = claim(Queue.values, run_id=sync(vault, chunk("copy", Phase.TRANSFER)).pk)
    assert lease is not None
    with pytest.raises(ValueError, match="past it"), lease.commit():
        add_chunks(lease.run_id, [chunk("scan")])


def test_a_chunk_that_yields_goes_on_from_its_cursor(vault: Vault, handle: Handle) -> None:
    seen: list[tuple[object, int]] = []

    def scan(lease: Lease) -> Yield | None:
        seen.append((lease.cursor, lease.attempts))
        return Yield({"at": len(seen)}) if len(seen) < 3 else None

    handle("scan", scan)
    assert drive(sync(vault, chunk("scan")).pk).status == RunStatus.SUCCESS
    assert seen == [(None, 1), ({"at": 1}, 1), ({"at": 2}, 1)]


def test_a_commit_keeps_cursor_and_items_and_a_failed_one_keeps_nothing(vault: Vault, handle: Handle) -> None:
    run = sync(vault, NewChunk("scan", Phase.SCAN, Queue.TRANSFER, items=10))
    lease = claim(Queue.values, run_id=run.pk)
    assert lease is not None
    with lease.commit(cursor="a", items_done=3):
        pass
    with pytest.raises(ZeroDivisionError), lease.commit(cursor="b", items_done=3):
        Vault.objects.update(description=str(1 / 0))
    with lease.commit() as checkpoint:
        checkpoint.items_done = 2
    row = Chunk.objects.get(pk=lease.chunk_id)
    assert (row.cursor, row.items_done, lease.cursor) == ("a", 5, "a")


def stall(lease: Lease) -> None:
    raise Stall(StallCode.DELETE_GUARD, "too many", remedy="allow them")


def fail(lease: Lease) -> None:
    raise VaulthallaError("no", code="no_way", remedy="none")


def cancel(lease: Lease) -> None:
    request_cancel(lease.run_id)
    lease.renew()


@pytest.mark.parametrize(
    ("handlers", "status", "skipped"),
    [
        ([stall], RunStatus.STALLED, {"copy", "one"}),
        ([fail], RunStatus.FAILED, {"copy"}),
        ([cancel], RunStatus.CANCELLED, {"copy", "one"}),
        # The stronger verdict wins, whichever comes first.
        (
            [lambda lease: record_stall(lease.run_id, Stall(StallCode.INDEX_STALE, "x", remedy="")), fail],
            "failed",
            {"copy"},
        ),
    ],
    ids=["stall", "error", "cancel", "stall then error"],
)
def test_the_rest_is_skipped_and_the_run_still_finishes(
    vault: Vault, handle: Handle, handlers: list[Callable[[Lease], None]], status: str, skipped: set[str]
) -> None:
    names = ("one", "two")[: len(handlers)]
    for name, function in zip(names, handlers, strict=True):
        handle(name, function)
    finished: list[bool] = []
    handle("finish.sync", lambda lease: finished.append(True))
    run = drive(sync(vault, *map(chunk, names), chunk("copy", Phase.TRANSFER)).pk)
    assert run.status == status
    assert finished == [True]
    assert {kind for kind, state in statuses(run).items() if state == ChunkStatus.SKIPPED} == skipped


def test_a_stall_and_an_error_keep_code_and_remedy(vault: Vault, handle: Handle) -> None:
    handle("stall", stall)
    run = drive(sync(vault, chunk("stall")).pk)
    assert (run.stall_code, run.stall_reason, run.stall_remedy) == ("delete_guard", "too many", "allow them")
    handle("fail", fail)
    run = drive(sync(vault, chunk("fail")).pk)
    assert (run.error_code, run.error_message, run.error_remedy) == ("no_way", "no", "none")


def test_what_a_stopping_run_is_given_is_skipped(vault: Vault, handle: Handle) -> None:
    run = sync(vault, chunk("scan"), chunk("stall"))
    slow = claim(Queue.values, run_id=run.pk)
    handle("stall", stall)
    execute(claim(Queue.values, run_id=run.pk))  # type: ignore[arg-type]
    assert slow is not None
    with slow.commit():
        add_chunks(run.pk, [chunk("late")])
    handle("scan", lambda lease: Yield("more"))
    execute(slow)
    assert statuses(run) == {"scan": "skipped", "stall": "skipped", "late": "skipped", "finish.sync": "pending"}


def test_a_poison_chunk_runs_out_of_attempts(vault: Vault, handle: Handle) -> None:
    def poison(lease: Lease) -> None:
        attempts.append(lease.attempts)
        raise ValueError("two\nlines")

    attempts: list[int] = []
    handle("poison", poison)
    run = sync(vault, chunk("poison"), chunk("copy", Phase.TRANSFER))
    while (lease := claim([Queue.TRANSFER], run_id=run.pk)) is not None:
        execute(lease)
        row = run.chunks.get(kind="poison")
        assert row.status == ChunkStatus.FAILED or row.not_before > run.created_at
        run.chunks.update(not_before=run.created_at)
    assert attempts == [1, 2, 3, 4, 5]
    done = drive(run.pk)
    assert (done.status, done.error_code) == (RunStatus.FAILED, "chunk_failed")
    assert done.error_message == "A poison chunk failed 5 times: ValueError: two lines"


def test_a_kind_without_handler_fails_in_the_end(vault: Vault) -> None:
    run = sync(vault, chunk("unknown"))
    run.chunks.filter(kind="unknown").update(attempts=4)
    assert "No handler" in drive(run.pk).error_message


def test_a_second_sync_waits_and_a_third_joins_it(vault: Vault, handle: Handle) -> None:
    seen: list[int] = []
    handle("scan", lambda lease: seen.append(lease.run_id))
    first, second, third = (sync(vault, chunk("scan")) for _ in range(3))
    assert (first.status, second.status, third.pk) == (RunStatus.PLANNING, RunStatus.QUEUED, second.pk)
    assert drive(third.pk).status == RunStatus.SUCCESS
    assert seen == [first.pk, second.pk]
    assert {run.status for run in Run.objects.all()} == {RunStatus.SUCCESS}


def test_a_different_run_does_not_join(vault: Vault, handle: Handle) -> None:
    handle("scan", lambda lease: None)
    sync(vault, chunk("scan"))
    queued = sync(vault, chunk("scan"))
    with pytest.raises(Busy) as busy:
        create_run(vault, RunKind.FETCH, chunks=[chunk("scan")])
    assert busy.value.run_id == queued.pk
    run = attach_or_create(vault, RunKind.FETCH, chunks=[chunk("scan")])
    assert (run.status, Run.objects.get(pk=queued.pk).status) == (RunStatus.PLANNING, RunStatus.SUCCESS)


def test_snapshots_exclude_each_other_but_not_syncs(vault: Vault) -> None:
    sync(vault, chunk("scan"))
    reconcile = create_run(vault, RunKind.RECONCILE, chunks=[chunk("list")])
    assert reconcile.status == RunStatus.PLANNING
    assert create_run(vault, RunKind.RECONCILE, chunks=[chunk("list")]).pk == reconcile.pk
    with pytest.raises(Refused) as refused:
        create_run(vault, RunKind.INVENTORY, chunks=[chunk("import")])
    assert refused.value.code == "busy"


def test_a_queued_run_that_is_cancelled_never_begins(vault: Vault) -> None:
    first, second = sync(vault, chunk("scan")), sync(vault, chunk("scan"))
    assert request_cancel(second.pk).status == RunStatus.CANCELLED
    assert set(statuses(second).values()) == {ChunkStatus.SKIPPED}
    assert active_run(vault) == first


def test_a_cancelled_run_promotes_the_queued_one(vault: Vault, handle: Handle) -> None:
    handle("scan", lambda lease: None)
    first, second = sync(vault, chunk("scan")), sync(vault, chunk("scan"))
    assert request_cancel(first.pk).finished_at is None
    assert drive(first.pk).status == RunStatus.CANCELLED
    assert Run.objects.get(pk=second.pk).status == RunStatus.PLANNING


def test_finished_hooks_see_the_final_status_once(
    vault: Vault, handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, str, bool]] = []
    on_run_finished(lambda run: seen.append((run.pk, run.status, run.finished_at is not None)))
    handle("scan", lambda lease: None)
    run = sync(vault, chunk("scan"))
    drive(run.pk)
    drive(run.pk)
    assert seen == [(run.pk, RunStatus.SUCCESS, True)]


def test_an_inline_run_is_done_by_this_process(vault: Vault) -> None:
    seen: list[Lease] = []
    run = run_inline(None, RunKind.CHECK, seen.append)
    assert (run.status, run.kind, seen[0].vault_id) == (RunStatus.SUCCESS, RunKind.CHECK, None)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Refused("no"), RunStatus.FAILED),
        (Stall(StallCode.BUDGET_GET, "no", remedy=""), RunStatus.STALLED),
        (ValueError("no"), RunStatus.FAILED),
        (RunCancelled("no"), RunStatus.SUCCESS),
    ],
)
def test_an_inline_run_raises_what_its_function_raised(vault: Vault, error: Exception, status: str) -> None:
    def function(lease: Lease) -> None:
        raise error

    with pytest.raises(type(error)):
        run_inline(vault, RunKind.CHECK, function)
    assert Run.objects.get().status == status


def test_an_interrupted_inline_run_is_cancelled(vault: Vault) -> None:
    def function(lease: Lease) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_inline(vault, RunKind.CHECK, function)
    assert drive(Run.objects.get().pk).status == RunStatus.CANCELLED


def test_an_interrupt_gives_the_chunk_back_at_once(vault: Vault, handle: Handle) -> None:
    def interrupted(lease: Lease) -> None:
        raise KeyboardInterrupt

    handle("scan", interrupted)
    run = sync(vault, chunk("scan"))
    with pytest.raises(KeyboardInterrupt):
        drive(run.pk)
    row = run.chunks.get(kind="scan")
    assert (row.status, row.attempts) == (ChunkStatus.PENDING, 0)


def test_chunks_of_a_pool_wait_for_a_process_that_serves_it(vault: Vault) -> None:
    run = create_run(vault, RunKind.SYNC, chunks=[NewChunk("scan", Phase.SCAN, Queue.TRANSFER, pool="nas")])
    assert claim([Queue.TRANSFER], run_id=run.pk) is None
    assert claim([Queue.TRANSFER], pools=["other"]) is None
    assert claim([Queue.TRANSFER], pools=["other", "nas"]) is not None
