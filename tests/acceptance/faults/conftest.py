"""One scratch home and one S3 server per test process; a vault, a bucket and a proxy per test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.acceptance.faults.world import VH, World
from tests.support.proxy import Proxy
from tests.support.servers import S3Server


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """Embedded servers of its own: some tests kill them."""
    scratch = Path(tempfile.mkdtemp(prefix="vaulthalla-faults-"))
    # The servers do not run as root, so they must be able to pass through.
    scratch.chmod(0o711)
    home = scratch / "home"
    yield home
    own = {n: v for n, v in os.environ.items() if n not in ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")}
    subprocess.run([VH, "down"], env={**own, "VAULTHALLA_HOME": str(home)}, capture_output=True, check=False)
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="session")
def server() -> Iterator[S3Server]:
    with S3Server("roto") as server:
        yield server


@pytest.fixture
def proxy(server: S3Server) -> Iterator[Proxy]:
    with Proxy(server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def world(home: Path, server: S3Server, proxy: Proxy, tmp_path: Path) -> World:
    return World(home=home, root=tmp_path / "photos", server=server, proxy=proxy, bucket=f"b-{uuid4().hex[:12]}")
