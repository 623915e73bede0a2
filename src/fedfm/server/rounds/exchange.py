"""One exchange: the instruction goes out, and what comes back is screened, written down and folded.

Updates are folded in the order of the clients' ids whenever they arrive, so a carrier cannot change the result; what
arrives early waits for its turn. Where more clients are asked than are needed, those count that are first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from fedfm.aggregation import MeanFold
from fedfm.params import Params
from fedfm.printable import line, lines
from fedfm.proxies.base import ClientModel
from fedfm.recipe import Recipe
from fedfm.records.ledger import message_record
from fedfm.records.listeners import Listener
from fedfm.runtimes.base import Answer, Runtime
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.ordering import Ordering
from fedfm.server.rounds.round_records import Records, Stopwatch
from fedfm.server.rounds.screening import screen
from fedfm.updates import Failure, Instruction, MessageError, decode_update


@dataclass
class Answers:
    """What came back in one round, folded.

    Attributes:
        losses: mean loss a prediction, and over how many, of each accepted client that predicted anything.
        examples: training examples of the accepted clients.
        trained: clients whose update was accepted → the version of the proxy that it was trained on.
        stale: clients whose proxy could not be brought up to date.
        activity: counts of neurons' use, summed over them.
    """

    fold: MeanFold
    losses: list[tuple[float, int]] = field(default_factory=list)
    examples: int = 0
    accepted: int = 0
    failed: int = 0
    refused: int = 0
    steps: int = 0
    samples: int = 0
    bytes_up: int = 0
    trained: dict[str, int] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    activity: Params = field(default_factory=dict)

    @property
    def loss(self) -> float | None:
        """Mean training loss a prediction, over all accepted clients; None where nothing was predicted."""
        predictions = sum(count for _, count in self.losses)
        return sum(loss * count for loss, count in self.losses) / predictions if predictions else None


@dataclass(frozen=True)
class Exchange:
    """Exchanges messages with a cohort.

    Attributes:
        runtime: carries them.
        recipe: says how updates are weighed and combined.
        listeners: hear of every client.
        stop: ends the exchange at the next client.
        proxy: the server's side of the proxy, which knows what counts it may get; None where there is no proxy.
    """

    runtime: Runtime
    recipe: Recipe
    listeners: Sequence[Listener]
    stop: StopRequest
    proxy: ClientModel | None

    def __call__(
        self,
        cohort: Mapping[str, int],
        instruction: Instruction,
        messages: Mapping[str, bytes],
        records: Records,
        watch: Stopwatch,
        *,
        enough: int | None = None,
    ) -> Answers:
        """Sends the instruction and folds what is sound.

        Args:
            cohort: client id → how often it was drawn, in sorted order.
            instruction: what every message asks for.
            messages: client id → bytes, in the same order.
            records: gets the ledger's lines and the events.
            watch: gets the time.
            enough: sound updates after which nobody else is waited for; they are folded as they come. None: all.

        Raises:
            InterruptedRunError: somebody asked to stop.
        """
        came_back = Answers(self.recipe.aggregate.start())
        turns, answered = Ordering(list(cohort), as_they_come=enough is not None), set[str]()
        wanted, place = enough or len(cohort), f"in round {instruction.round}"

        def note(event: Mapping[str, str]) -> None:
            records.events.append({"round": instruction.round, **event})

        def fold(client: str, answer: Answer) -> None:
            event = self._take(client, answer, cohort[client], instruction, came_back, records)
            if event is not None:
                note(event)

        with closing(self.runtime.exchange(messages)) as answers:
            for client, answer in answers:
                seconds = watch.lap("train")
                self.stop.check(place)
                if client not in cohort or client in answered:
                    reason = "it answered twice" if client in answered else "it was not asked"
                    note({"kind": "refused", "client": client, "reason": reason})
                    came_back.refused += 1
                    continue
                answered.add(client)
                for whose, its in turns.after(client, answer):
                    fold(whose, its)
                for listener in self.listeners:
                    listener.on_client(instruction.round, min(len(answered), wanted), wanted, client, seconds)
                watch.lap("wire")
                if came_back.accepted == enough:
                    break
        self.stop.check(place)
        for client, early in turns.left():
            if came_back.accepted == enough:
                note({"kind": "late", "client": client, "reason": f"{enough} others were faster"})
            else:
                fold(client, Failure(client, "it gave no answer") if early is None else early)
        return came_back

    def _take(
        self,
        client: str,
        answer: Answer,
        copies: int,
        instruction: Instruction,
        came_back: Answers,
        records: Records,
    ) -> dict[str, str] | None:
        """Folds one answer in; the event to record when it is not usable."""
        if isinstance(answer, Failure):
            came_back.failed += 1
            came_back.stale |= {client} if answer.stale else set()
            return {"kind": "failed", "client": client, "reason": line(answer.reason), "details": lines(answer.details)}
        came_back.bytes_up += len(answer)
        number, size, stale = instruction.round, len(answer), self.recipe.proxy.accepts_stale
        try:
            update = decode_update(answer)
            if reason := screen(
                update, instruction, client=client, stale=stale, proxy=self.proxy
            ):
                raise MessageError(reason)
        except MessageError as error:
            came_back.refused += 1
            records.wire.append(message_record(number, "up", [client], size, {}))  # of its tensors nothing is known
            return {"kind": "refused", "client": client, "reason": line(error)}
        records.wire.append(message_record(number, "up", [client], size, update.tensors))
        weight = self.recipe.aggregate.weight(update.examples, copies=copies, sampling=self.recipe.federation.sampling)
        came_back.fold.add(update.params, weight)
        came_back.accepted += 1
        came_back.steps += update.steps
        came_back.samples += update.samples
        came_back.examples += update.examples
        if update.predictions:
            came_back.losses.append((update.loss, update.predictions))
        came_back.trained[client] = update.proxy_version
        for name, counts in update.activity.items():
            came_back.activity[name] = came_back.activity.get(name, 0) + counts
        return None
