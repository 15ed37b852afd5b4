"""What a command says: results to stdout, messages and progress to stderr; tables for people, JSON for scripts.

Under `--json` stdout carries exactly one document (or JSON Lines through `line`), and stderr nothing but
an error document, so that both can be parsed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vaulthalla.errors import Refused

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Console:
    """One command's voice."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json

    def result(self, value: Any, human: Callable[[Any], str] | str | None = None) -> None:
        """The command's result: `value` as JSON, or `human` (a text, or a function of the value)."""
        if self.json or human is None:
            text = to_json(value, indent=2)
        else:
            text = human if isinstance(human, str) else human(value)
        if text:
            print(text, file=sys.stdout, flush=True)  # noqa: T201 - this is the one place that prints

    def line(self, value: Any, human: str | None = None) -> None:
        """One element of a streamed result: a JSON line, or a line for people."""
        print(to_json(value) if self.json or human is None else human, file=sys.stdout)  # noqa: T201

    def message(self, text: str) -> None:
        """What happens, for the person watching."""
        if not self.json:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def confirm(self, question: str, *, yes: bool, option: str = "--yes") -> None:
        """Returns when the person agrees; without a terminal only the option says yes."""
        if yes:
            return
        if self.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise Refused(question, code="confirmation_needed", remedy=f"Add {option} to say yes.")
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Refused("Not confirmed; nothing was changed.", code="not_confirmed")

    def progress(self, label: str, total: int | None = None) -> Progress:
        """`with console.progress("Uploading") as progress: progress.update(done=…, total=…)`; terminals only."""
        return Progress(label, total, shown=not self.json and sys.stderr.isatty())


class Progress:
    """A bar with an ETA on a terminal, nothing elsewhere. `done` and `total` may change at any time."""

    def __init__(self, label: str, total: int | None, *, shown: bool) -> None:
        self.label, self.total, self.shown = label, total, shown
        self.bar: RichProgress | None = None
        self.drawn_at = 0.0

    def __enter__(self) -> Progress:
        if self.shown:
            self.bar = _bar()
            self.task = self.bar.add_task(self.label, total=self.total)
            self.bar.start()
        return self

    def update(self, *, done: int | None = None, total: int | None = None, label: str | None = None) -> None:
        """Cheap enough to call for every item: it draws at most ten times a second."""
        now = time.monotonic()
        if self.bar is None or (label is None and now - self.drawn_at < 0.1):
            return
        self.drawn_at = now
        self.bar.update(self.task, completed=done, total=total, description=label)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()


def to_json(value: Any, *, indent: int = 0) -> str:
    """Times as RFC 3339 with `Z`, money (Decimal) as strings; enums by value, paths as text."""
    import msgspec

    encoded = msgspec.json.encode(value, enc_hook=_encode)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()


def fields(pairs: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """Aligned `Name:  value` lines; None is shown as a dash."""
    items = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
    width = max((len(name) for name, _ in items), default=0) + 1
    return "\n".join(f"{name + ':':<{width}}  {cell(value)}".rstrip() for name, value in items)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "none") -> str:
    """Columns as wide as their widest cell; `empty` when there is no row."""
    cells = [[cell(value) for value in row] for row in rows]
    if not cells:
        return empty
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)) for row in (columns, *cells)
    ]
    return "\n".join(line.rstrip() for line in lines)


def cell(value: Any) -> str:
    """One value for people; control characters are escaped, since names may hold anything."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """Text that cannot move the cursor or break a line; undecodable bytes are shown escaped."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def rfc3339(moment: datetime | None) -> str | None:
    """`2026-11-24T01:47:00Z`, with the fraction only when there is one."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None


@contextmanager
def quiet_when_closed() -> Iterator[None]:
    """`vh … | head` ends silently."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        import os

        # What is still buffered would raise again when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _encode(value: Any) -> Any:
    from pathlib import PurePath

    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, memoryview):
        return bytes(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _bar() -> RichProgress:
    from rich import progress
    from rich.console import Console as Terminal

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=Terminal(stderr=True),
        transient=True,
    )
