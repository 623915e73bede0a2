"""Low-rank updates of which only small core matrices are trained: ΔW = (α/r)·B(core)·A between fixed bases.

B(core) is linear in what travels, so the mean of the cores is the mean of the updates: no rule on factors is needed.
The model has an ordinary LoRA layer whose factor B is computed by a torch parametrisation, and what is saved is
ordinary LoRA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from fedfm.capabilities import BACKBONE_WEIGHTS
from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import attach_peft
from fedfm.models.tunables.lora import FactorSettings

FACTOR = "lora_B"
"""The factor of a LoRA layer that is computed from its core."""


@dataclass(frozen=True)
class AdaptedMatrix:
    """An adapted matrix.

    Attributes:
        name: of its module in the backbone; key of its random choices.
        weight: ``[out, in]``.
    """

    name: str
    weight: Tensor


class Core(nn.Module):
    """Computes B ``[out, r]`` of a LoRA layer from its trained tensors; a torch parametrisation.

    Attributes:
        parts: names of the trained tensors, in the order of the arguments of ``forward``.
    """

    parts: ClassVar[tuple[str, ...]] = ("lora_R",)

    def forward(self, *trained: Tensor) -> Tensor:
        """B."""
        raise NotImplementedError

    def right_inverse(self, weight: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The trained tensors at the start, where B is zero."""
        raise NotImplementedError

    @staticmethod
    def folded(trained: dict[str, Tensor]) -> dict[str, Tensor]:
        """Trained tensors that compute the same B, in the form in which their mean is exact; by name of the part."""
        return trained


class CoreTunable(Tunable):
    """LoRA layers with cores; the trained parameters are ``MODULE.lora_R.weight`` in place of factors."""

    saves_parameters: ClassVar[bool] = False

    @classmethod
    def of_cores(cls, model: PeftModel) -> CoreTunable:
        """A model whose LoRA layers have cores, and perhaps a trained head."""
        named = get_peft_model_state_dict(
            model, state_dict=model.state_dict(keep_vars=True), save_embedding_layers=False
        )
        found = {name: parameter for name, parameter in named.items() if ".lora_" not in name}
        cores: dict[str, type[Core]] = {}
        for name, _, core, originals in _cores(model):
            cores[name] = type(core)
            for part, parameter in zip(core.parts, originals, strict=True):
                found[f"{name}.{part}.weight"] = parameter
        tunable = cls(model, cast(dict[str, nn.Parameter], found))
        tunable._kinds = cores
        return tunable

    _kinds: dict[str, type[Core]]

    def folded(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values that compute the same, in the form in which their mean is exact."""
        found = dict(params)
        for name, kind in self._kinds.items():
            parts = kind.folded({part: params[f"{name}.{part}.weight"] for part in kind.parts})
            found |= {f"{name}.{part}.weight": tensor for part, tensor in parts.items()}
        return found

    def peft_state(self) -> dict[str, Tensor]:
        """The state of the model with each factor B as a plain matrix, as PEFT loads it."""
        state = {name: tensor for name, tensor in self.model.state_dict().items() if ".parametrizations." not in name}
        for _, path, _, _ in _cores(cast(PeftModel, self.model)):
            state[f"{path}.weight"] = cast(Tensor, self.model.get_submodule(path).weight).detach()
        return state


class CoreSettings(FactorSettings):
    """Settings that tunables with cores share; r² values of each core are trained."""

    needs = {BACKBONE_WEIGHTS: "server and clients derive the same fixed bases from the model's own matrices"}

    def attach_cores(
        self,
        backbone: Backbone,
        make: Callable[[AdaptedMatrix], tuple[Core, Tensor]],
        *,
        heads: int,
        task_type: str | None,
        seed: int,
    ) -> Tunable:
        """Attaches LoRA of rank ``heads``·r, scaled by α/r, with a core in each layer.

        Args:
            backbone: without a tunable.
            make: makes the core of a matrix, and the fixed factor A ``[heads·r, in]``.
            heads: cores of r × r in each matrix.
            task_type: as for `attach`.
            seed: as for `attach`.

        Raises:
            RecipeError: as `adapted`.
        """
        modules, config = self.adapted(backbone, task_type, heads=heads)
        matrices = [AdaptedMatrix(name, _matrix(module)) for name, module in modules.items()]
        model = cast(PeftModel, attach_peft(backbone, config, seed=seed).model)
        for matrix in matrices:
            _install(cast(LoraLayer, model.get_base_model().get_submodule(matrix.name)), *make(matrix))
        return CoreTunable.of_cores(model)


def _matrix(module: nn.Linear | Conv1D) -> Tensor:
    """A linear layer's weight as ``[out, in]``."""
    weight: Tensor = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight


def _install(layer: LoraLayer, core: Core, a: Tensor) -> None:
    """Fixes A of a LoRA layer, and lets its core compute B."""
    adapter = str(layer.active_adapters[0])
    down, up = layer.lora_A[adapter], layer.lora_B[adapter]
    with torch.no_grad():
        cast(Tensor, down.weight).copy_(a)
    down.requires_grad_(requires_grad=False)
    parametrize.register_parametrization(up, "weight", core)


def _cores(model: PeftModel) -> list[tuple[str, str, Core, list[Tensor]]]:
    """(name of a layer, path of its factor B, core, trained tensors) of a model."""
    found = []
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            adapter = str(layer.active_adapters[0])
            computed: Any = layer.lora_B[adapter].parametrizations["weight"]  # type: ignore[index]
            parts = len(computed[0].parts)
            originals = [computed.original] if parts == 1 else [getattr(computed, f"original{i}") for i in range(parts)]
            found.append((name, f"{name}.{FACTOR}.{adapter}", computed[0], originals))
    return found
