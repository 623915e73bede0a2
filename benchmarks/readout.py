"""An idea that did not win: the last matrix of a classifier, refitted as the backbone takes over what clients tuned.

Clients tune it on the proxy's features h', and the backbone's h differ from them. Ŵ and b̂ are those of
`fedfm.proxies.fedpft.regression` for inputs h, wanted outputs Wh' + b and the weights W that clients tuned, over public
data: the backbone answers as the proxy would, as far as its features allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedfm.models.tunable import Tunable
from fedfm.proxies.fedpft.regression import Refit, Regression
from fedfm.tasks.base import Batch


@torch.no_grad()
def refit_readout(backbone: Tunable, proxy: Tunable, batches: Sequence[Batch], ridge: float) -> Refit:
    """Refits the backbone's, in place.

    Args:
        backbone: a classifier that carries what the proxy carries.
        proxy: its proxy.
        batches: public ones.
        ridge: pull towards the weights that clients tuned, above 0.

    Raises:
        ValueError: the classifier's last matrix is not tuned.
    """
    layer, original = readout(backbone), readout(proxy)
    regression = Regression(layer.weight.T, layer.bias)
    with _features(backbone, layer) as ours, _features(proxy, original) as theirs:
        for batch in batches:
            for tunable in (backbone, proxy):
                tunable.eval()
                tunable.model(**{name: tensor.to(tunable.model.device) for name, tensor in batch.items()})
            mask = batch.get("attention_mask")
            regression.add(_pooled(ours.pop(), mask), original(_pooled(theirs.pop(), mask)))
    return regression.solve(ridge)


def readout(tunable: Tunable) -> nn.Linear:
    """The matrix that gives a classifier's logits.

    Raises:
        ValueError: it is not tuned.
    """
    tuned = {id(parameter) for parameter in tunable.parameters.values()}
    classes = tunable.base_model.config.num_labels
    for module in reversed(list(tunable.base_model.modules())):
        if isinstance(module, nn.Linear) and id(module.weight) in tuned and module.out_features == classes:
            return module
    raise ValueError("a read-out that is not tuned cannot be refitted")


@contextmanager
def _features(tunable: Tunable, layer: nn.Linear) -> Iterator[list[Tensor]]:
    """What goes into a layer, pass by pass."""
    seen: list[Tensor] = []
    with layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0])):
        yield seen


def _pooled(features: Tensor, mask: Tensor | None) -> Tensor:
    """One vector an example ``[B, d]``: of a decoder's ``[B, T, d]``, which is pooled after the read-out, the last."""
    if features.dim() == 2 or mask is None:
        return features
    places = torch.arange(mask.shape[1], device=features.device)
    last = (places * mask.to(features.device)).argmax(1)
    return features[torch.arange(len(features), device=features.device), last]
