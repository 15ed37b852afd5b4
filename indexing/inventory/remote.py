"""Deliveries in a bucket: found by LIST, read by GET, each request through the meter of the chunk that asks."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from time import sleep
from typing import Any, BinaryIO, TypeVar, cast

from budgets.access import ChunkMeter, Draw, budget_stall, limits, remaining, s3_config
from indexing.inputs import damaged
from indexing.inventory.delivery import (
    CHECKSUM,
    LARGEST_MANIFEST,
    MANIFEST,
    DataFile,
    Delivery,
    entry_of,
    is_dated,
    none_complete,
    of_content,
    of_one,
    verify_manifest,
)
from vaulthalla.embedded import home_directory
from vaulthalla.errors import Refused, Stall, StallCode, VaulthallaError
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import (
    BodyCorrupt,
    BucketMissing,
    MeterRefused,
    ObjectInfo,
    ObjectMissing,
    PreconditionFailed,
    Store,
    StoreError,
    StoreUnavailable,
)
from vaulthalla.vaults.models import ApiKey
from vaulthalla.work.engine import Lease

T = TypeVar("T")
SCHEME = "s3://"
WAIT_SECONDS = 0.5
# A download that is cut off goes on where it was, so often.
MOST_CUTS = 5
SPARE_BYTES = 64 * 2**20
# Deliveries are folders named by date; `data/` and `hive/` beside them need not be listed.
DATED = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """`s3://bucket/key`."""

    bucket: str
    key: str

    @property
    def url(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"

    def beside(self, name: str) -> Location:
        return Location(bucket=self.bucket, key=self.key.rpartition("/")[0] + "/" + name)


def location(url: str) -> Location:
    """Raises Refused."""
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise Refused(f"{url!r} names no bucket.", code="invalid_value", remedy="Name it like s3://bucket/key")
    return Location(bucket=bucket, key=key)


class Remote:
    """One bucket, read on behalf of one lease."""

    def __init__(self, lease: Lease, api_key: ApiKey, bucket: str) -> None:
        from vaulthalla.stores.s3 import S3Store

        self.lease, self.bucket, self.api_key = lease, bucket, api_key
        self.meter = ChunkMeter(lease)
        self.store: Store = S3Store(s3_config(api_key, bucket=bucket), self.meter)

    # --- what there is

    def newest(self, prefix: str) -> Location:
        """The manifest of the newest complete delivery of a configuration's folder. Raises Refused, Stall."""
        folder = prefix if prefix.endswith("/") or not prefix else prefix + "/"
        complete: dict[str, set[str]] = {}
        after: str | None = ""
        while after is not None:
            ask = partial(self.store.list_page, after=after, prefix=folder + DATED)
            page = self._asked(ask, RequestClass.LIST)
            for info in page.objects:
                name, _, file = info.key.removeprefix(folder).partition("/")
                if is_dated(name):
                    complete.setdefault(name, set()).add(file)
            after = page.next_after
        for name in sorted(complete, reverse=True):
            if complete[name] >= {MANIFEST, CHECKSUM}:
                return Location(bucket=self.bucket, key=f"{folder}{name}/{MANIFEST}")
        raise none_complete(f"{SCHEME}{self.bucket}/{folder}")

    def manifest(self, at: Location, *, bucket: str) -> Delivery:
        """A whole delivery: the checksum first, which S3 writes last. Raises Refused, Stall."""
        if at.key.endswith("/"):
            at = Location(bucket=at.bucket, key=at.key + MANIFEST)
        promised = self._small(at.beside(CHECKSUM))
        raw = self._small(at)
        if raw is None:
            raise Refused(f"{at.url} is not there.", code="input_missing", remedy="Name a delivery's manifest.json.")
        verify_manifest(raw, at.url, None if promised is None else promised[:200])
        return of_content(raw, at.url, bucket=bucket, find=lambda entry: self._entry(entry, at.url))

    def single(self, at: Location, options: Mapping[str, Any]) -> Delivery:
        """One file, known by a HEAD. Raises Refused, Stall."""
        try:
            info = self._asked(partial(self.store.head, at.key), RequestClass.HEAD)
        except ObjectMissing as error:
            raise Refused(f"{at.url} is not there.", code="input_missing", remedy="Name an object.") from error
        if not info.size:
            raise damaged(at.url, "", "the file is empty")
        file = DataFile(name=at.url, size=info.size, bucket=at.bucket, key=at.key, etag=info.etag)
        names = {name: options[name] for name in ("schema", "has_header", "as_of")}
        return of_one(file, info.last_modified, **names)

    def _entry(self, entry: Mapping[str, Any], name: str) -> DataFile:
        key, size, md5 = entry_of(entry, name)
        url = f"{SCHEME}{self.bucket}/{key}"
        return DataFile(name=url, size=size, md5=md5, bucket=self.bucket, key=str(key))

    def afford(self, delivery: Delivery) -> None:
        """Raises Stall, before the first body, when the run's budget does not cover all of them."""
        need = {RequestClass.GET: len(delivery.files), RequestClass.DOWNLOAD_BYTES: delivery.bytes}
        left, allowed = remaining(self.lease.run_id), limits(self.lease.run_id)
        limited = {name: limit for name in need if (limit := allowed[name]) is not None}
        gone = {name: limit - (left[name] or 0) - self.meter.available(name) for name, limit in limited.items()}
        planned = Requests({name: gone[name] + need[name] for name in limited})
        for name, limit in limited.items():
            if planned[name] > limit:
                raise budget_stall(self.lease.run_id, name, planned=planned)

    # --- bodies

    @contextmanager
    def fetched(self, file: DataFile) -> Iterator[Path]:
        """A file's body, on disk for as long as it is read; it has no name there, so nothing is left of a crash."""
        folder = home_directory() / "inventory"
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < file.size + SPARE_BYTES:
            remedy = f"Make room at {folder}, or set VAULTHALLA_HOME to a larger disk."
            raise Stall(StallCode.DISK_SPACE, f"No space for {file.name} ({file.size} bytes).", remedy=remedy)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as body:
            self._download(file, cast("BinaryIO", body))
            yield Path(f"/proc/self/fd/{body.fileno()}")

    def _download(self, file: DataFile, into: BinaryIO) -> None:
        try:
            info = self._body(file.key, into, size=file.size, etag=file.etag)
        except ObjectMissing as error:
            raise damaged(file.name, "", "is not there, though the delivery names it") from error
        except PreconditionFailed as error:
            raise damaged(file.name, "", "was replaced while it was read") from error
        except _LongerThanTold as error:
            raise damaged(file.name, "", f"longer than {file.size} bytes, as the delivery says") from error
        if info.size != file.size:
            raise damaged(file.name, "", f"{info.size} bytes, the manifest says {file.size}")

    def _small(self, at: Location) -> bytes | None:
        """The body of a manifest or checksum; None where there is none."""
        body = io.BytesIO()
        try:
            self._body(at.key, body, size=LARGEST_MANIFEST, exact=False)
        except ObjectMissing:
            return None
        except _LongerThanTold as error:
            raise damaged(at.url, "", "too large for a manifest") from error
        return body.getvalue()

    def _body(self, key: str, into: BinaryIO, *, size: int, etag: str = "", exact: bool = True) -> ObjectInfo:
        """GETs until all of it is there: what was cut off goes on where it was. `exact`: `size` is its size."""
        cuts = 0
        while True:
            start = into.tell()
            expected = size - start
            try:
                get = partial(self.store.get, key, into, offset=start, if_match=etag or None)
                return self._asked(get, RequestClass.GET, download=expected, at_least=expected if exact else 1)
            except _MoreBytes as error:
                if exact or into.tell() >= size:
                    raise _LongerThanTold from error
            except BodyCorrupt as error:
                cuts += 1
                if cuts > MOST_CUTS or into.tell() == start:
                    raise _told(error, self) from error

    def _asked(self, ask: Callable[[], T], request_class: RequestClass, *, download: int = 0, at_least: int = 0) -> T:
        """One request, drawn for and counted; asked again while the meter wants more to be drawn first."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="inventory") as thread:
            while True:
                self._draw(request_class, download, at_least)
                try:
                    return self.lease.outlast(thread.submit(ask))
                except MeterRefused as refused:
                    if refused.request_class is None:
                        raise self.lease.lost() from refused
                    if refused.request_class is RequestClass.DOWNLOAD_BYTES:
                        raise _MoreBytes from refused
                except (ObjectMissing, PreconditionFailed, BodyCorrupt):
                    raise
                except StoreError as error:
                    raise _told(error, self) from error

    def _draw(self, request_class: RequestClass, download: int, at_least: int) -> None:
        """Raises Stall when the budget does not allow it."""
        need = self._lacking(Requests({request_class: 1, RequestClass.DOWNLOAD_BYTES: download}))
        least = self._lacking(Requests({request_class: 1, RequestClass.DOWNLOAD_BYTES: at_least}))
        while need:
            match self.meter.draw(need, least):
                case Draw.DRAWN:
                    return
                case Draw.EXHAUSTED:
                    raise budget_stall(self.lease.run_id, self.meter.exhausted or request_class)
                case Draw.WAIT:
                    self.lease.keep()
                    sleep(WAIT_SECONDS)

    def _lacking(self, wanted: Requests) -> Requests:
        lacking = {name: count - self.meter.available(name) for name, count in wanted.items()}
        return Requests({name: count for name, count in lacking.items() if count > 0})


class _MoreBytes(Exception):
    """The body holds more bytes than were drawn."""


class _LongerThanTold(Exception):
    """The body holds more bytes than it should."""


def _told(error: StoreError, remote: Remote) -> VaulthallaError:
    """A store that is away is a protective stop; one that refuses us may want another key."""
    where = f"{SCHEME}{remote.bucket}"
    if isinstance(error, StoreUnavailable):
        return Stall(
            StallCode.STORE_UNAVAILABLE, f"The store of {where} does not answer: {error}", remedy="Try again later."
        )
    if isinstance(error, BucketMissing):
        return Refused(f"{where} does not exist.", code="input_missing", remedy="Correct the bucket's name.")
    return VaulthallaError(
        f"{where} could not be read with API key {remote.api_key.name}: {error}",
        code=error.code,
        remedy=f"Name a key that may read it: --api-key NAME; this one: vh api-key info {quote(remote.api_key.name)}",
    )


def is_here(file: DataFile) -> bool:
    """Whether this process can read a local file."""
    return os.access(file.path, os.R_OK)
