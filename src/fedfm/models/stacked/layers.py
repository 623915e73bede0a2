"""Forward functions of layers whose trained parameters have different values for each client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import layer_norm, linear
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from fedfm.models.stacked.layout import Layout, own_products, spread
from fedfm.models.stacked.products import low_rank
from fedfm.models.tunable import StackedForms


@dataclass
class Stacks:
    """The values that stacked layers read during one step.

    Attributes:
        values: id of a trained parameter → its values for all clients of this step, ``[K, ...]``.
        layout: the part of the batch that belongs to each client.
    """

    values: Mapping[int, Tensor] = field(default_factory=dict)
    layout: Layout = field(default_factory=lambda: Layout(()))

    def of(self, parameter: Tensor | None) -> Tensor | None:
        """The stack of a parameter; None if the parameter is frozen or absent."""
        return None if parameter is None else self.values.get(id(parameter))

    def required(self, parameter: Tensor) -> Tensor:
        """The stack of a trained parameter."""
        return self.values[id(parameter)]


Forward = Callable[..., Tensor]

StackedForm = Callable[[Any, dict[str, nn.Parameter], Stacks], Forward]
"""Makes the forward function of a layer, from the layer, its trained parameters by name, and the stacks."""


def stacked_forward(
    module: nn.Module, trained: AbstractSet[int], stacks: Stacks, forms: StackedForms
) -> tuple[Forward, set[int]] | None:
    """A replacement for a module's forward, and the ids of the trained parameters that it uses.

    None if the module has no trained parameters of its own, or they cannot be stacked.

    Args:
        module: of a model with a tunable.
        trained: ids of all trained parameters.
        stacks: what the replacement reads.
        forms: further types of layers and how they are stacked.
    """
    if form := next((form for kind, form in forms.items() if isinstance(module, kind)), None):
        mine = {name: parameter for name, parameter in module.named_parameters() if id(parameter) in trained}
        return (form(module, mine, stacks), {id(parameter) for parameter in mine.values()}) if mine else None
    if isinstance(module, LoraLayer):
        down, up = (layers[adapter_of(module)] for layers in (module.lora_A, module.lora_B))
        own = _trained_tensors(down, trained) | _trained_tensors(up, trained)
        if not own:
            return None
        if adapter_of(module) in module.lora_magnitude_vector:
            a, b = cast(Tensor, down.weight), cast(Tensor, up.weight)
            length = cast(Tensor, module.lora_magnitude_vector[adapter_of(module)].weight)
            return _dora(module, a, b, length, stacks), {id(a), id(b), id(length)}
        return _lora(module, down, up, stacks), own
    if isinstance(module, IA3Layer):
        factors = module.ia3_l[adapter_of(module)]
        return (_ia3(module, factors, stacks), {id(factors)}) if id(factors) in trained else None
    own = {id(parameter) for parameter in module.parameters(recurse=False)} & trained
    make = next((make for kind, make in _PLAIN.items() if isinstance(module, kind)), None)
    return (make(module, stacks), own) if own and make is not None else None


def stacked_prompt(encoder: nn.Module, stacks: Stacks) -> Forward:
    """A forward that returns each example's virtual tokens ``[B, n, ...]``, which are those of its client.

    Args:
        encoder: PEFT's, all of whose parameters are trained: an embedding, and a network on it if the prompt has one.
        stacks: read by the forward.
    """
    parameters = dict(encoder.named_parameters())
    embedding = encoder.get_parameter("embedding.weight")
    itself = _Itself(encoder)
    tokens = torch.arange(len(embedding), device=embedding.device)

    def of_clients() -> Tensor:
        if len(parameters) == 1:
            return stacks.required(embedding)
        values = {f"layer.{name}": stacks.required(parameter) for name, parameter in parameters.items()}
        return torch.stack(
            [
                functional_call(itself, {name: stack[client] for name, stack in values.items()}, tokens)
                for client in range(stacks.layout.clients)
            ]
        )

    def prompt(*_: Any, **__: Any) -> Tensor:
        stack = of_clients()
        rows = torch.tensor(stacks.layout.rows, device=stack.device)
        return stack.repeat_interleave(rows, dim=0, output_size=sum(stacks.layout.rows))

    return prompt


def adapter_of(module: BaseTunerLayer) -> str:
    """The name of a PEFT layer's adapter; a model has one."""
    return str(module.active_adapters[0])


def base_product(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """A frozen linear layer's matrix as ``[out, in]``, and its bias."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    return (weight.T if isinstance(layer, Conv1D) else weight), bias


def _trained_tensors(layer: nn.Module, trained: AbstractSet[int]) -> set[int]:
    """Ids of the trained parameters from which a layer has its weight."""
    return {id(parameter) for parameter in layer.parameters()} & trained


def _weights(layer: nn.Module, stacks: Stacks) -> Tensor:
    """A layer's weight for each client, ``[K, ...]``: trained, frozen, or computed from trained parameters."""
    if parametrize.is_parametrized(layer, "weight"):
        computed: Any = layer.parametrizations["weight"]  # type: ignore[index]
        originals = [stacks.required(parameter) for parameter in computed.parameters(recurse=False)]
        return cast(Tensor, torch.vmap(computed[0])(*originals))
    weight = cast(Tensor, layer.weight)
    own = stacks.of(weight)
    return weight.expand(stacks.layout.clients, *weight.shape) if own is None else own


def _lora(module: LoraLayer, down: nn.Module, up: nn.Module, stacks: Stacks) -> Forward:
    scale = float(module.scaling[adapter_of(module)])

    def forward(x: Tensor) -> Tensor:
        weight, bias = base_product(module.get_base_layer())
        a, b = _weights(down, stacks), _weights(up, stacks)
        return low_rank(x, weight, bias, a, b, scale, stacks.layout.sizes(x))

    return forward


def _dora(module: LoraLayer, a: Tensor, b: Tensor, length: Tensor, stacks: Stacks) -> Forward:
    """DoRA (arXiv:2402.09353, eq. (5) and §4.3): the norm of each row of W + s·BA, through which no gradient flows.

    It is computed as ‖w + s·b A‖² = ‖w‖² + 2s·b A wᵀ + s²·b A Aᵀ bᵀ, without a full matrix for each client.
    """
    scale = float(module.scaling[adapter_of(module)])

    def norm(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
        weight = weight.to(down.dtype)
        crossed = (up * (weight @ down.transpose(1, 2))).sum(2)
        own = (up @ (down @ down.transpose(1, 2)) * up).sum(2)
        return (weight.square().sum(1) + 2 * scale * crossed + scale**2 * own).sqrt()

    def forward(x: Tensor) -> Tensor:
        weight, bias = base_product(module.get_base_layer())
        down, up, lengths = (stacks.required(parameter) for parameter in (a, b, length))
        with torch.no_grad():
            norms = norm(weight, down, up)
        sizes = stacks.layout.sizes(x)
        y = low_rank(x, weight, None, down, up, scale, sizes)
        y = y * spread(lengths / norms, y, sizes)
        return y if bias is None else y + bias

    return forward


def _ia3(module: IA3Layer, factors: Tensor, stacks: Stacks) -> Forward:
    layer = module.get_base_layer()

    def scaled(x: Tensor) -> Tensor:
        return x * spread(stacks.required(factors).flatten(1), x, stacks.layout.sizes(x))

    return (lambda x: layer(scaled(x))) if module.is_feedforward else (lambda x: scaled(layer(x)))


def _linear(module: nn.Module, stacks: Stacks) -> Forward:
    transposed = isinstance(module, Conv1D)

    def forward(x: Tensor) -> Tensor:
        weights, biases = stacks.of(module.weight), stacks.of(module.bias)  # type: ignore[arg-type]
        weight, bias = base_product(module)
        sizes = stacks.layout.sizes(x)
        if weights is None:
            y = linear(x, weight)
            return y if biases is None else y + spread(biases, y, sizes)
        y = own_products(x, weights if transposed else weights.mT, sizes)
        if biases is not None:
            return y + spread(biases, y, sizes)
        return y if bias is None else y + bias

    return forward


class _Itself(nn.Module):
    """A layer by the forward function of its class, whatever replaces it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = type(self.layer).forward(self.layer, x)
        return output


def each_alone(module: nn.Module, own: dict[str, nn.Parameter], stacks: Stacks) -> Forward:
    """Any layer that treats each vector alone: computed for one client after another."""
    itself = _Itself(module)

    def forward(x: Tensor) -> Tensor:
        parts = torch.split(x.reshape(-1, x.shape[-1]), list(stacks.layout.sizes(x)))
        values = {name: stacks.required(parameter) for name, parameter in own.items()}
        outputs = [
            functional_call(itself, {f"layer.{name}": stack[client] for name, stack in values.items()}, part)
            for client, part in enumerate(parts)
        ]
        return torch.cat(outputs).view(*x.shape[:-1], -1)

    return forward


def vector_forms(modules: Iterable[nn.Module]) -> StackedForms:
    """`each_alone` for the types of layers that treat each vector alone, except those with a faster form."""
    return {type(module): each_alone for module in modules if not isinstance(module, tuple(_PLAIN))}


def _layer_norm(module: nn.Module, stacks: Stacks) -> Forward:
    if not isinstance(module, nn.LayerNorm):
        raise TypeError(f"{type(module).__name__} is not a layer norm")

    def forward(x: Tensor) -> Tensor:
        weights, biases = stacks.of(module.weight), stacks.of(module.bias)
        shape = list(module.normalized_shape)
        weight, bias = (module.weight, None) if weights is None else (None, None)
        y = layer_norm(x, shape, weight, bias, module.eps)
        sizes = stacks.layout.sizes(x)
        if weights is not None:
            y = y * spread(weights, y, sizes)
        if biases is not None:
            return y + spread(biases, y, sizes)
        return y if module.bias is None else y + module.bias

    return forward


_PLAIN: dict[type[nn.Module], Callable[[nn.Module, Stacks], Forward]] = {
    nn.Linear: _linear,
    Conv1D: _linear,
    nn.LayerNorm: _layer_norm,
}
