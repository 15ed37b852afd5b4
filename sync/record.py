"""Collects what planning and executing learnt, and writes it set-based, inside the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, NamedTuple

from indexing.merge import observe, observe_gone
from indexing.models import Source
from sync import sql
from sync.decide import Action, Decision, Local, Remote, Sides
from vaulthalla.stores.base import ObjectInfo

Row = tuple[Any, ...]


class Learnt(NamedTuple):
    """What a store said of a key: an object, or the store time at which there was none."""

    key: str
    source: Source
    what: ObjectInfo | datetime


@dataclass(kw_only=True)
class Ledger:
    """Rows to be; `write` turns each list into one statement.

    `since`: the index's revision before any of it was asked for or written. So an answer is newer than what the index
    said already, and no contradiction, whatever their times.
    """

    vault_id: int
    policy: str
    since: int | None = None
    agreed: list[Row] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    settled: list[Row] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)
    evicted: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    conflicts: list[Row] = field(default_factory=list)
    local_put: list[Row] = field(default_factory=list)
    local_gone: list[str] = field(default_factory=list)
    hashes: list[Row] = field(default_factory=list)
    remote: list[Learnt] = field(default_factory=list)

    def verdict(self, sides: Sides, decision: Decision) -> None:
        """A decision that needs no work."""
        match decision.action:
            case Action.CONVERGE if sides.local and sides.remote:
                self.agree(sides.path, sides.local, sides.remote, content_of(sides))
            case Action.DROP_BASE:
                self.dropped.append(sides.path)
            case _ if decision.settles:
                self._settle(sides, decision)
            case _:
                pass

    def agree(self, path: str, local: Local, remote: Remote, sha256: bytes | None) -> None:
        """Both sides hold the same content now."""
        self.agreed.append(
            (
                *(path, remote.etag, remote.version_id, local.size),
                *(local.mtime_ns, local.ctime_ns, local.inode, sha256),
            )
        )
        if local.read_again:
            self.read.append(path)

    def downloaded(self, path: str, local: Local) -> None:
        """A file that was written here, so that the plan of the next run knows it before its scan."""
        self.local_put.append(
            (path, directory_of(path), local.size, local.mtime_ns, local.ctime_ns, local.inode, local.sha256)
        )

    def hashed(self, path: str, local: Local) -> None:
        self.hashes.append((path, local.mtime_ns, local.inode, local.sha256, local.md5, local.multipart_etag))

    def saw(self, info: ObjectInfo) -> None:
        """An object that somebody's write has left."""
        self.remote.append(Learnt(info.key, Source.HEAD, info))

    def missed(self, key: str, at: datetime) -> None:
        self.remote.append(Learnt(key, Source.HEAD, at))

    def wrote(self, info: ObjectInfo) -> None:
        """An object that our own write has left."""
        self.remote.append(Learnt(info.key, Source.OWN, info))

    def deleted(self, key: str, at: datetime) -> None:
        """By a delete of our own."""
        self.remote.append(Learnt(key, Source.OWN, at))

    def absorb(self, other: Ledger) -> None:
        """Takes over everything that another ledger of the same vault holds."""
        known, told = vars(self), vars(other)
        for name in _LISTS:
            if learnt := told[name]:
                known[name].extend(learnt)

    def write(self) -> None:
        """One statement per kind of row, in an order in which a path may be in several lists."""
        vault = self.vault_id
        if self.unsettled:
            sql.execute(sql.UNSETTLE, {"vault": vault, "paths": self.unsettled})
        if self.agreed:
            sql.execute(sql.AGREE, (vault, *_columns(self.agreed)))
        if self.read:
            sql.execute(sql.WAS_READ, (vault, self.read))
        if self.settled:
            sql.execute(sql.SETTLE, (vault, self.policy, *_columns(self.settled)))
        if self.evicted:
            sql.execute(sql.FORGET_AGREEMENT, (vault, self.evicted))
        if self.conflicts:
            sql.execute(sql.OPEN_CONFLICTS, (vault, *_columns(self.conflicts)))
        if self.dropped:
            sql.execute(sql.DROP, (vault, self.dropped))
        self._write_local()
        self._write_index()

    def _write_local(self) -> None:
        vault = self.vault_id
        if self.local_put:
            sql.execute(sql.PUT_LOCAL, (vault, *_columns(self.local_put)))
        if self.local_gone:
            sql.execute(sql.DROP_LOCAL, (vault, self.local_gone))
        touched = {row[1] for row in self.local_put} | {directory_of(path) for path in self.local_gone}
        if touched:
            sql.execute(sql.TOUCH_DIRS, (vault, sorted(touched)))
        sql.put_hashes(vault, self.hashes)

    def _write_index(self) -> None:
        """Of each key what was learnt last: a look before a write knows nothing of it."""
        latest = {learnt.key: learnt for learnt in self.remote}
        for source in (Source.HEAD, Source.OWN):
            told = [(key, what) for key, by, what in latest.values() if by is source]
            if there := [what for _, what in told if isinstance(what, ObjectInfo)]:
                observe(self.vault_id, there, source=source, since=self.since)
            if gone := [(key, what) for key, what in told if isinstance(what, datetime)]:
                observe_gone(self.vault_id, gone, source=source, since=self.since)

    def _settle(self, sides: Sides, decision: Decision) -> None:
        local, remote = versions(sides)
        self.settled.append((sides.path, decision.action.value, decision.reason, local, remote))
        if decision.action is Action.INDEX_ONLY and sides.base is not None:
            self.evicted.append(sides.path)
        if decision.action is Action.CONFLICT:
            self.conflicts.append(
                (sides.path, decision.reason, _evidence(sides.local), _evidence(sides.remote), local, remote)
            )


_LISTS = tuple(f.name for f in fields(Ledger) if f.name not in ("vault_id", "policy", "since"))


def versions(sides: Sides) -> tuple[str, str]:
    """The versions a settled verdict and a conflict hold for; empty for an absent side."""
    return (
        sides.local.version if sides.local else "",
        sides.remote.version if sides.remote else "",
    )


def content_of(sides: Sides) -> bytes | None:
    """The SHA-256 that both sides of an agreement hold, as far as anybody knows it."""
    known = (sides.local, sides.remote, sides.base)
    return next((side.sha256 for side in known if side is not None and side.sha256 is not None), None)


def directory_of(path: str) -> str:
    """The directory of a path, as `LocalFile.dir` has it: "" or ending with "/"."""
    return path[: path.rfind("/") + 1]


def _columns(rows: Sequence[Row]) -> list[list[Any]]:
    """Rows as arrays. What was learnt last of a path holds: one that was begun again may be told twice."""
    latest = {row[0]: row for row in rows}
    return [list(column) for column in zip(*latest.values(), strict=True)]


def _evidence(side: Local | Remote | None) -> str:
    if side is None:
        return json.dumps({"present": False})
    shown: dict[str, Any] = {"present": True, "size": side.size, "sha256": side.sha256.hex() if side.sha256 else None}
    shown["mtime_ns"] = side.mtime_ns
    if isinstance(side, Remote):
        shown["etag"] = side.etag
        shown["storage_class"] = side.storage_class
    return json.dumps(shown)
