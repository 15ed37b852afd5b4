"""What comes of one execution, without a database: delays, lines for people, who handles what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from vaulthalla.work import registry
from vaulthalla.work.execute import FIRST_BACKOFF, Crashed, Interrupted, _delay, one_line
from vaulthalla.work.lease import Lease
from vaulthalla.work.phases import Phase
from vaulthalla.work.values import Yield


@pytest.mark.parametrize(
    ("outcome", "attempts", "seconds"),
    [
        (Yield("cursor"), 3, 0),
        (Yield("cursor", delay=7), 3, 7),
        (Interrupted(), 3, 0),
        (Crashed(ValueError(), FIRST_BACKOFF), 1, 5),
        (Crashed(ValueError(), FIRST_BACKOFF), 2, 10),
        (Crashed(ValueError(), FIRST_BACKOFF), 4, 40),
    ],
)
def test_when_a_chunk_may_be_claimed_again(
    outcome: Yield | Interrupted | Crashed, attempts: int, seconds: float
) -> None:
    assert _delay(cast("Lease", SimpleNamespace(attempts=attempts)), outcome) == seconds


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b"), "ValueError: a b"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 488),
    ],
)
def test_an_exception_is_one_short_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_a_kind_has_one_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(registry, "load", lambda: None)
    registry.handler("scan")(lambda lease: None)
    with pytest.raises(RuntimeError):
        registry.handler("scan")(lambda lease: None)
    with pytest.raises(LookupError):
        registry.handler_of("other")


def test_runs_without_a_finisher_of_their_own_end_with_the_common_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(registry, "load", lambda: None)
    assert registry.handler_of("finish.check")(cast("Lease", None)) is None


def test_deletes_come_after_everything_that_may_save_content() -> None:
    assert sorted(Phase) == list(Phase)
    assert Phase.TRANSFER < Phase.DELETE < Phase.FINISH == max(Phase)
