"""`vh demo`: the main job from nothing, on a local S3 server, each command shown before it runs.

Everything happens in a scratch home that is removed at the end; the user's own is never touched.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaulthalla.errors import VaulthallaError

BUCKET = "demo-photos"
ACCESS_KEY, SECRET = "vaulthalla-demo", "vaulthalla-demo-secret"
START_SECONDS = 30


def demo() -> int:
    """Runs the story; the exit code of the first command that fails, else 0."""
    with tempfile.TemporaryDirectory(prefix="vaulthalla-demo-") as scratch, _s3_server() as endpoint:
        # The embedded servers do not run as root, so they must be able to pass through.
        Path(scratch).chmod(0o711)
        story = Story(Path(scratch), endpoint)
        try:
            return story.tell()
        finally:
            story.quietly("down")


class Story:
    """One scratch home, one bucket, one tree of files."""

    def __init__(self, scratch: Path, endpoint: str) -> None:
        self.files = scratch / "photos"
        self.endpoint = endpoint
        keep = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")}
        self.environment = {
            **keep,
            "VAULTHALLA_HOME": str(scratch / "home"),
            "VH_ACCESS_KEY_ID": ACCESS_KEY,
            "VH_SECRET_ACCESS_KEY": SECRET,
        }

    def tell(self) -> int:
        self._prepare()
        steps = (
            ("A key for the local S3 server; its secret comes from the environment.", self._create_key()),
            ("A vault: this directory, that bucket, both sides accept changes.", self._create_vault()),
            ("The first sync: the empty bucket is listed, every file is uploaded.", ["vault", "sync", "photos"]),
            ("The second one: planned from the index, nothing to do, nothing requested.", ["vault", "sync", "photos"]),
        )
        return self._run(steps) or self._change() or self._run(self._endings())

    def quietly(self, *arguments: str) -> None:
        subprocess.run([_vh(), *arguments], env=self.environment, capture_output=True, check=False)

    def _create_key(self) -> list[str]:
        return ["api-key", "create", "local", "--provider", "other", "--endpoint", self.endpoint]

    def _create_vault(self) -> list[str]:
        options = ["--api-key", "local", "--bucket", BUCKET, "--strategy", "sync"]
        return ["vault", "create", "photos", "--s3", "--root", str(self.files), *options]

    def _endings(self) -> tuple[tuple[str, list[str]], ...]:
        return (
            ("Only what changed is sent; the deleted file's object goes last.", ["vault", "sync", "photos"]),
            ("What is known of the bucket, and how far it can be trusted.", ["vault", "sync", "info", "photos"]),
            ("What each run did, and what it spent.", ["vault", "sync", "history", "photos"]),
        )

    def _prepare(self) -> None:
        (self.files / "2026").mkdir(parents=True)
        for number in range(1, 21):
            (self.files / "2026" / f"picture {number:02}.jpg").write_bytes(os.urandom(20_000 + number))
        (self.files / "notes.txt").write_text("first line\n")

    def _change(self) -> int:
        _say("\n# A file changes and another one is deleted.")
        _say(f"$ echo 'second line' >> {self.files}/notes.txt; rm '{self.files}/2026/picture 07.jpg'")
        with (self.files / "notes.txt").open("a") as notes:
            notes.write("second line\n")
        (self.files / "2026" / "picture 07.jpg").unlink()
        return 0

    def _run(self, steps: tuple[tuple[str, list[str]], ...]) -> int:
        for what, arguments in steps:
            _say(f"\n# {what}\n$ vh {shlex.join(arguments)}")
            code = subprocess.run([_vh(), *arguments], env=self.environment, check=False).returncode
            if code:
                _say(f"The command ended with exit code {code}.")
                return code
        return 0


@contextmanager
def _s3_server() -> Iterator[str]:
    """A throw-away S3 server in memory, with the demo's bucket."""
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    _say(f"# A local S3 server at {endpoint}; everything here is scratch and goes away at the end.")
    process = subprocess.Popen(
        [_program("roto-server"), "--port", str(port), "--ephemeral"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(endpoint, process)
        _create_bucket(endpoint)
        yield endpoint
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _create_bucket(endpoint: str) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET,
    )
    client.create_bucket(Bucket=BUCKET)


def _await(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()  # noqa: S310 - our own server on this host
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise VaulthallaError("The local S3 server did not start.", code="demo_failed")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _vh() -> str:
    return _program("vh")


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise VaulthallaError(
            f"{name} is not installed.", code="demo_failed", remedy="Install the 'demo' extra, or run `make setup`."
        )
    return found


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the story is the output
