"""A program for a home of its own: its database is killed in the middle of a run, which ends right all the same."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from uuid import uuid4

import django

from vaulthalla import embedded


def kill_database() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        own = cursor.fetchone()
    os.kill(embedded.status()["postgresql"]["pid"], signal.SIGKILL)
    # A session may outlive its server for a moment, and commit.
    with suppress(ProcessLookupError):
        os.kill(own[0], signal.SIGKILL)


def main() -> None:
    embedded.ensure()
    django.setup()
    from vaulthalla.vaults.models import SyncPolicy, Vault, VaultKind
    from vaulthalla.work.engine import Lease, NewChunk, Phase, Yield, create_run, drive, handler
    from vaulthalla.work.models import Queue, RunKind

    @handler("test.count")
    def count(lease: Lease) -> Yield | None:
        if lease.cursor is None:
            return Yield(1)
        if lease.attempts == 1:
            kill_database()
        with lease.commit(items_done=1):
            pass
        return None

    vault = Vault.objects.create(name="docs", kind=VaultKind.LOCAL, root="/docs", replica="/copy", marker=uuid4())
    SyncPolicy.objects.create(vault=vault)
    chunks = [NewChunk("test.count", Phase.SCAN, Queue.TRANSFER, items=1)] * 2
    run = drive(create_run(vault, RunKind.SYNC, chunks=chunks).pk)
    items = list(run.chunks.filter(kind="test.count").values_list("attempts", "cursor", "items_done"))
    print(run.status, items)


if __name__ == "__main__":
    main()
