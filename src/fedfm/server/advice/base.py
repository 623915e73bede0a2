"""The facts that advice is given from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedfm.recipe import Recipe
from fedfm.server.advice.timing import Timing
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.costs import CostBook


@dataclass(frozen=True)
class Advice:
    """A warning about a recipe that can be run but may disappoint.

    Attributes:
        where: the recipe's key.
        text: what is to be expected, why, and what to do; one sentence or two.
    """

    where: str
    text: str


@dataclass(frozen=True)
class PlanFacts:
    """A run before its first round.

    Attributes:
        experiment: the run.
        costs: what a client's round costs.
        timing: of a few local steps; None where none were taken.
    """

    experiment: Experiment
    costs: CostBook
    timing: Timing | None = None

    @property
    def recipe(self) -> Recipe:
        """As resolved."""
        return self.experiment.recipe

    @cached_property
    def examples(self) -> int:
        """Training examples of the median client; 0 where sites do not say."""
        return int(np.median(list(self.experiment.data.clients.values())))

    @property
    def steps(self) -> int:
        """Local steps a round of the median client."""
        return self.recipe.local.steps(max(1, self.examples))

    @cached_property
    def compute_seconds(self) -> float | None:
        """CPU seconds of the median client's round; None where no steps were taken."""
        return None if self.timing is None else self.timing.seconds_a_step * self.steps

    @cached_property
    def link_seconds(self) -> float | None:
        """Seconds of the messages of a client's round, of the client with the slowest link; None without a link."""
        clients = list(self.experiment.data.clients)
        down, up = self.experiment.message_bytes(clients[0], 1)
        lines = [line for client in clients if (line := self.costs.link(client)) is not None]
        return max((line.seconds(down=down, up=up, messages=2) for line in lines), default=None)

    @property
    def update_size(self) -> float | None:
        """The largest root mean square that a client's update may have; None where nothing bounds it.

        Each step of AdamW moves a value by at most about the learning rate. Where steps were taken, their mean is used.
        """
        local = self.recipe.local
        if self.timing is not None:
            return self.timing.moved_a_step * self.steps
        return local.learning_rate * self.steps if local.optimizer != "sgd" else None
