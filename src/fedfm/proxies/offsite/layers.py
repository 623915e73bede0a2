"""Constructing an offsite proxy: which layers stay, and a model that has only these (arXiv:2302.04870)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import Block, blocks
from fedfm.proxies.fedpft.construct import compressed_blocks
from fedfm.proxies.ffn import neuron_tensors
from fedfm.proxies.matrix_packing import packings, round_in_place
from fedfm.proxies.offsite.settings import Offsite
from fedfm.proxies.pair import sharing_copy
from fedfm.proxies.settings import Bits


@dataclass(frozen=True)
class Layers:
    """Which layers of the backbone the proxy has, by their numbers from 0.

    Attributes:
        first: those that are tuned, next to the input.
        emulator: those that replace all layers between.
        last: those that are tuned, next to the output.
    """

    first: tuple[int, ...]
    emulator: tuple[int, ...]
    last: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """All, ascending: layer i of the proxy is layer ``kept[i]`` of the backbone."""
        return (*self.first, *self.emulator, *self.last)

    @property
    def adapters(self) -> tuple[int, ...]:
        """Those that are tuned."""
        return (*self.first, *self.last)


def choose_layers(backbone: Backbone, settings: Offsite) -> Layers:
    """Adapters at both ends, and evenly spaced layers from between.

    Raises:
        RecipeError: at ``proxy.kind`` for models of two stacks; at ``proxy.layers`` or ``proxy.adapters`` when the
            model has fewer layers, or no layer is left for the emulator.
    """
    total, ends = len(_layers(backbone)), settings.adapters
    count = settings.layers or _matching_count(backbone, settings)
    if count > total:
        raise RecipeError(f"{backbone.name} has only {total} layers", where="proxy.layers")
    if count <= 2 * ends:
        why = "" if settings.layers else ", which come closest in parameters to FedPFT's proxy,"
        more = f", or `proxy.layers` from {2 * ends + 1} to {total}" if 2 * ends < total else ""
        raise RecipeError(
            f"{count} layers{why} leave none for the emulator between {ends} at each end; "
            f"set fewer `proxy.adapters`{more}",
            where="proxy.layers" if settings.layers else "proxy.adapters",
        )
    middle = range(ends, total - ends)
    return Layers(
        first=tuple(range(ends)),
        emulator=tuple(middle[place] for place in _evenly(len(middle), count - 2 * ends)),
        last=tuple(range(total - ends, total)),
    )


def _evenly(total: int, count: int) -> list[int]:
    """``count`` of ``total`` places, from the first to the last; a single one is the middle."""
    if count == 1:
        return [(total - 1) // 2]
    return [round(place * (total - 1) / (count - 1)) for place in range(count)]


def _matching_count(backbone: Backbone, settings: Offsite) -> int:
    """How many whole layers come closest in parameters to FedPFT's proxy."""
    layers = _layers(backbone)
    whole = sum(parameter.numel() for layer in layers for parameter in layer.module.parameters())
    cut = sum(
        layer.module.get_parameter(tensor.name).numel() * (1 - settings.ffn_keep)
        for layer in compressed_blocks(backbone, settings.keep_layers)
        for tensor in neuron_tensors(layer)
    )
    return round((whole - cut) * len(layers) / whole)


def make_offsite(backbone: Backbone, layers: Layers, bits: Bits | None = None) -> Backbone:
    """The proxy of a backbone; the backbone does not change.

    Everything is shared with the backbone, parameter by parameter, except the emulator, which distillation trains, and
    what ``bits`` round.

    Args:
        backbone: without a tunable.
        layers: of `choose_layers`.
        bits: in which matrices are sent; those outside the emulator are rounded here. None: as they are.
    """
    bits, stack = bits or Bits(), _layers(backbone)
    own = [weight for layer in layers.emulator for weight in _weights(stack[layer])]
    left = {weight for layer, block in enumerate(stack) if layer not in layers.kept for weight in _weights(block)}
    rounded = [matrix for matrix in packings(backbone.model, backbone.family, bits) if matrix not in left]
    proxy = replace(backbone, model=sharing_copy(backbone.model, [*own, *rounded]))
    path = stack[0].stack.path
    kept = nn.ModuleList(_layers(proxy)[layer].module for layer in layers.kept)
    proxy.model.base_model.set_submodule(path, kept)
    for number, layer in enumerate(kept):
        module: Any
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # by which attention finds its keys and values in a cache
                module.layer_idx = number
    _update_layers(_config_of(proxy.model, path), layers.kept)
    tuned = [number for number, layer in enumerate(layers.kept) if layer in layers.adapters]
    emulator = set(emulator_parameters(proxy, layers).values())
    packed = packings(proxy.model, proxy.family, bits)
    round_in_place({matrix: packing for matrix, packing in packed.items() if matrix not in emulator})
    return replace(proxy, tunable_blocks=_paths(proxy, tuned))


def with_adapters(backbone: Backbone, layers: Layers) -> Backbone:
    """The same backbone, of which only what the proxy tunes may be tuned."""
    return replace(backbone, tunable_blocks=_paths(backbone, layers.adapters))


def emulator_pair(backbone: Backbone, proxy: Backbone, layers: Layers) -> tuple[Block, Block]:
    """The two blocks before the last adapters, the backbone's and the proxy's: distillation compares their outputs."""
    return _layers(backbone)[layers.last[0] - 1], _emulator(proxy, layers)[-1]


def emulator_parameters(proxy: Backbone, layers: Layers) -> dict[str, nn.Parameter]:
    """What distillation trains, by names from the base model."""
    return {
        f"{block.path}.{name}": parameter
        for block in _emulator(proxy, layers)
        for name, parameter in block.module.named_parameters()
    }


def _weights(block: Block) -> list[nn.Parameter]:
    return list(block.module.parameters())


def _emulator(proxy: Backbone, layers: Layers) -> list[Block]:
    return _layers(proxy)[len(layers.first) : -len(layers.last)]


def _layers(backbone: Backbone) -> list[Block]:
    """The blocks of the only stack."""
    found = blocks(backbone.model, backbone.family)
    if len({block.stack.path for block in found}) > 1:
        raise RecipeError(
            f"{backbone.name} has more than one stack of layers; offsite tuning needs a single one: use fedpft",
            where="proxy.kind",
        )
    return found


def _paths(backbone: Backbone, numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(_layers(backbone)[number].path for number in numbers)


def _config_of(model: PreTrainedModel, path: str) -> PretrainedConfig:
    """The config that the owner of a stack reads: CLIP's towers have their own."""
    while path:
        path = path.rpartition(".")[0]
        owner = model.base_model.get_submodule(path)
        if isinstance(found := getattr(owner, "config", None), PretrainedConfig):
            return found
    return model.config


def _update_layers(config: PretrainedConfig, kept: Sequence[int]) -> None:
    """Makes a config describe the kept layers only."""
    if types := getattr(config, "layer_types", None):
        config.layer_types = [types[layer] for layer in kept]
    config.num_hidden_layers = len(kept)
