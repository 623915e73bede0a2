"""A recipe made real: data read and split, backbone loaded, tunable attached. The run's folder is not touched."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from fedfm.clients import Evaluator, Worker
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.sources import Source, read_source
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, load_backbone, load_processor
from fedfm.models.processors import Processor
from fedfm.models.tunable import Tunable
from fedfm.params import Params, digest
from fedfm.proxies import FedPFT, NoProxy
from fedfm.proxies.model import make
from fedfm.proxies.versions import HeldProxy
from fedfm.randomness import numpy_generator
from fedfm.recipe import Recipe
from fedfm.server.devices import choose_device
from fedfm.server.federation import Federation, make_federation
from fedfm.server.proxies import ServerProxy, make_server_proxy
from fedfm.server.stacking import choose_sharing
from fedfm.tasks import TASKS, Task
from fedfm.tasks.public import PublicData, read_public


@dataclass(frozen=True)
class FederatedData:
    """Everything about a run's data.

    Attributes:
        recipe: the recipe with what the data decides filled in (clients, cohort size, partition).
        task: what is learnt.
        processor: tokenizer or image processor.
        labels: the classes, None for tasks without.
        train: all training examples; ``federation`` says who holds which.
        validation: with ``evaluate.patience`` it chooses the round that is handed out; None when the recipe has none.
        test: what the figures are reported on.
        federation: the clients.
        digests: split → digest of its source's content.
        public: unlabelled public data; read only where a proxy is fitted on it.
    """

    recipe: Recipe
    task: Task
    processor: Processor
    labels: LabelMap | None
    train: Examples
    validation: Examples | None
    test: Examples
    federation: Federation
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
    task = TASKS[recipe.task.kind]
    settings = recipe.data
    processor = load_processor(
        recipe.model,
        task.modality,
        virtual_tokens=recipe.tune.virtual_tokens,
        allow_network=recipe.allow_network,
    )
    source = _read(recipe, settings.train, "train")
    labels = LabelMap.from_source(source, settings.label) if task.labelled else None
    sources = _hold_back(recipe, source)
    train, test, validation = (
        None if part is None else task.encode(part, settings, processor, labels)
        for part in (sources["train"], sources["test"], sources["validation"])
    )
    if train is None or test is None:
        raise RecipeError("nothing to evaluate on: name a file, or a fraction such as 0.2", where="data.test")
    digests = {name: part.digest for name, part in sources.items() if part is not None}
    federation = make_federation(recipe, train)
    public = _public(recipe, processor)
    if public is not None:
        digests["public"] = public.digest
    return FederatedData(
        recipe=_resolved(recipe, len(federation.train)),
        task=task,
        processor=processor,
        labels=labels,
        train=train,
        validation=validation,
        test=test,
        federation=federation,
        digests=digests,
        public=public,
    )


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
    sharing = choose_sharing(
        recipe, at_client, at_clients, task, data.processor, device=device, examples=len(data.train)
    )
    data = replace(data, recipe=recipe.model_copy(update={"runtime": sharing.runtime}))
    worker = Worker(
        tunable=at_clients,
        task=task,
        processor=data.processor,
        examples=data.train,
        clients=data.federation.train,
        local=recipe.local,
        gradient_rule=recipe.algorithm.gradient,
        seed=recipe.seed,
        device=device,
        proxy=held,
        trains_stale=isinstance(recipe.proxy, FedPFT) and recipe.proxy.stale == "accept",
        stacking=sharing.stacking,
    )
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
        processes=cast(int, sharing.runtime.processes),
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


def _hold_back(recipe: Recipe, source: Source) -> dict[str, Source | None]:
    """The sources of all splits. Fractions are cut before encoding, so that no document is in two splits."""
    parts: dict[str, Source | None] = {"validation": None}
    order = numpy_generator(recipe.seed, "limit").permutation(len(source))[: recipe.data.limit]
    total = len(order)
    for name in ("test", "validation"):
        reference = getattr(recipe.data, name)
        if isinstance(reference, float):
            size = round(reference * total)
            if not 0 < size < len(order):
                raise RecipeError(f"cannot hold back {size} of {len(order)} examples", where=f"data.{name}")
            parts[name], order = source.select(np.sort(order[:size])), order[size:]
        elif reference is not None:
            parts[name] = _read(recipe, reference, name)
    return {**parts, "train": source if len(order) == len(source) else source.select(np.sort(order))}


def _resolved(recipe: Recipe, clients: int) -> Recipe:
    """The recipe with what the data decides filled in, so that ``recipe.yaml`` says what was run."""
    per_round = recipe.federation.cohort_size(clients)
    if per_round > clients:
        raise RecipeError(
            f"{per_round} clients a round are more than the {clients} there are", where="federation.per_round"
        )
    settings = recipe.federation
    known = {"clients": clients, "per_round": settings.per_round or per_round, "partition": recipe.partition}
    return recipe.model_copy(update={"federation": recipe.federation.model_copy(update=known)})


def _read(recipe: Recipe, reference: str, split: str) -> Source:
    return read_source(reference, split, where=f"data.{split}", allow_network=recipe.allow_network)  # type: ignore[arg-type]
