"""What an algorithm is: plain functions over `Params`, one for each phase of a round, with the settings they use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fedfm.aggregation import Contribution
from fedfm.capabilities import (
    BARRIER,
    GRADIENTS,
    INDIVIDUAL_UPDATES,
    LASTING_COORDINATES,
    LOW_RANK_PRODUCT,
    MODEL_CHANGES,
    ONE_MODEL,
    PLAIN_STEP,
    SERVER_STEP,
    STATEFUL_CLIENTS,
    TASKS,
    TUNABLE_UPDATES,
    WHOLE_VIEWS,
)
from fedfm.clients.rules import At, ClientRound, Finished, Groups, LocalResult, Teacher
from fedfm.params import Params, add
from fedfm.settings import Capabilities, Settings
from fedfm.tasks.base import Batch

ServerState = dict[str, Params]
"""What the server remembers between rounds (momentum, second moments, …), by name; saved in every checkpoint."""


@dataclass(frozen=True)
class Aggregate:
    """The aggregate of a round's sound updates.

    Attributes:
        update: the aggregate Δ of the clients' w_c − w_t by the recipe's rule, in their dtype.
        extras: the plain mean over clients of what else they sent, by group.
        share: |S| / N: clients that were folded in, as a share of all.
        clients: |S|; under a promise of privacy its expectation.
        steps: mean local steps of these clients.
        round: 1-based round.
        figures: what `Algorithm.measure` returned for each client, combined by the recipe's rule as the updates are.
    """

    update: Params
    extras: Groups = field(default_factory=dict)
    share: float = 1.0
    clients: float = 1.0
    steps: float = 1.0
    round: int = 1
    figures: Mapping[str, float] = field(default_factory=dict)


class Algorithm(Settings):
    """FedAvg's skeleton; an algorithm overrides the phases in which it differs.

    A round calls, in this order: `sends` at the server; `client_start` (before a client's first round), `gradient` and
    `loss` in every local step, and `client_finish` at the client; `measure` for each update, and `server_step`, at the
    server. `gradient` sees no names and is elementwise, so that the same lines serve one client ``[...]`` and K stacked
    clients ``[K, ...]``.

    A whole federation in a few lines, on a model of one number that client c wants to be c:

        >>> import torch
        >>> from fedfm.aggregation import Contribution, Mean
        >>> from fedfm.algorithms import Aggregate, At, FedAvg
        >>> from fedfm.spec import spec_of
        >>> algorithm, rule = FedAvg(), Mean()
        >>> params = {"w": torch.zeros(1)}
        >>> state = algorithm.start(params)
        >>> for _ in range(20):
        ...     fold = rule.start(spec_of(params), params)
        ...     for client in (1.0, 2.0, 6.0):
        ...         gradient = algorithm.gradient(params["w"] - client, params["w"], At(received=params["w"]))
        ...         fold.add({"w": -0.5 * gradient}, Contribution(str(client), examples=1, steps=1), {"w": ()})
        ...     params, state = algorithm.server_step(params, Aggregate(fold.result()), state)
        >>> round(params["w"].item(), 3)
        3.0
    """

    name: str = ""
    """How the federation learns."""

    sent: ClassVar[tuple[str, ...]] = ()
    """Groups that `sends` returns."""
    returned: ClassVar[tuple[str, ...]] = ()
    """Groups that `client_finish` sends beside the update."""
    task_work: ClassVar[str | None] = None
    """Kind of work that the clients of a round are asked for after the last one of a task; its answer is a group of its
    name, shaped after the tunable. None: they are not asked."""
    teacher: ClassVar[Teacher] = "none"
    """Whose outputs `loss` gets: those of the tunable as received, of the client's own group ``tunable``, of the sent
    group ``teacher`` once it is not zero, or none."""

    @property
    def extra_loss(self) -> bool:
        """Whether `loss` adds anything; a client whose loss has an extra term trains alone."""
        return type(self).loss is not Algorithm.loss

    @property
    def penalises(self) -> bool:
        """Whether `penalty` adds anything; such a client trains alone as well."""
        return type(self).penalty is not Algorithm.penalty

    @property
    def task_rank(self) -> int | None:
        """Ranks of LoRA's factors that each task of a stream has for itself; None: all tasks share all of them.

        Clients train and return the ranks of the present task alone, and get all.
        """
        return None

    @property
    def personal_rule(self) -> Algorithm | None:
        """How a client trains a copy of the tunable that it keeps for itself, beside the update; None: it has no copy.

        The copy takes as many local steps as the update, on the same batches. They begin at the copy of the client's
        last round, in its first round at the received tunable; `At.received` is the tunable of this round. Clients are
        evaluated with their copies. Only `gradient` and `loss` of this rule are used.
        """
        return None

    @property
    def adaptivity(self) -> float | None:
        """Size of updates below which an adaptive server no longer adapts; None for a server that never does."""
        return None

    def capabilities(self) -> Capabilities:
        """Also what the phases that it overrides rely on."""
        needs, takes = dict(self.needs), dict(self.takes)
        if type(self).server_step is not Algorithm.server_step:
            needs |= {
                SERVER_STEP: "the server takes a step of its own",
                LASTING_COORDINATES: "the server's step takes the aggregate for a direction, and combines rounds",
            }
            takes = {PLAIN_STEP: "its server step is not w + Δ", **takes}
        if type(self).measure is not Algorithm.measure:
            needs |= {INDIVIDUAL_UPDATES: "the server measures each client's update"}
        if type(self).client_start is not Algorithm.client_start:
            needs |= {
                STATEFUL_CLIENTS: "clients keep tensors between rounds",
                LASTING_COORDINATES: "clients keep tensors between rounds",
            }
        if self.personal_rule is not None:
            why = "each client trains a copy of the tunable for itself"
            needs |= dict.fromkeys(
                (STATEFUL_CLIENTS, LASTING_COORDINATES, WHOLE_VIEWS, TUNABLE_UPDATES, SERVER_STEP, GRADIENTS), why
            )
            takes = {ONE_MODEL: why, **takes}
        if type(self).gradient is not Algorithm.gradient or self.extra_loss or self.penalises:
            needs |= {GRADIENTS: "it changes what local steps follow"}
        if self.task_rank is not None:
            why = "clients train the ranks of the present task alone"
            relied = (TASKS, LOW_RANK_PRODUCT, WHOLE_VIEWS, TUNABLE_UPDATES, LASTING_COORDINATES)
            needs = dict.fromkeys(relied, why) | needs
            takes = {WHOLE_VIEWS: why, MODEL_CHANGES: "what is added to the frozen weights is of no task", **takes}
        if self.sent or self.returned:
            needs |= {TUNABLE_UPDATES: "other tensors travel beside the tunable"}
        if self.sent:
            needs.setdefault(BARRIER, "what the server sends beside the tunable is that of one server state")
        return Capabilities(needs, self.gives, takes)

    def start(self, params: Params) -> ServerState:
        """The server's state before round 1, shaped after the tunable."""
        return {}

    def sends(self, state: ServerState) -> Groups:
        """What the server sends beside the tunable in every message, by group; names and shapes are the tunable's."""
        return {}

    def client_start(self, params: Params) -> Groups:
        """What a client keeps between rounds, before its first; empty for an algorithm without state at clients.

        Names and shapes are the tunable's.
        """
        return {}

    def gradient(self, gradient: Tensor, parameter: Tensor, at: At) -> Tensor:
        """What local training does to the gradient of one tensor before clipping and the optimiser's step.

        Args:
            gradient: ∇F_c at ``parameter``.
            parameter: the client's current value w.
            at: what was received and kept, at the same coordinates.
        """
        return gradient

    def loss(self, outputs: Tensor, batch: Batch, teacher: Tensor | None) -> Tensor:
        """An extra term of the loss.

        Args:
            outputs: what the task takes from the model, its logits by default, ``[batch, …]``.
            batch: the inputs with their labels.
            teacher: the outputs of `teacher` on the same batch, without gradient; None where it is ``none``.

        Returns:
            The term of each example, ``[batch]``; it is added to that example's loss.
        """
        raise NotImplementedError

    def penalty(self, parameters: Mapping[str, Tensor], trains: Params) -> Tensor:
        """An extra term of the loss of a local step that depends on the tunable alone, such as a distance.

        Args:
            parameters: the client's current values, by name.
            trains: name → bool tensor, the coordinates that change; of tensors that are absent, all.

        Returns:
            A scalar; it is added to the mean loss of the step's batch.
        """
        raise NotImplementedError

    def client_finish(self, update: Params, at: ClientRound, result: LocalResult) -> Finished:
        """What a client sends and keeps after its local steps.

        Args:
            update: w_c − w_t.
            at: what the round started from.
            result: what local training did.
        """
        return Finished(update)

    @property
    def task_facts(self) -> Mapping[str, float]:
        """Facts of the messages that ask for `task_work`."""
        return {}

    def end_task(self, params: Params, mean: Params, state: ServerState) -> ServerState:
        """What changes of the server's state after a task that another one follows.

        Args:
            params: the tunable after the task.
            mean: of the clients' answers to `task_work`, weighted by their numbers of examples; empty without it.
            state: the server's.
        """
        return {}

    def measure(self, update: Mapping[str, Tensor], contribution: Contribution) -> Mapping[str, float]:
        """Figures of one client's update, which reach `server_step` as `Aggregate.figures`; none by default.

        Args:
            update: what the client sent of the tunable, decoded: the part that it holds.
            contribution: who sent it, and what it did.

        Returns:
            Name → figure, the same names for every update.
        """
        return {}

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        """New tunable and server state from the aggregated update Δ; the arguments are not changed.

        Args:
            params: the tunable w_t that this round's clients received, float32.
            aggregate: what the round's updates came to.
            state: what `start` or the last step returned.
        """
        return add(params, aggregate.update), state


__all__ = ["Aggregate", "Algorithm", "At", "ClientRound", "Finished", "Groups", "LocalResult", "ServerState"]
