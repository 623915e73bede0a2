"""What a node says when it is asked whether it has had a message."""

from __future__ import annotations

from fedfm.runtimes.inbox import KEPT, Inbox
from fedfm.runtimes.parcels import Ask, Parcel, Seen, Unprepared

WORK = Parcel(Unprepared())


def ask(message: str) -> Parcel:
    return Parcel(Ask(message=message))


def test_what_has_come_is_known_and_a_question_is_none_of_that() -> None:
    inbox = Inbox()
    assert inbox.take("question", ask("work")) == Parcel(Seen(seen=False))
    assert inbox.take("work", WORK) is None
    assert inbox.take("another", ask("work")) == Parcel(Seen(seen=True))
    assert inbox.take("the last", ask("question")) == Parcel(Seen(seen=False))


def test_only_the_last_messages_are_remembered() -> None:
    inbox = Inbox()
    for number in range(KEPT + 1):
        inbox.take(str(number), WORK)
    assert inbox.take("?", ask("0")) == Parcel(Seen(seen=False))
    assert inbox.take("?", ask("1")) == Parcel(Seen(seen=True))
