"""Listings, and the four requests of small objects, without botocore's machinery, at a third of its CPU.

Parameters, answers and errors are botocore's own, and so are its connections, credentials and addresses; what it
alone can handle (redirects to another region, proxies, access points) it is handed. Retries follow its standard mode.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import urllib3
from botocore.exceptions import BotoCoreError, ClientError
from botocore.retries.quota import RetryQuota
from urllib3.exceptions import HTTPError, SSLError

from vaulthalla.stores.listing import BadListing, parse
from vaulthalla.stores.sigv4 import EMPTY_SHA256, authorization, query_string

ATTEMPTS = 4
BACKOFF_SECONDS = 20
QUOTA = 500
RETRY_COST = 5
USER_AGENT = "vaulthalla"

LIST = "ListObjectsV2"
METHODS = {"PutObject": "PUT", "GetObject": "GET", "HeadObject": "HEAD", "DeleteObject": "DELETE", LIST: "GET"}
QUERY = {
    "ContinuationToken": "continuation-token",
    "Delimiter": "delimiter",
    "EncodingType": "encoding-type",
    "MaxKeys": "max-keys",
    "Prefix": "prefix",
    "StartAfter": "start-after",
}
SENT = {
    "ContentMD5": "content-md5",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "Range": "range",
    "StorageClass": "x-amz-storage-class",
}
RECEIVED = {
    "etag": "ETag",
    "content-range": "ContentRange",
    "x-amz-storage-class": "StorageClass",
    "x-amz-archive-status": "ArchiveStatus",
    "x-amz-restore": "Restore",
    "x-amz-version-id": "VersionId",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-customer-algorithm": "SSECustomerAlgorithm",
}
NOT_IN_QUERY = ("Bucket", "OptionalObjectAttributes")
METADATA = "x-amz-meta-"
# An answer to a condition, not a redirection.
NOT_MODIFIED = 304
RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})
RETRIED_CODES = frozenset({"RequestTimeout", "RequestTimeoutException", "SlowDown", "Throttling", "TooManyRequests"})
# These need another region's address, which botocore finds out.
ELSEWHERE = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"})


class NeedsBotocore(Exception):
    """Not an answer for this path. What was sent so far is counted."""


class NotWhole(ClientError):
    """A page that was cut short, or an error that came as a success: as good as a server's error."""


class Unreadable(BotoCoreError):
    """A header whose number or time is none."""

    fmt = "the answer cannot be read: {error}"


class Attempts(Protocol):
    """Who is asked before every attempt, and told of its answer's status."""

    def attempt(self) -> None:
        """May raise, so that nothing is sent."""

    def answered(self, status: int) -> None:
        """The status of an answer."""


class DirectClient:
    """Connections to one endpoint for one bucket, shared by the threads of a process."""

    def __init__(self, client: Any, address: str, region: str) -> None:
        parts = urlsplit(address)
        self.host, self.path = parts.netloc, parts.path
        self.region = region
        self._credentials = client._request_signer._credentials
        self._pool = _pool(client, address)
        self._quota = RetryQuota(QUOTA)

    @classmethod
    def to(cls, client: Any, bucket: str) -> DirectClient | None:
        """None when plain requests do not reach this bucket as botocore's would."""
        found = _address(client, bucket)
        if found is None or client._endpoint.http_session._proxy_config.proxy_url_for(found[0]) is not None:
            return None
        return cls(client, *found)

    def call(self, operation: str, parameters: Mapping[str, Any], attempts: Attempts) -> dict[str, Any]:
        """As botocore's `_make_api_call`."""
        number = 0
        while True:
            number += 1
            attempts.attempt()
            failure: Exception
            try:
                response = self._send(operation, parameters)
                attempts.answered(response.status)
                if response.status < 300:
                    answer = _answer(response, operation, number)
                    self._quota.release(RETRY_COST if number > 1 else 1)
                    return answer
                failure, again = self._refusal(response, operation, number)
            except SSLError:
                raise
            except (HTTPError, NotWhole) as error:
                failure, again = error, True
            if not again or number == ATTEMPTS or not self._quota.acquire(RETRY_COST):
                raise failure
            time.sleep(min(BACKOFF_SECONDS, random.random() * 2 ** (number - 1)))  # noqa: S311

    def _send(self, operation: str, parameters: Mapping[str, Any]) -> urllib3.BaseHTTPResponse:
        path = f"{self.path}/{quote(parameters['Key'], safe='/~')}" if "Key" in parameters else self.path or "/"
        query = _query(parameters) if operation == LIST else {}
        body = parameters.get("Body")
        return self._pool.urlopen(
            METHODS[operation],
            f"{path}?{query_string(query)}" if query else path,
            body=body,
            headers=self._signed(METHODS[operation], path, query, body, parameters),
            retries=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )

    def _signed(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None, parameters: Mapping[str, Any]
    ) -> dict[str, str]:
        headers = {SENT[name]: value for name, value in parameters.items() if name in SENT}
        if wanted := parameters.get("OptionalObjectAttributes"):
            headers["x-amz-optional-object-attributes"] = ",".join(wanted)
        headers.update({METADATA + name: value for name, value in parameters.get("Metadata", {}).items()})
        identity = self._credentials.get_frozen_credentials()
        if identity.token:
            headers["x-amz-security-token"] = identity.token
        headers["host"] = self.host
        headers["x-amz-date"] = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        headers["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
        headers["authorization"] = authorization(
            method,
            path,
            headers,
            access_key=identity.access_key,
            secret=identity.secret_key,
            region=self.region,
            query=query,
        )
        headers["user-agent"] = USER_AGENT
        return headers

    def _refusal(self, response: urllib3.BaseHTTPResponse, operation: str, number: int) -> tuple[ClientError, bool]:
        """The ClientError botocore would raise, and whether it would try again."""
        headers = _headers(response)
        said = {"Code": str(response.status), "Message": response.reason or "", **_said(response.read())}
        moved = headers.get("x-amz-bucket-region", self.region) != self.region
        redirected = response.status < 400 and response.status != NOT_MODIFIED
        if moved or said["Code"] in ELSEWHERE or redirected:
            raise NeedsBotocore
        again = response.status in RETRIED_STATUSES or said["Code"] in RETRIED_CODES
        answer: Any = {"Error": said, "ResponseMetadata": _metadata(response, headers, number)}
        return ClientError(answer, operation), again


def takes(operation: str, parameters: Mapping[str, Any]) -> bool:
    """Whether this path can send it: no body, or one in memory."""
    return operation in METHODS and isinstance(parameters.get("Body", b""), bytes)


def _address(client: Any, bucket: str) -> tuple[str, str] | None:
    """Where botocore sends requests for this bucket, and the region it signs for: a presigned address tells both."""
    if bucket.startswith("arn:") or bucket.endswith("--x-s3") or client._request_signer._credentials is None:
        return None
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    scope = re.search(r"X-Amz-Credential=[^&]*%2F\d{8}%2F([^&%]+)%2Fs3%2Faws4_request", url)
    base = url.partition("?")[0]
    return (base.removesuffix("/k"), scope[1]) if scope and base.endswith("/k") else None


def _pool(client: Any, address: str) -> urllib3.HTTPConnectionPool:
    """botocore's own pool, with its certificates and time-outs."""
    session = client._endpoint.http_session
    pool: urllib3.HTTPConnectionPool = session._get_connection_manager(address).connection_from_url(address)
    session._setup_ssl_cert(pool, address, session._verify)
    return pool


def _query(parameters: Mapping[str, Any]) -> dict[str, str]:
    told = {QUERY[name]: str(value) for name, value in parameters.items() if name not in NOT_IN_QUERY}
    return {"list-type": "2", **told}


def _answer(response: urllib3.BaseHTTPResponse, operation: str, number: int) -> dict[str, Any]:
    """Raises NotWhole for a listing that is not a whole one, Unreadable for what is no answer of S3."""
    headers = _headers(response)
    if operation == LIST:
        body = response.read()
        metadata = _metadata(response, headers, number)
        try:
            return {"Listing": parse(body), "ResponseMetadata": metadata}
        except BadListing as error:
            said = {"Code": "500", "Message": str(error), **_said(body)}
            refused: Any = {"Error": said, "ResponseMetadata": {**metadata, "HTTPStatusCode": 500}}
            raise NotWhole(refused, LIST) from error
    answer: dict[str, Any] = {RECEIVED[name]: value for name, value in headers.items() if name in RECEIVED}
    answer["Metadata"] = {n.removeprefix(METADATA): v for n, v in headers.items() if n.startswith(METADATA)}
    try:
        answer["ContentLength"] = int(headers.get("content-length", 0))
        if "last-modified" in headers:
            answer["LastModified"] = _date(headers["last-modified"])
    except ValueError as error:
        response.close()
        raise Unreadable(error=error) from error
    answer["ResponseMetadata"] = _metadata(response, headers, number)
    if operation == "GetObject":
        answer["Body"] = response
    else:
        response.read()
    return answer


def _metadata(response: urllib3.BaseHTTPResponse, headers: dict[str, str], number: int) -> dict[str, Any]:
    return {"HTTPStatusCode": response.status, "HTTPHeaders": headers, "RetryAttempts": number - 1}


def _headers(response: urllib3.BaseHTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _said(body: bytes) -> dict[str, str]:
    """`Code` and `Message` of an error's XML; a HEAD's answer, or a gateway's page, says nothing."""
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - the parser expands no external entities
    except (ElementTree.ParseError, LookupError, ValueError):  # also an encoding that nobody knows
        return {}
    return {
        name: text for name in ("Code", "Message") if (text := root.findtext(f"{{*}}{name}") or root.findtext(name))
    }


@lru_cache(maxsize=1024)
def _date(text: str) -> datetime:
    return parsedate_to_datetime(text)
