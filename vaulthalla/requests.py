"""The seven things a budget counts, and vectors of them.

A vector is what an operation costs, what a plan needs, what a chunk holds: one integer per class,
six counts of HTTP attempts and one count of body bytes downloaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum


class RequestClass(StrEnum):
    """Billing classes; the value is the field's name in JSON and in `--s3-budget-<field>`."""

    LIST = "list"
    HEAD = "head"
    GET = "get"
    PUT = "put"
    COPY = "copy"
    DELETE = "delete"
    DOWNLOAD_BYTES = "downloaded_bytes"

    @property
    def field(self) -> str:
        """The budget field that limits this class: `download_bytes`, else the class's own name."""
        return "download_bytes" if self is RequestClass.DOWNLOAD_BYTES else self.value

    @property
    def option(self) -> str:
        """The command-line option that raises this field."""
        return f"--s3-budget-{self.field.replace('_', '-')}"


class Requests(Counter[RequestClass]):
    """A vector of requests; absent classes are zero. Adds, subtracts and compares as a Counter."""

    def __init__(self, amounts: Mapping[RequestClass, int] | None = None, /) -> None:
        # A Counter would first find out what it was given, which takes longer than all else about these.
        dict.__init__(self, amounts or {})

    @classmethod
    def summed(cls, parts: Iterable[Mapping[RequestClass, int]]) -> Requests:
        whole = cls()
        for part in parts:
            whole.update(part)
        return whole

    def as_json(self) -> dict[str, int]:
        return {c.value: self[c] for c in RequestClass}
