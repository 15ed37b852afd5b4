"""The remote side of an S3 vault: bucket, prefix and storage class as they may be written."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from vaulthalla.errors import Refused
from vaulthalla.units import refuse
from vaulthalla.vaults.models import Provider

BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}")
STORAGE_CLASS = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
RESERVED = ".vaulthalla"
LONGEST_PREFIX = 900
QUEUE_PATH = re.compile(r"(?:/[A-Za-z0-9_.-]+){1,4}")
NO_QUEUE = ("", "none", "null")
PROVIDERS_DEFAULT = ("", "NONE", "NULL", "DEFAULT", "PROVIDER_DEFAULT")
ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
# Providers whose classes are known; what others accept is for their own answer to say.
CLASSES: dict[str, tuple[str, ...]] = {
    Provider.AWS: (
        "STANDARD",
        "STANDARD_IA",
        "ONEZONE_IA",
        "INTELLIGENT_TIERING",
        "GLACIER_IR",
        "REDUCED_REDUNDANCY",
        "EXPRESS_ONEZONE",
    ),
    Provider.CLOUDFLARE_R2: ("STANDARD", "STANDARD_IA"),
}


def bucket(text: str) -> str:
    if not BUCKET.fullmatch(text):
        raise refuse("--bucket", "a bucket's name like photos-2026")
    return text


def prefix(text: str) -> str:
    """Empty, or ending with '/'; each segment one that can be part of a path."""
    if not text:
        return ""
    whole = text if text.endswith("/") else f"{text}/"
    segments = whole[:-1].split("/")
    if (
        len(whole.encode(errors="replace")) > LONGEST_PREFIX
        or not whole.isprintable()
        or any(segment in ("", ".", "..", RESERVED) for segment in segments)
    ):
        raise refuse("--prefix", "like photos/2026, without a leading slash, empty, '.', '..' or .vaulthalla segments")
    return whole


def queue_url(text: str, *, option: str) -> str:
    """The address of an SQS queue, as AWS or a server like it gives it. Raises Refused without repeating it."""
    accepted = "a queue's URL like https://sqs.eu-central-1.amazonaws.com/123456789012/name"
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        raise refuse(option, accepted) from None
    extras = parts.query or parts.fragment or parts.username or parts.password
    if not fits or extras or not QUEUE_PATH.fullmatch(parts.path) or not re.fullmatch(r"[!-~]{1,500}", text):
        raise refuse(option, accepted)
    return text


def storage_class(text: str, provider: str) -> str:
    """The class for uploads as the provider spells it; empty for its default."""
    name = text.strip().upper().replace("-", "_")
    if name == "INFREQUENT_ACCESS" and provider == Provider.CLOUDFLARE_R2:
        name = "STANDARD_IA"
    if name in PROVIDERS_DEFAULT:
        return ""
    if name in ARCHIVES:
        raise Refused(
            f"--storage-class {name} is an archive: what is uploaded there cannot be read back without a restore.",
            code="invalid_value",
            remedy="Choose another class, and move objects to an archive by the bucket's lifecycle rules.",
        )
    accepted = CLASSES.get(provider)
    if not STORAGE_CLASS.fullmatch(name) or (accepted and name not in accepted):
        raise refuse("--storage-class", f"one of {', '.join(accepted)}" if accepted else "a class's name like STANDARD")
    return name
