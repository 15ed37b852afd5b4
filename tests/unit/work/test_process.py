"""Only a process that is certainly gone may lose its lease early."""

from __future__ import annotations

import subprocess
import sys

from vaulthalla.work.process import is_gone, own_name


def test_this_process_is_there() -> None:
    assert not is_gone(own_name())


def test_a_process_that_ended_is_gone() -> None:
    ask = "from vaulthalla.work.process import own_name; print(own_name())"
    ended = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert is_gone(ended.stdout.strip())


def test_a_number_that_is_another_process_by_now_is_gone() -> None:
    host, pid, started, namespace = own_name().rsplit(":", 3)
    assert is_gone(f"{host}:{pid}:{int(started) - 1}:{namespace}")


def test_of_other_hosts_containers_and_names_nothing_is_known() -> None:
    host, pid, _, namespace = own_name().rsplit(":", 3)
    assert not is_gone(f"other-{host}:{pid}:0:{namespace}")
    assert not is_gone(f"{host}:{pid}:0:{int(namespace) + 1}")
    assert not is_gone("")
    assert not is_gone("somebody")
