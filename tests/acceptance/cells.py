"""The decision table, written down once more: what becomes of a path that changed here, there, or on both sides.

One path per cell. Nothing here asks the product what it would do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from tests.acceptance.driver import Bucket, Vault

# When files were written, in seconds; the base is older than anything that happens later.
BASE_TIME, OLDER, NEWER = 1_700_000_000, 1_700_001_000, 1_700_002_000
GONE = "gone"


class Outcome(Enum):
    """What a sync does with a path. The last three leave both sides as they are."""

    UPLOAD = auto()
    DOWNLOAD = auto()
    DELETE_REMOTE = auto()
    DELETE_LOCAL = auto()
    KEEP_BOTH = auto()
    CONVERGE = auto()
    NOTHING = auto()
    INDEX_ONLY = auto()
    FOREIGN = auto()
    LEAVE = auto()
    CONFLICT = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What happens to one path after its base. None: nothing; GONE: deleted; else (body, mtime)."""

    path: str
    base: bool = True
    local: str | tuple[bytes, int] | None = None
    remote: str | tuple[bytes, int | None] | None = None

    @property
    def body(self) -> bytes:
        return b"base of " + self.path.encode()

    def before(self) -> bytes | None:
        return self.body if self.base else None

    def here(self) -> bytes | None:
        """The local body when the sync begins."""
        return self._after(self.local)

    def there(self) -> bytes | None:
        return self._after(self.remote)

    def _after(self, change: str | tuple[bytes, int] | tuple[bytes, int | None] | None) -> bytes | None:
        if change is None:
            return self.before()
        return None if isinstance(change, str) else change[0]


CELLS = (
    Cell(path="new here", base=False, local=(b"new here", OLDER)),
    Cell(path="new there", base=False, remote=(b"new there", None)),
    Cell(path="new on both, equal", base=False, local=(b"twin", OLDER), remote=(b"twin", None)),
    Cell(path="new on both, newer here", base=False, local=(b"mine", NEWER), remote=(b"theirs", OLDER)),
    Cell(path="unchanged"),
    Cell(path="touched", local=(b"base of touched", NEWER)),
    Cell(path="changed here", local=(b"changed here", NEWER)),
    Cell(path="changed there, newer", remote=(b"changed there", NEWER)),
    Cell(path="changed there, older", remote=(b"an old one", BASE_TIME - 1)),
    Cell(path="changed on both, equal", local=(b"same change", NEWER), remote=(b"same change", OLDER)),
    Cell(path="changed on both, newer here", local=(b"mine, later", NEWER), remote=(b"theirs, before", OLDER)),
    Cell(path="changed on both, newer there", local=(b"mine, before", OLDER), remote=(b"theirs, later", NEWER)),
    Cell(path="changed on both, same time", local=(b"mine, then", OLDER), remote=(b"theirs, then", OLDER)),
    Cell(path="changed on both, same size", local=(b"mine!!", NEWER), remote=(b"theirs", NEWER)),
    Cell(path="changed on both, time unknown", local=(b"mine, some time", OLDER), remote=(b"theirs", None)),
    Cell(path="deleted here", local=GONE),
    Cell(path="deleted there", remote=GONE),
    Cell(path="deleted on both", local=GONE, remote=GONE),
    Cell(path="deleted here, changed there", local=GONE, remote=(b"changed, not deleted", NEWER)),
    Cell(path="changed here, deleted there", local=(b"changed, not deleted", NEWER), remote=GONE),
)
BOTH_CHANGED = (
    "new on both, newer here",
    "changed on both, newer here",
    "changed on both, newer there",
    "changed on both, same time",
    "changed on both, same size",
    "changed on both, time unknown",
)
NEWER_HERE = ("new on both, newer here", "changed on both, newer here", "changed there, older")
NEWER_THERE = ("changed on both, newer there", "changed there, newer")

ALIKE = {
    "new here": Outcome.UPLOAD,
    "new on both, equal": Outcome.CONVERGE,
    "unchanged": Outcome.NOTHING,
    "touched": Outcome.CONVERGE,
    "changed here": Outcome.UPLOAD,
    "changed on both, equal": Outcome.CONVERGE,
    "deleted on both": Outcome.NOTHING,
}
BY_STRATEGY = {
    "cache": {
        "new there": Outcome.INDEX_ONLY,
        "changed there, newer": Outcome.DOWNLOAD,
        "changed there, older": Outcome.DOWNLOAD,
        "deleted here": Outcome.INDEX_ONLY,
        "deleted there": Outcome.DELETE_LOCAL,
        "deleted here, changed there": Outcome.INDEX_ONLY,
    },
    "sync": {
        "new there": Outcome.DOWNLOAD,
        "changed there, newer": Outcome.DOWNLOAD,
        "changed there, older": Outcome.DOWNLOAD,
        "deleted here": Outcome.DELETE_REMOTE,
        "deleted there": Outcome.DELETE_LOCAL,
    },
    "mirror": {
        "new there": Outcome.FOREIGN,
        "deleted here": Outcome.DELETE_REMOTE,
        "deleted there": Outcome.UPLOAD,
        "changed here, deleted there": Outcome.UPLOAD,
    },
}


def outcome(cell: Cell, strategy: str, policy: str) -> Outcome:
    """What the table says about a cell; what it leaves open is a conflict, for the policy to decide."""
    said = ALIKE.get(cell.path) or BY_STRATEGY[strategy].get(cell.path)
    return said or _conflict(cell, strategy, policy)


def _conflict(cell: Cell, strategy: str, policy: str) -> Outcome:
    here, there, mirror = cell.here() is not None, cell.there() is not None, strategy == "mirror"
    both = here and there
    remote_wins = Outcome.LEAVE if mirror else Outcome.DOWNLOAD if there else Outcome.DELETE_LOCAL
    local_wins = Outcome.UPLOAD if here else Outcome.DELETE_REMOTE
    survives = Outcome.UPLOAD if here else Outcome.DOWNLOAD
    newest = local_wins if cell.path in NEWER_HERE else remote_wins if cell.path in NEWER_THERE else Outcome.CONFLICT
    return {
        "ask": Outcome.CONFLICT,
        "keep_local": local_wins,
        "keep_remote": remote_wins,
        "keep_newest": newest,
        "keep_both": Outcome.KEEP_BOTH if both else survives,
        # Between two directories the newest wins, a change beats a delete, and a tie goes to the root.
        "overwrite": Outcome.DOWNLOAD if cell.path in NEWER_THERE else survives,
    }[policy]


@dataclass(kw_only=True)
class Expected:
    """Both sides, the trash and the counters after a sync of all cells."""

    cells: Mapping[str, Outcome]
    files: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    beside: list[bytes] = field(default_factory=list)
    trash: dict[str, bytes] = field(default_factory=dict)
    operations: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, strategy: str, policy: str, cells: Iterable[Cell] = CELLS) -> Expected:
        expected = cls(cells={cell.path: outcome(cell, strategy, policy) for cell in cells})
        for cell in cells:
            expected._add(cell, expected.cells[cell.path])
        return expected

    def conflicts(self) -> set[str]:
        return {path for path, said in self.cells.items() if said is Outcome.CONFLICT}

    def _add(self, cell: Cell, said: Outcome) -> None:
        here, there = cell.here(), cell.there()
        if said in (Outcome.UPLOAD, Outcome.DELETE_REMOTE):
            there = here
        if said in (Outcome.DOWNLOAD, Outcome.DELETE_LOCAL, Outcome.KEEP_BOTH):
            if here is not None and said is not Outcome.KEEP_BOTH:
                self.trash[cell.path] = here
            if said is Outcome.KEEP_BOTH:
                self.beside.append(here or b"")
            here = there
        for side, body in ((self.files, here), (self.objects, there)):
            if body is not None:
                side[cell.path] = body
        self._count(cell, said)

    def _count(self, cell: Cell, said: Outcome) -> None:
        for part in (Outcome.UPLOAD, Outcome.DOWNLOAD) if said is Outcome.KEEP_BOTH else (said,):
            if part not in (Outcome.NOTHING, Outcome.LEAVE):
                self.operations[part.name.lower()] += 1
        if said in (Outcome.UPLOAD, Outcome.KEEP_BOTH):
            self.bytes["up"] += len(cell.here() or b"")
        if said in (Outcome.DOWNLOAD, Outcome.KEEP_BOTH):
            self.bytes["down"] += len(cell.there() or b"")


def lay_base(vault: Vault) -> None:
    for cell in CELLS:
        if cell.base:
            vault.write(cell.path, cell.body, mtime=BASE_TIME)


def change_here(vault: Vault) -> None:
    for cell in CELLS:
        match cell.local:
            case (body, mtime):
                vault.write(cell.path, body, mtime=mtime)
            case "gone":
                (vault.root / cell.path).unlink()


def change_there(bucket: Bucket) -> None:
    for cell in CELLS:
        match cell.remote:
            case (body, mtime):
                bucket.put(cell.path, body, mtime=mtime)
            case "gone":
                bucket.delete(cell.path)
