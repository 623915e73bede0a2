"""A recipe made real: data read and split, backbone loaded, tunable attached. The run's folder is not touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fedfm.clients import Evaluator, Worker, use_threads
from fedfm.errors import DataError
from fedfm.hosts.devices import choose_device
from fedfm.hosts.worker_factory import make_worker
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.tunable import Tunable
from fedfm.params import Params, digest
from fedfm.progress import stage
from fedfm.proxies.base import ClientModel
from fedfm.recipe import Recipe
from fedfm.server.experiment.federated_data import FederatedData, prepare_data
from fedfm.spill import Spilled
from fedfm.tasks import CausalLM
from fedfm.tasks.causality import refuse_look_ahead
from fedfm.wire import from_bytes, to_bytes


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
        stored_start: what travels as initialised, as a message without fields; on disk, since few ask for it.
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
    stored_start: Spilled
    backbone_parameters: int
    first_download_bytes: int
    training: str
    processes: int = 1
    proxy: ClientModel | None = None

    @property
    def start(self) -> Params:
        """What travels as initialised, before round 1."""
        return dict(from_bytes(self.stored_start)[0])

    def plug_in(self, params: Params) -> None:
        """Writes what travels into the backbone."""
        self.tunable.write(self.proxy.to_backbone(params) if self.proxy else params)

    def evaluate_proxy(self, params: Params) -> dict[str, float]:
        """Loss and metrics on the test set of the proxy itself, with what travels.

        Raises:
            ValueError: there is no proxy.
        """
        if self.proxy is None:
            raise ValueError("there is no proxy to evaluate")
        self.proxy.server_tunable.write(params)
        return replace(self.evaluator, tunable=self.proxy.server_tunable)(self.data.test)

    @property
    def recipe(self) -> Recipe:
        """The recipe with what the data and the backbone decide filled in."""
        return self.data.recipe

    @property
    def warnings(self) -> list[str]:
        """What a user should know of the data and the model before round 1, each one sentence."""
        return [*self.data.warnings, *self.backbone.warnings]

    @property
    def identity(self) -> dict[str, str]:
        """What makes this run this run, as digests: a resumed one must agree in all of it."""
        lasting = self.recipe.model_dump(exclude={"report_to": True, "federation": {"rounds"}})
        recipe = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()
        data = {f"data.{split}": digest for split, digest in self.data.digests.items()}
        return {"recipe": recipe, **data, **self.backbone.identity.named, "tunable": digest(self.start)}


def build_experiment(recipe: Recipe, sites: Sequence[str] = ()) -> Experiment:
    """Everything a run needs, ready to start.

    Args:
        recipe: of the run.
        sites: names of the clients, where they hold their own data.

    Raises:
        RecipeError: something in the recipe does not fit; the message says what to change.
        DataError: a file cannot be read, or there is nothing to predict in what is evaluated.
    """
    device = choose_device(recipe.runtime.device)
    resolved = recipe.model_copy(update={"runtime": recipe.runtime.with_threads()})
    available = torch.get_num_threads()
    with use_threads(resolved.runtime.resolved_threads):
        return _build(resolved, sites, device, available)


def _build(recipe: Recipe, sites: Sequence[str], device: torch.device, available: int) -> Experiment:
    """As `build_experiment`, with the threads that the recipe says; ``available`` are there for evaluation."""
    with stage("reading data"):
        data = prepare_data(recipe, sites)
    with stage("loading the model"):
        backbone = _load(data)
    data = replace(data, recipe=_with_commit(data.recipe, backbone))
    parameters = sum(weight.numel() for weight in backbone.model.parameters())
    made = _client_model(data, backbone)
    for tunable in (made.tunable, made.client_tunable, made.server_tunable):
        tunable.to(device)
        if isinstance(data.task, CausalLM):
            refuse_look_ahead(data.task, tunable, backbone.processor, backbone.name)
    worker, processes, training = None, 1, f"at {len(data.clients)} sites, each on its own data"
    if data.training is not None:
        here = replace(data.training, recipe=data.recipe)
        worker, sharing = make_worker(here, made.client.model, made.client_tunable, made.client, device)
        processes, training = sharing.processes, sharing.words
        data = replace(data, recipe=data.recipe.model_copy(update={"runtime": sharing.runtime}))
    evaluator = _evaluator(data, backbone, made.tunable, device, available)
    _refuse_unmeasurable(data, evaluator)
    return Experiment(
        data=data,
        backbone=backbone,
        tunable=made.tunable,
        at_clients=made.client_tunable,
        worker=worker,
        evaluator=evaluator,
        device=device,
        stored_start=Spilled([to_bytes(made.start)]),
        backbone_parameters=parameters,
        first_download_bytes=made.download_bytes,
        training=training,
        processes=processes,
        proxy=made if recipe.proxy.is_sent else None,
    )


def _load(data: FederatedData) -> Backbone:
    recipe = data.recipe
    return load_backbone(
        recipe.model,
        data.task.auto_class,
        seed=recipe.seed,
        labels=None if data.labels is None else data.labels.names,
        allow_network=recipe.allow_network,
    )


def _with_commit(recipe: Recipe, backbone: Backbone) -> Recipe:
    """The recipe with the commit that a model of the hub was loaded from, in place of a branch."""
    if backbone.revision is None or recipe.model.path.startswith("builtin:"):
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"revision": backbone.revision})})


def _client_model(data: FederatedData, backbone: Backbone) -> ClientModel:
    """Attaches what is tuned, and makes the proxy where clients get one."""
    recipe, task = data.recipe, data.task

    def attach(model: Backbone) -> Tunable:
        return recipe.tune.attach(model, task_type=task.peft_type, seed=recipe.seed)

    return recipe.proxy.at_server(backbone, attach, data.public, seed=recipe.seed)


def _refuse_unmeasurable(data: FederatedData, evaluator: Evaluator) -> None:
    """Refuses data to evaluate on in which nothing is predicted."""
    for split, examples in (("validation", data.validation), ("test", data.test)):
        if examples is not None and not evaluator.predicts(examples):
            raise DataError(
                f"data.{split}: nothing is predicted in its {len(examples)} examples: {data.recipe.task.kind} masked "
                "none of their few tokens; give more texts, or longer ones"
            )


def _evaluator(
    data: FederatedData, backbone: Backbone, tunable: Tunable, device: torch.device, available: int
) -> Evaluator:
    evaluate, task = data.recipe.evaluate, data.task
    return Evaluator(
        tunable=tunable,
        family=backbone.family,
        task=task,
        processor=data.processor,
        metrics=tuple(task.metrics) if evaluate.metrics == "auto" else tuple(evaluate.metrics),
        batch_size=evaluate.batch_size,
        seed=data.recipe.seed,
        device=device,
        threads=available if evaluate.patience is None else data.recipe.runtime.resolved_threads,
    )
