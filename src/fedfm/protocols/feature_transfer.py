"""Feature transfer: clients send the moments of frozen features by class, and the server trains the head on samples.

Beitollahi et al., Parametric Feature Transfer: One-shot Federated Learning with Foundation Models, arXiv:2402.01862,
Algorithm 1, with one Gaussian a class. The authors call it FedPFT, which is not the FedPFT of `proxy.kind: fedpft`
(Federated Proxy Fine-Tuning, arXiv:2404.11536). With the moments of all clients, weighted by examples,

    π_c = share[c],   µ_c = mean[c] / π_c,   σ²_c = square[c] / π_c − µ_c²
    f ~ N(µ_c, diag σ²_c), π_c·N samples of each class c;     head ← the logistic regression on the samples

Here moments are added up before anything is sampled, so that how examples are split among clients changes nothing; the
paper samples from each client's Gaussians. One round is enough; further rounds add the moments of further cohorts.

With `privacy.kind: central` the sum of the clients' moments gets noise, and every client weighs the same. A variance
for each class and feature is then mostly noise: `covariance: spherical` has one number for all. The paper adds noise at
each client instead, for each of its examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm import capabilities
from fedfm.clients.readout import feature_size, readout_of
from fedfm.clients.work.moments import FORM, FORMS, MEAN, MOMENTS, SHARE, SQUARE, moments_spec
from fedfm.params import Params
from fedfm.privacy import PRIVACY
from fedfm.protocols.base import Protocol, State
from fedfm.protocols.io import IO, Ask
from fedfm.protocols.private_sum import private_sum
from fedfm.randomness import numpy_generator
from fedfm.spec import Spec

LEAST_SHARE = 0.1
"""Under a promise, a class counts with this part of an equal share at least: a smaller share is noise."""


class FeatureTransfer(Protocol):
    """Clients send means and variances of frozen features by class, and the server trains the head on samples."""

    kind: Literal["feature-transfer"] = "feature-transfer"
    """Clients send means and variances of frozen features by class, once, and the server trains the head on samples
    of these Gaussians (Parametric Feature Transfer, arXiv:2402.01862)."""
    covariance: Literal["diagonal", "tied", "spherical"] = "diagonal"
    """Variances: `diagonal`, one for each class and feature; `tied`, one for each feature; `spherical`, one for all,
    which noise harms least."""
    samples: Annotated[int, Field(ge=1, le=10_000_000)] = 4000
    """N: synthetic features on which the server trains the head, in all classes together."""
    ridge: Annotated[float, Field(gt=0)] = 1e-3
    """Weight of the squared norm of the head's weights in the server's loss."""

    works: ClassVar[tuple[str, ...]] = (MOMENTS,)
    gives: ClassVar[frozenset[str]] = frozenset({capabilities.ROUND_SUM})
    needs: ClassVar[Mapping[str, str]] = {
        capabilities.LABELS: "features are described class by class",
        capabilities.HEAD_ALONE: "the features that clients describe must not change",
        capabilities.BACKBONE_WEIGHTS: "clients compute the features that the delivered head reads",
        capabilities.ONE_BACKBONE: "features of different backbones are not alike",
        capabilities.UPDATES_IN_CLEAR: "the server reads each client's moments",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.TUNABLE_UPDATES: "clients send moments of features",
        capabilities.UPDATE_PATH: "clients send moments of features",
        capabilities.INDIVIDUAL_UPDATES: "clients send moments of features",
        capabilities.SERVER_STEP: "the server trains the head on samples",
        capabilities.SINGLE_EXAMPLES: "clients take no gradient steps",
    }

    def answers(self, work: str, classes: int, spec: Spec) -> Mapping[str, Spec]:
        """Moments of each class."""
        return {MOMENTS: moments_spec(self.covariance, classes, feature_size(spec, classes))}

    def folds(self, cohort: int) -> None:
        """Moments are added up."""

    def step(self, state: State, io: IO) -> State:
        """Ask, add up, sample, train the head."""
        number, cohort = state.round + 1, io.cohort(state.round + 1)
        expects = self.answers(MOMENTS, len(io.student.evaluator.labels), io.spec)
        facts = {FORM: float(FORMS.index(self.covariance))}
        asks = dict.fromkeys(cohort, Ask(number, {}, work=MOMENTS, expects=expects, facts=facts))
        release = io.release(number, state.server.get(PRIVACY, {}), expects)
        found, kept = private_sum(release, io.ask(asks, copies=cohort), MOMENTS, by_examples=True)
        if found is None:  # a Poisson cohort may be empty
            return State(number, state.params, state.server)
        total = {name: tensor + found[name] for name, tensor in state.server.get(MOMENTS, _zeros(found)).items()}
        server = {MOMENTS: total} if release is None else {MOMENTS: total, PRIVACY: kept}
        generator = numpy_generator(io.seed, "synthetic features", round=number)
        features, labels = sampled(total, self.samples, generator, noisy=release is not None)
        tunable = io.student.evaluator.tunable
        params = readout_of(tunable).fitted(state.params, features, labels, self.ridge)
        return State(number, params, server)


def sampled(
    moments: Mapping[str, Tensor], count: int, generator: np.random.Generator, *, noisy: bool = False
) -> tuple[Tensor, Tensor]:
    """Features ``[N, d]``, float64, and their classes ``[N]``, drawn from the Gaussians that moments describe.

    Args:
        moments: sums over clients, as `fedfm.clients.work.moments` scales them, times any one factor.
        count: N, about; each class that occurs gets one sample at least.
        generator: of the samples.
        noisy: whether the moments have noise, so that none of them is exact.
    """
    shares, classes = moments[SHARE].double(), len(moments[SHARE])
    if noisy:
        total = shares.sum().clamp(min=shares.abs().max() / classes)
        shares = shares.clamp(min=LEAST_SHARE / classes * float(total))
    present = shares > 0
    total = shares.sum()
    means = moments[MEAN].double() / shares.clamp(min=torch.finfo(torch.float64).tiny)[:, None]
    variances = _variances(moments[SQUARE].double(), shares, means)
    counts = ((shares / total * count).round().long().clamp(min=1) * present).tolist()
    labels = torch.repeat_interleave(torch.arange(classes), torch.tensor(counts))
    normal = torch.from_numpy(generator.standard_normal((len(labels), means.shape[1])))
    features = means[labels] + variances.sqrt()[labels] * normal
    return features * means.shape[1] ** 0.5, labels


def _variances(square: Tensor, shares: Tensor, means: Tensor) -> Tensor:
    """σ² of each class and feature, ``[classes, d]``; never negative, as rounding and noise would make it."""
    classes, size = means.shape
    if square.ndim == 2:
        found = square / shares.clamp(min=torch.finfo(torch.float64).tiny)[:, None] - means.square()
    else:
        between = (shares[:, None] * means.square()).sum(0)
        within = square - between if len(square) == size else (square - between.sum()) / size
        found = (within / shares.sum()).expand(classes, size)
    return found.clamp(min=0)


def _zeros(like: Mapping[str, Tensor]) -> Params:
    return {name: torch.zeros_like(tensor) for name, tensor in like.items()}
