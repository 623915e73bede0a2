"""Evolution: a generator at the server proposes labelled texts, and clients' examples vote for those like them.

Xie et al., Differentially Private Synthetic Data via Foundation Model APIs 2: Text (Aug-PE), arXiv:2403.01749,
Algorithm 1; Hou et al., PrE-Text: Training Language Models on Private Federated Data in the Age of LLMs,
arXiv:2406.02958, Algorithm 1, for clients that vote in place of single examples. With S texts of each class kept
(`keep`) and V variations (`variations`), in each round:

    candidates ← S·(1 + V) texts of the generator in round 1;   then the kept texts and V variations of each
    H ← Σ_i h_i / M + N(0, (z·C)²·I);      h_i counts, for M examples of client i at most, the nearest candidate
    kept ← the S candidates of each class with the largest H;     head ← the logistic regression on the kept texts

‖h_i‖ / M ≤ 1, so `privacy.clip: 1` (C) cuts nothing off. Candidates are selected by rank, as in Aug-PE. The head
that the run delivers has seen synthetic texts only, and `data.test` has real ones: the run's metrics are those of
training on synthetic data and testing on real data. The first S texts of each class, without a vote, are what the kept
ones are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm import capabilities
from fedfm.clients.readout import features_of, readout_of
from fedfm.clients.work.vote import CANDIDATES, CLASSES, FEATURES, HISTOGRAM, MOST, VOTE, VOTES
from fedfm.params import Params
from fedfm.privacy import PRIVACY
from fedfm.protocols.base import Protocol, State, SyntheticSet
from fedfm.protocols.io import IO, Ask
from fedfm.protocols.private_sum import private_sum
from fedfm.randomness import derive_seed
from fedfm.spec import Spec, TensorSpec
from fedfm.synthetic import AnyGenerator, Templates

KEPT, FIRST = "with votes", "without votes"
"""The sets of texts, as the report names them; the groups of the state with the head of the second."""

Row = tuple[str, int]
"""A text and its class."""


class Evolution(Protocol):
    """Clients vote for synthetic texts that are like theirs, and the server keeps and varies these."""

    kind: Literal["evolution"] = "evolution"
    """Clients vote for synthetic texts that are like theirs, and the server keeps and varies these (Aug-PE,
    arXiv:2403.01749; PrE-Text, arXiv:2406.02958)."""
    generator: AnyGenerator = Templates()
    """What writes the texts, at the server."""
    keep: Annotated[int, Field(ge=1, le=100_000)] = 16
    """S: texts of each class that are kept in a round, and delivered after the last."""
    variations: Annotated[int, Field(ge=1, le=100)] = 3
    """V: variations of each kept text that are voted on in the next round."""
    votes: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    """M: examples of a client that vote in a round, at most. A client with fewer counts less."""
    ridge: Annotated[float, Field(gt=0)] = 1e-3
    """Weight of the squared norm of the head's weights in the server's loss."""

    works: ClassVar[tuple[str, ...]] = (VOTE,)
    writes_texts: ClassVar[bool] = True
    gives: ClassVar[frozenset[str]] = frozenset({capabilities.ROUND_SUM})
    needs: ClassVar[Mapping[str, str]] = {
        capabilities.LABELS: "texts are written and voted for class by class",
        capabilities.TEXT_INPUTS: "the generator writes texts",
        capabilities.HEAD_ALONE: "votes go by features of the frozen model",
        capabilities.BACKBONE_WEIGHTS: "clients compute the features of their examples",
        capabilities.ONE_BACKBONE: "features of different backbones are not alike",
        capabilities.UPDATES_IN_CLEAR: "the server reads each client's votes",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.TUNABLE_UPDATES: "clients send votes",
        capabilities.UPDATE_PATH: "clients send votes",
        capabilities.INDIVIDUAL_UPDATES: "clients send votes",
        capabilities.SERVER_STEP: "the server trains the head on synthetic texts",
        capabilities.SINGLE_EXAMPLES: "clients take no gradient steps",
    }

    def returns(self, work: str, classes: int) -> Mapping[str, Spec]:
        """A count for each candidate."""
        return {VOTES: {HISTOGRAM: TensorSpec((classes * self.keep * (1 + self.variations),))}}

    def folds(self, cohort: int) -> None:
        """Votes are added up."""

    def step(self, state: State, io: IO) -> State:
        """Write candidates, ask for votes, keep the best, train the head on them."""
        number, cohort = state.round + 1, io.cohort(state.round + 1)
        io.student.evaluator.tunable.write(state.params)
        rows = self._candidates(state, io)
        features = self._features(rows, io)
        classes = torch.tensor([label for _, label in rows])
        expects = self.returns(VOTE, len(io.student.evaluator.labels))
        groups = {CANDIDATES: {FEATURES: features, CLASSES: classes}}
        ask = Ask(number, {}, groups=groups, work=VOTE, expects=expects, facts={MOST: float(self.votes)})
        release = io.release(number, state.server.get(PRIVACY, {}), expects)
        found, privacy = private_sum(release, io.ask(dict.fromkeys(cohort, ask), copies=cohort), VOTES)
        histogram = torch.zeros(len(rows)) if found is None else found[HISTOGRAM]  # a Poisson cohort may be empty
        server: dict[str, Params] = {FIRST: state.server[FIRST]} if FIRST in state.server else {}
        facts = dict(state.facts)
        if not server:
            first = best(torch.zeros(len(rows)), classes, self.keep)
            facts[FIRST] = [rows[place] for place in first]
            server[FIRST] = self._head(io, state.params, features, classes, first)
        kept = best(histogram, classes, self.keep)
        facts[KEPT] = [rows[place] for place in kept]
        if release is not None:
            server[PRIVACY] = privacy
        return State(number, self._head(io, state.params, features, classes, kept), server, facts)

    def synthetic(self, state: State) -> Mapping[str, SyntheticSet]:
        """The texts with the most votes, and the first ones of the generator."""
        if KEPT not in state.facts:
            return {}
        heads = {KEPT: state.params, FIRST: state.server[FIRST]}
        return {name: SyntheticSet(_rows(state.facts[name]), head) for name, head in heads.items()}

    def _candidates(self, state: State, io: IO) -> list[Row]:
        """The texts of a round: all of class 0, then all of class 1, …; the kept ones of a class come first."""
        writer, number = self.generator.writer(io.seed), state.round + 1
        kept = _rows(state.facts.get(KEPT, ()))
        found: list[Row] = []
        for label, name in enumerate(io.student.evaluator.labels):
            seed = derive_seed(io.seed, "synthetic texts", round=number, client=name)
            if number == 1:
                own = writer.first(name, self.keep * (1 + self.variations), seed)
            else:
                own = [text for text, of in kept if of == label]
                for turn in range(self.variations):
                    own += writer.varied(own[: self.keep], name, seed + turn)
            found += [(text, label) for text in own]
        return found

    @staticmethod
    def _features(rows: Sequence[Row], io: IO) -> Tensor:
        examples = io.student.encode([[text for text, _ in rows]])
        return torch.from_numpy(features_of(io.student.evaluator, examples))

    def _head(self, io: IO, params: Params, features: Tensor, classes: Tensor, places: Sequence[int]) -> Params:
        readout = readout_of(io.student.evaluator.tunable)
        return readout.fitted(params, features[list(places)], classes[list(places)], self.ridge)


def best(histogram: Tensor, classes: Tensor, keep: int) -> list[int]:
    """Places of the ``keep`` candidates of each class with the most votes; the first of equals.

    Args:
        histogram: votes ``[K]``, with noise or without.
        classes: int64 ``[K]``.
        keep: S.
    """
    found: list[int] = []
    for label in np.unique(classes.numpy()):
        own = np.flatnonzero(classes.numpy() == label)
        order = np.argsort(-histogram.numpy()[own], kind="stable")
        found += own[order[:keep]].tolist()
    return found


def _rows(found: Sequence[Any]) -> list[Row]:
    """Rows as they come back from JSON."""
    return [(str(text), int(label)) for text, label in found]
