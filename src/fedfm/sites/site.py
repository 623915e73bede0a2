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
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.proxies import NoProxy
from fedfm.proxies.construct import kept_blocks, own_parameters
from fedfm.proxies.folder import load_proxy, weights_digest
from fedfm.proxies.versions import HeldProxy
from fedfm.recipe import Recipe, load_recipe
from fedfm.runtimes.parcels import Answers, Fault, Parcel, Prepare, Ready, Refusal, Unprepared, Work, job_digest
from fedfm.sites.border import Border
from fedfm.sites.data import TrainingData, read_training
from fedfm.sites.devices import choose_device
from fedfm.sites.job import Job
from fedfm.sites.own import OwnData, at_site, read_site
from fedfm.sites.worker import make_worker
from fedfm.updates import Failure


@dataclass
class _Run:
    """A run that the node is prepared for.

    Attributes:
        job: digest of its job.
        worker: None until the proxy is there.
        folder: of the proxy.
    """

    job: str
    data: TrainingData
    device: torch.device
    worker: Worker | None = None
    folder: tempfile.TemporaryDirectory[str] | None = None


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
                case Prepare(job=job, client=client):
                    yield self._prepare(job_digest(job), Job.model_validate(job), client)
                case Work() as work if self._run is not None and self._run.job == work.job:
                    yield from self._train(self._run, work, parcel.blobs)
                case Work():
                    yield Parcel(Unprepared())
                case other:
                    yield Parcel(Refusal(reason=f"a node does not answer `{other.kind}`"))
        except FedfmError as error:
            yield Parcel(Refusal(reason=str(error)))

    def rest(self) -> None:
        """Frees the memory of its run; who asks for its work is told that it must be prepared again."""
        self._run = None

    def _prepare(self, digest: str, job: Job, client: str | None) -> Parcel:
        if self._run is None or self._run.job != digest:
            self._run = None  # its memory is needed
            self._run = self._prepared(digest, job, client)
        if self._own is None:
            return Parcel(Ready(job=digest, clients=None))
        held = self._run.data.federation.sizes
        return Parcel(Ready(job=digest, clients=tuple(held), examples=sum(held.values())))

    def _prepared(self, digest: str, job: Job, client: str | None) -> _Run:
        if job.version != __version__:
            raise RecipeError(f"the server has fedfm {job.version}, and this node {__version__}: install the same one")
        data = self._read(load_recipe(job.recipe), digest, job.data, client)
        recipe = data.recipe
        run = _Run(digest, data, choose_device(recipe.runtime.device))
        if not isinstance(recipe.proxy, NoProxy):
            return run
        backbone = load_backbone(
            recipe.model,
            data.task.auto_class,
            seed=recipe.seed,
            labels=None if data.labels is None else data.labels.names,
            allow_network=recipe.allow_network,
        )
        if weights_digest(backbone.model) != job.model:
            raise DataError(f"{recipe.model.path} has other weights here than at the server")
        run.worker = self._worker(run, backbone, None, job.model)
        return run

    def _read(self, recipe: Recipe, job: str, digest: str | None, client: str | None) -> TrainingData:
        """The data of a run, as the server has it too, or as this site has its own."""
        if self._own is None or client is None:
            if self._own is not None or client is not None:
                raise RecipeError("of server and node, one has clients with data of their own, and the other has not")
            data = read_training(recipe)
            if data.digest != digest:
                raise DataError(f"{recipe.data.train} is another file here than at the server")
            return data
        self._own.border.admit(recipe, job)
        here = at_site(recipe, self._own.data, allow_network=self._own.border.policy.allow_network)
        return read_site(here, self._own.data, client)

    def _worker(self, run: _Run, model: Backbone, held: HeldProxy | None, backbone: str) -> Worker:
        """A worker on the backbone, or on a proxy of the backbone with this digest."""
        recipe = run.data.recipe
        if self._own is not None:
            self._own.border.admit_model(backbone)
        tunable = recipe.tune.attach(model, task_type=run.data.task.peft_type, seed=recipe.seed)
        tunable.to(run.device)
        if self._own is not None:
            ((client, examples),) = run.data.federation.sizes.items()
            self._own.border.announce(recipe, tunable, client, examples)
        worker, _ = make_worker(run.data, model, tunable, held, run.device)
        return worker

    def _train(self, run: _Run, work: Work, blobs: tuple[bytes, ...]) -> Iterator[Parcel]:
        if work.files:
            run.worker = self._with_proxy(run, dict(zip(work.files, blobs, strict=False)))
        if run.worker is None:
            yield Parcel(Unprepared())
            return
        if unknown := [client for client, _ in work.clients if client not in run.worker.clients]:
            raise DataError(f"there is no data of client {unknown[0]} here")
        messages = blobs[len(work.files) :]
        run.worker.prepare({str(place): message for place, message in enumerate(messages)})
        for client, answer in run.worker.train({client: messages[place] for client, place in work.clients}):
            if self._own is not None and isinstance(answer, bytes):
                self._own.border.pass_update(answer, run.data.recipe, run.job)
            yield _answer(client, answer)

    def _with_proxy(self, run: _Run, files: dict[str, bytes]) -> Worker:
        """A worker on the proxy in these files."""
        run.worker, run.folder = None, tempfile.TemporaryDirectory(prefix="fedfm-proxy-")
        folder = Path(run.folder.name)
        for name, content in files.items():
            if Path(name).name != name:
                raise DataError(f"`{name}` is no name of a file in a proxy's folder")
            (folder / name).write_bytes(content)
        proxy, manifest = load_proxy(folder, run.data.task.auto_class)
        kept = manifest.kept_neurons
        held = HeldProxy(own_parameters(proxy, kept), kept_blocks(proxy, kept), manifest.version)
        return self._worker(run, proxy, held, manifest.backbone)


def _answer(client: str, answer: bytes | Failure) -> Parcel:
    if isinstance(answer, bytes):
        return Parcel(Answers(clients=((client, None),)), (answer,))
    fault = Fault(reason=answer.reason, details=answer.details, stale=answer.stale)
    return Parcel(Answers(clients=((client, fault),)))
