"""A web server that takes notifications, remembers them, and answers as it is told.

In a test:     with Hook() as hook: hook.answers = [503, 200]; …; hook.taken[0].body
As a process:  python -m tests.support.hooks [--port N]
               prints its address, then each request as a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OK = 204
# Longer than anybody's patience in a test; the server's end wakes whoever waits.
HANGS = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(kw_only=True)
class Hook:
    """`answers`: a status for each request to come, the last for all others; HANGS never answers."""

    answers: list[int] = field(default_factory=lambda: [OK])
    location: str = ""
    port: int = 0
    taken: list[Taken] = field(default_factory=list)
    on_taken: Callable[[Taken], None] = lambda _: None
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Hook:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                taken = Taken(path=self.path, headers={k.lower(): v for k, v in self.headers.items()}, body=body)
                hook.taken.append(taken)
                hook.on_taken(taken)
                status = hook.answers.pop(0) if len(hook.answers) > 1 else hook.answers[0]
                if status == HANGS:
                    hook.ended.wait()
                    return
                self.send_response(status)
                if hook.location:
                    self.send_header("location", hook.location)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing to stderr."""

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/hook"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    with Hook(port=parser.parse_args().port, on_taken=_show) as hook:
        print(hook.address, flush=True)
        threading.Event().wait()


def _show(taken: Taken) -> None:
    print(json.dumps({"headers": taken.headers, "body": taken.json}), flush=True)


if __name__ == "__main__":
    main()
