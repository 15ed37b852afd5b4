"""A blocked sync until somebody has seen to it: through the command line, to a real web server and into mail files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import CreateVault
from tests.acceptance.driver import Vh
from tests.acceptance.test_price_budgets import limited
from tests.acceptance.test_pricing import of
from tests.support.hooks import Hook

__all__ = ["limited", "of"]


@pytest.fixture
def sender(vh: Vh, tmp_path: Path) -> Iterator[tuple[Vh, Hook, Path]]:
    """The command line with both channels set up; nobody else sends."""
    letters = tmp_path / "mail"
    with Hook() as hook:
        ways = {
            "VAULTHALLA_NOTIFY_EMAIL": "ops@example.org",
            "VAULTHALLA_NOTIFY_WEBHOOK_URL": hook.address,
            "VAULTHALLA_NOTIFY_WEBHOOK_SECRET": "a secret of enough bytes",
            "EMAIL_BACKEND": "django.core.mail.backends.filebased.EmailBackend",
            "EMAIL_FILE_PATH": str(letters),
        }
        yield replace(vh, environment={**vh.environment, **ways}), hook, letters
    vh.run("notifications", "ack", "--all", code=0)


def test_a_blocked_sync_is_told_once_and_silenced(limited: Any, vh: Vh, sender: Any) -> None:
    sending, hook, letters = sender
    vh.run("notifications", "ack", "--all", code=0)
    for _ in range(2):
        limited.sync(code=3)
    # What was spent before the limit was set is more than nine tenths of it. Other tests' vaults are told of as well.
    share, found = [n for n in vh.run("notifications", "list").json["notifications"] if n["vault"] == limited.name]
    assert (found["topic"], found["vault"], found["count"]) == ("budget.sync_blocked", limited.name, 2)
    assert (share["topic"], share["window"], share["count"]) == ("budget.warn_threshold", "daily", 1)
    sent = [sending.run("notifications", "send", code=0).json for _ in range(2)]
    assert sent[0]["delivered"] >= 4
    assert sent[1] == {"delivered": 0, "failed": 0}
    mine = {taken.json["id"]: taken.json["remedy"] for taken in hook.taken if taken.json["vault"] == limited.name}
    assert mine == {found["id"]: found["remedy"], share["id"]: share["remedy"]}
    assert all(taken.headers["webhook-signature"].startswith("v1,") for taken in hook.taken)
    mail = "".join(file.read_text() for file in letters.iterdir())
    assert f"Subject: [vaulthalla] critical: {limited.name}: sync stopped (price_budget)" in mail
    info = vh.run("notifications", "info", found["id"], code=0).json
    assert [(way["channel"], way["attempts"]) for way in info["deliveries"]] == [("email", 1), ("webhook", 1)]
    seen = vh.run("notifications", "ack", found["id"], "--by", "ann", code=0).json["notifications"]
    assert seen[0]["acknowledged_by"] == "ann"
    still = {n["id"] for n in vh.run("notifications", "list", code=0).json["notifications"]}
    assert still & {found["id"], share["id"]} == {share["id"]}
    every = vh.run("notifications", "list", "--all", code=0).json["notifications"]
    assert found["id"] in {one["id"] for one in every}


def test_a_missing_root_is_told_and_over_with_the_next_success(create: CreateVault, vh: Vh) -> None:
    vault = create(None)
    hidden = vault.root.rename(vault.root.with_name("hidden"))
    vault.sync(code=3)
    mine = [n for n in vh.run("notifications", "list").json["notifications"] if n["vault"] == vault.name]
    assert [(n["severity"], n["resolved_at"]) for n in mine] == [("critical", None)]
    hidden.rename(vault.root)
    vault.sync()
    assert vault.name not in {n["vault"] for n in vh.run("notifications", "list").json["notifications"]}


def test_channels_are_tried_out(vh: Vh, sender: Any) -> None:
    sending, hook, letters = sender
    assert vh.refused("notifications", "test")["code"] == "no_channel"
    assert sending.refused("notifications", "test", "--channel", "pigeon")["code"] == "invalid_value"
    tried = sending.run("notifications", "test", code=0).json["channels"]
    assert {one["channel"] for one in tried if one["delivered"]} == {"email", "webhook"}
    assert len(list(letters.iterdir())) == 1
    hook.answers = [500]
    assert sending.run("notifications", "test", "--channel", "webhook", code=1).json["channels"][0]["error"]


def test_bad_input_names_itself(vh: Vh) -> None:
    for number in ("9" * 30, "x"):
        assert vh.refused("notifications", "info", number)["code"] == "not_found"
        assert vh.refused("notifications", "ack", number)["code"] == "not_found"
    assert vh.refused("notifications", "ack")["code"] == "invalid_value"
    address = "VAULTHALLA_NOTIFY_WEBHOOK_URL"
    alone = replace(vh, environment={**vh.environment, address: "https://hooks.example.org/"})
    assert "VAULTHALLA_NOTIFY_WEBHOOK_SECRET" in alone.refused("notifications", "list")["message"]
