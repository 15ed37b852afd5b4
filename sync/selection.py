"""Which paths a run looks at: all of them, or the ones its command named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Patterns as the user wrote them: a path, a directory (everything below it), or a glob.

    `settled` also returns paths whose verdict is settled: the command asks again.
    """

    patterns: Sequence[str] = ()
    exact: bool = False
    settled: bool = False
    archived: bool = False  # ask again about objects that needed a restore
    parameters: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        # A name may hold a glob's characters, so every pattern is also a path.
        literal = list(self.patterns)
        globs = [] if self.exact else [p for p in self.patterns if GLOB.search(p)]
        directories = [] if self.exact else [p.rstrip("/") for p in literal]
        object.__setattr__(
            self,
            "parameters",
            {
                "paths": [*literal, *directories],
                "from_dirs": [f"{d}/" for d in directories],
                "to_dirs": [f"{d}0" for d in directories],
                "globs": [regular(g) for g in globs],
            }
            if self.patterns
            else {},
        )

    def condition(self, column: str) -> str:
        """An SQL condition on `column`, starting with AND; empty when everything is selected."""
        if not self.patterns:
            return ""
        return (
            f"AND ({column} = ANY(%(paths)s) OR {column} ~ ANY(%(globs)s) OR EXISTS ("
            f"SELECT FROM unnest(%(from_dirs)s::text[], %(to_dirs)s::text[]) AS d (low, high)"
            f" WHERE {column} >= d.low AND {column} < d.high))"
        )

    @property
    def unsettled(self) -> str:
        """An SQL condition under which a settled verdict counts, starting with AND."""
        if self.settled:
            return "AND false"
        return "AND b.verdict <> 'archive_skipped'" if self.archived else ""


def regular(glob: str) -> str:
    """A glob as PostgreSQL's regular expression. `*` and `?` match slashes, too: a glob is about whole paths."""
    pieces = re.split(r"(\*+|\?|\[!?\]?[^\]]*\])", glob)
    return "^" + "".join(_piece(piece) for piece in pieces) + "$"


def _piece(piece: str) -> str:
    if piece.startswith("*"):
        return ".*"
    if piece == "?":
        return "."
    if piece.startswith("[") and piece.endswith("]"):
        inner = piece[1:-1].replace("\\", "\\\\")
        return "[" + ("^" + inner[1:] if inner.startswith("!") else inner) + "]"
    return re.sub(r"([^\w\s/])", r"\\\1", piece)
