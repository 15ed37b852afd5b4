"""The S3 store: every provider that speaks S3, through botocore, counted attempt by attempt."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, BinaryIO

import urllib3.exceptions
from botocore.exceptions import IncompleteReadError, ResponseStreamingError

from vaulthalla.errors import Refused
from vaulthalla.stores import client as clients
from vaulthalla.stores import profiles
from vaulthalla.stores.base import (
    ANYTHING,
    COPY_LIMIT_BYTES,
    COPY_PART_BYTES,
    BodyCorrupt,
    Capabilities,
    Condition,
    Content,
    Meter,
    ObjectInfo,
    ObjectMissing,
    Page,
    Part,
    Restore,
    UnexpectedResponse,
    UploadMissing,
    Written,
    check,
)
from vaulthalla.stores.errors import translated
from vaulthalla.stores.listing import Listing, timestamp

READ_BYTES = 256 * 1024
# What no object is, and no index can hold.
TOO_LARGE = 2**63
# User metadata. `mtime` is rclone's: seconds with nine decimals, so exact to the nanosecond and readable by both.
SHA256 = "sha256"
MTIME = "mtime"
SECONDS = re.compile(r"-?\d{1,11}(\.\d{1,9})?", re.ASCII)
CUT_SHORT = (IncompleteReadError, ResponseStreamingError, urllib3.exceptions.ProtocolError)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Config:
    """Where a vault's objects are and who asks. `prefix` is empty or ends with "/"."""

    provider: str
    endpoint: str = ""
    region: str = "auto"
    access_key: str = ""
    secret: str = ""
    from_environment: bool = False
    bucket: str = ""
    prefix: str = ""
    storage_class: str = ""

    def __repr__(self) -> str:
        """Never the secret: values end up in logs and tracebacks."""
        return f"S3Config({self.provider} {self.endpoint or 'default endpoint'} {self.bucket}/{self.prefix})"


def client_config(config: S3Config) -> clients.ClientConfig:
    """Which client of the process serves these credentials at this endpoint."""
    profiles.check_endpoint(config.provider, config.endpoint)
    return clients.ClientConfig(
        endpoint=config.endpoint,
        region=profiles.region_of(config.provider, config.endpoint, config.region),
        access_key=config.access_key,
        secret=config.secret,
        from_environment=config.from_environment,
        virtual_hosts=not config.endpoint,
        copy_condition_prefix=profiles.profile_of(config.provider).copy_condition_prefix,
    )


class S3Store:
    """Objects of one bucket below one prefix. Cheap to make: the connections belong to the process."""

    def __init__(self, config: S3Config, meter: Meter, *, capabilities: Capabilities | None = None) -> None:
        """`capabilities` are what a probe proved (`profiles.capabilities_of`), else the provider's promises."""
        if not config.bucket:
            raise Refused("No bucket is named.")
        if config.prefix and not config.prefix.endswith("/"):
            raise Refused(f"The prefix {config.prefix!r} must end with a slash.")
        self.config = config
        self.meter = meter
        self.profile = profiles.profile_of(config.provider)
        self.capabilities = capabilities or self.profile.capabilities
        self._client = client_config(config)

    def assuming(self, capabilities: Capabilities) -> S3Store:
        """The same store, trusting other capabilities."""
        return S3Store(self.config, self.meter, capabilities=capabilities)

    # --- reading

    def list_page(self, *, after: str = "", prefix: str = "", limit: int = 1000, token: bool = False) -> Page:
        parameters: dict[str, Any] = {"Prefix": self.config.prefix + prefix, "MaxKeys": limit, "EncodingType": "url"}
        if after:
            start = {"ContinuationToken": after} if token else {"StartAfter": self.config.prefix + after}
            parameters.update(start)
        if self.profile.lists_restore_status:
            parameters["OptionalObjectAttributes"] = ["RestoreStatus"]
        answer = self._call("ListObjectsV2", **parameters)
        listing: Listing = answer["Listing"]
        observed_at = _observed_at(answer)
        objects = self._listed(listing, observed_at, below=self.config.prefix + prefix)
        following = listing.next_token if token else _last_key(objects, after)
        if listing.truncated and token and following == after:
            raise UnexpectedResponse(f"A page of {self.config.bucket} goes on where it began: the token repeats.")
        if listing.truncated and not following:
            raise UnexpectedResponse(f"A page of {self.config.bucket} does not say how the listing goes on.")
        return Page(objects=objects, next_after=following if listing.truncated else None, observed_at=observed_at)

    def list_prefixes(self, *, after: str = "", prefix: str = "") -> Sequence[str]:
        parameters = {"Prefix": self.config.prefix + prefix, "Delimiter": "/", "EncodingType": "url"}
        if after:
            parameters["StartAfter"] = self.config.prefix + after
        listing: Listing = self._call("ListObjectsV2", **parameters)["Listing"]
        start = len(self.config.prefix)
        return [found[start:] for found in listing.prefixes if found[start:]]

    def head(self, key: str) -> ObjectInfo:
        return _described(key, self._call("HeadObject", Key=self._name(key)))

    def get(
        self,
        key: str,
        into: BinaryIO,
        *,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        on_bytes: Callable[[bytes], None] | None = None,
    ) -> ObjectInfo:
        parameters: dict[str, Any] = {"Key": self._name(key)}
        if if_match is not None:
            parameters["IfMatch"] = _quoted(if_match)
        if if_none_match is not None:
            parameters["IfNoneMatch"] = _quoted(if_none_match)
        if offset or length is not None:
            parameters["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        answer = self._ranged(parameters, offset)
        self._stream(answer, key, into, on_bytes)
        return _described(key, answer)

    def _ranged(self, parameters: dict[str, Any], offset: int) -> Any:
        """A range that starts beyond the end: of an empty object that is the whole of it, else the object shrank."""
        try:
            return self._call("GetObject", **parameters)
        except UnexpectedResponse as error:
            if error.provider_code not in ("InvalidRange", "416"):
                raise
            if offset:
                raise BodyCorrupt(f"{parameters['Key']} is shorter than {offset} bytes.") from error
            return self._call("GetObject", **{name: v for name, v in parameters.items() if name != "Range"})

    def _stream(self, answer: Any, key: str, into: BinaryIO, on_bytes: Callable[[bytes], None] | None) -> None:
        expected, seen = int(answer["ContentLength"]), 0
        body = answer["Body"]
        try:
            with translated(key):
                while piece := _piece(body, key):
                    seen += len(piece)
                    self.meter.received(len(piece))
                    into.write(piece)
                    if on_bytes is not None:
                        on_bytes(piece)
                    if seen == expected:
                        break
            if seen != expected:
                raise BodyCorrupt(f"{key}: {seen} of {expected} bytes arrived.")
        except BaseException:
            # A connection with unread bytes in it cannot be used again.
            body.close()
            raise

    # --- writing

    def put(self, key: str, body: bytes | BinaryIO, content: Content, *, condition: Condition = ANYTHING) -> Written:
        conditions = self._condition(key, condition, proven=self.capabilities.conditional_put)
        answer = self._call(
            "PutObject",
            Key=self._name(key),
            Body=body,
            ContentLength=content.size,
            ContentMD5=_base64(content.md5),
            **self._properties(content),
            **conditions,
        )
        return _written(answer)

    def start_upload(self, key: str, content: Content) -> str:
        answer = self._call("CreateMultipartUpload", Key=self._name(key), **self._properties(content))
        return str(answer["UploadId"])

    def upload_part(self, key: str, upload_id: str, number: int, body: bytes, *, md5: bytes) -> Part:
        answer = self._call(
            "UploadPart",
            Key=self._name(key),
            UploadId=upload_id,
            PartNumber=number,
            Body=body,
            ContentLength=len(body),
            ContentMD5=_base64(md5),
        )
        return Part(number=number, size=len(body), etag=_unquoted(answer))

    def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        parts: list[Part] = []
        more = True
        while more:
            answer = self._call(
                "ListParts",
                Key=self._name(key),
                UploadId=upload_id,
                **({"PartNumberMarker": parts[-1].number} if parts else {}),
            )
            found = [
                Part(number=part["PartNumber"], size=part["Size"], etag=_unquoted(part))
                for part in answer.get("Parts", [])
            ]
            parts += found
            more = bool(answer.get("IsTruncated")) and bool(found)
        return parts

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[Part], *, condition: Condition = ANYTHING
    ) -> Written:
        conditions = self._condition(key, condition, proven=self.capabilities.conditional_complete)
        named = [{"PartNumber": part.number, "ETag": _quoted(part.etag)} for part in parts]
        answer = self._call(
            "CompleteMultipartUpload",
            Key=self._name(key),
            UploadId=upload_id,
            MultipartUpload={"Parts": named},
            **conditions,
        )
        return _written(answer)

    def abort_upload(self, key: str, upload_id: str) -> None:
        try:
            self._call("AbortMultipartUpload", Key=self._name(key), UploadId=upload_id)
        except UploadMissing:
            return

    def copy(
        self,
        source: str,
        key: str,
        *,
        source_etag: str,
        size: int = 0,
        storage_class: str = "",
        condition: Condition = ANYTHING,
    ) -> Written:
        if size > COPY_LIMIT_BYTES:
            return self._copy_parts(source, key, source_etag=source_etag, condition=condition)
        answer = self._call(
            "CopyObject",
            Key=self._name(key),
            **self._origin(source, source_etag),
            **({"StorageClass": storage_class} if storage_class else {}),
            **self._condition(key, condition, proven=self.capabilities.conditional_copy),
        )
        return _written(answer, etag=_unquoted(answer["CopyObjectResult"]))

    def _copy_parts(self, source: str, key: str, *, source_etag: str, condition: Condition) -> Written:
        """CopyObject ends at 5 GB. The metadata of a multipart copy is that of its creation, so read it first."""
        origin = self._origin(source, source_etag)
        known = self._call("HeadObject", Key=self._name(source), IfMatch=_quoted(source_etag))
        size = int(known["ContentLength"])
        created = self._call(
            "CreateMultipartUpload",
            Key=self._name(key),
            Metadata=known.get("Metadata", {}),
            **{name: known[name] for name in ("ContentType", "StorageClass") if known.get(name)},
        )
        upload = {"Key": self._name(key), "UploadId": str(created["UploadId"])}
        try:
            parts = [
                self._copy_part(upload, number, range(start, min(start + COPY_PART_BYTES, size)), origin)
                for number, start in enumerate(range(0, size, COPY_PART_BYTES), start=1)
            ]
            return self.complete_upload(key, upload["UploadId"], parts, condition=condition)
        except Exception:
            # Parts left behind are billed for ever.
            self.abort_upload(key, upload["UploadId"])
            raise

    def _copy_part(self, upload: dict[str, str], number: int, span: range, origin: dict[str, Any]) -> Part:
        answer = self._call(
            "UploadPartCopy",
            PartNumber=number,
            CopySourceRange=f"bytes={span.start}-{span.stop - 1}",
            **upload,
            **origin,
        )
        return Part(number=number, size=len(span), etag=_unquoted(answer["CopyPartResult"]))

    def delete(self, key: str, *, if_match: str | None = None) -> datetime:
        try:
            conditions = self._condition(key, Condition(etag=if_match), proven=self.capabilities.conditional_delete)
            return _observed_at(self._call("DeleteObject", Key=self._name(key), **conditions))
        except ObjectMissing as gone:
            if gone.observed_at is None:
                raise
            return gone.observed_at

    # --- how requests are made

    def _call(self, operation: str, **parameters: Any) -> Any:
        """One operation: with the attempts of botocore's standard retries, each asked of the meter."""
        bucket = self.config.bucket
        with translated(parameters.get("Key", bucket)):
            return clients.call(self._client, operation, {"Bucket": bucket, **parameters}, self.meter)

    def _name(self, key: str) -> str:
        """The key in the bucket. An empty one would address the bucket itself: never sent."""
        if not key:
            raise ValueError("a key must not be empty")
        return self.config.prefix + key

    def _origin(self, source: str, etag: str) -> dict[str, Any]:
        where = {"Bucket": self.config.bucket, "Key": self._name(source)}
        return {"CopySource": where, "CopySourceIfMatch": _quoted(etag)}

    def _properties(self, content: Content) -> dict[str, Any]:
        storage_class = content.storage_class or self.config.storage_class
        return {
            "Metadata": {SHA256: content.sha256.hex(), MTIME: _mtime_text(content.mtime_ns)},
            **({"StorageClass": storage_class} if storage_class else {}),
        }

    def _condition(self, key: str, condition: Condition, *, proven: bool) -> dict[str, str]:
        """The headers of a proven condition; an unproven one is checked here and now."""
        if condition == ANYTHING:
            return {}
        if not proven:
            check(self, key, condition)
            return {}
        return {"IfNoneMatch": "*"} if condition.absent else {"IfMatch": _quoted(condition.etag or "")}

    def _listed(self, listing: Listing, observed_at: datetime, *, below: str) -> list[ObjectInfo]:
        """The page's objects by relative key. The prefix itself, as an object, is no path below it."""
        start = len(self.config.prefix)
        foreign = [entry["Key"] for entry in listing.entries if not entry["Key"].startswith(below)]
        if foreign:
            raise UnexpectedResponse(f"The store listed {foreign[0]!r}, which is not below {below!r}.")
        try:
            return [
                _entry(entry, entry["Key"][start:], observed_at) for entry in listing.entries if entry["Key"][start:]
            ]
        except (KeyError, ValueError) as error:
            raise UnexpectedResponse(f"An object of the listing is not described: {error}.") from error


def _piece(body: Any, key: str) -> bytes:
    try:
        piece: bytes = body.read(READ_BYTES)
    except CUT_SHORT as error:
        raise BodyCorrupt(f"{key}: the body ended early ({error}).") from error
    return piece


def _last_key(objects: Sequence[ObjectInfo], after: str) -> str:
    """Where a listing in key order goes on. One that is out of order would silently lose keys: refused."""
    previous = after
    for info in objects:
        if info.key <= previous:
            raise UnexpectedResponse(f"The store does not list in key order: {info.key!r} came after {previous!r}.")
        previous = info.key
    return objects[-1].key if objects else ""


def _entry(entry: Mapping[str, str], key: str, observed_at: datetime) -> ObjectInfo:
    expires = entry.get("RestoreExpiryDate")
    ongoing = entry.get("IsRestoreInProgress") == "true"
    return ObjectInfo(
        key=key,
        size=_size(entry["Size"]),
        etag=entry.get("ETag", "").strip('"'),
        last_modified=timestamp(entry["LastModified"]),
        observed_at=observed_at,
        storage_class=entry.get("StorageClass", "STANDARD"),
        restore=Restore.ONGOING if ongoing else Restore.ACTIVE if expires else Restore.NONE,
        restore_expires=timestamp(expires) if expires else None,
    )


def _described(key: str, answer: Any) -> ObjectInfo:
    """An object from the headers of a HEAD or GET; the size is the whole object's, whatever the range.

    Raises UnexpectedResponse.
    """
    try:
        metadata = {str(name).lower(): value for name, value in answer.get("Metadata", {}).items()}
        restore, expires = _restore(answer.get("Restore", ""))
        total = answer.get("ContentRange", "").rpartition("/")[2]
        return ObjectInfo(
            key=key,
            size=_size(total if total.isdigit() else answer["ContentLength"]),
            etag=_unquoted(answer),
            last_modified=answer["LastModified"],
            observed_at=_observed_at(answer),
            storage_class=answer.get("StorageClass", "STANDARD"),
            archive_status=answer.get("ArchiveStatus", ""),
            restore=restore,
            restore_expires=expires,
            version_id=answer.get("VersionId", ""),
            sha256=_sha256(metadata.get(SHA256, "")),
            mtime_ns=_mtime_ns(metadata.get(MTIME, "")),
            etag_is_md5=_etag_is_md5(answer),
        )
    except (KeyError, ValueError) as error:
        raise UnexpectedResponse(f"{key} is not described: {error}.") from error


def _size(told: str | int) -> int:
    """Raises ValueError for what is no size."""
    size = int(told)
    if not 0 <= size < TOO_LARGE:
        raise ValueError(f"its size is {told}")
    return size


def _etag_is_md5(answer: Mapping[str, Any]) -> bool:
    """In one part, and not under a key of KMS or the customer's own: only then is the ETag the body's MD5."""
    etag = _unquoted(answer)
    plain = answer.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in answer
    return plain and len(etag) == 32 and not etag.strip("0123456789abcdef")


def _restore(header: str) -> tuple[Restore, datetime | None]:
    """`ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`"""
    if not header:
        return Restore.NONE, None
    if 'ongoing-request="true"' in header:
        return Restore.ONGOING, None
    expiry = header.partition('expiry-date="')[2].partition('"')[0]
    return Restore.ACTIVE, clients.timestamp(expiry) if expiry else None


def _sha256(text: str) -> bytes | None:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return None
    return digest if len(digest) == 32 else None


def _mtime_text(mtime_ns: int) -> str:
    return f"{Decimal(mtime_ns).scaleb(-9):.9f}"


def _mtime_ns(text: str) -> int | None:
    """Nanoseconds from decimal seconds; a value that is none, or no time a file can have, is unknown."""
    if not SECONDS.fullmatch(text):
        return None
    nanoseconds = int(Decimal(text) * 10**9)
    return nanoseconds if abs(nanoseconds) < 2**63 else None


def _written(answer: Any, *, etag: str = "") -> Written:
    return Written(
        etag=etag or _unquoted(answer), observed_at=_observed_at(answer), version_id=answer.get("VersionId", "")
    )


def _observed_at(answer: Any) -> datetime:
    """Store time, from the answer's Date; this host's clock is never asked."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if not date:
        raise UnexpectedResponse("The store's answer has no Date.")
    try:
        return _http_date(date)
    except ValueError as error:
        raise UnexpectedResponse(f"The Date of the store's answer is none: {date!r}.") from error


@lru_cache(maxsize=64)
def _http_date(text: str) -> datetime:
    return parsedate_to_datetime(text)


def _quoted(etag: str) -> str:
    return f'"{etag}"'


def _unquoted(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
