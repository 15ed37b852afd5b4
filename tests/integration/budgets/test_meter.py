"""Allotments: drawn, spent, settled, returned, lost; and never more than the limit."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection

from budgets.access import billed, budget_stall, lost, remaining, spent
from budgets.allotments import CHECK_LIMITS, limits_of, write_off
from budgets.meter import ChunkMeter
from budgets.models import Allotment, DaySpend, RunBudget
from budgets.share import Draw
from vaulthalla.errors import Refused
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import MeterRefused
from vaulthalla.vaults.models import ApiKey, Provider, SyncPolicy, Vault, VaultKind
from vaulthalla.work.engine import Lease, LeaseLost, NewChunk, Phase, Yield, claim, create_run, execute, handler
from vaulthalla.work.models import Chunk, Queue, Run, RunKind

GET, PUT, BYTES = RequestClass.GET, RequestClass.PUT, RequestClass.DOWNLOAD_BYTES

Start = Callable[..., Run]


@pytest.fixture
def vault(transactional_db: None) -> Vault:
    key = ApiKey.objects.create(name="key", provider=Provider.MINIO, secret="secret")
    vault = Vault.objects.create(
        name="my vault", kind=VaultKind.S3, root="/docs", api_key=key, bucket="bucket", marker=uuid4()
    )
    SyncPolicy.objects.create(vault=vault, budget_get=10, budget_put=None, budget_download_bytes=1000)
    return vault


@pytest.fixture
def start(vault: Vault) -> Start:
    """A run of `chunks` chunks."""

    def run(chunks: int = 1) -> Run:
        return create_run(vault, RunKind.SYNC, chunks=[NewChunk("work", Phase.TRANSFER, Queue.TRANSFER)] * chunks)

    return run


def leased(run: Run) -> Lease:
    lease = claim([Queue.TRANSFER], run_id=run.pk)
    assert lease is not None
    return lease


def end(lease: Lease, outcome: Yield | None = None) -> None:
    """Runs the engine's own end of a lease."""
    lease.kind = f"test.{uuid4().hex[:20]}"
    handler(lease.kind)(lambda _: outcome)
    execute(lease)


def row(run: Run, name: RequestClass = GET) -> tuple[int, int, int]:
    line = RunBudget.objects.get(run=run, request_class=name.value)
    return line.used, line.held, line.lost


def test_a_draw_is_held_then_used_then_returned(start: Start) -> None:
    run = start()
    meter = ChunkMeter(lease := leased(run))
    assert meter.draw(Requests({GET: 4}), Requests({GET: 1})) is Draw.DRAWN
    assert (row(run), meter.available(GET)) == ((0, 4, 0), 4)
    meter.attempt(GET)
    meter.attempt(GET)
    with lease.commit():
        meter.settle()
    assert (row(run), meter.available(GET), meter.spent) == ((2, 2, 0), 2, Requests())
    meter.attempt(GET)
    end(lease)
    assert (row(run), remaining(run.pk)[GET], spent(run.pk)[GET]) == ((3, 0, 0), 7, 3)
    assert not Allotment.objects.exists()


def test_an_unlimited_class_is_counted_all_the_same(start: Start) -> None:
    run = start()
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({PUT: 10**6}))
    meter.attempt(PUT)
    end(lease)
    assert (row(run, PUT), remaining(run.pk)[PUT]) == ((1, 0, 0), None)


def test_nothing_is_sent_without_an_allotment_or_under_a_lapsed_lease(start: Start) -> None:
    meter = ChunkMeter(lease := leased(start()))
    with pytest.raises(MeterRefused) as refused:
        meter.attempt(GET)
    assert refused.value.request_class is GET
    meter.draw(Requests({GET: 1}))
    lease.over()
    with pytest.raises(MeterRefused) as refused:
        meter.attempt(GET)
    assert (refused.value.request_class, meter.spent) == (None, Requests())


def test_bytes_beyond_the_allotment_stop_the_transfer(start: Start) -> None:
    run = start()
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 1, BYTES: 100}))
    meter.received(60)
    with pytest.raises(MeterRefused):
        meter.received(60)
    end(lease)
    assert row(run, BYTES) == (100, 0, 0)


def test_all_classes_are_drawn_or_none(start: Start) -> None:
    run = start()
    meter = ChunkMeter(leased(run))
    assert meter.draw(Requests({GET: 5, BYTES: 1001})) is Draw.EXHAUSTED
    assert (meter.exhausted, row(run), row(run, BYTES)) == (BYTES, (0, 0, 0), (0, 0, 0))
    assert meter.draw(Requests({GET: 5, BYTES: 1000})) is Draw.DRAWN
    assert meter.exhausted is None


def test_a_draw_waits_while_others_hold_what_may_come_back(start: Start) -> None:
    run = start(2)
    first, second = leased(run), leased(run)
    holder, asker = ChunkMeter(first), ChunkMeter(second)
    assert holder.draw(Requests({GET: 10})) is Draw.DRAWN
    assert asker.draw(Requests({GET: 1})) is Draw.WAIT
    for _ in range(9):
        holder.attempt(GET)
    end(first, Yield(None, delay=100))
    assert asker.draw(Requests({GET: 2})) is Draw.EXHAUSTED
    assert asker.draw(Requests({GET: 2}), Requests({GET: 1})) is Draw.DRAWN
    assert asker.available(GET) == 1
    # What it holds itself gives no hope.
    assert asker.draw(Requests({GET: 1})) is Draw.EXHAUSTED


def test_running_chunks_share(start: Start) -> None:
    run = start(3)
    meters = [ChunkMeter(leased(run)) for _ in range(3)]
    for meter in meters:
        meter.draw(Requests({GET: 10}), Requests({GET: 1}))
    assert [meter.available(GET) for meter in meters] == [3, 2, 1]  # 10/3, 7/3, 5/3


def test_the_allotment_of_a_dead_worker_is_lost(start: Start) -> None:
    run = start(2)
    first, second = leased(run), leased(run)
    dead, alive = ChunkMeter(first), ChunkMeter(second)
    dead.draw(Requests({GET: 10}))
    dead.attempt(GET)
    Chunk.objects.filter(pk=first.chunk_id).update(status="pending", lease_token=None, lease_until=None)
    assert alive.draw(Requests({GET: 1})) is Draw.EXHAUSTED
    assert (row(run), lost(run.pk)[GET]) == ((0, 0, 10), 10)
    with pytest.raises(LeaseLost):
        dead.draw(Requests({GET: 1}))
    end(first)
    write_off()
    assert row(run) == (0, 0, 10)


def test_a_rolled_back_settlement_is_made_again(start: Start) -> None:
    run = start()
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 5}))
    meter.attempt(GET)

    def commit_and_fail() -> None:
        with lease.commit():
            meter.settle()
            lease.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        commit_and_fail()
    assert (row(run), meter.spent[GET]) == ((0, 5, 0), 1)
    meter.attempt(GET)
    with lease.commit():
        meter.settle()
        meter.settle()
    assert row(run) == (2, 3, 0)


def test_a_last_commit_may_settle_and_close(start: Start) -> None:
    run = start()
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 5}))
    meter.attempt(GET)
    with lease.commit():
        meter.settle()
        meter.close()
    assert row(run) == (1, 0, 0)
    with pytest.raises(MeterRefused):
        meter.attempt(GET)
    end(lease)
    assert row(run) == (1, 0, 0)


def test_attempts_between_settlement_and_commit_are_kept(start: Start) -> None:
    run = start()
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 5}))
    meter.attempt(GET)
    with lease.commit():
        meter.settle()
        lease.flush()
        meter.attempt(GET)
    assert (row(run), meter.spent[GET]) == ((1, 4, 0), 1)
    end(lease)
    assert row(run) == (2, 0, 0)


def test_a_draw_inside_a_commit_is_a_mistake(start: Start) -> None:
    meter = ChunkMeter(lease := leased(start()))
    with pytest.raises(RuntimeError), lease.commit():
        meter.draw(Requests({GET: 1}))


def test_what_an_item_set_aside_is_its_own(start: Start) -> None:
    meter = ChunkMeter(leased(start()))
    meter.draw(Requests({GET: 3}))
    pot = meter.set_aside(Requests({GET: 2}))
    assert pot is not None
    assert (meter.set_aside(Requests({GET: 2})), meter.available(GET)) == (None, 1)
    meter.attempt(GET)
    with pytest.raises(MeterRefused):
        meter.attempt(GET)
    with pot:
        meter.attempt(GET)
    assert (meter.available(GET), meter.spent[GET]) == (1, 2)
    pot.release()
    assert meter.available(GET) == 1


def test_the_database_refuses_what_exceeds_a_limit(start: Start) -> None:
    line = RunBudget.objects.get(run=start(), request_class=GET.value)
    for change in ({"used": 11}, {"used": 5, "held": 5, "lost": 1}, {"held": -1}):
        with pytest.raises(IntegrityError):
            RunBudget.objects.filter(pk=line.pk).update(**change)


@contextmanager
def _own_connection() -> Iterator[None]:
    try:
        yield
    finally:
        connection.close()


@pytest.mark.parametrize("seed", range(3))
def test_eight_workers_spend_exactly_the_limit(start: Start, vault: Vault, seed: int) -> None:
    """Each leases, draws, sends, settles, yields or dies at random; the CHECK constraint watches every commit."""
    SyncPolicy.objects.filter(vault=vault).update(budget_get=300)
    run = start(8)
    sent: list[int] = [0] * 8
    dead: list[int] = [0] * 8
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        chance = random.Random(f"{seed}.{number}")
        with _own_connection():
            barrier.wait()
            while (lease := claim([Queue.TRANSFER], run_id=run.pk)) is not None:
                meter = ChunkMeter(lease)
                answer = meter.draw(Requests({GET: chance.randint(1, 60)}), Requests({GET: 1}))
                if answer is Draw.EXHAUSTED:
                    end(lease)
                    continue
                for _ in range(chance.randint(0, meter.available(GET))):
                    meter.attempt(GET)
                    sent[number] += 1
                    if chance.random() < 0.1:
                        with lease.commit():
                            meter.settle()
                if chance.random() < 0.05:
                    dead[number] += meter.available(GET) + meter.spent[GET]
                    Chunk.objects.filter(lease_token=lease.token).update(
                        status="pending", lease_token=None, lease_until=None
                    )
                    write_off()
                else:
                    end(lease, Yield(None))

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, number) for number in range(8)]:
            future.result()
    used, held, gone = row(run)
    assert (used + gone, held) == (300, 0)
    assert used <= sum(sent) <= used + gone
    assert gone == sum(dead)
    if not gone:
        assert sum(sent) == 300


def test_a_check_has_small_limits_and_a_local_vault_none(vault: Vault) -> None:
    assert limits_of(Run(vault=vault, kind=RunKind.CHECK)) == CHECK_LIMITS
    assert limits_of(Run(vault=None, kind=RunKind.CHECK)) == CHECK_LIMITS
    local = Vault.objects.create(name="local", kind=VaultKind.LOCAL, root="/a", replica="/b", marker=uuid4())
    assert set(limits_of(Run(vault=local, kind=RunKind.SYNC)).values()) == {None}


def test_a_run_may_override_single_limits(vault: Vault) -> None:
    options = {"limits": {"get": None, "download_bytes": 5}}
    limits = limits_of(Run(vault=vault, kind=RunKind.SYNC, options=options))
    assert (limits[GET], limits[BYTES], limits[RequestClass.LIST]) == (None, 5, 100)
    with pytest.raises(Refused):
        limits_of(Run(vault=vault, kind=RunKind.SYNC, options={"limits": {"gets": 1}}))


@pytest.mark.parametrize(
    ("name", "planned", "code", "remedy"),
    [
        (GET, 512, "budget_get", "vh vault sync set 'my vault' --s3-budget-get 512"),
        (GET, None, "budget_get", "vh vault sync set 'my vault' --s3-budget-get 20"),
        (GET, 7, "budget_get", "vh vault sync set 'my vault' --s3-budget-get 20"),
        (BYTES, 5000, "budget_download_bytes", "vh vault sync set 'my vault' --s3-budget-download-bytes 5000"),
    ],
)
def test_a_stall_names_the_exact_command(
    start: Start, name: RequestClass, planned: int | None, code: str, remedy: str
) -> None:
    stall = budget_stall(start().pk, name, planned=Requests({name: planned} if planned else {}))
    assert (stall.code, stall.remedy) == (code, remedy)


def test_the_remedy_names_every_field_that_the_plan_exceeds(start: Start, vault: Vault) -> None:
    SyncPolicy.objects.filter(vault=vault).update(budget_put=3, budget_delete=1, budget_copy=5)
    planned = Requests({GET: 12, PUT: 6, RequestClass.DELETE: 3, RequestClass.COPY: 5, BYTES: 5000})
    stall = budget_stall(start().pk, PUT, planned=planned)
    assert (stall.code, "the plan needs 6" in stall.message) == ("budget_put", True)
    assert stall.remedy == (
        "vh vault sync set 'my vault' --s3-budget-get 12 --s3-budget-put 6 --s3-budget-delete 3"
        " --s3-budget-download-bytes 5000"
    )


def test_the_remedy_of_a_zero_limit_allows_something(start: Start, vault: Vault) -> None:
    SyncPolicy.objects.filter(vault=vault).update(budget_list=0)
    assert budget_stall(start().pk, RequestClass.LIST).remedy.endswith("--s3-budget-list 1")


def billed_by(provider: Provider, vault: Vault) -> None:
    assert vault.api_key is not None
    vault.api_key.provider = provider
    vault.api_key.save()


def unbilled(run: Run) -> list[tuple[int, int]]:
    return list(DaySpend.objects.filter(run_id=run.pk, request_class=GET.value).values_list("used", "unbilled"))


@pytest.mark.parametrize(
    ("provider", "status", "free"),
    [
        *((Provider.AWS, status, 0) for status in (200, 304, 401, 403, 404, 412)),
        *((Provider.AWS, status, 1) for status in (500, 503)),
        *((Provider.CLOUDFLARE_R2, status, 0) for status in (200, 404, 412, 503)),
        *((Provider.CLOUDFLARE_R2, status, 1) for status in (401, 403)),
        (Provider.MINIO, 503, 0),
    ],
)
def test_what_is_not_billed_counts(start: Start, vault: Vault, provider: Provider, status: int, free: int) -> None:
    billed_by(provider, vault)
    run = start()
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 5}))
    meter.attempt(GET)
    meter.answered(GET, status)
    meter.attempt(GET)
    end(lease)
    assert (row(run), unbilled(run)) == ((2, 0, 0), [(2, free)])
    assert (spent(run.pk)[GET], billed(run.pk)[GET]) == (2, 2 - free)


def test_an_answer_may_come_after_its_attempt_was_settled(start: Start, vault: Vault) -> None:
    billed_by(Provider.AWS, vault)
    run = start()
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 5}))
    meter.attempt(GET)
    with lease.commit():
        meter.settle()
    meter.answered(GET, 503)
    with lease.commit():
        meter.settle()
        meter.settle()
    assert unbilled(run) == [(1, 1)]
    end(lease)
    assert unbilled(run) == [(1, 1)]
