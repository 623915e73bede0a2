from __future__ import annotations

import subprocess
import sys

import psutil

WAIT = "import time; time.sleep(600)"


def leashed(code: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fedfm.runtimes.child_guard", sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


def test_it_ends_as_its_command_does() -> None:
    assert leashed("exit(7)").wait(60) == 7
    assert leashed("import os; os.kill(os.getpid(), 9)").wait(60) == 128 + 9


def test_a_command_does_not_outlive_who_started_it() -> None:
    command = f"[sys.executable, '-m', 'fedfm.runtimes.child_guard', sys.executable, '-c', {WAIT!r}]"
    start = f"subprocess.Popen({command}, stdin=subprocess.PIPE, start_new_session=True)"
    holder = f"import subprocess, sys; {start}; print(1, flush=True); {WAIT}"
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    (leash,) = psutil.Process(process.pid).children()
    while not (commands := leash.children()):
        pass
    process.kill()
    process.wait(60)
    _, alive = psutil.wait_procs([leash, *commands], timeout=60)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def test_it_can_be_told_to_end() -> None:
    code = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); print(1, flush=True); {WAIT}"
    process = leashed(code)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    psutil.Process(process.pid).children()[0].terminate()
    assert process.wait(60) == 5
