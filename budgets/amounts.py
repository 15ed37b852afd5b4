"""Money and currencies as people write them, strictly."""

from __future__ import annotations

import re
from decimal import Decimal

from vaulthalla.units import refuse

_AMOUNT = re.compile(r"[0-9]{1,11}(\.[0-9]{1,8})?", re.ASCII)
_CURRENCY = re.compile(r"[A-Za-z0-9]{3,8}", re.ASCII)


def amount(text: str, *, option: str) -> Decimal:
    """Digits with at most one dot and eight decimals. Raises Refused: no sign, no exponent, no NaN."""
    if not _AMOUNT.fullmatch(text):
        raise refuse(option, "an amount like 12 or 0.05, with at most 8 decimals")
    return Decimal(text)


def currency(text: str, *, option: str) -> str:
    if not _CURRENCY.fullmatch(text):
        raise refuse(option, "a currency like USD")
    return text.upper()
