"""Runs a command to which users from 1000 on are strangers, so that even root cannot read what they keep to themselves.

python tests/support/outsider.py COMMAND…    exits as the command does; needs root, and leave to make user namespaces
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

NEW_USER_NAMESPACE = 0x10000000
STRANGER = 5000
KNOWN = "0 0 1000"
NO_LEAVE = 99


def main(command: list[str]) -> int:
    """The namespace is made by the child and described by its parent, which alone may name more users than one."""
    (ready, tell_ready), (described, tell_described) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        if ctypes.CDLL(None).unshare(NEW_USER_NAMESPACE):
            os._exit(NO_LEAVE)
        os.write(tell_ready, b"!")
        os.read(described, 1)
        os.setgid(0)
        os.setuid(0)
        os.execvp(command[0], command)
    os.close(tell_ready)
    if os.read(ready, 1):
        for kind in ("uid", "gid"):
            Path(f"/proc/{child}/{kind}_map").write_text(KNOWN)
        os.write(tell_described, b"!")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
