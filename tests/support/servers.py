"""Real S3 servers on free local ports: moto for behaviour, roto for speed.

python -m tests.support.servers roto [PORT]    prints {"server", "endpoint", "pid"} and serves until interrupted
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

BIN = Path(sys.executable).parent
START_SECONDS = 30
ACCESS_KEY = "vaulthalla"
SECRET = "vaulthalla-secret"


class ServerNotStarted(Exception):
    """The server's program is missing, or it did not answer in time."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(slots=True)
class S3Server:
    """One server process with nothing on disk. Use as a context manager, or call start() and stop()."""

    name: str
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> S3Server:
        self.port = self.port or free_port()
        self.process = subprocess.Popen(
            self._command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._await()
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def client(self) -> Any:
        """A plain boto3 client, for a test's own look at what the server holds."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET,
            config=Config(s3={"addressing_style": "path"}),
        )

    def create_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)

    def _command(self) -> list[str]:
        if self.name == "roto":
            return [_program("roto-server"), "--port", str(self.port), "--ephemeral"]
        return [_program("moto_server"), "-H", "127.0.0.1", "-p", str(self.port)]

    def _await(self) -> None:
        """Until it answers: any HTTP status does."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process is None or self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(self.endpoint, timeout=2).close()
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.02)
            else:
                return
        self.stop()
        raise ServerNotStarted(f"{self.name} does not answer at {self.endpoint}")

    def __enter__(self) -> S3Server:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _program(name: str) -> str:
    beside = BIN / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ServerNotStarted(f"{name} is not installed; it comes with the development requirements")
    return found


def main(arguments: list[str]) -> None:
    name, port = arguments[0], int(arguments[1]) if len(arguments) > 1 else 0
    with S3Server(name, port=port) as server:
        assert server.process is not None
        print(json.dumps({"server": name, "endpoint": server.endpoint, "pid": server.process.pid}), flush=True)
        try:
            server.process.wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
