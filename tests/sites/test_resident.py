"""A site's worker answers the callers that a guard hands over, until the guard has ended."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import Ended, Envelope, Refusal, Unprepared
from fedfm.sites import resident
from fedfm.sites.guard import SECONDS

ENDED = Envelope(Ended(job="0" * 64, run="small", status="completed", rounds=3))


def test_it_reports_and_answers_and_ends_with_its_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.yaml").write_text("train: rows.csv\n")
    (tmp_path / "policy.yaml").write_text("max_prepare_seconds: 7\n")
    guard, line = socket.socketpair()
    reports, answers = list[float](), list[Envelope]()

    def hand_over() -> None:
        with guard:
            for envelope in (ENDED, Envelope(Unprepared())):
                caller, handed = socket.socketpair()
                with caller:
                    with handed:
                        socket.send_fds(guard, [b"c"], [handed.fileno()])
                    sockets.send(caller, envelope)
                    while (part := sockets.receive(caller)) is not None:
                        answers.append(part[1])
            reports.extend(SECONDS.unpack(guard.recv(SECONDS.size, socket.MSG_WAITALL))[0] for _ in range(5))

    thread = threading.Thread(target=hand_over)
    thread.start()
    folder = tmp_path / "site"
    arguments = ["--data", tmp_path / "data.yaml", "--policy", tmp_path / "policy.yaml", "--callers", line.detach()]
    monkeypatch.setattr("sys.argv", ["resident", str(folder), *map(str, arguments)])
    monkeypatch.setattr(resident, "exit_on_sigterm", lambda: None)
    resident.main()
    thread.join(60)
    assert [type(answer.head) for answer in answers] == [Unprepared, Refusal]
    assert reports == [0.0, 7.0, 0.0, 7.0, 0.0]
    assert "completed after 3 rounds; 0 updates have left" in (folder / "events.jsonl").read_text()
