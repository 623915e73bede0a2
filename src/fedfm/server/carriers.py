"""The runtime that a recipe asks for, ready to carry messages."""

from __future__ import annotations

import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from fedfm.errors import RecipeError
from fedfm.proxies.folder import weights_digest
from fedfm.proxies.versions import ProxyVersion
from fedfm.runtimes.base import Runtime
from fedfm.runtimes.local import LocalRuntime
from fedfm.runtimes.nodes import Line, NodesRuntime
from fedfm.runtimes.processes import ProcessRuntime
from fedfm.runtimes.settings import Flower, Local, Ray
from fedfm.server.experiment import Experiment
from fedfm.server.proxies import ServerProxy
from fedfm.sites.job import Job
from fedfm.sites.site import Site

EXTRAS = {"flower": "flwr", "ray": "ray"}
"""Kind of runtime, which is also the name of an extra → the module that the extra brings."""


def require_extra(settings: Local | Flower | Ray) -> None:
    """Refuses a runtime whose extra is not installed.

    Raises:
        RecipeError: at ``runtime.kind``.
    """
    kind = settings.kind
    if kind in EXTRAS and find_spec(EXTRAS[kind]) is None:
        raise RecipeError(f"`{kind}` needs the extra of that name: pip install 'fedfm[{kind}]'", where="runtime.kind")


def make_runtime(experiment: Experiment) -> Runtime:
    """The runtime of an experiment; whoever made it closes it."""
    settings = experiment.recipe.runtime
    if isinstance(settings, Local):
        if experiment.processes > 1:
            return ProcessRuntime(experiment.worker, experiment.processes)
        return LocalRuntime(experiment.worker)
    return over_nodes(experiment, _line(settings))


def over_nodes(experiment: Experiment, line: Line) -> NodesRuntime:
    """A runtime over a line to nodes that have the recipe's data themselves."""
    proxy, recipe = experiment.proxy, experiment.recipe
    model = weights_digest(experiment.backbone.model) if proxy is None else None
    job = Job.of(recipe, data=experiment.data.digest, model=model)
    stack = experiment.worker.stacking.clients if experiment.worker.stacking else 1
    files = None if proxy is None else partial(_files, proxy)
    return NodesRuntime(line, job.model_dump(mode="json"), stack=stack, proxy_files=files)


def _files(proxy: ServerProxy, version: ProxyVersion) -> dict[str, bytes]:
    """The proxy's folder as clients load it."""
    with tempfile.TemporaryDirectory() as name:
        proxy.save(Path(name), version)
        return {path.name: path.read_bytes() for path in sorted(Path(name).iterdir())}


def _line(settings: Flower | Ray) -> Line:
    """The way to nodes; modules that need an extra are loaded here."""
    if isinstance(settings, Flower):
        from fedfm.runtimes.flower.loopback import LoopbackLine

        return LoopbackLine(settings)
    from fedfm.runtimes.ray import ActorLine

    return ActorLine(settings, Site)
