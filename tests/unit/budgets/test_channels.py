"""Signatures as the receivers' libraries check them, and pauses that grow and end."""

from __future__ import annotations

from datetime import timedelta

import pytest

from budgets.channels import signed
from budgets.deliver import pause
from vaulthalla import env


def test_the_specifications_own_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VH_KEY", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    key = env.signing_key("VH_KEY", needed_by="VH_URL")
    headers = signed(b'{"test": 2432232314}', message="msg_p5jXN8AQM9LWM0D4loKWxJek", now=1614265330, key=key)
    assert headers == {
        "content-type": "application/json",
        "user-agent": "vaulthalla",
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("change", [{"now": 2}, {"message": "b"}, {"key": b"other"}])
def test_time_name_and_key_are_signed(change: dict[str, object]) -> None:
    common: dict[str, object] = {"message": "a", "now": 1, "key": b"key"}
    first = signed(b"{}", **common)  # type: ignore[arg-type]
    other = signed(b"{}", **{**common, **change})  # type: ignore[arg-type]
    assert first["webhook-signature"] != other["webhook-signature"]


def test_pauses_grow_and_end() -> None:
    pauses = [pause(attempts) for attempts in range(1, 10)]
    assert pauses == [*(timedelta(minutes=m) for m in (1, 2, 4, 8, 16, 32, 60)), None, None]
