"""Between rows and values: what the planner reads, and what an operation keeps of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from sync.decide import Agreed, Local, Remote, Rules, Sides
from vaulthalla.terms import ConflictPolicy, Strategy
from vaulthalla.vaults.models import SyncPolicy, VaultKind
from vaulthalla.work.models import Run, RunKind

_decode = msgspec.json.Decoder(Sides).decode


class Differing(NamedTuple):
    """A differing path: its sides, the scan's reason for skipping it, and the verdict that stood until now."""

    sides: Sides
    skip: str
    stood: tuple[str, str]


def differing_of(row: tuple[Any, ...]) -> Differing:
    """A row of `sync.sql.DIFFERING`."""
    path, rest = row[0], row[1:]
    local, skip = rest[:8], rest[8]
    remote, doubtful, base, stood = rest[9:17], rest[17], rest[18:24], rest[24:]
    sides = Sides(
        path=path,
        local=Local(**dict(zip(_LOCAL, local, strict=True))) if local[0] is not None else None,
        remote=Remote(**dict(zip(_REMOTE, remote, strict=True))) if remote[0] is not None else None,
        base=Agreed(**dict(zip(_BASE, base, strict=True))) if base[4] is not None else None,
        doubtful=bool(doubtful),
    )
    return Differing(sides, skip or "", (stood[0] or "", stood[1] or ""))


_LOCAL = ("size", "mtime_ns", "ctime_ns", "inode", "sha256", "md5", "multipart_etag", "read_again")
_REMOTE = ("size", "etag", "version_id", "sha256", "mtime_ns", "storage_class", "archive_status", "restore")
_BASE = ("size", "mtime_ns", "ctime_ns", "inode", "etag", "sha256")


def to_json(sides: Sides) -> str:
    """The text of an operation's `planned` column."""
    return msgspec.json.encode(sides).decode()


def from_json(planned: str | bytes | dict[str, Any]) -> Sides:
    if isinstance(planned, dict):
        return msgspec.convert(planned, Sides)
    return _decode(planned)


def policy_key(policy: SyncPolicy) -> str:
    """What settled verdicts hold for; another key, and every path is looked at again."""
    return f"{policy.strategy}/{policy.conflict_policy}/{'delete_foreign' if policy.delete_foreign else ''}"


def rules_of(policy: SyncPolicy, run: Run) -> Rules:
    """What a run decides by under a policy; a local vault always behaves as `sync`."""
    return Rules(
        strategy=Strategy.SYNC if policy.vault.kind == VaultKind.LOCAL else Strategy(policy.strategy),
        conflict=ConflictPolicy(policy.conflict_policy),
        delete_foreign=policy.delete_foreign,
        fetch=run.kind == RunKind.FETCH,
    )
