"""Every change the sync makes below a vault's root.

Each path is opened from the root's own descriptor, one segment after the other and never through a
symlink, so nothing planted in the tree can lead a read or a write outside. What is replaced or removed
is kept first: in `.vaulthalla/trash/<run>/…`, or beside under a conflict name. Every step can be repeated.

Methods may be called from several threads; a Tree holds nothing but descriptors, of its root and of the
directory it stages bodies in, and which directories are on the root's filesystem. OSErrors that are not about
the path itself (disk full, I/O) pass through.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import BinaryIO, Self

from sync.fingerprint import Fingerprint, fingerprint
from sync.paths import CONTROL_DIR, STAGE_PREFIX, path_problem
from sync.place import Buffer, LocalChanged, Place, folder_of, nearest, place, write_all
from vaulthalla.errors import Refused
from vaulthalla.syscalls import links_unsupported, sync_filesystem

__all__ = ["STAGE_DIR", "TRASH_DIR", "LocalChanged", "Staged", "Tree", "free_bytes", "seal"]

STAGE_DIR = f"{CONTROL_DIR}/stage"
TRASH_DIR = f"{CONTROL_DIR}/trash"

_STAGED = f"{STAGE_DIR}/"

# Fewer names than this are flushed one by one.
MANY = 16

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A body on its way into the tree; all plain values, to survive a restart in a row.

    `name` is relative to the root. `size` and `mtime_ns` are known once it is sealed.
    """

    name: str
    inode: int
    size: int = -1
    mtime_ns: int = 0

    @property
    def is_beside_others(self) -> bool:
        """On the root's own filesystem; else beside its target, on another one."""
        return self.name.startswith(_STAGED)

    def is_body(self, found: Fingerprint) -> bool:
        return (found.inode, found.size, found.mtime_ns) == (self.inode, self.size, self.mtime_ns)


class Tree:
    """A vault's root, open. Raises FileNotFoundError or NotADirectoryError when there is none."""

    def __init__(self, root: str) -> None:
        self.root = root
        # The root itself may be a symlink: the operator named it.
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._device = os.fstat(self.fd).st_dev
        self._beside: dict[str, bool] = {}
        self._stages: list[int] = []
        self._lock = threading.Lock()
        self._names = (f"{token}-{number:x}" for token in (uuid.uuid4().hex,) for number in count())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for fd in (*self._stages, self.fd):
            os.close(fd)

    # Reading

    def fingerprint(self, path: str) -> Fingerprint | None:
        """Of the regular file at `path`; None when there is nothing. Raises LocalChanged for anything else."""
        try:
            with self.place(_checked(path)) as here:
                return here.current()
        except FileNotFoundError:
            return None

    def is_absent(self, path: str) -> bool:
        """Whether no file can be at `path`: there is nothing or a directory, or a file where its directory would be.

        A symbolic link there, or on the way, may lead to one.
        """
        segments = _checked(path).split("/")
        for depth in range(1, len(segments) + 1):
            try:
                found = os.stat("/".join(segments[:depth]), dir_fd=self.fd, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                return True
            if not stat_module.S_ISDIR(found.st_mode):
                return stat_module.S_ISREG(found.st_mode) and depth < len(segments)
        return True

    def open_read(self, path: str) -> BinaryIO:
        """Unbuffered. Raises LocalChanged when there is no regular file at `path`."""
        try:
            with self.place(_checked(path)) as here:
                fd = here.open_read()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                raise LocalChanged(path, "is not there any more") from error
            raise
        if not stat_module.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise LocalChanged(path, "is not a regular file")
        return open(fd, "rb", buffering=0)

    def is_empty(self) -> bool:
        """Whether the root holds nothing but the sync's own directory."""
        with os.scandir(self.fd) as entries:
            return all(entry.name == CONTROL_DIR for entry in entries)

    def free_bytes(self, path: str = "") -> int:
        """What an unprivileged write can still take on the filesystem that holds, or would hold, `path`."""
        with nearest(self.fd, path) as folder:
            space = os.fstatvfs(folder)
        return space.f_bavail * space.f_frsize

    # Bringing a body in

    def stage(self, path: str) -> tuple[BinaryIO, Staged]:
        """An empty file for the body of `path`, on the same filesystem. Write it, then `seal` it."""
        name = self._stage_name(_checked(path))
        fd = self._create_staged(name)
        return open(fd, "r+b"), Staged(name=name, inode=fingerprint(os.fstat(fd)).inode)

    def stage_whole(self, path: str, body: Buffer, *, mtime_ns: int | None) -> Staged:
        """All of a small body of `path`, staged and sealed; `make_lasting` brings it to the disk."""
        name = self._stage_name(_checked(path))
        fd = self._create_staged(name)
        staged = Staged(name=name, inode=fingerprint(os.fstat(fd)).inode)
        try:
            write_all(fd, body)
            return _seal(fd, staged, mtime_ns=mtime_ns, lasting=False)
        except BaseException:
            self.discard(staged)
            raise
        finally:
            os.close(fd)

    def reopen(self, staged: Staged) -> BinaryIO | None:
        """A staged body again, to go on writing or to verify it; None when it is gone."""
        try:
            with self.place(staged.name) as here:
                fd = here.open_write()
        except FileNotFoundError:
            return None
        if fingerprint(os.fstat(fd)).inode != staged.inode:
            os.close(fd)
            return None
        return open(fd, "r+b")

    def holds(self, staged: Staged) -> bool:
        """Whether a staged body is still there."""
        file = self.reopen(staged)
        if file is not None:
            file.close()
        return file is not None

    def discard(self, staged: Staged) -> None:
        """Drops a body that will not be published; one that is gone already is fine."""
        with suppress(FileNotFoundError), self.place(staged.name) as here:
            found = here.stat()
            if found is not None and fingerprint(found).inode == staged.inode:
                here.unlink()

    def publish(
        self,
        staged: Staged,
        path: str,
        *,
        expected: Fingerprint | None,
        trash: str,
        beside: str = "",
        touched: set[str] | None = None,
    ) -> Fingerprint:
        """Renames a sealed body to `path` if that still holds `expected` (None: nothing).

        What it replaces is kept in the trash of run `trash`, or with `beside` at that path of the tree.
        Repeating it after a crash finishes it. Directories that must be fsynced for it to last go into
        `touched`; without that they are fsynced here. Raises LocalChanged, or FileNotFoundError when the
        staged body is gone and not at `path` either.
        """
        pending = {folder_of(path)}
        with self.place(_checked(path), made=pending) as here:
            current = here.current()
            if current is not None and staged.is_body(current):
                self._clear_displaced(staged, here, trash, pending)
            elif expected is None:
                self._publish_new(staged, here)
            else:
                self._keep_current(here, expected, trash, beside, pending)
                self._publish_over(staged, here, expected)
            result = here.current()
        # A copy onto another filesystem has another inode.
        if result is None or (result.size, result.mtime_ns) != (staged.size, staged.mtime_ns):
            raise LocalChanged(path, "changed right after it was written")
        self._settle(pending, touched)
        return result

    def move(self, path: str, target: str, *, expected: Fingerprint, touched: set[str] | None = None) -> Fingerprint:
        """Moves `path` to `target`, which must be free. Repeatable. Returns the fingerprint it has there."""
        pending = {folder_of(path)}
        if self.fingerprint(path) is not None:
            self._move(path, _checked(target), expected, pending)
        self._settle(pending, touched)
        moved = self.fingerprint(target)
        if moved is None or not moved.same_body(expected):
            raise LocalChanged(path, "is not there any more")
        return moved

    # Taking a file out

    def remove(self, path: str, *, expected: Fingerprint, trash: str, touched: set[str] | None = None) -> None:
        """Moves `path` to the trash of run `trash` if it still is `expected`, and drops directories that emptied.

        A path that is gone already is fine. Raises LocalChanged.
        """
        pending: set[str] = set()
        try:
            with self.place(_checked(path)) as here:
                current = here.current()
                if current is None:
                    return
                if current != expected and not self._was_kept(current, expected, f"{TRASH_DIR}/{trash}/{path}"):
                    raise LocalChanged(path, "changed since it was planned")
                self._move_to_trash(here, expected, trash, pending)
        except FileNotFoundError:
            return
        pending.add(self._drop_empty(folder_of(path)))
        self._settle(pending, touched)

    # Housekeeping

    def make_lasting(self, bodies: Collection[str], folders: set[str]) -> None:
        """Makes staged bodies, by name, and renames in these directories last a power cut.

        One flush of the whole filesystem is cheaper than many small ones; a few small ones are cheaper than
        writing out what everybody else left behind.
        """
        if len(bodies) + len(folders) > MANY:
            sync_filesystem(self.fd)
            return
        for name in bodies:
            with suppress(FileNotFoundError), self.place(name) as here, open(here.open_read(), "rb") as body:
                os.fsync(body.fileno())
        self.fsync_dirs(folders)

    def fsync_dirs(self, folders: set[str]) -> None:
        """Makes renames in these directories last a power cut; those that are gone need nothing."""
        for folder in sorted(folders):
            # Removed or replaced meanwhile: nothing of ours is in there.
            with suppress(FileNotFoundError, LocalChanged), self.place(f"{folder}/." if folder else ".") as here:
                fd = os.open(".", _LIST, dir_fd=here.folder)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def prune(self, *, before_ns: int) -> int:
        """Drops trash and stale staged bodies that were put there before this time; returns how many files."""
        # Linking and renaming set the change time, so it says since when a file is here.
        return self._prune(TRASH_DIR, before_ns) + self._prune(STAGE_DIR, before_ns)

    # How a body comes in

    def _stage_name(self, path: str) -> str:
        with self._lock:
            name = next(self._names)
        folder = folder_of(path)
        if self._is_beside(folder):
            return _STAGED + name
        return f"{folder}/{STAGE_PREFIX}{name}" if folder else STAGE_PREFIX + name

    def _is_beside(self, folder: str) -> bool:
        """Whether `folder` is, or would be, on the root's filesystem. Should that change, bodies are copied."""
        if folder not in self._beside:
            with nearest(self.fd, folder) as near:
                self._beside[folder] = os.fstat(near).st_dev == self._device
        return self._beside[folder]

    def _create_staged(self, name: str) -> int:
        try:
            with self.place(name, made=set()) as here:
                return here.create()
        except FileNotFoundError:
            # Somebody removed the directory that is open here.
            self._open_stage(made=set())
            with self.place(name, made=set()) as here:
                return here.create()

    def _open_stage(self, *, made: set[str] | None) -> int:
        """Those opened before stay open: other threads may be using them."""
        with place(self.fd, f"{STAGE_DIR}/.", made=made) as here:
            fd = os.dup(here.folder)
        with self._lock:
            self._stages.append(fd)
        return fd

    def _publish_new(self, staged: Staged, here: Place) -> None:
        with self.place(staged.name) as body:
            try:
                _across(body, here, Place.rename_new)
            except FileExistsError:
                raise LocalChanged(here.path, "appeared since it was planned") from None

    def _publish_over(self, staged: Staged, here: Place, expected: Fingerprint) -> None:
        with self.place(staged.name) as body:
            old = here.stat()
            if old is None:
                raise LocalChanged(here.path, "is not there any more")
            body.dress_like(old)
            _across(body, here, lambda body, here: _swap(body, here, expected))

    def _clear_displaced(self, staged: Staged, here: Place, trash: str, pending: set[str]) -> None:
        """A crash right after the swap leaves what was replaced under the staged name: it is kept, once."""
        with suppress(FileNotFoundError), self.place(staged.name) as body:
            displaced = body.stat()
            if displaced is not None and displaced.st_nlink > 1:
                body.unlink()
            elif displaced is not None:
                out = Place(body.folder, body.name, here.path)
                self._move_to_trash(out, fingerprint(displaced), trash, pending)

    # How what was there is kept

    def _keep_current(self, here: Place, expected: Fingerprint, trash: str, beside: str, pending: set[str]) -> None:
        if beside:
            self._keep(here, expected, _checked(beside), pending)
            return
        for target in _trash_names(trash, here.path):
            if self._is_kept_at(here, expected, target, pending):
                return

    def _is_kept_at(self, here: Place, expected: Fingerprint, target: str, pending: set[str]) -> bool:
        try:
            self._keep_at(here, expected, target, pending)
        except (FileExistsError, NotADirectoryError):
            return False
        return True

    def _keep(self, here: Place, expected: Fingerprint, target: str, pending: set[str]) -> None:
        try:
            self._keep_at(here, expected, target, pending)
        except FileExistsError:
            raise LocalChanged(target, "is taken") from None

    def _keep_at(self, here: Place, expected: Fingerprint, target: str, pending: set[str]) -> None:
        """Links what is here to `target`; done already is fine. Raises FileExistsError when another file is there."""
        current = here.current()
        if current is None:
            raise LocalChanged(here.path, "is not there any more")
        with self.place(target, made=pending) as kept:
            if current != expected and not kept.is_link_of(current, expected):
                raise LocalChanged(here.path, "changed since it was planned")
            try:
                here.link(kept)
            except FileExistsError:
                if not kept.is_link_of(current, expected):
                    raise
            except OSError as error:
                if not (links_unsupported(error) or error.errno == errno.EXDEV):
                    raise
                here.copy_new(kept)
        pending.add(folder_of(target))

    def _was_kept(self, current: Fingerprint, expected: Fingerprint, target: str) -> bool:
        """Whether only our own link in the trash moved the change time."""
        try:
            with self.place(target) as kept:
                return kept.is_link_of(current, expected)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _move_to_trash(self, here: Place, expected: Fingerprint, trash: str, pending: set[str]) -> None:
        for target in _trash_names(trash, here.path):
            try:
                with self.place(target, made=pending) as kept:
                    _take_out(here, kept, expected)
            except (FileExistsError, NotADirectoryError):
                continue
            pending.add(folder_of(target))
            return

    def _move(self, path: str, target: str, expected: Fingerprint, pending: set[str]) -> None:
        with self.place(_checked(path)) as here, self.place(target, made=pending) as there:
            if here.current() != expected:
                raise LocalChanged(path, "changed since it was planned")
            try:
                _take_out(here, there, expected)
            except FileExistsError:
                raise LocalChanged(target, "is taken") from None
        pending.add(folder_of(target))

    # Directories

    def place(self, path: str, *, made: set[str] | None = None) -> AbstractContextManager[Place]:
        if not path.startswith(_STAGED):
            return place(self.fd, path, made=made)
        stage = self._stages[-1] if self._stages else self._open_stage(made=made)
        return nullcontext(Place(stage, path.removeprefix(_STAGED), path))

    def _drop_empty(self, folder: str) -> str:
        """Removes `folder` and its parents while they are empty; returns the one that stays."""
        while folder:
            try:
                with self.place(folder) as here:
                    os.rmdir(here.name, dir_fd=here.folder)
            except OSError:
                # Not empty, a mount point, or not ours to remove: it stays.
                return folder
            folder = folder_of(folder)
        return folder

    def _settle(self, pending: set[str], touched: set[str] | None) -> None:
        if touched is None:
            self.fsync_dirs(pending)
        else:
            touched |= pending

    def _prune(self, folder: str, before_ns: int) -> int:
        removed = 0
        with suppress(FileNotFoundError), self.place(f"{folder}/.") as top:
            for _, folders, names, at in os.fwalk(".", topdown=False, dir_fd=top.folder):
                removed += sum(_unlink_old(Place(at, name, name), before_ns) for name in names)
                for name in folders:
                    with suppress(OSError):
                        os.rmdir(name, dir_fd=at)
        return removed


def free_bytes(root: str) -> int:
    """What an unprivileged write can still take on the root's filesystem."""
    space = os.statvfs(root)
    return space.f_bavail * space.f_frsize


def seal(body: BinaryIO, staged: Staged, *, mtime_ns: int | None, lasting: bool = True) -> Staged:
    """Closes a staged body for good: its time set (None: as written), its bytes on the disk.

    Without `lasting` they get there by `Tree.make_lasting`, many bodies at once.
    """
    with body:
        body.flush()
        return _seal(body.fileno(), staged, mtime_ns=mtime_ns, lasting=lasting)


def _seal(fd: int, staged: Staged, *, mtime_ns: int | None, lasting: bool) -> Staged:
    if mtime_ns is not None:
        os.utime(fd, ns=(mtime_ns, mtime_ns))
    if lasting or not staged.is_beside_others:
        os.fsync(fd)
    written = os.fstat(fd)
    return Staged(name=staged.name, inode=staged.inode, size=written.st_size, mtime_ns=written.st_mtime_ns)


def _checked(path: str) -> str:
    """The plan never holds such a path; a second look costs nothing."""
    if problem := path_problem(path):
        raise Refused(f"{path!r} cannot be a path below a root ({problem}).", code="unsafe_path")
    return path


def _trash_names(trash: str, path: str) -> Iterator[str]:
    for attempt in count(1):
        yield f"{TRASH_DIR}/{trash}{f'.{attempt}' if attempt > 1 else ''}/{path}"


def _across(body: Place, here: Place, step: Callable[[Place, Place], None]) -> None:
    """Runs `step`, by way of a copy where a bind mount looks like the same filesystem but refuses the rename."""
    try:
        step(body, here)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        near = here.near()
        try:
            body.copy_to(near)
            step(near, here)
        finally:
            near.unlink()
        body.unlink()


def _swap(body: Place, here: Place, expected: Fingerprint) -> None:
    """Replaces atomically, then looks at what came out: a file saved in between goes back where it was."""
    if not body.exchange(here):
        _check_body(here, expected)
        body.rename(here)
        return
    try:
        _check_body(Place(body.folder, body.name, here.path), expected)
    except LocalChanged:
        body.exchange(here)
        raise
    body.unlink()


def _take_out(here: Place, kept: Place, expected: Fingerprint) -> None:
    try:
        here.rename_new(kept)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        here.copy_new(kept)
        _check_body(here, expected)
        here.unlink()
        return
    try:
        _check_body(Place(kept.folder, kept.name, here.path), expected)
    except LocalChanged:
        # Saved between the look and the move. Should the name be taken again already, the trash keeps it.
        with suppress(FileExistsError):
            kept.rename_new(here)
        raise


def _check_body(found: Place, expected: Fingerprint) -> None:
    current = found.current()
    if current is None or not current.same_body(expected):
        raise LocalChanged(found.path, "changed while it was replaced")


def _unlink_old(found: Place, before_ns: int) -> int:
    seen = found.stat()
    if seen is None or seen.st_ctime_ns >= before_ns:
        return 0
    found.unlink()
    return 1
