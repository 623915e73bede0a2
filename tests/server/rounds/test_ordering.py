"""Updates are folded in a fixed order, whenever they arrive; large ones wait on disk."""

from __future__ import annotations

import itertools

import pytest

from fedfm.server.rounds.ordering import IN_MEMORY, Ordering
from fedfm.spill import Spilled
from fedfm.updates import Failure, Reply

LARGE = {client: Reply(client, client.encode() * (IN_MEMORY + 1), b"its state") for client in "abc"}


def plain(reply: Reply | None) -> Reply | None:
    """The reply with its content in memory."""
    if reply is None or not isinstance(reply.content, Spilled):
        return reply
    return Reply(reply.client, reply.content[:], reply.state)


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_they_come_in_the_order_in_which_they_were_asked(order: tuple[str, ...]) -> None:
    ordering = Ordering("abc", as_they_come=False)
    replies = {"a": LARGE["a"], "b": Reply("b", b"small"), "c": Reply("c", Failure("c", "ill"))}
    found = [pair for client in order for pair in ordering.after(client, replies[client])]
    assert [(client, plain(reply)) for client, reply in found] == [(client, replies[client]) for client in "abc"]
    assert list(ordering.left()) == []


def test_those_that_wait_for_one_that_never_comes_are_left() -> None:
    ordering = Ordering("abc", as_they_come=False)
    assert [*ordering.after("c", LARGE["c"]), *ordering.after("b", LARGE["b"])] == []
    left = [(client, plain(reply)) for client, reply in ordering.left()]
    assert left == [("a", None), ("b", LARGE["b"]), ("c", LARGE["c"])]


def test_where_the_first_are_enough_none_waits_for_its_turn() -> None:
    ordering = Ordering("abc", as_they_come=True)
    found = [*ordering.after("c", LARGE["c"]), *ordering.after("a", Reply("a", b"a"))]
    assert found == [("c", LARGE["c"]), ("a", Reply("a", b"a"))]
    assert list(ordering.left()) == [("b", None)]


def test_large_ones_wait_on_disk() -> None:
    ordering = Ordering("abc", as_they_come=False)
    assert [*ordering.after("b", LARGE["b"]), *ordering.after("c", Reply("c", b"small"))] == []
    found = dict(ordering.after("a", LARGE["a"]))
    assert {client: type(reply.content) for client, reply in found.items()} == {"a": bytes, "b": Spilled, "c": bytes}
    assert found["b"].state == b"its state"
