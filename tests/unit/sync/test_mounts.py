"""Mount points below a root are read from the kernel's table, which escapes what it must."""

from __future__ import annotations

from pathlib import Path

import pytest

from sync import mounts
from sync.mounts import Mounts

LINE = "36 35 98:0 / {point} rw,noatime master:1 - ext3 /dev/root rw\n"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "MOUNTINFO", table)
    return table


def write(table: Path, *points: Path | str) -> None:
    table.write_text("".join(LINE.format(point=point) for point in points))


def test_only_mounts_below_the_root_count(table: Path, tmp_path: Path) -> None:
    write(table, "/", tmp_path, tmp_path / "root", tmp_path / "root/a/b", f"{tmp_path}/root/with\\040space", "/proc")
    seen = Mounts(str(tmp_path / "root"))
    assert seen.is_mount("a/b/", was_mount=False)
    assert seen.is_mount("with space/", was_mount=False)
    assert not seen.is_mount("a/", was_mount=False)
    assert not seen.is_mount("", was_mount=False)


def test_a_root_reached_through_a_symlink_is_its_target(table: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(table, tmp_path / "real/a")
    assert Mounts(str(tmp_path / "link")).is_mount("a/", was_mount=False)


def test_what_was_unmounted_since_is_seen(table: Path, tmp_path: Path) -> None:
    write(table, tmp_path / "a", tmp_path / "b")
    seen = Mounts(str(tmp_path))
    write(table, tmp_path / "b")
    assert not seen.is_mount("a/", was_mount=False)
    assert seen.is_mount("b/", was_mount=True)


def test_what_was_mounted_again_is_seen(table: Path, tmp_path: Path) -> None:
    write(table)
    seen = Mounts(str(tmp_path))
    write(table, tmp_path / "a")
    assert seen.is_mount("a/", was_mount=True)


def test_without_a_table_there_are_none(table: Path, tmp_path: Path) -> None:
    assert not Mounts(str(tmp_path)).is_mount("a/", was_mount=True)
