"""Dual adapters: W x + (α/r)·(B_s A_s + B_p A_p)·x with a shared pair of LoRA factors and a personal one.

Yang et al., Dual-Personalizing Adapter for Federated Foundation Models (FedDPA), arXiv:2403.19211: a global and a local
LoRA at every client, of which only the global one travels. Here both are trained together in each round, and both count
with weight 1 in every example. The paper also weighs them for each example by its similarity to those of the client,
which is not in this version. B_s A_s + B_p A_p = [B_s B_p]·[A_s; A_p], so the model has one LoRA layer of rank 2r whose
factors are joined from the four trained ones.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fedfm.models.backbones import Backbone
from fedfm.models.processors import Processor
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import attach_peft
from fedfm.models.tunables.lora import FactorSettings

PARTS = ("shared", "personal")
"""The two adapters, in the order of the ranks."""

RANK_AXES = {"lora_A": 0, "lora_B": 1}
"""Factor → the dimension that counts ranks."""

WEIGHTS = "adapter_model.safetensors"
"""PEFT's name of an adapter's tensors."""


class Joined(nn.Module):
    """A factor of rank 2r from those of the two adapters; a torch parametrisation."""

    def __init__(self, axis: int) -> None:
        """Joins along the dimension ``axis``."""
        super().__init__()
        self.axis = axis

    def forward(self, *parts: Tensor) -> Tensor:
        """The factor of the LoRA layer."""
        return torch.cat(parts, self.axis)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The factors of the two adapters."""
        return tuple(part.contiguous() for part in weight.chunk(len(PARTS), self.axis))


class DualTunable(Tunable):
    """LoRA layers of two adapters; the trained factors are ``MODULE.lora_A.shared.weight``, ``….personal.weight``, …"""

    saves_parameters = False

    @classmethod
    def of_layers(cls, model: PeftModel) -> DualTunable:
        """A model whose LoRA layers become those of two adapters, and perhaps a trained head."""
        named = get_peft_model_state_dict(
            model, state_dict=model.state_dict(keep_vars=True), save_embedding_layers=False
        )
        found = {name: parameter for name, parameter in named.items() if ".lora_" not in name}
        for name, layer in model.named_modules():
            if isinstance(layer, LoraLayer):
                for factor, axis in RANK_AXES.items():
                    linear = getattr(layer, factor)[str(layer.active_adapters[0])]
                    parametrize.register_parametrization(linear, "weight", Joined(axis))
                    computed: Any = linear.parametrizations["weight"]
                    for place, part in enumerate(PARTS):
                        found[f"{name}.{factor}.{part}.weight"] = getattr(computed, f"original{place}")
        return cls(model, cast(dict[str, nn.Parameter], found))

    def peft_state(self) -> dict[str, Tensor]:
        """The state of the model with plain factors of rank 2r, as PEFT loads it."""
        state = {name: tensor for name, tensor in self.model.state_dict().items() if ".parametrizations." not in name}
        for name, module in self.model.named_modules():
            if parametrize.is_parametrized(module, "weight"):
                state[f"{name}.weight"] = cast(Tensor, module.weight).detach()
        return state

    def save(self, folder: Path, processor: Processor | None) -> None:
        """Writes both adapters as one LoRA of rank 2r, and each by itself in ``shared/`` and ``personal/``."""
        super().save(folder, processor)
        both = load_file(folder / WEIGHTS)
        config: PeftConfig = copy.deepcopy(cast(PeftModel, self.model).active_peft_config)
        config.inference_mode = True
        for setting in ("r", "lora_alpha"):
            setattr(config, setting, getattr(config, setting) // len(PARTS))
        for place, part in enumerate(PARTS):
            config.save_pretrained(str(folder / part))
            save_file({n: _part(n, t, place) for n, t in both.items()}, folder / part / WEIGHTS, {"format": "pt"})


def _part(name: str, tensor: Tensor, place: int) -> Tensor:
    """One adapter's part of a tensor of the joined LoRA; the head belongs to both."""
    for factor, axis in RANK_AXES.items():
        if f".{factor}." in name:
            return tensor.chunk(len(PARTS), axis)[place].contiguous()
    return tensor


class DualLora(FactorSettings):
    """A shared LoRA and a personal one for each client, both of rank r, added to each other."""

    kind: Literal["dual-lora"] = "dual-lora"
    """A shared LoRA and a personal one for each client, both of rank `r`, added to each other (FedDPA)."""
    share: str | list[str] | None = "not *.personal.*"
    """What travels, as patterns of tensor names: the default shares one LoRA and the head, `"*.shared.*"` the LoRA
    alone, so that each client has a head of its own. Null: everything travels."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """A LoRA of rank 2r, taken for two.

        Raises:
            RecipeError: as `adapted`.
        """
        _, config = self.adapted(backbone, task_type, heads=len(PARTS))
        return DualTunable.of_layers(cast(PeftModel, attach_peft(backbone, config, seed=seed).model))
