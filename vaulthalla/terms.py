"""The words a policy is made of, without Django: pure decisions import them, models offer them as choices."""

from __future__ import annotations

from enum import EnumType, StrEnum


class _Labelled(EnumType):
    """`choices` and `values`, as Django's TextChoices has them."""

    @property
    def choices(cls) -> list[tuple[str, str]]:
        return [(member.value, member.label) for member in cls]  # type: ignore[var-annotated]

    @property
    def values(cls) -> list[str]:
        return [value for value, _ in cls.choices]


class Term(StrEnum, metaclass=_Labelled):
    """A value with a label for people."""

    label: str

    def __new__(cls, value: str, label: str = "") -> Term:
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member


class Strategy(Term):
    """Which side's changes count."""

    CACHE = "cache", "cache: a local working cache over a bucket"
    SYNC = "sync", "sync: both sides accept changes"
    MIRROR = "mirror", "mirror: the local vault publishes to the bucket"


class ConflictPolicy(Term):
    """What happens when both sides changed."""

    KEEP_LOCAL = "keep_local", "keep local"
    KEEP_REMOTE = "keep_remote", "keep remote"
    KEEP_NEWEST = "keep_newest", "keep the newest by modification time"
    KEEP_BOTH = "keep_both", "keep both, the local copy beside"
    OVERWRITE = "overwrite", "overwrite: newest wins, a change beats a delete"
    ASK = "ask", "ask the operator"
