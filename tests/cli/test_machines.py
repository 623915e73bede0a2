"""What a server prints while it waits."""

from datetime import UTC, datetime

from fedfm.cli.machines import describe_wait
from fedfm.runtimes.relay import Wait

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_who_is_waited_for_and_until_when() -> None:
    come, answer = Wait("come", ("clinic", "ward"), 600.0), Wait("answer", ("clinic",), float("inf"))
    assert describe_wait(come, NOON) == "waiting for clinic, ward to come, until 12:10:00, 10 min more"
    assert describe_wait(answer, NOON) == "waiting for clinic to answer, without a deadline (runtime.deadline)"
