"""Clients on nodes: processes or machines that hold their data, reached over some line.

What the line is (Flower's grid, Ray's actors) is its own business; here clients are dealt to nodes, nodes that know
nothing of the run are told, and what they answer becomes the clients' answers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from fedfm.errors import InterruptedRunError, TooFewClientsError
from fedfm.proxies.base import ModelVersion
from fedfm.runtimes.base import Answer
from fedfm.runtimes.envelopes import (
    Answers,
    Ended,
    Envelope,
    Lost,
    Piece,
    Prepare,
    Ready,
    Refusal,
    Unprepared,
    Wanting,
    Work,
    job_digest,
)
from fedfm.runtimes.file_transfer import Offer
from fedfm.spill import Spilled
from fedfm.updates import Failure

TRIES, PAUSE = 3, 3.0
"""How often nodes that are lost are told of a run, and seconds between two times."""

PARTING = 15.0
"""Seconds that nodes have to take note of the end of a run."""

ROOM = 2**24
"""Bytes of an update beside its tensors, at most, and tensors may be stored twice as large as they were sent."""


class Line(Protocol):
    """The way to nodes and back."""

    def nodes(self) -> Sequence[str]:
        """The nodes that are there now, sorted; waits until there are as many as it was told to wait for."""
        ...

    def send(
        self, envelopes: Mapping[str, Envelope], *, most: int, within: float | None = None
    ) -> Generator[tuple[str, Envelope]]:
        """Sends nodes their envelopes and yields (node, answer) as answers come in; a node may answer in parts.

        `Lost` in place of an answer says why there is none, or no more of it. A node that others run does not decide
        how much memory its answer takes: where its blobs have more than ``most`` bytes there is a `Refusal`. A caller
        that has enough closes it. ``within`` is the time for answers in seconds, in place of the line's own.
        """
        ...

    def attend(self, check: Callable[[], None]) -> None:
        """Calls ``check`` now and then while it waits; what that raises ends the waiting."""
        ...

    def close(self) -> None:
        """Lets go of the nodes."""
        ...


class NodesRuntime:
    """Trains clients on nodes, in whole passes; which node trains a pass changes nothing of what comes out.

    Attributes:
        examples: node → training examples that it said it has; 0: it did not say.
        refused: node → why it does not take part.
    """

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
            save_proxy: writes the proxy, which is at a version, into an empty folder; None where there is none.
            save_processor: writes what nodes with data of their own read it with, where they get that with the proxy.
            own_data: whether each node is a client, by its name on the line, and has data of its own.
            pause: seconds until a node that was lost is looked for again.
        """
        self.line = line
        self.job = job
        self.stack = stack
        self.save_proxy = save_proxy
        self.save_processor = save_processor
        self.own_data = own_data
        self.pause = pause
        self.examples: dict[str, int] = {}
        self.refused: dict[str, str] = {}
        self._lost: dict[str, str] = {}
        self._digest = job_digest(job)
        self._serves: dict[str, frozenset[str] | None] = {}
        self._latest: ModelVersion | None = None
        self._offered: tuple[int, Offer] | None = None
        self._held: set[str] = set()

    def hand_out(self, clients: Sequence[str], version: ModelVersion) -> None:
        """Nodes of these clients get the proxy before their next work; those that train anybody keep one for all."""
        self._latest, asked = version, set(clients)
        self._held -= {node for node, served in self._serves.items() if served is not None and served & asked}

    def rehearse(self) -> None:
        """Prepares the nodes that are there, or lets them try what they can before there is a proxy; trains nothing.

        Raises:
            TooFewClientsError: no node can train, with the reasons.
        """
        self._prepared(trial=None if self.save_processor is None else Offer(self.save_processor))

    def exchange(self, messages: Mapping[str, bytes]) -> Generator[tuple[str, Answer]]:
        """Deals the clients to the nodes; all of a node's in one envelope.

        Raises:
            TooFewClientsError: no node is prepared, with the reasons.
        """
        nodes = self._prepared(messages if self.own_data and self.save_proxy else None)
        shares: dict[str, list[str]] = {node: [] for node in nodes}
        for client in self._dealt(list(messages), shares):
            yield (
                client,
                Failure(client, (self.refused | self._lost).get(client, "no node that is there holds its data")),
            )
        yield from self._work({node: share for node, share in shares.items() if share}, messages, again=True)

    def say_ended(self, run: str, status: Literal["completed", "interrupted", "failed"], rounds: int) -> None:
        """Tells nodes, which have data of their own, that the run is over; one that does not answer is left.

        Args:
            run: its name.
            status: how it ended.
            rounds: that were played.
        """
        envelope = Envelope(Ended(job=self._digest, run=run, status=status, rounds=rounds))
        with suppress(InterruptedRunError, TooFewClientsError):  # asked to stop, or no node can be reached any more
            deque(self.line.send(dict.fromkeys(self.examples, envelope), most=0, within=PARTING), maxlen=0)

    def attend(self, check: Callable[[], None]) -> None:
        """Calls ``check`` now and then while it waits for nodes; what that raises ends the waiting."""
        self.line.attend(check)

    def close(self) -> None:
        """Lets go of the nodes."""
        self.line.close()

    def _prepared(self, wanted: Collection[str] | None = None, *, trial: Offer | None = None) -> list[str]:
        """Nodes that know the run, hold its proxy and are there; who refused it is told only when it has been away.

        Args:
            wanted: tells no others; None: all that are there.
            trial: what they need for a trial, which is enough for now; None: they are to be ready to train.
        """
        for attempt in range(TRIES):
            there = self.line.nodes()
            self._serves = {node: clients for node, clients in self._serves.items() if node in there}
            self.refused = {node: reason for node, reason in self.refused.items() if node in there}
            known = self._ready(trial) | self.refused.keys()
            new = [node for node in there if node not in known and (wanted is None or node in wanted)]
            if not self._tell(new, trial=trial) or attempt == TRIES - 1:
                break
            time.sleep(self.pause)  # by then it is known whether they are there
        if not self._ready(trial):
            reasons = "".join(f"\n  node {node}: {reason}" for node, reason in (self.refused | self._lost).items())
            raise TooFewClientsError(f"no node can train for this run{reasons or ': none is there'}")
        return sorted(self._serves)

    def _ready(self, trial: Offer | None) -> set[str]:
        """Nodes that need not be told: those that have passed the trial, or that know the run and hold its proxy."""
        if trial is not None:
            return set(self.examples)
        return {node for node in self._serves if self.save_proxy is None or node in self._held}

    def _tell(self, nodes: Sequence[str], *, trial: Offer | None = None) -> bool:
        """Tells nodes of the run, with as much of its proxy as they lack; whether one of them was lost.

        Args:
            nodes: to tell.
            trial: what they need for a trial; None: they are to be ready to train.
        """
        self._lost = {}
        offer = trial or self._offer()
        lacked: dict[str, float] = dict.fromkeys(nodes, float("inf"))

        def envelope(node: str, wanted: Sequence[Piece]) -> Envelope:
            pieces = offer.read(wanted) if offer else []
            head = Prepare(
                job=self.job,
                client=node if self.own_data else None,
                trial=trial is not None,
                files=offer.files if offer else (),
                pieces=tuple(piece for piece, _ in pieces),
            )
            return Envelope(head, tuple(content for _, content in pieces))

        envelopes = {node: envelope(node, ()) for node in nodes}
        while envelopes:
            told, envelopes = envelopes, {}
            for node, answer in self.line.send(told, most=0):
                match answer:
                    case Envelope(head=Ready(job=self._digest, clients=clients, examples=examples)):
                        self.examples[node] = examples or 0
                        if trial is None:
                            served = (node,) if self.own_data else clients
                            self._serves[node] = None if served is None else frozenset(served)
                            self._held.add(node)
                    case Envelope(head=Wanting(job=self._digest, pieces=pieces)):
                        lacks = None if offer is None else offer.lacking(pieces)
                        sent = sum(map(len, told[node].blobs))  # a node keeps it, or asks without end
                        if lacks is None or lacks >= lacked[node] or lacks > lacked[node] - sent:
                            self._refuse(node, "the files of the proxy do not arrive there as they were sent")
                        else:
                            lacked[node], envelopes[node] = lacks, envelope(node, pieces)
                    case Envelope(head=Lost()):
                        self._serves.pop(node, None)
                        self._lost[node] = _why_not(answer)
                    case _:
                        self._refuse(node, _why_not(answer))
        return bool(self._lost)

    def _refuse(self, node: str, reason: str) -> None:
        """Does without a node until it has been away."""
        self._serves.pop(node, None)
        self.refused[node] = reason

    def _offer(self) -> Offer | None:
        """The latest proxy; None where there is none."""
        save, version = self.save_proxy, self._latest
        if save is None or version is None:
            return None
        if self._offered is None or self._offered[0] != version.number:
            self._offered = version.number, Offer(lambda folder: save(folder, version))
        return self._offered[1]

    def _dealt(self, clients: list[str], shares: dict[str, list[str]]) -> list[str]:
        """Fills each node's share with whole passes; the clients that no node serves are left."""
        left, groups = [], dict[tuple[str, ...], list[str]]()
        for client in clients:
            serving = tuple(node for node, served in self._serves.items() if served is None or client in served)
            if serving:
                groups.setdefault(serving, []).append(client)
            else:
                left.append(client)
        for serving, group in groups.items():
            for start in range(0, len(group), self.stack):
                least = min(serving, key=lambda node: (len(shares[node]), node))
                shares[least] += group[start : start + self.stack]
        return left

    def _work(
        self, shares: Mapping[str, Sequence[str]], messages: Mapping[str, bytes], *, again: bool
    ) -> Iterator[tuple[str, Answer]]:
        """Sends work and yields what comes of it.

        Nodes that have forgotten the run, or were lost and are there again, are asked once more for what they owe.
        """
        waiting = {node: list(share) for node, share in shares.items()}
        forgot: set[str] = set()
        lost: dict[str, str] = {}
        envelopes = {node: self._parcel(node, share, messages) for node, share in shares.items()}
        most = max(map(len, shares.values()), default=0) * (2 * max(map(len, messages.values()), default=0) + ROOM)
        try:
            with closing(self.line.send(envelopes, most=most)) as answered:
                for node, answer in answered:
                    if isinstance(answer.head, Answers):
                        yield from _answers(answer.head, answer.blobs, waiting[node])
                    else:
                        lost[node] = _why_not(answer)
                        if again and not _is_final(answer):
                            forgot.add(node)
        except GeneratorExit:  # nobody waits for the others
            self._held -= {node for node, unanswered in waiting.items() if unanswered}
            raise
        for node in forgot:
            self._serves.pop(node, None)
        if owing := {node for node in forgot if waiting[node]}:
            known = {node: waiting.pop(node) for node in owing & set(self._prepared(owing))}
            yield from self._work(known, messages, again=False)
        for node, unanswered in waiting.items():
            if unanswered:
                self._held.discard(node)  # who knows what it holds now
            for client in unanswered:
                yield client, Failure(client, lost.get(node, f"node {node} gave no answer"))

    def _parcel(self, node: str, clients: Sequence[str], messages: Mapping[str, bytes]) -> Envelope:
        """The work of a node.

        Where it trains anybody it gets all messages of the round: so the proxies of such nodes stay at one version.
        """
        sent = messages.values() if self._serves[node] is None else [messages[client] for client in clients]
        distinct = {id(message): message for message in sent}
        places = {key: place for place, key in enumerate(distinct)}
        head = Work(job=self._digest, clients=tuple((client, places[id(messages[client])]) for client in clients))
        return Envelope(head, tuple(distinct.values()))


def _answers(answers: Answers, blobs: Sequence[bytes | Spilled], waiting: list[str]) -> Iterator[tuple[str, Answer]]:
    """What a node came to, for those of its clients that are waiting; it does not answer for another's."""
    updates = iter(blobs)
    for client, fault in answers.clients:
        found = next(updates) if fault is None else Failure(client, **fault.model_dump())
        if client in waiting:
            waiting.remove(client)
            yield client, found


def _is_final(answer: Envelope) -> bool:
    """Whether there is no use in asking a node again that has not answered."""
    return not isinstance(answer.head, Unprepared | Lost) or (isinstance(answer.head, Lost) and answer.head.late)


def _why_not(answer: Envelope) -> str:
    head = answer.head
    return head.reason if isinstance(head, Refusal | Lost) else f"it answered with `{head.kind}`"
