"""After a scan the local rows say what the tree is, and a second scan writes nothing."""

from __future__ import annotations

import os
import shutil
import stat as stat_module
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync import scan as scan_module
from sync import walk as walk_module
from sync.fingerprint import fingerprint
from sync.models import Base, DirState, LocalDir, LocalFile
from sync.mounts import Mounts
from sync.root import plant_marker
from sync.scan import scan, unknown_prefixes
from vaulthalla.vaults.models import SyncPolicy, Vault, VaultKind
from vaulthalla.work.engine import Lease, NewChunk, Phase, Yield, claim, create_run, execute
from vaulthalla.work.models import Queue, Run, RunKind, RunStatus

pytestmark = pytest.mark.django_db(transaction=True)

OLD_NS = 1_600_000_000_000_000_000
LATER_NS = 10 * 10**9
Facts = dict[str, tuple[Any, ...]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def vault(root: Path, tmp_path: Path) -> Vault:
    return new_vault(root, tmp_path / "copy")


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans happen long after the edits, so that nothing is racy unless a test says so."""
    clock_of = scan_module._clock_of

    def shifted(tree: Any) -> Callable[[], int]:
        clock = clock_of(tree)
        return lambda: clock() + LATER_NS

    monkeypatch.setattr(scan_module, "_clock_of", shifted)


def new_vault(root: Path, replica: Path) -> Vault:
    vault = Vault.objects.create(
        name=uuid4().hex, kind=VaultKind.LOCAL, root=str(root), replica=str(replica), marker=uuid4()
    )
    SyncPolicy.objects.create(vault=vault)
    plant_marker(str(root), vault.marker)
    return vault


def run_scan(vault: Vault, **payload: Any) -> Run:
    chunk = NewChunk("sync.scan", Phase.SCAN, Queue.TRANSFER, payload)
    run = create_run(vault, RunKind.DRY_RUN, chunks=[chunk])
    while lease := claim([Queue.TRANSFER, Queue.CONTROL], run_id=run.pk):
        execute(lease)
    run.refresh_from_db()
    assert run.status in (RunStatus.SUCCESS, RunStatus.STALLED), run.error_message
    return run


def rows(vault: Vault) -> Facts:
    columns = ("path", "dir", "size", "mtime_ns", "ctime_ns", "inode", "skip")
    return {row[0]: row[1:] for row in LocalFile.objects.filter(vault=vault).values_list(*columns)}


def folders(vault: Vault) -> dict[str, str]:
    return dict(LocalDir.objects.filter(vault=vault).values_list("dir", "state"))


def model(root: Path) -> tuple[Facts, set[str]]:
    """What os.walk sees."""
    files: Facts = {}
    below: set[str] = set()
    for folder, names, others in os.walk(root):
        if folder == str(root):
            names.remove(".vaulthalla")
        here = os.path.relpath(folder, root) + "/" if folder != str(root) else ""
        below.add(here)
        for name in [*others, *(n for n in names if (Path(folder) / n).is_symlink())]:
            seen = (Path(folder) / name).lstat()
            print_ = fingerprint(seen)
            skip = "symlink" if stat_module.S_ISLNK(seen.st_mode) else ""
            files[here + name] = (here, print_.size, print_.mtime_ns, print_.ctime_ns, print_.inode, skip)
    return files, below


def assert_rows_are_the_tree(vault: Vault, root: Path) -> None:
    files, below = model(root)
    assert rows(vault) == files
    assert set(folders(vault)) == below


def row_versions() -> list[tuple[Any, ...]]:
    """Changes with every write of a row, even of the same values."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT path, ctid::text, xmin::text, xmax::text FROM sync_localfile"
            " UNION ALL SELECT dir, ctid::text, xmin::text, xmax::text FROM sync_localdir ORDER BY 1, 2"
        )
        return cursor.fetchall()


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(OLD_NS, OLD_NS))
    return path


def tree_of(root: Path) -> None:
    for name in ("b", "a-b/x", "a/x", "a/b/c/deep", "a.txt", "é/ü", "z/1", "z/2"):
        write(root / name)
    (root / "empty/er").mkdir(parents=True)


def test_rows_are_the_tree_and_a_second_scan_writes_none(vault: Vault, root: Path) -> None:
    tree_of(root)
    (root / "link").symlink_to("a")
    run_scan(vault)
    assert_rows_are_the_tree(vault, root)
    before = row_versions()
    run_scan(vault)
    assert row_versions() == before


def test_changes_are_found(vault: Vault, root: Path) -> None:
    tree_of(root)
    run_scan(vault)
    untouched = {version for version in row_versions() if version[0] in ("z/1", "z/", "a/b/c/deep")}
    write(root / "a/x", b"longer")
    write(root / "new/file")
    (root / "b").unlink()
    shutil.rmtree(root / "é")
    shutil.rmtree(root / "empty")
    (root / "a.txt").rename(root / "z.txt")
    run_scan(vault)
    assert_rows_are_the_tree(vault, root)
    assert untouched <= set(row_versions())


def test_a_file_in_the_place_of_a_directory_and_the_reverse(vault: Vault, root: Path) -> None:
    tree_of(root)
    run_scan(vault)
    shutil.rmtree(root / "a")
    write(root / "a")
    (root / "b").unlink()
    write(root / "b/b")
    run_scan(vault)
    assert_rows_are_the_tree(vault, root)


def test_hashes_stay_as_long_as_the_fingerprint(vault: Vault, root: Path) -> None:
    write(root / "same")
    write(root / "changes")
    run_scan(vault)
    LocalFile.objects.filter(vault=vault).update(sha256=b"s", md5=b"m", multipart_etag="e")
    write(root / "changes", b"longer")
    run_scan(vault)
    kept = LocalFile.objects.get(vault=vault, path="same")
    assert (kept.sha256, kept.md5, kept.multipart_etag) == (b"s", b"m", "e")
    dropped = LocalFile.objects.get(vault=vault, path="changes")
    assert (dropped.sha256, dropped.md5, dropped.multipart_etag) == (None, None, "")


class TestRacy:
    @pytest.fixture(autouse=True)
    def later(self) -> None:
        """The real time."""

    def test_a_fresh_file_is_looked_at_again(self, vault: Vault, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / "f").write_bytes(b"x")
        run_scan(vault)
        assert LocalFile.objects.get(vault=vault).racy
        assert LocalDir.objects.get(vault=vault).digest is None
        LocalFile.objects.filter(vault=vault).update(sha256=b"of a content that may be gone")
        found = LocalFile.objects.get(vault=vault)
        facts = {"size": found.size, "mtime_ns": found.mtime_ns, "ctime_ns": found.ctime_ns, "inode": found.inode}
        Base.objects.create(vault=vault, path="f", etag="e", **facts)
        clock_of = scan_module._clock_of
        monkeypatch.setattr(scan_module, "_clock_of", lambda tree: lambda: clock_of(tree)() + LATER_NS)
        run_scan(vault)
        again = LocalFile.objects.get(vault=vault)
        assert not again.racy
        assert again.sha256 is None
        assert LocalDir.objects.get(vault=vault).digest is not None
        # The base, which says what it did, does not vouch for it until its content has been compared.
        assert again.read_again
        assert Base.objects.get(vault=vault).ctime_ns == found.ctime_ns
        before = row_versions()
        run_scan(vault)
        assert row_versions() == before

    def test_a_time_in_the_future_is_not_racy_for_ever(self, vault: Vault, root: Path) -> None:
        future = write(root / "f")
        os.utime(future, ns=(2 * OLD_NS, 2 * OLD_NS))
        assert walk_module.Reader(clock=lambda: OLD_NS)._racy().stop < 2 * OLD_NS
        run_scan(vault)
        assert LocalFile.objects.get(vault=vault).racy  # its change time is now


class TestSkips:
    def test_each_has_its_reason(self, vault: Vault, root: Path) -> None:
        write(root / "target")
        (root / "dangling").symlink_to("nowhere")
        os.mkfifo(root / "pipe")
        write(root / "a/.vaulthalla/f")
        write(root / "a/.Vaulthalla")
        write(root / ".vaulthalla/stage/body")
        write(root / "a/.vaulthalla-stage-0123")
        raw = os.fsencode(root)
        with open(raw + b"/a/bad\xff%", "wb"):
            pass
        os.mkdir(raw + b"/bad\xfe")
        with open(raw + b"/bad\xfe/f", "wb"):
            pass
        run_scan(vault)
        assert {path: facts[-1] for path, facts in rows(vault).items()} == {
            "target": "",
            "dangling": "symlink",
            "pipe": "special",
            "a/.vaulthalla": "reserved",
            "a/.Vaulthalla": "reserved",
            "a//bad%FF%25": "undecodable",
            "/bad%FE": "undecodable",
        }
        assert set(folders(vault)) == {"", "a/"}
        assert dict(unknown_prefixes(vault.pk))["dangling/"] == "symlink"
        before = row_versions()
        run_scan(vault)
        assert row_versions() == before

    def test_a_key_too_long_is_not_walked(self, vault: Vault, root: Path) -> None:
        deep = root
        for _ in range(5):
            deep /= "x" * 200
        write(deep / "fits")
        write(deep / ("y" * 30))
        write(deep / ("d" * 18) / "f")
        run_scan(vault)
        found = {path[1005:]: facts[-1] for path, facts in rows(vault).items()}
        assert found == {"fits": "", "y" * 30: "too_long", "d" * 18 + "/f": "too_long"}


class TestUnknown:
    def test_an_unreadable_directory_keeps_its_rows(
        self, vault: Vault, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tree_of(root)
        run_scan(vault)
        before = rows(vault)
        shutil.rmtree(root / "a/b")
        deny(monkeypatch, "a")
        run_scan(vault)
        assert rows(vault) == before
        assert folders(vault)["a/"] == DirState.UNREADABLE
        assert unknown_prefixes(vault.pk) == [("a/", "unreadable")]
        monkeypatch.undo()
        run_scan(vault)
        assert_rows_are_the_tree(vault, root)
        assert unknown_prefixes(vault.pk) == []

    def test_it_may_become_unreadable_between_two_chunks(
        self, vault: Vault, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tree_of(root)
        run_scan(vault)
        before = rows(vault)
        shutil.rmtree(root / "a/b")
        lease = lease_of(vault)
        lease.cursor = {"after": "a/"}
        deny(monkeypatch, "a")
        while isinstance(scan(lease), Yield):
            pass
        assert rows(vault) == before
        assert unknown_prefixes(vault.pk) == [("a/", "unreadable")]

    @pytest.mark.parametrize("folder", ["left", "gone"])
    def test_a_mount_that_vanished_keeps_its_rows(
        self, vault: Vault, root: Path, monkeypatch: pytest.MonkeyPatch, folder: str
    ) -> None:
        tree_of(root)
        mounted = {"z/"}
        monkeypatch.setattr(Mounts, "_read", lambda _: frozenset(mounted))
        run_scan(vault)
        before = rows(vault)
        assert LocalDir.objects.get(vault=vault, dir="z/").is_mount
        mounted.clear()
        shutil.rmtree(root / "z")
        if folder == "left":
            write(root / "z/below/the/mount/point")
        for _ in range(2):
            run_scan(vault)
            assert rows(vault) == before
            assert unknown_prefixes(vault.pk) == [("z/", "unmounted")]
        # On purpose.
        run_scan(vault, forget_mounts=True)
        assert_rows_are_the_tree(vault, root)
        assert unknown_prefixes(vault.pk) == []

    def test_a_mount_comes_back(self, vault: Vault, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tree_of(root)
        mounted = {"z/"}
        monkeypatch.setattr(Mounts, "_read", lambda _: frozenset(mounted))
        run_scan(vault)
        mounted.clear()
        run_scan(vault)
        mounted.add("z/")
        write(root / "z/3")
        run_scan(vault)
        assert_rows_are_the_tree(vault, root)
        assert unknown_prefixes(vault.pk) == []

    def test_a_missing_root_stalls_and_changes_nothing(self, vault: Vault, root: Path) -> None:
        tree_of(root)
        run_scan(vault)
        before = row_versions()
        root.rename(root.with_name("elsewhere"))
        assert run_scan(vault).stall_code == "root_missing"
        root.mkdir()
        assert run_scan(vault).stall_code == "root_missing"
        assert row_versions() == before


class TestChunks:
    def test_one_directory_at_a_time_gives_the_same(
        self, vault: Vault, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tree_of(root)
        run_scan(vault)
        write(root / "a/b/new")
        shutil.rmtree(root / "a-b")
        shutil.rmtree(root / "z")
        lease, seen = lease_of(vault), []
        while isinstance(answer := scan(lease), Yield):
            assert answer.cursor == lease.cursor
            seen.append(answer.cursor["after"])
            lease.deadline = 0
        assert seen == sorted(set(seen))
        assert len(seen) >= 6
        assert_rows_are_the_tree(vault, root)

    def test_a_large_directory_is_sent_in_parts(
        self, vault: Vault, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(walk_module, "BLOCK", 7)
        for number in range(40):
            write(root / f"big/{number}")
        write(root / "big/below/f")
        run_scan(vault)
        assert_rows_are_the_tree(vault, root)
        before = row_versions()
        run_scan(vault)
        assert row_versions() == before
        for number in range(0, 40, 3):
            (root / f"big/{number}").unlink()
        write(root / "big/1", b"changed")
        run_scan(vault)
        assert_rows_are_the_tree(vault, root)

    def test_many_vanished_directories_are_written_in_batches(
        self, vault: Vault, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scan_module, "BATCH_DIRS", 3)
        for number in range(20):
            write(root / f"many/{number}/f")
        write(root / "z")
        run_scan(vault)
        shutil.rmtree(root / "many")
        run_scan(vault)
        assert_rows_are_the_tree(vault, root)


names = st.sampled_from(["a", "a-", "a.b", "a/b", "a/b/c", "a/b/d", "a0", "b/x/y", "b/x", "c", "é/ü", "c/.h"])
edits = st.lists(st.tuples(st.sampled_from(["write", "remove", "folder", "link"]), names), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(edits, min_size=1, max_size=3), in_steps=st.booleans())
def test_after_any_edits_rows_are_the_tree(tmp_path: Path, rounds: list[list[tuple[str, str]]], in_steps: bool) -> None:
    root = tmp_path / uuid4().hex
    root.mkdir()
    vault = new_vault(root, tmp_path / "copy")
    for edits in rounds:
        for edit, name in edits:
            change(root / name, edit)
        lease = lease_of(vault)
        while isinstance(scan(lease), Yield):
            lease.deadline = 0 if in_steps else lease.deadline
        assert_rows_are_the_tree(vault, root)
        before = row_versions()
        scan(lease_of(vault, deadline=None))
        assert row_versions() == before


def change(path: Path, edit: str) -> None:
    """As far as the tree lets it."""
    try:
        if edit == "write":
            write(path, os.urandom(3))
        elif edit == "folder":
            path.mkdir(parents=True)
        elif edit == "link":
            path.symlink_to("a")
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        pass


def lease_of(vault: Vault, *, deadline: float | None = 0) -> Lease:
    """A lease on a scan of its own; overdue from the start unless told otherwise."""
    Run.objects.filter(vault=vault).delete()
    create_run(vault, RunKind.DRY_RUN, chunks=[NewChunk("sync.scan", Phase.SCAN, Queue.TRANSFER)])
    lease = claim([Queue.TRANSFER])
    assert lease is not None
    if deadline is not None:
        lease.deadline = deadline
    return lease


def deny(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Root may read everything, so the refusal is played."""
    real = os.open

    def refusing(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if path == name and flags & os.O_DIRECTORY and not flags & os.O_PATH:
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *args, **options)

    monkeypatch.setattr(walk_module.os, "open", refusing)
