"""One LoRA adapter for the pretrained model: a tunable's factors, and all that was added to the frozen weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer

from fedfm import params as tensors
from fedfm.models.low_rank import Thin
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.proxies.added_weights import WEIGHT, log_of
from fedfm.proxies.base import ModelVersion


@dataclass(frozen=True)
class SummedAdapter:
    """An adapter as PEFT loads it.

    Attributes:
        config: of rank R with α = R, so that the scale is 1.
        state: its tensors, by the names of the PEFT state dict.
    """

    config: LoraConfig
    state: Params

    def save(self, folder: Path) -> None:
        """Writes it into a folder."""
        self.config.save_pretrained(str(folder))
        tensors.save(self.state, folder / "adapter_model.safetensors")


def joined(tunable: Tunable, version: ModelVersion, max_rank: int) -> SummedAdapter | None:
    """The adapter whose product is s·B·A + Σ E over all rounds.

    Args:
        tunable: LoRA.
        version: what was added to the weights.
        max_rank: of the adapter.

    Returns:
        None where a matrix needs more ranks, or its log was replaced by the matrix.
    """
    model, state = cast(PeftModel, tunable.model), tunable.read()
    pairs: dict[str, Thin] = {}
    for module, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if f"{module}.{WEIGHT}" in version.own:
            return None
        a, b = state[f"{module}.lora_A.weight"], state[f"{module}.lora_B.weight"]
        log = log_of(version, module)
        ups = [b.double() * layer.scaling[str(layer.active_adapters[0])], *(up.double() for _, up, _ in log)]
        downs = [a.double(), *(down.double() for _, _, down in log)]
        product = Thin(torch.cat(ups, 1), torch.cat(downs))
        pairs[module] = product.compressed(torch.finfo(torch.float32).eps * product.norm())
    rank = max(len(product.right) for product in pairs.values())
    if rank > max_rank:
        return None
    for module, product in pairs.items():
        up, down = product.left, product.right
        state[f"{module}.lora_B.weight"] = torch.nn.functional.pad(up, (0, rank - up.shape[1])).float().contiguous()
        state[f"{module}.lora_A.weight"] = torch.nn.functional.pad(down, (0, 0, 0, rank - len(down))).float()
    config = copy.deepcopy(cast(LoraConfig, model.active_peft_config))
    config.r = config.lora_alpha = rank
    config.inference_mode = True
    return SummedAdapter(config, state)
