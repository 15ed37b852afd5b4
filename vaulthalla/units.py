"""Sizes, durations and limits as people write them, strictly: what is not understood is refused by the option's name.

Sizes:     `1048576`, `512MiB`, `10G` (K M G T P alone and with `iB` are powers of 1024, with `B` powers of 1000).
Durations: `90` (seconds), `15m`, `24h`, `7d`, `2w`, `1h30m`.
Limits:    either of them, or a plain count, or `unlimited`, `none` or `null` for no limit.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from vaulthalla.errors import Refused

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNLIMITED = ("unlimited", "none", "null")
# PostgreSQL's bigint and integer: a value that parses can be stored.
LARGEST = 2**63 - 1
LONGEST = 2**31 - 1

_COUNT = re.compile(r"[0-9]{1,19}")
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*(?:([kmgtp])(i?b)?|b)?", re.IGNORECASE)
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile("".join(f"(?:([0-9]{{1,12}}){unit})?" for unit in _SECONDS), re.IGNORECASE)

ACCEPTED_COUNT = "a whole number like 500"
ACCEPTED_SIZE = "a size like 10G, 512MiB or a number of bytes"
ACCEPTED_DURATION = "a duration like 90 (seconds), 15m, 24h, 7d or 1h30m"
OR_UNLIMITED = ", or 'unlimited'"


def refuse(option: str, accepted: str) -> Refused:
    """The error for one option's value."""
    return Refused(f"{option} must be {accepted}.", code="invalid_value", remedy=f"Give {option} {accepted}.")


def count(text: str, *, option: str, unlimited: bool = False) -> int:
    """A non-negative whole number."""
    if not _COUNT.fullmatch(text) or int(text) > LARGEST:
        raise refuse(option, ACCEPTED_COUNT + OR_UNLIMITED * unlimited)
    return int(text)


def size(text: str, *, option: str, unlimited: bool = False) -> int:
    """Bytes; a fraction of a byte is dropped."""
    match = _SIZE.fullmatch(text)
    whole = int(Decimal(match[1]) * _factor(match[2], match[3])) if match else -1
    if not match or whole > LARGEST or ("." in match[1] and not match[2]):
        raise refuse(option, ACCEPTED_SIZE + OR_UNLIMITED * unlimited)
    return whole


def duration(text: str, *, option: str, minimum: int = 0, unlimited: bool = False) -> int:
    """Seconds."""
    seconds = _seconds(text)
    if seconds is None or not minimum <= seconds <= LONGEST:
        least = f" of at least {format_duration(minimum)}" if minimum else ""
        raise refuse(option, ACCEPTED_DURATION + least + OR_UNLIMITED * unlimited)
    return seconds


def limited_count(text: str, *, option: str) -> int | None:
    return None if is_unlimited(text) else count(text, option=option, unlimited=True)


def limited_size(text: str, *, option: str) -> int | None:
    return None if is_unlimited(text) else size(text, option=option, unlimited=True)


def limited_duration(text: str, *, option: str) -> int | None:
    return None if is_unlimited(text) else duration(text, option=option, unlimited=True)


def is_unlimited(text: str) -> bool:
    return text.lower() in UNLIMITED


def format_size(number: int | None) -> str:
    """`10 GiB`, `1.5 MiB`, `999 B`; None is `unlimited`."""
    if number is None:
        return UNLIMITED[0]
    value, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def format_duration(seconds: int | None) -> str:
    """The shortest spelling that reads back as the same number: `15m`, `1h30m`; None is `unlimited`."""
    if seconds is None:
        return UNLIMITED[0]
    parts, rest = [], seconds
    for unit, length in list(_SECONDS.items())[1:]:
        amount, rest = divmod(rest, length)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"


def format_ns(moment: int | None) -> str | None:
    """RFC 3339 in UTC, of nanoseconds since 1970; None for what no calendar of four-digit years holds."""
    if moment is None:
        return None
    seconds, rest = divmod(moment, 10**9)
    try:
        return f"{(EPOCH + timedelta(seconds=seconds)).isoformat()[:19]}.{rest:09}Z"
    except OverflowError:
        return None


def format_limit(number: int | None) -> str:
    return UNLIMITED[0] if number is None else str(number)


def _factor(letter: str | None, suffix: str | None) -> int:
    if not letter:
        return 1
    base = 1000 if (suffix or "").lower() == "b" else 1024
    power = "kmgtp".index(letter.lower()) + 1
    return int(base**power)


def _seconds(text: str) -> int | None:
    if re.fullmatch(r"[0-9]{1,12}", text):
        return int(text)
    match = _DURATION.fullmatch(text)
    if not text or not match:
        return None
    return sum(int(amount or 0) * length for amount, length in zip(match.groups(), _SECONDS.values(), strict=True))
