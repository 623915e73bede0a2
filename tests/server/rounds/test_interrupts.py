"""Which signals stop a run."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from fedfm.errors import InterruptedRunError
from fedfm.server.rounds.interrupts import stop_on_signals

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ALL}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started the tests, such as nohup
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGINT, "stopped before round 3"),
        (signal.SIGTERM, "stopped before round 3 (SIGTERM)"),
        (signal.SIGHUP, "stopped before round 3 (SIGHUP: its terminal was closed)"),
    ],
)
def test_a_signal_is_a_request_that_says_why(number: int, words: str) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        stop.check("before round 2")
        signal.raise_signal(number)
        with pytest.raises(InterruptedRunError) as raised:
            stop.check("before round 3")
        assert str(raised.value) == words
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", ALL)
def test_t08_a_second_one_ends_at_once(first: int, second: int) -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signals():  # noqa: PT012
        signal.raise_signal(first)
        signal.raise_signal(second)


@pytest.mark.parametrize("first", ALL)
def test_a_terminal_may_say_more_than_once_that_it_is_closed(first: int) -> None:
    with stop_on_signals() as stop:
        signal.raise_signal(first)
        reason = stop.reason
        signal.raise_signal(signal.SIGHUP)
        assert (stop.requested, stop.reason) == (True, reason)


def test_under_nohup_a_closed_terminal_is_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.requested
