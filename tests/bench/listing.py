"""python -m tests.bench.listing (vh|boto3) ENDPOINT PAGES: lists all pages; prints {"pages", "objects", "cpu" (s)}.

The first pass warms up; what is measured is the second one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator

from tests.support.servers import ACCESS_KEY, SECRET

Lister = Callable[[], Iterator[int]]


def vh(endpoint: str) -> Lister:
    """Object counts by page, of the product's own store."""
    from tests.support.meters import CountingMeter
    from vaulthalla.stores.s3 import S3Config, S3Store

    config = S3Config(provider="other", endpoint=endpoint, access_key=ACCESS_KEY, secret=SECRET, bucket="bench")
    store = S3Store(config, CountingMeter())

    def pages() -> Iterator[int]:
        after: str | None = ""
        while after is not None:
            page = store.list_page(after=after)
            yield len(page.objects)
            after = page.next_after

    return pages


def boto3(endpoint: str) -> Lister:
    """The same of boto3's paginator, as it comes."""
    from urllib.parse import urlsplit

    from tests.support.servers import S3Server

    client = S3Server("pages", port=urlsplit(endpoint).port or 0).client()

    def pages() -> Iterator[int]:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket="bench"):
            yield len(page["Contents"])

    return pages


def main(who: str, endpoint: str, pages: int) -> None:
    lister = {"vh": vh, "boto3": boto3}[who](endpoint)
    sum(lister())
    started, begun = time.process_time(), time.perf_counter()
    counts = list(lister())
    cpu, seconds = time.process_time() - started, time.perf_counter() - begun
    if counts != [1000] * pages:
        raise SystemExit(f"{who} saw {sum(counts)} objects on {len(counts)} pages, not {pages} pages of 1000.")
    print(json.dumps({"pages": len(counts), "objects": sum(counts), "cpu": cpu, "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
