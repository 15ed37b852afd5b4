"""What tells one version of a local file from another without reading it."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Size and inode, modification and change time in nanoseconds."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, size: int, mtime_ns: int, ctime_ns: int, inode: int) -> Fingerprint:
        """In the order in which rows hold it."""
        return cls(size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns, inode=inode)

    def same_body(self, other: Fingerprint) -> bool:
        """Equal but for the change time, which a hard link, a rename or a chmod moves as well."""
        return (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)


def fingerprint(stat: os.stat_result) -> Fingerprint:
    return Fingerprint(
        size=stat.st_size, mtime_ns=stat.st_mtime_ns, ctime_ns=stat.st_ctime_ns, inode=signed(stat.st_ino)
    )


def signed(inode: int) -> int:
    """Network and FUSE filesystems use all 64 bits; the database's integers are signed."""
    return inode - 2**64 if inode >= 2**63 else inode
