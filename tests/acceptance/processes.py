"""The Procfile's processes, each as a supervisor runs it: a shell line in a session of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
GRACE_SECONDS = 30


def lines() -> dict[str, str]:
    """Command by name."""
    stated = (line.partition(": ") for line in (PROJECT / "Procfile").read_text().splitlines() if line)
    return {name: command for name, _, command in stated}


@dataclass(kw_only=True)
class Processes:
    """Those that run, by name. Use as a context manager."""

    environment: Mapping[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def ensure(self, *names: str) -> None:
        """Starts those that do not run."""
        for name in names:
            if name not in self.running or self.running[name].poll() is not None:
                self.running[name] = self._start(lines()[name])

    def stop(self, *names: str) -> dict[str, int]:
        """Tells their whole process groups to end, as supervisors do; their exit codes, once they have."""
        asked = {name: self.running.pop(name) for name in names or tuple(self.running)}
        for process in asked.values():
            _signal(process, signal.SIGTERM)
        try:
            return {name: process.wait(GRACE_SECONDS) for name, process in asked.items()}
        finally:
            for process in asked.values():
                _signal(process, signal.SIGKILL)

    def _start(self, line: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.Popen(
            line,
            shell=True,
            cwd=PROJECT,
            env={**self.environment, "PATH": path},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
