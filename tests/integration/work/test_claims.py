"""Many workers, one queue: every chunk is done once, by whoever holds its lease."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from vaulthalla.vaults.models import Vault
from vaulthalla.work import lease as leases
from vaulthalla.work import sql
from vaulthalla.work.engine import (
    Lease,
    LeaseLost,
    NewChunk,
    Phase,
    RunCancelled,
    Yield,
    claim,
    create_run,
    drive,
    execute,
    on_run_finished,
    on_sweep,
    request_cancel,
    sweep,
)
from vaulthalla.work.models import Chunk, ChunkStatus, Queue, Run, RunKind, RunStatus

Handle = Callable[..., None]


def start(vault: Vault, count: int = 1, kind: str = "scan") -> Run:
    return create_run(vault, RunKind.SYNC, chunks=[NewChunk(kind, Phase.SCAN, Queue.TRANSFER)] * count)


def claimed(run: Run) -> Lease:
    lease = claim(Queue.values, run_id=run.pk)
    assert lease is not None
    return lease


def let_lapse(lease: Lease) -> None:
    """As if its minute were over."""
    Chunk.objects.filter(pk=lease.chunk_id).update(lease_until="2000-01-01T00:00:00Z")


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Each on a thread and a connection of its own, started together; their results."""
    barrier = threading.Barrier(len(actions))

    def act(action: Callable[[], Any]) -> Any:
        try:
            barrier.wait()
            return action()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result() for future in [pool.submit(act, action) for action in actions]]


def test_eight_claimants_never_share_a_chunk(vault: Vault) -> None:
    run = start(vault, 100)

    def take_all() -> list[int]:
        taken = []
        while (lease := claim([Queue.TRANSFER])) is not None:
            taken.append(lease.chunk_id)
        return taken

    taken = Counter(chunk for part in at_once(*[take_all] * 8) for chunk in part)
    assert (len(taken), set(taken.values())) == (100, {1})
    assert run.chunks.filter(status=ChunkStatus.RUNNING).count() == 100


def test_four_drivers_do_every_chunk_once(vault: Vault, handle: Handle) -> None:
    done: list[int] = []
    handle("scan", lambda lease: done.append(lease.chunk_id))
    handle("finish.sync", lambda lease: done.append(-1))
    run = start(vault, 40)
    ends = at_once(*[lambda: drive(run.pk).status] * 4)
    assert set(ends) == {RunStatus.SUCCESS}
    assert (len(done), len(set(done)), done[-1]) == (41, 41, -1)


def test_chunks_are_claimed_in_order(vault: Vault) -> None:
    run = start(vault, 3)
    ordinals = [Chunk.objects.get(pk=claimed(run).chunk_id).ordinal for _ in range(3)]
    assert ordinals == [1, 2, 3]


def test_of_two_executions_the_one_without_lease_records_nothing(vault: Vault, handle: Handle) -> None:
    run = start(vault)
    first = claimed(run)
    let_lapse(first)
    assert sweep().retaken == 1
    second = claimed(run)
    assert (second.chunk_id, second.attempts) == (first.chunk_id, 2)
    with pytest.raises(LeaseLost), first.commit(cursor="stale", items_done=1):
        Vault.objects.update(description="stale")
    with pytest.raises(LeaseLost):
        first.renew()
    assert first.lapsed
    handle("scan", lambda lease: Yield("stale"))
    execute(first)
    with second.commit(cursor="fresh"):
        pass
    row = Chunk.objects.get(pk=first.chunk_id)
    assert (row.status, row.cursor, row.items_done, row.lease_token) == ("running", "fresh", 0, second.token)
    assert Vault.objects.get().description == ""


def test_the_last_finishers_close_the_run_once(vault: Vault, handle: Handle) -> None:
    """Both finish the last phase at the same moment, twenty times."""
    closed: list[int] = []
    on_run_finished(lambda run: closed.append(run.pk))
    handle("last", lambda lease: None)
    for _ in range(20):
        run = create_run(vault, RunKind.SYNC, chunks=[NewChunk("last", Phase.FINISH, Queue.CONTROL)])
        one, other = claimed(run), claimed(run)
        at_once(lambda one=one: execute(one), lambda other=other: execute(other))  # type: ignore[misc]
        assert Run.objects.get(pk=run.pk).status == RunStatus.SUCCESS
    assert len(closed) == len(set(closed)) == 20


def test_the_last_finishers_of_a_phase_open_the_next_one(vault: Vault, handle: Handle) -> None:
    handle("scan", lambda lease: None)
    for _ in range(10):
        run = start(vault, 2)
        one, other = claimed(run), claimed(run)
        at_once(lambda one=one: execute(one), lambda other=other: execute(other))  # type: ignore[misc]
        assert run.chunks.get(phase=Phase.FINISH).status == ChunkStatus.PENDING
        drive(run.pk)


def test_the_sweeper_takes_back_what_lapsed_and_nothing_else(vault: Vault) -> None:
    run = start(vault, 2)
    dead, alive = claimed(run), claimed(run)
    let_lapse(dead)
    assert (sweep().retaken, sweep().retaken) == (1, 0)
    assert Chunk.objects.get(pk=dead.chunk_id).status == ChunkStatus.PENDING
    alive.renew()


def test_a_chunk_that_kills_its_workers_is_given_up(vault: Vault, handle: Handle) -> None:
    run = start(vault, 2)
    handle("scan", lambda lease: None)
    for attempt in range(1, 6):
        killer = claimed(run)
        assert killer.attempts == attempt
        let_lapse(killer)
        report = sweep()
        assert (report.retaken, report.failed) == ((1, 0) if attempt < 5 else (0, 1))
    done = drive(run.pk)
    assert (done.status, done.error_code) == (RunStatus.FAILED, "chunk_failed")


def test_sweepers_at_once_take_each_chunk_back_once(vault: Vault) -> None:
    run = start(vault, 20)
    for _ in range(20):
        let_lapse(claimed(run))
    assert sum(report.retaken for report in at_once(*[sweep] * 4)) == 20


def test_a_driver_needs_no_sweeper_to_outlive_a_dead_worker(vault: Vault, handle: Handle) -> None:
    run = start(vault)
    let_lapse(claimed(run))
    handle("scan", lambda lease: None)
    assert drive(run.pk).status == RunStatus.SUCCESS


def test_a_sweep_starts_a_queued_run_that_was_forgotten(vault: Vault) -> None:
    start(vault)
    queued = start(vault)
    # The active run vanished without promoting anybody: an operator deleted its row.
    Run.objects.exclude(pk=queued.pk).delete()
    assert sweep().promoted == 1
    assert Run.objects.get().status == RunStatus.PLANNING


def test_a_sweep_rings_for_what_can_be_claimed(vault: Vault) -> None:
    run = start(vault, 3)
    claimed(run)
    run.chunks.filter(status="pending", ordinal=2).update(not_before="2100-01-01T00:00:00Z")
    assert sweep().ringing == {"transfer": 1}


def test_hooks_run_after_each_sweep(vault: Vault) -> None:
    swept: list[bool] = []
    on_sweep(lambda: swept.append(True))
    sweep()
    assert swept == [True]


def test_a_cancelled_run_reaches_its_handlers_when_they_renew(vault: Vault) -> None:
    run = start(vault)
    lease = claimed(run)
    lease.keep()
    request_cancel(run.pk)
    with pytest.raises(RunCancelled):
        lease.renew()


def test_a_lease_is_kept_only_when_it_is_time(vault: Vault, django_assert_num_queries: Any) -> None:
    lease = claimed(start(vault))
    with django_assert_num_queries(0):
        lease.keep()
    lease._renew_at = 0
    before = lease.lapses_at
    with django_assert_num_queries(1):
        lease.keep()
    assert lease.lapses_at > before


def test_a_process_that_must_end_finds_every_chunk_overdue(vault: Vault, handle: Handle) -> None:
    def last(lease: Lease) -> Yield:
        leases.shutdown.set()
        assert lease.overdue
        return Yield("here")

    handle("scan", last)
    run = drive(start(vault).pk)
    assert (run.status, run.chunks.get(kind="scan").cursor) == (RunStatus.PLANNING, "here")


def nodes_of(root: dict[str, Any]) -> list[dict[str, Any]]:
    """A node of a plan with all that is below it, flat."""
    nodes = [root]
    for node in nodes:
        nodes.extend(node.get("Plans", []))
    return nodes


def plan_of(statement: str) -> list[dict[str, Any]]:
    """The nodes of a plan, flat."""
    values: dict[str, Any] = {
        "token": uuid4(),
        "seconds": 60,
        "worker": "",
        "queue": "transfer",
        "pools": [""],
        "run": 3,
    }
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
        return nodes_of(cursor.fetchone()[0][0]["Plan"])


@pytest.mark.parametrize("statement", [sql.CLAIM_OF_ANY, sql.CLAIM_OF_RUN], ids=["any run", "one run"])
def test_a_claim_reads_one_row_of_its_index(vault: Vault, statement: str) -> None:
    """However many chunks wait, and however many runs are over."""
    Run.objects.bulk_create(
        Run(pk=number, vault=vault, kind=RunKind.SYNC, status=RunStatus.SUCCESS) for number in range(1, 5)
    )
    with connection.cursor() as cursor:
        cursor.execute("""
            INSERT INTO work_chunk (run_id, ordinal, phase, kind, queue, pool, status, attempts, worker, payload,
                                    items_total, items_done, error)
            SELECT 1 + n % 4, n, 50, 'copy', CASE WHEN n % 5 = 0 THEN 'index' ELSE 'transfer' END, '',
                   CASE WHEN n % 3 = 0 THEN 'done' ELSE 'pending' END, 0, '', '{}', 0, 0, ''
              FROM generate_series(1, 20000) AS n
        """)
        cursor.execute("ANALYZE work_chunk")
    nodes = plan_of(statement)
    assert not [n for n in nodes if n["Node Type"] == "Seq Scan" and n["Relation Name"] == "work_chunk"]
    [choice] = [node for node in nodes if node.get("Parent Relationship") == "InitPlan"]
    choosing = nodes_of(choice)
    [scan] = [node for node in choosing if node.get("Index Name") == "chunk_pending"]
    assert (scan["Node Type"], scan["Actual Rows"]) == ("Index Scan", 1)
    assert not [node for node in choosing if node["Node Type"] == "Sort"], "the index gives the order"


def test_the_database_refuses_a_running_chunk_without_lease(vault: Vault) -> None:
    from django.db import IntegrityError

    run = start(vault)
    with pytest.raises(IntegrityError):
        run.chunks.update(status=ChunkStatus.RUNNING)
