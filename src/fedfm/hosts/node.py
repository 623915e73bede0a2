"""A node's side of a run: it prepares for the run once, and then trains the clients that the server asks for."""

from __future__ import annotations

import logging
import math
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fedfm.clients import Workers
from fedfm.data.settings import shown
from fedfm.errors import DataError, FedfmError, RecipeError
from fedfm.hosts.devices import choose_device
from fedfm.hosts.downloads import Downloads
from fedfm.hosts.job import Job
from fedfm.hosts.received import load_received
from fedfm.hosts.training_data import TrainingData, read_training
from fedfm.hosts.worker_factory import ClientSide, make_contract, make_workers
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.identity import ModelIdentity
from fedfm.proxies.base import ClientCopy
from fedfm.recipe import Recipe, load_recipe
from fedfm.runtimes.envelopes import (
    Ended,
    Envelope,
    Prepare,
    Ready,
    Refusal,
    Requests,
    Unprepared,
    Wanting,
    job_digest,
)
from fedfm.runtimes.exchanges import read_requests, replies_envelope
from fedfm.updates import Failure, Reply, Request
from fedfm.wire import on_disk

_log = logging.getLogger("fedfm.hosts")


@dataclass(frozen=True)
class PreparedRun:
    """A run that a node is ready to train for.

    Attributes:
        job: digest of its job.
        data: training data of its clients.
        worker: trains its clients.
        state: folder of what the clients keep between rounds; None: their state comes with each request.
    """

    job: str
    data: TrainingData
    worker: Workers
    state: Path | None


class Node:
    """Answers envelopes; holds the data and the model of one run at a time.

    This is a node of a simulation: it reads the data that the recipe names, and trains any of the clients. A site has
    data of its own and overrides the methods below `rest`: they say what it admits, what it reads and what leaves it.
    """

    def __init__(self, downloads: Path | None = None) -> None:
        """A node that is not prepared for any run.

        Args:
            downloads: folder of the proxies that the server sends; None: a temporary one.
        """
        self._run: PreparedRun | None = None
        self._data: tuple[str, TrainingData] | None = None
        if downloads is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="fedfm-proxies-")
            downloads = Path(self._temporary.name)
        self._downloads = Downloads(downloads)

    def handle(self, envelope: Envelope) -> Iterator[Envelope]:
        """Answers an envelope, in parts: each client's answer is sent as soon as the client is trained."""
        try:
            match envelope.head:
                case Prepare() as asked:
                    yield self._prepare(asked, envelope.contents)
                case Requests() as asked if self._run is not None and self._run.job == asked.job:
                    yield from self._train(self._run, asked, envelope.contents)
                case Requests():
                    yield Envelope(Unprepared())
                case Ended() as ended:
                    self.end(ended)
                    self.rest()
                    yield Envelope(Unprepared())
                case other:
                    yield Envelope(Refusal(reason=f"a node does not answer `{other.kind}`"))
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic of a tokenizer, which is written in Rust, is not an Exception
            yield Envelope(Refusal(reason=self.reason(error, envelope)))

    def rest(self) -> None:
        """Frees the memory of its run. The server must prepare the node again before it sends work."""
        self._run = self._data = None

    def seconds(self, envelope: Envelope) -> float:
        """Seconds that the answer to an envelope may take."""
        return math.inf

    def reason(self, error: BaseException, envelope: Envelope) -> str:
        """Why an envelope cannot be answered, for the server: the whole text of an error that fedfm raised."""
        if isinstance(error, FedfmError):
            return "; ".join(map(str.strip, str(error).splitlines()))
        _log.error("%s", "".join(traceback.format_exception(error)))
        return f"the node met an unexpected {type(error).__name__}; its log has the traceback"

    def admit(self, job: Job, recipe: Recipe, client: str | None) -> None:
        """Accepts a run, before anything is read for it.

        Args:
            job: the run's.
            recipe: the job's.
            client: the client that the server takes this node for; None: the node trains any of the clients.

        Raises:
            RecipeError: the node does not serve such a run.
        """
        if client is not None:
            raise RecipeError("the server expects clients with their own data, but this node holds none")

    def admit_download(self, size_bytes: int) -> None:
        """Accepts the files of a proxy of so many bytes, before they are downloaded."""

    def admit_requests(self, run: PreparedRun, asked: Requests, messages: Sequence[bytes]) -> None:
        """Accepts what messages ask of clients, before it is done."""

    def read(self, job: Job, recipe: Recipe, client: str | None, folder: Path | None) -> TrainingData:
        """Reads the training data.

        Args:
            job: the run's.
            recipe: the job's.
            client: as in `admit`.
            folder: files that the server has sent to read data with; None: the model's own files are here.

        Raises:
            DataError: a file cannot be read, or is not the server's.
            RecipeError: recipe and data do not fit.
        """
        data = read_training(recipe)
        if data.digest != job.data:
            raise DataError(f"{shown(recipe.data.train)} is another file here than at the server")
        return data

    def check_model(self, recipe: Recipe, model: Backbone) -> None:
        """Checks a model before anything is attached to it."""

    def announce(self, data: TrainingData, side: ClientSide) -> None:
        """Announces what will leave the node in every round, before the first."""

    def ready(self, job: str, data: TrainingData) -> Ready:
        """The answer to the server once the node is prepared."""
        return Ready(job=job, clients=None)

    def release(self, answer: bytes | Failure, run: PreparedRun) -> bytes | Failure:
        """What of a client's answer leaves the node."""
        return answer

    def recall(self, request: Request, run: PreparedRun) -> Request:
        """A request with what the client keeps, where that is on the node's disk.

        Raises:
            StorageError: it is not there, or not as it was written.
        """
        return request

    def keep(self, reply: Reply, run: PreparedRun) -> Reply:
        """A reply without what the client keeps, where that stays on the node's disk.

        Raises:
            StorageError: it cannot be written.
        """
        return reply

    def state_folder(self, job: Job, digest: str) -> Path | None:
        """Folder for what the clients of a run keep between rounds; None: their state comes with each request."""
        return None

    def end(self, ended: Ended) -> None:
        """Notes the end of a run."""

    def _prepare(self, asked: Prepare, blobs: tuple[bytes, ...]) -> Envelope:
        job, digest = Job.read(asked.job), job_digest(asked.job)
        recipe = load_recipe(job.recipe)
        self.admit(job, recipe, asked.client)
        _check_offer(recipe, asked)
        folder = None
        if asked.files:
            self.admit_download(sum(file.size for file in asked.files))
            folder, lacking = self._downloads.receive(asked.files, asked.pieces, blobs)
            if lacking:
                return Envelope(Wanting(job=digest, pieces=lacking))
        if self._data is None or self._data[0] != digest:
            self._run = self._data = None  # their memory is needed
            self._data = digest, self.read(job, recipe, asked.client, folder)
        data = self._data[1]
        if not asked.trial and (folder is not None or self._run is None or self._run.job != digest):
            self._run = None  # its memory is needed
            self._run = PreparedRun(digest, data, self._worker_for(data, job, folder), self.state_folder(job, digest))
        return Envelope(self.ready(digest, data))

    def _worker_for(self, data: TrainingData, job: Job, folder: Path | None) -> Workers:
        """A worker on the proxy in a folder, or on the backbone."""
        if folder is None:
            return self._worker(data, ClientCopy(_backbone(data, job.model)))
        return self._worker(data, load_received(folder, data.task.auto_class))

    def _worker(self, data: TrainingData, copy: ClientCopy) -> Workers:
        """A worker on a model."""
        recipe, device = data.recipe, choose_device(data.recipe.runtime.device)
        self.check_model(recipe, copy.model)
        tunable = recipe.tune.attach(copy.model, task_type=data.task.peft_type, seed=recipe.seed)
        tunable.to(device)
        start = on_disk(recipe.aggregate.initial(tunable.read(), recipe.seed))
        side = ClientSide(copy, tunable, make_contract(recipe, start, model=copy.model))
        self.announce(data, side)
        workers, _ = make_workers(data, side, device)
        return workers.with_references()

    def _train(self, run: PreparedRun, asked: Requests, messages: tuple[bytes, ...]) -> Iterator[Envelope]:
        if unknown := [client for client, _ in asked.clients if client not in run.worker.own.clients]:
            raise DataError(f"this node has no data of client {unknown[0]}")
        requests, sent = read_requests(asked, messages)
        self.admit_requests(run, asked, sent)
        torch.set_num_threads(run.data.recipe.runtime.resolved_threads)  # they decide bits, as at the server
        run.worker.prepare(sent)
        for reply in run.worker.answer(self.recall(request, run) for request in requests):
            content = reply.content if isinstance(reply.content, Failure) else reply.content[:]
            released = self.release(content, run)
            yield replies_envelope([self.keep(replace(reply, content=released), run)])


def _check_offer(recipe: Recipe, asked: Prepare) -> None:
    """Refuses files where the recipe has no proxy: they would be a model that was not admitted."""
    proxied = recipe.proxy.is_sent
    if asked.files and not proxied:
        raise RecipeError("the recipe has no proxy, but the server offers the files of one", where="proxy")
    if proxied and not asked.files:
        raise RecipeError("the recipe has a proxy, but the server offers no files of it", where="proxy")


def _backbone(data: TrainingData, expected: ModelIdentity | None) -> Backbone:
    """The backbone of a run, which must be the server's."""
    recipe = data.recipe
    backbone = load_backbone(
        recipe.model,
        data.task.auto_class,
        seed=recipe.seed,
        labels=None if data.labels is None else data.labels.names,
        problem_type=data.task.problem_type,
        modality=data.task.modality,
        allow_network=recipe.allow_network,
    )
    if expected is None:
        raise DataError("the server does not say which model the clients need")
    if differences := expected.differences(backbone.identity):
        raise DataError(f"{recipe.model.path} has other {' and other '.join(differences)} here than at the server")
    return backbone
