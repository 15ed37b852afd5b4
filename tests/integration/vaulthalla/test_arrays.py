"""Array literals, as PostgreSQL reads them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaulthalla.arrays import literal

pytestmark = pytest.mark.django_db

TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"))
OFFSETS = st.integers(-15 * 60, 15 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
YEARS = {"min_value": datetime(2, 1, 1), "max_value": datetime(9998, 1, 1)}  # noqa: DTZ001 - bounds have no zone
LISTS = {
    "text": st.lists(TEXT | st.none()),
    "bigint": st.lists(st.integers(-(2**63), 2**63 - 1) | st.none()),
    "boolean": st.lists(st.booleans() | st.none()),
    # A zone's gaps and folds hold times that Python calls equal to none of another zone.
    "timestamptz": st.lists(st.datetimes(**YEARS, timezones=OFFSETS) | st.none()),
    "bytea": st.lists(st.binary(max_size=40) | st.none()),
}


@pytest.mark.parametrize("kind", LISTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_list_comes_back_as_it_was(kind: str, data: st.DataObject) -> None:
    values: list[Any] = data.draw(LISTS[kind])
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT %s::{kind}[]", [literal(values)])
        (found,) = cursor.fetchone()
    assert [bytes(v) if isinstance(v, memoryview) else v for v in found] == values
