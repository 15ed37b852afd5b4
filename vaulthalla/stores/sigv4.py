"""AWS Signature Version 4 for S3, for headers only; proven equal to botocore's signer by test."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def authorization(
    method: str,
    path: str,
    headers: Mapping[str, str],
    *,
    access_key: str,
    secret: str,
    region: str,
    query: Mapping[str, str] | None = None,
) -> str:
    """The Authorization header of a request. `path` is percent-encoded as sent, `query` is what `query_string` sends;
    `headers` are all to be signed, by lower-case name, `host`, `x-amz-date` and `x-amz-content-sha256` among them."""
    moment = headers["x-amz-date"]
    names = sorted(headers)
    signed = ";".join(names)
    lines = "".join([f"{name}:{' '.join(headers[name].split())}\n" for name in names])
    canonical = f"{method}\n{path}\n{query_string(query or {})}\n{lines}\n{signed}\n{headers['x-amz-content-sha256']}"
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signature = hmac.digest(
        _key(secret, moment[:8], region), f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}".encode(), "sha256"
    ).hex()
    return f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"


def query_string(query: Mapping[str, str]) -> str:
    """As it is signed, and sent."""
    encoded = {name: quote(value.encode("utf-8", "surrogateescape"), safe="-_.~") for name, value in query.items()}
    return "&".join(f"{name}={encoded[name]}" for name in sorted(encoded))


@lru_cache(maxsize=16)
def _key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
