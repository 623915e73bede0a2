"""A recipe made real: data read and split, backbone loaded, tunable attached. The run's folder is not touched."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch

from fedfm.clients import Evaluator, Worker
from fedfm.data.examples import Examples
from fedfm.data.sources import Source, read_source
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.processors import Processor
from fedfm.models.tunable import Tunable
from fedfm.params import Params, digest
from fedfm.proxies import NoProxy
from fedfm.proxies.model import make
from fedfm.proxies.versions import HeldProxy
from fedfm.randomness import numpy_generator
from fedfm.recipe import Recipe
from fedfm.server.proxies import ServerProxy, make_server_proxy
from fedfm.sites.data import TrainingData, read_training
from fedfm.sites.devices import choose_device
from fedfm.sites.worker import make_worker
from fedfm.tasks.public import PublicData, read_public


@dataclass(frozen=True)
class FederatedData(TrainingData):
    """Everything about a run's data.

    Attributes:
        validation: with ``evaluate.patience`` it chooses the round that is handed out; None when the recipe has none.
        test: what the figures are reported on.
        digests: split → digest of its source's content.
        public: unlabelled public data; read only where a proxy is fitted on it.
    """

    validation: Examples | None
    test: Examples
    digests: dict[str, str]
    public: PublicData | None = None

    def client_test_sets(self) -> tuple[Examples, dict[str, np.ndarray]]:
        """What each client is evaluated on: its held-out examples, else the test examples that name it.

        Returns:
            The examples and client id → indices into them, for at most ``evaluate.clients`` clients (a keyed choice);
            no client when there is neither.
        """
        if self.federation.holdout:
            examples, sets = self.train, dict(self.federation.holdout)
        elif self.test.clients is not None:
            examples = self.test
            sets = {client: np.flatnonzero(self.test.clients == client) for client in self.federation.train}
            sets = {client: indices for client, indices in sets.items() if len(indices)}
        else:
            return self.test, {}
        most = self.recipe.evaluate.clients
        chosen = numpy_generator(self.recipe.seed, "evaluated clients").permutation(sorted(sets))[:most]
        return examples, {client: sets[client] for client in sorted(str(name) for name in chosen)}


@dataclass(frozen=True)
class Experiment:
    """A run that is ready to start.

    Attributes:
        data: the data and its split.
        backbone: the pretrained model and where it came from.
        tunable: the parameters that are trained, on the backbone, on ``device``.
        worker: trains clients, on the backbone or on their proxy.
        evaluator: evaluates the tunable.
        device: where it all happens.
        start: what travels as initialised, before round 1.
        backbone_parameters: parameters of the backbone with its head, before the tunable added its own.
        first_download_bytes: size of the backbone, or of the proxy, which a client needs once before its first round.
        training: in words, how many clients are trained at a time.
        processes: how many train clients.
        proxy: the server's side of the proxy, where clients get one.
    """

    data: FederatedData
    backbone: Backbone
    tunable: Tunable
    worker: Worker
    evaluator: Evaluator
    device: torch.device
    start: Params
    backbone_parameters: int
    first_download_bytes: int
    training: str
    processes: int = 1
    proxy: ServerProxy | None = None

    def plug_in(self, params: Params) -> None:
        """Writes what travels into the backbone."""
        self.tunable.write(self.proxy.plug_in.to_backbone(params) if self.proxy else params)

    def evaluate_proxy(self, params: Params) -> dict[str, float]:
        """Loss and metrics on the test set of the proxy itself, with what travels.

        Raises:
            ValueError: there is no proxy.
        """
        if self.proxy is None:
            raise ValueError("there is no proxy to evaluate")
        self.proxy.proxy.write(params)
        return replace(self.evaluator, tunable=self.proxy.proxy)(self.data.test)

    @property
    def recipe(self) -> Recipe:
        """The recipe with what the data and the backbone decide filled in."""
        return self.data.recipe

    @property
    def identity(self) -> dict[str, str]:
        """What makes this run this run, as digests: a resumed one must agree in all of it."""
        lasting = self.recipe.model_dump(exclude={"report_to": True, "federation": {"rounds"}})
        recipe = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()
        data = {f"data.{split}": digest for split, digest in self.data.digests.items()}
        return {"recipe": recipe, **data, "tunable": digest(self.start)}


def prepare_data(recipe: Recipe) -> FederatedData:
    """Reads, encodes and splits the data; the model's weights are not loaded.

    Raises:
        RecipeError: the recipe and its data do not fit; the message says what to change.
        DataError: a file cannot be read.
    """
    training = read_training(recipe)
    digests, parts = {"train": training.digest}, dict[str, Examples | None]()
    for name in ("test", "validation"):
        source = training.held_back.get(name) or _named(recipe, name)
        parts[name] = None
        if source is not None:
            parts[name] = training.task.encode(source, recipe.data, training.processor, training.labels)
            digests[name] = source.digest
    test = parts["test"]
    if test is None:
        raise RecipeError("nothing to evaluate on: name a file, or a fraction such as 0.2", where="data.test")
    public = _public(recipe, training.processor)
    if public is not None:
        digests["public"] = public.digest
    known = {field.name: getattr(training, field.name) for field in fields(training)}
    return FederatedData(**known, validation=parts["validation"], test=test, digests=digests, public=public)


def build_experiment(recipe: Recipe) -> Experiment:
    """Everything a run needs, ready to start.

    Raises:
        RecipeError: something in the recipe does not fit; the message says what to change.
        DataError: a file cannot be read.
    """
    device = choose_device(recipe.runtime.device)
    data = prepare_data(recipe)
    recipe = data.recipe
    task = data.task
    backbone = load_backbone(
        recipe.model,
        task.auto_class,
        seed=recipe.seed,
        labels=None if data.labels is None else data.labels.names,
        allow_network=recipe.allow_network,
    )
    if backbone.revision is not None and not recipe.model.path.startswith("builtin:"):  # the commit, not the branch
        model = recipe.model.model_copy(update={"revision": backbone.revision})
        recipe = recipe.model_copy(update={"model": model})
        data = replace(data, recipe=recipe)
    backbone_parameters = sum(weight.numel() for weight in backbone.model.parameters())
    first_download_bytes = sum(weight.numel() * weight.element_size() for weight in backbone.model.parameters())
    made = None if isinstance(recipe.proxy, NoProxy) else make(recipe.proxy, backbone, data.public, seed=recipe.seed)
    proxy, held = None, None
    if made is None:
        tunable = at_clients = recipe.tune.attach(backbone, task_type=task.peft_type, seed=recipe.seed)
        start = tunable.read()
    else:
        clients_model = made.copy()
        tunable = recipe.tune.attach(made.backbone, task_type=task.peft_type, seed=recipe.seed)
        proxy = make_server_proxy(recipe, made, tunable, task, data.public)
        at_clients = recipe.tune.attach(clients_model.proxy, task_type=task.peft_type, seed=recipe.seed)
        held = HeldProxy(clients_model.own, clients_model.compressed)
        start = proxy.plug_in.to_proxy(tunable.read())
        first_download_bytes = proxy.download_bytes
    for attached in (tunable, at_clients, *([proxy.proxy] if proxy else [])):
        attached.to(device)
    at_client = backbone if made is None else clients_model.proxy
    worker, sharing = make_worker(data, at_client, at_clients, held, device)
    data = replace(data, recipe=recipe.model_copy(update={"runtime": sharing.runtime}))
    evaluator = Evaluator(
        tunable=tunable,
        family=backbone.family,
        task=task,
        processor=data.processor,
        metrics=tuple(task.metrics) if recipe.evaluate.metrics == "auto" else tuple(recipe.evaluate.metrics),
        batch_size=recipe.evaluate.batch_size,
        seed=recipe.seed,
        device=device,
    )
    return Experiment(
        data=data,
        backbone=backbone,
        tunable=tunable,
        worker=worker,
        evaluator=evaluator,
        device=device,
        start=start,
        backbone_parameters=backbone_parameters,
        first_download_bytes=first_download_bytes,
        training=sharing.words,
        processes=sharing.processes,
        proxy=proxy,
    )


def _public(recipe: Recipe, processor: Processor) -> PublicData | None:
    """Public data, where the recipe has a use for it."""
    if recipe.public is None or isinstance(recipe.proxy, NoProxy):
        return None
    return read_public(
        recipe.public,
        processor,
        max_length=recipe.data.max_length,
        seed=recipe.seed,
        pairs=len(recipe.data.text) == 2,
        allow_network=recipe.allow_network,
    )


def _named(recipe: Recipe, split: Literal["test", "validation"]) -> Source | None:
    """The source of a split that is not cut off the training data."""
    reference = getattr(recipe.data, split)
    if reference is None:
        return None
    return read_source(reference, split, where=f"data.{split}", allow_network=recipe.allow_network)
