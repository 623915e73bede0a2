"""What the rest of the house knows of proxies: a model that clients hold, its versions, and the way to the backbone.

The server holds a `ClientModel`; each client holds a `ClientCopy`. Between them travel changes from one `ModelVersion`
to the next. Where the recipe has no proxy, clients hold the backbone (`fedfm.proxies.whole_model`): it is never sent,
its plug-in is the identity, and its versions differ only where an aggregation rule adds to the frozen weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from typing import Protocol as Interface

import torch
from torch import Tensor

from fedfm.errors import FedfmError
from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.tasks.public import PublicData

Attach = Callable[[Backbone], Tunable]
"""Attaches what the recipe tunes to a model, in place."""

Report = Callable[[dict[str, Any]], None]
"""Receives a record of each stage of making, fitting or changing a client model, in the form of metrics.jsonl."""


Judge = Callable[[Params], tuple[float, ...]]
"""How good the backbone is with some values of its tunable, on validation data; the highest is best."""

Making = Literal["found", "made", "missing"]
"""Whether a stage of making a client model was found in the cache, was made in this process, or is not made yet."""


class JoinedAdapter(Interface):
    """An adapter that is written in place of the tunable's own."""

    def save(self, folder: Path) -> None:
        """Writes the files that PEFT loads into a folder."""
        ...


class StaleProxyError(FedfmError):
    """A client's copy is not at the version that a message starts from."""


@dataclass(frozen=True)
class ModelVersion:
    """The part of a client model that may change during a run, at one version.

    Attributes:
        number: 0 before round 1; each change makes the next.
        own: the tensors that the client model does not share with the backbone, by their names from the base model.
        changed: for each tensor, the version in which it last changed, int64 []; if it changes slice by slice, the
            one of each slice, [m'].
    """

    number: int = 0
    own: Params = field(default_factory=dict)
    changed: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class ClientCopy:
    """A client's copy of the model, which does not change during a run.

    Attributes:
        model: what the client trains on.
        own: its tensors that are not the backbone's, by their names from the base model; written in place.
        number: the version that they are at.
    """

    model: Backbone
    own: Mapping[str, Tensor] = field(default_factory=dict)
    number: int = 0

    @torch.no_grad()
    def download(self, version: ModelVersion) -> None:
        """Takes a whole version, as a client without a copy does."""
        for name, mine in self.own.items():
            mine.copy_(version.own[name])
        self.number = version.number

    def receive(self, changes: Params, *, since: int, number: int) -> None:
        """Brings the copy to version ``number``; does nothing where it is there already.

        Args:
            changes: as `ClientModel.changes` makes them.
            since: the oldest version that they bring up to date.
            number: the version that they lead to.

        Raises:
            StaleProxyError: the copy is older than ``since``, newer than ``number``, or of another model than the
                changes; nothing is written.
        """
        if number == self.number:
            return
        if not since <= self.number < number:
            raise StaleProxyError(
                f"the client holds version {self.number} of the proxy, and the message leads from {since} to {number}; "
                "it must download the proxy again"
            )
        try:
            values = self._values(changes)
        except ValueError as error:
            raise StaleProxyError(
                f"the message changes another proxy than the one that the client holds: {error}"
            ) from error
        self._write(values)
        self.number = number

    @contextmanager
    def counting(self, tunable: Tunable) -> Iterator[Callable[[], Params]]:
        """Counts, while ``tunable`` is trained on this copy, what `ClientModel.advance` needs; gives the counts."""
        yield dict

    def _values(self, changes: Params) -> Params:
        """The values that changes bring.

        Raises:
            ValueError: they do not fit this copy.
        """
        raise ValueError("the model that it holds does not change")

    def _write(self, values: Params) -> None:
        """Writes what `_values` returned."""
        raise NotImplementedError


class ClientModel(ABC):
    """The server's side of the model that clients hold.

    Attributes:
        tunable: what is tuned, on the backbone.
        server_tunable: the same on the server's copy of the client model; ``tunable`` where that is the backbone.
        client_tunable: the same on ``client``, the copy for clients that are trained on this machine.
        client: the copy itself; at the version as made, before `prepare`.
        accepts_stale: whether an update that was trained on an older version counts.
    """

    tunable: Tunable
    server_tunable: Tunable
    client_tunable: Tunable
    client: ClientCopy
    accepts_stale: bool = False

    @property
    def start(self) -> Params:
        """What travels as initialised."""
        return self.from_backbone(self.tunable.read())

    @property
    def is_sent(self) -> bool:
        """Whether the server sends the model to clients."""
        return True

    @property
    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """What the server sends to a client that has no copy, by name; empty where it sends nothing. May be made at
        each access.
        """

    @property
    @abstractmethod
    def download_bytes(self) -> int:
        """Size of the model that a client needs once, before its first round."""

    @property
    def alignment_bytes(self) -> int:
        """What one change sends to a client that holds the version before."""
        return 0

    @abstractmethod
    def to_backbone(self, params: Params) -> Params:
        """The plug-in: the backbone's tunable with what travels in its place."""

    @property
    def refines(self) -> bool:
        """Whether `refine` does something."""
        return False

    def refine(self, params: Params, public: PublicData, judge: Judge | None, report: Report) -> Params | None:
        """The backbone's tunable where more than the plug-in is done once training is over.

        Args:
            params: what travels, in the end; the client model is at its latest version.
            public: what is learnt from.
            judge: tells which of two is better for the task; None where no validation data says so.
            report: receives a record of the stage.

        Returns:
            None: the plug-in is final.

        Raises:
            RecipeError: the fit diverged.
        """
        return None

    @abstractmethod
    def from_backbone(self, params: Params) -> Params:
        """What travels of the backbone's tunable: undoes `to_backbone`."""

    @abstractmethod
    def prepare(self, start: Params, report: Report) -> ModelVersion:
        """Fits the client model to the backbone before round 1.

        Args:
            start: what travels, before round 1.
            report: receives a record of each stage.

        Raises:
            RecipeError: the fit diverged.
        """

    @property
    def making(self) -> dict[str, Making]:
        """How far each stage is, of those whose outcome is kept in the cache; empty where nothing is made."""
        return {}

    def cpu_seconds(self) -> dict[str, float]:
        """About the CPU seconds of each stage that is ``missing``, and of one ``alignment``; measures one pass."""
        return {}

    @abstractmethod
    def load(self, version: ModelVersion) -> None:
        """Sets the server's copy to a version."""

    def is_due(self, round: int) -> bool:  # noqa: A002 - the field's word
        """Whether the client model changes between this round and the next."""
        return False

    def counts_at(self, round: int) -> bool:  # noqa: A002
        """Whether clients send counts of their neurons' use with their updates of this round."""
        return False

    def activity_problem(self, activity: Mapping[str, Tensor]) -> str | None:
        """Why counts that a client sent cannot be counts of this model, or None when they can."""
        return "it sent counts of neurons' use, but its model has none to count" if activity else None

    def advance(
        self,
        version: ModelVersion,
        params: Params,
        round: int,  # noqa: A002
        activity: Params,
        report: Report,
    ) -> ModelVersion:
        """The version after a change that `is_due`.

        Args:
            version: the present one.
            params: what travels, as aggregated in this round.
            round: this round.
            activity: counts that clients sent, summed; empty where clients were not asked for them.
            report: receives a record of each stage.

        Raises:
            RecipeError: the fit diverged.
        """
        return version

    def changes(self, version: ModelVersion, since: int) -> Params:
        """What a client at version ``since`` needs to be at ``version``."""
        return {}

    def absorb(self, version: ModelVersion, residual: Params) -> ModelVersion:
        """The version after factors were added to the frozen weights, of the server's model and of what clients hold.

        Args:
            version: the present one.
            residual: as `fedfm.aggregation.Fold.residual`.

        Raises:
            ValueError: nothing can be added to this model's weights.
        """
        raise ValueError("nothing can be added to the frozen weights of a proxy")

    @contextmanager
    def pretrained(self, version: ModelVersion | None) -> Iterator[None]:
        """The backbone as it was before round 1, while the block runs.

        Args:
            version: the present one, which comes back.
        """
        yield

    def joined(self, version: ModelVersion, max_rank: int) -> JoinedAdapter | None:
        """One LoRA adapter for the pretrained model, with the tunable's values and what a version has added to it.

        Args:
            version: the present one.
            max_rank: of the adapter.

        Returns:
            None where it would have a higher rank, or the version adds nothing that an adapter can hold.
        """
        return None

    @abstractmethod
    def sizes(self) -> dict[str, Any]:
        """``parameters`` (``blocks``, ``backbone_blocks``, ``total``), and the share of the backbone's blocks that
        clients hold nearly unchanged, 0 to 1: ``disclosed`` of all, ``disclosed_blocks`` of each. Empty where clients
        hold the backbone itself.
        """

    @abstractmethod
    def save(self, folder: Path, version: ModelVersion) -> None:
        """Writes the client model, as clients load it, into an empty folder.

        Raises:
            ValueError: clients hold the backbone, which the server does not send.
        """
