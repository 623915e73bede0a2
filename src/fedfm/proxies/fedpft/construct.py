"""Constructing a FedPFT proxy: every layer stays, but most FFNs keep only the neurons with the highest scores.

Peng et al., FedPFT: Federated Proxy Fine-Tuning of Foundation Models, arXiv:2404.11536.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from torch import Tensor, nn

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import Block, blocks
from fedfm.proxies.fedpft.settings import FedPFT
from fedfm.proxies.ffn import Kept, keep_neurons, neuron_tensors, neurons, output_bias
from fedfm.proxies.matrix_packing import packings, round_in_place
from fedfm.proxies.pair import sharing_copy
from fedfm.proxies.settings import Bits


def compressed_blocks(backbone: Backbone, keep_layers: Sequence[int]) -> list[Block]:
    """The blocks whose FFN is compressed: all but ``keep_layers``.

    Args:
        backbone: of any family.
        keep_layers: layers that stay whole, from 0 in each stack; -1 is its last.

    Raises:
        RecipeError: at ``proxy.keep_layers`` when there is no such layer.
    """
    found: list[Block] = []
    for stack, members in groupby(blocks(backbone.model, backbone.family), key=lambda block: block.stack.path):
        layers = list(members)
        for layer in keep_layers:
            if not -len(layers) <= layer < len(layers):
                raise RecipeError(
                    f"there is no layer {layer}: {stack} of {backbone.name} has layers 0 to {len(layers) - 1}",
                    where="proxy.keep_layers",
                )
        whole = {layer % len(layers) for layer in keep_layers}
        found += [block for layer, block in enumerate(layers) if layer not in whole]
    return found


def counts(settings: FedPFT, compressed: Sequence[Block]) -> dict[str, int]:
    """How many neurons each block keeps, by its path.

    Args:
        settings: ``ffn_keep`` of m neurons stay, rounded to a multiple of ``align_to``, at least one, at most m.
        compressed: the blocks.

    Raises:
        RecipeError: at ``proxy.keep_layers`` when every layer stays whole; at ``proxy.ffn_keep`` when there is not
            one share for each compressed layer, or no neuron is left.
    """
    if not compressed and settings.ffn_keep != 1:
        raise RecipeError(
            "every layer stays whole, so the proxy would be the backbone; name fewer layers", where="proxy.keep_layers"
        )
    shares = settings.ffn_keep if isinstance(settings.ffn_keep, list) else [settings.ffn_keep] * len(compressed)
    if len(shares) != len(compressed):
        raise RecipeError(
            f"{len(shares)} shares for {len(compressed)} compressed layers; name one for each, or one for all",
            where="proxy.ffn_keep",
        )
    return {
        block.path: _count(share, neurons(block), settings.align_to)
        for block, share in zip(compressed, shares, strict=True)
    }


def choose(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Kept:
    """The ``counts`` neurons with the highest ``scores`` [m], by block path; of equal ones, those that come first."""
    return {path: _highest(scores[path], count) for path, count in counts.items()}


def _count(share: float, total: int, align_to: int) -> int:
    """How many of ``total`` neurons stay."""
    exact = round(share * total)
    if exact == 0:
        raise RecipeError(
            f"{share:g} of {total} neurons leaves none; keep at least {1 / total:.2g}", where="proxy.ffn_keep"
        )
    if exact == total:
        return total
    return min(max(round(exact / align_to), 1) * align_to, total)


def _highest(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest scores, ascending."""
    return scores.cpu().sort(descending=True, stable=True).indices[:count].sort().values


def make_proxy(backbone: Backbone, kept: Mapping[str, Tensor], bits: Bits | None = None) -> Backbone:
    """The proxy of a backbone; the backbone does not change.

    Everything is shared with the backbone, parameter by parameter, except `own_parameters`, the head, which
    tunables may train in place, and what ``bits`` round.

    Args:
        backbone: without a tunable.
        kept: by block path.
        bits: in which matrices are sent; those outside `own_parameters` are rounded here. None: as they are.
    """
    bits = bits or Bits()
    cut = set(own_parameters(backbone, kept).values())
    rounded = [matrix for matrix in packings(backbone.model, backbone.family, bits) if matrix not in cut]
    own = [*_uncut(backbone, kept).values(), *head_parameters(backbone), *rounded]
    proxy = replace(backbone, model=sharing_copy(backbone.model, own))
    for block in kept_blocks(proxy, kept):
        keep_neurons(block, kept[block.path])
    cut = set(own_parameters(proxy, kept).values())
    packed = packings(proxy.model, proxy.family, bits)
    round_in_place({matrix: packing for matrix, packing in packed.items() if matrix not in cut})
    return proxy


def own_parameters(proxy: Backbone, kept: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """What the proxy does not share with the backbone, by names from the base model.

    These are the FFNs of compressed blocks, and the norms that follow them where the family has such norms: everything
    that distillation and alignment may change. A tunable may be attached to the proxy.
    """
    cut = {
        f"{block.path}.{tensor.name}": block.module.get_parameter(tensor.name)
        for block in kept_blocks(proxy, kept)
        for tensor in neuron_tensors(block)
    }
    return cut | _uncut(proxy, kept)


def kept_blocks(backbone: Backbone, kept: Mapping[str, Tensor]) -> list[Block]:
    """The compressed blocks."""
    return [block for block in blocks(backbone.model, backbone.family) if block.path in kept]


def _uncut(backbone: Backbone, kept: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Parameters of compressed blocks that belong to no neuron: the output's bias and the norm after the FFN."""
    found: dict[str, nn.Parameter] = {}
    for block in kept_blocks(backbone, kept):
        if bias := output_bias(block):
            found[f"{block.path}.{bias}"] = block.module.get_parameter(bias)
        if norm := block.stack.ffn_norm:
            parameters = block.module.get_submodule(norm).named_parameters()
            found |= {f"{block.path}.{norm}.{name}": parameter for name, parameter in parameters}
    return found


def head_parameters(backbone: Backbone) -> list[nn.Parameter]:
    """Parameters of heads that are not tied to the embeddings."""
    heads = (*backbone.head, *backbone.family.heads, *backbone.family.language_heads)
    return [
        parameter
        for name, parameter in backbone.model.named_parameters()
        if any(name.startswith(f"{head}.") for head in heads)
    ]
