"""A database that goes away for a moment costs a chunk an attempt, and a run nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import InterfaceError, OperationalError, connection

from vaulthalla.vaults.models import Vault
from vaulthalla.work import outage
from vaulthalla.work.engine import Lease, NewChunk, Phase, create_run, drive
from vaulthalla.work.models import Chunk, Queue, Run, RunKind, RunStatus

Handle = Callable[..., None]


def cut_the_connection() -> None:
    """As a server that is killed does to its clients."""
    with psycopg.connect(**connection.get_connection_params()) as other, connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        other.execute("SELECT pg_terminate_backend(%s, 2000)", cursor.fetchone())


def start(vault: Vault) -> Run:
    return create_run(vault, RunKind.SYNC, chunks=[NewChunk("scan", Phase.SCAN, Queue.TRANSFER)])


def test_a_connection_lost_inside_a_handler(vault: Vault, handle: Handle) -> None:
    attempts: list[int] = []

    def scan(lease: Lease) -> None:
        attempts.append(lease.attempts)
        if len(attempts) == 1:
            cut_the_connection()
        with lease.commit(cursor="done"):
            pass

    handle("scan", scan)
    assert drive(start(vault).pk).status == RunStatus.SUCCESS
    assert attempts == [1, 2]


def test_a_connection_lost_between_the_last_commit_and_the_end(vault: Vault, handle: Handle) -> None:
    attempts: list[int] = []

    def scan(lease: Lease) -> None:
        attempts.append(lease.attempts)
        cut_the_connection()

    handle("scan", scan)
    assert drive(start(vault).pk).status == RunStatus.SUCCESS
    assert attempts == [1]


def test_a_connection_lost_while_nothing_is_done(vault: Vault, handle: Handle) -> None:
    handle("scan", lambda lease: None)
    run = start(vault)
    cut_the_connection()
    assert drive(run.pk).status == RunStatus.SUCCESS


class State(Exception):
    def __init__(self, sqlstate: str | None) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("kind", "state", "away", "contended"),
    [
        (OperationalError, None, True, False),  # no answer at all
        (InterfaceError, None, True, False),  # used after it was closed
        (OperationalError, "08006", True, False),  # connection failure
        (OperationalError, "57P01", True, False),  # shut down by its administrator
        (OperationalError, "57P03", True, False),  # starting up
        (OperationalError, "53300", True, False),  # too many connections
        (OperationalError, "40P01", False, True),  # deadlock
        (OperationalError, "55P03", False, True),  # lock not granted in time
        (OperationalError, "53100", False, False),  # disk full
        (ValueError, None, False, False),
    ],
)
def test_which_errors_are_waited_out(kind: type[Exception], state: str | None, away: bool, contended: bool) -> None:
    error = kind("x")
    error.__cause__ = State(state)
    assert (outage.is_outage(error), outage.is_contention(error)) == (away, contended)


def test_a_commit_waits_for_whoever_holds_what_it_writes(vault: Vault, handle: Handle) -> None:
    """An import holds a vault's index for minutes; what a chunk did meanwhile must not be lost for that."""
    over = threading.Event()

    def let_go_when_waited_for(holder: psycopg.Connection) -> None:
        waiting = "SELECT FROM pg_locks WHERE NOT granted AND waitstart < clock_timestamp() - interval '10 ms'"
        with psycopg.connect(**connection.get_connection_params(), autocommit=True) as watcher:
            while not (over.is_set() or watcher.execute(waiting).fetchall()):
                pass
        holder.rollback()

    def scan(lease: Lease) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '1ms'")
        with psycopg.connect(**connection.get_connection_params()) as holder, ThreadPoolExecutor() as pool:
            holder.execute("SELECT FROM vaults_vault WHERE id = %s FOR UPDATE", [vault.pk])
            released = pool.submit(let_go_when_waited_for, holder)
            try:
                with lease.commit(cursor="done"):
                    Vault.objects.filter(pk=vault.pk).update(description="written")
            finally:
                over.set()
            released.result()

    handle("scan", scan)
    run = drive(start(vault).pk)
    assert (run.status, Chunk.objects.get(run=run, phase=Phase.SCAN).attempts) == (RunStatus.SUCCESS, 1)
    vault.refresh_from_db()
    assert vault.description == "written"


def test_the_server_finds_out_that_a_client_is_gone(vault: Vault) -> None:
    """What a killed worker was doing keeps its locks until then, so that nobody can take its chunk."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW client_connection_check_interval")
        assert cursor.fetchone() == ("10s",)
