"""K clients' values of one tunable in one flat buffer, and the layers that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel, PeftType
from torch import Tensor, nn

from fedfm.models.stacked.layers import Stacks, stacked_forward, stacked_prompt
from fedfm.models.stacked.layout import Layout, UnstackableError
from fedfm.models.tunable import Tunable
from fedfm.params import Params


class StackedLayers:
    """A model whose layers read values of a tunable that differ along the batch: those of K clients, or of B examples.

    Raises:
        UnstackableError: a trained parameter lies in a layer that has no stacked form.
    """

    def __init__(self, tunable: Tunable) -> None:
        self._parameters = tunable.parameters
        self._stacks = Stacks()
        self._replaced = _replacements(tunable, self._stacks)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Lets the model's layers compute with the stack for a block of statements."""
        try:
            for module, name, function in self._replaced:
                setattr(module, name, function)
            yield
        finally:
            for module, name, _ in self._replaced:
                delattr(module, name)

    def install(self, layout: Layout, values: Iterable[Tensor]) -> None:
        """Prepares a step.

        Args:
            layout: which part of the batch reads which row.
            values: of each parameter in order, ``[layout.clients, ...]``, without gradient.
        """
        self._stacks.layout = layout
        self._stacks.values = {
            id(parameter): part.requires_grad_()
            for parameter, part in zip(self._parameters.values(), values, strict=True)
        }

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradient of a scalar by the values of this step, one tensor ``[layout.clients, ...]`` a parameter."""
        leaves = list(self._stacks.values.values())
        return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))


class StackedTunable(StackedLayers):
    """The values of K clients, ``[K, P]`` with P trained parameters each.

    A client is a row, so that whatever is elementwise (an optimiser, an algorithm's rule for gradients) serves all of
    them at once, and a norm along the row is the norm of one client's gradient.

    Attributes:
        values: ``[K, P]``.

    Raises:
        UnstackableError: a trained parameter lies in a layer that has no stacked form.
    """

    def __init__(self, tunable: Tunable, received: Sequence[Params]) -> None:
        super().__init__(tunable)
        self.values = nn.Parameter(self.rows(received))

    def rows(self, clients: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Tensors with the tunable's names and shapes as rows ``[K, P]`` in the layout of `values`."""
        first = next(iter(self._parameters.values()))
        rows = [torch.cat([params[name].flatten() for name in self._parameters]) for params in clients]
        return torch.stack(rows).to(first.device, first.dtype)

    def begin(self, layout: Layout) -> None:
        """Prepares a step of the first ``layout.clients`` clients."""
        self.install(layout, self._parts(layout.clients))

    def gradient(self, loss: Tensor) -> Tensor:
        """The gradient of a scalar by the values of this step's clients, ``[layout.clients, P]``."""
        return torch.cat([gradient.flatten(1) for gradient in self.gradients(loss)], dim=1)

    def read(self, row: int) -> Params:
        """A copy of one client's values, on the CPU."""
        parts = zip(self._parameters, self._parts(row + 1), strict=True)
        return {name: part[row].to("cpu", copy=True).contiguous() for name, part in parts}

    def _parts(self, clients: int) -> list[Tensor]:
        """Views of the first rows, one a parameter."""
        sizes = [parameter.numel() for parameter in self._parameters.values()]
        parts = torch.split(self.values.detach()[:clients], sizes, dim=1)
        return [
            part.view(clients, *parameter.shape)
            for part, parameter in zip(parts, self._parameters.values(), strict=True)
        ]


def _replacements(tunable: Tunable, stacks: Stacks) -> list[tuple[nn.Module, str, Callable[..., Tensor]]]:
    """(module, the name of its method, what to call instead) for all that reads a trained parameter."""
    trained = frozenset(id(parameter) for parameter in tunable.parameters.values())
    left, replaced, encoder = set(trained), [], None
    if isinstance(tunable.model, PeftModel) and tunable.model.active_peft_config.is_prompt_learning:
        encoder = tunable.model.prompt_encoder[tunable.model.active_adapter]
        if tunable.model.peft_type == PeftType.PREFIX_TUNING:
            place = encoder, "forward"
        else:  # peft computes one prompt and repeats it, so that no module of its own sees the batch
            place = tunable.model, "get_prompt"
        replaced.append((*place, stacked_prompt(encoder, stacks)))
        left -= {id(parameter) for parameter in encoder.parameters()}
    for module in tunable.model.modules():
        if encoder is not None and any(module is part for part in encoder.modules()):
            continue  # it computes the prompt of each client as a whole
        if found := stacked_forward(module, trained, stacks, tunable.stacked_forms):
            forward, own = found
            replaced.append((module, "forward", forward))
            left -= own
    if left:
        names = [name for name, parameter in tunable.parameters.items() if id(parameter) in left]
        raise UnstackableError(f"{names[0]} lies in a layer that has no stacked form")
    return replaced
