"""Finds out, with throw-away objects, which conditions a store really keeps. A promise is not proof."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, Self, TypeVar

from vaulthalla.stores import client as clients
from vaulthalla.stores.base import (
    AccessDenied,
    Capabilities,
    Condition,
    Content,
    Meter,
    PreconditionFailed,
    Store,
    StoreError,
    UnexpectedResponse,
    Written,
)
from vaulthalla.stores.errors import CREDENTIAL_CODES, translated
from vaulthalla.stores.s3 import S3Config, client_config

PROBE_PREFIX = ".vaulthalla/probe/"
BODY = b"A throw-away object: which conditions does this store keep?\n"
ABSENT = Condition(absent=True)
# The ETag of no object.
NOBODYS = "0" * 32

T = TypeVar("T")


class ProbedStore(Store, Protocol):
    """A store that can be told to trust other capabilities."""

    def assuming(self, capabilities: Capabilities) -> Self: ...


def probe(store: ProbedStore) -> Capabilities:
    """The store's capabilities, each condition proven or not, in at most 8 PUT, 3 COPY, 5 DELETE and a HEAD.

    A condition is proven when the store accepts the write that keeps it and refuses the one that breaks it.
    Raises StoreError when the store cannot be written at all, MeterRefused when the budget is too small.
    """
    return _Probe(store).run()


def check_credentials(config: S3Config, meter: Meter) -> None:
    """One request that needs no bucket. Raises AccessDenied unless the provider knows who asks; a key that may
    not list buckets is a good key."""
    client = client_config(config)
    try:
        with translated(config.endpoint or config.provider):
            clients.call(client, "ListBuckets", {}, meter)
    except AccessDenied as refused:
        if refused.provider_code in CREDENTIAL_CODES:
            raise


class _Probe:
    def __init__(self, store: ProbedStore) -> None:
        self.store = store
        self.trusting = store.assuming(
            replace(
                store.capabilities,
                conditional_put=True,
                conditional_copy=True,
                conditional_delete=True,
                conditional_complete=True,
            )
        )
        self.key = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
        self.twin = f"{self.key}-copy"
        self.etag = ""

    def run(self) -> Capabilities:
        try:
            return replace(
                self.store.capabilities,
                conditional_put=self._puts(),
                conditional_complete=self._completes(),
                conditional_copy=self._copies(),
                conditional_delete=self._deletes(),
            )
        finally:
            self._clean()

    def _puts(self) -> bool:
        written = _tried(lambda: self._put(ABSENT))
        if written is None:
            self.etag = self.store.put(self.key, BODY, _content()).etag
            return False
        self.etag = written.etag
        return (
            _refused(lambda: self._put(ABSENT))
            and _tried(lambda: self._put(Condition(etag=self.etag))) is not None
            and _refused(lambda: self._put(Condition(etag=NOBODYS)))
        )

    def _completes(self) -> bool:
        """Only the refusal is proved: PUT has shown that the store reads the condition as we write it."""
        try:
            upload = self.trusting.start_upload(self.key, _content())
        except UnexpectedResponse:
            return False
        part = self.trusting.upload_part(self.key, upload, 1, BODY, md5=_content().md5)
        if _refused(lambda: self.trusting.complete_upload(self.key, upload, [part], condition=ABSENT)):
            self.store.abort_upload(self.key, upload)
            return True
        self.etag = self.store.head(self.key).etag
        return False

    def _copies(self) -> bool:
        return (
            _refused(lambda: self._copy(source_etag=NOBODYS))
            and _tried(lambda: self._copy(source_etag=self.etag)) is not None
            and _refused(lambda: self._copy(source_etag=self.etag))
        )

    def _deletes(self) -> bool:
        wrong = _refused(lambda: self.trusting.delete(self.key, if_match=NOBODYS))
        return wrong and _tried(lambda: self.trusting.delete(self.key, if_match=self.etag)) is not None

    def _put(self, condition: Condition) -> Written:
        return self.trusting.put(self.key, BODY, _content(), condition=condition)

    def _copy(self, *, source_etag: str) -> Written:
        return self.trusting.copy(self.key, self.twin, source_etag=source_etag, size=len(BODY), condition=ABSENT)

    def _clean(self) -> None:
        """Whatever the probe came to; what cannot be deleted is small, and named so that it is understood."""
        for key in (self.key, self.twin):
            with suppress(StoreError):
                self.store.delete(key)


def _tried(action: Callable[[], T]) -> T | None:
    """None when the store does not accept the request as it stands."""
    try:
        return action()
    except (PreconditionFailed, UnexpectedResponse):
        return None


def _refused(action: Callable[[], object]) -> bool:
    """Whether the store answers that the condition does not hold."""
    try:
        action()
    except PreconditionFailed:
        return True
    except UnexpectedResponse:
        return False
    return False


def _content() -> Content:
    return Content(
        size=len(BODY),
        sha256=hashlib.sha256(BODY).digest(),
        md5=hashlib.md5(BODY, usedforsecurity=False).digest(),
        mtime_ns=0,
    )
