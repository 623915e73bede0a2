"""Makes the runtime that a recipe names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from fedfm.clients import Workers
from fedfm.data.settings import DataSettings, PublicSettings, Reference
from fedfm.errors import RecipeError
from fedfm.hosts.job import Job
from fedfm.hosts.node import Node
from fedfm.models.backbones import Backbone
from fedfm.models.quiet import quiet
from fedfm.proxies import ProxySettings
from fedfm.recipe import Recipe
from fedfm.runtimes.base import Runtime
from fedfm.runtimes.line import Line
from fedfm.runtimes.local import LocalRuntime
from fedfm.runtimes.nodes import NodesRuntime
from fedfm.runtimes.processes import ProcessRuntime
from fedfm.runtimes.settings import Flower, Ray
from fedfm.server.experiment.build import Experiment
from fedfm.server.runs.refusals import missing_extra
from fedfm.settings import Settings

HELD_BY_SERVER = {DataSettings: ("test", "validation", "root"), PublicSettings: ("data",), ProxySettings: ("path",)}
"""Keys that may have a path at the server, where sites hold their own data."""


def require_extra(kind: str) -> None:
    """Refuses a kind of runtime whose extra is not installed.

    Raises:
        RecipeError: at ``runtime.kind``.
    """
    if missing := missing_extra(kind):
        raise RecipeError(missing, where="runtime.kind")


def make_runtime(experiment: Experiment) -> Runtime:
    """The runtime of an experiment whose clients' data is on this machine; the caller closes it.

    Raises:
        ValueError: the clients' data is not here.
    """
    if experiment.worker is None:
        raise ValueError("the clients' data is not here")
    return RUNTIMES[experiment.recipe.runtime.kind](experiment, experiment.worker)


def over_nodes(experiment: Experiment, line: Line) -> NodesRuntime:
    """A runtime over a line to nodes of a simulation: each reads the recipe's data, and trains any of the clients."""
    stacking = experiment.worker.own.stacking if experiment.worker else None
    return _runtime(experiment, experiment.recipe, line, stack=stacking.clients if stacking else 1, own_data=False)


def over_sites(experiment: Experiment, line: Line) -> NodesRuntime:
    """A runtime over a line to sites: each is one client, and has data of its own."""
    known = without_folders(experiment.recipe).model_copy(update={"output": "runs", "run_dir": None})
    return _runtime(experiment, known, line, stack=1, own_data=True)


SettingsT = TypeVar("SettingsT", bound=Settings)


def without_folders(settings: SettingsT) -> SettingsT:
    """Settings with only the last part of paths at the server: sites do not get to know where it keeps what it has."""
    paths = [name for kind, names in HELD_BY_SERVER.items() if isinstance(settings, kind) for name in names]
    changed: dict[str, Any] = {}
    for name, value in settings:
        if name in paths:
            changed[name] = _last_names(value)
        elif isinstance(value, Settings):
            changed[name] = without_folders(value)
    return settings.model_copy(update=changed)


def _last_names(reference: Reference | float | None) -> str | list[str] | None:
    if isinstance(reference, list):
        return [Path(name).name for name in reference]
    return None if reference is None else Path(str(reference)).name


def _runtime(experiment: Experiment, recipe: Recipe, line: Line, *, stack: int, own_data: bool) -> NodesRuntime:
    proxied = experiment.client_model.is_sent
    model = None if proxied else experiment.backbone.identity
    training = experiment.data.training
    job = Job.of(recipe, data=training.digest if training else None, model=model)
    return NodesRuntime(
        line,
        job.model_dump(mode="json"),
        stack=stack,
        save_proxy=experiment.client_model.save if proxied else None,
        save_processor=partial(_save_processor, experiment.backbone) if proxied and own_data else None,
        own_data=own_data,
    )


def _save_processor(backbone: Backbone, folder: Path) -> None:
    """Saves the processor, and the model's config, which says how long a text may be."""
    with quiet():
        backbone.model.config.save_pretrained(folder)
        backbone.processor.save_pretrained(folder)


def _local(experiment: Experiment, worker: Workers) -> Runtime:
    return ProcessRuntime(worker, experiment.processes) if experiment.processes > 1 else LocalRuntime(worker)


def _flower(experiment: Experiment, worker: Workers) -> Runtime:
    from fedfm.runtimes.flower.loopback import LoopbackLine  # needs the extra `flower`

    return over_nodes(experiment, LoopbackLine(cast(Flower, experiment.recipe.runtime)))


def _ray(experiment: Experiment, worker: Workers) -> Runtime:
    from fedfm.runtimes.ray import ActorLine  # needs the extra `ray`

    return over_nodes(experiment, ActorLine(cast(Ray, experiment.recipe.runtime), Node))


RUNTIMES: dict[str, Callable[[Experiment, Workers], Runtime]] = {"local": _local, "flower": _flower, "ray": _ray}
"""``runtime.kind`` → makes the runtime of an experiment, with the worker for its clients."""
