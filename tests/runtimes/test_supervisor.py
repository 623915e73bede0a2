from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("flwr")

from fedfm.errors import TooFewClientsError
from fedfm.runtimes.flower.supervisor import Supervisor

WAIT = "import time; time.sleep(600)"


def wait_for_an_end(supervisor: Supervisor) -> str:
    while True:
        try:
            supervisor.check()
        except TooFewClientsError as error:
            return str(error)
        time.sleep(0.01)


def test_a_process_that_ended_is_told_with_its_last_words(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, {"WORD": "farewell"})
    supervisor.start("one that stays", sys.executable, "-c", WAIT)
    supervisor.check()
    supervisor.start("one that goes", sys.executable, "-c", "import os; print(os.environ['WORD']); exit(3)")
    ended = wait_for_an_end(supervisor)
    assert ended.startswith("the one that goes ended with code 3")
    assert "farewell" in ended
    supervisor.close()


def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    begin = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {WAIT!r}])"
    supervisor = Supervisor(tmp_path, {})
    supervisor.start("parent", sys.executable, "-c", f"{begin}; print(child.pid, flush=True); {WAIT}")
    while not (words := supervisor.last_words("parent")):
        supervisor.check()
    child = psutil.Process(int(words))
    supervisor.close()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
