"""Workers and beat as the Procfile starts them, on a home of their own: they need no command to finish a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from tests.acceptance.faults.world import VH, World, wait_for
from tests.acceptance.processes import Processes
from tests.support.proxy import Fault, Proxy
from tests.support.servers import S3Server

pytestmark = pytest.mark.xdist_group("workers")

WORKERS = ("control", "index", "transfer")
PATIENCE_SECONDS = 50


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix="vaulthalla-workers-"))
    # The servers do not run as root, so they must be able to pass through.
    scratch.chmod(0o711)
    yield scratch / "home"
    own = {n: v for n, v in os.environ.items() if n not in ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")}
    subprocess.run([VH, "down"], env={**own, "VAULTHALLA_HOME": str(scratch / "home")}, check=False)
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server("roto") as server:
        yield server


@pytest.fixture
def world(home: Path, server: S3Server, tmp_path: Path) -> Iterator[World]:
    with Proxy(server.endpoint) as proxy:
        bucket = f"b-{uuid4().hex[:12]}"
        world = World(home=home, root=tmp_path / "photos", server=server, proxy=proxy, bucket=bucket)
        world.create("--disable")
        yield world


@pytest.fixture(scope="module")
def processes(home: Path) -> Iterator[Processes]:
    """One pool for all tests here: starting takes seconds."""
    inherited = World(home=home, root=home, server=None, proxy=None, bucket="").variables  # type: ignore[arg-type]
    one_each = {"VAULTHALLA_CONTROL": "1", "VAULTHALLA_INDEX": "1", "VAULTHALLA_TRANSFER": "1"}
    with Processes(environment={**inherited, **one_each}) as processes:
        yield processes


def files(count: int) -> dict[str, bytes]:
    return {f"dir/{number}.txt": b"x" * number for number in range(count)}


def newest(world: World) -> Any:
    runs = world.expect(0, "vault", "sync", "history", world.name, "--limit", "1")["runs"]
    return runs[0] if runs else {"status": None, "run": None}


def ended(world: World, status: str = "success") -> Any:
    """The newest run, once it is over."""
    run = wait_for(lambda: (run := newest(world))["status"] == status and run, seconds=PATIENCE_SECONDS)
    assert world.files() == world.objects()
    return run


def hasten(world: World, task: str) -> None:
    """Makes a tick due at once, as if beat had been away for a day."""
    with world.database() as connection:
        connection.execute(
            "UPDATE django_celery_beat_periodictask SET last_run_at = now() - interval '1 day' WHERE task = %s", [task]
        )
        connection.execute("UPDATE django_celery_beat_periodictasks SET last_update = now()")


def forget_messages(world: World) -> None:
    with redis.Redis.from_url(world.status()["valkey"]["url"]) as broker:
        broker.flushall()


def test_workers_alone_finish_a_detached_sync(world: World, processes: Processes) -> None:
    processes.ensure(*WORKERS)
    world.write(files(30))
    run = world.expect(0, "vault", "sync", world.name, "--detach")
    assert run["operations"]["upload"] == 0
    assert ended(world)["operations"]["upload"] == 30
    world.ledger_is_exact()


def test_beat_starts_a_vault_that_is_due(world: World, processes: Processes) -> None:
    world.write(files(3))
    world.expect(0, "vault", "sync", "set", world.name, "--enable", "--interval", "1d")
    processes.stop(*({"beat"} & set(processes.running)))
    hasten(world, "sync.due")
    processes.ensure(*WORKERS, "beat")
    run = ended(world)
    assert (run["trigger"], run["operations"]["upload"]) == ("schedule", 3)


def test_losing_every_message_loses_no_work(world: World, processes: Processes) -> None:
    processes.stop()
    world.write(files(10))
    world.expect(0, "vault", "sync", world.name, "--detach")
    forget_messages(world)
    hasten(world, "work.sweep")
    processes.ensure(*WORKERS, "beat")
    assert ended(world)["operations"]["upload"] == 10


def test_a_worker_told_to_end_in_a_chunk_gives_it_back(world: World, processes: Processes) -> None:
    processes.ensure(*WORKERS)
    world.write(files(60))
    world.proxy.add(Fault(action="delay", request_class="put", seconds=0.3, times=1000))
    world.expect(0, "vault", "sync", world.name, "--detach")
    wait_for(lambda: world.proxy.counts.requests["put"] >= 5, seconds=PATIENCE_SECONDS)
    assert processes.stop("transfer") == {"transfer": 0}
    with world.database() as connection:
        chunks = connection.execute(
            "SELECT status, items_done, attempts FROM work_chunk WHERE kind = 'sync.transfer' AND run_id = %s",
            [int(newest(world)["run"])],
        ).fetchall()
    # Nobody holds it, something was done, and nothing was held against it.
    assert {(status, attempts) for status, _, attempts in chunks} == {("pending", 0)}
    assert sum(done for _, done, _ in chunks) > 0
    processes.ensure("transfer")
    hasten(world, "work.sweep")
    processes.ensure("beat")
    assert ended(world)["operations"]["upload"] == 60
    world.ledger_is_exact()
