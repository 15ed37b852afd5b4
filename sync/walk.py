"""Walks a vault's root: one directory after the other, in the byte order of their paths, each with a digest.

Directories are opened relative to their parents and never through a symlink. Nothing is held but the
directories on the way down and the entries of one directory, and of a large one not even those.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat as stat_module
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

from sync.fingerprint import signed
from sync.mounts import Mounts
from sync.paths import CONTROL_DIR, KEY_BYTES, SEGMENT_BYTES, STAGE_PREFIX, is_reserved

RACY_NS = 2 * 10**9
# After so many entries the clock is asked again: even from a slow disk they are read in less than that.
CLOCK_EVERY = 256
# Entries are handled in blocks; a directory of more than one block is read twice if it changed.
BLOCK = 80 * CLOCK_EVERY

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_DIGEST_BYTES = 16
_REGULAR, _TYPE = stat_module.S_IFREG, 0o170000
_SIGN = 2**63


class Block:
    """Some entries of a directory: anything but directories that are walked themselves. Columns, for speed.

    `facts` holds size, mtime_ns, ctime_ns and inode of each; `skips` says by position why a name cannot be a
    key, `racy` which may still change without a trace.
    """

    __slots__ = ("facts", "names", "racy", "skips")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.facts: list[int] = []
        self.skips: dict[int, str] = {}
        self.racy: set[int] = set()

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, seen: os.stat_result, skip: str, racy: range) -> None:
        mtime, ctime, inode = seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino
        if seen.st_mode & _TYPE != _REGULAR and not skip:
            skip = "symlink" if stat_module.S_ISLNK(seen.st_mode) else "special"
        if not (-_SIGN <= mtime < _SIGN and -_SIGN <= ctime < _SIGN):
            skip = skip or "time_out_of_range"
            mtime = ctime = 0
        if skip:
            self.skips[len(self.names)] = skip
        if ctime in racy or mtime in racy:
            self.racy.add(len(self.names))
        self.names.append(name)
        self.facts += (seen.st_size, mtime, ctime, inode if inode < _SIGN else signed(inode))

    def packed(self) -> bytes:
        """What a digest is made of; no name holds a slash."""
        names = "/".join(self.names).encode("utf-8", "surrogateescape")
        return b"%d//%b//%b%b" % (len(self), names, repr(self.skips).encode(), array("q", self.facts).tobytes())

    def rows(self) -> Iterator[tuple[str, int, int, int, int, bool, str]]:
        """(name, size, mtime_ns, ctime_ns, inode, racy, skip)"""
        facts = iter(self.facts)
        for position, (name, *four) in enumerate(zip(self.names, facts, facts, facts, facts, strict=True)):
            size, mtime_ns, ctime_ns, inode = four
            yield name, size, mtime_ns, ctime_ns, inode, position in self.racy, self.skips.get(position, "")


class Unreadable(Exception):
    """The directory, or something in it, cannot be looked at: nothing below it is known."""


@dataclass(slots=True, kw_only=True)
class Known:
    """What the last scan remembers of a directory."""

    digest: bytes | None
    state: str
    is_mount: bool


@dataclass(slots=True, kw_only=True)
class Folder:
    """A directory as it is now. `entries` is None when they were too many to hold, or it was not read.

    `digest` is None when something in it may change without a trace (see RACY_NS), or it was not read.
    """

    dir: str
    is_mount: bool = False
    readable: bool = True
    mounted: bool = True
    digest: bytes | None = None
    entries: Block | None = None
    count: int = 0
    folders: list[str] = field(default_factory=list)


class Gone(Exception):
    """The directory vanished before it could be opened."""


class Directory:
    """One open directory on the way down. `dir` is "" or ends with "/"."""

    def __init__(self, fd: int, folder: str) -> None:
        self.fd = fd
        self.dir = folder
        self.waiting: Iterator[str] = iter(())

    @classmethod
    def below(cls, parent: Directory, name: str) -> Self:
        """Raises Gone, or Unreadable."""
        try:
            return cls(os.open(name, _OPEN, dir_fd=parent.fd), f"{parent.dir}{name}/")
        except OSError as error:
            if error.errno in _GONE:
                raise Gone from error
            raise Unreadable from error

    def close(self) -> None:
        os.close(self.fd)


class Reader:
    """Reads directories for one vault: what its names mean, and what time its filesystem has."""

    def __init__(self, *, key_prefix: str = "", clock: Callable[[], int] = time.time_ns) -> None:
        self._key_bytes = KEY_BYTES - len(key_prefix.encode())
        self._clock = clock

    def read(self, directory: Directory, into: Folder, *, each_block: Callable[[], None]) -> None:
        """Fills in digest, entries and folders. Raises Unreadable."""
        entries: Block | None = Block()
        for block in self.digested(directory, into):
            entries = block if into.count == len(block) else None
            each_block()
        into.entries = entries

    def digested(self, directory: Directory, into: Folder) -> Iterator[Block]:
        """Block after block, and at the end the digest over all of them."""
        summary = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        racy = False
        for block in self._blocks(directory, into.folders):
            summary.update(block.packed())
            racy = racy or bool(block.racy)
            into.count += len(block)
            yield block
        into.digest = None if racy else summary.digest()

    def _blocks(self, directory: Directory, folders: list[str]) -> Iterator[Block]:
        """Entries in the order in which the filesystem has them, which stays while nothing changes."""
        block, racy = Block(), self._racy()
        room = self._room(directory.dir)
        try:
            with os.scandir(directory.fd) as found:
                for item in found:
                    skip = self._skip(directory.dir, room, item, folders)
                    if skip is None:
                        continue
                    try:
                        seen = item.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    block.add(item.name, seen, skip, racy)
                    if len(block.names) % CLOCK_EVERY:
                        continue
                    if len(block.names) >= BLOCK:
                        yield block
                        block = Block()
                    racy = self._racy()
        except OSError as error:
            raise Unreadable from error
        if block:
            yield block

    def folders(self, directory: Directory) -> list[str]:
        """The directories in it alone; for one whose entries were looked at already. Raises Unreadable."""
        room = self._room(directory.dir)
        try:
            with os.scandir(directory.fd) as found:
                names = [item.name for item in found if item.is_dir(follow_symlinks=False)]
        except OSError as error:
            raise Unreadable from error
        return [name for name in names if not _is_own(directory.dir, name) and not _problem(name, room - 1)]

    def _skip(self, folder: str, room: int, item: os.DirEntry[str], folders: list[str]) -> str | None:
        """Why a name cannot be a key, as far as the name tells; None for what is no entry: it goes into `folders`."""
        name, skip = item.name, ""
        is_folder = item.is_dir(follow_symlinks=False)
        # Nearly every name needs no closer look.
        if not name.isascii() or name[0] == "." or len(name) >= room:
            if _is_own(folder, name):
                return None
            skip = _problem(name, room - is_folder)
        if is_folder and not skip:
            folders.append(name)
            return None
        return skip

    def _racy(self) -> range:
        """Times so close that a change right after the look could leave the same ones."""
        now = self._clock()
        return range(now - RACY_NS, now + RACY_NS)

    def _room(self, folder: str) -> int:
        """How many bytes a name may have in this directory."""
        return min(SEGMENT_BYTES, self._key_bytes - len(folder.encode()))


class Walk:
    """Directories in byte order, from the one behind `after` (None: all, from the root itself, which is "").

    `known` is asked for each before it is read: a mount point that is none any more is not read.
    """

    def __init__(
        self,
        root: int,
        reader: Reader,
        mounts: Mounts,
        *,
        known: Callable[[str], Known | None],
        gone: Callable[[str, Known], None],
        each_block: Callable[[], None],
        forget_mounts: bool = False,
        closed: bool = False,
    ) -> None:
        self._root = root
        self._reader = reader
        self._mounts = mounts
        self._known = known
        self._gone = gone
        self._each_block = each_block
        self._forget_mounts = forget_mounts
        # The directory to go on behind was found unreadable or unmounted: nothing below it is looked at.
        self._closed = closed
        self.open: list[Directory] = []

    def folders(self, after: str | None) -> Iterator[tuple[Folder, Known | None]]:
        """Each with what was known of it. The innermost of `open` is the directory itself while it is handled."""
        try:
            yield from self._root_folder(after)
            while self.open:
                name = next(self.open[-1].waiting, None)
                if name is None:
                    self.open.pop().close()
                else:
                    yield from self._below(self.open[-1], name, after)
        finally:
            while self.open:
                self.open.pop().close()

    def _root_folder(self, after: str | None) -> Iterator[tuple[Folder, Known | None]]:
        directory = Directory(os.open(".", _OPEN, dir_fd=self._root), "")
        if after is None:
            yield from self._enter(directory, self._known(""))
        else:
            self._enter_again(directory, after)

    def _below(self, parent: Directory, name: str, after: str | None) -> Iterator[tuple[Folder, Known | None]]:
        path = f"{parent.dir}{name}/"
        if after is not None and path <= after:
            yield from self._again(parent, name, after)
            return
        known = self._known(path)
        try:
            directory = Directory.below(parent, name)
        except Gone:
            if known:
                self._gone(path, known)
        except Unreadable:
            yield Folder(dir=path, readable=False, is_mount=bool(known and known.is_mount)), known
        else:
            yield from self._enter(directory, known)

    def _enter(self, directory: Directory, known: Known | None) -> Iterator[tuple[Folder, Known | None]]:
        self.open.append(directory)
        was_mount = bool(known and known.is_mount) and not self._forget_mounts
        folder = Folder(dir=directory.dir, is_mount=self._mounts.is_mount(directory.dir, was_mount=was_mount))
        if was_mount and not folder.is_mount:
            folder.is_mount, folder.mounted = True, False
        else:
            self._read(directory, folder)
        directory.waiting = _in_order(folder.folders)
        yield folder, known

    def _read(self, directory: Directory, folder: Folder) -> None:
        try:
            self._reader.read(directory, folder, each_block=self._each_block)
        except Unreadable:
            folder.readable, folder.digest, folder.entries = False, None, None
            folder.folders.clear()

    def _again(self, parent: Directory, name: str, after: str) -> Iterator[tuple[Folder, Known | None]]:
        """On the way back to where the walk was interrupted: what can no longer be read there is unknown."""
        try:
            self._enter_again(Directory.below(parent, name), after)
        except Unreadable:
            yield Folder(dir=f"{parent.dir}{name}/", readable=False), None
        except Gone:
            # What was known below it is passed over, as vanished.
            return

    def _enter_again(self, directory: Directory, after: str) -> None:
        """A directory that was handled already: only what lies behind `after` is left in it."""
        self.open.append(directory)
        if directory.dir == after and self._closed:
            return
        left = (
            name
            for name in self._reader.folders(directory)
            if (path := f"{directory.dir}{name}/") > after or after.startswith(path)
        )
        directory.waiting = _in_order(left)


def _in_order(names: Iterable[str]) -> Iterator[str]:
    """In the byte order of the paths below: code points compare like UTF-8, and "a-b/" precedes "a/"."""
    return iter(sorted(names, key=lambda name: name + "/"))


def _is_own(folder: str, name: str) -> bool:
    """The sync's own directory in the root, and bodies on their way in anywhere."""
    return name.startswith(STAGE_PREFIX) or (not folder and name == CONTROL_DIR)


def _problem(name: str, room: int) -> str:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "undecodable"
    if size > room:
        return "too_long"
    return "reserved" if is_reserved(name) else ""
