"""Plug-in: maps what was tuned on the proxy to the backbone.

What is tuned on attention, head or input has the same shape in both and is copied. LoRA on a compressed FFN is
scattered to the kept neurons S and is zero for the others: ΔW₁[S, :] = s·B A and ΔW₂[:, S] = s·B A
(Zhang et al., LoRAM, arXiv:2502.13533). Where the proxy has fewer layers, each maps to the layer of the backbone
that it was copied from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import FFN, Block, blocks
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.proxies.ffn import NeuronTensor

PEFT_PREFIX = "base_model.model."
"""What peft puts before the model's own names."""

_CUT = "targets neurons that the proxy cuts; use lora (attention, ffn or all) or head"


@dataclass(frozen=True)
class Slices:
    """The part of a backbone's tensor that the proxy has.

    Attributes:
        axis: which counts neurons.
        index: where the proxy's slices are on it, int64.
        length: of the axis in the backbone.
    """

    axis: int
    index: Tensor
    length: int

    def scatter(self, tensor: Tensor) -> Tensor:
        """The proxy's slices in a tensor of the backbone's shape, zero elsewhere."""
        shape = [*tensor.shape]
        shape[self.axis] = self.length
        return tensor.new_zeros(shape).index_copy(self.axis, self.index, tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """The proxy's slices of the backbone's tensor."""
        return tensor.index_select(self.axis, self.index)


@dataclass(frozen=True)
class Place:
    """The place in the backbone's tunable of a tensor of the proxy's tunable.

    Attributes:
        name: there.
        slices: the part of the tensor there; None: all.
    """

    name: str
    slices: Slices | None = None


@dataclass(frozen=True)
class PlugIn:
    """Maps between the proxy's tunable and the backbone's.

    Attributes:
        places: by the name in the proxy's tunable.
    """

    places: Mapping[str, Place]

    def to_backbone(self, params: Mapping[str, Tensor]) -> Params:
        """The complete values of the backbone's tunable."""
        return {
            place.name: place.slices.scatter(params[name]) if place.slices else params[name]
            for name, place in self.places.items()
        }

    def to_proxy(self, params: Mapping[str, Tensor]) -> Params:
        """The proxy's part of the backbone's tunable: undoes `to_backbone`."""
        return {
            name: place.slices.gather(params[place.name]) if place.slices else params[place.name]
            for name, place in self.places.items()
        }


def plug_in_map(
    proxy_tunable: Tunable,
    backbone_tunable: Tunable,
    proxy: Backbone,
    backbone: Backbone,
    kept: Mapping[str, Tensor],
    layers: Sequence[int] | None = None,
) -> PlugIn:
    """Pairs the tensors of two tunables that the same settings made.

    Args:
        proxy_tunable: attached to the proxy.
        backbone_tunable: attached to the backbone.
        proxy: made of the backbone.
        backbone: with the same ``tunable_blocks``, by its own paths.
        kept: neurons that compressed FFNs keep, int64 [m'] ascending, by the path of their block.
        layers: for each block of the proxy, its number among the backbone's; None: it has all of them.

    Raises:
        RecipeError: at ``tune.kind`` or ``tune.target_modules`` when something tuned has no place in the other.
    """
    pairs = _pairs(proxy, backbone, layers)
    places = {}
    for name in proxy_tunable.parameters:
        block, target, part = _locate(name, pairs)
        places[name] = Place(target)
        if block is None or block.path not in kept or target not in backbone_tunable.parameters:
            continue
        if cut := _neuron_tensor(name, part, block.stack.dense_ffn):
            length = backbone_tunable.parameters[target].shape[cut.axis]
            places[name] = Place(target, Slices(cut.axis, cut.index(kept[block.path], length // cut.copies), length))
    _refuse_differences(places, proxy_tunable, backbone_tunable)
    return PlugIn(places)


@dataclass(frozen=True)
class _Pair:
    """A block of the proxy, its name in the proxy, and the name of its original in the backbone."""

    block: Block
    name: str
    original: str


def _pairs(proxy: Backbone, backbone: Backbone, layers: Sequence[int] | None) -> list[_Pair]:
    originals = _names(backbone)
    chosen = originals if layers is None else [originals[layer] for layer in layers]
    copies = zip(blocks(proxy.model, proxy.family), _names(proxy), chosen, strict=True)
    return [_Pair(block, name, original) for block, name, original in copies]


def _names(backbone: Backbone) -> list[str]:
    """The blocks' names in the model with its head."""
    names = {id(module): name for name, module in backbone.model.named_modules()}
    return [names[id(block.module)] for block in blocks(backbone.model, backbone.family)]


def _locate(name: str, pairs: Sequence[_Pair]) -> tuple[Block | None, str, str]:
    """The block that a tensor of the proxy's tunable is in, its name in the backbone's, and its name in the block."""
    for pair in pairs:
        lead, found, part = name.partition(f"{pair.name}.")
        if found and lead in ("", PEFT_PREFIX):
            return pair.block, f"{lead}{pair.original}.{part}", part
    return None, name, ""


def _neuron_tensor(name: str, part: str, ffn: FFN) -> NeuronTensor | None:
    """How a tensor of a tunable, ``part`` of a compressed block, counts neurons; None where it does not.

    peft's lora_A is [r, in] and lora_B [out, r], also where the matrix itself is stored ``[in, out]``.
    """
    for matrix in (*ffn.inputs, ffn.output):
        if not part.startswith(f"{matrix}."):
            continue
        factor = part.removeprefix(f"{matrix}.")
        if factor not in ("lora_A.weight", "lora_B.weight"):
            raise RecipeError(f"{name} {_CUT}", where=_key(name))
        if matrix == ffn.output:
            return NeuronTensor(part, 1) if factor == "lora_A.weight" else None
        return NeuronTensor(part, 0, 2 if ffn.fused else 1) if factor == "lora_B.weight" else None
    return None


def _refuse_differences(places: Mapping[str, Place], proxy: Tunable, backbone: Tunable) -> None:
    """Refuses tunables with tensors that have no counterpart: patterns may name layers, whose numbers differ."""
    targets = {place.name for place in places.values()}
    lone = [name for name, place in places.items() if place.name not in backbone.parameters]
    lone += [name for name in backbone.parameters if name not in targets]
    if lone:
        raise RecipeError(
            f"{lone[0]} is tuned in only one of proxy and backbone, which number their layers differently; "
            "name parts of layers without their numbers",
            where=_key(lone[0]),
        )
    for name, place in places.items():
        shape, wanted = list(proxy.parameters[name].shape), list(backbone.parameters[place.name].shape)
        if place.slices:
            shape[place.slices.axis] = place.slices.length
        if shape != wanted:
            raise RecipeError(f"{name} has shape {shape} in the proxy, {wanted} in the backbone", where=_key(name))


def _key(name: str) -> str:
    return "tune.target_modules" if "lora_" in name else "tune.kind"
