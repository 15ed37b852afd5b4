"""Every store the contract is proved against, and what is known to be missing in which server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.meters import CountingMeter
from tests.support.servers import ACCESS_KEY, SECRET, S3Server
from vaulthalla.stores.base import Store
from vaulthalla.stores.directory import DirectoryStore
from vaulthalla.stores.memory import MemoryBucket, MemoryStore
from vaulthalla.stores.s3 import S3Config, S3Store

# A directory holds no keys that cannot be paths, no parts and no classes, and costs no requests.
OBJECT_KINDS = ("memory", "moto", "roto")
KINDS = ("directory", *OBJECT_KINDS)
BUCKET = "contract"

# What a server does not do, by the name of the test that proves it. Each must fail as long as it stands here:
# a server that learns it makes the suite red, and the line goes.
GAPS: dict[tuple[str, str], str] = {
    ("moto", "test_a_torn_put_is_refused"): "does not compare Content-MD5",
    ("moto", "test_a_torn_part_is_refused"): "does not compare Content-MD5",
    ("moto", "test_copy_wants_the_source_it_was_told"): "ignores x-amz-copy-source-if-match",
    ("moto", "test_copy_does_not_replace_what_appeared"): "ignores If-None-Match on a copy",
    ("roto", "test_copy_does_not_replace_what_appeared"): "ignores If-None-Match on a copy",
    ("roto", "test_delete_wants_the_version_it_was_told"): "ignores If-Match on DELETE",
    ("roto", "test_an_archived_body_is_not_read"): "has no archive classes",
    ("roto", "test_a_torn_part_is_refused"): "does not compare Content-MD5 of parts",
    ("roto", "test_an_upload_does_not_replace_what_appeared"): "ignores If-None-Match on CompleteMultipartUpload",
    ("roto", "test_keys_are_never_changed[roto-trail/]"): "keeps no body under a key that ends with a slash",
    ("moto", "test_keys_are_never_changed[moto-a\\tb\\nc]"): "does not find a key with a line break",
    ("moto", "test_an_upload_that_is_gone_is_said_to_be"): "answers 500 when it completes an upload that is gone",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A fresh, empty store with the meter it asks."""

    kind: str
    store: Store
    meter: CountingMeter


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    with S3Server("moto") as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def roto() -> Iterator[S3Server]:
    with S3Server("roto") as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    """Each test runs against every kind of store."""
    return _make(request.param, request, tmp_path)


@pytest.fixture(params=OBJECT_KINDS)
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    """Each test runs against every store of objects."""
    return _make(request.param, request, tmp_path)


def _make(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    gap = GAPS.get((kind, request.node.originalname)) or GAPS.get((kind, request.node.name))
    if gap:
        request.applymarker(pytest.mark.xfail(reason=f"{kind} {gap}", strict=True))
    meter = CountingMeter()
    if kind == "memory":
        return Subject(kind, MemoryStore(MemoryBucket(), meter, prefix="below/"), meter)
    if kind == "directory":
        return Subject(kind, DirectoryStore(tmp_path, meter), meter)
    return Subject(kind, S3Store(config_for(request.getfixturevalue(kind).endpoint), meter), meter)


def config_for(endpoint: str, *, provider: str = "aws", bucket: str = BUCKET) -> S3Config:
    return S3Config(
        provider=provider,
        endpoint=endpoint,
        region="us-east-1",
        access_key=ACCESS_KEY,
        secret=SECRET,
        bucket=bucket,
        prefix=f"{uuid.uuid4().hex}/below/",
    )
