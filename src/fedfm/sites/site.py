"""A node's side of a run: it is told of the run once, then trains the clients that it is asked to train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fedfm import __version__
from fedfm.clients import Worker
from fedfm.errors import DataError, FedfmError, RecipeError
from fedfm.models.backbones import Backbone, leave_room, load_backbone
from fedfm.proxies import NoProxy
from fedfm.proxies.folder import weights_digest
from fedfm.proxies.versions import HeldProxy
from fedfm.recipe import load_recipe
from fedfm.runtimes.parcels import Answers, Fault, Parcel, Prepare, Ready, Refusal, Unprepared, Work, job_digest
from fedfm.sites.border import Border, VersionError
from fedfm.sites.data import TrainingData, processor_of, read_training
from fedfm.sites.devices import choose_device
from fedfm.sites.job import Job
from fedfm.sites.own import OwnData, at_site, read_site
from fedfm.sites.received import ReceivedProxy, receive_proxy
from fedfm.sites.worker import make_worker
from fedfm.tasks import TASKS
from fedfm.updates import Failure


@dataclass
class _Run:
    """A run that the node is prepared for.

    Attributes:
        job: digest of its job.
        worker: None until the proxy is there.
        proxy: what it trains on, where that is not the backbone.
    """

    job: str
    data: TrainingData
    device: torch.device
    worker: Worker | None = None
    proxy: ReceivedProxy | None = None

    def take(self, proxy: ReceivedProxy, worker: Worker) -> None:
        """Trains on a proxy from now on."""
        self.proxy, self.worker = proxy, worker


@dataclass(frozen=True)
class Own:
    """What makes a site a client: its data, and the border that it keeps."""

    data: OwnData
    border: Border


class Site:
    """Answers parcels; holds the data and the model of one run at a time."""

    def __init__(self, own: Own | None = None) -> None:
        """A site.

        Args:
            own: its data; None: it reads what the recipe names, and trains any of the clients.
        """
        self._own = own
        self._run: _Run | None = None

    def handle(self, parcel: Parcel) -> Iterator[Parcel]:
        """The answer to a parcel, in parts: what is trained is answered as it is ready."""
        try:
            match parcel.head:
                case Prepare(job=job, client=client, files=files):
                    yield self._prepare(job, client, _named(files, parcel.blobs))
                case Work() as work if self._run is not None and self._run.job == work.job:
                    yield from self._train(self._run, work, parcel.blobs)
                case Work():
                    yield Parcel(Unprepared())
                case other:
                    yield Parcel(Refusal(reason=f"a node does not answer `{other.kind}`"))
        except FedfmError as error:
            yield Parcel(Refusal(reason=str(error) if self._own is None else self._own.border.why(error)))

    def rest(self) -> None:
        """Frees the memory of its run; who asks for its work is told that it must be prepared again."""
        self._run = None

    def _prepare(self, asked: dict[str, Any], client: str | None, files: dict[str, bytes]) -> Parcel:
        digest = job_digest(asked)
        if (version := asked.get("version")) != __version__:
            raise VersionError(
                f"the server has fedfm {version!s:.20}, and this node {__version__}: install the same one"
            )
        if self._run is None or self._run.job != digest or files:
            self._run = None  # its memory is needed
            self._run = self._prepared(digest, Job.model_validate(asked), client, files)
        if self._own is None:
            return Parcel(Ready(job=digest, clients=None))
        held = self._run.data.federation.sizes
        return Parcel(Ready(job=digest, clients=tuple(held), examples=sum(held.values())))

    def _prepared(self, digest: str, job: Job, client: str | None, files: dict[str, bytes]) -> _Run:
        recipe = load_recipe(job.recipe)
        if (self._own is None) != (client is None):
            raise RecipeError("of server and node, one has clients with data of their own, and the other has not")
        proxied = not isinstance(recipe.proxy, NoProxy)
        if self._own is not None:
            self._own.border.admit(recipe)
            self._own.border.admit_model(None if proxied else job.model)
        received = receive_proxy(files, TASKS[recipe.task.kind].auto_class) if files else None
        if self._own is None or client is None:
            data = read_training(recipe)
            if data.digest != job.data:
                raise DataError(f"{recipe.data.train} is another file here than at the server")
        else:
            here = at_site(recipe, self._own.data, allow_network=self._own.border.policy.allow_network)
            processor = (
                processor_of(here)
                if received is None
                else leave_room(received.model.processor, recipe.tune.virtual_tokens)
            )
            data = read_site(here, self._own.data, client, processor)
        run = _Run(digest, data, choose_device(data.recipe.runtime.device))
        if received is not None:
            run.take(received, self._worker(run, received.model, received.held))
        elif not proxied:
            run.worker = self._worker(run, self._backbone(run, job.model), None)
        return run

    def _backbone(self, run: _Run, digest: str | None) -> Backbone:
        """The backbone of a run, which must have the server's weights."""
        data, recipe = run.data, run.data.recipe
        backbone = load_backbone(
            recipe.model,
            data.task.auto_class,
            seed=recipe.seed,
            labels=None if data.labels is None else data.labels.names,
            allow_network=recipe.allow_network,
        )
        if weights_digest(backbone.model) != digest:
            raise DataError(f"{recipe.model.path} has other weights here than at the server")
        return backbone

    def _worker(self, run: _Run, model: Backbone, held: HeldProxy | None) -> Worker:
        """A worker on the backbone, or on a proxy."""
        recipe = run.data.recipe
        tunable = recipe.tune.attach(model, task_type=run.data.task.peft_type, seed=recipe.seed)
        tunable.to(run.device)
        if self._own is not None:
            ((client, examples),) = run.data.federation.sizes.items()
            self._own.border.announce(recipe, tunable, client, examples)
        worker, _ = make_worker(run.data, model, tunable, held, run.device)
        return worker

    def _train(self, run: _Run, work: Work, blobs: tuple[bytes, ...]) -> Iterator[Parcel]:
        if work.files:
            run.worker = run.proxy = None  # their memory is needed
            received = receive_proxy(_named(work.files, blobs), run.data.task.auto_class)
            run.take(received, self._worker(run, received.model, received.held))
        if run.worker is None:
            yield Parcel(Unprepared())
            return
        if unknown := [client for client, _ in work.clients if client not in run.worker.clients]:
            raise DataError(f"there is no data of client {unknown[0]} here")
        messages = blobs[len(work.files) :]
        run.worker.prepare({str(place): message for place, message in enumerate(messages)})
        for client, answer in run.worker.train({client: messages[place] for client, place in work.clients}):
            if self._own is not None:
                answer = self._own.border.pass_answer(answer, run.data.recipe, run.job)
            yield _answer(client, answer)


def _named(names: tuple[str, ...], blobs: tuple[bytes, ...]) -> dict[str, bytes]:
    return dict(zip(names, blobs, strict=False))


def _answer(client: str, answer: bytes | Failure) -> Parcel:
    if isinstance(answer, bytes):
        return Parcel(Answers(clients=((client, None),)), (answer,))
    fault = Fault(reason=answer.reason, details=answer.details, stale=answer.stale)
    return Parcel(Answers(clients=((client, fault),)))
