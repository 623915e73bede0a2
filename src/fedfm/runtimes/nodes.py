"""Clients on nodes: processes or machines that hold their data, reached over a line.

Clients are dealt to nodes in whole passes; a node that does not know the run is prepared first. Each node goes its own
way: while one prepares or trains, others are sent what is submitted next.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from fedfm.errors import InterruptedRunError, TooFewClientsError
from fedfm.proxies.base import ModelVersion
from fedfm.runtimes.base import refuse_repeats
from fedfm.runtimes.envelopes import Ended, Envelope, LabelAnswers, Lost, Replies, RunStatus, Unprepared
from fedfm.runtimes.exchanges import read_replies, work_envelope
from fedfm.runtimes.line import Line, Part
from fedfm.runtimes.preparation import Preparation, why_not
from fedfm.updates import Failure, Reply, Request

TRIES, PAUSE = 3, 3.0
"""How often a node is prepared that is lost each time, and seconds between two times."""

PARTING = 15.0
"""Seconds that nodes have to acknowledge the end of a run."""

ROOM = 2**24
"""Bytes of an update beside its tensors, at most, and tensors may be stored twice as large as they were sent."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """What was submitted together.

    Attributes:
        messages: that differ. A node that trains any client gets all of them, so that its proxy follows every change.
        version: of the proxy that they lead to.
        leads_from: the oldest version of the proxy that they lead on from.
    """

    messages: tuple[bytes, ...]
    version: int
    leads_from: int


@dataclass(eq=False)
class _Owed:
    """A request without a reply.

    Attributes:
        request: what the client is asked.
        batch: that it was submitted with.
        lost: why its node was lost with it, if it was; it is sent once more, not twice.
    """

    request: Request
    batch: _Batch
    lost: str | None = None


@dataclass(frozen=True)
class _Work:
    """What a node works on.

    Attributes:
        batch: that it is from.
        owed: client → its request, while the node has not answered it.
    """

    batch: _Batch
    owed: dict[str, _Owed]


class NodesRuntime:
    """Trains clients on nodes; which node trains a pass does not change the result.

    A node is idle, or works on one envelope: its preparation or its work. What it gets meanwhile waits in its queue. A
    node that was lost, or has forgotten the run, is prepared again, and sent once more what it owes.

    Attributes:
        preparation: of the nodes for this run.
    """

    remote = True

    def __init__(
        self,
        line: Line,
        job: dict[str, Any],
        *,
        stack: int,
        save_proxy: Callable[[Path, ModelVersion], object] | None = None,
        save_processor: Callable[[Path], object] | None = None,
        own_data: bool = False,
        pause: float = PAUSE,
    ) -> None:
        """A runtime over a line.

        Args:
            line: to the nodes.
            job: what they need to know of the run.
            stack: clients of one pass.
            save_proxy: writes a version of the proxy into an empty folder; None where the run has no proxy.
            save_processor: writes what nodes with data of their own read it with, where they get that with the proxy.
            own_data: whether each node is a client, by its name on the line, and has data of its own.
            pause: seconds until a node that was lost is prepared again.
        """
        self.line = line
        self.job = job
        self.stack = stack
        self.keeps_state = own_data
        self.pause = pause
        self.preparation = Preparation(job, own_data=own_data, save_proxy=save_proxy, save_processor=save_processor)
        self._tries_first = save_processor is not None
        self._there: Sequence[str] = ()
        self._queues: dict[str, deque[_Owed]] = {}
        self._preparing = set[str]()
        self._working: dict[str, _Work] = {}
        self._resting: dict[str, float] = {}
        self._lost: dict[str, int] = {}
        self._given_up = set[str]()
        self._arrived = deque[Reply]()

    def submit(self, requests: Sequence[Request]) -> None:
        """As `Runtime.submit`; idle nodes get their part at once."""
        refuse_repeats(self._outstanding(), requests)
        if self.keeps_state and (with_state := [request.client for request in requests if request.state is not None]):
            raise ValueError(f"client {with_state[0]} keeps its state itself: none can be sent to it")
        if not requests:
            return
        self._look(wait=not self._is_busy)
        if not self._there:  # all are lost, which `next` has not seen yet
            self._look(wait=True)
        self._given_up.clear()
        messages = tuple({id(request.message): request.message for request in requests}.values())
        version, leads_from = self.preparation.versions([request.client for request in requests])
        batch = _Batch(messages, version, leads_from)
        self._deal([_Owed(request, batch) for request in requests])

    def next(self, timeout: float | None = None) -> Reply | None:
        """As `Runtime.next`."""
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._arrived:
            self._wake()
            if self._arrived or not (self._is_busy or self._resting):
                break
            now = time.monotonic()
            left = min(end, *self._resting.values(), float("inf")) - now
            part = self.line.pull(None if left == float("inf") else max(0.0, left))
            if part is not None:
                self._take(part)
            elif left == float("inf"):
                raise RuntimeError("nodes owe answers that the line does not wait for")
            elif now >= end:
                break
            elif not self._is_busy:
                time.sleep(max(0.0, left))  # by then it is known whether the lost nodes are there
        return self._arrived.popleft() if self._arrived else None

    def drop(self) -> None:
        """As `Runtime.drop`; nodes finish what they work on, but their answers are not used."""
        self.line.drop()
        for node in self._working:
            self.preparation.forget_proxy(node)
        self._queues.clear()
        self._preparing.clear()
        self._working.clear()
        self._resting.clear()
        self._lost.clear()
        self._arrived.clear()

    def share(self, clients: Sequence[str], version: ModelVersion) -> None:
        """As `Runtime.share`; a node gets the files before its next work."""
        self.preparation.share(clients, version)

    def attend(self, check: Callable[[], None]) -> None:
        """As `Runtime.attend`."""
        self.line.attend(check)

    def say_ended(self, run: str, status: RunStatus, rounds: int) -> None:
        """As `Runtime.say_ended`; a site that does not acknowledge it in time is left."""
        if not self.keeps_state:
            return
        self.drop()
        envelope = Envelope(Ended(job=self.preparation.digest, run=run, status=status, rounds=rounds))
        with suppress(InterruptedRunError, TooFewClientsError):  # asked to stop, or no node can be reached any more
            for node in self.preparation.examples:
                self.line.push(node, envelope, most=0, within=PARTING)
            while self.line.pull() is not None:
                pass

    def rehearse(self) -> None:
        """As `Runtime.rehearse`: prepares the nodes that are there, or lets them try what they can without a proxy."""
        for attempt in range(TRIES):
            self._look(wait=True)
            new = [node for node in self._there if not self._is_known(node)]
            for node in new:
                self.line.push(node, self.preparation.begin(node, trial=self._tries_first), most=0)
            while (part := self.line.pull()) is not None:
                if (more := self.preparation.take(part.node, part.envelope)) is not None:
                    self.line.push(part.node, more, most=0)
            if attempt == TRIES - 1 or not self.preparation.lost.keys() & set(new):
                break
            time.sleep(self.pause)
        if not any(map(self.preparation.knows, self._there)):
            raise self._none_can_train()

    def close(self) -> None:
        """As `Runtime.close`."""
        self.line.close()

    @property
    def examples(self) -> dict[str, int]:
        """Node → training examples that it reported; 0: it reported none. Grows as nodes join."""
        return self.preparation.examples

    @property
    def labels(self) -> dict[str, LabelAnswers]:
        """Node → the classes of its examples under randomised response, where it told them. Grows as nodes join."""
        return self.preparation.labels

    @property
    def refused(self) -> dict[str, str]:
        """Node → why it does not take part."""
        return self.preparation.refused

    @property
    def _is_busy(self) -> bool:
        """Whether a node owes an answer."""
        return bool(self._preparing or self._working)

    def _is_known(self, node: str) -> bool:
        return self.preparation.knows(node) or node in self.preparation.refused

    def _outstanding(self) -> set[str]:
        queued = {owed.request.client for queue in self._queues.values() for owed in queue}
        working = {client for work in self._working.values() for client in work.owed}
        return queued | working | {reply.client for reply in self._arrived}

    def _look(self, *, wait: bool) -> None:
        """Finds out which nodes are there."""
        self._there = self.line.nodes(wait=wait)
        self.preparation.meet(self._there)

    def _can_train(self, node: str) -> bool:
        return node not in self.preparation.refused and node not in self._given_up

    def _deal(self, requests: Iterable[_Owed]) -> None:
        """Puts requests into the queues of the least loaded nodes, in whole passes; fails those that no node serves.

        Raises:
            TooFewClientsError: no node can train, with the reasons.
        """
        nodes = [node for node in self._there if self._can_train(node)]
        if not nodes:
            raise self._none_can_train()
        load = {node: self._load(node) for node in nodes}
        groups: dict[tuple[str, ...], list[_Owed]] = {}
        for owed in requests:
            client = owed.request.client
            serving = tuple(node for node in nodes if self.preparation.may_serve(node, client))
            if serving:
                groups.setdefault(serving, []).append(owed)
            else:
                self._fail(owed, self.preparation.reasons.get(client, "no node that is there holds its data"))
        for serving, group in groups.items():
            for start in range(0, len(group), self.stack):
                together = group[start : start + self.stack]
                least = min(serving, key=lambda node: (load[node], node))
                load[least] += len(together)
                self._queues.setdefault(least, deque()).extend(together)
        for node in sorted({node for serving in groups for node in serving}):
            self._advance(node)

    def _load(self, node: str) -> int:
        """Requests that a node has not answered."""
        return len(self._queues.get(node, ())) + (len(self._working[node].owed) if node in self._working else 0)

    def _advance(self, node: str) -> None:
        """Sends an idle node what it needs next: its preparation, or the requests of one batch from its queue."""
        queue = self._queues.get(node)
        if not queue or node in self._preparing or node in self._working or node in self._resting:
            return
        batch = queue[0].batch
        if not self.preparation.is_ready(node, batch.leads_from):
            self._preparing.add(node)
            self.line.push(node, self.preparation.begin(node), most=0)
            return
        together = list(takewhile(lambda owed: owed.batch is batch, queue))
        for _ in together:
            queue.popleft()
        requests = [owed.request for owed in together]
        self._working[node] = _Work(batch, {owed.request.client: owed for owed in together})
        messages = batch.messages
        if not self.preparation.trains_any(node):
            messages = tuple({id(request.message): request.message for request in requests}.values())
        # nodes for simulated clients are this run's own, and the size of a state is not known
        most = len(requests) * (2 * max(map(len, messages)) + ROOM) if self.keeps_state else None
        self.line.push(node, work_envelope(self.preparation.digest, requests, messages), most=most)

    def _take(self, part: Part) -> None:
        """Takes a part of a node's answer."""
        if part.node in self._preparing:
            self._take_preparation(part.node, part.envelope)
        elif part.node in self._working:
            self._take_work(part)

    def _take_preparation(self, node: str, answer: Envelope) -> None:
        if (more := self.preparation.take(node, answer)) is not None:
            self.line.push(node, more, most=0)
            return
        self._preparing.discard(node)
        if node in self.preparation.lost:
            self._rest(node)
        elif node in self.preparation.refused:
            self._give_up(node)
        else:
            self._lost.pop(node, None)
            queue = self._queues.pop(node, deque())
            kept = [owed for owed in queue if self.preparation.may_serve(node, owed.request.client)]
            self._queues[node] = deque(kept)
            if dealt_wrong := [owed for owed in queue if owed not in kept]:
                self._deal(dealt_wrong)
            self._advance(node)

    def _take_work(self, part: Part) -> None:
        owed, head = self._working[part.node].owed, part.envelope.head
        lost = None
        if isinstance(head, Replies) and not (self.keeps_state and head.states):
            for reply in read_replies(head, part.envelope.blobs):
                if owed.pop(reply.client, None) is not None:  # a node does not answer for another's clients
                    self._arrived.append(reply)
        else:
            lost = "it sent a state, which sites keep" if isinstance(head, Replies) else why_not(part.envelope)
        if part.last:
            self._finish(part.node, lost or f"node {part.node} gave no answer", again=_is_worth_asking(part.envelope))

    def _finish(self, node: str, lost: str, *, again: bool) -> None:
        """Ends the work of a node.

        Args:
            node: that has answered all, or gives no more answers.
            lost: why those requests are lost that it has not answered.
            again: whether it may be asked again.
        """
        work = self._working.pop(node)
        if again:
            self.preparation.forget(node)
        if work.owed:
            self.preparation.forget_proxy(node)
        else:
            self.preparation.trained(node, work.batch.version)
        repeated = [owed for owed in work.owed.values() if again and owed.lost is None]
        for owed in work.owed.values():
            if owed not in repeated:
                self._fail(owed, lost)
        if repeated:
            for owed in repeated:
                owed.lost = lost
            self._queues.setdefault(node, deque()).extendleft(reversed(repeated))
            self._resting[node] = time.monotonic()  # `_wake` looks whether it is there before it is prepared
        self._advance(node)

    def _rest(self, node: str) -> None:
        """Prepares a node later that was lost; gives it up when it was lost often."""
        self._lost[node] = self._lost.get(node, 0) + 1
        if self._lost[node] < TRIES:
            self._resting[node] = time.monotonic() + self.pause
        else:
            self._give_up(node)

    def _wake(self) -> None:
        """Goes on with nodes whose rest is over, if they are there; if not, they may return while others work."""
        now = time.monotonic()
        rested = [node for node, end in self._resting.items() if end <= now]
        if not rested:
            return
        alone = not self._is_busy
        self._look(wait=alone)
        for node in rested:
            del self._resting[node]
            if node in self._there:
                self._advance(node)
            elif alone:
                self._rest(node)
            else:
                self._resting[node] = now + self.pause

    def _give_up(self, node: str) -> None:
        """Does without a node until the next submission: fails what it was asked before, and deals out the rest."""
        self._given_up.add(node)
        self._lost.pop(node, None)
        queue = self._queues.pop(node, deque())
        for owed in queue:
            if owed.lost is not None:
                self._fail(owed, owed.lost)
        if left := [owed for owed in queue if owed.lost is None]:
            self._deal(left)

    def _fail(self, owed: _Owed, reason: str) -> None:
        client = owed.request.client
        self._arrived.append(Reply(client, Failure(client, reason)))

    def _none_can_train(self) -> TooFewClientsError:
        reasons = "".join(f"\n  node {node}: {reason}" for node, reason in self.preparation.reasons.items())
        return TooFewClientsError(f"no node can train for this run{reasons or ': none is there'}")


def _is_worth_asking(answer: Envelope) -> bool:
    """Whether a node that gave this answer may do the work when it is asked again."""
    return isinstance(answer.head, Unprepared) or (isinstance(answer.head, Lost) and not answer.head.late)
