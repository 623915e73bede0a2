"""Where the neurons and heads of a model are in what is tuned of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import Attention, Block, blocks
from fedfm.proxies.ffn import neuron_tensors, neurons
from fedfm.views import Anatomy, UnitAxis


def anatomy_of(backbone: Backbone, names: Collection[str]) -> Anatomy:
    """Tensors that have a part for each neuron of an FFN, or for each head of attention.

    Heads are units where query, key and value are three matrices of one shape; where several queries share a key
    (grouped-query attention), or the three are one matrix, attention stays whole.

    Args:
        backbone: whose parameters are tuned.
        names: of the tensors that are tuned.

    Raises:
        RecipeError: at ``federation.budgets``: the model has no units that are described.
    """
    if reason := backbone.family.uncuttable:
        raise RecipeError(f"{backbone.name} cannot be cut: {reason}", where="federation.budgets")
    paths = {id(parameter): name for name, parameter in backbone.model.named_parameters(remove_duplicate=False)}
    heads = getattr(backbone.model.config, "num_attention_heads", None)
    found: dict[str, UnitAxis] = {}
    for block in blocks(backbone.model, backbone.family):
        for parameter, unit in (*_neurons(block), *_heads(block, heads)):
            if (name := paths[id(parameter)]) in names:
                found[name] = unit
    return found


def _neurons(block: Block) -> Iterator[tuple[nn.Parameter, UnitAxis]]:
    group, count = f"{block.path}.ffn", neurons(block)
    for tensor in neuron_tensors(block):
        yield block.module.get_parameter(tensor.name), UnitAxis(group, tensor.axis, count, tensor.copies)


def _heads(block: Block, heads: object) -> Iterator[tuple[nn.Parameter, UnitAxis]]:
    for attention in block.stack.attention:
        if not isinstance(heads, int) or not _has_equal_heads(block, attention, heads):
            continue
        group, out = f"{block.path}.{attention.path}", 1 if attention.transposed else 0
        for path in attention.inputs:
            module = block.module.get_submodule(path)
            yield module.get_parameter("weight"), UnitAxis(group, out, heads)
            if module.bias is not None:
                yield module.get_parameter("bias"), UnitAxis(group, 0, heads)
        output = block.module.get_submodule(attention.output)
        yield output.get_parameter("weight"), UnitAxis(group, 1 - out, heads)


def _has_equal_heads(block: Block, attention: Attention, heads: int) -> bool:
    """Whether query, key and value are matrices of their own in which each head has as many rows."""
    if attention.fused:
        return False
    shapes = {tuple(block.module.get_parameter(f"{path}.weight").shape) for path in attention.inputs}
    rows = next(iter(shapes))[1 if attention.transposed else 0]
    return len(shapes) == 1 and rows % heads == 0
