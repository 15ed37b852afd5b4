"""Price lists in the database: what holds, how old it is, and that a failed refresh changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import uuid4

import pytest

from budgets.catalog import Listed, listed, seed, store
from budgets.catalog_builtin import SNAPSHOT_OF, builtin
from budgets.catalog_refresh import refresh, refresh_in_use
from budgets.models import PriceList, PriceRate
from budgets.pricing import Charge
from tests.unit.budgets.test_catalog import USAGES, offer, read_offer
from vaulthalla.vaults.models import ApiKey, Vault

pytestmark = pytest.mark.django_db

REGION = "eu-central-1"


@pytest.fixture
def serve() -> Iterator[Callable[[int, bytes], str]]:
    """serve(status, body): the address of a server that answers every request so."""
    answers: list[tuple[int, bytes]] = [(200, b"")]

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[-1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def answer(status: int, body: bytes) -> str:
        answers.append((status, body))
        return f"http://127.0.0.1:{server.server_port}"

    yield answer
    server.shutdown()
    thread.join()
    server.server_close()


def held(provider: str = "aws-s3", region: str = REGION) -> Listed:
    found = listed(provider, region)
    assert found is not None
    return found


def test_seeding_twice_changes_nothing() -> None:
    seed()
    before = (PriceList.objects.count(), PriceRate.objects.count())
    seed()
    assert (PriceList.objects.count(), PriceRate.objects.count()) == before
    for prices in builtin():
        catalog = prices.catalog
        found = held(catalog.provider, catalog.region).catalog
        assert set(found.rates) == set(catalog.rates)


def test_regions_do_not_lend_their_prices() -> None:
    assert listed("aws-s3", REGION) is None
    assert listed("wasabi", "*") is None
    assert held("cloudflare-r2", "auto").catalog.region == "*"


def test_age() -> None:
    store(read_offer(offer(USAGES)), checked_at=datetime.now(UTC) - timedelta(days=31))
    assert held().stale
    # Seen again, it is young again.
    store(read_offer(offer(USAGES)))
    assert not held().stale
    assert held().age < timedelta(minutes=1)


def test_a_list_of_tomorrow_waits() -> None:
    store(read_offer(offer(USAGES, publicationDate="2999-01-01T00:00:00Z")))
    assert listed("aws-s3", REGION) is None


def test_the_newest_list_holds_whichever_was_looked_at_last() -> None:
    older, newer = offer(USAGES, version="old"), offer(USAGES, version="new", publicationDate="2026-11-02T00:00:00Z")
    store(read_offer(older), checked_at=datetime.now(UTC) - timedelta(days=40))
    store(read_offer(newer), checked_at=datetime.now(UTC) - timedelta(days=35))
    store(read_offer(older))
    store(read_offer(offer(USAGES, version="ancient", publicationDate="2020-01-01T00:00:00Z")))
    assert held().catalog.version == "new-2"
    assert held().stale
    store(read_offer(newer))
    assert (held().catalog.version, held().stale) == ("new-2", False)


def test_any_list_of_ones_own_holds_before_the_built_in_one() -> None:
    content = offer(USAGES, publicationDate="2020-01-01T00:00:00Z")
    assert held(region="us-east-1").catalog.version.startswith("builtin-")
    store(read_offer(content.replace(b"eu-central-1", b"us-east-1")), checked_at=SNAPSHOT_OF - timedelta(days=1))
    assert held(region="us-east-1").catalog.version == "20261101000000-2"


def test_refresh(serve: Callable[[int, bytes], str]) -> None:
    host = serve(200, offer(USAGES))
    assert refresh("aws-s3", REGION, host=host).result == "added"
    assert refresh("aws-s3", REGION, host=host).result == "unchanged"
    newer = offer({**USAGES, "Requests-Tier1": "0.000006"}, version="2")
    assert refresh("aws-s3", REGION, host=serve(200, newer)).version == "2-2"
    assert held().catalog.version == "2-2"
    assert PriceList.objects.filter(region=REGION).count() == 2


def test_a_refresh_keeps_what_leaving_a_region_costs(serve: Callable[[int, bytes], str]) -> None:
    content = offer(USAGES).replace(b"eu-central-1", b"us-east-1").replace(b"EUC1-", b"")
    before = held(region="us-east-1").catalog.rate("STANDARD", Charge.EGRESS)
    assert refresh("aws-s3", "us-east-1", host=serve(200, content)).result == "added"
    after = held(region="us-east-1").catalog
    assert after.version == "20261101000000-2"
    assert after.rate("STANDARD", Charge.EGRESS) == before is not None


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, b"", "status 404"),
        (500, b"", "could not be read"),
        (200, b"", "malformed"),
        (200, b"<html>", "malformed"),
        (200, offer(USAGES)[:-9], "malformed"),
        (200, offer(USAGES).replace(b"eu-central-1", b"eu-west-9"), "eu-west-9"),
        (200, offer({**USAGES, "Requests-Tier1": "9"}), "other prices"),
    ],
)
def test_a_failed_refresh_keeps_the_old(serve: Callable[[int, bytes], str], status: int, body: bytes, why: str) -> None:
    store(read_offer(offer(USAGES)), checked_at=datetime.now(UTC) - timedelta(days=1))
    before = held()
    came = refresh("aws-s3", REGION, host=serve(status, body))
    assert (came.result, came.version) == ("failed", before.catalog.version)
    assert why in came.text
    assert held().catalog == before.catalog
    assert held().age >= timedelta(days=1)


def test_once_a_day_the_lists_in_use_are_read(serve: Callable[[int, bytes], str]) -> None:
    host = serve(200, offer(USAGES))
    assert refresh_in_use(host=host) == []
    for name, provider, region in (("a", "aws", REGION), ("b", "aws", REGION), ("r", "cloudflare-r2", "auto")):
        key = ApiKey.objects.create(name=name, provider=provider, region=region)
        Vault.objects.create(name=name, kind="s3", root=f"/{name}", api_key=key, bucket=name, marker=uuid4())
    assert [(came.region, came.result) for came in refresh_in_use(host=host)] == [(REGION, "added")]
    assert not held().stale


def test_providers_without_a_list_to_read() -> None:
    came = refresh("cloudflare-r2", "auto")
    assert came.result == "unsupported"
    assert "builtin" in came.text
