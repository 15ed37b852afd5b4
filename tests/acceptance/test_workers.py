"""Workers and beat as the Procfile starts them, on a home of their own: they need no command to finish a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import redis

from tests.acceptance.faults.world import VH, World, wait_for
from tests.acceptance.processes import Processes
from tests.support.proxy import Fault, Proxy
from tests.support.queues import Queue
from tests.support.servers import S3Server

pytestmark = pytest.mark.xdist_group("workers")

WORKERS = ("control", "index", "transfer")
OWN = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE", "SECRET_KEY", "SALT_KEY")
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Of processes with servers of their own."""
    scratch = Path(tempfile.mkdtemp(prefix="vaulthalla-workers-"))
    # The servers do not run as root, so they must be able to pass through.
    scratch.chmod(0o711)
    inherited = {name: value for name, value in os.environ.items() if name not in OWN}
    one_each = {"VAULTHALLA_CONTROL": "1", "VAULTHALLA_INDEX": "1", "VAULTHALLA_TRANSFER": "1"}
    own = {**inherited, **one_each, "VAULTHALLA_HOME": str(scratch / "home")}
    yield own
    subprocess.run([VH, "down"], env=own, stdout=subprocess.DEVNULL, check=False)
    shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Servers:
    """Asked directly: the processors are for the workers."""

    database: str
    broker: str

    def ask(self, statement: str, *values: object) -> list[Any]:
        with psycopg.connect(self.database, autocommit=True) as connection:
            answer = connection.execute(statement, values)
            return answer.fetchall() if answer.description else []

    def hasten(self, task: str) -> None:
        """Makes a tick due as soon as beat starts, as if it had been away for a day."""
        self.ask(
            "UPDATE django_celery_beat_periodictask SET last_run_at = now() - interval '1 day' WHERE task = %s", task
        )

    def forget_messages(self) -> None:
        with redis.Redis.from_url(self.broker) as broker:
            broker.flushall()


@pytest.fixture(scope="module")
def servers(environment: dict[str, str]) -> Servers:
    subprocess.run([VH, "vault", "list"], env=environment, stdout=subprocess.DEVNULL, check=True)
    answer = subprocess.run([VH, "status", "--json"], env=environment, stdout=subprocess.PIPE, check=True)
    found = json.loads(answer.stdout)
    return Servers(found["postgresql"]["url"], found["valkey"]["url"])


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server("roto") as server:
        yield server


@pytest.fixture
def world(environment: dict[str, str], server: S3Server, tmp_path: Path) -> Iterator[World]:
    with Proxy(server.endpoint) as proxy:
        home, bucket = Path(environment["VAULTHALLA_HOME"]), f"b-{uuid4().hex[:12]}"
        world = World(home=home, root=tmp_path / "photos", server=server, proxy=proxy, bucket=bucket)
        world.create("--disable")
        yield world


@pytest.fixture(scope="module")
def processes(environment: dict[str, str], servers: Servers) -> Iterator[Processes]:
    """One pool for all tests here: starting takes seconds."""
    with Processes(environment=environment) as processes:
        yield processes


def files(count: int) -> dict[str, bytes]:
    return {f"dir/{number}.txt": b"x" * number for number in range(count)}


RUNS = """
SELECT r.result FROM work_run r JOIN vaults_vault v ON v.id = r.vault_id
 WHERE v.name = %s AND r.trigger = %s AND r.status = 'success' ORDER BY r.id
"""
DUE = """
UPDATE vaults_syncpolicy SET enabled = true, next_sync_at = now(), interval_seconds = 86400
 WHERE vault_id = (SELECT id FROM vaults_vault WHERE name = %s)
"""
TRANSFERS = """
SELECT c.status, c.items_done, c.attempts FROM work_chunk c JOIN work_run r ON r.id = c.run_id
  JOIN vaults_vault v ON v.id = r.vault_id WHERE v.name = %s AND c.kind = 'sync.transfer'
"""


def uploaded(world: World, servers: Servers, *, trigger: str = "manual", runs: int = 1) -> int:
    """What the last of so many runs uploaded, once they have succeeded."""

    def succeeded() -> list[Any]:
        found = servers.ask(RUNS, world.name, trigger)
        return found if len(found) == runs else []

    result = wait_for(succeeded, seconds=PATIENCE_SECONDS)[-1][0]
    assert world.files() == world.objects()
    return int(result["operations"]["upload"])


def test_workers_alone_finish_a_detached_sync(world: World, servers: Servers, processes: Processes) -> None:
    processes.ensure(*WORKERS)
    world.write(files(30))
    run = world.expect(0, "vault", "sync", world.name, "--detach")
    assert run["operations"]["upload"] == 0
    assert uploaded(world, servers) == 30
    world.ledger_is_exact()


def test_beat_starts_a_due_vault_though_the_broker_was_emptied_under_it(
    world: World, servers: Servers, processes: Processes
) -> None:
    processes.stop(*({"beat"} & set(processes.running)))
    servers.ask(DUE, world.name)
    servers.hasten("sync.due")
    processes.ensure(*WORKERS, "beat")
    assert uploaded(world, servers, trigger="schedule") == 0
    # Whoever is up knows queues that vanish now, and nobody else speaks to the broker from here on.
    servers.forget_messages()
    world.write(files(6))
    servers.ask(DUE, world.name)
    assert uploaded(world, servers, trigger="schedule", runs=2) == 6


def test_losing_every_message_loses_no_work(world: World, servers: Servers, processes: Processes) -> None:
    processes.stop()
    world.write(files(10))
    world.expect(0, "vault", "sync", world.name, "--detach")
    servers.forget_messages()
    servers.hasten("work.sweep")
    processes.ensure(*WORKERS, "beat")
    assert uploaded(world, servers) == 10


def test_a_worker_told_to_end_in_a_chunk_gives_it_back(world: World, servers: Servers, processes: Processes) -> None:
    processes.ensure(*WORKERS)
    world.write(files(60))
    world.proxy.add(Fault(action="delay", request_class="put", seconds=0.3, times=1000))
    world.expect(0, "vault", "sync", world.name, "--detach")
    wait_for(lambda: world.proxy.counts.requests["put"] >= 5, seconds=PATIENCE_SECONDS)
    assert processes.stop("transfer") == {"transfer": 0}
    chunks = servers.ask(TRANSFERS, world.name)
    # Nobody holds it, something was done, and nothing was held against it.
    assert {(status, attempts) for status, _, attempts in chunks} == {("pending", 0)}
    assert sum(done for _, done, _ in chunks) > 0
    world.proxy.heal()
    processes.stop(*({"beat"} & set(processes.running)))
    servers.hasten("work.sweep")
    processes.ensure("transfer", "beat")
    assert uploaded(world, servers) == 60
    world.ledger_is_exact()


INDEXED = """
SELECT o.key FROM indexing_remoteobject o JOIN vaults_vault v ON v.id = o.vault_id
 WHERE v.name = %s AND NOT o.tombstone ORDER BY o.key
"""


def test_beat_polls_the_queue_that_a_policy_names(world: World, servers: Servers, processes: Processes) -> None:
    processes.stop(*({"beat"} & set(processes.running)))
    queue = Queue(world.server)
    told = [{"key": f"k{number}", "eTag": "e", "size": 1, "sequencer": "01"} for number in range(12)]
    for found in told:
        queue.send(json.dumps({"Records": [created(world.bucket, found)]}))
    queue.send("no JSON {")
    world.expect(0, "vault", "sync", "set", world.name, "--enable", "--events-queue", queue.url)
    servers.hasten("indexing.poll")
    processes.ensure(*WORKERS, "beat")
    wait_for(lambda: len(servers.ask(INDEXED, world.name)) == len(told), seconds=PATIENCE_SECONDS)
    wait_for(lambda: queue.left() == 0, seconds=PATIENCE_SECONDS)
    (feed,) = world.expect(0, "vault", "sync", "info", world.name)["index"]["feeds"]
    assert (feed["kind"], feed["queue"], feed["set_aside"], feed["error"]) == ("queue", queue.url, 1, None)


def created(bucket: str, found: dict[str, Any]) -> dict[str, Any]:
    """As S3 tells it."""
    now = datetime.now(UTC).isoformat()
    return {"eventName": "ObjectCreated:Put", "eventTime": now, "s3": {"bucket": {"name": bucket}, "object": found}}
