"""The tools side by side: how each is told to make a bucket like a directory, and a directory like a bucket."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.bench.ground import BUCKET, Ground
from tests.bench.measure import Cost, run
from tests.support.servers import S3Server

BENCH_BIN = Path(".bench-venv/bin").resolve()
# A sync lists the bucket it knows nothing of only within a finite budget.
UNLIMITED = ("--s3-budget-preset", "unlimited", "--s3-budget-list", "100000")
PARALLEL = ("--transfers", "16", "--checkers", "16")


class Tool(Protocol):
    """A tool at work on one server. `up` a second time is the sync with nothing to do."""

    name: str

    def prepare(self, ground: Ground, server: S3Server, root: Path) -> None:
        """What is done once, and not measured: credentials, declarations."""

    def up(self, root: Path) -> Cost: ...

    def down(self, root: Path) -> Cost:
        """Into an empty directory, knowing nothing of the bucket."""

    def note(self, cost: Cost) -> str: ...


@dataclass(slots=True)
class Vh:
    name: str = "vh"
    number: int = 0
    ground: Ground | None = None

    def prepare(self, ground: Ground, server: S3Server, root: Path) -> None:
        """A key and a vault per server: ports differ."""
        self.ground = ground
        self.number += 1
        ground.vh("api-key", "create", self._key, "--provider", "other", "--endpoint", server.endpoint)
        self._create("up", root)

    def up(self, root: Path) -> Cost:
        return self._sync("up")

    def down(self, root: Path) -> Cost:
        self._create("down", root)
        return self._sync("down")

    def note(self, cost: Cost) -> str:
        """The requests it counted."""
        requests = json.loads(cost.out)["requests"]
        told = [f"{count} {name.upper()}" for name, count in requests.items() if count and name != "downloaded_bytes"]
        return ", ".join(told) or "no request"

    @property
    def _key(self) -> str:
        return f"key-{self.number}"

    def _create(self, way: str, root: Path) -> None:
        where = ["--root", root, "--api-key", self._key, "--bucket", BUCKET]
        self._vh("vault", "create", f"{way}-{self.number}", "--s3", *where, "--strategy", "sync", *UNLIMITED)

    def _sync(self, way: str) -> Cost:
        return self._vh("vault", "sync", f"{way}-{self.number}", "--json")

    def _vh(self, *arguments: str | Path) -> Cost:
        assert self.ground is not None
        return self.ground.vh(*arguments)


@dataclass(slots=True)
class Rclone:
    """With four times its default of parallel transfers, which suits small objects better and harms nowhere."""

    name: str = "rclone"
    environment: dict[str, str] | None = None

    def prepare(self, ground: Ground, server: S3Server, root: Path) -> None:
        self.environment = {
            **ground.environment,
            "RCLONE_CONFIG_BENCH_TYPE": "s3",
            "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
            "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
            "RCLONE_CONFIG_BENCH_REGION": "us-east-1",
            "RCLONE_CONFIG_BENCH_ENDPOINT": server.endpoint,
            "RCLONE_CONFIG_BENCH_FORCE_PATH_STYLE": "true",
        }

    def up(self, root: Path) -> Cost:
        return self._sync(str(root), f"bench:{BUCKET}")

    def down(self, root: Path) -> Cost:
        return self._sync(f"bench:{BUCKET}", str(root))

    def note(self, cost: Cost) -> str:
        return ""

    def _sync(self, source: str, target: str) -> Cost:
        return run([BENCH_BIN / "rclone", "sync", source, target, *PARALLEL], environment=self.environment)


@dataclass(slots=True)
class Aws:
    name: str = "aws"
    ground: Ground | None = None
    endpoint: str = ""

    def prepare(self, ground: Ground, server: S3Server, root: Path) -> None:
        self.ground, self.endpoint = ground, server.endpoint

    def up(self, root: Path) -> Cost:
        return self._sync(str(root), f"s3://{BUCKET}")

    def down(self, root: Path) -> Cost:
        return self._sync(f"s3://{BUCKET}", str(root))

    def note(self, cost: Cost) -> str:
        return ""

    def _sync(self, source: str, target: str) -> Cost:
        assert self.ground is not None
        options = ["--endpoint-url", self.endpoint, "--only-show-errors"]
        return run([BENCH_BIN / "aws", "s3", "sync", source, target, *options], environment=self.ground.environment)


def versions() -> dict[str, str]:
    """What is installed of the others, by name; a tool that is not, or does not run, is left out."""
    asked = {"rclone": [BENCH_BIN / "rclone", "version"], "aws": [BENCH_BIN / "aws", "--version"]}
    found: dict[str, str] = {}
    for name, command in asked.items():
        try:
            found[name] = run(command).out.splitlines()[0]
        except Exception as error:
            print(f"{name} does not run here: {error}", flush=True)
    return found
