"""Claiming a chunk, running its handler, and recording what came of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import assert_never
from uuid import uuid4

from django.conf import settings
from django.db import connection, transaction

from vaulthalla.errors import Stall, VaulthallaError
from vaulthalla.work import doorbell, outage, process, registry, runs, sql
from vaulthalla.work.lease import Lease
from vaulthalla.work.models import ChunkStatus, Run
from vaulthalla.work.phases import Phase
from vaulthalla.work.values import LeaseLost, RunCancelled, Yield

logger = logging.getLogger(__name__)

MOST_ATTEMPTS = 5
FIRST_BACKOFF = 5.0
# The chunk is hardly to blame, but a query that crashes its server must run out of attempts, too.
OUTAGE_BACKOFF = 0.2


@dataclass(frozen=True, slots=True)
class Done:
    """The handler returned."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The run must stop: the chunk's own status, and what is remembered of the reason."""

    error: VaulthallaError | None
    status: ChunkStatus


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The chunk goes back as it was: no attempt, no progress."""


@dataclass(frozen=True, slots=True)
class Crashed:
    """The handler raised what it should not have; tried again after `backoff` s, then twice that."""

    error: BaseException
    backoff: float


Outcome = Done | Yield | Stopped | Interrupted | Crashed


def claim(queues: Iterable[str], *, pools: Sequence[str] | None = None, run_id: int | None = None) -> Lease | None:
    """Leases the oldest claimable chunk of the first queue that has one; None when none has.

    `pools`: besides chunks that any process may do, those of these pools (default: settings.POOLS and this host's).
    """
    names = ["", *((process.host_pool(), *settings.POOLS) if pools is None else pools)]
    for queue in queues:
        token, asked_at = uuid4(), monotonic()
        row = sql.claim(
            str(queue),
            pools=names,
            run_id=run_id,
            token=token,
            seconds=settings.LEASE_SECONDS,
            worker=process.own_name(),
        )
        if row is not None:
            return Lease(row, token, claimed_at=asked_at)
    return None


def execute(lease: Lease) -> None:
    """Runs the chunk's handler and records the outcome, waiting out a database that is away.

    Raises only what must end the process (KeyboardInterrupt, SystemExit), after giving the chunk back, and a
    database that stays away.
    """
    perform(lease, registry.handler_of)


def perform(lease: Lease, find: Callable[[str], registry.Handler]) -> Outcome:
    """`execute` with the handler found by `find`; also returns the outcome."""
    outcome: Outcome = Interrupted()
    try:
        outcome = _run(lease, find)
    finally:
        # Also on the way out of a KeyboardInterrupt: others may go on with the chunk at once.
        _record_through_outages(lease, outcome)
    return outcome


def _run(lease: Lease, find: Callable[[str], registry.Handler]) -> Outcome:
    try:
        return find(lease.kind)(lease) or Done()
    except LeaseLost as error:
        logger.info("%s", error)
        return Interrupted()  # recording it finds the lease gone
    except RunCancelled:
        return Stopped(None, ChunkStatus.SKIPPED)
    except VaulthallaError as error:
        return Stopped(error, ChunkStatus.SKIPPED if isinstance(error, Stall) else ChunkStatus.FAILED)
    except Exception as error:  # whatever it is, the chunk gets its attempts, and then the run an end
        return _crashed(lease, error)


def _crashed(lease: Lease, error: Exception) -> Crashed:
    if outage.is_outage(error) or outage.is_contention(error):
        logger.info("Chunk %s goes back: %s", lease.chunk_id, error)
        return Crashed(error, OUTAGE_BACKOFF)
    logger.warning("Chunk %s (%s) of run %s raised", lease.chunk_id, lease.kind, lease.run_id, exc_info=error)
    return Crashed(error, FIRST_BACKOFF)


def _record_through_outages(lease: Lease, outcome: Outcome) -> None:
    if connection.connection is not None and not connection.in_atomic_block and connection.connection.closed:
        connection.close()
    try:
        outage.through(lambda: record(lease, outcome))
    except LeaseLost as error:
        # Taken over, or recorded by a commit whose answer was lost.
        logger.info("%s", error)
    finally:
        lease.over()


def record(lease: Lease, outcome: Outcome) -> None:
    """The last transaction of a lease. Locks chunk, run, budgets, in this order. Raises LeaseLost."""
    with lease.transaction():
        if not _release(lease, outcome):
            raise lease.lost()
        run = runs.lock(lease.run_id)
        lease.settle()
        _move(run, lease, outcome)


def _release(lease: Lease, outcome: Outcome) -> bool:
    """The chunk's own row."""
    chunk, token = lease.chunk_id, lease.token
    match outcome:
        case Done():
            return sql.end_chunk(chunk, token, status=ChunkStatus.DONE)
        case Yield():
            return sql.release_chunk(chunk, token, delay=outcome.delay, progress=True, cursor=outcome.cursor)
        case Stopped():
            error = outcome.error.message if outcome.error else ""
            return sql.end_chunk(chunk, token, status=outcome.status, error=error)
        case Interrupted():
            return sql.release_chunk(chunk, token, delay=0, counted=False)
        case Crashed() if lease.attempts >= MOST_ATTEMPTS:
            return sql.end_chunk(chunk, token, status=ChunkStatus.FAILED, error=one_line(outcome.error))
        case Crashed():
            return sql.release_chunk(chunk, token, delay=_delay(lease, outcome), error=one_line(outcome.error))
        case _:
            assert_never(outcome)


def _move(run: Run, lease: Lease, outcome: Outcome) -> None:
    """What the outcome means for the run, whose lock is held."""
    match outcome:
        case Stopped():
            _stop(run, outcome.error)
        case Crashed() if lease.attempts >= MOST_ATTEMPTS:
            _stop(run, chunk_failed(lease.kind, lease.attempts, one_line(outcome.error)))
        case Yield() | Interrupted() | Crashed():
            _go_on(run, lease, _delay(lease, outcome))
        case Done():
            runs.advance(run)
        case _:
            assert_never(outcome)


def _delay(lease: Lease, outcome: Yield | Interrupted | Crashed) -> float:
    """Seconds until the chunk may be claimed again."""
    match outcome:
        case Yield():
            return outcome.delay
        case Interrupted():
            return 0
        case Crashed():
            return float(outcome.backoff * 2 ** (lease.attempts - 1))
        case _:
            assert_never(outcome)


def _go_on(run: Run, lease: Lease, delay: float) -> None:
    """Rings for a chunk that went back to pending, unless its run has begun to stop meanwhile."""
    if run.stopping and lease.phase != Phase.FINISH:
        runs.stop(run)
        runs.advance(run)
    else:
        transaction.on_commit(lambda: doorbell.ring({lease.queue: 1}, delay=delay))


def _stop(run: Run, error: VaulthallaError | None) -> None:
    if isinstance(error, Stall):
        runs.record_stall(run.pk, error)
    elif error is not None:
        runs.record_error(run.pk, error)
    run.refresh_from_db()
    runs.stop(run)
    runs.advance(run)


def chunk_failed(kind: str, attempts: int, reason: str) -> VaulthallaError:
    """The run's error once a chunk has used up its attempts."""
    return VaulthallaError(f"A {kind} chunk failed {attempts} times: {reason}", code="chunk_failed")


def one_line(error: BaseException) -> str:
    """The exception as one short line, for a row and for people."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__
