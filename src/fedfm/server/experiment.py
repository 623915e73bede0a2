"""A recipe made real: data read and split, backbone loaded, tunable attached. The run's folder is not touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from fedfm.clients import Evaluator, Worker
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.settings import SITES
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
from fedfm.server.proxies import Report, ServerProxy, make_server_proxy
from fedfm.server.state import Delivered
from fedfm.sites.data import TrainingData, class_names, processor_of, read_training
from fedfm.sites.devices import choose_device
from fedfm.sites.worker import make_worker
from fedfm.tasks import TASKS, Task
from fedfm.tasks.public import PublicData, read_public


@dataclass(frozen=True)
class FederatedData:
    """Everything that a server knows of a run's data.

    Attributes:
        recipe: the recipe with what the data decides filled in (clients, cohort size, partition).
        task: what is learnt.
        processor: tokenizer or image processor.
        labels: the classes, None for tasks without.
        clients: client id → its training examples; 0 where they are not known.
        training: the clients' data, in a simulation; None where they hold it.
        validation: with ``evaluate.patience`` it chooses the round that is handed out; None when the recipe has none.
        test: what the figures are reported on.
        digests: split → digest of its source's content.
        public: unlabelled public data; read only where a proxy is fitted on it.
    """

    recipe: Recipe
    task: Task
    processor: Processor
    labels: LabelMap | None
    clients: dict[str, int]
    training: TrainingData | None
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
        if self.training is not None and self.training.federation.holdout:
            examples, sets = self.training.train, dict(self.training.federation.holdout)
        elif self.test.clients is not None:
            examples = self.test
            sets = {client: np.flatnonzero(self.test.clients == client) for client in self.clients}
            sets = {client: indices for client, indices in sets.items() if len(indices)}
        else:
            return self.test, {}
        most = self.recipe.evaluate.clients
        chosen = numpy_generator(self.recipe.seed, "evaluated clients").permutation(sorted(sets))[:most]
        return examples, {client: sets[client] for client in sorted(str(name) for name in chosen)}

    def table(self) -> list[dict[str, object]]:
        """One row a client, as `Federation.table`; of clients that hold their data, only what they say of it."""
        if self.training is not None:
            return self.training.federation.table(self.training.train, self.labels)
        return [
            {"id": name, "examples": examples, "labels": None, "holdout": 0} for name, examples in self.clients.items()
        ]


@dataclass(frozen=True)
class Experiment:
    """A run that is ready to start.

    Attributes:
        data: the data and its split.
        backbone: the pretrained model and where it came from.
        tunable: the parameters that are trained, on the backbone, on ``device``.
        at_clients: the same on what clients hold, the backbone or their proxy.
        worker: trains clients; None where they have machines of their own.
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
    at_clients: Tunable
    worker: Worker | None
    evaluator: Evaluator
    device: torch.device
    start: Params
    backbone_parameters: int
    first_download_bytes: int
    training: str
    processes: int = 1
    proxy: ServerProxy | None = None

    def plug_in(self, params: Params, report: Report) -> Params:
        """Writes what travels into the backbone.

        Args:
            params: what travels.
            report: hears what refitting the read-out did, where the recipe asks for that.

        Returns:
            The read-out as it was refitted, by its names in the tunable; empty where it was not.
        """
        if self.proxy is not None:
            return self.proxy.take_over(params, report)
        self.tunable.write(params)
        return {}

    def write(self, delivered: Delivered) -> None:
        """Writes what a run hands out into the backbone."""
        params = delivered.params
        self.tunable.write(self.proxy.plug_in.to_backbone(params) | delivered.readout if self.proxy else params)

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


def prepare_data(recipe: Recipe, sites: Sequence[str] = ()) -> FederatedData:
    """Reads, encodes and splits the data; the model's weights are not loaded.

    Args:
        recipe: of the run.
        sites: names of the clients, where they hold their own data.

    Raises:
        RecipeError: the recipe and its data do not fit; the message says what to change.
        DataError: a file cannot be read.
    """
    training = None if recipe.data.train == SITES else read_training(recipe)
    held_back = {} if training is None else training.held_back
    sources = {name: held_back.get(name) or _named(recipe, name) for name in ("test", "validation")}
    if sources["test"] is None:
        raise RecipeError("nothing to evaluate on: name a file, or a fraction such as 0.2", where="data.test")
    digests = {"train": training.digest} if training else {}
    digests |= {name: source.digest for name, source in sources.items() if source is not None}
    if training is None:
        labels, processor = class_names(recipe, sources["test"]), processor_of(recipe)
        recipe, clients = _at_sites(recipe, labels, len(sites)), dict.fromkeys(sites, 0)
    else:
        labels, processor = training.labels, training.processor
        recipe, clients = training.recipe, training.federation.sizes
    task = TASKS[recipe.task.kind]
    encoded = {
        name: task.encode(source, recipe.data, processor, labels)
        for name, source in sources.items()
        if source is not None
    }
    public = _public(recipe, processor)
    if public is not None:
        digests["public"] = public.digest
    return FederatedData(
        recipe=recipe,
        task=task,
        processor=processor,
        labels=labels,
        clients=clients,
        training=training,
        validation=encoded.get("validation"),
        test=encoded["test"],
        digests=digests,
        public=public,
    )


def build_experiment(recipe: Recipe, sites: Sequence[str] = ()) -> Experiment:
    """Everything a run needs, ready to start.

    Args:
        recipe: of the run.
        sites: names of the clients, where they hold their own data.

    Raises:
        RecipeError: something in the recipe does not fit; the message says what to change.
        DataError: a file cannot be read.
    """
    device = choose_device(recipe.runtime.device)
    data = prepare_data(recipe, sites)
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
    worker, processes, training = None, 1, f"at {len(data.clients)} sites, each on its own data"
    if data.training is not None:
        at_client = backbone if made is None else clients_model.proxy
        here = replace(data.training, recipe=recipe)
        worker, sharing = make_worker(here, at_client, at_clients, held, device)
        processes, training = sharing.processes, sharing.words
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
        at_clients=at_clients,
        worker=worker,
        evaluator=evaluator,
        device=device,
        start=start,
        backbone_parameters=backbone_parameters,
        first_download_bytes=first_download_bytes,
        training=training,
        processes=processes,
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


def _at_sites(recipe: Recipe, labels: LabelMap | None, clients: int) -> Recipe:
    """The recipe with what is known of clients that hold their own data, and what they need to know of the data."""
    data = recipe.data.model_copy(update={"labels": None if labels is None else list(labels.names)})
    per_round = recipe.federation.cohort_size(clients)
    if per_round > clients:
        raise RecipeError(
            f"{per_round} clients a round are more than the {clients} there are", where="federation.per_round"
        )
    known = {"clients": clients, "per_round": recipe.federation.per_round or per_round}
    return recipe.model_copy(update={"data": data, "federation": recipe.federation.model_copy(update=known)})
