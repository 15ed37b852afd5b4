"""`vh up` as an operator has it: one command, one browser, a sync started by a click and done by workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from tests.acceptance.faults.world import VH, wait_for
from tests.support.servers import free_port

pytestmark = pytest.mark.xdist_group("workers")

SERVERS = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE", "SECRET_KEY", "SALT_KEY")
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')
GRACE_SECONDS = 40


@dataclass(kw_only=True)
class Up:
    """A running `vh up`."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    origin: str
    admin: dict[str, str]

    def vh(self, *arguments: str) -> Any:
        answer = subprocess.run(
            [VH, *arguments, "--json"], env=self.environment, capture_output=True, text=True, check=True
        )
        return json.loads(answer.stdout)


class Browser:
    """Keeps cookies, follows redirects, sends forms with their token."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.opener = build_opener(HTTPCookieProcessor(CookieJar()))

    def get(self, path: str) -> str:
        with self.opener.open(self.origin + path, timeout=30) as answer:
            return str(answer.read().decode())

    def post(self, path: str, form: dict[str, Any]) -> str:
        token = TOKEN.search(self.get(path))
        assert token, path
        body = urlencode({**form, "csrfmiddlewaretoken": token[1]}, doseq=True).encode()
        with self.opener.open(self.origin + path, data=body, timeout=30) as answer:
            return str(answer.read().decode())

    def answers(self, path: str) -> bool:
        try:
            self.get(path)
        except (HTTPError, URLError, ConnectionError):
            return False
        return True


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    scratch = Path(tempfile.mkdtemp(prefix="vaulthalla-up-"))
    # The servers do not run as root, so they must be able to pass through.
    scratch.chmod(0o711)
    own = {name: value for name, value in os.environ.items() if name not in SERVERS}
    own |= {"VAULTHALLA_HOME": str(scratch / "home"), "VAULTHALLA_BIND": f"127.0.0.1:{free_port()}"}
    yield own | {"VAULTHALLA_CONTROL": "1", "VAULTHALLA_INDEX": "1", "VAULTHALLA_TRANSFER": "1"}
    subprocess.run([VH, "down"], env=own, capture_output=True, check=False)
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture
def up(environment: dict[str, str]) -> Iterator[Up]:
    process = subprocess.Popen(
        [VH, "up", "--json"], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        told = first_value(process)
        origin = told["url"].removesuffix("/admin/")
        yield Up(process=process, environment=environment, origin=origin, admin=told["admin"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=GRACE_SECONDS)


def first_value(process: subprocess.Popen[str]) -> Any:
    """The command's own result; the lines of the processes follow it."""
    assert process.stdout
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            return json.loads(text)
    raise AssertionError(text)


def test_an_operator_logs_in_starts_a_sync_and_ends_it_all(up: Up, tmp_path: Path) -> None:
    browser = Browser(up.origin)
    wait_for(lambda: browser.answers("/healthz"), seconds=60)
    assert json.loads(browser.get("/healthz")) == {"status": "ok"}
    login = browser.get("/")
    style = re.search(r'href="(/static/admin/css/base[^"]*\.css)"', login)
    assert style
    assert "--primary" in browser.get(style[1])
    login_form = {"username": up.admin["user"], "password": up.admin["password"], "next": "/admin/"}
    assert "Start due syncs" not in browser.post("/admin/login/", login_form)
    assert "Start due syncs" in browser.get("/admin/django_celery_beat/periodictask/")

    root, replica = tmp_path / "root", tmp_path / "replica"
    root.mkdir()
    replica.mkdir()
    (root / "a.txt").write_text("content")
    vault = up.vh("vault", "create", "docs", "--local", "--root", str(root), "--replica", str(replica), "--disable")
    told = browser.post("/admin/vaults/vault/", {"action": "sync_now", "_selected_action": [vault["id"]]})
    assert re.search(r"Run \d+ of vault docs has begun", told)
    wait_for((replica / "a.txt").exists, seconds=60)
    wait_for(lambda: up.vh("vault", "sync", "history", "docs")["runs"][0]["status"] == "success", seconds=60)
    assert "success" in browser.get("/admin/work/run/")

    os.kill(up.process.pid, signal.SIGINT)
    output, _ = up.process.communicate(timeout=GRACE_SECONDS)
    assert up.process.returncode == 0, output
    assert up.admin["password"] not in output
    assert "Traceback" not in output, output
    assert "SIGKILL" not in output, output
    assert up.vh("down")["stopped"] == ["postgresql", "valkey"]
