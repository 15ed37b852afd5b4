"""Who may pass for SNS: a signature by a certificate of SNS, for the expected topic, and nothing else."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import NameOID

from indexing.events import sns

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TOPIC = "arn:aws:sns:eu-central-1:123456789012:photos"
CERTIFICATE_URL = "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0.pem"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(*, until: datetime = NOW + timedelta(days=1)) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
    made = made.serial_number(1).not_valid_before(NOW - timedelta(days=9)).not_valid_after(until)
    return made.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def signed(*, version: str = "2", **facts: Any) -> bytes:
    """A message as SNS sends it, signed over the fields it is documented to sign."""
    message = {
        "Type": "Notification",
        "MessageId": "1",
        "TopicArn": TOPIC,
        "Message": "{}",
        "Timestamp": "2026-11-20T12:00:00.000Z",
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE_URL,
        **facts,
    }
    other = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
    names = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
    order = names if message["Type"] == "Notification" else other
    text = "".join(f"{name}\n{message[name]}\n" for name in order if name in message)
    algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()
    message["Signature"] = base64.b64encode(KEY.sign(text.encode(), PKCS1v15(), algorithm)).decode()
    return json.dumps(message).encode()


def verify(body: bytes, *, topic: str = TOPIC, pem: bytes | None = None, now: datetime = NOW) -> None:
    envelope = sns.envelope_of(body)
    assert envelope is not None
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return pem or certificate()

    try:
        sns.verify(envelope, topic, fetch=fetch, now=now)
    finally:
        assert set(asked) <= {CERTIFICATE_URL}


@pytest.mark.parametrize(
    "body",
    [
        signed(),
        signed(version="1"),
        signed(Subject="Amazon S3 Notification"),
        signed(Type="SubscriptionConfirmation", Token="t", SubscribeURL="https://sns.eu-central-1.amazonaws.com/?a=b"),
    ],
)
def test_what_sns_signed(body: bytes) -> None:
    verify(body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (signed().replace(b'"Message": "{}"', b'"Message": "[]"'), "does not fit"),
        (signed().replace(b'"Signature": "', b'"Signature": "!'), "damaged"),
        (signed(version="2").replace(b'"SignatureVersion": "2"', b'"SignatureVersion": "3"'), "unknown"),
        (signed(TopicArn=TOPIC + "2"), "topic"),
        *(
            (signed(SigningCertURL=url), "none of SNS")
            for url in (
                "http://sns.eu-central-1.amazonaws.com/a.pem",
                "https://sns.eu-central-1.amazonaws.com.evil.test/a.pem",
                "https://evil.test/sns.eu-central-1.amazonaws.com/a.pem",
                "https://sns.eu-central-1.amazonaws.com:444/a.pem",
                "https://me@sns.eu-central-1.amazonaws.com/a.pem",
                "https://s3.eu-central-1.amazonaws.com/bucket/a.pem",
                "https://sns.eu-central-1.amazonaws.com/a.txt",
                "https://[",
                "",
            )
        ),
    ],
)
def test_what_sns_did_not_sign(body: bytes, why: str) -> None:
    with pytest.raises(sns.NotSigned, match=why):
        verify(body)


def test_no_topic_expected_accepts_none() -> None:
    with pytest.raises(sns.NotSigned, match="topic"):
        verify(signed(), topic="")


@pytest.mark.parametrize("pem", [b"no certificate", certificate(until=NOW - timedelta(days=1))])
def test_a_certificate_must_be_one_and_valid(pem: bytes) -> None:
    with pytest.raises(sns.NotSigned):
        verify(signed(), pem=pem)


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"Type": "Notification"}', b'{"Records": []}', b"[" * 9999])
def test_other_bodies_are_no_envelope(body: bytes) -> None:
    assert sns.envelope_of(body) is None
