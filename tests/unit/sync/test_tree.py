"""What the sync does to a tree: nothing outside it, nothing lost, every step repeatable."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sync.fingerprint import Fingerprint
from sync.tree import STAGE_DIR, TRASH_DIR, LocalChanged, Staged, Tree, seal
from vaulthalla import syscalls
from vaulthalla.errors import Refused

MTIME = 1_600_000_000_123_456_789


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def tree(root: Path) -> Iterator[Tree]:
    with Tree(str(root)) as tree:
        yield tree


@pytest.fixture(params=["exchange", "plain rename"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both with and without the renames that not every filesystem has."""
    if request.param == "plain rename":
        monkeypatch.setattr(syscalls, "_renameat2", None)


def body(tree: Tree, path: str, content: bytes) -> Staged:
    file, staged = tree.stage(path)
    file.write(content)
    return seal(file, staged, mtime_ns=MTIME)


def seen(tree: Tree, path: str) -> Fingerprint:
    found = tree.fingerprint(path)
    assert found is not None
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.usefixtures("kernel")
class TestPublish:
    def test_a_new_file_appears_with_its_time_in_directories_made_for_it(self, tree: Tree, root: Path) -> None:
        touched: set[str] = set()
        done = tree.publish(body(tree, "a/b/c", b"new"), "a/b/c", expected=None, trash="1", touched=touched)
        assert files(root) == {"a/b/c": b"new"}
        assert done == tree.fingerprint("a/b/c")
        assert done.mtime_ns == MTIME
        assert touched == {"", "a", "a/b"}

    def test_what_is_replaced_is_in_the_trash(self, tree: Tree, root: Path) -> None:
        (root / "a").write_bytes(b"old")
        tree.publish(body(tree, "a", b"new"), "a", expected=seen(tree, "a"), trash="7")
        assert files(root) == {"a": b"new", f"{TRASH_DIR}/7/a": b"old"}

    def test_permissions_stay(self, tree: Tree, root: Path) -> None:
        (root / "a").write_bytes(b"old")
        (root / "a").chmod(0o751)
        tree.publish(body(tree, "a", b"new"), "a", expected=seen(tree, "a"), trash="7")
        assert (root / "a").stat().st_mode & 0o777 == 0o751

    def test_with_beside_what_is_replaced_stays_in_the_tree(self, tree: Tree, root: Path) -> None:
        (root / "a").write_bytes(b"old")
        tree.publish(body(tree, "a", b"new"), "a", expected=seen(tree, "a"), trash="7", beside="a (conflict)")
        assert files(root) == {"a": b"new", "a (conflict)": b"old"}

    def test_a_taken_name_beside_changes_nothing(self, tree: Tree, root: Path) -> None:
        (root / "a").write_bytes(b"old")
        (root / "b").write_bytes(b"mine")
        staged = body(tree, "a", b"new")
        with pytest.raises(LocalChanged):
            tree.publish(staged, "a", expected=seen(tree, "a"), trash="7", beside="b")
        tree.discard(staged)
        assert files(root) == {"a": b"old", "b": b"mine"}

    def test_a_file_that_appeared_is_not_replaced(self, tree: Tree, root: Path) -> None:
        staged = body(tree, "a", b"new")
        (root / "a").write_bytes(b"mine")
        with pytest.raises(LocalChanged):
            tree.publish(staged, "a", expected=None, trash="1")
        assert (root / "a").read_bytes() == b"mine"

    @pytest.mark.parametrize("change", ["content", "gone", "folder", "symlink"])
    def test_a_file_that_changed_is_not_replaced(self, tree: Tree, root: Path, change: str) -> None:
        (root / "a").write_bytes(b"old")
        expected = seen(tree, "a")
        staged = body(tree, "a", b"new")
        (root / "a").unlink()
        if change == "content":
            (root / "a").write_bytes(b"mine")
        elif change == "folder":
            (root / "a").mkdir()
        elif change == "symlink":
            (root / "a").symlink_to("b")
        with pytest.raises(LocalChanged):
            tree.publish(staged, "a", expected=expected, trash="1")
        assert not (root / TRASH_DIR / "1" / "a").exists()

    def test_a_chmod_since_planning_is_a_change(self, tree: Tree, root: Path) -> None:
        (root / "a").write_bytes(b"old")
        expected = replace(seen(tree, "a"), ctime_ns=1)
        with pytest.raises(LocalChanged):
            tree.publish(body(tree, "a", b"new"), "a", expected=expected, trash="1")

    def test_repeating_it_after_a_crash_at_the_end_changes_nothing(self, tree: Tree, root: Path) -> None:
        (root / "a").write_bytes(b"old")
        expected, staged = seen(tree, "a"), body(tree, "a", b"new")
        first = tree.publish(staged, "a", expected=expected, trash="1")
        assert tree.publish(staged, "a", expected=expected, trash="1") == first
        assert files(root) == {"a": b"new", f"{TRASH_DIR}/1/a": b"old"}

    def test_repeating_it_after_a_crash_behind_the_link_goes_on(self, tree: Tree, root: Path) -> None:
        (root / "a").write_bytes(b"old")
        expected, staged = seen(tree, "a"), body(tree, "a", b"new")
        (root / TRASH_DIR / "1").mkdir(parents=True)
        os.link(root / "a", root / TRASH_DIR / "1" / "a")
        tree.publish(staged, "a", expected=expected, trash="1")
        assert files(root) == {"a": b"new", f"{TRASH_DIR}/1/a": b"old"}

    def test_repeating_it_after_a_crash_behind_the_swap_cleans_up(self, tree: Tree, root: Path) -> None:
        (root / "a").write_bytes(b"old")
        expected, staged = seen(tree, "a"), body(tree, "a", b"new")
        (root / TRASH_DIR / "1").mkdir(parents=True)
        os.link(root / "a", root / TRASH_DIR / "1" / "a")
        (root / "a").rename(root / "aside")
        (root / staged.name).rename(root / "a")
        (root / "aside").rename(root / staged.name)
        tree.publish(staged, "a", expected=expected, trash="1")
        assert files(root) == {"a": b"new", f"{TRASH_DIR}/1/a": b"old"}

    def test_what_was_saved_before_a_crash_behind_the_swap_is_kept(self, tree: Tree, root: Path) -> None:
        staged = body(tree, "a", b"new")
        (root / staged.name).rename(root / "a")
        (root / staged.name).write_bytes(b"saved in the last moment")
        tree.discard(staged)
        assert tree.reopen(staged) is None
        tree.publish(staged, "a", expected=None, trash="1")
        assert files(root) == {"a": b"new", f"{TRASH_DIR}/1/a": b"saved in the last moment"}

    def test_the_same_path_twice_in_one_run_keeps_both(self, tree: Tree, root: Path) -> None:
        (root / "a").write_bytes(b"one")
        tree.publish(body(tree, "a", b"two"), "a", expected=seen(tree, "a"), trash="1")
        tree.publish(body(tree, "a", b"three"), "a", expected=seen(tree, "a"), trash="1")
        tree.remove("a", expected=seen(tree, "a"), trash="1")
        tree.publish(body(tree, "a/b", b"four"), "a/b", expected=None, trash="1")
        tree.remove("a/b", expected=seen(tree, "a/b"), trash="1")
        assert sorted(files(root).values()) == [b"four", b"one", b"three", b"two"]

    def test_a_staged_body_that_is_gone_is_an_error(self, tree: Tree) -> None:
        staged = body(tree, "a", b"new")
        tree.discard(staged)
        tree.discard(staged)
        with pytest.raises(FileNotFoundError):
            tree.publish(staged, "a", expected=None, trash="1")

    def test_without_hard_links_the_trash_gets_a_copy(
        self, tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        (root / "a").write_bytes(b"old")
        os.utime(root / "a", ns=(MTIME, MTIME))
        expected = seen(tree, "a")
        monkeypatch.setattr(os, "link", refuse)
        tree.publish(body(tree, "a", b"new"), "a", expected=expected, trash="1")
        assert files(root) == {"a": b"new", f"{TRASH_DIR}/1/a": b"old"}
        assert (root / TRASH_DIR / "1" / "a").stat().st_mtime_ns == MTIME


def test_a_file_saved_while_it_is_replaced_goes_back(tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a").write_bytes(b"old")
    expected, staged = seen(tree, "a"), body(tree, "a", b"new")
    real = syscalls.exchange
    calls = iter([True])

    def save_first(*names: int | str) -> bool:
        if next(calls, False):
            (root / "saved").write_bytes(b"mine")
            (root / "saved").rename(root / "a")
        return real(*names)  # type: ignore[arg-type]

    monkeypatch.setattr(syscalls, "exchange", save_first)
    with pytest.raises(LocalChanged):
        tree.publish(staged, "a", expected=expected, trash="1")
    assert files(root) == {"a": b"mine", f"{TRASH_DIR}/1/a": b"old", staged.name: b"new"}


@pytest.mark.usefixtures("kernel")
class TestRemove:
    def test_it_goes_to_the_trash_with_the_directories_that_emptied(self, tree: Tree, root: Path) -> None:
        (root / "a/b/c").mkdir(parents=True)
        (root / "a/b/c/f").write_bytes(b"old")
        (root / "a/other").write_bytes(b"")
        touched: set[str] = set()
        tree.remove("a/b/c/f", expected=seen(tree, "a/b/c/f"), trash="3", touched=touched)
        assert files(root) == {"a/other": b"", f"{TRASH_DIR}/3/a/b/c/f": b"old"}
        assert not (root / "a/b").exists()
        assert {"a", f"{TRASH_DIR}/3/a/b/c"} <= touched

    def test_the_root_stays(self, tree: Tree, root: Path) -> None:
        (root / "f").write_bytes(b"old")
        tree.remove("f", expected=seen(tree, "f"), trash="3")
        assert root.is_dir()

    def test_what_is_gone_is_fine(self, tree: Tree, root: Path) -> None:
        (root / "f").write_bytes(b"old")
        expected = seen(tree, "f")
        tree.remove("f", expected=expected, trash="3")
        tree.remove("f", expected=expected, trash="3")
        tree.remove("x/y", expected=expected, trash="3")
        assert files(root) == {f"{TRASH_DIR}/3/f": b"old"}

    def test_what_changed_stays(self, tree: Tree, root: Path) -> None:
        (root / "f").write_bytes(b"old")
        expected = seen(tree, "f")
        (root / "f").write_bytes(b"newer")
        with pytest.raises(LocalChanged):
            tree.remove("f", expected=expected, trash="3")
        assert files(root) == {"f": b"newer"}


class TestMove:
    def test_it_moves_once(self, tree: Tree, root: Path) -> None:
        (root / "f").write_bytes(b"mine")
        expected = seen(tree, "f")
        first = tree.move("f", "x/g", expected=expected)
        assert tree.move("f", "x/g", expected=expected) == first
        assert files(root) == {"x/g": b"mine"}

    def test_a_taken_name_stays(self, tree: Tree, root: Path) -> None:
        (root / "f").write_bytes(b"mine")
        (root / "g").write_bytes(b"other")
        with pytest.raises(LocalChanged):
            tree.move("f", "g", expected=seen(tree, "f"))
        assert files(root) == {"f": b"mine", "g": b"other"}

    def test_a_changed_file_stays(self, tree: Tree, root: Path) -> None:
        (root / "f").write_bytes(b"mine")
        with pytest.raises(LocalChanged):
            tree.move("f", "g", expected=replace(seen(tree, "f"), size=99))
        with pytest.raises(LocalChanged):
            tree.move("gone", "g", expected=seen(tree, "f"))


class TestSymlinks:
    @pytest.fixture
    def outside(self, tmp_path: Path, root: Path) -> Path:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "f").write_bytes(b"not yours")
        (root / "link").symlink_to(outside)
        (root / "file").symlink_to(outside / "f")
        return outside

    def test_nothing_is_written_through_one(self, tree: Tree, outside: Path) -> None:
        for path in ("link/new", "link/f", "file"):
            staged = body(tree, "x", b"new")
            with pytest.raises(LocalChanged):
                tree.publish(staged, path, expected=None, trash="1")
        assert files(outside) == {"f": b"not yours"}

    def test_nothing_is_read_or_removed_through_one(self, tree: Tree, outside: Path) -> None:
        expected = Fingerprint(size=9, mtime_ns=0, ctime_ns=0, inode=0)
        for path in ("link/f", "file"):
            with pytest.raises(LocalChanged):
                tree.open_read(path)
            with pytest.raises(LocalChanged):
                tree.remove(path, expected=expected, trash="1")
            with pytest.raises(LocalChanged):
                tree.fingerprint(path)
        assert files(outside) == {"f": b"not yours"}

    @pytest.mark.parametrize("path", ["../outside/f", "a/../../f", "/etc/passwd", ".vaulthalla/vault.json"])
    def test_a_path_that_leads_elsewhere_is_refused(self, tree: Tree, path: str) -> None:
        with pytest.raises(Refused):
            tree.open_read(path)
        with pytest.raises(Refused):
            tree.stage(path)


def test_reading_gives_the_bytes_and_a_fifo_is_not_waited_for(tree: Tree, root: Path) -> None:
    (root / "f").write_bytes(b"content")
    os.mkfifo(root / "pipe")
    with tree.open_read("f") as file:
        assert file.read() == b"content"
    for path in ("pipe", "gone", "gone/f"):
        with pytest.raises(LocalChanged):
            tree.open_read(path)


def test_a_staged_body_can_be_gone_on_with(tree: Tree) -> None:
    file, staged = tree.stage("f")
    with file:
        file.write(b"first ")
    again = tree.reopen(staged)
    assert again is not None
    again.seek(0, os.SEEK_END)
    again.write(b"second")
    tree.publish(seal(again, staged, mtime_ns=None), "f", expected=None, trash="1")
    with tree.open_read("f") as reader:
        assert reader.read() == b"first second"


def test_a_small_body_is_staged_at_once(tree: Tree, root: Path) -> None:
    staged = tree.stage_whole("d/f", b"content", mtime_ns=MTIME)
    assert (staged.size, staged.mtime_ns, staged.is_beside_others) == (7, MTIME, True)
    tree.publish(staged, "d/f", expected=None, trash="1")
    assert files(root) == {"d/f": b"content"}
    assert seen(tree, "d/f").mtime_ns == MTIME


def test_nothing_is_left_of_a_small_body_that_does_not_fit(
    tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="full"):
            tree.stage_whole("f", b"content", mtime_ns=None)
    assert files(root) == {}


def test_a_stage_that_was_removed_meanwhile_is_made_again(tree: Tree, root: Path) -> None:
    lost = tree.stage_whole("f", b"lost", mtime_ns=None)
    shutil.rmtree(root / STAGE_DIR)
    tree.publish(tree.stage_whole("f", b"here", mtime_ns=None), "f", expected=None, trash="1")
    assert files(root) == {"f": b"here"}
    with pytest.raises(FileNotFoundError):
        tree.publish(lost, "g", expected=None, trash="1")


def test_closing_gives_all_descriptors_back(root: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Tree(str(root)) as tree:
        tree.stage_whole("f", b"", mtime_ns=None)
        shutil.rmtree(root / STAGE_DIR)
        tree.stage_whole("f", b"", mtime_ns=None)
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_trash_is_pruned_by_age(tree: Tree, root: Path) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/f").write_bytes(b"old")
    tree.remove("a/b/f", expected=seen(tree, "a/b/f"), trash="1")
    tree.stage("x")[0].close()
    assert tree.prune(before_ns=time.time_ns() - 10**12) == 0
    assert tree.prune(before_ns=time.time_ns() + 10**12) == 2
    assert files(root) == {}
    assert list((root / TRASH_DIR).iterdir()) == []
    assert (root / STAGE_DIR).is_dir()


def test_an_empty_root_holds_at_most_the_control_directory(tree: Tree, root: Path) -> None:
    assert tree.is_empty()
    tree.stage("x")[0].close()
    assert tree.is_empty()
    (root / "d").mkdir()
    assert not tree.is_empty()


def test_space_is_that_of_the_nearest_directory(tree: Tree) -> None:
    assert tree.free_bytes("not/yet/there") == tree.free_bytes()


@pytest.mark.parametrize(
    ("there", "absent"),
    [
        ("nothing", True),
        ("a directory", True),
        ("a file in place of its directory", True),
        ("a file", False),
        ("a link", False),
        ("a link in place of its directory", False),
        ("a pipe", False),
    ],
)
def test_what_stands_at_a_path(tree: Tree, root: Path, there: str, absent: bool) -> None:
    folder, path = root / "d", root / "d" / "f"
    if "in place" not in there:
        folder.mkdir()
    match there:
        case "a directory":
            path.mkdir()
        case "a file":
            path.write_bytes(b"x")
        case "a link":
            path.symlink_to("elsewhere")
        case "a pipe":
            os.mkfifo(path)
        case "a file in place of its directory":
            folder.write_bytes(b"x")
        case "a link in place of its directory":
            folder.symlink_to("elsewhere")
    assert tree.is_absent("d/f") is absent
