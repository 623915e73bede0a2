"""FedCLIP's adapter: attention over the features of an image's embedding.

Lu et al., FedCLIP: Fast Generalization and Personalization for CLIP in Federated Learning, arXiv:2302.13485. Of an
image's embedding I ``[d]`` the model compares, in its place,

    I ⊙ softmax(W₂ · tanh(W₁ · I + b₁) + b₂)

Both towers are frozen.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from transformers import PreTrainedModel

from fedfm.capabilities import BOTH_TOWERS_TUNED, TWO_TOWERS
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families.two_towers import PROJECTIONS
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import WithHead
from fedfm.models.tunables.hooked import HookedModule, HookedTunable, new_parts, reads_pairs
from fedfm.randomness import torch_seed

PROJECTION = PROJECTIONS[0]
"""The module whose output is an image's embedding."""


class FeatureAttention(HookedModule):
    """A weight for each of d features, computed from all of them."""

    form: ClassVar[str] = "attention-adapter"
    place: ClassVar[str] = f"{PROJECTION}.attention"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Weights ``[…, d]`` of features ``[…, d]``, which sum to 1."""
        weights: Tensor = self.output(self.hidden(features).tanh())
        return weights.softmax(-1)

    def hook(self, model: PreTrainedModel) -> None:
        """Follows the projection."""
        model.get_submodule(PROJECTION).register_forward_hook(self.weigh)

    def weigh(self, projection: nn.Module, args: tuple[Any, ...], features: Tensor) -> Tensor:
        """Features times their weights."""
        weighed: Tensor = features * self(features)
        return weighed


class AttentionAdapter(WithHead):
    """Attention over the features of an image's embedding."""

    needs = {TWO_TOWERS: "it weighs the features by which an image is compared with a text"}
    takes = {BOTH_TOWERS_TUNED: "it has nothing of the text tower, which a client with only texts would train"}
    stackable: ClassVar[bool] = False  # in the one task that takes it, clients share no passes

    kind: Literal["attention-adapter"] = "attention-adapter"
    """FedCLIP: attention over the features of an image's embedding."""
    head: bool = True
    """Also train what the checkpoint lacks of the projections to the common space, and of poolers."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """FedCLIP's adapter.

        Raises:
            RecipeError: at ``tune.kind``: the model is not one of images and texts; at ``tune.head``: as `new_parts`.
        """
        if not reads_pairs(backbone):
            raise RecipeError(
                f"{backbone.name} gives no embeddings of images beside those of texts; use lora", where="tune.kind"
            )
        head = new_parts(self, backbone)
        with torch_seed(seed, "tunable"):
            module = FeatureAttention(int(backbone.model.config.projection_dim))
        return HookedTunable.of_module(backbone, module, head)
