"""Updates are folded in their turn, whenever they arrive, and wait for it on disk where they are large."""

from __future__ import annotations

import itertools

import pytest

from fedfm.server.rounds.ordering import IN_MEMORY, Answer, Ordering
from fedfm.spill import Spilled
from fedfm.updates import Failure

LARGE = {client: client.encode() * (IN_MEMORY + 1) for client in "abc"}


def plain(answer: Answer | None) -> bytes | Failure | None:
    return answer[:] if isinstance(answer, Spilled) else answer


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_they_come_in_the_order_in_which_they_were_asked(order: tuple[str, ...]) -> None:
    turns = Ordering("abc", as_they_come=False)
    answers = {"a": LARGE["a"], "b": b"small", "c": Failure("c", "ill")}
    found = [pair for client in order for pair in turns.after(client, answers[client])]
    assert [(client, plain(answer)) for client, answer in found] == [(client, answers[client]) for client in "abc"]
    assert list(turns.left()) == []


def test_those_that_wait_for_one_that_never_comes_are_left() -> None:
    turns = Ordering("abc", as_they_come=False)
    assert [*turns.after("c", LARGE["c"]), *turns.after("b", LARGE["b"])] == []
    left = [(client, plain(answer)) for client, answer in turns.left()]
    assert left == [("a", None), ("b", LARGE["b"]), ("c", LARGE["c"])]


def test_where_the_first_are_enough_nobody_waits() -> None:
    turns = Ordering("abc", as_they_come=True)
    assert [*turns.after("c", LARGE["c"]), *turns.after("a", b"a")] == [("c", LARGE["c"]), ("a", b"a")]
    assert list(turns.left()) == [("b", None)]


def test_large_ones_wait_on_disk() -> None:
    turns = Ordering("abc", as_they_come=False)
    assert [*turns.after("b", LARGE["b"]), *turns.after("c", b"small")] == []
    found = dict(turns.after("a", LARGE["a"]))
    assert {client: type(answer) for client, answer in found.items()} == {"a": bytes, "b": Spilled, "c": bytes}
