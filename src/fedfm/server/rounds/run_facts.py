"""What a protocol may know of a run: the part of `fedfm.protocols.IO` that asks no client."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from torch import Tensor

from fedfm.aggregation import Rule
from fedfm.algorithms import Algorithm
from fedfm.clients.distilling import Learner
from fedfm.contributions import Valuation
from fedfm.data.examples import Examples
from fedfm.params import Params
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.sampling import sample_cohort
from fedfm.spec import Spec
from fedfm.tasks.public import PublicTexts
from fedfm.tasks.public_pairs import PublicPairs
from fedfm.updates import UpdatePath
from fedfm.views import Modalities
from fedfm.views.modalities import Kind
from fedfm.views.selection import Selection, TunableLayers


class RunFacts:
    """Recipe, data and model of a run, by the names of `fedfm.protocols.IO`."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment, self._recipe = experiment, experiment.recipe

    @property
    def algorithm(self) -> Algorithm:
        """The recipe's algorithm."""
        return self._recipe.algorithm

    @cached_property
    def rule(self) -> Rule:
        """The recipe's rule, with what the sampling decides filled in."""
        return self._recipe.aggregate.under(self._recipe.federation.sampling)

    @property
    def spec(self) -> Spec:
        """Of the tunable."""
        return self._experiment.contract.spec

    @property
    def start(self) -> Mapping[str, Tensor]:
        """The tunable as initialised."""
        return self._experiment.contract.start

    @property
    def up(self) -> UpdatePath:
        """Stages of updates."""
        return self._experiment.contract.up

    @property
    def peer_path(self) -> UpdatePath:
        """Stages of what clients send each other."""
        return self._experiment.contract.peer

    @property
    def clients(self) -> Mapping[str, int]:
        """Client id → training examples."""
        return self._experiment.data.clients

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._recipe.seed

    @property
    def rounds(self) -> int:
        """Rounds of the run."""
        return self._recipe.federation.rounds

    @property
    def backbones(self) -> Mapping[str, int]:
        """Client id → place of its backbone in `federation.models`."""
        return self._experiment.backbones

    def kind(self, client: str) -> Kind:
        """Whether a client has images, texts or both."""
        view = Modalities.of(self._recipe)
        return "both" if view is None else view.kind(client)

    @property
    def selection(self) -> Selection:
        """The recipe's `select`."""
        return self._recipe.select

    @property
    def contribution(self) -> Valuation:
        """The recipe's `contribution`."""
        return self._recipe.contribution

    @property
    def layers(self) -> TunableLayers:
        """The layers of the clients' model."""
        return self._experiment.layers

    @property
    def public(self) -> PublicTexts:
        """The recipe's public data."""
        return self._experiment.public_texts

    @property
    def public_pairs(self) -> PublicPairs:
        """The recipe's public data, of images and texts."""
        return self._experiment.public_pairs

    @property
    def student(self) -> Learner:
        """The server's model."""
        return self._experiment.student

    @property
    def server_model(self) -> Learner:
        """The protocol's further model.

        Raises:
            ValueError: it has none.
        """
        if self._experiment.server_model is None:
            raise ValueError("the protocol has no model of its own")
        return self._experiment.server_model.learner

    @property
    def validation(self) -> Examples:
        """The server's validation set.

        Raises:
            ValueError: the recipe has none.
        """
        if self._experiment.data.validation is None:
            raise ValueError("there is no validation set")
        return self._experiment.data.validation

    def judge(self, params: Params) -> tuple[float, ...]:
        """Figures of the backbone with a tunable plugged in, on the validation set."""
        return self._experiment.judge(self._experiment.client_model.to_backbone(params))

    def cohort(self, round: int) -> Mapping[str, int]:  # noqa: A002 - the field's word
        """Clients of a round in sorted order → how often each was drawn; without those that are left out."""
        federation, present = self._recipe.federation, self._experiment.data.present(round)
        if not present:
            return {}
        asked: float
        if federation.sampling == "poisson":
            asked = federation.expected_cohort(len(self.clients)) * (len(present) / len(self.clients))
        else:
            asked = self._recipe.runtime.asked(federation.cohort_size(len(self.clients)), len(self.clients))
            asked = min(asked, len(present))
        drawn = sample_cohort(present, asked, sampling=federation.sampling, seed=self.seed, round=round)
        return {client: copies for client, copies in drawn.items() if client not in federation.without}

    def ends_task(self, round: int) -> bool:  # noqa: A002
        """Whether a round is the last of a task of the stream that another one follows."""
        timetable = self._experiment.data.timetable
        return timetable is not None and timetable.ends(round)

    def learning_rate(self, round: int) -> float:  # noqa: A002
        """Local learning rate of a round."""
        return self._recipe.local.learning_rate_at(round, self._recipe.federation.rounds)

    def root_update(self, params: Params, round: int, *, steps: int | None = None) -> Params:  # noqa: A002
        """What the server learns from ``data.root``."""
        return self._experiment.root_update(params, round, self.learning_rate(round), steps)

    def duration(self, client: str, number: int) -> float:
        """Virtual seconds of a client's work."""
        return self._experiment.duration(client, number)
