"""A provider's report of what really went over the wire, beside what was counted: through the command line."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.conftest import Stage
from tests.acceptance.driver import Bucket, Vault, Vh
from tests.support.bills import cur, cur_line
from tests.support.proxy import Fault

TIER1 = ("PutObject", "CopyObject", "ListObjectsV2", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
# As reports spell them.
SPELLED = {"ListObjectsV2": "ListBucket", "CreateMultipartUpload": "InitiateMultipartUpload"}
NO_BUCKET = ("ListBuckets",)


@pytest.fixture
def vault(vh: Vh, roto: Stage, tmp_path: Path) -> Vault:
    """On AWS, as far as anybody is told; the proxy has seen the probes, too."""
    name, root = f"v-{uuid4().hex[:8]}", tmp_path / "root"
    root.mkdir()
    bucket = Bucket(server=roto.server, name=f"b-{uuid4().hex[:12]}").create()
    roto.proxy.reset()
    vh.run("api-key", "create", name, "--provider", "aws", "--endpoint", roto.proxy.endpoint, code=0)
    where = ("--root", str(root), "--api-key", name, "--bucket", bucket.name)
    vh.run("vault", "create", name, "--s3", *where, "--strategy", "sync", code=0)
    return Vault(vh=vh, name=name, root=root, bucket=bucket, proxy=roto.proxy)


def reported(vault: Vault, *, failed: int = 0) -> bytes:
    """A cost and usage report of what the proxy saw today; `failed` PUTs were answered with a 5xx, and are free."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    period = {"start": f"{today:%Y-%m-%dT%H:%M:%SZ}", "end": f"{today + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"}
    assert vault.proxy is not None
    assert vault.bucket is not None
    lines = [cur_line("TimedStorage-ByteHrs", "StandardStorage", "0.0000001", bucket=vault.bucket.name, **period)]
    for operation, count in sorted(vault.proxy.counts.operations.items()):
        lines.append(
            cur_line(
                "Requests-Tier1" if operation in TIER1 else "Requests-Tier2",
                SPELLED.get(operation, operation),
                count - (failed if operation == "PutObject" else 0),
                bucket="" if operation in NO_BUCKET else vault.bucket.name,
                **period,
            )
        )
    return gzip.compress(cur(lines))


def compared(vault: Vault, tmp_path: Path, content: bytes) -> Any:
    """The vault's bucket in the comparison of this month."""
    file = tmp_path / f"{uuid4().hex}.csv.gz"
    file.write_bytes(content)
    vault.vh.run("pricing", "bill", "import", "--format", "aws-cur", "--file", str(file), code=0)
    [source] = vault.vh.run("pricing", "bill", "compare", code=0).json["sources"]
    assert vault.bucket is not None
    return next(place for place in source["buckets"] if place["bucket"] == vault.bucket.name)


def test_what_was_billed_is_what_was_counted(vault: Vault, tmp_path: Path) -> None:
    vault.write("large", b"x" * (65 * 2**20))
    for number in range(5):
        vault.write(f"{number}", b"%d" % number * 2**20)
    vault.vh.run("vault", "sync", vault.name, code=0)
    (vault.root / "0").rename(vault.root / "renamed")
    (vault.root / "1").unlink()
    vault.vh.run("vault", "sync", vault.name, code=0)
    content = reported(vault)
    # Once and again: the same report is the same requests.
    for _ in range(2):
        place = compared(vault, tmp_path, content)
        assert place["vaults"] == [vault.name]
        assert {row["name"]: row["drift"] for row in [*place["tiers"], *place["classes"]]} == dict.fromkeys(
            ("tier1", "tier2", "delete", "list", "put", "copy", "head", "get"), 0
        )
        assert {row["verdict"] for row in place["tiers"]} == {"within"}
        assert place["other_operations"] == {}


def test_what_failed_at_the_provider_is_counted_and_not_billed(vault: Vault, tmp_path: Path) -> None:
    assert vault.proxy is not None
    vault.write("a", b"a")
    vault.proxy.add(Fault(action="error", status=503, request_class="put", times=2))
    vault.vh.run("vault", "sync", vault.name, code=0)
    place = compared(vault, tmp_path, reported(vault, failed=2))
    [row] = [row for row in place["tiers"] if row["name"] == "tier1"]
    assert (row["drift"], row["unbilled"], row["verdict"]) == (-2, 2, "within")
    # One that nobody here saw fail.
    place = compared(vault, tmp_path, reported(vault, failed=3))
    [row] = [row for row in place["tiers"] if row["name"] == "tier1"]
    assert (row["drift"], row["unbilled"], row["verdict"]) == (-3, 2, "below")
    table = vault.vh.run("pricing", "bill", "compare", json=False, code=0).out
    assert "reports lag" in table
    lines = vault.vh.run("pricing", "bill", "compare", "--csv", json=False, code=0).out.splitlines()
    assert lines[0].startswith("month,source,provider")
    assert any(f",{vault.name},tier,tier1,tier1," in line and line.endswith(",below") for line in lines)


def test_what_cannot_be_imported(vh: Vh, tmp_path: Path) -> None:
    junk = tmp_path / "junk.csv"
    junk.write_text("a,b\n1,2\n")
    whole = gzip.compress(cur([cur_line("Requests-Tier1", "PutObject", 1, bucket="b")] * 100))
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-12])
    for arguments, told in [
        (("--format", "aws-cur", "--file", str(junk)), "lacks the columns"),
        (("--format", "aws-cur", "--file", str(tmp_path / "cut.csv.gz")), "ends or breaks after line"),
        (("--format", "focus", "--file", str(junk)), "--format must be one of aws-cur"),
        (("--format", "aws-cur", "--provider", "acme", "--file", str(junk)), "--provider must be one of"),
        (("--format", "r2-analytics", "--file", str(tmp_path / "none")), "No such file"),
    ]:
        assert told in vh.refused("pricing", "bill", "import", *arguments)["message"]
    assert "2031-01" in vh.refused("pricing", "bill", "compare", "--month", "2031-01")["message"]
    assert vh.refused("pricing", "bill", "compare", "--month", "January")["code"] == "invalid_value"
