"""Sizes, durations and limits are read strictly and refused by the option's name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaulthalla import units
from vaulthalla.errors import Refused


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("1048576", 2**20),
        ("512MiB", 512 * 2**20),
        ("10G", 10 * 2**30),
        ("10g", 10 * 2**30),
        ("10 GiB", 10 * 2**30),
        ("1.5K", 1536),
        ("2GB", 2 * 10**9),
        ("7B", 7),
        ("1P", 2**50),
    ],
)
def test_sizes_that_are_read(text: str, number: int) -> None:
    assert units.size(text, option="--s3-budget-download-bytes") == number


@pytest.mark.parametrize("text", ["", " ", "-1", "10X", "1e9", "G", "1.5", "ten", "0x10", "١٢", "9" * 20, "99999999P"])
def test_sizes_that_are_refused_by_name(text: str) -> None:
    with pytest.raises(Refused, match="--s3-budget-download-bytes must be a size") as caught:
        units.size(text, option="--s3-budget-download-bytes")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("1h30m", 5_400), ("2w", 1_209_600), ("1d1s", 86_401)],
)
def test_durations_that_are_read(text: str, seconds: int) -> None:
    assert units.duration(text, option="--interval") == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "30m1h", "1h30", "-5", "1.5h", "1 h", "5y", "1h1h", "٣", "99999999999", "none"]
)
def test_durations_that_are_refused_by_name(text: str) -> None:
    with pytest.raises(Refused, match="--interval must be a duration"):
        units.duration(text, option="--interval")


def test_a_duration_below_the_minimum_is_refused() -> None:
    with pytest.raises(Refused, match="of at least 1s"):
        units.duration("0", option="--interval", minimum=1)


@pytest.mark.parametrize("text", ["unlimited", "none", "null", "NONE", "Unlimited"])
def test_words_that_clear_a_limit(text: str) -> None:
    assert units.limited_count(text, option="--x") is None
    assert units.limited_size(text, option="--x") is None
    assert units.limited_duration(text, option="--x") is None


@pytest.mark.parametrize("text", ["", "-1", "10G", "1_000", "1.0", "nope", "9" * 20])
def test_counts_that_are_refused_say_that_unlimited_is_accepted(text: str) -> None:
    with pytest.raises(Refused, match="or 'unlimited'"):
        units.limited_count(text, option="--s3-budget-list")


@given(st.integers(min_value=0, max_value=units.LONGEST))
def test_a_formatted_duration_reads_back(seconds: int) -> None:
    assert units.duration(units.format_duration(seconds), option="--x") == seconds


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (units.limited_count, units.limited_size, units.limited_duration):
        try:
            value = read(text, option="--x")
        except Refused:
            continue
        assert value is None or 0 <= value <= units.LARGEST


def test_sizes_for_people() -> None:
    assert [units.format_size(n) for n in (None, 0, 999, 1536, 10 * 2**30)] == [
        "unlimited",
        "0 B",
        "999 B",
        "1.5 KiB",
        "10 GiB",
    ]


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_795_750_818_611_387_102, "2026-11-27T03:40:18.611387102Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
        (10**21, None),
    ],
)
def test_file_times_keep_their_nanoseconds(nanoseconds: int | None, text: str | None) -> None:
    assert units.format_ns(nanoseconds) == text
