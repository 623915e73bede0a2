"""The layers of a model, and what of a tunable is in each."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedfm.models.families import Family, blocks
from fedfm.models.tunable import Tunable
from fedfm.views.selection import TunableLayers


def layers_of(
    tunable: Tunable, family: Family, *, without: Collection[str] = (), tokens: int = 0, moments: int = 0
) -> TunableLayers:
    """The layers: blocks of the model, in the order of computation, that have trained parameters.

    Parameters before the blocks (embeddings, and what every block reads) are neither in a layer nor beside the layers,
    also where a head shares them.

    Args:
        tunable: attached to a model.
        family: describes the model.
        without: names of parameters that do not count, such as personal ones.
        tokens: of one batch.
        moments: values that the local optimiser keeps for each trained parameter.
    """
    model = tunable.base_model
    named = {id(parameter): name for name, parameter in tunable.parameters.items() if name not in without}
    left = dict(named)
    for path in family.embeddings:
        left = {key: name for key, name in left.items() if key not in _inside(model, path)}
    found = []
    for block in blocks(model, family):
        numbers = {id(parameter): parameter.numel() for parameter in block.module.parameters()}
        tensors = tuple(sorted(left.pop(key) for key in numbers if key in left))
        if tensors:
            trained = sum(tunable.parameters[name].numel() for name in tensors)
            found.append((block.path, tensors, trained, sum(numbers.values()), _kept(block.module)))
    names, inside, trained_, total, kept = zip(*found, strict=True) if found else ((), (), (), (), ())
    return TunableLayers(names, inside, tuple(sorted(left.values())), trained_, total, kept, tokens, moments)


def _inside(model: PreTrainedModel, path: str) -> set[int]:
    """Ids of the parameters of a module of the base model; none where the model lacks the module."""
    module = dict(model.base_model.named_modules()).get(path)
    return set() if module is None else {id(parameter) for parameter in module.parameters()}


def _kept(block: nn.Module) -> int:
    """Inputs a token of the linear layers of a block, which their backward pass reads."""
    sizes = [
        module.in_features if isinstance(module, nn.Linear) else module.weight.shape[0]
        for module in block.modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    return sum(sizes)
