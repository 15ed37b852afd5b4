"""Which queues there can be, where they are asked, and what goes with which option."""

from __future__ import annotations

import pytest

from indexing.events.choice import Choice
from indexing.events.sqs import region_of
from vaulthalla.errors import Refused
from vaulthalla.vaults.remote import queue_url


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.eu-central-1.amazonaws.com/123456789012/q", "eu-central-1"),
        ("https://sqs-fips.us-west-2.amazonaws.com/123456789012/q", "us-west-2"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/q", "cn-north-1"),
        ("https://eu-west-1.queue.amazonaws.com/123456789012/q", "eu-west-1"),
        ("https://vpce-1-2.sqs.us-east-2.vpce.amazonaws.com/123456789012/q", "us-east-2"),
        ("http://127.0.0.1:4566/000000000000/q", "eu-north-1"),
        ("http://sqs.eu-central-1.localhost.localstack.cloud:4566/000000000000/q", "eu-north-1"),
    ],
)
def test_the_url_decides_on_the_region(url: str, region: str) -> None:
    assert queue_url(url, option="--queue") == url
    assert region_of(url, "eu-north-1") == region


def test_auto_is_no_region_of_a_queue() -> None:
    assert region_of("http://localhost:4566/000000000000/q", "auto") == "us-east-1"


@pytest.mark.parametrize(
    "url",
    ["", "q", "ftp://host/1/q", "https://host", "https://host/", "https://u:secret@host/1/q", "http://host/1/q?a=b",
     "http://host:0/1/q", "http://host:99999/1/q", "http://[/1/q", "https://host/1/q\n", "https://host/1/q q"],
)  # fmt: skip
def test_what_is_no_queue_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(Refused, match="--queue must be") as refused:
        queue_url(url, option="--queue")
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "one place"),
        ({"file": "f", "queue": "q"}, "one place"),
        ({"file": "f", "follow": True}, "--follow"),
        ({"file": "f", "api_key": "k"}, "--api-key"),
        ({"file": "f", "no_lifecycle_rules": True}, "--no-lifecycle-rules"),
        ({"queue": "q", "clear": True}, "--clear"),
        ({"queue": "q", "follow": True, "through": "2026-11-20"}, "--through"),
        ({"set_aside": True, "through": "2026-11-20"}, "--through"),
    ],
)
def test_what_does_not_go_together(options: dict[str, str | bool], named: str) -> None:
    with pytest.raises(Refused, match=named):
        Choice(**options).check()  # type: ignore[arg-type]


def test_what_does() -> None:
    Choice(file="f", through="2026-11-20").check()
    Choice(queue="q", follow=True, api_key="k", no_lifecycle_rules=True).check()
    Choice(set_aside=True, clear=True).check()
