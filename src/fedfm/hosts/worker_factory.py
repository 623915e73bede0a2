"""Workers for the clients whose data is on this machine, and what both ends of the wire know of what crosses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fedfm.clients import Contract, Evaluator, Worker, Workers
from fedfm.clients.distilling import learner_of
from fedfm.clients.masking import Masking
from fedfm.clients.retrieval.library import Library
from fedfm.hosts.anatomy import anatomy_of
from fedfm.hosts.model_groups import Loaded, ModelWorkers, backbone_places
from fedfm.hosts.parallelism import Sharing, choose_sharing, why_example_by_example
from fedfm.hosts.training_data import TrainingData, processor_of
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunable_layers import layers_of
from fedfm.proxies.base import ClientCopy
from fedfm.recipe import Recipe
from fedfm.spec import spec_of
from fedfm.updates import UpdatePath
from fedfm.views import Personal, Views
from fedfm.views.selection import TunableLayers
from fedfm.wire import on_disk


@dataclass(frozen=True)
class ClientSide:
    """What a worker trains with.

    Attributes:
        copy: the model that clients hold.
        tunable: attached to it, on its device.
        contract: what crosses.
    """

    copy: ClientCopy
    tunable: Tunable
    contract: Contract

    @property
    def layers(self) -> TunableLayers:
        """The layers of the model, and what of the tunable is in each, without personal parts."""
        return layers_of(self.tunable, self.copy.model.family, without=self.contract.personal)


def make_contract(
    recipe: Recipe, start: Mapping[str, Tensor], views: Views | None = None, *, model: Backbone | None = None
) -> Contract:
    """What crosses between the server and the clients of a recipe.

    Args:
        recipe: of the run.
        start: what travels as initialised, with the parts that stay personal; kept as it is, so on disk where it is
            large and lasts as long as a run (`on_disk`).
        views: of the tunable; None: those that the recipe asks for.
        model: that clients hold; views that depend on its units hold everything where it is not given.

    Raises:
        RecipeError: a view does not fit what is tuned.
    """
    views = Views.of(recipe) if views is None else views
    if model is not None and views.reads_anatomy:
        views = views.on(anatomy_of(model, start), start)
    rule = recipe.aggregate.under(recipe.federation.sampling)
    up, none = UpdatePath.of(recipe.updates, "up"), UpdatePath()
    return Contract(
        spec=spec_of(start),
        rule=recipe.algorithm,
        views=views,
        down=UpdatePath.of(recipe.updates, "down"),
        up=none if recipe.protocol.peer_stages else up,
        peer=up if recipe.protocol.peer_stages else none,
        seed=recipe.seed,
        start=start,
        masking=Masking(recipe.secure, rule) if recipe.secure.sums_only else None,
        keeps_optimizer=recipe.local.keep_optimizer,
    )


def make_workers(data: TrainingData, side: ClientSide, device: torch.device) -> tuple[Workers, Sharing]:
    """Workers for all clients of ``data``, and how they share this machine.

    Arguments and errors are those of `make_worker`; also raises RecipeError as `backbone_places`.
    """
    worker, sharing = make_worker(data, side, device)
    if not data.recipe.federation.models:
        return worker, sharing
    places = backbone_places(data.recipe, list(data.federation.train))
    return ModelWorkers(worker, places, partial(_load, data, device)), sharing


def _load(data: TrainingData, device: torch.device, place: int) -> Loaded:
    """A worker on one of `federation.models`; all of its tunable is personal to each client."""
    other, task = data.recipe.federation.models[place], data.task
    model = data.recipe.model.model_copy(update={"path": other.path, "revision": other.revision})
    recipe = data.recipe.model_copy(update={"model": model, "tune": other.tune or data.recipe.tune})
    processor = processor_of(recipe)
    backbone = load_backbone(
        model,
        task.auto_class,
        seed=recipe.seed,
        labels=None if data.labels is None else data.labels.names,
        problem_type=task.problem_type,
        modality=task.modality,
        allow_network=recipe.allow_network,
    )
    tunable = recipe.tune.attach(backbone, task_type=task.peft_type, seed=recipe.seed)
    tunable.to(device)
    contract = make_contract(recipe, on_disk(tunable.read()), Views((Personal(),)))
    train = task.encode(data.source, recipe.data, processor, data.labels)
    here = replace(data, recipe=recipe, processor=processor, train=train)
    worker, _ = make_worker(here, ClientSide(ClientCopy(backbone), tunable, contract), device)
    return Loaded(worker.with_references(), backbone.identity)


def make_worker(data: TrainingData, side: ClientSide, device: torch.device) -> tuple[Worker, Sharing]:
    """A worker on one backbone for all clients of ``data``, and how they share this machine.

    Args:
        data: theirs.
        side: what they train with.
        device: where they are trained.

    Raises:
        RecipeError: as `choose_sharing`.
    """
    recipe, model, tunable = data.recipe, side.copy.model, side.tunable
    sharing = choose_sharing(recipe, model, tunable, data.task, data.processor, device=device, examples=len(data.train))
    evaluator = Evaluator(
        tunable=tunable,
        family=model.family,
        task=data.task,
        processor=data.processor,
        metrics=data.metrics,
        batch_size=recipe.evaluate.batch_size,
        seed=recipe.seed,
        device=device,
        threads=recipe.runtime.resolved_threads,
        labels=() if data.labels is None else data.labels.names,
    )
    worker = Worker(
        tunable=tunable,
        task=data.task,
        processor=data.processor,
        examples=data.train,
        clients=data.federation.train,
        local=recipe.local,
        contract=side.contract,
        seed=recipe.seed,
        rounds=recipe.federation.rounds,
        device=device,
        holdout=data.federation.holdout,
        evaluator=evaluator,
        copy=side.copy,
        trains_stale=recipe.proxy.accepts_stale,
        stacking=sharing.stacking,
        learner=learner_of(evaluator, text_length=recipe.public_length, threads=recipe.runtime.resolved_threads)
        if recipe.protocol.public_sent
        else None,
        digest=recipe.protocol.digest,
        probing=recipe.select.probing,
        library=None
        if recipe.ask.questions is None
        else Library(data.source, recipe.data.text[-1], recipe.ask, recipe.data.max_length),
        promise=recipe.privacy.examples(recipe.local, recipe.federation.rounds),
        together=why_example_by_example(recipe, model, tunable, data.task) is None,
        timetable=data.timetable,
    )
    return worker, sharing
