"""A node's side of a run: it is told of the run once, then trains the clients that it is asked to train."""

from __future__ import annotations

import logging
import math
import re
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fedfm import __version__
from fedfm.clients import Worker
from fedfm.data.settings import shown
from fedfm.errors import DataError, FedfmError, RecipeError
from fedfm.hosts.devices import choose_device
from fedfm.hosts.downloads import Downloads
from fedfm.hosts.job import Job
from fedfm.hosts.received import load_processor, load_received
from fedfm.hosts.training_data import TrainingData, processor_of, read_training
from fedfm.hosts.worker_factory import make_worker
from fedfm.models.backbones import Backbone, leave_room, load_backbone
from fedfm.models.identity import ModelIdentity
from fedfm.printable import line
from fedfm.proxies.base import ClientCopy
from fedfm.recipe import Recipe, load_recipe
from fedfm.runtimes.envelopes import (
    NAME,
    Ended,
    Envelope,
    Prepare,
    Ready,
    Refusal,
    Unprepared,
    Wanting,
    Work,
    job_digest,
)
from fedfm.runtimes.exchanges import read_work, replies_envelope
from fedfm.sites.disclosure import VersionError
from fedfm.sites.egress import Egress
from fedfm.sites.limits import check_files, check_model
from fedfm.sites.patterns import check_patterns
from fedfm.sites.site_config import OwnData, at_site, read_site
from fedfm.tasks import TASKS
from fedfm.updates import Failure, Reply

_log = logging.getLogger("fedfm.sites")


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
    """What makes a site a client: its data, and the egress that it keeps."""

    data: OwnData
    egress: Egress


class Site:
    """Answers envelopes; holds the data and the model of one run at a time."""

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

    def handle(self, envelope: Envelope) -> Iterator[Envelope]:
        """The answer to a envelope, in parts: what is trained is answered as it is ready."""
        try:
            match envelope.head:
                case Prepare() as asked:
                    yield self._prepare(asked, envelope.contents)
                case Work() as work if self._run is not None and self._run.job == work.job:
                    yield from self._train(self._run, work, envelope.contents)
                case Work():
                    yield Envelope(Unprepared())
                case Ended() as ended:
                    if self._own is not None:
                        self._own.egress.part(ended)
                    self.rest()
                    yield Envelope(Unprepared())
                case other:
                    yield Envelope(Refusal(reason=f"a node does not answer `{other.kind}`"))
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic of a tokenizer, which is written in Rust, is not an Exception
            yield Envelope(Refusal(reason=self._reason(error, envelope)))

    def _reason(self, error: BaseException, envelope: Envelope) -> str:
        """Why a envelope cannot be answered, as far as a server may know: all of it, where the data is the server's."""
        if self._own is not None:
            return str(self._own.egress.refuse(error, self._name(envelope)))
        if isinstance(error, FedfmError):
            return "; ".join(map(str.strip, str(error).splitlines()))
        _log.error("%s", "".join(traceback.format_exception(error)))
        return f"it did not foresee a {type(error).__name__}; its log says where"

    def _name(self, envelope: Envelope) -> str | None:
        """The name of the run that a envelope is about."""
        if isinstance(envelope.head, Prepare):
            recipe = envelope.head.job.get("recipe")
            name = recipe.get("name") if isinstance(recipe, dict) else None
            return name if isinstance(name, str) and re.fullmatch(NAME, name) else None
        return self._run.data.recipe.name if self._run is not None else None

    def seconds(self, envelope: Envelope) -> float:
        """How long the answer to a envelope may take, as the policy says."""
        if self._own is None:
            return math.inf
        policy = self._own.egress.policy
        return policy.max_round_seconds if isinstance(envelope.head, Work) else policy.max_prepare_seconds

    def rest(self) -> None:
        """Frees the memory of its run; who asks for its work is told that it must be prepared again."""
        self._run = self._data = None

    def _prepare(self, asked: Prepare, blobs: tuple[bytes, ...]) -> Envelope:
        digest = job_digest(asked.job)
        if (version := asked.job.get("version")) != __version__:
            raise VersionError(
                f"the server has fedfm {line(version, most=40)}, and this node {__version__}: install the same one"
            )
        job = Job.read(asked.job)
        recipe = self._admitted(job, asked.client)
        folder, proxied = None, recipe.proxy.is_sent
        if asked.files and not proxied:  # they would be a model that nobody has admitted
            raise RecipeError("the recipe has no proxy, and the server offers the files of one", where="proxy")
        if proxied and not asked.files:
            raise RecipeError("the recipe has a proxy, and the server offers no files of it", where="proxy")
        if asked.files:
            if self._own is not None:
                self._own.egress.admit_download(sum(file.size for file in asked.files))
            folder, lacking = self._downloads.receive(asked.files, asked.pieces, blobs)
            if lacking:
                return Envelope(Wanting(job=digest, pieces=lacking))
        if self._data is None or self._data[0] != digest:
            self._run = self._data = None  # their memory is needed
            self._data = digest, self._read(job, recipe, asked.client, folder)
        data = self._data[1]
        if not asked.trial and (folder is not None or self._run is None or self._run.job != digest):
            self._run = None  # its memory is needed
            self._run = _Run(digest, data, self._worker_for(data, job, folder))
        if self._own is None:
            return Envelope(Ready(job=digest, clients=None))
        held = data.federation.sizes
        return Envelope(Ready(job=digest, clients=tuple(held), examples=sum(held.values())))

    def _admitted(self, job: Job, client: str | None) -> Recipe:
        """The recipe of a job that this node may do."""
        recipe = load_recipe(job.recipe)
        if self._own is None and client is not None:
            raise RecipeError("the server expects clients with their own data, but this node holds none")
        if self._own is not None and client is None:
            raise RecipeError("the server expects simulated clients, but this node holds its own data")
        if self._own is not None:
            self._own.egress.admit(recipe)
            self._own.egress.admit_model(job.model.digest if job.model and not recipe.proxy.is_sent else None)
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
                raise DataError(f"{shown(recipe.data.train)} is another file here than at the server")
            return data
        policy = self._own.egress.policy
        here, task = at_site(recipe, self._own.data, allow_network=policy.allow_network), TASKS[recipe.task.kind]
        if folder is None:
            check_model(here.model, task.auto_class, policy, allow_network=here.allow_network)
            processor = processor_of(here)
        else:
            check_files(folder, policy)
            processor = leave_room(load_processor(folder, task.modality), recipe.tune.virtual_tokens)
        data = read_site(here, self._own.data, client, processor)
        self._own.egress.admit_training(data.recipe.local, len(data.train))
        return data

    def _worker_for(self, data: TrainingData, job: Job, folder: Path | None) -> Worker:
        """A worker on the proxy in a folder, or on the backbone."""
        if folder is None:
            return self._worker(data, ClientCopy(self._backbone(data, job.model)))
        return self._worker(data, load_received(folder, data.task.auto_class))

    def _backbone(self, data: TrainingData, expected: ModelIdentity | None) -> Backbone:
        """The backbone of a run, which must be the server's."""
        recipe = data.recipe
        backbone = load_backbone(
            recipe.model,
            data.task.auto_class,
            seed=recipe.seed,
            labels=None if data.labels is None else data.labels.names,
            allow_network=recipe.allow_network,
        )
        if expected is None:
            raise DataError("the server does not say which model the clients need")
        if differences := expected.differences(backbone.identity):
            raise DataError(f"{recipe.model.path} has other {' and other '.join(differences)} here than at the server")
        return backbone

    def _worker(self, data: TrainingData, held: ClientCopy) -> Worker:
        """A worker on a model."""
        model = held.model
        recipe, device = data.recipe, choose_device(data.recipe.runtime.device)
        if self._own is not None:
            check_patterns(recipe.tune, (name for name, _ in model.model.named_modules()))
        tunable = recipe.tune.attach(model, task_type=data.task.peft_type, seed=recipe.seed)
        tunable.to(device)
        if self._own is not None:
            ((client, examples),) = data.federation.sizes.items()
            self._own.egress.announce(recipe, tunable, client, examples)
        worker, _ = make_worker(data, model, tunable, held, device)
        return worker

    def _train(self, run: _Run, work: Work, messages: tuple[bytes, ...]) -> Iterator[Envelope]:
        if unknown := [client for client, _ in work.clients if client not in run.worker.clients]:
            raise DataError(f"there is no data of client {unknown[0]} here")
        torch.set_num_threads(run.data.recipe.runtime.resolved_threads)  # they decide bits, as at the server
        requests, sent = read_work(work, messages)
        if self._own is not None and work.states:
            raise DataError("the server sends the state of a client, which this site keeps itself")
        run.worker.prepare(sent)
        for reply in run.worker.answer(requests):
            if self._own is not None:
                content = reply.content if isinstance(reply.content, Failure) else reply.content[:]
                reply = Reply(reply.client, self._own.egress.pass_answer(content, run.data.recipe, run.job))
            yield replies_envelope([reply])
