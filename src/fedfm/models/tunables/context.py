"""Context vectors: trained embeddings in the text that the text tower of a model of images and texts reads.

Zhou et al., Learning to Prompt for Vision-Language Models (CoOp), arXiv:2109.01134, with one context for all texts;
federated as Guo et al., PromptFL, arXiv:2208.11625:

    text = [first token, v_1 … v_M, other tokens]

The first token stays first, since towers like BERT pool it; CLIP pools the end token, which moves by M. The vectors
begin as embeddings of random tokens, as those of prompt tuning.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, embeddings
from fedfm.models.families.two_towers import TEXT
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import WithHead
from fedfm.models.tunables.hooked import HookedModule, HookedTunable, new_parts
from fedfm.randomness import torch_seed

BY_TOKEN = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs of a text tower with a value for each token."""


class Context(HookedModule):
    """M vectors ``[M, d]`` after the first token of each text."""

    form: ClassVar[str] = "prompt"
    place: ClassVar[str] = f"{TEXT}.context"

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)

    def hook(self, model: PreTrainedModel) -> None:
        """Makes room in the tower's inputs, so that positions, masks and pooling follow, and fills it."""
        tower = cast(PreTrainedModel, model.get_submodule(TEXT))
        tower.register_forward_pre_hook(self.make_room, with_kwargs=True)
        embeddings(tower).register_forward_hook(self.fill)

    def make_room(
        self, tower: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Repeats the first token M times."""
        longer = {}
        for name in BY_TOKEN:
            if (values := inputs.get(name)) is not None:
                first = values[:, :1]
                longer[name] = torch.cat([first, first.expand(-1, len(self.vectors)), values[:, 1:]], 1)
        return args, {**inputs, **longer}

    def fill(self, embedding: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The vectors in place of the repeated token's embeddings ``[B, tokens, d]``."""
        vectors = self.vectors.to(output.dtype).expand(len(output), -1, -1)
        return torch.cat([output[:, :1], vectors, output[:, 1 + len(self.vectors) :]], 1)


def attach_context(settings: WithHead, backbone: Backbone, *, seed: int) -> Tunable:
    """Context vectors before a tower's texts; beside them, only what the checkpoint lacks of the head is trained.

    Args:
        settings: say how many (`virtual_tokens`).
        backbone: of images and texts.
        seed: the recipe's seed.

    Raises:
        RecipeError: at ``tune.kind``: the model has no text tower with embeddings of tokens; at ``tune.head``: as
            `new_parts`.
    """
    try:
        vocabulary = embeddings(cast(PreTrainedModel, backbone.model.get_submodule(TEXT))).weight.detach()
    except (AttributeError, NotImplementedError) as error:
        raise RecipeError(
            f"{backbone.name} has no text tower whose tokens have embeddings; use lora", where="tune.kind"
        ) from error
    with torch_seed(seed, "tunable"):
        drawn = torch.randint(len(vocabulary), (settings.virtual_tokens,))
    return HookedTunable.of_module(backbone, Context(vocabulary[drawn].clone()), new_parts(settings, backbone))
