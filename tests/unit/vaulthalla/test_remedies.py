"""Commands that are printed are commands that a shell takes."""

from __future__ import annotations

import shlex

import pytest
from typer.main import get_command

from vaulthalla.cli import application
from vaulthalla.cliroot import sync_app
from vaulthalla.remedies import SYNC_COMMANDS, sync_of
from vaulthalla.vaults.models import SyncPolicy, Vault
from vaulthalla.work.again import again
from vaulthalla.work.models import Run, RunKind


def test_the_words_that_are_commands_are_known() -> None:
    application()
    assert set(get_command(sync_app).commands) == SYNC_COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["archive", 'it\'s "odd" $HOME; `ls`', "set", "run", "42"])
def test_a_vault_of_any_name_is_reached(name: str) -> None:
    words = shlex.split(sync_of(name))
    assert words == ["vh", "vault", "sync", *(["run"] if name in SYNC_COMMANDS else []), name]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (RunKind.SYNC, {"sync": {"patterns": []}}, ["vault", "sync", "run", "set"]),
        (
            RunKind.SYNC,
            {"sync": {"patterns": [], "plan": 12, "allow_deletes": True, "offline": True}},
            ["vault", "sync", "run", "set", "--plan", "12", "--allow-deletes", "--offline"],
        ),
        # A resolution stands with its conflict: any sync carries it out.
        (RunKind.RESOLVE, {"sync": {"patterns": ["a"]}}, ["vault", "sync", "run", "set"]),
        (RunKind.FETCH, {"sync": {"patterns": ["it's", "*.raw"]}}, ["vault", "fetch", "set", "it's", "*.raw"]),
        (RunKind.FETCH, {"sync": {"patterns": ["a", "-b"]}}, ["vault", "fetch", "set", "--", "a", "-b"]),
        (RunKind.DRY_RUN, {"sync": {"refresh_index": True}}, ["vault", "sync", "dry-run", "set", "--refresh-index"]),
        (RunKind.DRY_RUN, {"sync": {"refresh_index": False}}, ["vault", "sync", "dry-run", "set"]),
        (
            RunKind.DRY_RUN,
            {"sync": {"refresh_index": False, "strategy": "sync", "conflict": "ask"}},
            ["vault", "sync", "dry-run", "set"],
        ),
        (
            RunKind.DRY_RUN,
            {"sync": {"refresh_index": True, "strategy": "mirror", "conflict": "keep_local"}},
            [
                "vault",
                "sync",
                "dry-run",
                "set",
                "--refresh-index",
                "--strategy",
                "mirror",
                "--on-sync-conflict",
                "keep_local",
            ],
        ),
        (RunKind.RECONCILE, {}, ["vault", "sync", "reconcile", "set"]),
        (
            RunKind.RECONCILE,
            {"prefix": "-a b/", "limits": {"list": None}},
            ["vault", "sync", "reconcile", "set", "--prefix=-a b/", "--allow-list-scan"],
        ),
        (RunKind.AUDIT, {"sample": 7}, ["vault", "sync", "audit", "set", "--sample", "7"]),
    ],
)
def test_what_goes_on_is_what_was_asked_for(kind: RunKind, options: dict[str, object], words: list[str]) -> None:
    vault = Vault(name="set")
    vault.policy = SyncPolicy(vault=vault, strategy="sync", conflict_policy="ask")
    run = Run(kind=kind, vault=vault, options=options)
    assert shlex.split(again(run)) == ["vh", *words]
