"""Two renames that Python has no name for: into a free place only, and both at once.

They close the window between looking at a path and replacing it. Where the kernel or the filesystem
has no such rename, the caller falls back on looking first.
"""

from __future__ import annotations

import ctypes
import errno
import os

_NOREPLACE = 1
_EXCHANGE = 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


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
