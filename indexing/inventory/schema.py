"""Which column of an inventory is which. Pure.

S3 spells them `LastModifiedDate` in a manifest and `last_modified_date` in documentation: case and separators
do not matter. Columns that are not listed here are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vaulthalla.errors import Refused

EXAMPLE = "bucket,key,size,last_modified_date,etag,storage_class"
NEEDED = ("key", "size", "etag")
# Our names, by those of S3 without case and separators.
_NAMES = {
    "bucket": "bucket",
    "key": "key",
    "versionid": "version_id",
    "islatest": "is_latest",
    "isdeletemarker": "is_delete_marker",
    "size": "size",
    "lastmodifieddate": "last_modified",
    "lastmodified": "last_modified",
    "etag": "etag",
    "storageclass": "storage_class",
    "intelligenttieringaccesstier": "access_tier",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """Positions of the columns that matter, by our name, and how many a row has."""

    positions: dict[str, int]
    width: int

    def at(self, name: str) -> int | None:
        return self.positions.get(name)


def schema_of(names: Sequence[str], *, origin: str) -> Schema:
    """From a header, an option or a manifest (`origin`, for the error). Raises Refused."""
    positions: dict[str, int] = {}
    for position, name in enumerate(names):
        ours = _NAMES.get(_plain(name))
        if ours in positions:
            raise Refused(f"{origin} names {name.strip()} twice.", code="schema_invalid", remedy=_remedy())
        if ours:
            positions[ours] = position
    missing = [name for name in NEEDED if name not in positions]
    if missing:
        raise Refused(f"{origin} lacks {', '.join(missing)}.", code="schema_invalid", remedy=_remedy())
    return Schema(positions=positions, width=len(names))


def split(text: str) -> list[str]:
    """The names in an option or a manifest's `fileSchema`."""
    return [name.strip() for name in text.split(",")]


def is_header(row: Sequence[str]) -> bool:
    """Whether a row names columns: no object is called `key` in a column next to one called `size`."""
    names = {_NAMES.get(_plain(cell)) for cell in row}
    return names.issuperset(NEEDED)


def missing(name: str) -> Refused:
    """The error for a file that does not say what its columns are."""
    return Refused(f"{name} has no header, so its columns are unknown.", code="schema_missing", remedy=_remedy())


def accepted(name: str, column: str, kind: str, wanted: str) -> Refused:
    """The error for a column of a type that its meaning cannot be read from."""
    return Refused(
        f"{name}: column {column} is {kind}; accepted is {wanted}.",
        code="schema_invalid",
        remedy="Write the file again with that type, or deliver CSV.",
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _remedy() -> str:
    return f"Name the columns: --schema {EXAMPLE}"
