"""More processes for one run, started by the command that drives it; they need no broker."""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType

STOP_SECONDS = 30


def spare() -> int:
    """Processes to work beside this one: boto3 keeps a core busy with small objects, and so does reading rows."""
    return max(0, (os.cpu_count() or 1) - 1)


class Helpers:
    """Up to `most` processes; started once there is work for them, ended with the block."""

    def __init__(self, run_id: int, most: int) -> None:
        self.run_id = run_id
        self.most = most
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def wanted(self) -> bool:
        return len(self.started) < self.most

    def start(self, *, claimable: int) -> None:
        """As many as there are chunks to claim now besides the driver's own: phases to come may have nothing to do."""
        while self.wanted and claimable - 1 > len(self.started):
            self.started.append(_start(self.run_id))

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self.started:
            process.terminate()
        for process in self.started:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(run_id: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "vaulthalla.worker", "--run", str(run_id)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        # A pipe kept open by a helper would keep whoever reads this command's output waiting.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C is for the command, which then ends its helpers in good order.
        start_new_session=True,
    )
