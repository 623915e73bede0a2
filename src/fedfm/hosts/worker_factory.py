"""A worker for the clients whose data is on this machine, and what both ends of the wire know of what crosses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedfm.clients import Contract, Evaluator, Worker
from fedfm.hosts.parallelism import Sharing, choose_sharing
from fedfm.hosts.training_data import TrainingData
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.proxies.base import ClientCopy
from fedfm.recipe import Recipe
from fedfm.spec import TensorSpec
from fedfm.updates import UpdatePath
from fedfm.views import Views


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


def make_contract(recipe: Recipe, start: Params) -> Contract:
    """What crosses between the server and the clients of a recipe.

    Args:
        recipe: of the run.
        start: what travels as initialised, with the parts that stay personal.

    Raises:
        RecipeError: a view does not fit what is tuned.
    """
    spec = {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in start.items()}
    views = Views.of(recipe)
    return Contract(
        spec=spec,
        rule=recipe.algorithm,
        views=views,
        down=UpdatePath.of(recipe.updates, "down"),
        up=UpdatePath.of(recipe.updates, "up"),
        seed=recipe.seed,
        personal={name: start[name].clone() for name in sorted(views.personal(spec))},
    )


def make_worker(data: TrainingData, side: ClientSide, device: torch.device) -> tuple[Worker, Sharing]:
    """A worker for all clients of ``data``, and how they share this machine.

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
        device=device,
        holdout=data.federation.holdout,
        evaluator=evaluator,
        copy=side.copy,
        trains_stale=recipe.proxy.accepts_stale,
        stacking=sharing.stacking,
    )
    return worker, sharing
