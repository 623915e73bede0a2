"""Which nodes know a run and hold its proxy, and what the others are sent until they do. Sends nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.proxies.base import ModelVersion
from fedfm.runtimes.envelopes import Envelope, LabelAnswers, Lost, Piece, Prepare, Ready, Refusal, Wanting, job_digest
from fedfm.runtimes.file_transfer import Offer


@dataclass
class _Progress:
    """How far a node is with its preparation.

    Attributes:
        offer: the files that it needs; None: it needs no files.
        version: of the proxy in these files.
        trial: whether it only tries what it can before there is a proxy.
        lacks: bytes that it lacks.
        sent: bytes that came along with the last envelope.
    """

    offer: Offer | None
    version: int
    trial: bool
    lacks: float = float("inf")
    sent: int = 0


class Preparation:
    """The nodes' preparation for one run.

    Attributes:
        digest: `job_digest` of the run's job.
        examples: node → training examples that it reported; 0: none reported.
        labels: node → the classes of these examples under randomised response, where it told them.
        refused: node → why it does not take part.
        lost: node → why its preparation broke off.
    """

    def __init__(
        self,
        job: dict[str, Any],
        *,
        own_data: bool,
        save_proxy: Callable[[Path, ModelVersion], object] | None,
        save_processor: Callable[[Path], object] | None,
    ) -> None:
        """The preparation for a job; arguments as of `NodesRuntime`."""
        self.digest = job_digest(job)
        self.examples: dict[str, int] = {}
        self.labels: dict[str, LabelAnswers] = {}
        self.refused: dict[str, str] = {}
        self.lost: dict[str, str] = {}
        self._job = job
        self._own_data = own_data
        self._save_proxy = save_proxy
        self._processor = None if save_processor is None else Offer(save_processor)
        self._latest: ModelVersion | None = None
        self._downloading: frozenset[str] = frozenset()
        self._before: int | None = None
        self._offered: tuple[int, Offer] | None = None
        self._serves: dict[str, frozenset[str] | None] = {}
        self._held: dict[str, int] = {}
        self._progress: dict[str, _Progress] = {}

    @property
    def reasons(self) -> dict[str, str]:
        """Node → why it cannot train."""
        return self.refused | self.lost

    def share(self, clients: Sequence[str], version: ModelVersion) -> None:
        """Nodes of these clients get the proxy before their next work; nodes that train any client keep one for all."""
        self._latest, self._downloading = version, frozenset(clients)
        for node, served in self._serves.items():
            if served is not None and served & self._downloading:
                self._held.pop(node, None)

    def versions(self, clients: Collection[str]) -> tuple[int, int]:
        """The version of the proxy that these clients train on, and the oldest from which their messages lead there.

        Clients that took part before hold at most the version of the last work, so their messages lead on from it.
        Clients that download the proxy get messages without changes.
        """
        latest = self._latest.number if self._latest else 0
        before, self._before = self._before, latest
        if before is None or self._downloading.issuperset(clients):
            return latest, latest
        return latest, before

    def meet(self, there: Collection[str]) -> None:
        """Forgets nodes that are away: they may have restarted, or changed their mind."""
        self._serves = {node: served for node, served in self._serves.items() if node in there}
        self.refused = {node: reason for node, reason in self.refused.items() if node in there}

    def may_serve(self, node: str, client: str) -> bool:
        """Whether a node trains a client, as far as is known before it is prepared."""
        if self._own_data:
            return node == client
        served = self._serves.get(node)
        return served is None or client in served

    def trains_any(self, node: str) -> bool:
        """Whether a prepared node trains any client, all of them on one proxy."""
        return self._serves[node] is None

    def is_ready(self, node: str, oldest: int) -> bool:
        """Whether a node knows the run and holds its proxy, if any; one for all clients is at this version or later."""
        if node not in self._serves or self._save_proxy is None:
            return node in self._serves
        return node in self._held and (self._serves[node] is not None or self._held[node] >= oldest)

    def knows(self, node: str) -> bool:
        """Whether a node need not rehearse: it has passed the trial, if there is one, or it is ready."""
        if self._processor is not None:
            return node in self.examples
        return node in self._serves and (self._save_proxy is None or node in self._held)

    def begin(self, node: str, *, trial: bool = False) -> Envelope:
        """The first envelope for a node.

        Args:
            node: that needs it.
            trial: whether it only tries what it can before there is a proxy.
        """
        offer = self._processor if trial else self._offer()
        version = self._latest.number if self._latest else 0
        self._progress[node] = progress = _Progress(offer, version, trial)
        self.lost.pop(node, None)
        return self._envelope(node, progress, ())

    def take(self, node: str, answer: Envelope) -> Envelope | None:
        """Takes a node's answer; returns the next envelope for it, or None when it is ready, refused or lost."""
        progress = self._progress.pop(node)
        match answer.head:
            case Ready(job=self.digest, clients=clients, examples=examples, labels=labels):
                self.examples[node] = examples or 0
                if labels is not None:
                    self.labels[node] = labels
                if not progress.trial:
                    served = (node,) if self._own_data else clients
                    self._serves[node] = None if served is None else frozenset(served)
                    self._held[node] = progress.version
            case Wanting(job=self.digest, pieces=pieces):
                lacks = None if progress.offer is None else progress.offer.lacking(pieces)
                # a node that did not keep what it was sent would ask without end
                if lacks is not None and lacks < progress.lacks and lacks <= progress.lacks - progress.sent:
                    progress.lacks = lacks
                    self._progress[node] = progress
                    return self._envelope(node, progress, pieces)
                self._refuse(node, "the files of the proxy do not arrive there as they were sent")
            case Lost():
                self._serves.pop(node, None)
                self.lost[node] = why_not(answer)
            case _:
                self._refuse(node, why_not(answer))
        return None

    def trained(self, node: str, version: int) -> None:
        """Notes that a node has done all its work, and with it got all messages that lead to a version."""
        if node in self._held:
            self._held[node] = version

    def forget_proxy(self, node: str) -> None:
        """Notes that it is not known which version of the proxy a node holds."""
        self._held.pop(node, None)

    def forget(self, node: str) -> None:
        """Notes that a node does not know the run any more."""
        self._serves.pop(node, None)

    def _refuse(self, node: str, reason: str) -> None:
        """Does without a node until it has been away."""
        self._serves.pop(node, None)
        self.refused[node] = reason

    def _offer(self) -> Offer | None:
        """The latest proxy; None where the run has none."""
        save, version = self._save_proxy, self._latest
        if save is None or version is None:
            return None
        if self._offered is None or self._offered[0] != version.number:
            self._offered = version.number, Offer(lambda folder: save(folder, version))
        return self._offered[1]

    def _envelope(self, node: str, progress: _Progress, wanted: Sequence[Piece]) -> Envelope:
        pieces = progress.offer.read(wanted) if progress.offer else []
        progress.sent = sum(len(content) for _, content in pieces)
        head = Prepare(
            job=self._job,
            client=node if self._own_data else None,
            trial=progress.trial,
            files=progress.offer.files if progress.offer else (),
            pieces=tuple(piece for piece, _ in pieces),
        )
        return Envelope(head, tuple(content for _, content in pieces))


def why_not(answer: Envelope) -> str:
    """The reason in an answer that is not the one hoped for."""
    head = answer.head
    return head.reason if isinstance(head, Refusal | Lost) else f"it answered with `{head.kind}`"
