"""Embedded servers in homes of their own: started on demand, shared, stopped, and recovered after a kill."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from vaulthalla.embedded import Servers

PROJECT = Path(__file__).parents[3]


class Home:
    """One VAULTHALLA_HOME and the commands run in it."""

    def __init__(self, path: Path) -> None:
        own = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE", "SECRET_KEY", "SALT_KEY")
        self.path = path
        self.environment = {name: value for name, value in os.environ.items() if name not in own}
        self.environment["VAULTHALLA_HOME"] = str(path)

    def start(self, *, migrate: bool = False) -> subprocess.Popen[str]:
        program = f"from vaulthalla import embedded; print(*embedded.ensure(migrate={migrate}), sep='\\n')"
        return self._popen("-c", program)

    def servers(self, *, migrate: bool = False) -> Servers:
        return answered(self.start(migrate=migrate))

    def vh(self, *arguments: str) -> Any:
        return self._json("-c", "from vaulthalla.cli import main; main()", *arguments)

    def manage(self, *arguments: str) -> Any:
        return self._json("manage.py", *arguments)

    def _json(self, *arguments: str) -> Any:
        process = self._popen(*arguments, "--json")
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        return json.loads(out)

    def _popen(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=self.environment,
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def answered(process: subprocess.Popen[str]) -> Servers:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return Servers(*out.split())


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    # Long, and below a directory that others may not enter: both must not matter.
    path = tmp_path_factory.mktemp("a-directory-with-quite-a-long-name") / "home with blanks and $igns"
    found = Home(path)
    yield found
    found.vh("down")
    # Root's servers keep their state elsewhere when they cannot reach the home.
    shutil.rmtree(json.loads((path / "servers.json").read_text())["state"])


def test_a_command_starts_both_and_the_next_one_shares_them(home: Home) -> None:
    assert home.vh("status")["postgresql"] == {"embedded": True, "running": False, "pid": None}
    assert not (home.path / "servers.json").exists(), "asking starts nothing"
    servers = home.servers()
    first = home.vh("status")
    assert first["postgresql"]["running"]
    assert first["valkey"]["running"]
    assert home.servers() == servers
    assert [home.vh("status")[name]["pid"] for name in ("postgresql", "valkey")] == [
        first[name]["pid"] for name in ("postgresql", "valkey")
    ]
    assert query(servers, "SHOW listen_addresses") == ""
    assert query(servers, "SHOW fsync") == "on"


def test_many_commands_at_once_start_one_server(home: Home) -> None:
    assert len({answered(process) for process in [home.start() for _ in range(4)]}) == 1
    assert home.vh("down") == {"stopped": ["postgresql", "valkey"]}
    assert home.vh("down") == {"stopped": []}


def test_what_was_written_survives_a_kill_of_either(home: Home) -> None:
    servers = home.servers()
    query(servers, "CREATE TABLE kept AS SELECT 42 AS answer")
    before = home.vh("status")
    for name in ("postgresql", "valkey"):
        os.kill(before[name]["pid"], signal.SIGKILL)
    until(lambda: not any(home.vh("status")[name]["running"] for name in ("postgresql", "valkey")))
    assert query(home.servers(), "SELECT answer FROM kept") == 42
    after = home.vh("status")
    assert after["postgresql"]["pid"] != before["postgresql"]["pid"]
    assert after["valkey"]["pid"] != before["valkey"]["pid"]


def test_a_pid_file_left_by_a_reboot_misleads_nobody(home: Home) -> None:
    servers = home.servers()
    query(servers, "CREATE TABLE kept AS SELECT 42 AS answer")
    home.vh("down")
    state = Path(json.loads((home.path / "servers.json").read_text())["state"])
    # This process's number, as if it had been given to another program since.
    (state / "postgres" / "postmaster.pid").write_text(
        f"{os.getpid()}\n{state}/postgres\n0\n5432\n/tmp\n\n0 0\nready\n"
    )
    (state / "valkey" / "pid").write_text(str(os.getpid()))
    assert home.vh("down") == {"stopped": []}
    assert query(home.servers(), "SELECT answer FROM kept") == 42


def test_the_schema_is_applied_once_by_whoever_comes_first(home: Home) -> None:
    answers = {answered(process) for process in [home.start(migrate=True) for _ in range(2)]}
    assert len(answers) == 1
    assert query(answers.pop(), "SELECT count(*) FROM vaults_vault") == 0
    assert home.vh("status")["work"] == {
        "runs_active": 0,
        "runs_queued": 0,
        "chunks_pending": 0,
        "oldest_pending_seconds": None,
    }


def test_manage_py_runs_the_same_commands(home: Home) -> None:
    assert home.manage("vault", "list") == home.vh("vault", "list") == {"vaults": []}
    assert home.manage("status") == home.vh("status")


def test_nobody_else_reaches_the_servers_or_the_keys(home: Home) -> None:
    home.servers()
    home.vh("vault", "list")
    layout = json.loads((home.path / "servers.json").read_text())
    for directory in (layout["state"], layout["sockets"]):
        assert Path(directory).stat().st_mode & 0o777 == 0o700
    assert (home.path / "secrets.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has somebody else to run servers as")
def test_root_runs_them_as_somebody_else_and_leaves_parents_alone(home: Home) -> None:
    parent = home.path.parent
    mode = parent.stat().st_mode
    servers = home.servers()
    for name in ("postgresql", "valkey"):
        owner = Path(f"/proc/{home.vh('status')[name]['pid']}").stat().st_uid
        assert pwd.getpwuid(owner).pw_name in ("postgres", "nobody")
    assert parent.stat().st_mode == mode
    assert query(servers, "SELECT 1") == 1


def query(servers: Servers, sql: str) -> Any:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it did not happen within 20 s"
