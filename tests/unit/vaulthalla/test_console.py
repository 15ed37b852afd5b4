"""Results go to stdout, messages to stderr; under --json both can be parsed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from vaulthalla.console import Console, cell, fields, printable, rfc3339, table, to_json
from vaulthalla.errors import Refused


def test_a_result_is_json_or_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    Console(json=True).result({"a": 1}, "for people")
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    Console().result({"a": 1}, lambda value: f"a is {value['a']}")
    assert capsys.readouterr().out == "a is 1\n"


def test_messages_keep_out_of_stdout_and_out_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    Console().message("hello")
    Console(json=True).message("hello")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_json_forms() -> None:
    moment = datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC)
    text = to_json({"money": Decimal("0.10"), "at": moment, "path": Path("/a"), "none": None})
    assert json.loads(text) == {"money": "0.10", "at": "2026-11-24T01:02:03Z", "path": "/a", "none": None}
    assert rfc3339(moment) == "2026-11-24T01:02:03Z"


def test_a_question_without_a_terminal_is_refused() -> None:
    with pytest.raises(Refused, match="Sure") as caught:
        Console().confirm("Sure?", yes=False)
    assert caught.value.remedy == "Add --yes to say yes."
    Console().confirm("Sure?", yes=True)


def test_progress_without_a_terminal_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress("Working", total=2) as progress:
        progress.update(done=1)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_names_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\n") == r"a\x1b[2Jb\n"
    assert cell(None) == "-"
    assert cell(True) == "yes"


def test_columns_and_fields_align() -> None:
    assert table(["A", "BB"], [["x", 1], ["yyy", 22]]) == "A    BB\nx    1\nyyy  22"
    assert table(["A"], [], empty="nothing") == "nothing"
    assert fields({"A": 1, "Long": "x"}) == "A:     1\nLong:  x"
