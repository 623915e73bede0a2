"""A small backbone, its proxy, and public data for both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from fedfm.models.backbones import Backbone
from fedfm.models.families import Block, blocks
from fedfm.proxies.fedpft.construct import Kept, make_proxy, own_parameters
from fedfm.tasks.base import Batch
from tests.models.cases import load

KEPT = 12


@dataclass(frozen=True)
class Small:
    backbone: Backbone
    proxy: Backbone
    kept: Kept

    @property
    def own(self) -> dict[str, nn.Parameter]:
        return own_parameters(self.proxy, self.kept)

    @property
    def pairs(self) -> list[tuple[Block, Block]]:
        """Compressed blocks."""
        both = zip(blocks_of(self.backbone), blocks_of(self.proxy), strict=True)
        return [(ours, theirs) for ours, theirs in both if theirs.path in self.kept]


def blocks_of(backbone: Backbone) -> list[Block]:
    return blocks(backbone.model, backbone.family)


def small_proxy(name: str = "tiny-bert", task: str = "text", whole: int = 0, kept: torch.Tensor | None = None) -> Small:
    """A proxy whose first ``whole`` blocks are not compressed; the others keep their first neurons, or those named."""
    backbone = load(name, task)
    indices = {block.path: torch.arange(KEPT) if kept is None else kept for block in blocks_of(backbone)[whole:]}
    return Small(backbone, make_proxy(backbone, indices), indices)


def public_batches(backbone: Backbone, count: int, *, size: int = 4, seed: int = 0) -> list[Batch]:
    """Random images, or random texts of different lengths, padded."""
    generator = torch.Generator().manual_seed(seed)
    return list(_batches(backbone, count, size, generator))


def _batches(backbone: Backbone, count: int, size: int, generator: torch.Generator) -> Iterator[Batch]:
    for _ in range(count):
        if backbone.model.main_input_name == "pixel_values":
            yield {"pixel_values": torch.randn(size, 3, 8, 8, generator=generator)}
            continue
        lengths = torch.randint(3, 10, (size,), generator=generator)
        mask = (torch.arange(10) < lengths[:, None]).long()
        words = torch.randint(5, 100, (size, 10), generator=generator)
        yield {"input_ids": torch.where(mask.bool(), words, 0), "attention_mask": mask}


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of tensors that are not bit for bit what they were."""
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
