"""Work done one step ahead, in a thread: what is asked for next is made while its predecessor is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(source: Iterator[T]) -> Generator[T, None, None]:
    """The same items, with one always in the making. Worth it where that leaves the interpreter's lock to others.

    Its errors come where its item would have come. `source` is used by one thread at a time, and closed with this.
    """
    end = object()
    try:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
            coming = thread.submit(next, source, end)
            while (item := coming.result()) is not end:
                coming = thread.submit(next, source, end)
                yield item  # type: ignore[misc] # it is not `end`
    finally:
        if isinstance(source, Generator):
            source.close()
