"""Where a home and its servers' own state are, and as whom the servers run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vaulthalla.errors import Refused, VaulthallaError

# sun_path holds 108 bytes; PostgreSQL appends "/.s.PGSQL.5432.lock".
LONGEST_SOCKET_DIRECTORY = 80
SERVICE_ACCOUNTS = ("postgres", "nobody")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`state` and `sockets` belong to `account`, mode 0700. An account of None is this process's own."""

    home: Path
    state: Path
    sockets: Path
    account: pwd.struct_passwd | None

    def run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Runs a server's own program as its account; output and errors come back together."""
        return subprocess.run(
            list(map(str, command)),
            cwd=self.state,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": str(self.state)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            user=self.account.pw_uid if self.account else None,
            group=self.account.pw_gid if self.account else None,
            extra_groups=[] if self.account else None,
        )

    def own(self, path: Path) -> None:
        """Makes a directory that only the servers' account may enter."""
        path.mkdir(mode=0o700, exist_ok=True)
        if self.account:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def serves(self, pid: int, directory: Path, *programs: str) -> bool:
        """Whether a process is the server of `directory`: after a reboot its number may be another program's."""
        process = Path(f"/proc/{pid}")
        try:
            return Path(os.readlink(process / "cwd")) == directory.resolve()
        except PermissionError:
            # Containers often deny root a look at other users' processes; the owner and the name are public.
            same_owner = process.stat().st_uid == directory.stat().st_uid
            return same_owner and (process / "comm").read_text().strip().startswith(programs)

    def usable(self, program: Path, tree: Path) -> Path:
        """`program`, or its twin in a copy of `tree` when the servers' account cannot reach it.

        Python environments below a private directory (root's home, say) are common.
        """
        if self.account is None or reachable(program, self.account):
            return program
        copy = self.state / "programs" / tree.name
        ours = copy / program.relative_to(tree)
        if not ours.exists() or ours.stat().st_mtime_ns != program.stat().st_mtime_ns:
            self.own(copy.parent)
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(tree, copy, symlinks=True)
        return ours


def home_directory() -> Path:
    """`VAULTHALLA_HOME`, else `vaulthalla` in the user's data directory."""
    named = os.environ.get("VAULTHALLA_HOME", "").strip()
    if named:
        return Path(named).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME", "").strip()
    return (Path(data) if data else Path.home() / ".local" / "share") / "vaulthalla"


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """One process at a time starts, migrates or stops the servers of a home."""
    make_home(home)
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_home(home: Path) -> None:
    """Creates the home; an existing one keeps its mode."""
    try:
        # Root's servers run as somebody else, who must be able to pass through.
        home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"The home {home} cannot be made: {error.strerror}.",
            code="home_unusable",
            remedy="Set VAULTHALLA_HOME to a directory that you may write to.",
        ) from error
    if not os.access(home, os.W_OK | os.X_OK):
        raise Refused(
            f"The home {home} is not writable.",
            code="home_unusable",
            remedy="Set VAULTHALLA_HOME to a directory that you may write to.",
        )


def recorded_layout(home: Path) -> Layout | None:
    """Where this home's servers are; None when they never ran or their state is gone."""
    try:
        record = json.loads((home / "servers.json").read_text())
        state, sockets = Path(record["state"]), Path(record["sockets"])
        return Layout(home=home, state=state, sockets=sockets, account=_owner(state))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def tentative_layout(home: Path) -> Layout:
    """Where the servers of a home will most likely be; nothing is created."""
    state = home / "servers"
    return Layout(home=home, state=state, sockets=_socket_directory(state), account=None)


def settled_layout(home: Path) -> Layout:
    """The recorded layout, or a new one, created and recorded. Needs the lock."""
    layout = recorded_layout(home) or _new_layout(home)
    layout.own(layout.sockets)  # lives in a temporary directory when paths are long, so it may have been cleaned up
    if _identity(layout.sockets) != _identity(layout.state):
        raise VaulthallaError(
            f"{layout.sockets} belongs to somebody else.",
            code="home_unusable",
            remedy="Set VAULTHALLA_HOME to another, shorter path.",
        )
    return layout


def _new_layout(home: Path) -> Layout:
    account = _service_account() if os.geteuid() == 0 else None
    state = home / "servers"
    if account and not reachable(home, account):
        state = _state_elsewhere()
    layout = Layout(home=home, state=state, sockets=_socket_directory(state), account=account)
    layout.own(state)
    record = home / "servers.json.new"
    record.write_text(json.dumps({"state": str(state), "sockets": str(layout.sockets)}))
    record.rename(home / "servers.json")
    return layout


def _state_elsewhere() -> Path:
    """A new private directory outside the home; never one that somebody else may have prepared."""
    parent = next(place for place in ("/var/lib", "/var/tmp") if os.access(place, os.W_OK))  # noqa: S108 - mkdtemp
    return Path(tempfile.mkdtemp(prefix="vaulthalla-", dir=parent))


def _socket_directory(state: Path) -> Path:
    directory = state / "run"
    if len(os.fsencode(directory)) <= LONGEST_SOCKET_DIRECTORY:
        return directory
    digest = hashlib.sha256(os.fsencode(state)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"vaulthalla-{os.geteuid()}-{digest}"


def _service_account() -> pwd.struct_passwd:
    for name in SERVICE_ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise VaulthallaError(
        "PostgreSQL does not run as root, and there is no unprivileged account to run it as.",
        code="no_service_account",
        remedy=f"Create one of the users {', '.join(SERVICE_ACCOUNTS)}, or run vh as an ordinary user.",
    )


def _owner(state: Path) -> pwd.struct_passwd | None:
    uid = state.stat().st_uid
    return None if uid == os.geteuid() else pwd.getpwuid(uid)


def _identity(path: Path) -> int:
    return path.lstat().st_uid if stat.S_ISDIR(path.lstat().st_mode) else -1


def reachable(path: Path, account: pwd.struct_passwd) -> bool:
    """Whether an account may pass through every directory on the way to `path`, and into it or run it."""
    real = path.resolve()
    return all(_may_pass(step.stat(), account) for step in (real, *real.parents))


def _may_pass(found: os.stat_result, account: pwd.struct_passwd) -> bool:
    if found.st_uid == account.pw_uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == account.pw_gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)
