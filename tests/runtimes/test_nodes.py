"""Clients on nodes that forget, refuse, end, or hold only some of the clients."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedfm.errors import InterruptedRunError, TooFewClientsError
from fedfm.hosts.downloads import Downloads
from fedfm.proxies.base import ModelVersion
from fedfm.runtimes.envelopes import (
    Ended,
    Envelope,
    Fault,
    Lost,
    Piece,
    Prepare,
    Ready,
    Refusal,
    Replies,
    Requests,
    Unprepared,
    Wanting,
    job_digest,
)
from fedfm.runtimes.line import Line, Part
from fedfm.runtimes.nodes import NodesRuntime
from fedfm.updates import Failure, Reply, Request

JOB = {"recipe": {}}
READY = Envelope(Ready(job=job_digest(JOB), clients=None))
GONE = Envelope(Lost(reason="Flower reports error 3"))


def trained(envelope: Envelope) -> Envelope:
    """A node that answers every client with its message."""
    assert isinstance(envelope.head, Requests)
    return Envelope(
        Replies(clients=tuple((client, None) for client, _ in envelope.head.clients)),
        tuple(envelope.blobs[place] for _, place in envelope.head.clients),
    )


Answer = Envelope | list[Envelope]
"""What a node answers, whole or in parts."""


class Faked:
    """A line to nodes that are functions; they answer when the line is pulled, in the order of the envelopes."""

    def __init__(self, **nodes: Callable[[Envelope], Answer]) -> None:
        self.there = nodes
        self.sent: list[tuple[str, Envelope]] = []
        self.limits: list[int | None] = []
        self.owed = deque[tuple[str, Envelope]]()
        self.parts = deque[Part]()

    def nodes(self, *, wait: bool = True) -> Sequence[str]:
        return sorted(self.there)

    def push(self, node: str, envelope: Envelope, *, most: int | None, within: float | None = None) -> None:
        assert node not in dict(self.owed), "a node works on one envelope at a time"
        self.sent.append((node, envelope))
        self.limits.append(most)
        self.owed.append((node, envelope))

    def pull(self, timeout: float | None = None) -> Part | None:
        if not self.parts and self.owed:
            node, envelope = self.owed.popleft()
            answer = self.there[node](envelope)
            *parts, last = answer if isinstance(answer, list) else [answer]
            self.parts += [*(Part(node, part, last=False) for part in parts), Part(node, last)]
        return self.parts.popleft() if self.parts else None

    def drop(self) -> None:
        self.owed.clear()
        self.parts.clear()

    def attend(self, check: Callable[[], None]) -> None:
        pass

    def close(self) -> None:
        pass


def runtime(line: Line, stack: int = 1) -> NodesRuntime:
    return NodesRuntime(line, JOB, stack=stack, pause=0.0)


def requests(messages: dict[str, bytes]) -> list[Request]:
    return [Request(client, message) for client, message in messages.items()]


def exchanged(runtime: NodesRuntime, messages: dict[str, bytes]) -> dict[str, object]:
    """What clients reply to messages."""
    runtime.submit(requests(messages))
    found: dict[str, object] = {}
    while (reply := runtime.next()) is not None:
        assert reply.client not in found
        found[reply.client] = reply.content
    return found


def good(envelope: Envelope) -> Envelope:
    return READY if isinstance(envelope.head, Prepare) else trained(envelope)


def holding(*clients: str) -> Callable[[Envelope], Envelope]:
    ready = Envelope(Ready(job=job_digest(JOB), clients=clients))
    return lambda envelope: ready if isinstance(envelope.head, Prepare) else trained(envelope)


def asked(*clients: str) -> dict[str, bytes]:
    return {client: f"message to {client}".encode() for client in clients}


def test_clients_are_dealt_in_whole_passes_and_nodes_are_told_of_the_run_once() -> None:
    line = Faked(one=good, two=good)
    told = runtime(line, stack=2)
    for _ in range(2):
        assert exchanged(told, asked(*"abcde")) == asked(*"abcde")
    heads = [(node, envelope.head) for node, envelope in line.sent]
    assert [node for node, head in heads if isinstance(head, Prepare)] == ["one", "two"]
    dealt = [(node, [name for name, _ in head.clients]) for node, head in heads if isinstance(head, Requests)]
    assert dealt == [("one", ["a", "b", "e"]), ("two", ["c", "d"])] * 2


def test_a_node_gets_the_clients_whose_data_it_holds_and_only_their_messages() -> None:
    line = Faked(one=holding("a"), two=holding("b", "c"))
    answers = exchanged(runtime(line), asked(*"abcd"))
    assert answers.pop("d") == Failure("d", "no node that is there holds its data")
    assert answers == asked(*"abc")
    (work,) = [envelope for node, envelope in line.sent if node == "one" and isinstance(envelope.head, Requests)]
    assert work.blobs == (b"message to a",)


def test_a_node_that_has_forgotten_the_run_is_told_again() -> None:
    forgets = iter([True])

    def forgetful(envelope: Envelope) -> Envelope:
        if isinstance(envelope.head, Requests) and next(forgets, False):
            return Envelope(Unprepared())
        return good(envelope)

    assert exchanged(runtime(Faked(one=forgetful)), asked(*"ab")) == asked(*"ab")


def test_a_node_that_always_forgets_fails_its_clients() -> None:
    line = Faked(one=lambda envelope: READY if isinstance(envelope.head, Prepare) else Envelope(Unprepared()))
    answers = exchanged(runtime(line), asked("a"))
    assert answers == {"a": Failure("a", "it answered with `unprepared`")}


def test_what_a_lost_node_did_not_answer_fails_and_the_others_go_on() -> None:
    def dying(envelope: Envelope) -> Envelope:
        return READY if isinstance(envelope.head, Prepare) else GONE

    line = Faked(one=dying, two=good)
    answers = exchanged(runtime(line), asked(*"ab"))
    assert answers == {"a": Failure("a", "Flower reports error 3"), **asked("b")}


def test_a_lost_node_that_is_there_again_is_told_again_and_asked_for_what_it_owes() -> None:
    fault = Fault(reason="out of memory")
    life = iter([[Envelope(Replies(clients=(("a", fault),))), GONE]])

    def restarted(envelope: Envelope) -> Answer:
        return READY if isinstance(envelope.head, Prepare) else next(life, None) or trained(envelope)

    line = Faked(one=restarted)
    answers = exchanged(runtime(line), asked(*"ab"))
    assert answers == {"a": Failure("a", "out of memory"), **asked("b")}
    heads = [envelope.head for _, envelope in line.sent]
    assert [head.kind for head in heads] == ["prepare", "requests", "prepare", "requests"]
    assert [name for name, _ in heads[3].clients] == ["b"]  # type: ignore[union-attr]


def test_a_node_whose_time_is_over_is_not_asked_again() -> None:
    late = Envelope(Lost(reason="no answer within 5 seconds", late=True))
    line = Faked(one=lambda envelope: READY if isinstance(envelope.head, Prepare) else late)
    answers = exchanged(runtime(line), asked("a"))
    assert answers == {"a": Failure("a", "no answer within 5 seconds")}
    assert len(line.sent) == 2


def saved(folder: Path, version: ModelVersion) -> None:
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(f"proxy {version.number}".encode())


def proxied(line: Line, **more: Any) -> NodesRuntime:
    told = NodesRuntime(line, JOB, stack=1, save_proxy=saved, pause=0.0, **more)
    told.share(["a", "b"], ModelVersion(0, {}, {}))
    return told


def prepared(line: Faked) -> list[tuple[str, list[str]]]:
    """Who was told of the run, and of which files something came along."""
    heads = [(node, envelope.head) for node, envelope in line.sent]
    return [(node, [piece.file for piece in head.pieces]) for node, head in heads if isinstance(head, Prepare)]


def test_a_node_that_is_not_waited_for_gets_its_proxy_again() -> None:
    line = Faked(one=holding("a"), two=holding("b"))
    told = proxied(line)
    told.submit(requests(asked(*"ab")))
    assert told.next() == Reply("a", b"message to a")
    told.drop()
    line.sent.clear()
    told.share([], ModelVersion(0, {}, {}))
    assert exchanged(told, asked(*"ab")) == asked(*"ab")
    assert [node for node, _ in prepared(line)] == ["two"]


def test_a_proxy_goes_in_pieces_to_those_that_lack_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedfm.runtimes.file_transfer.AT_ONCE", 4)
    downloads = Downloads(tmp_path)

    def lacking(envelope: Envelope) -> Envelope:
        if not isinstance(envelope.head, Prepare):
            return trained(envelope)
        _, wanted = downloads.receive(envelope.head.files, envelope.head.pieces, envelope.blobs)
        return Envelope(Wanting(job=job_digest(JOB), pieces=wanted)) if wanted else READY

    line = Faked(one=lacking, two=good)
    told = proxied(line)
    assert exchanged(told, asked(*"ab")) == asked(*"ab")
    pieces = [[], ["config.json", "model.safetensors"], ["model.safetensors"], ["model.safetensors"]]
    assert [files for node, files in prepared(line) if node == "one"] == pieces
    assert [files for node, files in prepared(line) if node == "two"] == [[]]  # which has them
    (folder,) = tmp_path.iterdir()
    assert (folder / "model.safetensors").read_bytes() == b"proxy 0"
    line.sent.clear()
    told.share(["a"], ModelVersion(0, {}, {}))
    assert exchanged(told, asked(*"ab")) == asked(*"ab")
    assert prepared(line) == []  # nodes that train any client keep one for all


@pytest.mark.parametrize(
    "pieces",
    [
        (Piece(file="config.json", start=0),),  # again and again
        (Piece(file="config.json", start=3),),
        (Piece(file="secret", start=0),),
        (Piece(file="config.json", start=0), Piece(file="config.json", start=0)),
    ],
)
def test_a_node_that_asks_without_end_is_left_out(pieces: tuple[Piece, ...]) -> None:
    def insatiable(envelope: Envelope) -> Envelope:
        return Envelope(Wanting(job=job_digest(JOB), pieces=pieces))

    line = Faked(one=insatiable, two=good)
    told = proxied(line)
    assert exchanged(told, asked("a")) == asked("a")
    assert told.refused == {"one": "the files of the proxy do not arrive there as they were sent"}


def test_a_node_that_keeps_little_of_what_it_gets_is_left_out() -> None:
    wants = iter(range(1_000))

    def slow(envelope: Envelope) -> Envelope:
        return Envelope(Wanting(job=job_digest(JOB), pieces=(Piece(file="model.safetensors", start=next(wants)),)))

    told = proxied(Faked(one=slow, two=good))
    assert exchanged(told, asked("a")) == asked("a")
    assert told.refused.keys() == {"one"}
    assert next(wants) == 2


def test_a_node_that_is_lost_with_a_proxy_on_its_way_is_not_asked_to_train(tmp_path: Path) -> None:
    answers = {"one": [READY, GONE, GONE, GONE]}
    line = Faked(
        a=lambda envelope: answers["one"].pop(0) if isinstance(envelope.head, Prepare) else trained(envelope), b=good
    )
    told = proxied(line, own_data=True)
    assert exchanged(told, asked(*"ab")) == asked(*"ab")
    told.share(["a"], ModelVersion(1, {}, {}))
    assert exchanged(told, asked(*"ab")) == {"a": Failure("a", "Flower reports error 3"), **asked("b")}


def test_a_trial_comes_before_the_proxy_and_prepares_no_node() -> None:
    def trying(envelope: Envelope) -> Envelope:
        if not isinstance(envelope.head, Prepare):
            return trained(envelope)
        return Envelope(Ready(job=job_digest(JOB), clients=("a",), examples=7))

    line = Faked(a=trying, b=lambda envelope: Envelope(Refusal(reason="no column `text`")))
    told = NodesRuntime(
        line,
        JOB,
        stack=1,
        own_data=True,
        save_proxy=saved,
        save_processor=lambda folder: (folder / "tokenizer.json").write_bytes(b"{}"),
        pause=0.0,
    )
    told.rehearse()
    assert (told.examples, told.refused) == ({"a": 7}, {"b": "no column `text`"})
    tried = [envelope.head for _, envelope in line.sent if isinstance(envelope.head, Prepare)]
    assert [(head.trial, [file.name for file in head.files]) for head in tried] == [(True, ["tokenizer.json"])] * 2
    line.sent.clear()
    told.share(["a", "b"], ModelVersion(0, {}, {}))
    assert exchanged(told, asked(*"ab")) == {"b": Failure("b", "no column `text`"), **asked("a")}
    assert [(node, envelope.head.trial) for node, envelope in line.sent if isinstance(envelope.head, Prepare)] == [
        ("a", False)
    ]


def test_a_node_that_is_lost_in_a_trial_is_tried_again() -> None:
    answers = [GONE, READY]
    line = Faked(a=lambda envelope: answers.pop(0))
    told = proxied(line, own_data=True, save_processor=lambda folder: None)
    told.rehearse()
    assert (list(told.examples), answers) == (["a"], [])


def test_a_trial_that_no_node_passes_ends_the_run() -> None:
    line = Faked(a=lambda envelope: Envelope(Refusal(reason="outside this site's policy")))
    told = proxied(line, own_data=True, save_processor=lambda folder: None)
    with pytest.raises(TooFewClientsError, match="node a: outside this site's policy"):
        told.rehearse()


@pytest.mark.parametrize("error", [InterruptedRunError("stop"), TooFewClientsError("the relay was lost")])
def test_nodes_hear_of_the_end_unless_none_can_be_reached(error: Exception) -> None:
    heard: list[Envelope] = []

    def hears(envelope: Envelope) -> Envelope:
        heard.append(envelope)
        return READY if isinstance(envelope.head, Prepare) else Envelope(Unprepared())

    def fails(envelope: Envelope) -> Envelope:
        if isinstance(envelope.head, Prepare):
            return READY
        raise error

    sites = NodesRuntime(Faked(a=hears, b=fails), JOB, stack=1, own_data=True)
    sites.rehearse()
    sites.say_ended("small", "completed", 4)
    assert heard[-1].head == Ended(job=job_digest(JOB), run="small", status="completed", rounds=4)


def test_a_clients_fault_comes_through() -> None:
    fault = Fault(reason="out of memory", details="where", stale=True)

    def failing(envelope: Envelope) -> Envelope:
        return READY if isinstance(envelope.head, Prepare) else Envelope(Replies(clients=(("a", fault),)))

    answers = exchanged(runtime(Faked(one=failing)), asked("a"))
    assert answers == {"a": Failure("a", "out of memory", "where", stale=True)}


def test_no_node_at_all_ends_the_run_with_their_reasons() -> None:
    line = Faked(
        one=lambda envelope: Envelope(Refusal(reason="train.jsonl is another file here")),
        two=lambda envelope: Envelope(Lost(reason="gone")),
    )
    with pytest.raises(TooFewClientsError, match=r"(?s)node one: train.jsonl is another.*node two: gone"):
        exchanged(runtime(line), asked("a"))
    with pytest.raises(TooFewClientsError, match="none is there"):
        exchanged(runtime(Faked()), asked("a"))


def test_a_node_does_not_answer_for_anothers_client() -> None:
    def greedy(envelope: Envelope) -> Envelope:
        if isinstance(envelope.head, Prepare):
            return Envelope(Ready(job=job_digest(JOB), clients=("a", "b")))
        return Envelope(Replies(clients=(("b", None), ("a", None))), (b"forged", b"own"))

    line = Faked(a=greedy, b=good)
    told = NodesRuntime(line, JOB, stack=1, own_data=True, pause=0.0)
    assert exchanged(told, asked(*"ab")) == {"a": b"own", **asked("b")}
    prepared = [envelope.head.client for _, envelope in line.sent if isinstance(envelope.head, Prepare)]
    assert prepared == ["a", "b"]


def test_who_refuses_is_asked_again_only_after_it_has_been_away() -> None:
    line = Faked(one=lambda envelope: Envelope(Refusal(reason="not here")), two=good)
    told = runtime(line)
    for _ in range(3):
        assert exchanged(told, asked("a")) == asked("a")
    assert [node for node, envelope in line.sent if isinstance(envelope.head, Prepare)] == ["one", "two"]
    line.there = {"two": good}
    exchanged(told, asked("a"))
    line.there = {"one": good, "two": good}
    exchanged(told, asked("a"))
    assert [node for node, envelope in line.sent if isinstance(envelope.head, Prepare)] == ["one", "two", "one"]


def work(line: Faked) -> list[tuple[str, list[str]]]:
    """The clients that nodes were asked to train, envelope by envelope."""
    heads = [(node, envelope.head) for node, envelope in line.sent]
    return [(node, [name for name, _ in head.clients]) for node, head in heads if isinstance(head, Requests)]


def test_what_is_submitted_next_goes_to_idle_nodes_at_once_and_waits_for_busy_ones() -> None:
    line = Faked(one=good, two=good)
    told = runtime(line)
    exchanged(told, asked(*"ab"))
    line.sent.clear()
    told.submit(requests(asked("a")))
    told.submit(requests(asked("b")))
    assert work(line) == [("one", ["a"]), ("two", ["b"])], "before any reply is asked for"
    told.submit(requests(asked(*"cde")))
    assert len(line.sent) == 2, "a node works on one envelope at a time"
    assert told.next() == Reply("a", b"message to a")
    assert work(line)[2:] == [("one", ["c", "e"])]
    told.submit(requests(asked("f")))
    replies = [told.next() for _ in range(5)]
    assert [reply.client for reply in replies if reply] == ["b", "c", "e", "d", "f"]
    assert told.next() is None


def test_a_node_that_refuses_gives_its_share_to_the_others() -> None:
    line = Faked(one=good, two=lambda envelope: Envelope(Refusal(reason="not here")), three=good)
    assert exchanged(runtime(line), asked(*"abcdef")) == asked(*"abcdef")
    assert {node for node, _ in work(line)} == {"one", "three"}


def test_the_work_of_nodes_is_dealt_again_only_if_they_had_none_of_it() -> None:
    life = iter([READY, GONE, GONE, GONE, GONE])  # it is lost with its work, and never prepared again
    line = Faked(one=lambda envelope: next(life), two=good)
    told = runtime(line)
    answers = exchanged(told, asked(*"ab"))
    assert answers == {"a": Failure("a", "Flower reports error 3"), **asked("b")}, "it may have been a that ended it"


def test_nodes_that_are_away_are_waited_for_while_others_work() -> None:
    class Away(Faked):
        waited: list[bool] = []

        def nodes(self, *, wait: bool = True) -> Sequence[str]:
            self.waited.append(wait)
            if wait and len(self.waited) > 1:  # it comes back when there is nothing to do but wait
                self.there["two"] = good
            return super().nodes()

    def dies(envelope: Envelope) -> Envelope:
        if isinstance(envelope.head, Prepare):
            return READY
        del line.there["two"]
        return GONE

    line = Away(one=good, two=dies)
    assert exchanged(runtime(line), asked(*"ab")) == asked(*"ab")
    assert line.waited[0] is True
    assert line.waited[-1] is True


def proxies(line: Faked) -> list[str]:
    """The nodes that were offered a proxy."""
    return [node for node, envelope in line.sent if isinstance(envelope.head, Prepare)]


def test_a_node_whose_proxy_no_message_brings_up_to_date_downloads_it() -> None:
    """Clients that download the proxy get messages without changes, and a node may have missed some."""
    line = Faked(one=good, two=good)
    told = proxied(line)
    exchanged(told, asked(*"ab"))
    line.sent.clear()
    told.share([], ModelVersion(1, {}, {}))
    exchanged(told, asked("a"))
    assert proxies(line) == [], "the message to a leads from version 0 to 1"
    told.share([], ModelVersion(1, {}, {}))
    exchanged(told, asked(*"ab"))
    assert proxies(line) == ["two"], "it is still at 0, and all messages may lead from 1"
    line.sent.clear()
    told.share(["c", "d"], ModelVersion(2, {}, {}))
    exchanged(told, asked(*"cd"))
    assert proxies(line) == ["one", "two"], "the messages to new clients lead from 2"


def test_a_state_from_a_site_is_refused_and_its_answer_is_bounded() -> None:
    def states(envelope: Envelope) -> Envelope:
        if isinstance(envelope.head, Prepare):
            return READY
        return Envelope(Replies(clients=(("a", None),), states=("a",)), (b"update", b"state"))

    line = Faked(a=states)
    told = NodesRuntime(line, JOB, stack=1, own_data=True, pause=0.0)
    assert exchanged(told, asked("a")) == {"a": Failure("a", "it sent a state, which sites keep")}
    assert line.limits == [0, 2 * len(b"message to a") + 2**24]


def test_a_state_travels_to_a_simulated_client_and_back() -> None:
    def keeping(envelope: Envelope) -> Envelope:
        if not isinstance(envelope.head, Requests):
            return READY
        assert envelope.head.states == ("b",)
        assert envelope.blobs == (b"m", b"state of b")
        return Envelope(Replies(clients=(("a", None), ("b", None)), states=("b",)), (b"x", b"y", b"new state of b"))

    told = runtime(Faked(one=keeping), stack=2)
    told.submit([Request("a", message := b"m"), Request("b", message, b"state of b")])
    assert [told.next(), told.next()] == [Reply("a", b"x"), Reply("b", b"y", b"new state of b")]


def test_a_node_whose_proxy_is_newer_than_its_next_work_needs_is_prepared_once() -> None:
    line = Faked(one=good)
    told = proxied(line)
    told.submit(requests(asked("a")))
    told.submit(requests(asked("b")))
    told.share(["c"], ModelVersion(1, {}, {}))
    told.submit(requests(asked("c")))
    replies = [told.next() for _ in range(3)]
    assert [reply.client for reply in replies if reply] == ["a", "b", "c"]
    assert proxies(line) == ["one", "one"]
