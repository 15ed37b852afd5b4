"""Any name goes to the other side exactly as it is, or stays where it is with a named reason."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import Result, Vault
from tests.support import outsider as outsiders
from tests.support.proxy import Fault

LIST_EACH_TIME = ("--max-remote-index-age", "0")
ODD = (
    "space between",
    " space before",
    "space after ",
    "dot after.",
    "...",
    ".hidden",
    "plus+sign",
    "percent%20 %2F %",
    "hash#mark",
    "question?mark&ampersand=equals",
    "a;b,c:d@e!f$g",
    "quotes ' \" `",
    "angle <b>&amp;</b>",
    "back\\slash",
    "glob * [x] ?",
    "~tilde",
    "-rf",
    "line\nfeed",
    "tab\tstop",
    "emoji 🎉👩‍👩‍👧",
    "كتاب",
    "caf\u00e9",
    "cafe\u0301",
    "UPPER",
    "upper",
    "é" * 127 + "x",
    "/".join(["d" * 127] * 8),
    "folder/file",
    "folder with space/and + plus/ä.txt",
)
KEYS_THAT_ARE_NO_PATHS = {
    "a": "beside_directory",
    "double//slash": "empty_segment",
    "/leading": "leading_slash",
    "trailing/": "trailing_slash",
    "up/../there": "dot_segment",
    "here/./too": "dot_segment",
    "n" * 256: "too_long",
    "deep/.vaulthalla/x": "reserved",
}


def sent(run: dict[str, dict[str, int]]) -> dict[str, int]:
    return {name: count for name, count in run["requests"].items() if count}


def nothing_done(run: dict[str, dict[str, int]]) -> bool:
    standing = ("path_skipped", "index_only")
    return not any(count for name, count in run["operations"].items() if name not in standing)


# What a server itself cannot hold, whoever asks it to.
BEYOND = {"roto": "\\", "moto": "\n"}


@pytest.mark.parametrize("server", BEYOND)
def test_odd_names_travel_both_ways(stages: Callable[[str], Stage], create: CreateVault, server: str) -> None:
    vault = create(stages(server), "--strategy", "sync", *LIST_EACH_TIME)
    assert vault.bucket is not None
    names = [name for name in ODD if BEYOND[server] not in name]
    here = {name: f"here {number}".encode() for number, name in enumerate(names)}
    there = {f"from there/{name}": f"there {number}".encode() for number, name in enumerate(names) if len(name) < 900}
    for path, body in here.items():
        vault.write(path, body)
    for key, body in there.items():
        vault.bucket.put(key, body)
    run = vault.sync()
    assert run["skipped"] == {}
    assert (run["operations"]["upload"], run["operations"]["download"]) == (len(here), len(there))
    assert vault.files() == vault.bucket.objects() == {**here, **there}
    vault.out_of_doubt()
    again = vault.sync()
    assert sent(again) in vault.relisted()
    assert nothing_done(again)


def test_keys_that_are_no_paths_stay_where_they_are(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", *LIST_EACH_TIME)
    assert vault.bucket is not None
    for key in KEYS_THAT_ARE_NO_PATHS:
        vault.bucket.put(key, key.encode())
    vault.bucket.put("a/b", b"a directory to be")
    # What the server itself made of a key is its own business: what it lists is what there is.
    stored = set(vault.bucket.keys())
    reasons = [reason for key, reason in KEYS_THAT_ARE_NO_PATHS.items() if key in stored]
    assert len(reasons) >= 6
    skipped = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    before = vault.bucket.objects()
    around = {path.name for path in vault.root.parent.iterdir()}
    for _ in range(2):
        vault.out_of_doubt()
        run = vault.sync()
        assert run["skipped"] == skipped
        assert run["operations"]["path_skipped"] == len(reasons)
        assert vault.files() == {"a/b": b"a directory to be"}
        assert vault.bucket.objects() == before
    assert sent(run) in vault.relisted()
    assert {path.name for path in vault.root.parent.iterdir()} == around


def test_a_file_keeps_its_path_from_keys_below_it(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", *LIST_EACH_TIME)
    assert vault.bucket is not None
    vault.write("held", b"a file")
    vault.sync()
    vault.bucket.put("held/below", b"no place for it")
    run = vault.sync()
    assert run["skipped"] == {"below_file": 1}
    assert vault.files() == {"held": b"a file"}
    assert vault.bucket.objects() == {"held": b"a file", "held/below": b"no place for it"}


def test_what_is_no_file_is_skipped(roto: Stage, create: CreateVault, tmp_path: Path) -> None:
    vault = create(roto, "--strategy", "sync", *LIST_EACH_TIME)
    assert vault.bucket is not None
    vault.write("file", b"body")
    vault.write("folder/file", b"body")
    (tmp_path / "secret").write_bytes(b"outside")
    for name, target in {"inside": "file", "outside": str(tmp_path), "loop": "loop", "nowhere": "gone"}.items():
        (vault.root / name).symlink_to(target)
    (vault.root / "to folder").symlink_to("folder")
    os.mkfifo(vault.root / "fifo")
    Path(os.fsdecode(os.fsencode(vault.root) + b"/latin-\xff")).write_bytes(b"no UTF-8")
    vault.write("folder/.vaulthalla/x", b"reserved")
    with listening(vault.root / "socket"):
        for _ in range(2):
            vault.out_of_doubt()
            run = vault.sync()
            assert run["skipped"] == {"reserved": 1, "special": 2, "symlink": 5, "undecodable": 1}
    assert vault.bucket.objects() == {"file": b"body", "folder/file": b"body"}
    assert sent(run) in vault.relisted()


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        where = os.getcwd()
        # A socket's path is short.
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(where)
        yield


def test_a_symlink_in_place_of_a_file_deletes_nothing(roto: Stage, create: CreateVault, tmp_path: Path) -> None:
    """Neither here nor there, nor at what it points to."""
    vault = create(roto, "--strategy", "sync", "--on-sync-conflict", "keep_remote", *LIST_EACH_TIME)
    assert vault.bucket is not None
    vault.write("file", b"body")
    vault.write("folder/file", b"body")
    vault.sync()
    (vault.root / "file").unlink()
    shutil.rmtree(vault.root / "folder")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"outside")
    (vault.root / "file").symlink_to(tmp_path / "elsewhere" / "file")
    (vault.root / "folder").symlink_to(tmp_path / "elsewhere")
    vault.out_of_doubt()
    vault.bucket.put("folder/file", b"changed there")
    run = vault.sync()
    assert vault.bucket.objects() == {"file": b"body", "folder/file": b"changed there"}
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"outside"
    assert run["operations"]["delete_remote"] == run["operations"]["download"] == 0
    assert run["skipped"] == {"symlink": 3}


def test_what_is_below_a_vanished_mount_is_unknown(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", *LIST_EACH_TIME)
    assert vault.bucket is not None
    disk = vault.root / "disk"
    disk.mkdir()
    vault.write("file", b"body")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no leave to mount: {mounted.stderr.strip()}")
    try:
        vault.write("disk/file", b"on the disk")
        vault.sync()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    vault.out_of_doubt()
    vault.bucket.put("disk/file", b"changed there")
    vault.bucket.put("disk/new", b"new there")
    run = vault.sync()
    assert nothing_done(run)
    assert run["skipped"] == {"unmounted": 2}
    assert vault.files() == {"file": b"body"}
    assert vault.bucket.objects() == {"file": b"body", "disk/file": b"changed there", "disk/new": b"new there"}


def test_what_cannot_be_read_is_unknown(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", *LIST_EACH_TIME)
    assert vault.bucket is not None
    vault.write("file", b"body")
    vault.write("mine", b"nobody else's")
    vault.write("closed/file", b"behind a door")
    vault.sync()
    vault.out_of_doubt()
    vault.bucket.put("closed/file", b"changed there")
    vault.bucket.put("closed/new", b"new there")
    vault.write("mine", b"nobody else's, changed")
    hidden = [vault.root / "closed", vault.root / "mine"]
    outside = replace(vault, vh=replace(vault.vh, by=outsider()))
    with closed(hidden):
        run = outside.sync()
    assert nothing_done(run)
    assert run["skipped"] == {"unreadable_directory": 2, "unreadable_file": 1}
    there = {"closed/file": b"changed there", "closed/new": b"new there"}
    assert vault.bucket.objects() == {"file": b"body", "mine": b"nobody else's", **there}
    run = vault.sync()
    assert (run["operations"]["download"], run["operations"]["upload"]) == (2, 1)
    assert vault.files() == {"file": b"body", "mine": b"nobody else's, changed", **there}


def outsider() -> tuple[str, ...]:
    """What commands are run by, so that they cannot read what is closed: root needs other measures than others."""
    if os.geteuid():
        return ()
    by = (sys.executable, outsiders.__file__)
    if subprocess.run([*by, "true"], check=False, capture_output=True).returncode:
        pytest.skip("root reads whatever it likes, and may make no user namespaces")
    return by


@contextmanager
def closed(paths: list[Path]) -> Iterator[None]:
    """Whoever `outsider` runs can read none of the paths."""
    owner, mode = (outsiders.STRANGER, 0o700) if os.geteuid() == 0 else (-1, 0)
    before = [(path, path.stat()) for path in paths]
    for path in paths:
        os.chown(path, owner, owner)
        path.chmod(mode)
    try:
        yield
    finally:
        for path, was in before:
            os.chown(path, was.st_uid, was.st_gid)
            path.chmod(stat.S_IMODE(was.st_mode))


def test_files_that_move_under_the_sync_wait_for_the_next(roto: Stage, create: CreateVault) -> None:
    """One vanishes and one grows between plan and upload: neither is sent as something it is not."""
    vault = create(roto, "--strategy", "sync", *LIST_EACH_TIME)
    assert vault.bucket is not None
    files = {f"{number:03}": b"x" for number in range(48)}
    for path, body in {**files, "z grows": b"short", "z vanishes": b"gone soon"}.items():
        vault.write(path, body)
    run = while_uploading(vault, partial(_move, vault))
    assert run["operations"]["upload"] == len(files)
    assert run["skipped"] == {"changed_since_planned": 2}
    assert vault.bucket.objects() == files
    assert vault.sync()["operations"]["upload"] == 1
    assert vault.files() == vault.bucket.objects() == {**files, "z grows": b"short and longer"}


def _move(vault: Vault) -> None:
    with (vault.root / "z grows").open("ab") as file:
        file.write(b" and longer")
    (vault.root / "z vanishes").unlink()


def while_uploading(vault: Vault, happens: Callable[[], None]) -> dict[str, dict[str, int]]:
    """A sync that sends its PUTs slowly, and what happens once the first of them is under way."""
    assert vault.proxy is not None
    vault.proxy.reset()
    vault.proxy.add(Fault(action="delay", request_class="put", seconds=0.7, times=48))
    process = vault.vh.begin("vault", "sync", vault.name)
    while process.poll() is None and not vault.proxy.counts.requests["put"]:
        threading.Event().wait(0.01)
    happens()
    out, err = process.communicate()
    result = Result(code=process.returncode, out=out, err=err)
    assert result.code == 0, result
    run: dict[str, dict[str, int]] = result.json
    assert run["requests"] == vault.seen()
    return run
