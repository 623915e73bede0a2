"""What a program of a model can do: real ones, in the sandbox."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from fedfm.errors import RecipeError
from fedfm.server.runs.sandbox import Sandbox

SANDBOX = Sandbox(timeout_s=20)
FORKS = """
import os, time
started = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
    except OSError as error:
        raise SystemExit(f"{started} {error.strerror}")
    started += 1
"""
AROUND = """
import os
open("here", "w").write("x")
os.mkdir("folder")
os.rename("here", "folder/there")
assert os.listdir(".") == ["folder"], os.listdir(".")
assert os.environ.keys() <= {"PATH", "HOME", "TMPDIR", "OMP_NUM_THREADS", "LC_CTYPE"}
assert os.getpid() == 1, "it sees no other process"
"""
PROGRAMS = {
    "its own folder, and nothing of this process": (AROUND, None),
    "a wrong answer": ("assert 1 + 1 == 3", r"AssertionError"),
    "an end before the tests": ("import os; os._exit(0)\nassert False", r"ended itself with exit code 0"),
    "memory": ("x = bytearray(4 * 2**30)", r"MemoryError"),
    "processes": (FORKS, r"\d\d? (Operation not permitted|Resource temporarily unavailable)"),
    "a large file": ("open('x', 'wb').write(bytes(2**25))", r"OSError: \[Errno 27\] File too large"),
    "a file elsewhere": ("open({outside!r}, 'w')", r"PermissionError: \[Errno 13\].*outside'"),
    "modes elsewhere": ("import os; os.chmod({inside!r}, 0)", r"PermissionError: \[Errno 1\].*inside'"),
    "removal elsewhere": ("import os; os.remove({inside!r})", r"PermissionError: \[Errno 13\].*inside'"),
    "a network": ("import socket; socket.create_connection(('127.0.0.1', 9))", r"PermissionError: \[Errno 1\].*"),
    "a socket in the file system": ("import socket; socket.socket(socket.AF_UNIX)", r"PermissionError: \[Errno 1\].*"),
    "much output": ("print('x' * 10**6)", r"printed more than 65,536 bytes"),
    "letters that are none": ("x = '\ud800'", r"UnicodeDecodeError.*|SyntaxError.*"),
}  # fmt: skip


def isolated() -> bool:
    return SANDBOX.failure("") is None


def test_a_program_reaches_nothing_but_its_own_folder(tmp_path: Path) -> None:
    if not isolated():
        pytest.skip("this machine cannot isolate programs")
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    inside.write_text("kept")
    for name, (program, expected) in PROGRAMS.items():
        text = program.replace("{outside!r}", repr(str(outside))).replace("{inside!r}", repr(str(inside)))
        found = SANDBOX.failure(text)
        assert found is None if expected is None else re.fullmatch(expected, str(found)), (name, found)
    assert not outside.exists()
    assert inside.read_text() == "kept"
    assert inside.stat().st_mode & 0o600 == 0o600


def test_a_program_that_loops_is_ended_with_its_children(tmp_path: Path) -> None:
    started, alive = time.monotonic(), tmp_path / "alive"
    child = f"import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(3); open({str(alive)!r}, 'w')"
    found = Sandbox(timeout_s=1, isolated=isolated()).failure(
        f"try:\n    exec({child!r})\nfinally:\n    while True: pass"
    )
    assert found in ("ran longer than 1 s", "ended by signal 9", "ended by signal 24")
    assert time.monotonic() - started < 15
    if isolated():
        time.sleep(3)
        assert not alive.exists()


def test_limits_hold_without_isolation() -> None:
    sandbox = Sandbox(isolated=False, timeout_s=20, memory_bytes=2**28)
    sandbox.check()
    assert sandbox.failure("x = bytearray(2**29)") == "MemoryError"


def test_where_it_cannot_isolate_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "defpath", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RecipeError, match=r"unshare cannot be started .*--unisolated"):
        SANDBOX.check()
