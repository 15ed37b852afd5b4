"""Lists as array literals."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vaulthalla.arrays import Value, as_literals, literal


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "{}"),
        ([None], "{NULL}"),
        ([1, None, -3], "{1,NULL,-3}"),
        ([b"\x00\xff", None], '{"\\\\x00ff",NULL}'),
        (["a", "NULL", ""], '{"a","NULL",""}'),
        (['q"uote', "back\\slash", "{,}", "two\nlines"], '{"q\\"uote","back\\\\slash","{,}","two\nlines"}'),
        ([True, None, False], "{True,NULL,False}"),
        ([None, datetime(2026, 1, 2, tzinfo=UTC)], "{NULL,2026-01-02T00:00:00+00:00}"),
        (["a", None, 'b"'], '{"a",NULL,"b\\""}'),
    ],
)
def test_what_postgresql_reads(values: list[Value], expected: str) -> None:
    assert literal(values) == expected


@pytest.mark.parametrize("values", [["a\x00b"], ["\x00", "b"], ["a", None, "\x00"]])
def test_text_that_the_database_cannot_hold_is_refused(values: list[Value]) -> None:
    with pytest.raises(ValueError, match="NUL"):
        literal(values)


def test_only_lists_of_the_parameters_are_changed() -> None:
    assert as_literals((1, ["a"], "{b}")) == [1, '{"a"}', "{b}"]
    assert as_literals({"one": [2], "two": None}) == {"one": "{2}", "two": None}
    assert as_literals(None) is None
