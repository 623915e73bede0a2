"""Messages that Flower counts as delivered but no node received: nodes are asked, and the run continues."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from flwr.app import Message

import fedfm
from fedfm.hosts.node import Node
from fedfm.params import digest, load
from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import Envelope, Inquiry, Lost, Refusal, Requests, Seen, Unprepared
from fedfm.runtimes.flower.apps import client_app, make_client_app, relay
from fedfm.runtimes.flower.grid import GridNodes
from fedfm.runtimes.flower.in_process import InProcessGrid
from fedfm.runtimes.flower.records import from_record, to_record
from fedfm.runtimes.line import Line
from fedfm.runtimes.relay import RelayLine
from fedfm.server.experiment.runtime_factory import RUNTIMES, over_nodes
from tests.small import small_recipe

WORK, DONE = Envelope(Requests(job="", clients=())), Envelope(Unprepared())
HAD, HAD_NOT = Envelope(Seen(seen=True)), Envelope(Seen(seen=False))
LOST = Envelope(Lost(reason="its message was lost on the way to it"))
EVER = 1e9


class LosingGrid(InProcessGrid):
    """Gives messages their numbers, and loses some of them."""

    def __init__(self, sites: Sequence[Node], lose: Iterable[str]) -> None:
        """A grid of sites.

        Args:
            sites: one for each node.
            lose: kinds of envelopes, each as often as one is to be lost.
        """
        app = make_client_app(lambda context: sites[context.node_id - 1].handle)
        super().__init__(app, [{}] * len(sites))
        self.lose, self.kinds = list(lose), list[str]()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        numbers = super().push_messages(messages)
        for number in numbers:
            self.kinds.append(from_record(self._pushed[number].content).head.kind)
            if self.kinds[-1] in self.lose:
                self.lose.remove(self.kinds[-1])
                del self._pushed[number]
        return numbers


@pytest.mark.parametrize("lose", [["requests"], ["requests", "requests", "ask"]], ids="+".join)
def test_a_run_that_loses_messages_ends_as_it_must(
    lose: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = LosingGrid([Node(), Node()], lose)

    def carried() -> Line:
        line = RelayLine(tmp_path / "socket" / "relay", nodes=2, patience=10, deadline=60)
        arguments = {"poll": 0.0, "ask": 0.0}
        threading.Thread(target=relay, args=(grid, line.path), kwargs=arguments, daemon=True).start()
        return line

    monkeypatch.setitem(RUNTIMES, "flower", lambda experiment, _: over_nodes(experiment, carried()))
    recipe = small_recipe(tmp_path)
    local = fedfm.run(fedfm.load_recipe(recipe | {"name": "local"}), ["runtime.stack=2"])
    flower = fedfm.run(fedfm.load_recipe(recipe | {"name": "flower"}), ["runtime={kind: flower, stack: 2}"])
    assert _adapter(flower) == _adapter(local)
    assert flower.summary["clients"] == {"failed": 0, "refused": 0} | flower.summary["clients"]
    assert grid.lose == []
    assert grid.kinds.count("ask") == 2 * lose.count("requests") + lose.count("ask")
    assert grid.kinds.count("prepare") == 2 + lose.count("requests")


def _adapter(run: fedfm.Run) -> str:
    return digest(load(run.path / "adapter" / "adapter_model.safetensors"))


class ToldGrid(InProcessGrid):
    """A grid of one node that answers what the test says."""

    def __init__(self) -> None:
        super().__init__(make_client_app(lambda context: lambda envelope: []), [{}])
        self.pushed: dict[str, Message] = {}
        self.answers: dict[str, Envelope] = {}
        self.pulled: list[str] = []
        self.full = False

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        if self.full:
            return []
        messages = list(messages)
        numbers = super().push_messages(messages)
        self.pushed |= dict(zip(numbers, messages, strict=True))
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.pulled += (numbers := list(message_ids))
        found = [number for number in numbers if number in self.answers]
        return [Message(to_record(self.answers.pop(number)), reply_to=self.pushed[number]) for number in found]


class Waiting:
    """A line to a node, asked after 10 seconds by a clock that the test sets.

    Attributes:
        there: the nodes that are online.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.grid = ToldGrid()
        self.line = GridNodes(self.grid, ask=10.0, clock=lambda: self.now)
        self.there = ["1"]
        self.push()

    def push(self) -> None:
        assert self.line.push("1", WORK)

    def look(self, at: float) -> list[Envelope]:
        """What has come of everything at a time; then who must be asked is asked."""
        self.now = at
        answers = [answer for _, answer in self.line.pull()]
        self.line.ask(self.there)
        return answers

    def say(self, answer: Envelope) -> None:
        """Answers the last message that went to the node."""
        self.grid.answers[list(self.grid.pushed)[-1]] = answer

    @property
    def questions(self) -> list[str]:
        """The messages that the node was asked for."""
        heads = [from_record(message.content).head for message in self.grid.pushed.values()]
        return [head.message for head in heads if isinstance(head, Inquiry)]


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


def test_an_unanswered_question_is_asked_again_after_twice_the_time(waiting: Waiting) -> None:
    asked = {}
    for at in (9.9, 10.0, 29.9, 30.0, 69.9, 70.0):
        assert waiting.look(at) == []
        asked[at] = len(waiting.questions)
    assert asked == {9.9: 0, 10.0: 1, 29.9: 1, 30.0: 2, 69.9: 2, 70.0: 3}
    assert set(waiting.questions) == {"1"}


def test_flower_keeps_a_question_until_the_next(waiting: Waiting) -> None:
    waiting.look(10.0)
    waiting.look(30.0)
    assert [message.metadata.ttl for message in waiting.grid.pushed.values()][1:] == [20.0, 40.0]


@pytest.mark.parametrize("answer", [Envelope(Refusal(reason="?")), Envelope(Lost(reason="no worker")), DONE])
def test_what_is_no_answer_to_a_question_is_none(answer: Envelope, waiting: Waiting) -> None:
    for at, asked in ((10.0, 1), (30.0, 2), (70.0, 3)):
        assert waiting.look(at) == []
        assert len(waiting.questions) == asked
        waiting.say(answer)
    assert waiting.look(71.0) == []


def test_who_has_its_message_is_not_asked_again_and_its_answer_is_taken(waiting: Waiting) -> None:
    waiting.look(10.0)
    waiting.say(HAD)
    assert waiting.look(11.0) == []
    assert waiting.look(EVER) == []
    assert len(waiting.questions) == 1
    assert waiting.grid.pulled == ["1", "1", "2", "1"], "a question that is answered is not looked at again"
    waiting.grid.answers["1"] = DONE
    assert waiting.look(EVER) == [DONE]


def test_a_question_may_overtake_its_message(waiting: Waiting) -> None:
    waiting.look(10.0)
    waiting.say(HAD_NOT)
    for at, asked in ((15.0, 1), (24.9, 1), (25.0, 2)):
        assert waiting.look(at) == []
        assert len(waiting.questions) == asked
    waiting.say(HAD)
    assert waiting.look(EVER) == []
    waiting.grid.answers["1"] = DONE
    assert waiting.look(EVER) == [DONE]


def test_who_has_not_had_its_message_twice_is_lost(waiting: Waiting) -> None:
    waiting.look(10.0)
    waiting.say(HAD_NOT)
    assert waiting.look(10.0) == []
    waiting.look(20.0)  # of this question nothing is heard
    waiting.look(40.0)
    waiting.say(HAD_NOT)
    assert waiting.look(41.0) == [LOST]
    waiting.grid.answers["1"] = DONE
    assert waiting.look(EVER) == []  # it is not waited for any more
    assert len(waiting.questions) == 3


def test_who_has_answered_is_asked_nothing(waiting: Waiting) -> None:
    waiting.look(10.0)
    waiting.say(HAD_NOT)
    waiting.grid.answers["1"] = DONE
    assert waiting.look(11.0) == [DONE]
    assert waiting.look(EVER) == []
    assert len(waiting.questions) == 1


def test_what_is_sent_next_drops_the_questions_before_it(waiting: Waiting) -> None:
    waiting.look(10.0)
    waiting.say(HAD_NOT)
    waiting.look(10.0)
    waiting.look(20.0)
    waiting.say(HAD_NOT)
    waiting.push()
    assert waiting.look(20.0) == []
    assert list(waiting.grid.answers.values()) == [HAD_NOT], "it is not waited for any more"
    assert waiting.look(30.0) == []
    assert waiting.questions == ["1", "1", "4"]
    waiting.say(HAD_NOT)  # the first that counts
    assert waiting.look(30.0) == []


def test_a_question_drops_no_message(waiting: Waiting) -> None:
    waiting.look(10.0)
    waiting.grid.answers["1"] = DONE
    assert waiting.look(11.0) == [DONE]


def test_who_is_not_there_is_asked_when_it_is_back(waiting: Waiting) -> None:
    waiting.there = []
    waiting.look(40.0)
    assert waiting.questions == []
    waiting.there = ["1"]
    waiting.look(41.0)
    assert waiting.questions == ["1"]


def test_a_question_that_flower_does_not_take_is_asked_again(waiting: Waiting) -> None:
    waiting.grid.full = True
    assert waiting.look(10.0) == []
    waiting.grid.full = False
    for at, asked in ((29.9, 0), (30.0, 1)):
        assert waiting.look(at) == []
        assert len(waiting.questions) == asked


def test_the_worker_of_a_node_hears_what_its_message_is_called(tmp_path: Path) -> None:
    path, heard = tmp_path / "socket", list[object]()

    def worker() -> None:
        caller, _ = server.accept()
        with caller:
            heard.append(sockets.receive(caller))
            sockets.send(caller, DONE)

    with sockets.listen(path) as server:
        threading.Thread(target=worker, daemon=True).start()
        line = GridNodes(grid := InProcessGrid(client_app(path), [{}]))
        assert line.push("1", WORK)
        (number,) = grid._pushed
        assert list(line.pull()) == [("1", DONE)]
    assert heard == [(number, WORK)]
