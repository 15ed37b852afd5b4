"""A directory tree as a listing: regular files in UTF-8 byte order of their keys, page by page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

CONTROL = b".vaulthalla"
# A body on its way into a directory of another filesystem than the root's.
STAGED = b".vaulthalla-stage-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A regular file, or (`stat` is None) a name below which nothing is known; a directory's ends with "/"."""

    key: bytes
    stat: os.stat_result | None


def walk(root: bytes, *, after: bytes = b"", prefix: bytes = b"") -> Iterator[Found]:
    """Files whose key starts with `prefix` and is greater than `after`; symlinks, special files and what
    belongs to the sync itself are passed over. Holds the names of the directories on the way, no more.

    Raises OSError only for the root itself; what vanishes meanwhile was not there.
    """
    yield from _walk(root, b"", after, prefix, _names(root, b""))


def _walk(root: bytes, folder: bytes, after: bytes, prefix: bytes, names: list[tuple[bytes, bool]]) -> Iterator[Found]:
    for name, is_folder in names:
        key = folder + name
        if is_folder:
            if _may_hold(key, after, prefix):
                yield from _below(root, key, after, prefix)
        elif key > after and key.startswith(prefix):
            yield from _file(root, key)


def _below(root: bytes, folder: bytes, after: bytes, prefix: bytes) -> Iterator[Found]:
    try:
        names = _names(root, folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        yield Found(key=folder, stat=None)
        return
    yield from _walk(root, folder, after, prefix, names)


def _file(root: bytes, key: bytes) -> Iterator[Found]:
    try:
        yield Found(key=key, stat=os.stat(root + b"/" + key, follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        yield Found(key=key, stat=None)


def _names(root: bytes, folder: bytes) -> list[tuple[bytes, bool]]:
    """Names with whether they are directories; those end with "/", so that they sort as their keys do."""
    names = []
    # O_NOFOLLOW: a directory that was swapped for a symlink meanwhile must not lead outside.
    fd = os.open(
        root + b"/" + folder if folder else root, os.O_RDONLY | os.O_DIRECTORY | (os.O_NOFOLLOW if folder else 0)
    )
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if name == CONTROL or name.startswith(STAGED):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    names.append((name + b"/", True))
                elif entry.is_file(follow_symlinks=False):
                    names.append((name, False))
    finally:
        os.close(fd)
    names.sort()
    return names


def _may_hold(folder: bytes, after: bytes, prefix: bytes) -> bool:
    behind = folder > after or after.startswith(folder)
    return behind and (folder.startswith(prefix) or prefix.startswith(folder))
