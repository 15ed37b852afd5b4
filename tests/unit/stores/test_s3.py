"""How headers, names and addresses are read."""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime
from typing import Any

import pytest
import urllib3
from django.conf import settings
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from tests.support.meters import CountingMeter
from vaulthalla.errors import Refused
from vaulthalla.requests import RequestClass
from vaulthalla.stores import client as clients
from vaulthalla.stores import direct
from vaulthalla.stores.base import (
    COPY_LIMIT_BYTES,
    Capabilities,
    Ordering,
    Restore,
    StoreUnavailable,
    UnexpectedResponse,
    copy_requests,
    costs,
)
from vaulthalla.stores.client import REQUEST_CLASSES
from vaulthalla.stores.errors import BY_CODE, CREDENTIAL_CODES, kind_of, translated
from vaulthalla.stores.listing import Listing
from vaulthalla.stores.profiles import PROFILES, capabilities_of, check_endpoint, profile_of, region_of
from vaulthalla.stores.s3 import S3Config, S3Store, _described, _mtime_ns, _mtime_text, _restore, _sha256, client_config


@example_settings(deadline=None)
@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_a_time_in_metadata_comes_back(mtime_ns: int) -> None:
    assert _mtime_ns(_mtime_text(mtime_ns)) == mtime_ns


@pytest.mark.parametrize(
    ("text", "mtime_ns"),
    [
        ("1354040105.123456789", 1_354_040_105_123_456_789),  # as rclone writes it
        ("1354040105", 1_354_040_105_000_000_000),
        ("-1.5", -1_500_000_000),
        ("", None),
        ("yesterday", None),
        ("nan", None),
        ("inf", None),
        ("1e999999", None),
        ("9" * 30, None),
    ],
)
def test_what_is_no_time_is_unknown(text: str, mtime_ns: int | None) -> None:
    assert _mtime_ns(text) == mtime_ns


@pytest.mark.parametrize("text", ["", "xyz", "ab" * 31, "ab" * 33])
def test_what_is_no_hash_is_unknown(text: str) -> None:
    assert _sha256(text) is None


@pytest.mark.parametrize(
    ("header", "state"),
    [
        ("", (Restore.NONE, None)),
        ('ongoing-request="true"', (Restore.ONGOING, None)),
        (
            'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"',
            (Restore.ACTIVE, datetime(2012, 12, 21, tzinfo=UTC)),
        ),
    ],
)
def test_a_restore_header_is_read(header: str, state: tuple[Restore, datetime | None]) -> None:
    assert _restore(header) == state


SIZES_OF_NOTHING = ("-5", str(2**63), str(2**64), "9" * 5_000, "many", "")


@pytest.mark.parametrize("size", SIZES_OF_NOTHING)
def test_a_listed_size_that_no_object_has_is_no_answer(size: str) -> None:
    store = S3Store(S3Config(provider="minio", endpoint="http://127.0.0.1:1", bucket="bucket"), CountingMeter())
    entry = {"Key": "k", "LastModified": "2026-01-01T00:00:00Z", "ETag": '"e"', "Size": size}
    with pytest.raises(UnexpectedResponse, match="is not described"):
        store._listed(Listing(entries=[entry]), datetime(2026, 1, 1, tzinfo=UTC), below="")
    largest = store._listed(
        Listing(entries=[entry | {"Size": str(2**63 - 1)}]), datetime(2026, 1, 1, tzinfo=UTC), below=""
    )
    assert largest[0].size == 2**63 - 1


@pytest.mark.parametrize(
    "odd",
    [
        *({"ContentLength": int(size)} for size in SIZES_OF_NOTHING[:3]),
        {"ContentRange": f"bytes 0-0/{2**63}"},
        {"LastModified": None},
        {"Restore": 'ongoing-request="false", expiry-date="soon"'},
        {"ResponseMetadata": {"HTTPHeaders": {"date": "today"}}},
    ],
)
def test_headers_that_describe_no_object_are_no_answer(odd: dict[str, Any]) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    told = {"ContentLength": 5, "ETag": '"e"', "LastModified": now}
    told["ResponseMetadata"] = {"HTTPHeaders": {"date": "Thu, 01 Jan 2026 00:00:00 GMT"}}
    assert _described("k", told).size == 5
    answer = {name: value for name, value in (told | odd).items() if value is not None}
    with pytest.raises(UnexpectedResponse):
        _described("k", answer)


@pytest.mark.parametrize("headers", [{"Content-Length": "many"}, {"Last-Modified": "yesterday"}])
def test_headers_that_cannot_be_read_are_no_answer(headers: dict[str, str]) -> None:
    response = urllib3.HTTPResponse(io.BytesIO(), headers=headers, status=200, preload_content=False)
    with pytest.raises(UnexpectedResponse, match="cannot be read"), translated("k"):
        direct._answer(response, "HeadObject", 1)


@pytest.mark.parametrize("encoding", ["klingon", "utf-7"])
def test_an_error_in_an_unknown_encoding_says_nothing(encoding: str) -> None:
    assert direct._said(f'<?xml version="1.0" encoding="{encoding}"?><Error><Code>X</Code></Error>'.encode()) == {}


def test_every_counted_operation_has_a_billing_class() -> None:
    assert set(REQUEST_CLASSES.values()) == set(RequestClass) - {RequestClass.DOWNLOAD_BYTES}


def test_codes_outrank_statuses() -> None:
    assert kind_of("SlowDown", 503) is kind_of("", 502) is kind_of("RequestTimeout", 400) is StoreUnavailable
    assert kind_of("NotImplemented", 501) is UnexpectedResponse
    assert kind_of("Strange", 418) is UnexpectedResponse
    assert set(BY_CODE) >= CREDENTIAL_CODES


def test_a_probe_outranks_a_promise() -> None:
    assert capabilities_of("aws").conditional_delete
    proven = capabilities_of("aws", {"conditional_put": True, "conditional_delete": False})
    assert (proven.conditional_put, proven.conditional_copy, proven.conditional_delete) == (True, False, False)
    unproven = capabilities_of("aws", {})
    assert (unproven.conditional_put, unproven.conditional_copy, unproven.conditional_delete) == (False, False, False)
    assert capabilities_of("cloudflare-r2").ordering is Ordering.UNSPECIFIED


def test_unknown_providers_promise_nothing() -> None:
    assert profile_of("somebody") is PROFILES["other"]
    assert not capabilities_of("other").conditional_put


@pytest.mark.parametrize(
    ("provider", "endpoint", "region", "signed"),
    [
        ("aws", "", "auto", "us-east-1"),
        ("aws", "", "eu-west-1", "eu-west-1"),
        ("cloudflare-r2", "https://account.r2.cloudflarestorage.com", "auto", "auto"),
        ("backblaze-b2", "https://s3.us-west-004.backblazeb2.com", "auto", "us-west-004"),
        ("minio", "http://localhost:9000", "auto", "us-east-1"),
    ],
)
def test_auto_is_a_region_everywhere(provider: str, endpoint: str, region: str, signed: str) -> None:
    assert region_of(provider, endpoint, region) == signed


@pytest.mark.parametrize(
    ("provider", "endpoint"),
    [
        ("minio", ""),
        ("aws", "s3.amazonaws.com"),
        ("aws", "ftp://host"),
        ("other", "https://"),
        ("other", "http://h/?q"),
    ],
)
def test_an_address_nobody_can_use_is_refused(provider: str, endpoint: str) -> None:
    with pytest.raises(Refused):
        check_endpoint(provider, endpoint)


def test_a_store_needs_a_bucket_and_a_whole_prefix() -> None:
    for config in (S3Config(provider="aws"), S3Config(provider="aws", bucket="b", prefix="folder")):
        with pytest.raises(Refused):
            S3Store(config, CountingMeter())


def test_secrets_are_not_shown() -> None:
    config = S3Config(provider="aws", access_key="AK", secret="hidden", bucket="b")
    assert "hidden" not in repr(config) + repr(S3Store(config, CountingMeter())._client)


def test_an_unproven_condition_costs_a_head() -> None:
    one = {RequestClass.DELETE: 1}
    assert costs(Capabilities(conditional_delete=True), one, conditional=RequestClass.DELETE) == one
    assert costs(Capabilities(), one, conditional=RequestClass.DELETE) == {**one, RequestClass.HEAD: 1}


def test_a_large_copy_goes_in_parts() -> None:
    assert copy_requests(COPY_LIMIT_BYTES) == {RequestClass.COPY: 1}
    assert copy_requests(COPY_LIMIT_BYTES + 1) == {RequestClass.HEAD: 1, RequestClass.PUT: 2, RequestClass.COPY: 6}


def test_a_request_that_hangs_ends_before_its_lease_could() -> None:
    assert max(clients.READ_SECONDS, clients.CONNECT_SECONDS) < settings.REQUEST_SECONDS


def test_a_forked_child_makes_its_own_connections() -> None:
    config = client_config(S3Config(provider="minio", endpoint="http://127.0.0.1:1", bucket="b"))
    mine = clients.client_for(config)
    assert clients.client_for(config) is mine
    child = os.fork()
    if not child:
        os._exit(0 if config not in clients._clients and not clients._lock.locked() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert clients.client_for(config) is mine
