"""A vault's root: whose it is, whether it is there, and what kind of filesystem it is on."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from shlex import quote

from sync.paths import CONTROL_DIR
from sync.tree import Tree
from vaulthalla.errors import Refused, Stall, StallCode
from vaulthalla.remedies import OR, sync_of

MARKER = f"{CONTROL_DIR}/vault.json"
_MARKER_VERSION = 1
_MARKER_BYTES = 4096


def open_root(root: str, marker: uuid.UUID, *, vault: str) -> Tree:
    """The vault's tree; raises Stall `root_missing` unless it is there and carries the vault's own marker."""
    try:
        tree = Tree(root)
    except OSError as error:
        raise _missing(f"{root} cannot be opened: {error.strerror}.", root, vault) from error
    try:
        _check_marker(tree, marker, vault)
    except BaseException:
        tree.close()
        raise
    return tree


def check_root(root: str, marker: uuid.UUID, *, vault: str) -> None:
    """Raises Stall `root_missing` unless the root is there and carries the vault's own marker."""
    open_root(root, marker, vault=vault).close()


def plant_marker(root: str, marker: uuid.UUID, *, adopt: bool = False) -> None:
    """Makes `root` the vault's. Raises Refused when another vault's marker is there, unless `adopt`."""
    with _open_for_marker(root) as tree:
        if not _is_ours(tree, marker, adopt=adopt):
            _write_marker(tree, marker)


def check_plantable(root: str, marker: uuid.UUID, *, adopt: bool = False) -> None:
    """Raises Refused where `plant_marker` would; changes nothing."""
    with _open_for_marker(root) as tree:
        _is_ours(tree, marker, adopt=adopt)


def _is_ours(tree: Tree, marker: uuid.UUID, *, adopt: bool) -> bool:
    found = _read_marker(tree)
    if found is not None and found != str(marker) and not adopt:
        raise Refused(
            f"{tree.root} already belongs to vault {found or '(unreadable marker)'}.",
            code="root_in_use",
            remedy="Choose another directory, or repeat the command with --adopt to take this one over.",
        )
    return found == str(marker)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesystemTraits:
    """Which names are one file here: "A" and "a", or the composed and the decomposed form of a letter."""

    case_sensitive: bool
    normalising: bool

    @property
    def has_twins(self) -> bool:
        """Whether two different keys can be one file (compare `sync.paths.fold`)."""
        return self.normalising or not self.case_sensitive


def probe_filesystem(tree: Tree) -> FilesystemTraits:
    """Creates two names in the sync's own directory and looks whether their twins exist."""
    token = uuid.uuid4().hex
    return FilesystemTraits(
        case_sensitive=not _is_found(tree, f"probe-{token}-a", f"probe-{token}-A"),
        normalising=_is_found(tree, f"probe-{token}-\u00e9", f"probe-{token}-e\u0301"),
    )


def _is_found(tree: Tree, made: str, sought: str) -> bool:
    with tree.place(f"{CONTROL_DIR}/{made}", made=set()) as place:
        os.close(place.create())
        try:
            os.stat(sought, dir_fd=place.folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        finally:
            place.unlink()
        return True


def _open_for_marker(root: str) -> Tree:
    try:
        return Tree(root)
    except OSError as error:
        raise Refused(f"{root} cannot be opened: {error.strerror}.", code="root_missing") from error


def _check_marker(tree: Tree, marker: uuid.UUID, vault: str) -> None:
    found = _read_marker(tree)
    if found is None:
        raise _missing(f"{tree.root} does not hold {MARKER}: it may not be mounted.", tree.root, vault)
    if found != str(marker):
        raise _missing(f"{tree.root} belongs to another vault ({found or 'unreadable marker'}).", tree.root, vault)


def _read_marker(tree: Tree) -> str | None:
    """The vault's id; "" for a marker that cannot be understood, None without one."""
    try:
        with tree.place(MARKER) as place, open(place.open_read(), "rb") as file:
            content = json.loads(file.read(_MARKER_BYTES))
            return str(uuid.UUID(content["vault"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write_marker(tree: Tree, marker: uuid.UUID) -> None:
    with tree.place(MARKER, made=set()) as place:
        near = place.near()
        try:
            with open(near.create(), "wb") as file:
                file.write(json.dumps({"version": _MARKER_VERSION, "vault": str(marker)}).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            near.rename(place)
        finally:
            near.unlink()
    tree.fsync_dirs({"", CONTROL_DIR})


def _missing(reason: str, root: str, vault: str) -> Stall:
    return Stall(
        StallCode.ROOT_MISSING,
        reason,
        remedy=OR.join(
            (
                f"{sync_of(vault)}  # after mounting or restoring {quote(root)}",
                f"if this directory is right: vh vault update {quote(vault)} --root {quote(root)} --adopt",
            )
        ),
    )
