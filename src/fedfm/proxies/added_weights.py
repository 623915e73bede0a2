"""Versions of a backbone whose frozen weights get low-rank products added to them, round by round.

A version is a log. For each adapted matrix it has the products that were added, as pairs of thin factors; once these
are larger than the matrix itself, the matrix as it then was takes their place. A copy adds what it misses one by one in
the order of the rounds, so that its weights have the same bits whenever it caught up. Factors in a log include the
scale α/r.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.proxies.base import ModelVersion
from fedfm.wire import on_disk

WEIGHT = "weight"
UP, DOWN = "up", "down"


def log_of(version: ModelVersion, module: str) -> list[tuple[int, Tensor, Tensor]]:
    """What was added to a matrix since it was last whole: (version, B ``[out, k]``, A ``[k, in]``), oldest first."""
    found = []
    for name in version.own:
        if name.startswith(f"{module}.") and name.endswith(f".{UP}"):
            number = int(version.changed[name])
            found.append((number, version.own[name], version.own[name.removesuffix(UP) + DOWN]))
    return sorted(found, key=lambda entry: entry[0])


def extended(version: ModelVersion, added: Mapping[str, tuple[Tensor, Tensor]]) -> ModelVersion:
    """The version after products B·A, by module, were added; the log is not shortened."""
    number = version.number + 1
    own, changed = dict(version.own), dict(version.changed)
    for module, (up, down) in added.items():
        for part, tensor in ((UP, up), (DOWN, down)):
            name = f"{module}.{number:06d}.{part}"
            own[name], changed[name] = tensor, torch.tensor(number)
    return ModelVersion(number, own, changed)


def is_long(version: ModelVersion, module: str) -> bool:
    """Whether the log of a matrix is larger than the matrix."""
    log = log_of(version, module)
    return sum(up.numel() + down.numel() for _, up, down in log) > log[0][1].shape[0] * log[0][2].shape[1]


def shortened(version: ModelVersion, module: str, weight: Tensor) -> ModelVersion:
    """The version with the matrix as it is now in place of its log."""
    logged = {f"{module}.{number:06d}.{part}" for number, _, _ in log_of(version, module) for part in (UP, DOWN)}
    own = {name: tensor for name, tensor in version.own.items() if name not in logged}
    changed = {name: last for name, last in version.changed.items() if name not in logged}
    name = f"{module}.{WEIGHT}"
    return ModelVersion(version.number, {**own, name: weight}, {**changed, name: torch.tensor(version.number)})


def missed(version: ModelVersion, since: int) -> Params:
    """What a copy at version ``since`` needs to be at ``version``."""
    return {name: tensor for name, tensor in version.own.items() if int(version.changed[name]) > since}


class AddedWeights:
    """The adapted matrices of a tunable's model, at one version.

    Attributes:
        number: of the version.
    """

    def __init__(self, tunable: Tunable) -> None:
        self.number = 0
        self._tunable = tunable
        self._first: Mapping[str, Tensor] | None = None

    def product(self, residual: Params) -> dict[str, tuple[Tensor, Tensor]]:
        """Factors of what is added, by module, with the layer's scale α/r in B.

        Args:
            residual: as `fedfm.aggregation.Fold.residual`.

        Raises:
            ValueError: a factor belongs to no LoRA layer.
        """
        found = {}
        for module, layer in self._layers().items():
            a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
            if a in residual:
                found[module] = residual[b] * layer.scaling[str(layer.active_adapters[0])], residual[a]
        if len(found) * 2 != len(residual):
            raise ValueError("the residual has factors that belong to no LoRA layer")
        return found

    def matrix(self, module: str) -> Tensor:
        """A copy of a matrix as it is now, as the model stores it, on the CPU."""
        return self._weight(self._layers()[module]).detach().to("cpu", copy=True)

    @torch.no_grad()
    def set(self, version: ModelVersion) -> None:
        """Brings the model's own weights to a version, in place; also to an earlier one that the log still has."""
        if version.number == self.number:
            return
        layers = self._layers()
        if self._first is None:
            self._first = on_disk({module: self.matrix(module) for module in layers})
        since = self.number if version.number > self.number else -1
        for module, layer in layers.items():
            weight = self._weight(layer)
            value = self._first[module].clone() if since < 0 else None
            whole = version.own.get(f"{module}.{WEIGHT}")
            if whole is not None and int(version.changed[f"{module}.{WEIGHT}"]) > since:
                value = whole.clone()
            new = [(up, down) for number, up, down in log_of(version, module) if number > since]
            if value is None and not new:
                continue
            value = weight.to("cpu", copy=True) if value is None else value
            for up, down in new:
                change = (up.double() @ down.double()).to(value.dtype)
                value += change.T if isinstance(layer.get_base_layer(), Conv1D) else change
            weight.copy_(value)
        self.number = version.number

    def _layers(self) -> dict[str, LoraLayer]:
        """The LoRA layers by the names of their modules."""
        modules = self._tunable.model.named_modules()
        return {name: module for name, module in modules if isinstance(module, LoraLayer)}

    @staticmethod
    def _weight(layer: LoraLayer) -> nn.Parameter:
        return cast(nn.Parameter, layer.get_base_layer().weight)
