"""`vh` as an operator has it: real processes, real servers, and a proxy that saw every request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.proxy import Proxy
from tests.support.servers import ACCESS_KEY, SECRET, S3Server

VH = str(Path(sys.executable).parent / "vh")
PATIENCE_SECONDS = 120
DOUBT_SECONDS = 3.1
CONTROL = ".vaulthalla/"
# What would make the commands use other servers than those of their own home.
NOT_INHERITED = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "SALT_KEY", "DJANGO_SETTINGS_MODULE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error document on stderr."""
        return json.loads(self.err)["error"]


@dataclass(kw_only=True)
class Vh:
    """The command line in a home of its own."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    # What the commands are run by.
    by: tuple[str, ...] = ()

    def run(self, *arguments: str, code: int | None = None, json: bool = True, stdin: str = "") -> Result:
        """One command; with `code`, fails the test unless it ends with that exit code."""
        command = [*self.by, VH, *arguments, *(["--json"] if json else [])]
        ended = subprocess.run(
            command,
            env=self.variables(),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        result = Result(code=ended.returncode, out=ended.stdout, err=ended.stderr)
        assert code is None or result.code == code, f"{command}: {result.code}\n{result.out}\n{result.err}"
        return result

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """A command in the background."""
        command = [VH, *arguments, "--json"]
        return subprocess.Popen(
            command, env=self.variables(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def refused(self, *arguments: str, stdin: str = "") -> Any:
        """The error of a command that must be refused as a whole: nothing on stdout, one document on stderr."""
        result = self.run(*arguments, code=2, stdin=stdin)
        assert result.out == ""
        error = result.error
        assert set(error) == {"code", "message", "remedy"}
        assert error["message"]
        return error

    def variables(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if name not in NOT_INHERITED},
            "VAULTHALLA_HOME": str(self.home),
            "VH_ACCESS_KEY_ID": ACCESS_KEY,
            "VH_SECRET_ACCESS_KEY": SECRET,
            **self.environment,
        }


@dataclass(kw_only=True)
class Bucket:
    """The test's own look at a bucket, and the other writers it pretends to be: past the proxy, never counted."""

    server: S3Server
    name: str
    client: Any = None

    def __post_init__(self) -> None:
        self.client = self.server.client()

    def create(self) -> Bucket:
        self.client.create_bucket(Bucket=self.name)
        return self

    def put(self, key: str, body: bytes, *, mtime: int | None = None, **options: Any) -> None:
        """`mtime` in seconds, as rclone notes it."""
        metadata = {} if mtime is None else {"mtime": f"{mtime}.000000000"}
        self.client.put_object(Bucket=self.name, Key=key, Body=body, Metadata=metadata, **options)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def head(self, key: str) -> Any:
        return self.client.head_object(Bucket=self.name, Key=key)

    def keys(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Users' objects below the prefix, by key relative to it."""
        keys = [key for key in self.keys() if key.startswith(prefix)]
        bodies = {key.removeprefix(prefix): self._body(key) for key in keys}
        return {key: body for key, body in bodies.items() if not key.startswith(CONTROL)}

    def _body(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body


@dataclass(kw_only=True)
class Vault:
    """One vault: a directory, a bucket (or a second directory), and the commands about it."""

    vh: Vh
    name: str
    root: Path
    bucket: Bucket | None = None
    proxy: Proxy | None = None
    replica: Path | None = None
    proven: dict[str, bool] = field(default_factory=dict)

    def vault(self, *arguments: str, code: int = 0) -> Any:
        """`vh vault sync <arguments[0]> NAME …` and the like: the name is put behind the subcommand."""
        return self.vh.run("vault", "sync", arguments[0], self.name, *arguments[1:], code=code).json

    def sync(self, *options: str, code: int = 0) -> Any:
        """One sync. What it counted is what the server saw, whatever came of it."""
        return self.measured("vault", "sync", self.name, *options, code=code)

    def measured(self, *arguments: str, code: int = 0) -> Any:
        """A command that answers with a run, its requests compared with those that went over the wire."""
        if self.proxy is not None:
            self.proxy.reset()
        answer = self.vh.run(*arguments, code=code).json
        if self.proxy is not None:
            assert answer["requests"] == self.seen(), self.proxy.counts
        return answer

    def seen(self) -> dict[str, int]:
        assert self.proxy is not None
        counts = self.proxy.counts
        assert not counts.requests["other"], counts.operations
        return {**counts.as_json()["requests"], "downloaded_bytes": counts.download_bytes}

    def relisted(self) -> list[dict[str, int]]:
        """What a sync may send that finds nothing but a younger index: a look at the manifest, a page, the new root.

        Within one second of the store's clock nothing is younger: see `out_of_doubt`.
        A page may tell another time of our own write than the answer to that did: then a delta goes before the root.
        """
        head = {} if self.proven["put"] else {"head": 1}
        return [{"get": 1, "list": 1, "put": puts, **head} for puts in (1, 2)]

    def out_of_doubt(self) -> None:
        """Waits until whatever happens now is later than all that was done, by the store's clock of whole seconds.

        A change within two seconds of our own write is doubtful, and costs a HEAD.
        """
        threading.Event().wait(DOUBT_SECONDS)

    def conflicts(self) -> dict[str, Any]:
        """Open conflicts by path."""
        return {conflict["path"]: conflict for conflict in self.vault("conflicts")["conflicts"]}

    # --- the local side

    def write(self, path: str, body: bytes, *, mtime: int | None = None) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)
        if mtime is not None:
            os.utime(target, (mtime, mtime))

    def files(self, root: Path | None = None) -> dict[str, bytes]:
        """What a user sees below the root."""
        return {path: body for path, body in tree(root or self.root).items() if not path.startswith(CONTROL)}

    def trash(self, run: Mapping[str, Any]) -> dict[str, bytes]:
        """What a run removed or overwrote here."""
        return tree(self.root / CONTROL / "trash" / run["run"])


def tree(root: Path) -> dict[str, bytes]:
    """Bodies of the regular files below a directory, by relative path; symlinks are not followed."""
    found: dict[str, bytes] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found
