"""What only a directory has: trash, symlinks, permissions, and an order of its own."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from tests.support.contents import content_of
from tests.support.meters import CountingMeter
from vaulthalla import syscalls
from vaulthalla.stores.base import (
    BodyCorrupt,
    BucketMissing,
    Condition,
    ObjectMissing,
    PreconditionFailed,
    UnexpectedResponse,
)
from vaulthalla.stores.directory import DirectoryStore
from vaulthalla.stores.walk import walk

BODY = b"body"
names = st.text("ab./-0é", min_size=1, max_size=4).filter(lambda name: "/" not in name and name not in (".", ".."))
trees = st.sets(st.lists(names, min_size=1, max_size=3).map("/".join), max_size=12)


def store_of(path: Path, run: str = "run-1") -> DirectoryStore:
    return DirectoryStore(path, CountingMeter(), run=run)


def listed(store: DirectoryStore, **known: object) -> list[str]:
    return [info.key for info in store.list_page(**known).objects]  # type: ignore[arg-type]


@example_settings(deadline=None)
@given(trees, st.data())
def test_a_walk_from_anywhere_is_the_rest_of_the_sorted_keys(tree: set[str], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as root:
        for key in sorted(tree):
            path = Path(root, key)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue
        every = [found.key for found in walk(os.fsencode(root))]
        files = [path for path in Path(root).rglob("*") if path.is_file()]
        assert every == sorted(os.fsencode(path.relative_to(root)) for path in files)
        after = data.draw(st.sampled_from(every) if every else st.just(b"a")) + data.draw(
            st.sampled_from([b"", b"/", b"z"])
        )
        prefix = data.draw(st.sampled_from([b"", b"a", b"a/", b"b/a"]))
        rest = [found.key for found in walk(os.fsencode(root), after=after, prefix=prefix)]
        assert rest == [key for key in every if key > after and key.startswith(prefix)]


def test_what_is_replaced_is_kept_in_the_trash(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for body in (b"first", b"second", b"third"):
        store.put("folder/file", body, content_of(body))
    kept = sorted(path for path in (tmp_path / ".vaulthalla" / "trash").rglob("file"))
    assert [path.read_bytes() for path in kept] == [b"first", b"second"]
    assert list((tmp_path / ".vaulthalla" / "stage").iterdir()) == []
    assert listed(store) == ["folder/file"]


def test_what_is_deleted_is_kept_and_empty_directories_go(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.put("a/b/c/file", BODY, content_of(BODY))
    store.put("a/other", BODY, content_of(BODY))
    store.delete("a/b/c/file")
    assert (tmp_path / ".vaulthalla/trash/run-1/a/b/c/file").read_bytes() == BODY
    assert sorted(os.listdir(tmp_path / "a")) == ["other"]
    store.delete("a/other")
    assert os.listdir(tmp_path) == [".vaulthalla"]


def test_a_saved_file_is_another_version(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    etag = store.put("file", BODY, content_of(BODY)).etag
    (tmp_path / "file").write_bytes(b"saved by hand")
    with pytest.raises(PreconditionFailed):
        store.put("file", BODY, content_of(BODY), condition=Condition(etag=etag))
    with pytest.raises(PreconditionFailed):
        store.delete("file", if_match=etag)
    assert (tmp_path / "file").read_bytes() == b"saved by hand"


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.put("file", BODY, content_of(BODY))
    (tmp_path / "file").chmod(0o640)
    store.put("file", b"new", content_of(b"new"))
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_symlinks_lead_nowhere(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    store = store_of(root)
    assert listed(store) == []
    for key in ("link/secret", "file"):
        with pytest.raises((ObjectMissing, UnexpectedResponse)):
            store.get(key, io.BytesIO())
        with pytest.raises(UnexpectedResponse):
            store.put(key, BODY, content_of(BODY))
    store.delete("link/secret")
    assert (outside / "secret").read_bytes() == b"secret"


@pytest.mark.parametrize("key", ["../up", "a/../b", "/lead", "a//b", "trail/", ".", "nul\0"])
def test_a_key_that_is_no_path_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(UnexpectedResponse):
        store_of(tmp_path).put(key, BODY, content_of(BODY))
    assert os.listdir(tmp_path) == []


def test_special_files_and_our_own_are_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / ".vaulthalla").mkdir()
    (tmp_path / ".vaulthalla" / "vault.json").write_text("{}")
    (tmp_path / ".vaulthalla-stage-1").write_bytes(b"")
    (tmp_path / "file").write_bytes(BODY)
    assert listed(store_of(tmp_path)) == ["file"]


def test_a_directory_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path)
    for key in ("a/1", "b/1", "c"):
        store.put(key, BODY, content_of(BODY))
    real = os.open

    def refuse(path: bytes, *arguments: int, **known: int) -> int:
        # Permissions do not stop root, who runs this test in containers.
        if isinstance(path, bytes) and path.endswith(b"/b/"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **known)

    monkeypatch.setattr(os, "open", refuse)
    page = store.list_page()
    assert [info.key for info in page.objects] == ["a/1", "c"]
    assert page.unreadable == ["b/"]


def test_pages_go_on_when_the_tree_changes_meanwhile(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for number in range(6):
        store.put(f"{number}", BODY, content_of(BODY))
    first = store.list_page(limit=2)
    assert first.next_after == "1"
    store.delete("3")
    assert listed(store, after="1", limit=10) == ["2", "4", "5"]


def test_a_root_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    store = store_of(tmp_path / "nowhere")
    for action in (store.list_page, lambda: store.head("a"), lambda: store.put("a", BODY, content_of(BODY))):
        with pytest.raises(BucketMissing):
            action()


def test_a_directory_in_the_way_is_not_replaced(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.put("a/b", BODY, content_of(BODY))
    for key in ("a", "a/b/c"):
        with pytest.raises(UnexpectedResponse):
            store.put(key, BODY, content_of(BODY))
    assert listed(store) == ["a/b"]


@pytest.fixture(params=["renameat2", "plain rename"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both with and without the renames that not every filesystem has."""
    if request.param == "plain rename":
        monkeypatch.setattr(syscalls, "_renameat2", None)


def save(path: Path, body: bytes) -> Callable[[], object]:
    """As editors do: a new file, renamed over the old one."""

    def by_rename() -> None:
        new = path.with_name("new")
        new.write_bytes(body)
        new.rename(path)

    return by_rename


def meanwhile(monkeypatch: pytest.MonkeyPatch, call: str, *steps: Callable[[], object]) -> None:
    """The first of `steps` happens right before the first such system call, the second before the second."""
    real, coming = getattr(syscalls, call), iter(steps)

    def late(*names: int | str) -> object:
        next(coming, bool)()
        return real(*names)

    monkeypatch.setattr(syscalls, call, late)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


KEPT = ".vaulthalla/trash/run-1/file"


class TestSavedWhileItIsReplaced:
    @pytest.mark.usefixtures("kernel")
    def test_the_saved_file_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store, file = store_of(tmp_path), tmp_path / "file"
        etag = store.put("file", b"old", content_of(b"old")).etag
        meanwhile(monkeypatch, "exchange", save(file, b"mine"))
        with pytest.raises(PreconditionFailed):
            store.put("file", BODY, content_of(BODY), condition=Condition(etag=etag))
        assert files(tmp_path) == {"file": b"mine", KEPT: b"old"}

    def test_a_link_that_was_put_there_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store, file = store_of(tmp_path), tmp_path / "file"
        store.put("file", b"old", content_of(b"old"))
        (tmp_path / "link").symlink_to("elsewhere")
        meanwhile(monkeypatch, "exchange", lambda: (tmp_path / "link").rename(file))
        with pytest.raises(PreconditionFailed):
            store.put("file", BODY, content_of(BODY))
        assert os.readlink(file) == "elsewhere"

    def test_saved_again_the_newest_stays_and_the_other_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, file = store_of(tmp_path), tmp_path / "file"
        store.put("file", b"old", content_of(b"old"))
        meanwhile(monkeypatch, "exchange", save(file, b"mine"), save(file, b"mine, too"))
        with pytest.raises(PreconditionFailed):
            store.put("file", BODY, content_of(BODY))
        assert files(tmp_path) == {
            "file": b"mine, too",
            KEPT: b"old",
            ".vaulthalla/trash/run-1.2/file": b"mine",
        }

    def test_deleted_again_it_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store, file = store_of(tmp_path), tmp_path / "file"
        store.put("file", b"old", content_of(b"old"))
        meanwhile(monkeypatch, "exchange", save(file, b"mine"), file.unlink)
        with pytest.raises(PreconditionFailed):
            store.put("file", BODY, content_of(BODY))
        assert files(tmp_path) == {KEPT: b"old", ".vaulthalla/trash/run-1.2/file": b"mine"}

    @pytest.mark.usefixtures("kernel")
    def test_a_file_that_went_stays_gone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = store_of(tmp_path)
        store.put("file", b"old", content_of(b"old"))
        meanwhile(monkeypatch, "exchange", (tmp_path / "file").unlink)
        with pytest.raises(PreconditionFailed):
            store.put("file", BODY, content_of(BODY))
        assert files(tmp_path) == {KEPT: b"old"}

    @pytest.mark.usefixtures("kernel")
    def test_a_file_that_appeared_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        meanwhile(monkeypatch, "rename_new", save(tmp_path / "file", b"mine"))
        with pytest.raises(PreconditionFailed):
            store_of(tmp_path).put("file", BODY, content_of(BODY))
        assert files(tmp_path) == {"file": b"mine"}


class TestSavedWhileItIsDeleted:
    @pytest.mark.usefixtures("kernel")
    def test_the_saved_file_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store, file = store_of(tmp_path), tmp_path / "file"
        etag = store.put("file", b"old", content_of(b"old")).etag
        meanwhile(monkeypatch, "rename_new", save(file, b"mine"))
        with pytest.raises(PreconditionFailed):
            store.delete("file", if_match=etag)
        assert files(tmp_path) == {"file": b"mine"}

    @pytest.mark.usefixtures("kernel")
    def test_saved_again_the_newest_stays_and_the_other_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, file = store_of(tmp_path), tmp_path / "file"
        store.put("file", b"old", content_of(b"old"))
        meanwhile(monkeypatch, "rename_new", save(file, b"mine"), save(file, b"mine, too"))
        with pytest.raises(PreconditionFailed):
            store.delete("file")
        assert files(tmp_path) == {"file": b"mine, too", KEPT: b"mine"}

    def test_deleted_meanwhile_is_deleted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = store_of(tmp_path)
        store.put("file", b"old", content_of(b"old"))
        meanwhile(monkeypatch, "rename_new", (tmp_path / "file").unlink)
        store.delete("file")
        assert files(tmp_path) == {}

    @pytest.mark.parametrize("saved", [False, True])
    def test_so_it_is_with_a_trash_on_another_filesystem(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
    ) -> None:
        store, file = store_of(tmp_path), tmp_path / "file"
        store.put("file", b"old", content_of(b"old"))
        real = syscalls.rename_new

        def across(source_dir: int, source: str, target_dir: int, target: str) -> None:
            if os.fstat(source_dir).st_ino != os.fstat(target_dir).st_ino:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            real(source_dir, source, target_dir, target)

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(syscalls, "rename_new", across)
        monkeypatch.setattr(os, "link", refuse)
        if not saved:
            store.delete("file")
            assert files(tmp_path) == {KEPT: b"old"}
            return
        meanwhile(monkeypatch, "rename_new", bool, save(file, b"mine"))
        with pytest.raises(PreconditionFailed):
            store.delete("file")
        assert files(tmp_path) == {"file": b"mine", KEPT: b"old"}


def in_place(path: Path) -> Callable[[], object]:
    return lambda: path.write_bytes(b"mine")


@pytest.mark.parametrize("saved", [lambda path: save(path, b"mine"), in_place, lambda path: path.unlink])
@pytest.mark.parametrize("replaced", [False, True])
def test_what_is_saved_right_after_a_write_is_not_taken_for_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool, saved: Callable[[Path], Callable[[], object]]
) -> None:
    store, file = store_of(tmp_path), tmp_path / "file"
    if replaced:
        store.put("file", b"old", content_of(b"old"))
    real, root = os.fsync, tmp_path.stat().st_ino

    def late(fd: int) -> None:
        real(fd)
        if os.fstat(fd).st_ino == root and file.exists() and file.read_bytes() == BODY:
            saved(file)()

    monkeypatch.setattr(os, "fsync", late)
    with pytest.raises(PreconditionFailed):
        store.put("file", BODY, content_of(BODY))
    kept = {KEPT: b"old"} if replaced else {}
    assert files(tmp_path) == (kept if not file.exists() else {"file": b"mine", **kept})


def test_a_torn_body_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BodyCorrupt):
        store_of(tmp_path).put("file", b"torn", content_of(BODY))
    assert files(tmp_path) == {}
