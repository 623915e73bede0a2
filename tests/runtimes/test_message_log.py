"""What a node answers when it is asked whether it has received a message."""

from __future__ import annotations

from fedfm.runtimes.envelopes import Envelope, Inquiry, Seen, Unprepared
from fedfm.runtimes.message_log import KEPT, MessageLog

WORK = Envelope(Unprepared())


def ask(message: str) -> Envelope:
    return Envelope(Inquiry(message=message))


def test_what_has_come_is_known_and_a_question_is_none_of_that() -> None:
    message_log = MessageLog()
    assert message_log.take("question", ask("work")) == Envelope(Seen(seen=False))
    assert message_log.take("work", WORK) is None
    assert message_log.take("another", ask("work")) == Envelope(Seen(seen=True))
    assert message_log.take("the last", ask("question")) == Envelope(Seen(seen=False))


def test_only_the_last_messages_are_remembered() -> None:
    message_log = MessageLog()
    for number in range(KEPT + 1):
        message_log.take(str(number), WORK)
    assert message_log.take("?", ask("0")) == Envelope(Seen(seen=False))
    assert message_log.take("?", ask("1")) == Envelope(Seen(seen=True))
