"""Which directories may be a vault's root or replica."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vaulthalla.embedded.home import home_directory, recorded_layout
from vaulthalla.errors import Refused
from vaulthalla.vaults.models import Vault


def directory(text: str, *, option: str) -> str:
    """The directory's real path. It must exist and be usable by this process."""
    if not text.strip() or "\0" in text:
        raise Refused(f"{option} must name a directory.", code="invalid_value", remedy=f"Give {option} a directory.")
    path = Path(os.path.realpath(Path(text).expanduser()))
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        raise Refused(f"{option} must be valid UTF-8.", code="root_unusable", remedy="Rename the directory.") from None
    problem = _problem(path)
    if problem:
        raise Refused(
            f"{option}: {path} {problem}.", code="root_unusable", remedy=f"Correct {option}, or the directory."
        )
    return str(path)


def check_apart(vault: Vault) -> None:
    """Refuses a root or replica inside, or around, VAULTHALLA_HOME, another vault's directories or each other."""
    own = [(option, path) for option, path in (("--root", vault.root), ("--replica", vault.replica)) if path]
    for option, path in own:
        for taken, owner in _taken(vault):
            _refuse_nested(option, path, taken, owner)
    if len(own) == 2:
        _refuse_nested("--replica", vault.replica, vault.root, "the vault's own root")


def _taken(vault: Vault) -> Iterator[tuple[str, str]]:
    home = home_directory()
    yield os.path.realpath(home), "VAULTHALLA_HOME"
    if layout := recorded_layout(home):
        yield os.path.realpath(layout.state), "the embedded servers' directory"
    for other in Vault.objects.exclude(pk=vault.pk):
        if _elsewhere(vault, other):
            continue
        yield other.root, f"the root of vault {other.name!r}"
        if other.replica:
            yield other.replica, f"the replica of vault {other.name!r}"


def _elsewhere(one: Vault, other: Vault) -> bool:
    # Two named pools are two sets of hosts: the same path means different directories.
    return bool(one.pool and other.pool and one.pool != other.pool)


def _refuse_nested(option: str, path: str, taken: str, owner: str) -> None:
    ours, theirs = Path(path), Path(taken)
    if ours == theirs:
        relation = "is"
    elif ours.is_relative_to(theirs):
        relation = "is inside"
    elif theirs.is_relative_to(ours):
        relation = "contains"
    else:
        return
    raise Refused(
        f"{option}: {path} {relation} {owner} ({taken}).",
        code="root_overlap",
        remedy=f"Choose a directory for {option} that shares nothing with it.",
    )


def _problem(path: Path) -> str:
    if not path.exists():
        return "does not exist"
    if not path.is_dir():
        return "is not a directory"
    try:
        with os.scandir(path) as entries:
            next(entries, None)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if os.access(path, os.W_OK | os.X_OK) else "is not writable"
