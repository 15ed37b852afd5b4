"""Names given by --by: one person is one name, however it is typed."""

from __future__ import annotations

import pytest

from budgets.people import LONGEST_NAME, named
from vaulthalla.errors import Refused


@pytest.mark.parametrize("by", ["ann", " ann ", "ann\n", "\tann"])
def test_spaces_around_a_name_are_none_of_it(by: str) -> None:
    assert named(by) == "ann"


@pytest.mark.parametrize("by", ["", "  ", "an\0n", "a" * (LONGEST_NAME + 1)])
def test_what_is_no_name_is_refused(by: str) -> None:
    with pytest.raises(Refused, match="--by"):
        named(by)
