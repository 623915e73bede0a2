"""The runtime that a recipe asks for, ready to carry messages."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from fedfm.data.settings import Reference
from fedfm.errors import RecipeError
from fedfm.hosts.job import Job
from fedfm.models.backbones import Backbone
from fedfm.models.quiet import quiet
from fedfm.recipe import Recipe
from fedfm.runtimes.base import Runtime
from fedfm.runtimes.line import Line
from fedfm.runtimes.local import LocalRuntime
from fedfm.runtimes.nodes import NodesRuntime
from fedfm.runtimes.processes import ProcessRuntime
from fedfm.runtimes.settings import Flower, Local, Ray
from fedfm.server.experiment.build import Experiment
from fedfm.server.runs.refusals import missing_extra
from fedfm.sites.site import Site


def require_extra(settings: Local | Flower | Ray) -> None:
    """Refuses a runtime whose extra is not installed.

    Raises:
        RecipeError: at ``runtime.kind``.
    """
    if missing := missing_extra(settings.kind):
        raise RecipeError(missing, where="runtime.kind")


def make_runtime(experiment: Experiment) -> Runtime:
    """The runtime of an experiment whose clients' data is here; whoever made it closes it.

    Raises:
        ValueError: it is not.
    """
    settings, worker = experiment.recipe.runtime, experiment.worker
    if worker is None:
        raise ValueError("the clients' data is not here")
    if isinstance(settings, Local):
        return ProcessRuntime(worker, experiment.processes) if experiment.processes > 1 else LocalRuntime(worker)
    return over_nodes(experiment, _line(settings))


def over_nodes(experiment: Experiment, line: Line) -> NodesRuntime:
    """A runtime over a line to nodes that have the recipe's data themselves, and train any of the clients."""
    stacking = experiment.worker.stacking if experiment.worker else None
    return _runtime(experiment, experiment.recipe, line, stack=stacking.clients if stacking else 1, own_data=False)


def over_sites(experiment: Experiment, line: Line) -> NodesRuntime:
    """A runtime over a line to sites, each of which is a client and has data of its own."""
    recipe = experiment.recipe
    data, public = recipe.data, recipe.public
    names = {"test": _bare(data.test), "validation": _bare(data.validation)}
    known: dict[str, Any] = {"data": data.model_copy(update=names), "output": "runs", "run_dir": None}
    if public is not None:
        known["public"] = public.model_copy(update={"data": _bare(public.data)})
    return _runtime(experiment, recipe.model_copy(update=known), line, stack=1, own_data=True)


def _bare(reference: Reference | float | None) -> str | list[str] | None:
    """The last names in a reference: where a server keeps its data is not for sites to know."""
    if isinstance(reference, list):
        return [Path(name).name for name in reference]
    return None if reference is None else Path(str(reference)).name


def _runtime(experiment: Experiment, recipe: Recipe, line: Line, *, stack: int, own_data: bool) -> NodesRuntime:
    proxied = bool(experiment.client_model.weights)
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
    """What data is read with, and the model's config, which says how long a text may be."""
    with quiet():
        backbone.model.config.save_pretrained(folder)
        backbone.processor.save_pretrained(folder)


def _line(settings: Flower | Ray) -> Line:
    """The way to nodes; modules that need an extra are loaded here."""
    if isinstance(settings, Flower):
        from fedfm.runtimes.flower.loopback import LoopbackLine

        return LoopbackLine(settings)
    from fedfm.runtimes.ray import ActorLine

    return ActorLine(settings, Site)
