"""Vaults through the command line: declared, changed and deleted, or refused with nothing changed."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.integration.vaulthalla.conftest import Vh
from tests.support.servers import ACCESS_KEY, SECRET, S3Server
from vaulthalla.vaults.models import ApiKey, SyncPolicy, Vault
from vaulthalla.work.models import Run, RunKind, RunStatus


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    (tmp_path / "replica").mkdir()
    return tmp_path / "replica"


@pytest.fixture
def key(db: None) -> ApiKey:
    return ApiKey.objects.create(
        name="k", provider="other", endpoint="http://127.0.0.1:9", region="auto", access_key="a", secret="b"
    )


@pytest.fixture
def s3(key: ApiKey, root: Path) -> tuple[object, ...]:
    """Options of an S3 vault that asks no server."""
    return ("--s3", "--root", root, "--api-key", key.name, "--bucket", "photos", "--no-verify")


def other_directory(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_an_s3_vault_gets_the_documented_defaults(vh: Vh, s3: tuple[object, ...], root: Path) -> None:
    made = vh("vault", "create", "photos", *s3, "--prefix", "a/b").value
    assert made == vh("vault", "info", "photos").value == vh("vault", "info", made["id"]).value
    assert made == vh("vault", "list", "--s3").value["vaults"][0]
    assert (made["kind"], made["root"], made["replica"], made["prefix"]) == ("s3", str(root), None, "a/b/")
    assert (made["strategy"], made["conflict_policy"], made["provider"], made["api_key"]) == (
        "cache",
        "ask",
        "other",
        "k",
    )
    assert made["policy"] == {
        "interval_seconds": 300,
        "enabled": True,
        "strategy": "cache",
        "conflict_policy": "ask",
        "max_remote_index_age_seconds": 86_400,
        "on_stale_index": "reconcile",
        "max_delete": "50%",
        "delete_foreign": False,
        "events_queue": None,
    }
    assert made["budget"] == {
        "preset": "balanced",
        "list": 100,
        "head": 1_000,
        "get": 1_000,
        "put": 1_000,
        "copy": 100,
        "delete": 1_000,
        "download_bytes": 10 * 2**30,
    }
    assert made["conditional"] == {"put": False, "copy": False, "delete": False}
    assert isinstance(made["id"], str)
    marker = json.loads((root / ".vaulthalla" / "vault.json").read_text())
    assert str(Vault.objects.get().marker) in marker.values()


def test_a_local_vault_syncs_with_its_replica(vh: Vh, root: Path, replica: Path) -> None:
    made = vh("vault", "create", "docs", "--local", "--root", root, "--replica", replica).value
    assert (made["kind"], made["replica"], made["strategy"], made["conflict_policy"]) == (
        "local",
        str(replica),
        "sync",
        "keep_both",
    )
    assert made["budget"]["preset"] == "unlimited"
    assert (made["bucket"], made["api_key"], made["conditional"]) == (None, None, None)
    assert vh("vault", "list", "--s3").value == {"vaults": []}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--s3-budget-list", "5", "--s3-budget-preset", "bulk"], {"list": 5, "head": 10_000, "preset": "custom"}),
        (["--s3-budget-preset", "unlimited"], {"list": None, "download_bytes": None, "preset": "unlimited"}),
        (["--s3-budget-download-bytes", "10G"], {"download_bytes": 10 * 2**30, "preset": "balanced"}),
        (["--budget-preset", "bulk", "--s3-budget-get", "none"], {"get": None, "put": 10_000, "preset": "custom"}),
        (["--s3-budget-put", "0"], {"put": 0, "preset": "custom"}),
    ],
)
def test_a_preset_comes_before_single_fields(
    vh: Vh, s3: tuple[object, ...], options: list[str], expected: dict[str, Any]
) -> None:
    budget = vh("vault", "create", "photos", *s3, *options).value["budget"]
    assert {name: budget[name] for name in expected} == expected


BAD_POLICIES = [
    (["--interval", "0"], "--interval"),
    (["--interval", "soon"], "--interval"),
    (["--interval", ""], "--interval"),
    (["--max-remote-index-age", "1y"], "--max-remote-index-age"),
    (["--strategy", "both"], "--strategy"),
    (["--on-sync-conflict", "overwrite"], "--on-sync-conflict"),
    (["--strategy", "mirror", "--on-sync-conflict", "keep_both"], "keep_both"),
    (["--delete-foreign"], "--delete-foreign"),
    (["--on-stale-index", "guess"], "--on-stale-index"),
    (["--max-delete", "101%"], "--max-delete"),
    (["--max-delete", "-1"], "--max-delete"),
    (["--s3-budget-preset", "huge"], "--s3-budget-preset"),
    (["--s3-budget-list", "-1"], "--s3-budget-list"),
    (["--s3-budget-head", "1.5"], "--s3-budget-head"),
    (["--s3-budget-get", ""], "--s3-budget-get"),
    (["--s3-budget-put", "9" * 20], "--s3-budget-put"),
    (["--s3-budget-copy", "ten"], "--s3-budget-copy"),
    (["--s3-budget-delete", "10G"], "--s3-budget-delete"),
    (["--s3-budget-download-bytes", "10X"], "--s3-budget-download-bytes"),
]


@pytest.mark.parametrize(("options", "said"), BAD_POLICIES)
def test_bad_policies_are_refused_by_field(vh: Vh, s3: tuple[object, ...], options: list[str], said: str) -> None:
    answer = vh("vault", "create", "photos", *s3, *options)
    assert (answer.code, answer.value) == (2, None)
    assert said in answer.error["message"]
    assert not Vault.objects.exists()
    made = vh("vault", "create", "photos", *s3).value
    assert vh("vault", "update", "photos", *options).code == 2
    assert vh("vault", "info", "photos").value == made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bucket", "a b"], "--bucket"),
        (["--prefix", "/a"], "--prefix"),
        (["--prefix", "a//b"], "--prefix"),
        (["--prefix", "../a"], "--prefix"),
        (["--prefix", ".vaulthalla"], "--prefix"),
        (["--prefix", "x" * 1000], "--prefix"),
        (["--storage-class", "DEEP_ARCHIVE"], "--storage-class"),
        (["--storage-class", "not a class"], "--storage-class"),
        (["--api-key", "nobody"], "nobody"),
        (["--replica", "."], "--replica"),
    ],
)
def test_bad_places_are_refused_by_option(vh: Vh, s3: tuple[object, ...], options: list[str], said: str) -> None:
    answer = vh("vault", "create", "photos", *s3, *options)
    assert (answer.code, answer.value) == (2, None)
    assert said in answer.error["message"]
    assert not Vault.objects.exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--bucket", "b"],
        ["--api-key", "k"],
        ["--prefix", "p"],
        ["--storage-class", "STANDARD"],
        ["--strategy", "sync"],
        ["--max-remote-index-age", "1h"],
        ["--on-stale-index", "stall"],
        ["--delete-foreign"],
        ["--take-over"],
        ["--s3-budget-preset", "bulk"],
        ["--s3-budget-list", "1"],
        ["--s3-budget-download-bytes", "1"],
    ],
)
def test_options_of_buckets_do_not_fit_local_vaults(vh: Vh, root: Path, replica: Path, options: list[str]) -> None:
    local = ("--local", "--root", root, "--replica", replica)
    answer = vh("vault", "create", "docs", *local, *options)
    assert (answer.code, answer.error["code"]) == (2, "not_for_local_vaults")
    assert options[0] in answer.error["message"]
    assert not Vault.objects.exists()


@pytest.mark.parametrize("kind", [[], ["--local", "--s3"]])
def test_a_vault_is_of_exactly_one_kind(vh: Vh, root: Path, kind: list[str]) -> None:
    assert vh("vault", "create", "docs", *kind, "--root", root).code == 2


def test_a_vault_needs_its_places(vh: Vh, root: Path) -> None:
    assert "--replica" in vh("vault", "create", "docs", "--local", "--root", root).error["message"]
    assert "--api-key" in vh("vault", "create", "docs", "--s3", "--root", root).error["message"]
    assert "--root" in vh("vault", "create", "docs", "--s3").error["message"]


def test_unusable_roots_are_refused(vh: Vh, s3: tuple[object, ...], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path, reason in ((tmp_path / "missing", "does not exist"), (file, "is not a directory")):
        answer = vh("vault", "create", "photos", *s3, "--root", path)
        assert (answer.code, answer.error["code"]) == (2, "root_unusable")
        assert reason in answer.error["message"]
    assert not Vault.objects.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_root_is_refused(vh: Vh, s3: tuple[object, ...], root: Path) -> None:
    root.chmod(0o000)
    answer = vh("vault", "create", "photos", *s3)
    root.chmod(0o700)
    assert answer.error["code"] == "root_unusable"


def test_roots_share_nothing_with_the_home(vh: Vh, s3: tuple[object, ...], tmp_path: Path) -> None:
    home = Path(os.environ["VAULTHALLA_HOME"])
    inside = home / f"root-{uuid.uuid4()}"
    inside.mkdir()
    link = tmp_path / "link"
    link.symlink_to(inside)
    for path in (home, home.parent, "/", inside, link):
        answer = vh("vault", "create", "photos", *s3, "--root", path)
        assert (answer.code, answer.error["code"]) == (2, "root_overlap"), path
    assert not Vault.objects.exists()
    inside.rmdir()


def test_roots_and_replicas_share_nothing_with_each_other(vh: Vh, root: Path, replica: Path, tmp_path: Path) -> None:
    local = ("--local", "--replica")
    assert vh("vault", "create", "a", *local, replica, "--root", root).code == 0
    below_root, below_replica = other_directory(root, "x"), other_directory(replica, "x")
    fresh = other_directory(tmp_path, "fresh")
    for one, other in (
        (root, fresh),
        (below_root, fresh),
        (fresh, below_replica),
        (fresh, tmp_path),
        (fresh, fresh),
        (fresh, other_directory(fresh, "y")),
    ):
        answer = vh("vault", "create", "b", *local, other, "--root", one)
        assert (answer.code, answer.error["code"]) == (2, "root_overlap"), (one, other)
    assert Vault.objects.count() == 1


def test_a_mirror_shares_its_place_with_nobody(vh: Vh, s3: tuple[object, ...], tmp_path: Path) -> None:
    assert vh("vault", "create", "a", *s3, "--prefix", "x").code == 0
    second = ("vault", "create", "b", *s3, "--root", other_directory(tmp_path, "second"))
    assert vh(*second, "--strategy", "mirror").error["code"] == "overlap"
    assert vh(*second, "--prefix", "x/y", "--strategy", "mirror").error["code"] == "overlap"
    assert vh(*second, "--prefix", "xy", "--strategy", "mirror").code == 0
    third = ("vault", "create", "c", *s3, "--root", other_directory(tmp_path, "third"))
    assert vh(*third, "--prefix", "xy/z").error["code"] == "overlap"
    assert vh(*third, "--prefix", "x").code == 0, "conditional writes keep two that accept changes apart"
    assert vh("vault", "update", "c", "--strategy", "mirror").error["code"] == "overlap"
    assert vh("vault", "update", "c", "--strategy", "mirror", "--take-over").code == 0
    assert vh("vault", "update", "c", "--interval", "1h").code == 0, "an overlap once accepted stays accepted"


def test_an_update_changes_only_what_is_named(vh: Vh, s3: tuple[object, ...]) -> None:
    before = vh("vault", "create", "photos", *s3, "--description", "Trips").value
    after = vh("vault", "set", "photos", "--interval", "1h30m", "--on-sync-conflict", "keep-local", "--disable").value
    assert set(after.pop("changed")) == {"interval_seconds", "conflict_policy", "enabled"}
    expected = {**before["policy"], "interval_seconds": 5_400, "conflict_policy": "keep_local", "enabled": False}
    assert after["policy"] == expected
    same = ("id", "name", "description", "root", "bucket", "prefix", "budget", "api_key")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert vh("vault", "update", "photos").code == 2


def test_leaving_mirror_lifts_delete_foreign(vh: Vh, s3: tuple[object, ...]) -> None:
    vh("vault", "create", "photos", *s3, "--strategy", "mirror", "--delete-foreign")
    after = vh("vault", "update", "photos", "--strategy", "sync").value
    assert after["policy"]["delete_foreign"] is False
    assert "delete_foreign" in after["changed"]


def test_a_change_ends_a_back_off(vh: Vh, s3: tuple[object, ...]) -> None:
    vh("vault", "create", "photos", *s3)
    SyncPolicy.objects.update(backoff_level=4)
    vh("vault", "update", "photos", "--s3-budget-list", "200")
    assert SyncPolicy.objects.get().backoff_level == 0


def test_a_vault_that_is_pointed_elsewhere_forgets(vh: Vh, s3: tuple[object, ...], tmp_path: Path) -> None:
    from indexing.models import IndexState
    from sync.models import Base

    vault_id = int(vh("vault", "create", "photos", *s3).value["id"])
    for options, forgets in (
        (["--description", "x"], False),
        (["--storage-class", "STANDARD"], False),
        (["--bucket", "other"], True),
        (["--prefix", "p"], True),
        (["--root", str(other_directory(tmp_path, "moved"))], True),
    ):
        IndexState.objects.update_or_create(vault_id=vault_id)
        Base.objects.get_or_create(vault_id=vault_id, path="a", defaults={"etag": "e", "size": 1})
        assert vh("vault", "update", "photos", *options, "--no-verify").code == 0, options
        assert IndexState.objects.exists() is not forgets, options
        assert Base.objects.exists() is not forgets, options


def test_a_busy_vault_stays_where_it_is(vh: Vh, s3: tuple[object, ...]) -> None:
    vault_id = int(vh("vault", "create", "photos", *s3).value["id"])
    Run.objects.create(vault_id=vault_id, kind=RunKind.SYNC, status=RunStatus.RUNNING)
    for command in (("update", "photos", "--bucket", "other", "--no-verify"), ("delete", "photos", "--yes")):
        answer = vh("vault", *command)
        assert (answer.code, answer.error["code"]) == (2, "busy")
    assert vh("vault", "info", "photos").value["bucket"] == "photos"


def test_deleting_forgets_the_vault_and_leaves_its_files(vh: Vh, s3: tuple[object, ...], root: Path) -> None:
    (root / "file").write_text("kept")
    vh("vault", "create", "photos", *s3)
    assert vh("vault", "delete", "photos").error["code"] == "confirmation_needed"
    assert vh("api-key", "delete", "k", "--yes").error["code"] == "in_use"
    assert vh("vault", "delete", "photos", "--yes").value["deleted"]["name"] == "photos"
    assert (root / "file").read_text() == "kept"
    assert not Vault.objects.exists()
    assert vh("api-key", "delete", "k", "--yes").code == 0


def test_a_root_that_carries_another_vaults_marker_is_adopted_only_when_asked(vh: Vh, s3: tuple[object, ...]) -> None:
    vh("vault", "create", "photos", *s3)
    vh("vault", "delete", "photos", "--yes")
    assert vh("vault", "create", "photos", *s3).error["code"] == "root_in_use"
    assert not Vault.objects.exists()
    assert vh("vault", "create", "photos", *s3, "--adopt").code == 0


@pytest.mark.parametrize("command", [["info"], ["update"], ["delete", "--yes"]])
def test_an_unknown_vault_is_not_found(vh: Vh, command: list[str]) -> None:
    extra = ["--interval", "1h"] if command == ["update"] else []
    answer = vh("vault", *command, "nobody", *extra)
    assert (answer.code, answer.error["code"]) == (2, "not_found")


def test_a_name_made_of_digits_comes_before_an_id(vh: Vh, s3: tuple[object, ...], tmp_path: Path) -> None:
    first = vh("vault", "create", "a", *s3).value["id"]
    local = ("--local", "--root", other_directory(tmp_path, "r"), "--replica", other_directory(tmp_path, "s"))
    vh("vault", "create", first, *local)
    assert vh("vault", "info", first).value["kind"] == "local"


@pytest.mark.django_db(transaction=True)
def test_a_bucket_is_probed_before_the_vault_is_stored(vh: Vh, root: Path) -> None:
    with S3Server("roto") as server:
        server.client().create_bucket(Bucket="photos")
        ApiKey.objects.create(
            name="k",
            provider="other",
            endpoint=server.endpoint,
            region="us-east-1",
            access_key=ACCESS_KEY,
            secret=SECRET,
        )
        s3 = ("--s3", "--root", root, "--api-key", "k", "--bucket")
        missing = vh("vault", "create", "a", *s3, "nothing-here")
        assert (missing.code, missing.error["code"]) == (2, "bucket_missing")
        assert not (root / ".vaulthalla").exists()
        made = vh("vault", "create", "a", *s3, "photos")
        assert made.code == 0
        assert made.value["conditional"]["put"] is True
        assert server.client().list_objects_v2(Bucket="photos")["KeyCount"] == 0, "the probe cleans up"
    gone = vh("vault", "update", "a", "--prefix", "x")
    assert gone.code == 2
    assert vh("vault", "info", "a").value["prefix"] == ""
