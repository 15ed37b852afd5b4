"""What only a directory has: trash, symlinks, permissions, and an order of its own."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from tests.support.contents import content_of
from tests.support.meters import CountingMeter
from vaulthalla.stores.base import BucketMissing, Condition, ObjectMissing, PreconditionFailed, UnexpectedResponse
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
