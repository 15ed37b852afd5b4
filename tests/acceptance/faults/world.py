"""A vault as an operator has it: `vh` in processes of its own, a scratch home, a bucket behind a proxy that counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis

from tests.support.proxy import Proxy
from tests.support.servers import ACCESS_KEY, SECRET, S3Server

VH = str(Path(sys.executable).parent / "vh")
PATIENCE_SECONDS = 120
CONTROL = ".vaulthalla/"
NAME = "photos"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command came to."""

    code: int
    json: Any
    stderr: str


@dataclass(kw_only=True)
class World:
    """One vault between a directory and a bucket."""

    home: Path
    root: Path
    server: S3Server
    proxy: Proxy
    bucket: str
    key: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    address: str = ""

    # --- commands

    @property
    def variables(self) -> dict[str, str]:
        inherited = {n: v for n, v in os.environ.items() if n not in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY")}
        return {
            **{n: v for n, v in inherited.items() if n not in ("SALT_KEY", "DJANGO_SETTINGS_MODULE")},
            "VAULTHALLA_HOME": str(self.home),
            "VH_ACCESS_KEY_ID": ACCESS_KEY,
            "VH_SECRET_ACCESS_KEY": SECRET,
            **self.environment,
        }

    def vh(self, *arguments: str, timeout: float = PATIENCE_SECONDS) -> Answer:
        ended = subprocess.run(
            [VH, *arguments, "--json"],
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        return Answer(code=ended.returncode, json=_parsed(ended.stdout), stderr=ended.stderr)

    def create(self, *options: str) -> None:
        """The key, unless there is one, and the vault; counting begins afterwards."""
        self.root.mkdir(exist_ok=True)
        self.server.create_bucket(self.bucket)
        key = self.key or f"key-{self.bucket}"
        if not self.key:
            self.expect(0, "api-key", "create", key, "--provider", "other", "--endpoint", self.proxy.endpoint)
        where = ("--root", str(self.root), "--api-key", key, "--bucket", self.bucket)
        chosen = options if "--strategy" in options else ("--strategy", "sync", *options)
        self.expect(0, "vault", "create", self.name, "--s3", *where, *chosen)
        self.proxy.reset()

    @property
    def name(self) -> str:
        return f"{NAME}-{self.bucket}"

    def expect(self, code: int, *arguments: str) -> Any:
        answer = self.vh(*arguments)
        assert answer.code == code, f"vh {' '.join(arguments)}: {answer.code}\n{answer.json}\n{answer.stderr}"
        return answer.json

    def sync(self, code: int = 0) -> Any:
        return self.expect(code, "vault", "sync", self.name)

    def begin_sync(self) -> subprocess.Popen[str]:
        """A sync in the background; end it with `finish`."""
        return self.begin("vault", "sync", self.name)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [VH, *arguments, "--json"],
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As a terminal does: signals that a test sends go to this one process alone.
            start_new_session=True,
        )

    # --- files and objects

    def write(self, files: Mapping[str, bytes]) -> None:
        for path, body in files.items():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body)

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Another writer's uploads."""
        client = self.server.client()
        for key, body in objects.items():
            client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def files(self) -> dict[str, bytes]:
        """What a user sees below the root."""
        found = sorted(path for path in self.root.rglob("*") if path.is_file())
        named = {path.relative_to(self.root).as_posix(): path for path in found}
        return {name: path.read_bytes() for name, path in named.items() if not name.startswith(CONTROL)}

    def objects(self) -> dict[str, bytes]:
        client = self.server.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        bodies = {key: client.get_object(Bucket=self.bucket, Key=key)["Body"] for key in keys}
        return {key: body.read() for key, body in bodies.items() if not key.startswith(CONTROL)}

    def uploads(self) -> list[str]:
        """Multipart uploads under way."""
        answer = self.server.client().list_multipart_uploads(Bucket=self.bucket)
        return [upload["Key"] for upload in answer.get("Uploads", [])]

    # --- what must hold

    def converges(self) -> Any:
        """The next syncs bring both sides in step; then there is nothing left to do."""
        run = self.sync()
        assert self.files() == self.objects()
        again = self.sync()
        # Files that were saved just before a scan are compared once more, on this side alone.
        assert not any(n for name, n in again["operations"].items() if name != "converge"), again["operations"]
        assert {name: n for name, n in again["requests"].items() if n} == {"get": 1}, self.planned(again["run"])
        self.nothing_half_written()
        return run

    def planned(self, run: str) -> list[Any]:
        """What a run's plan was made of, for the message of a test that fails."""
        return self.ask("SELECT path, action, reason, status, planned FROM sync_operation WHERE run_id = %s", run)

    def nothing_half_written(self) -> None:
        """No stage is left among the user's files."""
        left = list(self.root.rglob(".vaulthalla-*"))
        assert not left, left

    def counted(self) -> tuple[Counter[str], Counter[str]]:
        """(counted, lost) over all runs of the vault, by class; body bytes as `downloaded_bytes`."""
        runs = self.expect(0, "vault", "sync", "history", self.name, "--limit", "1000")["runs"]
        counted: Counter[str] = Counter()
        lost: Counter[str] = Counter()
        for run in runs:
            counted.update(run["requests"])
            lost.update(run["lost"])
        return counted, lost

    def seen(self) -> Counter[str]:
        counts = self.proxy.counts
        assert not counts.requests["other"], counts.operations
        return Counter({**counts.requests, "downloaded_bytes": counts.download_bytes})

    def ledger_is_exact(self) -> None:
        """Nothing was killed: what was counted is what went over the wire."""
        counted, lost = self.counted()
        assert +lost == Counter()
        assert +counted == +self.seen(), (counted, self.seen())

    def ledger_holds(self) -> None:
        """Something was killed: what it sent last may be known only as lost."""
        (counted, lost), seen = self.counted(), self.seen()
        for name in {*counted, *seen}:
            assert counted[name] <= seen[name] <= counted[name] + lost[name], (name, counted, seen, lost)

    # --- servers and leases

    def status(self) -> Any:
        return self.expect(0, "status")

    def database(self) -> psycopg.Connection[Any]:
        # A server that is started again has the same address.
        self.address = self.address or self.status()["postgresql"]["url"]
        return psycopg.connect(self.address, autocommit=True)

    def ask(self, statement: str, *parameters: Any) -> list[Any]:
        with self.database() as connection:
            return connection.execute(statement, parameters).fetchall()

    def lapse(self, pid: int) -> None:
        """A minute passes for the leases of a process. Only once it is dead, or asleep."""
        self.ask(
            "UPDATE work_chunk SET lease_until = now() - interval '1 s'"
            " WHERE status = 'running' AND worker LIKE %s RETURNING id",
            f"%:{pid}:%",
        )

    def working(self, pid: int) -> bool:
        """Whether a process holds a chunk of a transfer."""
        held = "SELECT FROM work_chunk WHERE status = 'running' AND kind = 'sync.transfer' AND worker LIKE %s"
        return bool(self.ask(held, f"%:{pid}:%"))

    def running(self) -> int:
        return len(self.ask("SELECT FROM work_chunk WHERE status = 'running'"))

    def parts(self, path: str) -> int:
        """How many parts of a large body are on record."""
        rows = self.ask("SELECT parts FROM sync_transfer WHERE path = %s", path)
        return len(rows[0][0]) if rows else 0

    def flush_broker(self) -> None:
        url = self.status()["valkey"]["url"]
        with redis.Redis.from_url(url) as broker:
            broker.flushall()


def helpers_of(world: World) -> list[int]:
    """Processes that work on this home's runs beside the command."""
    processes = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [int(entry.name) for entry in processes if _is_helper(entry, world.home)]


def _is_helper(entry: Path, home: Path) -> bool:
    try:
        command = (entry / "cmdline").read_bytes().split(b"\0")
        return b"vaulthalla.worker" in command and f"VAULTHALLA_HOME={home}".encode() in (
            entry / "environ"
        ).read_bytes().split(b"\0")
    except OSError:
        return False


def wait_for(happened: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Until it is true; fails the test when it does not become true."""
    deadline = time.monotonic() + seconds
    while not (value := happened()):
        assert time.monotonic() < deadline, "It never happened."
        threading.Event().wait(0.02)
    return value


def finish(process: subprocess.Popen[str], *, seconds: float = PATIENCE_SECONDS) -> Answer:
    out, err = process.communicate(timeout=seconds)
    return Answer(code=process.returncode, json=_parsed(out), stderr=err)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_SECONDS)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
