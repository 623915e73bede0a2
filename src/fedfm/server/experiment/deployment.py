"""Where the clients of a run are: simulated on this machine, or real sites with data of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedfm.clients import Profile
from fedfm.data.settings import SITES
from fedfm.errors import RecipeError
from fedfm.recipe import Recipe
from fedfm.runtimes.base import Runtime
from fedfm.runtimes.envelopes import LabelAnswers
from fedfm.runtimes.line import Line
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.experiment.runtime_factory import make_runtime, over_nodes, over_sites, require_extra


class Deployment(Protocol):
    """Builds an experiment, and a runtime to its clients."""

    def build(self, recipe: Recipe) -> Experiment:
        """The experiment of a recipe.

        Raises:
            RecipeError: something in the recipe does not fit.
            DataError: a file cannot be read.
        """
        ...

    def reach(self, experiment: Experiment) -> Runtime:
        """A runtime to the experiment's clients; the caller closes it.

        Raises:
            TooFewClientsError: they cannot be reached.
        """
        ...

    def informed(self, experiment: Experiment) -> Experiment:
        """The experiment, with what its clients reported about themselves when they were reached."""
        ...


@dataclass(frozen=True)
class Simulation:
    """Simulated clients: the recipe names the data of all of them.

    Attributes:
        profile: whether to measure where the time goes.
        line: opens a line to nodes that play the clients; None: the recipe's `runtime` decides.
    """

    profile: bool = False
    line: Callable[[Experiment], Line] | None = None

    def build(self, recipe: Recipe) -> Experiment:
        """As `Deployment.build`."""
        if recipe.data.train == SITES:
            raise RecipeError(
                "the clients hold their data on machines of their own: `fedfm server` runs it with them",
                where="data.train",
            )
        require_extra(recipe.runtime.kind)
        experiment = build_experiment(recipe)
        if self.profile and experiment.worker is not None:
            experiment = replace(experiment, worker=experiment.worker.with_profile(Profile()))
        return experiment

    def reach(self, experiment: Experiment) -> Runtime:
        """As `Deployment.reach`."""
        return make_runtime(experiment) if self.line is None else over_nodes(experiment, self.line(experiment))

    def informed(self, experiment: Experiment) -> Experiment:
        """As `Deployment.informed`: the experiment, unchanged."""
        return experiment


@dataclass
class RealSites:
    """Clients that hold their own data, each on a node of its own.

    Attributes:
        names: of the clients.
        line: opens a line to them, on which nodes have these names.
        warn: gets a sentence for each site that does not take part, with the reason.
    """

    names: Sequence[str]
    line: Callable[[Experiment], Line]
    warn: Callable[[str], None]
    _examples: dict[str, int] = field(default_factory=dict)
    _labels: dict[str, LabelAnswers] = field(default_factory=dict)

    def build(self, recipe: Recipe) -> Experiment:
        """As `Deployment.build`."""
        return build_experiment(recipe, self.names)

    def reach(self, experiment: Experiment) -> Runtime:
        """As `Deployment.reach`. Every connected site has tried to prepare for the run before the first round."""
        runtime = over_sites(experiment, self.line(experiment))
        try:
            runtime.rehearse()
        except BaseException:
            runtime.close()
            raise
        self._examples, self._labels = runtime.examples, runtime.labels  # the runtime adds sites as they connect
        for name, reason in runtime.refused.items():
            self.warn(f"{name} does not take part: {reason}")
        return runtime

    def informed(self, experiment: Experiment) -> Experiment:
        """As `Deployment.informed`: with what each site said of its examples: their number, and their classes."""
        data, sound = experiment.data, dict(self._labels)
        for name, told in self._labels.items():
            if data.labels is None or len(told.answers) != len(data.labels.names):
                self.warn(f"{name} told counts of other classes than the recipe's; they are left out")
                del sound[name]
        known = {name: (told.answers, told.epsilon) for name, told in sound.items()}
        return replace(experiment, data=replace(data, clients=data.clients | self._examples, label_answers=known))
