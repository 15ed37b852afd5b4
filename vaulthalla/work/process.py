"""Which process holds a lease, and whether it is certain that it is gone."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


def own_name() -> str:
    """`host:pid:start:namespace`: tells this process from any other, also from one that gets its number later."""
    return f"{socket.gethostname()[:120]}:{os.getpid()}:{_started('self')}:{_namespace()}"


def host_pool() -> str:
    """The pool of all processes of this host (or container): what they have in common is its files."""
    return f"host:{socket.gethostname()}"[:64]


def is_gone(name: str) -> bool:
    """True only for a process of this host, in this process's view of it, that has ended.

    Its lease need not be waited for: the token keeps even a mistaken verdict from recording anything twice.
    """
    host, _, rest = name.rpartition(":")[0].partition(":")
    pid, _, started = rest.partition(":")
    here = (socket.gethostname()[:120], _namespace())
    if (host, name.rpartition(":")[2]) != here or not pid.isdigit() or not _namespace():
        return False
    return _started(pid) != started


def _started(pid: str) -> str:
    """The process's start in clock ticks since boot; empty when there is none, or it is a zombie."""
    try:
        # The name in parentheses may hold anything, so fields are counted from its end.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


@cache
def _namespace() -> str:
    """Processes of another container have numbers of their own. Empty where that cannot be told."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""
