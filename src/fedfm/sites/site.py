"""A node's side of a run: it is told of the run once, then trains the clients that it is asked to train."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fedfm import __version__
from fedfm.clients import Worker
from fedfm.errors import DataError, FedfmError, RecipeError
from fedfm.models.backbones import Backbone, leave_room, load_backbone
from fedfm.proxies import NoProxy
from fedfm.proxies.folder import weights_digest
from fedfm.proxies.versions import HeldProxy
from fedfm.recipe import Recipe, load_recipe
from fedfm.runtimes.parcels import (
    Answers,
    Fault,
    Parcel,
    Prepare,
    Ready,
    Refusal,
    Unprepared,
    Wanting,
    Work,
    job_digest,
)
from fedfm.sites.border import Border, VersionError
from fedfm.sites.data import TrainingData, processor_of, read_training
from fedfm.sites.devices import choose_device
from fedfm.sites.downloads import Downloads
from fedfm.sites.job import Job
from fedfm.sites.own import OwnData, at_site, read_site
from fedfm.sites.received import load_processor, load_received
from fedfm.sites.worker import make_worker
from fedfm.tasks import TASKS
from fedfm.updates import Failure


@dataclass(frozen=True)
class _Run:
    """A run that the node is prepared for.

    Attributes:
        job: digest of its job.
        worker: of the clients that it trains.
    """

    job: str
    data: TrainingData
    worker: Worker


@dataclass(frozen=True)
class Own:
    """What makes a site a client: its data, and the border that it keeps."""

    data: OwnData
    border: Border


class Site:
    """Answers parcels; holds the data and the model of one run at a time."""

    def __init__(self, own: Own | None = None, downloads: Path | None = None) -> None:
        """A site.

        Args:
            own: its data; None: it reads what the recipe names, and trains any of the clients.
            downloads: folder of the proxies that it gets; None: one that goes with the site.
        """
        self._own = own
        self._run: _Run | None = None
        self._data: tuple[str, TrainingData] | None = None
        if downloads is None:
            self._passing = tempfile.TemporaryDirectory(prefix="fedfm-proxies-")
            downloads = Path(self._passing.name)
        self._downloads = Downloads(downloads)

    def handle(self, parcel: Parcel) -> Iterator[Parcel]:
        """The answer to a parcel, in parts: what is trained is answered as it is ready."""
        try:
            match parcel.head:
                case Prepare() as asked:
                    yield self._prepare(asked, parcel.contents)
                case Work() as work if self._run is not None and self._run.job == work.job:
                    yield from self._train(self._run, work, parcel.contents)
                case Work():
                    yield Parcel(Unprepared())
                case other:
                    yield Parcel(Refusal(reason=f"a node does not answer `{other.kind}`"))
        except FedfmError as error:
            yield Parcel(Refusal(reason=str(error) if self._own is None else self._own.border.why(error)))

    def rest(self) -> None:
        """Frees the memory of its run; who asks for its work is told that it must be prepared again."""
        self._run = self._data = None

    def _prepare(self, asked: Prepare, blobs: tuple[bytes, ...]) -> Parcel:
        digest = job_digest(asked.job)
        if (version := asked.job.get("version")) != __version__:
            raise VersionError(
                f"the server has fedfm {version!s:.20}, and this node {__version__}: install the same one"
            )
        job = Job.model_validate(asked.job)
        recipe = self._admitted(job, asked.client)
        folder, proxied = None, not isinstance(recipe.proxy, NoProxy)
        if asked.files and not proxied:  # they would be a model that nobody has admitted
            raise RecipeError("the recipe has no proxy, and the server offers the files of one", where="proxy")
        if proxied and not asked.files:
            raise RecipeError("the recipe has a proxy, and the server offers no files of it", where="proxy")
        if asked.files:
            folder, lacking = self._downloads.receive(asked.files, asked.pieces, blobs)
            if lacking:
                return Parcel(Wanting(job=digest, pieces=lacking))
        if self._data is None or self._data[0] != digest:
            self._run = self._data = None  # their memory is needed
            self._data = digest, self._read(job, recipe, asked.client, folder)
        data = self._data[1]
        if not asked.trial and (folder is not None or self._run is None or self._run.job != digest):
            self._run = None  # its memory is needed
            self._run = _Run(digest, data, self._worker_for(data, job, folder))
        if self._own is None:
            return Parcel(Ready(job=digest, clients=None))
        held = data.federation.sizes
        return Parcel(Ready(job=digest, clients=tuple(held), examples=sum(held.values())))

    def _admitted(self, job: Job, client: str | None) -> Recipe:
        """The recipe of a job that this node may do."""
        recipe = load_recipe(job.recipe)
        if (self._own is None) != (client is None):
            raise RecipeError("of server and node, one has clients with data of their own, and the other has not")
        if self._own is not None:
            self._own.border.admit(recipe)
            self._own.border.admit_model(job.model if isinstance(recipe.proxy, NoProxy) else None)
        return recipe

    def _read(self, job: Job, recipe: Recipe, client: str | None, folder: Path | None) -> TrainingData:
        """What is trained on: the site's own data, or what the recipe names.

        Args:
            job: of the run.
            recipe: the job's.
            client: that the node is, where it has data of its own.
            folder: of what the server has sent to read that with; None: the model's own files are here.
        """
        if self._own is None or client is None:
            data = read_training(recipe)
            if data.digest != job.data:
                raise DataError(f"{recipe.data.train} is another file here than at the server")
            return data
        here = at_site(recipe, self._own.data, allow_network=self._own.border.policy.allow_network)
        if folder is None:
            return read_site(here, self._own.data, client, processor_of(here))
        processor = load_processor(folder, TASKS[recipe.task.kind].modality)
        return read_site(here, self._own.data, client, leave_room(processor, recipe.tune.virtual_tokens))

    def _worker_for(self, data: TrainingData, job: Job, folder: Path | None) -> Worker:
        """A worker on the proxy in a folder, or on the backbone."""
        if folder is None:
            return self._worker(data, self._backbone(data, job.model), None)
        received = load_received(folder, data.task.auto_class)
        return self._worker(data, received.model, received.held)

    def _backbone(self, data: TrainingData, digest: str | None) -> Backbone:
        """The backbone of a run, which must have the server's weights."""
        recipe = data.recipe
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

    def _worker(self, data: TrainingData, model: Backbone, held: HeldProxy | None) -> Worker:
        """A worker on a model."""
        recipe, device = data.recipe, choose_device(data.recipe.runtime.device)
        tunable = recipe.tune.attach(model, task_type=data.task.peft_type, seed=recipe.seed)
        tunable.to(device)
        if self._own is not None:
            ((client, examples),) = data.federation.sizes.items()
            self._own.border.announce(recipe, tunable, client, examples)
        worker, _ = make_worker(data, model, tunable, held, device)
        return worker

    def _train(self, run: _Run, work: Work, messages: tuple[bytes, ...]) -> Iterator[Parcel]:
        if unknown := [client for client, _ in work.clients if client not in run.worker.clients]:
            raise DataError(f"there is no data of client {unknown[0]} here")
        torch.set_num_threads(run.data.recipe.runtime.resolved_threads)  # they decide bits, as at the server
        run.worker.prepare({str(place): message for place, message in enumerate(messages)})
        for client, answer in run.worker.train({client: messages[place] for client, place in work.clients}):
            if self._own is not None:
                answer = self._own.border.pass_answer(answer, run.data.recipe, run.job)
            yield _answer(client, answer)


def _answer(client: str, answer: bytes | Failure) -> Parcel:
    if isinstance(answer, bytes):
        return Parcel(Answers(clients=((client, None),)), (answer,))
    fault = Fault(reason=answer.reason, details=answer.details, stale=answer.stale)
    return Parcel(Answers(clients=((client, fault),)))
