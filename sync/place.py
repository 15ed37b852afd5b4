"""One name in one open directory, and what can be done to it without following a symlink."""

from __future__ import annotations

import errno
import os
import stat as stat_module
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sync.fingerprint import Fingerprint, fingerprint
from sync.paths import CONTROL_DIR, STAGE_PREFIX
from vaulthalla import syscalls

_WALK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a fifo must not wait for its other end.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOATIME = getattr(os, "O_NOATIME", 0)
_COPY_BYTES = 1 << 20


Buffer = bytes | memoryview


class LocalChanged(Exception):
    """What is at the path is not what the plan saw; nothing was changed. Plan it again."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Place:
    """`name` in the directory open as `folder`; `path` is the same relative to the root."""

    folder: int
    name: str
    path: str

    def stat(self) -> os.stat_result | None:
        try:
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def current(self) -> Fingerprint | None:
        """None when nothing is here; raises LocalChanged for anything but a regular file."""
        found = self.stat()
        if found is None:
            return None
        if not stat_module.S_ISREG(found.st_mode):
            raise LocalChanged(self.path, "is not a regular file")
        return fingerprint(found)

    def open_read(self) -> int:
        """Leaves the access time alone where the system allows that (to the owner)."""
        try:
            return os.open(self.name, _READ | _NOATIME, dir_fd=self.folder)
        except PermissionError:
            return os.open(self.name, _READ, dir_fd=self.folder)

    def open_write(self) -> int:
        return os.open(self.name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.folder)

    def create(self) -> int:
        """With the permissions that the umask leaves: it becomes a user's file."""
        return os.open(self.name, _CREATE, 0o666, dir_fd=self.folder)

    def unlink(self) -> None:
        """What is gone already is fine."""
        with suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.folder)

    def link(self, target: Place) -> None:
        os.link(self.name, target.name, src_dir_fd=self.folder, dst_dir_fd=target.folder, follow_symlinks=False)

    def rename(self, target: Place) -> None:
        os.rename(self.name, target.name, src_dir_fd=self.folder, dst_dir_fd=target.folder)

    def rename_new(self, target: Place) -> None:
        """Raises FileExistsError when the target is taken."""
        syscalls.rename_new(self.folder, self.name, target.folder, target.name)

    def exchange(self, target: Place) -> bool:
        """Swaps both atomically; False where this filesystem cannot."""
        return syscalls.exchange(self.folder, self.name, target.folder, target.name)

    def near(self) -> Place:
        """A free name in the same directory that the scan passes over."""
        name = STAGE_PREFIX + uuid.uuid4().hex
        folder = folder_of(self.path)
        return Place(self.folder, name, f"{folder}/{name}" if folder else name)

    def is_link_of(self, current: Fingerprint, expected: Fingerprint) -> bool:
        """Whether this is the very file that was expected, linked here before a crash: that moved its change time."""
        found = self.stat()
        return found is not None and fingerprint(found) == current and current.same_body(expected)

    def copy_to(self, target: Place) -> None:
        """Bytes, permissions and times, on the disk when this returns; the target must be free."""
        reading = self.open_read()
        try:
            with open(target.create(), "wb", buffering=0) as new:
                _copy_bytes(reading, new.fileno())
                seen = os.fstat(reading)
                os.fchmod(new.fileno(), stat_module.S_IMODE(seen.st_mode))
                os.utime(new.fileno(), ns=(seen.st_atime_ns, seen.st_mtime_ns))
                os.fsync(new.fileno())
        finally:
            os.close(reading)

    def copy_new(self, target: Place) -> None:
        """A copy under a free name, complete from the moment it is seen; raises FileExistsError."""
        near = target.near()
        try:
            self.copy_to(near)
            near.rename_new(target)
        finally:
            near.unlink()

    def dress_like(self, old: os.stat_result) -> None:
        """Takes the permissions and, where allowed, the owner of what it will replace."""
        fd = os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.folder)
        try:
            new = os.fstat(fd)
            if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
                with suppress(PermissionError):
                    os.fchown(fd, old.st_uid, old.st_gid)
            if stat_module.S_IMODE(new.st_mode) != stat_module.S_IMODE(old.st_mode):
                os.fchmod(fd, stat_module.S_IMODE(old.st_mode))
        finally:
            os.close(fd)


@contextmanager
def place(root: int, path: str, *, made: set[str] | None = None) -> Iterator[Place]:
    """The directory of `path`, opened segment by segment from `root`, and its last name.

    With `made`, missing directories are created, and the directories they were created in added to it.
    Raises FileNotFoundError, or LocalChanged when something on the way is no directory.
    """
    *folders, name = path.split("/")
    fd = root
    try:
        for depth, folder in enumerate(folders):
            below = _enter(fd, folder, path, made is not None)
            if made is not None and below.created:
                made.add("/".join(folders[:depth]))
            if fd != root:
                os.close(fd)
            fd = below.fd
        yield Place(fd, name, path)
    finally:
        if fd != root:
            os.close(fd)


@contextmanager
def nearest(root: int, folder: str) -> Iterator[int]:
    """The deepest directory on the way to `folder` that exists."""
    fd = root
    try:
        for segment in folder.split("/") if folder else ():
            try:
                below = _enter(fd, segment, folder, False).fd
            except FileNotFoundError:
                break
            if fd != root:
                os.close(fd)
            fd = below
        yield fd
    finally:
        if fd != root:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class _Entered:
    fd: int
    created: bool


def _enter(fd: int, folder: str, path: str, create: bool) -> _Entered:
    try:
        return _Entered(os.open(folder, _WALK, dir_fd=fd), False)
    except FileNotFoundError:
        if not create:
            raise
    except OSError as error:
        raise _not_a_directory(error, folder, path) from error
    with suppress(FileExistsError):
        os.mkdir(folder, dir_fd=fd)
    return _Entered(os.open(folder, _WALK, dir_fd=fd), True)


def _not_a_directory(error: OSError, folder: str, path: str) -> Exception:
    if error.errno not in (errno.ENOTDIR, errno.ELOOP) or path.startswith(f"{CONTROL_DIR}/"):
        return error
    return LocalChanged(path, f"{folder}, on the way to it, is not a directory")


def write_all(fd: int, body: Buffer) -> None:
    """However many writes it takes."""
    view = memoryview(body)
    while view:
        view = view[os.write(fd, view) :]


def _copy_bytes(reading: int, writing: int) -> None:
    while piece := os.read(reading, _COPY_BYTES):
        write_all(writing, piece)
