"""A scratch home and S3 servers per test process; a bucket and a root per vault."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.acceptance.driver import Bucket, Vault, Vh
from tests.support.proxy import Proxy
from tests.support.servers import S3Server

CreateVault = Callable[..., Vault]


@pytest.fixture(scope="session")
def vh() -> Iterator[Vh]:
    scratch = Path(tempfile.mkdtemp(prefix="vaulthalla-acceptance-"))
    # The servers do not run as root, so they must be able to pass through.
    scratch.chmod(0o711)
    vh = Vh(home=scratch / "home")
    yield vh
    vh.run("down", code=0)
    shutil.rmtree(scratch, ignore_errors=True)


class Stage:
    """An S3 server behind a proxy, and a key to it under the server's name."""

    def __init__(self, vh: Vh, name: str) -> None:
        self.key = name
        self.server = S3Server(name).start()
        self.proxy = Proxy(self.server.endpoint).start()
        try:
            vh.run("api-key", "create", name, "--provider", "other", "--endpoint", self.proxy.endpoint, code=0)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.proxy.stop()
        self.server.stop()


@pytest.fixture(scope="session")
def stages(vh: Vh) -> Iterator[Callable[[str], Stage]]:
    """Servers by name, started when first asked for."""
    started: dict[str, Stage] = {}

    def stage(name: str) -> Stage:
        if name not in started:
            started[name] = Stage(vh, name)
        return started[name]

    yield stage
    for one in started.values():
        one.stop()


@pytest.fixture
def roto(stages: Callable[[str], Stage]) -> Stage:
    return stages("roto")


@pytest.fixture
def moto(stages: Callable[[str], Stage]) -> Stage:
    return stages("moto")


@pytest.fixture
def create(vh: Vh, tmp_path: Path) -> CreateVault:
    """create(stage, "--strategy", "sync", …): a vault with a root and a bucket of its own; without a stage, local."""

    def create(stage: Stage | None, *options: str, name: str = "", bucket: Bucket | None = None) -> Vault:
        name = name or f"v-{uuid4().hex[:8]}"
        root = tmp_path / name / "root"
        root.mkdir(parents=True)
        if stage is None:
            replica = tmp_path / name / "replica"
            replica.mkdir()
            vh.run("vault", "create", name, "--local", "--root", str(root), "--replica", str(replica), *options, code=0)
            return Vault(vh=vh, name=name, root=root, replica=replica)
        bucket = bucket or Bucket(server=stage.server, name=f"b-{uuid4().hex[:12]}").create()
        where = ("--root", str(root), "--api-key", stage.key, "--bucket", bucket.name)
        made = vh.run("vault", "create", name, "--s3", *where, *options, code=0).json
        stage.proxy.reset()
        proven = made["conditional"]
        return Vault(vh=vh, name=name, root=root, bucket=bucket, proxy=stage.proxy, proven=proven)

    return create
