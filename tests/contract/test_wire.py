"""What goes over the wire, seen by a proxy in between: counts, retries, faults; with and without the short way."""

from __future__ import annotations

import io
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tests.contract.conftest import BUCKET, config_for
from tests.support.contents import content_of
from tests.support.meters import CountingMeter
from tests.support.proxy import Fault, Proxy
from tests.support.servers import S3Server, free_port
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores import direct
from vaulthalla.stores.base import (
    AccessDenied,
    BodyCorrupt,
    BucketMissing,
    Condition,
    MeterRefused,
    ObjectMissing,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
    UnexpectedResponse,
    UploadMissing,
)
from vaulthalla.stores.client import client_for
from vaulthalla.stores.probe import check_credentials, probe
from vaulthalla.stores.s3 import S3Store, client_config

BODY = b"what a user wrote\n" * 100
ABSENT = Condition(absent=True)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture(scope="module")
def shared_proxy(roto: S3Server) -> Iterator[Proxy]:
    with Proxy(roto.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: Proxy) -> Proxy:
    shared_proxy.reset()
    return shared_proxy


@pytest.fixture(params=["direct", "botocore"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "botocore":
        monkeypatch.setattr(direct, "takes", lambda operation, parameters: False)


@pytest.fixture
def meter() -> CountingMeter:
    return CountingMeter()


@pytest.fixture
def store(proxy: Proxy, meter: CountingMeter, _way: None) -> S3Store:
    return S3Store(config_for(proxy.endpoint), meter)


def counted(meter: CountingMeter) -> dict[str, int]:
    return {name: count for name, count in meter.counts.as_json().items() if name != "downloaded_bytes" and count}


def seen(proxy: Proxy) -> dict[str, int]:
    return {name: count for name, count in proxy.counts.as_json()["requests"].items() if count}


ACTIONS: dict[str, Callable[[S3Store], Any]] = {
    "put": lambda store: store.put("file", BODY, content_of(BODY)),
    "put a file": lambda store: store.put("file", io.BytesIO(BODY), content_of(BODY)),
    "get": lambda store: store.get("file", io.BytesIO()),
    "head": lambda store: store.head("file"),
    "delete": lambda store: store.delete("file"),
    "list": lambda store: store.list_page(),
    "copy": lambda store: store.copy("file", "copy", source_etag=content_of(BODY).md5.hex()),
    "start": lambda store: store.start_upload("parts", content_of(BODY)),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "fault",
    [
        Fault(action="error", status=503, times=2),
        Fault(action="error", status=500, times=1),
        Fault(action="reset_before", times=1),
        Fault(action="reset_after", times=1),
    ],
    ids=["slow-down", "internal-error", "reset-before", "reset-after"],
)
def test_every_attempt_is_counted_and_the_last_succeeds(
    store: S3Store, proxy: Proxy, meter: CountingMeter, action: str, fault: Fault
) -> None:
    store.put("file", BODY, content_of(BODY))
    proxy.add(Fault(action=fault.action, status=fault.status, times=fault.times))
    ACTIONS[action](store)
    assert sum(seen(proxy).values()) == 2 + fault.times
    assert counted(meter) == seen(proxy)
    failed = fault.times if fault.action == "error" else 0
    assert sum(n for (_, status), n in meter.answers.items() if status == fault.status) == failed
    assert sum(n for (_, status), n in meter.answers.items() if status < 300) == 2


@pytest.mark.parametrize("action", ACTIONS)
def test_a_store_that_stays_away_is_given_up(store: S3Store, proxy: Proxy, meter: CountingMeter, action: str) -> None:
    proxy.add(Fault(action="error", status=503, times=99))
    with pytest.raises(StoreUnavailable) as unavailable:
        ACTIONS[action](store)
    assert unavailable.value.provider_code in ("SlowDown", "503")
    assert sum(counted(meter).values()) == direct.ATTEMPTS
    assert counted(meter) == seen(proxy)


@pytest.mark.parametrize("action", ["put", "get", "head", "delete", "list"])
def test_a_budget_that_ends_between_attempts_stops_the_next(
    store: S3Store, proxy: Proxy, meter: CountingMeter, action: str
) -> None:
    meter.limits = {RequestClass(action): 2}
    proxy.add(Fault(action="error", status=503, times=99))
    with pytest.raises(MeterRefused) as refused:
        ACTIONS[action](store)
    assert refused.value.request_class is RequestClass(action)
    assert counted(meter) == seen(proxy) == {action: 2}


ANSWERS: list[tuple[int, str, type[StoreError]]] = [
    (412, "PreconditionFailed", PreconditionFailed),
    (409, "ConditionalRequestConflict", PreconditionFailed),
    (404, "NoSuchBucket", BucketMissing),
    (404, "NoSuchKey", ObjectMissing),
    (404, "NoSuchUpload", UploadMissing),
    (403, "AccessDenied", AccessDenied),
    (403, "SignatureDoesNotMatch", AccessDenied),
    (400, "BadDigest", BodyCorrupt),
    (400, "EntityTooLarge", UnexpectedResponse),
]


@pytest.mark.parametrize(("status", "code", "kind"), ANSWERS, ids=[code for _, code, _ in ANSWERS])
def test_an_answer_has_one_meaning_and_is_not_asked_again(
    store: S3Store, proxy: Proxy, status: int, code: str, kind: type[StoreError]
) -> None:
    proxy.add(Fault(action="error", status=status, code=code))
    with pytest.raises(kind) as error:
        store.put("file", BODY, content_of(BODY))
    assert type(error.value) is kind
    assert (error.value.provider_code, error.value.observed_at is not None) == (code, True)
    assert seen(proxy) == {"put": 1}


def test_a_body_cut_short_is_never_taken_for_whole(store: S3Store, proxy: Proxy, meter: CountingMeter) -> None:
    store.put("file", BODY, content_of(BODY))
    proxy.add(Fault(action="truncate", request_class="get", bytes=100))
    into = io.BytesIO()
    with pytest.raises(BodyCorrupt):
        store.get("file", into)
    assert into.getvalue() == BODY[:100]
    assert meter.counts[RequestClass.DOWNLOAD_BYTES] == proxy.counts.download_bytes == 100


def test_a_listing_cut_short_is_asked_for_again(store: S3Store, proxy: Proxy, meter: CountingMeter) -> None:
    store.put("file", BODY, content_of(BODY))
    proxy.add(Fault(action="truncate", request_class="list", bytes=300))
    assert [info.key for info in store.list_page().objects] == ["file"]
    assert counted(meter)["list"] == seen(proxy)["list"] == 2


def test_bytes_received_are_bytes_sent(store: S3Store, proxy: Proxy, meter: CountingMeter) -> None:
    body = b"x" * 1_000_000
    store.put("file", body, content_of(body))
    store.get("file", io.BytesIO())
    store.get("file", io.BytesIO(), offset=500_000)
    assert meter.counts[RequestClass.DOWNLOAD_BYTES] == proxy.counts.download_bytes == 1_500_000


def test_a_put_whose_answer_was_lost_meets_itself(store: S3Store, proxy: Proxy) -> None:
    """The caller then finds its own hash there: success."""
    proxy.add(Fault(action="reset_after", request_class="put"))
    with pytest.raises(PreconditionFailed):
        store.put("file", BODY, content_of(BODY), condition=ABSENT)
    assert store.head("file").sha256 == content_of(BODY).sha256


def test_a_bucket_that_is_missing_is_said_to_be(roto: S3Server, meter: CountingMeter) -> None:
    store = S3Store(config_for(roto.endpoint, bucket="no-such-bucket"), meter)
    for action in (store.list_page, lambda: store.put("file", BODY, content_of(BODY))):
        with pytest.raises(BucketMissing):
            action()


def test_a_server_that_is_not_there_is_unavailable(meter: CountingMeter, unused: str) -> None:
    store = S3Store(config_for(unused), meter)
    for action in (store.list_page, lambda: store.head("file")):
        with pytest.raises(StoreUnavailable):
            action()
    assert counted(meter) == {"list": direct.ATTEMPTS, "head": direct.ATTEMPTS}


@pytest.fixture
def unused() -> str:

    return f"http://127.0.0.1:{free_port()}"


def test_credentials_are_checked_without_a_bucket(proxy: Proxy, meter: CountingMeter) -> None:
    config = config_for(proxy.endpoint)
    check_credentials(config, meter)
    proxy.add(Fault(action="error", status=403, code="AccessDenied"))
    check_credentials(config, meter)
    proxy.add(Fault(action="error", status=403, code="InvalidAccessKeyId"))
    with pytest.raises(AccessDenied):
        check_credentials(config, meter)
    assert counted(meter) == seen(proxy) == {"list": 3}


PROVEN = {
    "moto": {"put": True, "complete": True, "copy": False, "delete": True},
    "roto": {"put": True, "complete": False, "copy": False, "delete": False},
}


@pytest.mark.parametrize("name", PROVEN)
def test_the_probe_proves_what_the_server_does(request: pytest.FixtureRequest, name: str) -> None:
    server: S3Server = request.getfixturevalue(name)
    meter = CountingMeter()
    config = config_for(server.endpoint, provider="other")
    able = probe(S3Store(config, meter))
    assert {condition: getattr(able, f"conditional_{condition}") for condition in PROVEN[name]} == PROVEN[name]
    assert sum(counted(meter).values()) <= 17
    assert "Contents" not in server.client().list_objects_v2(Bucket=BUCKET, Prefix=config.prefix)


class _Recorder(BaseHTTPRequestHandler):
    """Answers every request with `answer`, and keeps its head."""

    protocol_version = "HTTP/1.1"
    answer: bytes = b""
    heads: list[dict[str, str]]

    def _any(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.heads.append({"target": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    do_GET = do_PUT = do_DELETE = _any

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def recorder() -> Iterator[tuple[str, type[_Recorder]]]:
    handler = type("Handler", (_Recorder,), {"heads": []})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()
        thread.join()


COPIED = (
    b"<CopyObjectResult><ETag>&quot;e&quot;</ETag><LastModified>2026-11-01T00:00:00Z</LastModified></CopyObjectResult>"
)


@pytest.mark.parametrize(
    ("provider", "header"), [("aws", "if-none-match"), ("cloudflare-r2", "cf-copy-destination-if-none-match")]
)
def test_a_copys_destination_is_guarded_as_the_provider_wants_it(
    recorder: tuple[str, type[_Recorder]], meter: CountingMeter, provider: str, header: str
) -> None:
    endpoint, handler = recorder
    handler.answer = COPIED
    store = S3Store(config_for(endpoint, provider=provider), meter)
    assert store.copy("a b", "c", source_etag="e", condition=ABSENT).etag == "e"
    (head,) = handler.heads
    assert head[header] == "*"
    assert head["x-amz-copy-source-if-match"] == '"e"'
    assert head["x-amz-copy-source"].endswith("/below/a%20b")
    assert header in head["authorization"]


def test_r2_deletes_after_a_look(recorder: tuple[str, type[_Recorder]], proxy: Proxy, meter: CountingMeter) -> None:
    store = S3Store(config_for(proxy.endpoint, provider="cloudflare-r2"), meter)
    etag = store.put("file", BODY, content_of(BODY)).etag
    with pytest.raises(PreconditionFailed):
        store.delete("file", if_match="0" * 32)
    store.delete("file", if_match=etag)
    store.delete("file", if_match=etag)
    assert seen(proxy) == counted(meter) == {"put": 1, "head": 3, "delete": 1}


@pytest.mark.usefixtures("_way")
def test_an_error_in_a_200_is_no_page(recorder: tuple[str, type[_Recorder]], meter: CountingMeter) -> None:
    endpoint, handler = recorder
    handler.answer = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>Later.</Message></Error>"
    store = S3Store(config_for(endpoint), meter)
    with pytest.raises(StoreUnavailable):
        store.list_page()
    assert len(handler.heads) == meter.counts[RequestClass.LIST] == direct.ATTEMPTS
    # Nobody says that such an answer is free.
    assert meter.answers == {(RequestClass.LIST, 200): direct.ATTEMPTS}


def test_an_error_in_a_200_is_no_copy(recorder: tuple[str, type[_Recorder]], meter: CountingMeter) -> None:
    endpoint, handler = recorder
    handler.answer = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>Later.</Message></Error>"
    with pytest.raises(StoreUnavailable):
        S3Store(config_for(endpoint, provider="aws"), meter).copy("a", "b", source_etag="e")
    assert meter.answers == {(RequestClass.COPY, 200): direct.ATTEMPTS}


def test_keys_are_asked_for_encoded_and_with_restore_states(
    recorder: tuple[str, type[_Recorder]], meter: CountingMeter
) -> None:
    endpoint, handler = recorder
    handler.answer = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    S3Store(config_for(endpoint), meter).list_page()
    S3Store(config_for(endpoint, provider="minio"), meter).list_page()
    aws, minio = handler.heads
    assert "encoding-type=url" in aws["target"]
    assert aws["x-amz-optional-object-attributes"] == "RestoreStatus"
    assert "x-amz-optional-object-attributes" not in minio


@pytest.mark.parametrize("keys", [["b", "a"], ["a", "a"]], ids=["backwards", "twice"])
def test_a_listing_out_of_order_is_refused_where_order_is_relied_on(
    recorder: tuple[str, type[_Recorder]], meter: CountingMeter, keys: list[str]
) -> None:
    endpoint, handler = recorder
    config = config_for(endpoint)
    contents = "".join(
        f"<Contents><Key>{config.prefix}{key}</Key><LastModified>2026-11-01T00:00:00Z</LastModified><Size>1</Size></Contents>"
        for key in keys
    )
    handler.answer = (
        f"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>{contents}"
        "</ListBucketResult>"
    ).encode()
    with pytest.raises(UnexpectedResponse):
        S3Store(config, meter).list_page()
    page = S3Store(config, meter).list_page(token=True)
    assert ([info.key for info in page.objects], page.next_after) == (keys, "t")


def test_nothing_goes_out_unmetered(roto: S3Server) -> None:
    client = client_for(client_config(config_for(roto.endpoint)))
    with pytest.raises(MeterRefused):
        client.list_objects_v2(Bucket=BUCKET)
    with pytest.raises(MeterRefused):
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})


def test_no_key_names_the_bucket_itself(store: S3Store, proxy: Proxy) -> None:
    actions: list[Callable[[str], object]] = [
        store.delete,
        store.head,
        lambda key: store.put(key, BODY, content_of(BODY)),
    ]
    for action in actions:
        with pytest.raises(ValueError, match="must not be empty"):
            action("")
    assert proxy.counts.requests == Requests()


def test_a_token_that_repeats_is_no_way_on(recorder: tuple[str, type[_Recorder]], meter: CountingMeter) -> None:
    endpoint, handler = recorder
    handler.answer = (
        b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
        b"</ListBucketResult>"
    )
    store = S3Store(config_for(endpoint), meter)
    assert store.list_page(after="s", token=True).next_after == "t"
    with pytest.raises(UnexpectedResponse, match="token repeats"):
        store.list_page(after="t", token=True)


DESCRIBED = "<LastModified>2026-11-01T00:00:00Z</LastModified><Size>1</Size>"


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ("<Key>{prefix}a</Key><Size>1</Size>", "not described"),
        ("<Key>{prefix}a</Key><LastModified>2026-11-01T00:00:00Z</LastModified><Size>many</Size>", "not described"),
        ("<Key>elsewhere/a</Key>" + DESCRIBED, "not below"),
    ],
    ids=["no-time", "no-size", "other-prefix"],
)
def test_an_object_that_cannot_be_is_a_typed_error(
    recorder: tuple[str, type[_Recorder]], meter: CountingMeter, entry: str, error: str
) -> None:
    endpoint, handler = recorder
    config = replace(config_for(endpoint), prefix="here/")
    contents = f"<Contents>{entry.format(prefix=config.prefix)}</Contents>"
    handler.answer = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()
    with pytest.raises(UnexpectedResponse, match=error):
        S3Store(config, meter).list_page()


def test_a_page_that_starts_before_what_was_asked_for_is_refused(
    recorder: tuple[str, type[_Recorder]], meter: CountingMeter
) -> None:
    endpoint, handler = recorder
    config = config_for(endpoint)
    entry = f"<Contents><Key>{config.prefix}a</Key>{DESCRIBED}</Contents>"
    handler.answer = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>".encode()
    with pytest.raises(UnexpectedResponse, match="key order"):
        S3Store(config, meter).list_page(after="b")
