"""Work ``vote``: a client's examples vote for the nearest synthetic text of their class.

The message has the features of candidates and their classes (group ``candidates``). Of the client's examples, at most M
vote, drawn at random: each for the candidate of its class that is nearest by Euclidean distance. The answer is the
histogram over M (group ``votes``), so that one client's votes have norm 1 at most. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedfm.clients.work.base import Answer, ClientTask, one_by_one
from fedfm.clients.work.moments import own_features
from fedfm.randomness import numpy_generator
from fedfm.updates import Done, MessageError, Payload

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker

VOTE = "vote"
"""The name of this kind of work, for those that ask for it."""

CANDIDATES, FEATURES, CLASSES = "candidates", "features", "classes"
"""The group of a message, and its tensors."""

VOTES, HISTOGRAM = "votes", "histogram"
"""The group of an answer, and its tensor."""

MOST = "votes"
"""Fact of a message: M."""


def vote(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Lets clients vote one by one."""
    return one_by_one(worker, tasks, _vote)


def _vote(worker: Worker, task: ClientTask) -> Answer:
    instruction, client = task.instruction, task.client
    worker.update_copy(instruction)
    most, indices = int(instruction.facts.extra.get(MOST, 0)), worker.clients[client]
    if most < 1:
        raise MessageError(f"fact `{MOST}` of the instruction must be 1 or more")
    generator = numpy_generator(worker.seed, "votes", round=instruction.round, client=client)
    voting = np.sort(generator.permutation(indices)[:most])
    features, labels, _ = own_features(worker, voting)
    candidates, classes = _candidates(instruction.groups.get(CANDIDATES, {}), features.shape[1])
    histogram = votes_of(features, labels, candidates, classes) / most
    facts = Done(client=client, examples=len(indices), proxy_version=worker.version)
    groups = {VOTES: {HISTOGRAM: torch.from_numpy(histogram).float()}}
    return Answer(task.client, Payload(instruction.round, instruction.base, facts, groups, work=VOTE))


def votes_of(features: np.ndarray, labels: np.ndarray, candidates: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """float64 ``[K]``: how many examples are nearest to each candidate of their class; the first of equally near ones.

    Args:
        features: float ``[n, d]``, of examples.
        labels: int ``[n]``, of examples.
        candidates: float ``[K, d]``, features of the candidates.
        classes: int ``[K]``, of the candidates. An example of a class without candidates does not vote.
    """
    found = np.zeros(len(candidates))
    for label in np.unique(labels):
        places = np.flatnonzero(classes == label)
        if not len(places):
            continue
        own, other = features[labels == label].astype(np.float64), candidates[places].astype(np.float64)
        distances = (other**2).sum(1)[None, :] - 2 * own @ other.T
        np.add.at(found, places[distances.argmin(1)], 1.0)
    return found


def _candidates(group: Mapping[str, Tensor], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes of the candidates in a message.

    Raises:
        MessageError: they are not what the model computes.
    """
    features, classes = group.get(FEATURES), group.get(CLASSES)
    if features is None or features.dtype != torch.float32 or features.ndim != 2 or features.shape[1] != size:
        raise MessageError(f"group `{CANDIDATES}` must have float32 features of {size} dimensions")
    if classes is None or classes.dtype != torch.int64 or tuple(classes.shape) != (len(features),):
        raise MessageError(f"group `{CANDIDATES}` must have an int64 class for each candidate")
    if not bool(torch.isfinite(features).all()):
        raise MessageError(f"group `{CANDIDATES}` has values that are not finite")
    return features.numpy(), classes.numpy()
