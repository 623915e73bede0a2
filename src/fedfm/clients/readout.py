"""The readout of a classifier: its last linear layer, on the features that the frozen rest of the model computes.

logits = W·f + b. With `tune.kind: head` and only W and b trained, f does not change from round to round, so what
clients say of their features stays valid, and the server can fit W and b to features without any client.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedfm.clients.evaluation import Evaluator
from fedfm.data.examples import Examples
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.spec import Spec

STEPS = 200
"""Iterations of L-BFGS at most; the loss is convex, and fewer are usual."""


@dataclass(frozen=True)
class Readout:
    """The place of W and b.

    Attributes:
        module: path of the linear layer in the tunable's model.
        weight: name of W ``[classes, d]`` in the tunable.
        bias: name of b ``[classes]``; None: the layer has no bias.
    """

    module: str
    weight: str
    bias: str | None

    def fitted(self, params: Mapping[str, Tensor], features: Tensor, labels: Tensor, ridge: float) -> Params:
        """A tunable whose readout is fitted to features; its other tensors are those of ``params``.

        Args:
            params: the whole tunable.
            features: float ``[N, d]``.
            labels: int64 ``[N]``.
            ridge: as `fit_readout`.
        """
        weight = params[self.weight]
        found, bias = fit_readout(features, labels, len(weight), ridge, has_bias=self.bias is not None)
        fitted = {**params, self.weight: found.to(weight.dtype)}
        return fitted if self.bias is None else {**fitted, self.bias: bias.to(params[self.bias].dtype)}


def readout_of(tunable: Tunable) -> Readout:
    """The last linear layer of a head that is tuned.

    Raises:
        ValueError: none is tuned.
    """
    own = {id(parameter): name for name, parameter in tunable.parameters.items()}
    found = [
        (path, module)
        for path, module in tunable.model.named_modules()
        if isinstance(module, nn.Linear) and id(module.weight) in own
    ]
    if not found:
        raise ValueError("no linear layer is tuned")
    path, last = found[-1]
    return Readout(path, own[id(last.weight)], None if last.bias is None else own.get(id(last.bias)))


def feature_size(spec: Spec, classes: int) -> int:
    """d: features that the readout of a tunable reads; 0 where it has no layer with so many classes."""
    shapes = [tuple(tensor.shape) for tensor in spec.values()]
    return max((shape[1] for shape in shapes if len(shape) == 2 and shape[0] == classes), default=0)


@contextmanager
def featuring(tunable: Tunable) -> Iterator[None]:
    """Within it, the model returns the features of its readout in place of logits.

    So a model that reads one position of a sequence, such as a decoder, chooses it as it does for its logits.
    """
    path = readout_of(tunable).module
    layer = tunable.model.get_submodule(path)
    tunable.model.set_submodule(path, nn.Identity())
    try:
        yield
    finally:
        tunable.model.set_submodule(path, layer)


def features_of(evaluator: Evaluator, examples: Examples, indices: np.ndarray | None = None) -> np.ndarray:
    """float32 ``[N, d]``: features of some examples, all by default, in their order; they need no labels."""
    with featuring(evaluator.tunable):
        return evaluator.logits(examples, indices)


def fit_readout(
    features: Tensor, labels: Tensor, classes: int, ridge: float, *, has_bias: bool = True
) -> tuple[Tensor, Tensor]:
    """W ``[classes, d]`` and b ``[classes]`` of a logistic regression, float64, by L-BFGS.

    With the mean m of the features and s² that of the squares of f − m, over examples and features, it minimises

        1/N·Σ_n CE(W'·(f_n − m)/s + b', y_n) + ridge/2·‖W'‖²,     W = W'/s,  b = b' − W·m

    Args:
        features: float ``[N, d]``.
        labels: int64 ``[N]``, below ``classes``.
        classes: C.
        ridge: weight of ‖W'‖².
        has_bias: whether there is a b; otherwise m = 0 and b = 0.
    """
    x = features.double()
    centre = x.mean(0) if has_bias else torch.zeros(x.shape[1], dtype=x.dtype)
    x = x - centre
    scale = x.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    x = x / scale
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=has_bias)
    optimizer = torch.optim.LBFGS(
        [weight, bias] if has_bias else [weight],
        max_iter=STEPS,
        tolerance_grad=1e-7,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = cross_entropy(x @ weight.T + bias, labels) + ridge / 2 * weight.square().sum()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = (weight / scale).detach()
    return found, (bias - found @ centre).detach() if has_bias else bias
