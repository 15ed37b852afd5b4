"""The ground all tools run on: scratch directories, a home of vh's own, and S3 servers of no other use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.measure import CommandFailed, Cost, run
from tests.support.servers import ACCESS_KEY, SECRET, S3Server

VH = Path(sys.executable).parent / "vh"
BUCKET = "bench"
# What would make the commands use other servers, other credentials or other settings than those given here.
NOT_INHERITED = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "SALT_KEY", "DJANGO_SETTINGS_MODULE")
PREFIXES_NOT_INHERITED = ("AWS_", "RCLONE_", "VAULTHALLA_", "VH_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Scratch space; `environment` is what every command sees."""

    scratch: Path
    environment: dict[str, str] = field(repr=False)

    def vh(self, *arguments: str | Path) -> Cost:
        """One vh command, measured. Raises CommandFailed."""
        return run([VH, *arguments], environment=self.environment)

    def inside(self, module: str, *arguments: object) -> tuple[Any, Cost]:
        """A measurement in a process of its own, with the product's modules: the JSON it printed, and its cost."""
        command = [sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments)]
        cost = run(command, environment=self.environment)
        return json.loads(cost.out), cost

    def directory(self, name: str) -> Path:
        path = self.scratch / name
        path.mkdir()
        return path


@contextmanager
def prepared(parent: Path | None) -> Iterator[Ground]:
    """Scratch space with running servers; stopped and removed at the end, whatever the end is."""
    scratch = Path(tempfile.mkdtemp(prefix="vaulthalla-bench-", dir=parent))
    # The embedded servers do not run as root, so they must be able to pass through.
    scratch.chmod(0o711)
    ground = Ground(scratch=scratch, environment=_environment(scratch))
    try:
        # Any command with a database starts them.
        ground.vh("vault", "list")
        yield ground
    finally:
        subprocess.run([VH, "down"], env=ground.environment, capture_output=True, check=False)
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def s3_server(ground: Ground) -> Iterator[S3Server]:
    """A fresh server with an empty bucket, so that no tool pays for what another one left."""
    with S3Server("roto") as server:
        ground.inside("bucket", server.endpoint, BUCKET)
        yield server


def _environment(scratch: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in NOT_INHERITED and not name.startswith(PREFIXES_NOT_INHERITED)
    }
    return {
        **kept,
        "HOME": str(scratch),
        "VAULTHALLA_HOME": str(scratch / "home"),
        "VH_ACCESS_KEY_ID": ACCESS_KEY,
        "VH_SECRET_ACCESS_KEY": SECRET,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RCLONE_CONFIG": "/dev/null",
    }


def small_files(root: Path, count: int, *, size: int = 4096, per_directory: int = 100) -> None:
    """Files with bodies that differ, an hour old, as files mostly are when a sync comes by."""
    for number in range(count):
        folder = root / f"d{number // per_directory:06}"
        if number % per_directory == 0:
            folder.mkdir()
        _write(folder / f"file-{number:08}.bin", os.urandom(size) if size else b"")


def large_file(root: Path, size: int) -> None:
    block = 8 * 2**20
    path = root / "large.bin"
    with path.open("wb") as file:
        for _ in range(size // block):
            file.write(os.urandom(block))
        file.write(os.urandom(size % block))
    _age(path)


def same(ours: Path, theirs: Path) -> None:
    """Raises CommandFailed unless both trees have the same files with the same bytes; vh's own are left out."""
    names = _files(ours)
    if names != _files(theirs):
        raise CommandFailed(f"{theirs} has other files than {ours}")
    for name in names:
        if not _equal(ours / name, theirs / name):
            raise CommandFailed(f"{theirs / name} has other bytes than {ours / name}")


def settle(roots: Sequence[Path]) -> None:
    """Writes out what is still dirty, so that no tool pays for another's pages; then drops the trees."""
    for root in roots:
        shutil.rmtree(root, ignore_errors=True)
    os.sync()


def _files(root: Path) -> list[str]:
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path.parts[0] != ".vaulthalla")


def _equal(one: Path, other: Path) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        while block := first.read(MIB_BLOCK):
            if block != second.read(MIB_BLOCK):
                return False
        return not second.read(1)


MIB_BLOCK = 4 * 2**20
HOUR_NS = 3600 * 10**9


def _write(path: Path, body: bytes) -> None:
    path.write_bytes(body)
    _age(path)


def _age(path: Path) -> None:
    then = path.stat().st_mtime_ns - HOUR_NS
    os.utime(path, ns=(then, then))
