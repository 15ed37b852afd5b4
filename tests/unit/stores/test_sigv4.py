"""Our signatures are botocore's."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import time_machine
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from vaulthalla.stores.sigv4 import EMPTY_SHA256, authorization

NOW = datetime(2026, 11, 24, 3, 4, 5, tzinfo=UTC)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20).map(str.strip)


@example_settings(deadline=None)
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]),
    path=st.text("abcXYZ019-._~/", max_size=20),
    query=st.dictionaries(st.sampled_from(["prefix", "start-after", "list-type", "max-keys"]), st.text(max_size=8)),
    metadata=st.dictionaries(st.text("abcz-", min_size=1, max_size=8), values.filter(bool), max_size=3),
    identity=st.fixed_dictionaries({"secret": values.filter(bool), "region": st.sampled_from(["us-east-1", "auto"])}),
)
def test_the_signature_is_the_one_botocore_makes(
    method: str, path: str, query: dict[str, str], metadata: dict[str, str], identity: dict[str, str]
) -> None:
    headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()} | {"if-none-match": "*"}
    with time_machine.travel(NOW, tick=False):
        address = f"https://host.example:9000/bucket/{path}"
        request = AWSRequest(method, address, headers=dict(headers), params=query)
        S3SigV4Auth(Credentials("access", identity["secret"]), "s3", identity["region"]).add_auth(request)
    headers |= {
        "host": "host.example:9000",
        "x-amz-date": "20261124T030405Z",
        "x-amz-content-sha256": request.headers["X-Amz-Content-SHA256"],
    }
    ours = authorization(method, f"/bucket/{path}", headers, access_key="access", **identity, query=query)
    assert ours == request.headers["Authorization"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "signature"),
    [
        # The two examples of Amazon's own documentation of header signing that have no query.
        (
            "GET",
            "/test.txt",
            {"range": "bytes=0-9", "x-amz-content-sha256": EMPTY_SHA256},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            {
                "date": "Fri, 24 May 2013 00:00:00 GMT",
                "x-amz-storage-class": "REDUCED_REDUNDANCY",
                "x-amz-content-sha256": "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            },
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
    ],
)
def test_the_documented_examples_hold(method: str, path: str, headers: dict[str, str], signature: str) -> None:
    headers = headers | {"host": "examplebucket.s3.amazonaws.com", "x-amz-date": "20130524T000000Z"}
    ours = authorization(
        method,
        path,
        headers,
        access_key="AKIAIOSFODNN7EXAMPLE",
        secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        region="us-east-1",
    )
    assert ours.endswith(f"Signature={signature}")
