"""An HTTP/1.1 proxy before an S3 server that counts what really went over the wire, and misbehaves on demand.

In a test:     with Proxy(server.endpoint) as proxy: proxy.add(Fault(action="error", status=503, times=2)); …
As a process:  python -m tests.support.proxy http://127.0.0.1:5070 [--port N]
               prints {"endpoint", "pid"} at its start, and the counts when it is interrupted.
Over HTTP:     GET /-/proxy/counts, POST /-/proxy/reset, POST /-/proxy/faults with a JSON list of Faults;
               each answers with the counts (Counts.as_json).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

CONTROL = "/-/proxy/"
HEAD_BYTES = 64 * 1024
PIECE_BYTES = 64 * 1024
ACTIONS = ("error", "reset_before", "reset_after", "delay", "truncate", "corrupt", "hang", "narrow", "replay")

ERROR_CODES = {
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    500: "InternalError",
    503: "SlowDown",
}


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to matching requests: `times` of them, after `skip` were let through unharmed.

    error         answers `status` (and S3 error `code`) without forwarding
    reset_before  closes the connection without forwarding: the server did not act
    reset_after   forwards, then closes the connection without an answer: the server did act
    delay         waits `seconds`, then forwards
    truncate      forwards, sends `bytes` of the answer's body, then closes the connection
    corrupt       forwards, flips a bit of the answer's body
    hang          forwards nothing and answers nothing for `seconds`
    narrow        forwards a LIST as one of pages of `keys`
    replay        answers with what the first LIST since the last `heal` was answered with, without forwarding
    """

    action: str
    request_class: str = ""  # list, head, get, put, copy, delete; empty: any
    key: str = ""  # a regular expression searched for in the decoded path
    times: int = 1
    skip: int = 0
    status: int = 503
    code: str = ""
    seconds: float = 0.0
    bytes: int = 0
    keys: int = 0

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"no such fault: {self.action}")

    def strikes(self, request: Request) -> bool:
        """Whether this request is one of those; counts it."""
        if self.request_class not in ("", request.request_class) or not re.search(self.key, request.path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return self.times >= 0


@dataclass(slots=True)
class Counts:
    """What went by. `requests` are those a provider would see: by class; `operations` by S3 operation."""

    requests: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    download_bytes: int = 0  # body bytes of GetObject answers passed on
    upload_bytes: int = 0
    connections: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": {name: self.requests[name] for name in ("list", "head", "get", "put", "copy", "delete")},
            "other": self.requests["other"],
            "operations": dict(self.operations),
            "statuses": dict(self.statuses),
            "faults": dict(self.faults),
            "download_bytes": self.download_bytes,
            "upload_bytes": self.upload_bytes,
            "connections": self.connections,
        }


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head, as received; `headers` by lower-case name."""

    raw: bytes
    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def operation(self) -> str:
        parts = urlsplit(self.target)
        return operation_of(
            self.method,
            has_key=parts.path.strip("/").count("/") > 0,
            at_root=not parts.path.strip("/"),
            query=set(parse_qs(parts.query, keep_blank_values=True)),
            is_copy="x-amz-copy-source" in self.headers,
        )

    @property
    def request_class(self) -> str:
        return CLASSES.get(self.operation, "other")


CLASSES = {
    "ListBuckets": "list",
    "ListObjectsV2": "list",
    "ListParts": "list",
    "ListMultipartUploads": "list",
    "HeadObject": "head",
    "HeadBucket": "head",
    "GetObject": "get",
    "PutObject": "put",
    "CreateMultipartUpload": "put",
    "UploadPart": "put",
    "CompleteMultipartUpload": "put",
    "RestoreObject": "put",
    "CopyObject": "copy",
    "UploadPartCopy": "copy",
    "DeleteObject": "delete",
    "AbortMultipartUpload": "delete",
}


def operation_of(method: str, *, has_key: bool, at_root: bool, query: set[str], is_copy: bool) -> str:
    """The S3 operation of a path-style request, told from its form alone, independently of any client."""
    if has_key:
        return _of_object(method, query, is_copy=is_copy)
    if method == "GET":
        return "ListBuckets" if at_root else _of_bucket_get(query)
    return {"HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}.get(method, "Other")


def _of_object(method: str, query: set[str], *, is_copy: bool) -> str:
    if method == "POST":
        return _of_post(query)
    name = f"{method} part" if query & {"partNumber", "uploadId"} else method
    return {
        "GET": "GetObject",
        "GET part": "ListParts",
        "HEAD": "HeadObject",
        "PUT": "CopyObject" if is_copy else "PutObject",
        "PUT part": "UploadPartCopy" if is_copy else "UploadPart",
        "DELETE": "DeleteObject",
        "DELETE part": "AbortMultipartUpload",
    }.get(name, "Other")


def _of_bucket_get(query: set[str]) -> str:
    if "uploads" in query:
        return "ListMultipartUploads"
    return "ListObjectsV2" if "list-type" in query else "Other"


def _of_post(query: set[str]) -> str:
    if "uploads" in query:
        return "CreateMultipartUpload"
    if "uploadId" in query:
        return "CompleteMultipartUpload"
    return "RestoreObject" if "restore" in query else "Other"


class Reset(Exception):
    """The connection to the client is to be closed, hard."""


class Proxy:
    """The proxy in a thread of its own. Counts and faults may be looked at and added to from any thread."""

    def __init__(self, upstream: str, *, port: int = 0) -> None:
        parts = urlsplit(upstream)
        self.host, self.upstream_port = parts.hostname or "127.0.0.1", parts.port or 80
        self.port = port
        self._lock = threading.Lock()
        self._counts = Counts()
        self._faults: list[Fault] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.first_list = b""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def counts(self) -> Counts:
        """A copy of the counts so far."""
        with self._lock:
            seen = self._counts
            return Counts(
                requests=seen.requests.copy(),
                operations=seen.operations.copy(),
                statuses=seen.statuses.copy(),
                faults=seen.faults.copy(),
                download_bytes=seen.download_bytes,
                upload_bytes=seen.upload_bytes,
                connections=seen.connections,
            )

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._faults.extend(faults)

    def heal(self) -> None:
        """Forgets the faults that are still to come."""
        with self._lock:
            self._faults = []
            self.first_list = b""

    def reset(self) -> None:
        """Forgets counts and faults."""
        with self._lock:
            self._counts = Counts()
            self._faults = []
            self.first_list = b""

    def start(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> Proxy:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # --- on the loop

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=HEAD_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with self._lock:
            self._counts.connections += 1
        connection = _Connection(self, reader, writer)
        try:
            await connection.serve()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Reset:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            connection.close()

    def record(self, request: Request) -> Fault | None:
        """Counts the request and finds what is to happen to it."""
        with self._lock:
            self._counts.requests[request.request_class] += 1
            self._counts.operations[request.operation] += 1
            fault = next((fault for fault in self._faults if fault.strikes(request)), None)
            self._faults = [fault for fault in self._faults if fault.times > 0]
            if fault is not None:
                self._counts.faults[fault.action] += 1
            return fault

    def answered(self, status: int) -> None:
        with self._lock:
            self._counts.statuses[str(status)] += 1

    def moved(self, *, down: int = 0, up: int = 0) -> None:
        with self._lock:
            self._counts.download_bytes += down
            self._counts.upload_bytes += up

    def control(self, name: str, body: bytes) -> dict[str, Any]:
        if name == "faults":
            self.add(*(Fault(**fault) for fault in json.loads(body)))
        elif name == "reset":
            self.reset()
        return self.counts.as_json()


class _Connection:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.reader = reader
        self.writer = writer
        self.up: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        for writer in (self.writer, self.up[1] if self.up else None):
            if writer is not None:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.close()

    async def serve(self) -> None:
        while request := await self._request():
            if request.target.startswith(CONTROL):
                await self._control(request)
            else:
                await self._pass(request, self.proxy.record(request))

    async def _request(self) -> Request | None:
        try:
            raw = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, headers = _head(raw)
        method, target, _ = first.split(" ", 2)
        return Request(raw, method, target, headers)

    async def _control(self, request: Request) -> None:
        body = await self.reader.readexactly(int(request.headers.get("content-length", 0)))
        answer = json.dumps(self.proxy.control(request.target.removeprefix(CONTROL), body)).encode()
        await self._answer(200, "OK", answer, "application/json")

    async def _pass(self, request: Request, fault: Fault | None) -> None:
        action = fault.action if fault else ""
        if fault is not None and action in ("hang", "delay"):
            await asyncio.sleep(fault.seconds)
        if action in ("reset_before", "hang"):
            raise Reset
        if fault is not None and action == "error":
            await self._refuse(request, fault)
            return
        if action == "replay":
            self.proxy.answered(200)
            self.writer.write(self.proxy.first_list)
            await self.writer.drain()
            return
        if fault is not None and action == "narrow":
            request = replace(request, raw=re.sub(rb"max-keys=\d+", b"max-keys=%d" % fault.keys, request.raw, count=1))
        await self._forward(request)
        await self._return(request, fault)

    async def _refuse(self, request: Request, fault: Fault) -> None:
        if "100-continue" not in request.headers.get("expect", ""):
            async for _ in _body(self.reader, request.headers):
                pass
        code = fault.code or ERROR_CODES.get(fault.status, "InternalError")
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Injected.</Message></Error>".encode()
        self.proxy.answered(fault.status)
        ends = "Connection: close\r\n" if "expect" in request.headers else ""
        await self._answer(fault.status, code, b"" if request.method == "HEAD" else body, "application/xml", ends)
        if "expect" in request.headers:
            # Whether the client sends the body now is its own choice: nothing more can be read from it.
            raise asyncio.IncompleteReadError(b"", None)

    async def _answer(self, status: int, reason: str, body: bytes, kind: str, extra: str = "") -> None:
        head = (
            f"HTTP/1.1 {status} {reason}\r\nDate: {formatdate(usegmt=True)}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        )
        self.writer.write(head.encode() + body)
        await self.writer.drain()

    async def _forward(self, request: Request) -> None:
        if self.up is None or self.up[0].at_eof():
            self.up = await asyncio.open_connection(self.proxy.host, self.proxy.upstream_port, limit=HEAD_BYTES)
        _, writer = self.up
        # We answer the expectation ourselves; the server gets the body right away.
        if "100-continue" in request.headers.get("expect", ""):
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await self.writer.drain()
        writer.write(re.sub(rb"(?im)^expect:[^\r\n]*\r\n", b"", request.raw))
        async for framed, piece in _body(self.reader, request.headers):
            writer.write(framed)
            self.proxy.moved(up=len(piece))
            await writer.drain()
        await writer.drain()

    async def _return(self, request: Request, fault: Fault | None) -> None:
        action = fault.action if fault else ""
        assert self.up is not None
        reader, _ = self.up
        raw = await reader.readuntil(b"\r\n\r\n")
        first, headers = _head(raw)
        status = int(first.split(" ", 2)[1])
        pieces = _body(reader, headers, until_eof=True) if _has_body(request.method, status) else _nothing()
        if action == "reset_after":
            async for _ in pieces:
                pass
            raise Reset
        self.proxy.answered(status)
        self.writer.write(raw)
        # Of one listing only: bodies may be larger than memory.
        first = [raw] if request.operation == "ListObjectsV2" and not self.proxy.first_list else []
        room = fault.bytes if fault is not None and action == "truncate" else None
        async for framed, piece in pieces:
            kept = framed if room is None else framed[:room]
            if fault is not None and action == "corrupt" and piece:
                kept, action = _flipped(framed, piece), ""
            # Counted first: whoever has the last byte may look at the counts at once.
            self._downloaded(request, status, piece if room is None else piece[:room])
            self.writer.write(kept)
            if first:
                first.append(kept)
            if room is not None:
                room -= len(kept)
            await self.writer.drain()
        await self.writer.drain()
        if first:
            self.proxy.first_list = b"".join(first)
        if action == "truncate" or headers.get("connection", "").lower() == "close":
            self.writer.close()
            raise asyncio.IncompleteReadError(b"", None)

    def _downloaded(self, request: Request, status: int, piece: bytes) -> None:
        if request.operation == "GetObject" and status in (200, 206):
            self.proxy.moved(down=len(piece))


def _head(raw: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = raw.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.lower()] = value.strip()
    return first, headers


def _has_body(method: str, status: int) -> bool:
    return method != "HEAD" and status not in (204, 304) and status >= 200


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str], *, until_eof: bool = False) -> Any:
    """Pieces of a body: (as framed on the wire, the body bytes in it)."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        async for piece in _chunks(reader):
            yield piece
        return
    if "content-length" not in headers:
        while until_eof and (piece := await reader.read(PIECE_BYTES)):
            yield piece, piece
        return
    left = int(headers["content-length"])
    while left:
        piece = await reader.read(min(left, PIECE_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece, piece


async def _chunks(reader: asyncio.StreamReader) -> Any:
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        data = await reader.readexactly(size)
        end = await reader.readuntil(b"\r\n")
        while not size and end != b"\r\n":
            data += end
            end = await reader.readuntil(b"\r\n")
        yield line + data + end, data if size else b""
        if not size:
            return


async def _nothing() -> Any:
    return
    yield


def _flipped(framed: bytes, piece: bytes) -> bytes:
    """One bit of the body is wrong; its framing is not."""
    at = framed.index(piece)
    return framed[:at] + bytes([framed[at] ^ 1]) + framed[at + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", default="[]", help="JSON list of Faults to begin with")
    options = parser.parse_args()
    with Proxy(options.upstream, port=options.port) as proxy:
        proxy.add(*(Fault(**fault) for fault in json.loads(options.faults)))
        print(json.dumps({"endpoint": proxy.endpoint, "pid": os.getpid()}), flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        print(json.dumps(proxy.counts.as_json()), flush=True)


if __name__ == "__main__":
    main()
