"""A root is the vault's own, or nothing happens."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from sync.root import MARKER, check_root, open_root, plant_marker, probe_filesystem
from sync.tree import Tree
from vaulthalla.errors import Refused, Stall

MINE, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)


def test_a_planted_root_opens(tmp_path: Path) -> None:
    plant_marker(str(tmp_path), MINE)
    plant_marker(str(tmp_path), MINE)
    with open_root(str(tmp_path), MINE, vault="photos") as tree:
        assert tree.is_empty()
    assert json.loads((tmp_path / MARKER).read_bytes()) == {"version": 1, "vault": str(MINE)}


@pytest.mark.parametrize("there", ["nothing", "no marker", "file", "other", "damaged", "symlink"])
def test_any_other_root_stalls(tmp_path: Path, there: str) -> None:
    root = tmp_path / "root"
    if there == "file":
        root.write_bytes(b"")
    elif there != "nothing":
        root.mkdir()
    if there == "other":
        plant_marker(str(root), OTHER)
    elif there == "damaged":
        (root / ".vaulthalla").mkdir()
        (root / MARKER).write_bytes(b"{")
    elif there == "symlink":
        plant_marker(str(tmp_path), MINE)
        (root / ".vaulthalla").symlink_to(tmp_path / ".vaulthalla")
    with pytest.raises(Stall) as stall:
        check_root(str(root), MINE, vault="my photos")
    assert stall.value.code == "root_missing"
    assert "vh vault update 'my photos' --root " in stall.value.remedy


def test_another_vaults_root_is_refused_until_adopted(tmp_path: Path) -> None:
    plant_marker(str(tmp_path), OTHER)
    with pytest.raises(Refused, match=str(OTHER)):
        plant_marker(str(tmp_path), MINE)
    check_root(str(tmp_path), OTHER, vault="theirs")
    plant_marker(str(tmp_path), MINE, adopt=True)
    check_root(str(tmp_path), MINE, vault="mine")


def test_a_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        plant_marker(str(tmp_path / "none"), MINE)


def test_the_filesystem_is_asked_and_nothing_is_left(tmp_path: Path) -> None:
    with Tree(str(tmp_path)) as tree:
        traits = probe_filesystem(tree)
    assert traits.has_twins == ((tmp_path / ".VAULTHALLA").exists() or traits.normalising)
    assert list((tmp_path / ".vaulthalla").iterdir()) == []
