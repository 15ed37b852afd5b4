"""Whether a message is what SNS signed: for an expected topic, by a certificate of SNS itself."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec
import urllib3
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

HOST = re.compile(r"sns\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?")
NOTIFICATION, SUBSCRIPTION, GOODBYE = "Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"
LARGEST = 64 * 2**10
SECONDS = 5

Fetch = Callable[[str], bytes]


class NotSigned(Exception):
    """It cannot be shown to come from SNS and the expected topic."""


class Envelope(msgspec.Struct):
    """The fields that SNS signs, and how."""

    type: str = msgspec.field(default="", name="Type")
    message_id: str = msgspec.field(default="", name="MessageId")
    topic: str = msgspec.field(default="", name="TopicArn")
    message: str = msgspec.field(default="", name="Message")
    subject: str | None = msgspec.field(default=None, name="Subject")
    timestamp: str = msgspec.field(default="", name="Timestamp")
    token: str | None = msgspec.field(default=None, name="Token")
    subscribe_url: str | None = msgspec.field(default=None, name="SubscribeURL")
    version: str = msgspec.field(default="", name="SignatureVersion")
    signature: str = msgspec.field(default="", name="Signature")
    certificate_url: str = msgspec.field(default="", name="SigningCertURL")


def envelope_of(body: bytes) -> Envelope | None:
    """The envelope, when the body is one of SNS."""
    try:
        found = msgspec.json.decode(body, type=Envelope)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return found if found.type in (NOTIFICATION, SUBSCRIPTION, GOODBYE) and found.topic else None


def verify(envelope: Envelope, topic: str, *, fetch: Fetch, now: datetime) -> None:
    """Raises NotSigned. Nothing is fetched for another topic, nor from anywhere but SNS."""
    if not topic or envelope.topic != topic:
        raise NotSigned("the topic is not the expected one")
    parts = urlsplit(of_sns(envelope.certificate_url))
    if not parts.path.endswith(".pem"):
        raise NotSigned("the certificate's address is none of SNS")
    try:
        certificate = x509.load_pem_x509_certificate(fetch(envelope.certificate_url))
        signature = base64.b64decode(envelope.signature, validate=True)
    except (ValueError, binascii.Error) as error:
        raise NotSigned("the certificate or the signature is damaged") from error
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise NotSigned("the certificate is not valid now")
    key = certificate.public_key()
    algorithm = {"1": hashes.SHA1(), "2": hashes.SHA256()}.get(envelope.version)  # noqa: S303 - version 1 is SHA-1
    if algorithm is None or not isinstance(key, RSAPublicKey):
        raise NotSigned("the signature's version is unknown")
    try:
        key.verify(signature, signed_text(envelope), PKCS1v15(), algorithm)
    except InvalidSignature as error:
        raise NotSigned("the signature does not fit") from error


def signed_text(envelope: Envelope) -> bytes:
    """What SNS signs: names and values, a line each, in the order of the names."""
    fields: list[tuple[str, str | None]] = [("Message", envelope.message), ("MessageId", envelope.message_id)]
    if envelope.type == NOTIFICATION:
        fields.append(("Subject", envelope.subject))
    else:
        fields.append(("SubscribeURL", envelope.subscribe_url))
    fields.append(("Timestamp", envelope.timestamp))
    if envelope.type != NOTIFICATION:
        fields.append(("Token", envelope.token))
    fields += [("TopicArn", envelope.topic), ("Type", envelope.type)]
    return "".join(f"{name}\n{value}\n" for name, value in fields if value is not None).encode(errors="replace")


def of_sns(url: str | None) -> str:
    """The address, if it is one of SNS itself. Raises NotSigned."""
    try:
        parts = urlsplit(url or "")
        fits = parts.scheme == "https" and parts.netloc == parts.hostname and HOST.fullmatch(parts.netloc)
    except ValueError:
        fits = None
    if not fits or not url:
        raise NotSigned("an address is none of SNS")
    return url


@lru_cache(maxsize=16)
def fetch_certificate(url: str) -> bytes:
    """Certificates live at addresses of their own, so one is asked for once. Raises OSError."""
    return fetch(url)


def fetch(url: str) -> bytes:
    """What is at an address of SNS; follows nowhere. Raises OSError."""
    try:
        with urllib3.PoolManager(retries=False, timeout=SECONDS) as pool:
            answer = pool.request("GET", url, redirect=False, preload_content=False)
            body: bytes = answer.read(LARGEST + 1)
    except urllib3.exceptions.HTTPError as error:
        raise OSError(str(error)) from error
    if answer.status != 200 or len(body) > LARGEST:
        raise OSError(f"SNS answered {answer.status}")
    return body
