"""Real worker processes: helpers of a command, and Celery's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from django.db import connection

from tests.integration.work import handlers
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import NewChunk, Phase, create_run, drive
from vaulthalla.work.models import Chunk, ChunkStatus, Queue, Run, RunKind, RunStatus

Handle = Callable[..., None]
PATIENCE_SECONDS = 60
WORKER_SETTINGS = "tests.integration.work.worker_settings"


def environment() -> dict[str, str]:
    """Of a process that works on this test's database."""
    database = connection.settings_dict
    address = f"postgres://{database['USER']}@/{database['NAME']}?host={quote(database['HOST'], safe='/')}"
    return {**os.environ, "DATABASE_URL": address, "DJANGO_SETTINGS_MODULE": WORKER_SETTINGS}


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-m", *arguments], env=environment())
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "It never happened."
        threading.Event().wait(0.05)


def start(vault: Vault, kind: str, count: int = 1) -> Run:
    return create_run(vault, RunKind.SYNC, chunks=[NewChunk(kind, Phase.SCAN, Queue.TRANSFER)] * count)


def test_a_helper_works_on_its_run_to_the_end(vault: Vault) -> None:
    run = start(vault, "test.note", 3)
    with process("vaulthalla.worker", "--run", str(run.pk)) as helper:
        assert helper.wait(PATIENCE_SECONDS) == 0
        assert set(run.chunks.filter(kind="test.note").values_list("cursor", flat=True)) == {helper.pid}
    assert Run.objects.get(pk=run.pk).status == RunStatus.SUCCESS


def test_a_helper_told_to_end_leaves_its_chunk_in_order(vault: Vault) -> None:
    run = start(vault, "test.long")
    with process("vaulthalla.worker", "--run", str(run.pk)) as helper:
        wait_for(lambda: run.chunks.filter(cursor="begun").exists())
        helper.send_signal(signal.SIGTERM)
        assert helper.wait(PATIENCE_SECONDS) == 0
    chunk = run.chunks.get(kind="test.long")
    assert (chunk.status, chunk.cursor) == (ChunkStatus.PENDING, "more")


def test_a_killed_helper_costs_the_run_nothing(vault: Vault, handle: Handle) -> None:
    run = start(vault, "test.die")
    with process("vaulthalla.worker", "--run", str(run.pk)) as helper:
        assert helper.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    chunk = run.chunks.get(kind="test.die")
    assert (chunk.status, chunk.cursor) == (ChunkStatus.RUNNING, "half-way")
    Chunk.objects.filter(pk=chunk.pk).update(lease_until="2000-01-01T00:00:00Z")
    handle("test.die", handlers.die)
    assert drive(run.pk).status == RunStatus.SUCCESS


def test_a_driver_starts_helpers_when_there_is_enough_to_do(
    vault: Vault, handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    run = start(vault, "test.note", 4)

    def wait_for_the_helper(lease: object) -> None:
        others = run.chunks.filter(kind="test.note", status=ChunkStatus.DONE)
        wait_for(lambda: others.count() == 3)

    handle("test.note", wait_for_the_helper)
    assert drive(run.pk, helpers=1).status == RunStatus.SUCCESS
    assert run.chunks.filter(kind="test.note", cursor__isnull=False, attempts=1).count() == 3
    assert run.chunks.filter(attempts=1).count() == 5


def test_a_doorbell_wakes_a_celery_worker(vault: Vault) -> None:
    options = ["-Q", "control,transfer", "-c", "1", "--without-gossip", "--without-mingle", "-l", "ERROR"]
    with process("celery", "-A", "vaulthalla", "worker", *options):
        run = start(vault, "test.note", 3)
        wait_for(lambda: Run.objects.filter(pk=run.pk, status=RunStatus.SUCCESS).exists())


def test_a_run_outlives_the_kill_of_its_database() -> None:
    home = tempfile.mkdtemp(prefix="vaulthalla-killed-")
    os.chmod(home, 0o711)  # the servers run as somebody else
    inherited = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    own = {**inherited, "VAULTHALLA_HOME": f"{home}/home", "DJANGO_SETTINGS_MODULE": WORKER_SETTINGS}
    try:
        module = "tests.integration.work.killed_database"
        answer = subprocess.run([sys.executable, "-m", module], env=own, capture_output=True, text=True, check=False)
        assert (answer.stdout, answer.returncode) == ("success [(2, 1, 1), (2, 1, 1)]\n", 0), answer.stderr
    finally:
        subprocess.run([sys.executable, "-c", "from vaulthalla import embedded; embedded.down()"], env=own, check=True)
        shutil.rmtree(home, ignore_errors=True)
