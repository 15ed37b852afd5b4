"""The decision table, cell by cell, and what holds for every cell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.decide import NOTHING_NEW, WORK, Action, Agreed, Local, Remote, Rules, Sides, decide
from vaulthalla.terms import ConflictPolicy, Strategy

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32
BASE = Agreed(size=3, mtime_ns=1, ctime_ns=1, inode=1, etag="base", sha256=OLD)

LOCAL = {
    "absent": None,
    "same": Local(size=3, mtime_ns=1, ctime_ns=1, inode=1),
    "changed": Local(size=4, mtime_ns=50, ctime_ns=50, inode=1, sha256=NEW),
}
REMOTE = {
    "absent": None,
    "same": Remote(size=3, etag="base"),
    "changed": Remote(size=4, etag="other", sha256=OTHER, mtime_ns=90),
}
CACHE, SYNC, MIRROR = Strategy.CACHE, Strategy.SYNC, Strategy.MIRROR
ASKING = Rules(strategy=SYNC, conflict=ConflictPolicy.ASK)


def sides(local: str, remote: str, *, base: bool = True) -> Sides:
    return Sides(path="f", local=LOCAL[local], remote=REMOTE[remote], base=BASE if base else None)


def act(
    strategy: Strategy, local: str, remote: str, conflict: ConflictPolicy = ConflictPolicy.ASK, **more: bool
) -> str:
    base = more.pop("base", True)
    return decide(sides(local, remote, base=base), Rules(strategy=strategy, conflict=conflict, **more)).action.value


# Each row is a row of the table: local, remote, has base; then cache, sync, mirror (asking on conflicts).
TABLE = [
    ("changed", "absent", False, ("upload", "upload", "upload")),
    ("changed", "same", True, ("upload", "upload", "upload")),
    ("absent", "changed", False, ("index_only", "download", "foreign")),
    ("absent", "same", True, ("index_only", "delete_remote", "delete_remote")),
    ("same", "changed", True, ("download", "download", "conflict")),
    ("same", "absent", True, ("delete_local", "delete_local", "upload")),
    ("changed", "changed", True, ("conflict", "conflict", "conflict")),
    ("changed", "changed", False, ("conflict", "conflict", "conflict")),
    ("changed", "absent", True, ("conflict", "conflict", "upload")),
    ("absent", "changed", True, ("index_only", "conflict", "conflict")),
    ("absent", "absent", True, ("drop_base", "drop_base", "drop_base")),
    ("same", "same", True, ("nothing", "nothing", "nothing")),
]


@pytest.mark.parametrize(("local", "remote", "base", "actions"), TABLE)
def test_each_cell_asking_on_conflicts(local: str, remote: str, base: bool, actions: tuple[str, ...]) -> None:
    assert tuple(act(s, local, remote, base=base) for s in (CACHE, SYNC, MIRROR)) == actions


# Cells that are conflicts: policy, strategy, local, remote → action.
CONFLICTS = [
    ("keep_local", SYNC, "changed", "changed", "upload"),
    ("keep_local", SYNC, "changed", "absent", "upload"),
    ("keep_local", SYNC, "absent", "changed", "delete_remote"),
    ("keep_remote", SYNC, "changed", "changed", "download"),
    ("keep_remote", SYNC, "changed", "absent", "delete_local"),
    ("keep_remote", SYNC, "absent", "changed", "download"),
    ("keep_remote", CACHE, "changed", "changed", "download"),
    ("keep_remote", CACHE, "changed", "absent", "delete_local"),
    ("keep_local", CACHE, "absent", "changed", "index_only"),
    ("keep_newest", SYNC, "changed", "changed", "download"),
    ("keep_newest", SYNC, "changed", "absent", "conflict"),
    ("keep_newest", SYNC, "absent", "changed", "conflict"),
    ("keep_both", SYNC, "changed", "changed", "keep_both"),
    ("keep_both", SYNC, "changed", "absent", "upload"),
    ("keep_both", SYNC, "absent", "changed", "download"),
    ("overwrite", SYNC, "changed", "changed", "download"),
    ("overwrite", SYNC, "changed", "absent", "upload"),
    ("overwrite", SYNC, "absent", "changed", "download"),
    ("keep_local", MIRROR, "same", "changed", "upload"),
    ("keep_remote", MIRROR, "same", "changed", "leave"),
    ("keep_local", MIRROR, "absent", "changed", "delete_remote"),
    ("keep_remote", MIRROR, "absent", "changed", "leave"),
    ("keep_local", MIRROR, "changed", "changed", "upload"),
    ("keep_remote", MIRROR, "changed", "changed", "leave"),
    ("keep_newest", MIRROR, "changed", "changed", "leave"),
    ("keep_newest", MIRROR, "absent", "changed", "conflict"),
]


@pytest.mark.parametrize(("policy", "strategy", "local", "remote", "expected"), CONFLICTS)
def test_each_conflict_policy(policy: str, strategy: Strategy, local: str, remote: str, expected: str) -> None:
    assert act(strategy, local, remote, ConflictPolicy(policy)) == expected


def pair(local: Local, remote: Remote, *, base: Agreed | None = None, **rules: bool) -> str:
    policy = Rules(strategy=SYNC, conflict=ConflictPolicy.KEEP_NEWEST, **rules)
    return decide(Sides(path="f", local=local, remote=remote, base=base), policy).action.value


def file(**known: object) -> Local:
    return Local(**{"size": 3, "mtime_ns": 5, "ctime_ns": 5, "inode": 5, **known})  # type: ignore[arg-type]


def thing(**known: object) -> Remote:
    return Remote(**{"size": 3, "etag": "e", **known})  # type: ignore[arg-type]


MD5 = b"m" * 16


@pytest.mark.parametrize(
    ("local", "remote", "expected"),
    [
        (file(sha256=OLD), thing(sha256=OLD, mtime_ns=9), "converge"),
        (file(sha256=OLD), thing(sha256=NEW, mtime_ns=9), "download"),
        (file(md5=MD5), thing(etag=MD5.hex()), "converge"),
        (file(md5=MD5), thing(etag=OTHER[:16].hex(), mtime_ns=1), "upload"),
        (file(multipart_etag="a-2"), thing(etag="a-2"), "converge"),
        (file(sha256=OLD), thing(etag="a-2", mtime_ns=9), "verify"),
        (file(), thing(mtime_ns=9), "verify"),
        (file(size=4), thing(), "verify"),  # different, but the newest cannot be told
        (file(size=4), thing(mtime_ns=5), "conflict"),  # a tie
    ],
)
def test_content_decides_before_any_policy(local: Local, remote: Remote, expected: str) -> None:
    assert pair(local, remote) == expected


def test_a_verified_pair_that_nothing_can_tell_apart_counts_as_different() -> None:
    assert pair(file(), thing(), verified=True) == "conflict"


def test_a_touched_file_with_the_content_of_the_base_moves_no_bytes() -> None:
    touched = file(sha256=OLD)
    assert pair(touched, Remote(size=3, etag="base"), base=BASE) == "converge"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"sha256": OLD}, (Action.CONVERGE, NOTHING_NEW)),
        ({"sha256": NEW}, (Action.UPLOAD, "")),
        ({}, (Action.UPLOAD, "")),  # nobody read it: what is sent is hashed, and is not sent if it is the base's
        ({"sha256": OLD, "mtime_ns": 2}, (Action.CONVERGE, "touched")),
    ],
)
def test_a_file_that_is_to_be_read_again_is_told_by_its_content_alone(
    known: dict[str, object], expected: tuple[Action, str]
) -> None:
    local = file(**{"mtime_ns": 1, "ctime_ns": 1, "inode": 1, "read_again": True, **known})
    found = decide(Sides(path="f", local=local, remote=REMOTE["same"], base=BASE), ASKING)
    assert (found.action, found.reason) == expected


def test_foreign_objects_are_deleted_only_when_asked() -> None:
    assert act(MIRROR, "absent", "changed", base=False, delete_foreign=True) == "delete_remote"


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        (thing(storage_class="GLACIER"), "archive_skipped"),
        (thing(storage_class="DEEP_ARCHIVE", restore="ongoing"), "archive_skipped"),
        (thing(storage_class="GLACIER", restore="active"), "download"),
        (thing(storage_class="GLACIER_IR"), "download"),
        (thing(storage_class="INTELLIGENT_TIERING", archive_status="ARCHIVE_ACCESS"), "archive_skipped"),
        (thing(storage_class="INTELLIGENT_TIERING"), "download"),
    ],
)
def test_the_restore_state_decides_whether_a_body_can_be_had(remote: Remote, expected: str) -> None:
    assert decide(Sides(path="f", remote=remote), ASKING).action.value == expected


states = st.sampled_from(("absent", "same", "changed"))
every_rule = st.builds(
    Rules,
    strategy=st.sampled_from(Strategy),
    conflict=st.sampled_from(ConflictPolicy),
    delete_foreign=st.booleans(),
    verified=st.booleans(),
)


@given(states, states, st.booleans(), every_rule)
def test_unknown_or_doubtful_never_acts(local: str, remote: str, base: bool, rules: Rules) -> None:
    known = sides(local, remote, base=base)
    unknown = Sides(path="f", local=known.local, remote=known.remote, base=known.base, unknown="unreadable")
    doubtful = Sides(path="f", local=known.local, remote=known.remote, base=known.base, doubtful=True)
    assert decide(unknown, rules).action is Action.PATH_SKIPPED
    assert decide(doubtful, rules).action in (Action.PATH_SKIPPED, Action.VERIFY)


@given(states, states, st.booleans(), every_rule)
def test_every_input_has_one_outcome_that_keeps_the_strategy(local: str, remote: str, base: bool, rules: Rules) -> None:
    known = sides(local, remote, base=base)
    decision = decide(known, rules)
    assert decide(known, rules) == decision
    if rules.strategy is MIRROR:
        assert decision.action not in (Action.DOWNLOAD, Action.DELETE_LOCAL)
    if rules.strategy is CACHE:
        assert decision.action is not Action.DELETE_REMOTE
    assert not (decision.settles and decision.action in WORK)


@given(states, states, st.booleans(), every_rule)
def test_a_second_look_never_asks_again(local: str, remote: str, base: bool, rules: Rules) -> None:
    verified = Rules(
        strategy=rules.strategy, conflict=rules.conflict, delete_foreign=rules.delete_foreign, verified=True
    )
    assert decide(sides(local, remote, base=base), verified).action is not Action.VERIFY
