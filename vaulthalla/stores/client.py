"""botocore clients, one per endpoint and identity in each process, each attempt of each asked of a meter first."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.handlers import _handle_200_error  # type: ignore[attr-defined]

from vaulthalla import env
from vaulthalla.requests import RequestClass
from vaulthalla.stores import direct, listing
from vaulthalla.stores.base import Meter, MeterRefused
from vaulthalla.stores.errors import translated

CONNECT_SECONDS = 5
# Below settings.REQUEST_SECONDS: a request that hangs ends before its lease could.
READ_SECONDS = env.integer("VAULTHALLA_READ_SECONDS", 15, minimum=1, maximum=19)
CONNECTIONS = 64

# What an operation is billed as. One without a class is refused: nothing goes out uncounted.
REQUEST_CLASSES = {
    "ListBuckets": RequestClass.LIST,
    "ListObjectsV2": RequestClass.LIST,
    "ListParts": RequestClass.LIST,
    "ListMultipartUploads": RequestClass.LIST,
    "HeadObject": RequestClass.HEAD,
    "HeadBucket": RequestClass.HEAD,
    "GetObject": RequestClass.GET,
    "PutObject": RequestClass.PUT,
    "CreateMultipartUpload": RequestClass.PUT,
    "UploadPart": RequestClass.PUT,
    "CompleteMultipartUpload": RequestClass.PUT,
    "RestoreObject": RequestClass.PUT,
    "CopyObject": RequestClass.COPY,
    "UploadPartCopy": RequestClass.COPY,
    "DeleteObject": RequestClass.DELETE,
    "AbortMultipartUpload": RequestClass.DELETE,
}

_meter: ContextVar[Meter | None] = ContextVar("meter", default=None)
_clients: dict[ClientConfig, Any] = {}
_direct: dict[tuple[ClientConfig, str], direct.DirectClient | None] = {}
_lock = threading.Lock()


@contextmanager
def _metered(meter: Meter) -> Iterator[None]:
    """Every attempt of this thread inside the block is asked of `meter`; outside, none is sent at all."""
    token = _meter.set(meter)
    try:
        yield
    finally:
        _meter.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """What tells one client from another. `copy_condition_prefix` renames the conditions on a copy's destination."""

    endpoint: str
    region: str
    access_key: str = field(repr=False)
    secret: str = field(repr=False)
    from_environment: bool
    virtual_hosts: bool
    copy_condition_prefix: str = ""


@dataclass(frozen=True, slots=True)
class _Attempts:
    """The attempts of one operation."""

    meter: Meter
    request_class: RequestClass

    def attempt(self) -> None:
        self.meter.attempt(self.request_class)

    def answered(self, status: int) -> None:
        self.meter.answered(self.request_class, status)


def client_for(config: ClientConfig) -> Any:
    """The process's client; made once, shared by all threads, never across a fork."""
    client = _clients.get(config)
    if client is None:
        with _lock:
            client = _clients.get(config) or _create(config)
            _clients[config] = client
    return client


def _forget() -> None:
    """Connections and locks of the parent are not the child's."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _clients.clear()
    _direct.clear()


os.register_at_fork(after_in_child=_forget)


def call(config: ClientConfig, operation: str, parameters: Mapping[str, Any], meter: Meter) -> Any:
    """One operation for `meter`, on the short way where there is one. Raises botocore's exceptions and MeterRefused."""
    client = client_for(config)
    if direct.takes(operation, parameters) and (quick := _direct_for(config, client, parameters["Bucket"])):
        try:
            return quick.call(operation, parameters, _Attempts(meter, REQUEST_CLASSES[operation]))
        except direct.NeedsBotocore:
            _direct[config, parameters["Bucket"]] = None
    with _metered(meter):
        return client._make_api_call(operation, parameters)


def _direct_for(config: ClientConfig, client: Any, bucket: str) -> direct.DirectClient | None:
    name = (config, bucket)
    if name not in _direct:
        with _lock:
            if name not in _direct:
                _direct[name] = direct.DirectClient.to(client, bucket)
    return _direct[name]


def _create(config: ClientConfig) -> Any:
    session = botocore.session.Session()
    # The default parser of timestamps takes half of the time of a LIST.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=timestamp)
    own = not config.from_environment
    with translated():
        client = session.create_client(
            "s3",
            region_name=config.region,
            endpoint_url=config.endpoint or None,
            config=_settings(config),
            aws_access_key_id=config.access_key if own else None,
            aws_secret_access_key=config.secret if own else None,
        )
    events = client.meta.events
    events.register_last("before-send.s3", _count)
    events.unregister("before-parse.s3.*", _handle_200_error)
    # In this order: what comes second turns a 200 with an error in it, which nobody says to be free, into a 500.
    events.register_first("before-parse.s3.*", _answered)
    events.register_first("before-parse.s3.*", _whole_answer)
    if config.copy_condition_prefix:
        events.register("before-call.s3.CopyObject", partial(_rename_conditions, config.copy_condition_prefix))
    return client


def _settings(config: ClientConfig) -> Config:
    return Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": direct.ATTEMPTS},
        signature_version="s3v4",
        s3={"addressing_style": "auto" if config.virtual_hosts else "path"},
        # The trailer form of the default checksum is refused by R2 and others; we send explicit headers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Our parameters are made by code, and checked in S3Store where a mistake would be dangerous.
        parameter_validation=False,
    )


def _count(event_name: str, **_: Any) -> None:
    """Called once for every attempt, retries included; what it raises is not sent, not wrapped, not retried."""
    operation = event_name.rpartition(".")[2]
    request_class = REQUEST_CLASSES.get(operation)
    meter = _meter.get()
    if request_class is None or meter is None:
        raise MeterRefused(request_class, f"{operation} is not counted by any budget.")
    meter.attempt(request_class)


def _answered(operation_model: Any, response_dict: Mapping[str, Any], **_: Any) -> None:
    meter = _meter.get()
    if meter is not None:
        meter.answered(REQUEST_CLASSES[operation_model.name], response_dict["status_code"])


def _whole_answer(operation_model: Any, **event: Any) -> None:
    """botocore parses every 200 an extra time to find an `<Error>` in it; for listings our parser does both."""
    if operation_model.name == "ListObjectsV2":
        listing.take_over(**event)
    else:
        _handle_200_error(operation_model, **event)


def _rename_conditions(prefix: str, params: dict[str, Any], **_: Any) -> None:
    for name in ("If-Match", "If-None-Match"):
        if name in params["headers"]:
            params["headers"][prefix + name.lower()] = params["headers"].pop(name)


@lru_cache(maxsize=4096)
def timestamp(text: str) -> datetime:
    """RFC 3339 or an HTTP date, in UTC."""
    if text[:1].isdigit():
        return listing.timestamp(text)
    moment = parsedate_to_datetime(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
