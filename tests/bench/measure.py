"""One command, and what it took: time, CPU and memory as the kernel counted them."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOP_SECONDS = 15


class CommandFailed(Exception):
    """A measured command did not end with 0; its last words are in the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds of wall clock and CPU, and bytes of the largest of the command's processes.

    The processes it started and waited for count; servers it talks to do not."""

    seconds: float
    cpu: float
    rss: int
    out: str = ""


def run(
    command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, quiet_out: bool = False
) -> Cost:
    """Runs a command to its end. Raises CommandFailed, or OSError where it cannot be started.

    `quiet_out` sends stdout to nowhere. What a child is charged for memory begins with this process's own size
    at the fork, so this process must stay small: nothing here may import Django or boto3."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet_out else out,
            stderr=err,
        )
        seconds, usage = _await(process, started)
        if process.returncode:
            raise CommandFailed(f"{Path(command[0]).name} ended with {process.returncode}: {_tail(err)}{_tail(out)}")
        return Cost(seconds=seconds, cpu=usage.ru_utime + usage.ru_stime, rss=usage.ru_maxrss * 1024, out=_text(out))


def _await(process: subprocess.Popen[bytes], started: float) -> tuple[float, Any]:
    """Takes the child's end from the kernel itself, which alone tells what this one child used."""
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        # In good order: vh then ends the helpers it started.
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - started, usage


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode(errors="replace")
    return text


def _tail(file: Any) -> str:
    return _text(file).strip()[-2000:]
