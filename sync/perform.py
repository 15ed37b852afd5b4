"""Carries out one operation, on a helper thread: files and requests, never the database.

Each is decided again from current facts before it acts: local files by fingerprint, objects by conditional
requests. A refused condition is an observation (one HEAD, then `decide` again), not a failure.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, BinaryIO, TypeVar

import msgspec

from budgets.access import ChunkMeter
from budgets.meter import Pot
from sync.costs import MIB, MULTIPART_FROM, RANGES_FROM
from sync.decide import WORK, Action, Decision, Local, Remote, Rules, Sides, decide
from sync.fingerprint import Fingerprint, fingerprint
from sync.hashing import md5_of
from sync.large import BigBody, Unfinished, download_ranges, upload_parts
from sync.models import Direction, OperationStatus
from sync.paths import conflict_name, path_problem
from sync.record import Ledger, content_of
from sync.transfers import Transfers
from sync.tree import LocalChanged, Staged, Tree, seal
from vaulthalla.errors import StallCode, VaulthallaError
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import (
    BodyCorrupt,
    Condition,
    Content,
    MeterRefused,
    ObjectArchived,
    ObjectInfo,
    ObjectMissing,
    PreconditionFailed,
    Store,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UploadMissing,
    Written,
    costs,
)
from vaulthalla.vaults.models import Vault, VaultKind

# Bodies up to this size are read at once, which also makes what is hashed and what is sent the same bytes.
IN_MEMORY = 2 * MIB
READ_BYTES = MIB
# How often a path may surprise before it is left to the next run.
MOST_SURPRISES = 3
# How often the store may refuse what its own HEAD says is fine: once may be another writer, quick to undo it.
MOST_CONTRADICTIONS = 2
CONTRADICTS = "store_contradicts_itself: the store refuses what its own answer to a HEAD says is fine"
MOST_CORRUPT_BODIES = 3
ENDINGS: tuple[tuple[tuple[type[Exception], ...], OperationStatus, str], ...] = (
    ((LocalChanged, FileNotFoundError), OperationStatus.REPLAN, "changed_since_planned"),
    ((IsADirectoryError,), OperationStatus.SKIPPED, "beside_directory"),
    ((StoreFull,), OperationStatus.PARKED, StallCode.DISK_SPACE.value),
)
ABSENT = Condition(absent=True)
DISK_SPACE = StallCode.DISK_SPACE.value
SURPRISES = (PreconditionFailed, ObjectMissing, UploadMissing)


@dataclass(slots=True, kw_only=True)
class Operation:
    """An operation row, and what its execution needs to go on after a crash."""

    id: int
    path: str
    action: Action
    planned: Action
    reason: str
    status: OperationStatus
    size: int
    sides: Sides
    source: str
    progress: dict[str, Any]
    cost: Requests = field(default_factory=Requests)
    pot: Pot | None = None
    touched: set[str] = field(default_factory=set)  # directories to be flushed before the outcome is recorded
    surprises: int = 0
    contradictions: int = 0  # in a row: the store said no to what its own answer to a HEAD allows
    surprised: bool = False  # what the store answered asks for a second look, which is still to be paid for
    corrupt: int = 0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of an operation. `ledger` holds what was learnt; `refused` asks for more allotment."""

    operation: Operation
    status: OperationStatus
    reason: str = ""
    action: Action | None = None
    ledger: Ledger
    progress: dict[str, Any] = field(default_factory=dict)
    refused: RequestClass | None = None
    unavailable: bool = False


Side = TypeVar("Side")


@dataclass(kw_only=True)
class Workshop:
    """What every operation of a run shares. Methods run on helper threads."""

    vault: Vault
    tree: Tree
    store: Store
    rules: Rules
    policy: str
    trash: str
    stop: threading.Event
    transfers: Transfers
    meter: ChunkMeter
    may_delete: bool = False

    @property
    def is_bucket(self) -> bool:
        return self.vault.kind == VaultKind.S3

    def perform(self, operation: Operation) -> Outcome:
        """The whole operation, or as far as it may go now. Raises only what nobody foresaw."""
        ledger = Ledger(vault_id=self.vault.pk, policy=self.policy)
        try:
            if operation.status == OperationStatus.STAGED:
                return self._publish(operation, ledger)
            return self._attempt(operation, ledger)
        except MeterRefused as refusal:
            return self._outcome(operation, ledger, OperationStatus.PENDING, refused=refusal.request_class)
        except Unfinished as pause:
            return self._outcome(operation, ledger, OperationStatus.PENDING, refused=pause.refused)
        except (LocalChanged, OSError, StoreError, VaulthallaError) as error:
            self._discard(operation)
            return self._ended(operation, ledger, error)

    def _ended(self, operation: Operation, ledger: Ledger, error: Exception) -> Outcome:
        """What an error means for its operation alone; the others of the chunk go on."""
        if isinstance(error, PermissionError) and operation.action is Action.UPLOAD:
            return self._outcome(operation, ledger, OperationStatus.SKIPPED, reason="unreadable_file")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return self._outcome(operation, ledger, OperationStatus.PARKED, reason=DISK_SPACE)
        for kinds, status, reason in ENDINGS:
            if isinstance(error, kinds):
                return self._outcome(operation, ledger, status, reason=reason)
        told = f"{getattr(error, 'code', type(error).__name__)}: {error}"
        away = isinstance(error, StoreUnavailable)
        return self._outcome(operation, ledger, OperationStatus.FAILED, reason=told, unavailable=away)

    def _discard(self, operation: Operation) -> None:
        """A body that cannot be put into place now; the parts of a large one are kept for the next run."""
        kept = operation.path in self.transfers.rows or operation.path in self.transfers.bodies
        if operation.status == OperationStatus.STAGED and not kept:
            with suppress(OSError):
                self.tree.discard(Staged(**operation.progress["staged"]))

    def body(self, action: Action, sides: Sides) -> BigBody:
        """The parts of a large body; also asked by the main thread, for what is left to pay."""
        if action is Action.UPLOAD:
            local = _present(sides.local)
            return self.transfers.body(sides.path, Direction.UP, version=local.version, size=local.size)
        remote = _present(sides.remote)
        body = self.transfers.body(sides.path, Direction.DOWN, version=remote.etag, size=remote.size)
        if body.staged is not None and not self.tree.holds(body.staged):
            # What it held of the body has to be paid for, and asked for, again.
            body.staged = None
            body.restart()
        return body

    # --- deciding again

    def _attempt(self, operation: Operation, ledger: Ledger) -> Outcome:
        if operation.action is Action.VERIFY or operation.surprised:
            return self._begin_again(operation, ledger)
        try:
            return self._act(operation, ledger)
        except SURPRISES:
            operation.surprised = True
            return self._begin_again(operation, ledger)

    def _begin_again(self, operation: Operation, ledger: Ledger) -> Outcome:
        """A second look: settled by it, or pending as what it turned out to be, at that one's price.

        Going on at once would spend what other operations of the chunk were given.
        """
        expected, refused = operation.sides.remote, operation.surprised
        sides, decision = self._look_again(operation, operation.sides, ledger)
        operation.contradictions = operation.contradictions + 1 if refused and _same(expected, sides.remote) else 0
        if operation.contradictions >= MOST_CONTRADICTIONS:
            return self._outcome(operation, ledger, OperationStatus.FAILED, reason=CONTRADICTS)
        if decision.action not in WORK:
            return self._verdict(operation, sides, decision, ledger)
        operation.surprises += 1
        if operation.surprises > MOST_SURPRISES:
            return self._outcome(operation, ledger, OperationStatus.REPLAN, reason="changed_since_planned")
        return self._outcome(operation, ledger, OperationStatus.PENDING)

    def _look_again(self, operation: Operation, sides: Sides, ledger: Ledger) -> tuple[Sides, Decision]:
        """One HEAD, merged into what is known; then the same decision with what it told."""
        seen = self._head(operation, ledger)
        operation.surprised = False
        known = replace(sides, remote=seen, local=self._hashed(sides), doubtful=False)
        decision = decide(known, replace(self.rules, verified=True))
        if decision.action in WORK:
            # Should the allotment end here, the next attempt begins with what was learnt, and is priced for it.
            operation.sides, operation.action, operation.cost = known, decision.action, Requests()
        return known, decision

    def _head(self, operation: Operation, ledger: Ledger) -> Remote | None:
        try:
            info = self.store.head(operation.path)
        except ObjectMissing as missing:
            ledger.missed(operation.path, missing.observed_at or datetime.now(UTC))
            return None
        ledger.saw(info)
        remote = remote_of(info)
        if not self.is_bucket and operation.action is Action.VERIFY:
            digest = hashlib.sha256()
            self.store.get(operation.path, _Nowhere(), if_match=info.etag, on_bytes=digest.update)
            remote = replace(remote, sha256=digest.digest())
        return remote

    def _hashed(self, sides: Sides) -> Local | None:
        """The local side with its SHA-256, which a lost answer to our own write is recognised by."""
        local = sides.local
        if local is None or local.sha256 is not None:
            return local
        if self.is_bucket and local.size >= MULTIPART_FROM:
            return replace(local, sha256=self.body(Action.UPLOAD, sides).sha256)
        with self._open(sides.path, local) as file:
            return _hash(file, local)

    # --- acting

    def _act(self, operation: Operation, ledger: Ledger) -> Outcome:
        sides, action = operation.sides, operation.action
        match action:
            case Action.UPLOAD:
                return self._upload(operation, sides, ledger)
            case Action.COPY:
                return self._copy(operation, sides, ledger)
            case Action.DOWNLOAD | Action.KEEP_BOTH:
                return self._download(operation, sides, action, ledger)
            case Action.DELETE_REMOTE | Action.DELETE_LOCAL if not self.may_delete:
                # Deletes come last, so a transfer that turned into one waits for the next run.
                return self._outcome(operation, ledger, OperationStatus.REPLAN, reason="changed_since_planned")
            case Action.DELETE_REMOTE:
                return self._delete_remote(operation, sides, ledger)
            case Action.DELETE_LOCAL:
                return self._delete_local(operation, sides, ledger)
            case _:
                raise AssertionError(f"{action} is no work")

    def _upload(self, operation: Operation, sides: Sides, ledger: Ledger) -> Outcome:
        local = _present(sides.local)
        if self.is_bucket and local.size >= MULTIPART_FROM:
            sent, written = self._upload_parts(sides, local)
        else:
            self._abort_row(sides.path)
            sent, written = self._put(sides.path, local, sides, _condition(sides.remote))
        self._record_upload(ledger, sides.path, sent, written, sides)
        return self._done(operation, ledger, Action.UPLOAD if written else Action.CONVERGE)

    def _put(self, path: str, local: Local, sides: Sides | None, condition: Condition) -> tuple[Local, Written | None]:
        """A single PUT of exactly the bytes that were hashed. None when the remote side already holds them."""
        with self._open(path, local) as file:
            small = file.read() if local.size <= IN_MEMORY else None
            hashed = _hash(BytesIO(small) if small is not None else file, local)
            self._check_unmoved(file, path, local, len(small) if small is not None else local.size)
            if sides is not None and _is_base(sides, hashed):
                return hashed, None
            file.seek(0)
            content = self._content(hashed)
            try:
                written = self.store.put(path, file if small is None else small, content, condition=condition)
            except BodyCorrupt:
                # The store refused bytes that are not those that were hashed: the file was written to meanwhile.
                self._check_unmoved(file, path, local, local.size)
                raise
            return hashed, written

    def _upload_parts(self, sides: Sides, local: Local) -> tuple[Local, Written | None]:
        body = self.body(Action.UPLOAD, sides)
        self._abort_stale(body)
        with self._open(sides.path, local) as file:
            body.hash_once(file)
            self._check_unmoved(file, sides.path, local, local.size)
            hashed = replace(local, sha256=body.sha256)
            if _is_base(sides, hashed):
                return hashed, None
            condition = _condition(sides.remote)
            content = Content(
                size=local.size,
                sha256=body.sha256 or b"",
                md5=b"",
                mtime_ns=local.mtime_ns,
                storage_class=self.vault.storage_class,
            )
            written = upload_parts(
                self.store, file, body, content, self.stop, condition=condition, completing=self._completing
            )
            if written is None:
                raise Unfinished(body.refused)
            return hashed, written

    def _completing(self) -> Pot | None:
        needed = costs(self.store.capabilities, {RequestClass.PUT: 1}, conditional=RequestClass.PUT, multipart=True)
        return self.meter.set_aside(Requests(needed))

    def _abort_stale(self, body: BigBody) -> None:
        """Parts of an earlier version cost money until they are dropped; a budget may keep them for now."""
        if body.stale_upload:
            self._abort(body.path, body.stale_upload)
            body.stale_upload = ""

    def _abort_row(self, path: str) -> None:
        """An upload in parts whose file is small by now."""
        row = self.transfers.rows.get(path)
        if row is not None and row.upload_id:
            self._abort(path, row.upload_id)

    def _abandon(self, operation: Operation) -> None:
        """Parts that were sent before the second look decided otherwise."""
        _, body = self.transfers.bodies.get(operation.path, (None, None))
        if body is not None and body.upload_id:
            self._abort(operation.path, body.upload_id)

    def _abort(self, path: str, upload_id: str) -> None:
        with suppress(MeterRefused, StoreError):
            self.store.abort_upload(path, upload_id)

    def _copy(self, operation: Operation, sides: Sides, ledger: Ledger) -> Outcome:
        """A renamed file: the store copies what it has. Whatever is in the way of that, an upload does it."""
        local, source = _present(sides.local), remote_from(operation.progress["source"])
        if self.tree.fingerprint(sides.path) != _fingerprint(local):
            raise LocalChanged(sides.path, "changed since it was planned")
        try:
            written = self.store.copy(
                operation.source,
                sides.path,
                source_etag=source.etag,
                size=source.size,
                storage_class=source.storage_class,
                condition=ABSENT,
            )
        except (ObjectArchived, *SURPRISES):
            operation.action, operation.cost = Action.UPLOAD, Requests()
            raise Unfinished from None
        info = _own(sides.path, local, written, source.storage_class, mtime_ns=source.mtime_ns)
        ledger.wrote(info)
        ledger.agree(sides.path, local, remote_of(info), local.sha256)
        return self._done(operation, ledger, Action.COPY)

    def _download(self, operation: Operation, sides: Sides, action: Action, ledger: Ledger) -> Outcome:
        """Fetches and verifies the body beside its target; it is renamed into place once that is recorded."""
        beside = self._conflict_path(sides.path) if action is Action.KEEP_BOTH else ""
        if beside and (problem := path_problem(beside, prefix=self.vault.prefix)):
            return self._outcome(operation, ledger, OperationStatus.SKIPPED, reason=problem)
        try:
            staged, info, sha256 = self._fetch(operation, _present(sides.remote))
        except ObjectArchived:
            return self._verdict(
                operation, sides, Decision(action=Action.ARCHIVE_SKIPPED, reason="needs_restore", settles=True), ledger
            )
        operation.progress = {
            "staged": {"name": staged.name, "inode": staged.inode, "size": staged.size, "mtime_ns": staged.mtime_ns},
            "sha256": sha256.hex(),
            "etag": info.etag,
            "version_id": info.version_id,
            "storage_class": info.storage_class,
            "over": list(_fingerprint_row(sides.local)) if sides.local else None,
            "beside": beside,
            "action": action.value,
        }
        ledger.saw(msgspec.structs.replace(info, sha256=sha256))
        return self._outcome(operation, ledger, OperationStatus.STAGED)

    def _fetch(self, operation: Operation, remote: Remote) -> tuple[Staged, ObjectInfo, bytes]:
        if self.is_bucket and remote.size >= RANGES_FROM:
            body = self.body(Action.DOWNLOAD, replace(operation.sides, remote=remote))
            done = download_ranges(self.store, self.tree, remote.etag, body, self.stop)
            if done is None:
                raise Unfinished(body.refused)
            return self._checked(operation.path, remote, *done)
        try:
            return self._fetch_once(operation.path, remote)
        except BodyCorrupt:
            operation.corrupt += 1
            if operation.corrupt == MOST_CORRUPT_BODIES:
                raise
            # What came is spent: the next try is paid for as a whole.
            operation.cost = Requests()
            raise Unfinished from None

    def _fetch_once(self, path: str, remote: Remote) -> tuple[Staged, ObjectInfo, bytes]:
        if remote.size <= IN_MEMORY:
            return self._fetch_whole(path, remote)
        file, staged = self.tree.stage(path)
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)

        def on_bytes(piece: bytes) -> None:
            sha256.update(piece)
            md5.update(piece)

        try:
            with file:
                info = self.store.get(path, file, if_match=remote.etag, on_bytes=on_bytes)
                _check_body(path, info, remote, sha256.digest(), md5.digest if self.is_bucket else None)
                return seal(file, staged, mtime_ns=info.mtime_ns, lasting=False), info, sha256.digest()
        except BaseException:
            self.tree.discard(staged)
            raise

    def _fetch_whole(self, path: str, remote: Remote) -> tuple[Staged, ObjectInfo, bytes]:
        """A small body, verified before any of it is on the disk."""
        into = BytesIO()
        info = self.store.get(path, into, if_match=remote.etag)
        body = into.getbuffer()
        sha256 = hashlib.sha256(body).digest()
        _check_body(path, info, remote, sha256, (lambda: md5_of(body)) if self.is_bucket else None)
        return self.tree.stage_whole(path, body, mtime_ns=info.mtime_ns), info, sha256

    def _checked(
        self, path: str, remote: Remote, staged: Staged, info: ObjectInfo, sha256: bytes
    ) -> tuple[Staged, ObjectInfo, bytes]:
        try:
            _check_body(path, info, remote, sha256, None)
        except BodyCorrupt:
            self.tree.discard(staged)
            raise
        return staged, info, sha256

    def _publish(self, operation: Operation, ledger: Ledger) -> Outcome:
        """The second half of a download. Every step can be repeated, so a crash costs nothing."""
        kept = operation.progress
        staged = Staged(**kept["staged"])
        over, beside = kept["over"], kept["beside"]
        print_ = self.tree.publish(
            staged,
            operation.path,
            expected=Fingerprint.of(*over) if over else None,
            trash=self.trash,
            beside=beside,
            touched=operation.touched,
        )
        sha256 = bytes.fromhex(kept["sha256"])
        local = _local(print_, sha256)
        remote = Remote(size=local.size, etag=kept["etag"], version_id=kept["version_id"], sha256=sha256)
        ledger.agree(operation.path, local, remote, sha256)
        ledger.downloaded(operation.path, local)
        if beside:
            self._upload_beside(beside, ledger)
        return self._done(operation, ledger, Action(kept["action"]))

    def _upload_beside(self, path: str, ledger: Ledger) -> None:
        """The other half of keeping both: the copy that was kept here goes to the remote side, too."""
        found = self.tree.fingerprint(path)
        if found is None or found.size >= MULTIPART_FROM:
            return  # the next run uploads it as any new file
        local = _local(found, None)
        try:
            sent, written = self._put(path, local, None, ABSENT)
        except (PreconditionFailed, MeterRefused):
            return  # so it does with one that nothing was set aside for, after a crash
        ledger.downloaded(path, sent)
        self._record_upload(ledger, path, sent, written, Sides(path=path, local=sent))

    def _delete_remote(self, operation: Operation, sides: Sides, ledger: Ledger) -> Outcome:
        if self._is_back(sides):
            return self._outcome(operation, ledger, OperationStatus.REPLAN, reason="changed_since_planned")
        remote = _present(sides.remote)
        gone_at = self.store.delete(sides.path, if_match=remote.etag)
        ledger.deleted(sides.path, gone_at)
        ledger.dropped.append(sides.path)
        return self._done(operation, ledger, Action.DELETE_REMOTE)

    def _delete_local(self, operation: Operation, sides: Sides, ledger: Ledger) -> Outcome:
        expected = _fingerprint(_present(sides.local))
        self.tree.remove(sides.path, expected=expected, trash=self.trash, touched=operation.touched)
        ledger.local_gone.append(sides.path)
        ledger.dropped.append(sides.path)
        return self._done(operation, ledger, Action.DELETE_LOCAL)

    # --- parts of the above

    def _is_back(self, sides: Sides) -> bool:
        """Whether a file that was gone when the delete was planned is there again, or may be."""
        return sides.local is None and not self.tree.is_absent(sides.path)

    def _open(self, path: str, local: Local) -> BinaryIO:
        """The file, if it still is the one that was planned."""
        file = self.tree.open_read(path)
        try:
            self._check_unmoved(file, path, local, local.size)
        except BaseException:
            file.close()
            raise
        return file

    def _check_unmoved(self, file: BinaryIO, path: str, local: Local, size: int) -> None:
        if size != local.size or fingerprint(os.fstat(file.fileno())) != _fingerprint(local):
            raise LocalChanged(path, "changed since it was planned")

    def _content(self, local: Local) -> Content:
        return Content(
            size=local.size,
            sha256=local.sha256 or b"",
            md5=local.md5 or b"",
            mtime_ns=local.mtime_ns,
            storage_class=self.vault.storage_class,
        )

    def _record_upload(self, ledger: Ledger, path: str, sent: Local, written: Written | None, sides: Sides) -> None:
        if written is None:
            ledger.agree(path, sent, _present(sides.remote), sent.sha256)
        else:
            info = _own(path, sent, written, self.vault.storage_class or "STANDARD", mtime_ns=sent.mtime_ns)
            ledger.wrote(info)
            ledger.agree(path, sent, remote_of(info), sent.sha256)
        ledger.hashed(path, sent)

    def _conflict_path(self, path: str) -> str:
        when, host = datetime.now(UTC), socket.gethostname()
        ordinal = 1
        while True:
            name = conflict_name(path, host, when, ordinal=ordinal, prefix=self.vault.prefix)
            if self.tree.fingerprint(name) is None:
                return name
            ordinal += 1

    def _verdict(self, operation: Operation, sides: Sides, decision: Decision, ledger: Ledger) -> Outcome:
        """The second look found nothing to do, or nothing that may be done."""
        ledger.verdict(sides, decision)
        found_own = decision.action is Action.CONVERGE and operation.action is Action.UPLOAD
        if not found_own:
            self._abandon(operation)
        if decision.action in (Action.ARCHIVE_SKIPPED, Action.PATH_SKIPPED):
            return self._outcome(
                operation, ledger, OperationStatus.SKIPPED, reason=decision.reason, action=decision.action
            )
        if found_own and content_of(sides) is not None:
            return self._done(operation, ledger, Action.UPLOAD)
        if decision.action is Action.DROP_BASE and operation.action is Action.DELETE_REMOTE:
            return self._done(operation, ledger, Action.DELETE_REMOTE)
        return self._done(operation, ledger, decision.action)

    def _done(self, operation: Operation, ledger: Ledger, action: Action) -> Outcome:
        return self._outcome(operation, ledger, OperationStatus.DONE, action=action)

    def _outcome(
        self,
        operation: Operation,
        ledger: Ledger,
        status: OperationStatus,
        *,
        reason: str = "",
        action: Action | None = None,
        refused: RequestClass | None = None,
        unavailable: bool = False,
    ) -> Outcome:
        return Outcome(
            operation=operation,
            status=status,
            reason=reason or operation.reason,
            action=action,
            ledger=ledger,
            progress=operation.progress,
            refused=refused,
            unavailable=unavailable,
        )


class _Nowhere(BytesIO):
    """Takes a body that is only hashed."""

    def write(self, data: Any, /) -> int:
        return len(data)


def remote_of(info: ObjectInfo) -> Remote:
    return Remote(
        size=info.size,
        etag=info.etag,
        version_id=info.version_id,
        sha256=info.sha256,
        mtime_ns=info.mtime_ns,
        storage_class=info.storage_class,
        archive_status=info.archive_status,
        restore=info.restore.value,
    )


def remote_from(row: dict[str, Any]) -> Remote:
    return msgspec.convert(row, Remote)


def _own(path: str, local: Local, written: Written, storage_class: str, *, mtime_ns: int | None) -> ObjectInfo:
    """What the index knows of an object we wrote, without asking for it."""
    return ObjectInfo(
        key=path,
        size=local.size,
        etag=written.etag,
        last_modified=written.observed_at,
        observed_at=written.observed_at,
        storage_class=storage_class,
        version_id=written.version_id,
        sha256=local.sha256,
        mtime_ns=mtime_ns,
    )


def _local(found: Fingerprint, sha256: bytes | None) -> Local:
    return Local(size=found.size, mtime_ns=found.mtime_ns, ctime_ns=found.ctime_ns, inode=found.inode, sha256=sha256)


def _same(expected: Remote | None, found: Remote | None) -> bool:
    """Whether the HEAD told nothing that the refused request did not know."""
    return (expected.etag if expected else None) == (found.etag if found else None)


def _fingerprint(local: Local) -> Fingerprint:
    return Fingerprint(size=local.size, mtime_ns=local.mtime_ns, ctime_ns=local.ctime_ns, inode=local.inode)


def _fingerprint_row(local: Local) -> tuple[int, int, int, int]:
    return (local.size, local.mtime_ns, local.ctime_ns, local.inode)


def _present(side: Side | None) -> Side:
    """A side that the action cannot do without; `decide` gives no such action otherwise."""
    if side is None:
        raise AssertionError("an action without the side it acts on")
    return side


def _condition(remote: Remote | None) -> Condition:
    return ABSENT if remote is None else Condition(etag=remote.etag)


def _is_base(sides: Sides, local: Local) -> bool:
    """Whether a file that looked changed holds what both sides agreed on, and the remote side still does."""
    base, remote = sides.base, sides.remote
    return (
        base is not None
        and remote is not None
        and base.sha256 is not None
        and base.sha256 == local.sha256
        and remote.etag == base.etag
    )


def _hash(file: BinaryIO, local: Local) -> Local:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    while piece := file.read(READ_BYTES):
        sha256.update(piece)
        md5.update(piece)
    return replace(local, sha256=sha256.digest(), md5=md5.digest())


def _check_body(path: str, info: ObjectInfo, remote: Remote, sha256: bytes, md5: Callable[[], bytes] | None) -> None:
    """Refuses a body that is not the object's: by our SHA-256, else by an ETag that is an MD5.

    Whoever replaces a body may keep the metadata that it had: the store's own MD5 is the better witness.
    """
    promised = info.sha256 or remote.sha256
    if promised == sha256:
        return
    if md5 is not None and info.etag_is_md5:
        if info.etag != md5().hex():
            raise BodyCorrupt(f"{path}: the body does not have the MD5 of its ETag.")
    elif promised is not None:
        raise BodyCorrupt(f"{path}: the body does not have the SHA-256 it was written with.")
