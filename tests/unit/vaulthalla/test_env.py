"""Environment variables are read strictly; a refusal names the variable and never repeats its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vaulthalla import env


def test_unset_and_empty_mean_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VH_X", "  ")
    assert env.text("VH_X", "d") == "d"
    assert env.words("VH_X", ["a"]) == ["a"]
    assert env.flag("VH_X", default=True) is True
    assert env.integer("VH_X", 5) == 5
    assert env.choice("VH_X", ("a", "b"), default="a") == "a"


def test_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VH_X", " a, b ,,c ")
    assert env.words("VH_X") == ["a", "b", "c"]
    monkeypatch.setenv("VH_X", "Off")
    assert env.flag("VH_X", default=True) is False
    monkeypatch.setenv("VH_X", "15")
    assert env.integer("VH_X", 5) == 15


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda: env.flag("VH_X", default=False), "maybe-secret"),
        (lambda: env.integer("VH_X", 1), "-3-secret"),
        (lambda: env.integer("VH_X", 1, maximum=10), "11"),
        (lambda: env.choice("VH_X", ("a",), default="a"), "secret"),
        (lambda: env.database(env.text("VH_X"), name="VH_X"), "mysql://u:secret@h/d"),
        (lambda: env.database(env.text("VH_X"), name="VH_X"), "postgres://u:secret@h"),
        (lambda: env.broker(env.text("VH_X"), name="VH_X"), "amqp://u:secret@h"),
        (lambda: env.addresses("VH_X"), "ops@example.org, secret"),
        (lambda: env.addresses("VH_X"), "secret@"),
        (lambda: env.addresses("VH_X"), "a b@secret"),
        (lambda: env.web_address("VH_X"), "ftp://secret"),
        (lambda: env.web_address("VH_X"), "https://u:secret@h/"),
        (lambda: env.web_address("VH_X"), "https:///secret"),
        (lambda: env.web_address("VH_X"), "https://h:99999/secret"),
        (lambda: env.web_address("VH_X"), "https://[secret"),
        (lambda: env.signing_key("VH_X", needed_by="VH_Y"), "short-secret"),
        (lambda: env.signing_key("VH_X", needed_by="VH_Y"), "whsec_not-base64-secret-not-base64"),
        (lambda: env.signing_key("VH_X", needed_by="VH_Y"), "whsec_c2VjcmV0"),
    ],
)
def test_bad_values_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, read: Callable[[], Any], value: str) -> None:
    monkeypatch.setenv("VH_X", value)
    with pytest.raises(env.Misconfigured) as caught:
        read()
    assert "VH_X" in caught.value.message
    assert "secret" not in caught.value.message
    assert caught.value.exit_code == 2


def test_a_database_address_becomes_djangos_settings() -> None:
    found = env.database("postgres://me:p%40ss@db:6543/vault?sslmode=require")
    assert (found["USER"], found["PASSWORD"], found["HOST"], found["PORT"], found["NAME"]) == (
        "me",
        "p@ss",
        "db",
        "6543",
        "vault",
    )
    assert found["OPTIONS"] == {"sslmode": "require"}


def test_a_broker_socket_is_spelt_as_celery_wants_it() -> None:
    assert env.broker("unix:///run/x.sock?db=2") == "redis+socket:///run/x.sock?virtual_host=2"
    assert env.broker("rediss://h:6380/1") == "rediss://h:6380/1"


def test_a_key_is_needed_where_something_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VH_X", raising=False)
    assert env.signing_key("VH_X", needed_by="VH_Y") == b""
    monkeypatch.setenv("VH_Y", "https://h/")
    with pytest.raises(env.Misconfigured, match="VH_X must be set, since VH_Y is"):
        env.signing_key("VH_X", needed_by="VH_Y")
    monkeypatch.setenv("VH_X", "sixteen bytes at least")
    assert env.signing_key("VH_X", needed_by="VH_Y") == b"sixteen bytes at least"
    assert env.web_address("VH_Y") == "https://h/"
