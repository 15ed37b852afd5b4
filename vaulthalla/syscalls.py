"""System calls that Python has no name for: two renames, and the flush of one filesystem.

The renames, into a free place only and both at once, close the window between looking at a path and replacing it.
Where the kernel or the filesystem has no such rename, the caller falls back on looking first.
"""

from __future__ import annotations

import ctypes
import errno
import os

_NOREPLACE = 1
_EXCHANGE = 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)
_syncfs = getattr(_libc, "syncfs", None)


def sync_filesystem(fd: int) -> None:
    """Everything written to the filesystem that `fd` is on is on its disk when this returns."""
    if _syncfs is None:
        os.sync()
    elif _syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def exchange(source_dir: int, source: str, target_dir: int, target: str) -> bool:
    """Swaps two names atomically; False where that is not possible."""
    return _rename(source_dir, source, target_dir, target, _EXCHANGE)


def rename_new(source_dir: int, source: str, target_dir: int, target: str) -> None:
    """Renames into a free name; raises FileExistsError when it is taken."""
    if _rename(source_dir, source, target_dir, target, _NOREPLACE):
        return
    try:
        # A link never replaces either, and is as atomic.
        os.link(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir, follow_symlinks=False)
    except OSError as error:
        if not links_unsupported(error):
            raise
        _rename_looking_first(source_dir, source, target_dir, target)
    else:
        os.unlink(source, dir_fd=source_dir)


def links_unsupported(error: OSError) -> bool:
    """Whether a hard link failed because this filesystem has none (EMLINK: none left for this file)."""
    return error.errno in (*_UNSUPPORTED, errno.EPERM, errno.EMLINK)


def _rename_looking_first(source_dir: int, source: str, target_dir: int, target: str) -> None:
    try:
        os.stat(target, dir_fd=target_dir, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)


def _rename(source_dir: int, source: str, target_dir: int, target: str, flags: int) -> bool:
    if _renameat2 is None:
        return False
    if _renameat2(source_dir, os.fsencode(source), target_dir, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), source, None, target)
