"""Where a run's clients are: their data here, or on machines of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedfm.clients import Profile
from fedfm.data.settings import SITES
from fedfm.errors import RecipeError
from fedfm.recipe import Recipe
from fedfm.runtimes.base import Runtime
from fedfm.runtimes.line import Line
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.experiment.runtime_factory import make_runtime, over_sites, require_extra


class Deployment(Protocol):
    """Makes an experiment with its clients, and reaches them."""

    def build(self, recipe: Recipe) -> Experiment:
        """The experiment of a recipe.

        Raises:
            RecipeError: something in the recipe does not fit.
            DataError: a file cannot be read.
        """
        ...

    def reach(self, experiment: Experiment) -> Runtime:
        """A runtime to its clients; whoever asked closes it.

        Raises:
            TooFewClientsError: they cannot be reached.
        """
        ...

    def informed(self, experiment: Experiment) -> Experiment:
        """The experiment, with what its clients said of themselves when they were reached."""
        ...


@dataclass(frozen=True)
class Simulation:
    """A simulation: the recipe names the data of all clients.

    Attributes:
        profile: whether to book where the time goes.
    """

    profile: bool = False

    def build(self, recipe: Recipe) -> Experiment:
        """As `Deployment.build`."""
        if recipe.data.train == SITES:
            raise RecipeError(
                "the clients hold their data on machines of their own: `fedfm server` runs it with them",
                where="data.train",
            )
        require_extra(recipe.runtime)
        experiment = build_experiment(recipe)
        if self.profile and experiment.worker is not None:
            experiment = replace(experiment, worker=replace(experiment.worker, profile=Profile()))
        return experiment

    def reach(self, experiment: Experiment) -> Runtime:
        """As `Deployment.reach`."""
        return make_runtime(experiment)

    def informed(self, experiment: Experiment) -> Experiment:
        """The experiment as it is."""
        return experiment


@dataclass
class RealSites:
    """Clients that hold their data, each behind a node of its own.

    Attributes:
        names: of the clients.
        line: opens the way to them; nodes are known on it by these names.
        warn: is told of those that do not take part, and why.
    """

    names: Sequence[str]
    line: Callable[[Experiment], Line]
    warn: Callable[[str], None]
    _examples: dict[str, int] = field(default_factory=dict)

    def build(self, recipe: Recipe) -> Experiment:
        """As `Deployment.build`."""
        return build_experiment(recipe, self.names)

    def reach(self, experiment: Experiment) -> Runtime:
        """As `Deployment.reach`; every site that is there has tried on what it can before a round is played."""
        runtime = over_sites(experiment, self.line(experiment))
        try:
            runtime.rehearse()
        except BaseException:
            runtime.close()
            raise
        self._examples = runtime.examples  # which grows as sites come
        for name, reason in runtime.refused.items():
            self.warn(f"{name} does not take part: {reason}")
        return runtime

    def informed(self, experiment: Experiment) -> Experiment:
        """As `Deployment.informed`: it knows how many examples they hold."""
        data = experiment.data
        return replace(experiment, data=replace(data, clients=data.clients | self._examples))
