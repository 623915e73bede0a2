"""The guard answers for a worker that hangs or ends, and another worker takes the next message."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import Envelope, Ready, Refusal, Requests
from fedfm.sites.causes import Cause
from fedfm.sites.guard import Guard
from fedfm.sites.journal import Journal
from fedfm.sites.site_agent import LogFollower

WORKER = """
import os, signal, socket, sys, time
from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import Envelope, Ready
from fedfm.sites.guard import SECONDS

line = socket.socket(fileno=int(sys.argv[1]))
tell = lambda seconds: line.sendall(SECONDS.pack(seconds))
tell(0.0)
while True:
    word, (number,), _, _ = socket.recv_fds(line, 1, 1)
    with socket.socket(fileno=number) as caller:
        name, envelope = sockets.receive(caller)
        tell(0.3 if envelope.head.job == "hang" else 60.0)
        if envelope.head.job == "hang":
            time.sleep(600)
        if envelope.head.job == "end":
            os.kill(os.getpid(), signal.SIGKILL)
        if envelope.head.job == "answer and end":
            sockets.send(caller, Envelope(Ready(job="done", clients=None)))
        else:
            sockets.send(caller, Envelope(Ready(job=str(os.getpid()), clients=None)))
    tell(0.0)
    if envelope.head.job == "answer and end":
        os._exit(3)
"""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def path(tmp_path: Path, said: list[str]) -> Iterator[Path]:
    guard = Guard([sys.executable, "-c", WORKER], Journal(tmp_path, said.append))

    def serve() -> None:
        with suppress(OSError, ValueError):
            guard.serve(tmp_path / "worker")

    threading.Thread(target=serve, daemon=True).start()
    yield tmp_path / "worker"
    guard.close()


def asked(path: Path, job: str) -> Envelope:
    (answer,) = sockets.ask(path, Envelope(Requests(job=job, clients=())), patience=60)
    return answer


def process(answer: Envelope) -> str:
    assert isinstance(answer.head, Ready)
    return answer.head.job


def test_one_process_answers_all_that_is_sound(path: Path) -> None:
    assert process(asked(path, "one")) == process(asked(path, "two"))


def test_one_that_hangs_is_ended_and_the_server_gets_a_refusal(path: Path, said: list[str]) -> None:
    first = process(asked(path, "one"))
    assert asked(path, "hang") == Envelope(Refusal(reason=Cause.TIME.sentence()))
    assert process(asked(path, "two")) != first
    assert said == ["refused: it took longer than the policy allows"]
    assert "longer than the policy" in (path.parent / "events.jsonl").read_text()


def test_one_that_ends_again_over_the_same_is_a_refusal(path: Path, said: list[str]) -> None:
    with pytest.raises(ConnectionError):  # the server asks once more
        asked(path, "end")
    assert asked(path, "end") == Envelope(Refusal(reason=Cause.ENDED.sentence()))
    process(asked(path, "one"))
    assert said[0].startswith("failed: the worker was ended by SIGKILL")
    assert said[1].startswith("refused: the worker was ended by SIGKILL")


def test_one_that_ends_idle_is_replaced_before_it_is_needed(path: Path, said: list[str]) -> None:
    assert process(asked(path, "answer and end")) == "done"
    end = time.monotonic() + 60
    while not said:
        assert time.monotonic() < end
        time.sleep(0.01)
    process(asked(path, "one"))
    assert said == ["failed: the worker ended with code 3 while it was idle"]


def test_one_that_cannot_start_ends_the_guard(tmp_path: Path) -> None:
    guard = Guard([sys.executable, "-c", "raise SystemExit(7)"], Journal(tmp_path, print))
    with pytest.raises(SystemExit) as caught:
        guard.serve(tmp_path / "worker")
    assert caught.value.code == 7


def test_new_lines_of_a_log_are_told(tmp_path: Path, said: list[str]) -> None:
    log = tmp_path / "worker.log"
    log.write_text("before\n")
    follower = LogFollower(log, said.append)
    with log.open("a") as file:
        file.write("one\nt\x1b[2Jwo\nthr")
    follower.follow()
    assert said == ["one", "t [2Jwo"]
    with log.open("a") as file:
        file.write("ee\n")
    follower.follow()
    follower.follow()
    assert said == ["one", "t [2Jwo", "three"]
