"""What providers call our requests: the tables, line by line."""

from __future__ import annotations

import pytest

from budgets.bill_map import GROUPS, Billed, Format, aws, aws_bucket, lens, r2, r2_bucket
from vaulthalla.requests import RequestClass as R


@pytest.mark.parametrize(
    ("usage_type", "operation", "tier", "request_class", "storage_class"),
    [
        # us-east-1 has no prefix; other regions have theirs.
        ("Requests-Tier1", "PutObject", "tier1", R.PUT, "STANDARD"),
        ("USE1-Requests-Tier1", "PutObject", "tier1", R.PUT, "STANDARD"),
        ("EU-Requests-Tier1", "PutObject", "tier1", R.PUT, "STANDARD"),
        ("EUC1-Requests-Tier1", "CopyObject", "tier1", R.COPY, "STANDARD"),
        ("CAN1-Requests-Tier1", "UploadPartCopy", "tier1", R.COPY, "STANDARD"),
        ("UGW1-Requests-Tier1", "ListBucket", "tier1", R.LIST, "STANDARD"),
        ("Requests-Tier1", "InitiateMultipartUpload", "tier1", R.PUT, "STANDARD"),
        ("Requests-Tier1", "UploadPart", "tier1", R.PUT, "STANDARD"),
        ("Requests-Tier1", "CompleteMultipartUpload", "tier1", R.PUT, "STANDARD"),
        ("Requests-Tier1", "ListMultipartUploads", "tier1", R.LIST, "STANDARD"),
        ("Requests-Tier2", "GetObject", "tier2", R.GET, "STANDARD"),
        ("Requests-Tier2", "HeadObject", "tier2", R.HEAD, "STANDARD"),
        ("Requests-Tier2", "HeadBucket", "tier2", R.HEAD, "STANDARD"),
        ("Requests-SIA-Tier1", "PutObject", "tier1", R.PUT, "STANDARD_IA"),
        ("APN1-Requests-SIA-Tier2", "GetObject", "tier2", R.GET, "STANDARD_IA"),
        ("Requests-ZIA-Tier2", "HeadObject", "tier2", R.HEAD, "ONEZONE_IA"),
        ("Requests-INT-Tier1", "PutObject", "tier1", R.PUT, "INTELLIGENT_TIERING"),
        ("Requests-GIR-Tier2", "GetObject", "tier2", R.GET, "GLACIER_IR"),
        ("Requests-GLACIER-Tier1", "PutObject", "tier1", R.PUT, "GLACIER"),
        ("Requests-GDA-Tier1", "UploadPart", "tier1", R.PUT, "DEEP_ARCHIVE"),
        # Restores are billed by how they are done, and counted as a PUT here.
        ("Requests-Tier3", "RestoreObject", "tier1", R.PUT, "STANDARD"),
        ("Requests-GDA-Tier5", "RestoreObject", "tier1", R.PUT, "DEEP_ARCHIVE"),
        # Free, though it is listed among the second tier.
        ("Requests-Tier2", "DeleteObject", "delete", R.DELETE, "STANDARD"),
        ("Requests-Tier2", "AbortMultipartUpload", "delete", R.DELETE, "STANDARD"),
        # In their tiers, but nothing that a sync sends, or not where it belongs.
        ("Requests-Tier2", "GetBucketLocation", "tier2", None, "STANDARD"),
        ("Requests-Tier1", "PutBucketTagging", "tier1", None, "STANDARD"),
        ("Requests-Tier1", "", "tier1", None, "STANDARD"),
        ("Requests-Tier1", "GetObject", "tier1", None, "STANDARD"),
    ],
)
def test_line_items(usage_type: str, operation: str, tier: str, request_class: R | None, storage_class: str) -> None:
    assert aws(usage_type, operation) == Billed(group=tier, request_class=request_class, storage_class=storage_class)


@pytest.mark.parametrize(
    ("usage_type", "operation"),
    [
        ("TimedStorage-ByteHrs", "StandardStorage"),
        ("USW2-DataTransfer-Out-Bytes", "GetObject"),
        ("EUC1-USE1-AWS-Out-Bytes", "GetObject"),
        ("Retrieval-SIA", "GetObject"),
        ("Requests-Tier4", "S3-SIATransition"),
        ("Requests-Tier3", "S3-GlacierTransition"),
        ("Requests-XZ-Tier1", "PutObject"),
        ("Requests-Tier1-Not", "PutObject"),
        ("requests-tier1", "PutObject"),
        ("", ""),
    ],
)
def test_what_counts_no_requests_of_ours(usage_type: str, operation: str) -> None:
    assert aws(usage_type, operation) is None


def test_buckets() -> None:
    assert aws_bucket("photos") == aws_bucket("arn:aws:s3:::photos") == "photos"
    assert aws_bucket("arn:aws-cn:s3:::photos/key") == "photos"
    assert aws_bucket("") == ""
    assert (r2_bucket("photos"), r2_bucket("eu_photos"), r2_bucket("")) == ("photos", "photos", "")


@pytest.mark.parametrize(
    ("metric", "tier", "request_class"),
    [
        ("PutRequests", "put_post", None),
        ("PostRequests", "put_post", None),
        ("GetRequests", "get", R.GET),
        ("HeadRequests", "head", R.HEAD),
        ("ListRequests", "list", R.LIST),
        ("DeleteRequests", "delete", R.DELETE),
        ("BytesDownloaded", "bytes", R.DOWNLOAD_BYTES),
    ],
)
def test_metrics(metric: str, tier: str, request_class: R | None) -> None:
    assert lens(metric, "") == Billed(group=tier, request_class=request_class)


@pytest.mark.parametrize("metric", ["AllRequests", "SelectRequests", "StorageBytes", "4xxErrors", "5xxErrors", ""])
def test_sums_and_other_metrics_are_left_out(metric: str) -> None:
    assert lens(metric, "") is None


@pytest.mark.parametrize(
    ("action", "tier", "request_class"),
    [
        ("PutObject", "class_a", R.PUT),
        ("CreateMultipartUpload", "class_a", R.PUT),
        ("UploadPart", "class_a", R.PUT),
        ("CompleteMultipartUpload", "class_a", R.PUT),
        ("CopyObject", "class_a", R.COPY),
        ("UploadPartCopy", "class_a", R.COPY),
        ("ListObjects", "class_a", R.LIST),
        ("ListObjectsV2", "class_a", R.LIST),
        ("ListParts", "class_a", R.LIST),
        ("ListMultipartUploads", "class_a", R.LIST),
        ("ListBuckets", "class_a", None),
        ("PutBucket", "class_a", None),
        ("LifecycleStorageTierTransition", "class_a", None),
        ("GetObject", "class_b", R.GET),
        ("HeadObject", "class_b", R.HEAD),
        ("HeadBucket", "class_b", R.HEAD),
        ("UsageSummary", "class_b", None),
        ("DeleteObject", "free", R.DELETE),
        ("AbortMultipartUpload", "free", R.DELETE),
        ("DeleteBucket", "free", None),
    ],
)
def test_actions(action: str, tier: str, request_class: R | None) -> None:
    assert r2(action) == Billed(group=tier, request_class=request_class)


def test_an_action_that_no_page_names_is_unknown() -> None:
    assert r2("PutSomethingNew") is None


def test_the_groups_of_a_format_hold_each_class_of_requests_once() -> None:
    for report in Format:
        held = [name for members in GROUPS[report].values() for name in members if name is not R.DOWNLOAD_BYTES]
        assert sorted(held) == sorted(set(R) - {R.DOWNLOAD_BYTES})
