"""Two hosts that know nothing of each other but a bucket, each with servers of its own, through the command line."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import Vault, Vh
from tests.acceptance.test_guards import heed

ROOT = ".vaulthalla/manifest.json"


@pytest.fixture
def elsewhere() -> Iterator[Vh]:
    """Another host."""
    scratch = Path(tempfile.mkdtemp(prefix="vaulthalla-elsewhere-"))
    scratch.chmod(0o711)
    vh = Vh(home=scratch / "home")
    yield vh
    vh.run("down", code=0)
    shutil.rmtree(scratch, ignore_errors=True)


def counts(run: dict[str, Any]) -> dict[str, int]:
    return {name: n for name, n in run["requests"].items() if n and name != "downloaded_bytes"}


def publish(vault: Vault, puts: int = 2) -> dict[str, int]:
    return {"put": puts} if vault.proven["put"] else {"put": puts, "head": 1}


def joined(vault: Vault, vh: Vh, stage: Stage, root: Path, *options: str) -> Vault:
    """The same bucket from another host."""
    assert vault.bucket is not None
    root.mkdir()
    vh.run("api-key", "create", "key", "--provider", "other", "--endpoint", stage.proxy.endpoint, code=0)
    where = ("--root", str(root), "--api-key", "key", "--bucket", vault.bucket.name)
    vh.run("vault", "create", "there", "--s3", *where, *options, code=0)
    return Vault(vh=vh, name="there", root=root, bucket=vault.bucket, proxy=vault.proxy, proven=vault.proven)


def test_two_hosts_share_a_bucket_without_a_listing(
    roto: Stage, create: CreateVault, elsewhere: Vh, tmp_path: Path
) -> None:
    here = create(roto, "--strategy", "sync")
    assert here.bucket is not None
    for name in "abc":
        here.write(name, name.encode())
    first = here.sync()
    wanted = {"get": 1, "list": 1, "put": 3 + 2, "head": 0 if here.proven["put"] else 3 + 1}
    assert counts(first) == {name: n for name, n in wanted.items() if n}
    assert first["manifest"]["published"]
    assert counts(here.sync()) == {"get": 1}
    assert here.bucket.objects() == here.files()

    # Not one LIST may be spent there: what it knows comes from the manifest.
    there = joined(here, elsewhere, roto, tmp_path / "there", "--strategy", "sync", "--s3-budget-list", "0")
    second = there.sync()
    assert second["operations"]["download"] == 3
    assert counts(second) == {"get": 1 + 1 + 3} | publish(there)
    assert there.files() == here.files()
    index = there.vault("info")["index"]
    assert (index["source"], index["complete"], index["freshness"], index["manifest_object_count"]) == (
        "manifest", True, "fresh", 3,
    )  # fmt: skip
    assert counts(there.sync()) == {"get": 1}

    # What a plan says is what it costs, class by class, and looking at it costs nothing.
    there.out_of_doubt()
    there.write("b", b"changed there")
    there.write("d", b"new there")
    before = there.seen()
    planned = there.vault("dry-run")
    assert there.seen() == before
    run = there.sync()
    assert run["requests"] == planned["requests"]
    nothing = there.vault("dry-run")["requests"]
    assert {name: n for name, n in nothing.items() if n} == {"get": 1}
    assert counts(there.sync()) == {"get": 1}

    # And back, with what each changed meanwhile.
    here.write("e", b"new here")
    back = here.sync()
    assert (back["operations"]["download"], back["operations"]["upload"], back["requests"]["list"]) == (2, 1, 0)
    assert there.sync()["operations"]["download"] == 1
    assert there.files() == here.files() == here.bucket.objects()

    # Without a look nothing is asked, and nothing is published.
    assert not any(here.sync("--offline")["requests"].values())

    # A tampered manifest is refused, and the index stays.
    body = here.bucket.client.get_object(Bucket=here.bucket.name, Key=ROOT)["Body"].read()
    here.bucket.put(ROOT, body.replace(b'"rows":', b'"rowz":', 1))
    known = here.vault("info")["index"]
    refused = here.sync(code=1)
    assert refused["error"]["code"] == "manifest_damaged"
    assert "--offline" in refused["error"]["remedy"]
    assert here.vault("info")["index"]["object_count"] == known["object_count"]
    here.bucket.delete(ROOT)
    assert here.sync()["manifest"]["published"]
    assert counts(here.sync()) == {"get": 1}

    deleted = ("vault", "delete", here.name, "--delete-upstream", "--yes")
    here.vh.run(*deleted, code=0)
    assert here.bucket.keys() == []


def test_a_mirror_is_not_written_by_two(roto: Stage, create: CreateVault, elsewhere: Vh, tmp_path: Path) -> None:
    here = create(roto, "--strategy", "mirror")
    here.write("a", b"a")
    here.sync()
    there = joined(here, elsewhere, roto, tmp_path / "there", "--strategy", "mirror")
    refused = there.sync(code=1)
    assert refused["error"]["code"] == "mirror_writer"
    assert counts(refused) == {"get": 1}
    heed(there, refused["error"]["remedy"])
    there.write("b", b"b")
    assert there.sync()["operations"]["upload"] == 1
    assert here.sync(code=1)["error"]["code"] == "mirror_writer"
