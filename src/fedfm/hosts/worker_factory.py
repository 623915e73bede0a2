"""A worker for the clients whose data is here."""

from __future__ import annotations

import torch

from fedfm.clients import Worker
from fedfm.hosts.parallelism import Sharing, choose_sharing
from fedfm.hosts.training_data import TrainingData
from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.proxies.base import ClientCopy


def make_worker(
    data: TrainingData, model: Backbone, tunable: Tunable, proxy: ClientCopy | None, device: torch.device
) -> tuple[Worker, Sharing]:
    """A worker for all clients of ``data``, and how they share this machine.

    Args:
        data: theirs.
        model: what they train on, the backbone or their proxy.
        tunable: attached to it, on ``device``.
        proxy: the part of it that alignment changes, where it is a proxy.
        device: where they are trained.

    Raises:
        RecipeError: as `choose_sharing`.
    """
    recipe = data.recipe
    sharing = choose_sharing(recipe, model, tunable, data.task, data.processor, device=device, examples=len(data.train))
    worker = Worker(
        tunable=tunable,
        task=data.task,
        processor=data.processor,
        examples=data.train,
        clients=data.federation.train,
        local=recipe.local,
        gradient_rule=recipe.algorithm.gradient,
        seed=recipe.seed,
        device=device,
        proxy=proxy,
        trains_stale=recipe.proxy.accepts_stale,
        stacking=sharing.stacking,
    )
    return worker, sharing
