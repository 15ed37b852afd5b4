"""What a sync does with one path: the whole decision table, pure and total.

Three-way: each side is absent, same (as base), changed or unknown. See docs/architecture.md for the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import assert_never

from vaulthalla.stores.profiles import ARCHIVE_CLASSES, ARCHIVE_STATUSES
from vaulthalla.terms import ConflictPolicy, Strategy

MD5_HEX_LENGTH = 32
# Why a path converges although nothing happened to it: reading it once more found what was there before.
NOTHING_NEW = "read_again"


class Action(StrEnum):
    """What is done with a path. The first group needs work, the second is a verdict recorded while planning."""

    UPLOAD = "upload"
    DOWNLOAD = "download"
    COPY = "copy"  # server-side, for a rename; only the planner's pairing makes it
    DELETE_REMOTE = "delete_remote"
    DELETE_LOCAL = "delete_local"
    KEEP_BOTH = "keep_both"  # local content beside under a conflict name, remote content at the path
    VERIFY = "verify"  # one HEAD, then decide again

    CONVERGE = "converge"  # both sides hold the same content: record it
    DROP_BASE = "drop_base"  # both sides are gone: forget it
    INDEX_ONLY = "index_only"
    CONFLICT = "conflict"
    FOREIGN = "foreign"
    LEAVE = "leave"  # the policy leaves the remote side as it is
    ARCHIVE_SKIPPED = "archive_skipped"
    PATH_SKIPPED = "path_skipped"
    NOTHING = "nothing"


WORK = frozenset(
    (
        Action.UPLOAD,
        Action.DOWNLOAD,
        Action.COPY,
        Action.DELETE_REMOTE,
        Action.DELETE_LOCAL,
        Action.KEEP_BOTH,
        Action.VERIFY,
    )
)
DELETES = frozenset((Action.DELETE_REMOTE, Action.DELETE_LOCAL))


class State(Enum):
    """One side, compared with the base."""

    ABSENT = "absent"
    SAME = "same"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """A file as the scan saw it; hashes only where somebody computed them. `version` is its whole fingerprint."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: bytes | None = None
    md5: bytes | None = None
    multipart_etag: str = ""
    read_again: bool = False  # its fingerprint does not vouch for its content

    @property
    def version(self) -> str:
        return f"{self.size}:{self.mtime_ns}:{self.ctime_ns}:{self.inode}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """An object as the index knows it. `mtime_ns` is the writer's, from metadata, never LastModified."""

    size: int
    etag: str
    version_id: str = ""
    sha256: bytes | None = None
    mtime_ns: int | None = None
    storage_class: str = "STANDARD"
    archive_status: str = ""
    restore: str = ""

    @property
    def version(self) -> str:
        """What a settled verdict holds for. Restore state counts: it decides whether a body can be read."""
        return f"{self.etag}|{self.storage_class}|{self.restore}"

    @property
    def needs_restore(self) -> bool:
        """The class stays GLACIER while a restored copy is readable, so the restore state decides."""
        archived = self.storage_class in ARCHIVE_CLASSES or self.archive_status in ARCHIVE_STATUSES
        return archived and self.restore != "active"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """The base: what both sides were when they last agreed."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    etag: str
    sha256: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Everything known of one path. `unknown` names why one side cannot be known; then nothing is done."""

    path: str
    local: Local | None = None
    remote: Remote | None = None
    base: Agreed | None = None
    unknown: str = ""
    unknown_settles: bool = False  # the reason holds as long as both versions do
    doubtful: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The policy, and what this attempt may still ask. `verified`: a HEAD has told all it can.

    `fetch`: bodies that are only indexed here are wanted; every other decision is left to a sync.
    """

    strategy: Strategy
    conflict: ConflictPolicy
    delete_foreign: bool = False
    verified: bool = False
    fetch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """An action and why. A settled decision is remembered for these versions and this policy."""

    action: Action
    reason: str = ""
    settles: bool = False


def decide(sides: Sides, rules: Rules) -> Decision:
    """The action for one path. Total and deterministic: every input has exactly one outcome."""
    if sides.unknown:
        return Decision(action=Action.PATH_SKIPPED, reason=sides.unknown, settles=sides.unknown_settles)
    if sides.doubtful:
        if rules.verified:
            return Decision(action=Action.PATH_SKIPPED, reason="doubtful")
        return Decision(action=Action.VERIFY, reason="doubtful")
    decision = _three_way(sides, rules)
    return _unless_archived(sides, _fetched(decision) if rules.fetch else decision)


def _fetched(decision: Decision) -> Decision:
    if decision.action is Action.INDEX_ONLY:
        return Decision(action=Action.DOWNLOAD, reason="fetch")
    return decision if decision.action in (Action.DOWNLOAD, Action.VERIFY) else Decision(action=Action.NOTHING)


def local_state(sides: Sides) -> State:
    """A file whose content is known to be the base's is the same, whatever touched it."""
    local, base = sides.local, sides.base
    if local is None:
        return State.ABSENT
    if base is None:
        return State.CHANGED
    if _same_file(local, base) or (base.sha256 is not None and local.sha256 == base.sha256):
        return State.SAME
    return State.CHANGED


def remote_state(sides: Sides) -> State:
    if sides.remote is None:
        return State.ABSENT
    return State.SAME if sides.base is not None and sides.remote.etag == sides.base.etag else State.CHANGED


def identical(sides: Sides) -> bool | None:
    """Whether both sides hold the same content, by content alone; None when nothing here can tell."""
    local, remote = sides.local, sides.remote
    if local is None or remote is None or local.size != remote.size:
        return False
    ours = local.sha256
    if ours is None and sides.base is not None and _same_file(local, sides.base):
        ours = sides.base.sha256
    if ours is not None and remote.sha256 is not None:
        return ours == remote.sha256
    if local.multipart_etag and local.multipart_etag == remote.etag:
        return True
    if local.md5 is not None and len(remote.etag) == MD5_HEX_LENGTH and "-" not in remote.etag:
        return local.md5.hex() == remote.etag.lower()
    return None


def _same_file(local: Local, base: Agreed) -> bool:
    return not local.read_again and _same_fingerprint(local, base)


def _same_fingerprint(local: Local, base: Agreed) -> bool:
    return (
        local.mtime_ns == base.mtime_ns
        and local.size == base.size
        and local.ctime_ns == base.ctime_ns
        and local.inode == base.inode
    )


def _three_way(sides: Sides, rules: Rules) -> Decision:  # noqa: PLR0911 - one return per cell
    match local_state(sides), remote_state(sides):
        case State.ABSENT, State.ABSENT:
            return Decision(action=Action.DROP_BASE)
        case State.ABSENT, State.SAME:
            return _lost_locally(rules)
        case State.ABSENT, State.CHANGED:
            return _only_remote(sides, rules)
        case State.SAME, State.ABSENT:
            return _lost_remotely(rules)
        case State.SAME, State.SAME:
            return _agreed(sides)
        case State.SAME, State.CHANGED:
            return _changed_remotely(sides, rules)
        case State.CHANGED, State.ABSENT:
            if sides.base is None or rules.strategy is Strategy.MIRROR:
                return Decision(action=Action.UPLOAD)
            return _conflict(sides, rules, "changed here, deleted remotely")
        case State.CHANGED, State.SAME:
            return Decision(action=Action.UPLOAD)
        case _:
            return _changed_on_both(sides, rules)


def _agreed(sides: Sides) -> Decision:
    local, base = sides.local, sides.base
    if local is None or base is None or _same_file(local, base):
        return Decision(action=Action.NOTHING)
    return Decision(action=Action.CONVERGE, reason=NOTHING_NEW if _same_fingerprint(local, base) else "touched")


def _lost_locally(rules: Rules) -> Decision:
    if rules.strategy is Strategy.CACHE:
        # Losing a cached body is eviction, never a delete.
        return Decision(action=Action.INDEX_ONLY, settles=True)
    return Decision(action=Action.DELETE_REMOTE)


def _lost_remotely(rules: Rules) -> Decision:
    return Decision(action=Action.UPLOAD if rules.strategy is Strategy.MIRROR else Action.DELETE_LOCAL)


def _only_remote(sides: Sides, rules: Rules) -> Decision:
    if rules.strategy is Strategy.CACHE:
        return Decision(action=Action.INDEX_ONLY, settles=True)
    if sides.base is not None:
        return _conflict(sides, rules, "deleted here, changed remotely")
    if rules.strategy is Strategy.SYNC:
        return Decision(action=Action.DOWNLOAD)
    if rules.delete_foreign:
        return Decision(action=Action.DELETE_REMOTE, reason="foreign")
    return Decision(action=Action.FOREIGN, settles=True)


def _changed_remotely(sides: Sides, rules: Rules) -> Decision:
    if identical(sides):
        return Decision(action=Action.CONVERGE)
    if rules.strategy is Strategy.MIRROR:
        return _conflict(sides, rules, "changed remotely")
    return Decision(action=Action.DOWNLOAD)


def _changed_on_both(sides: Sides, rules: Rules) -> Decision:
    match identical(sides):
        case True:
            return Decision(action=Action.CONVERGE)
        case None if not rules.verified:
            return Decision(action=Action.VERIFY, reason="undecidable")
        case _:
            return _conflict(sides, rules, "changed on both sides")


def _conflict(sides: Sides, rules: Rules, what: str) -> Decision:
    policy = rules.conflict
    if rules.strategy is Strategy.MIRROR and policy in (ConflictPolicy.KEEP_BOTH, ConflictPolicy.OVERWRITE):
        # Both would write locally; a policy for a mirror cannot hold them, so somebody has to look.
        policy = ConflictPolicy.ASK
    match policy:
        case ConflictPolicy.ASK:
            return Decision(action=Action.CONFLICT, reason=what, settles=True)
        case ConflictPolicy.KEEP_LOCAL:
            return _keep_local(sides)
        case ConflictPolicy.KEEP_REMOTE:
            return _keep_remote(sides, rules)
        case ConflictPolicy.KEEP_BOTH:
            return _keep_both(sides)
        case ConflictPolicy.KEEP_NEWEST:
            return _keep_newest(sides, rules, what)
        case ConflictPolicy.OVERWRITE:
            return _overwrite(sides)
        case _ as never:
            assert_never(never)


def _keep_local(sides: Sides) -> Decision:
    return Decision(action=Action.UPLOAD if sides.local else Action.DELETE_REMOTE, reason="keep_local")


def _keep_remote(sides: Sides, rules: Rules) -> Decision:
    if rules.strategy is Strategy.MIRROR:
        # A mirror never writes locally.
        return Decision(action=Action.LEAVE, reason="keep_remote", settles=True)
    return Decision(action=Action.DOWNLOAD if sides.remote else Action.DELETE_LOCAL, reason="keep_remote")


def _keep_both(sides: Sides) -> Decision:
    if sides.local and sides.remote:
        return Decision(action=Action.KEEP_BOTH, reason="keep_both")
    return Decision(action=Action.UPLOAD if sides.local else Action.DOWNLOAD, reason="keep_both")


def _keep_newest(sides: Sides, rules: Rules, what: str) -> Decision:
    local, remote = sides.local, sides.remote
    if local and remote and remote.mtime_ns is None and not rules.verified:
        return Decision(action=Action.VERIFY, reason="mtime unknown")
    if not local or not remote or remote.mtime_ns is None or local.mtime_ns == remote.mtime_ns:
        return Decision(action=Action.CONFLICT, reason=what, settles=True)
    if local.mtime_ns > remote.mtime_ns:
        return Decision(action=Action.UPLOAD, reason="keep_newest")
    if rules.strategy is Strategy.MIRROR:
        return Decision(action=Action.LEAVE, reason="keep_newest", settles=True)
    return Decision(action=Action.DOWNLOAD, reason="keep_newest")


def _overwrite(sides: Sides) -> Decision:
    local, remote = sides.local, sides.remote
    if local is None or (remote is not None and (remote.mtime_ns or 0) > local.mtime_ns):
        return Decision(action=Action.DOWNLOAD, reason="overwrite")
    return Decision(action=Action.UPLOAD, reason="overwrite")


def _unless_archived(sides: Sides, decision: Decision) -> Decision:
    wants_body = decision.action in (Action.DOWNLOAD, Action.KEEP_BOTH)
    if wants_body and sides.remote is not None and sides.remote.needs_restore:
        return Decision(action=Action.ARCHIVE_SKIPPED, reason="needs_restore", settles=True)
    return decision
