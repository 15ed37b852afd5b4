"""Commands run in this process, with their output taken apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from vaulthalla import cli


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command said. `value` is its JSON result, `error` its JSON error."""

    code: int
    value: Any
    error: dict[str, str]


Vh = Callable[..., Answer]


@pytest.fixture
def vh(capsys: pytest.CaptureFixture[str], db: None) -> Vh:
    """`vh("vault", "list")` with --json; refuses to let anything but JSON through."""

    def run(*arguments: object) -> Answer:
        code = cli.run([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        error = json.loads(captured.err)["error"] if captured.err else {}
        return Answer(code=code, value=json.loads(captured.out) if captured.out else None, error=error)

    return run
