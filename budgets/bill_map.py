"""What providers call the requests they bill, and the classes we count them in: tables, and no decision but theirs.

Sources. AWS usage types and operations: "Understanding your AWS billing and usage reports for Amazon S3" in the S3 user
guide. Storage Lens: its "metrics glossary". R2: "Class A operations", "Class B operations" and "Free operations" on
Cloudflare's pricing page. What a table does not hold is told as unknown, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from vaulthalla.requests import RequestClass

LIST, HEAD, GET, PUT, COPY, DELETE, BYTES = RequestClass


class Format(StrEnum):
    AWS_CUR = "aws-cur"
    STORAGE_LENS = "storage-lens"
    R2_ANALYTICS = "r2-analytics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """What one line is about: a request class (empty: the line does not tell it) in a group that is summed."""

    group: str
    request_class: RequestClass | None
    storage_class: str = ""


# The groups of each format, and the classes whose sum they are to be compared with.
GROUPS: Mapping[Format, Mapping[str, frozenset[RequestClass]]] = MappingProxyType(
    {
        Format.AWS_CUR: {
            "tier1": frozenset({PUT, COPY, LIST}),
            "tier2": frozenset({GET, HEAD}),
            "delete": frozenset({DELETE}),
        },
        # A copy is a PUT to Storage Lens; beginning and completing a multipart upload are POSTs.
        Format.STORAGE_LENS: {
            "put_post": frozenset({PUT, COPY}),
            "get": frozenset({GET}),
            "head": frozenset({HEAD}),
            "list": frozenset({LIST}),
            "delete": frozenset({DELETE}),
            "bytes": frozenset({BYTES}),
        },
        Format.R2_ANALYTICS: {
            "class_a": frozenset({PUT, COPY, LIST}),
            "class_b": frozenset({GET, HEAD}),
            "free": frozenset({DELETE}),
        },
    }
)

# Spelled as S3's API spells them. InitiateMultipartUpload and ListBucket are the reports' older names.
OPERATIONS: Mapping[str, RequestClass] = MappingProxyType(
    {
        "PutObject": PUT,
        "PostObject": PUT,
        "InitiateMultipartUpload": PUT,
        "CreateMultipartUpload": PUT,
        "UploadPart": PUT,
        "CompleteMultipartUpload": PUT,
        "CopyObject": COPY,
        "UploadPartCopy": COPY,
        "ListBucket": LIST,
        "ListObjects": LIST,
        "ListObjectsV2": LIST,
        "ListParts": LIST,
        "ListMultipartUploads": LIST,
        "GetObject": GET,
        "HeadObject": HEAD,
        "HeadBucket": HEAD,
        "DeleteObject": DELETE,
        "AbortMultipartUpload": DELETE,
    }
)

_REQUESTS = re.compile(r"(?:[A-Z]{2,4}[0-9]?-)?Requests-(?:([A-Z]+)-)?(Tier[0-9]+)", re.ASCII)
# The part of a usage type that names a storage class.
STORAGE_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "": "STANDARD",
        "SIA": "STANDARD_IA",
        "ZIA": "ONEZONE_IA",
        "INT": "INTELLIGENT_TIERING",
        "GIR": "GLACIER_IR",
        "GLACIER": "GLACIER",
        "GDA": "DEEP_ARCHIVE",
    }
)
_TIERS = {"Tier1": "tier1", "Tier2": "tier2"}


def aws(usage_type: str, operation: str) -> Billed | None:
    """A line item of S3; None when it counts no requests of ours: storage, traffic, restores, lifecycle.

    A restore is billed in a tier of its own, by the way it is done; we count it as a PUT, so that it is in `tier1`.
    """
    found = _REQUESTS.fullmatch(usage_type)
    if found is None:
        return None
    short, tier = found[1] or "", found[2]
    if short not in STORAGE_CLASSES:
        return None
    storage_class, request_class = STORAGE_CLASSES[short], OPERATIONS.get(operation)
    if operation == "RestoreObject":
        return Billed(group="tier1", request_class=PUT, storage_class=storage_class)
    if request_class is DELETE:
        # Billed at zero, in the second tier.
        return Billed(group="delete", request_class=DELETE, storage_class=storage_class)
    if tier not in _TIERS:
        return None
    group = _TIERS[tier]
    if request_class not in GROUPS[Format.AWS_CUR][group]:
        request_class = None
    return Billed(group=group, request_class=request_class, storage_class=storage_class)


LENS_METRICS: Mapping[str, tuple[str, RequestClass | None]] = MappingProxyType(
    {
        "PutRequests": ("put_post", None),
        "PostRequests": ("put_post", None),
        "GetRequests": ("get", GET),
        "HeadRequests": ("head", HEAD),
        "ListRequests": ("list", LIST),
        "DeleteRequests": ("delete", DELETE),
        "BytesDownloaded": ("bytes", BYTES),
    }
)


def lens(metric: str, storage_class: str) -> Billed | None:
    """A metric of a bucket; None for those that count no requests, and for sums of those that do."""
    found = LENS_METRICS.get(metric)
    return None if found is None else Billed(group=found[0], request_class=found[1], storage_class=storage_class)


# Beyond those that a sync sends: told in their group, with no class.
_CLASS_A = frozenset(
    {
        "ListBuckets",
        "PutBucket",
        "LifecycleStorageTierTransition",
        "PutBucketEncryption",
        "PutBucketCors",
        "PutBucketLifecycleConfiguration",
    }
)
_CLASS_B = frozenset(
    {"UsageSummary", "GetBucketEncryption", "GetBucketLocation", "GetBucketCors", "GetBucketLifecycleConfiguration"}
)
_FREE = frozenset({"DeleteBucket", "DeleteObjects"})


def r2(action: str) -> Billed | None:
    """An operation of R2's analytics; None for one that Cloudflare's page does not name."""
    request_class = OPERATIONS.get(action)
    if request_class is not None:
        group = next(name for name, held in GROUPS[Format.R2_ANALYTICS].items() if request_class in held)
        return Billed(group=group, request_class=request_class)
    for name, actions in (("class_a", _CLASS_A), ("class_b", _CLASS_B), ("free", _FREE)):
        if action in actions:
            return Billed(group=name, request_class=None)
    return None


def aws_bucket(resource: str) -> str:
    """The bucket that a line's resource names: by its name, or by its ARN. Empty where it names none."""
    return resource.removeprefix("arn:aws:s3:::").removeprefix("arn:aws-cn:s3:::").partition("/")[0]


def r2_bucket(name: str) -> str:
    """Without the jurisdiction that analytics put in front: names of buckets hold no underscore."""
    return name.rpartition("_")[2]
