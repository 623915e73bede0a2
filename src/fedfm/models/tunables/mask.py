"""Masks: trains a score for each entry of chosen matrices; a score decides whether its entry is kept or is zero.

Isik et al., Sparse Random Networks for Communication-Efficient Federated Learning, arXiv:2209.15328, §3, where the
frozen weights are random; here they are those of a pretrained model. W is a frozen matrix, s are its scores:

    training:     W ⊙ m,  m ~ Bernoulli(σ(s)), drawn in each forward pass
    evaluation:   W ⊙ m,  m = 1[σ(s) > ½]
    gradients:    ∂m/∂σ(s) = 1, the straight-through estimator of arXiv:1308.3432

All scores begin at σ⁻¹(p) with p > ½, so that the model begins as it was pretrained. What is saved is a whole model
with the weights W ⊙ m.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from fedfm.capabilities import BACKBONE_WEIGHTS, GRADIENTS, MASK_SCORES
from fedfm.models.backbones import Backbone
from fedfm.models.mask_scores import SCORES
from fedfm.models.processors import Processor
from fedfm.models.quiet import quiet
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import attach_parameters
from fedfm.models.tunables.matrices import OfMatrices


class MaskTunable(Tunable):
    """A model of which some matrices are masked; the trained parameters are scores, and the head's."""

    def train(self, *, dropout: bool = True) -> None:
        """Training mode: masks are drawn, also where the backbone's own dropout does not act."""
        super().train(dropout=dropout)
        for module in _masked(self.model).values():
            module.parametrizations["weight"].train()

    def save(self, folder: Path, processor: Processor | None) -> None:
        """Writes a whole model with the masked weights, as `Tunable.save`."""
        with quiet():
            self.merged().save_pretrained(str(folder))
            if processor is not None:
                processor.save_pretrained(folder)

    def merged(self) -> PreTrainedModel:
        """A copy of the model with the weights W ⊙ m; this tunable is left as it is."""
        model = copy.deepcopy(self.base_model)
        model.eval()
        for module in _masked(model).values():
            weight = module.weight.detach()
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations  # torch's own removal would change the class, which the copy shares
            delattr(module, SCORES)
            module.register_parameter("weight", nn.Parameter(weight))
        return model.requires_grad_(False)


class Mask(OfMatrices):
    """A mask over frozen matrices."""

    stackable: ClassVar[bool] = False
    gives = frozenset({MASK_SCORES})
    needs = {
        BACKBONE_WEIGHTS: "a mask keeps entries of the model's own matrices",
        GRADIENTS: "losses are equal wherever no score crosses ½, so that comparing them shows no direction",
    }

    kind: Literal["mask"] = "mask"
    """A mask over frozen matrices."""
    initial_probability: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """p: probability with which an entry is kept in training at the start. In evaluation all entries are, as p > ½."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """A mask on each chosen matrix.

        Raises:
            RecipeError: no module matches ``target_modules``; at ``tune.head``: the head would stay random.
        """
        model, head = backbone.model, self.head_modules(backbone)
        modules, _ = self.matrices(backbone, None)
        inside = tuple(f"{module}." for module in head)
        trained = attach_parameters(model, [name for name, _ in model.named_parameters() if name.startswith(inside)])
        score = torch.logit(torch.tensor(self.initial_probability, dtype=torch.float64)).item()
        parameters = dict(trained.parameters)
        for name, module in modules.items():
            scores = nn.Parameter(torch.full_like(module.weight, score, dtype=torch.float32))
            module.register_parameter(SCORES, scores)
            parametrize.register_parametrization(module, "weight", _Drawn(scores).eval())
            parameters[f"{name}.{SCORES}"] = scores
        return MaskTunable(model, parameters)


class _Drawn(nn.Module):
    """Masks a matrix by its scores, which have its shape; a torch parametrisation."""

    def __init__(self, scores: nn.Parameter) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, weight: Tensor) -> Tensor:
        """W ⊙ m, whose gradient passes through m to σ(s)."""
        kept = torch.sigmoid(self.scores)
        mask = torch.bernoulli(kept.detach()) if self.training else (kept > 0.5).to(kept.dtype)
        return weight * (mask + (kept - kept.detach())).to(weight.dtype)


def _masked(model: nn.Module) -> dict[str, Any]:
    """Name → module whose weight is masked."""
    return {name: module for name, module in model.named_modules() if SCORES in module._parameters}
